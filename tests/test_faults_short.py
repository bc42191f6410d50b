"""A few of the kills and double starts that tests/test_faults_kills.py does by the hundred."""

from __future__ import annotations

import random

import pytest

from tests.faults_life import Tally, prepared, random_kills, reference


@pytest.mark.parametrize("step", ["generate", "patch_features"])
def test_killed_at_random_moments_a_study_ends_as_one_that_was_not(tmp_path, step):
    content, whole, seconds = reference()
    tally = Tally()
    ordeal = prepared(tmp_path / "a", whole, content, step, tally)
    random_kills(ordeal, step, seconds[step], random.Random(f"short {step}"), 3)
    ordeal.finish(whole)
    print(tally.record())
    assert tally.redone <= tally.total()
