"""Letters as answers: their tokens, their probabilities, what a generation says of them."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gnomon.blocks import Text
from gnomon.causal.items import task_items
from gnomon.errors import UserError
from gnomon.models import load_tokenizer
from gnomon.models.tokens import encode_text
from gnomon.report.resolve import render_text
from gnomon.rows.letter_bias import letter_blocks, letter_table
from gnomon.rows.letters import letter_logprobs, letter_variants
from gnomon.step import ModelSpec, Planning
from gnomon.steps.generate import Generate
from gnomon.types import Example
from gnomon.writer import Writer
from tests.own_tasks import Pick
from tests.stepping import made
from tests.task_files import lines
from tests.tiny import tiny_folder, tiny_model

SMOL = "smollm2-135m"


@pytest.mark.parametrize("letters", [("A", "B", "C", "D"), ("C", "A")])
def test_log_p_of_a_letter_sums_its_variants_over_the_whole_vocabulary(letters: tuple[str, ...]) -> None:
    import torch

    model = SimpleNamespace(tokenizer=load_tokenizer(SMOL))
    logits = torch.tensor(np.random.default_rng(0).normal(0, 3, (3, 49152)))
    found = letter_logprobs(model, logits, letters)  # pyright: ignore[reportArgumentType]
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)
    said = [[encode_text(model.tokenizer, text)[0] for text in (letter, " " + letter)] for letter in letters]
    np.testing.assert_allclose(np.exp(found), np.stack([p[:, ids].sum(-1) for ids in said], -1), rtol=1e-12)
    assert found.dtype == np.float64
    assert (np.exp(found).sum(-1) < 1).all()


def test_both_spellings_count_in_a_vocabulary_that_has_both() -> None:
    tokenizer = load_tokenizer("smollm2-135m")
    assert letter_variants(tokenizer, "B") == sorted({*encode_text(tokenizer, "B"), *encode_text(tokenizer, " B")})
    assert len(letter_variants(tokenizer, "B")) == 2


def test_a_sentencepiece_vocabulary_has_its_bare_piece_too() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "\u2581": 1, "A": 2, "\u2581A": 3, "B": 4}
    raw = Tokenizer(models.BPE(vocab, [("\u2581", "A")], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    assert letter_variants(tokenizer, "A") == [2, 3]
    assert letter_variants(tokenizer, "B") == [4]
    with pytest.raises(UserError, match="'C' is no single token"):
        letter_variants(tokenizer, "C")


@pytest.mark.parametrize("letters", [("A",), ("A", "A"), ("A", "\u03a9"), ("A", "AB")])
def test_letters_that_cannot_be_told_apart_are_refused(letters: tuple[str, ...]) -> None:
    import torch

    model = tiny_model("qwen2")
    with pytest.raises(UserError, match="letter"):
        letter_logprobs(model, torch.zeros(1, model.d_vocab), letters)


# ---------------------------------------------------------------- a generation by letters, and by likelihood


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(name if name == SMOL else str(tiny_folder(name)), device="cpu")


def ten(name: str, n: int = 10, **options: Any) -> tuple[Generate, pd.DataFrame, Any, Path]:
    """`n` questions about elements, asked in a folder of their own: (step, its table, the model, the folder)."""
    task = {"elements_choice": {"style": "plain", **options}}
    step = Generate(task=task, n=n, batch_size=4, shard_rows=6)
    folder = Path(tempfile.mkdtemp())
    artifact = made(step, folder, spec_of(name))
    return step, artifact.table("generations"), spec_of(name).load(), artifact.path


def plain_logp(model: Any, ids: list[int], first: int) -> np.ndarray:
    """log p of every token after the prefixes that end at `first` or later, from the untouched Hugging Face model:
    `[len(ids) - first, d_vocab]` float64."""
    import torch

    with torch.no_grad():
        return torch.log_softmax(model.hf(torch.tensor([ids])).logits[0, first:].double(), -1).numpy()


@pytest.mark.parametrize(("name", "compared"), [("gpt2", 10), (SMOL, 3)])
def test_likelihood_scores_are_those_of_whole_sequences_one_by_one(name, compared):
    """benchmarks/choices.py does the same with more questions, of real sets."""
    _, table, model, _ = ten(name, max(compared, 6))
    table = table.head(compared)
    right = 0
    for line in table.to_dict("records"):
        prompt = model.tokenizer(line["prompt"])["input_ids"]
        scores = []
        for choice in line["choices"]:
            said = model.tokenizer(" " + choice, add_special_tokens=False)["input_ids"]
            logp = plain_logp(model, prompt + said, len(prompt) - 1)
            scores.append(np.mean([logp[k, token] for k, token in enumerate(said)]))
        np.testing.assert_allclose(line["scores"], scores, atol=2e-4)
        right += line["choices"][int(np.argmax(scores))] == line["target"]
    assert sum(map(bool, table["label"])) == right


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_letter_scores_are_those_of_the_next_token_of_the_prompt(name):
    _, table, model, _ = ten(name, scoring="letters")
    for line in table.to_dict("records"):
        meta, prompt = json.loads(line["meta"]), line["token_ids"][: line["prompt_len"]].tolist()
        assert prompt == model.tokenizer(line["prompt"])["input_ids"]
        p = np.exp(plain_logp(model, prompt, len(prompt) - 1)[0])
        ids = [[i for text in (letter, " " + letter) if len(i := encode_text(model.tokenizer, text)) == 1]
               for letter in "ABCD"]  # fmt: skip
        mass = np.array([sum(p[i[0]] for i in each) for each in ids])
        np.testing.assert_allclose(line["scores"], np.log(mass), atol=2e-4)
        best = int(mass.argmax())
        assert (meta["choice"], meta["letter"], meta["letters"]) == (best, "ABCD"[best], list("ABCD"))
        assert line["text"] == line["answer"] == line["choices"][best]
        assert line["label"] == (line["text"] == line["target"])
        assert line["choices"]["ABCD".index(meta["target_letter"])] == line["target"]
        said = max((i[0] for i in ids[best]), key=lambda i: p[i])
        assert line["token_ids"].tolist() == [*prompt, said]
        assert line["answer_token"] == line["prompt_len"]
        np.testing.assert_allclose(line["logprobs"], [np.log(p[said])], atol=2e-4)
        assert meta["letter_mass"] == pytest.approx(mass.sum(), rel=1e-3)
        assert line["max_prob"] == pytest.approx(mass.max() / mass.sum(), rel=1e-3)


def test_activations_are_kept_at_the_prompts_end_and_at_the_letter(tmp_path):
    model = tiny_model("llama")
    capture: Any = {"sites": ["resid_post.1", "resid_post.3"], "positions": ["last_prompt", "last", "answer", "all"]}
    step = Generate(
        task={"elements_choice": {"scoring": "letters", "rotations": 2}}, n=14, batch_size=4, capture=capture
    )
    artifact = made(step, tmp_path, spec_of("llama"))
    for line in artifact.table("generations").to_dict("records"):
        ids, cut, row = line["token_ids"].tolist(), line["prompt_len"], line["row"]
        for site in ("resid_post.1", "resid_post.3"):
            whole = model.forward([ids], read=[site]).values(site).numpy()
            wanted = {"last_prompt": whole[cut - 1], "last": whole[cut], "answer": whole[cut], "all": whole}
            for position, values in wanted.items():
                np.testing.assert_allclose(artifact.activations(site, position).row(row), values, atol=2e-5, rtol=1e-4)


def test_the_cost_of_letters_is_the_prompts_and_one_token():
    step = Generate(task={"elements_choice": {"scoring": "letters"}}, n=8)
    cost = step.cost(Planning(spec_of("llama"), 0, {}))
    assert cost.forward_tokens == cost.prompt_tokens + 8


def test_letters_that_are_no_single_tokens_are_refused_before_any_work():
    step = Generate(task={"elements_choice": {"scoring": "letters", "letters": "A\u0416CD"}}, n=8)
    with pytest.raises(UserError, match=r"'\u0416' is no single token.*likelihood"):
        step.check(Planning(spec_of("llama"), 0, {}))


@dataclass(frozen=True)
class Lettered(Pick):
    """Scores letters and says which, and nothing else."""

    scoring: str = "letters"

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        return [replace(e, meta={**e.meta, "letters": list("ABCD"[: len(e.choices)])}) for e in super().examples(n)]


def test_letters_are_all_that_a_task_of_ones_own_has_to_say(tmp_path):
    artifact = made(Generate(task="test_letters:Lettered", n=12), tmp_path, spec_of("llama"))
    table = found(pa.Table.from_pandas(artifact.table("letters")))
    rows = artifact.table("generations")
    share = np.mean([c[0] == t for c, t in zip(rows["choices"], rows["target"], strict=True)])
    assert table["A", "target"]["value"] == pytest.approx(share)


@dataclass(frozen=True)
class Unlettered(Pick):
    """Scores letters and does not say which."""

    scoring: str = "letters"


def test_a_task_of_ones_own_has_to_say_its_letters():
    with pytest.raises(UserError, match="meta\\['letters'\\]"):
        Generate(task="test_letters:Unlettered").check(Planning(spec_of("llama"), 0, {}))


# ---------------------------------------------------------------- the table of letters, and what the report says


def answers(right: float, bias: str = "", n: int = 200, mass: float = 0.9, seed: int = 0) -> pd.DataFrame:
    """Rows as `letter_rows` gives them: `right` of the answers right; with `bias` that letter is always chosen."""
    rng = np.random.default_rng(seed)
    target = rng.integers(4, size=n)
    chosen = np.where(rng.random(n) < right, target, (target + rng.integers(1, 4, size=n)) % 4)
    chosen = np.full(n, "ABCD".index(bias)) if bias else chosen
    p = np.where(np.arange(4) == chosen[:, None], 0.7, 0.1) * mass
    return pd.DataFrame({
        "row": np.arange(n), "example_id": [f"q{i}" for i in range(n)], "group": [f"g{i}" for i in range(n)],
        "label": chosen == target, "scores": list(np.log(p)), "text": [f"option {c}" for c in chosen],
        "letter": [*np.array(list("ABCD"))[chosen]], "letters": [list("ABCD")] * n,
        "target_letter": [*np.array(list("ABCD"))[target]], "rotation": 0,
    })  # fmt: skip


def found(table: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    return {(line["letter"], line["measure"]): line for line in table.to_pylist()}


def said(rows: pd.DataFrame, folder: Path) -> dict[str, list[str]]:
    """The texts of the section by their kind, every reference resolved."""
    writer = Writer(folder, "generate", "x")
    writer.table("letters", letter_table(rows))
    artifact = writer.commit({"step": "generate", "name": "generate", "options": {}})
    out: dict[str, list[str]] = {"text": [], "warning": []}
    for block in letter_blocks(artifact):
        if isinstance(block, Text):
            out[block.kind].append(render_text(block, artifact))
    return out


def test_the_table_counts_what_is_chosen_and_what_is_right():
    rows = answers(0.6)
    table = found(letter_table(rows))
    for letter in "ABCD":
        mine = np.array([x == letter for x in rows["letter"]])
        target = np.array([x == letter for x in rows["target_letter"]])
        share = np.where(mine, 0.7, 0.1)
        assert table[letter, "chosen"]["value"] == pytest.approx(mine.mean())
        assert table[letter, "target"]["value"] == pytest.approx(target.mean())
        assert table[letter, "share"]["value"] == pytest.approx(share.mean())
        assert table[letter, "mass"]["value"] == pytest.approx(0.9 * share.mean())
        assert table[letter, "accuracy"]["value"] == pytest.approx(mine[target].mean())
        assert table[letter, "accuracy"]["n"] == target.sum()
    assert table["all", "accuracy"]["value"] == pytest.approx(rows["label"].mean())
    assert (table["all", "chance"]["value"], table["all", "mass"]["value"]) == (0.25, pytest.approx(0.9))
    for (_, measure), line in table.items():
        assert measure == "chance" or line["ci_low"] - 1e-9 <= line["value"] <= line["ci_high"] + 1e-9


def test_several_orders_count_as_one_question():
    rows = answers(1.0, n=8).assign(example_id=["p", "p#1", "q", "q#1", "q#2", "r#3", "r#4", "t"],
                                    rotation=[0, 1, 0, 1, 2, 0, 0, 0],
                                    text=["x", "x", "x", "y", "x", "x", "x", "x"])  # fmt: skip
    line = found(letter_table(rows))["all", "stable"]
    assert (line["value"], line["n"]) == (0.5, 2)


def test_the_report_warns_of_chance_of_a_letter_that_takes_all_and_of_no_mass(tmp_path):
    fine = said(answers(0.6), tmp_path / "fine")
    assert fine["warning"] == []
    assert "hold 90.0%" in fine["text"][0]
    biased = said(answers(0.6, bias="C"), tmp_path / "biased")["warning"]
    assert len(biased) == 2
    assert "not shown to be better than chance" in biased[0]
    assert "letter C takes 100.0%" in biased[1]
    few = said(answers(0.9, n=8).assign(letter=["A", "A", "A", "B", "C", "D", "D", "B"]), tmp_path / "few")
    assert few["warning"] == []  # three A of eight, where one or two are right, is no bias yet
    assert all("scoring: likelihood" in text for text in biased)
    assert "hold 2.0%" in said(answers(0.6, mass=0.02), tmp_path / "low")["warning"][0]
    assert "not shown to be better than chance" in said(answers(0.25), tmp_path / "chance")["warning"][0]


def test_warnings_of_chance_are_rare_where_the_model_knows_and_common_where_not(tmp_path):
    chance = [found(letter_table(answers(0.25, n=60, seed=s))) for s in range(8)]
    known = [found(letter_table(answers(0.6, n=60, seed=s))) for s in range(8)]
    warned = [sum(t["all", "accuracy"]["ci_low"] <= 0.25 for t in tables) for tables in (chance, known)]
    assert warned[0] >= 7
    assert warned[1] == 0


# ---------------------------------------------------------------- skipped records; scoring again under edits


def test_skipped_records_are_counted_in_the_tables_the_log_and_the_report(tmp_path, caplog):
    records = [{"question": f"Which {i}?", "choices": ["x", "y", "z"], "answer": i % 3} for i in range(9)]
    records += [{"question": "Bad?", "choices": ["x", "x"], "answer": 0}] * 2
    records += [{"question": "None?", "choices": ["a"], "answer": 0}]
    path = lines(tmp_path / "some.jsonl", records)
    step = Generate(task={"choice": {"path": str(path), "skip_bad": True, "scoring": "letters"}})
    with caplog.at_level("WARNING"):
        artifact = made(step, tmp_path / "study", spec_of("qwen2"))
    assert "3 records are no questions and are skipped" in caplog.text
    assert artifact.table("skipped").to_dict("records") == [
        {"reason": "two options alike", "n": 2}, {"reason": "fewer than two options", "n": 1}]  # fmt: skip
    totals = dict(zip(*(artifact.table("totals")[c] for c in ("name", "value")), strict=True))
    assert (totals["skipped"], totals["questions"]) == (3, 9)
    texts = [render_text(b, artifact) for b in step.summary(artifact) if isinstance(b, Text)]
    assert any(text.startswith("3 records of the data are no questions") for text in texts)
    assert any("3 records" in note for note in step.cost(Planning(spec_of("qwen2"), 0, {})).notes)


def test_rows_by_letters_are_scored_by_letters_under_edits():
    _, table, model, _ = ten("qwen2", scoring="letters")
    rows = table.set_index("row")
    for item in task_items(table, "all", model.encode_text, model.decode):
        (token,) = item.tokens[item.prompt_len :]
        assert model.decode([token]).strip() == "ABCD"[item.choice]
        own = rows.loc[item.unit]
        if item.choice == json.loads(own["meta"])["choice"]:
            assert token == own["token_ids"][-1]
    texts = ten("qwen2")[1]
    by_row = texts.set_index("row")["choices"]
    for item in task_items(texts, "all", model.encode_text, model.decode):
        assert model.decode(item.tokens[item.prompt_len :]) == " " + by_row[item.unit][item.choice]


def test_labels_of_one_prompt_with_several_sets_of_choices_go_to_their_own_questions(tmp_path):
    pairs = [["ox", "a bird"], ["a stone", "a river in the north"], ["x", "y"], ["one", "two"], ["cat", "dog"]]
    records = [{"question": "Which?", "choices": pair, "answer": k, "group": f"g{i}"}
               for i, pair in enumerate(pairs) for k in (0, 1)]  # fmt: skip
    path = lines(tmp_path / "some.jsonl", records)
    options = {"task": {"choice": {"path": str(path)}}, "splits": {"fit": 4, "tune": 2, "test": 4}}
    first = made(Generate(**options), tmp_path, spec_of("llama"), "first")
    table = first.table("generations")
    assert (table["prompt_hash"].nunique(), set(table["label"])) == (1, {True, False})
    again = made(Generate(**options, labels_from="first"), tmp_path, spec_of("llama"), "again", named={"first": first})
    labels = again.table("generations").set_index("example_id")["label"].to_dict()
    assert labels == table.set_index("example_id")["label"].to_dict()
