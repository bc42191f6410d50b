"""probe: the step on planted generations, end to end: its tables, directions, ledger, report section and refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gnomon.blocks import Text
from gnomon.errors import UserError
from gnomon.methods import logit_lens
from gnomon.methods.linear import difference
from gnomon.report.resolve import check as unresolved
from gnomon.report.resolve import render_text
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning
from gnomon.steps.probe import SCORES, Probe
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests.synthetic import Planted, make_generation, rows, save
from tests.tiny import tiny_folder, tiny_model

QUICK = {"random": 19, "draws": 200, "nested_below": 0, "penalties": (30.0, 300.0)}


def probed(study: Path, *sources: Artifact, name: str = "probe", spec: ModelSpec | None = None, **options) -> Artifact:
    """Run a probe on the first generation; the others are there to be transferred to."""
    step = Probe(**(QUICK | options))
    first, ctx = sources[0], Context(study, spec or ModelSpec("none"), seed=0)
    named = {a.name: a for a in sources[1:]}
    writer = Writer(study, name, name)
    step.run(Inputs({"generations": [first], "activations": [first]}, named), writer, ctx)
    meta = {"step": "probe", "name": name, "options": step.model_dump(mode="json"), "ledger": ctx.ledger}
    return writer.commit(meta)


def section(artifact: Artifact) -> tuple[list[str], list[str]]:
    """Headlines and all other sentences of the report section, after every reference was resolved."""
    blocks = Probe(**artifact.options).summary(artifact)
    assert unresolved(blocks, artifact) == []
    texts = [b for b in blocks if isinstance(b, Text)]
    said = [(b.kind, render_text(b, artifact)) for b in texts]
    return [t for k, t in said if k == "headline"], [t for k, t in said if k != "headline"]


def row(artifact: Artifact, **where) -> pd.Series:
    table = artifact.table("scores")
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, (where, len(table))
    return table.iloc[0]


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Artifact:
    """Right and wrong answers are told apart at resid_post.1, position last; two positions, unparsed answers."""
    study = tmp_path_factory.mktemp("planted")
    source = make_generation(study, n=600, signal=2.0, strength=3.0, unparsed=0.05, positions=("last_prompt", "last"))
    other = make_generation(
        study, n=300, signal=2.0, strength=3.0, name="other", seed=5, positions=("last_prompt", "last")
    )
    return probed(study, source, other, transfer_to="other", save="all")


def test_tables_have_the_declared_columns(planted):
    assert planted.table("scores").columns.tolist() == SCORES.names
    assert SCORES.names[:11] == [
        "generation", "target", "site", "position", "predictor", "control", "split", "metric", "value", "ci_low",
        "ci_high",
    ]  # fmt: skip
    scores = planted.table("scores")
    assert set(scores["control"]) == {"", "shuffled", "random"}
    assert {"difference", "logistic", "baselines", "baselines+logistic", "increment", "prevalence"} <= set(
        scores["predictor"]
    )
    assert not scores[scores["generation"] == "generate"].duplicated(["predictor", "control", "split", "metric"]).any()


def test_the_planted_site_is_chosen_and_saved_first(planted):
    head = planted.directions()[0]
    assert str(head.site) == "resid_post.1"
    chosen = planted.table("scores").query("selected")
    assert set(chosen["site"]) == {"resid_post.1"}
    assert head.meta["predictor"] in set(chosen["predictor"])
    assert head.meta["position"] in set(chosen["position"])
    assert head.meta["orientation"] == "larger means correct"
    assert abs(head.vector[0]) > 2 * np.abs(head.vector[3:]).max()


def test_saved_directions_reproduce_the_scores(planted):
    """A stranger with the npy and the generations finds the number that was reported."""
    source = Artifact(planted.path.parent / "generate")
    table = source.table("generations")
    test = table[(table["split"] == "test") & table["label"].notna()]
    for kind in ("difference", "logistic"):
        direction = next(d for d in planted.directions() if d.meta["predictor"] == kind and "bias" in d.meta)
        x = source.activations(str(direction.site), direction.meta["position"]).at(test["row"].to_numpy())
        s, y = x @ direction.vector + direction.meta["bias"], test["label"].to_numpy(dtype=bool)
        auroc = np.mean(s[y][:, None] > s[~y][None, :])
        told = row(planted, generation="generate", predictor=kind, control="", metric="auroc", split="test")
        assert auroc == pytest.approx(told["value"], abs=1e-6)
        accuracy = np.mean((s > direction.meta["threshold"]) == y)
        told = row(planted, generation="generate", predictor=kind, control="", metric="accuracy", split="test")
        assert accuracy == pytest.approx(told["value"], abs=1e-6)


def test_all_mean_differences_are_saved_where_asked(planted):
    every = [d for d in planted.directions() if d.name.startswith("mean difference")]
    assert len(every) == 6
    source = Artifact(planted.path.parent / "generate")
    table = source.table("generations")
    fit = table[(table["split"] == "fit") & table["label"].notna()]
    x = source.activations(str(every[0].site), every[0].meta["position"]).at(fit["row"].to_numpy())
    want = difference(x, fit["label"].to_numpy(dtype=float))
    np.testing.assert_allclose(every[0].vector, want, atol=1e-6)


def test_every_read_of_test_is_in_the_ledger(planted):
    reasons = [line["why"] for line in planted.meta["ledger"] if line["split"] == "test"]
    assert sum("refitted on fit" in why for why in reasons) == 1
    assert sum("to other" in why for why in reasons) == 2
    assert len(reasons) == 3


def test_the_probe_is_carried_over_frozen(planted):
    for kind in ("difference", "logistic"):
        moved = row(planted, generation="other", predictor=kind, control="", metric="auroc")
        assert moved["value"] > 0.6
        assert moved["n"] == 120
    assert row(planted, generation="other", predictor="increment", metric="auroc")["ci_high"] > 0
    headlines, _ = section(planted)
    assert any("carried over to other" in h for h in headlines)


def test_rows_that_the_probe_has_seen_are_left_out_of_transfer(tmp_path):
    source = make_generation(tmp_path, n=300, signal=2.0)
    table, acts = rows(Planted(n=300, signal=2.0), prefix="g")  # the same questions again
    table["split"] = np.roll(table["split"].to_numpy(), 150)
    again = save(tmp_path, table, acts, "again")
    artifact = probed(tmp_path, source, again, transfer_to=("again",), predictors=("difference",))
    early = source.table("generations").query("split != 'test'")["prompt_hash"]
    fresh = table[(table["split"] == "test") & ~table["prompt_hash"].isin(early)]
    assert 0 < len(fresh) < 120
    moved = row(artifact, generation="again", predictor="difference", control="", metric="auroc")
    assert moved["n"] == len(fresh)
    headlines, _ = section(artifact)
    assert any(f"{len(early)} rows whose prompts it knew were left out" in h for h in headlines)


def test_the_report_says_what_was_found(planted):
    headlines, others = section(planted)
    assert "tells right from wrong answers with AUROC" in headlines[0]
    assert "shuffled labels" in headlines[0]
    assert "random directions" in headlines[0]
    assert "So the activations tell more than these explanations do." in headlines[1]
    assert planted.table("facts").set_index("fact").loc["verdict", "text"] == "pass"
    lost = int(Artifact(planted.path.parent / "generate").table("generations")["label"].isna().sum())
    assert lost > 10
    assert any(f"{lost} rows without a label" in t for t in others)


def test_a_null_generation_is_not_dressed_up(tmp_path):
    artifact = probed(tmp_path, make_generation(tmp_path, n=500, seed=3))
    headlines, _ = section(artifact)
    assert not any("tell more" in h for h in headlines)
    assert artifact.table("facts").set_index("fact").loc["verdict", "text"] != "pass"


def test_few_groups_are_said_to_be_cross_validated(tmp_path):
    artifact = probed(tmp_path, make_generation(tmp_path, n=200, signal=2.0), nested_below=500)
    headlines, others = section(artifact)
    assert "scored by probes chosen and fitted without its fold" in headlines[0]
    assert any("nested cross-validation" in t for t in others)
    assert set(artifact.table("scores").query("selected")["split"]) == {"cv"}
    assert len(artifact.table("folds")) == 5
    assert any("nested cross-validation" in line["why"] for line in artifact.meta["ledger"])
    assert artifact.directions()[0].meta["split"] == "fit"


def test_a_thin_class_warns_in_the_report(tmp_path):
    table, acts = rows(Planted(n=300))
    table["label"] = np.arange(300) % 2 == 0
    test = np.flatnonzero(table["split"] == "test")
    table.loc[test, "label"] = True
    table.loc[test[:3], "label"] = False
    artifact = probed(tmp_path, save(tmp_path, table, acts))
    _, others = section(artifact)
    assert "probe has 3 incorrect rows in split 'test'; 20 are needed for an interval; raise generate.n" in others
    assert np.isnan(row(artifact, predictor="difference", control="", metric="auroc")["ci_low"])


def test_a_real_valued_target_reads_as_one(tmp_path):
    source = make_generation(tmp_path, n=500, encode=1.5)
    artifact = probed(tmp_path, source, target="difficulty", predictors=("ridge",))
    headlines, _ = section(artifact)
    assert "predicts difficulty with rank correlation" in headlines[0]
    assert row(artifact, predictor="ridge", control="", metric="spearman")["ci_low"] > 0.5


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    source = make_generation(tmp_path, n=200, signal=1.0)
    first, second = (probed(tmp_path, source, name=n) for n in ("one", "two"))
    kinds = (".parquet", ".npy")
    digests = [
        {k: v["sha256"] for k, v in a.meta["files"].items() if k.endswith(kinds)} for a in (first, second)
    ]  # fmt: skip
    assert digests[0] == digests[1]
    assert len(digests[0]) >= 6


def test_a_row_without_the_position_is_left_out_everywhere(tmp_path):
    table, acts = rows(Planted(n=300, signal=1.0, positions=("last", "answer")))
    writer = Writer(tmp_path, "generate", "f")
    whole = save(tmp_path / "whole", table, acts)
    shard = writer.shard(0)
    for (site, position), x in acts.items():
        from gnomon.types import Site

        keep = np.arange(300) if position == "last" else np.arange(300)[::2]
        shard.activations(Site.parse(site), position, x[keep], keep, None, "float32")
    shard.finish()
    writer.table("generations", whole.table("generations"))
    source = writer.commit({"step": "generate", "name": "generate", "writes": [], "model": {"n_layers": 3}})
    artifact = probed(tmp_path, source)
    facts = artifact.table("facts").set_index("fact")
    assert facts.loc["rows", "value"] == 150
    assert facts.loc["unread", "value"] == 150


# ---------------------------------------------------------------- refusals


def plan(*sites: str, **others: tuple[str, ...]) -> Planning:
    named = {name: Cost(sites=there) for name, there in others.items()}
    return Planning(ModelSpec(str(tiny_folder("llama"))), 0, {"activations": Cost(sites=sites), **named})


def test_what_cannot_work_is_refused_before_any_work():
    Probe().check(plan("resid_post.1@last"))
    with pytest.raises(UserError, match="no activations with one token a row"):
        Probe().check(plan("resid_post.1@all"))
    with pytest.raises(UserError, match=r"resid_post\.1@last_prompt"):
        Probe(sites="resid_post.1", positions="last_prompt").check(plan("resid_post.1@last"))
    with pytest.raises(UserError, match=r"did you mean 'resid_post\.1'"):
        Probe(sites="resid_pst.1").check(plan("resid_post.1@last"))
    with pytest.raises(UserError, match="many tokens a row"):
        Probe(positions="all").check(plan("resid_post.1@all"))
    with pytest.raises(UserError, match=r"transfer_to: far has no activations at resid_post\.1@last"):
        Probe(transfer_to="far").check(plan("resid_post.1@last", far=("resid_post.2@last",)))
    assert Probe(transfer_to=("a", "b")).needs() == {"transfer_to.0": "a", "transfer_to.1": "b"}


def test_controls_cannot_be_turned_down_below_the_rules():
    for option in ({"permutations": 198}, {"logistic_permutations": 18}, {"random": 18}, {"draws": 100}, {"folds": 2}):
        with pytest.raises(ValueError, match="greater than or equal"):
            Probe(**option)


def test_an_unknown_target_names_the_nearest(tmp_path):
    source = make_generation(tmp_path, n=100)
    with pytest.raises(UserError, match="unknown target 'entrpy'; did you mean 'entropy'"):
        probed(tmp_path, source, target="entrpy")
    with pytest.raises(UserError, match="unknown baseline 'dificulty'; did you mean 'difficulty'"):
        probed(tmp_path, source, baselines=("dificulty",))


def test_every_option_is_described():
    for name, field in Probe.model_fields.items():
        assert field.description, name


# ---------------------------------------------------------------- tokens


def test_the_logit_lens_of_a_tokens_own_direction_is_that_token():
    rng = np.random.default_rng(0)
    unembed, gain = rng.normal(size=(32, 50)), rng.random(32) + 0.5
    for centred in (False, True):
        direction = logit_lens.logit_direction(unembed, gain, centred, [7], [3])
        effects = logit_lens.token_effects(direction, unembed, gain, centred)
        top = [t for side, _, t in logit_lens.extremes(effects, 1) if side == "top"]
        assert top == [7]
        assert effects[3] == effects.min()
        step = 1e-3 * direction / np.linalg.norm(direction)  # the definition, by moving along it

        def logits(x, centred=centred):
            return ((x - x.mean() * centred) * gain) @ unembed

        np.testing.assert_allclose((logits(step) - logits(0 * step)) / 1e-3, effects, rtol=1e-4, atol=1e-5)


def test_tokens_are_listed_and_scored_with_a_model(tmp_path):
    model = tiny_model("llama")
    ids = [40, 60]
    words = [model.token_strings([i])[0] for i in ids]
    assert [model.encode_text(w) for w in words] == [[i] for i in ids]
    table, acts = rows(Planted(n=240, d=model.d_model, signal=0.0, layers=2))
    right = table["label"].to_numpy(dtype=float) - 0.5
    rise = (model.unembed_directions(ids).double().numpy() * [[1], [-1]]).sum(axis=0)
    for x in acts.values():
        x += 3 * right[:, None] * (rise / np.linalg.norm(rise))[None, :]
    source = save(tmp_path, table, acts)
    artifact = probed(
        tmp_path, source, spec=ModelSpec(str(tiny_folder("llama")), device="cpu"),
        tokens={"plus": words[0], "minus": words[1]}, top_tokens=3, predictors=("difference",),
    )  # fmt: skip
    listed = artifact.table("tokens")
    assert set(listed[(listed["side"] == "top")]["id"]) >= {40}
    assert row(artifact, predictor="logit", control="", metric="auroc")["value"] > 0.9
    lens = artifact.directions()[-1]
    assert lens.kind == "logit"
    assert lens.meta["cosine"] > 0.5
    section(artifact)
    with pytest.raises(UserError, match="one token"):
        probed(tmp_path, source, name="p2", spec=ModelSpec(str(tiny_folder("llama")), device="cpu"),
               tokens={"plus": "two words here"})  # fmt: skip


def test_the_report_section_needs_no_torch(planted):
    code = (
        "import sys, gnomon; from gnomon.steps.probe import Probe; "
        f"a = gnomon.open({str(planted.path.parent)!r})['probe']; Probe(**a.options).summary(a); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
