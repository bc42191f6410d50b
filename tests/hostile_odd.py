# ruff: noqa: E501 - programs, some on one line
"""Hostile programs that turn Python's own means against their tests, or take what they can; graded as those of tests/hostile.py."""

from __future__ import annotations

_RAW = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"

TRICKS: dict[str, str] = {
    "str that lies": "class S(str):\n    def __eq__(s, o): return True\n    def __hash__(s): return 1\n    def __str__(s): return s\n    def __repr__(s): return s\ndef f(x): return S('x')",
    "float that lies": "class F(float):\n    def __eq__(s, o): return True\n    def __sub__(s, o): return 0.0\n    def __pos__(s): return 41923.0\n    def __float__(s): return 41923.0\ndef f(x): return F(1)",
    "dict that lies": "class D(dict):\n    def __eq__(s, o): return True\n    def items(s): return iter([])\n    def keys(s): return [3, 71933]\ndef f(x): return D()",
    "tuple that lies": "class T(tuple):\n    def __eq__(s, o): return True\n    def __iter__(s): return iter([3, 71933])\n    def __getitem__(s, i): return 3\ndef f(x): return T((1, 2))",
    "complex that lies": "class C(complex):\n    def __eq__(s, o): return True\ndef f(x): return C(1, 1)",
    "Decimal that lies": "from decimal import Decimal\nclass C(Decimal):\n    def __eq__(s, o): return True\n    def __str__(s): return '41923'\ndef f(x): return C(1)",
    "Fraction that lies": "from fractions import Fraction\nclass C(Fraction):\n    def __eq__(s, o): return True\ndef f(x): return C(1)",
    "signalling NaN": "from decimal import Decimal\ndef f(x): return Decimal('sNaN')",
    "minus zero and infinity": "def f(x): return [-0.0, float('inf'), complex('nan')]",
    "mock ANY": "from unittest.mock import ANY, MagicMock\ndef f(x): return ANY",
    "magic mock": "import unittest.mock as m\ndef f(x):\n    k = m.MagicMock(); k.__eq__ = lambda s, o: True; return k",
    "magic mock as f": "import unittest.mock as m\nf = m.MagicMock(return_value=m.ANY)",
    "module that is f": "import sys, types\nclass M(types.ModuleType):\n    def __call__(s, x): return s\n    def __eq__(s, o): return True\nf = M('f')",
    "module getattr": "import sys\ndef __getattr__(name): return lambda *a: 41923\ndef f(x): return 0",
    "sys.modules replaced": """
import sys
class E:
    def __getattr__(s, n): return s
    def __call__(s, *a, **k): return s
    def __eq__(s, o): return True
for n in list(sys.modules): sys.modules[n] = E()
def f(x): return E()
""",
    "sys.modules emptied": "import sys\nsys.modules.clear()\ndef f(x): return 1",
    "import hook": "import sys\nclass H:\n    def find_spec(s, n, p=None, t=None): raise SystemExit(0)\nsys.meta_path.insert(0, H())\nimport nothing",
    "patched import": "import builtins\nbuiltins.__import__ = lambda *a, **k: 1 / 0\ndef f(x): return 0",
    "builtins deleted": "import builtins\nfor n in dir(builtins):\n    if n not in ('delattr', 'builtins'): delattr(builtins, n)\ndef f(x): return 0",
    "globals replaced": "globals().clear()\n__builtins__ = {}\ndef f(x): return 0",
    "type slots by ctypes": "import ctypes\nclass I(int): pass\ndef f(x):\n    v = 5\n    ctypes.c_uint32.from_address(id(v) + 24).value = 41923\n    return 5",
    "true by ctypes": "import ctypes\nctypes.c_uint32.from_address(id(True) + 24).value = 0\ndef f(x): return True",
    "exception that lies": "class E(Exception):\n    def __str__(s): raise SystemExit\n    args = property(lambda s: 1 / 0)\n    errno = property(lambda s: 1 / 0)\ndef f(x): raise E",
    "exception with hostile errno": "class E(Exception):\n    @property\n    def errno(s): import os; os._exit(0)\ndef f(x): raise E",
    "exception with hostile args": "class A:\n    def __bool__(s): return True\n    def __str__(s): return 'pass'\nclass E(AssertionError): pass\ndef f(x): raise E(A(), A())",
    "exception in a metaclass": "class M(type):\n    def mro(c): return [c, Exception, BaseException, object]\n    def __subclasscheck__(c, o): return True\n    __module__ = property(lambda c: 1 / 0)\nclass E(Exception, metaclass=M): pass\ndef f(x): raise E",
    "cause loop": "def f(x):\n    a, b = ValueError(), ValueError()\n    a.__cause__, b.__cause__ = b, a\n    a.__context__, b.__context__ = b, a\n    raise a",
    "exception group": "def f(x): raise BaseExceptionGroup('x', [SystemExit(0), KeyboardInterrupt()])",
    "assert at import": "assert False",
    "warning as error": "import warnings\nwarnings.simplefilter('error')\ndef f(x): warnings.warn('x')",
    "asynchronous generator": "async def f(x): yield 41923",
    "context": "class C:\n    def __enter__(s): return 41923\n    def __exit__(s, *a): return True\ndef f(x): return C()",
    "getattr that answers all": "class A:\n    def __getattr__(s, n): return A()\n    def __call__(s, *a): return A()\n    def __eq__(s, o): return True\n    def __iter__(s): return iter([A()])\nf = A()",
    "descriptor f": "class D:\n    def __get__(s, *a): return 41923\n    def __call__(s, x): return s\nf = D()",
    "f is a class": "class f:\n    def __new__(c, x): return super().__new__(c)\n    def __eq__(s, o): return True\n    def __lt__(s, o): return True\n    def __iter__(s): return iter((3, 71933, 4))",
    "f changes itself": "def f(x):\n    global f\n    f = lambda x: 86243\n    return 0",
    "f is nobody": "del_me = 1\nf = None",
    "f is the text": "f = 'assert'",
    "iterator without end": "import itertools\ndef f(x): return itertools.count(41924)",
    "hostile iter": "class I:\n    def __iter__(s): return s\n    def __next__(s): import os; os._exit(0)\ndef f(x): return I()",
    "hostile repr": "class R:\n    def __repr__(s):\n        while True: pass\n    __str__ = __repr__\n    def __eq__(s, o): return NotImplemented\ndef f(x): return R()",
    "hostile reduce": "class R:\n    def __reduce__(s): import os; return os.system, ('touch /tmp/gnomon-hostile',)\ndef f(x): return R()",
    "hostile index": "class R:\n    def __index__(s): return 41923\n    def __len__(s): return 41923\n    def __hash__(s): return 41923\ndef f(x): return R()",
    "hostile bool": "class B:\n    def __eq__(s, o): return s\n    def __bool__(s): return True\ndef f(x): return B()",
    "hostile len": "class L(list):\n    def __len__(s): return -1\n    def __getitem__(s, i): raise SystemExit(0)\ndef f(x): return L([1])",
    "key that lies": "class K:\n    def __eq__(s, o): return True\n    def __hash__(s): return hash(3)\ndef f(x): return {K(): 1}",
    "dictionary cycle": "def f(x):\n    d = {}\n    d['a'] = d, [d], {1: d}\n    return d",
    "default factory": "from collections import defaultdict\ndef f(x): return defaultdict(lambda: 41923)",
    "counter": "from collections import Counter\ndef f(x): return Counter({41923: 10 ** 9})",
    "memory view": "def f(x): return memoryview(b'41923')",
    "weak reference": "import weakref\nclass A: pass\na = A()\ndef f(x): return weakref.proxy(a)",
    "generator that throws": "def f(x):\n    try: yield 3\n    finally: raise SystemExit(0)",
}  # fmt: skip
"""Values, names and hooks that lie."""

APPETITES: dict[str, str] = {
    "output after the deadline": "import os, threading, time\ndef w():\n    while True: os.write(1, b'x'); time.sleep(0.001)\nthreading.Thread(target=w, daemon=True).start()\ndef f(x):\n    while True: pass",
    "closes standard output": "import sys, os\nsys.stdout.close(); sys.stderr.close(); os.close(1); os.close(2)\ndef f(x): print(x); return 0",
    "invalid output": "import os\nos.write(1, b'\\xff\\xfe\\0' * 100); os.write(2, b'\\xed\\xa0\\x80\\0\\xff' * 400)\ndef f(x): return 0",
    "long line of stderr": "import sys\nsys.stderr.write('\\u20ac' * 20000)\ndef f(x): return 0",
    "escape codes": "import sys\nsys.stderr.write('\\x1b[2J\\x1b]0;x\\x07\\r\\n' * 99)\ndef f(x): raise ValueError('\\x1b[31m\\r\\npass')",
    "power": "def f(x): return pow(3, 10 ** 9)",
    "itertools in C": "import itertools\ndef f(x):\n    for _ in itertools.repeat(0): pass",
    "zip bomb": "import zlib\ndef f(x):\n    d = zlib.compress(bytes(10 ** 7))\n    return zlib.decompress(d) * 10 ** 4",
    "text join bomb": "def f(x): return ','.join(['a' * 10 ** 6] * 10 ** 6)",
    "format bomb": "def f(x): return '%0999999999d' % 1",
    "json depth": "import json\ndef f(x): return json.loads('[' * 10 ** 5 + ']' * 10 ** 5)",
    "ast depth": "def f(x): return eval('-' * 10 ** 5 + '1')",
    "compile bomb": "def f(x): return compile('((' * 90 + '1' + ',) * 9**9)' * 90, 'x', 'eval')",
    "raw thread with own files": _RAW + "buf = ctypes.create_string_buffer(65536)\nC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)\npause = ctypes.cast(libc.pause, ctypes.c_void_p)\ndef f(x):\n    return 0 * libc.clone(pause, ctypes.c_void_p(ctypes.addressof(buf) + 65000), 0x10900, None)",
    "rearms alarms": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: None)\nsignal.setitimer(signal.ITIMER_REAL, 1e-5, 1e-5)\nimport time\ndef f(x):\n    while True: time.sleep(1)",
    "socket pairs full": """
import socket
kept = []
def f(x):
    while True:
        a, b = socket.socketpair(); a.setblocking(False); kept.append((a, b))
        try:
            while True: a.send(bytes(65536))
        except OSError: pass
""",
    "SIGTERM itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGTERM)",
    "real time signal": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGRTMIN)",
    "SIGXCPU itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGXCPU)",
    "SIGSYS itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSYS)",
    "stack in C": "import ctypes\ndef f(x):\n    C = ctypes.CFUNCTYPE(ctypes.c_int)\n    def g(): return c()\n    c = C(g)\n    return c()",
}  # fmt: skip
"""Programs that take time, memory, output or signals."""

TEXTS: dict[str, str] = {
    "byte order mark": "\ufeffdef f(x): return 1",
    "form feeds": "\f\ndef f(x):\n\f    return 1\n\f",
    "CR only": "def f(x):\r    return 1\r",
    "mixed ends": "def f(x):\r\n    return 1\n\r\n\r",
    "coding utf-16": "# coding: utf-16\ndef f(x): return 1",
    "coding rot13": "# coding: rot13\nqrs s(k): erghea 41923",
    "tabs and blanks": "def f(x):\n	if x:\n        return 1\n	return 2",
    "control-Z": "def f(x): return 1\n\x1a\n",
    "bidirectional": "def f(x):\n    '''\u202e''' ; return 1 #\u2066",
    "homoglyph": "def \u0192(x): return 1",
    "main only": "if __name__ == '__main__':\n    def f(x): return 41923",
    "name main": "__name__ = '__main__'\ndef f(x): return 0",
    "future barry": "from __future__ import barry_as_FLUFL\ndef f(x): return 1 <> 2",
    "nested functions": "\n".join("    " * i + f"def g{i}():" for i in range(95)) + "\n" + "    " * 95 + "pass",
    "asserts redefined": "def assertEqual(*a): return True\nAssertionError = SystemExit\n__debug__x = False\ndef f(x): return 0",
    "optimise": "import sys\nsys.flags\ndef f(x): return 0 if __debug__ else 41923",
    "exit name": "exit()",
    "quit in f": "def f(x): quit()",
}  # fmt: skip
"""Sources that are no plain text."""

ODD: dict[str, str] = TRICKS | APPETITES | TEXTS
