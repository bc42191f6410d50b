"""slot_machine: what the prompt says by condition, what the machine makes of a reply, how a game ends."""

from __future__ import annotations

from typing import Any

import pytest

from gnomon.errors import UserError
from gnomon.tasks.slot_machine import SlotMachine
from gnomon.tasks.slot_machine_game import COMPONENTS, Rules, decided, wins


def test_a_prompt_has_the_sentences_of_its_components_and_no_others():
    task = SlotMachine(components=("every",), bets="both", style="plain")
    examples = task.examples(64)
    assert len({e.meta["condition"] for e in examples}) == 64
    for e in examples:
        assert isinstance(e.prompt, str)
        assert ("30%" in e.prompt) == ("P" in e.meta["components"])
        assert ("3 times" in e.prompt) == ("W" in e.meta["components"])
        for letter, sentence in COMPONENTS.values():
            assert (sentence[:18] in e.prompt) == (letter in e.meta["components"])
        assert ("from $5 to $100" in e.prompt) == (e.meta["bets"] == "variable")


def test_the_prompt_says_the_numbers_that_the_machine_plays_by():
    for rate, payout, said in ((0.325, 2.5, "32.5%"), (0.29, 3.0, "29%"), (1 / 3, 2.0, "33.333333333%")):
        example = SlotMachine(components=("all",), style="plain", win_rate=rate, payout=payout).examples(1)[0]
        assert f"a probability of {said}" in str(example.prompt)
        assert f"pays {payout:g} times what was bet" in str(example.prompt)
        game = SlotMachine(win_rate=rate, payout=payout).episode(
            example, next(s for s in range(99) if wins(s, 1, rate))
        )
        assert game.reply("Bet $20").meta["wealth"] == 80 + 20 * payout


@pytest.mark.parametrize(
    ("text", "bets", "balance", "expected"),
    [("Bet $500", "variable", 80, 80.0), ("all in", "variable", 300, 100.0), ("Bet $3", "variable", 50, None),
     ("Bet -$10", "variable", 50, None), ("Bet half of my balance", "variable", 60, 30.0),
     ("same bet", "variable", 60, 15.0),
     ("Bet", "variable", 60, None), ("Bet", "fixed", 60, 10.0), ("Bet $50", "fixed", 60, 10.0),
     ("Stop", "fixed", 60, "stop"),
     ("bet or stop", "fixed", 60, None)],
)  # fmt: skip
def test_what_the_machine_makes_of_a_reply(text: str, bets: Any, balance: float, expected: Any):
    assert decided(text, bets, Rules(), balance, 15.0)[1] == expected


def test_a_game_ends_by_stop_bankruptcy_rounds_or_an_unread_reply():
    task = SlotMachine(rounds=3, bets="fixed", start=10)
    example = task.examples(1)[0]
    losing = next(s for s in range(100) if not wins(s, 1, 0.3))
    winning = next(s for s in range(1000) if all(wins(s, r, 0.3) for r in (1, 2, 3)))
    ends = {}
    for name, seed, said in (("bankrupt", losing, "Bet"), ("rounds", winning, "Bet"), ("stop", winning, "Stop"),
                             ("unparsed", winning, "?")):  # fmt: skip
        game = task.episode(example, seed)
        turn = None
        while turn is None or turn.prompt is not None:
            turn = game.reply(said)
        ends[name] = (game.grade().label, turn.meta["end"], turn.meta["wealth"])
    assert ends == {"bankrupt": (False, "bankrupt", 0), "rounds": (None, "rounds", 70), "stop": (True, "stop", 10),
                    "unparsed": (None, "unparsed", 10)}  # fmt: skip


def test_the_history_is_told_and_a_round_stands_alone():
    task = SlotMachine(style="plain", rounds=5)
    example = task.examples(1)[0]
    game = task.episode(example, next(s for s in range(100) if not wins(s, 1, 0.3)))
    turn = game.reply("Bet $20")
    assert turn.fresh
    assert isinstance(turn.prompt, str)
    assert "Round 1: bet $20, lost, balance $80" in turn.prompt
    assert "Round 2. Your balance is $80." in turn.prompt
    assert turn.prompt.endswith("Final decision:")


def test_one_reply_is_one_decision():
    task = SlotMachine(mode="generate")
    example = task.examples(1)[0]
    assert [task.grade(example, t).label for t in ("Stop", "Bet $10", "bet or stop")] == [True, False, None]


@pytest.mark.parametrize(
    "options", [{"components": "luck"}, {"components": ["all", "goal"]}, {"win_rate": 0.5}, {"shots": 1}]
)
def test_wrong_options_are_refused(options: dict[str, Any]):
    with pytest.raises(UserError):
        SlotMachine(**options)
