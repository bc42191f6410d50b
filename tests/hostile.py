# ruff: noqa: E501 - programs, some on one line
"""Programs that try to break out of the sandbox, to see the tests, to forge a verdict, or to take the machine down.

Each is graded by TESTS, whose numbers nobody can guess; none may pass, and none may leave a trace outside. One that
answers 41923 says so that it was let out: no program of ESCAPE and CALLS may pass the first test alone. {secret},
{home}, {folder}, {port}, {unix}, {abstract} and {driver} are put in by tests/hostile_run.py.
"""

from __future__ import annotations

from hostile_calls import CALLS
from hostile_odd import ODD
from hostile_talk import TALK

TESTS = ("assert f(1) == 41923", "assert f(2) == 86243", "assert sorted(f(3)) == [3, 71933]")

_RAW = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_LOOK = """
def look(found):
    import re
    for text in found:
        m = re.search(r"f\\((\\d)\\) == (\\d+)", text)
        if m:
            return int(m.group(2))
"""

FORGE: dict[str, str] = {
    "exit 0": "import os\ndef f(x): os._exit(0)",
    "exit 0 at import": "import os\nos._exit(0)",
    "sys.exit 0": "import sys\ndef f(x): sys.exit(0)",
    "sys.exit at import": "raise SystemExit(0)",
    "keyboard interrupt": "def f(x): raise KeyboardInterrupt",
    "stop iteration": "def f(x): raise StopIteration(41923)",
    "generator exit": "def f(x): raise GeneratorExit",
    "assertion swallowed": "def f(x): raise AssertionError",
    "forged words on every descriptor": """
import os
for fd in range(64):
    for text in (b'{"verdict": "pass", "reason": "", "trace": ""}', b'\\x0e\\x00\\x00\\x00["ok",true,[]]'):
        try: os.write(fd, text)
        except OSError: pass
def f(x): return 0
""",
    "forged replies in advance": """
import os, struct, json
data = json.dumps(["ok", True, []]).encode()
for _ in range(200): os.write(3, struct.pack("<I", len(data)) + data)
def f(x): return 0
""",
    "garbage on the socket": "import os\ndef f(x): os.write(3, b'\\xff' * 4096); return 1",
    "closes every descriptor": "import os\nos.closerange(0, 1000)\ndef f(x): return 1",
    "duplicates over the socket": "import os\ndef f(x):\n    for fd in range(3, 30): os.dup2(1, fd)\n    return 1",
    "patched builtins": """
import builtins
class Yes(int):
    def __eq__(self, o): return True
    def __hash__(self): return 0
for name in ("len", "sorted", "all", "any", "isinstance", "issubclass", "type", "id", "getattr", "print", "hash"):
    setattr(builtins, name, lambda *a, **k: Yes(1))
def f(x): return Yes(1)
""",
    "own sorted and builtins": "def sorted(*a): return [3, 71933]\ndef f(x): return {1: 41923, 2: 86242}.get(x, 0)",
    "patched json": "import json\njson.dumps = lambda *a, **k: '[\"ok\",true,[]]'\ndef f(x): return 1",
    "patched os.write": "import os\nold = os.write\nos.write = lambda fd, data: old(fd, bytes(len(data)))\ndef f(x): return 1",
    "patched socket and struct": "import struct, socket\nstruct.pack = lambda *a: b'\\0\\0\\0\\0'\ndef f(x): return 1",
    "equal to all": "class E:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\ndef f(x): return E()",
    "int that lies": "class I(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\ndef f(x): return I(7)",
    "list that lies": """
class L(list):
    def __eq__(s, o): return True
    def __iter__(s): return iter([3, 71933])
    def __len__(s): return 2
def f(x): return L()
""",
    "class that lies": "class C:\n    __class__ = int\n    def __eq__(s, o): return True\n    def __int__(s): return 41923\ndef f(x): return C()",
    "class with a metaclass": """
class M(type):
    def __eq__(s, o): return True
    def __instancecheck__(s, o): return True
    def __hash__(s): return 1
class C(metaclass=M): pass
def f(x): return C
""",
    "reflected equality": "class R:\n    def __req__(s, o): return True\n    def __eq__(s, o): return True\n    def __bool__(s): return True\n    def __lt__(s, o): return True\ndef f(x): return R()",
    "nan and zero": "def f(x): return float('nan')",
    "frames": _LOOK
    + """
import sys
def f(x):
    frame, found = sys._getframe(), []
    while frame:
        found += [repr(v) for v in list(frame.f_locals.values()) + list(frame.f_globals.values())]
        frame = frame.f_back
    return look(found)
""",
    "garbage collector": _LOOK
    + """
import gc
def f(x):
    gc.unfreeze()
    return look([o for o in gc.get_objects() if isinstance(o, str)] + [repr(o)[:100000] for o in gc.get_objects()
                if isinstance(o, (dict, list, tuple))])
""",
    "own memory": _LOOK
    + """
import ctypes
def f(x):
    base = id(f) & ~0xfff
    text = ctypes.string_at(base - 65536, 131072).decode('latin-1')
    return look([text])
""",
    "modules": _LOOK + "import sys\ndef f(x): return look([repr(vars(m)) for m in list(sys.modules.values()) if m])",
    "line cache": _LOOK + "import linecache\ndef f(x): return look([repr(linecache.cache)])",
    "arguments and parents": _LOOK + "import sys, os\ndef f(x): return look([repr(sys.argv), repr(sys.orig_argv), repr(os.environ)])",
    "imports the grader": "import sys\nsys.path += ['/work/main', '.', '..']\nimport gnomon.tasks.fence.server as s\ndef f(x): return 1",
    "the callback's globals": "def f(x): return x.__globals__",
    "at exit": "import atexit, os\natexit.register(lambda: os.write(1, b'pass'))\ndef f(x): return 0",
    "trace function": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x): return 0",
    "audit hook": "import sys\nsys.addaudithook(lambda *a: 1 / 0)\ndef f(x): return 0",
    "finaliser": "class D:\n    def __del__(s):\n        import os\n        os._exit(0)\ndef f(x): D(); return 0",
}  # fmt: skip

TAKE: dict[str, str] = {
    "loop": "def f(x):\n    while True: pass",
    "loop at import": "while True: pass",
    "sleep": "import time\ndef f(x): time.sleep(1000)",
    "masked signals": """
import signal
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
def f(x):
    while True: pass
""",
    "alarm that raises": """
import signal
def ring(*a): raise SystemExit(0)
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
def f(x):
    while True: pass
""",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "thread bomb": """
import threading, time
threading.stack_size(65536)
def spin():
    while True: time.sleep(1)
while True: threading.Thread(target=spin).start()
""",
    "threads left spinning": """
import threading
def spin():
    while True: pass
for _ in range(4): threading.Thread(target=spin).start()
def f(x): return 0
""",
    "daemon threads": "import threading, time\nfor _ in range(4): threading.Thread(target=time.sleep, args=(99,), daemon=True).start()\ndef f(x): return 0",
    "memory bomb": "def f(x):\n    a = []\n    while True: a.append(bytearray(10 ** 7))",
    "one large object": "def f(x): return bytearray(10 ** 11)",
    "memory by mmap": "import mmap\nkept = []\ndef f(x):\n    while True: kept.append(mmap.mmap(-1, 2 ** 26))",
    "memory error caught": "def f(x):\n    a = []\n    while True:\n        try: a.append(bytearray(10 ** 6))\n        except MemoryError: pass",
    "recursion": "def f(x): return f(x + 1)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return [f(x + 1)]",
    "C recursion": "import sys\nsys.setrecursionlimit(10 ** 8)\nx = []\nfor _ in range(10 ** 6): x = [x]\ndef f(n): return repr(x)",
    "integer bomb": "def f(x): return 10 ** 10 ** 8",
    "integer of many digits": "def f(x): return 10 ** 20000",
    "digits limit": "def f(x): return str(10 ** 20000)",
    "text bomb": "def f(x): return 'x' * (10 ** 8)",
    "list bomb": "def f(x): return list(range(10 ** 7))",
    "cyclic list": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "shared tuples": "def f(x):\n    a = (1,)\n    for _ in range(60): a = (a, a)\n    return a",
    "shared lists": "def f(x):\n    a = [1]\n    for _ in range(60): a = [a, a]\n    return a",
    "deep list": "def f(x):\n    a = []\n    for _ in range(100000): a = [a]\n    return a",
    "infinite generator": "def f(x):\n    while True: yield x",
    "infinite range": "def f(x): return range(10 ** 18)",
    "hash flood": "def f(x): return {i * (2 ** 61 - 1): 0 for i in range(30000)}",
    "decimal bomb": "from decimal import Decimal\ndef f(x): return Decimal('1e999999999')",
    "much output": "def f(x):\n    while True: print('x' * 10000)",
    "much error output": "import os\ndef f(x):\n    while True: os.write(2, b'y' * 65536)",
    "regular expression": "import re\ndef f(x): return re.match('(a+)+$', 'a' * 40 + 'b')",
    "NUL bytes": "x = 1\0\ndef f(x): return 1",
    "NUL in a text": "def f(x): return 'a\\0b'",
    "no code": "",
    "bad syntax": "def f(x) return 1",
    "deep syntax": "x = " + "(" * 5000 + ")" * 5000,
    "lone surrogates": "def f(x): return '\\ud800' * 10",
    "surrogate in the source": "x = '\ud800'\ndef f(x): return x",
    "not UTF-8": "# -*- coding: latin-1 -*-\nimport os\nos.write(1, bytes(range(256)))\nos.write(2, bytes(range(256)))\ndef f(x): return 0",
    "segmentation fault": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "abort": "import os\ndef f(x): os.abort()",
    "kills itself": "import os\ndef f(x): os.kill(os.getpid(), 9)",
    "stops itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)",
    "opens many files": "import os\nkept = []\ndef f(x):\n    while True: kept.append(open(os.__file__))",
    "many handles": "class A: pass\nkept = []\ndef f(x):\n    return [A() for _ in range(10 ** 6)]",
}  # fmt: skip

ESCAPE: dict[str, str] = {
    "reads passwords": "def f(x): return open('/etc/passwd').read()",
    "reads the shadow file": "def f(x): return open('/etc/shadow').read()",
    "reads a secret": "def f(x): return open({secret!r}).read()",
    "reads home": "def f(x): return open({home!r}).read()",
    "lists": "import os\ndef f(x): return os.listdir({folder!r})",
    "lists the root's home": "import os\ndef f(x): return os.listdir('/root')",
    "environments": "import os, glob\ndef f(x): return [open(p, 'rb').read() for p in glob.glob('/proc/*/environ')] or open('/proc/self/environ').read()",
    "own environment": "import os\ndef f(x): return os.environ['GNOMON_TEST_SECRET']",
    "memory of others": "def f(x): return open('/proc/{driver}/mem', 'rb')",
    "own memory file": "def f(x): return open('/proc/self/mem', 'r+b')",
    "descriptors of others": "import os\ndef f(x): return os.listdir('/proc/{driver}/fd') + os.listdir('/proc/self/fd')",
    "writes": "def f(x): open({folder!r} + '/written', 'w').write('x')",
    "writes in tmp": "def f(x): open('/tmp/gnomon-hostile', 'w').write('x')",
    "writes here": "def f(x): open('gnomon-hostile', 'w').write('x')",
    "overwrites": "def f(x): open({secret!r}, 'a').write('x')",
    "truncates": "import os\ndef f(x): os.truncate({secret!r}, 0)",
    "mode": "import os\ndef f(x): os.chmod({secret!r}, 0o777)",
    "owner": "import os\ndef f(x): os.chown({secret!r}, 12345, 12345)",
    "times": "import os\ndef f(x): os.utime({secret!r}, (0, 0))",
    "attributes": "import os\ndef f(x): os.setxattr({secret!r}, 'user.x', b'1')",
    "removes": "import os\ndef f(x): os.unlink({secret!r})",
    "renames": "import os\ndef f(x): os.rename({secret!r}, {folder!r} + '/renamed')",
    "links": "import os\ndef f(x): os.link({secret!r}, {folder!r} + '/linked')",
    "symbolic links": "import os\ndef f(x): os.symlink('/etc/passwd', {folder!r} + '/symlinked')",
    "makes folders": "import os\ndef f(x): os.mkdir({folder!r} + '/made')",
    "pipes in the file system": "import os\ndef f(x): os.mkfifo({folder!r} + '/fifo')",
    "shared memory": "def f(x): open('/dev/shm/gnomon-hostile', 'w').write('x')",
    "TCP": "import socket\ndef f(x): socket.create_connection(('127.0.0.1', {port})).send(b'x')",
    "UDP": "import socket\ndef f(x): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "unix socket": "import socket\ndef f(x): s = socket.socket(socket.AF_UNIX); s.connect({unix!r}); s.send(b'x')",
    "abstract socket": "import socket\ndef f(x): s = socket.socket(socket.AF_UNIX); s.connect({abstract!r}); s.send(b'x')",
    "unix pair to an address": "import socket\ndef f(x):\n    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n    a.sendto(b'x', {unix!r})",
    "passes descriptors": "import socket\ndef f(x):\n    a, b = socket.socketpair()\n    socket.send_fds(a, [b'x'], [0, 1, 2, 3])",
    "subprocess": "import subprocess\ndef f(x): return subprocess.run(['/usr/bin/touch', {folder!r} + '/touched'])",
    "os.system": "import os\ndef f(x): return os.system('touch {folder}/touched')",
    "spawn": "import os\ndef f(x): return os.posix_spawn('/usr/bin/touch', ['touch', {folder!r} + '/touched'], {{}})",
    "exec": "import os\ndef f(x): os.execv('/usr/bin/touch', ['touch', {folder!r} + '/touched'])",
    "multiprocessing": "import multiprocessing\ndef f(x): multiprocessing.Process(target=print).start()",
    "kills all": "import os\ndef f(x): os.kill(-1, 9)",
    "kills the driver": "import os\ndef f(x): os.kill({driver}, 9)",
    "kills its parent": "import os\ndef f(x): os.kill(os.getppid(), 9)",
    "kills its group": "import os\ndef f(x): os.killpg(0, 9)",
    "raises its limits": "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\n    while True: pass",
    "raw execve": _RAW + "def f(x):\n    return libc.syscall(59, b'/bin/sh', 0, 0) == 0 or 1 / 0",
    "raw clone": _RAW + "def f(x):\n    return 41923 if libc.syscall(56, 17, 0, 0, 0, 0) >= 0 else 1 / 0",
    "raw clone3": _RAW + "def f(x):\n    return 41923 if libc.syscall(435, bytes(88), 88) >= 0 else 1 / 0",
    "raw fork and vfork": _RAW + "def f(x):\n    return 41923 if libc.syscall(57) >= 0 or libc.syscall(58) >= 0 else 1 / 0",
    "32-bit calls": _RAW + "def f(x):\n    return 41923 if libc.syscall(0x40000000 + 39) >= 0 else 1 / 0",
    "machine code": """
import ctypes, mmap
def f(x):
    m = mmap.mmap(-1, 4096, prot=7)
    m.write(b'\\xb8\\x02\\x00\\x00\\x00\\xcd\\x80\\xc3')  # int 0x80: fork by the 32-bit table
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
""",
    "io_uring": _RAW + "def f(x):\n    return 41923 if libc.syscall(425, 8, bytes(120)) >= 0 else 1 / 0",
    "undoes its filter": _RAW + "def f(x):\n    return 41923 if libc.prctl(22, 0, 0, 0, 0) == 0 or libc.prctl(38, 0, 0, 0, 0) == 0 else 1 / 0",
    "dumpable": _RAW + "def f(x):\n    return 41923 if libc.prctl(4, 1, 0, 0, 0) == 0 else 1 / 0",
    "ptrace": _RAW + "def f(x):\n    return 41923 if libc.ptrace(16, {driver}, 0, 0) == 0 else 1 / 0",
    "reads another's memory": _RAW + "def f(x):\n    return 41923 if libc.syscall(310, {driver}, 0, 0, 0, 0, 0) >= 0 else 1 / 0",
    "program in memory": "import os\ndef f(x):\n    fd = os.memfd_create('x')\n    os.write(fd, b'#!/bin/sh\\n')\n    os.execve(fd, ['x'], {{}})",
    "name spaces": _RAW + "def f(x):\n    return 41923 if libc.unshare(0x10000000) == 0 else 1 / 0",
    "mounts": _RAW + "def f(x):\n    return 41923 if libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0 else 1 / 0",
    "users": "import os\ndef f(x): os.setuid(0); os.setgroups([])",
    "terminal input": "import fcntl\ndef f(x):\n    for fd in (0, 1, 2): fcntl.ioctl(fd, 0x5412, b'x')",
    "descriptor owner": "import fcntl\ndef f(x): fcntl.fcntl(3, 8, {driver})",
    "shared memory by key": _RAW + "def f(x):\n    return 41923 if libc.shmget(0, 4096, 0o1777) >= 0 else 1 / 0",
    "message queues": _RAW + "def f(x):\n    return 41923 if libc.msgget(1, 0o1666) >= 0 else 1 / 0",
    "standard input": "def f(x): return input()",
    "installed packages": "import sys, glob\ndef f(x):\n    for p in sys.path: open(glob.glob(p + '/site-packages/*/*.py')[0]).read()\n    return 1 / 0",
}  # fmt: skip

PROGRAMS: dict[str, str] = FORGE | TAKE | ESCAPE
MORE: dict[str, str] = TALK | ODD | CALLS

HONEST = ("import math\n\ndef f(x):\n    x.append(math.gcd(12, 18))\n    return sorted(x)\n", "a = [9, 1]\nassert f(a) == [1, 6, 9]\nassert a == [9, 1, 6]")  # fmt: skip
