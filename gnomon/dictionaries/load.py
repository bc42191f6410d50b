"""`load_dictionary`: a folder, a weight file or a hub id, in any of the six layouts, as one SparseDictionary."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.dictionaries import FORMATS, WEIGHT_FILES
from gnomon.dictionaries.base import SparseDictionary
from gnomon.dictionaries.collection import Found, choose, list_dictionaries, width_number
from gnomon.dictionaries.files import fingerprint
from gnomon.dictionaries.hub import download, is_hub_id
from gnomon.dictionaries.weights import Checkpoint
from gnomon.disk import file_sha256
from gnomon.errors import UserError, unknown
from gnomon.types import Site

LONGEST = 4096
"""Characters of a source: what a path may have."""
MOST = 300


def load_dictionary(
    source: str | Path,
    *,
    site: Site | str | None = None,
    format: str | None = None,
    revision: str | None = None,
    path: str | None = None,
    layer: int | None = None,
    width: str | int | None = None,
    l0: str | int | None = None,
    name: str = "",
    input_scale: float | None = None,
    sha256: str | None = None,
    d_model: int | None = None,
    sample: np.ndarray | None = None,
) -> SparseDictionary:
    """Load a sparse autoencoder in its canonical form. Nothing of the files is executed.

    Args:
        source: a folder, a weight file, or a hub id (owner/name, a path inside may follow).
        site: where its activations come from; taken from the files, which it may not contradict.
        format: one of FORMATS; known by the weight file's name where not given.
        revision: of a hub id: branch, tag or commit.
        path, layer, width, l0: which one, of a folder that holds many: layer=12, width="16k", l0=71.
        name: how reports call it; made from source and path where not given.
        input_scale: what its input is multiplied by, for the files that ask for a factor and do not hold it.
        sha256: of the weight file, or the whole fingerprint; another one is refused.
        d_model: the width that it must have.
        sample: `[tokens, d]` activations of its site: then the checks of `check_dictionary` must pass too.

    Raises:
        UserError: what is wrong with the files, by name; which dictionaries are there, where it is not clear which.
    """
    if format is not None and format not in FORMATS:
        raise unknown("dictionary format", format, FORMATS)
    at = None if site is None else Site.parse(site)
    if input_scale is not None and not (isinstance(input_scale, int | float) and 0 < input_scale < math.inf):
        raise UserError(f"input_scale {input_scale!r}", "a number above 0")
    text = str(source)
    if len(text) > LONGEST:
        raise UserError(f"a source of {len(text)} characters", "a folder, a weight file, or a hub id (owner/name)")
    local = Path(text).expanduser()
    if revision is not None and local.exists():
        raise UserError(f"revision {revision!r} of {source}, which is a path", "a hub id, which has revisions")
    if local.is_file():
        if path is not None or l0 is not None:
            raise UserError(f"{source} is a file: path and l0 choose among many", "a folder, or neither option")
        found, root = _single(local, format), local.absolute().parent
        if found.format == "llama_scope" and root.name == "checkpoints":
            root = root.parent
    else:
        inside: list[str] = []
        hub = not local.is_dir() and is_hub_id(text)
        if not local.is_dir() and not hub:
            raise UserError(f"no dictionary at {source}", "a folder, a weight file, or a hub id (owner/name)")
        if hub:
            owner, repo, *inside = text.split("/")
            text = f"{owner}/{repo}"
        inner = path or "/".join(inside) or None
        pick = partial(choose, what=text, path=inner, format=format, layer=layer, width=width, l0=l0, site=at)
        root = download(text, revision, pick) if hub else local.absolute()
        found = pick(list_dictionaries(root))
    files = Checkpoint(root, found.folder, found.weights, _label(root, found), at, input_scale)
    module, _, function = FORMATS[found.format].partition(":")
    dictionary: SparseDictionary = getattr(import_module(module), function)(files)
    if layer is not None and dictionary.site.layer != layer:
        raise UserError(f"layer {layer} was asked for, and {text} is of {dictionary.site}", "one and the same")
    if width is not None and width_number(width) != dictionary.d_sae:
        raise UserError(f"width {width} was asked for, and {text} has {dictionary.d_sae} latents", "one and the same")
    if input_scale is not None and found.format != "saelens":
        raise UserError(f"{text} asks for no factor on its input ({found.format})", "no input_scale")
    if d_model is not None and dictionary.d_model != d_model:
        raise UserError(
            f"{text} is of width {dictionary.d_model}, and {d_model} is needed", "a dictionary of this model's site"
        )
    mark = fingerprint(files.used)
    if sha256 is not None:
        own = file_sha256(found.weights)
        if sha256.lower().removeprefix("sha256:") not in (own, mark):
            raise UserError(f"{found.weights} has the sha256 {own}", sha256, "another file, or one that was changed")
    title = name or text.rstrip("/").split("/")[-1] + ("" if found.path == "." else f"/{found.path}")
    meta = {key: _plain(value) for key, value in dictionary.meta.items()}
    made = replace(dictionary, name=title, format=found.format, source=text, fingerprint=mark, meta=meta)
    if sample is not None:
        from gnomon.dictionaries.check import require

        require(made, sample)
    return made


def _plain(value: Any) -> Any:
    """Text of a stranger's configuration as a terminal and a table can take it: printable, MOST characters at most."""
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() else "?" for c in value[:MOST])


def _single(weights: Path, format: str | None) -> Found:
    kind = format or WEIGHT_FILES.get(weights.name)
    if kind is None:
        raise UserError(
            f"{weights} is no file whose format is known", f"one of {', '.join(WEIGHT_FILES)}", "or format="
        )
    folder = weights.absolute().parent
    if kind == "llama_scope" and folder.name == "checkpoints":
        folder = folder.parent
    return Found(".", folder, weights.absolute(), kind)


def _label(root: Path, found: Found) -> str:
    """The path as far as names in it may tell release, layer and width: up to four folders above the dictionary's."""
    whole = found.folder.absolute().parts
    inner = 0 if found.path == "." else len(Path(found.path).parts)
    parts = [p for p in whole[-(inner + 5) :] if p != "snapshots"]
    return "/".join(p.removeprefix("models--").replace("--", "/") for p in parts).lstrip("/")
