"""How step features reads in the report: what the best latents are worth beside all that is cheaper; their pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Heat, Ref, Table, Text
from gnomon.methods.feature_search import WAYS
from gnomon.methods.probe_blocks import RULE, fact
from gnomon.methods.separations_blocks import NO_SEPARATION, plain, separation_blocks
from gnomon.stats import thin_notes
from gnomon.store import Artifact

VERDICTS = {
    "pass": "So this latent tells more than these explanations do.",
    "fail": "So this latent is no evidence of knowledge beyond these explanations.",
    "undecided": "Whether it tells more than these explanations is undecided at this size.",
}
SCORE_COLUMNS = ("predictor", "control", "metric", "value", "ci_low", "ci_high", "n", "n_pos", "p", "note")
LABELS = {"ci_low": "low", "ci_high": "high", "n_pos": "positive"}


def feature_blocks(artifact: Artifact) -> list[Block]:
    """Setting, one headline a way with its rivals, the search and its luck, pages, limits."""
    scores, known = artifact.table("scores"), artifact.table("facts").set_index("fact")
    selected, told = artifact.table("selected"), dict(zip(known.index, known["text"], strict=True))
    names = {way: str(told.get(f"class {way}", way)) for way in WAYS}
    blocks: list[Block] = [_setting()]
    for way in WAYS:
        verdict = "No conclusion: {why}." if told.get("no conclusion") else VERDICTS[str(told[f"verdict {way}"])]
        given = artifact.options.get("baselines") is not None
        blocks += _headline(scores, selected, way, verdict, given, names[way])
    blocks += separation_blocks(artifact, names[WAYS[0]], names[WAYS[1]], bool(told.get(NO_SEPARATION)))
    blocks += _search(artifact, selected, names)
    for way in WAYS:
        blocks += _rivals(artifact, scores, way, names[way])
    for r in selected.to_dict("records"):
        blocks += _page(artifact, r, names)
    return blocks + _limits(scores, known)


def family(what: str, spec: str = ",.0f", ci: bool = False) -> Ref:
    """A reference to one line of table `family`."""
    return Ref("family", {"what": what}, "value", spec, ci=ci)


def _setting() -> Text:
    return Text(
        "Latents of {dictionaries} dictionaries ({names}) were read at {position} in {rows} rows of {generation} "
        "({groups} groups). Of {latents} latents {general} were set aside as general language (active on more than "
        "{limit} of {tokens} tokens of text: {text}), {rare} as active in fewer than {fewest} fit rows; {searched} "
        "were searched by {rank}.",
        {
            "dictionaries": fact("dictionaries"), "names": fact("dictionaries", "text", ""),
            "position": fact("position", "text", ""), "rows": fact("rows"), "groups": fact("groups"),
            "generation": fact("generation", "text", ""), "latents": family("latents"),
            "general": family("set aside: general language"), "rare": family("set aside: active in too few rows"),
            "limit": fact("general limit", spec=".3g"), "tokens": family("general tokens"),
            "text": fact("general text", "text", ""), "fewest": fact("fewest"), "searched": family("searched"),
            "rank": fact("rank_by", "text", ""),
        },
    )  # fmt: skip


def _main(scores: pd.DataFrame, way: str) -> dict[str, Any] | None:
    """The row of the leading latent's own score, of the way whose target it is."""
    here = scores.loc[(scores["predictor"] == "feature") & (scores["control"] == "") & scores["selected"], :]
    here = here.loc[here["metric"].isin(["auroc", "spearman"]) & here["target"].isin(_targets(way)), :]
    return {str(k): v for k, v in here.iloc[0].items()} if len(here) == 1 else None


def _targets(way: str) -> list[str]:
    return [way, {"correct": "pass_rate", "incorrect": "fail_rate"}[way]]


def _headline(
    scores: pd.DataFrame, selected: pd.DataFrame, way: str, verdict: str, given: bool, name: str
) -> list[Block]:
    main, called = _main(scores, way), plain(name)
    if main is None and way in set(selected["predicts"]):
        return [Text(
            f"Latents that predict {called} lead on fit, but none is scored beside its rivals: test has no labelled "
            "rows, or a part of the training rows has no latent that leads this way.", kind="warning",
        )]  # fmt: skip
    if main is None:
        return [Text(f"No latent predicts {called}: none of those searched is more active there.", kind="warning")]
    where = {k: main[k] for k in ("target", "split")}
    metric = main["metric"]
    own = where | {"predictor": "feature", "metric": metric}
    best = {"predictor": f"{way} 1"}
    score = "AUROC" if metric == "auroc" else "rank correlation"
    cv = main["split"] == "cv"
    refs = {
        "feature": Ref("selected", best, "feature", "d"), "site": Ref("selected", best, "site", ""),
        "fit": Ref("selected", best, "fit_separation", "+.3f"), "test": Ref("selected", best, "separation", "+.3f"),
        "low": Ref("selected", best, "separation_low", "+.3f"),
        "high": Ref("selected", best, "separation_high", "+.3f"),
        "luck": family("largest |separation| under shuffled labels", ".3f", ci=True),
        "value": Ref("scores", own | {"control": ""}, "value", ".3f", ci=True),
        "n": Ref("scores", own | {"control": ""}, "n", "d"),
        "null": Ref("scores", own | {"control": "shuffled"}, "value", ".3f"),
        "p": Ref("scores", own | {"control": "shuffled"}, "p", ".3f"),
        "random": Ref("scores", own | {"control": "random"}, "value", ".3f"),
    }  # fmt: skip
    rows = "rows, each scored by the latent chosen without its fold" if cv else "test rows"
    out: list[Block] = [Text(
        f"The latent that predicts {called} best on fit, feature {{feature}} of {{site}}, has separation {{fit}} "
        "there and {test} [{low}, {high}] on test; with shuffled labels the largest |separation| of the search is "
        f"{{luck}}. The search's {score} for {called} is {{value}} ({{n}} {rows}); of the search on shuffled labels "
        "{null} (p = {p}), of random latents that are active as often {random}.",
        refs, "headline",
    )]  # fmt: skip
    have = set(scores.loc[(scores["split"] == main["split"]) & (scores["target"] == main["target"]), "predictor"])
    one = {"metric": metric, **where}
    refs = {
        "base": Ref("scores", one | {"predictor": "baselines"}, "value", ".3f", ci=True),
        "gain": Ref("scores", one | {"predictor": "increment"}, "value", "+.3f", ci=True),
        "partial": Ref("scores", one | {"predictor": "increment", "metric": "partial"}, "value", "+.3f", ci=True),
    }
    told = "difficulty, surface features, the model's own output confidence"
    if given:
        told, refs["given"] = "{given}", fact("baselines", "text", "")
    text = (
        f"The cheap explanations alone ({told}) come to {{base}}; "
        "the latent adds {gain} to them (paired 95% interval), and given them it still correlates with the "
        "target by {partial}. "
    )
    kind = next((k for k in ("logistic", "ridge") if k in have), "difference" if "difference" in have else "")
    if kind:
        refs |= {
            "probe": Ref("scores", one | {"predictor": kind, "control": ""}, "value", ".3f", ci=True),
            "against": Ref("scores", one | {"predictor": f"feature minus {kind}"}, "value", "+.3f", ci=True),
        }
        text += f"A {kind} probe of the same activations comes to {{probe}}; the latent less the probe is {{against}}. "
    if "{why}" in verdict:
        refs["why"] = fact("no conclusion", "text", "")
    if "baselines" in have and "increment" in have:
        out.append(Text(text + verdict, refs, "headline"))
    if metric == "auroc":
        out.append(Text(
            f"As a rule, feature {{feature}} above its threshold {{cut}} says {called}: F1 {{f1}} [{{f1_low}}, "
            f"{{f1_high}}] on test; always answering {called} has {{always}}, the difference is {{gain}} "
            "[{gain_low}, {gain_high}].",
            {"feature": Ref("selected", best, "feature", "d"), "cut": Ref("selected", best, "threshold", ".3g"),
             "f1": Ref("selected", best, "f1", ".3f"), "f1_low": Ref("selected", best, "f1_low", ".3f"),
             "f1_high": Ref("selected", best, "f1_high", ".3f"), "always": Ref("selected", best, "f1_always", ".3f"),
             "gain": Ref("selected", best, "f1_gain", "+.3f"), "gain_low": Ref("selected", best, "f1_gain_low", "+.3f"),
             "gain_high": Ref("selected", best, "f1_gain_high", "+.3f")}, "headline",
        ))  # fmt: skip
    return out


def _search(artifact: Artifact, selected: pd.DataFrame, names: Mapping[str, str]) -> list[Block]:
    out: list[Block] = [Text(RULE, {"smallest": fact("smallest increment", spec=".3g")}, "method")]
    whats = set(artifact.table("family")["what"])
    if "discovered" in whats:
        out.append(Text(
            "The search and its luck: {discovered} of {searched} latents are discovered on fit (Benjamini-Hochberg "
            "over all of them; p from all shuffles of all latents). Without that correction {one} would have passed, "
            "and luck alone gives {luck}. The largest |separation| on fit is {best}; under shuffled labels its median "
            "is {null}, its 95th percentile {high}, and {reach} latents of a shuffle reach the observed one on "
            "average. Of {looked} latents looked at on test {confirmed} are confirmed (permutation, Holm).",
            {"discovered": family("discovered"), "searched": family("searched"),
             "one": family("p at most .05 one by one"), "luck": family("p at most .05 one by one, by luck"),
             "best": family("largest |separation| on fit", ".3f"),
             "null": family("largest |separation| under shuffled labels", ".3f", ci=True),
             "high": family("largest |separation| under shuffled labels, 95th percentile", ".3f"),
             "reach": family("latents that reach the largest |separation| by luck", ".3g"),
             "looked": family("looked at on test"), "confirmed": family("confirmed")}, "headline",
        ))  # fmt: skip
    if len(selected):
        which = ("predictor",) if names == {way: way for way in WAYS} else ("class", "rank")
        out.append(Table(
            "selected", "Selected latents: chosen on fit, threshold on tune, measured on test",
            (*which, "site", "feature", "fit_separation", "separation", "separation_low", "separation_high", "t",
             "t_low", "t_high", "auroc", "auroc_low", "auroc_high", "q", "holm", "confirmed", "general_rate", "link"),
            labels={"fit_separation": "separation on fit", "q": "q on fit", "separation_low": "low",
                    "separation_high": "high", "t_low": "low", "t_high": "high", "auroc_low": "low",
                    "auroc_high": "high"},
        ))  # fmt: skip
        out.append(Figure(
            "scatter", "features", "f_incorrect", "f_correct", "How often each latent is active", "split",
            x_title=f"share of {names[WAYS[1]]} rows", y_title=f"share of {names[WAYS[0]]} rows",
            caption="Latents of smallest p on fit, the selected ones on test. Distance from the diagonal: separation.",
        ))  # fmt: skip
    out.append(Table("family", "The search in numbers", labels={"ci_low": "low", "ci_high": "high"}, limit=40))
    return out


def _rivals(artifact: Artifact, scores: pd.DataFrame, way: str, called: str) -> list[Block]:
    main = _main(scores, way)
    if main is None:
        return []
    where = {k: main[k] for k in ("target", "split")}
    out: list[Block] = [Table(
        "scores", f"Predicting {called}: every score on held-out rows, beside its controls", ("site", *SCORE_COLUMNS),
        where, limit=60, labels=LABELS,
    )]  # fmt: skip
    if main["split"] == "cv":
        on_test = where | {"split": "test"}
        out.append(Table("scores", f"Predicting {called}: the plain test split", ("site", *SCORE_COLUMNS), on_test,
                         limit=60, labels=LABELS))  # fmt: skip
    bins = artifact.table("by_difficulty")
    if ((bins["target"] == main["target"]) & (bins["split"] == main["split"])).any():
        name = "AUROC" if main["metric"] == "auroc" else "rank correlation"
        out.append(Figure(
            "line", "by_difficulty", "bin", "value", f"Predicting {called}, by difficulty", "predictor", "ci_low",
            "ci_high", where=where, reference=0.5 if main["metric"] == "auroc" else 0.0, reference_label="chance",
            x_title="quantile bin of difficulty, easiest first", y_title=name,
            caption="95% intervals over groups; a bin with fewer than 20 rows of a class has none.",
        ))  # fmt: skip
    return out


def _page(artifact: Artifact, r: dict[str, Any], names: Mapping[str, str]) -> list[Block]:
    where = {"site": r["site"], "feature": int(r["feature"])}
    top = artifact.table("top_rows")
    mine = top.loc[(top["predictor"] == r["predictor"])]
    logits = artifact.table("logits")
    words = ((logits["site"] == r["site"]) & (logits["feature"] == r["feature"])).any()
    if not len(mine) and not words:
        return []
    own = {"predictor": r["predictor"]}
    refs = {name: Ref("selected", own, name, spec) for name, spec in (
        ("feature", "d"), ("site", ""), ("f_correct", ".1%"), ("f_incorrect", ".1%"),
        ("f_correct_low", ".1%"), ("f_correct_high", ".1%"), ("f_incorrect_low", ".1%"), ("f_incorrect_high", ".1%"),
        ("general_rate", ".2%"), ("threshold", ".3g"), ("dictionary", ""),
    )}  # fmt: skip
    text = (
        f"Feature {{feature}} of {{site}} ({{dictionary}}), predicts {plain(names[r['predicts']])}: "
        "active in {f_correct} [{f_correct_low}, "
        "{f_correct_high}] of the " + plain(names[WAYS[0]]) + " test rows and {f_incorrect} [{f_incorrect_low}, "
        "{f_incorrect_high}] of the "
        + plain(names[WAYS[1]])
        + " ones, and on {general_rate} of general tokens; it fires above {threshold}."
    )
    if r["link"]:
        text, refs = text + " On Neuronpedia: {link}", refs | {"link": Ref("selected", own, "link", "")}
    out: list[Block] = [Text(text, refs)]
    if len(mine):
        out.append(Heat(
            "tops", f"Feature {r['feature']} of {r['site']}: rows of fit and tune in which it is strongest", "case",
            "token", "activation", "top_rows",
            ("rank", "row", "label", "activation", "largest", "target", "answer"), where=where,
            caption="Colour: activation at each token. `activation` is where it was read.",
        ))  # fmt: skip
    bars = artifact.table("histogram")
    if ((bars["site"] == r["site"]) & (bars["feature"] == r["feature"]) & (bars["kind"] != "logit")).any():
        out.append(Figure(
            "bar", "histogram", "middle", "count", f"Feature {r['feature']}: activation where it is active", "kind",
            where=where | {"kind": [names[way] for way in WAYS]}, x_title="activation", y_title="rows of fit and tune",
        ))  # fmt: skip
    if words:
        out.append(Table("logits", f"Feature {r['feature']}: tokens it raises and lowers directly",
                         ("side", "rank", "token", "effect"), where, limit=20))  # fmt: skip
    return out


def _limits(scores: pd.DataFrame, known: pd.DataFrame) -> list[Block]:
    out: list[Block] = [Text(note, kind="warning") for note in thin_notes(scores["note"])]
    out.append(Text(
        "{unlabelled} rows without a label (answers that could not be parsed) and {unread} without activations there "
        "were left out.", {"unlabelled": fact("unlabelled"), "unread": fact("unread")}, "limit",
    ))  # fmt: skip
    if str(known.loc["left out", "text"]):
        out.append(Text("Baselines left out: {names}.", {"names": fact("left out", "text", "")}, "limit"))
    out.append(Text(
        "A latent is what one dictionary made of the activations: another dictionary, or seed, has others. What it "
        "stands for is a guess from a few texts. It shows what can be read, not what the model uses: `intervene` asks "
        "that. A Neuronpedia page may be of a dictionary of the same layer and width with another L0.", kind="limit",
    ))  # fmt: skip
    return out
