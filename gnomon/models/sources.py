"""Where models come from (first working form)."""

from __future__ import annotations

from typing import Any

import torch

from gnomon.models.model import Model

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def load_model(
    name: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attention: str = "sdpa",
    check: bool = True,
) -> Model:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    path = "/tmp/smol" if name == "smollm2-135m" else name
    kw: dict[str, Any] = {}
    hf = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype], **kw)
    return Model(hf, AutoTokenizer.from_pretrained(path), name)
