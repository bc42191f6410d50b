"""Where models come from: the embedded default, a hub id, a local folder, a GGUF file, each with a LoRA adapter or not.

`resolve` finds or fetches a folder, `peek` tells its facts without loading weights, `load_model` loads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.errors import UserError, nearest, unknown
from gnomon.models.cachedir import sha256
from gnomon.models.families import TEXT_PARTS, family_of
from gnomon.models.gguf import EMBEDDED, embedded_folder, gguf_folder
from gnomon.models.hub import hub_folder
from gnomon.models.memory import BYTES, check_fits, parameters, weight_files

if TYPE_CHECKING:
    from gnomon.models.model import Model

ATTENTIONS = ("sdpa", "eager")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt", "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A model on this machine: its folder, and what is known of where it came from."""

    name: str
    kind: str
    folder: Path
    revision: str | None = None
    aliases: tuple[str, ...] = field(default=())


def resolve(name: str, revision: str | None = None) -> Source:
    """Find a model by name, fetching or converting it where that is needed.

    name: `smollm2-135m`, a folder, a .gguf file, or a hub id (then `revision`: branch, tag or commit). UserError where
    there is no such model, or where it would have to be downloaded and cannot be.
    """
    if name in EMBEDDED:
        return Source(name, "embedded", embedded_folder(name), None, (name, *EMBEDDED[name].aliases))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{name} has no config.json", "a Hugging Face model folder", "check the path")
        return Source(name, "folder", path.resolve())
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"no GGUF file at {name}", "a path that exists")
        return Source(name, "gguf", gguf_folder(path))
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        if "/" not in name and (hint := nearest(name, EMBEDDED)):
            raise UserError(f"unknown model {name!r}", hint, "or a hub id (owner/name), a folder, a .gguf file")
        if "/" in name:
            raise UserError(f"no model folder at {name}", "a folder with config.json and safetensors")
    folder = hub_folder(name, revision)
    return Source(name, "hub", folder, folder.name, (name,))


def _config(folder: Path) -> Any:
    """The (text) configuration of a folder; UserError for an architecture that is not supported."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        kind = json.loads((folder / "config.json").read_text()).get("model_type", "unknown")
        family_of(type("Named", (), {"model_type": kind}))
        raise UserError(f"{folder}/config.json cannot be read ({error})", "a transformers configuration") from None
    family_of(config)
    return config.get_text_config() if config.model_type in TEXT_PARTS else config


def hashes(source: Source, adapter: Path | None = None) -> dict[str, str]:
    """sha256 of what the model's numbers depend on: weights, config, tokenizer, adapter.

    A converted GGUF counts by the hash of the GGUF file and the conversion's version, which every machine shares.
    """
    made = source.folder / "source.json"
    if source.kind in ("gguf", "embedded") and made.is_file():
        said = json.loads(made.read_text())
        out = {"gguf": f"{said['sha256']}-r{said['recipe']}"}
    else:
        out = {"weights": _joined(weight_files(source.folder)), "config": sha256(source.folder / "config.json")}
        out["tokenizer"] = _joined([source.folder / n for n in TOKENIZER_FILES if (source.folder / n).is_file()])
    if adapter is not None:
        out["adapter"] = _joined(sorted(f for f in adapter.iterdir() if f.suffix in (".safetensors", ".bin", ".json")))
    return out


def _joined(files: list[Path]) -> str:
    joined = json.dumps([[file.name, sha256(file)] for file in files])
    return hashlib.sha256(joined.encode()).hexdigest()


def fingerprint(facts: dict[str, str], dtype: str, attention: str) -> str:
    """24 hex digits of everything that decides a model's numbers on a given machine."""
    text = json.dumps([facts, dtype, attention], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _attention(config: Any, attention: str) -> str:
    if attention not in ATTENTIONS:
        raise unknown("attention", attention, ATTENTIONS)
    return "eager" if family_of(config).needs_eager else attention


def peek(
    name: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    attention: str = "sdpa",
) -> dict[str, Any]:
    """Facts of a model without loading its weights: sizes, `parameters`, `family`, `memory_bytes`, `fingerprint`;
    `context` is the longest text in tokens, None where the configuration does not say."""
    from gnomon.models.adapters import adapter_folder, check_base

    if dtype not in BYTES:
        raise unknown("dtype", dtype, BYTES)
    source = resolve(name, revision)
    lora = adapter_folder(adapter) if adapter else None
    if lora is not None:
        check_base(lora, source)  # a plan refuses it, before any work
    config = _config(source.folder)
    count = parameters(source.folder)
    heads, width = config.num_attention_heads, config.hidden_size
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    known = hashes(source, lora)
    return {
        "name": name,
        "family": family_of(config).name,
        "n_layers": config.num_hidden_layers,
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "d_head": getattr(config, "head_dim", None) or width // heads,
        "d_mlp": inner,
        "d_vocab": config.vocab_size,
        "context": getattr(config, "max_position_embeddings", None),
        "parameters": count,
        "memory_bytes": count * BYTES[dtype],
        "fingerprint": fingerprint(known, dtype, _attention(config, attention)),
    }


def device_of(device: str, dtype: str) -> str:
    """The device to use: `auto` takes cuda, then mps, then cpu; UserError for one that this machine lacks."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = "cuda" if there["cuda"] else "mps" if there["mps"] and dtype != "float64" else "cpu"
    kind = device.partition(":")[0]
    if kind not in there:
        raise unknown("device", device, ["auto", *there])
    if not there[kind]:
        raise UserError(f"device {device!r} is not on this machine", "", "device: auto takes what there is")
    if kind == "mps" and dtype == "float64":
        raise UserError("float64 on mps", "mps computes in float32 at most", "device: cpu")
    return device


def load_model(
    name: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attention: str = "sdpa",
    device_map: str = "none",
    max_memory: Mapping[Any, Any] | None = None,
    check: bool = True,
) -> Model:
    """Load a model.

    Args:
        name: `smollm2-135m` (comes with gnomon), a hub id, a model folder, or a .gguf file.
        adapter: a LoRA adapter (folder or hub id) trained on this model; merged into the weights.
        revision: branch, tag or commit of a hub id.
        dtype: float32, float64, float16 or bfloat16.
        device: auto (cuda, mps, cpu, whichever there is first), or one of those.
        attention: sdpa, or eager; a family with soft-capped attention (Gemma 2) always takes eager.
        device_map: none, or how accelerate spreads the model over all GPUs, then main memory: auto, balanced (alike on
            all), sequential (one after the other is filled).
        max_memory: at most these sizes on these devices, and on no other: {0: 20GB, 1: 20GB, cpu: 60GB}; weights go to
            disk only where it names disk.
        check: prove at load that the streams add up, an edit changes the logits and hooks are gone after.

    UserError: no such model, an unsupported architecture, not enough memory, an adapter of another model, an adapter
    or a device together with device_map.
    """
    import torch

    from gnomon.models.adapters import adapter_folder, merged
    from gnomon.models.check import require
    from gnomon.models.device_map import check_map, check_room, sizes
    from gnomon.models.devices import check_placed, spread
    from gnomon.models.loading import hf_model
    from gnomon.models.model import Model

    if dtype not in BYTES:
        raise unknown("dtype", dtype, BYTES)
    most = dict(sizes(max_memory))
    check_map(device_map, most, device, adapter)
    device = device_of(device, dtype)
    source = resolve(name, revision)
    config = _config(source.folder)
    attention = _attention(config, attention)
    count = parameters(source.folder)
    if device_map == "none":
        check_fits(name, count, dtype, device)
        hf = hf_model(source, config, getattr(torch, dtype), attention).to(device)
    else:
        check_room(name, count, dtype, most)
        hf = hf_model(source, config, getattr(torch, dtype), attention, spread(device_map, most))
        check_placed(name, hf, most)
    folder = adapter_folder(adapter) if adapter else None
    if folder is not None:
        hf = merged(hf, folder, source)
    known = hashes(source, folder)
    facts: dict[str, Any] = {
        "source": source.kind,
        "revision": source.revision,
        "adapter": adapter,
        "hashes": known,
        "parameters": count,
        "fingerprint": fingerprint(known, dtype, attention),
    }
    model = Model(hf, _tokenizer(source), name, facts)
    if check:
        require(model)
    return model


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """A model's tokenizer without its weights: for plans and costs."""
    return _tokenizer(resolve(name, revision))


def _tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{source.name} has no usable tokenizer ({error})", "tokenizer.json in its folder") from None
