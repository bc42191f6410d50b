"""How the step calibration reads in the report: sentences, figures and tables made of its own tables."""

from __future__ import annotations

from typing import Any

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.methods.calibration_increments import BEATS, BEST, UNDECIDED
from gnomon.methods.calibration_rivals import BOTH, DIFFICULTY, OUTPUT
from gnomon.methods.calibration_signals import NONE, PERFECT
from gnomon.stats import thin_notes
from gnomon.store import Artifact

LABELS = {"ci_low": "95% from", "ci_high": "to", "n_pos": "right"}
COLUMNS = ("signal", "kind", "scaled", "metric", "control", "value", "ci_low", "ci_high", "p", "q", "n", "groups",
           "note")  # fmt: skip
SCALED = {
    "temperature": "temperature scaling", "options": "temperature scaling of the option scores",
    "platt": "Platt's sigmoid",
}  # fmt: skip


def fact(name: str, column: str = "value", spec: str = ",.0f") -> Ref:
    """A reference to one fact."""
    return Ref("facts", {"fact": name}, column, spec)


def calibration_blocks(artifact: Artifact) -> list[Block]:
    """Setting, verdict, calibration before and after scaling, figures, every line beside its controls, limits."""
    lines: Any = artifact.table("signals")
    news: Any = artifact.table("increments")
    known: Any = artifact.table("known")
    out: list[Block] = [Text(
        "Confidence was held against the correctness of {rows} graded answers ({groups} groups, {share} right), of "
        "which {test} are of test.",
        {"rows": fact("rows"), "groups": fact("groups"), "share": fact("share", spec=".1%"), "test": fact("test rows")},
    )]  # fmt: skip
    out += [*_verdict(news, known), *_calibrated(lines, known), *_figures(lines, known)]
    return [*out, *_tables(news), *_limits(lines, news, known, artifact)]


# ---------------------------------------------------------------- what it beats


def _verdict(news: Any, known: Any) -> list[Block]:
    main = news.loc[(news["signal"] == BEST) & news["selected"]]
    own = main.loc[(main["metric"] == "auroc") & (main["control"] == "") & main["value"].notna()]
    stated = bool((known["kind"] == "stated").any())
    what = "stated confidence" if stated else "output confidence"
    lead: list[Block] = [] if stated else [Text(
        "No confidence pass was read (add a confidence step): what the model itself would state is not judged here, "
        "only its output confidence.", kind="warning",
    )]  # fmt: skip
    if len(own) != 1:
        why = "All answers are right, or all wrong" if len(main) else "There is no signal to compare"
        return [*lead, Text(f"{why}: nothing can be said of what {what} knows.", kind="headline")]
    at = {"signal": BEST, "split": str(own.iloc[0]["split"])}

    def ref(metric: str, column: str = "value", spec: str = ".3f", ci: bool = False, **more: str) -> Ref:
        return Ref("increments", {**at, "metric": metric, "control": "", "over": "", **more}, column, spec, ci)

    kind = "stated" if stated else "output"
    count = int((known["kind"] == kind).sum())
    refs = {
        "choice": ref("auroc", "choice", ""), "value": ref("auroc", ci=True), "n": ref("auroc", "n", "d"),
        "null": ref("auroc", control="shuffled", ci=True), "p": ref("auroc", "p", ".3f"),
    }  # fmt: skip
    name = f"The best {what} of {{count}}, {{choice}}," if count > 1 else f"The {what} {{choice}}"
    if count > 1:
        refs["count"] = fact("stated" if stated else "output", spec="d")
    rows = "rows; what is chosen or fitted is so without the fold of a row" if at["split"] == "cv" else "test rows"
    out: list[Block] = [Text(
        f"{name} tells right from wrong answers with AUROC {{value}} ({{n}} {rows}); labels shuffled by group give "
        "{null} (p = {p}).", refs, "headline",
    )]  # fmt: skip
    sentences: list[str] = []
    refs, said = {}, what if stated else "the best one"
    rival = "Output confidence ({output_name})" if stated else "The best of the other output signals ({output_name})"
    for over, subject in ((DIFFICULTY, "Item difficulty"), (OUTPUT, rival)):
        found = main.loc[(main["metric"] == "difference") & (main["over"] == over)]
        if len(found) != 1:
            sentences += [] if over == OUTPUT else ["Item difficulty is unknown, so it could not be held against it"]
            continue
        refs |= {
            over: ref("auroc", over=over, control="against", ci=True),
            f"{over}_gain": ref("difference", over=over, spec="+.3f", ci=True),
        }
        if over == OUTPUT:
            refs["output_name"] = ref("difference", "against", "", over=over)
        sentences.append(f"{subject} alone comes to {{{over}}}: {_beats(found.iloc[0], said)} ({{{over}_gain}})")
    gain = main.loc[(main["metric"] == "increment") & (main["over"] == BOTH)]
    if len(gain) == 1:
        refs |= {
            "cheap": ref("auroc", over=BOTH, control="against", ci=True),
            "gain": ref("increment", over=BOTH, spec="+.3f", ci=True),
            "partial": ref("partial", over=BOTH, spec="+.3f", ci=True),
        }
        sentences.append(
            f"Added to {'both' if stated else 'the others'} together ({{cheap}}) it {_adds(gain.iloc[0])}: an "
            "increment of {gain}; given them it correlates with correctness by {partial}"
        )
    if refs:
        out.append(Text(". ".join(sentences) + ".", refs, "headline"))
    return [*lead, *out]


def _beats(line: Any, what: str) -> str:
    if line["verdict"] == BEATS:
        return f"{what} beats it"
    if line["ci_high"] < 0:
        return f"{what} is beaten by it"
    return f"whether {what} beats it is undecided" if line["verdict"] == UNDECIDED else f"{what} does not beat it"


def _adds(line: Any) -> str:
    if line["verdict"] == BEATS:
        return "adds something of its own"
    return "may or may not add something, undecided at this size" if line["verdict"] == UNDECIDED else "adds nothing"


# ---------------------------------------------------------------- what it means


def _shown(known: Any) -> str:
    """The probability that the calibration headline is about: the best stated one, else the first there is."""
    can = known.loc[known["probability"] & (known["test"] > 0)]
    first = can.loc[can["best"]] if can["best"].any() else can
    return str(first["signal"].iloc[0]) if len(first) else ""


def _chosen(known: Any, name: str) -> str:
    """Why this one of several: folds may have chosen another for the comparison above."""
    here = known.loc[known["signal"] == name]
    return "; the best of them on fit and tune" if bool(here["best"].any()) and len(known) > 1 else ""


def _calibrated(lines: Any, known: Any) -> list[Block]:
    name = _shown(known)
    if not name:
        return [Text("No signal is a probability: calibration is said of Platt's sigmoid alone.", kind="limit")]

    def ref(
        metric: str, spec: str = ".3f", scaled: str = NONE, control: str = "", column: str = "value", ci=True
    ) -> Ref:
        where = {"signal": name, "split": "test", "scaled": scaled, "metric": metric, "control": control}
        return Ref("signals", where, column, spec, ci and column == "value")

    refs = {
        "name": Ref("known", {"signal": name}, "signal", ""), "text": Ref("known", {"signal": name}, "text", ""),
        "ece": ref("ece"), "null": ref("ece", control="calibrated"), "p": ref("ece", column="p"),
        "over": ref("overconfidence", "+.3f"), "brier": ref("brier"), "base": ref("brier", control="base rate"),
        "skill": ref("brier_skill", "+.3f"),
    }  # fmt: skip
    out: list[Block] = [Text(
        f"Taken at its word, {{name}} ({{text}}{_chosen(known, name)}) misses the share of right answers by {{ece}} "
        "(ECE); the same confidences would miss it by {null} if they were calibrated (p = {p}). Its mean lies {over} "
        "from the accuracy. Brier score {brier}, of a constant base rate {base}: skill {skill}.", refs, "headline",
    )]  # fmt: skip
    for scaled, words in SCALED.items():
        here = lines.loc[(lines["signal"] == name) & (lines["scaled"] == scaled)]
        if here.empty:
            continue
        refs = {
            "ece": ref("ece", scaled=scaled), "null": ref("ece", scaled=scaled, control="calibrated"),
            "brier": ref("brier", scaled=scaled), "change": ref("brier_change", "+.3f", scaled=scaled),
            "n": Ref("scaling", {"signal": name, "scaled": scaled}, "n", ",d"), "name": refs["name"],
        }  # fmt: skip
        out.append(Text(
            f"After {words}, fitted on {{n}} rows before test, {{name}} has ECE {{ece}} ({{null}} if it were "
            "calibrated) and Brier score {brier}, a change of {change}.", refs,
        ))  # fmt: skip
    return out


# ---------------------------------------------------------------- figures, tables, limits


def _figures(lines: Any, known: Any) -> list[Block]:
    out: list[Block] = []
    auroc = {"metric": "auroc", "scaled": NONE, "split": "test", "control": ["", "shuffled"]}
    if lines.loc[(lines["metric"] == "auroc") & (lines["split"] == "test"), "value"].notna().any():
        out.append(Figure(
            "bar", "signals", "signal", "value", "AUROC of every signal, beside shuffled labels", "control", "ci_low",
            "ci_high", where=auroc, reference=0.5, reference_label="chance", y_title="AUROC",
            caption="Confidence against correctness on test; larger means surer, so a signal below chance is surer of "
            "wrong answers.",
        ))  # fmt: skip
    can = [str(s) for s in known.loc[known["probability"] & (known["test"] > 0), "signal"]]
    if can:
        out.append(Figure(
            "line", "reliability", "confidence", "accuracy", "Reliability: what was said and what was right", "signal",
            where={"signal": [*can, PERFECT], "scaled": [NONE, PERFECT]}, x_title="mean confidence of the bin",
            y_title="share right",
            caption="Bins of equal mass on test. On the diagonal confidence means what it says; below it, too sure.",
        ))  # fmt: skip
    for name in can:
        out.append(Figure(
            "line", "reliability", "confidence", "accuracy", f"Reliability of {name}, before and after scaling",
            "scaled", "ci_low", "ci_high", where={"signal": [name, PERFECT]}, x_title="mean confidence of the bin",
            y_title="share right",
            caption="Bands: 95% intervals of each bin's share of right answers. Scalings were fitted before test.",
        ))  # fmt: skip
    if len(known.loc[known["test"] > 0]):
        out.append(Figure(
            "line", "risk_coverage", "coverage", "risk", "Risk and coverage", "signal", "ci_low", "ci_high",
            x_title="share of answers kept, surest first", y_title="share wrong among them",
            caption="A signal that knows nothing is flat at the error rate.",
        ))  # fmt: skip
    return out


def _tables(news: Any) -> list[Block]:
    calibrated = ["ece", "overconfidence", "brier", "brier_skill", "brier_change", "nll", "nll_change"]
    terms = ["reliability", "resolution", "uncertainty", "within_variance", "within_covariance"]
    compared = ("signal", "choice", "split", "over", "against", "metric", "control", "value", "ci_low", "ci_high", "p",
                "q", "n", "verdict", "note")  # fmt: skip
    return [
        Table("known", "The signals", ("signal", "text", "kind", "probability", "fit", "tune", "test", "missing",
                                       "distinct", "mean"), limit=40),
        Table("increments", "Signals against item difficulty and output confidence", compared, limit=120,
              labels=LABELS),
        Table("signals", "Right from wrong: AUROC, risk and coverage", COLUMNS,
              {"metric": ["auroc", "aurc", "excess_aurc"]}, limit=120, labels=LABELS),
        Table("signals", "Calibration, before and after scaling", COLUMNS, {"metric": calibrated}, limit=160,
              labels=LABELS),
        Table("signals", "The terms of the Brier score", COLUMNS, {"metric": terms}, limit=120, labels=LABELS),
        Table("scaling", "What was fitted before test", limit=40),
        Text(
            "ECE has bins of equal mass; it is above zero of perfectly calibrated confidence too, so it stands beside "
            "the mean and range of what outcomes drawn from the confidences themselves would give (rows of one group "
            "drawn together). Its interval is of the calibration error itself, with that bias taken off, so the value "
            "may lie above it. The Brier score is reliability - resolution + uncertainty, and within bins the variance "
            "of confidence less twice its covariance with the outcome (Stephenson et al.). AURC is the mean error "
            "rate over all coverages, surest first; excess: above that of the best order.", kind="method",
        ),
        Text(
            "Verdict, fixed beforehand. Beats: the 95% interval of the paired difference of AUROC lies above 0 (of "
            "an increment, that of the partial correlation too). Does not: it ends below the smallest increment worth "
            "speaking of (and, of an increment, the partial correlation's does not lie above 0). Undecided: else, or "
            "where a class is too small for an interval. The best stated and the best "
            "output signal are chosen on fit and tune"
            + (", or in each fold without the rows that it scores (split cv: grouped cross-validation over all rows, "
               "because groups are few; what is fitted or chosen anew has a wider interval)"
               if (news["split"] == "cv").any() else "")
            + ".", kind="method",
        ),
    ]  # fmt: skip


def _limits(lines: Any, news: Any, known: Any, artifact: Artifact) -> list[Block]:
    out: list[Block] = [Text(note, kind="warning") for note in thin_notes([*lines["note"], *news["note"]])]
    flat = known.loc[(known["kind"] == "stated") & (known["distinct"] < 3), "signal"]
    out += [Text(
        f"{name} takes {{distinct}} different values only: there is little that it could tell.",
        {"distinct": Ref("known", {"signal": name}, "distinct", "d")}, "warning",
    ) for name in flat]  # fmt: skip
    scaling: Any = artifact.table("scaling")
    for note in dict.fromkeys(scaling.loc[scaling["note"] != "", "note"]):
        names = dict.fromkeys(scaling.loc[scaling["note"] == note, "signal"])
        out.append(Text(f"Scaling of {', '.join(names)}: {note}.", kind="warning"))
    out.append(Text(
        "{unlabelled} answers of {answers} could not be graded and are left out; of a signal, rows where it could not "
        "be read. Scalings rest on the {tune} graded rows of tune, unless said otherwise.",
        {"unlabelled": fact("unlabelled"), "answers": fact("answers"), "tune": fact("tune rows")}, "limit",
    ))  # fmt: skip
    if len(artifact.table("facts").query("fact == 'left out' and text != ''")):
        out.append(Text("Cheap signals left out: {names}.", {"names": fact("left out", "text", "")}, "limit"))
    out.append(Text(
        "A stated confidence that tells right from wrong need not be introspection: it may read the question's "
        "difficulty as anybody could. Only the cheap signals named here were held against it.", kind="limit",
    ))  # fmt: skip
    return out
