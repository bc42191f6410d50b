"""Mutants of a program: one change each to an operator, a comparison, a constant or a returned value.

They show that tests notice what they should (a test that no mutant fails tests nothing), and the first of them that
its tests refuse is a near miss: a wrong program that looks like the right one.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

_ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitXor: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_COMPARISON: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_CALLS = {"max": "min", "min": "max", "sum": "len", "sorted": "list", "all": "any", "any": "all", "len": "sum",
          "upper": "lower", "lower": "upper", "startswith": "endswith"}  # fmt: skip


def mutants(program: str) -> list[str]:
    """Every mutant of a program, as source: first the small changes in order of place, then returned values."""
    tree = ast.parse(program)
    small: list[str] = []
    large: list[str] = []
    for index, (parent, name, at) in enumerate(_slots(tree)):
        for kind, changed in _changes(_get(parent, name, at)):
            copied = copy.deepcopy(tree)
            _set(*list(_slots(copied))[index], changed)
            (large if kind == "return" else small).append(ast.unparse(ast.fix_missing_locations(copied)) + "\n")
    return list(dict.fromkeys(m for m in [*small, *large] if m != ast.unparse(tree) + "\n"))


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        yield "small", _with(node, op=_ARITHMETIC[type(node.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISON:
        yield "small", _with(node, ops=[_COMPARISON[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, ast.BoolOp):
        yield "small", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield "small", ast.Constant(node.value + 1)
    if isinstance(node, ast.Constant) and node.value is None:
        yield "small", ast.Constant(0)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "small", ast.Constant(not node.value)
    if isinstance(node, ast.Constant) and type(node.value) is str:
        yield "small", ast.Constant(node.value + "x")
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _CALLS:
        yield "small", _with(node, id=_CALLS[node.id])
    if isinstance(node, ast.Attribute) and node.attr in _CALLS:
        yield "small", _with(node, attr=_CALLS[node.attr])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield "small", node.operand
    if isinstance(node, ast.IfExp):
        yield "small", _with(node, body=node.orelse, orelse=node.body)
    if isinstance(node, ast.Return) and node.value is not None:
        yield "return", ast.Return(ast.Constant(None))


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _slots(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """(parent, field, index in it) of every node, in order of place; docstrings are left out."""
    for name, value in ast.iter_fields(tree):
        for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not (
                isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            ):
                yield tree, name, at
                yield from _slots(child)


def _get(parent: ast.AST, name: str, at: int | None) -> ast.AST:
    value = getattr(parent, name)
    return value if at is None else value[at]


def _set(parent: ast.AST, name: str, at: int | None, node: ast.AST) -> None:
    if at is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[at] = node
