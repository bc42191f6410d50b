"""Gemma Scope 2: resid_post/layer_L_width_16k_l0_S/{config.json, params.safetensors}; lower-case names, JumpReLU.

w_enc [d, n], w_dec [n, d], b_enc, b_dec, threshold; b_dec is not subtracted. config.json may be absent: then the
folders' names tell the site. attn_out is the input of the attention's output projection (gnomon's z).
"""

from __future__ import annotations

import re

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.gemma_scope import width_of
from gnomon.dictionaries.weights import Checkpoint, checked, refuse_transcoder
from gnomon.errors import UserError
from gnomon.types import Site

SHAPES = {"w_enc": "dn", "w_dec": "nd", "b_enc": "n", "b_dec": "d", "threshold": "n"}
FOLDERS = {"resid_post": "resid_post", "attn_out": "z", "mlp_out": "mlp_out"}
MODULES = {"output": "resid_post", "self_attn.o_proj.input": "z", "post_feedforward_layernorm.output": "mlp_out"}


def read(files: Checkpoint) -> SparseDictionary:
    """The dictionary of one Gemma Scope 2 folder."""
    cfg = files.config("config.json", needed=False)
    inner = "/".join(files.label.split("/")[-3:])
    if re.search(r"(^|/)(transcoder|crosscoder|clt)", inner) or cfg.get("hf_hook_point_out"):
        raise refuse_transcoder(files.label, cfg.get("hf_hook_point_in", "one site"), cfg.get("hf_hook_point_out"))
    if cfg.get("architecture", "jump_relu") not in ("jump_relu", "jumprelu"):
        raise UserError(f"{files.label} has the architecture {cfg['architecture']!r}", "jump_relu")
    named, said = _by_folder(files.label), _by_config(cfg.get("hf_hook_point_in"))
    if named and said and named != said:
        raise UserError(f"{files.label} lies in a folder of {named}, and its configuration says {said}", "one site")
    site = files.at(said or named, "its folder and hf_hook_point_in")
    arrays = checked(files.label, files.arrays(tuple(SHAPES)), SHAPES, n=cfg.get("width") or width_of(files.label))
    meta = {"model_name": cfg.get("model_name"), "expected_l0": cfg.get("l0"), "level": _level(files.label)}
    return canonical(
        site, arrays["w_enc"], arrays["b_enc"], arrays["w_dec"], arrays["b_dec"], threshold=arrays["threshold"],
        activation="jumprelu", meta={k: v for k, v in meta.items() if v is not None},
    )  # fmt: skip


def _by_folder(label: str) -> Site | None:
    layer, part = re.search(r"layer_(\d+)", label), re.search(r"(?:^|/)(resid_post|attn_out|mlp_out)(?:_|/)", label)
    return Site(FOLDERS[part[1]], int(layer[1])) if layer and part else None


def _by_config(module: object) -> Site | None:
    found = re.fullmatch(r"(?:model\.)?(?:language_model\.)?layers\.(\d+)\.(.+)", str(module or ""))
    return Site(MODULES[found[2]], int(found[1])) if found and found[2] in MODULES else None


def _level(label: str) -> str | None:
    """How sparse it was meant to be, in the release's own word: small, medium, big."""
    found = re.search(r"_l0_(\w+)", label)
    return found[1] if found else None
