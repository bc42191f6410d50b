"""How patched features read in the report: made from the step's tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnomon.blocks import Block, Figure, Ref, Table, Text, Tokens
from gnomon.methods.patch_effects import CAUSAL
from gnomon.store import Artifact

SHOWN = 12
"""Features in the figures."""
MEASURES = {"margin": "the margin of the {first} option (log-likelihood of it less that of the best other, nats)",
            "rate": "the share of {first} answers"}  # fmt: skip
PLACES = {"last_prompt": "at the last prompt token", "all": "at every token but massive ones"}


def _fact(name: str, format: str = "d", column: str = "value") -> Ref:
    return Ref("facts", {"fact": name}, column, format)


def _said(artifact: Artifact) -> dict[str, Any]:
    """Facts by name: words where there are some, else numbers."""
    table = artifact.table("facts")
    columns = (table[c].tolist() for c in ("fact", "value", "text"))
    return {fact: text if text or value != value else value for fact, value, text in zip(*columns, strict=True)}


def patch_blocks(artifact: Artifact) -> list[Block]:
    """Headline, the strongest feature, random latents, figures and tables of changes, examples, method, limits."""
    facts, causal = _said(artifact), artifact.table("causal")
    order = np.lexsort((-causal["effect"].abs().fillna(0).to_numpy(), ~causal["is_causal"].to_numpy(dtype=bool)))
    names = causal["name"].to_numpy()[order].tolist()
    best = causal.iloc[int(order[0])]
    blocks: list[Block] = [_headline(facts), _strongest(facts, str(best["name"]), str(best["verdict"]) == CAUSAL)]
    blocks += _random(facts)
    margin = facts["measure"] == "margin"
    blocks.append(Figure(
        "scatter", "effects", x="name", y="change", color="condition", low="ci_low", high="ci_high",
        where={"kind": "feature", "name": names[:SHOWN]}, reference=0.0, reference_label="as without a patch",
        title="What setting each feature does, by condition", x_title="feature",
        y_title="change of margin (nats)" if margin else f"change of the share of {facts['first']} answers",
        caption=f"The {min(SHOWN, len(names))} features of largest effect, causal ones first." if len(names) > SHOWN
        else "",
    ))  # fmt: skip
    blocks.append(Figure(
        "scatter", "effects", x="name", y="effect", color="kind",
        where={"name": [names[0], *_stand_ins(artifact, names[0])], "condition": str(best["condition"])},
        reference=0.0, reference_label="as without a patch", x_title="latent", y_title="effect",
        title=f"{names[0]} beside the random latents that stand for it ({best['condition']})",
    ))  # fmt: skip
    blocks.append(Table(
        "causal", "Features", sort="control_p", limit=40,
        columns=["name", "d", "condition", "change", "ci_low", "ci_high", "effect", "q", "control_change", "ratio",
                 "control_q", "way", "verdict", "n"],
        labels={"ci_low": "low", "ci_high": "high", "control_change": "random latents' |change|",
                "ratio": "over theirs", "control_q": "q over features"},
    ))  # fmt: skip
    blocks.append(Table(
        "effects", f"All conditions of {names[0]}", where={"kind": "feature", "name": names[0]}, sort="condition",
        columns=["condition", "set_to", "baseline", "value", "change", "ci_low", "ci_high", "effect", "p", "q",
                 "rate_baseline", "rate", "n", "unparsed", "note"],
        labels={"ci_low": "low", "ci_high": "high", "rate_baseline": f"{facts['first']} before",
                "rate": f"{facts['first']} now"},
    ))  # fmt: skip
    if "examples" in artifact.tables():
        blocks.append(Tokens(
            "examples", f"Written under patches of {names[0]}, beside what stands without", text="text",
            target="condition", answer="before", label="outcome", extra=("outcome_before",), limit=6,
            marks=(str(facts["first"]), str(facts["second"])),
        ))  # fmt: skip
    return [*blocks, _method(facts), _limits()]


def _headline(facts: dict[str, Any]) -> Text:
    if facts["shortfall"]:
        return Text("No conclusion: {why}. What was measured stands below.",
                    {"why": _fact("shortfall", "", "text")}, "headline")  # fmt: skip
    refs = {"n": _fact("features"), "bound": _fact("bound", ".2g"), "alpha": _fact("alpha", ".2g"),
            "a": _fact("first trials"), "b": _fact("second trials"), "first": _fact("first", "", "text"),
            "second": _fact("second", "", "text"), "split": _fact("split", "", "text")}  # fmt: skip
    what = MEASURES[facts["measure"]]
    far = "{bound} standard deviations" if facts["measure"] == "margin" else "{bound} (Cohen's h)"
    mean = f"to a class's mean {PLACES[facts['where']]}"
    of = "{a} {first} and {b} {second} prompts of split {split}"
    both = (f"{what} by {far} or more, and by more than matched random latents do (both at a false discovery rate of "
            f"{{alpha}}; {of}).")  # fmt: skip
    if not facts["random latents"]:
        said = (f"No conclusion: no random latents were patched. Setting features {mean} changes {what} in {{found}} "
                f"of {{n}} (false discovery rate {{alpha}}; {of}); any other push may do as much.")  # fmt: skip
        refs |= {"found": _fact("found")}
    elif facts["causal"]:
        said = f"{{causal}} of {{n}} features are causal: setting them {mean} changes {both}"
        refs |= {"causal": _fact("causal")}
    else:
        said = f"None of {{n}} features is shown to be causal: setting one {mean} is not found to change {both}"
    return Text(said, refs, "headline")


def _strongest(facts: dict[str, Any], name: str, causal: bool) -> Text:
    row = {"name": name}
    kind = "The strongest causal feature" if causal else "The largest effect"
    return Text(
        f"{kind}: {{name}}, in condition {{condition}}: {{change}} (effect {{effect}}, q = {{q}})"
        + (", where the random latents that stand for it change by {control} on average; its effect is {ratio} times "
           "the median of theirs (or the bound, where that is larger; q over features = {control_q})"
           if facts["random latents"] else "")
        + ("." if facts["shortfall"] else "; verdict: {verdict}."),
        {"name": Ref("causal", row, "name", ""), "condition": Ref("causal", row, "condition", ""),
         "change": Ref("causal", row, "change", "+.3f", ci=True), "effect": Ref("causal", row, "effect", "+.2f"),
         "q": Ref("causal", row, "q", ".4f"), "control": Ref("causal", row, "control_change", ".3f"),
         "ratio": Ref("causal", row, "ratio", ".1f"), "control_q": Ref("causal", row, "control_q", ".3f"),
         "verdict": Ref("causal", row, "verdict", "")},
    )  # fmt: skip


def _random(facts: dict[str, Any]) -> list[Block]:
    if not facts["random latents"]:
        return [Text("No random latents were patched: nothing is called causal.", kind="warning")]
    blocks: list[Block] = [Text(
        "Random latents as active as the features, their decoder rows moved just as far: {beyond} of {random} reach "
        "the bound themselves; of the features {found} have an effect at all.",
        {"beyond": _fact("random beyond"), "random": _fact("random latents"), "found": _fact("found")}, "control",
    )]  # fmt: skip
    if facts["least control q"] > facts["alpha"]:
        blocks.append(Text(
            "With {random} random latents no feature can pass alone (its q is {q} at least): only several together.",
            {"random": _fact("random latents"), "q": _fact("least control q", ".3f")}, "warning",
        ))  # fmt: skip
    return blocks


def _stand_ins(artifact: Artifact, name: str) -> list[str]:
    effects = artifact.table("effects", ["name", "matches"])
    return list(dict.fromkeys(effects.loc[np.asarray(effects["matches"] == name), "name"].tolist()))


def _method(facts: dict[str, Any]) -> Text:
    spread = " The unpatched margins' standard deviation is {spread} nats." if facts["measure"] == "margin" else ""
    refs, beside = {"massive": _fact("massive")}, ""
    if facts["random latents"]:
        refs["trials"] = _fact("control trials")
        beside = (
            " Random latents were run on {trials} prompts of each class; a feature's largest effect on the same "
            "prompts, over the median of its random latents' (of the bound, where that is larger), is ranked among "
            "the same ratio of every random latent; q of that over the features."
        )
    return Text(
        "A latent's decoder row is moved by (class mean - its activation); what the dictionary leaves unexplained is "
        "kept. Means are of fit. Prompts of each class, one a group, are drawn by hash and run six ways: as they are, "
        "set to either mean ({massive} prompts ending in a massive token were left out). Changes are paired by prompt "
        "and sampling noise; intervals resample groups; p flips the signs of groups, q is Benjamini-Hochberg's over "
        "all features and conditions." + beside + spread,
        refs | ({"spread": _fact("spread", ".3f")} if spread else {}), "method",
    )  # fmt: skip


def _limits() -> Text:
    return Text(
        "A latent that moves behaviour when it is set is one cause among others, at the token where it was set and for "
        "these prompts; the class means may lie outside what the latent does in one prompt. That a matched random "
        "latent moves it too says that the push is what counts, not the feature. Prompts are sorted by what the model "
        "said to them: where it writes, whatever disturbs it moves either class towards the middle, so that a way "
        "toward the mean that was set is a finding beside random latents only. No effect at the last prompt token "
        "does not exclude one elsewhere (where: all).", kind="limit",
    )  # fmt: skip
