"""How a probe reads in the report: sentences, figures and tables made of the step's own tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.stats import thin_notes
from gnomon.store import Artifact

VERDICTS = {
    "pass": "So the activations tell more than these explanations do.",
    "fail": "So this probe is no evidence of knowledge beyond these explanations.",
    "undecided": "Whether the activations tell more than these explanations is undecided at this size.",
}
RULE = (
    "Rule, fixed beforehand. Pass: the 95% interval of the increment lies above 0, and so does that of the partial "
    "correlation of score and target given the baselines (0 for a score that only repeats them). Fail: the increment's "
    "interval ends below {smallest}. Undecided: else, where a class is too small for an interval, or "
    "where the combination leaves the score out (an increment of exactly 0) though it correlates given the baselines."
)
COLUMNS = ("predictor", "control", "metric", "value", "ci_low", "ci_high", "n", "n_pos", "p", "q", "note")
LABELS = {"ci_low": "low", "ci_high": "high", "n_pos": "positive"}


def fact(name: str, column: str = "value", spec: str = ",.0f") -> Ref:
    """A reference to one fact."""
    return Ref("facts", {"fact": name}, column, spec)


def probe_blocks(artifact: Artifact) -> list[Block]:
    """Setting, headlines, the sweep, every score beside its controls, transfer, tokens, limits."""
    scores = artifact.table("scores")
    known = artifact.table("facts").set_index("fact")
    main = _headline_row(scores)
    blocks: list[Block] = [_setting(bool(known.loc["two classes", "value"]))]
    where: dict[str, Any] = {}
    if main is not None:
        where = {k: main[k] for k in ("generation", "split")}
        blocks += _headlines(scores, main, where, str(known.loc["verdict", "text"]))
    blocks += _sweep(artifact.table("sweep"), scores, where)
    if main is not None:
        title = "Every score on held-out rows, beside its controls"
        blocks.append(Table("scores", title, ("site", "position", *COLUMNS), where, limit=60, labels=LABELS))
        if main["split"] == "cv":
            blocks += _plain_test(main)
    blocks += _transfer(scores, known, main)
    if "tokens" in artifact.tables():
        blocks += _tokens(scores)
    return blocks + _limits(scores, known, main)


def _headline_row(scores: pd.DataFrame) -> dict[str, Any] | None:
    """The row of the chosen probe's own score."""
    here = scores.loc[scores["selected"] & (scores["control"] == "") & scores["metric"].isin(["auroc", "spearman"]), :]
    here = here.loc[~here["predictor"].str.contains("increment|baselines"), :]
    return {str(k): v for k, v in here.iloc[0].items()} if len(here) == 1 else None


def _setting(binary: bool) -> Text:
    share = ", {share} of them {target}" if binary else ", target {target}"
    refs = {
        "rows": fact("rows"), "groups": fact("groups"), "candidates": fact("candidates"),
        "generation": fact("generation", "text", ""), "target": fact("target", "text", ""),
    } | ({"share": fact("share", spec=".1%")} if binary else {})  # fmt: skip
    return Text(
        "Linear probes were fitted to the activations of {rows} rows of {generation} ({groups} groups"
        + share
        + "). Of {candidates} sites and positions the best was chosen on fit and tune.",
        refs,
    )


def _headlines(scores: pd.DataFrame, main: dict[str, Any], where: dict[str, Any], verdict: str) -> list[Block]:
    kind, metric, split = main["predictor"], main["metric"], main["split"]
    own = where | {"predictor": kind, "metric": metric}
    refs = {
        "value": Ref("scores", own | {"control": ""}, "value", ".3f", ci=True),
        "n": Ref("scores", own | {"control": ""}, "n", "d"), "site": Ref("scores", own | {"control": ""}, "site", ""),
        "position": Ref("scores", own | {"control": ""}, "position", ""),
        "null": Ref("scores", own | {"control": "shuffled"}, "value", ".3f"),
        "p": Ref("scores", own | {"control": "shuffled"}, "p", ".3f"),
        "random": Ref("scores", own | {"control": "random"}, "value", ".3f"),
        "target": fact("target", "text", ""),
    }  # fmt: skip
    score = "AUROC" if metric == "auroc" else "rank correlation"
    does = "tells right from wrong answers" if main["target"] == "correct" else "predicts {target}"
    what = {"difference": "difference-in-means", "probe": "linear"}.get(kind, kind)
    place = "at {site}, position {position}," if main["site"] != "per fold" else "at a site chosen anew in each fold"
    rows = "test rows" if split == "test" else "rows, each scored by probes chosen and fitted without its fold"
    text = (
        f"A {what} probe {place} {does} with {score} {{value}} ({{n}} {rows}; 95% interval over groups); trained on "
        "shuffled labels it comes to {null} (p = {p}), and random directions to {random}."
    )
    refs = {name: ref for name, ref in refs.items() if "{" + name + "}" in text}
    out: list[Block] = [Text(text, refs, "headline")]
    wanted = {"baselines", "increment"}
    if wanted <= set(scores.loc[(scores["split"] == split) & (scores["metric"] == metric), "predictor"]):
        gain = {"predictor": "increment", "metric": metric}
        refs = {
            "base": Ref("scores", where | {"predictor": "baselines", "metric": metric}, "value", ".3f", ci=True),
            "both": Ref("scores", where | {"predictor": f"baselines+{kind}", "metric": metric}, "value", ".3f"),
            "gain": Ref("scores", where | gain, "value", "+.3f", ci=True),
            "partial": Ref("scores", where | gain | {"metric": "partial"}, "value", "+.3f", ci=True),
        }  # fmt: skip
        out.append(Text(
            "The cheap explanations alone (difficulty, surface features, the model's own output confidence) come to "
            "{base}; with the probe's score beside them to {both}, an increment of {gain} (paired 95% interval). Given "
            f"them, score and target still correlate by {{partial}}. {VERDICTS[verdict]}",
            refs, "headline",
        ))  # fmt: skip
        out.append(Text(RULE, {"smallest": fact("smallest increment", spec=".3g")}, "method"))
    if split == "cv":
        out.append(Text(
            "With fewer groups than nested_below the headline is nested cross-validation: site, position, kind, "
            "penalty and the combination with the baselines are chosen inside the training groups of each fold. "
            "Folds share training rows, so intervals are widened by half (Nadeau and Bengio). Test rows take part; "
            "the saved directions have seen fit rows only.",
            kind="method",
        ))  # fmt: skip
    strata = where | {"predictor": kind, "metric": f"{metric}_strata", "control": "shuffled"}
    if ((scores["metric"] == strata["metric"]) & (scores["split"] == split)).any():
        out.append(Text(
            "Shuffling labels only among questions of like difficulty, and training again, leaves {null} "
            "(p = {p}): what a probe gets by telling hard questions from easy ones.",
            {"null": Ref("scores", strata, "value", ".3f", ci=True), "p": Ref("scores", strata, "p", ".3f")}, "control",
        ))  # fmt: skip
    return out


def _sweep(sweep: pd.DataFrame, scores: pd.DataFrame, where: dict[str, Any]) -> list[Block]:
    metric = str(sweep["metric"].iloc[0])
    base = scores.loc[(scores["predictor"] == "baselines") & (scores["metric"] == metric), :]
    for column, value in where.items():
        base = base.loc[base[column] == value, :]
    chance = 0.5 if metric == "auroc" else 0.0
    reference = float(base["value"].iloc[0]) if len(base) == 1 else chance
    label = "baselines, held-out rows" if len(base) == 1 else "chance"
    out: list[Block] = [Figure(
        "line", "sweep", "layer", "value", f"{_name(metric)} by layer, on fit and tune", "series", "ci_low", "ci_high",
        reference=reference, reference_label=label, x_title="layer", y_title=_name(metric),
        caption="Each row is scored by a probe that did not see it; test is not used. Bands: 95% intervals over "
        "groups; for shuffled labels, the range of 95% of the shuffles. q: Benjamini-Hochberg over the whole sweep.",
    )]  # fmt: skip
    columns = ("site", "position", "predictor", "value", "ci_low", "ci_high", "p", "q", "p_max")
    labels = {**LABELS, "p_max": "p (max over the sweep)"}
    return [*out, Table("sweep", "The best places to read", columns, {"control": ""}, "value", True, 10, labels)]


def _plain_test(main: dict[str, Any]) -> list[Block]:
    title = "The plain test split: probes of fit, chosen on fit and tune"
    where = {"generation": main["generation"], "split": "test"}
    return [Table("scores", title, ("site", "position", *COLUMNS), where, limit=60, labels=LABELS)]


def _transfer(scores: pd.DataFrame, known: pd.DataFrame, main: dict[str, Any] | None) -> list[Block]:
    own, out = str(known.loc["generation", "text"]), []
    for name in [g for g in dict.fromkeys(scores["generation"]) if g != own]:
        here = scores.loc[(scores["generation"] == name) & (scores["control"] == ""), :]
        kinds = [k for k in dict.fromkeys(here["predictor"]) if k in ("difference", "logistic", "ridge")]
        metric = str(here["metric"].iloc[0])
        where = {"generation": name, "predictor": kinds[0], "metric": metric}
        refs = {
            "value": Ref("scores", where | {"control": ""}, "value", ".3f", ci=True),
            "n": Ref("scores", where | {"control": ""}, "n", "d"),
            "null": Ref("scores", where | {"control": "shuffled"}, "value", ".3f"),
            "p": Ref("scores", where | {"control": "shuffled"}, "p", ".3f"),
            "left": fact(f"seen in {name}"), "name": fact(f"seen in {name}", "text", ""),
        }  # fmt: skip
        more = ""
        if {"increment", "baselines"} <= set(here["predictor"]):
            gain = {"generation": name, "predictor": "increment", "metric": metric}
            refs |= {
                "base": Ref("scores", gain | {"predictor": "baselines"}, "value", ".3f"),
                "gain": Ref("scores", gain, "value", "+.3f", ci=True),
            }
            more = " The baselines there come to {base}; the increment over them is {gain}."
        text = (
            f"Frozen and carried over to {{name}}, the {kinds[0]} probe comes to {{value}} ({{n}} test rows); "
            f"shuffled labels come to {{null}} (p = {{p}}). {{left}} rows whose prompts it knew were left out.{more}"
        )
        out.append(Text(text, refs, "headline" if main is not None else "text"))
        out.append(Table("scores", f"Transfer to {name}", COLUMNS, {"generation": name}, limit=40, labels=LABELS))
    return out


def _tokens(scores: pd.DataFrame) -> list[Block]:
    out: list[Block] = [Text(
        "The headline direction against the unembedding, a sanity check: at early layers the stream is written in "
        "other coordinates, and tokens say little.", kind="control",
    )]  # fmt: skip
    if "logit" in set(scores["predictor"]):
        out.append(Table("scores", "The tokens' own direction as a probe", COLUMNS, {"predictor": "logit"}))
    columns = ("side", "rank", "token", "effect")
    return [*out, Table("tokens", "Tokens that it raises and lowers", columns, limit=60)]


def _limits(scores: pd.DataFrame, known: pd.DataFrame, main: dict[str, Any] | None) -> list[Block]:
    out: list[Block] = [Text(note, kind="warning") for note in thin_notes(scores["note"])]
    lost = {"unlabelled": fact("unlabelled"), "unread": fact("unread")}
    out.append(Text(
        "{unlabelled} rows without a label (answers that could not be parsed) and {unread} without activations at "
        "every position were left out: nothing is said of them.", lost, "limit",
    ))  # fmt: skip
    if str(known.loc["left out", "text"]):
        out.append(Text("Baselines left out: {names}.", {"names": fact("left out", "text", "")}, "limit"))
    if main is not None and main["position"] not in ("last_prompt", "per fold"):
        out.append(Text(
            "The probe reads where the response has been written: it may judge the answer rather than foresee it.",
            kind="limit",
        ))  # fmt: skip
    out.append(Text(
        "A probe shows what can be read, not what the model uses: `intervene` asks that. Only linear probes of one "
        "token were tried, and the baselines are those that were thought of.", kind="limit",
    ))  # fmt: skip
    return out


def _name(metric: str) -> str:
    return "AUROC" if metric == "auroc" else "rank correlation"
