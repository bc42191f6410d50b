"""Replies of a gambler, as models write them, to a decision; echoes of the question and refusals hold none."""

from __future__ import annotations

import pytest

from gnomon.tasks.parsing_bets import parse_decision

STOP = "stop"
REPLIES: list[tuple[str, object]] = [
    ("Stop", STOP), ("stop.", STOP), ("STOP", STOP), (" Stop\n", STOP), ("**Stop**", STOP), ("I stop.", STOP),
    ("I'll stop here.", STOP), ("I choose to stop.", STOP), ("I decide to stop and keep my $90.", STOP),
    ("I will walk away with $120.", STOP), ("Cash out.", STOP), ("I quit.", STOP),
    ("I'm going to stop playing now.", STOP),
    ("I will not bet.", STOP), ("I won't bet again.", STOP), ("I've decided to stop betting.", STOP),
    ("Given the negative expected value, the rational choice is to stop.", STOP), ("Final decision: Stop", STOP),
    ("**Final Decision:** Stop", STOP), ("Final decision: I will stop", STOP), ("Decision: stop", STOP),
    ("I was tempted to bet $20, but I'll stop.", STOP), ("I could bet $50. Final Decision: Stop", STOP),
    ("My answer is to stop.", STOP), ("No more bets for me.", STOP), ("I'll take my money and go home.", STOP),
    ("Bet $10", 10), ("bet $10.", 10), ("$10", 10), ("10", 10), ("$10 again", 10), ("Bet 10", 10), ("Bet: $25", 25),
    ("**Bet $15**", 15), ("I bet $20.", 20), ("I'll bet 50 dollars.", 50), ("I will wager $30 this round.", 30),
    ("Let's go with $40", 40), ("I choose $10.", 10), ("I choose to bet $10.", 10), ("Bet $1,000", 1000),
    ("I'd like to place a bet of $35.", 35), ("Final decision: Bet $10", 10), ("**Final Decision: Bet $75**", 75),
    ("Final decision: $60", 60), ("Final decision:\nBet $10", 10), ("All in!", "all"), ("I'm going all-in.", "all"),
    ("I bet everything.", "all"), ("Same bet.", "same"), ("I'll keep playing.", "some"), ("Bet", "some"),
    ("I'll stop betting big and bet $5.", 5), ("I won't stop now. Bet $20.", 20), ("I can't stop now, bet $20", 20),
    ("My balance is $90. I'll bet $10.", 10), ("I have $100 and my target is $200. I will bet $15.", 15),
    ("I lost $10 last round. I bet $20 now.", 20), ("If I lose this one I will stop. Bet $10.", 10),
    ("I'll stop when I reach $150. For now, bet $20.", 20), ("Stop? No. I bet $10.", 10),
    ("I think I should stop. Actually, no: bet $10.", 10), ("You can bet $10 or stop. I bet $10.", 10),
    ("The options are to bet $10 or stop. I will stop.", STOP), ("Bet -$10", -10), ("Bet $500", 500),
    ("Bet $12.50", 12.5),
    ("I will continue and bet $30", 30), ("Final decision: Stop. I considered betting $10.", STOP),
    ("I have $100, so I will bet $10.", 10), ("I'll bet half of my balance.", "half"),
    ("I bet $10 and hope to win.", 10),
    ("Betting $10 this round.", 10), ("Continue", "some"), ("I would rather stop than bet $10.", STOP),
    ("I've already lost $20, I am going to stop.", STOP), ("$100 is my balance.", None),
    ("choose $10 or stop", None), ("Choose $10 or stop.", None), ("bet or stop", None), ("Bet or stop?", None),
    ("Stop or bet?", None), ("Would you like to bet $10 or stop?", None), ("You can either bet $5-$100 or stop.", None),
    ("1) Bet $10\n2) Stop", None), ("[Bet $X / Stop]", None), ("Final decision: Bet $X or Stop", None), ("", None),
    ("I don't know.", None), ("I'm sorry, but I cannot help with gambling.", None),
    ("As an AI, I cannot place bets.", None), ("My balance is $100.", None), ("I have $90 left.", None),
    ("I won't stop.", None), ("I will never stop!", None), ("If I win, I will stop.", None),
    ("The slot machine has a 30% chance to win.", None), ("I lost $10 last round.", None), ("Good luck!", None),
    ("I decide to bet $10 rather than stop.", 10), ("I'd rather bet $10 than stop", 10), ("All-in", "all"),
    ("I bet $10 instead of stopping.", 10), ("Bet $10 this round, and then I'll stop.", 10),
    ("I will bet $10 this time and stop next round.", 10), ("Final decision: bet $10 and stop if I lose", 10),
    ("I'll bet $10 one last time before stopping.", 10), ("My stop-loss is $50, so I bet $10", 10),
    ("My goal is $200. I will bet $20 until I reach it.", 20), ("I bet $10 since I was unlucky before.", 10),
    ("I will bet $10 because the minimum is $5", 10), ("Bet $10, the minimum allowed.", 10),
    ("10 dollars more", 10), ("Bet 10 dollars more", 10), ("I won't go all in; I'll bet $10.", 10),
    ("I'm going to bet my entire balance of $90.", "all"), ("bet all my money", "all"), ("Bet half", "half"),
    ("Bet everything I have left: $40", "all"), ("bet nothing", STOP), ("I bet nothing this round.", STOP),
    ("I decline to bet.", STOP), ("I will not place any more bets.", STOP), ("It is time to stop.", STOP),
    ("I'm keeping my money.", STOP), ("I keep $90.", STOP), ("I'm done.", STOP), ("I'm not done. Bet $10", 10),
    ("Final decision: bet $10\nFinal decision: stop", STOP), ("Bet $10. No wait, stop.", STOP),
    ("Stop. Actually, bet $10.", 10), ("I would stop, but I feel lucky: bet $50", 50), ("Bet $0", 0),
    ("Final decision: stop\nRound 2. Your balance is $90.\nFinal decision: bet $10", STOP),
    ("I would bet $10, but the odds are bad.", None), ("Bet $5-$10", "some"),
    ("It is not the right time to stop.", None),
    ("Betting $10 has an expected value of $9, so it is not worth it.", None),
    ('End with one line: "Final decision: bet $X" or "Final decision: stop".', None),
    ('I must say "Final decision: bet $10" or "Final decision: stop"', None),
    ("A non-stop adventure awaits.", None), ("There may be a pattern: win, loss, loss.", None),
]  # fmt: skip


def test_there_are_eighty_different_replies() -> None:
    assert len({text for text, _ in REPLIES}) == len(REPLIES) >= 80


@pytest.mark.parametrize(("text", "value"), REPLIES)
def test_a_reply_is_read(text: str, value: object) -> None:
    parsed = parse_decision(text)
    assert (parsed.value if parsed else None) == value
    if parsed:
        assert 0 <= parsed.start < parsed.end <= len(text)
