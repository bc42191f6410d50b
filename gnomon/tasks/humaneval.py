"""HumanEval (Chen et al. 2021, arXiv 2107.03374): functions to be continued from signature and docstring.

Hub: openai/openai_humaneval. Local: a file or folder of records task_id, prompt, canonical_solution, test, entry_point.
"""

from __future__ import annotations

import re
from typing import ClassVar

from gnomon.errors import UserError
from gnomon.tasks.code import FENCED, CodeTask
from gnomon.tasks.code_extract import plain_lines
from gnomon.tasks.functions import BODY_ENDS
from gnomon.tasks.prompts import Item, Style
from gnomon.tasks.records import Record, data_files, files_hash, read_files, read_hub

_FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")


class HumanEval(CodeTask):
    """Functions with a docstring that often holds examples; the tests are one `check` of the function."""

    name: ClassVar[str] = "humaneval"
    argument: ClassVar[str] = "path"
    hub: ClassVar[str] = "openai/openai_humaneval"
    lengths: ClassVar[dict[str, int]] = {"plain": 512, "chat": 640, "prefix": 384, "chat_prefix": 512}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"plain": FENCED, "prefix": BODY_ENDS, "chat_prefix": FENCED}

    path: str | None = None
    """A file (.jsonl, .json, .parquet, .zip) or a folder of them; without it the set comes from the hub."""
    style: Style = "prefix"
    """prefix: the set's own prompt, whose body the model writes; the others ask for the whole function."""
    repo: str = ""
    """Another hub data set of the same layout."""
    revision: str = ""
    """The hub revision; "" is the newest."""

    def items(self, n: int | None, seed: int) -> list[Item]:
        if self.path is not None:
            records = read_files(self.path)
        else:
            records = read_hub(self.repo or self.hub, "", "test", self.revision)
        made: dict[str, Item] = {}
        for where, record in records:
            item = self._read(where, record)
            made.setdefault(item.id, item)
        return list(made.values())

    def data_hash(self) -> str:
        return "" if self.path is None else files_hash(data_files(self.path))

    def _read(self, where: str, record: Record) -> Item:
        if not all(isinstance(record.get(name), str) and record[name].strip() for name in _FIELDS):
            raise UserError(f"{where} is not a HumanEval record", f"fields {', '.join(_FIELDS)}, all texts")
        begun, entry = plain_lines(record["prompt"]), record["entry_point"]
        head = begun.rstrip(" \t")  # an indent at the end would split the first token
        reference = begun + plain_lines(record["canonical_solution"])
        words, examples = docstring(head)
        return self.problem_item(
            record["task_id"].replace("HumanEval/", ""), words or head, entry, reference, [plain_lines(record["test"])],
            head=head, parts={"problem": words or head, "tests": examples}, check=True, task_id=record["task_id"],
        )  # fmt: skip


def docstring(head: str) -> tuple[str, str]:
    """(words, examples) of the last docstring of a function's beginning, as they stand there; examples begin at the
    first `>>>` and are "" without one."""
    found = re.search(r"(\"\"\"|''')(?!.*\1.*\1)((?:(?!\1).)*)\1\s*$", head, re.DOTALL)
    text = found[2].strip() if found else ""
    words, mark, examples = text.partition(">>>")
    return words.strip(), (mark + examples).strip()
