"""A study whose answers must be run: a tiny model, a task that judges whole answers, and rows that the model wrote.

A "program" passes where it begins with the letter A; half of the prompts are those on which the model writes it, half
those on which it comes close. The direction of A's logit is again a real cause. Prompts have two parts.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from gnomon.rows.table import SCHEMA
from gnomon.store import Artifact
from gnomon.types import Direction, Example, Grade, Mode
from gnomon.writer import Writer
from tests.causal_study import LAYER, SITE, spec
from tests.tiny import tiny_model

SPLITS = {"fit": 40, "tune": 24, "test": 40}
FILLER = " and that is all there is to say about it, in as many words as it takes to be too long to be scored."
GRADED: list[tuple[str, str]] = []
"""Every (example, text) that was graded in this process."""
__all__ = ["LAYER", "SITE", "spec"]


@dataclass(frozen=True)
class Programs:
    """Right where the answer begins with the target's first letter; no verdict where nothing but space was written."""

    name: ClassVar[str] = "programs"
    executable: ClassVar[bool] = True
    mode: Mode = "generate"
    max_new_tokens: int = 4
    stop: tuple[str, ...] = ()

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        return []

    def grade(self, example: Example, text: str) -> Grade:
        GRADED.append((example.id, text))
        said = text.strip()
        if not said:
            return Grade(None, None, "no code", meta={"verdict": ""})
        right = said.startswith(example.target[0])
        verdict = "pass" if right else "fail"
        return Grade(right, said, f"{verdict}: by its first letter", None, {"verdict": verdict, "head": said[:1]})


@dataclass(frozen=True)
class Longwinded(Programs):
    """The same, for a task that does not say that it runs anything: its targets are long."""

    name: ClassVar[str] = "longwinded"
    executable: ClassVar[bool] = False


@functools.cache
def written() -> tuple[list[list[int]], list[list[int]], str, np.ndarray]:
    """Prompts, what the model writes after each, the letter A, and the direction of its logit."""
    model, rng = tiny_model("llama"), np.random.default_rng(3)
    prompts = [[int(t) for t in rng.integers(3, 250, size=n)] for n in rng.integers(6, 11, size=700)]
    logits = torch.cat([model.forward(prompts[i : i + 50], logits="last").logits for i in range(0, len(prompts), 50)])
    letters = [i for i in range(3, model.d_vocab) if (s := model.token_strings([i])[0]).isalpha() and s.isascii()]
    best = logits.argmax(-1)
    a = max(letters, key=lambda i: int((best == i).sum()))
    gap = (logits.max(-1).values - logits[:, a]).numpy()
    said = np.array([model.decode([int(t)]).strip().startswith(model.decode([a]).strip()) for t in best])
    half = sum(SPLITS.values()) // 2
    right = np.flatnonzero(said)[:half]
    order = np.argsort(gap, kind="stable")
    wrong = order[~said[order]][: 2 * half - len(right)]
    chosen = [prompts[i] for i in np.random.default_rng(4).permutation(np.concatenate([right, wrong]))]
    made = model.generate(chosen, max_new_tokens=Programs.max_new_tokens)
    direction = model.unembed_directions([a]).numpy()[0]
    return chosen, [r.token_ids for r in made.rows], model.decode([a]).strip(), direction


def generations(study: Path, task: str = "Programs", parts: bool = True) -> Artifact:
    """The folder `generate`: real answers of the model, really graded."""
    prompts, answers, letter, _ = written()
    model, judge = tiny_model("llama"), Programs()
    order = [s for s, n in SPLITS.items() for _ in range(n)]
    np.random.default_rng(1).shuffle(order)
    lines = []
    for i, (prompt, said) in enumerate(zip(prompts, answers, strict=True)):
        text, words = model.decode([*prompt[-1:], *said])[len(model.decode(prompt[-1:])) :], model.decode(prompt)
        target = letter + FILLER
        grade = judge.grade(Example(f"q{i}", words, target), text)
        half = len(words) // 2
        named = {"parts": {"problem": words[:half], "tests": words[half:] if i % 2 else ""}} if parts else {}
        lines.append({
            "row": i, "example_index": i, "example_id": f"q{i}", "group": f"g{i // 2}", "split": order[i // 2 * 2],
            "difficulty": float(i % 5), "sample": 0, "round": 0, "temperature": 0.0, "seed": 0, "condition": "",
            "prompt_hash": f"{i}", "prompt": words, "prompt_len": len(prompt), "token_ids": [*prompt, *said],
            "text": text, "answer": grade.answer, "label": grade.label, "reason": grade.reason, "target": target,
            "choices": [], "scores": [], "finish": "length", "logprobs": [0.0] * len(said), "top_ids": [],
            "top_logits": [], "max_prob": 0.5, "entropy": 1.0, "margin": 0.1, "mean_logprob": -1.0,
            "answer_token": len(prompt), "baselines": "{}", "meta": json.dumps(named | dict(grade.meta)),
        })  # fmt: skip
    writer = Writer(study, "generate", "generate")
    writer.table("generations", pa.Table.from_pylist(lines, schema=SCHEMA))
    return writer.commit({
        "step": "generate", "name": "generate", "writes": ["generations"],
        "options": {"task": f"tests.program_study:{task}", "max_new_tokens": None, "stop": None, "top_p": 1.0},
        "model": {"n_heads": 4, "n_layers": 4},
    })  # fmt: skip


def features(study: Path) -> Artifact:
    """The folder `features`: the cause as a dictionary feature, a blind one, and predictions that know the labels on
    nine rows of ten: `wrong` fires where the answer is wrong, `right` where it is right."""
    *_, vector = written()
    table = Artifact(study / "generate").table("generations").sort_values("row")
    rng = np.random.default_rng(8)
    labels = np.array([bool(v) if v is not None else False for v in table["label"]])
    known = np.where(rng.random(len(labels)) < 0.9, labels, ~labels)
    meta: dict[str, Any] = {"position": "last_prompt", "dictionary": "made up", "selected_on": "fit", "threshold": 0.5}
    found = [
        Direction(SITE, vector, f"feature 7 {SITE}", "feature", 0.9, meta | {"latent": 7, "predicts": "correct"}),
        Direction(SITE, rng.standard_normal(len(vector)), f"feature 9 {SITE}", "feature", 0.8,
                  meta | {"latent": 9, "predicts": "incorrect"}),
    ]  # fmt: skip
    lines = [
        {"row": int(row), "predictor": name, "site": str(SITE), "feature": latent, "score": float(fire),
         "threshold": 0.5, "fires": bool(fire), "split": split}
        for name, latent, fires in (("right", 7, known), ("wrong", 9, ~known))
        for row, split, fire in zip(table["row"], table["split"], fires, strict=True)
    ]  # fmt: skip
    writer = Writer(study, "features", "features")
    writer.directions(found)
    writer.table("predictions", pa.Table.from_pandas(pd.DataFrame(lines), preserve_index=False))
    return writer.commit({"step": "features", "name": "features", "options": {}, "writes": ["features", "directions"]})
