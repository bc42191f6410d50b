# ruff: noqa: E501 - programs, some on one line
"""Hostile programs that speak to the tests in the sandbox's own words, made by hand; graded as those of tests/hostile.py."""

from __future__ import annotations

_RAW = "import ctypes, os, struct, json, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_TALK = (
    _RAW
    + """
def say(message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    data = struct.pack("<I", len(data)) + data
    while data: data = data[os.write(3, data):]
def hear():
    size = struct.unpack("<I", os.read(3, 4))[0]
    data = b""
    while len(data) < size: data += os.read(3, size - len(data))
    return json.loads(data)
def error(**fields):
    known = {"mro": ["t", "ValueError"], "class": None, "args": ["t"], "text": "", "errno": None, "trace": "", "outside": False}
    return ["error", list((known | fields).values()), []]
def f(x): pass
def answer_all(reply):
    say(["loaded"])
    while True:
        say(["ok", ["t", ["h", 0, "function", "ct", None]], []] if hear()[1] == "global" else reply())
"""
)


def answering(reply: str, at_once: bool = False) -> str:
    """A program that answers each request but the look-up of a name with this expression; or fails with it at once."""
    if at_once:
        return _TALK + f"say(['failed', ({reply})[1]])\ntime.sleep(9)"
    return _TALK + f"answer_all(lambda: {reply})"


def _found(value: str) -> str:
    """A program whose `f` is this node."""
    return _TALK + f"say(['loaded'])\nhear()\nsay(['ok', ['t', {value}], []])\ntime.sleep(0.1)"


def _asking(requests: str) -> str:
    """A program that has requests of its own when it is called."""
    return _TALK + f"def reply():\n    {requests}\n    return ['ok', 1, []]\nanswer_all(reply)"


_ERRORS = {
    "StopIteration as a class": "error(**{'class': ['g', 'builtins', 'StopIteration']})",
    "SystemExit as a class": "error(**{'class': ['g', 'builtins', 'SystemExit']})",
    "handle as text": "error(text=['h', 9, 'x', 'e', None])",
    "handle as trace": "error(trace=['h', 9, 'x', 'e', None])",
    "handle as names": "error(mro=['h', 9, 'x', 'ein', None])",
    "handle as arguments": "error(args=['t', ['h', 9, 'x', 'el', None]])",
    "number as names": "error(mro=5)",
    "list as number": "error(errno=['l', 0, None, []])",
    "group": "error(mro=['t', 'BaseExceptionGroup'])",
    "class with NUL": "error(**{'class': ['h', 3, 'x', '', ['a\\0b', 'Exception']]})",
    "class without names": "error(**{'class': ['h', 3, 'x', '', []]})",
    "surrogates": "error(text='\\ud800', mro=['t', '\\ud800'])",
}  # fmt: skip
_REPLIES = {
    "deep JSON": "b'[' * 10 ** 6",
    "deep node": "b'[\"ok\",' + b'[\"t\",' * 900 + b'1' + b']' * 900 + b',[]]'",
    "Fraction bomb": "['ok', ['F', '1e99999999', None], []]",
    "Decimal of a list": "['ok', ['D', [0, [4, 1], 'F']], []]",
    "set bomb": "['ok', ['S', 0, None, [['i', hex(i * (2 ** 61 - 1))] for i in range(20000)]], []]",
    "millions of lists": "b'[\"ok\",[\"t\"' + b',[]' * 5000000 + b'],[]]'",
    "other's object": "['ok', ['H', 0], []]",
    "negative object": "['ok', ['H', -1], []]",
    "module": "['ok', ['m', 'sys'], []]",
    "module of none": "['ok', ['m', 'unittest'], []]",
    "eval": "['ok', ['g', 'builtins', 'eval'], []]",
    "import": "['ok', ['g', 'builtins', '__import__'], []]",
    "module of a module": "['ok', ['g', 'statistics', 'sys'], []]",
    "contents of nothing": "['ok', 41923, [['l', 0, None, []]]]",
    "not decided": "['unsupported', 'x' * 100000, []]",
    "not decided by a handle": "['unsupported', ['h', 0, 'x', 'e', None], []]",
    "pass": "['pass', True, []]",
    "kind that is a list": "[[], 1, []]",
    "handle of every letter": "['ok', ['h', 5, '__class__', 'cnilgteo' * 2, None], []]",
    "handle of no letter": "['ok', ['h', 5, 'None', 'zzzz', None], []]",
    "NaN": "b'[\"ok\",NaN,[]]'",
    "many digits": "b'[\"ok\",' + b'9' * 100000 + b',[]]'",
    "other encoding": "'[\"ok\",1,[]]'.encode('utf-16')",
}
_REQUESTS = {
    "for globals": "for op in ('get', 'call', 'str', 'iter', 'global'): say(['?', op, [['H', 0], '__globals__']]); hear()",
    "for a call of its own": "say(['?', 'call', [['g', 'builtins', 'print'], ['t', 'x'], ['t']]]); hear()",
    "without parts": "for parts in ([], [[]], {}, 5, None): say(['?', 'call', parts]); hear()",
    "without a name": "say(['?', {}, [1]]); hear(); say(['?', [], []]); hear()",
}

TALK: dict[str, str] = {
    **{f"error: {name}": answering(reply) for name, reply in _ERRORS.items()},
    **{f"error at once: {name}": answering(reply, at_once=True) for name, reply in list(_ERRORS.items())[:8]},
    **{f"reply: {name}": answering(reply) for name, reply in _REPLIES.items()},
    **{f"request: {name}": _asking(text) for name, text in _REQUESTS.items()},
    **{f"f is {name}": _found(f"['g', {name!r}.split('.')[0], {name!r}.split('.')[1]]")
       for name in ("builtins.exec", "builtins.breakpoint", "builtins.print", "builtins.type", "types.FunctionType")},
    "f is a number": _found("41923"),
    "no greeting": _TALK + "say(['failed'])\ntime.sleep(0.1)",
    "a number for a message": _TALK + "say(5)\ntime.sleep(0.1)",
    "a message without an end": _TALK + "os.write(3, b'\\xff\\xff\\xff\\xff')\ntime.sleep(0.1)",
    "closes one half": _RAW + "import socket\ndef f(x): socket.socket(fileno=3).shutdown(socket.SHUT_RD); return 1",
    "closes the other half": _RAW + "import socket\ndef f(x): socket.socket(fileno=3).shutdown(socket.SHUT_WR); return 1",
    "out of band": _RAW + "for fd in (1, 2, 3):\n    for _ in range(5): libc.send(fd, b'x', 1, 1)\ndef f(x): return 0",
    "out of band and waits": _RAW + "for fd in (1, 2): libc.send(fd, b'x', 1, 1)\ndef f(x): time.sleep(0.2); return 0",
    "a thread forges replies": _TALK + "import threading\ndef w():\n    while True:\n        try: say(['ok', True, []])\n        except OSError: time.sleep(9)\nthreading.Thread(target=w, daemon=True).start()\ndef f(x): time.sleep(0.1); return 0",
    "blames the fence": "import os\nos.write(2, b'fence: OSError: no\\n')\nos._exit(71)",
    "blames the fence later": "import os\ndef f(x): os.write(2, b'fence: x'); os._exit(72)",
    "writes through the frames": "import sys\nframe = sys._getframe()\nwhile frame:\n    peer = frame.f_locals.get('peer')\n    if peer is not None:\n        for _ in range(50): peer.send(['ok', True, []])\n    frame = frame.f_back\ndef f(x): return 0",
    "rewrites the code around it": "import gc, types\nfor o in gc.get_objects():\n    if isinstance(o, types.FunctionType) and o.__name__ in ('node', 'send', 'describe', 'serve', 'do'): o.__code__ = (lambda *a, **k: ['ok', True, []]).__code__\ndef f(x): return 0",
}  # fmt: skip
