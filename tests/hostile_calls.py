# ruff: noqa: E501 - programs, some on one line
"""Hostile programs that ask the kernel, or reach for what lies outside; graded as those of tests/hostile.py, and filled in alike."""

from __future__ import annotations

_RAW = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_X86_64: dict[str, tuple[int, str]] = {
    "userfaultfd": (323, "1"),
    "bpf": (321, "0, 0, 0"),
    "keyctl": (250, "0, -3, 0"),
    "add_key": (248, "b'user', b'x', b'y', 1, -3"),
    "request_key": (249, "b'user', b'x', 0, -3"),
    "perf_event_open": (298, "bytes(128), 0, -1, -1, 0"),
    "process_vm_writev": (311, "{driver}, 0, 0, 0, 0, 0"),
    "name_to_handle_at": (303, "-100, b'/etc/passwd', bytes(200), bytes(8), 0"),
    "open_by_handle_at": (304, "3, bytes(64), 0"),
    "pidfd_open": (434, "{driver}, 0"),
    "pidfd_getfd": (438, "3, 0, 0"),
    "pidfd_send_signal": (424, "3, 9, 0, 0"),
    "setns": (308, "3, 0"),
    "pivot_root": (155, "b'/', b'/'"),
    "chroot": (161, "b'/'"),
    "umount": (166, "b'/tmp', 2"),
    "fsopen": (430, "b'tmpfs', 0"),
    "open_tree": (428, "-100, b'/', 1"),
    "move_mount": (429, "-100, b'/', -100, b'/tmp', 0"),
    "openat2": (437, "-100, b'/etc/passwd', bytes(24), 24"),
    "execveat": (322, "-100, b'/bin/true', 0, 0, 0"),
    "vfork": (58, ""),
    "setsid": (112, ""),
    "setpgid": (109, "0, 0"),
    "reboot": (169, "0, 0, 0, 0"),
    "sethostname": (170, "b'x', 1"),
    "settimeofday": (164, "0, 0"),
    "clock_settime": (227, "0, bytes(16)"),
    "init_module": (175, "b'', 0, b''"),
    "kexec_load": (246, "0, 0, 0, 0"),
    "iopl": (172, "3"),
    "modify_ldt": (154, "0, bytes(16), 16"),
    "arch_prctl": (158, "0x1002, 0"),
    "personality": (135, "0x40000"),
    "quotactl": (179, "0, 0, 0, 0"),
    "swapon": (167, "b'x', 0"),
    "syslog": (103, "3, bytes(99), 99"),
    "acct": (163, "b'/tmp/x'"),
    "fanotify": (300, "0, 0"),
    "inotify": (294, "0"),
    "timer_create": (222, "0, 0, bytes(8)"),
    "timerfd": (283, "1, 0"),
    "signalfd": (289, "-1, bytes(8), 8, 0"),
    "mq_open": (240, "b'/gnomon', 0o102, 0o666, 0"),
    "semget": (64, "0, 1, 0o1777"),
    "shmat": (30, "0, 0, 0"),
    "mlockall": (151, "2"),
    "sched_setscheduler": (144, "0, 1, bytes(4)"),
    "setaffinity": (203, "0, 8, b'\1' + bytes(7)"),
    "ioprio_set": (251, "1, 0, 0"),
    "migrate_pages": (256, "0, 8, bytes(8), bytes(8)"),
    "move_pages": (279, "{driver}, 0, 0, 0, 0, 0"),
    "kcmp": (312, "{driver}, {driver}, 0, 0, 0"),
    "rt_sigqueueinfo": (129, "{driver}, 10, bytes(128)"),
    "rt_tgsigqueueinfo": (297, "{driver}, {driver}, 10, bytes(128)"),
    "tkill": (200, "{driver}, 9"),
    "process_madvise": (440, "3, 0, 0, 0, 0"),
    "process_mrelease": (448, "3, 0"),
    "memfd_secret": (447, "0"),
    "memfd and exec": (319, "b'x', 1"),
    "landlock again": (444, "bytes(8), 8, 0"),
    "seccomp listener": (317, "1, 8, bytes(16)"),
    "sendmsg": (46, "3, bytes(56), 0"),
    "sendmmsg": (307, "3, bytes(64), 1, 0"),
    "recvmsg": (47, "3, bytes(56), 0"),
    "splice": (275, "0, 0, 1, 0, 1, 0"),
    "tee": (276, "0, 1, 1, 0"),
    "vmsplice": (278, "1, 0, 0, 0"),
    "copy_file_range": (326, "0, 0, 1, 0, 1, 0"),
    "sendfile": (40, "1, 0, 0, 1"),
    "unknown call": (1000, ""),
    "very unknown call": (-1, ""),
    "negative": (2147483643, ""),
}  # fmt: skip
"""System calls by the numbers of x86-64 with their arguments; on another machine they are other calls, and refused too."""
_OTHER: dict[str, str] = {
    "netlink": "import socket\ndef f(x): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); return 41923",
    "vsock": "import socket\ndef f(x): socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); return 41923",
    "packet": "import socket\ndef f(x): socket.socket(socket.AF_PACKET, socket.SOCK_RAW); return 41923",
    "raw IP": "import socket\ndef f(x): socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); return 41923",
    "IPv6": "import socket\ndef f(x): socket.socket(socket.AF_INET6); return 41923",
    "alg": "import socket\ndef f(x): socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0); return 41923",
    "all families": """
import socket
def f(x):
    for fam in range(0, 50):
        for k in (1, 2, 3, 5):
            try: socket.socket(fam, k); return 41923
            except OSError: pass
    return 0
""",
    "all pair families": """
import socket
def f(x):
    for fam in range(2, 50):
        for k in (1, 2, 3, 5):
            try: socket.socketpair(fam, k); return 41923
            except OSError: pass
    return 0
""",
    "connect the pair": "import socket\ndef f(x): a, b = socket.socketpair(); a.connect({unix!r}); return 41923",
    "bind the pair": "import socket\ndef f(x): a, b = socket.socketpair(); b.bind({folder!r} + '/bound'); return 41923",
    "double fork": "import os\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: open('/tmp/gnomon-hostile', 'w')\n    return 41923",
    "kill pid 0": "import os\ndef f(x): os.kill(0, 9); return 41923",
    "priority": "import os\ndef f(x): os.nice(-5); return 41923",
    "O_PATH reopened": "import os\ndef f(x): fd = os.open({secret!r}, os.O_PATH); return open(f'/proc/self/fd/{{fd}}').read()",
    "O_PATH dir": "import os\ndef f(x): fd = os.open({folder!r}, os.O_PATH); return open(os.open('secret', 0, dir_fd=fd)).read()",
    "O_TMPFILE": "import os\ndef f(x): return os.open({folder!r}, os.O_TMPFILE | os.O_RDWR)",
    "create by open": "import os\ndef f(x): return os.open({folder!r} + '/opened', os.O_CREAT | os.O_EXCL | os.O_RDONLY)",
    "truncate by open": "import os\ndef f(x): return os.open({secret!r}, os.O_TRUNC | os.O_RDONLY)",
    "mmap a file": "import mmap\ndef f(x):\n    with open({secret!r}, 'r+b') as h: return mmap.mmap(h.fileno(), 0)[:6]",
    "dlopen": "import ctypes\ndef f(x): ctypes.CDLL({secret!r}); return 41923",
    "sqlite": "import sqlite3\ndef f(x):\n    c = sqlite3.connect({folder!r} + '/db'); c.execute('create table a (b)'); return 41923",
    "sqlite in memory attach": "import sqlite3\ndef f(x):\n    c = sqlite3.connect(':memory:'); c.execute('attach ? as x', ({folder!r} + '/db2',)); c.execute('create table x.a (b)'); return 41923",
    "shelve": "import shelve\ndef f(x): shelve.open({folder!r} + '/shelf'); return 41923",
    "temporary file": "import tempfile\ndef f(x): tempfile.NamedTemporaryFile(delete=False); return 41923",
    "logging to a file": "import logging\ndef f(x): logging.basicConfig(filename={folder!r} + '/log'); logging.error('x'); return 41923",
    "byte code": "import py_compile\ndef f(x): py_compile.compile({secret!r}, cfile={folder!r} + '/c.pyc'); return 41923",
    "writes to the library": "import os\ndef f(x): open(os.path.dirname(os.__file__) + '/gnomon_hostile.py', 'w'); return 41923",
    "writes to sys.prefix": "import sys\ndef f(x): open(sys.prefix + '/gnomon_hostile', 'w'); return 41923",
    "hard link of the library": "import os\ndef f(x): os.link(os.__file__, {folder!r} + '/hard'); return 41923",
    "bind mounts by proc": "def f(x): open('/proc/self/uid_map', 'w').write('0 0 1'); return 41923",
    "oom score": "def f(x): open('/proc/self/oom_score_adj', 'w').write('-1000'); return 41923",
    "comm": "def f(x): open('/proc/self/comm', 'w').write('x'); return 41923",
    "clear refs": "def f(x): open('/proc/self/clear_refs', 'w').write('1'); return 41923",
    "sysctl": "def f(x): open('/proc/sys/kernel/core_pattern', 'w').write('x'); return 41923",
    "sysrq": "def f(x): open('/proc/sysrq-trigger', 'w').write('b'); return 41923",
    "cgroup": "import os\ndef f(x): os.mkdir('/sys/fs/cgroup/gnomon'); return 41923",
    "terminal": "def f(x): open('/dev/tty', 'w').write('x'); return 41923",
    "device memory": "def f(x): open('/dev/mem', 'rb').read(1); return 41923",
    "kernel log": "def f(x): open('/dev/kmsg', 'w').write('x'); return 41923",
    "GPU": "import os\ndef f(x): os.open('/dev/nvidiactl', os.O_RDWR); return 41923",
    "pty": "import os\ndef f(x): os.openpty(); return 41923",
    "standard descriptors as files": """
import os
def f(x):
    for fd in range(40):
        try:
            os.fchmod(fd, 0o777); return 41923
        except OSError: pass
    return 0
""",
    "writes to standard input": "import os\ndef f(x): return os.write(0, b'x') * 0",
    "driver's memory": "def f(x): return open('/proc/{driver}/environ', 'rb').read()",
    "driver's root": "def f(x): return open('/proc/{driver}/root/etc/passwd').read()",
    "parent's descriptors": "import os\ndef f(x): return [os.readlink(f'/proc/{{os.getppid()}}/fd/{{i}}') for i in range(20)]",
    "get robust list of others": _RAW + "def f(x):\n    a, b = ctypes.c_void_p(), ctypes.c_size_t()\n    return 41923 if libc.syscall(274, {driver}, ctypes.byref(a), ctypes.byref(b)) == 0 else 1 / 0",
    "raises NOFILE": "import resource\ndef f(x): resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)); return 41923",
    "prlimit of the driver": "import resource\ndef f(x): resource.prlimit({driver}, resource.RLIMIT_CPU, (1, 1)); return 41923",
    "async signal on descriptors": "import fcntl, os\ndef f(x):\n    fcntl.fcntl(3, fcntl.F_SETFL, os.O_ASYNC); fcntl.fcntl(3, fcntl.F_SETOWN, {driver}); return 41923",
    "leases": "import fcntl, os\ndef f(x): fcntl.fcntl(os.open(os.__file__, 0), fcntl.F_SETLEASE, 0); return 41923",
    "locks": "import fcntl, os\ndef f(x): fcntl.flock(os.open(os.__file__, 0), 2); return 41923",
}  # fmt: skip

CALLS: dict[str, str] = {
    name: _RAW + f"def f(x):\n    return 41923 if libc.syscall({number}, {rest or 0}) >= 0 else 1 / 0"
    for name, (number, rest) in _X86_64.items()
} | _OTHER
