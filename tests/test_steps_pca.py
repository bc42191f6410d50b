"""pca: files as promised, planted directions found and beside their control, zero effects counted, the report whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.report.resolve import check
from gnomon.report.sections import make_section
from gnomon.step import Cost, Planning
from gnomon.steps.pca import LAYERS, NEURONS, Pca
from gnomon.store import Artifact
from tests import causal_study
from tests.second_order_study import Numbers, made_second_order
from tests.stepping import data_files, made


def run(study: Path, source: Artifact, name: str = "pca", **options) -> Artifact:
    return made(Pca(**options), study, causal_study.spec(), name, {"second_order": [source]})


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Artifact, Artifact]:
    study = tmp_path_factory.mktemp("pca")
    source = made_second_order(study)
    return source, run(study, source)


def test_files_are_those_of_the_materialised_effects(planted):
    source, pca = planted
    neurons, rows = pca.table("neurons"), source.table("rows")
    assert list(neurons.columns) == NEURONS.names
    fit = np.asarray(rows["split"] == "fit")
    arrays = {name: np.asarray(pca.array(name), dtype=np.float64) for name in pca.arrays()}
    s, n, d, k = len(neurons), len(rows), 24, 20
    shapes = {"pca": (s, d), "mean": (s, d), "evr": (s,), "top": (s, k), "norm": (s, k), "norms": (s, n)}
    assert {name: a.shape for name, a in arrays.items()} == shapes | {"projection": (s, n)}
    for i, line in neurons.iterrows():
        coef = source.array(f"coef_layer{line['layer']}")[:, line["slot"]].astype(np.float64)
        phi = coef @ source.array(f"basis_layer{line['layer']}")[line["slot"]].astype(np.float64)
        centred = phi - phi[fit].mean(0)
        assert arrays["mean"][i] == pytest.approx(phi[fit].mean(0), abs=1e-5)
        assert arrays["norms"][i] == pytest.approx(np.linalg.norm(centred, axis=1), rel=1e-5)
        assert arrays["projection"][i] == pytest.approx(centred @ arrays["pca"][i], abs=1e-4)
        top = arrays["top"][i].astype(int)
        assert fit[top].all()
        assert arrays["norm"][i] == pytest.approx(arrays["norms"][i][top])
        assert (np.diff(arrays["norm"][i]) <= 0).all()
        assert arrays["norm"][i][-1] >= np.delete(arrays["norms"][i], top)[fit[np.delete(np.arange(n), top)]].max()
        share = np.linalg.svd(centred[top], compute_uv=False) ** 2
        assert line["evr"] == pytest.approx(share[0] / share.sum(), rel=1e-6)
        held = np.asarray(rows["split"] == "test")
        assert line["evr_test"] == pytest.approx(
            (arrays["projection"][i][held] ** 2).sum() / (arrays["norms"][i][held] ** 2).sum(), rel=1e-4
        )
        assert line["mean_norm"] == pytest.approx(np.linalg.norm(phi[fit].mean(0)), rel=1e-5)
    assert (neurons["positive_share"] >= 0.5).all()
    assert (neurons["sign"] == 1).all()


def test_a_planted_direction_beats_shuffled_heads(planted):
    """Coefficients of all heads rise together in the study; without that (strong 0) share and control are alike."""
    _, pca = planted
    neurons = pca.table("neurons")
    assert neurons["evr"].median() > 0.8
    assert (neurons["evr"] > neurons["control_evr"] + 0.15).mean() >= 0.8
    overall = pca.table("overall").set_index("measure")
    assert overall.loc["top_rows", "p"] == pytest.approx(1 / 20)
    assert overall.loc["test_rows", "value"] > overall.loc["test_rows", "control_high"]
    assert overall.loc["test_rows", "ci_low"] < overall.loc["test_rows", "value"] < overall.loc["test_rows", "ci_high"]
    assert (neurons["ci_low"] <= neurons["evr_test"]).all()
    assert (neurons["evr_test"] <= neurons["ci_high"]).all()
    layers = pca.table("layers")
    assert list(layers.columns) == LAYERS.names
    assert len(layers) == 2 * 3


def test_nothing_planted_is_not_above_the_control(tmp_path):
    pca = run(tmp_path, made_second_order(tmp_path, Numbers(strong=0.0, seed=3)))
    overall = pca.table("overall").set_index("measure")
    for measure in ("top_rows", "test_rows"):
        assert overall.loc[measure, "p"] > 0.05
        assert overall.loc[measure, "value"] < overall.loc[measure, "control_high"] + 0.02


def edited(source: Artifact, study: Path, neurons: list[int]) -> Artifact:
    """A copy of the folder in which these neurons of layer 1 have no effect."""
    shutil.copytree(source.path, study / "edited")
    coef = np.array(source.array("coef_layer1"))
    coef[:, neurons] = 0
    np.save(study / "edited" / "coef_layer1.npy", coef)
    return Artifact(study / "edited")


def test_an_all_zero_effect_is_named_and_counted(planted, tmp_path):
    source, _ = planted
    pca = run(tmp_path, edited(source, tmp_path, [2]))
    neurons = pca.table("neurons")
    assert neurons.index[neurons["zero"]].tolist() == [2]
    assert not np.asarray(pca.array("pca"))[2].any()
    assert np.isnan(neurons.loc[2, ["evr", "evr_test", "ci_low", "control_evr"]].astype(float)).all()
    assert neurons.loc[2, "sign"] == 0
    assert np.isfinite(np.asarray(pca.array("projection"))).all()
    warnings = [s.text for s in make_section(pca, {}, strict=True).sentences("warning")]
    assert len(warnings) == 1
    assert warnings[0].startswith("1 neurons have an effect that is the same in every fit row")
    assert pca.table("overall")["neurons"].tolist() == [15] * 3


def test_effects_that_are_all_zero_are_refused(tmp_path):
    source = made_second_order(tmp_path, Numbers(layers=(1,)))
    with pytest.raises(UserError, match="effects of all 8 neurons are the same in every fit row"):
        run(tmp_path, edited(source, tmp_path, list(range(8))))


def test_fewer_rows_than_components_is_refused(tmp_path):
    source = made_second_order(tmp_path, Numbers(rows=30))
    with pytest.raises(UserError, match="15 rows in fit; at least k = 20"):
        run(tmp_path, source)
    assert run(tmp_path, source, k=10).table("neurons")["k"].tolist() == [10] * 16
    plan = Planning(causal_study.spec(), 0, {"second_order": Cost(rows=30, splits={"fit": 15, "tune": 3, "test": 12})})
    with pytest.raises(UserError, match="15 rows in fit"):
        Pca().check(plan)
    Pca(k=10).check(plan)
    assert Pca().cost(plan).memory_bytes > 0


def test_the_section_of_the_report_is_made_whole(planted):
    _, pca = planted
    assert check(Pca().summary(pca), pca) == []
    headline = make_section(pca, {}, strict=True).sentences("headline")[0].text
    assert "48.2% for CLIP ViT-B/32" in headline
    assert "95% interval" in headline
    assert pca.meta["ledger"][0]["split"] == "test"


def test_the_same_seed_gives_the_same_bytes(planted, tmp_path):
    source, pca = planted
    assert data_files(run(tmp_path, source)) == data_files(pca)
