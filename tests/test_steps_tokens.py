"""tokens: the step on made-up responses and a tiny model: planted tokens, nulls, patches, lens, report, refusals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gnomon.dictionaries.save import save_dictionary
from gnomon.errors import UserError
from gnomon.lens.token_comparisons import responses_of
from gnomon.methods.chain_tables import RESPONSES, SEPARATIONS
from gnomon.methods.logit_lens import token_effects
from gnomon.step import Cost, ModelSpec, Planning
from gnomon.steps.tokens import Tokens
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests.features_study import PLANTED, dictionary, spec
from tests.stepping import data_files, made, sentences
from tests.synthetic import Planted, rows
from tests.synthetic import save as saved
from tests.tiny import tiny_folder, tiny_model

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


section = partial(sentences, Tokens)


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


def test_the_report_says_what_was_found_beside_chance_and_random_latents(whole):
    said = section(whole[2])
    first, second = said["headline"]
    assert "stand in more responses of one class, safe or risky" in first
    assert "With the sides swapped at random, 0 are on average (9 swaps)." in first
    assert "The strongest, Pa, is in 0% of" in first
    assert "log-odds -" in first
    assert second.startswith("Patching moves tokens for 1 of 1 features")
    assert "random latents that are active as often (1 of them) move 0 for each" in second
    assert f"The strongest: {FEATURE} under safe_with_risky_patch" in second
    assert "warning" not in said
    assert any("answer different prompts" in t for t in said["limit"])


def test_the_lens_lists_what_the_decoder_row_writes(whole):
    artifact, model = whole[2], tiny_model("llama")
    logits = artifact.table("logits")
    effects = token_effects(
        dictionary().decoder[PLANTED], model.unembed.numpy(), model.norm("ln_final").gain.numpy(), False
    )
    raised = logits.query("side == 'raised'").sort_values("rank")
    assert set(logits["side"]) == {"raised", "lowered"}
    assert raised["token_id"].tolist() == np.argsort(-effects, kind="stable")[:10].tolist()
    assert raised["effect"].to_numpy() == pytest.approx(effects[raised["token_id"]], abs=1e-6)
    tokens = artifact.table("tokens").query("comparison == 'patches'")
    assert tokens["lens"].to_numpy() == pytest.approx(effects[tokens["token_id"]], abs=1e-6)
    (line,) = artifact.table("lens").to_dict("records")
    mine = tokens.query("found")
    assert line["found"] == mine["token_id"].nunique()
    assert line["named"] == len(set(mine["token_id"]) & set(logits["token_id"]))


def test_the_lens_agrees_with_a_patch_that_writes_what_its_row_says(tmp_path):
    """Tokens are added in proportion to the decoder row's effect on them: correlation, and none with another row."""
    model = tiny_model("llama")
    norm = model.norm("ln_final")
    effects = token_effects(dictionary().decoder[PLANTED], model.unembed.numpy(), norm.gain.numpy(), False)
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz" if len(model.encode_text(f" {c}")) == 2]
    rank = {c: effects[model.encode_text(c)[0]] for c in letters}
    order = sorted(letters, key=lambda c: rank[c])
    rng = np.random.default_rng(0)

    def change(lines):
        for line in lines:
            raised = line["name"] == FEATURE
            kept = [c for i, c in enumerate(order) if rng.random() < (i / len(order) if raised else 0.5)]
            line["text"] = " ".join(["", *rng.permutation(kept)])
            if line["name"] == RANDOM:
                line |= {"kind": "feature", "matches": ""}
        return lines

    gen = generation(tmp_path, n=240)
    save_dictionary(dictionary(), tmp_path / "sae")
    inputs = {"generations": [gen], "causal_features": [patched(tmp_path, gen, change=change)]}
    lens = made(step(dictionary=str(tmp_path / "sae")), tmp_path, spec(), inputs=inputs).table("lens").set_index("name")
    assert lens.loc[FEATURE, "correlation"] > 0.6
    assert abs(lens.loc[FEATURE, "other"]) < abs(lens.loc[FEATURE, "correlation"])


def test_nothing_planted_nothing_found(tmp_path):
    gen = generation(tmp_path, n=240, seed=4)
    inputs = {"generations": [gen], "causal_features": [patched(tmp_path, gen, seed=4)]}
    artifact = made(step(), tmp_path, spec(), inputs=inputs)
    assert found(artifact, "classes") == found(artifact, "patches") == []
    said = section(artifact)
    assert said["headline"][0].startswith("No token is found to stand in more safe than risky responses")
    assert said["headline"][1].startswith("No token is found to come or go under a patch: 1 features, 4 comparisons")
    assert "Decoder rows are not read: no dictionary is given: set tokens.dictionary." in said["limit"]


@pytest.mark.parametrize(
    ("made_of", "why"),
    [({"thin": True}, "risky rows"), ({"unparsed": 0.4}, "of the answers could be parsed; 80% are needed")],
)
def test_too_few_rows_or_parsed_answers_conclude_nothing(tmp_path, made_of, why):
    artifact = made(step(), tmp_path, spec(), inputs={"generations": [generation(tmp_path, said="zebra", **made_of)]})
    assert found(artifact, "classes") == found(artifact, "patches") == []
    (said,) = section(artifact)["headline"]
    assert said.startswith("No conclusion about tokens of safe and risky responses: ")
    assert why in said


def test_a_patch_that_breaks_parsing_concludes_nothing(tmp_path):
    def change(lines):
        for line in lines:
            if line["condition"] == "safe_with_risky_patch" and line["trial"] % 2:
                line["outcome"] = None
        return lines

    gen = generation(tmp_path, n=240)
    patches = patched(tmp_path, gen, "zebra", change=change)
    artifact = made(step(), tmp_path, spec(), inputs={"generations": [gen], "causal_features": [patches]})
    mine = artifact.table("tokens").query("comparison == 'patches' and found")
    assert set(mine["condition"]) == {"risky_with_risky_patch"}
    assert any("only 50% of the answers under safe_with_risky_patch" in t for t in section(artifact)["warning"])


def test_options_words_are_flagged_unless_something_was_written(tmp_path):
    gen = generation(tmp_path, n=240, choice=True)
    inputs = {"generations": [gen], "causal_features": [patched(tmp_path, gen)]}
    warned = section(made(step(), tmp_path, spec(), inputs=inputs))["warning"]
    assert any("options of the questions, chosen and not written" in t for t in warned)
    assert any("chose among options and wrote nothing" in t for t in warned)
    inputs["causal_features"] = [patched(tmp_path / "other", gen, write=8)]
    written = made(step(comparisons="patches"), tmp_path / "other", spec(), inputs=inputs)
    again = section(written)
    assert "warning" not in again
    assert set(written.table("comparisons")["comparison"]) == {"patches"}  # random latents wrote nothing beside
    assert "Of random latents there are no responses to compare." in again["headline"][0]


def test_samples_are_compared_within_prompts_and_rounds_are_one_response(tmp_path):
    gen = generation(tmp_path, n=240, samples=4, said="zebra")
    line = made(step(), tmp_path, spec(), inputs={"generations": [gen]}).table("comparisons").iloc[0]
    assert line["test"] == "within-prompt permutation"
    assert line["found"] >= 1
    table = gen.table("generations")
    table["round"] = table["sample"]
    table["sample"] = 0
    held = responses_of(table)
    assert len(held) == 60
    first = table.loc[table["example_id"] == held["example_id"].iloc[0], :].sort_values("row")
    assert held["text"].iloc[0] == "\n".join(first["text"])


def test_every_split_read_is_in_the_ledger(whole, tmp_path):
    ledger = whole[2].meta["ledger"]
    assert [line["why"] for line in ledger] == [
        "tokens: presence by class, no token chosen beforehand",
        "tokens: responses under patches against the same unpatched",
    ]
    inputs = whole[1]
    fit = made(step(comparisons="classes", split="fit"), tmp_path, spec(), inputs=inputs)
    assert fit.meta["ledger"] == []
    n = (inputs["generations"][0].table("generations")["split"] == "fit").sum()
    line = fit.table("comparisons").iloc[0]
    assert line["n"] + line["against_n"] == n


def test_the_same_bytes_again(whole, tmp_path):
    folder, inputs, artifact = whole
    again = made(step(dictionary=str(folder / "sae")), tmp_path, spec(), inputs=inputs)
    assert data_files(again) == data_files(artifact)


def test_features_are_chosen_by_d_on_fit(whole, tmp_path):
    _, inputs, _ = whole

    def change(lines):
        return lines + [{**line, "name": "L2-7"} for line in lines if line["name"] == FEATURE]

    gen = inputs["generations"][0]
    writer = Writer(tmp_path, "features", "features")
    sizes = [{"name": FEATURE, "fit_d": 0.2, "rank": 2}, {"name": "L2-7", "fit_d": -0.9, "rank": 1}]
    writer.table("separations", pa.Table.from_pylist(sizes, schema=SEPARATIONS))
    more = {"causal_features": [patched(tmp_path, gen, "zebra", change=change)],
            "features": [writer.commit({"step": "features", "name": "features", "options": {}})]}  # fmt: skip
    one = made(step(features=1), tmp_path, spec(), inputs=inputs | more).table("comparisons")
    assert set(one.query("comparison == 'patches'")["name"]) == {"L2-7"}
    both = made(step(), tmp_path / "both", spec(), inputs=inputs | more).table("comparisons")
    assert set(both.query("comparison == 'patches'")["name"]) == {FEATURE, "L2-7"}


def test_the_strongest_separations_are_read_where_nothing_was_patched(tmp_path):
    gen = generation(tmp_path)
    save_dictionary(dictionary(), tmp_path / "sae")
    writer = Writer(tmp_path, "features", "features")
    sizes = [{"name": f"L2-{i}", "fit_d": 0.1, "rank": i} for i in range(1, 9)] + [{"name": "L1-3", "rank": 1}]
    writer.table("separations", pa.Table.from_pylist(sizes, schema=SEPARATIONS))
    features = [writer.commit({"step": "features", "name": "features", "options": {}})]
    inputs = {"generations": [gen], "features": features}
    artifact = made(step(dictionary=str(tmp_path / "sae"), top=3), tmp_path, spec(), inputs=inputs)
    assert set(artifact.table("logits")["name"]) == {f"L2-{i}" for i in range(1, 6)}
    lens = artifact.table("lens").set_index("name")
    assert lens.loc["L1-3", "note"] == "no dictionary at resid_post.1 is given"
    section(artifact)


def test_hostile_tokens_are_written_out(tmp_path):
    gen = generation(tmp_path, n=120, said="\x1b[2J\u202e<b>")
    artifact = made(step(), tmp_path, spec(), inputs={"generations": [gen]})
    shown = artifact.table("tokens")["shown"]
    assert "\\x1b" in set(shown)
    assert not shown.str.contains("[\x00-\x1f\u202e ]", regex=True).any()
    section(artifact)


# ---------------------------------------------------------------- bad input


def planning(weights: str = "", **kinds: Cost) -> Planning:
    inputs = {"generations": Cost(rows=100, splits={"fit": 50, "tune": 10, "test": 40})} | kinds
    return Planning(spec(), 0, inputs, {}, {"generations": weights} if weights else {})


def test_what_cannot_work_is_refused_at_planning():
    with pytest.raises(UserError, match="no step has patched"):
        Tokens(comparisons="patches").check(planning())
    with pytest.raises(UserError, match=r"tokens\.features without patches"):
        Tokens(features=3).check(planning())
    with pytest.raises(UserError, match="no rows in split 'tune'"):
        Tokens(split="tune").check(planning(generations=Cost(rows=5, splits={"fit": 5})))
    with pytest.raises(UserError, match="another model than the one that answered"):
        Tokens().check(planning(weights="another"))
    with pytest.raises(UserError, match="two different names"):
        Tokens(classes=("safe", "safe"))
    Tokens().check(planning(causal_features=Cost(rows=360)))
    cost = Tokens().cost(planning(causal_features=Cost(rows=360)))
    assert cost.rows == 460
    assert cost.forward_tokens == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lines: [r for r in lines if r["condition"] != "safe_baseline"], "30 of 30 responses .* no baseline"),
        (lambda lines: [r for r in lines if r["name"]], "the responses have no baseline"),
        (lambda lines: [*lines, lines[0]], "a baseline trial stands twice"),
        (lambda lines: [*lines, lines[1]], f"the feature {FEATURE} under .* has a trial twice"),
    ],
)
def test_responses_that_do_not_join_are_refused(tmp_path, change, why):
    gen = generation(tmp_path, n=240)
    inputs = {"generations": [gen], "causal_features": [patched(tmp_path, gen, change=change)]}
    with pytest.raises(UserError, match=why):
        made(step(), tmp_path, spec(), inputs=inputs)
    assert not (tmp_path / "tokens").exists()


def test_a_dictionary_of_another_model_is_refused(whole, tmp_path):
    save_dictionary(dictionary(d=16), tmp_path / "sae")
    with pytest.raises(UserError, match=r"is 16 wide.*32, the width of"):
        made(step(dictionary=str(tmp_path / "sae")), tmp_path, spec(), inputs=whole[1])


def test_another_family_of_models(tmp_path):
    """LayerNorm: the lens is centred."""
    gen = generation(tmp_path, n=240)
    save_dictionary(dictionary(), tmp_path / "sae")
    inputs = {"generations": [gen], "causal_features": [patched(tmp_path, gen, "zebra")]}
    other = ModelSpec(str(tiny_folder("gpt2")), device="cpu")
    artifact = made(step(dictionary=str(tmp_path / "sae")), tmp_path, other, inputs=inputs)
    model, logits = tiny_model("gpt2"), artifact.table("logits")
    row = dictionary().decoder[PLANTED]
    effects = token_effects(row, model.unembed.numpy(), model.norm("ln_final").gain.numpy(), True)
    assert logits["effect"].to_numpy() == pytest.approx(effects[logits["token_id"]], abs=1e-6)
