"""patch_features on a tiny model in which one latent is a cause: it is found, what only looks like one is not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gnomon.causal.patching import condition
from gnomon.causal.patching_choices import Chooser
from gnomon.causal.patching_trials import draw_trials
from gnomon.causal.pick import first, pick
from gnomon.cli_show import sentences
from gnomon.errors import UserError
from gnomon.interventions.latent import SetLatent
from gnomon.methods.chain_tables import CAUSAL, EFFECTS, RESPONSES
from gnomon.methods.patch_effects import FEW, NONE, SMALL, UNTRIED
from gnomon.report.resolve import check
from gnomon.step import Cost, Inputs, Planning
from gnomon.steps.patch_features import PatchFeatures
from gnomon.store import Artifact
from gnomon.types import Site
from tests import patch_study as study_of
from tests.patch_study import CAUSE, LOOKS, NAMES, OTHER, SITE, VOICE, spec
from tests.stepping import data_files, made
from tests.tiny import tiny_model

FAST: dict[str, Any] = {"draws": 200, "flips": 999}
SAYS = "tests.causal_study:Starts"


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, list[Artifact]]:
    return study_of.inputs(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def patched(given, tmp_path_factory) -> Artifact:
    return made(PatchFeatures(**FAST), tmp_path_factory.mktemp("patched"), spec(), inputs=given)


# ---------------------------------------------------------------- a choice


def test_the_planted_cause_is_found_and_what_only_looks_like_one_is_not(patched):
    causal = patched.table("causal").set_index("name")
    assert list(causal.columns) == CAUSAL.names[1:]
    cause, looks, other = (causal.loc[name] for name in NAMES)
    assert bool(cause["is_causal"])
    assert (cause["condition"], cause["way"]) == ("risky_with_safe_patch", "toward")
    assert cause["ci_low"] > 1
    assert cause["control_change"] < cause["change"] / 3
    assert not bool(looks["is_causal"])
    assert abs(looks["effect"]) < 0.1
    assert not bool(other["is_causal"])  # as strong as its random latents, though the flips find it
    assert other["q"] < 0.05
    facts = patched.table("facts").set_index("fact")["value"]
    assert facts["random beyond"] > 20  # a push alone does: without random latents most latents were causal


def test_the_margin_is_that_of_a_plain_forward_with_the_patch(patched, given):
    """Of one trial of every condition of the cause, computed here from the formula."""
    model, of = tiny_model("llama"), study_of.dictionary()
    rows = given["generations"][0].table("generations").set_index("row")
    tokens = study_of.prompts()[3]
    responses = patched.table("responses")
    assert responses.columns.tolist() == RESPONSES.names
    for patch, value in (("baseline", None), ("safe", 6.0), ("risky", 0.0)):
        for prompt in ("safe", "risky"):
            line = first(responses, name="" if value is None else NAMES[0], patch=patch, prompt=prompt, trial=3)
            row = rows.loc[line["row"]]
            ids = [int(i) for i in row["token_ids"]][: int(row["prompt_len"])]
            x = model.forward([ids], read=[SITE]).acts[Site.parse(SITE)][0, -1]
            z = max(0.0, float(x.double().numpy() @ of.encoder[:, CAUSE] + of.encoder_bias[CAUSE]))
            moved = x if value is None else x + (value - z) * torch.tensor(of.decoder[CAUSE])
            logits = model.logits_from(moved)
            assert line["margin"] == pytest.approx(float(logits[tokens[0]] - logits[tokens[1]]), abs=1e-4)
            assert line["outcome"] == (line["margin"] > 0)
            assert line["text"] == row["choices"][0 if line["outcome"] else 1]
            if value is not None:
                assert (line["activation"], line["set_to"]) == (pytest.approx(z, abs=1e-4), value)


def test_baselines_stand_once_and_every_condition_has_the_same_trials(patched):
    responses = patched.table("responses")
    clean = pick(responses, kind="baseline")
    assert clean["condition"].value_counts().to_dict() == {"safe_baseline": 30, "risky_baseline": 30}
    assert set(clean["name"]) == {""}
    for prompt in ("safe", "risky"):
        trials = dict(pick(clean, prompt=prompt)[["trial", "row"]].itertuples(index=False))
        runs = pick(responses, prompt=prompt, kind=["feature", "control"])
        for _, part in runs.groupby(["name", "kind", "matches", "patch"]):
            assert len(part) == (30 if first(part)["kind"] == "feature" else 10)
            assert all(trials[t] == r for t, r in part[["trial", "row"]].itertuples(index=False))
    rows = responses["row"].unique()
    assert len(set(responses["group"])) == len(rows)  # one a group
    assert [e["split"] for e in patched.meta["ledger"]] == ["test"]


def test_random_latents_are_none_of_the_features_and_are_moved_as_far(patched):
    effects = patched.table("effects")
    assert effects.columns.tolist() == EFFECTS.names
    random = pick(effects, kind="control")
    assert not set(random["name"]) & set(NAMES)
    assert random.groupby("matches")["name"].nunique().tolist() == [20, 20, 20]
    assert set(random["set_to"]) == {6.0, 0.0}
    assert np.isnan(random["p"].to_numpy()).all()


def test_the_section_resolves_and_says_what_was_found(patched):
    assert check(PatchFeatures().summary(patched), patched) == []
    said = dict(sentences(patched)[:3])
    assert said["headline"].startswith("1 of 3 features are causal")
    assert f"strongest causal feature: {NAMES[0]}" in said["text"]
    assert "of 60 reach the bound themselves" in said["control"]


def test_a_killed_step_resumes_to_the_same_bytes(given, tmp_path, monkeypatch):
    shards, real = [], Chooser.__call__
    step = PatchFeatures(trials=4, controls=2, batch_size=4, features=(NAMES[0], NAMES[1]), **FAST)
    whole = data_files(made(step, tmp_path / "whole", spec(), inputs=given))

    def stops(self, shard):
        if len(shards) == 3:
            raise KeyboardInterrupt
        shards.append(shard[0])
        real(self, shard)

    monkeypatch.setattr(Chooser, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        made(step, tmp_path, spec(), inputs=given)
    monkeypatch.setattr(Chooser, "__call__", lambda self, shard: (shards.append(shard[0]), real(self, shard))[1])
    assert data_files(made(step, tmp_path, spec(), inputs=given)) == whole
    assert len(shards) == len(set(shards)) > 3


def test_too_few_prompts_of_a_class_are_no_ground_for_a_verdict(given, tmp_path):
    few = made(PatchFeatures(trials=4, controls=2, **FAST), tmp_path, spec(), inputs=given)
    causal = few.table("causal")
    assert causal["is_causal"].tolist() == [False] * 3
    assert all(verdict.startswith(NONE) for verdict in causal["verdict"])
    assert sentences(few)[0][1].startswith("No conclusion: 4 safe rows in the trials; 20 are needed")


def test_games_that_went_on_to_the_last_round_are_no_unparsed_answers(given, tmp_path):
    """Half of the rows are of neither class: of these nothing is said, of the others it is."""
    table = given["generations"][0].table("generations")
    over = table.assign(reason="rounds used up", label=None, row=table["row"] + 1000)
    over = over.assign(group=over["group"] + "over", example_id=over["example_id"] + "over")
    both = pd.concat([table.assign(label=table["label"].astype(object)), over], ignore_index=True)
    mine = given | {"generations": [study_of.generation(tmp_path / "in", table=both)]}
    step = PatchFeatures(features=(NAMES[0],), trials=20, controls=1, control_trials=2, **FAST)
    assert not first(made(step, tmp_path, spec(), inputs=mine).table("causal"))["verdict"].startswith(NONE)


def test_without_random_latents_nothing_is_called_causal(given, tmp_path):
    alone = made(PatchFeatures(features=(NAMES[0],), controls=0, **FAST), tmp_path, spec(), inputs=given)
    assert alone.table("causal")["verdict"].tolist() == [UNTRIED]
    assert np.isnan(first(alone.table("causal"))["ratio"])
    assert check(PatchFeatures().summary(alone), alone) == []
    said = dict(sentences(alone)[:2])
    assert said["headline"].startswith("No conclusion: no random latents were patched")
    assert "random latents" not in said["text"].removesuffix(f"verdict: {UNTRIED}.")


def test_of_too_few_random_latents_it_is_not_said_that_a_feature_is_like_them(given, tmp_path):
    few = made(PatchFeatures(controls=2, control_trials=4, trials=20, **FAST), tmp_path, spec(), inputs=given)
    assert few.table("causal")["verdict"].tolist()[:2] == [FEW, SMALL]
    assert check(PatchFeatures().summary(few), few) == []
    kinds = [kind for kind, _ in sentences(few)]
    assert sentences(few)[0][1].startswith("None of 3 features is shown to be causal")
    assert "warning" in kinds


@dataclass
class Everywhere:
    """Every token's activations of the study's prompts."""

    def __post_init__(self) -> None:
        texts = study_of.prompts()[0]
        out = tiny_model("llama").forward(texts, read=[SITE]).acts[Site.parse(SITE)]
        self.rows, self.each = np.arange(len(texts)), [x[: len(t)].numpy() for x, t in zip(out, texts, strict=True)]

    def row(self, row: int) -> np.ndarray:
        return self.each[row]


def test_features_that_were_read_at_all_tokens_have_random_latents_as_active_there(given, tmp_path, monkeypatch):
    """A latent that is silent at the last prompt token has stand-ins nevertheless; one that never fires is left out."""
    model = dict(given)
    of = study_of.dictionary()
    table = given["generations"][0].table("generations")
    x = study_of.prompts()[2]
    fit = np.asarray(table.sort_values("row")["split"] == "fit")
    bias, never = of.encoder_bias.copy(), OTHER
    bias[CAUSE] = -1.01 * (x[fit] @ of.encoder[:, CAUSE]).max()  # silent at the last prompt tokens, not elsewhere
    bias[never] = -1e6
    shifted = replace(of, encoder_bias=bias)
    folder = tmp_path / "in"
    monkeypatch.setattr(study_of, "dictionary", lambda family="llama": shifted)
    model["dictionary"] = [study_of.dictionaries(folder)]
    real = Inputs.activations
    monkeypatch.setattr(
        Inputs, "activations", lambda self, site, at=None: Everywhere() if at == "all" else real(self, site, at)
    )
    model["features"] = [study_of.features(folder, position="all", pool="mean")]
    step = PatchFeatures(where="all", trials=2, controls=2, control_trials=2, **FAST)
    out = made(step, tmp_path, spec(), inputs=model)
    assert out.table("causal")["name"].tolist() == NAMES[:2]
    assert set(pick(out.table("effects"), kind="control")["matches"]) == set(NAMES[:2])


def test_at_all_tokens_and_written_beside_the_choice(given, tmp_path):
    step = PatchFeatures(features=(NAMES[0],), where="all", write=2, controls=3, trials=6, **FAST)
    out = made(step, tmp_path, spec(), inputs=given)
    responses = out.table("responses")
    words = {str(c) for c in given["generations"][0].table("generations")["choices"].iloc[0]}
    assert set(pick(responses, kind="control")["text"]) <= words
    assert not set(pick(responses, kind=["baseline", "feature"])["text"]) <= words
    assert min(pick(out.table("effects"), kind="feature", patch="safe")["change"].tolist()) > 1
    examples = out.table("examples")
    assert len(examples) == 24
    assert examples["text"].tolist() != examples["before"].tolist()


# ---------------------------------------------------------------- what the model writes


def test_what_the_model_writes_is_graded_and_paired_by_noise(tmp_path):
    """Set to a mean of 60, latent VOICE makes the model say A; a random latent moved as far does not."""
    given = study_of.inputs(tmp_path / "in", "generate", SAYS)
    table = study_of.separations(latents=(VOICE,)).assign(first_mean=60.0)
    given["features"] = [study_of.features(tmp_path / "strong", table)]
    step = PatchFeatures(trials=20, temperature=0.3, max_new_tokens=1, control_trials=5, **FAST)
    out = made(step, tmp_path, spec(), inputs=given)
    line = first(out.table("causal"))
    assert (line["measure"], line["is_causal"], line["way"]) == ("rate", True, "toward")
    assert line["change"] > 0.8
    responses = out.table("responses")
    assert np.isnan(responses["margin"].to_numpy(dtype=np.float64)).all()
    clean = pick(responses, kind="baseline").set_index("row")["text"]
    again = pick(responses, kind="feature", patch="risky").set_index("row")["text"]
    assert (clean == again.loc[clean.index]).mean() > 0.5  # set to 0, where it mostly is: the same noise, the same text
    assert check(PatchFeatures().summary(out), out) == []


# ---------------------------------------------------------------- draws and names


def test_trials_are_one_a_group_and_do_not_depend_on_the_order_of_rows():
    table = pd.DataFrame({
        "row": range(40), "group": [f"g{i // 4}" for i in range(40)], "label": [True, False, None, True] * 10,
    })  # fmt: skip
    drawn = draw_trials(table, 8, 0)
    assert drawn.groupby("first")["group"].nunique().to_dict() == {False: 8, True: 8}
    assert drawn["trial"].tolist() == [*range(8), *range(8)]
    again = draw_trials(table.sample(frac=1, random_state=1), 8, 0)
    assert drawn["row"].tolist() == again["row"].tolist()
    assert drawn["row"].tolist() != draw_trials(table, 8, 1)["row"].tolist()


def test_conditions_are_named_by_the_prompt_and_the_mean():
    assert condition(("safe", "risky"), True, None) == "safe_baseline"
    assert condition(("safe", "very risky"), True, 1) == "safe_with_very_risky_patch"
    assert condition(("safe", "risky"), False, 1) == "risky_with_risky_patch"


# ---------------------------------------------------------------- refusals


def refused(given: dict[str, list[Artifact]], folder: Path, match: str, **options: Any) -> None:
    with pytest.raises(UserError, match=match):
        made(PatchFeatures(**(FAST | options)), folder, spec(), inputs=given)
    assert not (folder / "patch_features").exists()


def test_bad_inputs_are_refused_before_anything_is_patched(given, tmp_path, monkeypatch):
    monkeypatch.setattr(Chooser, "__call__", lambda *_: pytest.fail("a shard was run"))
    refused(given, tmp_path / "a", "L3-99 is not in table separations", features=("L3-99",))
    table = study_of.separations()
    for number, (change, match) in enumerate((
        ({"dictionary": "another"}, "another, which step features read"),
        ({"site": "resid_post.2", "name": ["L2-5", "L2-7", "L2-11"]}, "no dictionary of resid_post.2"),
        ({"feature": 9999}, "128 latents of width 32"),
    )):  # fmt: skip
        bad = given | {"features": [study_of.features(tmp_path / f"f{number}", table.assign(**change))]}
        refused(bad, tmp_path / f"b{number}", match)
    silent = study_of.dictionary()
    bias = silent.encoder_bias.copy()
    bias[CAUSE] = -1e6
    monkeypatch.setattr(study_of, "dictionary", lambda family="llama": replace(silent, encoder_bias=bias))
    never = given | {"dictionary": [study_of.dictionaries(tmp_path / "never")]}
    refused(never, tmp_path / "c", "feature L3-5 is active in no row of fit", features=(NAMES[0],))
    rows = given["generations"][0].table("generations")
    blank = rows.assign(label=rows["label"].astype(object).mask(rows["split"] == "test", None))
    ungraded = given | {"generations": [study_of.generation(tmp_path / "ungraded", table=blank)]}
    refused(ungraded, tmp_path / "d", "no graded rows in split 'test'")


def plan(task: Any, features: dict[str, Any] | None = None, weights: str = "", **splits: int) -> Planning:
    rows = splits or {"fit": 60, "tune": 10, "test": 70}
    cost = Cost(rows=140, prompt_tokens=1400, new_tokens=140, splits=rows)
    options = {
        "generations": {"task": task}, "dictionary": {"sites": ["resid_post.1", "resid_post.3"]},
        "features": {"position": "last_prompt", "per_layer": 50} | (features or {}),
    }  # fmt: skip
    return Planning(spec(), 0, {"generations": cost, "features": Cost()}, options, {"generations": weights})


def test_plans_that_cannot_work_are_refused():
    choices, written = {"capitals_choice": {}}, SAYS
    cases: list[tuple[str, Any, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
        ("names like L9-123", choices, {"features": ()}, {}, {}),
        ("L9 123", choices, {"features": ("L9 123",)}, {}, {}),
        ("split 'test'", choices, {}, {}, {"fit": 60}),
        ("read at response", choices, {}, {"position": "response"}, {}),
        ("per_layer is 3", choices, {}, {"per_layer": 3}, {}),
        ("largest activation", choices, {"where": "all"}, {"position": "all"}, {}),
        ("without these activations", choices, {"where": "all"}, {"position": "all", "pool": "mean"}, {}),
        ("measure: margin", written, {"measure": "margin"}, {}, {}),
        ("write: 5", written, {"write": 5}, {}, {}),
        ("max_new_tokens", choices, {"max_new_tokens": 5}, {}, {}),
        ("another model", choices, {}, {}, {"weights": "other"}),
    ]
    for match, task, options, features, more in cases:
        with pytest.raises(UserError, match=match):
            PatchFeatures(**options).check(plan(task, features, **more))
    PatchFeatures().check(plan(choices))
    PatchFeatures().check(plan(written))


def test_the_cost_counts_every_run():
    choices = {"capitals_choice": {}}
    cost = PatchFeatures(top=2, trials=20, controls=4, control_trials=5).cost(plan(choices))
    assert cost.rows == 4 * (40 * 2 + 10 * 2 * 4)  # 2 sites x 2 features
    assert PatchFeatures(top=2, trials=20, controls=4).cost(plan(choices)).forward_tokens > cost.forward_tokens
    everywhere = PatchFeatures(top=2, trials=20, controls=4, control_trials=5, where="all").cost(plan(choices))
    assert everywhere.forward_tokens > 2 * cost.forward_tokens
    assert any("passes alone" in note for note in cost.notes)
    assert any("30 rows in split test" in note for note in PatchFeatures().cost(plan(choices, test=30)).notes)


@pytest.mark.parametrize("where", ["last_prompt", "all"])
def test_the_cost_is_near_what_is_run(given, tmp_path, monkeypatch, where):
    """Tokens times blocks that the model runs, over the blocks."""
    ran, real = [], type(tiny_model("llama")).forward
    depth = int(spec().facts()["n_layers"])

    def counts(self, tokens, **how):
        start, stop = how.get("start"), how.get("stop")
        blocks = (depth if stop is None else stop) - (start[0] if start else 0)
        ran.append(sum(map(len, tokens)) * blocks / depth)
        return real(self, tokens, **how)

    monkeypatch.setattr(type(tiny_model("llama")), "forward", counts)
    step = PatchFeatures(features=tuple(NAMES), trials=8, controls=3, control_trials=4, where=where, **FAST)
    made(step, tmp_path, spec(), inputs=given)
    texts = study_of.prompts()[0]
    cost = Cost(rows=140, prompt_tokens=sum(map(len, texts)), new_tokens=140, splits=study_of.SPLITS)
    options = {"generations": {"task": {"capitals_choice": {}}}, "features": {"per_layer": 50}}
    said = step.cost(Planning(spec(), 0, {"generations": cost, "features": Cost()}, options)).forward_tokens
    assert 0.5 < said / sum(ran) < 2


def test_the_edit_of_a_control_goes_along_its_own_row(monkeypatch, given, tmp_path):
    """What a random latent's trials are run with, looked at in the edits themselves."""
    seen: list[tuple[int, SetLatent]] = []
    real = Chooser.edits

    def spy(self, shard):
        made = real(self, shard)
        seen.extend((one.latent, edit) for one, _, edit in made)
        return made

    monkeypatch.setattr(Chooser, "edits", spy)
    made(PatchFeatures(features=(NAMES[1],), controls=2, trials=3, **FAST), tmp_path, spec(), inputs=given)
    rows = study_of.dictionary().decoder
    assert {latent for latent, _ in seen} - {LOOKS, CAUSE, OTHER}
    assert all(np.allclose(edit.vector, rows[latent]) for latent, edit in seen)
