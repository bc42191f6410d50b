"""Folders of many dictionaries: what lies in one, and the one that layer, width, l0, site or a path inside name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gnomon.dictionaries import WEIGHT_FILES
from gnomon.dictionaries.gemma_scope import width_of
from gnomon.errors import UserError, nearest
from gnomon.types import Site

DEPTH = 6
MOST = 50_000
"""Directory entries that are looked at."""


@dataclass(frozen=True)
class Found:
    """One dictionary in a folder: `path` of its own folder from there, its weight file and format."""

    path: str
    folder: Path
    weights: Path
    format: str

    @property
    def layer(self) -> int | None:
        """The layer that its path names."""
        found = re.findall(r"(?:layer_|layers[._]|^h\.|blocks\.|-L)(\d+)", self.path)
        return int(found[-1]) if found else None

    @property
    def l0(self) -> str | None:
        """The sparsity that its path names: a number, or small, medium, big."""
        found = re.search(r"(?:average_l0_|_l0_)(\w+)", self.path)
        return found[1] if found else None

    @property
    def component(self) -> str | None:
        """The component that a part of its path names."""
        found = re.search(r"(resid_pre|resid_mid|resid_post|attn_out|mlp_out)", self.path)
        return found[1] if found else None


def list_dictionaries(root: Path) -> list[Found]:
    """Every dictionary under a folder, in order of layer and path. UserError for a folder without end."""
    return of_files(root, _files(root))


def of_files(root: Path, paths: Iterable[Path]) -> list[Found]:
    """The dictionaries among these files of a folder, in order of layer and path."""
    out = [_found(root, path) for path in paths if path.name in WEIGHT_FILES]
    return sorted(out, key=lambda f: (f.layer if f.layer is not None else -1, _natural(f.path)))


def _found(root: Path, weights: Path) -> Found:
    kind, folder = WEIGHT_FILES[weights.name], weights.parent
    if kind == "llama_scope" and folder.name == "checkpoints":
        folder = folder.parent
    return Found(folder.relative_to(root).as_posix() if folder != root else ".", folder, weights, kind)


def _files(root: Path) -> Iterator[Path]:
    """Files below, links to folders not followed."""
    seen, stack = 0, [(root, 0)]
    while stack:
        folder, depth = stack.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise UserError(f"{folder} cannot be listed ({error.strerror})", "a readable folder") from None
        seen += len(entries)
        if seen > MOST:
            raise UserError(f"{root} holds more than {MOST} files", "a folder of dictionaries", "name one inside it")
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                if depth < DEPTH:
                    stack.append((entry, depth + 1))
            else:
                yield entry


def choose(
    found: Sequence[Found], what: str, *, path: str | None, format: str | None, layer: int | None,
    width: str | int | None, l0: str | int | None, site: Site | None,
) -> Found:  # fmt: skip
    """The one of these dictionaries that fits; UserError that lists what is there where none or several do."""
    if path is not None:
        inner = Path(path)
        if inner.is_absolute() or ".." in inner.parts:
            raise UserError(f"path {path!r} leads out of {what}", "a folder inside it")
        names = [f.path for f in found]
        found = [f for f in found if Path(f.path).is_relative_to(inner) or f.weights.as_posix().endswith(f"/{path}")]
        if not found:
            raise UserError(f"{what} has no dictionary at {path!r}", nearest(path, names), _listing(names))
    every = [f.path for f in found]
    if format is not None:
        found = [f for f in found if f.format == format]
    if not found:
        of = f" in the layout {format}" if format else ""
        raise UserError(
            f"{what} holds no dictionary{of}", f"one of the files {', '.join(WEIGHT_FILES)}", _listing(every)
        )
    if len(found) > 1 and layer is None and site is not None and site.component != "embed":
        layer = site.layer - 1 if site.component == "resid_pre" else site.layer
        part = {"z": "attn_out", "resid_pre": "resid_post"}.get(site.component, site.component)
        found = [f for f in found if f.component in (None, part)]
    wanted = {
        "layer": layer,
        "width": None if width is None else width_number(width),
        "l0": None if l0 is None else str(l0),
    }
    for name, value in wanted.items():
        if value is None:
            continue
        left = [f for f in found if (width_of(f.path) if name == "width" else getattr(f, name)) == value]
        if not left:
            raise UserError(f"{what} has no dictionary with {name} {value}", "", _listing([f.path for f in found]))
        found = left
    if len(found) > 1:
        raise UserError(
            f"{what} holds {len(found)} dictionaries that fit", "one",
            f"name it by layer, width, l0 or path: {_listing([f.path for f in found])}",
        )  # fmt: skip
    return found[0]


def width_number(text: str | int) -> int:
    """16k, width_16k, 16384."""
    if isinstance(text, int) or str(text).isdigit():
        return int(text)
    wide = width_of(f"width_{str(text).removeprefix('width_')}")
    if wide is None:
        raise UserError(f"width {text!r}", "a number of latents, or 16k")
    return wide


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12]) or "nothing"
    return f"there is {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
