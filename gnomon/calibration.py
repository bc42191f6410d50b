"""How fast this machine runs a model: measured once in at most half a minute, kept in the cache folder, used by plans.

A process of its own, with the run's own number of threads, loads the model and measures, at the plan's batch size and
prompt length: seconds to load, tokens/s of a forward over prompts (prefill), tokens/s of decoding, bytes/s written with
fsync; and a few batches of a generation's own plan, from which its time follows as seconds x all rows / tried rows
(answers that end early are in it). What was measured when the time is up counts; the process is then ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gnomon import machine
from gnomon.disk import write_json
from gnomon.errors import UserError
from gnomon.step import ModelSpec
from gnomon.trial import try_batches

LIMIT = 30.0
"""Seconds of a whole calibration, starting and loading included."""
SPARE = 4.0
"""Seconds before the limit at which nothing new is begun."""
WRITTEN = 32_000_000
STEPS = 8
"""Tokens that are decoded a row."""
OWN = 0.7
"""Of the processor time that its threads could have had, what a process has on a machine that is not busy."""
MOST = 100
"""Trials that are kept of a model."""
AGAIN = 3600.0
"""Seconds before what could not be measured, or only beside other work, is measured again."""


@dataclass(frozen=True)
class Job:
    """What is to be measured: a model as the plan runs it, the shape of its batches, and maybe one of its steps."""

    spec: ModelSpec
    threads: int
    batch: int
    length: int
    """Tokens a prompt; a power of two."""
    folder: str
    """Where the study will write."""
    step: str = ""
    """A step that lays out batches (`generate`) and is tried on a few of them; "" for none."""
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    fingerprint: str = ""
    """Of that step in the plan."""

    @property
    def shape(self) -> str:
        return f"{self.batch}x{self.length}"

    @property
    def asked(self) -> str:
        """What a later plan asks for again where this did not find all of it."""
        return f"{self.shape} {self.fingerprint}"


@dataclass(frozen=True)
class Rates:
    """What is known of a model's speed here; 0 or empty where it is not."""

    load: float = 0.0
    """Seconds to load the model, imports not counted."""
    shape: str = ""
    """Rows x tokens of the batches that prefill and decode were measured with."""
    prefill: float = 0.0
    """Tokens/s of a forward over whole prompts, by one process."""
    decode: float = 0.0
    """Tokens/s of decoding with a key-value cache, by one process."""
    write: float = 0.0
    """Bytes/s written and synced."""
    busy: bool = False
    """The processor was shared with other work meanwhile: measured again where that is asked for."""
    trials: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of steps that were tried, by fingerprint: seconds, rows tried, rows in all (`of`), new_tokens of those tried."""


def power_of_two(length: float) -> int:
    """The next power of two, 8 at least: prompt lengths within it share a measurement."""
    return max(8, 1 << max(0, int(length) - 1).bit_length())


def kept_in(spec: ModelSpec, threads: int) -> Path:
    """The file of a model's calibrations: by its fingerprint, dtype, device class, processor, threads, versions."""
    from gnomon.models.cachedir import cache_folder

    versions = machine.versions()
    key = {
        "model": spec.facts()["fingerprint"], "dtype": spec.dtype, "device": machine.device_class(spec.device),
        "spread": [spec.device_map, spec.max_memory],
        "threads": threads, "machine": {k: machine.machine()[k] for k in ("processor", "instructions", "cores")},
        "versions": {name: versions.get(name, "") for name in ("gnomon", "torch", "transformers")},
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder() / "calibrations" / f"{digest}.json"


def known(spec: ModelSpec, threads: int, batch: int, length: int) -> Rates | None:
    """What an earlier calibration found, at this shape or the one nearest to it; None without any."""
    kept = _read(kept_in(spec, threads))
    shapes = kept.get("shapes", {})
    if not shapes:
        return None

    def distance(shape: str) -> float:
        rows, tokens = map(int, shape.split("x"))
        return abs(rows.bit_length() - batch.bit_length()) + abs(tokens.bit_length() - length.bit_length())

    shape = min(shapes, key=lambda s: (s != f"{batch}x{length}", distance(s), s))
    one = shapes[shape]
    return Rates(float(kept.get("load", 0)), shape, float(one.get("prefill", 0)), float(one.get("decode", 0)),
                 float(kept.get("write", 0)), bool(one.get("busy")), kept.get("trials", {}))  # fmt: skip


def wanted(job: Job) -> bool:
    """Is something of the job not known, or known only from a busy machine, and was not asked for within the hour?"""
    rates = known(job.spec, job.threads, job.batch, job.length)
    whole = rates is not None and not rates.busy and rates.shape == job.shape
    if whole and (not job.step or (rates is not None and job.fingerprint in rates.trials)):
        return False
    last = _read(kept_in(job.spec, job.threads)).get("asked", {}).get(job.asked)
    return not (isinstance(last, int | float) and 0 <= time.time() - last < AGAIN)


def measure(job: Job, limit: float = LIMIT) -> str:
    """Measure in a process of its own and keep what it found; returns what went wrong, "" where nothing did."""
    path = kept_in(job.spec, job.threads)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
        with tempfile.TemporaryDirectory(prefix="gnomon-calibration-") as scratch:  # gone, however its user ended
            found, wrong = _measured(job, limit, scratch)
        kept = _read(path)
        join(kept, found)
        for key in ("trials", "asked"):
            kept[key] = dict(list(kept.get(key, {}).items())[-MOST:])
        if found:
            write_json(path, kept)
    except UserError as error:  # the disk is full
        return str(error)
    except OSError as error:
        where = error.filename or path.parent
        return f"cannot write to {where} ({error.strerror}); what is measured is kept there: set GNOMON_CACHE"
    return wrong


def _measured(job: Job, limit: float, scratch: str) -> tuple[dict[str, Any], str]:
    """What a process of its own found in `limit` seconds, and what went wrong."""
    text = json.dumps(asdict(job) | {"until": time.time() + limit, "path": sys.path})
    count = str(job.threads)
    environment = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TMPDIR": scratch}
    command = [sys.executable, "-m", "gnomon.calibration"]
    late = False
    try:
        run = subprocess.run(command, input=text, capture_output=True, text=True, timeout=limit, env=environment,
                             check=False)  # fmt: skip
        said, wrong = run.stdout, run.stderr.strip().rpartition("\n")[2] if run.returncode else ""
    except subprocess.TimeoutExpired as error:
        late = True
        said = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        wrong = f"it was not done in {limit:g} s"
    found: dict[str, Any] = {}
    for line in said.splitlines():
        with suppress(ValueError):  # a line that was cut off with the process, or that a task printed
            part = json.loads(line)
            if isinstance(part, dict):
                wrong = str(part.pop("error", wrong))
                join(found, part)
    if found or late:  # what failed at once may be asked for again at once
        join(found, {"asked": {job.asked: int(time.time())}})
    if late and "load" not in found:
        wrong = f"the model was not loaded in {limit:g} s"
    return found, "" if found.get("shapes") and late else wrong


def join(into: dict[str, Any], part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        into[key] = {**into.get(key, {}), **value} if isinstance(value, Mapping) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # none yet, or not ours: it is measured again
    return kept if isinstance(kept, dict) else {}


# ---------------------------------------------------------------- in the process that measures


def main() -> None:
    """Read a job from stdin, measure, print each finding as a line of JSON."""
    given = json.loads(sys.stdin.read())
    until, sys.path[:] = given.pop("until"), given.pop("path")  # a task of the user's own is found as it was there
    spec = {key: _hashable(value) for key, value in given["spec"].items()}
    job = Job(**given | {"spec": ModelSpec(**spec)})
    try:
        with machine.threads(job.threads):
            findings(job, until, lambda part: print(json.dumps(part), flush=True))
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def findings(job: Job, until: float, say: Callable[[dict[str, Any]], None]) -> None:
    """Measure everything that there is time for before `until` (seconds of the epoch), saying each finding at once."""

    def left() -> float:
        return until - SPARE - time.time()

    clock = time.perf_counter()
    model = job.spec.load()
    say({"load": round(time.perf_counter() - clock, 3)})
    prompts = _prompts(job, model)
    model.generate([row[:2] for row in prompts[:2]], max_new_tokens=2)  # what is set up at first is not counted
    clock, used = time.perf_counter(), time.process_time()
    prefill = _seconds(lambda: _whole(model, prompts), min(3.0, left()))
    share = (time.process_time() - used) / (time.perf_counter() - clock) / job.threads
    shape = {"prefill": sum(map(len, prompts)) / prefill, "busy": model.device.type == "cpu" and share < OWN}
    say({"shapes": {job.shape: shape}})
    if speed := write_speed(Path(job.folder)):
        say({"write": speed})
    if job.step and left() > 0:
        try_batches(job, left, say)
    if left() > prefill:
        tokens, seconds = _decoded(model, prompts, prefill)
        say({"shapes": {job.shape: shape | {"decode": tokens / seconds}}})


def _prompts(job: Job, model: Any) -> list[list[int]]:
    """Random tokens: what is computed does not depend on them, and no two rows share anything."""
    import numpy as np

    most = int(job.spec.facts().get("context") or job.length + STEPS + 1) - STEPS - 1
    size = (job.batch, max(1, min(job.length, most)))
    return np.random.default_rng(0).integers(0, model.d_vocab, size).tolist()


def _whole(model: Any, prompts: list[list[int]]) -> None:
    """A forward through all blocks, and the logits behind each prompt, waited for."""
    model.forward(prompts, logits="last").logits.sum().item()


def _seconds(work: Callable[[], Any], most: float) -> float:
    """Seconds of a call: the median of as many as fit into `most`, one at least, five at most."""
    times: list[float] = []
    while not times or (sum(times) < most and len(times) < 5):
        clock = time.perf_counter()
        work()
        times.append(time.perf_counter() - clock)
    return sorted(times)[len(times) // 2]


def _decoded(model: Any, prompts: list[list[int]], prefill: float) -> tuple[int, float]:
    """Tokens after the first of each row, and their seconds: those of answers without those of their prompts."""
    clock = time.perf_counter()
    out = model.generate(prompts, max_new_tokens=1 + STEPS)
    seconds = time.perf_counter() - clock - prefill
    tokens = sum(max(0, len(response.token_ids) - 1) for response in out.rows)
    return max(1, tokens), max(seconds, 1e-6)


def write_speed(folder: Path) -> float:
    """Bytes/s that a file in `folder` takes, fsync included; 0 where none can be made. Nothing is left behind."""
    data = os.urandom(1_000_000)
    clock = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(WRITTEN // len(data)):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return 0.0
    return WRITTEN / (time.perf_counter() - clock)


if __name__ == "__main__":
    main()
