"""Products: "What is 12 * 34?" with chosen digits; difficulty is digit multiplications plus carries."""

from __future__ import annotations

import math
from typing import ClassVar

from gnomon.tasks.arithmetic import Arithmetic


class Products(Arithmetic):
    """Multiplication of whole numbers."""

    name: ClassVar[str] = "products"
    symbol: ClassVar[str] = "*"
    word: ClassVar[str] = "times"
    noun: ClassVar[str] = "product"
    other_signs: ClassVar[tuple[str, ...]] = ("x", "×", "by", "multiplied by", "\\times", "\\cdot")

    def answer(self, operands: tuple[int, ...]) -> int:
        return math.prod(operands)

    def measure(self, operands: tuple[int, ...]) -> tuple[float, dict[str, float]]:
        steps, carried, product = 0, 0, operands[0]
        for operand in operands[1:]:
            steps += len(str(product)) * len(str(operand))
            carried += carries(product, operand)
            product *= operand
        trailing = sum(str(o).endswith("0") for o in operands)
        return float(steps + carried), {
            "steps": float(steps),
            "carries": float(carried),
            "round_operands": float(trailing),
        }


def carries(a: int, b: int) -> int:
    """Carries of the written multiplication of `a` by each digit of `b`."""
    count = 0
    for digit in map(int, str(b)):
        carry = 0
        for other in map(int, reversed(str(a))):
            carry = (digit * other + carry) // 10
            count += carry > 0
    return count
