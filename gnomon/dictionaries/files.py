"""Weight files of strangers, read without running anything: sizes before data, no pickles, no links out of the folder.

Every reader checks what a file declares (shapes, types, lengths) against the bytes that are there before it allocates
anything, and hands back plain float arrays. What is not as it should be is a UserError that names file and fault.
"""

from __future__ import annotations

import json
import math
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.disk import file_sha256
from gnomon.errors import UserError

MAX_JSON = 1 << 20
"""Bytes of a configuration file at most."""
MAX_DIGITS = 20
"""Of a whole number in a configuration, seeds of 64 bits among them."""
MAX_HEADER = 16 << 20
"""Bytes of a safetensors header at most."""
MAX_WEIGHTS = 48 << 30
"""Bytes that a file's arrays may declare together."""
MAX_RATIO = 40
"""How many times larger than its compressed bytes an array of a zip may be: weights are noise and hardly shrink."""
MAX_ARRAYS = 256
SAFE_TYPES = ("F64", "F32", "F16", "BF16")


def inside(path: Path, root: Path) -> Path:
    """The same path, once it is an ordinary file under `root`; the hub cache's links into its own blobs are followed.

    UserError: missing, a folder, a device or pipe, a link that leads out of the folder.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror})", "a file that is there") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is no ordinary file", "weights or a configuration")
    target, base = path.resolve(), root.resolve()
    allowed = [base]
    snapshots = [p for p in (root.absolute(), *root.absolute().parents) if p.parent.name == "snapshots"]
    if snapshots and re.match(r"(models|datasets)--", snapshots[0].parent.parent.name):
        allowed.append((snapshots[0].parent.parent / "blobs").resolve())
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise UserError(f"{path} is a link that leads out of its folder", f"a file under {root}")
    return path


def read_config(path: Path, root: Path) -> dict[str, Any]:
    """A small JSON object. UserError for a large, broken or deeply nested one, a key given twice, numbers that are
    none (NaN, 1e999), or anything but an object."""
    inside(path, root)
    if path.stat().st_size > MAX_JSON:
        raise UserError(f"{path} has {path.stat().st_size} bytes", f"a configuration of at most {MAX_JSON}")

    def refuse(text: str) -> Any:
        raise ValueError(f"{text[:40]} is no number of JSON")

    def real(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text)

    def whole(text: str) -> int:
        return int(text) if len(text) <= MAX_DIGITS else refuse(text)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice")
        return dict(pairs)

    try:
        value = json.loads(
            path.read_bytes().decode("utf-8"), parse_constant=refuse, parse_float=real, parse_int=whole,
            object_pairs_hook=once,
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error})", "a configuration") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}", "a JSON object")
    return value


def read_arrays(path: Path, root: Path, wanted: Iterable[str], also: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays `wanted` of a .safetensors, .npz or .pt file, by name; `also` are read where they are there.

    UserError: not such a file, truncated, pickled, a zip bomb, other types than floats, a key missing or unknown.
    """
    inside(path, root)
    if not path.stat().st_size:
        raise UserError(f"{path} is empty", "weights")
    if path.stat().st_size > MAX_WEIGHTS + MAX_HEADER:
        raise UserError(f"{path} has more than {MAX_WEIGHTS >> 30} GiB", "a dictionary of that size at most")
    reader = {".safetensors": _safetensors, ".npz": _npz, ".pt": _torch, ".pth": _torch}.get(path.suffix)
    if reader is None:
        raise UserError(f"{path} is no weight file that gnomon reads", ".safetensors, .npz or .pt")
    return reader(path, tuple(wanted), tuple(also))


def fingerprint(paths: Iterable[Path]) -> str:
    """sha256 over names and contents of the files that were read."""
    import hashlib

    lines = sorted((path.name, file_sha256(path)) for path in paths)
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _known(path: Path, there: Iterable[str], wanted: tuple[str, ...], also: tuple[str, ...]) -> list[str]:
    """Names to read; UserError for one missing, or one that nobody knows: it might change what the weights mean."""
    names = list(there)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}", f"it holds {', '.join(map(repr, names[:8])) or 'nothing'}"
        )
    unknown = [name for name in names if name not in (*wanted, *also)]
    if unknown:
        raise UserError(
            f"{path} holds {', '.join(map(repr, unknown[:4]))}, which this format does not have",
            ", ".join((*wanted, *also)), "another format= or architecture",
        )  # fmt: skip
    return names


def _declared(path: Path, name: str, shape: Iterable[int], itemsize: int, total: int) -> int:
    size = itemsize
    for n in shape:
        if n < 0:
            raise UserError(f"{path}: {name} declares the shape {tuple(shape)}", "sizes of 0 or more")
        size *= int(n)
    if total + size > MAX_WEIGHTS:
        raise UserError(f"{path} declares more than {MAX_WEIGHTS >> 30} GiB", "a dictionary of that size at most")
    return total + size


# ---------------------------------------------------------------- safetensors


def _safetensors(path: Path, wanted: tuple[str, ...], also: tuple[str, ...]) -> dict[str, np.ndarray]:
    import torch
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size < 8 or header > min(MAX_HEADER, size - 8):
        raise UserError(
            f"{path} is no whole safetensors file: its header claims {header} bytes, the file has {size}",
            f"a header within the file, of at most {MAX_HEADER} bytes", "download it again",
        )  # fmt: skip
    out: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names, total = _known(path, file.keys(), wanted, also), 0
            for name in names:
                part = file.get_slice(name)
                if part.get_dtype() not in SAFE_TYPES:
                    raise UserError(f"{path}: {name} holds {part.get_dtype()}", "floats", f"one of {SAFE_TYPES}")
                total = _declared(path, name, part.get_shape(), 4, total)
            for name in names:
                tensor = file.get_tensor(name)
                tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
                out[name] = tensor.numpy()
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is no whole safetensors file ({error})", "weights", "download it again") from None
    return out


# ---------------------------------------------------------------- npz


def _npz(path: Path, wanted: tuple[str, ...], also: tuple[str, ...]) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries, total = _arrays(path, _entries(path, archive)), 0
            for name in _known(path, entries, wanted, also):
                info = entries[name]
                with archive.open(info) as file:
                    shape, fortran, dtype = _header(path, name, file, info.file_size)
                    total = _declared(path, name, shape, dtype.itemsize, total)
                    count = int(np.prod(shape, dtype=np.int64))
                    data = file.read(count * dtype.itemsize + 1)
                if len(data) != count * dtype.itemsize:
                    raise UserError(f"{path}: {name} holds {len(data)} bytes", f"{count * dtype.itemsize}")
                array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
                out[name] = array.astype(np.float64 if dtype.itemsize >= 8 else np.float32, copy=False)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, OSError, EOFError, ValueError,
            NotImplementedError) as error:  # fmt: skip
        raise UserError(f"{path} is no whole .npz file ({error})", "weights", "download it again") from None
    except RuntimeError as error:  # an encrypted entry
        raise UserError(f"{path} cannot be read ({error})", "a plain .npz file") from None
    return out


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Entries of a zip by name. UserError for many, doubled or oddly named ones, and for a bomb, before any is read."""
    infos = archive.infolist()
    if len(infos) > MAX_ARRAYS:
        raise UserError(f"{path} holds {len(infos)} entries", f"{MAX_ARRAYS} at most")
    out: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.filename in out or ".." in info.filename or info.filename.startswith(("/", "\\")):
            raise UserError(f"{path} holds an entry {info.filename!r}", "plain names, each once")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: {info.filename} is compressed in an unusual way", "deflate, or none")
        if info.file_size > MAX_RATIO * max(info.compress_size, 1) + 4096 or info.file_size > MAX_WEIGHTS:
            raise UserError(
                f"{path}: {info.filename} would grow from {info.compress_size} to {info.file_size} bytes",
                f"weights, which hardly shrink ({MAX_RATIO} times at most)", "this looks like a zip bomb",
            )  # fmt: skip
        out[info.filename] = info
    return out


def _arrays(path: Path, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Entries by the names of their arrays, as numpy has them: with or without .npy. UserError for one that is there
    twice."""
    out: dict[str, zipfile.ZipInfo] = {}
    for entry, info in entries.items():
        if out.setdefault(entry.removesuffix(".npy"), info) is not info:
            raise UserError(f"{path} holds {entry.removesuffix('.npy')!r} twice", "each array once")
    return out


def _header(path: Path, name: str, file: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of a .npy; UserError for pickled objects, other types, and a length that does not fit."""
    version = np.lib.format.read_magic(file)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if reader is None:
        raise UserError(f"{path}: {name} is a .npy of version {version}", "version 1.0 or 2.0")
    shape, fortran, dtype = reader(file, max_header_size=10_000)
    if dtype.hasobject:
        raise UserError(f"{path}: {name} holds pickled objects", "plain float arrays", "nothing of it was run")
    if dtype.kind != "f":
        raise UserError(f"{path}: {name} holds {dtype}", "floats")
    if file.tell() + int(np.prod(shape, dtype=object) if shape else 1) * dtype.itemsize != size:
        raise UserError(f"{path}: {name} declares the shape {shape}", f"one that fits its {size} bytes")
    return shape, fortran, dtype


# ---------------------------------------------------------------- torch


def _torch(path: Path, wanted: tuple[str, ...], also: tuple[str, ...]) -> dict[str, np.ndarray]:
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            squeezed = [i.filename for i in _entries(path, archive).values() if i.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} is no whole .pt file of torch 1.6 or later ({error})", "a state dict", "nothing of it was run"
        ) from None
    if squeezed:
        raise UserError(f"{path} is a compressed archive", "a file that torch.save wrote", "nothing of it was run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler's refusals are of many kinds; each means the same here
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path} holds more than tensors, or is broken ({why[0][:160]})",
            "a state dict that torch.load(weights_only=True) reads", "nothing of it was run",
        ) from None  # fmt: skip
    if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
        raise UserError(f"{path} holds a {type(state).__name__}", "a state dict: names and tensors")
    out, total, size = {}, 0, path.stat().st_size
    for name in _known(path, state, wanted, also):
        tensor = state[name]
        if isinstance(tensor, bool | int | float) and abs(tensor) < 1e18:
            tensor = torch.tensor(float(tensor))
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            raise UserError(f"{path}: {name} is no plain tensor", "floats")
        counts = tensor.ndim < 2 and name in also and not (tensor.is_complex() or tensor.dtype == torch.bool)
        if not tensor.is_floating_point() and not counts:
            raise UserError(f"{path}: {name} holds {str(tensor.dtype).removeprefix('torch.')}", "floats")
        total = _declared(path, name, tensor.shape, tensor.element_size(), total)
        if tensor.device.type != "cpu" or total > size:
            raise UserError(f"{path}: {name} declares {tuple(tensor.shape)}", f"numbers that its {size} bytes hold")
        wide = tensor.detach().double() if tensor.dtype == torch.float64 else tensor.detach().float()
        out[name] = wide.numpy()
    return out
