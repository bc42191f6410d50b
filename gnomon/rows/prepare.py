"""The questions of a generation before any is asked: examples, their prompts' tokens, what was too long, the splits."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.disk import file_sha256, plain
from gnomon.errors import UserError
from gnomon.models import load_tokenizer
from gnomon.models.tokens import encode_text, tokenize
from gnomon.rows.choose_letters import letters_of, scores_letters
from gnomon.rows.letters import variants_of
from gnomon.step import ModelSpec
from gnomon.tasks.make import make_task
from gnomon.tasks.prompts import continue_with
from gnomon.tasks.splits import How, assign_splits
from gnomon.types import SPLITS, Example, Grade

ROUNDS = 32
"""Most rounds of an episode whose task does not say `max_rounds`."""
KEPT = 4


@dataclass(frozen=True)
class Prepared:
    """Examples with their splits, and the ids of each one's (first) prompt.

    `choices`: for each example (tokens of its longest choice, tokens of all), in mode `choices`; letters are one token,
    whose passes are counted once. `dropped`: how many examples had prompts longer than max_length. `skipped`: records
    that the task left out, by reason.
    """

    task: Any
    examples: list[Example]
    tokens: list[np.ndarray]
    choices: list[tuple[int, int]]
    dropped: int = 0
    places: tuple[int, ...] | None = None
    """Place of each example among those of all splits, where only some splits are asked."""
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Row numbers that each example takes: an episode's most rounds, else 1."""
        return int(getattr(self.task, "max_rounds", ROUNDS)) if self.task.mode == "episode" else 1


_DONE: OrderedDict[str, Prepared] = OrderedDict()


def prepare(
    option: Any, n: int | None, seed: int, spec: ModelSpec, max_length: int | None, splits: Any, split_by: How
) -> Prepared:
    """Make the task's examples, tokenise their prompts (no weights are loaded), drop those longer than `max_length`
    tokens, and split the rest. The last few results are kept, since a step is checked, costed and run.
    """
    task = make_task(option)
    name = json.dumps([option, identity(task), n, seed, spec.name, spec.revision, max_length, splits, split_by],
                      sort_keys=True, default=plain)  # fmt: skip
    if name not in _DONE:
        _DONE[name] = _prepare(task, n, seed, spec, max_length, splits, split_by)
        while len(_DONE) > KEPT:
            _DONE.popitem(last=False)
    return _DONE[name]


def _prepare(
    task: Any, n: int | None, seed: int, spec: ModelSpec, max_length: int | None, splits: Any, split_by: How
) -> Prepared:
    examples = list(task.examples(n, seed))
    check_examples(task, examples)
    tokenizer = load_tokenizer(spec.name, spec.revision)
    tokens = [np.array(tokenize(tokenizer, first_prompt(task, e)), dtype=np.int32) for e in examples]
    keep = [i for i, ids in enumerate(tokens) if max_length is None or len(ids) <= max_length]
    if not keep:
        shortest = min(map(len, tokens))
        raise UserError(
            f"max_length {max_length} drops all {len(examples)} examples", f"the shortest prompt has {shortest} tokens",
            "raise max_length",
        )  # fmt: skip
    side = assign_splits([examples[i] for i in keep], splits, seed, split_by)
    kept = [replace(examples[i], split=side[examples[i].id]) for i in keep]
    choices: list[tuple[int, int]] = []
    if scores_letters(task):
        check_letters(tokenizer, kept)
        choices = [(1, 1)] * len(kept)
    elif task.mode == "choices":
        choices = [choice_lengths(tokenizer, e) for e in kept]
    skipped = task.skipped() if hasattr(task, "skipped") else {}
    return Prepared(task, kept, [tokens[i] for i in keep], choices, len(examples) - len(keep), skipped=dict(skipped))


def only_splits(prepared: Prepared, splits: Sequence[str]) -> Prepared:
    """The examples of these splits, which were assigned over all of them. UserError where there are none."""
    keep = tuple(i for i, e in enumerate(prepared.examples) if e.split in splits)
    if not keep:
        counts = {s: sum(e.split == s for e in prepared.examples) for s in SPLITS}
        raise UserError(
            f"only: {list(splits)} leaves no question to ask",
            f"there are {', '.join(f'{n} in {s}' for s, n in counts.items())}", "raise n, or change splits",
        )  # fmt: skip
    return replace(
        prepared,
        examples=[prepared.examples[i] for i in keep],
        tokens=[prepared.tokens[i] for i in keep],
        choices=[prepared.choices[i] for i in keep] if prepared.choices else [],
        places=keep,
    )


def choice_lengths(tokenizer: Any, example: Example) -> tuple[int, int]:
    """(tokens of the longest choice, tokens of all choices) of an example."""
    lengths = [len(encode_text(tokenizer, continue_with(example.prompt, choice))) for choice in example.choices]
    return max(lengths), sum(lengths)


def check_letters(tokenizer: Any, examples: Sequence[Example]) -> None:
    """Refuse letters that are no single tokens of this vocabulary, or that two choices share."""
    for letters in dict.fromkeys(tuple(letters_of(example)) for example in examples):
        variants_of(tokenizer, letters)


def check_context(prepared: Prepared, new_tokens: int, context: int | None) -> None:
    """Refuse prompts that, with the longest answer, do not fit into the model's context."""
    longest = max(len(ids) for ids in prepared.tokens)
    if context is not None and longest + new_tokens > context:
        raise UserError(
            f"the longest prompt has {longest} tokens and an answer up to {new_tokens}",
            f"the model reads {context} at most", f"set max_length: {max(1, context - new_tokens)}",
        )  # fmt: skip


def first_prompt(task: Any, example: Example) -> Any:
    """What the model reads first: the example's prompt, or its episode's first one (from an environment of seed 0)."""
    return task.episode(example, 0).first() if task.mode == "episode" else example.prompt


def check_examples(task: Any, examples: Sequence[Example]) -> None:
    """Refuse no examples, ids that occur twice, and choices of which there are fewer than two."""
    if not examples:
        raise UserError(f"task {task.name} has no examples", "at least one", "see its options")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise UserError(f"task {task.name} has two examples with the id {example.id!r}", "ids that occur once")
        seen.add(example.id)
        if task.mode == "choices" and len(set(example.choices)) < max(2, len(example.choices)):
            raise UserError(
                f"example {example.id!r} of task {task.name} has the choices {list(example.choices)}",
                "at least two, all different", "give it choices, or take mode: generate",
            )  # fmt: skip


def has_parser(task: Any, example: Example) -> bool:
    """True where the task finds an answer in a text that is the target itself: position `answer` is then possible."""
    if task.mode != "generate":
        return True
    grade: Grade = task.grade(example, example.target)
    return grade.answer is not None or grade.span is not None


def identity(task: Any) -> dict[str, Any]:
    """What a task's examples and grades depend on: its options and versions, its data files, a user task's source."""
    out: dict[str, Any] = {"name": str(task.name), "version": getattr(task, "version", 1)}
    if hasattr(task, "model_dump"):
        out["options"] = task.model_dump(mode="json")
    if hasattr(task, "fingerprint"):
        out |= task.fingerprint()
    files = [Path(f) for f in task.files()] if hasattr(task, "files") else _paths(out.get("options", {}))
    if files:
        out["files"] = {path.name: file_sha256(path) for path in sorted(files)}
    if not type(task).__module__.startswith("gnomon."):
        out["source"] = _source(type(task))
    return out


def _paths(options: Mapping[str, Any]) -> list[Path]:
    """Options that are the path of a file on this machine."""
    texts = [v for v in options.values() if isinstance(v, str) and 0 < len(v) < 4096 and "\n" not in v]
    return [Path(text) for text in texts if Path(text).is_file()]


def _source(cls: type) -> str:
    try:
        path = inspect.getsourcefile(cls)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
    except (OSError, TypeError):
        return ""
