"""tokens: the step on made-up responses and a tiny model: planted tokens, nulls, patches, lens, report, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gnomon.blocks import Text
from gnomon.dictionaries.save import save_dictionary
from gnomon.methods.chain_tables import RESPONSES
from gnomon.report.resolve import check as unresolved
from gnomon.report.resolve import render_text
from gnomon.steps.tokens import Tokens
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests.features_study import PLANTED, dictionary, spec
from tests.stepping import made
from tests.synthetic import Planted, rows
from tests.synthetic import save as saved

SPEECH = "the a of and to in is it on no yes cat dog bet stop win lose play more less red blue one two"
WORDS = SPEECH.split()
CLASSES = ("safe", "risky")
QUICK: dict[str, Any] = {"draws": 200, "shuffles": 9}
FEATURE, RANDOM = f"L2-{PLANTED}", "L2-40"


def sentence(rng: np.random.Generator, *more: str) -> str:
    return "".join(f" {w}" for w in [*rng.choice(WORDS, size=rng.integers(5, 12)), *more])


def generation(
    folder: Path, n: int = 160, said: str = "", share: float = 0.6, samples: int = 1, choice: bool = False,
    unparsed: float = 0.0, thin: bool = False, seed: int = 0,
) -> Artifact:  # fmt: skip
    """Responses of both classes; where a label is false, `said` is in a `share` of them."""
    rng = np.random.default_rng(seed)
    table, _ = rows(Planted(n=n, groups=n // samples, unparsed=unparsed, d=4, layers=1, seed=seed))
    if samples > 1:
        table["label"] = rng.random(n) < 0.5
    if thin:
        table["label"] = [i >= 12 for i in range(n)]
    add = [said and y is False and rng.random() < share for y in table["label"]]
    table["text"] = [sentence(rng, *([said] if a else [])) for a in add]
    table["finish"] = "choice" if choice else "eos"
    return saved(folder, table, {})


def patched(
    folder: Path, gen: Artifact, said: str = "", share: float = 0.6, trials: int = 30, write: int = 0,
    change: Any = None, seed: int = 0,
) -> Artifact:  # fmt: skip
    """Responses of patch_features: the same texts under every condition, `said` added under one patch of FEATURE."""
    rng = np.random.default_rng([seed, 3])
    table = gen.table("generations").query("split == 'test'").drop_duplicates("group")
    lines = []
    for first, prompt in zip((True, False), CLASSES, strict=True):
        some = table.loc[table["label"] == first, :].head(trials)
        for trial, r in enumerate(some.to_dict("records")):
            known = {"prompt": prompt, "trial": trial, "row": r["row"], "example_id": r["example_id"],
                     "group": r["group"], "seed": trial, "outcome": first, "margin": 0.1,
                     "activation": 0.5}  # fmt: skip
            before = sentence(rng)
            lines.append(known | {"name": "", "kind": "baseline", "matches": "", "condition": f"{prompt}_baseline",
                                  "patch": "", "set_to": None, "text": before})  # fmt: skip
            for name, kind, matches in ((FEATURE, "feature", ""), (RANDOM, "control", FEATURE)):
                for patch in CLASSES:
                    add = said and kind == "feature" and patch == "risky" and rng.random() < share
                    text = before if rng.random() < 0.7 else sentence(rng)
                    lines.append(known | {
                        "name": name, "kind": kind, "matches": matches, "patch": patch, "set_to": 2.0,
                        "condition": f"{prompt}_with_{patch}_patch", "text": f"{text} {said}" if add else text,
                    })  # fmt: skip
    if change is not None:
        lines = change(lines)
    writer = Writer(folder, "patch_features", "patch_features")
    writer.table("responses", pa.Table.from_pylist(lines, schema=RESPONSES))
    return writer.commit({"step": "patch_features", "name": "patch_features", "options": {"write": write}})


def found(artifact: Artifact, comparison: str) -> list[str]:
    table = artifact.table("tokens")
    return table.loc[(table["comparison"] == comparison) & table["found"], "token"].tolist()


def section(artifact: Artifact) -> dict[str, list[str]]:
    """Sentences of the report section by kind, after every reference was resolved."""
    blocks = Tokens(**artifact.options).summary(artifact)
    assert unresolved(blocks, artifact) == []
    out: dict[str, list[str]] = {}
    for block in blocks:
        if isinstance(block, Text):
            out.setdefault(block.kind, []).append(render_text(block, artifact))
    return out


def step(**options: Any) -> Tokens:
    given: dict[str, Any] = {"classes": CLASSES} | QUICK | options
    return Tokens(**given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, list[Artifact]], Artifact]:
    """Classes and patches with planted tokens, and the feature's dictionary."""
    folder = tmp_path_factory.mktemp("tokens")
    gen = generation(folder, said="Paris", n=240)
    inputs = {"generations": [gen], "causal_features": [patched(folder, gen, "zebra")]}
    save_dictionary(dictionary(), folder / "sae")
    return folder, inputs, made(step(dictionary=str(folder / "sae")), folder, spec(), inputs=inputs)


def test_planted_tokens_are_found_in_classes_and_under_the_patch(whole):
    artifact = whole[2]
    assert found(artifact, "classes") == ["Pa", "ris"]
    tokens = artifact.table("tokens")
    mine = tokens.query("comparison == 'patches' and found")
    assert set(mine["condition"]) == {"safe_with_risky_patch", "risky_with_risky_patch"}
    assert set(mine["name"]) == {FEATURE}
    assert {"z", "a", "r"} <= set(mine["token"])
    assert found(artifact, "controls") == []
    assert (mine["ci_low"] > 0).all()
    assert mine["lens"].notna().all()
    families = artifact.table("families").set_index("comparison")
    assert families.loc["patches", "names_found"] == 1
    assert (families["chance"] < 1).all()
