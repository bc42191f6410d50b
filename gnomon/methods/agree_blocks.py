"""How a replay reads in the report: made from its tables alone."""

from __future__ import annotations

from typing import Any

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.store import Artifact

STILL = 1e-3
"""A target's change under a patch of nothing, over its own size, beyond which rounding is said."""


def replay_blocks(artifact: Artifact) -> list[Block]:
    """How many pathways are validated, agreement beside that of random latents, pairs of layers, limits."""
    facts = artifact.table("facts")
    value = dict(zip(facts["fact"], facts["value"], strict=True))
    text = dict(zip(facts["fact"], facts["text"], strict=True))
    if not value["pathways"]:
        return [Text("There is no pathway to replay: {source} kept none.", {"source": _fact("source", "", "text")},
                     "headline"), _method()]  # fmt: skip
    if not value["replayed"]:
        return [Text(
            "None of {pathways} pathways could be replayed: their sources are active in none of {rows} held-out rows.",
            {"pathways": _fact("pathways", "d"), "rows": _fact("rows", "d")}, "headline",
        ), _method()]  # fmt: skip
    blocks: list[Block] = [_headline(str(text["why not"] or "")), _agreement(), *_silent(value), _controls(value)]
    blocks += [
        Figure("scatter", "points", "predicted", "measured", "Measured against predicted change of the target",
               color="what", x_title="predicted: sum of (z' - z) G", y_title="measured",
               caption="One point a row; at most 300 of each kind, drawn at random."),
        Table("agreement", "Pathways", ["source_name", "target_name", "n", "predicted", "measured", "measured_low",
              "measured_high", "control_measured", "ratio", "slope", "pearson", "sign", "p", "q", "validated", "note"],
              where={"scope": "pathway"}, sort="ratio", descending=True, limit=40,
              labels={"measured_low": "low", "measured_high": "high", "control_measured": "random latents",
                      "ratio": "over random"}),
        Table("agreement", "Agreement by pair of layers", ["scope", "source_layer", "target_layer", "n", "slope", "r2",
              "pearson", "pearson_low", "pearson_high", "spearman", "sign"],
              where={"scope": ["all", "controls", "layers", "layer controls"]}, limit=40,
              labels={"pearson_low": "low", "pearson_high": "high"}),
    ]  # fmt: skip
    if value["fewest"] > 1:
        blocks.append(_fewest(value))
    if value["rounding"] > STILL:
        blocks.append(Text(
            "A patch of nothing changes targets by up to {rounding} of their size: that is how exact the changes are "
            "(half precision).", {"rounding": _fact("rounding", ".2g")}, "warning",
        ))  # fmt: skip
    return [*blocks, _method(), _limit()]


def _fact(name: str, format: str = ".3f", column: str = "value") -> Ref:
    return Ref("facts", {"fact": name}, column, format)


def _of(scope: str, column: str, format: str = ".3f") -> Ref:
    return Ref("agreement", {"scope": scope, "source_name": ""}, column, format)


def _headline(why_not: str) -> Text:
    refs = {"validated": _fact("validated", "d"), "tested": _fact("tested", "d"), "pathways": _fact("pathways", "d"),
            "alpha": _fact("alpha", ".2g"), "replayed": _fact("replayed", "d")}  # fmt: skip
    if why_not:
        return Text(
            "No conclusion: {why}. {replayed} of {pathways} pathways were replayed; their numbers stand below.",
            {"why": _fact("why not", "", "text"), "replayed": refs["replayed"], "pathways": refs["pathways"]},
            "headline",
        )  # fmt: skip
    return Text(
        "{validated} of {tested} pathways are validated on held-out rows ({replayed} of {pathways} could be replayed): "
        "setting the source to {to} moves the target the predicted way, and more than random latents that are active "
        "as often do (q at most {alpha}).", refs | {"to": _fact("to", "", "text")}, "headline",
    )  # fmt: skip


def _agreement() -> Text:
    return Text(
        "Over all pathways and rows measured changes follow predicted ones with Pearson {r} ({low} to {high}), "
        "Spearman {rank}, slope {slope}, R2 about zero {r2}; the sign agrees in {sign}.",
        {"r": _of("all", "pearson"), "low": _of("all", "pearson_low"), "high": _of("all", "pearson_high"),
         "rank": _of("all", "spearman"), "slope": _of("all", "slope"), "r2": _of("all", "r2"),
         "sign": _of("all", "sign", ".0%")},
    )  # fmt: skip


def _controls(value: dict[str, Any]) -> Text:
    if not value["random"]:
        return Text("No random latents were replayed, so nothing says which pathways matter.", kind="warning")
    return Text(
        "Random latents that are active as often as the sources: Pearson {r} ({low} to {high}), Spearman {rank}, slope "
        "{slope}. Agreement therefore says that the model is linear that far, not that a pathway matters; the size of "
        "the change beside that of random latents is what says it.",
        {"r": _of("controls", "pearson"), "low": _of("controls", "pearson_low"),
         "high": _of("controls", "pearson_high"), "rank": _of("controls", "spearman"),
         "slope": _of("controls", "slope")}, "control",
    )  # fmt: skip


def _fewest(value: dict[str, Any]) -> Text:
    """What the number of random latents lets be found at all."""
    refs = {name: _fact(name, "d") for name in ("drawn", "fewest", "tested")}
    if value["fewest"] > value["tested"]:
        return Text("{drawn} different random latents stand beside {tested} pathways: too few for any of these to be "
                    "validated, whatever it does (more: controls, or a wider dictionary).",
                    {n: refs[n] for n in ("drawn", "tested")}, "warning")  # fmt: skip
    return Text("{drawn} different random latents stand beside {tested} pathways: {fewest} of these at least have to "
                "stand above all of them before one can be called validated.", refs, "limit")  # fmt: skip


def _silent(value: dict[str, Any]) -> list[Block]:
    if not value["target inactive"]:
        return []
    return [Text(
        "In {silent} of the rows of pathways the target is not active; there the change is of its pre-activation.",
        {"silent": _fact("target inactive", ".0%")},
    )]  # fmt: skip


def _method() -> Text:
    return Text(
        "A latent's part of the activation is set to another value at {places}, the dictionary's error term is kept, "
        "and the blocks between are run; the target is read at the {at} token. Rows are of split {split}, one a "
        "group: {rows} were looked at. Prediction: the gradient of that very row. p: a pathway's mean change over that "
        "of its random latents, beside the same ratio of every random latent (one that stands beside several pathways "
        "counts once); Benjamini-Hochberg over the pathways. Validated: q at most {alpha}, the predicted sign in three "
        "rows of four, and 0 outside the interval of the mean change. Changes are counted as of a source that goes "
        "down. Intervals resample groups.",
        {"places": _fact("positions", "", "text"), "at": _fact("at", "", "text"), "split": _fact("split", "", "text"),
         "rows": _fact("rows", "d"), "alpha": _fact("alpha", ".2g")}, "method",
    )  # fmt: skip


def _limit() -> Text:
    return Text(
        "One latent is moved while all else is left to follow: what another source would have made up for is counted "
        "as the first one's. A pathway that is not validated may matter less than random latents do, or be active in "
        "too few of these rows. Changes of different targets are pooled in their own units.", kind="limit",
    )  # fmt: skip
