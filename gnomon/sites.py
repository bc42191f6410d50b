"""Places in a model: `resid_post.20`, `z.5.3`, `embed`, and the positions at which they are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gnomon.errors import UserError, nearest

STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
COMPONENTS = ("embed", *STREAM, "mlp_post", "z")
POSITIONS = ("last_prompt", "last", "answer", "response", "all")
RAGGED = ("response", "all")


@dataclass(frozen=True, order=True)
class Site:
    """A place in the model: `resid_post.20`, `z.5` (all heads), `z.5.3` (head 3), `embed`. Layers count from 0.

    `embed` is what enters block 0 (token plus position embedding, scaled where the family scales);
    `resid_post.L` is block L's output before any final norm; `attn_out` and `mlp_out` are what is added to the
    stream (after a family's post-norm); `mlp_post` is the input of the MLP's down projection; `z` the input of the
    attention's output projection, `[heads * d_head]`.
    """

    component: str
    layer: int = 0
    head: int | None = None

    def __str__(self) -> str:
        if self.component == "embed":
            return "embed"
        return f"{self.component}.{self.layer}" + ("" if self.head is None else f".{self.head}")

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read `resid_post.20`; an unknown component or a missing layer is a UserError with the nearest name."""
        if isinstance(text, Site):
            return text
        if text == "embed":
            return cls("embed")
        if str(text).startswith("embed."):
            raise UserError(f"site {text!r} names a layer", "the embedding has none", "write embed")
        match = re.fullmatch(r"([a-z_]+)\.(\d+)(?:\.(\d+))?", str(text))
        component = str(text).split(".")[0]
        if component not in COMPONENTS:
            hint = nearest(component, COMPONENTS)
            near = hint.replace("?", "") and hint.replace(
                "'?", f"{str(text)[len(component) :]}'?"
            )  # keep the user's layer
            raise UserError(f"unknown site {text!r}", near, f"components: {', '.join(COMPONENTS)}")
        if not match:
            raise UserError(f"site {text!r} has no layer", "a site reads component.layer", f"write {component}.0")
        head = None if match[3] is None else int(match[3])
        if head is not None and component != "z":
            raise UserError(f"site {text!r} names a head", "only z has heads", f"write {component}.{match[2]}")
        return cls(component, int(match[2]), head)

    @classmethod
    def expand(cls, patterns: str | Iterable[str], n_layers: int) -> list[Site]:
        """Turn `resid_post.*`, `resid_post.0-5`, `mlp_out.-1`, `embed` (one or many) into sites, once each."""
        out: dict[Site, None] = {}
        for pattern in [patterns] if isinstance(patterns, str | Site) else list(patterns):
            text = str(pattern)
            component, _, rest = text.partition(".")
            span = re.fullmatch(r"(\d+)-(\d+)", rest)
            if component not in COMPONENTS or component == "embed":
                out[cls.parse(text)] = None
                continue
            if span and int(span[1]) > int(span[2]):
                raise UserError(f"site {text!r} runs backwards", f"write {component}.{span[2]}-{span[1]}")
            if rest == "*":
                layers: Sequence[int] = range(n_layers)
            elif span:
                layers = range(int(span[1]), int(span[2]) + 1)
            elif re.fullmatch(r"-\d+", rest):
                layers = [n_layers + int(rest)]
            else:
                site = cls.parse(text)
                cls._in_range(text, site.layer, n_layers)
                out[site] = None
                continue
            for layer in layers:
                cls._in_range(text, layer, n_layers)
                out[cls(component, layer)] = None
        return list(out)

    @staticmethod
    def _in_range(text: str, layer: int, n_layers: int) -> None:
        if not 0 <= layer < n_layers:
            raise UserError(
                f"site {text!r} asks for layer {layer}",
                f"the model has layers 0 to {n_layers - 1}",
                "name one of those",
            )

    @property
    def lens_name(self) -> str:
        """The TransformerLens hook name of this site (blocks.20.hook_resid_post, ...)."""
        names = {
            "attn_out": "hook_attn_out",
            "mlp_out": "hook_mlp_out",
            "mlp_post": "mlp.hook_post",
            "z": "attn.hook_z",
        }
        if self.component == "embed":
            return "hook_embed"
        return f"blocks.{self.layer}.{names.get(self.component, 'hook_' + self.component)}"

    @classmethod
    def from_lens_name(cls, name: str) -> Site:
        """Read a TransformerLens hook name; the inverse of `lens_name`."""
        if name == "hook_embed":
            return cls("embed")
        match = re.fullmatch(r"blocks\.(\d+)\.(?:(?:mlp|attn)\.)?hook_(\w+)", name)
        component = {"post": "mlp_post"}.get(match[2], match[2]) if match else ""
        if not match or component not in COMPONENTS:
            raise UserError(f"unknown TransformerLens hook {name!r}", "one like blocks.20.hook_resid_post")
        return cls(component, int(match[1]))
