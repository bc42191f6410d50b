"""What step features reads off the model: general text at the dictionaries' sites, and single texts by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import UserError
from gnomon.halving import run_halving
from gnomon.methods.neutral import neutral_texts
from gnomon.types import Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

NEUTRAL = "neutral"
LENGTH = 128
"""Tokens of one general text at most."""
HELD = 256 << 20
"""Bytes of general activations that are held at once."""


def general_texts(name: str, field: str, split: str) -> list[str]:
    """Texts of no particular task: the shipped paragraphs, a local file (paragraphs), or a hub data set's `field`."""
    if name == NEUTRAL:
        return list(neutral_texts(40))
    path = Path(name).expanduser()
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"general text {name} cannot be read ({error})", "a text file in utf-8") from None
        found = [part.strip() for part in text.split("\n\n") if part.strip()]
    elif path.suffix or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"no general text at {name}", "neutral, a text file, or a hub data set (owner/name)")
    else:
        from gnomon.tasks.records import read_hub

        found = [str(record.get(field, "")) for _, record in read_hub(name, "", split, "")]
        found = [text for text in found if text.strip()]
    if not found:
        raise UserError(f"general text {name} holds no text", f"paragraphs, or a column {field!r}")
    return found


def general_tokens(model: Model, texts: Sequence[str], most: int) -> list[list[int]]:
    """Token lists of at most LENGTH each, `most` tokens together."""
    out: list[list[int]] = []
    for text in texts:
        if not most > 0:
            break
        ids = model.tokenize(text)[: min(LENGTH, most)]
        most -= len(ids)
        out.append(ids)
    return out


def site_groups(sites: Sequence[str], tokens: int, width: int) -> list[list[str]]:
    """Sites whose general activations are captured in one pass: as many as fit into HELD bytes."""
    size = max(1, HELD // max(4 * tokens * width, 1))
    return [list(sites[start : start + size]) for start in range(0, len(sites), size)]


def captured(
    model: Model, tokens: Sequence[Sequence[int]], sites: Sequence[str], batch_size: int
) -> dict[str, list[np.ndarray]]:
    """Activations of every text at every site: by site, `[tokens, d]` float32 of each text, in order."""
    order = sorted(range(len(tokens)), key=lambda i: (len(tokens[i]), i))
    out: dict[str, list[Any]] = {site: [None] * len(tokens) for site in sites}

    def read(chosen: Sequence[int]) -> list[None]:
        found = model.forward([tokens[i] for i in chosen], read=[Site.parse(s) for s in sites])
        for site in sites:
            x = found.acts[Site.parse(site)]
            for j, i in enumerate(chosen):
                out[site][i] = x[j, : len(tokens[i])].float().cpu().numpy()
        return []

    for start in range(0, len(order), batch_size):
        run_halving(read, order[start : start + batch_size], None)
    return out


def general_acts(
    model: Model, tokens: Sequence[Sequence[int]], sites: Sequence[str], batch_size: int
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(site, activations of every general text), a group of sites a pass."""
    count = sum(len(t) for t in tokens)
    for group in site_groups(sites, count, max(model.d_model, model.d_mlp)):
        yield from captured(model, tokens, group, batch_size).items()
