"""What a step reads that gathers a kind: every confidence pass of its own generation, no other's; the joined table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.lineage import Node, offers, resolve
from gnomon.rows.signals import pass_called, passes, signals, stated
from gnomon.step import Inputs, Step
from gnomon.store import Artifact
from tests.confidence_study import Sure, make


class Gathering(Step):
    """Reads every pass."""

    name: ClassVar[str] = "gathering"
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    optional: ClassVar[tuple[str, ...]] = ("confidence",)
    gathers: ClassVar[tuple[str, ...]] = ("confidence",)


class Needing(Gathering):
    """Cannot do without."""

    reads: ClassVar[tuple[str, ...]] = ("generations", "confidence")


class Single(Gathering):
    """Reads one."""

    gathers: ClassVar[tuple[str, ...]] = ()


def node(name: str, writes: tuple[str, ...], **kinds: list[Node]) -> Node:
    made = Node(name, Path(name), name, writes)
    made.offers = offers(made, kinds)
    return made


def earlier(names: Sequence[str] = ("self", "other")) -> list[Node]:
    base, tuned = (node(name, ("generations",)) for name in ("base", "tuned"))
    told = [node(name, ("confidence",), generations=[base]) for name in names]
    return [base, *told, tuned, node("told", ("confidence",), generations=[tuned])]


def got(step: Step, source: object, nodes: list[Node]) -> dict[str, list[str]]:
    found = resolve("it", step, source, nodes, lambda text: nodes[0])
    return {kind: [one.name for one in many] for kind, many in found.items()}


def test_every_pass_of_the_chosen_generation_and_no_others():
    assert got(Gathering(), "base", earlier()) == {"generations": ["base"], "confidence": ["self", "other"]}
    assert got(Gathering(), "tuned", earlier()) == {"generations": ["tuned"], "confidence": ["told"]}
    assert got(Gathering(), {"generations": "base", "confidence": "other"}, earlier())["confidence"] == ["other"]
    assert got(Gathering(), ["base", "self"], earlier())["confidence"] == ["self"]


def test_no_pass_is_nothing_or_an_error_that_says_what_to_add():
    alone = earlier(())[:1]
    assert got(Gathering(), None, alone) == {"generations": ["base"]}
    with pytest.raises(UserError, match=r"reads 'confidence' but no earlier step writes them; put 'confidence' above"):
        got(Needing(), None, alone)


def test_a_step_that_does_not_gather_wants_one():
    with pytest.raises(UserError, match="which self and other all write"):
        got(Single(), None, earlier()[:3])


# ---------------------------------------------------------------- the joined table


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return make(tmp_path_factory.mktemp("sure"), Sure(n=60, missing=0.2))


def inputs(study: dict[str, Artifact], *names: str) -> Inputs:
    return Inputs({"generations": [study["generate"]], "confidence": [study[name] for name in names]})


def test_signals_are_joined_by_row_and_larger_means_surer(study):
    table, found = signals(inputs(study, "self", "other"))
    assert [s.name for s in found] == ["max_prob", "mean_prob", "margin", "negative_entropy", "ease", "self", "other"]
    assert [s.name for s in found if s.probability] == ["max_prob", "mean_prob", "self", "other"]
    assert table["row"].tolist() == list(range(60))
    source = study["generate"].table("generations")
    np.testing.assert_array_equal(table["ease"], -source["difficulty"])
    np.testing.assert_array_equal(table["mean_prob"], np.exp(source["mean_logprob"]))
    told = study["self"].table("confidence")
    assert 30 < len(told) < 60
    np.testing.assert_array_equal(table.loc[told["row"], "self"], told["confidence"])
    assert int(np.isnan(np.asarray(table["self"])).sum()) == 60 - len(told)
    np.testing.assert_array_equal(stated(study["self"], [5, 3]), table["self"].loc[[5, 3]])


def test_a_pass_is_found_by_its_name_or_by_what_it_asks(study):
    assert set(passes(inputs(study, "self", "other"))) == {"self", "other"}
    assert pass_called(inputs(study, "self", "other"), "other").name == "other"
    with pytest.raises(UserError, match=r"unknown confidence pass 'slef'.*did you mean 'self'"):
        pass_called(inputs(study, "self", "other"), "slef")


def test_two_passes_that_ask_the_same_must_be_named(tmp_path: Path):
    from tests.confidence_study import rows, save_pass

    made = make(tmp_path)
    table, planted = rows(Sure())
    again = save_pass(tmp_path, table, planted["self"], Sure(), "self", "again")
    both = Inputs({"generations": [made["generate"]], "confidence": [again, made["other"]]})
    assert pass_called(both, "self").name == "again"
    third = save_pass(tmp_path, table, planted["self"], Sure(), "self", "third")
    three = Inputs({"generations": [made["generate"]], "confidence": [again, third]})
    with pytest.raises(UserError, match="several confidence passes ask for 'self': again, third"):
        pass_called(three, "self")
    with pytest.raises(UserError, match="two confidence passes are called 'again'"):
        passes(Inputs({"generations": [made["generate"]], "confidence": [again, again]}))
    shifted = table.assign(example_id=table["example_id"].to_numpy()[::-1])
    stale = save_pass(tmp_path, shifted, planted["self"], Sure(), "self", "stale")
    with pytest.raises(UserError, match="stale asked about other questions than generate has"):
        passes(Inputs({"generations": [made["generate"]], "confidence": [stale]}))
    clash = save_pass(tmp_path, table, planted["self"], Sure(), "self", "margin")
    with pytest.raises(UserError, match="a confidence pass is called 'margin'"):
        signals(Inputs({"generations": [made["generate"]], "confidence": [clash]}))
