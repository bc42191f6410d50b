"""How the step temperatures reads in the report: sentences, figures and tables made of its own tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.store import Artifact

LABELS = {"ci_low": "95% from", "ci_high": "to"}
COLUMNS = ("temperature", "predictor", "control", "metric", "value", "ci_low", "ci_high", "p", "q", "n", "groups",
           "note")  # fmt: skip


def temperature_blocks(artifact: Artifact) -> list[Block]:
    """Headlines, both figures, every line beside its controls, difficulty, limits."""
    table: Any = artifact.table("temperatures")
    known: Any = artifact.table("predictors")
    low, high = float(table["temperature"].min()), float(table["temperature"].max())
    main = str(known.loc[known["main"], "predictor"].iloc[0])
    best = str(known.loc[known["strongest"], "predictor"].iloc[0]) if known["strongest"].any() else ""
    out: list[Block] = [*_rates(table, low, high), *_predictor(table, main, best, low, high)]
    out.append(Figure(
        "line", "temperatures", "temperature", "value", "Pass rate by temperature", "metric", "ci_low", "ci_high",
        where={"metric": _rate_metrics(table)}, x_title="temperature", y_title="share",
        caption="Graded samples of the test questions. pass@k: at least one of k samples is right. Intervals resample "
        "questions, not samples.",
    ))  # fmt: skip
    out.append(Figure(
        "line", "temperatures", "temperature", "value", "AUROC by temperature", "predictor", "ci_low", "ci_high",
        where={"metric": "auroc", "control": ""}, reference=0.5, reference_label="chance", x_title="temperature",
        y_title="AUROC",
        caption="Predictors that were fixed before, against the correctness of each sample; 95% intervals over groups.",
    ))  # fmt: skip
    if (table["metric"] == "within").any():
        out.append(Text(
            "All pairs mix two questions: which problem is hard, and which sample of one problem went wrong. A score "
            "that reads the prompt is one number for all samples of a problem, so it can only answer the first: within "
            "a problem its AUROC is a half by construction. Lines `within` compare samples of one problem alone.",
            kind="method",
        ))  # fmt: skip
    for title, metrics in (
        ("Pass rates", ["pass_rate", *_ks(table), "ungraded"]), ("AUROC, beside shuffled labels", ["auroc"]),
        ("Within problems, between problems, and over the strongest cheap predictor", ["within", "spearman", "gain"]),
    ):  # fmt: skip
        if table["metric"].isin(metrics).any():
            columns = (
                COLUMNS
                if title != "Pass rates"
                else tuple(c for c in COLUMNS if c not in ("predictor", "control", "p", "q"))
            )
            out.append(Table("temperatures", title, columns, {"metric": metrics}, limit=120, labels=LABELS))
    return [*out, *_difficulty(artifact), *_limits(table, known)]


def _ks(table: Any) -> list[str]:
    return [m for m in dict.fromkeys(table["metric"]) if m.startswith("pass@")]


def _rate_metrics(table: Any) -> list[str]:
    return ["pass_rate", *(m for m in _ks(table) if m != "pass@1")]


def _at(temperature: float, metric: str, predictor: str = "", control: str = "") -> dict[str, object]:
    return {"temperature": temperature, "metric": metric, "predictor": predictor, "control": control}


def _rates(table: Any, low: float, high: float) -> list[Block]:
    refs = {
        "cold": Ref("temperatures", _at(low, "pass_rate"), "value", ".1%", ci=True),
        "hot": Ref("temperatures", _at(high, "pass_rate"), "value", ".1%", ci=True),
        "low": Ref("temperatures", _at(low, "pass_rate"), "temperature", "g"),
        "high": Ref("temperatures", _at(high, "pass_rate"), "temperature", "g"),
        "problems": Ref("temperatures", _at(low, "pass_rate"), "groups", "d"),
        "ungraded": Ref("temperatures", _at(high, "ungraded"), "value", ".1%"),
    }
    text = (
        "At temperature {low} {cold} of the graded answers to the test questions ({problems} groups) are right, at "
        "{high} {hot}; {ungraded} of the answers there could not be graded"
    )
    deep = [m for m in _ks(table) if m != "pass@1" and ((table["metric"] == m) & (table["temperature"] == high)).any()]
    if deep:
        refs["any"] = Ref("temperatures", _at(high, deep[-1]), "value", ".1%", ci=True)
        text += "; at least one of several samples of a question is right in {any}"
    return [Text(text + ".", refs, "headline")]


def _predictor(table: Any, main: str, best: str, low: float, high: float) -> list[Block]:
    """The main predictor at the lowest and at the highest temperature, beside shuffled labels and the cheap one."""

    def there(temperature: float, metric: str, predictor: str, control: str = "") -> bool:
        where = _at(temperature, metric, predictor, control)
        mask = pd.concat([table[k] == v for k, v in where.items()], axis=1).all(axis=1)
        return bool((mask & table["value"].notna()).any())

    if not (there(low, "auroc", main) and there(high, "auroc", main)):
        return [Text(
            f"At one of the two ends all graded answers are alike, so nothing can be said there of {main}.", {}, "limit"
        )]  # fmt: skip
    refs = {
        "cold": Ref("temperatures", _at(low, "auroc", main), "value", ".3f", ci=True),
        "hot": Ref("temperatures", _at(high, "auroc", main), "value", ".3f", ci=True),
        "low": Ref("temperatures", _at(low, "auroc", main), "temperature", "g"),
        "high": Ref("temperatures", _at(high, "auroc", main), "temperature", "g"),
        "null": Ref("temperatures", _at(high, "auroc", main, "shuffled"), "value", ".3f", ci=True),
        "p": Ref("temperatures", _at(high, "auroc", main), "p", ".3f"),
        "cold_null": Ref("temperatures", _at(low, "auroc", main, "shuffled"), "value", ".3f", ci=True),
        "cold_p": Ref("temperatures", _at(low, "auroc", main), "p", ".3f"),
        "main": Ref("temperatures", _at(high, "auroc", main), "predictor", ""),
    }
    text = (
        "{main} tells right from wrong answers with AUROC {cold} at temperature {low} and {hot} at {high}; labels "
        "shuffled by group give {cold_null} (p = {cold_p}) and {null} (p = {p})."
    )
    if best and best != main and there(high, "auroc", best):
        refs["cheap"] = Ref("temperatures", _at(high, "auroc", best), "value", ".3f", ci=True)
        refs["name"] = Ref("temperatures", _at(high, "auroc", best), "predictor", "")
        text += " The strongest cheap predictor on fit, {name}, comes to {cheap}"
        if there(high, "gain", main):
            refs["gain"] = Ref("temperatures", _at(high, "gain", main), "value", "+.3f", ci=True)
            text += "; the difference is {gain}"
        text += "."
    out: list[Block] = [Text(text, refs, "headline")]
    within = Ref("temperatures", _at(high, "within", main), "value", ".3f", ci=True)
    if there(high, "within", main) and "by construction" not in str(_note(table, _at(high, "within", main))):
        out.append(Text(
            "Among samples of one problem alone its AUROC at {high} is {within}.",
            {"within": within, "high": refs["high"]},
        ))  # fmt: skip
    return out


def _note(table: Any, where: dict[str, object]) -> str:
    mask = pd.concat([table[k] == v for k, v in where.items()], axis=1).all(axis=1)
    return str(table.loc[mask, "note"].iloc[0])


def _difficulty(artifact: Artifact) -> list[Block]:
    table = artifact.table("by_difficulty")
    if table.empty:
        return [Text("Difficulty is unknown, or the same for all questions: no bins.", {}, "limit")]
    where = {"at": "all", "metric": "auroc"}
    return [
        Figure(
            "line", "by_difficulty", "mean", "value", "AUROC by difficulty, all temperatures", "predictor", "ci_low",
            "ci_high", where=where, reference=0.5, reference_label="chance", x_title="difficulty (mean of the bin)",
            y_title="AUROC",
            caption="Inside a bin difficulty explains little, so what is left there is the predictor's own. Only "
            "samples of one temperature are compared with each other.",
        ),
        Table(
            "by_difficulty", "By difficulty, all temperatures",
            ("bin", "low", "high", "metric", "predictor", "value", "ci_low", "ci_high", "n", "groups", "note"),
            {"at": "all"}, limit=60, labels={**LABELS, "low": "from", "high": "to "},
        ),
    ]  # fmt: skip


def _limits(table: Any, known: Any) -> list[Block]:
    thin = [n for n in dict.fromkeys(table["note"]) if "are needed for an interval" in n]
    out: list[Block] = [Text(t.split("; ")[0], kind="warning") for t in thin[:4]]
    if not (~known["cheap"]).any():
        out.append(Text("No direction was given (using:), so only cheap predictors stand here.", {}, "limit"))
    out.append(Text(
        "Answers that could not be graded are neither right nor wrong and are left out of every line but `ungraded`. "
        "Nothing was fitted on these samples; cheap predictors got their sign, and the strongest of them its place, on "
        "fit at the base temperature. p is of one predictor, q over all lines AUROC of the table.", kind="limit",
    ))  # fmt: skip
    return out
