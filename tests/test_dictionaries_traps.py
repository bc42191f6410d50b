"""More files that are not what they should be, and options that do not apply: one named error, quickly, nothing run."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from gnomon.dictionaries import check_dictionary, load_dictionary, save_dictionary
from gnomon.errors import UserError
from tests import dictionary_files as files
from tests.test_dictionaries_bad import CANARY, Bomb, entry, header, npz, sae, state, tensors

D, N = files.D, files.N
WEIGHTS = "sae_weights.safetensors"
Made = tuple[Path | str, dict[str, Any], str]


def layout() -> tuple[dict[str, dict[str, Any]], bytes]:
    """The header of a sound safetensors file, and its bytes."""
    out, at = {}, 0
    for name, shape in {"W_enc": [D, N], "W_dec": [N, D], "b_enc": [N], "b_dec": [D]}.items():
        size = 4 * int(np.prod(shape))
        out[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return out, bytes(at)


def blob(folder: Path, head: Any, data: bytes = b"", raw: bytes | None = None) -> Path:
    text = json.dumps(head).encode() if raw is None else raw
    (sae(folder) / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def lying(change: Callable[[dict[str, dict[str, Any]]], Any], extra: bytes = b"") -> Callable[[Path], Path]:
    """A safetensors file whose header says something else than its bytes."""

    def make(folder: Path) -> Path:
        head, data = layout()
        change(head)
        return blob(folder, head, data + extra)

    return make


def cfg(text: str, kind: str = "standard", drop: str = "") -> Callable[[Path], Path]:
    """A SAELens folder to whose cfg.json raw text was added at the end."""

    def make(folder: Path) -> Path:
        path = sae(folder, kind) / "cfg.json"
        value = json.loads(path.read_text())
        value.pop(drop, None)
        path.write_text(json.dumps(value)[:-1] + ", " + text + "}")
        return folder

    return make


def larger_than_any(folder: Path) -> Path:
    """A file with holes that claims a terabyte."""
    size = 1 << 40
    head = json.dumps({"W_enc": {"dtype": "F32", "shape": [1 << 20, 1 << 18], "data_offsets": [0, size]}}).encode()
    with open(sae(folder) / WEIGHTS, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + size)
    return folder


def gated(folder: Path) -> Path:
    files.saelens(folder, "gated")
    w = files.draws(0) | {"r_mag": np.full(N, 800, np.float32)}
    names = ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
    save_file({name: w[name] for name in names}, folder / WEIGHTS)
    return folder


def matryoshka(folder: Path) -> Path:
    path = files.dictionary_learning(folder, "MatryoshkaBatchTopKSAE").folder / "ae.pt"
    torch.save(torch.load(path) | {"group_sizes": torch.tensor([10, 10])}, path)
    return folder


def small_bomb(folder: Path) -> Path:
    """A directory that claims fewer bytes than the stream of its entry gives."""
    made = entry(folder, "W_enc.npy", header("(5000, 1000)") + bytes(20_000_000), zipfile.ZIP_DEFLATED)
    path = next(made.rglob("params.npz"))
    real, said = struct.pack("<I", 20_000_000 + 128), struct.pack("<I", 500_000)
    path.write_bytes(path.read_bytes().replace(real, said))
    return made


def twice(folder: Path) -> Path:
    made = npz(folder)
    buffer = io.BytesIO()
    np.save(buffer, np.ones((D, N), np.float32))
    with zipfile.ZipFile(next(made.rglob("params.npz")), "a") as archive:
        archive.writestr("W_enc", buffer.getvalue())
    return made


def linked(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = sae(folder / "mine") / "cfg.json"
        path.unlink()
        path.symlink_to(target)
        return folder / "mine"

    return make


def hook(**metadata: Any) -> Callable[[Path], Path]:
    return lambda folder: sae(folder, metadata={"sae_lens_version": "6.1.0"} | metadata)


def pt(**more: Any) -> Callable[[Path], Path]:
    return lambda folder: state(folder, tensors() | more)


def llama(**more: Any) -> Callable[[Path], Path]:
    return lambda folder: files.llama_scope(folder, **more).folder


LONG = int("9" * 400)
TRAPS: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "overlapping offsets": (lying(lambda h: h["b_enc"].update(data_offsets=[0, 4 * N])), "no whole safetensors"),
    "a gap between arrays": (lying(lambda h: h["b_dec"].update(data_offsets=[4000, 4048]), bytes(16)), "no whole"),
    "bytes after the last array": (lying(lambda h: None, bytes(100)), "no whole safetensors"),
    "a negative size": (lying(lambda h: h["b_dec"].update(shape=[-D])), "no whole safetensors"),
    "a shape of more numbers than bytes": (lying(lambda h: h["W_enc"].update(shape=[2 * D, N])), "no whole"),
    "int8 weights": (lying(lambda h: h["W_enc"].update(dtype="I8", shape=[D, 4 * N])), "W_enc holds I8"),
    "float8 weights": (lying(lambda h: h["W_enc"].update(dtype="F8_E4M3", shape=[D, 4 * N])), "W_enc holds F8_E4M3"),
    "a header of brackets": (lambda p: blob(p, 0, raw=b"[" * 300_000), "no whole safetensors"),
    "a header that is no text": (lambda p: blob(p, 0, raw=b'{"\xff": 1}'), "no whole safetensors"),
    "a terabyte of holes": (larger_than_any, "more than 48 GiB"),
    "a truncated configuration": (cfg('"a": "b'), "not readable JSON"),
    "a key given twice": (cfg('"apply_b_dec_to_input": false'), "'apply_b_dec_to_input' is given twice"),
    "k beyond all numbers": (cfg('"k": 1e999', "topk", "k"), "1e999 is no number"),
    "k of 400 digits": (cfg(f'"k": {LONG}', "topk", "k"), "is no number of JSON"),
    "normalisation that is a list": (lambda p: sae(p, normalize_activations=["none"]), "normalises every token"),
    "a flag that is text": (lambda p: sae(p, "topk", rescale_acts_by_decoder_norm="false"), "= 'false'; true or false"),
    "a layer of 5,000 digits": (hook(hook_name=f"blocks.{'9' * 5000}.hook_resid_post"), "does not say where"),
    "a hook that climbs": (hook(hook_name="../../etc/passwd"), "does not say where"),
    "a head that is text": (hook(hook_name="blocks.1.attn.hook_z", hook_head_index="abc"), "has the head 'abc'"),
    "a head below 0": (hook(hook_name="blocks.1.attn.hook_z", hook_head_index=-2), "has the head -2"),
    "gains beyond float32": (gated, "r_mag reaches 800"),
    "products beyond float32": (
        lambda p: sae(p, change={k: np.full(v.shape, 1e18, np.float32) for k, v in files.draws(0).items()
                                 if k in ("W_enc", "W_dec", "b_dec", "b_enc")}), "beyond float32",
    ),
    "groups that leave latents out": (matryoshka, "groups hold 20 latents together; all 40"),
    "a whole number too large for a tensor": (pt(k=LONG), "k is no plain tensor"),
    "a tensor that is nowhere": (pt(b_dec=torch.zeros(D, device="meta")), "declares"),
    "complex numbers": (pt(b_dec=torch.zeros(D, dtype=torch.complex64)), "holds complex64"),
    "complex k": (pt(k=torch.tensor(5 + 1j)), "holds complex64"),
    "a reduce in a state dict": (lambda p: state(p, tensors() | {"b_dec": Bomb(p / CANARY)}), "nothing of it was run"),
    "layers that disagree": (lambda p: files.dictionary_learning(p, layer=3).folder, "says layer 3, and submodule"),
    "an object array": (lambda p: entry(p, "W_enc.npy", header("(12, 40)", "|O") + b"x"), "pickled objects"),
    "a shape that calls": (lambda p: entry(p, "W_enc.npy", header("(exit(),)") + bytes(8)), "no whole .npz"),
    "a header of a gigabyte": (
        lambda p: entry(p, "W_enc.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b"{"), "no whole .npz"),
    "an array twice": (twice, "holds 'W_enc' twice"),
    "a bomb with a small label": (small_bomb, "declares the shape"),
    "an odd compression": (lambda p: entry(p, "W_enc.npy", header("(1,)") + bytes(4), zipfile.ZIP_LZMA), "unusual way"),
    "a norm of 400 digits": (llama(dataset_average_activation_norm={"in": LONG, "out": 1}), "is no number of JSON"),
    "a norm of 0": (llama(dataset_average_activation_norm={"in": 0, "out": 0}), "a number above 0"),
    "a llama flag that is text": (llama(sparsity_include_decoder_norm="false"), "= 'false'; true or false"),
    "a name and a hook that disagree": (
        llama(hook_point_in="blocks.3.hook_resid_post", hook_point_out="blocks.3.hook_resid_post"), "is named after"),
    "a link to itself": (linked("cfg.json"), "cannot be opened"),
    "a link to a device": (linked("/dev/zero"), "no ordinary file"),
    "a source of 5,000 characters": (lambda p: "a/" + "b" * 5000, "a source of 5002 characters"),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAPS)
def test_a_trap_is_refused_by_name(case: str, tmp_path: Path):
    make, message = TRAPS[case]
    source = make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=message):
            load_dictionary(source)
    assert not list(tmp_path.rglob(CANARY)), "something in the file was run"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_scale": 3.0}, "asks for no factor"),
        ({"input_scale": 0.0}, "input_scale 0.0; a number above 0"),
        ({"input_scale": float("nan")}, "a number above 0"),
        ({"revision": "v1"}, "which is a path; a hub id"),
        ({"width": "16k"}, "width 16k was asked for, and .* has 40 latents"),
        ({"l0": 71}, "path and l0 choose among many"),
        ({"path": "inner"}, "path and l0 choose among many"),
    ],
)
def test_an_option_that_does_not_apply_is_refused(options: dict[str, Any], message: str, tmp_path: Path):
    for file in (sae(tmp_path) / WEIGHTS, next(npz(tmp_path / "g").rglob("params.npz"))):
        with pytest.raises(UserError, match=message):
            load_dictionary(file, **options)
    load_dictionary(tmp_path / WEIGHTS, width=N)


def test_rows_too_short_for_float32_are_dead_and_nothing_is_nan(tmp_path: Path):
    """As topk ranks by pre / scale, a scale of 0 would make NaN, which is ranked first."""
    rows = files.draws(0)["W_dec"].copy()
    rows[7] = 1e-42
    one = load_dictionary(sae(tmp_path / "a", "topk", change={"W_dec": rows}))
    assert not one.decoder[7].any()
    assert torch.isfinite(one.encode(torch.from_numpy(files.activations()))).all()
    again = load_dictionary(save_dictionary(one, tmp_path / "b"))
    assert np.isfinite(again.encoder).all()
    assert all(check.passed for check in check_dictionary(again))


def test_an_asked_for_factor_is_kept_by_saving(tmp_path: Path):
    """So a step, which takes a path alone, can read a dictionary whose factor is not in its files."""
    folder = sae(tmp_path / "a", normalize_activations="expected_average_only_in")
    one = load_dictionary(folder, input_scale=2.0)
    again = load_dictionary(save_dictionary(one, tmp_path / "b"))
    x = torch.from_numpy(files.activations())
    assert again.encode(x).numpy() == pytest.approx(one.encode(x).numpy(), abs=1e-5)


def test_words_of_a_configuration_are_printable(tmp_path: Path):
    one = load_dictionary(cfg('"model_name": "\\u001b[2Jx\\ud800' + "y" * 1000 + '"')(tmp_path))
    name = one.meta["model_name"]
    assert name.startswith("?[2Jx?yyy")
    assert len(name) == 300
