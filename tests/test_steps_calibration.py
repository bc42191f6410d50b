"""calibration: planted confidence is found and measured as by hand, empty confidence is not, test chooses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from gnomon.blocks import Text
from gnomon.errors import UserError
from gnomon.methods import calibration as cal
from gnomon.methods import calibration_increments as news
from gnomon.methods import calibration_rivals as rivals
from gnomon.methods import calibration_scaling as scaling
from gnomon.methods.calibration_risk import aurc
from gnomon.methods.calibration_signals import Column
from gnomon.report.resolve import check, render_text
from gnomon.step import Context, Inputs, ModelSpec
from gnomon.steps.calibration import Calibration
from gnomon.store import Artifact
from gnomon.types import Direction, Site
from gnomon.writer import Writer
from tests import synthetic
from tests.confidence_study import Sure, make, rows, save_pass

LIGHT: dict[str, Any] = {"draws": 200, "permutations": 199, "simulations": 199, "nested_below": 0,
                         "baselines": ["ease", "max_prob"]}  # fmt: skip


def run(folder: Path, made: dict[str, Artifact], name: str = "calibration", **options: Any) -> Artifact:
    """Run the step over `generate` and every pass of `made`; what `using` names is taken from there too."""
    step = Calibration(**{**LIGHT, **options})
    base = made["generate"]
    passes = [a for a in made.values() if "confidence" in a.tables()]
    kinds = {"generations": [base], "activations": [base], "confidence": passes}
    writer, ctx = Writer(folder, name, "f"), Context(folder, ModelSpec("no model is loaded"), 0, None)
    step.run(Inputs(kinds, {n: made[n] for n in step.using}), writer, ctx)
    meta = {"step": step.name, "name": name, "options": step.model_dump(mode="json"), "version": step.version}
    return writer.commit({**meta, "ledger": ctx.ledger, "writes": list(step.writes)})


def line(artifact: Artifact, table: str, **where: Any) -> Any:
    found: Any = artifact.table(table)
    for column, value in where.items():
        found = found.loc[found[column] == value]
    assert len(found) == 1, (where, len(found))
    return found.iloc[0]


def said(artifact: Artifact) -> list[str]:
    """The section's headlines; the whole section has to resolve."""
    blocks = Calibration().summary(artifact)
    assert check(blocks, artifact) == []
    return [render_text(b, artifact) for b in blocks if isinstance(b, Text) and b.kind == "headline"]


def warned(artifact: Artifact) -> str:
    blocks = Calibration().summary(artifact)
    return " ".join(render_text(b, artifact) for b in blocks if isinstance(b, Text) and b.kind in ("warning", "limit"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Artifact, dict[str, Artifact], Path]:
    folder = tmp_path_factory.mktemp("planted")
    made = make(folder, Sure(n=240, knows=3.0, missing=0.1))
    return run(folder, made, nested_below=500, baselines=None), made, folder


def joined(made: dict[str, Artifact], name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """A pass's confidence and the outcomes, of the rows of a split that it knows."""
    table = made["generate"].table("generations").merge(made[name].table("confidence")[["row", "confidence"]], on="row")
    here = np.flatnonzero(table["split"] == split)
    return np.asarray(table["confidence"])[here], np.asarray(table["label"], dtype=bool)[here]


# ---------------------------------------------------------------- numbers


def test_numbers_of_test_are_those_by_hand(planted):
    artifact, made, _ = planted
    p, y = joined(made, "self", "test")
    table = made["generate"].table("generations")
    base = table.loc[table["split"] != "test", "label"].astype(bool).mean()
    own = {"signal": "self", "scaled": "none", "split": "test", "control": ""}
    by_hand = {
        "auroc": roc_auc_score(y, p), "brier": brier_score_loss(y, p), "nll": log_loss(y, p), "ece": cal.ece(p, y),
        "overconfidence": p.mean() - y.mean(), "aurc": aurc(p, y),
        "brier_skill": 1 - brier_score_loss(y, p) / np.mean((base - y) ** 2),
    }  # fmt: skip
    for metric, value in by_hand.items():
        found = line(artifact, "signals", metric=metric, **own)
        assert found["value"] == pytest.approx(float(value)), metric
        assert found["ci_low"] <= found["ci_high"]
        assert (found["n"], found["n_pos"]) == (len(y), y.sum())
    terms = {k: line(artifact, "signals", metric=k, **own)["value"] for k in cal.TERMS}
    assert sum(sign * terms[k] for k, sign in cal.TERMS.items()) == pytest.approx(by_hand["brier"])
    constant = line(artifact, "signals", **{**own, "control": "base rate"}, metric="brier")
    assert constant["value"] == pytest.approx(np.mean((base - y) ** 2))
    random = line(artifact, "signals", **{**own, "control": "random order"}, metric="aurc")
    assert random["value"] == pytest.approx(1 - y.mean())


def test_a_row_that_a_pass_lacks_is_counted_and_left_out(planted):
    artifact, made, _ = planted
    known = line(artifact, "known", signal="self")
    assert known["missing"] == 240 - len(made["self"].table("confidence")) > 0
    assert known["fit"] + known["tune"] + known["test"] + known["missing"] == 240
    assert line(artifact, "known", signal="ease")["missing"] == 0


def test_reliability_and_risk_are_of_the_test_rows(planted):
    artifact, made, _ = planted
    p, y = joined(made, "self", "test")
    table = artifact.table("reliability")
    own = table[(table["signal"] == "self") & (table["scaled"] == "none")]
    assert own["n"].sum() == len(y)
    assert (own["n"] * own["accuracy"]).sum() == pytest.approx(y.sum())
    assert (own["n"] * (own["confidence"] - own["accuracy"]).abs()).sum() / len(y) == pytest.approx(
        float(cal.ece(p, y))
    )
    assert (own["ci_low"] <= own["accuracy"]).all()
    risk = artifact.table("risk_coverage")
    risk = risk[risk["signal"] == "self"].set_index("coverage")["risk"]
    assert risk[1.0] == pytest.approx(1 - y.mean())
    assert risk[0.25] < risk[1.0]


def test_scores_that_are_no_probabilities_are_calibrated_by_platt_alone(planted):
    artifact, _, _ = planted
    table = artifact.table("signals")
    for name in ("margin", "negative_entropy", "ease"):
        own = table[(table["signal"] == name) & (table["metric"] == "ece")]
        assert set(own["scaled"]) == {"platt"}
    own = table[(table["signal"] == "max_prob") & (table["metric"] == "ece")]
    assert set(own["scaled"]) == {"none", "temperature", "platt", "options"}


def test_temperature_of_the_options_is_fitted_on_the_scores(tmp_path):
    folder, s = tmp_path, Sure(n=400)
    table, planted_numbers = rows(s)
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(400, 4)) * 3  # what the model believes, and three times too sure
    right = (rng.random((400, 1)) > softmax(scores / 3, axis=1).cumsum(axis=1)).sum(axis=1)
    table["scores"], table["max_prob"] = list(scores), softmax(scores, axis=1).max(axis=1)
    table["target"] = [f"option {r}" for r in right]
    table["label"] = [bool(v) for v in right == scores.argmax(axis=1)]
    base = synthetic.save(folder, table, {}, "generate")
    artifact = run(folder, {"generate": base}, scale_on="fit+tune", baselines=["ease"])
    assert line(artifact, "scaling", signal="max_prob", scaled="options")["temperature"] == pytest.approx(3, rel=0.3)
    change = line(artifact, "signals", signal="max_prob", scaled="options", metric="brier_change")
    assert change["ci_high"] < 0
    assert planted_numbers["self"].shape == (400,)


# ---------------------------------------------------------------- what it beats


def test_planted_confidence_beats_difficulty_and_output_confidence(planted):
    artifact, _, _ = planted
    best = {"signal": news.BEST, "split": "cv"}
    for over in (rivals.DIFFICULTY, rivals.OUTPUT, rivals.BOTH):
        found = line(artifact, "increments", metric="difference", over=over, **best)
        assert found["verdict"] == news.BEATS
        assert found["ci_low"] > 0
    gain = line(artifact, "increments", metric="increment", **best)
    assert gain["selected"]
    assert gain["verdict"] == news.BEATS
    assert line(artifact, "increments", metric="partial", **best)["ci_low"] > 0
    null = line(artifact, "increments", metric="auroc", control="shuffled", **best)
    assert abs(null["value"] - 0.5) < 0.05
    assert line(artifact, "increments", metric="auroc", control="", **best)["p"] <= 0.005
    text = said(artifact)
    assert "self" in text[0]
    assert text[1].count("stated confidence beats it") == 2
    assert "adds something of its own" in text[1]


def test_test_is_read_once_or_said_to_be_read_again(planted):
    artifact, made, folder = planted
    assert [e["split"] for e in artifact.meta["ledger"]] == ["test", "test"]
    assert "cross-validated" in artifact.meta["ledger"][1]["why"]
    plain = run(folder, made, "plain")
    assert len(plain.meta["ledger"]) == 1
    table = plain.table("increments")
    assert set(table["split"]) == {"test"}
    assert table.loc[table["selected"], "signal"].unique().tolist() == [news.BEST]
    assert "test rows" in said(plain)[0]


def test_nothing_is_chosen_or_fitted_on_test(planted, tmp_path):
    artifact, made, _ = planted
    table = made["generate"].table("generations")
    flipped = table.copy()
    test = flipped["split"] == "test"
    flipped.loc[test, "label"] = ~flipped.loc[test, "label"].astype(bool)
    base = synthetic.save(tmp_path, flipped, {}, "generate")
    other = run(tmp_path, {**made, "generate": base})
    assert other.table("scaling").equals(artifact.table("scaling"))
    assert other.table("known").equals(artifact.table("known"))
    before, after = (a.table("signals").query("split == 'fit+tune'").drop(columns="q") for a in (artifact, other))
    assert after.equals(before)
    own = {"signal": "self", "scaled": "none", "split": "test", "metric": "auroc", "control": ""}
    assert line(other, "signals", **own)["value"] == pytest.approx(1 - line(artifact, "signals", **own)["value"])
    assert "does not beat" in said(other)[1] or "is beaten" in said(other)[1]


def test_confidence_that_is_difficulty_in_other_words_adds_nothing(tmp_path):
    s = Sure(n=400)
    table, known = rows(s)
    rng = np.random.default_rng(8)
    hard = known["difficulty"]
    table["label"] = [bool(v) for v in rng.random(400) < expit(-1.5 * hard)]
    base = synthetic.save(tmp_path, table, {}, "generate")
    echo = save_pass(tmp_path, table, expit(-hard), s, "self", "self")
    artifact = run(tmp_path, {"generate": base, "self": echo}, nested_below=500)
    best = {"signal": news.BEST, "split": "cv"}
    assert line(artifact, "increments", metric="auroc", control="", **best)["ci_low"] > 0.6  # it does tell
    assert line(artifact, "increments", metric="increment", **best)["verdict"] != news.BEATS
    assert line(artifact, "increments", metric="difference", over=rivals.DIFFICULTY, **best)["verdict"] == news.NOT
    text = said(artifact)
    assert "stated confidence does not beat it" in text[1]
    assert "adds something of its own" not in text[1]


def test_empty_confidence_is_seldom_said_to_add_anything():
    hits = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = 150
        hard, told, prob = rng.normal(size=(3, n))
        columns = {"ease": -hard, "max_prob": prob}
        of = rivals.Problem(
            rng.random(n) < expit(-hard), np.arange(n).astype(str), np.repeat(["fit", "tune", "test"], [75, 15, 60]),
            [Column("self", "", "stated", True, expit(told))], [Column("ease", "", "difficulty", False, -hard)],
            [Column("max_prob", "", "output", True, expit(prob))], columns,
        )  # fmt: skip
        found = news.increment_rows(of, rivals.Options(draws=200, permutations=199, seed=seed), nested=False)
        gain = [r for r in found if r["metric"] == "increment" and r["signal"] == news.BEST]
        assert len(gain) == 1
        hits += gain[0]["verdict"] == news.BEATS
    assert hits <= 3


def test_the_best_signal_is_chosen_before_test_is_read():
    rng = np.random.default_rng(0)
    n = 120
    y, split = rng.random(n) < 0.5, np.repeat(["fit", "tune", "test"], [50, 10, 60])
    early = Column("early", "", "stated", True, np.where(split == "test", rng.random(n), y * 1.0))
    late = Column("late", "", "stated", True, np.where(split == "test", y * 1.0, rng.random(n)))
    of = rivals.Problem(y, np.arange(n).astype(str), split, [late, early], [], [], {})
    found = news.increment_rows(of, rivals.Options(draws=200, permutations=199), nested=False)
    assert {r["choice"] for r in found if r["signal"] == news.BEST} == {"early"}
    gone = Column("gone", "", "stated", True, np.full(n, np.nan))
    assert rivals.best([gone, late], y, np.arange(n)) is late


@pytest.mark.parametrize(
    ("low", "high", "partial", "expected"),
    [(0.01, 0.2, (0.1, 0.3), news.BEATS), (0.01, 0.2, (-0.1, 0.3), news.UNDECIDED),
     (-0.1, 0.01, (-0.1, 0.2), news.NOT), (-0.1, 0.01, (0.1, 0.2), news.UNDECIDED),
     (-0.1, 0.1, (0.1, 0.2), news.UNDECIDED),
     (0.0, 0.0, (0.1, 0.2), news.UNDECIDED),
     (np.nan, np.nan, (0.1, 0.2), news.UNDECIDED)],
)  # fmt: skip
def test_verdicts_follow_the_rule(low, high, partial, expected):
    from gnomon.stats import Interval

    assert news.verdict(Interval(0.0, low, high), 0.02, Interval(0.2, *partial)) == expected


def test_a_probe_is_one_more_signal_and_is_compared_on_test_alone(planted, tmp_path):
    _, made, _ = planted
    meta = {"target": "correct", "position": "last", "bias": 0.1, "predictor": "difference"}
    writer = Writer(tmp_path, "probe", "fingerprint of probe")
    writer.directions([Direction(Site.parse("resid_post.1"), np.eye(16)[0], "d", "difference", 0.8, meta)])
    probe = writer.commit({"step": "probe", "name": "probe", "version": 1, "options": {}, "inputs": {}, "ledger": []})
    artifact = run(tmp_path, {**made, "probe": probe}, using="probe")
    assert line(artifact, "known", signal="probe")["kind"] == "probe"
    table = artifact.table("increments")
    over = table[table["over"] == "probe probe"]
    assert set(over["split"]) == {"test"}
    assert set(artifact.table("signals").query("signal == 'probe'")["split"]) == {"tune", "test"}
    x = made["generate"].activations("resid_post.1@last").values[:, 0]
    generations = made["generate"].table("generations").sort_values("row")
    here = (generations["split"] == "test").to_numpy()
    value = roc_auc_score(generations["label"].astype(bool).to_numpy()[here], np.asarray(x)[here])
    own = line(artifact, "signals", signal="probe", split="test", metric="auroc", control="")
    assert own["value"] == pytest.approx(value)
    said(artifact)


# ---------------------------------------------------------------- little to go by


def test_without_a_pass_output_confidence_is_asked_about_and_that_is_said(tmp_path):
    made = make(tmp_path, Sure(n=200))
    artifact = run(tmp_path, {"generate": made["generate"]})
    assert "output confidence" in said(artifact)[0]
    assert "No confidence pass was read" in warned(artifact)
    lines = artifact.table("increments").query("signal == 'best stated' and over == 'output'")
    assert set(lines["choice"]).isdisjoint(lines["against"])
    assert "The best of the other output signals" in said(artifact)[1]
    assert "output confidence beats it" not in said(artifact)[1]


def test_unknown_difficulty_is_said(tmp_path):
    s = Sure(n=200)
    table, known = rows(s)
    table["difficulty"] = np.nan
    made = {"generate": synthetic.save(tmp_path, table, {}, "generate")}
    made["self"] = save_pass(tmp_path, table, known["self"], s, "self", "self")
    artifact = run(tmp_path, made, baselines=None)
    assert "difficulty is unknown" in said(artifact)[1]
    assert rivals.DIFFICULTY not in set(artifact.table("increments")["over"])


def test_a_thin_class_has_no_interval_and_no_verdict(tmp_path, caplog):
    s = Sure(n=200)
    table, known = rows(s)
    here = np.flatnonzero((table["split"] == "test").to_numpy())
    table["label"] = True
    table.loc[here[:8], "label"] = False
    table.loc[np.flatnonzero((table["split"] == "fit").to_numpy())[:9], "label"] = False
    made = {"generate": synthetic.save(tmp_path, table, {}, "generate")}
    made["self"] = save_pass(tmp_path, table, known["self"], s, "self", "self")
    artifact = run(tmp_path, made)
    found = line(artifact, "signals", signal="self", scaled="none", split="test", metric="brier", control="")
    assert np.isfinite(found["value"])
    assert np.isnan(found["ci_low"])
    verdicts = set(artifact.table("increments")["verdict"]) - {""}
    assert verdicts == {news.UNDECIDED}
    assert "are needed for an interval" in warned(artifact)
    assert "are needed for an interval" in caplog.text
    assert "undecided" in said(artifact)[1]


def test_only_right_answers_leave_nothing_to_say(tmp_path):
    s = Sure(n=120)
    table, known = rows(s)
    table["label"] = True
    made = {"generate": synthetic.save(tmp_path, table, {}, "generate")}
    made["self"] = save_pass(tmp_path, table, known["self"], s, "self", "self")
    artifact = run(tmp_path, made)
    assert "nothing can be said" in said(artifact)[0]
    assert np.isnan(line(artifact, "signals", signal="self", split="test", metric="auroc", control="")["value"])


def test_ungraded_answers_are_left_out_and_counted(tmp_path):
    s = Sure(n=200)
    table, known = rows(s)
    table["label"] = table["label"].astype(object)
    table.loc[::10, "label"] = None
    made = {"generate": synthetic.save(tmp_path, table, {}, "generate")}
    made["self"] = save_pass(tmp_path, table, known["self"], s, "self", "self")
    artifact = run(tmp_path, made)
    assert line(artifact, "facts", fact="unlabelled")["value"] == 20
    assert line(artifact, "facts", fact="rows")["value"] == 180
    assert "20 answers of 200 could not be graded" in warned(artifact)


def test_one_constant_statement_is_warned_of(tmp_path):
    s = Sure(n=200)
    table, _ = rows(s)
    made = {"generate": synthetic.save(tmp_path, table, {}, "generate")}
    made["self"] = save_pass(tmp_path, table, np.full(200, 0.7), s, "self", "self")
    artifact = run(tmp_path, made)
    assert "self takes 1 different values only" in warned(artifact)
    found = line(artifact, "signals", signal="self", scaled="none", split="test", metric="auroc", control="")
    assert found["value"] == 0.5
    assert len(said(artifact)) == 3


def test_scalings_that_can_say_nothing_say_so(tmp_path):
    s = Sure(n=200)
    table, known = rows(s)
    made = {"generate": synthetic.save(tmp_path, table, {}, "generate")}
    low = 0.44 + 0.003 * (known["self"] - known["self"].mean())  # right more often than not, and stated below a half
    made["self"] = save_pass(tmp_path, table, low, s, "self", "self")
    artifact = run(tmp_path, made)
    assert "wrong side of one half" in line(artifact, "scaling", signal="self", scaled="temperature")["note"]
    assert line(artifact, "scaling", signal="self", scaled="platt")["note"] == ""
    assert "Scaling of self: confidence lies on the wrong side" in warned(artifact)
    assert (
        scaling.fit_platt(known["self"], np.ones(200, dtype=bool))
        .note(200)
        .startswith("all rows of the scaling are right")
    )
    assert "not more often right" in scaling.fit_platt(known["self"], known["self"] < 0.5).note(90)


def test_intervals_over_folds_are_wider_where_something_was_fitted():
    """Difficulty itself is fitted by nobody; a logistic regression of it alone is, and is as good."""
    rng = np.random.default_rng(4)
    n = 300
    hard, told = rng.normal(size=(2, n))
    of = rivals.Problem(
        rng.random(n) < expit(-2 * hard), np.arange(n).astype(str), np.repeat(["fit", "test"], [200, 100]),
        [Column("self", "", "stated", True, expit(told))], [Column("ease", "", "difficulty", False, -hard)], [],
        {"ease": -hard},
    )  # fmt: skip
    found = news.increment_rows(of, rivals.Options(draws=300, permutations=199), nested=True)
    of_split = [r for r in found if r["control"] == "against" and r["split"] == "cv" and r["signal"] == "self"]
    half = {r["over"]: r["value"] - r["ci_low"] for r in of_split}
    assert half[rivals.BOTH] / half[rivals.DIFFICULTY] == pytest.approx(1.5, rel=0.12)


def test_no_test_rows_is_an_error(tmp_path):
    table, _ = rows(Sure(n=60))
    table["split"] = "fit"
    made = {"generate": synthetic.save(tmp_path, table, {}, "generate")}
    with pytest.raises(UserError, match="no graded answers in split test"):
        run(tmp_path, made)


def test_unknown_baselines_and_steps_without_a_probe_are_errors(planted, tmp_path):
    _, made, _ = planted
    with pytest.raises(UserError, match="baseline"):
        run(tmp_path, made, baselines=["easiness"])
    with pytest.raises(UserError, match="holds no probe"):
        run(tmp_path, made, using="self")


def test_other_columns_may_be_what_it_has_to_add_to(planted, tmp_path):
    _, made, _ = planted
    artifact = run(tmp_path, made, baselines=["prompt_len", "words", "ease"])
    assert line(artifact, "facts", fact="cheap")["text"] == "prompt_len, words, ease"


def test_confidences_of_every_row_can_be_read_back(planted):
    artifact, made, _ = planted
    table = artifact.table("confidences")
    own = table[table["signal"] == "self"].set_index("row")
    told = made["self"].table("confidence").set_index("row")["confidence"]
    assert own.loc[told.index, "value"].to_numpy() == pytest.approx(told.to_numpy())
    slope = line(artifact, "scaling", signal="self", scaled="temperature")["slope"]
    p = own["value"].dropna()
    assert own.loc[p.index, "temperature"].to_numpy() == pytest.approx(expit(slope * np.log(p / (1 - p))).to_numpy())
    assert isinstance(table, pd.DataFrame)
