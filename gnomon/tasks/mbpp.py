"""MBPP (Austin et al. 2021, arXiv 2108.07732): mostly basic Python problems with tests.

Hub: google-research-datasets/mbpp. Local: a file or folder in either layout, the full one (text, code, test_list,
test_setup_code, challenge_test_list) or the sanitized one (prompt, code, test_imports, test_list).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from gnomon.errors import UserError
from gnomon.tasks.base import Task
from gnomon.tasks.code import FENCED, CodeTask, called, defined
from gnomon.tasks.code_extract import plain_lines
from gnomon.tasks.parsing_names import folded
from gnomon.tasks.prompts import Item
from gnomon.tasks.records import Record, data_files, files_hash, read_files, read_hub

SPLIT_IDS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}
"""The set's own splits: first and last task_id."""
_ENDS = ("\nassert", '\n"""', "\nprint", "\nif __name__", "\n```", "\n>>>")


class Mbpp(CodeTask):
    """Basic Python problems; difficulty is the reference's cyclomatic complexity, then its length."""

    name: ClassVar[str] = "mbpp"
    argument: ClassVar[str] = "path"
    hub: ClassVar[str] = "google-research-datasets/mbpp"
    lengths: ClassVar[dict[str, int]] = {"plain": 320, "chat": 384, "prefix": 320, "chat_prefix": 320}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"plain": FENCED, "prefix": _ENDS, "chat_prefix": FENCED}

    path: str | None = None
    """A file (.jsonl, .json, .parquet, .zip) or a folder of them; without it the set comes from the hub."""
    sanitized: bool = False
    """The problems that were checked by hand, in their own wording; of a folder with both layouts it picks one."""
    split: Literal["", "prompt", "test", "validation", "train"] = ""
    """The set's own split: test is 11-510, validation 511-600, train 601-974, prompt 1-10; "" is all but prompt, whose
    problems serve as worked examples."""
    challenge: bool = False
    """Grade by the challenge tests too, where a problem has them."""
    tests_shown: int | None = Field(default=None, ge=0)
    """How many of a problem's tests stand in the prompt; unless given all of them (never the challenge tests)."""
    revision: str = ""
    """The hub revision; "" is the newest."""

    def items(self, n: int | None, seed: int) -> list[Item]:
        first, last = SPLIT_IDS.get(self.split, (11, 974))
        return [item for key, item in self._problems() if first <= key <= last]

    def data_hash(self) -> str:
        return "" if self.path is None else files_hash(data_files(self.path))

    def _shot_pool(self) -> list[Item]:
        """The problems 1-10, in an order drawn by `shot_seed`."""
        return Task._shot_pool(self.model_copy(update={"split": "prompt"}))

    def _problems(self) -> list[tuple[int, Item]]:
        """(task_id, item) of every record, in order of task_id."""
        if self.path is None:
            config = "sanitized" if self.sanitized else "full"
            records = read_hub(self.hub, config, "train+test+validation+prompt", self.revision)
        else:
            records = read_files(self.path)
        layouts = {"text" not in record for _, record in records}
        chosen = [(w, r) for w, r in records if len(layouts) == 1 or ("text" not in r) is self.sanitized]
        made: dict[int, Item] = {}
        for key, item in self._read_all(chosen):
            made.setdefault(key, item)
        return sorted(made.items())

    def _read_all(self, records: list[tuple[str, Record]]) -> Iterator[tuple[int, Item]]:
        for where, record in records:
            words = record.get("text", record.get("prompt"))
            code, tests, key = record.get("code"), record.get("test_list"), record.get("task_id")
            if (
                not (isinstance(words, str) and isinstance(code, str) and _texts(tests) and isinstance(key, int))
                or tests is None
            ):
                raise UserError(
                    f"{where} is not an MBPP record", "fields task_id, text (or prompt), code, and test_list"
                )
            yield key, self._make(where, record, key, words, code, list(tests))

    def _make(self, where: str, record: Record, key: int, words: str, code: str, tests: list[str]) -> Item:
        words, code = plain_lines(words).strip(), plain_lines(code)
        tests = [plain_lines(t).strip() for t in tests]
        before = [*(record.get("test_imports") or []), record.get("test_setup_code") or ""]
        setup = plain_lines("\n".join(before)).strip()
        known = defined(code)
        entry = next((name for test in tests for name in called(test) if name in known), None)
        if entry is None:
            raise UserError(f"{where}: no test calls a function that its code defines", "a test like assert f(1) == 2")
        more = [plain_lines(t).strip() for t in record.get("challenge_test_list") or []] if self.challenge else []
        shown = tests[: self.tests_shown]
        return self.problem_item(
            str(key), words, entry, code, [*tests, *more], shown_tests=shown,
            group=f"{self.name}:{folded(words)}", task_id=key, setup=setup,
        )  # fmt: skip


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, str) for v in value)
