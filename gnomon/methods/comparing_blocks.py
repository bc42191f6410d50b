"""How a comparison reads in the report: made from its tables alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.store import Artifact

WORDS = {
    "max_prob": "output confidence (max_prob)", "mean_prob": "output confidence (mean_prob)",
    "self": "stated confidence (self)", "other": "stated confidence (other)", "p_true": "P(True)",
    "verbalised": "the number in words", "consistency": "agreement of samples",
}  # fmt: skip
LABELS = {"value": "value", "groups": "groups", "n": "n", "note": "note"}
METHOD = (
    "Rows are the same questions, asked with the same prompt (equal hashes), of both models. Differences are b minus a "
    "with a bootstrap over question groups that draws both sides together. Control `swapped`: in each group a coin "
    "says which answer is b's; p is two-sided. ECE has ten bins of equal mass; the noise of bins makes it too large, "
    "so its intervals are of the calibration error itself, and the value may lie outside of one. Similarity is "
    "debiased CKA (0 for unrelated activations) and cosines on fit and tune, beside partners shuffled by group. A "
    "probe is carried over as it was fitted on the other model; its loss is its score minus that of the reader's own "
    "probe on the same rows. Where groups are few, probes are tested by nested cross-validation over all rows; folds "
    "share training rows, so those intervals, and the range of shuffled labels, are widened by half (Nadeau and "
    "Bengio)."
)


def comparison_blocks(artifact: Artifact) -> list[Block]:
    """Headlines on answers, confidence and activations; the tables behind them; figures; what did not join."""
    table: Any = artifact.table("comparison")
    models: Any = artifact.table("models").set_index("side")
    out: list[Block] = [_accuracy(table, models), *_confidence(table, models), *_alike(artifact), *_moved(artifact)]
    out += _warnings(artifact, models)
    out.append(Table("models", "The two sides", ("side", "step", "folder", "model", "adapter", "revision", "dtype")))
    out.append(Table(
        "comparison", "Answers and confidence", ("metric", "signal", "side", "control", "value", "ci_low", "ci_high",
                                                 "p", "n", "groups", "note"),
        {"rows": ["all", "changed"]}, limit=120, labels=LABELS,
    ))  # fmt: skip
    out.append(Table(
        "comparison", "Confidence by what became of the answer",
        ("signal", "rows", "side", "control", "value", "ci_low", "ci_high", "p", "n"),
        {"metric": "confidence", "rows": ["kept right", "kept wrong", "gained", "lost"]}, limit=120,
    ))  # fmt: skip
    if len(artifact.table("flips")):
        out.append(Table(
            "flips", "Answers that flipped", ("example_id", "kind", "target", "answer_a", "answer_b", "confidence_a",
                                              "confidence_b"), limit=20,
        ))  # fmt: skip
    out += _figures(artifact)
    out.append(Table("pairing", "What joined", ("what", "n", "first")))
    return [*out, Text(METHOD, kind="method")]


def _at(metric: str, side: str, signal: str = "", control: str = "", rows: str = "all") -> dict[str, object]:
    return {"metric": metric, "signal": signal, "rows": rows, "side": side, "control": control}


def _line(table: pd.DataFrame, where: dict[str, object]) -> Any:
    """The first row that fits, or None."""
    mask = pd.concat([table[k] == v for k, v in where.items()], axis=1).all(axis=1)
    return table.loc[mask].iloc[0] if mask.any() else None


def _verdict(line: Any, up: str, down: str, even: str) -> str:
    """A word by the interval; `even` where it holds 0 or is missing."""
    if line is None or not (line["ci_low"] > 0 or line["ci_high"] < 0):
        return even
    return up if line["ci_low"] > 0 else down


def _accuracy(table: pd.DataFrame, models: pd.DataFrame) -> Text:
    where = _at("accuracy", "difference")
    said = _verdict(_line(table, where), "more of the questions right than", "fewer of the questions right than",
                    "about as many of the questions right as (no difference is shown)")  # fmt: skip
    names = {s: str(models.loc[s, "step"]) for s in "ab"}
    if names["a"] == names["b"]:
        names = {s: f"{models.loc[s, 'folder']}/{names[s]}" for s in "ab"}
    refs = {
        "b": Ref("comparison", _at("accuracy", "b"), "value", ".1%", ci=True),
        "a": Ref("comparison", _at("accuracy", "a"), "value", ".1%", ci=True),
        "difference": Ref("comparison", where, "value", "+.3f", ci=True),
        "null": Ref("comparison", _at("accuracy", "difference", control="swapped"), "value", "+.3f", ci=True),
        "p": Ref("comparison", where, "p", ".3f"),
        "gained": Ref("comparison", _at("gained", "b"), "value", ".1%", ci=True),
        "lost": Ref("comparison", _at("lost", "b"), "value", ".1%", ci=True),
        "n": Ref("comparison", where, "n", "d"),
    }
    return Text(
        f"{names['b']} answers {said} {names['a']}: " "{b} beside {a} of the same {n} answers, a difference of "
        "{difference} (sides swapped by a coin: {null}; p = {p}). {gained} of the answers became right, {lost} wrong.",
        refs, "headline",
    )  # fmt: skip


def _signals(table: pd.DataFrame) -> list[str]:
    """Signals to speak of: stated ones first, of the output ones the one that claims a probability."""
    names = [s for s in dict.fromkeys(table["signal"]) if s]
    cheap = ("max_prob", "mean_prob", "margin", "negative_entropy")
    return [*(s for s in names if s not in cheap), *(s for s in names if s == "max_prob")]


def _confidence(table: pd.DataFrame, models: pd.DataFrame) -> list[Block]:
    out: list[Block] = []
    for signal in _signals(table):
        shift = _line(table, _at("confidence", "difference", signal))
        area = _line(table, _at("auroc", "difference", signal))
        if shift is None or area is None:
            continue
        moved = _verdict(shift, "rises", "falls", "does not move by more than chance")
        better = _verdict(area, "tells right from wrong better", "tells right from wrong worse",
                          "tells right from wrong neither better nor worse, as far as these rows show")  # fmt: skip
        if not pd.notna(area["ci_low"]):
            better = "no interval says whether it tells right from wrong better"
        refs = {
            "shift": Ref("comparison", _at("confidence", "difference", signal), "value", "+.3f", ci=True),
            "null": Ref("comparison", _at("confidence", "difference", signal, "swapped"), "value", "+.3f", ci=True),
            "auroc_a": Ref("comparison", _at("auroc", "a", signal), "value", ".3f", ci=True),
            "auroc_b": Ref("comparison", _at("auroc", "b", signal), "value", ".3f", ci=True),
            "area": Ref("comparison", _at("auroc", "difference", signal), "value", "+.3f", ci=True),
            "agree": Ref("comparison", _at("agreement", "both", signal), "value", ".3f", ci=True),
            "chance": Ref("comparison", _at("agreement", "both", signal, "shuffled"), "value", ".3f", ci=True),
        }
        text = (
            f"From a to b, {WORDS.get(signal, signal)} {moved} " "(by {shift}; swapped sides {null}) and " f"{better} "
            "(AUROC {auroc_a} -> {auroc_b}, {area})."
        )  # fmt: skip
        if _line(table, _at("ece", "difference", signal)) is not None:
            refs["ece"] = Ref("comparison", _at("ece", "difference", signal), "value", "+.3f", ci=True)
            refs["ece_null"] = Ref("comparison", _at("ece", "difference", signal, "swapped"), "value", "+.3f", ci=True)
            refs["brier"] = Ref("comparison", _at("brier", "difference", signal), "value", "+.3f", ci=True)
            text += " Its calibration error changes by {ece} (swapped {ece_null}), its Brier score by {brier}."
        text += " Both models rank the questions alike with Spearman {agree} (shuffled pairing {chance})."
        follows = _line(table, _at("follows", "difference", signal, rows="changed"))
        if follows is not None and pd.notna(follows["value"]):
            refs["follows"] = Ref(
                "comparison", _at("follows", "difference", signal, rows="changed"), "value", "+.3f", ci=True
            )
            text += " It moved {follows} more where the answer became right than where it became wrong."
        out.append(Text(text, refs, "headline" if not out else "text"))
    return out


def _alike(artifact: Artifact) -> list[Block]:
    table: Any = artifact.table("similarity")
    own = table[(table["measure"] == "cka") & (table["control"] == "") & table["value"].notna()]
    if own.empty:
        return [Text("No activations with one token a row were captured on both sides, so nothing is said of them.",
                     kind="limit")]  # fmt: skip
    out: list[Block] = []
    for of, rows in own.groupby("of", sort=False):
        least, most = rows.loc[rows["value"].idxmin()], rows.loc[rows["value"].idxmax()]
        refs: dict[str, Ref] = {}
        for name, row in (("least", least), ("most", most)):
            where = {"of": of, "site": row["site"], "position": row["position"], "measure": "cka", "control": ""}
            refs[name] = Ref("similarity", where, "value", ".3f", ci=True)
            refs[f"{name}_site"], refs[f"{name}_at"] = (
                Ref("similarity", where, "site"),
                Ref("similarity", where, "position"),
            )
            refs[f"{name}_null"] = Ref("similarity", where | {"control": "shuffled"}, "value", ".3f", ci=True)
        out.append(Text(
            f"Activations of {_of(str(of))} are least alike " "at {least_site}@{least_at}: debiased CKA {least} "
            "(shuffled pairing {least_null}), and most alike at {most_site}@{most_at}: {most} ({most_null}).",
            refs, "headline" if of == "answers" else "text",
        ))  # fmt: skip
    return out


def _of(of: str) -> str:
    return "the answers" if of == "answers" else f"the pass {of}"


def _moved(artifact: Artifact) -> list[Block]:
    table: Any = artifact.table("transfer")
    out: list[Block] = []
    for of in dict.fromkeys(table["of"]):
        rows = table[(table["of"] == of) & (table["control"] == "")]
        if not rows["value"].notna().any():
            out.append(
                Text(f"No probe of {_of(of)} could be carried over: one class only, or another width.", kind="limit")
            )
            continue
        refs: dict[str, Ref] = {}
        for fitted, read in ("ab", "bb", "ba", "aa"):
            mine = rows[(rows["fitted_on"] == fitted) & (rows["read_on"] == read)]
            for _, r in mine.iterrows():
                where = {"of": of, "fitted_on": fitted, "read_on": read, "metric": r["metric"], "control": ""}
                name = fitted + read if r["metric"] != "loss" else f"loss_{fitted}{read}"
                refs[name] = Ref("transfer", where, "value", "+.3f" if r["metric"] == "loss" else ".3f", ci=True)
                if r["metric"] != "loss":
                    refs[f"null_{name}"] = Ref("transfer", where | {"control": "shuffled"}, "value", ".3f", ci=True)
        if not {"ab", "ba", "loss_ab", "loss_ba"} <= set(refs):
            continue
        losses = [_line(rows, {"fitted_on": f, "read_on": r, "metric": "loss"}) for f, r in ("ab", "ba")]
        words = [_verdict(x, "better than", "worse than", "as well as, within its interval,") for x in losses]
        metric = "AUROC" if (rows["metric"] == "auroc").any() else "Spearman"
        target = str(rows["target"].iloc[0])
        out.append(Text(
            f"A probe of {target} fitted on a reads b ({_of(of)}) {words[0]} b's own: {metric} " "{ab} beside {bb}, "
            "{loss_ab} (shuffled labels {null_ab}); " f"one fitted on b reads a {words[1]} a's own: " "{ba} beside "
            "{aa}, {loss_ba} (shuffled labels {null_ba}).", refs, "headline" if of == "answers" else "text",
        ))  # fmt: skip
    return out


def _warnings(artifact: Artifact, models: pd.DataFrame) -> list[Block]:
    out: list[Block] = []
    prints = [str(models.loc[s, "fingerprint"]) for s in "ab"]
    if prints[0] and prints[0] == prints[1]:
        out.append(Text("Both sides are the same model with the same weights.", kind="warning"))
    for row in artifact.table("pairing").to_dict("records"):
        if row["n"] and str(row["what"]).startswith(("missing", "asked", "in another", "answers of")):
            ref = {"n": Ref("pairing", {"what": row["what"]}, "n", "d")}
            out.append(
                Text("{n} questions: " + str(row["what"]).replace("{", "(").replace("}", ")") + ".", ref, "warning")
            )
    return out


def _figures(artifact: Artifact) -> list[Block]:
    out: list[Block] = []
    alike: Any = artifact.table("similarity")
    for of, position in dict.fromkeys(zip(alike["of"], alike["position"], strict=True)):
        rows = alike[(alike["of"] == of) & (alike["position"] == position)]
        for component in dict.fromkeys(rows["component"]):
            if rows.loc[rows["component"] == component, "layer"].nunique() < 2:
                continue
            where = {"of": of, "position": position, "component": component}
            for control, title in (("", "Similarity"), ("shuffled", "Similarity, shuffled pairing")):
                out.append(Figure(
                    "line", "similarity", "layer", "value", f"{title}: {component}@{position} of {_of(of)}", "measure",
                    "ci_low", "ci_high", where=where | {"control": control}, x_title="layer", y_title="similarity",
                ))  # fmt: skip
            out.append(Figure(
                "line", "sweep", "layer", "value", f"Probes read on a: {component}@{position} of {_of(of)}",
                "fitted_on", "ci_low", "ci_high", where=where | {"read_on": "a"}, x_title="layer",
                y_title="score on a", caption="Read on a, on fit and tune rows out of fold: a's own probe, and b's.",
            ))  # fmt: skip
            out.append(Figure(
                "line", "sweep", "layer", "value", f"Probes read on b: {component}@{position} of {_of(of)}",
                "fitted_on", "ci_low", "ci_high", where=where | {"read_on": "b"}, x_title="layer",
                y_title="score on b", caption="Read on b, on fit and tune rows out of fold: b's own probe, and a's.",
            ))  # fmt: skip
    out.append(Table("transfer", "Probes carried over", ("of", "target", "site", "position", "fitted_on", "read_on",
                                                         "metric", "control", "value", "ci_low", "ci_high", "p", "n",
                                                         "note"), limit=60))  # fmt: skip
    return out
