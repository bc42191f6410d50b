"""System call numbers of the two machines that the fence knows, and which of them a fenced process may make."""

from __future__ import annotations

ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_* of the machines that are supported."""

NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # files and memory: what Landlock rules, or what touches only the process itself
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65),
    "writev": (20, 66), "access": (21, None), "pipe": (22, None), "select": (23, None), "mremap": (25, 216),
    "mincore": (27, 232), "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "getcwd": (79, 17),
    "readlink": (89, None), "getdents64": (217, 61), "fadvise64": (221, 223), "openat": (257, 56),
    "newfstatat": (262, 79), "readlinkat": (267, 78), "faccessat": (269, 48), "pselect6": (270, 72),
    "ppoll": (271, 73), "dup3": (292, 24), "pipe2": (293, 59), "preadv": (295, 69), "statx": (332, 291),
    "close_range": (436, 436), "faccessat2": (439, 439), "epoll_create": (213, None), "epoll_wait": (232, None),
    "epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "eventfd2": (290, 19), "epoll_create1": (291, 20),
    "epoll_pwait2": (441, 441),
    # its own signals, threads and time
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, None),
    "nanosleep": (35, 101), "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103),
    "sched_yield": (24, 124), "gettid": (186, 178), "futex": (202, 98), "sched_getaffinity": (204, 123),
    "set_tid_address": (218, 96), "restart_syscall": (219, 128), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit": (60, 93), "exit_group": (231, 94),
    "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293), "membarrier": (324, 283),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getcpu": (309, 168),
    "getrandom": (318, 278),
    # who it is
    "getpid": (39, 172), "getppid": (110, 173), "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156),
    "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
    "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150), "uname": (63, 160),
    "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    # a socket pair within itself (asyncio's): no address can be named, so nothing outside is reached
    "recvfrom": (45, 207), "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209),
}  # fmt: skip
"""Allowed whatever the arguments: (x86_64, aarch64); None where a machine has no such call."""

CHECKED: dict[str, tuple[int, int]] = {
    "clone": (56, 220), "kill": (62, 129), "tgkill": (234, 131), "prctl": (157, 167), "prlimit64": (302, 261),
    "ioctl": (16, 29), "fcntl": (72, 25), "socketpair": (53, 199), "sendto": (44, 206), "clone3": (435, 435),
}  # fmt: skip
"""Allowed for some arguments only (`seccomp`)."""


def number(name: str, machine: str) -> int | None:
    """The number of a system call on a machine."""
    return (NUMBERS.get(name) or CHECKED[name])[list(ARCHES).index(machine)]
