"""A folder's weights as a Hugging Face model, on one device or spread over several."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gnomon.errors import UserError
from gnomon.models.families import TEXT_PARTS

if TYPE_CHECKING:
    from gnomon.models.sources import Source

TEXT_KEYS = {r"^(model\.)?language_model\.lm_head\.": "lm_head.", r"^(model\.)?language_model\.(model\.)?": "model."}
"""Where the text model's weights lie in a multimodal checkpoint, and what they are called on their own."""


def hf_model(source: Source, config: Any, dtype: Any, attention: str, where: Mapping[str, Any] | None = None) -> Any:
    """The Hugging Face model of a folder; a multimodal one's text part. UserError for missing or misshapen weights.

    where: arguments of `from_pretrained` that spread it over devices.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    layout_log = logging.getLogger("accelerate.big_modeling")
    layout_log.setLevel(logging.ERROR)  # what waits elsewhere is said by `check_placed`, in our words
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()  # the report of unused weights; missing ones are an error of ours below
    kind = json.loads((source.folder / "config.json").read_text()).get("model_type")
    extra = {"key_mapping": TEXT_KEYS} if kind in TEXT_PARTS else {}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            output_loading_info=True,
            **extra,
            **(where or {}),
        )
    except (OSError, ValueError, RuntimeError) as error:
        if where:
            raise UserError(f"{source.name} cannot be placed ({error})", "a device_map that accelerate can make",
                            "give max_memory more, or take device_map: sequential") from None  # fmt: skip
        raise UserError(f"{source.name} cannot be loaded ({error})", "complete weights that fit its config") from None
    finally:
        layout_log.setLevel(logging.NOTSET)
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
    hf, info = loaded
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise UserError(
            f"{source.name} lacks {len(missing)} weights ({', '.join(missing[:3])}, ...)", "complete weights"
        )
    return hf
