"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school problems with worked solutions that end in "#### 42".

Hub: openai/gsm8k, config main. Local: train.jsonl and test.jsonl of the original release, or its parquet files.
"""

from __future__ import annotations

import re
from typing import ClassVar

from gnomon.errors import UserError
from gnomon.tasks.prompts import Item
from gnomon.tasks.records import Record
from gnomon.tasks.word_problems import WordProblems


class Gsm8k(WordProblems):
    """Grade-school word problems; difficulty is the number of calculations in the worked solution."""

    name: ClassVar[str] = "gsm8k"
    hub: ClassVar[str] = "openai/gsm8k"
    hub_config: ClassVar[str] = "main"

    split: str = "test"
    """train or test; "" takes every file of `path` (or test on the hub)."""

    def read(self, record: Record, where: str) -> Item | None:
        question, answer = record.get("question"), record.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str) or "####" not in answer:
            raise UserError(f"{where} is not a GSM8K record", 'fields question, and answer ending in "#### NUMBER"')
        solution, _, final = answer.rpartition("####")
        steps = len(re.findall(r"<<[^>]*>>", solution)) or len([line for line in solution.split("\n") if line.strip()])
        solution = re.sub(r"\s*\n\s*", "\n", re.sub(r"<<[^>]*>>", "", solution)).strip()
        return self.make(self.key(question), question, final.strip(), float(steps), solution)
