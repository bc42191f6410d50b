"""LoRA adapters (the optional extra `peft`), merged into the weights so that hooks see an ordinary model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.errors import UserError

if TYPE_CHECKING:
    from gnomon.models.sources import Source


def adapter_folder(adapter: str) -> Path:
    """The folder of an adapter: local, or downloaded by its hub id. UserError where there is none."""
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or adapter.startswith((".", "~")) or adapter.count("/") != 1:
            raise UserError(f"no adapter folder at {adapter}", "a folder with adapter_config.json, or a hub id")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(adapter, allow_patterns=["adapter_*", "*.json"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(
                f"the adapter {adapter!r} is not on this machine and cannot be downloaded ({type(error).__name__})",
                "a folder with adapter_config.json, or a hub id",
            ) from None
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{adapter} has no adapter_config.json", "a PEFT adapter folder")
    return folder.resolve()


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def check_base(folder: Path, source: Source) -> None:
    """UserError, naming both models, where the adapter was trained on another one than `source`."""
    config = folder / "adapter_config.json"
    try:
        base = json.loads(config.read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError, OSError) as error:
        raise UserError(f"{config} is not readable ({error})", "the JSON that peft wrote") from None
    known = {_last(n) for n in (source.name, str(source.folder), *source.aliases)}
    if base and _last(str(base)) not in known:
        raise UserError(
            f"the adapter {folder.name} was trained on {base!r}, not on {source.name!r}",
            "an adapter of the model that is loaded",
            "if they are the same model, correct base_model_name_or_path in its adapter_config.json",
        )


def merged(hf: Any, folder: Path, source: Source) -> Any:
    """`hf` with the adapter's weights merged in. UserError without peft, or for an adapter of another model."""
    check_base(folder, source)
    if importlib.util.find_spec("peft") is None:
        raise UserError("an adapter needs the package peft", "", 'pip install "gnomon[peft]"')
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(hf, str(folder)).merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"the adapter {folder.name} does not fit {source.name!r} ({said})", "a LoRA of it") from None
