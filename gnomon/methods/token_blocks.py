"""How step tokens reads in the report: what shifts between classes and under patches, beside what chance finds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.methods.probe_blocks import fact
from gnomon.methods.token_families import CLASSES, CONTROLS, PATCHES
from gnomon.store import Artifact

COLUMNS = ("shown", "token_id", "count", "n", "against_count", "against_n", "log_odds", "ci_low", "ci_high", "z", "p",
           "q")  # fmt: skip
LABELS = {"shown": "token", "token_id": "id", "count": "with it", "against_count": "other side with it",
          "against_n": "other n", "log_odds": "log-odds", "ci_low": "low", "ci_high": "high"}  # fmt: skip
WHERE = ("comparison", "name", "matches", "condition", "token_id")


def token_blocks(artifact: Artifact) -> list[Block]:
    """Headlines of classes and patches, the tokens found, figures, the lens beside, limits."""
    tokens, families = artifact.table("tokens"), artifact.table("families").set_index("comparison")
    blocks: list[Block] = [_method()]
    if CLASSES in families.index:
        blocks += _classes(artifact, tokens, families)
    if PATCHES in families.index:
        blocks += _patches(artifact, tokens, families)
    blocks += _lens(artifact)
    return blocks + _limits(artifact, families)


def family(name: str, column: str, spec: str = ",.0f") -> Ref:
    """A cell of table `families`."""
    return Ref("families", {"comparison": name}, column, spec)


def _method() -> Text:
    return Text(
        "The response is the unit: a token is present in it or not, however often it is repeated. Tokens are the "
        "model's own, in at least {fewest} responses of a comparison. Exact tests: Fisher's for responses to different "
        "prompts, within prompts where these have several responses, sign flips by group for the same prompt and seed "
        "patched and unpatched; q is Benjamini-Hochberg's in two stages, over features and then over the tokens of "
        "those found, of tokens that could reach {alpha} at all (classes: one stage). Size: log-odds with an "
        "informative Dirichlet prior (Monroe et al. 2008), interval by bootstrap over groups. A token is found where q "
        "is at most {alpha} and the interval lies beside zero. Spaces are shown as \u2423.",
        {"fewest": fact("min_count"), "alpha": fact("alpha", spec=".2g")}, "method",
    )  # fmt: skip


def _strongest(tokens: pd.DataFrame, name: str) -> dict[str, Any] | None:
    """Where the token found with the smallest p stands, as the condition of a reference."""
    here = tokens.loc[(tokens["comparison"] == name) & tokens["found"], :]
    if here.empty:
        return None
    best = here.sort_values(["p", "token_id"], kind="stable").iloc[0]
    return {c: best[c] for c in WHERE[:-1]} | {"token_id": int(best["token_id"])}


def _of_strongest(where: dict[str, Any]) -> dict[str, Ref]:
    return {
        "token": Ref("tokens", where, "shown", ""), "rate": Ref("tokens", where, "rate", ".0%"),
        "n": Ref("tokens", where, "n", "d"), "against_n": Ref("tokens", where, "against_n", "d"),
        "against_rate": Ref("tokens", where, "against_rate", ".0%"), "q": Ref("tokens", where, "q", ".3f"),
        "odds": Ref("tokens", where, "log_odds", "+.2f", ci=True),
    }  # fmt: skip


def _luck(families: pd.DataFrame, name: str) -> tuple[str, dict[str, Ref]]:
    if not families.loc[name, "shuffles"]:
        return "", {}
    return " With the sides swapped at random, {chance} are on average ({shuffles} swaps).", {
        "chance": family(name, "chance", ".2g"), "shuffles": family(name, "shuffles", "d"),
    }  # fmt: skip


def _classes(artifact: Artifact, tokens: pd.DataFrame, families: pd.DataFrame) -> list[Block]:
    named = {"first": fact("first", "text", ""), "second": fact("second", "text", "")}
    where = {"comparison": CLASSES}
    blocks: list[Block] = []
    luck, beside = _luck(families, CLASSES)
    best = _strongest(tokens, CLASSES)
    counts = {c: family(CLASSES, c) for c in ("vocabulary", "tested", "found")}
    if families.loc[CLASSES, "note"]:
        blocks.append(Text("No conclusion about tokens of {first} and {second} responses: {why}.",
                           named | {"why": family(CLASSES, "note", "")}, "headline"))  # fmt: skip
    elif best is None:
        blocks.append(Text(
            "No token is found to stand in more {first} than {second} responses, or the other way: none of "
            "{vocabulary} tokens looked at ({tested} are common enough for this size to tell)." + luck,
            named | counts | beside, "headline",
        ))  # fmt: skip
    else:
        blocks.append(Text(
            "Of {vocabulary} tokens looked at, {found} stand in more responses of one class, {first} or {second}, than "
            "of the other ({tested} are common enough for this size to tell)." + luck + " The strongest, {token}, is "
            "in {rate} of {n} {first} and {against_rate} of {against_n} {second} responses (log-odds {odds}, q = {q}).",
            named | counts | beside | _of_strongest(best), "headline",
        ))  # fmt: skip
    if bool(artifact.table("comparisons").set_index("comparison").loc[CLASSES, "options_words"]):
        blocks.append(Text(
            "These responses are options of the questions, chosen and not written: the tokens are the options' own "
            "words, and say what is chosen, not how the model speaks.", kind="warning",
        ))  # fmt: skip
    columns = [*COLUMNS, "test"]
    blocks += [
        Table("tokens", "Tokens found, by class", columns, where | {"found": True}, "p", labels=LABELS, limit=40),
        Table("tokens", "Tokens of smallest p, found or not", columns, where, "p", labels=LABELS, limit=15),
        Figure("scatter", "tokens", "log_odds", "evidence", "Size and evidence of each token, by class", "found",
               where=where, x_title="log-odds (right: more in the first class)", y_title="-log10 p"),
    ]  # fmt: skip
    return blocks


def _patches(artifact: Artifact, tokens: pd.DataFrame, families: pd.DataFrame) -> list[Block]:
    luck, beside = _luck(families, PATCHES)
    best = _strongest(tokens, PATCHES)
    refs = {
        **{c: family(PATCHES, c) for c in ("vocabulary", "tested", "found", "names")},
        "hit": family(PATCHES, "names_found"), "comparisons": family(PATCHES, "comparisons"),
        "each": family(PATCHES, "per_name", ".2g"),
    } | beside  # fmt: skip
    if CONTROLS in families.index:
        luck += " Patches of random latents that are active as often ({random} of them) move {control} for each."
        refs |= {"random": family(CONTROLS, "names"), "control": family(CONTROLS, "per_name", ".2g")}
    else:
        luck += " Of random latents there are no responses to compare."
    note, done = str(families.loc[PATCHES, "note"]), int(families.loc[PATCHES, "concluded"])
    blocks: list[Block] = []
    if not done:
        blocks.append(Text("No conclusion about tokens under patches: {why}.", {"why": family(PATCHES, "note", "")},
                           "headline"))  # fmt: skip
    elif best is None:
        blocks.append(Text(
            "No token is found to come or go under a patch: {names} features, {comparisons} comparisons, {vocabulary} "
            "tests, of which {tested} could tell at this size." + luck, refs, "headline",
        ))  # fmt: skip
    else:
        named = {"feature": Ref("tokens", best, "name", ""), "condition": Ref("tokens", best, "condition", "")}
        blocks.append(Text(
            "Patching moves tokens for {hit} of {names} features: {found} of {vocabulary} tests ({tested} could tell "
            "at this size), {each} for each feature." +
            luck + " The strongest: {feature} under {condition} has {token} in {rate} of {n} responses, {against_rate} "
            "unpatched (log-odds {odds}, q = {q}).", refs | named | _of_strongest(best), "headline",
        ))  # fmt: skip
    if note and done:
        blocks.append(
            Text("Some comparisons conclude nothing: {why}.", {"why": family(PATCHES, "note", "")}, "warning")
        )
    lines = artifact.table("comparisons")
    if bool(lines.loc[lines["comparison"] == PATCHES, "options_words"].any()):
        blocks.append(Text(
            "Under patches the model chose among options and wrote nothing: the tokens are the options' own words. "
            "patch_features writes as well with `write`.", kind="warning",
        ))  # fmt: skip
    where = {"comparison": PATCHES}
    blocks += [
        Table("tokens", "Tokens found, by patch", ["name", "condition", *COLUMNS, "lens"], where | {"found": True}, "p",
              labels=LABELS | {"lens": "lens effect"}, limit=60),
        Figure("scatter", "tokens", "log_odds", "evidence", "Size and evidence of each token under each patch", "found",
               where=where, x_title="log-odds (right: more when patched)", y_title="-log10 p"),
        Table("comparisons", "Tokens found, by comparison",
              ["comparison", "name", "matches", "condition", "n", "groups", "vocabulary", "tested", "found", "note"],
              sort="found", descending=True, limit=40),
    ]  # fmt: skip
    return blocks


def _lens(artifact: Artifact) -> list[Block]:
    lens = artifact.table("lens")
    if lens.empty:
        return [Text("Decoder rows are not read: {why}.", {"why": fact("lens", "text", "")}, "limit")]
    blocks: list[Block] = [Text(
        "Beside it, what the decoder rows of {n} features write directly, through the final norm's gain and the "
        "unembedding. This leaves out all that later layers do with a feature. Where it agrees with what the patch "
        "moves, `correlation` is above that with the other features' rows; a token that the lens names and the "
        "patch does not move is no finding.", {"n": fact("lens")}, "control",
    )]  # fmt: skip
    if len(artifact.table("comparisons").query("comparison == @PATCHES")):
        blocks.append(Table("lens", "Do lens and patch agree?",
                            ["name", "vocabulary", "found", "named", "share", "chance", "correlation", "other", "note"],
                            limit=40))  # fmt: skip
    columns = ["name", "side", "rank", "shown", "effect", "found"]
    blocks.append(Table("logits", "Tokens that decoder rows raise and lower", columns, labels={"shown": "token"},
                        limit=60))  # fmt: skip
    return blocks


def _limits(artifact: Artifact, families: pd.DataFrame) -> list[Block]:
    text = "A token found tells classes or conditions apart; it is no cause. "
    lines = artifact.table("comparisons")
    unpaired = lines.loc[(lines["comparison"] == CLASSES) & (lines["test"] == "Fisher"), :]
    if len(unpaired):
        text += (
            "The two classes answer different prompts here, so words of a prompt's topic stand out as well as the "
            "model's own; several samples a prompt (generate.samples) let tokens be compared within prompts. "
        )
    text += (
        "Rare tokens cannot be found at any size, and a token of many pieces is tested piece by piece. "
        "{unlabelled} responses have no label and are in neither class."
    )
    return [Text(text, {"unlabelled": fact("unlabelled")}, "limit")]
