"""risk: players of known mind, played through the episode machinery, come out at their known measures."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gnomon.report.resolve import check
from gnomon.rows.plan import environment_seed
from gnomon.step import Context, Inputs, ModelSpec
from gnomon.steps.generate import Generate
from gnomon.steps.risk import Risk
from gnomon.store import Artifact
from gnomon.tasks.risky_choice import RiskyChoice
from gnomon.tasks.slot_machine import SlotMachine
from gnomon.tasks.slot_machine_game import wins
from gnomon.types import Example
from gnomon.writer import Writer
from tests.stepping import made as generated
from tests.synthetic import Planted, rows, save
from tests.tiny import tiny_folder

Policy = Callable[[dict[str, Any], list[dict[str, Any]]], str]


def chaser(now: dict[str, Any], past: list[dict[str, Any]]) -> str:
    """After a loss 1.5 times the bet, after a win back to $10; never stops."""
    bet = 10.0
    if past and past[-1]["outcome"] == "lost":
        bet = past[-1]["bet"] * 1.5
    return f"I'll bet ${max(5, min(bet, now['balance'], 100)):.2f}"


def martingale(now: dict[str, Any], past: list[dict[str, Any]]) -> str:
    bet = past[-1]["bet"] * 2 if past and past[-1]["outcome"] == "lost" else 10
    return f"Final decision: bet ${min(bet, now['balance'], 100):g}"


def never_stops(now: dict[str, Any], past: list[dict[str, Any]]) -> str:
    return "Final decision: all in!"


def stops_at_loss(now: dict[str, Any], past: list[dict[str, Any]]) -> str:
    return "I will stop here." if past and past[-1]["outcome"] == "lost" else "Bet $20"


def mute(now: dict[str, Any], past: list[dict[str, Any]]) -> str:
    return "Hmm."


def played(task: SlotMachine, examples: list[Example], policy: Callable[[Example], Policy]) -> pd.DataFrame:
    """The rows that a generation would have, from the task's own episodes."""
    blank = rows(Planted(n=1, layers=0))[0].iloc[0].to_dict()
    out: list[dict[str, Any]] = []
    for example in examples:
        seed = environment_seed(0, str(example.meta["environment"]), 0)
        episode, past, mine = task.episode(example, seed), [], []
        assert episode.first() == example.prompt
        turn = None
        while turn is None or turn.prompt is not None:
            balance = past[-1]["wealth"] if past else float(task.start)
            turn = episode.reply(policy(example)({"balance": balance}, past))
            past.append(dict(turn.meta))
            mine.append(past[-1])
        grade = episode.grade()
        for number, one in enumerate(mine):
            line = blank | {
                "row": len(out), "example_id": example.id, "group": example.group, "split": "test", "round": number,
                "seed": seed, "label": grade.label, "reason": grade.reason, "baselines": json.dumps({}),
                "meta": json.dumps({**example.meta, **one}),
            }  # fmt: skip
            out.append(line)
    return pd.DataFrame(out)


def run(folder: Path, table: pd.DataFrame, **options: Any) -> Artifact:
    source = save(folder, table, {}, "generate")
    step, writer = (
        Risk(**{"classes": ("safe", "risky"), "draws": 300, "permutations": 499, **options}),
        Writer(folder, "risk", "f"),
    )
    ctx = Context(folder, ModelSpec("no model is loaded"), 0, None)
    step.run(Inputs({"generations": [source]}), writer, ctx)
    assert any("risk" in str(entry) for entry in ctx.ledger)
    meta = {"step": "risk", "name": "risk", "options": step.model_dump(mode="json"), "version": step.version}
    made = writer.commit({**meta, "ledger": ctx.ledger, "writes": ["risk"]})
    blocks = step.summary(made)
    assert check(blocks, made) == []
    return made


def measured(made: Artifact, control: str = "", condition: str = "all") -> dict[str, float]:
    table = made.table("risk")
    mine = table.loc[(table["condition"] == condition) & (table["control"] == control)]
    return dict(zip(mine["measure"], mine["value"], strict=True))


def games(n: int, **options: Any) -> tuple[SlotMachine, list[Example]]:
    task = SlotMachine(**options)
    return task, task.examples(n * len(task.conditions))


def test_one_that_never_stops_is_bankrupt_or_out_of_rounds(tmp_path: Path):
    task, examples = games(60, rounds=6, start=100)
    found = measured(run(tmp_path, played(task, examples, lambda _: never_stops)))
    broke = 0
    for e in examples:
        seed, money = environment_seed(0, str(e.meta["environment"]), 0), 100
        for number in range(1, 7):
            bet = min(money, 100)
            money += 2 * bet if wins(seed, number, 0.3) else -bet
        broke += money <= 0
    assert found["stop_rate"] == 0
    assert found["bankruptcy"] == broke / 60 > 0.6
    assert found["unparsed"] == 0
    assert found["expected_wealth"] < 100


def test_chasing_and_doubling_are_seen_as_such(tmp_path: Path):
    task, examples = games(50, rounds=4, start=10_000)
    chased = measured(run(tmp_path / "a", played(task, examples, lambda _: chaser)))
    doubled = measured(run(tmp_path / "b", played(task, examples, lambda _: martingale)))
    for found in (chased, doubled):
        assert found["loss_chasing"] == found["loss_raises"] == 1
        assert found["win_chasing"] == 0
        assert found["bankruptcy"] == found["stop_rate"] == 0
        assert found["rounds"] == 4
        assert found["extreme"] == 0
    assert doubled["mean_bet"] > chased["mean_bet"] > 10


def test_one_that_stops_at_a_loss_is_safe_and_chases_nothing(tmp_path: Path):
    task, examples = games(40, rounds=30)
    made = run(tmp_path, played(task, examples, lambda _: stops_at_loss))
    found = measured(made)
    assert found["stop_rate"] == 1
    assert found["bankruptcy"] == 0
    assert found["mean_bet"] == 20
    assert np.isnan(found["loss_chasing"])
    lengths = []
    for e in examples:
        seed = environment_seed(0, str(e.meta["environment"]), 0)
        lengths.append(next(r for r in range(1, 40) if not wins(seed, r, 0.3)))
    assert found["rounds"] == pytest.approx(np.mean(lengths))
    assert measured(made, "always stops")["stop_rate"] == 1
    assert measured(made, "always stops")["final_wealth"] == 100
    assert measured(made, "never stops")["bankruptcy"] > 0
    facts = dict(made.table("facts")[["name", "value"]].itertuples(index=False, name=None))
    assert "0 risky" in facts["shortfall"]


def test_a_component_that_makes_it_reckless_is_found_and_others_are_not(tmp_path: Path):
    task, examples = games(12, components="every", bets="variable", rounds=3)

    def policy(example: Example) -> Policy:
        reckless = "G" in example.meta["components"]
        return lambda now, past: "all in" if reckless else ("Bet $10" if len(past) < 2 else "stop")

    made = run(tmp_path, played(task, examples, policy))
    table = made.table("components")
    found = table.set_index(["component", "measure"])
    assert found.loc[("goal", "aggressiveness"), "value"] > 0.5
    assert found.loc[("goal", "stop_rate"), "value"] == pytest.approx(-1)
    assert found.loc[("goal", "stop_rate"), "q"] < 0.05
    rest = table.loc[(table["component"] != "goal") & table["p"].notna()]
    assert len(rest) >= 20
    assert (rest["p"] > 0.05).all()
    assert set(made.table("risk")["condition"]) == {"all", *(e.meta["condition"] for e in examples)}


def test_shares_of_none_or_all_have_an_interval_with_width(tmp_path: Path):
    """Twelve games without a bankruptcy do not show that there are none: Wilson over games, 0 to 24%."""
    task, examples = games(12, rounds=2)
    table = run(tmp_path / "a", played(task, examples, lambda _: stops_at_loss)).table("risk")
    mine = table.loc[(table["condition"] == "all") & (table["control"] == "")].set_index("measure")
    assert mine.loc["bankruptcy", "value"] == 0
    assert (mine.loc["bankruptcy", "ci_low"], mine.loc["bankruptcy", "ci_high"]) == pytest.approx((0, 0.2425), abs=1e-3)
    one = run(tmp_path / "b", choices(20, lambda e, _: True)).table("risk").set_index(["measure", "control"])
    assert one.loc[("share_safe", ""), "ci_high"] == 1
    assert 0.75 < one.loc[("share_safe", ""), "ci_low"] < 0.9


def test_games_of_all_conditions_meet_the_same_luck():
    _, examples = games(2, components="every", bets="both", rounds=3)
    assert len(examples) == 128
    first = [e for e in examples if e.meta["game"] == 0]
    assert len({e.group for e in first}) == 1
    assert len({e.prompt_hash for e in examples}) == 128
    seeds = {environment_seed(0, str(e.meta["environment"]), 0) for e in first}
    assert len(seeds) == 1
    for number in (1, 2, 3):
        assert {wins(s, number, 0.3) for s in seeds} in ({True}, {False})
    won = np.mean([wins(s, r, 0.3) for s in range(200) for r in range(1, 11)])
    assert won == pytest.approx(0.3, abs=0.04)


def test_a_reply_without_a_decision_ends_a_game_unlabelled(tmp_path: Path):
    task, examples = games(25, rounds=3)
    made = run(tmp_path, played(task, examples, lambda _: mute))
    assert measured(made)["unparsed"] == 1
    facts = dict(made.table("facts")[["name", "value"]].itertuples(index=False, name=None))
    assert "0% of the answers could be parsed" in facts["shortfall"]


def test_a_generation_plays_the_conditions_of_a_game_on_one_machine(tmp_path: Path):
    task = {"slot_machine": {"components": "every", "bets": "fixed", "rounds": 2, "style": "plain"}}
    step = Generate(task=task, n=32, max_new_tokens=2, splits="0/0/100")
    source = generated(step, tmp_path, ModelSpec(str(tiny_folder("llama"))))
    table = source.table("generations")
    assert set(table["seed"].tolist()) == {environment_seed(0, "slot_machine:0:0", 0)}
    assert len(set(table["example_id"])) == 32
    assert dict(source.table("settings").itertuples(index=False))["classes"] == '["safe", "risky"]'
    assert any("slot_machine questions are safe" in str(getattr(block, "text", "")) for block in step.summary(source))
    ctx = Context(tmp_path, ModelSpec("no model is loaded"), 0, None)
    Risk(draws=200).run(Inputs({"generations": [source]}), Writer(tmp_path, "risk", "f"), ctx)


@cache
def pairs(n: int) -> list[Example]:
    return RiskyChoice(sure="always").examples(n)


def choices(n: int, chooses: Callable[[Example, np.random.Generator], bool]) -> pd.DataFrame:
    task, rng = RiskyChoice(sure="always"), np.random.default_rng(0)
    examples = pairs(n)
    blank = rows(Planted(n=1, layers=0))[0].iloc[0].to_dict()
    return pd.DataFrame([
        blank | {
            "row": i, "example_id": e.id, "group": e.group, "split": ("fit", "test")[i % 2],
            "label": chooses(e, rng), "baselines": json.dumps(task.baselines(e)), "meta": json.dumps(dict(e.meta)),
        }
        for i, e in enumerate(examples)
    ])  # fmt: skip


def test_a_maximiser_and_one_that_goes_by_place_are_told_apart(tmp_path: Path):
    maximiser = run(tmp_path / "a", choices(200, lambda e, _: e.meta["ev_gap"] < 0))
    found = measured(maximiser)
    assert found["agrees_with_ev"] == found["ev_effect"] == 1
    assert found["share_safe"] == measured(maximiser, "EV maximiser")["share_safe"]
    curve = maximiser.table("curve")
    mine, theirs = (curve.loc[curve["chooser"] == name, "value"].tolist() for name in ("model", "EV maximiser"))
    assert mine == theirs
    placed = run(tmp_path / "b", choices(200, lambda e, _: e.meta["place"] == 0)).table("risk").set_index("measure")
    assert placed.loc["place_effect", "value"] == 1
    assert placed.loc["place_effect", "p"] < 0.01
    assert placed.loc["ev_effect", "p"] > 0.05
    luck = run(tmp_path / "c", choices(200, lambda e, rng: rng.random() < 0.4)).table("risk").set_index("measure")
    assert luck.loc["ev_effect", "p"] > 0.05
    assert luck.loc["place_effect", "p"] > 0.05


def test_nothing_is_concluded_from_one_class(tmp_path: Path):
    made = run(tmp_path, choices(60, lambda e, _: True))
    facts = dict(made.table("facts")[["name", "value"]].itertuples(index=False, name=None))
    assert "0 risky rows" in facts["shortfall"]
    said = Risk().summary(made)[0]
    assert getattr(said, "text", "").startswith("no conclusion")
