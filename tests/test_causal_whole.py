"""What a trial makes of whole answers, of verdicts beside their controls, and of options that come late."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from gnomon.causal.arms import Arm, Arms
from gnomon.causal.measure import Scale
from gnomon.causal.rewrite import before_and_after, now_right
from gnomon.causal.tables import moved, reach
from gnomon.causal.whole import written
from gnomon.causal.whole_blocks import whole_headline
from gnomon.causal.worker import Condition
from gnomon.errors import UserError
from gnomon.steps.intervene import Intervene
from gnomon.types import Direction, Site
from tests import program_study
from tests.test_steps_intervene_whole import run

ARM = Arm(Condition("steer"), "steer", "", "d", "feature", "resid_post.3", 0.5)


def answers(**verdicts: list[str]) -> pd.DataFrame:
    """The table `rewritten` of conditions whose answers to rows 0, 1, ... got these verdicts."""
    labels = {"pass": True, "fail": False, "timeout": False}
    return pd.DataFrame([
        {"condition": name, "row": i, "text": f"{name} {i}", "answer": f"{name} {i}", "label": labels.get(v),
         "reason": v, "meta": json.dumps({"verdict": v})}
        for name, every in verdicts.items() for i, v in enumerate(every)
    ])  # fmt: skip


TABLE = pd.DataFrame({
    "row": range(6), "label": [True, True, True, False, True, False], "example_id": "q", "prompt": "", "target": "",
    "text": "", "answer": "",
})  # fmt: skip
MADE = answers(
    clean=["pass", "pass", "pass", "fail", "infra", "unsupported"],
    steer=["infra", "blocked", "", "unsupported", "fail", "pass"],
)


def test_what_could_not_be_judged_is_never_counted_as_wrong():
    found = written(MADE, TABLE, [ARM])
    assert found.base.right[:, 0].tolist() == [True, True, True, False, True, False]  # stored, where not judged
    assert found.after.right[:, 0].tolist() == [True, True, False, False, False, True]
    assert found.unparsed[:, 0].tolist() == [True, True, True, True, False, False]
    assert found.unjudged[:, 0].tolist() == [True, True, False, True, False, False]


def test_examples_name_what_could_not_be_judged():
    found = before_and_after(TABLE, MADE, [ARM], again=True).sort_values("row")
    assert found["change"].tolist() == ["not judged", "not judged", "unparsed", "not judged", "corrupted", "corrected"]
    assert now_right(found).tolist() == [True, True, False, False, False, True]


def verdicts(value: float, control: float, p: float, controls: int) -> pd.DataFrame:
    rates = [("net_accuracy", "random"), ("net_accuracy", "shuffled")]
    return pd.DataFrame([
        {"claim": "steer", "metric": metric, "control": name, "coefficient": 0.5, "value": value,
         "control_mean": control, "control_low": control, "control_high": control, "excess": value - control, "p": p,
         "controls": controls, "n": 40, "ci_low": value, "ci_high": value, "verdict": "supported"}
        for metric, name in rates
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("value", "control", "p", "controls", "said"),
    [
        (0.2, 0.0, 0.05, 19, "raises accuracy beyond every control"),
        (-0.2, 0.0, 0.05, 19, "lowers accuracy beyond every control"),
        (-0.3, -0.1, 0.05, 19, "lowers accuracy beyond every control"),
        (-0.05, -0.3, 0.05, 19, "changes accuracy less than every control"),
        (0.0, -0.3, 0.05, 19, "changes accuracy less than every control"),
        (0.2, 0.0, 0.04, 99, "raises accuracy beyond 95% of its controls"),
    ],
)
def test_a_headline_says_what_its_numbers_say(value, control, p, controls, said):
    table = verdicts(value, control, p, controls)
    assert said in whole_headline(table, "steer").text
    assert moved(table, "steer") in ("raises", "lowers", "less")
    assert reach(table, "steer") in said


def test_as_many_controls_of_attention_as_are_asked_for():
    direction = Direction(Site("resid_post", 3), np.eye(8)[0], "d")
    scale = Scale(1.0, np.zeros((2, 8)), {}, 0.0, 2)
    arms = Arms(Intervene(attention_controls=30), direction, scale, np.zeros((0, 8)), 0, [])
    assert len(arms.isotropic("steer", 30, 1.0)) == 30


def test_parts_that_no_row_has_are_refused_before_anything_is_run(tmp_path, monkeypatch):
    from gnomon.causal.bench import Bench

    monkeypatch.setattr(Bench, "_decide", lambda *args: pytest.fail("the sweep was run"))
    program_study.generations(tmp_path, parts=False)
    program_study.features(tmp_path)
    with pytest.raises(UserError, match="no row names the parts"):
        run(tmp_path, attention=True)
