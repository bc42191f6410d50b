"""Where the step's dictionaries come from: a file, folder or hub id, one for each site, or an earlier step's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.dictionaries.base import SparseDictionary
from gnomon.errors import UserError
from gnomon.step import Inputs
from gnomon.store import Artifact
from gnomon.types import Site

Option = str | Mapping[str, str] | None
ENDS = 1 << 20
"""Bytes at each end of a large file that its stamp is made of."""


@dataclass(frozen=True)
class Source:
    """One site's dictionary, loaded when it is needed and let go after."""

    site: str
    name: str
    """Path, hub id or step."""
    load: Callable[[], SparseDictionary]


def load_dictionary(source: str, site: str | None) -> SparseDictionary:
    """Read one dictionary in any known format."""
    from gnomon.dictionaries.load import load_dictionary as load

    return load(source, site=site)


def dictionaries_of(artifact: Artifact) -> Mapping[str, SparseDictionary]:
    """The dictionaries that an earlier step wrote, by site."""
    from gnomon.dictionaries.of_step import dictionaries_of as of_step

    return of_step(artifact)


def given(own: Option, *earlier: Mapping[str, Any]) -> Option:
    """A step's own option `dictionary`, else the one that these options of earlier steps name first."""
    return next((o for o in (own, *(options.get("dictionary") for options in earlier)) if o is not None), None)


def sources(option: Option, inputs: Inputs) -> list[Source]:
    """The dictionaries to search, in order of site. UserError where there is none."""
    if option is None:
        if "dictionary" not in inputs:
            raise UserError(
                "features has no dictionary", "a path, a hub id, {site: path}, or an earlier step train_dictionary",
                "give features.dictionary",
            )  # fmt: skip
        artifact = inputs["dictionary"]
        found = dictionaries_of(artifact)
        return _ordered([Source(str(s), artifact.name, lambda d=d: d) for s, d in found.items()])
    if isinstance(option, str):
        one = load_dictionary(option, None)
        return [Source(str(one.site), option, lambda: one)]
    return _ordered([Source(str(Site.parse(s)), p, lambda s=s, p=p: _at(s, p)) for s, p in option.items()])


def _at(site: str, path: str) -> SparseDictionary:
    found = load_dictionary(path, site)
    if str(found.site) != str(Site.parse(site)):
        raise UserError(f"the dictionary {path} is of {found.site}", f"one of {site}", "name the site it was made for")
    return found


def _ordered(found: list[Source]) -> list[Source]:
    if not found:
        raise UserError("features has no dictionary", "one at least")
    return sorted(found, key=lambda s: Site.parse(s.site))


def stamps(option: Option) -> dict[str, Any]:
    """What makes local files the same: names, sizes and the sha256 of both ends; a hub id stands for itself."""
    paths = [option] if isinstance(option, str) else list((option or {}).values())
    out = {}
    for text in paths:
        path = Path(text).expanduser()
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
        out[text] = [(p.name, p.stat().st_size, _ends(p)) for p in files]
    return out


def _ends(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(ENDS))
        if path.stat().st_size > 2 * ENDS:
            file.seek(-ENDS, 2)
        digest.update(file.read())
    return digest.hexdigest()[:16]
