"""What runs in the tests' process: setup and tests, in a namespace whose unknown names are the candidate's globals.

Only this process can say "pass", and only when the last test has been reached.
"""

from __future__ import annotations

import ast
import builtins
import errno
import importlib
import linecache
import sys
import types
from collections.abc import Sequence
from typing import Any

from gnomon.tasks.fence.codec import Garbled, Unsupported
from gnomon.tasks.fence.decode import Decoder
from gnomon.tasks.fence.handles import Handle
from gnomon.tasks.fence.peer import Gone, Peer
from gnomon.tasks.fence.raised import lasting, nearest_exception, read
from gnomon.tasks.fence.shared import SHARED

MODULE = "__tests__"
ORIGIN = "_gnomon_origin"
"""The attribute of an exception that tells it came from the candidate."""


class TesterPeer(Peer):
    """The tests' end: the candidate may use what it was given, and see nothing behind it."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.broken: BaseException | None = None
        self.asked = False
        self.callback_unsupported = ""

    def ask(self, op: str, *parts: Any) -> Any:
        """As any peer; what makes the talk worthless is remembered, for a test could swallow it."""
        self.asked = True
        if isinstance(self.broken, Gone | Garbled):
            raise self.broken
        try:
            return super().ask(op, *parts)
        except (Gone, Garbled, Unsupported) as error:
            self.broken = error
            raise

    def do(self, op: Any, parts: list[Any]) -> Any:
        """Calls, items and iteration of what the tests passed; public attributes of the tests' own objects only."""
        if op in ("get", "set", "delete"):
            target, name = parts[0], parts[1]
            if type(target).__module__ != MODULE or type(name) is not str or name.startswith("_"):
                raise AttributeError(f"no attribute {str(name)[:80]!r} of what the tests passed")
        if not any(parts[0] is one for one in self.table):
            raise Garbled("a request about nothing")
        try:
            return super().do(op, parts)
        except Unsupported as error:
            self.callback_unsupported = str(error)
            raise

    def module(self, name: Any) -> Any:
        """A standard module that the candidate has imported: the tests get their own."""
        if name in SHARED or (type(name) is str and name in sys.stdlib_module_names and name in sys.modules):
            return importlib.import_module(name)
        raise Unsupported(f"the module {str(name)[:80]} as a value")

    def raise_error(self, info: dict[str, Any]) -> None:
        """Raise the candidate's error as the builtin of that name, or as its own class where it has one."""
        raise rebuilt(info)


def rebuilt(info: dict[Any, Any]) -> BaseException:
    """An exception of the candidate as a local one, marked as coming from there."""
    own = info["class"]
    known = isinstance(own, type) and issubclass(own, BaseException)
    kind = lasting(own) if known else nearest_exception(list(info["mro"]))
    try:
        error = kind(*info["args"])
    except Exception:
        error = Exception.__new__(Exception) if issubclass(kind, BaseExceptionGroup) else kind.__new__(kind)
        error.args = (info["text"],)
    info["name"] = info["mro"][0] if info["mro"] else "Exception"
    setattr(error, ORIGIN, info)
    return error


class Namespace(dict[str, Any]):
    """The tests' globals: what they do not define is the candidate's, but never a builtin unless it is tested."""

    def __init__(self, peer: TesterPeer, candidates: set[str], bases: set[str]) -> None:
        super().__init__(__name__=MODULE, __builtins__=builtins)
        self.peer, self.candidates, self.bases = peer, candidates, bases

    def __missing__(self, name: str) -> Any:
        if name not in self.candidates and hasattr(builtins, name):
            raise KeyError(name)
        found = self.peer.ask("global", name)
        if type(found) is not tuple or len(found) != 1:
            raise KeyError(name)
        value = found[0]
        if name in self.bases and not isinstance(value, types.ModuleType):
            raise KeyError(name)  # `math.isclose` of a test is never a candidate's
        return value


def policy(trees: Sequence[ast.AST], entry: str | None) -> tuple[set[str], set[str]]:
    """(builtin names that mean the candidate's own, names that must be standard modules), read from the tests."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    loaded = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    stored |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    stored |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    stored |= {(a.asname or a.name).split(".")[0] for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)
               for a in n.names}  # fmt: skip
    bases = {n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    free = loaded - stored
    modules = {name for name in free & bases - called if name in sys.stdlib_module_names and name != entry}
    if entry is not None:
        return {entry}, modules
    builtin_calls = {name for name in free & called if hasattr(builtins, name)}
    if any(not hasattr(builtins, name) for name in free - modules) or len(builtin_calls) != 1:
        return set(), modules
    return builtin_calls, modules


def run(fd: int, setup: str, tests: Sequence[str], entry: str | None) -> dict[str, str]:
    """Wait for the candidate, run everything, and say what came out: verdict, reason, trace."""
    peer = TesterPeer(fd)
    sources = {"<setup>": setup} | {f"<test {i + 1}>": text for i, text in enumerate(tests)}
    codes, trees = [], []
    for name, text in sources.items():
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        try:
            tree = ast.parse(text.replace("\r\n", "\n"), name)
            trees.append(tree)
            codes.append(compile(tree, name, "exec", dont_inherit=True))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return outcome("infra", f"{name} does not compile: {error}")
    if not any(isinstance(node, ast.Assert | ast.Call | ast.Raise) for tree in trees[1:] for node in ast.walk(tree)):
        return outcome("infra", "there is no test")
    defined = {n.name for tree in trees for n in tree.body if isinstance(n, ast.FunctionDef)}
    if "check" in defined and entry is None and not any(
        isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "check"
        for tree in trees for n in ast.walk(tree)
    ):  # fmt: skip
        return outcome("infra", "the tests define check(candidate), but no entry says what it checks")
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    space = Namespace(peer, *policy(trees, entry))
    try:
        first = peer.receive()
        if first[0] == "failed":
            raise rebuilt(read(first[1] if len(first) == 2 else None, Decoder(peer.adopt).value))
        if first != ["loaded"]:
            raise Garbled("no greeting")
        for code in codes:
            exec(code, space)
        if entry is not None and "check" in defined:
            space["check"](space[entry])
    except BaseException as error:
        return ended(error, peer)
    if peer.broken is not None:
        return ended(peer.broken, peer)
    if not peer.asked and not any(isinstance(n, ast.Assert) for tree in trees[1:] for n in tree.body):
        return outcome("infra", "the tests asked the code nothing: what they define is never called")
    return outcome("pass", "")


def ended(error: BaseException, peer: TesterPeer) -> dict[str, str]:
    """As `failed`, whatever happens in it: a word is always said."""
    try:
        return failed(error, peer)
    except MemoryError:
        return outcome("memory", "MemoryError in the tests")
    except BaseException as again:
        return outcome("fail", f"the tests ended with {type(error).__name__}, then {type(again).__name__}")


def failed(error: BaseException, peer: TesterPeer) -> dict[str, str]:
    """The outcome of tests that did not reach their end."""
    if peer.broken is not None:
        error = peer.broken
    if isinstance(error, Gone):
        return outcome("gone", "the candidate ended before its tests did")
    if isinstance(error, Garbled):
        return outcome("fail", f"the candidate sent what is no answer: {error}")
    if isinstance(error, Unsupported):
        return outcome("unsupported", str(error))
    where = place(error)
    info = vars(error).get(ORIGIN)
    if info is None:
        kind = "memory" if isinstance(error, MemoryError) else "fail"
        if peer.callback_unsupported:
            return outcome("unsupported", peer.callback_unsupported)
        if isinstance(error, ModuleNotFoundError):  # the tests' own import: no statement about the code
            return outcome("unsupported", where + text_of(error))
        return outcome(kind, where + text_of(error))
    trace = info["trace"]
    said = f"{info['name']}: {info['text']}" if info["text"] else str(info["name"])
    names = info["mro"]
    if "MemoryError" in names or info["errno"] == errno.ENOMEM:
        return outcome("memory", where + said, trace)
    denied = "PermissionError" in names and info["errno"] in (errno.EPERM, errno.EACCES)
    if denied or info["errno"] == errno.EROFS:
        return outcome("blocked", where + said, trace)
    if "FileNotFoundError" in names and info["outside"]:  # bubblewrap hides what Landlock denies: one label for both
        return outcome("blocked", where + said, trace)
    if peer.callback_unsupported:
        return outcome("unsupported", peer.callback_unsupported)
    return outcome("fail", where + said, trace)


def text_of(error: BaseException) -> str:
    """The class and the text of an error of the tests' own."""
    try:
        text = "" if any(isinstance(one, Handle) for one in error.args) else str(error)
    except BaseException:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place(error: BaseException) -> str:
    """The first line of the tests that the error passed through: "assert f(1) == 2: "."""
    walk = error.__traceback__
    while walk is not None:
        name = walk.tb_frame.f_code.co_filename
        if name.startswith(("<test ", "<setup>")):
            line = " ".join(linecache.getline(name, walk.tb_lineno).split())[:160]
            return f"{'setup: ' if name == '<setup>' else ''}{line}: "
        walk = walk.tb_next
    return "the code itself: "


def outcome(verdict: str, reason: str, trace: str = "") -> dict[str, str]:
    """What the driver is told."""
    return {"verdict": verdict, "reason": reason[:500], "trace": trace[-2000:]}
