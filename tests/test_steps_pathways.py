"""pathways as a step: planted edges are found and absent ones are not, kinds add up, it resumes, costs and refusals."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gnomon.blocks import Text
from gnomon.dictionaries import of_step
from gnomon.dictionaries.base import canonical
from gnomon.dictionaries.save import save_dictionary
from gnomon.dictionaries.shelf import dictionary_bytes
from gnomon.errors import UserError
from gnomon.methods.chain_tables import CAUSAL, PATHWAYS, PROMPTS
from gnomon.methods.pathway_edges import FEWEST, edges
from gnomon.paths.pathway_work import Tracing, found_sources
from gnomon.report.resolve import check
from gnomon.step import Context, Cost, Inputs, Planning
from gnomon.steps.pathways import Pathways
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests.pathway_study import PLANTED, SITES, TARGET, D, dictionary, spec, study, trained, unshift
from tests.stepping import data_files, made

PLANT = f"L3-{TARGET}"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, list[Artifact]]:
    return study(tmp_path_factory.mktemp("pathways"))


@pytest.fixture(scope="module")
def whole(inputs) -> Artifact:
    step = Pathways(targets=(PLANT, "L3-2", "L1-4"), shard_targets=1)
    return made(step, inputs["features"][0].path.parent, spec(), "whole", inputs)


def run(inputs: dict[str, list[Artifact]], name: str, **options: Any) -> Artifact:
    return made(Pathways(**options), inputs["features"][0].path.parent, spec(), name, inputs)


def of(artifact: Artifact, target: str, site: str = SITES[0], kind: str = "total") -> Any:
    table = artifact.table("pathways")
    return table.loc[
        (table["target_name"] == target) & (table["source_site"] == site) & (table["kind"] == kind)
    ].set_index("source")


def test_planted_edges_are_found_and_absent_ones_are_not(whole):
    found = of(whole, PLANT)
    assert set(found.sort_values("rank").index[:2]) == {5, 9}
    share = found["share"]
    absent = share.drop([i for i in PLANTED if i in share.index]).abs()
    assert len(absent) >= 5, "nothing else was active: an empty law"
    assert share[9] > 5 * absent.max()
    # by way of SITES[1], whose latents are the same basis in another order
    middle = of(whole, PLANT, SITES[1])
    assert set(middle.sort_values("rank").index[:2]) == {unshift(5), unshift(9)}
    assert found["share"][5] == pytest.approx(middle["share"][unshift(5)], rel=0.1)


def test_a_feature_that_reads_one_latent_comes_from_that_one(whole):
    found = of(whole, "L3-2")
    assert found["rank"].idxmin() == 2
    assert found["share"][2] > 10 * found["share"].drop(2).abs().max()


def test_the_gradient_is_the_planted_weight(inputs):
    found = of(run(inputs, "last", targets=PLANT, positions="last", kinds="total"), PLANT)
    scale = found["gradient"][5] / PLANTED[5]
    assert scale == pytest.approx(1, abs=0.1)
    assert found["gradient"][9] == pytest.approx(PLANTED[9] * scale, rel=0.1)


def test_the_tables_keep_the_promises_of_their_schema(whole):
    table: Any = whole.table("pathways")
    assert [*PATHWAYS.names] == list(table.columns[: len(PATHWAYS.names)])
    assert set(table["kind"]) == {"total", "mediated", "dark"}, "with one dictionary between nothing is mixed"
    wide = table.loc[table["source_site"] == SITES[0]].pivot(
        index=["target_name", "source"], columns="kind", values="attribution"
    )
    wide = wide.loc[[PLANT, "L3-2"]]
    np.testing.assert_allclose(wide["total"], wide["mediated"] + wide["dark"], atol=1e-5)
    assert abs(wide.loc[(PLANT, 5), "mediated"]) > 20 * abs(wide.loc[(PLANT, 5), "dark"])
    near = table.loc[table["source_site"] == SITES[1]]
    assert set(near["kind"]) == {"total"}, "nothing lies between these"
    total = table.loc[table["kind"] == "total"]
    assert total.groupby("target_name")["rank"].apply(lambda r: sorted(r) == list(range(1, len(r) + 1))).all()
    sizes = total.sort_values("rank").groupby("target_name")["share"].apply(lambda s: s.abs().is_monotonic_decreasing)
    assert sizes.all()
    assert total.groupby("target_name").size().max() == 25
    np.testing.assert_allclose(total["share"], total["attribution"] / total["target_activation"])
    assert ((total["ci_low"] <= total["attribution"]) & (total["attribution"] <= total["ci_high"])).all()


def test_prompts_are_those_of_fit_where_a_target_is_strongest_one_a_group(whole, inputs):
    from tests.pathway_study import latents

    prompts = whole.table("prompts")
    assert list(prompts.columns) == PROMPTS.names
    rows = inputs["generations"][0].table("generations").set_index("row")
    mine = prompts.loc[prompts["name"] == PLANT].sort_values("rank")
    z: Any = pd.Series(latents(SITES[2])[:, TARGET])
    fit: Any = z[(rows["split"] == "fit").to_numpy()]
    best = fit.sort_values(ascending=False).index
    wanted = list(dict.fromkeys(rows.loc[i, "group"] for i in best))[:8]
    assert [rows.loc[r, "group"] for r in mine["row"]] == wanted
    np.testing.assert_allclose(mine["activation"], z[mine["row"].to_numpy()], rtol=1e-4)
    assert (mine["position"].to_numpy() == rows.loc[mine["row"], "prompt_len"].to_numpy() - 1).all()


def test_what_was_not_captured_is_run(inputs, whole, tmp_path):
    bare = {k: v for k, v in inputs.items() if k != "activations"}
    again = made(Pathways(targets=(PLANT, "L3-2", "L1-4"), shard_targets=1), tmp_path, spec(), "bare", bare)
    assert again.table("prompts")["row"].tolist() == whole.table("prompts")["row"].tolist()
    pd.testing.assert_frame_equal(again.table("pathways"), whole.table("pathways"))


def test_targets_are_causal_ones_else_the_strongest(inputs, tmp_path):
    def causal(name: str, verdict: bool) -> Artifact:
        line = dict.fromkeys(CAUSAL.names) | {"name": "L3-2", "site": SITES[2], "is_causal": verdict}
        writer = Writer(tmp_path, name, name)
        writer.table("causal", pa.Table.from_pylist([line], schema=CAUSAL))
        return writer.commit({"step": "patch_features", "name": name, "writes": ["causal_features"], "options": {}})

    few: dict[str, Any] = {"kinds": "total", "strongest": 2, "prompts": 2}
    found = {
        "none": made(Pathways(**few), tmp_path, spec(), "none", inputs),
        "no": made(Pathways(**few), tmp_path, spec(), "no", inputs | {"causal_features": [causal("c0", False)]}),
        "yes": made(Pathways(**few), tmp_path, spec(), "yes", inputs | {"causal_features": [causal("c1", True)]}),
    }
    targets = {k: set(a.table("targets")["target_name"]) for k, a in found.items()}
    ranked = inputs["features"][0].table("separations")
    best = set(ranked.loc[(ranked["rank"] <= 2) & (ranked["site"] != SITES[0]), "name"])
    assert targets == {"none": best, "no": best, "yes": {"L3-2"}}
    said = {k: a.table("facts").set_index("fact").loc["chosen", "text"] for k, a in found.items()}
    assert "no patching" in said["none"]
    assert "none causal" in said["no"]
    assert said["yes"] == "those that patching found causal"
    assert np.isnan(found["yes"].table("pathways")["ci_low"].to_numpy()).all(), (
        f"no interval of fewer than {FEWEST} prompts"
    )


def test_thresholds_and_top(inputs, whole):
    few = of(run(inputs, "few", targets=PLANT, top=3), PLANT)
    assert len(few) + len(of(whole, PLANT, SITES[1]).head(0)) <= 3
    high = run(inputs, "high", targets=PLANT, min_share=0.05).table("pathways")
    total: Any = whole.table("pathways").query("kind == 'total' and target_name == @PLANT")
    assert len(high.loc[high["kind"] == "total"]) == int((total["share"].abs() >= 0.05).sum()) == 4
    steep = run(inputs, "steep", targets=PLANT, min_gradient=0.4).table("pathways")
    assert set(steep["source_name"]) == set(total.loc[total["gradient"].abs() >= 0.4, "source_name"])
    none = run(inputs, "nothing", targets=PLANT, min_gradient=50)
    assert len(none.table("pathways")) == 0
    assert check(Pathways().summary(none), none) == []


def test_a_prototype_traces_one_and_says_what_all_would_take(inputs, whole):
    one = run(inputs, "one", prototype=PLANT)
    assert set(one.table("targets")["target_name"]) == {PLANT}
    pd.testing.assert_frame_equal(
        of(one, PLANT).drop(columns=["ci_low", "ci_high"]), of(whole, PLANT).drop(columns=["ci_low", "ci_high"]),
        rtol=1e-4,
    )  # fmt: skip
    cost = one.table("cost").set_index("what")
    assert cost.loc["measured", "features"] == 1
    assert cost.loc["full run", "pathways"] == 38750
    assert cost.loc["full run", "seconds"] == pytest.approx(1550 * cost.loc["measured", "seconds"])
    assert cost.loc["measured", "peak_bytes"] > 1e8
    assert check(Pathways().summary(one), one) == []
    assert set(run(inputs, "first", prototype=True).table("targets")["target_name"]) < set(
        inputs["features"][0].table("separations")["name"]
    )


def test_dictionaries_stay_within_the_budget(inputs, whole):
    size = dictionary_bytes(D, D)
    tight = run(inputs, "tight", targets=(PLANT, "L3-2", "L1-4"), budget_gb=1.5 * size / 1e9, shard_targets=1)
    measured = tight.table("cost").set_index("what").loc["measured"]
    assert measured["shelf_bytes"] == size
    assert measured["loads"] > whole.table("cost").set_index("what").loc["measured", "loads"]
    assert whole.table("cost").set_index("what").loc["measured", "shelf_bytes"] == 3 * size
    pd.testing.assert_frame_equal(tight.table("pathways"), whole.table("pathways"))


def test_killed_and_resumed_it_is_the_same(inputs, whole, tmp_path, monkeypatch):
    calls, work = [], Tracing.__call__

    def dying(self: Tracing, shard: Any) -> None:
        calls.append(shard[0])
        if len(calls) == 2:
            raise KeyboardInterrupt
        work(self, shard)

    monkeypatch.setattr(Tracing, "__call__", dying)
    step = Pathways(targets=(PLANT, "L3-2", "L1-4"), shard_targets=1)
    with pytest.raises(KeyboardInterrupt):
        made(step, tmp_path, spec(), "broken", inputs)
    again = made(step, tmp_path, spec(), "broken", inputs)
    assert calls == [0, 1, 1, 2], "finished shards are not made again"
    first, second = ({k: v for k, v in data_files(a).items() if k != "cost.parquet"} for a in (again, whole))
    assert first == second


def test_dictionaries_of_a_components_output(inputs, tmp_path):
    rng = np.random.default_rng(0)
    site = "mlp_out.1"
    w = rng.standard_normal((48, D)) / D**0.5
    save_dictionary(canonical(site, w.T, np.full(48, 0.0), w, np.zeros(D)), tmp_path / "mlp")
    for i in (0, 2):
        save_dictionary(dictionary(SITES[i]), tmp_path / f"d{i}")
    given = {SITES[0]: str(tmp_path / "d0"), site: str(tmp_path / "mlp"), SITES[2]: str(tmp_path / "d2")}
    bare = {k: v for k, v in inputs.items() if k != "dictionary"}
    found = made(Pathways(targets="L3-2", dictionary=given, top=200), tmp_path, spec(), "mlp", bare).table("pathways")
    assert set(found["source_site"]) == {SITES[0], site}
    assert found.loc[found["source_site"] == site, "source_name"].str.startswith("mlp_out.1-").all()
    wide = found.loc[found["source_site"] == SITES[0]].pivot(index="source", columns="kind", values="attribution")
    np.testing.assert_allclose(wide["total"], wide["mediated"] + wide["dark"], atol=1e-5)
    assert wide["mediated"].abs().max() < 0.1 * wide["total"].abs().max(), "a quiet MLP carries little of the stream"


def test_the_report_resolves_and_says_what_may_not_be_concluded(whole, inputs, tmp_path):
    blocks = Pathways().summary(whole)
    assert check(blocks, whole) == []
    assert any("replay" in b.text for b in blocks if isinstance(b, Text) and b.kind == "limit")
    small = study(tmp_path, 60)
    short = made(Pathways(targets=PLANT, kinds=("total",), prompts=3), tmp_path, spec(), inputs=small)
    first: Any = Pathways().summary(short)[0]
    assert first.text.startswith("No conclusion")
    assert check(Pathways().summary(short), short) == []


def test_intervals_are_those_of_resampled_prompts():
    rows, rng = np.arange(12), np.random.default_rng(0)
    a = rng.standard_normal(12) + 1
    line = {"target": "L3-1", "source_site": SITES[0], "source": 4, "source_name": "L0-4", "rank": 1, "kind": "total"}
    traces = pd.DataFrame([line | {"row": int(r), "attribution": a[r], "source_activation": 2.0} for r in rows])
    traced = pd.DataFrame({"target": "L3-1", "row": rows, "activation": 4.0, "candidates": 1})
    groups = {int(r): f"g{r}" for r in rows}
    found = edges(traces, traced, groups, {"L0-4"}, ("total",), 4000, 0).iloc[0]
    assert found["attribution"] == pytest.approx(a.mean())
    assert found["gradient"] == pytest.approx(a.mean() / 2)
    assert found["share"] == pytest.approx(a.mean() / 4)
    spread = 2.201 * a.std(ddof=1) / 12**0.5  # t(.975; 11)
    assert found["ci_high"] - found["ci_low"] == pytest.approx(2 * spread, rel=0.1)
    assert bool(found["listed"])
    few = {int(r): f"g{r // 4}" for r in rows}
    assert np.isnan(edges(traces, traced, few, set(), ("total",), 400, 0).iloc[0]["ci_low"])


def test_intervals_of_few_prompts_cover():
    """Of 200 edges whose prompts are drawn about 1, 95% of the intervals hold 1 (plain percentiles: 88%)."""
    n, many = 8, 200
    a = np.random.default_rng(1).standard_normal((many, n)) + 1
    lines = [
        {"target": "L3-1", "source_site": SITES[0], "source": e, "source_name": f"L0-{e}", "rank": e + 1,
         "kind": "total", "row": r, "attribution": a[e, r], "source_activation": 1.0}
        for e in range(many) for r in range(n)
    ]  # fmt: skip
    traced = pd.DataFrame({"target": "L3-1", "row": range(n), "activation": 4.0, "candidates": many})
    found = edges(pd.DataFrame(lines), traced, {r: f"g{r}" for r in range(n)}, set(), ("total",), 1000, 0)
    covered = float(((found["ci_low"] <= 1) & (found["ci_high"] >= 1)).to_numpy(dtype=bool).mean())
    assert 0.92 < covered < 0.985


class Travelling:
    """An executor that sends its worker to another process, and back."""

    def processes(self, memory_bytes: int = 0) -> int:
        return 2

    def map(self, worker: Any, shards: Any, watch: Any = None) -> Any:
        there = pickle.loads(pickle.dumps(worker))
        there.open()
        for shard in shards:
            yield shard, there(shard)


def test_a_worker_that_measured_still_travels(inputs, tmp_path, caplog):
    with caplog.at_level("INFO", logger="gnomon"):
        made(Pathways(targets=(PLANT, "L1-4"), prompts=2, shard_targets=1), tmp_path, spec(), "two", inputs,
             executor=Travelling())  # fmt: skip
    assert f"{PLANT} has " in caplog.text, "measured is a target of the highest site"


def test_a_prototype_prints_its_sources_and_costs(inputs, tmp_path, caplog):
    with caplog.at_level("INFO", logger="gnomon"):
        one = made(Pathways(prototype=True, targets=(PLANT, "L3-2")), tmp_path, spec(), "one", inputs)
    edges_of = of(one, PLANT)
    candidates = one.table("targets")["candidates"].iloc[0]
    assert f"{PLANT} has {candidates} upstream candidates, of which 25 are kept: " in caplog.text
    best = edges_of.loc[edges_of["rank"] <= 10]
    assert f"L0-5 {best['share'][5]:.1%}" in caplog.text
    assert "the 2 targets of this study" in caplog.text
    assert "1550 features x 25 pathways" in caplog.text
    cost = one.table("cost").set_index("what")
    assert cost.loc["all targets", "seconds"] == pytest.approx(2 * cost.loc["measured", "seconds"])


def test_no_dictionary_of_a_step_is_loaded_before_it_is_asked_for(inputs, monkeypatch):
    loaded: list[str] = []
    load = of_step.load_dictionary
    monkeypatch.setattr(of_step, "load_dictionary", lambda path, site: loaded.append(site) or load(path, site=site))
    found = found_sources(None, str(inputs["dictionary"][0].path))
    assert [source.site for source in found] == list(SITES)
    assert loaded == []
    assert str(found[1].load().site) == SITES[1]
    assert loaded == [SITES[1]]


def test_a_target_on_a_massive_token_is_not_said_to_be_traced(inputs, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.paths.active.calm", lambda x: np.arange(len(x)) < (len(x) - 1 if len(x) > 7 else 99))
    few = made(Pathways(targets=PLANT, kinds=("total",)), tmp_path, spec(), "massive", inputs)
    every: Any = whole.table("prompts").query("name == @PLANT")
    long = every.loc[every["position"] >= 7, "row"]
    assert len(long), "no text is that long: an empty law"
    assert set(few.table("prompts")["row"]) == set(every["row"]) - set(long)
    assert set(few.table("pathways")["prompts"]) == {len(every) - len(long)}


def test_features_of_the_lowest_site_are_counted(inputs, tmp_path):
    found = made(Pathways(targets="all", kinds=("total",), prompts=1, top=2), tmp_path, spec(), "all", inputs)
    assert found.table("facts").set_index("fact").loc["lowest", "value"] == 10
    assert any("lowest site" in b.text for b in Pathways().summary(found) if isinstance(b, Text))
    with pytest.raises(UserError, match="below L0-3"):
        run(inputs, "lowest", targets=("L0-3", PLANT))


# ---------------------------------------------------------------- refusals


def plan(options: dict[str, Any] | None = None, **inputs: Cost) -> Planning:
    cost = Cost(100, 6000, 300, splits={"fit": 50, "tune": 10, "test": 40})
    known = {"generations": cost, "features": cost} | (inputs or {"dictionary": cost})
    return Planning(spec(), 0, known, {"dictionary": options or {}})


BAD: dict[str, Callable[[], Any]] = {
    "unknown word": lambda: Pathways(targets="causl"),
    "no name": lambda: Pathways(targets=("L3",)),
    "no targets": lambda: Pathways(targets=()),
    "one dictionary": lambda: Pathways(dictionary="somewhere").check(plan()),
    "no dictionary": lambda: Pathways().check(plan(other=Cost())),
    "one site": lambda: Pathways().check(plan({"sites": ["resid_post.1"]})),
    "lowest site": lambda: Pathways(targets="L0-3").check(plan({"sites": list(SITES)})),
    "site without": lambda: Pathways(targets="L2-3").check(plan({"sites": list(SITES)})),
    "no layer": lambda: Pathways().check(plan({"sites": ["resid_post.0", "resid_post.9"]})),
    "small budget": lambda: Pathways(budget_gb=1e-6).check(plan({"sites": list(SITES), "latents": 4096})),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_work_is_refused_before_any_work(what):
    with pytest.raises(UserError) as raised:
        BAD[what]()
    assert raised.value.got


def test_the_plan_knows_memory_and_tokens():
    options = {"sites": list(SITES), "latents": 4096, "k": 16}
    cost = Pathways().cost(plan(options))
    assert cost.rows == 5 * 2 * 8
    assert cost.memory_bytes > 3 * dictionary_bytes(D, 4096)
    tight = Pathways(budget_gb=1.2 * dictionary_bytes(D, 4096) / 1e9)
    assert tight.cost(plan(options)).memory_bytes < cost.memory_bytes - 1.5 * dictionary_bytes(D, 4096)
    assert Pathways(kinds=("total",)).cost(plan(options)).forward_tokens < cost.forward_tokens / 2


@pytest.mark.parametrize(("named", "match"), [("L3-99", "latents 0 to 31"), ("L2-3", "site with a dictionary")])
def test_a_feature_that_is_not_there(inputs, named, match):
    with pytest.raises(UserError, match=match):
        run(inputs, "absent", targets=named)


def test_a_feature_that_never_fires_and_a_dictionary_of_another_model(inputs, tmp_path):
    rows = np.eye(D)
    save_dictionary(canonical(SITES[2], rows, np.full(D, -1e6), rows, np.zeros(D)), tmp_path / "silent")
    save_dictionary(canonical(SITES[2], np.ones((16, 4)), np.zeros(4), np.ones((4, 16)), np.zeros(16)), tmp_path / "o")
    save_dictionary(dictionary(SITES[0]), tmp_path / "low")
    bare = {k: v for k, v in inputs.items() if k != "dictionary"}
    for name, match in (("silent", "active in none"), ("o", "width 16")):
        step = Pathways(targets="L3-2", dictionary={SITES[0]: str(tmp_path / "low"), SITES[2]: str(tmp_path / name)})
        with pytest.raises(UserError, match=match):
            made(step, tmp_path, spec(), f"bad-{name}", bare)
        assert not (tmp_path / f"bad-{name}").exists()


def test_dictionaries_of_two_models_are_refused(inputs, tmp_path):
    given = {}
    for site, name in zip(SITES, ("lab/one", "one", "two"), strict=True):
        save_dictionary(replace(dictionary(site), meta={"model_name": name}), tmp_path / site)
        given[site] = str(tmp_path / site)
    bare = {k: v for k, v in inputs.items() if k != "dictionary"}
    with pytest.raises(UserError, match=r"made for one, that of .* for two"):
        made(Pathways(targets=PLANT, dictionary=given), tmp_path, spec(), "mixed", bare)
    given.pop(SITES[2])
    kept = made(Pathways(targets="L1-4", dictionary=given, kinds=("total",)), tmp_path, spec(), "same", bare)
    assert SITES[0] in kept.table("facts").set_index("fact").loc["other dictionary", "text"]
    assert any("other dictionaries" in b.text for b in Pathways().summary(kept) if isinstance(b, Text))


def test_limits_are_kept_by_the_first_target(inputs, tmp_path):
    for limits, match in (({"minutes": 1e-6}, "minutes"), ({"ram_gb": 1e-3}, "ram_gb")):
        writer = Writer(tmp_path, "limited", str(match))
        with pytest.raises(UserError, match=match):
            Pathways(strongest=2, prompts=2).run(Inputs(inputs), writer, Context(tmp_path, spec(), limits=limits))
        assert not writer.done()


def test_a_dictionary_at_one_site_alone(tmp_path, inputs):
    lone = inputs | {"dictionary": [trained(tmp_path, SITES[:1])]}
    with pytest.raises(UserError, match=r"site with a dictionary|below it"):
        made(Pathways(targets="L3-2"), tmp_path, spec(), "lone", lone)
