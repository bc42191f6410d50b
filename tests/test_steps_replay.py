"""replay: measured changes are those of plain forwards, predicted ones their derivatives; planted pathways are
validated and absent ones are not; resuming, class means, refusals, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from gnomon.cli_show import sentences
from gnomon.dictionaries.base import canonical
from gnomon.dictionaries.shelf import Shelf
from gnomon.errors import UserError
from gnomon.latents import Latent, latent_name
from gnomon.lens.feature_sources import Source
from gnomon.methods.agree_tables import agreement_rows
from gnomon.methods.chain_tables import AGREEMENT, PATHWAYS, REPLAY
from gnomon.paths.replay import Replayer, Replaying
from gnomon.paths.replay_plan import ACTIVITY, Activity, Leg, kept_pathways, stands_for
from gnomon.report.resolve import check
from gnomon.step import Cost, Planning
from gnomon.steps.replay import Replay
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer
from tests import pathway_study as small
from tests.stepping import data_files, made
from tests.tiny import tiny_model

# ---------------------------------------------------------------- one text


def shelf_of(model: Any, sites: tuple[str, ...], latents: int = 40) -> Shelf:
    """Random dictionaries in which about a third of the latents is active."""

    def load(site: str) -> Any:
        rng = np.random.default_rng(Site.parse(site).layer)
        rows, width = rng.standard_normal((latents, model.site_shape(site))), model.site_shape(site)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return canonical(site, rows.T, np.full(latents, -0.3), rows, np.zeros(width))

    return Shelf([Source(s, s, lambda s=s: load(s)) for s in sites], item=8)


class Set:
    """The same edit for a plain forward: latent j moved to a value where it is active, a share of the way."""

    def __init__(self, dictionary: Any, leg: Leg, places: Any, share: float = 1.0) -> None:
        self.site, self.where, self.strength = leg.source.site, places, 1.0
        self.dictionary, self.leg, self.share = dictionary, leg, share

    def edit(self, x, rows, positions):
        z = self.dictionary.encode(x)[:, self.leg.source.index]
        move = torch.where(z > 1e-6, self.leg.set_to - z, 0.0) * self.share
        return x + move[:, None] * torch.tensor(self.dictionary.decoder[self.leg.source.index], dtype=x.dtype)


@pytest.mark.parametrize(("family", "low", "high", "last_only"), [
    ("llama", "resid_post.0", "resid_post.2", False), ("gpt_neox", "mlp_out.1", "resid_post.3", True),
    ("gpt2", "attn_out.1", "mlp_out.2", False), ("gemma3", "resid_post.1", "attn_out.3", False),
])  # fmt: skip
def test_measured_is_a_plain_forward_and_predicted_its_derivative(family, low, high, last_only, monkeypatch):
    monkeypatch.setattr("gnomon.methods.feature_latents.MASSIVE", 1e9)
    model = tiny_model(family, dtype="float64")
    tokens = [int(t) for t in np.random.default_rng(3).integers(3, 250, size=9)]
    shelf, a, b = shelf_of(model, (low, high)), Site.parse(low), Site.parse(high)
    legs = [Leg(0, -1, Latent(a, u), Latent(b, v), to) for u in range(12) for v in (0, 7) for to in (0.0, 2.0)]
    with model.exact():
        found = Replayer(model, shelf, last_only=last_only, chunk=3).replay(tokens, legs)
        assert len(found) >= 12
        where = (len(tokens) - 1,) if last_only else "all"

        def value(leg: Leg, share: float) -> float:
            out = model.forward([tokens], read=[b], edit=[Set(shelf[low], leg, where, share)] if share else [])
            return float(shelf[high].pre(out.acts[b][0, -1], [leg.target.index])[0])

        for one in found[::5]:
            clean, step = value(one.leg, 0), 1e-4
            assert one.measured == pytest.approx(value(one.leg, 1) - clean, rel=1e-8, abs=1e-10)
            slope = (value(one.leg, step) - value(one.leg, -step)) / (2 * step)
            assert one.predicted == pytest.approx(slope, rel=1e-5, abs=1e-8)
            assert one.target == pytest.approx(max(clean, 0.0), abs=1e-9)
        assert max(abs(one.measured) for one in found) > 0.05
        assert max(abs(one.measured - one.predicted) for one in found) > 1e-3


def test_a_source_that_is_not_active_is_not_replayed_and_a_patch_of_nothing_changes_nothing():
    model = tiny_model("llama")
    shelf = shelf_of(model, ("resid_post.0", "resid_post.2"))
    tokens = [5, 9, 30, 11, 7]
    replayer = Replayer(model, shelf)
    low, high = Site.parse("resid_post.0"), Site.parse("resid_post.2")
    legs = [Leg(u, -1, Latent(low, u), Latent(high, 3), 0.0) for u in range(40)]
    found = replayer.replay(tokens, legs)
    on = (shelf["resid_post.0"].encode(model.forward([tokens], read=[low]).acts[low][0]) > 1e-6).any(0)
    assert {one.leg.source.index for one in found} <= set(on.nonzero()[:, 0].tolist())
    assert 0 < len(found) < 40
    assert replayer.rounding < 1e-5


# ---------------------------------------------------------------- the plan


def activity(lines: list[tuple[int, int, int, float, float]], rows: list[int]) -> Activity:
    table = [dict(zip(ACTIVITY.names, (r, "resid_post.0", *rest), strict=True)) for r, *rest in lines]
    table += [dict(zip(ACTIVITY.names, (r, "resid_post.2", 1, 1, 1.0, 1.0), strict=True)) for r in (3, 4)]
    return Activity(pa.Table.from_pylist(table, schema=ACTIVITY).to_pandas(), rows)


def test_rows_in_which_the_target_is_active_come_first():
    known = activity([(r, 5, 2, 1.0, 0.5) for r in (1, 2, 3, 4)] + [(2, 6, 0, 0.0, 1.0)], [4, 2, 1, 3])
    source, target = Latent.parse("L0-5"), Latent.parse("L2-1")
    everything = frozenset((1, 2, 3, 4))
    assert known.rows_for(source, target, 3, everything) == [4, 3, 2]
    assert known.rows_for(source, target, 3, frozenset((1, 2))) == [2, 1]
    assert known.rows_for(Latent.parse("L0-6"), target, 3, everything) == []
    assert known.rows_for(Latent.parse("L9-6"), target, 3, everything) == []


def test_random_latents_are_active_as_often_and_fewer_where_few_are():
    lines = [(r, u, 1, float(u), 0.0) for u in range(1, 9) for r in range(1, u + 1)]
    known = activity(lines, list(range(1, 9)))
    paths = pd.DataFrame({"source_site": ["resid_post.0"] * 3, "source": [4, 5, 30],
                          "source_name": ["L0-4", "L0-5", "L0-30"]})  # fmt: skip
    found, fewest = stands_for(paths, known, 10, 0)
    assert fewest == 6
    assert set(found) == {("resid_post.0", 4), ("resid_post.0", 5)}
    assert sorted(found["resid_post.0", 4].tolist()) == [1, 2, 3, 6, 7, 8]
    assert stands_for(paths, activity([], [1]), 10, 0)[0] == {}


def edges(pairs: list[tuple[str, str]], kind: str = "total") -> pa.Table:
    lines = []
    for rank, (low, high) in enumerate(pairs):
        line: dict[str, Any] = {"kind": kind, "attribution": 1.0, "rank": rank + 1}
        for end, one in (("source", Latent.parse(low)), ("target", Latent.parse(high))):
            line |= {f"{end}_site": str(one.site), end: one.index, f"{end}_name": str(one),
                     f"{end}_layer": one.site.layer}  # fmt: skip
        lines.append(line)
    return pa.Table.from_pylist(lines, schema=PATHWAYS)


def test_only_totals_are_replayed_and_the_strongest_of_each_target():
    table = edges([("L0-1", "L3-7"), ("L0-2", "L3-7"), ("L0-3", "L1-2"), ("L0-4", "L3-7")]).to_pandas()
    kept = kept_pathways(table, 2)
    assert [(s, t) for s, t in zip(kept["source_name"], kept["target_name"], strict=True)] == [
        ("L0-3", "L1-2"), ("L0-1", "L3-7"), ("L0-2", "L3-7")]  # fmt: skip
    with pytest.raises(UserError, match="no kind total"):
        kept_pathways(table.assign(kind="dark"), 2)
    assert kept_pathways(table.iloc[:0], 2).empty


# ---------------------------------------------------------------- the step

PLANTED = [latent_name(small.SITES[0], i) for i in small.PLANTED]
ABSENT = [latent_name(small.SITES[0], i) for i in (2, 17, 21, 25)]
TARGET = latent_name(small.SITES[2], small.TARGET)
FEW: dict[str, Any] = {"controls": 12, "draws": 200, "rows": 8, "alpha": 0.1}
"""alpha: the toy dictionary has few latents to compare with, so that no p is small."""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, dict[str, list[Artifact]]]:
    root = tmp_path_factory.mktemp("replay")
    inputs = small.study(root, 240)
    inputs["pathways"] = [pathways(root, [(s, TARGET) for s in PLANTED + ABSENT])]
    return root, inputs


def pathways(root: Path, pairs: list[tuple[str, str]], name: str = "pathways", kind: str = "total") -> Artifact:
    writer = Writer(root, name, name)
    writer.table("pathways", edges(pairs, kind))
    return writer.commit({"step": "pathways", "name": name, "writes": ["pathways"],
                          "options": {"positions": "last", "at": "last_prompt"}})  # fmt: skip


def run(study: tuple[Path, dict[str, list[Artifact]]], name: str, more: dict[str, list[Artifact]] | None = None,
        **options: Any) -> Artifact:  # fmt: skip
    root, inputs = study
    return made(Replay(**(FEW | options)), root, small.spec(), name, inputs | (more or {}))


@pytest.fixture(scope="module")
def replayed(study) -> Artifact:
    return run(study, "replay")


def facts(artifact: Artifact) -> dict[str, Any]:
    table = artifact.table("facts")
    return {f: t or v for f, v, t in zip(table["fact"], table["value"], table["text"], strict=True)}


def test_planted_pathways_are_validated_and_absent_ones_are_not(replayed):
    table = replayed.table("agreement")
    assert list(table.columns) == AGREEMENT.names
    assert list(replayed.table("replay").columns) == REPLAY.names
    paths = table.loc[table["scope"] == "pathway"].set_index("source_name")
    assert paths.loc[PLANTED, "validated"].all()
    assert not paths.loc[ABSENT, "validated"].any()
    assert (paths.loc[PLANTED, "pearson"] > 0.95).all()
    assert (paths.loc[PLANTED, "control_measured"] < 0.2 * paths.loc[PLANTED, "measured"].abs()).all()
    signs = np.sign(paths.loc[PLANTED, "measured"])
    assert (signs == -np.sign(list(small.PLANTED.values()))).all()  # what adds to the target is taken away
    assert set(table["scope"]) == {"pathway", "all", "controls", "layers", "layer controls"}
    told = facts(replayed)
    assert (told["pathways"], told["validated"], told["split"]) == (7, 3, "test")
    assert told["rounding"] < 1e-5


def test_only_held_out_rows_are_used_and_the_ledger_says_so(study, replayed):
    rows = study[1]["generations"][0].table("generations").set_index("row")
    lines = replayed.table("replay")
    assert set(rows.loc[lines["row"], "split"]) == {"test"} == set(lines["split"])
    assert (
        lines.groupby(["pathway", "source"])["group"].nunique() == lines.groupby(["pathway", "source"]).size()
    ).all()
    assert lines.groupby(["pathway", "source"]).size().max() <= FEW["rows"]
    assert [(r["split"], r["rows"]) for r in replayed.meta["ledger"]] == [("test", 48)]
    random = lines.loc[lines["control"]]
    assert not set(random["source_name"]) & set(PLANTED + ABSENT)
    assert set(random["matches"]) <= set(PLANTED + ABSENT)
    assert (lines["position"] == rows.loc[lines["row"], "prompt_len"].to_numpy() - 1).all()


def test_killed_and_resumed_it_is_the_same(study, replayed, monkeypatch):
    calls, work = [], Replaying.__call__

    def dying(self: Replaying, shard: Any) -> None:
        calls.append(shard[0])
        if len(calls) in (2, 9):
            raise KeyboardInterrupt
        work(self, shard)

    monkeypatch.setattr(Replaying, "__call__", dying)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(study, "broken")
    again = run(study, "broken")
    assert calls[:4] == [0, 1, 1, 2]
    assert calls.count(0) == 1
    assert data_files(again) == data_files(replayed)


def test_class_means_are_those_of_the_other_class(study):
    inputs = study[1]
    artifact = run(study, "means", to="class_mean", controls=3)
    means = inputs["features"][0].table("separations").set_index("name")
    lines, label = artifact.table("replay"), inputs["generations"][0].table("generations").set_index("row")["label"]
    active = artifact.table("activity").query("tokens > 0 and site == @small.SITES[0]")
    typical = {latent_name(small.SITES[0], int(str(u))): float(part["total"].to_numpy().mean())
               for u, part in active.groupby("latent")}  # fmt: skip
    known = [n for n in PLANTED + ABSENT if n in means.index]
    assert set(lines.loc[~lines["control"], "source_name"]) <= set(known)
    for line in lines.to_dict("records"):
        name = line["matches"] or line["source_name"]
        other = means.loc[name, "second_mean" if label[line["row"]] else "first_mean"]
        share = typical[line["source_name"]] / typical[name]
        assert line["control"] or share == 1
        assert line["set_to"] == pytest.approx(share * other)
    assert facts(artifact)["to"] == "the other class's mean"
    with pytest.raises(UserError, match="no table separations"):
        run(study, "means_missing", {"features": [inputs["generations"][0]]}, to="class_mean")


def test_no_verdict_from_too_few_rows_of_a_class(study, tmp_path):
    inputs = small.study(tmp_path, 120) | {"pathways": [pathways(tmp_path, [(PLANTED[0], TARGET)])]}
    artifact = run((tmp_path, inputs), "replay")
    assert True not in artifact.table("agreement")["validated"].tolist()
    said = [text for _, text in sentences(artifact)]
    assert said[0].startswith("No conclusion: ")
    assert "20 are needed" in said[0]
    assert check(Replay().summary(artifact), artifact) == []


def test_the_report_says_what_agreement_is_worth(study, replayed):
    assert check(Replay().summary(replayed), replayed) == []
    said = " ".join(text for _, text in sentences(replayed))
    assert "3 of 7 pathways are validated" in said
    assert "not that a pathway matters" in said
    without = run(study, "uncontrolled", controls=0)
    assert check(Replay().summary(without), without) == []
    assert True not in without.table("agreement")["validated"].tolist()
    assert "nothing says which pathways matter" in " ".join(text for _, text in sentences(without))


def test_nothing_to_replay_is_said(study):
    root, _ = study
    none = run(study, "none", {"pathways": [pathways(root, [], "no_pathways")]})
    assert "no pathway to replay" in " ".join(text for _, text in sentences(none))
    silent = run(study, "silent", {"pathways": [pathways(root, [("L0-31", TARGET)], "silent_pathways")]}, scan=3)
    lines = silent.table("agreement")
    for artifact in (none, silent):
        assert check(Replay().summary(artifact), artifact) == []
        assert list(artifact.table("replay").columns) == REPLAY.names
    assert len(lines.loc[lines["scope"] == "pathway"]) == 1


def test_what_cannot_be_replayed_is_refused(study):
    root = study[0]
    cost = Cost(100, 10_000, 300, splits={"fit": 50, "tune": 10, "test": 40})
    told = {"generations": cost, "pathways": cost, "features": cost}
    plan = Planning(small.spec(), 0, told)
    with pytest.raises(UserError, match="no dictionary"):
        Replay().check(plan)
    Replay(dictionary={"resid_post.0": "a"}).check(plan)
    Replay().check(Planning(small.spec(), 0, told | {"dictionary": cost}))
    Replay().check(Planning(small.spec(), 0, told, {"pathways": {"dictionary": {"resid_post.0": "a"}}}))
    with pytest.raises(UserError, match="unknown site"):
        Replay(dictionary={"resid_pots.0": "a"}).check(plan)
    with pytest.raises(UserError, match="split 'test'"):
        Replay(dictionary="a").check(Planning(small.spec(), 0, {"generations": Cost(10, splits={"fit": 10})}))
    with pytest.raises(UserError, match="positions: all"):
        Replay(dictionary="a", to="class_mean", positions="all").check(plan)
    with pytest.raises(UserError, match="another model than that of pathways"):
        Replay(dictionary="a").check(Planning(small.spec(), 0, told, {}, {"pathways": "other"}))
    with pytest.raises(UserError, match="no kind total"):
        run(study, "dark", {"pathways": [pathways(root, [("L0-1", TARGET)], "dark_pathways", "dark")]})
    with pytest.raises(UserError, match=r"resid_post\.2"):
        run(study, "no_site", {"pathways": [pathways(root, [("L0-1", "L2-3")], "other_site")]})
    with pytest.raises(UserError, match="budget"):
        run(study, "poor", budget_gb=1e-9)
    assert not (root / "dark").exists()


def test_the_cost_grows_with_what_is_asked():
    source = {"generations": Cost(100, 6000, 300, splits={"fit": 50, "tune": 10, "test": 40})}
    last = Planning(small.spec(), 0, source, {"pathways": {"positions": "last", "targets": ["L3-7"]}})
    less, more = Replay(top=2).cost(last), Replay(top=20).cost(last)
    assert 0 < less.forward_tokens < more.forward_tokens
    assert Replay(positions="all").cost(last).forward_tokens > Replay().cost(last).forward_tokens
    assert less.rows == 40


def test_agreement_of_pathways_by_hand():
    paths = pd.DataFrame([{"source_name": f"L0-{i}", "target_name": "L3-7", "source_layer": 0, "target_layer": 3}
                          for i in range(2)])  # fmt: skip
    lines = []
    for row in range(5):
        for source, control, size in ((1, False, 2.0 + row), (50, True, 0.5), (51, True, -0.5)):
            lines.append({"pathway": 0, "source_name": f"L0-{source}", "set_to": 0.0, "source_activation": 1.0,
                          "control": control, "group": f"g{row}", "source_layer": 0,
                          "target_layer": 3, "target_activation": float(row > 0), "predicted": size,
                          "measured": size})  # fmt: skip
    made = pd.DataFrame(lines)
    found, against = agreement_rows(paths, made, alpha=0.5, draws=200, seed=0)
    assert (against.drawn, against.fewest(0.5)) == (2, 1)
    first, second = found[:2]
    assert (first["n"], first["measured"], first["control_measured"], first["ratio"]) == (5, 4.0, 0.5, 8.0)
    assert first["p"] == pytest.approx(1 / 3)
    assert first["validated"] is True
    assert first["note"] == "in 1 of 5 rows the target is not active: its pre-activation was measured"
    assert (second["n"], second["validated"]) == (0, False)
    assert "no held-out row" in second["note"]
    assert agreement_rows(paths, made, alpha=0.5, draws=200, seed=0, why_not="few")[0][0]["validated"] is False
    up = made.assign(set_to=np.where(made["group"] < "g2", 2.0, 0.0))  # rows that are moved the other way
    for c in ("predicted", "measured"):
        up[c] = np.where(made["group"] < "g2", -made[c], made[c])
    assert agreement_rows(paths, up, alpha=0.5, draws=200, seed=0)[0][0] == first
