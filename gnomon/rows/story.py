"""The report section of a generation: how often the model is right, against what guessing gets, and what it wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gnomon.blocks import Block, Figure, Ref, Table, Text, Tokens
from gnomon.methods.two_classes import DEFAULT, class_names
from gnomon.rows.counts import LABELS
from gnomon.rows.letter_bias import letter_blocks
from gnomon.rows.prepare import Prepared
from gnomon.store import Artifact

if TYPE_CHECKING:
    from gnomon.step import Step

MANY = 0.2
"""Above this share of unparsed answers the section warns."""
SETTINGS = pa.schema([("setting", pa.string()), ("value", pa.string())])
SHOWN = {"correct": "Answers that are right", "incorrect": "Answers that are wrong", "unparsed": "Answers not parsed"}


def settings(step: Step, prepared: Prepared | None) -> pa.Table:
    """How the model was asked, in words: every option as it came out, those left to the task included."""
    options = step.model_dump(mode="json")
    if prepared is not None:
        task = prepared.task
        options["task"] = getattr(task, "name", options["task"])
        options["max_new_tokens"] = options["max_new_tokens"] or task.max_new_tokens
        options["stop"] = list(task.stop) if options["stop"] is None else options["stop"]
        own = task.model_dump(mode="json") if hasattr(task, "model_dump") else {"mode": task.mode}
        options |= {f"task.{k}": v for k, v in own.items() if k not in ("max_new_tokens", "stop")}
        if (classes := tuple(getattr(task, "classes", DEFAULT))) != DEFAULT:
            options["classes"] = list(classes)
    lines = [{"setting": k, "value": _words(v)} for k, v in options.items() if v not in (None, "", [], {})]
    return pa.Table.from_pylist(lines, schema=SETTINGS)


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def blocks(artifact: Artifact) -> list[Block]:
    """The section, from the step's own tables."""
    totals = {line["name"]: line["value"] for line in artifact.table("totals").to_dict("records")}
    counts = artifact.table("counts")
    everything = counts[counts["split"] == "all"].set_index("label")
    out: list[Block] = [_headline(artifact, totals)]
    if everything.loc["unparsed", "share"] > MANY:
        out.append(Text(
            "{unparsed} of the answers could not be parsed. They count as neither right nor wrong and are left out of "
            "every probe, so what follows speaks for the parsed answers only.",
            {"unparsed": _share("unparsed", "all")}, "warning",
        ))  # fmt: skip
    if totals.get("cut_share", 0) > MANY:
        out.append(Text(
            "{cut} of the answers reached the token limit and were cut off there: some may hold no answer yet.",
            {"cut": _total("cut_share", ".1%")}, "warning",
        ))  # fmt: skip
    source = artifact.options.get("labels_from")
    if source:
        out.append(Text(f"Right and wrong are the labels of the earlier generation {source}, joined on the prompts' "
                        "hashes; the texts here were not graded for them.", kind="limit"))  # fmt: skip
    if totals["dropped"]:
        out.append(Text(
            "{dropped} questions were left out because their prompts are longer than max_length.",
            {"dropped": _total("dropped")}, "limit",
        ))  # fmt: skip
    if totals.get("skipped"):
        out.append(Text(
            "{skipped} records of the data are no questions, by the reasons below, and were left out before any was "
            "asked.",
            {"skipped": _total("skipped")}, "limit",
        ))  # fmt: skip
    out += letter_blocks(artifact)
    out += [_counts(counts), *_difficulty(artifact), *_temperatures(artifact)]
    if totals.get("skipped"):
        out.append(Table("skipped", "Records left out", ("reason", "n"), labels={"n": "records"}))
    names = class_names(None, artifact)
    marks = ("right", "wrong") if names == DEFAULT else names
    shown = dict(SHOWN)
    if names != DEFAULT:
        out.append(Text(f"In the tables, correct stands for {names[0]} and incorrect for {names[1]}.", kind="method"))
        shown |= {"correct": f"Answers that are {names[0]}", "incorrect": f"Answers that are {names[1]}"}
    out += [
        Tokens("transcripts", title, where={"label": LABELS[name]}, extra=("reason",), marks=marks)
        for name, title in shown.items()
        if everything.loc[name, "n"] > 0
    ]
    out.append(Table("settings", "How the model was asked", ("setting", "value"), limit=40))
    return out


def _headline(artifact: Artifact, totals: dict[str, float]) -> Text:
    model = str(artifact.meta.get("model", {}).get("name", "The model")).rstrip("/").rpartition("/")[2]
    settings = artifact.table("settings")
    task = str(dict(zip(settings["setting"], settings["value"], strict=True)).get("task", ""))
    refs = {
        "acc": Ref("counts", {"split": "all", "label": "correct"}, "share", ".1%", ci=True),
        "unparsed": _share("unparsed", "all"),
        "n": _total("questions"),
        "majority": _total("majority", ".1%"),
    }
    joined = ", ".join(artifact.options.get("append") or ())
    names = class_names(None, artifact)
    asked = f"{_name(task)}questions" + (f" (with those of {joined})" if joined else "")
    if names != DEFAULT:
        return _of_classes(model, asked, names, refs)
    if totals["answers"] == totals["questions"]:
        text = f"{model} answers {{acc}} (95% interval) of the {{n}} {asked} right; "
    else:
        text = f"{model} is right in {{acc}} (95% interval) of {{answers}} answers to {{n}} {asked}; "
        refs["answers"] = _total("answers")
    text += (
        "{unparsed} of the answers could not be parsed. Always giving the commonest right answer would score {majority}"
    )
    if totals.get("guessing") == totals.get("guessing"):
        text += ", guessing among the choices {guessing}"
        refs["guessing"] = _total("guessing", ".1%")
    return Text(text + ".", refs, "headline")


def _of_classes(model: str, asked: str, names: tuple[str, str], refs: dict[str, Ref]) -> Text:
    """The headline where label true is no right answer but one of two classes: no guessing to beat."""
    refs = {name: refs[name] for name in ("acc", "unparsed", "n")}
    refs["second"] = Ref("counts", {"split": "all", "label": "incorrect"}, "share", ".1%", ci=True)
    refs["answers"] = _total("answers")
    return Text(
        f"{model}: {{acc}} (95% interval) of {{answers}} answers to the {{n}} {asked} are {names[0]}, {{second}} "
        f"{names[1]}; {{unparsed}} hold neither.", refs, "headline",
    )  # fmt: skip


def _name(task: str) -> str:
    return f"{task} " if task and ":" not in task and "/" not in task else ""


def _counts(counts: Any) -> Table:
    return Table(
        "counts", "Answers by split", ("split", "label", "n", "share", "ci_low", "ci_high"), limit=15,
        labels={"ci_low": "95% from", "ci_high": "to"},
        formats={"share": ".1%", "ci_low": ".1%", "ci_high": ".1%"},
    )  # fmt: skip


def _difficulty(artifact: Artifact) -> list[Block]:
    if len(artifact.table("difficulty")) < 2:
        return []
    names = class_names(None, artifact)
    title, said = ("Accuracy", "right") if names == DEFAULT else (f"Share {names[0]}", names[0])
    return [Figure(
        "line", "difficulty", "mean", "accuracy", f"{title} by difficulty", low="ci_low", high="ci_high",
        x_title="difficulty (mean of the bin)", y_title=f"share {said}",
        caption=f"Share of all answers that are {said}, by the task's own measure of difficulty, with 95% intervals. "
        "A probe of the answers' labels has to beat this curve.",
    )]  # fmt: skip


def _temperatures(artifact: Artifact) -> list[Block]:
    if len(artifact.table("temperatures")) < 2:
        return []
    return [Figure(
        "line", "temperatures", "temperature", "accuracy", "Accuracy by temperature", low="ci_low", high="ci_high",
        x_title="temperature", y_title="share right", caption="Intervals resample questions, not answers.",
    )]  # fmt: skip


def _share(label: str, split: str) -> Ref:
    return Ref("counts", {"split": split, "label": label}, "share", ".1%")


def _total(name: str, fmt: str = ",.0f") -> Ref:
    return Ref("totals", {"name": name}, "value", fmt)
