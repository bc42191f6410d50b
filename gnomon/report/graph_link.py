"""A page that a step wrote into its own folder: a link to it, and its picture inside the report.

The picture is an SVG in a data address of an <img>: a browser runs no script in it and fetches nothing for it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import quote

from gnomon.blocks import Page
from gnomon.errors import UserError
from gnomon.store import Artifact

PICTURE = 3_000_000
"""Bytes of a picture that the report takes in; a larger one is left out, the link stays."""


@dataclass(frozen=True)
class PageView:
    """`href` relative to the report; `picture` a data address, or "" where there is none."""

    href: str
    file: str
    picture: str
    caption: str


def page_view(block: Page, artifact: Artifact) -> PageView:
    """Link and picture of a Page block. UserError where the step has no such file, or the name leaves its folder."""
    for name in filter(None, (block.file, block.picture)):
        if name != name.rsplit("/", 1)[-1] or not (artifact.path / name).is_file():
            raise UserError(f"{artifact.name} holds no file {name!r}", "", f"gnomon run --remake {artifact.name}")
    picture = ""
    if block.picture and (artifact.path / block.picture).stat().st_size <= PICTURE:
        data = (artifact.path / block.picture).read_bytes()
        picture = "data:image/svg+xml;base64," + base64.b64encode(data).decode()
    file = f"{artifact.name}/{block.file}"
    return PageView(quote(file), file, picture, block.caption)
