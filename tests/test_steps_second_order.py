"""The step second_order on a planted study of a tiny model: its files are what the definitions say."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gnomon.errors import UserError
from gnomon.lens.lens import Lens
from gnomon.lens.texts import read_texts
from gnomon.lens.worker import LensWorker
from gnomon.methods import second_order as so
from gnomon.report.resolve import check
from gnomon.step import Cost, Planning
from gnomon.steps.second_order import SecondOrder
from gnomon.store import Artifact
from gnomon.types import Direction, Site
from gnomon.writer import Writer
from tests.causal_study import directions, generations, spec
from tests.stepping import InTurn, data_files, made, stopped
from tests.tiny import tiny_model

OPTIONS: dict[str, Any] = {
    "layers": [0, 1, 2], "neurons": 5, "directions": ["difference", "logit_lens", "probe", "texts"], "max_rows": 100,
    "check_rows": 3, "check_neurons": 6, "draws": 200, "effects": True, "total": True,
}  # fmt: skip

RESUMED: dict[str, Any] = {
    "layers": [0, 1], "neurons": 3, "directions": ["difference"], "max_rows": 150, "check_rows": 0, "draws": 200,
}  # fmt: skip


@functools.cache
def study() -> tuple[Path, Artifact, Artifact, Artifact]:
    """generate, probe and second_order, made once."""
    folder = Path(tempfile.mkdtemp())
    rows, found = generations(folder), directions(folder)
    inputs = {"generations": [rows], "directions": [found]}
    return folder, rows, found, made(SecondOrder(**OPTIONS), folder, spec(), inputs=inputs)


def texts_of(artifact: Artifact, rows: Artifact) -> list[list[int]]:
    """The tokens of each row, in the order of the step's own index."""
    model = tiny_model("llama")
    table = rows.table("generations")
    by_row = {t.row: list(t.tokens) for t in read_texts(table, "before_answer", model.encode_text, model.decode)}
    return [by_row[row] for row in artifact.table("rows")["row"]]


def test_scores_are_effects_along_directions():
    _, rows, _, artifact = study()
    model, texts = tiny_model("llama"), texts_of(artifact, rows)
    main = artifact.directions()[0].vector
    table = artifact.table("neurons")
    for layer in (0, 1, 2):
        chosen = table.loc[np.asarray(table["layer"] == layer), "neuron"].to_numpy()
        lens = Lens(model)
        some = [0, 7, 99]
        for i in some:
            factors = lens.capture([texts[i]], [layer])
            phi = so.materialised(lens.circuit, factors, layer).numpy()[0]
            np.testing.assert_allclose(artifact.array(f"scores_layer{layer}")[0, i], phi @ main, atol=1e-4)
            np.testing.assert_allclose(artifact.array(f"effects_layer{layer}")[i], phi[chosen], atol=1e-4)
            coef, base = artifact.array(f"coef_layer{layer}")[i], artifact.array(f"basis_layer{layer}")
            np.testing.assert_allclose(np.einsum("nr,nrd->nd", coef, base), phi[chosen], atol=1e-4)
            np.testing.assert_allclose(artifact.array(f"layer_effect_layer{layer}")[i], phi.sum(0), atol=1e-4)
            np.testing.assert_allclose(artifact.array("output")[i], factors.output[0].numpy(), atol=1e-4)


def test_tokens_sum_to_scores():
    _, _, _, artifact = study()
    rows, table = artifact.table("rows"), artifact.table("neurons")
    for layer in (0, 1, 2):
        chosen = table.loc[np.asarray(table["layer"] == layer), "neuron"].to_numpy()
        own, scores = artifact.array(f"token_scores_layer{layer}"), artifact.array(f"scores_layer{layer}")[0]
        assert len(own) == rows["tokens"].sum()
        for index, start, count in zip(rows["index"], rows["token_start"], rows["tokens"], strict=True):
            np.testing.assert_allclose(own[start : start + count].sum(0), scores[index, chosen], atol=1e-4)


def test_each_row_has_its_own_answer_and_the_probe_its_own_layer():
    _, rows, found, artifact = study()
    model, texts = tiny_model("llama"), texts_of(artifact, rows)
    target = artifact.table("rows")["target_token"].to_numpy()
    names = [d.name for d in artifact.directions()]
    assert names == ["difference", "logit_lens", "probe", "texts"]
    lens = Lens(model)
    factors = lens.capture([texts[4]], [1])
    u = model.unembed[:, target[4]].double() - model.unembed.double().mean(1)
    phi = so.materialised(lens.circuit, factors, 1)[0]
    np.testing.assert_allclose(artifact.array("scores_layer1")[1, 4], phi.double() @ u, atol=1e-4)
    planted = found.directions()[0]
    early = Lens(model, end=planted.site.layer)
    phi = so.materialised(early.circuit, early.capture([texts[4]], [1]), 1)[0]
    want = phi.numpy() @ planted.vector
    np.testing.assert_allclose(artifact.array("scores_layer1")[2, 4], want, atol=1e-4 * np.abs(want).max())
    total = lens.total([texts[4]], [1], artifact.directions()[0].vector)[1][0, 0]
    np.testing.assert_allclose(artifact.array("total_layer1")[0, 4], total.numpy(), atol=1e-4)


def test_a_probe_before_a_layer_gives_it_no_score(tmp_path: Path):
    rows = generations(tmp_path)
    early = Direction(Site("resid_post", 1), np.ones(32), "early", "probe")
    writer = Writer(tmp_path, "probe", "probe")
    writer.directions([early])
    found = writer.commit({"step": "probe", "name": "probe", "options": {}, "writes": ["directions"]})
    step = SecondOrder(layers=[0, 2], neurons=3, directions=["probe", "difference"], max_rows=40, check_rows=2,
                       check_neurons=4, draws=200, mass_rows=0)  # fmt: skip
    artifact = made(step, tmp_path, spec(), inputs={"generations": [rows], "directions": [found]})
    assert np.abs(artifact.array("scores_layer2")[0]).max() == 0
    assert np.abs(artifact.array("scores_layer0")[0]).max() > 0
    assert artifact.table("layers")["mass"].isna().all()
    check(SecondOrder(**artifact.options).summary(artifact), artifact)


def test_masses_are_mean_norms():
    _, _, _, artifact = study()
    layers = artifact.table("layers")
    assert layers["kept"].tolist() == [True, True, True, False]
    assert layers["mass"].iloc[-1] == 0
    assert layers["share"].sum() == pytest.approx(1)
    model, rows = tiny_model("llama"), artifact.table("rows")
    fit = np.flatnonzero(rows["split"] == "fit")
    n = int(layers["rows"].iloc[0])
    sample = fit[:: max(1, len(fit) // n)][:n]
    texts = texts_of(artifact, study()[1])
    lens = Lens(model)
    found = torch.stack(
        [so.materialised(lens.circuit, lens.capture([texts[i]], [1]), 1)[0].norm(dim=-1) for i in sample]
    ).mean(0)
    assert layers["mass"].iloc[1] == pytest.approx(float(found.sum()), rel=1e-4)


def test_gradient_is_the_causal_score():
    _, _, _, artifact = study()
    checks = artifact.table("checks")
    assert set(checks["score"]) == {"second", "direct", "first_and_second", "grad_act", "total"}
    assert set(checks["chosen"]) == {"random", "rank"}
    assert checks["n"].tolist() == [9] * len(checks)
    pearson = checks[(checks["measure"] == "pearson") & (checks["chosen"] == "rank")]
    mean = pearson.groupby("score")["value"].mean()
    assert mean["grad_act"] > mean["second"]
    summary = artifact.table("summary")
    here = summary[(summary["direction"] == "difference") & (summary["layer"] == 1)]
    worth = checks[(checks["layer"] == 1) & (checks["chosen"] == "random") & (checks["score"] == "second")]
    assert set(here["ablation_r"]) == set(worth.loc[worth["measure"] == "pearson", "value"])


def test_summary_is_of_test_rows():
    _, _, _, artifact = study()
    rows, summary = artifact.table("rows"), artifact.table("summary")
    scores = artifact.array("scores_layer2")[0]
    test, fit = (np.asarray(rows["split"] == s) for s in ("test", "fit"))
    here = summary[(summary["direction"] == "difference") & (summary["layer"] == 2)].sort_values("neuron")
    np.testing.assert_allclose(here["mean"], scores[test].mean(0), atol=1e-6)
    np.testing.assert_allclose(here["fit_second"], np.abs(scores[fit]).mean(0), atol=1e-6)
    np.testing.assert_allclose(here["share_of_mass"].sum(), 1)
    assert ((here["ci_low"] <= here["mean"]) & (here["mean"] <= here["ci_high"])).all()
    assert sorted(here.loc[here["selected"], "neuron"]) == sorted(
        artifact.table("neurons").query("layer == 2")["neuron"]
    )
    assert [entry["split"] for entry in artifact.meta["ledger"]] == ["test"]


def test_section():
    _, _, _, artifact = study()
    check(SecondOrder(**artifact.options).summary(artifact), artifact)
    costs = artifact.table("costs").set_index("stage")
    assert costs.loc["scores", "speedup"] > 1
    assert costs.loc["coefs", "materialised_bytes"] == 4 * 100 * 15 * 32


def test_the_last_k_tokens(tmp_path: Path):
    rows = generations(tmp_path)
    more: dict[str, Any] = {"layers": [1], "neurons": 3, "directions": "difference", "max_rows": 40, "check_rows": 0,
                            "mass_rows": 0, "draws": 200}  # fmt: skip
    import pandas as pd

    writer = Writer(tmp_path, "neurons", "neurons")
    writer.table("neurons", pd.DataFrame({"layer": 1, "neuron": np.arange(48), "rank": np.arange(1, 49)}))
    ranked = writer.commit({"step": "neurons", "name": "neurons", "options": {}, "writes": ["neurons"]})
    checked, both = more | {"check_rows": 4, "check_neurons": 8}, {"generations": [rows], "neurons": [ranked]}
    told = [
        made(SecondOrder(**checked, **gate), tmp_path, spec(), f"told{i}", both).table("checks")
        for i, gate in enumerate(({}, {"tokens": "last_k", "last_k": 1}, {"tokens": "last_k", "last_k": 99}))
    ]
    direct = [c[(c["score"] == "direct") & (c["measure"] == "slope")]["value"].to_numpy() for c in told]
    assert np.abs(direct[0] - direct[1]).max() > 1e-3, "direct effects are the same, the real ablations are gated too"
    np.testing.assert_allclose(direct[0], direct[2])
    every = made(SecondOrder(**more), tmp_path, spec(), "every", {"generations": [rows]})
    some = made(SecondOrder(**more, tokens="last_k", last_k=1), tmp_path, spec(), "some", {"generations": [rows]})
    index = every.table("rows")
    ends = (index["token_start"] + index["read_at"]).to_numpy()
    same = every.table("neurons")["neuron"].tolist() == some.table("neurons")["neuron"].tolist()
    if same:
        np.testing.assert_allclose(
            some.array("token_scores_layer1")[ends], every.array("token_scores_layer1")[ends], atol=1e-5
        )
    others = np.setdiff1d(np.arange(len(some.array("token_scores_layer1"))), ends)
    assert np.abs(some.array("token_scores_layer1")[others]).max() == 0
    check(SecondOrder(**some.options).summary(some), some)  # without ablations it says so


def test_neurons_and_layers_come_from_earlier_steps(tmp_path: Path):
    import pandas as pd

    rows = generations(tmp_path)
    writer = Writer(tmp_path, "neurons", "neurons")
    writer.table(
        "neurons", pd.DataFrame({"layer": [1, 1, 1, 3, 3], "neuron": [9, 4, 7, 1, 2], "rank": [2, 1, 3, 1, 2]})
    )
    ranked = writer.commit({"step": "neurons", "name": "neurons", "options": {}, "writes": ["neurons"]})
    step = SecondOrder(neurons=2, directions=["difference"], max_rows=40, check_rows=0, mass_rows=0, draws=200)
    artifact = made(step, tmp_path, spec(), inputs={"generations": [rows], "neurons": [ranked]})
    table = artifact.table("neurons")
    assert table["layer"].tolist() == [1, 1]  # layer 3 is the last
    assert table["neuron"].tolist() == [4, 9]
    writer = Writer(tmp_path, "ranked", "ranked")
    writer.table("neurons", pd.DataFrame({"layer": [1], "neuron": [999], "rank": [1]}))
    wrong = writer.commit({"step": "neurons", "name": "ranked", "options": {}, "writes": ["neurons"]})
    with pytest.raises(UserError, match="ranks neurons up to 999"):
        made(step, tmp_path, spec(), "again", {"generations": [rows], "neurons": [wrong]})


def test_workers_do_not_matter(tmp_path: Path):
    rows = generations(tmp_path)
    step = SecondOrder(layers=[1], neurons=3, directions=["difference"], max_rows=100, check_rows=0, draws=200)
    one = made(step, tmp_path, spec(), "one", {"generations": [rows]})
    two = made(step, tmp_path, spec(), "two", {"generations": [rows]}, executor=InTurn())
    assert {k: v for k, v in data_files(one).items() if "costs" not in k} == {
        k: v for k, v in data_files(two).items() if "costs" not in k
    }


@pytest.mark.parametrize("after", [2, 5])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, after: int):
    """Stopped among the outputs, and among the scores: finished shards are kept, and the files come out equal."""
    rows = generations(tmp_path)
    whole = made(SecondOrder(**RESUMED), tmp_path, spec(), "whole", {"generations": [rows]})
    with stopped(LensWorker, after):
        made(SecondOrder(**RESUMED), tmp_path, spec(), "cut", {"generations": [rows]})
    seen: list[int] = []
    real = LensWorker.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LensWorker, "__call__", lambda self, job: (seen.append(job[0]), real(self, job))[1])
        cut = made(SecondOrder(**RESUMED), tmp_path, spec(), "cut", {"generations": [rows]})
    assert min(seen) == after
    files = [{k: v for k, v in data_files(a).items() if "costs" not in k} for a in (whole, cut)]
    assert files[0] == files[1]


def plan(**splits: int) -> Planning:
    source = Cost(rows=100, prompt_tokens=900, splits=splits or {"fit": 50, "test": 50})
    return Planning(spec(), 0, {"generations": source})


@pytest.mark.parametrize(("options", "match"), [
    ({"layers": [7]}, "holds 7"), ({"layers": [3]}, "the last layer"), ({"layers": [-1]}, "holds -1"),
    ({}, "no earlier"), ({"layers": [0], "directions": ["probe"]}, "holds probe"),
    ({"layers": [0], "directions": []}, "each once"),
    ({"layers": []}, "is empty"),
])  # fmt: skip
def test_bad_options_are_refused_before_any_work(options: dict[str, Any], match: str):
    with pytest.raises(UserError, match=match):
        SecondOrder(**options).check(plan())
    with pytest.raises(UserError, match="rows in split 'test'"):
        SecondOrder(layers=[0]).check(plan(fit=100, test=0))


def test_a_direction_of_another_model_is_refused(tmp_path: Path):
    rows = generations(tmp_path)
    writer = Writer(tmp_path, "probe", "probe")
    writer.directions([Direction(Site("resid_post", 1), np.ones(48), "wide", "probe")])
    found = writer.commit({"step": "probe", "name": "probe", "options": {}, "writes": ["directions"]})
    step = SecondOrder(layers=[0], directions=["probe"], max_rows=40)
    with pytest.raises(UserError, match="48 numbers"):
        made(step, tmp_path, spec(), inputs={"generations": [rows], "directions": [found]})


def test_the_cost_is_told():
    cost = SecondOrder(**OPTIONS).cost(plan())
    assert cost.forward_tokens > 900
    whole = sum(a.nbytes for name in study()[3].arrays() if (a := study()[3].array(name)).ndim > 1)
    assert 0.5 < cost.disk_bytes / whole < 2
