"""intervene on answers that must be run: everything rests on whole answers; selection, attention, weights, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gnomon.causal.rewrite import Rewriter
from gnomon.causal.tables import deciding, overall
from gnomon.errors import UserError
from gnomon.report.sections import make_section
from gnomon.steps.intervene import Intervene
from gnomon.store import Artifact
from gnomon.types import Direction, Site
from tests import program_study
from tests.stepping import data_files, made, stopped
from tests.test_steps_intervene import one

QUICK = {
    "coefficients": (0.3, 1.0), "sweep_controls": 2, "draws": 300, "neutral_texts": 4, "unrelated_items": 6,
    "fit_rows": 12, "max_damage": 30.0, "generate_rows": 32, "ablate_to": "zero", "kinds": "steer",
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("programs")
    program_study.generations(root)
    program_study.features(root)
    return root


def run(study: Path, name: str = "intervene", **options) -> Artifact:
    source = Artifact(study / "features")
    inputs = {"generations": [Artifact(study / "generate")], "directions": [source]}
    step = Intervene(**(QUICK | {"using": "features"} | options))
    return made(step, study, program_study.spec(), name, inputs, {"features": source})


@pytest.fixture(scope="module")
def planted(study) -> Artifact:
    program_study.GRADED.clear()
    return run(study, "planted", aim="right")


@pytest.fixture(scope="module")
def blind(study) -> Artifact:
    name = f"feature 9 {program_study.SITE}"
    return run(
        study,
        "blind",
        direction=name,
        kinds=["steer", "ablate", "orthogonalise"],
        attention=False,
        generate_rows=16,
        coefficients=(0.3,),
    )


def test_everything_that_is_decided_rests_on_whole_answers(planted):
    effects, verdicts = planted.table("effects"), planted.table("verdicts")
    task = effects[effects["metric"].isin(["net_accuracy", "corrected_rate", "corrupted_rate", "unparsed_rate"])]
    assert set(task["score"]) == {"generate"}
    assert set(task["split"]) == {"tune", "test"}
    assert "target_logprob_change" not in set(effects["metric"])
    assert deciding(verdicts) == "net_accuracy"
    assert {"net_accuracy", "corrected_rate", "corrupted_rate"} == set(verdicts["metric"])
    test = task[(task["split"] == "test") & (task["metric"] == "corrected_rate")]
    assert test.groupby("control").size().to_dict() == {"": 1, "sign_flip": 1, "random": 19, "shuffled": 19}
    outcomes = planted.table("outcomes")
    assert set(outcomes["set"]) == {"neutral sweep", "neutral", "unrelated"}


def test_the_planted_feature_corrects_beyond_every_control(planted):
    verdicts, effects = planted.table("verdicts"), planted.table("effects")
    assert overall(verdicts, "steer") == "supported"
    corrected = one(verdicts, claim="steer", control="random", metric="corrected_rate")
    assert corrected["value"] > 0.5 > corrected["control_high"]
    assert corrected["p"] == pytest.approx(1 / 20)
    assert corrected["ci_low"] <= corrected["value"] <= corrected["ci_high"]
    chosen = one(effects[effects["chosen"]], split="tune", metric="net_accuracy")
    tune = effects[(effects["split"] == "tune") & (effects["metric"] == "net_accuracy") & (effects["control"] == "")]
    assert chosen["value"] == tune["value"].max() > 0
    flip = one(verdicts, claim="steer_flip", control="random", metric="corrupted_rate")
    assert flip["value"] > 0.3


def test_rates_are_those_of_the_texts_written_beside_the_clean_ones(planted):
    examples, effects = planted.table("examples"), planted.table("effects")
    own = examples[(examples["control"] == "") & (examples["kind"] == "steer")]
    assert len(own) == len(set(own["row"])) == one(planted.table("facts"), fact="test rows")["value"]
    before, after = own["label_before"].eq(True), own["label"].eq(True)
    for metric, wanted in (
        ("corrected_rate", after[~before].mean()), ("corrupted_rate", (~after)[before].mean()),
        ("net_accuracy", after.mean() - before.mean()), ("unparsed_rate", own["label"].isna().mean()),
    ):  # fmt: skip
        found = one(effects, split="test", kind="steer", control="", metric=metric)
        assert found["value"] == pytest.approx(wanted), metric
    assert one(planted.table("facts"), fact="graded as stored")["value"] == 1.0  # greedy, and float32 on one machine
    assert own["reason"].str.contains(": by its first letter|no code").all()
    verdicts = [json.loads(m)["verdict"] for m in own["meta"]]
    assert [v == "pass" for v in verdicts] == after.tolist()
    assert set(own["reason_before"]) <= {"pass: by its first letter", "fail: by its first letter"}


def test_no_text_is_graded_twice(planted):
    assert len(program_study.GRADED) == len(set(program_study.GRADED))
    written = planted.table("rewritten").assign(example=lambda t: "q" + t["row"].astype(str))
    assert set(program_study.GRADED) == set(zip(written["example"], written["text"], strict=True))
    assert len(program_study.GRADED) < len(written)


def test_the_shared_prompt_changes_no_answer(study):
    """The same arms with and without the kept prefix write the same tokens."""
    from gnomon.interventions.base import per_row
    from gnomon.interventions.steer import Steer
    from tests.tiny import tiny_model

    for family in ("llama", "gpt2", "gemma2"):
        model, rng = tiny_model(family), np.random.default_rng(0)
        prompts = [[int(t) for t in rng.integers(3, 250, size=n)] for n in (9, 3, 6)]
        which = np.repeat(np.arange(2), 3)
        edits = per_row(
            [[], [Steer(program_study.SITE, rng.standard_normal(32), where=p, strength=40.0)
                  for p in ("last_prompt", "generated")]], which,
        )  # fmt: skip
        whole = model.generate(prompts * 2, max_new_tokens=6, edit=edits)
        cache = model.new_cache(reserve=8)
        model.forward([p[:-1] for p in prompts], cache=cache)
        cache.align()
        for _ in range(2):  # the kept cache serves again
            part = model.generate(prompts * 2, max_new_tokens=6, edit=edits, prefix=cache.select([0, 1, 2] * 2))
            assert [r.token_ids for r in part.rows] == [r.token_ids for r in whole.rows]
        assert [r.token_ids for r in whole.rows[:3]] != [r.token_ids for r in whole.rows[3:]]
        early = [Steer(program_study.SITE, np.ones(32), where="all")]
        with pytest.raises(UserError, match="a prefix, and edits at all"):
            model.generate(prompts, max_new_tokens=2, edit=early, prefix=cache.select([0, 1, 2]))
        with pytest.raises(UserError, match="a prefix of other lengths"):
            model.generate(prompts[::-1], max_new_tokens=2, prefix=cache.select([0, 1, 2]))


def test_selection_spares_right_answers(planted):
    table = planted.table("selective")
    assert set(table["predictor"]) == {"wrong"}  # the tried feature predicts right answers; the other one picks
    assert set(table["selection"]) == {"everything", "predictor", "random rows", "predictor - everything"}
    effects = planted.table("effects")
    for control in ("", "sign_flip"):
        for metric in ("corrected_rate", "corrupted_rate", "net_accuracy"):
            every = one(table, kind="steer", control=control, selection="everything", metric=metric)
            assert every["value"] == one(effects, split="test", kind="steer", control=control, metric=metric)["value"]
    flipped = {s: one(table, control="sign_flip", selection=s, metric="corrupted_rate") for s in
               ("everything", "predictor", "random rows")}  # fmt: skip
    assert flipped["predictor"]["value"] < flipped["random rows"]["ci_low"] <= flipped["everything"]["value"]
    assert flipped["predictor"]["p"] <= 0.05
    assert flipped["predictor"]["edited"] == flipped["random rows"]["edited"] > 0
    saved = one(table, control="sign_flip", selection="predictor - everything")
    assert saved["ci_low"] > 0
    examples, source = planted.table("examples"), Artifact(planted.path.parent / "features").table("predictions")
    own = examples[examples["control"] == ""].set_index("row")
    fires = source[source["predictor"] == "wrong"].set_index("row")["fires"].reindex(own.index)
    before, after = own["label_before"].eq(True), own["label"].eq(True)
    wanted = (after.where(fires, before)[~before]).mean()
    assert one(table, control="", selection="predictor", metric="corrected_rate")["value"] == pytest.approx(wanted)


def test_a_named_predictor_that_predicts_right_answers_is_turned(study, blind):
    assert set(blind.table("selective")["predictor"]) == {"wrong"}
    named = run(study, "named", when="right", attention=False, generate_rows=16, coefficients=(0.3,))
    assert set(named.table("selective")["predictor"]) == {"right (where it does not fire)"}
    edited = [set(t.table("selective").query("selection == 'predictor'")["edited"]) for t in (named, blind)]
    assert edited[0] == edited[1]
    with pytest.raises(UserError, match="did you mean 'right'"):
        run(study, "x", when="rihgt")
    off = run(study, "off", selective=False, attention=False, generate_rows=8)
    assert not {"selective", "attention"} & set(off.tables())


def test_orthogonalised_weights_are_compared_with_both_controls(blind):
    effects, verdicts = blind.table("effects"), blind.table("verdicts")
    test = effects[(effects["split"] == "test") & (effects["metric"] == "corrupted_rate")]
    assert test.groupby(["kind", "control"]).size().to_dict() == {
        ("steer", ""): 1, ("steer", "sign_flip"): 1, ("steer", "random"): 19, ("steer", "shuffled"): 19,
        ("ablate", ""): 1, ("ablate", "shuffled"): 19, ("ablate", "isotropic"): 5,
        ("orthogonalise", ""): 1, ("orthogonalise", "random"): 19, ("orthogonalise", "shuffled"): 19,
    }  # fmt: skip
    removed = verdicts[(verdicts["claim"] == "orthogonalise") & (verdicts["metric"] == "corrupted_rate")]
    assert set(removed["control"]) == {"random", "shuffled"}
    assert not {overall(verdicts, c) for c in ("steer", "ablate", "orthogonalise")} & {"supported"}
    assert one(effects, split="test", kind="orthogonalise", control="", metric="neutral_loss_change")["n"] == 4


def test_attention_shares_equal_those_of_plain_forwards(study, planted):
    from gnomon.causal.attending import spans
    from gnomon.interventions.steer import Steer
    from gnomon.models.tokens import decode
    from tests.tiny import tiny_model

    table = planted.table("attention")
    assert set(table["part"]) == {"problem", "tests"}
    assert set(table["layer"]) == {-1, 0, 1, 2, 3}
    assert set(table["position"]) == {"last_prompt", "last"}
    model = tiny_model("llama")
    rows = Artifact(study / "generate").table("generations").set_index("row")
    direction = planted.directions("tested_directions")[0]
    facts = planted.table("facts").set_index("fact")
    edits = [
        Steer(direction.site, direction.vector, where=place, strength=facts.loc["coefficient", "value"],
              unit=facts.loc["unit", "value"]) for place in ("last_prompt", "generated")
    ]  # fmt: skip
    # the steered site is the last block's output, so no pattern can move: a site below must move it (next test)
    attended = planted.table("attended")
    row = int(attended["row"].iloc[0])
    r = rows.loc[row]
    ids, n = [int(i) for i in r["token_ids"]], int(r["prompt_len"])
    at = spans(ids[:n], r["prompt"], json.loads(r["meta"])["parts"], lambda x: decode(model.tokenizer, x, special=True))
    for name, condition in (("clean", []), (next(c for c in attended["condition"] if " own " in c), edits)):
        out = model.forward([ids], edit=condition, patterns=range(4), pattern_at="last", prompt_lens=[n])
        for part, (a, b) in at.items():
            for layer in range(4):
                wanted = float(out.patterns[layer][0, :, 0, a:b].sum(-1).mean())
                found = one(attended, row=row, condition=name, position="last", part=part, layer=layer)
                assert found["value"] == pytest.approx(wanted, abs=1e-5)
                assert found["tokens"] == b - a
    mean = one(table, position="last", part="problem", layer=-1, condition="before")
    assert mean["ci_low"] <= mean["value"] <= mean["ci_high"]
    tests = one(table, position="last", part="tests", layer=-1, condition="before")
    assert tests["missing"] > 0
    assert tests["n"] + tests["missing"] == facts.loc["test rows", "value"]
    still = one(table, position="last", part="problem", layer=-1, condition="steered - before")
    assert still["value"] == 0  # nothing attends to the last block's output


def test_steering_lower_moves_attention_and_a_site_may_be_given(study):
    moved = run(study, "mid", at="resid_mid", direction=0, generate_rows=10, attention_controls=2)
    effects = moved.table("effects")
    assert set(effects[effects["kind"] == "steer"]["site"]) == {"resid_mid.3"}
    assert moved.directions("tested_directions")[0].meta["made_at"] == "resid_post.3"
    pre = run(study, "pre", at="resid_pre", direction=0, generate_rows=10, attention_controls=2)
    change = pre.table("attention")
    change = change[(change["condition"] == "steered - before") & (change["layer"] == 3)]
    assert (change["value"] != 0).all()
    layer = pre.table("attention")
    layer = layer[(layer["condition"] == "steered - before") & (layer["layer"] == 2)]
    assert (layer["value"] == 0).all()


def test_spans_of_parts():
    from gnomon.causal.attending import spans

    words = ["<s>", "Say ", "it", "!\n", "ass", "ert ", "it", "()", "."]

    def decode(ids):
        return "".join(words[i] for i in ids)

    ids, prompt = list(range(9)), "Say it!\nassert it()."
    found = spans(ids, prompt, {"problem": "Say it!", "tests": "assert it()", "none": "xyz", "empty": ""}, decode)
    assert found == {"problem": (1, 4), "tests": (4, 8)}
    assert spans(ids, prompt, {"it": "it"}, decode) == {"it": (6, 7)}  # the last one
    assert spans(ids, "another prompt", {"it": "it"}, decode) == {}


def test_the_section_is_made_whole(planted, blind):
    sections = [make_section(artifact, {}, strict=True) for artifact in (planted, blind)]
    for section in sections:
        headlines = [sentence.text for sentence in section.sentences("headline")]
        text = " ".join(s.text for kind in ("headline", "text", "control", "limit", "method")
                        for s in section.sentences(kind))  # fmt: skip
        assert "{" not in text
        assert any("wrong answers became right" in h for h in headlines), headlines
        assert "right ones became wrong" in text
        assert "written and graded" in text
        assert "nats" not in " ".join(headlines)
    beyond = [any("beyond every control" in s.text for s in section.sentences("headline")) for section in sections]
    assert beyond == [True, False]


def test_stopped_and_resumed_equals_uninterrupted(study, tmp_path):
    options = {"generate_rows": 8, "attention_controls": 1, "coefficients": (0.5,)}
    whole = run(study, "whole", **options)
    program_study.generations(tmp_path)
    program_study.features(tmp_path)
    with stopped(Rewriter, 2):
        run(tmp_path, **options)
    partial = tmp_path / ".intervene.partial" / "_done"
    done = sorted(p.stem for p in partial.glob("*.json"))
    stamp = {p: (partial / f"{p}.json").stat().st_mtime_ns for p in done}
    assert len(done) == 5  # the sweep and its damage, the damage on test, the first shard of answers on test
    resumed = run(tmp_path, **options)
    assert {p: (resumed.path / "_done" / f"{p}.json").stat().st_mtime_ns for p in done} == stamp
    assert data_files(resumed) == data_files(whole)


def test_what_does_not_fit_is_refused_by_name(study, tmp_path):
    for score in ("logprob", "both"):
        with pytest.raises(UserError, match=rf"score: {score}, and the answers of task .* are judged by running"):
            run(study, "x", score=score)
    neuron = Direction(Site("mlp_post", 1), np.ones(4))
    with pytest.raises(UserError, match=r"at: resid_pre, for a direction at mlp_post\.1"):
        Intervene(at="resid_pre").placed(neuron)
    program_study.generations(tmp_path, task="Longwinded", parts=False)
    program_study.features(tmp_path)
    long = run(tmp_path, "long", generate_rows=8, selective=False)
    assert set(long.table("effects").query("metric == 'net_accuracy'")["score"]) == {"generate"}
    assert not long.has("attention")
    with pytest.raises(UserError, match="no row names the parts"):
        run(tmp_path, "x", generate_rows=8, attention=True)
    short = run(tmp_path, "short", score="logprob", selective=False, coefficients=(0.3,))
    assert "target_logprob_change" in set(short.table("effects")["metric"])
    rounds = Artifact(study / "generate").table("generations").assign(round=1)
    from gnomon.causal.whole import decided_by

    with pytest.raises(UserError, match="played in rounds"):
        decided_by("generate", Artifact(study / "generate"), rounds, lambda text: [1] * len(text))


def test_a_claim_about_programs_is_audited_by_whole_answers(study):
    from gnomon.steps.audit_claim import AuditClaim

    *_, vector = program_study.written()
    path = Direction(program_study.SITE, vector, "theirs").save(study / "theirs.npy")
    options = {k: v for k, v in QUICK.items() if k != "kinds"} | {"generate_rows": 24, "coefficients": (1.0,)}
    step = AuditClaim(direction=str(path), kinds="steer", aim="right", attention=False, random_readings=19,
                      permutations=199, **options)  # fmt: skip
    claim = made(step, study, program_study.spec(), "claim", {"generations": [Artifact(study / "generate")]})
    claims = claim.table("claims").set_index("claim")
    assert claims.loc["steers", "verdict"] == "supported"
    net = one(claim.table("verdicts"), claim="steer", control="random", metric="net_accuracy")
    assert claims.loc["steers", "value"] == net["value"] > 0
    make_section(claim, {}, strict=True)


def test_a_probe_with_a_threshold_selects_too(study):
    from gnomon.causal.gating import Gate, gate_of

    meta = {"target": "correct", "threshold": 0.25, "bias": 0.5, "position": "last_prompt"}
    probe = Direction(program_study.SITE, np.ones(32), "p", "probe", None, meta)
    gate = gate_of(Intervene(selective=True), probe, None)
    assert gate == Gate("p at or below its threshold", probe=probe)
    assert gate_of(Intervene(), probe, None) is None
    with pytest.raises(UserError, match="without predictions"):
        gate_of(Intervene(selective=True), Direction(program_study.SITE, np.ones(32)), None)


def test_a_source_that_predicted_nothing_selects_nothing(tmp_path):
    from gnomon.causal.gating import gate_of
    from gnomon.methods.feature_tables import PREDICTIONS
    from gnomon.writer import Writer

    writer = Writer(tmp_path, "features", "features")
    writer.table("predictions", PREDICTIONS.empty_table())
    source = writer.commit({"step": "features", "name": "features", "options": {}, "writes": ["features"]})
    direction = Direction(program_study.SITE, np.ones(32))
    assert gate_of(Intervene(), direction, source) is None
    with pytest.raises(UserError, match="without predictions"):
        gate_of(Intervene(selective=True), direction, source)


def test_masks_of_a_mindless_predictor_are_its_equals():
    """Selection by a coin has a p that is spread evenly; by the truth the smallest."""
    from gnomon.causal.arms import Arm
    from gnomon.causal.gating import selective_rows
    from gnomon.causal.worker import CLEAN
    from gnomon.methods.effects import Outcomes, weights_of

    arm, found = Arm(CLEAN, "steer", "", "d", "feature", "resid_post.3", 0.5), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        base, after = (rng.random((120, 1)) < 0.5 for _ in range(2))
        nothing = np.zeros((120, 1))
        table = selective_rows(
            [arm], Outcomes(nothing, base, base), Outcomes(nothing, after, after), rng.random(120) < 0.4,
            weights_of(np.arange(120), 200), 99, seed, {"predictor": "coin", "score": "generate"},
        )  # fmt: skip
        found.append(one(table, selection="predictor", metric="net_accuracy")["p"])
    assert sum(p <= 0.05 for p in found) <= 6
    truth = selective_rows(
        [arm], Outcomes(nothing, base, base), Outcomes(nothing, after, after), ~base[:, 0],
        weights_of(np.arange(120), 200), 99, 0, {"predictor": "truth", "score": "generate"},
    )  # fmt: skip
    best = one(truth, selection="predictor", metric="net_accuracy")
    assert best["p"] == 0.01
    assert one(truth, selection="predictor", metric="corrupted_rate")["value"] == 0
    assert isinstance(truth, pd.DataFrame)


def test_a_predictor_that_never_fires_is_said_in_one_sentence():
    from gnomon.causal.arms import Arm
    from gnomon.causal.gating import selective_rows
    from gnomon.causal.whole_blocks import selective_blocks
    from gnomon.causal.worker import CLEAN
    from gnomon.methods.effects import Outcomes, weights_of

    rng = np.random.default_rng(0)
    base, after = (rng.random((60, 1)) < 0.5 for _ in range(2))
    nothing, arm = np.zeros((60, 1)), Arm(CLEAN, "steer", "", "d", "feature", "resid_post.3", 0.5)

    def blocks(fires: np.ndarray) -> list[Any]:
        return selective_blocks(selective_rows(
            [arm], Outcomes(nothing, base, base), Outcomes(nothing, after, after), fires,
            weights_of(np.arange(60), 200), 99, 0, {"predictor": "quiet", "score": "generate"},
        ))  # fmt: skip

    (silent,) = blocks(np.zeros(60, bool))
    assert "nothing is edited" in silent.text
    assert len(blocks(np.arange(60) < 20)) == 2


def test_reading_attention_is_part_of_what_it_will_cost():
    from gnomon.step import Cost, ModelSpec, Planning

    plan = Planning(ModelSpec("none"), 0, {"generations": Cost(rows=100, prompt_tokens=4000, new_tokens=2000)},
                    {"generations": {"task": {"functions": {}}}})  # fmt: skip
    tokens = [Intervene(attention=a, generate_rows=10).cost(plan).forward_tokens for a in (None, True, False)]
    assert tokens[0] == tokens[1] == tokens[2] + 10 * 5 * (43 + 20)
