"""Sums: "What is 12 + 34?" with chosen digits; difficulty is digits to be added plus carries."""

from __future__ import annotations

from typing import ClassVar

from gnomon.tasks.arithmetic import Arithmetic


class Sums(Arithmetic):
    """Addition of whole numbers."""

    name: ClassVar[str] = "sums"
    symbol: ClassVar[str] = "+"
    word: ClassVar[str] = "plus"
    noun: ClassVar[str] = "sum"
    other_signs: ClassVar[tuple[str, ...]] = ("to", "added to")

    def answer(self, operands: tuple[int, ...]) -> int:
        return sum(operands)

    def measure(self, operands: tuple[int, ...]) -> tuple[float, dict[str, float]]:
        digits, carried = sum(len(str(o)) for o in operands), carries(operands)
        return float(digits + carried), {"digits": float(digits), "carries": float(carried)}


def carries(operands: tuple[int, ...]) -> int:
    """Columns of the written addition that hand a carry to the next."""
    carry, count = 0, 0
    for place in range(max(len(str(o)) for o in operands)):
        carry = (sum(o // 10**place % 10 for o in operands) + carry) // 10
        count += carry > 0
    return count
