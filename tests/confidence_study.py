"""Answers and two confidence passes made of numbers, not of a model: what is planted in them is known.

Item i has a difficulty, a knowledge k and a mood m. It is right with a chance that follows `knows` * k minus its
difficulty; stated confidence follows `says` * k + `mood` * m (self) and `shares` of the same (other). The activations
of the base generation hold k from `layer_knows` on (dimension 0); those of each pass hold the stated confidence from
`layer_says` on (dimension 1 for self; the same for other where `same` is true, else dimension 2). All else is noise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import expit, softmax

from gnomon.rows.confidence_table import CONFIDENCE
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer
from tests import synthetic

MIDPOINTS = np.array([2.5, 7.5, 15, 30, 50, 70, 85, 95]) / 100
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Sure:
    """What is in the numbers: sizes in standard deviations of the noise."""

    n: int = 240
    d: int = 16
    layers: int = 4
    groups: int | None = None
    knows: float = 2.0
    says: float = 1.0
    mood: float = 0.5
    shares: float = 0.7
    layer_knows: int = 1
    layer_says: int = 2
    strength: float = 2.0
    same: bool = True
    choices: int = 4
    positions: tuple[str, ...] = ("last_prompt", "last", "answer")
    looks: float = 0.0
    """Effect of the question's number of words on both stated confidences."""
    layer_states: int = 99
    """Layer from which the base activations hold self's stated confidence (dimension 3)."""
    missing: float = 0.0
    """Share of rows that a pass has no line for."""
    drift: float = 0.0
    """How far this model is from the one of the same seed and drift 0, 0 to 1: the same questions and difficulties,
    but knowledge, and activations from `drift_from` on, of which 1 - drift^2 of the variance is the other's."""
    drift_from: int = 0
    better: float = 0.0
    """Added to the logit of being right."""
    surer: float = 0.0
    """Added to the logit of stated confidence."""
    seed: int = 0

    def drifted(self, values: np.ndarray, *stream: int) -> np.ndarray:
        """Values of variance 1, of which a part is this model's own."""
        if not self.drift:
            return values
        own = np.random.default_rng([self.seed, 8, *stream]).normal(size=values.shape)
        return np.sqrt(1 - self.drift**2) * values + self.drift * own


def rows(s: Sure) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The generations table, and what is planted: knowledge, difficulty, self, other `[n]` each (confidence 0 to 1)."""
    table, _ = synthetic.rows(synthetic.Planted(n=s.n, d=s.d, layers=1, groups=s.groups, seed=s.seed))
    rng = np.random.default_rng([s.seed, 5])
    difficulty = table["difficulty"].to_numpy()
    know, mood = s.drifted(rng.normal(size=s.n), 0), rng.normal(size=s.n)
    right = rng.random(s.n) < expit(s.knows * know - 0.5 * difficulty + s.better)
    words = np.array([json.loads(t)["words"] for t in table["baselines"]])
    sure = s.says * know + s.mood * mood + s.looks * (words - words.mean())
    told = {
        "self": expit(sure + s.surer),
        "other": expit(s.shares * sure + 0.5 * rng.normal(size=s.n) + s.surer),
    }
    scores = np.round(rng.normal(size=(s.n, s.choices)) - 2, 6)
    options = [f"option {c}" for c in range(s.choices)]
    aim = np.arange(s.n) % s.choices  # the right option: the question's, not the model's
    best = np.where(right, aim, (aim + 1) % s.choices)
    places = (np.arange(s.choices) - (best - scores.argmax(axis=1))[:, None]) % s.choices
    scores = np.take_along_axis(scores, places, axis=1)
    ordered, p = np.sort(scores, axis=1), softmax(scores, axis=1)
    table["label"] = [bool(y) for y in right]
    table["choices"], table["scores"] = [options] * s.n, list(scores)
    table["text"] = table["answer"] = [options[b] for b in best]
    table["target"] = [options[t] for t in aim]
    table["max_prob"], table["entropy"] = p.max(axis=1), -(p * np.log(p)).sum(axis=1)
    table["margin"], table["finish"] = ordered[:, -1] - ordered[:, -2], "choice"
    return table, {"knowledge": know, "difficulty": difficulty, **told}


def make(study: str | Path, s: Sure | None = None, name: str = "generate") -> dict[str, Artifact]:
    """Commit `name`, `self` and `other` (the passes of a second generation are called `self_<name>`, ...)."""
    s, study = s or Sure(), Path(study)
    table, planted = rows(s)
    rng = np.random.default_rng([s.seed, 6])
    acts = {}
    for layer in range(s.layers):
        for position in s.positions:
            x = rng.normal(size=(s.n, s.d))
            x = s.drifted(x, 1, layer) if layer >= s.drift_from else x
            x[:, 0] += s.strength * planted["knowledge"] * (layer >= s.layer_knows)
            if layer >= s.layer_states:
                x[:, 3] += s.strength * np.log(planted["self"] / (1 - planted["self"]))
            acts[f"resid_post.{layer}", position] = x.astype(np.float32)
    suffix = "" if name == "generate" else f"_{name}"
    found = {name: synthetic.save(study, table, acts, name)}
    for ask in ("self", "other"):
        found[ask + suffix] = save_pass(study, table, planted[ask], s, ask, ask + suffix, name)
    return found


def save_pass(
    study: Path, table: pd.DataFrame, confidence: np.ndarray, s: Sure, ask: str, name: str, generation: str = "generate"
) -> Artifact:
    """Commit one pass: its table, and activations that hold the logit of `confidence` from `layer_says` on."""
    rng = np.random.default_rng([s.seed, 7, len(ask)])
    asked = table.loc[rng.random(len(table)) >= s.missing]
    told, lines = confidence[asked.index], []
    for (_, r), c in zip(asked.iterrows(), told, strict=True):
        logits = -((MIDPOINTS - c) ** 2) * 20
        probs = softmax(logits)
        best, length = int(probs.argmax()), int(r["prompt_len"]) + 20
        lines.append({
            **{k: r[k] for k in ("row", "example_id", "group", "split", "sample", "temperature", "prompt_hash")},
            "ask": ask, "prompt": f"{r['prompt']} how sure?", "prompt_len": length,
            "token_ids": [1] * length + [3 + best], "text": LETTERS[best], "parsed": LETTERS[best],
            "confidence": float(c), "choices": [f"{m:.1%}" for m in MIDPOINTS], "logits": logits.tolist(),
            "probs": probs.tolist(), "mass": 0.9, "entropy": float(-(probs * np.log(probs + 1e-300)).sum()),
            "margin": float(np.diff(np.sort(logits))[-1]), "normal": float(c), "reversed": float(c),
            "answer_token": length - 12, "confidence_token": length - 1, "meta": json.dumps({}),
        })  # fmt: skip
    writer = Writer(study, name, f"fingerprint of {name}")
    shard = writer.shard(0)
    shard.table("confidence", pa.Table.from_pylist(lines, schema=CONFIDENCE))
    where, z = 1 if ask == "self" or s.same else 2, np.log(told / (1 - told))
    for layer in range(s.layers):
        for position in s.positions:
            x = rng.normal(size=(len(asked), s.d))
            if position != "answer":
                x[:, where] += s.strength * z * (layer >= s.layer_says)
            shard.activations(Site("resid_post", layer), position, x.astype(np.float32), asked["row"].to_numpy(), None,
                              "float32")  # fmt: skip
    shard.finish()
    return writer.commit({
        "step": "confidence", "name": name, "writes": ["confidence"], "options": {"ask": ask}, "version": 1,
        "model": {"n_layers": s.layers, "n_heads": 4},
        "inputs": {"generations": {"name": generation, "kind": "generations",
                                   "fingerprint": f"fingerprint of {generation}"}}, "ledger": [],
    })  # fmt: skip
