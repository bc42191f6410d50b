"""A study on a tiny random model in which the cause of an answer is known.

The right answer to every prompt is one token A. Prompts are those on which the model already favours A; half of the
rows say A (right), the others B (wrong). So the direction of A's logit in the last residual really is a cause: pushing
along it raises A, removing it lowers A; and nothing else is planted. Labels follow the prompt's own logit of A.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from gnomon.rows.table import SCHEMA
from gnomon.step import ModelSpec
from gnomon.store import Artifact
from gnomon.types import Direction, Example, Grade, Mode, Site
from gnomon.writer import Writer
from tests.tiny import tiny_folder, tiny_model

LAYER = 3
SITE = Site("resid_post", LAYER)
SPLITS = {"fit": 60, "tune": 30, "test": 60}


@dataclass(frozen=True)
class Starts:
    """Right where the answer begins with the target."""

    name: ClassVar[str] = "starts"
    mode: Mode = "generate"
    max_new_tokens: int = 3
    stop: tuple[str, ...] = ()

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        return []

    def grade(self, example: Example, text: str) -> Grade:
        if not text.strip():
            return Grade(None, None, "nothing was said")
        right = text.strip().startswith(example.target.strip())
        return Grade(right, text.strip()[: len(example.target.strip())], "", None)


def spec() -> ModelSpec:
    return ModelSpec(str(tiny_folder("llama")), device="cpu")


@functools.cache
def planted() -> tuple[list[list[int]], np.ndarray, int, int, np.ndarray]:
    """Prompts that favour A, their logit of A, the tokens A and B (plain ASCII letters), the direction of A - B."""
    model, rng = tiny_model("llama"), np.random.default_rng(0)
    prompts = [[int(t) for t in rng.integers(3, 250, size=n)] for n in rng.integers(4, 9, size=1500)]
    logits = torch.cat([model.forward(prompts[i : i + 100], logits="last").logits for i in range(0, 1500, 100)])
    letters = [i for i in range(3, model.d_vocab) if (s := model.token_strings([i])[0]).isalpha() and s.isascii()]
    spread = torch.log_softmax(logits, -1)
    a = max(letters, key=lambda i: int((logits.argmax(-1) == i).sum()))
    b = letters[0] if letters[0] != a else letters[1]
    best = spread[:, a].argsort(descending=True)[: sum(SPLITS.values())].tolist()
    direction = model.unembed_directions([a]).numpy()[0]
    return [prompts[i] for i in best], spread[best, a].numpy(), a, b, direction


def generations(study: Path, choices: bool = False) -> Artifact:
    """The folder `generate`: splits dealt in turn, half of the rows right."""
    prompts, score, a, b, _ = planted()
    model = tiny_model("llama")
    words = {t: model.decode([t]) for t in (a, b)}
    cut = float(np.median(score))
    order = [s for s, n in SPLITS.items() for _ in range(n)]
    np.random.default_rng(1).shuffle(order)
    lines = []
    for i, (prompt, value) in enumerate(zip(prompts, score, strict=True)):
        right = bool(value > cut)
        said = a if right else b
        lines.append({
            "row": i, "example_index": i, "example_id": f"q{i}", "group": f"g{i // 2}", "split": order[i // 2 * 2],
            "difficulty": float(i % 5), "sample": 0, "round": 0, "temperature": 0.0, "seed": 0, "condition": "",
            "prompt_hash": f"{i}", "prompt": model.decode(prompt), "prompt_len": len(prompt),
            "token_ids": [*prompt, said], "text": words[said], "answer": words[said], "label": right, "reason": "",
            "target": words[a], "choices": [words[b], words[a]] if choices else [],
            "scores": [0.0, 1.0] if choices else [], "finish": "choice" if choices else "length", "logprobs": [0.0],
            "top_ids": [], "top_logits": [], "max_prob": 0.5 + 0.001 * i, "entropy": 1.0, "margin": 0.1,
            "mean_logprob": -1.0, "answer_token": len(prompt),
            "baselines": json.dumps({"noise": float(np.random.default_rng(i).random())}), "meta": "{}",
        })  # fmt: skip
    import pyarrow as pa

    writer = Writer(study, "generate", "generate")
    writer.table("generations", pa.Table.from_pylist(lines, schema=SCHEMA))
    return writer.commit({
        "step": "generate", "name": "generate", "writes": ["generations"],
        "options": {"task": "tests.causal_study:Starts", "max_new_tokens": None, "stop": None, "top_p": 1.0},
        "model": {"n_heads": 4, "n_layers": 4},
    })  # fmt: skip


def directions(study: Path, *extra: Direction) -> Artifact:
    """The folder `probe`: the planted direction, then a random one."""
    *_, vector = planted()
    meta: dict[str, Any] = {"position": "last_prompt", "target": "correct"}
    known = Direction(SITE, vector, "planted", "difference", 0.9, meta)
    blind = Direction(SITE, np.random.default_rng(77).standard_normal(len(vector)), "blind", "difference", 0.5, meta)
    writer = Writer(study, "probe", "probe")
    writer.directions([known, blind, *extra])
    return writer.commit({"step": "probe", "name": "probe", "options": {}, "writes": ["directions"]})
