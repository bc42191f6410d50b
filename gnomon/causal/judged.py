"""Whether a task judges an answer by its text, or by running it, and whether it could."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gnomon.errors import UserError
from gnomon.tasks.code import LABELS
from gnomon.tasks.make import make_task


def runs_answers(options: Mapping[str, Any]) -> bool:
    """True where the generation's task judges an answer by running it (it says `executable`, or has a sandbox): its
    target is only one of many right texts."""
    option = options.get("task")
    if option is None:
        return False
    task = make_task(option)
    return bool(getattr(task, "executable", hasattr(task, "sandbox")))


def refuse_logprob(score: str, options: Mapping[str, Any]) -> None:
    """UserError where log-probabilities of a target are asked for and the answers are judged by running them."""
    if score in ("logprob", "both") and runs_answers(options):
        raise UserError(
            f"score: {score}, and the answers of task {options['task']!r} are judged by running them",
            "score: generate (or auto): the log-probability of one reference text is not that of a right answer",
        )


def judged(label: Any, meta: str | None) -> bool:
    """False for an answer that was run without a verdict on it (blocked, unsupported, infra), by `label` and the
    grade's `meta` (JSON); an answer in which there was nothing to run is judged: it is not right."""
    if label is not None and label == label:
        return True
    verdict = json.loads(meta or "{}").get("verdict")
    return not verdict or verdict in LABELS
