"""Files that are not what they should be: each is refused by name, and nothing in them is run (no canary appears)."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from gnomon.dictionaries import files as reading
from gnomon.dictionaries import load_dictionary
from gnomon.errors import UserError
from tests import dictionary_files as files

D, N = files.D, files.N
CANARY = "canary"
Made = tuple[Path, dict[str, Any], str]
"""What is loaded, with which options, and what the error says."""
BAD: dict[str, Callable[[Path], Made]] = {}


def bad(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
    BAD[make.__name__.replace("_", " ")] = make
    return make


class Bomb:
    """Unpickling it makes the canary."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def sae(
    folder: Path, kind: str = "standard", change: dict[str, np.ndarray] | None = None, drop: str = "", **cfg
) -> Path:
    """A SAELens folder, some arrays replaced or left out."""
    files.saelens(folder, kind, **cfg)
    w = files.draws(0)
    names = {"jumprelu": ("b_enc", "threshold")}.get(kind, ("b_enc",))
    arrays = {key: w[key] for key in ("W_enc", "W_dec", "b_dec", *names)} | (change or {})
    arrays.pop(drop, None)
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, folder / "sae_weights.safetensors")
    return folder


def npz(root: Path, make: Callable[[dict[str, np.ndarray]], None] | None = None, pickled: bool = False) -> Path:
    """A GemmaScope folder whose arrays were changed."""
    folder = files.gemma_scope(root).folder
    path = next(folder.rglob("params.npz"))
    arrays = dict(np.load(path))
    if make is not None:
        make(arrays)
    np.savez(path, allow_pickle=pickled, **arrays)
    return folder


def entry(root: Path, name: str, data: bytes, compress: int = zipfile.ZIP_STORED) -> Path:
    """A GemmaScope folder in whose npz one entry's bytes were replaced."""
    folder = files.gemma_scope(root).folder
    path = next(folder.rglob("params.npz"))
    with zipfile.ZipFile(path) as old:
        parts = {i.filename: old.read(i) for i in old.infolist()}
    parts[name] = data
    with zipfile.ZipFile(path, "w", compress) as new:
        for key, value in parts.items():
            new.writestr(key, value)
    return folder


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(118 - len("\n")) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def state(folder: Path, value: Any, **more: Any) -> Path:
    """A dictionary_learning folder whose ae.pt is `value`."""
    files.dictionary_learning(folder)
    torch.save(value, folder / "ae.pt", **more)
    return folder


def tensors() -> dict[str, torch.Tensor]:
    w = files.draws(5)
    return {"encoder.weight": torch.tensor(w["W_enc"].T.copy()), "encoder.bias": torch.tensor(w["b_enc"]),
            "decoder.weight": torch.tensor(w["W_dec"].T.copy()), "b_dec": torch.tensor(w["b_dec"])}  # fmt: skip


# ---------------------------------------------------------------- numbers and shapes


@bad
def nan_weights(p: Path) -> Made:
    w = files.draws(0)["W_enc"].copy()
    w[3, 4] = np.nan
    return sae(p, change={"W_enc": w}), {}, r"W_enc holds 1 NaN or infinite"


@bad
def infinite_bias(p: Path) -> Made:
    return sae(p, change={"b_enc": np.full(N, np.inf, np.float32)}), {}, "b_enc holds 40 NaN or infinite"


@bad
def huge_numbers(p: Path) -> Made:
    return sae(p, change={"b_dec": np.full(D, 3e38, np.float32)}), {}, "beyond 1e18"


@bad
def nan_threshold_in_npz(p: Path) -> Made:
    return npz(p, lambda a: a.update(threshold=np.full(N, np.nan, np.float32))), {}, "threshold holds 40 NaN"


@bad
def another_width(p: Path) -> Made:
    return sae(p), {"d_model": 2304}, "is of width 12, and 2304 is needed"


@bad
def another_layer(p: Path) -> Made:
    return sae(p), {"site": "resid_post.3"}, r"resid_post\.3 was asked for, and .* is of resid_post\.2"


@bad
def another_layer_by_number(p: Path) -> Made:
    return files.gemma_scope(p).folder, {"layer": 3}, "no dictionary with layer 3"


@bad
def another_hash(p: Path) -> Made:
    return sae(p), {"sha256": "0" * 64}, r"has the sha256 [0-9a-f]{64}"


@bad
def shapes_that_disagree(p: Path) -> Made:
    return sae(p, change={"b_enc": np.zeros(N + 1, np.float32)}), {}, r"b_enc \(41,\) has 41 latents"


@bad
def a_transposed_decoder(p: Path) -> Made:
    return sae(p, change={"W_dec": np.ascontiguousarray(files.draws(0)["W_dec"].T)}), {}, "W_dec.*latents"


@bad
def a_flat_encoder(p: Path) -> Made:
    return sae(p, change={"W_enc": np.zeros(D * N, np.float32)}), {}, r"W_enc has the shape \(480,\)"


@bad
def empty_arrays(p: Path) -> Made:
    empty = {"W_enc": np.zeros((D, 0), np.float32), "W_dec": np.zeros((0, D), np.float32)}
    return sae(p, change=empty | {"b_enc": np.zeros(0, np.float32)}, d_sae=None), {}, "is empty"


@bad
def whole_numbers_as_weights(p: Path) -> Made:
    return sae(p, change={"W_enc": np.ones((D, N), np.int32)}), {}, "W_enc holds I32"


@bad
def whole_numbers_in_npz(p: Path) -> Made:
    return npz(p, lambda a: a.update(W_enc=np.ones((D, N), np.int64))), {}, "W_enc holds int64"


@bad
def whole_numbers_in_pt(p: Path) -> Made:
    return state(p, tensors() | {"b_dec": torch.ones(D, dtype=torch.int64)}), {}, "b_dec holds int64"


@bad
def a_missing_key(p: Path) -> Made:
    return sae(p, drop="b_dec"), {}, "lacks b_dec; it holds"


@bad
def a_key_that_nobody_knows(p: Path) -> Made:
    return sae(p, change={"W_skip": np.ones((D, D), np.float32)}), {}, "holds 'W_skip', which this format does not have"


@bad
def a_configuration_of_another_size(p: Path) -> Made:
    return sae(p, d_in=4096), {}, "its configuration says 4096"


@bad
def more_kept_than_there_are(p: Path) -> Made:
    return files.sparsify(p, k=N + 1).folder, {}, "k = 41 of 40 latents"


@bad
def k_that_is_no_number(p: Path) -> Made:
    return files.sparsify(p, k="many").folder, {}, "k = 'many'"


@bad
def a_threshold_that_was_never_set(p: Path) -> Made:
    folder = state(p, tensors() | {"k": torch.tensor(5), "threshold": torch.tensor(-1.0)})
    config = json.loads((folder / "config.json").read_text())
    config["trainer"]["dict_class"] = "BatchTopKSAE"
    (folder / "config.json").write_text(json.dumps(config))
    return folder, {}, "threshold -1: its training never set one"


@bad
def two_different_k(p: Path) -> Made:
    return files.dictionary_learning(p, k=9).folder, {}, r"ae\.pt has k = 5, and config\.json k = 9"


# ---------------------------------------------------------------- conventions that are not supported


@bad
def tokens_normalised_one_by_one(p: Path) -> Made:
    return sae(p, normalize_activations="layer_norm"), {}, "normalises every token by itself"


@bad
def a_factor_that_is_not_in_the_files(p: Path) -> Made:
    return sae(p, normalize_activations="expected_average_only_in"), {}, "give input_scale="


@bad
def an_unknown_architecture(p: Path) -> Made:
    return sae(p, architecture="temporal"), {}, "unknown SAELens architecture.*'temporal'"


@bad
def an_unknown_class(p: Path) -> Made:
    return files.dictionary_learning(p, dict_class="CrossCoder").folder, {}, "unknown dict_class"


@bad
def signed_activations(p: Path) -> Made:
    return files.sparsify(p, signed=True).folder, {}, "signed topk"


# ---------------------------------------------------------------- files that would run something


@bad
def a_malicious_pt(p: Path) -> Made:
    return state(p, tensors() | {"extra": Bomb(p / CANARY)}), {}, "holds more than tensors.*nothing of it was run"


@bad
def a_malicious_old_pt(p: Path) -> Made:
    old = state(p, Bomb(p / CANARY), _use_new_zipfile_serialization=False)
    return old, {}, r"no whole \.pt file.*nothing of it was run"


@bad
def a_bare_pickle_named_pt(p: Path) -> Made:
    folder = files.dictionary_learning(p).folder
    (folder / "ae.pt").write_bytes(pickle.dumps(Bomb(p / CANARY)))
    return folder, {}, "nothing of it was run"


@bad
def a_whole_module_in_pt(p: Path) -> Made:
    return state(p, torch.nn.Linear(D, N)), {}, "holds more than tensors"


@bad
def a_pickled_npy(p: Path) -> Made:
    objects = np.empty(1, dtype=object)
    objects[0] = Bomb(p / CANARY)
    return npz(p, lambda a: a.update(W_enc=objects), pickled=True), {}, "holds pickled objects.*nothing of it was run"


@bad
def a_pickle_inside_a_zip(p: Path) -> Made:
    return entry(p, "W_enc.npy", pickle.dumps(Bomb(p / CANARY))), {}, "no whole .npz file"


@bad
def a_pickle_named_safetensors(p: Path) -> Made:
    folder = sae(p)
    (folder / "sae_weights.safetensors").write_bytes(pickle.dumps(Bomb(p / CANARY)))
    return folder, {}, "no whole safetensors file"


# ---------------------------------------------------------------- files that are broken or a trap


@bad
def a_truncated_safetensors(p: Path) -> Made:
    path = sae(p) / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    return p, {}, "no whole safetensors file"


@bad
def a_safetensors_of_three_bytes(p: Path) -> Made:
    (sae(p) / "sae_weights.safetensors").write_bytes(b"abc")
    return p, {}, "no whole safetensors file"


@bad
def a_huge_header(p: Path) -> Made:
    (sae(p) / "sae_weights.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}" * 50)
    return p, {}, "header claims 1152921504606846976 bytes"


@bad
def a_header_that_promises_too_much(p: Path) -> Made:
    text = json.dumps({"W_enc": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 64]}}).encode()
    (sae(p) / "sae_weights.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    return p, {}, "no whole safetensors file"


@bad
def an_empty_weight_file(p: Path) -> Made:
    (sae(p) / "sae_weights.safetensors").write_bytes(b"")
    return p, {}, "is empty"


@bad
def a_zip_bomb(p: Path) -> Made:
    data = header("(50000, 1000)") + bytes(200_000_000)
    return entry(p, "W_enc.npy", data, zipfile.ZIP_DEFLATED), {}, "looks like a zip bomb"


@bad
def a_shape_larger_than_its_bytes(p: Path) -> Made:
    return entry(p, "W_enc.npy", header("(1000000000, 1000000000)") + bytes(64)), {}, "declares the shape"


@bad
def a_negative_shape(p: Path) -> Made:
    return entry(p, "W_enc.npy", header("(-5, 8)") + bytes(64)), {}, "declares the shape|no whole .npz"


@bad
def a_truncated_npz(p: Path) -> Made:
    folder = npz(p)
    path = next(folder.rglob("params.npz"))
    path.write_bytes(path.read_bytes()[:-300])
    return folder, {}, r"no whole \.npz file"


@bad
def a_flipped_byte_in_npz(p: Path) -> Made:
    folder = npz(p)
    path = next(folder.rglob("params.npz"))
    data = bytearray(path.read_bytes())
    data[700] ^= 0xFF
    path.write_bytes(bytes(data))
    return folder, {}, r"no whole \.npz file"


@bad
def an_entry_that_climbs_out(p: Path) -> Made:
    return entry(p, "../../W_enc.npy", b"x"), {}, "holds an entry"


@bad
def a_pt_of_an_expanded_number(p: Path) -> Made:
    return state(p, tensors() | {"encoder.weight": torch.zeros(1).expand(100_000, 100_000)}), {}, "declares"


@bad
def a_sparse_tensor(p: Path) -> Made:
    return (
        state(p, tensors() | {"encoder.weight": torch.zeros(N, D).to_sparse()}),
        {},
        "no plain tensor|more than tensors",
    )


@bad
def a_list_in_pt(p: Path) -> Made:
    return state(p, [torch.zeros(3)]), {}, "holds a list"


@bad
def a_compressed_pt(p: Path) -> Made:
    folder = files.dictionary_learning(p).folder
    with zipfile.ZipFile(folder / "ae.pt") as old:
        parts = {i.filename: old.read(i) for i in old.infolist()}
    with zipfile.ZipFile(folder / "ae.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for key, value in parts.items():
            new.writestr(key, value)
    return folder, {}, "compressed archive|zip bomb"


@bad
def a_configuration_without_end(p: Path) -> Made:
    (sae(p) / "cfg.json").write_text('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}")
    return p, {}, "not readable JSON"


@bad
def a_large_configuration(p: Path) -> Made:
    (sae(p) / "cfg.json").write_text('{"a": "' + "x" * (2 << 20) + '"}')
    return p, {}, "a configuration of at most"


@bad
def a_configuration_that_is_a_list(p: Path) -> Made:
    (sae(p) / "cfg.json").write_text("[1, 2]")
    return p, {}, "holds a list"


@bad
def a_configuration_with_nan(p: Path) -> Made:
    (sae(p) / "cfg.json").write_text('{"d_in": NaN}')
    return p, {}, "NaN is no number of JSON"


@bad
def a_configuration_that_is_missing(p: Path) -> Made:
    (sae(p) / "cfg.json").unlink()
    return p, {}, r"has no cfg\.json"


@bad
def a_hook_that_is_no_site(p: Path) -> Made:
    return sae(p, metadata={"sae_lens_version": "6.0.0", "hook_name": ["a"]}), {}, "does not say where"


@bad
def a_link_out_of_the_folder(p: Path) -> Made:
    sae(p / "other")
    sae(p / "mine")
    (p / "mine" / "sae_weights.safetensors").unlink()
    (p / "mine" / "sae_weights.safetensors").symlink_to(p / "other" / "sae_weights.safetensors")
    return p / "mine", {}, "a link that leads out of its folder"


@bad
def a_configuration_linked_from_elsewhere(p: Path) -> Made:
    (p / "secret.json").write_text("{}")
    sae(p / "mine")
    (p / "mine" / "cfg.json").unlink()
    (p / "mine" / "cfg.json").symlink_to(p / "secret.json")
    return p / "mine", {}, "a link that leads out of its folder"


@bad
def a_pipe_instead_of_weights(p: Path) -> Made:
    (sae(p) / "sae_weights.safetensors").unlink()
    os.mkfifo(p / "sae_weights.safetensors")
    return p, {}, "no ordinary file"


@bad
def a_folder_without_weights(p: Path) -> Made:
    (sae(p) / "sae_weights.safetensors").unlink()
    return p, {}, "holds no dictionary"


@bad
def another_format_than_it_is(p: Path) -> Made:
    return sae(p) / "sae_weights.safetensors", {"format": "gemma_scope", "site": "resid_post.2"}, "lacks threshold"


@bad
def an_unknown_format(p: Path) -> Made:
    return sae(p), {"format": "saelen"}, "unknown dictionary format 'saelen'; did you mean 'saelens'"


@bad
def a_npy_file(p: Path) -> Made:
    np.save(p / "weights.npy", np.zeros((3, 4), np.float32))
    return p / "weights.npy", {}, "no file whose format is known"


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_by_name(case: str, tmp_path: Path):
    source, options, message = BAD[case](tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_dictionary(source, **options)
    assert not list(tmp_path.rglob(CANARY)), "something in the file was run"
    assert "Traceback" not in str(caught.value)


def test_the_bombs_are_real(tmp_path: Path):
    """What is refused above would have run: unpickling a bomb does make the canary."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / CANARY)))
    assert (tmp_path / CANARY).exists()
    assert len(BAD) >= 20


def test_nothing_is_read_before_its_size_is_known(tmp_path: Path, monkeypatch):
    """Of a bomb not one entry is opened, and a file beyond the limit is not allocated."""
    source, _, message = BAD["a zip bomb"](tmp_path)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *a, **k: pytest.fail("an entry was opened"))
    with pytest.raises(UserError, match=message):
        load_dictionary(source)
    monkeypatch.undo()
    monkeypatch.setattr(reading, "MAX_WEIGHTS", 1000)
    with pytest.raises(UserError, match="declares more than"):
        load_dictionary(sae(tmp_path / "b"))


def test_a_good_file_beside_the_bad_ones_loads(tmp_path: Path):
    """The helpers of the bad files make good ones when they change nothing."""
    import hashlib

    folder = sae(tmp_path / "a")
    digest = hashlib.sha256((folder / "sae_weights.safetensors").read_bytes()).hexdigest()
    whole = load_dictionary(folder, sha256=digest, d_model=D)
    assert load_dictionary(folder, sha256=whole.fingerprint).fingerprint == whole.fingerprint
    scaled = sae(tmp_path / "s", normalize_activations="expected_average_only_in")
    assert load_dictionary(scaled, input_scale=2.0).encoder_bias == pytest.approx(whole.encoder_bias / 2, rel=1e-5)
    load_dictionary(npz(tmp_path / "b"))
    load_dictionary(state(tmp_path / "c", tensors()))
    buffer = io.BytesIO()
    np.save(buffer, files.draws(1)["W_enc"])
    load_dictionary(entry(tmp_path / "d", "W_enc.npy", buffer.getvalue(), zipfile.ZIP_DEFLATED))
