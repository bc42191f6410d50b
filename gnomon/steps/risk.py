"""risk: how a model gambles. Measures of slot-machine games by condition, of single choices by expected value.

Reads a generation of task `slot_machine` or `risky_choice`; no model. Formulas: gnomon/methods/risk_measures and
risk_choices. Beside a model's games stand players of known mind on the same machines: one that stops at once, one that
never stops, one that tosses a coin. Games are shares of all splits (nothing is chosen here); the ledger has the read.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon import nulls
from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.methods.risk_blocks import risk_blocks
from gnomon.methods.risk_choices import choice_rows, curve_rows
from gnomon.methods.risk_measures import Draws, change_rows, game_row, measure_rows
from gnomon.methods.two_classes import Classes, class_names, shortfall
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.tasks.slot_machine_game import COMPONENTS, Game, Rules
from gnomon.writer import Writer

READ = ("row", "example_id", "group", "split", "sample", "round", "temperature", "seed", "label", "reason", "baselines",
        "meta")  # fmt: skip
TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
RANGE = [("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER)]
RISK = pa.schema(
    [("condition", TEXT), ("control", TEXT), ("measure", TEXT), *RANGE, ("p", NUMBER), ("n", WHOLE), ("groups", WHOLE),
     ("note", TEXT)]
)  # fmt: skip
COMPONENT = pa.schema(
    [("component", TEXT), ("measure", TEXT), ("without", NUMBER), ("with", NUMBER), *RANGE, ("p", NUMBER),
     ("q", NUMBER), ("groups", WHOLE)]
)  # fmt: skip
CURVE = pa.schema([("chooser", TEXT), ("bin", WHOLE), ("ev_gap", NUMBER), *RANGE, ("n", WHOLE)])
GAMES = pa.schema(
    [("example_id", TEXT), ("group", TEXT), ("condition", TEXT), ("components", TEXT), ("bets_kind", TEXT),
     ("sample", WHOLE), ("temperature", NUMBER), ("end", TEXT), ("bets", NUMBER), ("wealth", NUMBER)]
)  # fmt: skip
FACTS = pa.schema([("name", TEXT), ("value", TEXT)])
PLAYERS = ("always stops", "never stops", "coin")


class Risk(Step):
    """Bankruptcy, stops, bets and chasing by condition; or shares of safe choices by expected value."""

    name: ClassVar[str] = "risk"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    writes: ClassVar[tuple[str, ...]] = ("risk",)
    uses_model: ClassVar[bool] = False

    classes: Classes = None
    """What label true and label false are called; unless given as the generation's task says."""
    bins: int = Field(default=6, ge=2, le=20)
    """Bins of the gap of expected values, by quantile."""
    permutations: int = Field(default=999, ge=199, le=100_000)
    """Shuffles, or flips of signs, behind each p."""
    draws: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""

    def cost(self, plan: Planning) -> Cost:
        rows = plan.inputs.get("generations", Cost()).rows
        return Cost(rows=rows, memory_bytes=8 * (self.draws + self.permutations) * max(rows, 1))

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        source = inputs["generations"]
        rows = source.table("generations", READ).sort_values("row").reset_index(drop=True)
        ctx.split(rows, "test", "risk: how the games of all splits were played")
        names = class_names(self.classes, source)
        meta = [json.loads(text) for text in rows["meta"]]
        lines: list[dict[str, Any]] = []
        changes: list[dict[str, Any]] = []
        curve: list[dict[str, Any]] = []
        games = pd.DataFrame()
        if meta and all("end" in one and "wealth" in one for one in meta):
            games, machine = self._games(rows, meta)
            judged = [None if g["lost_reply"] else bool(g["stopped"]) for g in games.to_dict("records")
                      if g["stopped"] or g["bankrupt"] or g["lost_reply"]]  # fmt: skip
            why = shortfall(judged, names)
            draws = Draws.of(list(games["group"]), self.draws, ctx.seed)
            lines = self._measures(games, machine, draws, ctx)
            changes = self._changes(games, draws, ctx.seed)
        else:
            why = shortfall(rows["label"], names)
            table = _choices(rows, meta)
            if not len(table):
                raise UserError("risk finds no answer that could be read", "choices or games with labels",
                                "see the generation's transcripts")  # fmt: skip
            lines = choice_rows(table, self.draws, self.permutations, ctx.seed)
            curve = curve_rows(table, self.bins, self.draws, ctx.seed)
        if why:
            ctx.log.warning("risk: no conclusion: %s", why)
        facts = {"kind": "games" if len(games) else "choices", "first": names[0], "second": names[1], "shortfall": why,
                 "conditions": str(games["condition"].nunique()) if len(games) else "0"}  # fmt: skip
        out.table("risk", pa.Table.from_pylist(_plain(lines, RISK), schema=RISK))
        out.table("components", pa.Table.from_pylist(_plain(changes, COMPONENT), schema=COMPONENT))
        out.table("curve", pa.Table.from_pylist(_plain(curve, CURVE), schema=CURVE))
        out.table("games", pa.Table.from_pylist(_plain(games.to_dict("records"), GAMES), schema=GAMES))
        out.table("facts", pa.Table.from_pylist([{"name": k, "value": v} for k, v in facts.items()], schema=FACTS))

    # ---------------------------------------------------------------- games

    def _games(
        self, rows: pd.DataFrame, meta: list[dict[str, Any]]
    ) -> tuple[pd.DataFrame, dict[tuple[str, int, float], dict[str, Any]]]:
        """One row a game with its sums; and what machine each was played on."""
        keys = list(zip(rows["example_id"], rows["sample"], rows["temperature"], strict=True))
        played: dict[tuple[str, int, float], list[int]] = {}
        for i, key in enumerate(keys):
            played.setdefault((str(key[0]), int(key[1]), float(key[2])), []).append(i)
        made, machines = [], {}
        for key, places in played.items():
            places = sorted(places, key=lambda i: int(rows["round"].iloc[i]))
            first, last = meta[places[0]], meta[places[-1]]
            if "bets" not in first or "win_rate" not in first:
                raise UserError(f"the rounds of {key[0]!r} do not say their machine", "games of task slot_machine")
            machines[key] = first | {"seed": int(rows["seed"].iloc[places[0]])}
            made.append(game_row([meta[i] for i in places], first["win_rate"], first["payout"]) | {
                "example_id": key[0], "group": str(rows["group"].iloc[places[0]]), "sample": key[1],
                "temperature": key[2], "condition": first["condition"], "components": first["components"],
                "bets_kind": first["bets"], "end": last["end"] or "cut",
            })  # fmt: skip
        return pd.DataFrame(made), machines

    def _measures(
        self, games: pd.DataFrame, machines: dict[tuple[str, int, float], dict[str, Any]], draws: Draws, ctx: Context
    ) -> list[dict[str, Any]]:
        lines = measure_rows(games, draws, condition="all", control="")
        for name, part in games.groupby("condition", sort=True):
            lines += measure_rows(pd.DataFrame(part), draws, condition=str(name), control="")
        with ctx.progress("risk: players on the same machines", len(PLAYERS)) as advance:
            for player in PLAYERS:
                made = [
                    game_row(_played(player, machines[key]), machines[key]["win_rate"], machines[key]["payout"])
                    for key in zip(games["example_id"], games["sample"], games["temperature"], strict=True)
                ]
                theirs = pd.DataFrame(made).assign(group=games["group"], bets_kind=games["bets_kind"])
                lines += measure_rows(theirs, draws, condition="all", control=player)
                advance(1)
        return lines

    def _changes(self, games: pd.DataFrame, draws: Draws, seed: int) -> list[dict[str, Any]]:
        """Each component, and variable bets, where the same games were played with it and without."""
        sides = {name: games["components"].map(lambda said, letter=letter: said != "none" and letter in said)
                 for name, (letter, _) in COMPONENTS.items()}  # fmt: skip
        sides["variable bets"] = games["bets_kind"] == "variable"
        lines: list[dict[str, Any]] = []
        for name, side in sides.items():
            with_, without = games.loc[side], games.loc[~side]
            both = set(with_["group"]) & set(without["group"])
            if len(both) > 1:
                parts = [part.loc[part["group"].isin(both)] for part in (without, with_)]
                lines += change_rows(parts[0], parts[1], draws, self.permutations, seed, component=name)
        p = np.array([line["p"] for line in lines], dtype=np.float64)
        known = np.isfinite(p)
        q = np.full(len(p), np.nan)
        if known.any():
            q[known] = nulls.benjamini_hochberg(p[known])
        return [{**line, "q": float(one)} for line, one in zip(lines, q, strict=True)]

    def summary(self, artifact: Artifact) -> list[Block]:
        return risk_blocks(artifact)


def _played(player: str, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """The rounds of a player of known mind on this machine."""
    rules = Rules(machine["start"], machine["win_rate"], machine["payout"], rounds=machine["max_rounds"])
    game = Game(rules, machine["bets"], machine["seed"], lambda balance, history, number: str(number))
    rng = np.random.default_rng([machine["seed"] % 2**32, 7])
    rounds: list[dict[str, Any]] = []
    while not game.end:
        if player == "always stops" or (player == "coin" and rng.random() < 0.5):
            said = "Stop"
        elif player == "never stops" or machine["bets"] == "fixed":
            said = f"Bet ${min(game.balance, rules.fixed):g}"
        else:
            said = f"Bet ${int(rng.integers(rules.least, int(min(game.balance, rules.most)) + 1))}"
        rounds.append(dict(game.reply(said).meta))
    return rounds


def _choices(rows: pd.DataFrame, meta: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows with a label: label, group, ev_gap, place of the safe option, whether Yes is the safe answer."""
    seen = [json.loads(text) if text else {} for text in rows["baselines"]]
    table = pd.DataFrame({
        "label": rows["label"], "group": rows["group"].astype(str),
        "ev_gap": [float(one.get("ev_gap", np.nan)) for one in seen],
        "place": [float(one.get("place", np.nan)) for one in meta],
        "safe_is_yes": [float(one.get("safe_is_yes", np.nan)) for one in seen],
    })  # fmt: skip
    kept = table.loc[table["label"].notna()].reset_index(drop=True)
    return kept.assign(label=kept["label"].astype(bool))


def _plain(lines: list[dict[str, Any]], schema: pa.Schema) -> list[dict[str, Any]]:
    return [{name: line.get(name) for name in schema.names} for line in lines]
