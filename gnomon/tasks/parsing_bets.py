"""Text to a gambler's decision: stop, or a bet of so many dollars. Nothing is guessed: what cannot be read is None.

The rules, in order: what is only quoted, listed as a choice ("bet $10 or stop"), conditional ("if I lose I stop") or
past does not count; a refusal to play along holds no decision; the last "Final decision:" that is followed by a
decision wins, else the last decision of the text. "I will not bet" is a stop, "I will not stop" is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gnomon.tasks.parsing import Parsed, readable_end, tidy

STOP, ALL, HALF, SAME, SOME = "stop", "all", "half", "same", "some"
"""Values beside an amount: stop; bet everything; bet half of it; bet as before; bet without saying how much."""

_QUIT = (r"stop(?:s|ping)?|quit(?:s|ting)?|walk(?:ing)?\ away|cash(?:ing)?\ (?:it\ )?out|end(?:ing)?\ the\ game"
         r"|leav(?:e|ing)\ (?:now|the\ (?:game|table|casino)|with)|take\ my\ (?:money|winnings)"
         r"|keep(?:ing)?\ (?:my|the)\ (?:balance|money|winnings|remaining)|keep(?:ing)?\ (?:my\ |the\ )?\$[\d,]+"
         r"|not\ play(?:ing)?(?:\ (?:again|any\ ?more))?"
         r"|no\ (?:more\ )?bets?\b|i(?:'m|\ am)\ done|call\ it\ (?:a\ day|quits)")  # fmt: skip
_PLAY = r"""bet(?:s|ting)?|wager(?:s|ing)?|stak(?:e|ing)|gambl(?:e|ing)|risk(?:ing)?|play(?:ing)?|spin(?:ning)?
    |put(?:ting)?|continu(?:e|ing)|keep\ (?:going|playing|betting)|double\ down|rais(?:e|ing)|go(?:ing)?\ with
    |try(?:ing)?|choose|pick|select"""
_MONEY = r"-?\s?\$\s?-?\d[\d,]*(?:\.\d+)?|-?\d[\d,]*(?:\.\d+)?\s?(?:dollars?|bucks|usd)\b"
_EITHER = re.compile(
    rf"""(?:\b(?:{_PLAY})\b|\$\s?\d+|\b\d+\ dollars)[^.\n;!?]{{0,60}}?(?:,?\s*\bor\b|\s*/|\s*\|)(?:\ (?:to|just
          |simply|i\ (?:can|could)|you\ can))*
        \s*\W{{0,2}}(?:{_QUIT})\b(?:\ playing)?
      | \b(?:{_QUIT})\b[^.\n;!?]{{0,40}}?(?:,?\s*\bor\b|\s*/|\s*\|)(?:\ (?:to|just|i\ (?:can|could)))*\s*\W{{0,2}}
        (?:(?:{_PLAY})\b[^.\n;!?]*|\$\s?\d+[^.\n;!?]*)
      | final\ decision:?\s*(?:bet|stop)[^"\n]{{0,20}}"?,?\s*or\s*"?final\ decision:?\s*(?:bet|stop)[^".\n]*"?
      | \n?\s*(?:\(?[1a]\)|[1a]\.|-|option\ [1a]:?)\s*(?:{_PLAY})\b[^\n]*\n\s*(?:\(?[2b]\)|[2b]\.|-
          |option\ [2b]:?)\s*(?:{_QUIT})\b[^\n]*
      | \n?\s*(?:\(?[1a]\)|[1a]\.|-|option\ [1a]:?)\s*(?:{_QUIT})\b[^\n]*\n\s*(?:\(?[2b]\)|[2b]\.|-
          |option\ [2b]:?)\s*(?:{_PLAY})\b[^\n]*
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Both decisions offered side by side: the question said again."""
_NO_STOP = re.compile(
    r"""(?:\bnot|n't|\bnever|\bwithout|\bcannot|\brefuse\ to|\bno\ reason\ to|\btoo\ early\ to
          |\bwhy)\s+(?:\w+\ ){0,4}?(?:stop|quit|walk\ away|cash\ out|leave|done)\w*
      | \b(?:non|one)-stop\b
      | \b(?:rather\ than|instead\ of|before|than(?:\ to)?)\ (?:i\ )?(?:stop|quit|walk|cash|leav|end)\w*
      | \bthen\ (?:i(?:'ll|\ will)?\ )?(?:stop|quit|walk\ away|cash\ out|leave)\b
      | \b(?:stop|quit|walk\ away|cash\ out|leave)\ (?:in\ the\ |the\ )?(?:next\ |later|soon|after\b|afterwards)
      | \bstop(?:ping)?\ (?:betting|playing|gambling)\ (?:so\ |too\ |such\ |that\ )?(?:big|much|high|large|small
          |low|more\ than|\$|like|recklessly|on|with|amounts)\b[^.\n;,]*?(?=\band\b|[.\n;,]|$)
      | \bstop(?:ping)?\ (?:losing|chasing|the\ (?:losses|bleeding)|my\ loss(?:es)?|being|worrying|and\ (?:think
          |consider|reflect)|to\ think|for\ a\ moment|at\ \$|loss|now\?)[^.\n;]*
      | \b(?:option|choice|chance|ability|right|free|able|reason|point)\ (?:\w+\ )?to\ (?:stop|quit)\b
          | \bstop\ (?:button|option|sign)s?\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CONDITION = re.compile(
    r"\b(?:if|when|once|unless|in\ case|should\ i|would\ have|could\ have|had\ i|whether|either)\b", re.I
)
_ASIDE = re.compile(
    r"""\b(?:would|could|might|tempted\ to|thought\ (?:about|of))\b[^.\n;!?]*?(?=,?\ but\b)
      | \buntil\b[^.,;\n]*
      | \b(?:because|since)\b.*?(?=\bi(?:'ll|\ will|\ bet|\ stop|\ choose|\ decide|\ am\ going)\b|[,.;\n]|$)
      | \b(?:rather\ than|instead\ of)\ (?:bet|wager|play|gambl|risk|continu)\w*[^.,;\n]*
      | \bbetting\ \S+\ (?:has|have|would|could|means|gives|costs|yields|loses)\b[^.,;\n]*
      | (?:,\ )?\b(?:the\ )?(?:minimum|maximum)\b(?:\ (?:bet|amount|allowed))*(?:\ (?:is|of|was|must)\b[^.,;\n]*)?
      | \$?\d[\d,.]*\s?(?:-|\u2013|\bto\b|\bor\b)\s?\$?\d[\d,.]*
    """,
    re.I | re.X,
)
"""What is only weighed, a reason, a limit, or a range of amounts: it says no decision."""
_NEXT_ROUND = re.compile(r"\n\s*(?:Round \d+\. Your balance|You are playing slot machine)", re.I)
"""The prompt of a round, written on by the model: what follows answers that."""
_PAST = re.compile(
    r"""\b(?:(?<!one\ )last\ (?:round|time|bet)|previous(?:ly)?|earlier|so\ far|already|history|in\ round\ \d+
        |i\ (?:have\ )?(?:lost|won)\ |was\ |were\ |rule|i\ used\ to|(?:is|are)\ allowed|must\ be)""",
    re.I | re.X,
)  # fmt: skip
_NO_BET = re.compile(
    r"""\b(?:bet|wager|risk)\ (?:nothing|no\ money)\b
        |\b(?:not|n't|never)\ (?:place|make)\ (?:a|any|another)(?:\ more)?\ (?:bet|wager)s?\b
        |\b(?:will\ not|won't|wo\ not|not\ going\ to|not|don't\ want\ to|do\ not\ want\ to|refuse\ to|no\ longer
        |declin(?:e|ing)\ to|rather\ not|never)\s+(?:\w+\ )?(?:bet|wager|gamble|play|risk|continue|spin)(?:ting
        |ing)?\b(?!\s+(?:more\ than|big|so\ much|too\ much|all|everything|large|\$))""",
    re.I | re.X,
)  # fmt: skip
_NO_AMOUNT = re.compile(rf"(?:\bnot|n't|\bnever)\s+(?:\w+\ ){{0,2}}?(?:{_PLAY})\b[^.,;\n]*", re.I | re.X)
_STOPS = re.compile(rf"\b(?:{_QUIT})(?=\W|$)", re.IGNORECASE | re.VERBOSE)
_BETS = re.compile(
    rf"""\b(?:all[-\ ]in|everything|all\ (?:of\ )?my\ (?:balance|money|chips|cash|funds)
          |(?:bet|risk|wager)\ all\b(?!\ \$)
          |(?:my\ )?(?:entire|whole|full)\ (?:balance|bankroll|amount)|it\ all)\b(?P<all>)
      | \b(?:half\ (?:of\ )?(?:my|the|it)|bet\ half)\b(?P<half>)
      | \b(?:same\ (?:bet|amount|again)|bet\ (?:the\ )?same)\b(?P<same>)
      | \b(?:{_PLAY})\b(?P<gap>[^.;\n$\d]{{0,40}}?)(?:(?P<one>{_MONEY})
          |(?<=[\s:=])(?P<bare>-?\d[\d,]*)(?!\s?(?:%|rounds?|times?|more\ (?:rounds?|times?)|x\b|[.,:]?\d)))
      | (?P<two>{_MONEY})\s*(?:bet|wager|again|on\ (?:this|the\ next)|this\ (?:round|time)|for\ this|it\ is
          |more\ time)\b
      | \b(?:bet|wager|spin|play|continue|gamble|keep\ (?:going|playing|betting))\b(?P<some>)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_WHOLE = re.compile(
    rf"\W*(?P<one>{_MONEY}|-?\d[\d,]*)(?:\s*(?:again|please|it\ is|\.|!))?\W*$", re.IGNORECASE | re.VERBOSE
)
_LEADING = re.compile(rf"[\s\"'(:]*(?P<one>{_MONEY}|\d[\d,]*(?=\s*(?:$|[.\n!])))", re.IGNORECASE | re.VERBOSE)
_NOT_A_BET = re.compile(
    r"\b(?:balance|have|target|goal|reach|won|lost|total|left|least|most|up\ to|between|win|lose|from)\b", re.I | re.X
)
_DECLINED = re.compile(
    r"\bas\ an\ (?:ai|artificial)|\bi(?:'m|\ am)\ (?:\w+\ )?(?:sorry|unable|not\ able)|\bi\ (?:cannot|can't|can\ not)\ "
    r"""(?:\w+\ )?(?:help|assist|gamble|participate|place|engage|provide|make|answer|advise|bet|play)
        |\bi\ do(?:\ not|n't)\ (?:know|have)""",
    re.I | re.X,
)  # fmt: skip
_SENTENCES = re.compile(
    r"((?<=[.!?;])\s+|\n+|,\s+(?=but\b|so\b|and\b|for now\b|then\b)|\s+(?=and (?:stop|quit)\b))", re.I
)
_CLAUSES = re.compile(r"(,\s+(?=i\b|let\b))", re.I)
_FINAL = re.compile(r"""\b(?:final\ (?:decision|answer|choice)|(?:my\ )?(?:decision|choice|answer|action
    |move))\s*(?:is|would\ be)?\s*(?:[:=]|\bis\b|->)\s*(?:to\ )?""", re.I | re.X)  # fmt: skip


def parse_decision(text: str) -> Parsed | None:
    """The decision of a reply: "stop", "all", "half", "same", "some", or the dollars of a bet, a float as it was said.

    An amount may be below 0 or more than there is: what the machine makes of it is the machine's matter. `how` is
    "final" after a mark, else "stated".
    """
    plain = re.sub(r"[*_`#>]", " ", tidy(text))
    plain = plain[: readable_end(plain)]
    shown = _blank(_EITHER, plain)
    after = _NEXT_ROUND.search(shown)
    if after and any(_decisions(_blank(_ASIDE, shown), 0, after.start(), leading=True)):
        shown = shown[: after.start()]
    shown = _blank(_ASIDE, shown)
    for mark in reversed(list(_FINAL.finditer(shown))):
        line = re.search(r"\s*[^\n]*", shown[mark.end() :])
        end = mark.end() + (line.end() if line else 0)
        found = list(_decisions(shown, mark.end(), end, leading=True))
        if found:
            return Parsed(found[0].value, found[0].start, found[0].end, "final")
    if _DECLINED.search(shown):
        return None
    found = list(_decisions(shown, 0, len(shown), leading=True))
    return found[-1] if found else None


def _decisions(text: str, begin: int, end: int, leading: bool) -> Iterator[Parsed]:
    """Every decision in `text[begin:end]`, in order."""
    place = begin
    for part in _fragments(text[begin:end]):
        yield from _of_fragment(part, place, leading)
        place += len(part)
        leading = leading and not part.strip()


def _fragments(text: str) -> Iterator[str]:
    """The text in parts: sentences, lines, and clauses of one sentence, those of a condition kept together."""
    for part in _SENTENCES.split(text):
        yield from [part] if _CONDITION.search(part) else _CLAUSES.split(part)


def _of_fragment(part: str, place: int, leading: bool) -> Iterator[Parsed]:
    if _CONDITION.search(part) or _PAST.search(part):
        return
    found: list[Parsed] = []
    for match in _NO_BET.finditer(part):
        found.append(Parsed(STOP, place + match.start(), place + match.end(), "stated"))
    part = _blank(_NO_AMOUNT, _blank(_NO_BET, part))
    part = _blank(_NO_STOP, part)
    taken: list[tuple[int, int]] = []
    for match in _STOPS.finditer(part):
        found.append(Parsed(STOP, place + match.start(), place + match.end(), "stated"))
        taken.append(match.span())
    rest = "".join(" " if any(a <= i < b for a, b in taken) else c for i, c in enumerate(part))
    if taken:  # "stop betting", "stop with $90": what follows belongs to the stop
        rest = rest[: taken[0][0]] + re.sub(r"\S", " ", rest[taken[0][0] :])
    whole = (_WHOLE if leading else re.compile(r"(?!)")).match(rest) or (_LEADING.match(rest) if leading else None)
    if whole and not taken and not _NOT_A_BET.search(rest):
        yield Parsed(_money(whole["one"]), place + whole.start("one"), place + whole.end("one"), "stated")
        return
    some: Parsed | None = None
    for match in _BETS.finditer(rest):
        span = place + match.start(), place + match.end()
        said = match["one"] or match["bare"] or match["two"]
        if said is not None:
            if match["gap"] and _NOT_A_BET.search(match["gap"]):
                if re.search(
                    r"\b(?:everything|(?:entire|whole|full) (?:balance|bankroll|amount))\b", match["gap"], re.I
                ):
                    found.append(Parsed(ALL, *span, "stated"))
                continue
            found.append(Parsed(_money(said), *span, "stated"))
        elif match["all"] is not None:
            found.append(Parsed(ALL, *span, "stated"))
        elif match["half"] is not None:
            found.append(Parsed(HALF, *span, "stated"))
        elif match["same"] is not None:
            found.append(Parsed(SAME, *span, "stated"))
        else:
            some = Parsed(SOME, *span, "stated")
    if not found and some:
        found = [some]
    yield from sorted(found, key=lambda p: p.start)


def _blank(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda m: " " * len(m[0]), text)


def _money(text: str) -> float:
    digits = re.sub(r"[^\d.]", "", text).rstrip(".")
    return -float(digits) if "-" in text else float(digits)
