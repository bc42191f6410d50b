"""What the formats share: a checkpoint's files, shapes and numbers that must be right, the site that its names tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.dictionaries.files import read_arrays, read_config
from gnomon.errors import UserError
from gnomon.types import Site

LONGEST = 200
"""Characters of a hook's name."""


@dataclass(frozen=True)
class Checkpoint:
    """One dictionary's files: `weights`, and `folder` with its configuration; both under `root`."""

    root: Path
    folder: Path
    weights: Path
    label: str = ""
    """Where it lies, with the release's name in front: names tell layer and site."""
    site: Site | None = None
    """Given by the caller; the files may not contradict it."""
    input_scale: float | None = None
    used: list[Path] = field(default_factory=list)
    """Files that were read, for the fingerprint."""

    def config(self, *names: str, needed: bool = True) -> dict[str, Any]:
        """The first of these configuration files that is there; {} where none is and none is needed."""
        for name in names:
            path = self.folder / name
            if path.is_file() or path.is_symlink():
                self.used.append(path)
                return read_config(path, self.root)
        if needed:
            raise UserError(f"{self.folder} has no {' or '.join(names)}", "the configuration beside its weights")
        return {}

    def arrays(self, wanted: Sequence[str], also: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Named arrays of the weight file (see files.read_arrays)."""
        self.used.append(self.weights)
        return read_arrays(self.weights, self.root, wanted, also)

    def at(self, derived: Site | None, why: str) -> Site:
        """The site: what the files say, or what was given. UserError where both say different things, or neither."""
        if derived is None:
            if self.site is None:
                raise UserError(f"{self.label} does not say where its activations come from ({why})", "", "give site=")
            return self.site
        if self.site is not None and _same_place(self.site) != _same_place(derived):
            raise UserError(
                f"site {self.site} was asked for, and {self.label} is of {derived} ({why})", "one and the same",
                "leave site out, or take the dictionary of that site",
            )  # fmt: skip
        return self.site or derived


def _same_place(site: Site) -> tuple[str, int, int | None]:
    """resid_pre.5 is resid_post.4."""
    if site.component == "resid_pre":
        return ("resid_post", site.layer - 1, None)
    return (site.component, site.layer, site.head)


def checked(
    what: Any, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, str], d: Any = None, n: Any = None
) -> dict[str, np.ndarray]:
    """The arrays, once their shapes agree and all numbers are finite.

    Args:
        what: named in the errors.
        arrays: by name.
        shapes: of each array: "dn" is [d, n]; "" is one number.
        d, n: what the configuration says, where it does.
    """
    sizes = {k: _whole(what, v, k) for k, v in (("d", d), ("n", n)) if v is not None}
    said = dict.fromkeys(sizes, "its configuration")
    for name, letters in shapes.items():
        if name not in arrays:
            continue
        array = arrays[name]
        if array.ndim != len(letters):
            raise UserError(f"{what}: {name} has the shape {array.shape}", f"[{', '.join(letters)}]")
        if 0 in array.shape:
            raise UserError(f"{what}: {name} is empty {array.shape}", "at least one latent and one dimension")
        for letter, size in zip(letters, array.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                meaning = {"d": "dimensions", "n": "latents"}[letter]
                raise UserError(
                    f"{what}: {name} {array.shape} has {size} {meaning}, and {said[letter]} says {sizes[letter]}",
                    "shapes that agree",
                )  # fmt: skip
            said.setdefault(letter, name)
        if not np.all(np.isfinite(array)):
            bad = int((~np.isfinite(array)).sum())
            raise UserError(f"{what}: {name} holds {bad} NaN or infinite numbers", "finite weights")
        if max(float(array.max()), -float(array.min())) > 1e18:
            raise UserError(f"{what}: {name} holds numbers beyond 1e18", "weights that float32 can multiply")
    return dict(arrays)


def _whole(what: Any, value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{what}: the configuration says {name} = {value!r}", "a whole number of 1 or more")
    return value


def count(what: Any, value: Any, n: int, name: str = "k") -> int:
    """How many latents a token keeps: a whole number in 1..n; UserError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or int(value) != value:
        raise UserError(f"{what}: {name} = {value!r}", "a whole number")
    if not 1 <= value <= n:
        raise UserError(f"{what}: {name} = {int(value)} of {n} latents", f"1 to {n}")
    return int(value)


def number(what: Any, value: Any, name: str, above: float | None = 0.0) -> float:
    """A finite real number of the configuration, greater than `above`; UserError otherwise."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    if not good or (above is not None and value <= above):
        raise UserError(f"{what}: {name} = {value!r}", "a number" + ("" if above is None else f" above {above:g}"))
    return float(value)


def flag(what: Any, cfg: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """True or false of the configuration, `default` where it says neither; UserError otherwise: "false" is true."""
    value = cfg.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{what}: {name} = {value!r}", "true or false")
    return default if value is None else value


def gain_of(what: Any, r_mag: np.ndarray) -> np.ndarray:
    """exp(r_mag) of a gated autoencoder, float64; UserError where float32 cannot hold it."""
    if float(np.abs(r_mag).max()) > 40:
        raise UserError(f"{what}: r_mag reaches {float(np.abs(r_mag).max()):.3g}", "logarithms of gains, 40 at most")
    return np.exp(r_mag.astype(np.float64))


def lens_site(name: Any, head: Any = None) -> Site | None:
    """The site of a TransformerLens hook name; None where it is no site of gnomon's. UserError for a head that is no
    number of 0 or more."""
    if not isinstance(name, str) or len(name) > LONGEST:
        return None
    try:
        site = Site.from_lens_name(name)
    except UserError:
        return None
    if head is None or site.component != "z":
        return site
    if isinstance(head, bool) or not isinstance(head, int) or head < 0:
        raise UserError(f"hook {name} has the head {head!r}", "a whole number of 0 or more")
    return Site(site.component, site.layer, head)


def refuse_transcoder(what: Any, into: Any, out: Any) -> UserError:
    """The error for a dictionary that reads one place and writes another."""
    return UserError(
        f"{what} is a transcoder: it reads {into} and writes {out}", "a dictionary of one site",
        "gnomon loads sparse autoencoders only",
    )  # fmt: skip


def module_site(name: str) -> Site | None:
    """The site of a module's output by its name: layers.12, model.layers.12.mlp, h.3.attn, embed_tokens."""
    if re.search(r"(^|\.)(embed_tokens|wte|embed_in)$", name):
        return Site("embed")
    found = re.search(r"(?:^|\.)(?:layers|h|blocks)[._](\d{1,6})(?:\.(\w+))?$", name)
    component = {None: "resid_post", "mlp": "mlp_out"} | dict.fromkeys(("attn", "self_attn", "attention"), "attn_out")
    if not found or found[2] not in component:
        return None
    return Site(component[found[2]], int(found[1]))
