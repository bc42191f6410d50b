"""The study that is killed: every kind of work that a step does, in seconds."""

from __future__ import annotations

from typing import Any

STEPS = ("generate", "capture", "train_dictionary", "features", "patch_features")
KEPT = {"sites": ["resid_post.1", "resid_post.2"], "positions": ["last_prompt", "all"]}


def study(model: str, rows: int = 120, workers: int = 1) -> dict[str, Any]:
    """Every kind of work: shards of answers, of activations, a training with checkpoints, a search, and patches."""
    return {
        "model": model, "device": "cpu", "threads": 1, "executor": {"local": {"workers": workers}},
        "steps": [
            {"generate": {"task": "tests.own_tasks:Letters", "n": rows, "max_new_tokens": 6, "temperatures": [1.0],
                          "shard_rows": 8, "batch_size": 4, "splits": "40/20/40", "capture": KEPT}},
            {"capture": {"sites": "z.*", "positions": ["all"]}},
            {"train_dictionary": {"sites": ["resid_post.2"], "latents": 64, "k": 4, "steps": 150, "batch": 64,
                                  "checkpoint_every": 20, "loss_rows": 4, "draws": 200},
             "from": {"activations": "generate"}},
            {"features": {"per_layer": 5, "top": 1, "permutations": 19, "random": 19, "draws": 200, "folds": 3,
                          "pages": 1, "probes": False, "keep": 20, "general_text": None, "nested_below": 0}},
            {"patch_features": {"top": 2, "trials": 20, "controls": 2, "flips": 999, "draws": 200, "batch_size": 4,
                                "max_new_tokens": 3}},
        ],
    }  # fmt: skip


def cut(content: dict[str, Any], last: str) -> dict[str, Any]:
    """The study up to step `last`."""
    return content | {"steps": content["steps"][: STEPS.index(last) + 1]}
