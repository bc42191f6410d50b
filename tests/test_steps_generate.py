"""generate: the plan of rows, what is captured, choices, episodes, reused labels, merged runs, costs, the section."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gnomon.blocks import Text
from gnomon.errors import UserError
from gnomon.executors.local import Local
from gnomon.halving import run_halving
from gnomon.report.resolve import render_text
from gnomon.rows.choose import confidence, normalised
from gnomon.rows.counts import share
from gnomon.rows.plan import environment_seed
from gnomon.rows.positions import token_before
from gnomon.rows.table import messages_of
from gnomon.step import Inputs, ModelSpec, Planning
from gnomon.steps.generate import SCHEMA, Generate
from gnomon.types import Example
from tests.own_tasks import Letters, Pick
from tests.stepping import data_files, made
from tests.tiny import tiny_folder, tiny_model

ALL = ("last_prompt", "last", "answer", "response", "all")
FAMILIES = ("llama", "gpt2")


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """The tests' own folder is where a study would be run from: `own_tasks:Letters` is importable."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def spec_of(family: str = "llama") -> ModelSpec:
    return ModelSpec(str(tiny_folder(family)), device="cpu")


def letters(**options: Any) -> Generate:
    return Generate(task="own_tasks:Letters", **{"shard_rows": 10, "batch_size": 4, **options})


@pytest.fixture(scope="module")
def captured(tmp_path_factory) -> dict[str, Any]:
    """A generation with every position captured, in two families."""
    sys.path.insert(0, str(Path(__file__).parent))
    root = tmp_path_factory.mktemp("captured")
    capture = {"sites": ["embed", "resid_post.*", "z.1", "mlp_post.2"], "positions": list(ALL)}
    step = letters(n=14, temperatures=[0, 1.0], capture=capture, top_k_logits=3)
    return {family: made(step, root / family, spec_of(family)) for family in FAMILIES}


# ---------------------------------------------------------------- rows and their plan


def test_the_table_is_the_plan_in_the_declared_columns(captured):
    table = captured["llama"].table("generations")
    assert list(table.columns) == SCHEMA.names
    assert table["row"].tolist() == list(range(28))
    order = list(zip(table["prompt_len"], table["example_index"], strict=True))
    assert order == sorted(order)
    assert sorted(zip(table["example_id"], table["temperature"], strict=True)) == sorted(
        (f"q{i}", t) for i in range(14) for t in (0.0, 1.0)
    )
    model = tiny_model("llama")
    examples = {e.id: e for e in Letters().examples(14, 0)}
    for line in table.to_dict("records"):
        example = examples[line["example_id"]]
        assert line["prompt_hash"] == example.prompt_hash
        assert line["token_ids"][: line["prompt_len"]].tolist() == model.tokenize(example.prompt)
        assert (line["messages"] if isinstance(line["messages"], str) else None) == messages_of(example.prompt)
        assert len(line["logprobs"]) == len(line["token_ids"]) - line["prompt_len"]
        assert len(line["top_ids"]) == len(line["logprobs"])
        assert json.loads(line["baselines"])["words"] == example.meta["words"]
        assert json.loads(line["baselines"])["prompt_tokens"] == line["prompt_len"]


def test_steps_read_logits_where_they_ask_for_them(captured):
    inputs = Inputs({"generations": [captured["llama"]]})
    whole, rest = inputs.generations(logits=True), inputs.generations()
    assert set(whole) - set(rest) == {"top_ids", "top_logits"}
    assert list(whole["row"]) == list(rest["row"]) == sorted(rest["row"])
    assert set(whole) == set(SCHEMA.names)
    assert all(map(len, whole["top_logits"]))


def test_a_chat_prompts_messages_are_kept_and_a_texts_are_not():
    chat = ({"role": "user", "content": "Où?"}, {"role": "assistant", "content": "In"})
    assert json.loads(messages_of(chat) or "") == list(chat)
    assert messages_of("Où?") is None


def test_greedy_rows_are_what_the_model_says_to_a_prompt_alone(captured):
    for family in FAMILIES:
        model, table = tiny_model(family), captured[family].table("generations")
        greedy = table[table["temperature"] == 0].to_dict("records")
        alone = [model.generate([model.tokenize(line["prompt"])], max_new_tokens=6).rows[0] for line in greedy]
        assert [a.text for a in alone] == [line["text"] for line in greedy]
        np.testing.assert_allclose([a.entropy for a in alone], [line["entropy"] for line in greedy], rtol=1e-4)


def test_labels_answers_and_the_answer_token_are_the_grades(captured):
    model, table = tiny_model("llama"), captured["llama"].table("generations")
    task = Letters()
    assert 0 < table["answer_token"].notna().sum() < len(table)
    for line in table.to_dict("records"):
        grade = task.grade(Example("", "", ""), line["text"])
        assert (None if pd.isna(line["label"]) else line["label"]) == grade.label
        if grade.span is None:
            assert pd.isna(line["answer_token"])
            continue
        response = line["token_ids"][line["prompt_len"] :].tolist()
        at = int(line["answer_token"]) - line["prompt_len"]
        assert len(model.decode(response[:at])) < grade.span[1] <= len(model.decode(response[: at + 1]))


def test_the_token_of_a_character_is_found_at_every_place():
    pieces = ["The", " ", "answer", "", " is", " 42", "."]
    text = "".join(pieces)
    owner = [i for i, piece in enumerate(pieces) for _ in piece]
    found = [token_before(end, len(pieces), lambda k: "".join(pieces[:k])) for end in range(1, len(text) + 1)]
    assert found == owner
    assert token_before(0, 7, lambda k: "x" * k) is None
    assert token_before(8, 7, lambda k: "x" * k) is None


# ---------------------------------------------------------------- activations of the same pass


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_activations_are_those_of_a_forward_of_the_row_alone(captured, family):
    artifact, model = captured[family], tiny_model(family)
    table = artifact.table("generations").set_index("row")
    for site in ("embed", "resid_post.0", "resid_post.3", "z.1", "mlp_post.2"):
        views = {p: artifact.activations(site, p) for p in ALL}
        for row, line in table.iloc[::3].iterrows():
            ids, cut = line["token_ids"].tolist(), int(line["prompt_len"])
            whole = model.forward([ids], read=[site]).values(site).numpy()
            wanted = {"last_prompt": whole[cut - 1], "last": whole[-1], "response": whole[cut:], "all": whole}
            if pd.notna(line["answer_token"]):
                wanted["answer"] = whole[int(line["answer_token"])]
            else:
                assert row not in views["answer"].rows
            for position, values in wanted.items():
                np.testing.assert_allclose(views[position].row(row), values, atol=2e-5, rtol=1e-4)


def test_an_empty_response_has_no_last_token(tmp_path):
    model = tiny_model("llama")
    prompts = [e.prompt for e in Letters().examples(14, 0)]
    first = model.generate([model.tokenize(p) for p in prompts], max_new_tokens=1).rows
    stop = next(r.text for r in first if r.text.isascii() and r.text.strip())
    capture = {"sites": "resid_post.1", "positions": ["last_prompt", "last", "response"]}
    artifact = made(letters(n=14, stop=[stop], capture=capture), tmp_path, spec_of())
    table = artifact.table("generations")
    empty = {line["row"] for line in table.to_dict("records") if len(line["token_ids"]) == line["prompt_len"]}
    assert empty
    assert set(artifact.activations("resid_post.1@last_prompt").rows) == set(table["row"])
    assert set(artifact.activations("resid_post.1@last").rows) == set(table["row"]) - empty
    assert set(artifact.activations("resid_post.1@response").rows) == set(table["row"]) - empty


def test_the_last_token_of_rows_that_end_early_is_kept(tmp_path):
    """Rows leave the batch when half of it is done; what they ended on must not leave with them."""
    capture = {"sites": "resid_post.3", "positions": ["last_prompt", "last"]}
    step = letters(n=16, max_new_tokens=40, stop=["a", "e", "o", "t"], batch_size=8, shard_rows=16, capture=capture)
    artifact, model = made(step, tmp_path, spec_of()), tiny_model("llama")
    view = artifact.activations("resid_post.3@last")
    lengths = set()
    for line in artifact.table("generations").to_dict("records"):
        ids = line["token_ids"].tolist()
        if len(ids) > line["prompt_len"]:
            lengths.add(len(ids) - line["prompt_len"])
            whole = model.forward([ids], read=["resid_post.3"]).values("resid_post.3").numpy()
            np.testing.assert_allclose(view.row(line["row"]), whole[-1], atol=3e-5, rtol=1e-4)
    assert len(lengths) > 3


# ---------------------------------------------------------------- sampling, workers, batches


def test_sampled_text_does_not_depend_on_the_batches(tmp_path):
    texts = []
    for size, shard in ((4, 10), (7, 50)):
        step = letters(n=12, samples=2, temperatures=[0.7, 1.3], top_p=0.9, batch_size=size, shard_rows=shard)
        table = made(step, tmp_path / str(size), spec_of()).table("generations")
        texts.append(table.set_index(["example_id", "temperature", "sample"])["text"].sort_index())
    pd.testing.assert_series_equal(*texts)
    by_sample = texts[0].unstack("sample")
    assert (by_sample[0] != by_sample[1]).mean() > 0.9


def test_another_seed_gives_other_samples(tmp_path):
    step = Generate(task="own_tasks:Letters", n=6, temperatures=1.0)
    one, other = (made(step, tmp_path / str(seed), spec_of(), seed=seed) for seed in (0, 1))
    assert set(one.table("generations")["seed"]) == {0}
    assert (one.table("generations")["text"] != other.table("generations")["text"]).all()


def test_one_and_two_workers_write_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step = letters(n=24, temperatures=[0, 1.0], capture={"sites": "resid_post.*", "positions": ["last", "all"]})
        one = made(step, tmp_path / "1", spec_of())
        two = made(step, tmp_path / "2", spec_of(), executor=Local(workers=2))
    finally:
        torch.set_num_threads(before)
    assert len(data_files(one)) > 20
    assert data_files(one) == data_files(two)


def test_running_out_of_memory_halves_the_batch_and_says_so(tmp_path, monkeypatch):
    model = spec_of().load()
    whole = type(model).generate

    def small(self, prompts, **options):
        if len(prompts) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, prompts, **options)

    step = letters(n=10, temperatures=[1.0], capture={"sites": "resid_post.2"})
    plain = made(step, tmp_path / "plain", spec_of())
    monkeypatch.setattr(type(model), "generate", small)
    halved = made(step, tmp_path / "halved", spec_of())
    notes = [json.loads(p.read_text())["info"] for p in sorted((halved.path / "_done").glob("*.json"))]
    assert notes[0]["halved"] == [4, 4]
    a, b = plain.table("generations"), halved.table("generations")
    assert a["text"].tolist() == b["text"].tolist()
    np.testing.assert_allclose(np.asarray(plain.activations("resid_post.2@last").values),
                               np.asarray(halved.activations("resid_post.2@last").values), atol=1e-5)  # fmt: skip


def test_out_of_memory_on_one_row_is_said_and_other_errors_pass():
    def never(batch):
        raise RuntimeError("can't allocate memory: you tried to allocate 99999 bytes")

    with pytest.raises(UserError, match="one row"):
        run_halving(never, [1, 2, 3], [])

    def broken(batch):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_halving(broken, [1, 2], [])


# ---------------------------------------------------------------- choices


def test_choices_are_scored_like_a_plain_pass_over_prompt_and_choice(tmp_path):
    model = tiny_model("llama")
    for how in ("tokens", "none"):
        step = Generate(task="own_tasks:Pick", n=11, batch_size=4, shard_rows=6, normalise=how)
        table = made(step, tmp_path / how, spec_of()).table("generations")
        for line in table.to_dict("records"):
            prompt = model.tokenize(line["prompt"])
            options = [model.encode_text(" " + c) for c in line["choices"]]
            found = model.logprobs([prompt + o for o in options], [len(prompt)] * len(options))
            scores = normalised(found, list(line["choices"]), how)
            np.testing.assert_allclose(line["scores"], scores, atol=1e-4)
            best = int(np.argmax(scores))
            assert line["text"] == line["answer"] == line["choices"][best]
            assert line["label"] == (line["text"] == line["target"])
            assert line["finish"] == "choice"
            assert line["token_ids"].tolist() == prompt + options[best]
            np.testing.assert_allclose(line["logprobs"], found[best], atol=1e-4)
            found = [line["max_prob"], line["entropy"], line["margin"]]
            np.testing.assert_allclose(found, confidence(scores), atol=1e-4)


def test_choices_are_normalised_as_asked():
    logprobs, choices = [np.array([-1.0, -2.0, -3.0]), np.array([-2.5])], [" a b c", " dd"]
    assert normalised(logprobs, choices, "none") == [-6.0, -2.5]
    assert normalised(logprobs, choices, "tokens") == [-2.0, -2.5]
    assert normalised(logprobs, choices, "chars") == [-1.2, -1.25]
    best, entropy, margin = confidence([0.0, 0.0])
    assert (best, margin) == (0.5, 0.0)
    assert entropy == pytest.approx(np.log(2))


def test_choices_are_captured_at_the_chosen_one(tmp_path):
    model = tiny_model("gpt2")
    capture = {"sites": ["resid_post.1", "z.3"], "positions": list(ALL)}
    artifact = made(Generate(task="own_tasks:Pick", n=9, batch_size=4, capture=capture), tmp_path, spec_of("gpt2"))
    for line in artifact.table("generations").to_dict("records"):
        ids, cut, row = line["token_ids"].tolist(), line["prompt_len"], line["row"]
        for site in ("resid_post.1", "z.3"):
            whole = model.forward([ids], read=[site]).values(site).numpy()
            wanted = {"last_prompt": whole[cut - 1], "last": whole[-1], "answer": whole[-1], "response": whole[cut:],
                      "all": whole}  # fmt: skip
            for position, values in wanted.items():
                np.testing.assert_allclose(artifact.activations(site, position).row(row), values, atol=2e-5, rtol=1e-4)


def test_the_cost_of_choices_counts_every_choice_once():
    step = Generate(task="own_tasks:Pick", n=9, capture={"sites": "resid_post.1", "positions": ["response"]})
    cost, model = step.cost(planning()), tiny_model("llama")
    examples = Pick().examples(9, 0)
    lengths = [[len(model.encode_text(" " + c)) for c in e.choices] for e in examples]
    prompts = sum(len(model.tokenize(e.prompt)) for e in examples)
    assert cost.forward_tokens == prompts + sum(map(sum, lengths))
    assert cost.new_tokens == sum(map(max, lengths))


# ---------------------------------------------------------------- episodes


def test_an_episode_is_played_round_by_round_and_its_transcript_joined(tmp_path):
    capture = {"sites": "resid_post.2", "positions": ["last_prompt", "last"]}
    step = Generate(task="own_tasks:GuessTheNumber", n=6, samples=2, temperatures=[1.5], batch_size=4, shard_rows=6,
                    capture=capture)  # fmt: skip
    artifact = made(step, tmp_path, spec_of())
    table = artifact.table("generations")
    assert table["row"].is_monotonic_increasing
    plays = table.groupby(["example_id", "sample"])
    assert len(plays) == 12
    for (example, sample), rounds in plays:
        rounds = rounds.to_dict("records")
        seed = environment_seed(0, example, sample)
        hidden = json.loads(rounds[0]["meta"])["hidden"]
        assert {line["seed"] for line in rounds} == {seed}
        assert [line["round"] for line in rounds] == list(range(len(rounds)))
        assert [line["row"] - rounds[0]["row"] for line in rounds] == list(range(len(rounds)))
        assert rounds[0]["row"] % 4 == 0
        for before, after in itertools.pairwise(rounds):
            assert after["prompt"].startswith(before["prompt"] + before["text"] + "\n")
            assert after["prompt"].endswith("Guess:")
        guesses = [json.loads(line["meta"])["guess"] for line in rounds]
        wanted = None if all(g is None for g in guesses) else hidden in guesses
        assert {None if pd.isna(line["label"]) else line["label"] for line in rounds} == {wanted}
        assert [json.loads(line["meta"])["final"] for line in rounds] == [False] * (len(rounds) - 1) + [True]
    assert table["round"].max() == 2
    counts = artifact.table("counts")
    assert counts[counts["split"] == "all"]["n"].sum() == 12
    assert list(artifact.activations("resid_post.2@last_prompt").rows) == table["row"].tolist()


def test_environments_are_keyed_and_do_not_depend_on_batches(tmp_path):
    tables = []
    for size in (2, 5):
        step = Generate(task="own_tasks:GuessTheNumber", n=5, temperatures=[1.0], batch_size=size, shard_rows=50)
        tables.append(made(step, tmp_path / str(size), spec_of()).table("generations"))
    key = ["example_id", "round"]
    one, other = (t.set_index(key).sort_index()[["seed", "text", "label"]] for t in tables)
    pd.testing.assert_frame_equal(one, other)
    assert len({environment_seed(s, e, k) for s in (0, 1) for e in ("a", "b") for k in (0, 1)}) == 8


def test_a_chat_episode_speaks_in_messages(tmp_path):
    table = made(Generate(task="own_tasks:Chatting", n=3), tmp_path, spec_of()).table("generations")
    first, second = table[table["example_id"] == "game0"].to_dict("records")[:2]
    assert first["prompt"] == "<|im_start|>user\nGuess a digit.<|im_end|>\n<|im_start|>assistant\n"
    said = f"user\nGuess a digit.<|im_end|>\n<|im_start|>assistant\n{first['text']}<|im_end|>\n<|im_start|>user\n"
    assert said in second["prompt"]
    assert second["prompt"].endswith("Guess:<|im_end|>\n<|im_start|>assistant\n")


# ---------------------------------------------------------------- reused labels, merged runs


def test_labels_of_an_earlier_generation_are_taken_over_with_their_source(tmp_path):
    first = made(letters(n=12, temperatures=[1.0]), tmp_path, spec_of(), "first")
    step = letters(n=10, temperatures=[0.5], labels_from="first")
    assert step.needs() == {"labels_from": "first"}
    second = made(step, tmp_path, spec_of(), "second", named={"first": first})
    old = first.table("generations").set_index("example_id")
    table = second.table("generations")
    assert set(table["split"]) == {"fit", "tune", "test"}
    different = 0
    for line in table.to_dict("records"):
        before = old.loc[line["example_id"]]
        own = Letters().grade(Example("", "", ""), line["text"]).label
        meta = json.loads(line["meta"])
        assert (pd.isna(line["label"]) and pd.isna(before["label"])) or line["label"] == before["label"]
        assert line["reason"] == f"label of first: {before['reason']}"
        assert (meta["labels_from"], meta["own_label"]) == ("first", own)
        different += own != before["label"]
    assert different


def test_other_prompts_are_refused_with_the_first_mismatch(tmp_path):
    first = made(letters(n=8), tmp_path, spec_of(), "first")
    more = letters(n=9, labels_from="first")
    with pytest.raises(UserError, match=r"1 of 9 rows have no label there; the first is example 'q8', which"):
        made(more, tmp_path, spec_of(), "second", named={"first": first})
    with pytest.raises(UserError, match=r"8 of 8 rows .* whose prompt hash is \w+ here and \w+ there"):
        made(letters(n=8, labels_from="first"), tmp_path, spec_of(), "third", named={"first": first}, seed=5)
    with pytest.raises(UserError, match=r"8 of 16 rows .* no sample 1"):
        made(letters(n=8, samples=2, temperatures=[1.0], labels_from="first"), tmp_path, spec_of(), "fourth",
             named={"first": first})  # fmt: skip


def test_generations_are_merged_with_their_activations(tmp_path):
    capture = {"sites": ["resid_post.*", "z.0"], "positions": ["last_prompt", "response"]}
    a = made(letters(n=12, split_by="hash", capture=capture), tmp_path, spec_of(), "a")
    b = made(letters(n=6, split_by="hash", temperatures=[1.0], condition="warm", capture=capture), tmp_path, spec_of(),
             "b")  # fmt: skip
    step = Generate(append=["a", "b"])
    assert step.needs() == {"append.0": "a", "append.1": "b"}
    both = made(step, tmp_path, spec_of(), "both", named={"a": a, "b": b})
    table = both.table("generations")
    assert table["row"].tolist() == list(range(18))
    assert table["example_id"].is_unique
    assert set(table["example_id"]) == {f"a/q{i}" for i in range(12)} | {f"b/q{i}" for i in range(6)}
    assert table["example_index"].nunique() == 18
    assert set(table[table["condition"] == "warm"]["row"]) == set(range(12, 18))
    assert table.groupby("group")["split"].nunique().max() == 1
    for site in ("resid_post.3", "z.0"):
        mine, own = both.activations(site, "last_prompt"), b.activations(site, "last_prompt")
        np.testing.assert_array_equal(mine.at(range(12, 18)), own.at(range(6)))
        for row in range(6):
            np.testing.assert_array_equal(both.activations(site, "response").row(row + 12),
                                          b.activations(site, "response").row(row))  # fmt: skip
    more = letters(n=8, split_by="hash", append="a", capture=capture)
    artifact = made(more, tmp_path, spec_of(), "joined", named={"a": a})
    assert "questions (with those of a) right" in next(b.text for b in more.summary(artifact) if isinstance(b, Text))
    joined = artifact.table("generations")
    assert joined["row"].tolist() == list(range(20))
    assert joined["example_id"].tolist()[8:] == [f"a/{i}" for i in a.table("generations")["example_id"]]


def test_a_group_on_two_sides_of_a_split_is_refused(tmp_path):
    a = made(letters(n=12, splits="50/10/40"), tmp_path, spec_of(), "a")
    b = made(letters(n=12, splits="30/10/60"), tmp_path, spec_of(), "b")
    with pytest.raises(UserError, match=r"groups lie on two sides of a split; the first: group q\d+ is in \w+ of a"):
        made(Generate(append=["a", "b"]), tmp_path, spec_of(), "both", named={"a": a, "b": b})
    c = made(letters(n=12, splits="50/10/40"), tmp_path, spec_of("gpt2"), "c")
    with pytest.raises(UserError, match="different models"):
        made(Generate(append=["a", "c"]), tmp_path, spec_of(), "both", named={"a": a, "c": c})


def test_prompts_that_are_too_long_are_dropped_and_counted(tmp_path, caplog):
    spec, model = spec_of(), tiny_model("llama")
    lengths = {e.id: len(model.tokenize(e.prompt)) for e in Letters().examples(14, 0)}
    limit = sorted(lengths.values())[9]
    artifact = made(letters(n=14, max_length=limit), tmp_path, spec)
    table = artifact.table("generations")
    assert set(table["example_id"]) == {i for i, n in lengths.items() if n <= limit}
    totals = artifact.table("totals").set_index("name")["value"]
    assert totals["dropped"] == 14 - len(table) > 0
    assert "longer than max_length" in caplog.text
    with pytest.raises(UserError, match="drops all 14 examples"):
        made(letters(n=14, max_length=2), tmp_path / "none", spec)


# ---------------------------------------------------------------- counts and the section


def test_counts_are_the_labels_counted(captured):
    table, counts = captured["llama"].table("generations"), captured["llama"].table("counts")
    names = {True: "correct", False: "incorrect"}
    labels = [names.get(label, "unparsed") for label in table["label"]]
    for split in ("all", "fit", "tune", "test"):
        inside = [one for one, s in zip(labels, table["split"], strict=True) if split in ("all", s)]
        for name in ("correct", "incorrect", "unparsed"):
            line = counts[(counts["split"] == split) & (counts["label"] == name)].iloc[0]
            assert line["n"] == inside.count(name)
            assert line["share"] == pytest.approx(inside.count(name) / len(inside))
            if split == "all" or table["group"][table["split"] == split].nunique() > 1:
                assert line["ci_low"] <= line["share"] <= line["ci_high"]
    assert captured["llama"].meta["ledger"][0]["rows"] == (table["split"] == "test").sum()


def test_shares_of_clustered_answers_have_wider_intervals():
    hit = np.repeat([True, False], 50)
    single = share(hit, np.arange(100))
    clustered = share(hit, np.arange(100) // 10)
    assert (single.low, single.high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert clustered.high - clustered.low > 2 * (single.high - single.low)
    alike = share(np.ones(100, bool), np.arange(100) // 10)
    assert alike.high == 1.0
    assert alike.low == pytest.approx(0.7225, abs=1e-3)


def test_the_section_resolves_and_names_its_interval_and_control(captured):
    artifact = captured["llama"]
    blocks = Generate(task="own_tasks:Letters").summary(artifact)
    texts = [render_text(b, artifact) for b in blocks if isinstance(b, Text)]
    assert "95% interval" in texts[0]
    assert "Always giving the commonest right answer would score 100.0%" in texts[0]
    assert any("token limit" in text for text in texts)
    shown, labels = artifact.table("transcripts"), artifact.table("generations")["label"]
    assert shown["label"].eq(True).sum() == min(4, labels.eq(True).sum())
    assert shown["label"].isna().sum() == min(4, labels.isna().sum()) > 0
    assert shown["row"].max() > 6  # drawn, not the first ones
    settings = artifact.table("settings").set_index("setting")["value"]
    assert settings["max_new_tokens"] == "6"


def test_planning_and_reading_do_not_import_torch():
    code = "import sys, gnomon.steps.generate, gnomon.steps.capture; assert 'torch' not in sys.modules; print('light')"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout.strip() == "light", done.stderr


# ---------------------------------------------------------------- before any work


def planning(spec: ModelSpec | None = None, **inputs: Any) -> Planning:
    return Planning(spec or spec_of(), 0, inputs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"capture": {"sites": "resid_pst.*"}}, "did you mean"),
        ({"capture": {"sites": "resid_post.9"}}, "layers 0 to 3"),
        ({"task": "own_tasks:Pick", "temperatures": [0.7]}, "scores choices"),
        ({"task": "own_tasks:GuessTheNumber", "labels_from": "x"}, "episode"),
        ({"n": 5, "splits": "4500/500/500"}, "5500 examples"),
        ({"max_new_tokens": 250}, r"the model reads 256 at most; set max_length: 6"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(options, said):
    with pytest.raises(UserError, match=said):
        Generate(**{"task": "own_tasks:Letters", "n": 12, **options}).check(planning())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": None}, "no task"),
        ({"task": "own_tasks:Letters", "capture": {"sites": "embed", "positions": ["lst"]}}, "did you mean 'last'"),
        ({"task": "own_tasks:Letters", "temperatures": [1, 1]}, "each once"),
        ({"append": ["a", "a"]}, "each generation once"),
    ],
)
def test_options_that_contradict_themselves_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Generate(**options)


def test_an_answer_position_needs_a_task_that_says_where_the_answer_is(monkeypatch):
    from own_tasks import Letters as Own

    monkeypatch.setattr(Own, "grade", lambda self, example, text: replace(_bare, label=True))
    step = letters(capture={"sites": "embed", "positions": ["answer"]})
    with pytest.raises(UserError, match="does not say where its answer stands"):
        step.check(planning())


_bare = Letters().grade(Example("", "", ""), "")


def test_the_cost_is_what_is_written(tmp_path):
    capture = {"sites": ["resid_post.*", "z.1", "mlp_post.0", "embed"], "positions": ["last_prompt", "all"],
               "dtype": "float16"}  # fmt: skip
    step = letters(n=14, samples=2, temperatures=[1.0], capture=capture)
    cost = step.cost(planning())
    artifact = made(step, tmp_path, spec_of())
    table = artifact.table("generations")
    assert cost.rows == len(table) == 28
    assert cost.prompt_tokens == table["prompt_len"].sum()
    assert cost.new_tokens == 28 * 6
    assert cost.splits == {s: (table["split"] == s).sum() for s in ("fit", "tune", "test")}
    written = sum(a.values.dtype.itemsize * a.values.shape[0] * a.values.shape[1]
                  for a in (artifact.activations(s, p) for s, p in artifact.sites()))  # fmt: skip
    said = sum(len(line["token_ids"]) - line["prompt_len"] for line in table.to_dict("records"))
    widths = (4 * 32 + 32 + 48 + 32) * 2
    assert written == widths * (28 + table["prompt_len"].sum() + said)
    tables = cost.disk_bytes - written - widths * (28 * 6 - said)
    assert 0 < tables < 500 * 28 + 4 * (cost.prompt_tokens + cost.new_tokens)
    assert {f"{s}@{p}" for s, p in artifact.sites()} == set(cost.sites)


def test_the_identity_follows_options_data_and_source(tmp_path, monkeypatch):
    data = tmp_path / "data.txt"
    data.write_text("one")
    (tmp_path / "filed.py").write_text(
        f"from own_tasks import Letters\nclass Filed(Letters):\n    def files(self): return [{str(data)!r}]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    step = Generate(task="filed:Filed", n=3)
    first = step.identity()
    assert step.identity() == first
    data.write_text("two")
    assert step.identity() != first
    assert Generate(task="filed:Filed", n=4).identity() != step.identity()
    assert Generate(task={"sums": {"digits": 2}}).identity() != Generate(task={"sums": {"digits": 3}}).identity()
    json.dumps(step.identity())


# ---------------------------------------------------------------- the real model


def test_smollm2_answers_sums(smollm2, tmp_path, monkeypatch):
    spec = ModelSpec("smollm2-135m", device="cpu")
    monkeypatch.setitem(sys.modules["gnomon.model_spec"]._LOADED, spec, smollm2)
    capture = {"sites": ["resid_post.10", "resid_post.29"], "positions": ["last_prompt", "last", "answer"]}
    step = Generate(task={"sums": {"digits": 1}}, n=6, batch_size=3, capture=capture)
    artifact = made(step, tmp_path, spec)
    table = artifact.table("generations")
    assert table["label"].eq(True).sum() >= 3
    for line in table.to_dict("records"):
        ids = line["token_ids"].tolist()
        whole = smollm2.forward([ids], read=["resid_post.29"]).values("resid_post.29").numpy()
        for position, at in (("last_prompt", line["prompt_len"] - 1), ("last", -1), ("answer", line["answer_token"])):
            if pd.notna(at):
                view = artifact.activations("resid_post.29", position).row(line["row"])
                assert np.abs(view - whole[int(at)]).max() < 2e-5 * np.abs(whole).max()
        if pd.notna(line["answer_token"]):
            assert smollm2.decode(ids[: int(line["answer_token"]) + 1]).endswith(line["answer"])
