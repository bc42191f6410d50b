"""How the step risk reads in the report: what was measured, beside players of known mind; changes; limits."""

from __future__ import annotations

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.store import Artifact

LABELS = {"ci_low": "95% from", "ci_high": "to"}
SHARES = ("bankruptcy", "stop_rate", "aggressiveness", "loss_chasing", "extreme", "irrationality")


def risk_blocks(artifact: Artifact) -> list[Block]:
    """Headline, then games or choices, from the step's own tables."""
    facts = dict(artifact.table("facts")[["name", "value"]].itertuples(index=False, name=None))
    out = _games(artifact, facts) if facts["kind"] == "games" else _choices(artifact, facts)
    if facts["shortfall"]:
        out.insert(0, Text("no conclusion: {why}. The numbers below are shown, not judged.",
                           {"why": Ref("facts", {"name": "shortfall"}, "value", "s")}, "warning"))  # fmt: skip
    return out


def _at(measure: str, fmt: str = ".1%", control: str = "") -> Ref:
    where = {"condition": "all", "control": control, "measure": measure}
    return Ref("risk", where, "value", fmt, ci=not control)


def _games(artifact: Artifact, facts: dict[str, str]) -> list[Block]:
    refs = {
        "bankrupt": _at("bankruptcy"), "stop": _at("stop_rate"), "bet": _at("mean_bet", ",.2f"),
        "never": _at("bankruptcy", control="never stops"), "coin": _at("bankruptcy", control="coin"),
        "unparsed": _at("unparsed"),
    }  # fmt: skip
    head = "" if facts["shortfall"] == "" else "no conclusion: too little to judge. As counted, "
    out: list[Block] = [Text(
        head + "the model goes bankrupt in {bankrupt} of its games and stops of its own will in {stop} (95% "
        "intervals over games); its mean bet is {bet} dollars. On the same machines a player that never stops goes "
        "bankrupt in {never}, one that tosses a coin in {coin}. {unparsed} of the games ended in a reply that holds no "
        "decision.", refs, "headline",
    )]  # fmt: skip
    shown = _defined(artifact)
    out.append(Figure(
        "bar", "risk", "measure", "value", "How it plays, beside players of known mind", "control", "ci_low", "ci_high",
        where={"condition": "all", "measure": shown}, y_title="share",
        caption="An empty control is the model. Players meet the same wins and losses, round by round.",
    ))  # fmt: skip
    if facts["conditions"] != "1":
        out.append(Figure(
            "bar", "risk", "condition", "value", "Bankruptcy by condition", low="ci_low", high="ci_high",
            where={"control": "", "measure": "bankruptcy"}, y_title="share bankrupt",
            caption="Letters: G goal, M maximise, H hidden patterns, W win reward, P probability.",
        ))  # fmt: skip
    columns = ("condition", "control", "measure", "value", "ci_low", "ci_high", "n", "groups", "note")
    out.append(Table("risk", "All games together, beside players of known mind", columns, {"condition": "all"},
                     limit=60, labels=LABELS))  # fmt: skip
    if len(artifact.table("components")):
        out.append(Table(
            "components", "What a component changes: the same games with it, minus without",
            ("component", "measure", "without", "with", "value", "ci_low", "ci_high", "p", "q", "groups"),
            sort="p", limit=80, labels={**LABELS, "value": "change"},
        ))  # fmt: skip
        out.append(Text(
            "A change is paired by game: both sides met the same luck. p flips signs of whole games; q is "
            "Benjamini-Hochberg over all components and tested measures.", kind="method",
        ))  # fmt: skip
    out.append(Text(
        "Chasing counts bets that follow a loss; a game that stops there counts for none. With bets of one size "
        "bet/balance rises after every loss by itself: loss_raises says whether the bet rose. Games that used up their "
        "rounds are neither bankrupt nor stopped. expected_wealth is the final wealth without its luck.", kind="limit",
    ))  # fmt: skip
    return out


def _defined(artifact: Artifact) -> list[str]:
    table = artifact.table("risk")
    whole = table.loc[(table["condition"] == "all") & (table["control"] == "") & table["value"].notna()]
    return [name for name in SHARES if name in set(whole["measure"])]


def _choices(artifact: Artifact, facts: dict[str, str]) -> list[Block]:
    table = artifact.table("risk")
    known = set(table.loc[table["control"] == "", "measure"])
    refs = {"safe": _at("share_safe")}
    text = f"The model takes the {facts['first']} option in {{safe}} of its choices (95% interval)"
    if "agrees_with_ev" in known:
        refs |= {"ev": _at("share_safe", control="EV maximiser"), "agrees": _at("agrees_with_ev")}
        text += "; a maximiser of expected value would in {ev}, and the two agree in {agrees}"
    if "ev_effect" in known:
        refs["effect"] = _at("ev_effect", "+.1%")
        text += f". Where the {facts['first']} option is worth more its share changes by {{effect}}"
    if "place_effect" in known:
        refs["place"] = _at("place_effect", "+.1%")
        text += "; where it stands first, by {place}"
    head = "" if facts["shortfall"] == "" else "no conclusion: too little to judge. As counted, "
    out: list[Block] = [Text(head + text + ".", refs, "headline")]
    if len(artifact.table("curve")):
        out.append(Figure(
            "line", "curve", "ev_gap", "value", f"Share {facts['first']} by the gap of expected values", "chooser",
            "ci_low", "ci_high", x_title="(EV risky - EV safe) / |EV safe|", y_title=f"share {facts['first']}",
            reference=0.5, reference_label="half", caption="95% intervals over groups of questions.",
        ))  # fmt: skip
    out.append(Table("risk", "Choices, and what may explain them cheaply",
                     ("measure", "control", "value", "ci_low", "ci_high", "p", "n", "groups", "note"), limit=30,
                     labels=LABELS))  # fmt: skip
    out.append(Text(
        "ev_effect, place_effect, yes_effect: share safe where the safe option is worth more, stands first, is Yes, "
        "minus where not; p shuffles that attribute by groups. A model that goes by place or wording has no attitude "
        "to risk.", kind="method",
    ))  # fmt: skip
    return out
