"""Every layout against its family's own formula in float64; what is saved reads back; collections; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gnomon.dictionaries import check_dictionary, load_dictionary, require_fit, save_dictionary
from gnomon.dictionaries.base import SparseDictionary
from gnomon.dictionaries.check import measure
from gnomon.errors import UserError
from tests import dictionary_files as files


def agree(dictionary: SparseDictionary, run: files.Run) -> None:
    x = files.activations()
    wanted, rebuilt = run(x)
    z = dictionary.encode(torch.from_numpy(x))
    assert np.array_equal(z.numpy() > 0, wanted > 0), "the same latents fire"
    assert z.numpy() == pytest.approx(wanted, rel=1e-5, abs=1e-5 * np.abs(wanted).max())
    made = dictionary.decode(z).numpy()
    assert np.linalg.norm(made - rebuilt) <= 1e-5 * np.linalg.norm(rebuilt)
    assert (wanted > 0).any(0).sum() > 10, "the sample tests something"


@pytest.mark.parametrize("layout", files.LAYOUTS)
def test_a_layout_computes_what_its_family_computes(layout: str, tmp_path: Path):
    reference = files.LAYOUTS[layout](tmp_path)
    found = load_dictionary(reference.folder)
    assert str(found.site) == reference.site
    assert found.format == reference.format == layout.split()[0]
    assert np.linalg.norm(found.decoder.astype(np.float64), axis=1) == pytest.approx(np.ones(files.N), abs=1e-6)
    agree(found, reference.run)
    assert all(check.passed for check in check_dictionary(found))


@pytest.mark.parametrize("layout", files.LAYOUTS)
def test_what_is_saved_reads_back(layout: str, tmp_path: Path):
    reference = files.LAYOUTS[layout](tmp_path / "a")
    first = load_dictionary(reference.folder)
    second = load_dictionary(save_dictionary(first, tmp_path / "b"))
    agree(second, reference.run)
    assert (second.site, second.k, second.activation) == (first.site, first.k, first.activation)
    assert second.scale == pytest.approx(first.scale, rel=1e-6)
    assert json.loads((tmp_path / "b" / "cfg.json").read_text())["metadata"]["gnomon"]["format"] == first.format


def test_a_scale_is_recorded_and_float32_agrees(tmp_path: Path):
    reference = files.saelens(tmp_path)
    found, w = load_dictionary(tmp_path), files.draws(0)
    assert found.scale == pytest.approx(files.lengths(w["W_dec"]), rel=1e-6)
    x = files.activations().astype(np.float32)
    z = found.encode(torch.from_numpy(x))
    assert z.dtype == torch.float32
    assert z.numpy() == pytest.approx(reference.run(x.astype(np.float64))[0], rel=1e-4, abs=1e-4)
    some = found.pre(torch.from_numpy(x), [3, 7])
    assert some.numpy() == pytest.approx(found.pre(torch.from_numpy(x))[:, [3, 7]].numpy(), abs=1e-5)
    error = found.error(torch.from_numpy(x))
    assert (error + found.decode(z)).numpy() == pytest.approx(x, abs=1e-5)


def test_a_dead_latent_stays_dead(tmp_path: Path):
    files.saelens(tmp_path)
    w = files.draws(0)
    w["W_dec"][4] = 0
    from safetensors.numpy import save_file

    save_file({k: w[k] for k in ("W_enc", "W_dec", "b_enc", "b_dec")}, tmp_path / "sae_weights.safetensors")
    found = load_dictionary(tmp_path)
    assert not found.decoder[4].any()
    assert found.scale is not None
    assert found.scale[4] == 1
    with pytest.raises(UserError, match=r"latent 4 .* decodes to nothing"):
        found.direction(4)
    assert found.direction(5).norm == pytest.approx(1, abs=1e-6)


def test_half_precision_weights_are_read(tmp_path: Path):
    from safetensors.torch import save_file

    files.sparsify(tmp_path)
    w = files.draws(4)
    half = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    whole = load_dictionary(tmp_path)
    save_file(
        {k: torch.tensor(v).bfloat16().contiguous() for k, v in half.items()}, tmp_path / "layers.5" / "sae.safetensors"
    )
    found = load_dictionary(tmp_path)
    assert found.encoder == pytest.approx(whole.encoder, abs=0.05)
    assert found.fingerprint != whole.fingerprint


# ---------------------------------------------------------------- which one


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    for layer, l0 in ((4, 9), (4, 20), (12, 9)):
        root = files.gemma_scope(tmp_path, layer=layer, l0=l0).folder
    return root


def test_a_collection_is_asked_for_one(collection: Path):
    assert str(load_dictionary(collection, layer=12).site) == "resid_post.12"
    assert load_dictionary(collection, layer=4, l0=20).meta["expected_l0"] == 20
    assert load_dictionary(collection, path="layer_4/canonical/average_l0_9").meta["expected_l0"] == 9
    assert str(load_dictionary(collection, site="resid_post.12").site) == "resid_post.12"
    single = collection / "layer_12/canonical/average_l0_9/params.npz"
    assert str(load_dictionary(single).site) == "resid_post.12"
    with pytest.raises(UserError, match=r"holds 3 dictionaries.*layer_4/canonical/average_l0_9, .*average_l0_20"):
        load_dictionary(collection)
    with pytest.raises(UserError, match=r"holds 2 dictionaries"):
        load_dictionary(collection, layer=4)
    with pytest.raises(UserError, match=r"no dictionary with layer 5; there is layer_4"):
        load_dictionary(collection, layer=5)
    with pytest.raises(UserError, match="no dictionary with l0 33"):
        load_dictionary(collection, layer=4, l0=33)
    with pytest.raises(UserError, match="no dictionary with width 16384"):
        load_dictionary(collection, layer=4, width="16k")
    with pytest.raises(UserError, match="leads out of"):
        load_dictionary(collection, path="../other")
    with pytest.raises(UserError, match="no dictionary at 'layer_9'"):
        load_dictionary(collection, path="layer_9")


def test_a_width_that_the_folder_names_must_be_true(tmp_path: Path):
    root = files.gemma_scope(tmp_path, width="width_16k").folder
    with pytest.raises(UserError, match=r"has 40 latents, and its configuration says 16384"):
        load_dictionary(root)


def test_hookpoints_and_llama_folders_are_chosen(tmp_path: Path):
    for name in ("layers.5", "layers.5.mlp"):
        files.sparsify(tmp_path, name)
    assert str(load_dictionary(tmp_path, path="layers.5.mlp").site) == "mlp_out.5"
    for layer in (3, 15):
        files.llama_scope(tmp_path / "llama", layer=layer)
    assert str(load_dictionary(tmp_path / "llama", layer=15).site) == "resid_post.15"
    weights = tmp_path / "llama" / "Llama3_1-8B-Base-L3R-8x" / "checkpoints" / "final.safetensors"
    assert str(load_dictionary(weights).site) == "resid_post.3"


def test_a_hub_id_is_downloaded_and_then_a_folder(tmp_path: Path, monkeypatch):
    import huggingface_hub

    snapshot = tmp_path / "models--google--gemma-scope-2b-pt-res" / "snapshots" / "abc"
    for l0 in (9, 20):
        files.gemma_scope(tmp_path / "made", l0=l0)
    blobs = snapshot.parent.parent / "blobs"
    asked: list[list[str]] = []

    def fetch(repo: str, revision: str | None = None, allow_patterns: list[str] | None = None, **more) -> str:
        assert repo == "google/gemma-scope-2b-pt-res"
        assert revision == "v1"
        asked.append(allow_patterns or [])
        for index, name in enumerate(n for n in allow_patterns or [] if n.endswith(".npz")):
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            blobs.mkdir(exist_ok=True)
            source = tmp_path / "made" / "gemma-scope-2b-pt-res" / name
            (blobs / str(index)).write_bytes(source.read_bytes())
            (snapshot / name).unlink(missing_ok=True)
            (snapshot / name).symlink_to(blobs / str(index))
        return str(snapshot)

    names = [f"layer_4/canonical/average_l0_{l0}/params.npz" for l0 in (9, 20)]
    monkeypatch.setattr(
        huggingface_hub.HfApi, "list_repo_files", lambda self, repo, revision=None: ["README.md", *names]
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    found = load_dictionary("google/gemma-scope-2b-pt-res", revision="v1", layer=4, l0=20)
    assert [n for n in asked[0] if n.endswith(".npz")] == [names[1]], "only the dictionary that was named is fetched"
    assert (str(found.site), found.meta["release"]) == ("resid_post.4", "gemma-scope-2b-pt-res")
    with pytest.raises(UserError, match=r"holds 2 dictionaries.*average_l0_9"):
        load_dictionary("google/gemma-scope-2b-pt-res", revision="v1", layer=4)
    inner = "google/gemma-scope-2b-pt-res/layer_4/canonical/average_l0_20"
    assert load_dictionary(inner, revision="v1").fingerprint == found.fingerprint


def test_a_hub_id_without_a_hub_is_an_error():
    with pytest.raises(UserError, match=r"owner/nothing.*not on this machine"):
        load_dictionary("owner/nothing")
    with pytest.raises(UserError, match="no dictionary at /nowhere"):
        load_dictionary("/nowhere/at-all")


# ---------------------------------------------------------------- site and model


def test_a_site_is_derived_or_given_and_never_contradicted(tmp_path: Path):
    files.saelens(tmp_path)
    assert str(load_dictionary(tmp_path, site="resid_post.2").site) == "resid_post.2"
    assert str(load_dictionary(tmp_path, site="resid_pre.3").site) == "resid_pre.3", "the same stream by its other name"
    with pytest.raises(UserError, match=r"site resid_post\.5 was asked for, and .* is of resid_post\.2"):
        load_dictionary(tmp_path, site="resid_post.5")
    with pytest.raises(UserError, match="layer 9 was asked for"):
        load_dictionary(tmp_path / "sae_weights.safetensors", layer=9)
    unnamed = files.sparsify(tmp_path / "named").folder.rename(tmp_path / "mine")
    with pytest.raises(UserError, match=r"does not say where its activations come from.*give site="):
        load_dictionary(unnamed)
    assert str(load_dictionary(unnamed, site="mlp_out.1").site) == "mlp_out.1"


def test_a_transcoder_is_refused_by_name(tmp_path: Path):
    files.llama_scope(tmp_path / "a", "TC")
    files.sparsify(tmp_path / "b", transcode=True)
    files.saelens(tmp_path / "c", hook_name="blocks.2.hook_mlp_in", hook_name_out="blocks.2.hook_mlp_out")
    for folder in "abc":
        with pytest.raises(UserError, match="transcoder"):
            load_dictionary(tmp_path / folder)


def test_another_model_is_refused(tmp_path: Path):
    files.saelens(tmp_path)
    found = load_dictionary(tmp_path)
    require_fit(found, "resid_post.2", files.D, 4)
    for site, width, layers, message in (
        ("resid_post.2", files.D + 1, 4, "width 12, and resid_post.2 of tiny has 13"),
        ("resid_post.2", files.D, 2, "tiny has layers 0 to 1"),
        ("resid_post.1", files.D, 4, r"is of resid_post\.2, and resid_post\.1 is wanted"),
    ):
        with pytest.raises(UserError, match=message):
            require_fit(found, site, width, layers, "tiny")
    with pytest.raises(UserError, match="is of width 12, and 2304 is needed"):
        load_dictionary(tmp_path, d_model=2304)


# ---------------------------------------------------------------- the checks


def test_a_sample_shows_whether_a_dictionary_works(tmp_path: Path):
    """Activations that are sums of a few decoder rows: the dictionary whose rows they are explains them."""
    rng = np.random.default_rng(0)
    rows = np.linalg.qr(rng.normal(size=(files.D, files.D)))[0].astype(np.float32)
    z = np.where(rng.random((300, files.D)) < 0.2, rng.uniform(1, 2, (300, files.D)), 0)
    x = (z @ rows).astype(np.float32)
    x[0] *= 500  # a massive token: left out, or it would be most of the variance
    zeros = np.zeros(files.D, np.float32)
    good = SparseDictionary(files_site(), rows.T.copy(), zeros, rows, zeros)
    checks = {c.name: c for c in check_dictionary(good, x)}
    assert checks["L0"].value == pytest.approx((z[1:] > 0).sum(1).mean(), rel=0.05)
    assert checks["unexplained variance"].value < 1e-4
    assert "1 massive" in checks["tokens"].detail
    assert all(c.passed for c in checks.values())
    bad = SparseDictionary(files_site(), -5 * rows.T, zeros, rows, zeros)
    failed = [c.name for c in check_dictionary(bad, x) if not c.passed]
    assert "unexplained variance" in failed or "L0" in failed
    assert measure(good, x).masked == 1


def files_site():
    from gnomon.types import Site

    return Site("resid_post", 2)


def test_a_dictionary_that_does_not_fit_its_sample_is_refused(tmp_path: Path):
    files.saelens(tmp_path)
    with pytest.raises(UserError, match=r"fails.*unexplained variance"):
        load_dictionary(tmp_path, sample=files.activations())
    quiet = files.gemma_scope(tmp_path / "g", l0=9)
    never = np.full((50, files.D), 1e-6) + 1e-7 * files.activations(50)
    load_dictionary(quiet.folder)
    with pytest.raises(UserError, match="fails"):
        load_dictionary(quiet.folder, sample=never)
    loud = files.gemma_scope(tmp_path / "l", l0=900)
    with pytest.raises(UserError, match="its files say 900"):
        load_dictionary(loud.folder, sample=files.activations())
    with pytest.raises(UserError, match="width 12, and the activations are of 7"):
        load_dictionary(tmp_path / "sae_weights.safetensors", sample=np.ones((9, 7), np.float32))
