"""A model's text to the program in it: fenced, bare, within prose, or the continuation of a function begun for it.

Nothing is repaired: what runs is what was written, up to where the program ends. Two things are left off at its end:
statements that only try the function out (prints, asserts, `if __name__`), and, where no fence was closed behind it,
one statement that the length limit cut in two. A program with a fault is kept, for the tests to refuse; one of which
nothing remains because it was cut is no program.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

VERSION = 3
"""Raised when a rule changes: labels made by another version are not the same labels."""

_END = re.compile(r"<\|im_(?:end|start)\|>|<\|endoftext\|>|<\|eot_id\|>|</s>|<eos>|<end_of_turn>|\[/?INST\]|\[DONE\]")
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n`]*$", re.MULTILINE)
_STARTS = re.compile(
    r"^[ \t]*(?:import[ \t]+\w|from[ \t]+[\w.]+[ \t]+import\b|@\w|(?:async[ \t]+)?def[ \t]+\w|class[ \t]+\w"
    r"|[A-Za-z_]\w*[ \t]*=[^=])",
    re.MULTILINE,
)
_CODE = re.compile(r"^[ \t]*(?:(?:async[ \t]+)?def[ \t]+\w+[ \t]*\(|class[ \t]+\w+[ \t]*[:(])", re.MULTILINE)
_RETRACTED = re.compile(
    r"\b(?:wait|oops|corrected|correction|mistake|wrong|incorrect|fixed (?:version|code|function))\b"
    r"|^[ \t]*(?:actually|fixed)\b", re.IGNORECASE | re.MULTILINE
)  # fmt: skip
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_TRYING = (ast.Expr, ast.Assert, ast.Delete, ast.Pass)


@dataclass(frozen=True)
class Code:
    """A program found in a text: what runs, and the characters [start, end) of the text that it was read from.

    `program` is those characters (line ends made plain), after the function's beginning where they continue it.
    `how`: continued, fence, open fence, bare; with ", cut" where an unfinished statement was left off.
    """

    program: str
    start: int
    end: int
    how: str


def extract(text: str, entry: str, head: str = "", opened: bool = False) -> Code | None:
    """The program of `text` that defines `entry`, or else its first one; None where there is no code.

    Args:
        text: what the model wrote.
        entry: the function that the tests call.
        head: what the prompt ended with where the model continues it: imports, signature, docstring.
        opened: the prompt opened a fence that the text continues.
    """
    if mark := _END.search(text):
        text = text[: mark.start()]
    if not text.strip():
        return None
    follows = _continued(text, entry, head) if head else None
    if follows is not None and not follows.how.endswith("cut") and parses(follows.program):
        return follows
    whole = _whole(text, entry, opened)
    if follows is None or (whole is not None and defines(whole.program, entry)):
        return whole
    return follows


def parses(program: str) -> bool:
    """Whether a program is Python."""
    return not isinstance(_tree(program), SyntaxError)


def defines(program: str, entry: str) -> bool:
    """Whether a program binds `entry` at its top level."""
    tree = _tree(program)
    return not isinstance(tree, SyntaxError) and any(entry in bound(node) for node in tree.body)


def plain_lines(text: str) -> str:
    """A text with plain line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


# ---------------------------------------------------------------- a function begun in the prompt


def _continued(text: str, entry: str, head: str) -> Code | None:
    """The body that continues `head`, and the definitions after it that it needs; None where no body follows."""
    first = re.search(r"\S", text)
    if first is None:
        return None
    if not (head + text[: first.start()]).rpartition("\n")[2]:
        return None  # it begins anew instead of going on
    start = text.rfind("\n", 0, first.start()) + 1
    leaving = [at for at in _dedented(text) if at > first.start()]
    for end in [*leaving, len(text)]:
        if parses(_joined(head, text[:end])):
            kept = _with_needed(head, text, end, leaving)
            return _made(text, start, kept, "continued", head)
    region = text[: leaving[0]] if leaving else text
    mended = _mended(region, head)
    if mended is None:
        return _made(text, start, len(region), "continued", head)
    if not region[:mended].strip():
        return _made(text, start, len(region), "continued", head) if _faulty(region, head) else None
    return _made(text, start, mended, "continued, cut", head)


def _dedented(text: str) -> list[int]:
    """Where lines begin that leave an indented body; a comment in the first column leaves it where code does after."""
    out: list[int] = []
    comments: list[int] = []
    for match in re.finditer(r"^[^\n]*$", text, re.MULTILINE):
        line = match[0].rstrip()
        if not line.strip() or match.start() == 0:
            continue
        if line[0] == "#":
            comments.append(match.start())
        else:
            out += [*comments, match.start()] if line[0] not in " \t" else []
            comments = []
    return out + comments


def _with_needed(head: str, text: str, end: int, leaving: Sequence[int]) -> int:
    """Where the body ends when the definitions right after it that it uses are taken along."""
    for later in [at for at in [*leaving, len(text)] if at > end]:
        tree = _tree(_joined(head, text[:later]))
        if isinstance(tree, SyntaxError):
            continue
        if not isinstance(tree.body[-1], (*_DEFINITIONS, ast.Import, ast.ImportFrom)):
            break
        before = _tree(_joined(head, text[:end]))
        if isinstance(before, SyntaxError) or not bound(tree.body[-1]) & _used(before) - _bound_by(before):
            break
        end = later
    return end


def _joined(head: str, body: str) -> str:
    """Head and body as one program; a body in tabs follows a head in spaces."""
    program = head + plain_lines(body)
    if "\t" in body and not parses(program) and parses(spaced := head + plain_lines(body).expandtabs(4)):
        return spaced
    return program


# ---------------------------------------------------------------- a whole program


def _whole(text: str, entry: str, opened: bool) -> Code | None:
    blocks = list(_blocks(text, opened))
    found = [code for code in (_block(text, *block, entry) for block in blocks) if code is not None]
    bare = None if opened else _bare(text, entry)
    named = [code for code in found if defines(code.program, entry)]
    broken = [c for c in found if _names(c.program, entry)]
    if not named and bare is not None and defines(bare.program, entry) and not any(parses(c.program) for c in broken):
        return bare  # a fence in a docstring is no end, nor is what follows the function in a fence
    if named := named or broken:
        chosen = named[0]
        for other in named[1:]:
            if _RETRACTED.search(text[chosen.end : other.start]):
                chosen = other
        return chosen
    if bare is not None and _names(bare.program, entry):
        return bare
    return next((c for c in found if _CODE.search(c.program)), None) or bare or (found[0] if opened and found else None)


def _blocks(text: str, opened: bool) -> Iterator[tuple[int, int, str]]:
    """(start, end, how) of the insides of fences; the last may be unclosed."""
    start, mark = (0, "```") if opened else (-1, "")
    for match in _FENCE.finditer(text):
        if start < 0:
            start, mark = min(match.end() + 1, len(text)), match[1]
        elif match[1].startswith(mark[0]) and len(match[1]) >= len(mark) and not match[2]:
            yield start, match.start(), "fence"
            start = -1
        elif match[2] and not text[start : match.start()].strip():
            start, mark = min(match.end() + 1, len(text)), match[1]  # opened again right after the prompt's own
    if start >= 0:
        yield start, len(text), "open fence"


def _block(text: str, start: int, end: int, how: str, entry: str) -> Code | None:
    inside = text[start:end]
    if not inside.strip():
        return None
    stripped = start + len(inside) - len(inside.lstrip())
    begin = text.rfind("\n", start, stripped) + 1
    begin = stripped if begin <= start else begin
    if not _CODE.search(inside) and not parses(_dedent(text[begin:end])):
        return None
    return _ended(text, begin, end, how, entry)


def _bare(text: str, entry: str) -> Code | None:
    """A program among prose: from the first line on that begins one which defines `entry`, or else any function."""
    inline = re.search(rf"(?:async[ \t]+)?\bdef[ \t]+{re.escape(entry)}[ \t]*\(", text)
    starts = [m.start() + len(m[0]) - len(m[0].lstrip(" \t")) for m in _STARTS.finditer(text)]
    if inline and inline.start() not in starts:
        starts.append(inline.start())
    best: Code | None = None
    for start in sorted(starts):
        if best is not None and best.start < start < best.end and parses(best.program):
            continue  # a method is not torn out of its class
        line = text.rfind("\n", 0, start) + 1
        begin = line if line and not text[line:start].strip() else start  # a first line may have lost its indent
        code = _ended(text, begin, len(text), "bare", entry)
        if code is None or (not _CODE.search(code.program) and not defines(code.program, entry)):
            continue
        if defines(code.program, entry):
            return code
        better = best is None or (_names(code.program, entry) and not _names(best.program, entry))
        best = code if better else best
    return best


def _ended(text: str, start: int, end: int, how: str, entry: str) -> Code | None:
    """The program that begins at `start`, up to where it stops being one: prose, trials, an unfinished statement."""
    region = text[start:end]
    program = _dedent(region)
    ends = [end]
    if how == "bare":
        ends = [*reversed([start + at for at in _dedented(region)]), end]
        ends = [end, *ends[:-1]]
    for stop in ends:
        tree = _tree(_dedent(text[start:stop]))
        if isinstance(tree, SyntaxError) or not tree.body:
            continue
        if how == "bare" and not any(isinstance(n, _DEFINITIONS) or entry in bound(n) for n in tree.body):
            continue
        if stop != end and _cuts_entry(text[stop:end], entry):
            break
        kept = _without_trials(tree, entry)
        return _made(text, start, start + _offset(region, kept.end_lineno or 1), how)
    stop = next((start + at for at in _dedented(region) if _is_prose(region[at:])), end) if how == "bare" else end
    mended = None if how == "fence" else _mended(text[start:stop], "")
    if mended is not None and text[start : start + mended].strip():
        return _made(text, start, start + mended, f"{how}, cut")
    if mended is not None and not _faulty(text[start:stop], ""):
        return None
    return _made(text, start, stop, how) if _names(program, entry) or how != "bare" else None


def _without_trials(tree: ast.Module, entry: str) -> ast.stmt:
    """The last statement that is more than a trial of what was defined."""
    kept = list(tree.body)
    while len(kept) > 1 and not any(entry in bound(n) for n in kept[-1:]) and _is_trial(kept[-1]):
        kept.pop()
    return kept[-1]


def _is_trial(node: ast.stmt) -> bool:
    return isinstance(node, _TRYING) or (isinstance(node, ast.If) and "__name__" in ast.dump(node.test))


def _cuts_entry(rest: str, entry: str) -> bool:
    return bool(re.search(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(entry)}\b", rest, re.MULTILINE))


def _is_prose(rest: str) -> bool:
    """Whether a line in the first column is words rather than code."""
    line = rest.partition("\n")[0]
    return not parses(line) and bool(re.match(r"[A-Z*\-\d][\w'*]*[ ,.:]", line))


# ---------------------------------------------------------------- ends of programs


def _mended(region: str, head: str) -> int | None:
    """How many characters of `region` remain when the unfinished statement at its end is left off; None where the
    fault lies elsewhere. May be 0: nothing remains."""
    lines = region.split("\n")
    offset = head.count("\n")
    while lines:
        while lines and not lines[-1].strip():
            lines.pop()
        if not lines:
            return 0
        joined = "\n".join(lines)
        error = _tree(_joined(head, joined) if head else _dedent(joined))
        if not isinstance(error, SyntaxError):
            return len(joined)
        at = (error.lineno or 1) - offset  # 1 for the region's first line
        open_ended = re.search(r"never closed|unterminated|unexpected EOF|EOF while", str(error.msg))
        empty = "expected an indented block" in str(error.msg) or "expected 'except' or 'finally'" in str(error.msg)
        if open_ended and 1 <= at <= len(lines):
            lines = lines[: at - 1]
        elif at >= len(lines) or (empty and at >= len(lines) - 1):
            lines = lines[:-1]
        else:
            return None
    return 0


def _faulty(region: str, head: str) -> bool:
    """Whether a function of which no statement remains has a fault of its own: one that lies before the text's end, in
    the body of a signature that stands. What the length limit cut is good up to where it ends, within a line."""
    program = (_joined(head, region) if head else _dedent(region)).rstrip()
    error = _tree(program)
    if not isinstance(error, SyntaxError) or re.search(
        r"never closed|unterminated|EOF|expected an ind", str(error.msg)
    ):
        return False
    lines = program.split("\n")
    at, end = error.lineno or 1, error.end_offset or error.offset or 0
    begun = "\n".join(lines[: at - 1])
    ends = at >= len(lines) and end > len(lines[-1]) and not region.endswith("\n")
    own = at > head.count("\n") + (not head.endswith("\n"))  # not on the line that the head ends with
    words = _is_prose(lines[at - 1].strip()) if own else True
    return not (ends or words) and bool(begun.strip()) and parses(begun + "\n    pass\n")


def _made(text: str, start: int, end: int, how: str, head: str = "") -> Code | None:
    end = start + len(text[start:end].rstrip())
    if end <= start:
        return None
    program = _joined(head, text[:end]) if head else _dedent(text[start:end])
    code = Code(program if program.endswith("\n") else program + "\n", start, end, how)
    if head or text[start:end] == text[start:end].lstrip():
        return code
    skipped = len(text[start:end]) - len(text[start:end].lstrip())
    return replace(code, start=start + skipped)


def _offset(region: str, line: int) -> int:
    """Where line number `line` (from 1) of a region ends."""
    at = 0
    for _ in range(line):
        found = region.find("\n", at)
        if found < 0:
            return len(region)
        at = found + 1
    return at - 1


def _dedent(text: str) -> str:
    """Plain line ends, and the first line's indentation taken off every line that has it."""
    lines = plain_lines(text).split("\n")
    first = next((line for line in lines if line.strip()), "")
    margin = first[: len(first) - len(first.lstrip())]
    return "\n".join(line.removeprefix(margin) for line in lines) if margin else "\n".join(lines)


def _tree(program: str) -> ast.Module | SyntaxError:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(program)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL characters, brackets nested too deeply
        return SyntaxError(str(error), ("", 1, 0, ""))


def _names(program: str, entry: str) -> bool:
    return bool(re.search(rf"\b(?:def|class)[ \t]+{re.escape(entry)}\b", program)) or defines(program, entry)


def bound(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds."""
    if isinstance(node, _DEFINITIONS):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _bound_by(tree: ast.Module) -> set[str]:
    return {name for node in tree.body for name in bound(node)}


def _used(tree: ast.Module) -> set[str]:
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
