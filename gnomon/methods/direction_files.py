"""Directions as GGUF control vectors, the layout that llama.cpp (`--control-vector`) and repeng read and write.

    general.architecture       "controlvector"
    controlvector.model_hint   architecture of the model the vectors are for ("llama", "qwen2", ...); may be empty
    controlvector.layer_count  number of direction tensors (uint32)
    direction.L                float32 [d_model], added to the output of block L: the site resid_post.L, L >= 1

Source: llama.cpp, common_control_vector_load_one (common/common.cpp) and llama_adapter_cvec::apply_to
(src/llama-adapter.cpp). It refuses layer 0, vectors of different lengths and anything but one-dimensional float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.disk import plain
from gnomon.errors import UserError
from gnomon.types import Direction, Site

ARCHITECTURE = "controlvector"


def to_gguf(directions: Direction | Sequence[Direction], path: str | Path, model_hint: str = "") -> Path:
    """Write directions (at most one a layer, at resid_post.1 or later) as a GGUF control vector; returns the path.

    Vectors are written as they are: llama.cpp's `--control-vector-scaled FILE:STRENGTH` multiplies them. Name, kind,
    score and meta go into `gnomon.directions` (JSON), which other readers leave alone. Raises UserError for a site or
    a layer that the format cannot say, for two directions at one layer, and for widths that differ.
    """
    import gguf

    chosen = [directions] if isinstance(directions, Direction) else list(directions)
    if not chosen:
        raise UserError("no direction to write", "at least one")
    layers: dict[int, Direction] = {}
    for direction in chosen:
        site = direction.site
        if site.component != "resid_post" or site.layer < 1:
            raise UserError(f"direction {direction.name!r} is at {site}",
                            "a control vector acts on resid_post of block 1 or later",
                            "save it as .npy instead (Direction.save)")  # fmt: skip
        if site.layer in layers:
            raise UserError(f"two directions at {site}", "one a layer", "choose one of them, or add them up")
        layers[site.layer] = direction
    if len({direction.d for direction in chosen}) > 1:
        raise UserError(f"directions of widths {sorted({d.d for d in chosen})}", "one width: the model's d_model")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(layers))
    said = {
        str(layer): {"name": d.name, "kind": d.kind, "score": d.score, "meta": dict(d.meta)}
        for layer, d in layers.items()
    }
    writer.add_string("gnomon.directions", json.dumps(said, sort_keys=True, default=plain))
    for layer, direction in sorted(layers.items()):
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(direction.vector, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def from_gguf(path: str | Path) -> list[Direction]:
    """Read a GGUF control vector, ours or another tool's: one Direction a layer, in order of layers.

    Raises UserError where the file is no GGUF, is of another architecture, or holds other tensors than direction.L.
    """
    import gguf

    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file at {path}", "a GGUF control vector")
    try:
        reader = gguf.GGUFReader(str(path))
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{path} is no GGUF file ({error})", "a GGUF control vector") from None
    architecture = _text(reader, "general.architecture")
    if architecture != ARCHITECTURE:
        raise UserError(f"{path} is a GGUF of the architecture {architecture!r}", f"{ARCHITECTURE!r}")
    said: dict[str, Any] = json.loads(_text(reader, "gnomon.directions") or "{}")
    hint = _text(reader, f"{ARCHITECTURE}.model_hint")
    out = []
    for tensor in reader.tensors:
        match = re.fullmatch(r"direction\.(\d+)", tensor.name)
        if not match or tensor.tensor_type != gguf.GGMLQuantizationType.F32 or len(tensor.shape) != 1:
            raise UserError(f"{path} holds the tensor {tensor.name!r} {list(tensor.shape)} ({tensor.tensor_type.name})",
                            "tensors direction.L, float32, one-dimensional")  # fmt: skip
        own = said.get(match[1], {})
        meta = own.get("meta", {"file": path.name} | ({"model_hint": hint} if hint else {}))
        out.append(Direction(Site("resid_post", int(match[1])), np.array(tensor.data, dtype=np.float32),
                             own.get("name", f"{path.stem} {tensor.name}"), own.get("kind", "given"), own.get("score"),
                             meta))  # fmt: skip
    if not out:
        raise UserError(f"{path} holds no direction", "tensors direction.L")
    return sorted(out, key=lambda direction: direction.site.layer)


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return str(field.contents()) if field is not None else ""
