"""intervene: a planted cause is found beyond its controls, a blind direction is not; strength 0 changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gnomon.causal.items import MAX_TARGET, Item, batched, kept, pair_items, task_items, text_items
from gnomon.causal.measure import edited_tokens
from gnomon.causal.tables import overall
from gnomon.causal.worker import CLEAN, Condition, Scorer, blocks_of
from gnomon.errors import UserError
from gnomon.interventions.base import JOINED, places
from gnomon.interventions.steer import Steer
from gnomon.report.sections import make_section
from gnomon.steps.intervene import Intervene
from gnomon.store import Artifact
from gnomon.types import Site
from tests import causal_study
from tests.stepping import data_files, made, stopped
from tests.tiny import tiny_model

QUICK = {
    "coefficients": (0.25, 0.5), "sweep_controls": 2, "draws": 400, "neutral_texts": 4, "unrelated_items": 6,
    "fit_rows": 12, "max_damage": 20.0, "generate_rows": 12, "ablate_to": "zero",
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("causal")
    causal_study.generations(root)
    causal_study.directions(root)
    return root


def run(study: Path, name: str = "intervene", **options) -> Artifact:
    inputs = {"generations": [Artifact(study / "generate")], "directions": [Artifact(study / "probe")]}
    named = {"probe": Artifact(study / "probe")}
    return made(Intervene(**(QUICK | options)), study, causal_study.spec(), name, inputs, named)


@pytest.fixture(scope="module")
def planted(study) -> Artifact:
    return run(study, "planted")


@pytest.fixture(scope="module")
def blind(study) -> Artifact:
    return run(study, "blind", direction="blind", using="probe", score="logprob")


def one(table: pd.DataFrame, **where) -> pd.Series:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, (where, len(table))
    return table.iloc[0]


def test_the_planted_cause_is_supported_both_ways(planted):
    verdicts = planted.table("verdicts")
    assert overall(verdicts, "steer") == "supported"
    assert overall(verdicts, "steer_flip") == "supported"
    assert overall(verdicts, "ablate") == "supported"
    steer = one(verdicts, claim="steer", control="random", metric="target_logprob_change")
    flip = one(verdicts, claim="steer_flip", control="random", metric="target_logprob_change")
    assert np.sign(steer["value"]) == np.sign(steer["coefficient"]) == -np.sign(flip["value"])
    assert steer["p"] == pytest.approx(1 / 20)
    assert one(verdicts, claim="ablate", control="shuffled", metric="target_logprob_change")["value"] < 0


def test_a_blind_direction_is_not_supported(blind):
    verdicts = blind.table("verdicts")
    assert not {overall(verdicts, c) for c in ("steer", "ablate")} & {"supported"}
    assert not blind.table("examples").shape[0]


def test_the_effects_table_has_what_was_promised(planted):
    effects = planted.table("effects")
    assert list(effects.columns) == [
        "direction", "direction_kind", "control", "kind", "site", "where", "coefficient", "strength", "score", "split",
        "metric", "value", "ci_low", "ci_high", "p", "q", "n", "chosen", "note",
    ]  # fmt: skip
    test = effects[(effects["split"] == "test") & (effects["metric"] == "target_logprob_change")]
    counts = test.groupby(["kind", "control"]).size().to_dict()
    assert counts == {
        ("steer", ""): 1, ("steer", "sign_flip"): 1, ("steer", "random"): 19, ("steer", "shuffled"): 19,
        ("ablate", ""): 1, ("ablate", "shuffled"): 19, ("ablate", "isotropic"): 5,
    }  # fmt: skip
    metrics = {"target_logprob_change", "accuracy", "net_accuracy", "corrected_rate", "corrupted_rate",
               "answer_changed", "neutral_loss_change", "unrelated_accuracy_change"}  # fmt: skip
    assert metrics <= set(effects[(effects["split"] == "test") & (effects["control"] == "")]["metric"])
    whole = effects[effects["ci_low"].notna()]
    assert (whole["ci_low"] <= whole["value"] + 1e-9).all()
    assert (whole["value"] <= whole["ci_high"] + 1e-9).all()
    energy = effects[effects["metric"] == "energy_removed"]
    assert energy["value"].between(0, 1).all()
    assert len(energy) == 25


def test_test_is_read_once_and_the_coefficient_is_of_tune(planted):
    ledger = planted.meta["ledger"]
    assert [entry["split"] for entry in ledger] == ["test"]
    effects = planted.table("effects")
    chosen = one(effects[effects["chosen"]], split="tune", metric="target_logprob_change")
    tested = one(effects, split="test", kind="steer", control="", metric="target_logprob_change", score="logprob")
    assert chosen["coefficient"] == tested["coefficient"]
    tune = effects[(effects["split"] == "tune") & (effects["control"] == "")]
    assert set(tune["coefficient"]) == {-0.5, -0.25, 0.25, 0.5}


def test_controls_are_as_long_as_the_direction(planted):
    tried = planted.directions("tested_directions")
    assert tried[0].name == "planted"
    random = [d for d in tried if d.kind == "random"]
    assert len(random) >= 19
    assert all(d.norm == pytest.approx(tried[0].norm, rel=1e-5) for d in random)


def test_a_large_damage_bound_is_needed_for_a_large_push(study):
    """With a bound that nothing meets, the least damaging coefficient is taken."""
    gentle = run(study, "gentle", max_damage=0.0, kinds="steer", score="logprob")
    effects = gentle.table("effects")
    damage = effects[(effects["split"] == "tune") & (effects["metric"] == "neutral_loss_change")]
    chosen = one(damage[damage["chosen"]], control="")
    if not (damage["value"] <= 0).any():
        assert chosen["value"] == damage["value"].min()
    assert not (effects["kind"] == "ablate").any()


def test_the_section_of_the_report_is_made_whole(planted, blind):
    """Every reference resolves to one cell, every figure and table finds its columns; headlines say how it came out."""
    for artifact, words in ((planted, "beyond every control"), (blind, "no more than")):
        section = make_section(artifact, {}, strict=True)
        headlines = [sentence.text for sentence in section.sentences("headline")]
        assert len(headlines) == 2
        assert artifact is not planted or all("beyond" in h and "95%" in h for h in headlines), headlines
        assert artifact is planted or not any("beyond every control" in h for h in headlines), headlines
        assert any(words in h or "undecided" in h for h in headlines)
        assert "{" not in " ".join(s.text for kind in ("text", "control", "limit") for s in section.sentences(kind))


def test_whole_answers_are_generated_for_the_direction_only(planted):
    examples, effects = planted.table("examples"), planted.table("effects")
    assert set(examples["control"]) == {"", "sign_flip"}
    assert len(examples) == 12 * 3
    written = effects[effects["score"] == "generate"]
    assert set(written["control"]) == {"", "sign_flip"}
    assert {"net_accuracy", "corrected_rate", "corrupted_rate", "answer_changed", "unparsed_rate"} <= set(
        written["metric"]
    )
    up = examples[(examples["kind"] == "steer") & (examples["coefficient"] > 0)]
    down = examples[(examples["kind"] == "steer") & (examples["coefficient"] < 0)]
    assert up["label"].fillna(False).mean() > down["label"].fillna(False).mean()
    net = one(written, kind="steer", control="", metric="net_accuracy")
    part = examples[(examples["kind"] == "steer") & (examples["control"] == "")]
    wanted = (part["label"].fillna(False).astype(int) - part["label_before"].astype(int)).mean()
    assert net["value"] == pytest.approx(wanted)


def test_strength_0_changes_nothing_exactly(study):
    model, items = tiny_model("llama"), _items(study)
    vector = np.ones(model.d_model)
    zero = Condition("zero", (Steer(causal_study.SITE, vector, strength=0.0),))
    one_unit = Condition("one", (Steer(causal_study.SITE, vector, strength=1.0, where="last_prompt"),))
    scorer = Scorer(causal_study.spec(), "", 8)
    scorer.model = model
    (block,) = blocks_of("x", items[:8], [CLEAN, zero, one_unit])
    table = pd.concat(scorer.batch(block.items, block)).pivot(index="unit", columns="condition", values="logprob")
    assert (table["zero"] == table["clean"]).all()
    assert (table["one"] != table["clean"]).all()


def _items(study: Path, where=JOINED) -> list[Item]:
    model = tiny_model("llama")
    table = Artifact(study / "generate").table("generations")
    return task_items(table, where, model.encode_text, model.decode)


@pytest.mark.parametrize("where", [JOINED, "all", "generated", "generated+prompt", (0, 2)])
def test_scores_equal_those_of_a_plain_forward(study, where):
    """The shared prefix, the lower layers and the copies change nothing but the rounding."""
    site = Site("resid_post", 1)  # blocks above it attend to what was edited at any token
    model, items = tiny_model("llama"), _items(study, where)[:6]
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, model.d_model))
    conditions = [
        Condition(f"c{i}", tuple(Steer(site, v, where=p, strength=2.0) for p in places(where)))
        for i, v in enumerate(vectors)
    ]
    scorer = Scorer(causal_study.spec(), "", 8)
    scorer.model = model
    (block,) = blocks_of("x", items, [CLEAN, *conditions])
    table = pd.concat(scorer.batch(block.items, block)).pivot(index="unit", columns="condition", values="logprob")
    for condition in (CLEAN, *conditions):
        for item in items:
            # "prompt" ends where the prompt ends, not where scoring begins
            resid = model.forward([item.tokens], edit=condition.edits, prompt_lens=[item.prompt_len], logits="all")
            logp = resid.logits[0].log_softmax(-1)
            wanted = sum(float(logp[t - 1, item.tokens[t]]) for t in range(item.score_from, len(item.tokens)))
            assert table.loc[item.unit, condition.name] == pytest.approx(wanted, abs=2e-4)


def test_ablating_at_every_layer_and_zero_steering_sites(study):
    everywhere = run(study, "everywhere", kinds="ablate", sites="all", score="logprob")
    effects = everywhere.table("effects")
    assert set(effects["site"]) == {"all"}
    assert not len(everywhere.table("sweep"))
    assert "coefficient" in set(everywhere.table("facts")["fact"])
    Intervene().summary(everywhere)


def test_choices_are_scored_by_the_best_choice(tmp_path):
    causal_study.generations(tmp_path, choices=True)
    causal_study.directions(tmp_path)
    chosen = run(tmp_path, kinds="steer")
    effects = chosen.table("effects")
    assert set(effects["score"]) == {"logprob"}  # nothing is written where choices are scored
    up = effects[(effects["split"] == "tune") & (effects["metric"] == "net_accuracy") & (effects["control"] == "")]
    by = up.set_index("coefficient")["value"]
    assert by[0.5] >= by[-0.5]
    outcomes = chosen.table("outcomes")
    assert set(outcomes[outcomes["set"] == "test"]["choice"]) == {0, 1}


def test_stopped_and_resumed_equals_uninterrupted(study, planted, tmp_path):
    """Stopped after the first shards of the sweep; the finished ones are kept and the files come out equal."""
    causal_study.generations(tmp_path)
    causal_study.directions(tmp_path)
    with stopped(Scorer, 2):
        run(tmp_path)
    partial = tmp_path / ".intervene.partial" / "_done"
    assert sorted(p.stem for p in partial.glob("*.json")) == ["00000", "00001"]
    stamp = (partial / "00000.json").stat().st_mtime_ns
    resumed = run(tmp_path)
    assert (resumed.path / "_done" / "00000.json").stat().st_mtime_ns == stamp
    assert data_files(resumed) == data_files(planted)


def test_texts_to_score():
    words = {1: "Q", 2: ":", 3: " The", 4: " answer", 5: " is", 6: " Par", 7: "is", 8: ".", 9: " Rome", 10: "\n"}
    ids = {text: i for i, text in words.items()}

    def decode(tokens):
        return "".join(words[t] for t in tokens)

    def encode(text):
        out = []
        while text:
            piece = max((w for w in ids if text.startswith(w)), key=len)
            out.append(ids[piece])
            text = text[len(piece) :]
        return out

    row = {"row": 0, "prompt_len": 2, "token_ids": [1, 2, 3, 4, 5, 6, 7, 8], "answer": "Paris", "answer_token": 6,
           "label": False, "target": "Rome", "choices": [], "scores": []}  # fmt: skip
    (wrong,) = task_items(pd.DataFrame([row]), JOINED, encode, decode)
    assert (wrong.tokens, wrong.prompt_len, wrong.keep, wrong.score_from) == ((1, 2, 3, 4, 5, 9), 2, 1, 5)
    (right,) = task_items(pd.DataFrame([row | {"label": True}]), "all", encode, decode)
    assert (right.tokens, right.keep) == ((1, 2, 3, 4, 5, 6, 7), 0)  # its own words, an alias of the target
    (unsaid,) = task_items(pd.DataFrame([row | {"answer": None, "answer_token": None}]), JOINED, encode, decode)
    assert (unsaid.tokens, unsaid.score_from) == ((1, 2, 9), 2)
    (line,) = task_items(
        pd.DataFrame([row | {"token_ids": [1, 10], "answer": None, "target": "is"}]), JOINED, encode, decode
    )
    assert line.tokens == (1, 10, 7)  # no space after a line break
    both = task_items(
        pd.DataFrame([row | {"choices": ["Rome", "Paris"], "scores": [0.1, 0.2]}]), JOINED, encode, decode
    )
    assert [(i.choice, i.tokens) for i in both] == [(0, (1, 2, 9)), (1, (1, 2, 6, 7))]
    with pytest.raises(UserError, match="no tokens"):
        task_items(pd.DataFrame([row | {"target": ""}]), JOINED, lambda text: [], decode)
    assert MAX_TARGET > 8
    (text,) = text_items(["Q: The answer"], JOINED, encode)
    assert (text.prompt_len, text.keep, text.score_from) == (2, 1, 2)
    (pair,) = pair_items([("Q:", "Rome")], "all", encode, encode)
    assert pair.tokens == (1, 2, 9)


def test_what_is_kept_and_what_is_edited():
    assert kept("all", 5) == kept("prompt", 5) == 0
    assert kept(JOINED, 5) == kept("generated", 5) == kept("last_prompt", 5) == 4
    assert kept((2, 9), 5) == 2
    assert kept((9,), 5) == 4
    assert edited_tokens(JOINED, 6, 4).tolist() == [False] * 3 + [True] * 3
    assert edited_tokens("prompt", 6, 4).sum() == 4
    assert edited_tokens((0, 99), 6, 4).tolist() == [True] + [False] * 5
    rows = [Item(i, -1, tuple(range(n)), n - 2, k, n - 1) for i, (n, k) in enumerate([(5, 0), (9, 3), (4, 3), (7, 0)])]
    assert [[i.unit for i in b] for b in batched(rows, 8)] == [[2, 1], [0, 3]]


def test_mistakes_are_named(study):
    with pytest.raises(UserError, match="unknown place 'prompts'"):
        Intervene(where="prompts")
    with pytest.raises(UserError, match="sizes above 0"):
        Intervene(coefficients=(0.0,))
    with pytest.raises(ValueError, match="greater than or equal to 19"):
        Intervene(random_controls=5)
    assert Intervene(coefficients=(-1.0, 1.0, 0.5)).coefficients == (0.5, 1.0)
    with pytest.raises(UserError, match="no direction 7"):
        run(study, "x", direction=7)
    with pytest.raises(UserError, match="did you mean 'planted'"):
        run(study, "x", direction="plantd")
