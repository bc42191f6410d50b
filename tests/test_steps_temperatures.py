"""temperatures: laws of pass@k and of pairs, a planted predictor found at every temperature, shuffled labels not."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gnomon.errors import UserError
from gnomon.methods.temperature import pass_at_k, within_pairs
from gnomon.report.resolve import check, headlines
from gnomon.rows.predictors import dictionary_of
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning
from gnomon.steps.temperatures import Temperatures
from gnomon.store import Artifact
from gnomon.types import Direction, Site
from gnomon.writer import Writer
from tests.synthetic import Planted, rows, save

HOT = (0.3, 0.9)
D, SITE = 6, "resid_post.1"


# ---------------------------------------------------------------- laws


def test_pass_at_k_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    for n in (1, 3, 6):
        for right in range(n + 1):
            samples = rng.permutation(np.arange(n) < right)
            for k in range(1, n + 1):
                by_hand = np.mean([samples[list(c)].any() for c in combinations(range(n), k)])
                assert pass_at_k(np.array([n]), np.array([right]), k)[0] == pytest.approx(by_hand)
    assert np.isnan(pass_at_k(np.array([2]), np.array([1]), 3)[0])


def test_pairs_within_a_problem_are_counted_one_by_one():
    rng = np.random.default_rng(1)
    scores, label = rng.integers(0, 4, 60).astype(float), rng.random(60) < 0.5
    problem = rng.permutation(np.repeat(np.arange(12), 5))
    wins, pairs = within_pairs(scores, label, problem)
    for i in range(12):
        mine = np.flatnonzero(problem == i)
        both = [(a, b) for a in mine for b in mine if label[a] and not label[b]]
        assert pairs[i] == len(both)
        assert wins[i] == sum((scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b]) for a, b in both)


# ---------------------------------------------------------------- a study of numbers


def study(
    folder: Path, signal: float = 2.5, own: float = 2.0, n: int = 240, position: str = "last", unparsed: float = 0.0,
    easy: float = 0.0, seed: int = 0, bare: bool = False,
) -> dict[str, Artifact]:  # fmt: skip
    """A base at 0, five samples of its test questions at two temperatures, a direction that reads dimension 0.

    Dimension 0 holds what a problem's knowledge is (`signal` on the logit) plus, at `last`, what became of this very
    sample (`own`). Difficulty lowers the odds too. `bare`: the samples have no activations.
    """
    rng = np.random.default_rng([seed, 1])
    table, _ = rows(Planted(n=n, d=D, layers=2, seed=seed))
    know, hard = rng.normal(size=n), np.asarray(table["difficulty"])

    def answers(t: pd.DataFrame, problem: np.ndarray, heat: float) -> np.ndarray:
        luck = rng.normal(size=len(t))
        odds = signal * know[problem] - hard[problem] + easy - heat + own * luck
        t["label"] = pd.Series(odds + 0.3 * rng.logistic(size=len(t)) > 0, dtype=object).to_numpy()
        t["label"] = t["label"].astype(object).mask(rng.random(len(t)) < unparsed, None)
        x = rng.normal(size=(len(t), D)) * 0.1
        x[:, 0] = know[problem] + (0.8 * luck if position == "last" else 0.0)
        return x.astype(np.float32)

    base_x = answers(table, np.arange(n), 0.0)
    base = save(folder, table, {(SITE, position): base_x}, "generate")
    test = np.flatnonzero(table["split"] == "test")
    parts, values = [], []
    for heat in HOT:
        for sample in range(5):
            part = table.iloc[test].copy()
            part["temperature"], part["sample"] = heat, sample
            values.append(answers(part, test, 2 * heat))
            parts.append(part)
    hot = pd.concat(parts, ignore_index=True)
    hot["row"] = np.arange(len(hot))
    acts = {} if bare else {(SITE, position): np.concatenate(values)}
    warm = save(folder, hot, acts, "warm")
    vector = np.eye(D)[0]
    meta = {"target": "correct", "position": position, "bias": 0.5, "predictor": "difference"}
    writer = Writer(folder, "probe", "fingerprint of probe")
    writer.directions([Direction(Site.parse(SITE), vector, f"difference {SITE}@{position}", "difference", 0.8, meta),
                       Direction(Site.parse(SITE), np.eye(D)[5], "another", "difference", 0.5, meta)])  # fmt: skip
    probe = writer.commit({"step": "probe", "name": "probe", "version": 1, "options": {}, "inputs": {}, "ledger": []})
    return {"generate": base, "warm": warm, "probe": probe}


def run(folder: Path, made: dict[str, Artifact], **options: Any) -> Artifact:
    step = Temperatures(**{"of": "warm", "using": "probe", "permutations": 199, "draws": 300, **options})
    base, writer = made["generate"], Writer(folder, "temperatures", "f")
    ctx = Context(folder, ModelSpec("no model is loaded"), 0, None)
    named = {name: made[name] for name in {*step.of, *step.using} if name in made}
    step.run(Inputs({"generations": [base], "activations": [base]}, named), writer, ctx)
    meta = {"step": step.name, "name": step.name, "options": step.model_dump(mode="json"), "version": step.version}
    return writer.commit({**meta, "ledger": ctx.ledger, "writes": list(step.writes)})


def line(artifact: Artifact, metric: str, at: float, predictor: str = "", control: str = "") -> Any:
    table = artifact.table("temperatures")
    where = (table["metric"] == metric) & (table["temperature"] == at) & (table["control"] == control)
    found = table.loc[where & (table["predictor"] == predictor)]
    assert len(found) == 1, (metric, at, predictor, control)
    return found.iloc[0]


MAIN, OTHER = f"probe: difference {SITE}@last", "probe: another"


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Artifact, dict[str, Artifact]]:
    folder = tmp_path_factory.mktemp("planted")
    made = study(folder)
    return run(folder, made), made


def test_pass_rates_are_the_shares_of_the_samples(planted):
    artifact, made = planted
    warm = made["warm"].table("generations")
    for heat in HOT:
        mine = warm[warm["temperature"] == heat]
        found = line(artifact, "pass_rate", heat)
        assert found["value"] == pytest.approx(mine["label"].astype(bool).mean())
        assert found["ci_low"] < found["value"] < found["ci_high"]
        assert (found["n"], found["groups"]) == (len(mine), mine["group"].nunique())
        right = mine.groupby("example_id")["label"].sum().astype(int)
        assert line(artifact, "pass@1", heat)["value"] == pytest.approx(right.mean() / 5)
        assert line(artifact, "pass@5", heat)["value"] == pytest.approx((right > 0).mean())
        assert line(artifact, "ungraded", heat)["value"] == 0
    table = artifact.table("temperatures")
    assert set(table["temperature"]) == {0.0, *HOT}
    assert not ((table["metric"] == "pass@5") & (table["temperature"] == 0)).any()  # one sample only
    base = made["generate"].table("generations")
    test = base[base["split"] == "test"]
    assert line(artifact, "pass_rate", 0.0)["value"] == pytest.approx(test["label"].astype(bool).mean())


def test_intervals_resample_problems_not_samples(planted):
    """Samples of a problem agree, so the interval is wider than that of as many independent answers."""
    from gnomon.stats import wilson

    artifact, _ = planted
    found = line(artifact, "pass_rate", 0.3)
    loose = wilson(round(found["value"] * found["n"]), int(found["n"]))
    assert found["ci_high"] - found["ci_low"] > 1.15 * (loose.high - loose.low)


def test_a_planted_predictor_is_found_at_every_temperature_and_a_random_one_is_not(planted):
    artifact, _ = planted
    for at in (0.0, *HOT):
        found, null = line(artifact, "auroc", at, MAIN), line(artifact, "auroc", at, MAIN, "shuffled")
        assert found["value"] > 0.8
        assert 0.5 < found["ci_low"] < found["value"] < found["ci_high"]
        assert found["p"] <= 1 / 200 + 1e-9
        assert found["q"] <= 0.05
        assert null["ci_low"] < 0.5 < null["ci_high"] < found["value"]
        other = line(artifact, "auroc", at, OTHER)
        assert other["ci_low"] < 0.5 < other["ci_high"]
        assert line(artifact, "spearman", at, MAIN)["ci_low"] > 0.3
        assert line(artifact, "gain", at, MAIN)["ci_low"] > 0
        assert line(artifact, "gain", at, OTHER)["value"] < 0
    within = line(artifact, "within", 0.9, MAIN)
    assert within["ci_low"] > 0.6  # it reads the response, and the response differs
    assert "one problem alone" in within["note"]


def test_cheap_predictors_are_turned_by_fit_and_the_strongest_is_chosen_there(planted):
    artifact, _ = planted
    known = artifact.table("predictors").set_index("predictor")
    assert known.loc["difficulty", "sign"] == -1  # harder is wrong
    assert known.loc["difficulty", "strongest"]
    assert known["strongest"].sum() == known["main"].sum() == 1
    assert known.loc[MAIN, "main"]
    assert line(artifact, "auroc", 0.9, "difficulty")["value"] > 0.55
    assert line(artifact, "within", 0.9, "difficulty")["value"] == 0.5
    assert "by construction" in line(artifact, "within", 0.9, "difficulty")["note"]


def test_by_difficulty_the_bins_hold_all_samples(planted):
    artifact, made = planted
    bins = artifact.table("by_difficulty")
    rates = bins[(bins["metric"] == "pass_rate") & (bins["at"] == "0.9")].sort_values("bin")
    assert len(rates) == 5
    assert rates["n"].sum() == (made["warm"].table("generations")["temperature"] == 0.9).sum()
    assert rates["value"].iloc[0] > rates["value"].iloc[-1]  # harder ones fail
    assert (rates["high"].to_numpy()[:-1] < rates["low"].to_numpy()[1:]).all()
    inside = bins[(bins["metric"] == "auroc") & (bins["at"] == "all")]
    assert set(inside["predictor"]) >= {MAIN, "difficulty"}
    assert (inside.loc[inside["predictor"] == MAIN, "value"] > 0.75).all()


def test_every_read_of_test_is_in_the_ledger(planted):
    artifact, made = planted
    read = [entry for entry in artifact.meta["ledger"] if entry["split"] == "test"]
    assert [e["rows"] for e in read] == [int((made[n].table("generations")["split"] == "test").sum())
                                        for n in ("generate", "warm")]  # fmt: skip
    scores = artifact.table("scores")
    assert len(scores) == sum(e["rows"] for e in read) * len(artifact.table("predictors"))


def test_the_section_resolves_and_speaks(planted):
    artifact, _ = planted
    assert check(Temperatures(of=("warm",)).summary(artifact), artifact) == []
    said = [h for h in headlines(artifact.path.parent) if "temperature" in h]
    assert any("at .9" in h and "at least one" in h for h in said)
    assert any(MAIN in h and "difficulty" in h for h in said)
    main = next(h for h in said if h.startswith(MAIN))
    assert main.count("(p = ") == 2  # at the lowest temperature and at the highest, each beside its shuffled labels


def test_without_a_signal_shuffled_labels_explain_everything(tmp_path: Path):
    made = study(tmp_path, signal=0.0, own=0.0, seed=3)
    artifact = run(tmp_path, made)
    table = artifact.table("temperatures")
    mine = table[(table["metric"] == "auroc") & (table["predictor"] == MAIN) & (table["control"] == "")]
    assert (mine["q"] > 0.05).all()
    assert ((mine["ci_low"] < 0.5) & (mine["ci_high"] > 0.5)).all()
    assert (table.loc[(table["metric"] == "gain") & (table["predictor"] == MAIN), "ci_low"] <= 0).all()


def test_at_the_prompt_samples_share_one_score_and_need_no_activations_of_their_own(tmp_path: Path):
    made = study(tmp_path, position="last_prompt", bare=True)
    artifact = run(tmp_path, made)
    name = f"probe: difference {SITE}@last_prompt"
    scores = artifact.table("scores")
    mine = scores[scores["predictor"] == name]
    assert mine["score"].notna().all()
    assert (mine.groupby("example_id")["score"].nunique() == 1).all()
    x = made["generate"].activations(SITE, "last_prompt")
    base = made["generate"].table("generations").set_index("example_id")["row"]
    wanted = [float(x.row(int(base[e]))[0]) + 0.5 for e in mine["example_id"]]
    assert np.allclose(mine["score"], wanted, atol=1e-6)
    assert line(artifact, "within", 0.3, name)["value"] == 0.5
    assert "by construction" in line(artifact, "within", 0.3, name)["note"]
    assert line(artifact, "auroc", 0.9, name)["value"] > 0.75


def test_other_positions_need_activations_of_the_samples(tmp_path: Path):
    made = study(tmp_path, bare=True)
    with pytest.raises(UserError, match=r"warm has no activations at resid_post.1@last.*capture: \{sites"):
        run(tmp_path, made)


def test_ungraded_answers_are_neither_right_nor_wrong(tmp_path: Path):
    made = study(tmp_path, unparsed=0.3)
    artifact = run(tmp_path, made)
    warm = made["warm"].table("generations")
    mine = warm[warm["temperature"] == 0.3]
    graded = mine[mine["label"].notna()]
    assert line(artifact, "ungraded", 0.3)["value"] == pytest.approx(mine["label"].isna().mean())
    assert line(artifact, "pass_rate", 0.3)["value"] == pytest.approx(graded["label"].astype(bool).mean())
    full = graded.groupby("example_id").size()
    assert line(artifact, "pass@5", 0.3)["n"] == (full == 5).sum()
    assert "fewer than 5 graded samples left out" in line(artifact, "pass@5", 0.3)["note"]


def test_a_thin_class_gets_no_interval_and_a_note(tmp_path: Path):
    made = study(tmp_path, n=40, easy=2.0)
    artifact = run(tmp_path, made)
    found = line(artifact, "auroc", 0.0, MAIN)
    assert np.isfinite(found["value"])
    assert np.isnan(found["ci_low"])
    assert "20 are needed for an interval" in found["note"]
    blocks = Temperatures(of=("warm",)).summary(artifact)
    assert check(blocks, artifact) == []
    assert any(getattr(b, "kind", "") == "warning" for b in blocks)


def test_one_outcome_alone_is_said(tmp_path: Path):
    made = study(tmp_path, n=60, easy=99.0)
    artifact = run(tmp_path, made)
    found = line(artifact, "auroc", 0.3, MAIN)
    assert np.isnan(found["value"])
    assert "all right" in found["note"]
    assert check(Temperatures(of=("warm",)).summary(artifact), artifact) == []


# ---------------------------------------------------------------- what cannot work


def test_questions_on_another_side_of_the_split_are_refused(tmp_path: Path):
    made = study(tmp_path)
    table = made["warm"].table("generations")
    fit = made["generate"].table("generations").query("split == 'fit'").iloc[0]
    for column in ("example_id", "group", "prompt_hash"):
        table.loc[0, column] = fit[column]
    (tmp_path / "two").mkdir()
    made["warm"] = save(tmp_path / "two", table, {}, "warm")
    with pytest.raises(UserError, match=r"1 groups of warm's test rows are in fit of generate"):
        run(tmp_path, made)


def test_samples_that_two_generations_share_are_counted_once_and_told(tmp_path: Path, caplog):
    made = study(tmp_path)
    (tmp_path / "two").mkdir()
    made["again"] = save(tmp_path / "two", made["warm"].table("generations"), {}, "again")
    artifact = run(tmp_path, made, of=["warm", "again"], using=())
    test = int((made["warm"].table("generations")["split"] == "test").sum())
    assert f"{test} samples have the question" in caplog.text
    assert line(artifact, "pass_rate", 0.3)["n"] == (made["warm"].table("generations")["temperature"] == 0.3).sum()


def test_another_prompt_another_model_and_no_temperatures_are_refused(tmp_path: Path):
    made = study(tmp_path)
    table = made["warm"].table("generations").assign(prompt_hash="changed")
    (tmp_path / "two").mkdir()
    changed = made | {"warm": save(tmp_path / "two", table, {}, "warm")}
    with pytest.raises(UserError, match="with another prompt than generate"):
        run(tmp_path, changed)
    with pytest.raises(UserError, match=r"finds 0 alone"):
        run(tmp_path, made, of=())
    changed["warm"] = made["warm"]
    changed["warm"].meta["model"]["fingerprint"] = "another"
    with pytest.raises(UserError, match="of another model"):
        run(tmp_path, changed)


def test_a_direction_of_another_target_is_refused(tmp_path: Path):
    made = study(tmp_path)
    writer = Writer(tmp_path, "length", "f")
    writer.directions([Direction(Site.parse(SITE), np.ones(D), "x", "probe", None, {"target": "prompt_len"})])
    made["length"] = writer.commit({"step": "probe", "name": "length", "version": 1, "options": {}, "ledger": []})
    with pytest.raises(UserError, match="of 'prompt_len'"):
        run(tmp_path, made, using="length")


def test_checks_before_any_work():
    spec = ModelSpec("none")
    with pytest.raises(UserError, match=r"cheap: 'dificulty'"):
        Temperatures(cheap=("dificulty",)).check(Planning(spec, 0, {}))
    with pytest.raises(UserError, match="warm has no test rows"):
        Temperatures(of=("warm",)).check(Planning(spec, 0, {"warm": Cost(rows=3, splits={"fit": 3, "test": 0})}))
    base, bare = Cost(sites=("resid_post.1@last", "resid_post.1@last_prompt")), Cost(splits={"test": 3})
    for options, fine in (
        ({"positions": None}, False), ({"position": "last"}, False), ({"positions": ("last_prompt",)}, True),
        ({"sites": "resid_post.9"}, True), ({"sites": "resid_post.*"}, False),
    ):  # fmt: skip
        plan = Planning(spec, 0, {"generations": base, "warm": bare}, {"probe": options})
        step = Temperatures(of=("warm",), using=("probe",))
        if fine:
            step.check(plan)
        else:
            with pytest.raises(UserError, match=r"warm has no activations at resid_post\.1@last"):
                step.check(plan)
        held = Cost(splits={"test": 3}, sites=("resid_post.1@last",))
        two = Cost(sites=(*base.sites, "resid_post.2@last"))
        wide = Planning(spec, 0, {"generations": two, "warm": held}, {"probe": options})
        if options.get("positions", 0) is None:  # a probe may choose the other site
            with pytest.raises(UserError, match=r"warm has no activations at resid_post\.2@last"):
                step.check(wide)
        else:  # a dictionary is of one site: which one is not known here
            step.check(wide)
        step.check(Planning(spec, 0, {"generations": base, "warm": held}, {"probe": options}))
    with pytest.raises(UserError, match="using: features reads position response"):
        Temperatures(using=("features",)).check(Planning(spec, 0, {}, {"features": {"position": "response"}}))
    assert Temperatures(of=("warm",), using=("probe",)).needs() == {"of.0": "warm", "using.0": "probe"}


# ---------------------------------------------------------------- features of a dictionary


def features(folder: Path, base: Artifact, source: str, latents: dict[int, str], vectors: np.ndarray) -> Artifact:
    meta = {"position": "last", "dictionary": source, "selected_on": "fit"}
    writer = Writer(folder, "features", "fingerprint of features")
    writer.directions([
        Direction(Site.parse(SITE), vectors[i], f"feature {i} {SITE}", "feature", 0.8,
                  meta | {"latent": i, "predicts": predicts}) for i, predicts in latents.items()
    ])  # fmt: skip
    return writer.commit({"step": "features", "name": "features", "version": 1, "options": {}, "ledger": []})


@pytest.mark.parametrize("where", ["files", "step"])
def test_a_feature_is_scored_by_its_own_activation(tmp_path: Path, where: str):
    """The latent of `incorrect` is turned; where the encoder does not fire the score is 0: the decoder has no say."""
    from gnomon.dictionaries.base import canonical
    from gnomon.dictionaries.save import save_dictionary

    made = study(tmp_path)
    encoder = np.zeros((D, 3), np.float32)
    encoder[0] = (1, -1, 0.5)
    decoder = np.eye(D, dtype=np.float32)[3:6]  # it writes elsewhere than it reads
    dictionary = canonical(Site.parse(SITE), encoder, np.array([-0.4, 0.0, 0.0]), decoder, np.zeros(D))
    if where == "files":
        save_dictionary(dictionary, tmp_path / "mine")
        source, given = str(tmp_path / "mine"), []
    else:
        writer = Writer(tmp_path, "train_dictionary", "t")
        (writer.path / "dictionaries").mkdir(parents=True)
        save_dictionary(dictionary, writer.path / "dictionaries" / SITE)
        writer.table("curve", pd.DataFrame({"x": [1]}))
        given = [writer.commit({"step": "train_dictionary", "name": "train_dictionary", "version": 1, "ledger": []})]
        source = "train_dictionary"
    made["features"] = features(tmp_path, made["generate"], source, {0: "correct", 1: "incorrect"}, decoder)
    step = Temperatures(of=("warm",), using=("features",), permutations=199, draws=300)
    base, writer = made["generate"], Writer(tmp_path, "temperatures", "f")
    kinds = {"generations": [base], "activations": [base], "dictionary": given}
    step.run(Inputs(kinds, made), writer, Context(tmp_path, ModelSpec("no model is loaded"), 0, None))
    artifact = writer.commit({"step": step.name, "name": step.name, "options": {}, "version": 1, "ledger": []})
    scores = artifact.table("scores")
    for latent, sign in ((0, 1), (1, -1)):
        mine = scores[scores["predictor"] == f"features: feature {latent} {SITE}"]
        views = {name: made[name].activations(SITE, "last") for name in ("generate", "warm")}
        x = np.array([views[g].row(r)[0] for g, r in zip(mine["generation"], mine["row"], strict=True)])
        z = np.maximum(x - 0.4, 0) if latent == 0 else np.maximum(-x, 0)
        assert np.allclose(mine["score"], sign * z, atol=1e-5)
        assert 0.1 < (z == 0).mean() < 0.9
        assert line(artifact, "auroc", 0.9, f"features: feature {latent} {SITE}")["value"] > 0.7


def test_a_feature_of_another_dictionary_is_refused(tmp_path: Path):
    from gnomon.dictionaries.base import canonical
    from gnomon.dictionaries.save import save_dictionary

    made = study(tmp_path, n=60)
    decoder = np.eye(D, dtype=np.float32)[:3]
    save_dictionary(canonical(Site.parse(SITE), decoder.T, np.zeros(3), decoder, np.zeros(D)), tmp_path / "mine")
    swapped = decoder[[1, 0, 2]]
    made["features"] = features(tmp_path, made["generate"], str(tmp_path / "mine"), {0: "correct"}, swapped)
    with pytest.raises(UserError, match="is not the feature"):
        run(tmp_path, made, using="features")
    found = made["features"].directions()[0]
    another = Direction(found.site, decoder[0], found.name, "feature", 0.8, {**found.meta, "fingerprint": "of then"})
    with pytest.raises(UserError, match="is not the feature"):  # the same decoder row, read by another encoder
        dictionary_of(another, Inputs({}, {}))


def test_a_study_of_both_generations_runs_from_its_file(tmp_path: Path, monkeypatch):
    """Base, probe, samples of the test split, temperatures: kept when run again."""
    import gnomon
    from tests.tiny import tiny_folder

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "study.yaml").write_text(f"""
model: {tiny_folder("llama")}
steps:
  - generate: {{task: "own_tasks:Letters", n: 80, splits: 60/0/40, capture: {{sites: resid_post.1}}}}
  - probe: {{predictors: difference, positions: last_prompt, draws: 200, random: 19, folds: 3}}
  - generate: {{task: "own_tasks:Letters", n: 80, splits: 60/0/40, only: test, temperatures: [0.5, 1.2], samples: 3}}
    as: warm
  - temperatures: {{of: warm, using: probe, permutations: 199, draws: 200}}
    from: generate
""")
    study = gnomon.run_study(str(tmp_path / "study.yaml"), out=str(tmp_path / "out"))
    artifact = study["temperatures"]
    assert set(artifact.table("temperatures")["temperature"]) == {0.0, 0.5, 1.2}
    assert len(study["warm"].table("generations")) == 32 * 6
    name = artifact.table("predictors").set_index("predictor")["main"].idxmax()
    assert line(artifact, "within", 1.2, name)["value"] == 0.5
    assert check(Temperatures().summary(artifact), artifact) == []
    page = (tmp_path / "out" / "report.html").read_text()
    assert "AUROC by temperature" in page
    assert len([e for e in artifact.meta["ledger"] if e["split"] == "test"]) == 2
    before = (artifact.path / "meta.json").stat().st_mtime_ns
    gnomon.run_study(str(tmp_path / "study.yaml"), out=str(tmp_path / "out"))
    assert (artifact.path / "meta.json").stat().st_mtime_ns == before
