"""The fence's parts: start-up probes find holes, the codec refuses strangers' bytes, the filter names real calls."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fences import needs_a_fence

from gnomon.errors import UserError
from gnomon.tasks.fence import seccomp
from gnomon.tasks.fence.codec import BYTES, Garbled, Unsupported, dump, load
from gnomon.tasks.fence.decode import Decoder
from gnomon.tasks.fence.encode import Encoder
from gnomon.tasks.fence.launch import Server, machine
from gnomon.tasks.fence.layout import layout
from gnomon.tasks.fence.probes import CALLS, probe
from gnomon.tasks.fence.syscalls import ARCHES, CHECKED, NUMBERS
from gnomon.tasks.sandbox import Limits, Sandbox

pytestmark = needs_a_fence


def servers(**changes: object) -> tuple[Server, Server]:
    config = {"fenced": True, "machine": machine(), "readable": layout().readable(), "listable": list(layout().stdlib)}
    return Server("candidate", [], config | changes), Server("tester", [], config | changes)


def holes(**changes: object) -> str:
    pair = servers(**changes)
    try:
        return " ".join(probe(pair, Limits()))
    finally:
        for server in pair:
            server.close()


def test_probes_pass_on_a_whole_fence():
    assert holes() == ""


def test_probes_name_every_hole_of_no_fence():
    found = holes(fenced=False)
    for name in ("reading outside", "writing outside", "starting a process", "signals to the driver", "socket"):
        assert re.search(rf"candidate: fail.*{name}", found), name
    assert "tests: fail" in found


@pytest.mark.parametrize(("folder", "hole"), [("/tmp", "reading outside"), ("/proc", "reading /proc")])
def test_probes_find_one_hole(folder: str, hole: str):
    assert hole in holes(readable=[*layout().readable(), folder])


def test_a_hole_refuses_to_grade(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gnomon.tasks.fence.layout.Layout.readable", lambda self: ["/"])
    with pytest.raises(UserError, match=r"does not hold: .*reading outside"):
        Sandbox(level="kernel").grade("x = 1", "assert x == 1")


def test_installed_packages_are_not_readable():
    assert not [path for path in layout().readable() if "site-packages" in path or "dist-packages" in path]


# ---------------------------------------------------------------- the filter


@pytest.mark.parametrize("name", ARCHES)
def test_filter_is_a_program(name: str):
    code = seccomp.program(name, 1234)
    assert len(code) % 8 == 0
    assert len(code) // 8 < 4096
    for i in range(0, len(code), 8):  # every jump stays inside
        kind, yes, no = code[i], code[i + 2], code[i + 3]
        if kind & 7 == 5:
            assert i // 8 + 1 + max(yes, no) < len(code) // 8


def test_numbers_are_the_kernels():
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if machine() != "x86_64" or not header.exists():
        known = {"read": 0, "execve": 59, "clone": 56, "openat": 257}
    else:
        known = {n: int(v) for n, v in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    ours = {n: v[0] for n, v in (NUMBERS | CHECKED).items() if v[0] is not None} | CALLS["x86_64"]
    assert {n: v for n, v in ours.items() if n in known and known[n] != v} == {}
    for column in (0, 1):
        found = [v[column] for v in (NUMBERS | CHECKED).values() if v[column] is not None]
        assert len(found) == len(set(found))


def test_what_must_never_be_allowed_is_not():
    never = {"execve", "execveat", "fork", "vfork", "ptrace", "socket", "connect", "bind", "sendmsg", "mount", "bpf",
             "memfd_create", "chmod", "fchmod", "chown", "unlink", "rename", "io_uring_setup", "setuid", "unshare",
             "process_vm_readv", "pidfd_open", "tkill", "rt_sigqueueinfo", "setrlimit", "keyctl"}  # fmt: skip
    assert not never & set(NUMBERS)
    assert not set(CALLS["x86_64"].values()) & {v[0] for v in NUMBERS.values()}
    assert not set(CALLS["aarch64"].values()) & {v[1] for v in NUMBERS.values()}


# ---------------------------------------------------------------- the codec


def refuse(node: object) -> object:
    raise Garbled("a handle")


def through(value: object) -> object:
    return Decoder(refuse).value(load(dump(Encoder(refuse).node(value))))


def test_lying_subclasses_are_read_plainly():
    class Int(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class List(list):
        def __iter__(self):
            return iter([1])

        def __len__(self) -> int:
            return 1

        def __getitem__(self, key):
            return 1

    class Str(str):
        def __str__(self) -> str:
            return "lie"

        def encode(self, *a: object) -> bytes:
            return b"lie"

    class Dict(dict):
        def items(self):
            return [("lie", 1)]

    found = through((Int(3), List([7, 8]), Str("truth"), Dict(a=1)))
    assert found == (3, [7, 8], "truth", {"a": 1})
    assert list(map(type, found)) == [int, list, str, dict]


@pytest.mark.parametrize("node", [
    [], ["?"], ["@", 0], ["@", -1], ["@", "0"], ["l", 1, None, []], ["l", 0, None, 3], ["l", 0, None, "q?"], ["i", "z"],
    ["S", 0, None, [["l", 1, None, []]]], ["d", 0, "dict", [1]], ["d", 0, "eval", []], ["f", "1"], ["s", "!"], {"a": 1},
    ["dt", None, 0, 99, 99, 99], ["F", 1, 0], ["h", 0, "x", "", None], ["g", "os", "system"], [["t"]], ["D", "x"],
])  # fmt: skip
def test_garbled_nodes_are_refused(node: object):
    with pytest.raises(Garbled):
        Decoder(refuse).value(node)


def test_garbled_bytes_are_refused():
    for data in (b"", b"\xff", b"[" * 100_000, b"{", b"1" * 5000):
        with pytest.raises(Garbled):
            load(data)


def test_sizes_are_limited():
    nested: list = []
    for _ in range(1000):
        nested = [nested]
    for value in (nested, "x" * (BYTES + 1), b"x" * (BYTES + 1), 1 << (8 * BYTES)):
        with pytest.raises(Unsupported):
            through(value)
    with pytest.raises(Unsupported):
        dump(["x" * BYTES])
    assert json.loads(dump([1])) == [1]
