"""Names of latents, the two classes of labels, and random latents that stand for others."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.latents import Latent, latent_name
from gnomon.methods.matched_latents import active_facts, stand_ins
from gnomon.methods.two_classes import shortfall
from gnomon.types import Site


def test_names_are_read_as_they_are_written():
    assert latent_name("resid_post.29", 2374) == "L29-2374"
    assert latent_name("mlp_out.7", 12) == "mlp_out.7-12"
    for text in ("L29-2374", "mlp_out.7-12"):
        assert str(Latent.parse(text)) == text
    assert Latent.parse("L3-4") == Latent(Site("resid_post", 3), 4)


@pytest.mark.parametrize("text", ["29-2374", "L29", "L29-x", "L29-2374b", "nothing.7-12", ""])
def test_what_is_no_name_is_refused(text: str):
    with pytest.raises(UserError):
        Latent.parse(text)


def test_too_few_rows_and_too_few_parsed_answers_conclude_nothing():
    enough = [True] * 20 + [False] * 20
    assert shortfall(enough) == ""
    assert shortfall([*enough, *[None] * 10]) == ""
    assert "parsed" in shortfall([*enough, *[None] * 11])
    assert "19 risky" in shortfall(enough[:-1], ("safe", "risky"), "split test")
    assert "no rows" in shortfall([])


def test_stand_ins_are_others_and_used_as_much():
    rng = np.random.default_rng(0)
    rate = np.exp(rng.uniform(np.log(0.001), np.log(0.5), size=400))
    latents = (rng.random((3000, 400)) < rate) * rng.exponential(size=(3000, 400)) * 2
    found, mean = active_facts(latents)
    chosen = [int(i) for i in np.argsort(found)[[150, 200, 399]]]
    drawn = stand_ins(found, mean, chosen, 10, 1)
    assert drawn.shape == (3, 10)
    assert not set(drawn.ravel()) & set(chosen)
    assert all(len(set(row)) == 10 for row in drawn)
    for one, row in zip(chosen, drawn, strict=True):
        far = np.abs(np.log(found[row] / found[one]))
        assert far.max() < np.abs(np.log(found[found > 0] / found[one])).mean()
    assert np.array_equal(drawn, stand_ins(found, mean, chosen, 10, 1))
    with pytest.raises(UserError, match="stand for each"):
        stand_ins(found, mean, chosen, 400, 1)
