"""audit_claim: a direction that reads and causes is told from a blind one; what is missing is captured on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.report.sections import make_section
from gnomon.step import Planning
from gnomon.steps.audit_claim import AuditClaim
from gnomon.store import Artifact
from gnomon.types import Direction
from tests import causal_study
from tests.stepping import made

QUICK = {
    "coefficients": (0.25, 0.5), "sweep_controls": 2, "draws": 400, "neutral_texts": 4, "unrelated_items": 6,
    "fit_rows": 12, "max_damage": 20.0, "ablate_to": "zero", "score": "logprob", "random_readings": 39,
    "permutations": 199,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("claims")
    causal_study.generations(root)
    return root


def run(study: Path, name: str, direction: str | Path, **options) -> Artifact:
    inputs = {"generations": [Artifact(study / "generate")]}
    step = AuditClaim(direction=str(direction), **(QUICK | options))
    return made(step, study, causal_study.spec(), name, inputs)


@pytest.fixture(scope="module")
def planted(study) -> Artifact:
    """The planted direction, written upside down, with its site beside it: fit must turn it round."""
    *_, vector = causal_study.planted()
    path = Direction(causal_study.SITE, -vector, "theirs").save(study / "theirs.npy")
    return run(study, "planted", path)


def verdicts(artifact: Artifact) -> dict[str, str]:
    claims = artifact.table("claims")
    return dict(zip(claims["claim"], claims["verdict"], strict=True))


def test_a_true_direction_reads_steers_and_is_needed(planted):
    found = verdicts(planted)
    assert found["reads"] == found["steers"] == found["needed"] == "supported"
    scores = planted.table("scores")
    main = scores[(scores["predictor"] == "given") & (scores["metric"] == "auroc") & (scores["control"] == "")].iloc[0]
    assert main["value"] > 0.75  # labels are cut from the log-probability; this direction writes the logit
    assert main["ci_low"] <= main["value"] <= main["ci_high"]
    test = Artifact(planted.path.parent / "generate").table("generations")
    assert main["n"] == (test["split"] == "test").sum()
    assert {"increment", "baselines", "prevalence", "noise", "max_prob"} <= set(scores["predictor"])
    assert {"random", "shuffled"} <= set(scores["control"])


def test_the_steering_is_along_the_turned_direction(planted):
    tried = planted.directions("tested_directions")[0]
    *_, vector = causal_study.planted()
    assert tried.unit @ vector / np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    up = planted.table("effects")
    up = up[(up["split"] == "tune") & (up["metric"] == "target_logprob_change") & (up["control"] == "")]
    assert (np.sign(up["value"]) == np.sign(up["coefficient"])).all()


def test_a_blind_direction_is_supported_in_nothing(study):
    vector = np.random.default_rng(5).standard_normal(32)
    np.save(study / "blind.npy", vector)
    blind = run(study, "blind", study / "blind.npy", site="resid_post.3")
    found = verdicts(blind)
    assert "supported" not in found.values(), found
    section = make_section(blind, {}, strict=True)
    assert "not supported" in section.sentences("headline")[0].text


def test_the_page_resolves_and_gives_one_verdict_for_each_claim(planted):
    section = make_section(planted, {}, strict=True)
    first, reading, *_ = [sentence.text for sentence in section.sentences("headline")]
    for asked in ("reads whether an answer is right - supported", "moves answers - supported", "needs it"):
        assert asked in first
    assert "AUROC" in reading
    assert "random directions" in reading
    assert "{" not in first + reading
    assert set(planted.table("claims")["rule"].str.len() > 20) == {True}


def test_kinds_may_be_left_out_and_signs_kept(study, planted):
    given = run(study, "given", study / "theirs.npy", kinds="steer", orientation="given", baselines=("noise",))
    assert set(verdicts(given)) == {"reads", "adds", "steers"}
    scores = given.table("scores")
    main = scores[(scores["predictor"] == "given") & (scores["metric"] == "auroc") & (scores["control"] == "")]
    assert main["value"].iloc[0] < 0.25  # upside down, as the file has it
    make_section(given, {}, strict=True)


def test_activations_captured_now_equal_captured_ones(study, planted, tmp_path):
    """At `last` and `last_prompt`, teacher-forced in batches, against each text alone."""
    from gnomon.causal.measure import activations
    from gnomon.step import Context, Inputs
    from tests.tiny import tiny_model

    table = Artifact(study / "generate").table("generations")
    ctx = Context(tmp_path, causal_study.spec())
    model = tiny_model("llama")
    for position, end in (("last_prompt", -1), ("last", None), ("answer", None)):
        found, here = activations(Inputs({}), ctx, table, causal_study.SITE, position, 16)
        assert here.all()
        for i in (0, 7, 50):
            ids = [int(t) for t in table["token_ids"].iloc[i]][:end]
            alone = model.forward([ids], read=[causal_study.SITE]).acts[causal_study.SITE][0, -1].numpy()
            assert np.allclose(found[i], alone, atol=1e-4)
    missing = table.assign(answer_token=table["answer_token"].where(table["row"] > 5))
    found, here = activations(Inputs({}), ctx, missing, causal_study.SITE, "answer", 16)
    assert len(found) == here.sum() == (table["row"] > 5).sum()
    with pytest.raises(UserError, match="many tokens"):
        activations(Inputs({}), ctx, table, causal_study.SITE, "all", 16)


def test_mistakes_are_named(study, planted, tmp_path):
    plan = Planning(causal_study.spec(), 0, {})
    np.save(tmp_path / "wide.npy", np.ones(33))
    with pytest.raises(UserError, match=r"has 33 numbers; resid_post.1 of .* has 32"):
        AuditClaim(direction=str(tmp_path / "wide.npy"), site="resid_post.1").check(plan)
    with pytest.raises(UserError, match="layers are 0 to 3"):
        AuditClaim(direction=str(tmp_path / "wide.npy"), site="resid_post.9").check(plan)
    with pytest.raises(UserError, match="names a site"):
        AuditClaim(direction=str(tmp_path / "wide.npy")).check(plan)
    with pytest.raises(UserError, match="no direction file"):
        AuditClaim(direction=str(tmp_path / "none.npy"), site="resid_post.1").check(plan)
    with pytest.raises(UserError, match="has 33 numbers"):
        run(study, "wide", tmp_path / "wide.npy", site="resid_post.1")
    with pytest.raises(UserError, match="did you mean 'noise'"):
        run(study, "names", study / "theirs.npy", baselines=("noisy",))


def test_the_file_is_part_of_the_identity(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(4))
    step = AuditClaim(direction=str(tmp_path / "a.npy"), site="resid_post.1")
    before = step.identity()
    np.save(tmp_path / "a.npy", np.arange(4.0))
    assert step.identity() != before
