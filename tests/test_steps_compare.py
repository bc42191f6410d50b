"""compare: planted differences are found, equal models show none, probes transfer where the space is shared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, spearmanr

from gnomon import nulls, stats
from gnomon.blocks import Text
from gnomon.errors import UserError
from gnomon.methods import calibration
from gnomon.methods import comparing as law
from gnomon.methods import comparing_layers as layers
from gnomon.methods import comparing_transfer as transfer
from gnomon.methods.comparing_rows import paired
from gnomon.report.resolve import render_text
from gnomon.step import Context, Inputs, ModelSpec
from gnomon.steps.compare import Compare
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests import synthetic
from tests.confidence_study import Sure, make, rows

FAST = {"draws": 200, "permutations": 199}
ONE, PROMPT = ("last",), ("last_prompt",)


def compare(study: Path, made: dict[str, Artifact], a: str = "base", b: str = "tuned", **options) -> Artifact:
    step = Compare(a=a, b=b, **({} if "draws" in options else FAST), **options)
    generations = {name: made[name] for name in (a, b)}
    passes = [x for x in made.values() if "confidence" in x.tables()]
    named = generations | {p.name: p for p in passes}
    writer = Writer(study, "compare", "fingerprint of compare")
    ctx = Context(study, ModelSpec("none"))
    inputs = Inputs({"confidence": passes, "activations": list(generations.values())}, named)
    step.run(inputs, writer, ctx)
    return writer.commit({"step": "compare", "name": "compare", "options": step.model_dump(mode="json"), "version": 1,
                          "ledger": ctx.ledger, "writes": ["comparison"]})  # fmt: skip


def both(study: Path, first: Sure, second: Sure) -> dict[str, Artifact]:
    return make(study, first, "base") | make(study, second, "tuned")


def cell(artifact: Artifact, table: str = "comparison", column: str = "value", **where) -> float:
    where = {"control": ""} | where
    frame = artifact.table(table)
    mask = pd.concat([frame[k] == v for k, v in where.items()], axis=1).all(axis=1)
    assert mask.sum() == 1, (where, int(mask.sum()))
    return float(frame.loc[mask, column].iloc[0])


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Artifact:
    """The second model knows partly other things, is better and surer, and its space changes from layer 2 on."""
    study = tmp_path_factory.mktemp("changed")
    tuned = Sure(n=300, positions=ONE, drift=0.9, drift_from=2, better=1.5, surer=1.0)
    return compare(study, both(study, Sure(n=300, positions=ONE), tuned))


@pytest.fixture(scope="module")
def same(tmp_path_factory) -> Artifact:
    """The same model again, but for chance: it knows as much of other questions."""
    study = tmp_path_factory.mktemp("same")
    made = both(study, Sure(n=300, positions=()), Sure(n=300, positions=(), drift=1.0))
    return compare(study, made, sites="resid_post.0")


# ---------------------------------------------------------------- answers and confidence


def test_a_better_and_surer_model_is_found(changed):
    assert cell(changed, column="ci_low", metric="accuracy", side="difference", rows="all") > 0
    assert cell(changed, column="p", metric="accuracy", side="difference", rows="all") < 0.02
    shift = {"metric": "confidence", "signal": "self", "side": "difference", "rows": "all"}
    assert cell(changed, column="ci_low", **shift) > 0.05
    assert abs(cell(changed, **(shift | {"control": "swapped"}))) < 0.05


def test_exchangeable_models_show_no_difference(same):
    for metric, signal in (("accuracy", ""), ("confidence", "self"), ("ece", "self"), ("auroc", "self")):
        where = {"metric": metric, "signal": signal, "side": "difference", "rows": "all"}
        assert cell(same, column="ci_low", **where) < 0 < cell(same, column="ci_high", **where), metric
        assert cell(same, column="p", **where) > 0.02, metric


def test_sides_are_the_numbers_of_each_model_alone(changed):
    study = changed.path.parent
    for side, name in (("a", "base"), ("b", "tuned")):
        table = Artifact(study / name).table("generations")
        told = Artifact(study / ("self_" + name)).table("confidence").set_index("row")["confidence"]
        test = table[table["split"] == "test"]
        p, y = told.reindex(test["row"]).to_numpy(), test["label"].to_numpy(dtype=float)
        where = {"signal": "self", "side": side, "rows": "all"}
        assert cell(changed, metric="ece", **where) == pytest.approx(float(calibration.ece(p, y)))
        assert cell(changed, metric="brier", **where) == pytest.approx(float(((p - y) ** 2).mean()))
        assert cell(changed, metric="confidence", **where) == pytest.approx(p.mean())
        assert cell(changed, metric="accuracy", side=side, rows="all") == pytest.approx(y.mean())


def test_flips_and_their_exact_test(changed):
    study = changed.path.parent
    a, b = (Artifact(study / n).table("generations").query("split == 'test'")["label"].to_numpy(bool)
            for n in ("base", "tuned"))  # fmt: skip
    flips = changed.table("flips")
    assert (flips["kind"] == "gained").sum() == (~a & b).sum()
    assert (flips["kind"] == "lost").sum() == (a & ~b).sum()
    assert cell(changed, metric="gained", rows="all") == pytest.approx((~a & b).mean())
    exact = binomtest(int((~a & b).sum()), int((a ^ b).sum())).pvalue
    assert cell(changed, column="p", metric="gained_of_changed", rows="changed") == pytest.approx(exact)


def test_a_swap_of_whole_groups_is_the_null():
    rng = np.random.default_rng(0)
    c, y = rng.random((2, 60)), (rng.random((2, 60)) < 0.5).astype(float)
    pair = law.Pair(c[0], y[0], c[1], y[1], np.repeat(np.arange(20), 3))
    observed, null = law.swapped(law.mean, pair, law.Setting(permutations=400))
    assert observed == pytest.approx(c[1].mean() - c[0].mean())
    groups = (c[1] - c[0]).reshape(20, 3).mean(axis=1)  # the null's variance is that of signed group means
    assert null.std() == pytest.approx(np.sqrt((groups**2).sum()) / 20, rel=0.15)
    assert null.mean() == pytest.approx(0, abs=3 * null.std() / 20)


def test_agreement_is_spearman_beside_shuffled_partners(changed, same):
    study = changed.path.parent
    tables = [Artifact(study / n).table("confidence") for n in ("self_base", "self_tuned")]
    test = [t[t["split"] == "test"]["confidence"].to_numpy() for t in tables]
    where = {"metric": "agreement", "signal": "self", "rows": "all"}
    assert cell(changed, **where) == pytest.approx(spearmanr(*test).statistic)
    assert cell(changed, column="ci_high", **(where | {"control": "shuffled"})) < 0.3


# ---------------------------------------------------------------- activations


def test_similarity_falls_where_the_space_changes(changed):
    where = {"of": "answers", "position": "last", "measure": "cka"}
    values = [cell(changed, "similarity", layer=layer, **where) for layer in range(4)]
    assert values[0] == pytest.approx(1)
    assert values[1] > 0.5
    assert max(values[2:]) < 0.4 < values[1]
    shuffled = {"control": "shuffled"}
    assert cell(changed, "similarity", layer=0, column="ci_high", **(where | shuffled)) < 0.3


def test_probes_transfer_where_the_direction_is_shared(changed):
    within = cell(changed, "transfer", of="answers", fitted_on="b", read_on="b", metric="auroc")
    moved = cell(changed, "transfer", of="answers", fitted_on="a", read_on="b", metric="auroc")
    assert within > 0.7
    assert moved > 0.7
    null = {"of": "answers", "fitted_on": "a", "read_on": "b", "metric": "auroc", "control": "shuffled"}
    assert cell(changed, "transfer", column="ci_high", **null) < moved
    loss = {"of": "answers", "fitted_on": "a", "read_on": "b", "metric": "loss"}
    assert cell(changed, "transfer", **loss) == pytest.approx(moved - within)


def test_a_probe_does_not_transfer_into_another_space(tmp_path):
    """The pass of the second model writes its confidence along another dimension."""
    made = make(tmp_path, Sure(n=240, positions=PROMPT), "base")
    twisted = make(tmp_path, Sure(n=240, positions=PROMPT), "tuned")
    for path in (tmp_path / "self_tuned" / "activations" / "resid_post.3@last_prompt").glob("*.npy"):
        x = np.load(path)  # swap dimensions 1 and 5 of the self pass's own activations
        x[:, [1, 5]] = x[:, [5, 1]]
        np.save(path, x)
    done = compare(tmp_path, made | twisted, sites="resid_post.3")
    path = {"of": "self", "metric": "spearman"}
    assert cell(done, "transfer", fitted_on="b", read_on="b", **path) > 0.8
    assert abs(cell(done, "transfer", fitted_on="a", read_on="b", **path)) < 0.4
    loss = {"of": "self", "fitted_on": "a", "read_on": "b", "metric": "loss"}
    assert cell(done, "transfer", column="ci_high", **loss) < 0


def test_without_knowledge_no_probe_is_worth_anything(tmp_path):
    made = both(tmp_path, Sure(n=160, knows=0, positions=ONE), Sure(n=160, knows=0, drift=1.0, positions=ONE))
    done = compare(tmp_path, made, sites=["resid_post.1"])
    for fitted, read in ("aa", "ab", "ba", "bb"):
        where = {"of": "answers", "fitted_on": fitted, "read_on": read, "metric": "auroc"}
        assert cell(done, "transfer", column="p", **where) > 0.01


def test_the_sweep_never_reads_test(tmp_path):
    made = both(tmp_path, Sure(n=160, positions=ONE), Sure(n=160, drift=0.5, positions=ONE))
    done = compare(tmp_path, made, nested_below=0, sites=["resid_post.1", "resid_post.2"])
    table = made["base"].table("generations")
    outside = int((table["split"] != "test").sum())
    assert set(done.table("sweep")["n"]) == {outside} == set(done.table("similarity")["n"])
    transfer = done.table("transfer")
    assert set(transfer["n"]) == {int((table["split"] == "test").sum())}
    assert any("probes of correct" in entry["why"] for entry in done.meta["ledger"])


def test_logistic_probes_too(tmp_path):
    made = both(tmp_path, Sure(n=160, positions=ONE), Sure(n=160, drift=0.4, positions=ONE))
    done = compare(tmp_path, made, predictor="logistic", nested_below=0, sites=["resid_post.2"])
    assert cell(done, "transfer", of="answers", fitted_on="a", read_on="b", metric="auroc") > 0.7


def noise(seed: int, n: int) -> tuple[layers.Question, np.ndarray]:
    """Noise `[n, 4]`, and labels of both sides that are coin flips."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 4)), (rng.random(n) < 0.5).astype(float)
    split = np.repeat(["fit", "test"], [n // 2, n - n // 2])
    return layers.Question("answers", "correct", y, y, np.arange(n).astype(str), split), x


def test_intervals_over_folds_are_half_as_wide_again():
    of, x = noise(0, 100)
    for below, factor in ((500, 1.5), (0, 1.0)):
        where = layers.plan(of, 5, below, 0)
        held = [layers.measure(of, where, "resid_post.1", "last", x, x, "difference")]
        line = transfer.transfer_lines(of, where, held, law.Setting(200, 199))[0][0]
        y, f, s = (v[where.tested] for v in (of.y_a.astype(bool), where.outer, held[0].outer["aa"]))
        plain = stats.bootstrap(lambda w, s=s, y=y, f=f: stats.auroc(s, y, w, f), of.groups[where.tested], 200, [0, 47])
        assert line["value"] == pytest.approx(plain.value)
        assert line["value"] - line["ci_low"] == pytest.approx(factor * (plain.value - plain.low))


def test_probes_of_noise_are_seldom_above_shuffled_labels():
    """Without the wider null 11% of 150 are."""
    hits = 0
    for seed in range(150):
        of, x = noise(seed, 60)
        fold, scores = layers.plan(of, 5, 500, seed).outer, np.zeros(60)
        for k in range(5):
            scores[fold == k] = layers.probed(of, {"a": x}, fold != k, fold == k, "difference", ("aa",))["aa"]
        line = {"read_on": "a"}
        hits += transfer.tested(of, line, scores, np.arange(60), fold, law.Setting(2, 199), 1.5)[0]["p"] <= 0.05
    assert hits <= 12


def test_the_shuffled_null_is_spearman_of_shuffled_numbers():
    rng = np.random.default_rng(3)
    n, folds = 60, np.arange(60) % 3
    values, y, groups = rng.normal(size=n), np.round(rng.random(n), 1), np.arange(n) // 2 * 3 + folds
    of = layers.Question("self", "confidence", y, y, groups, np.full(n, "test"))
    null = transfer.shuffled(of, values, y, groups, folds, law.Setting(permutations=199))
    moved = nulls.permuted(y, groups, 199, [0, 46], folds)
    expected = [float(stats.spearman(values, moved[:, i], folds=folds)) for i in range(199)]
    np.testing.assert_allclose(null, expected, atol=1e-12)


# ---------------------------------------------------------------- the report


def sentences(artifact: Artifact, kind: str) -> list[str]:
    blocks = Compare(**artifact.options).summary(artifact)
    return [render_text(b, artifact) for b in blocks if isinstance(b, Text) and b.kind == kind]


def test_the_headlines_say_what_was_found(changed, same):
    said = sentences(changed, "headline")
    assert any(text.startswith("tuned answers more of the questions right than base") for text in said)
    assert any("stated confidence (self) rises" in text for text in said)
    said = sentences(same, "headline")
    assert any("no difference is shown" in text for text in said)
    assert any("does not move by more than chance" in text for text in said)


def test_every_block_of_the_section_resolves(changed):
    from gnomon.report.sections import make_section

    section = make_section(changed, {}, strict=True)
    assert len(section.views) > 10


# ---------------------------------------------------------------- mistakes


def edited(study: Path, change) -> dict[str, Artifact]:
    made = make(study, Sure(n=60, positions=ONE), "base")
    table, _ = rows(Sure(n=60))
    made["tuned"] = synthetic.save(study, change(table), {}, "tuned")
    return made


def change_prompts(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[:4, "prompt_hash"] = "another"
    return table


def test_other_prompts_are_refused_and_counted_where_allowed(tmp_path):
    made = edited(tmp_path, change_prompts)
    with pytest.raises(UserError, match=r"5 questions asked with another prompt, the first: 'q0'"):
        compare(tmp_path, made)
    done = compare(tmp_path, made, allow_missing=True)
    counts = done.table("pairing").set_index("what")["n"]
    assert counts["asked with another prompt"] == 5
    assert counts["paired"] == 55
    assert any("5 questions: asked with another prompt" in text for text in sentences(done, "warning"))


def test_missing_questions_are_refused_and_counted_where_allowed(tmp_path):
    made = edited(tmp_path, lambda t: t.iloc[10:].reset_index(drop=True))
    with pytest.raises(UserError, match="10 questions missing in tuned"):
        compare(tmp_path, made)
    done = compare(tmp_path, made, allow_missing=True)
    assert done.table("pairing").set_index("what")["n"]["missing in tuned"] == 10


def test_other_questions_altogether(tmp_path):
    made = edited(tmp_path, lambda t: t.assign(example_id=["x" + e for e in t["example_id"]]))
    with pytest.raises(UserError, match="none of the questions"):
        compare(tmp_path, made, allow_missing=True)


def test_another_right_answer_is_never_allowed(tmp_path):
    made = edited(tmp_path, lambda t: t.assign(target="something else"))
    with pytest.raises(UserError, match="another right answer"):
        compare(tmp_path, made, allow_missing=True)


def test_unparsed_answers_are_counted_not_wrong(tmp_path):
    def unparse(table):
        return table.assign(label=[None if i < 8 else v for i, v in enumerate(table["label"])])

    done = compare(tmp_path, edited(tmp_path, unparse), rows="all")
    assert cell(done, metric="unparsed", side="b", rows="all") == pytest.approx(8 / 60)
    assert cell(done, metric="accuracy", column="n", side="a", rows="all") == 52


def test_one_outcome_only_is_no_verdict_on_confidence(tmp_path):
    done = compare(tmp_path, edited(tmp_path, lambda t: t.assign(label=False)), rows="all", sites="resid_post.0")
    text = sentences(done, "headline")[1]
    assert "no interval says whether it tells right from wrong better" in text
    assert "neither better nor worse" not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [({"a": "x", "b": "x"}, "both x"), ({"a": "x", "b": "y", "positions": "all"}, "many tokens")],
)
def test_options_that_cannot_work(options, said):
    with pytest.raises(UserError, match=said):
        Compare(**options)


def test_a_pass_about_another_generation_is_refused(tmp_path):
    made = both(tmp_path, Sure(n=60, positions=ONE), Sure(n=60, positions=ONE))
    with pytest.raises(UserError, match="no confidence pass about tuned"):
        compare(tmp_path, made, confidence=[["self_base", "other_base"]])


def test_named_passes_are_the_ones_compared(tmp_path):
    made = both(tmp_path, Sure(n=60, positions=ONE), Sure(n=60, positions=ONE))
    done = compare(tmp_path, made, confidence=["self_base", "self_tuned"], sites="resid_post.0")
    assert {"self"} == set(done.table("comparison")["signal"]) - {
        "",
        "max_prob",
        "mean_prob",
        "margin",
        "negative_entropy",
    }


def test_pairing_counts_an_episode_by_its_last_round():
    table, _ = rows(Sure(n=30))
    twice = pd.concat([table.assign(row=table["row"] * 2), table.assign(row=table["row"] * 2 + 1, round=1)])
    found = paired(twice, twice, ("a", "b"))
    assert len(found.table) == 30
    assert (found.table["row_a"] % 2 == 1).all()


def test_the_ledger_names_every_read_of_test(changed):
    assert len(changed.meta["ledger"]) == 4
    assert json.dumps(changed.meta["ledger"])
