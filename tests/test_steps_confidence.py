"""confidence: what is asked, what is read against plain transformers, positions, resuming, counts, refusals, report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gnomon.blocks import Text
from gnomon.errors import UserError
from gnomon.report.resolve import render_text
from gnomon.rows import confidence_counts as counts
from gnomon.rows.confidence_prompts import FILLERS, ask_about, wording
from gnomon.rows.confidence_scale import Bins, read, scale, scale_of
from gnomon.rows.confidence_table import CONFIDENCE
from gnomon.rows.letters import letter_variants
from gnomon.rows.stating import parse_percent
from gnomon.rows.stating_samples import OUTSIDE, alike, answer_in
from gnomon.step import Cost, Inputs, ModelSpec, Planning
from gnomon.steps.confidence import Confidence
from gnomon.steps.generate import Generate
from gnomon.store import Artifact
from tests.own_tasks import Letters, Pick
from tests.stepping import data_files, made
from tests.tiny import tiny_folder, tiny_model

FAMILIES = ("llama", "gpt2")
ROOM = {"llama": {"max_position_embeddings": 512}, "gpt2": {"n_positions": 512}}
EVERY = ("last_prompt", "last", "answer", "response", "all")
KEPT = {"sites": ["embed", "resid_post.*"], "positions": list(EVERY)}


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """`own_tasks:Letters` is importable, as in a folder where a study is run from."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def spec_of(family: str) -> ModelSpec:
    return ModelSpec(str(tiny_folder(family, **ROOM[family])), device="cpu")


def model_of(family: str) -> Any:
    return tiny_model(family, **ROOM[family])


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> dict[str, Artifact]:
    """Answers of two families: two samples of 14 questions, some of them unparsed."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    root = tmp_path_factory.mktemp("base")
    step = Generate(task="own_tasks:Letters", n=14, samples=2, shard_rows=9, batch_size=4)
    return {family: made(step, root / family, spec_of(family)) for family in FAMILIES}


def asked(base: Artifact, where: Path, family: str = "llama", name: str = "", **options: Any) -> Artifact:
    return made(Confidence(**options), where, spec_of(family), name=name, inputs={"generations": [base]})


@pytest.fixture(scope="module")
def passes(base, tmp_path_factory) -> dict[str, Artifact]:
    """A pass `self` of both families with everything captured."""
    root = tmp_path_factory.mktemp("passes")
    return {f: asked(base[f], root / f, f, capture=KEPT, shard_rows=8, batch_size=3) for f in FAMILIES}


# ---------------------------------------------------------------- the scale


def test_the_default_scale_is_the_stated_one():
    s = scale("self", None, None)
    assert [100 * m for m in s.midpoints] == [2.5, 7.5, 15, 30, 50, 70, 85, 95]
    assert s.flat == pytest.approx(0.44375)
    assert s.letters == tuple("ABCDEFGH")
    assert s.listing(False).splitlines()[0] == "A. 0-5%"
    assert s.listing(True).splitlines()[0] == "A. 90-100%"
    assert (s.letter(0, False), s.letter(0, True), s.letter(7, True)) == ("A", "H", "A")


def test_a_bias_to_a_letter_cancels_over_the_orders_and_a_belief_does_not():
    s, rng = scale("self", None, None), np.random.default_rng(0)
    bias, belief = rng.normal(size=(5, 8)), rng.normal(size=(5, 8))
    flat = read(s, {r: (bias, np.ones(5)) for r in (False, True)})
    assert flat.normal is not None
    assert flat.reversed is not None
    # the same letters in both orders: what one order says of a bin the other says of its mirror image
    np.testing.assert_allclose(flat.probs, flat.probs[:, ::-1])
    assert np.abs(flat.normal - flat.reversed).max() > 0.05
    held = read(s, {r: (belief[:, s.shown(r)], np.ones(5)) for r in (False, True)})
    np.testing.assert_allclose(held.normal, held.reversed)
    np.testing.assert_allclose(held.confidence, s.probabilities(belief) @ np.array(s.midpoints))
    np.testing.assert_array_equal(held.best, belief.argmax(-1))


def test_a_flat_distribution_gives_the_mean_midpoint_whatever_the_bins():
    for bins in (None, Bins(edges=(0, 50, 100)), Bins(texts=("no", "maybe", "yes"), midpoints=(0, 40, 100))):
        s = scale("self", bins, None)
        assert read(s, {False: (np.zeros((1, len(s))), np.ones(1))}).confidence[0] == pytest.approx(s.flat)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bins": {"edges": [0, 50, 40]}}, "ascending"),
        ({"bins": {"edges": [0, 50, 120]}}, "ascending"),
        ({"bins": {"edges": [0, 100]}}, "at least two bins"),
        ({"bins": {"texts": ["low", "high"]}}, "without edges"),
        ({"bins": {"texts": ["a", "a"], "midpoints": [0, 100]}}, "differ"),
        ({"bins": {"edges": [0, 50, 100], "texts": ["a", "b", "c"]}}, "midpoint for each"),
        ({"letters": "ABC"}, "8 different ones"),
        ({"letters": "AABCDEFG"}, "different"),
        ({"letters": "ABCDEFGH", "scoring": "likelihood"}, "one of them"),
        ({"ask": "p_true", "bins": {"edges": [0, 10, 50, 100]}}, "two bins"),
        ({"ask": "consistency", "capture": {"sites": "embed"}}, "capture belongs to"),
        ({"ask": "self", "samples": 4}, "samples belongs to consistency"),
        ({"ask": "verbalised", "orders": "normal"}, "orders belongs to"),
        ({"only": []}, "splits"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Confidence(**options)


# ---------------------------------------------------------------- what is asked


def test_rows_are_the_generations_own_and_the_question_follows_the_answer(base, passes):
    for family in FAMILIES:
        rows, table = base[family].table("generations").set_index("row"), passes[family].table("confidence")
        assert list(table.columns) == CONFIDENCE.names
        kept = rows.loc[rows["label"].notna(), :]
        assert table["row"].tolist() == sorted(kept.index)
        assert 0 < len(table) < len(rows), "the base has parsed and unparsed answers"
        model = model_of(family)
        for line in table.to_dict("records"):
            own = rows.loc[line["row"]]
            assert (line["example_id"], line["split"], line["sample"]) == (
                own["example_id"],
                own["split"],
                own["sample"],
            )
            assert line["prompt"].startswith(own["prompt"] + own["text"] + "\n\nHow sure are you")
            assert line["prompt"].endswith("H. 90-100%\nAnswer:")
            ids = line["token_ids"].tolist()
            assert ids[: line["prompt_len"]] == model.tokenize(line["prompt"])
            assert model.decode(ids[line["prompt_len"] :]).strip() == line["text"]
            assert line["confidence_token"] == line["prompt_len"] - 1


def test_the_answer_token_writes_the_answers_last_character(base, passes):
    model, rows = model_of("llama"), base["llama"].table("generations").set_index("row")
    for line in passes["llama"].table("confidence").to_dict("records"):
        own, ids, at = rows.loc[line["row"]], line["token_ids"].tolist(), int(line["answer_token"])
        # the answer is one letter, which ends the text up to and with its token, and not the text before
        ends = len(own["prompt"]) + own["text"].index(own["answer"]) + 1
        assert len(model.decode(ids[:at])) < ends <= len(model.decode(ids[: at + 1]))


def chat_line(text: str = " It is Paris.", begun: str = "", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of France?"}]
    if begun:
        messages.append({"role": "assistant", "content": begun})
    return {
        "row": 0, "prompt": "rendered", "messages": json.dumps(messages), "prompt_len": 1, "token_ids": [1, 2],
        "text": text, "finish": "eos", "answer": "Paris", "label": True, "answer_token": None, "meta": "{}", **changes,
    }  # fmt: skip


def test_a_chat_gets_the_answer_as_its_own_turn_and_the_question_as_the_next():
    model = model_of("llama")
    words = wording("self", None, "conversation", scale("self", None, None))
    for begun in ("", "The capital of France?"):
        out = ask_about(model.tokenizer, chat_line(begun=begun), words)
        said = f"<|im_start|>assistant\n{begun} It is Paris.<|im_end|>\n<|im_start|>user\nHow sure are you"
        assert said in out.prompt
        assert out.prompt.endswith("Answer with the letter only.<|im_end|>\n<|im_start|>assistant\n")
        assert out.answer_token is not None
        from gnomon.models.tokens import decode

        before = decode(model.tokenizer, out.tokens[: out.answer_token], special=True)
        upto = decode(model.tokenizer, out.tokens[: out.answer_token + 1], special=True)
        assert upto.removeprefix("<|endoftext|>").rstrip().endswith("Paris.")
        assert len(before.rstrip()) < len(upto.rstrip())


def test_alone_quotes_question_and_answer_and_another_gets_no_answer():
    tokenizer = model_of("llama").tokenizer
    bins = scale("self", None, None)
    own = ask_about(tokenizer, chat_line(), wording("self", None, "alone", bins))
    other = ask_about(tokenizer, chat_line(), wording("other", None, "alone", bins))
    assert "Question: Capital of France?\nYour answer: It is Paris.\n\nHow sure" in own.prompt
    assert "Be brief." in own.prompt
    assert "Paris" not in other.prompt
    assert "random educated person" in other.prompt
    assert own.answer_token is None
    named = ask_about(
        tokenizer, chat_line(meta=json.dumps({"question": "Which city?"})), wording("self", None, "alone", bins)
    )
    assert "Question: Which city?" in named.prompt


def test_the_users_own_question_is_filled_in_and_takes_the_list_where_it_says():
    words = wording("self", "{options}\n--\nOf {question} -> {answer}: sure?", "alone", scale("self", None, None))
    text = words.text("Q {answer}", "A", chat=False, reverse=True)
    assert text.startswith("A. 90-100%\n")
    assert text.count("90-100%") == 1
    assert text.endswith("sure?\nAnswer:")


# ---------------------------------------------------------------- what is read


def by_hand(model: Any, ids: list[int]) -> np.ndarray:
    """log p of the next token `[d_vocab]` float64, by the untouched transformers model, one text at a time."""
    import torch

    with torch.no_grad():
        return torch.log_softmax(model.hf(torch.tensor([ids])).logits[0, -1].double(), -1).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_confidence_equals_a_direct_computation(passes, family):
    model, table = model_of(family), passes[family].table("confidence")
    middle = np.array([2.5, 7.5, 15, 30, 50, 70, 85, 95]) / 100
    for line in table.iloc[::5].to_dict("records"):
        listed = [
            f"{a}-{b}%" for a, b in ((0, 5), (5, 10), (10, 20), (20, 40), (40, 60), (60, 80), (80, 90), (90, 100))
        ]
        head = line["prompt"].partition("\nA. ")[0]
        probs, mass = {}, []
        for reverse in (False, True):
            order = listed[::-1] if reverse else listed
            text = head + "\n" + "\n".join(f"{c}. {t}" for c, t in zip("ABCDEFGH", order, strict=True)) + "\nAnswer:"
            logp = by_hand(model, model.tokenize(text))
            p = np.array([np.exp(logp[letter_variants(model, c)]).sum() for c in "ABCDEFGH"])
            mass.append(p.sum())
            probs[reverse] = (p[::-1] if reverse else p) / p.sum()
        np.testing.assert_allclose(line["normal"], probs[False] @ middle, rtol=1e-5)
        np.testing.assert_allclose(line["reversed"], probs[True] @ middle, rtol=1e-5)
        np.testing.assert_allclose(line["confidence"], (probs[False] + probs[True]) @ middle / 2, rtol=1e-5)
        np.testing.assert_allclose(line["probs"], (probs[False] + probs[True]) / 2, rtol=1e-4)
        np.testing.assert_allclose(line["mass"], np.mean(mass), rtol=1e-4)
        assert abs(line["normal"] - line["reversed"]) > 0.01, "a random model has a bias to letters"


def test_texts_are_scored_like_a_continuation(base, tmp_path):
    found = asked(base["llama"], tmp_path, scoring="likelihood", batch_size=5, content_free=False,
                  capture={"sites": "resid_post.2", "positions": ["last"]})  # fmt: skip
    model, table, bins = model_of("llama"), found.table("confidence"), scale("self", None, None, "likelihood")
    assert table["text"].nunique() > 2
    for line in table.iloc[::4].to_dict("records"):
        assert line["prompt"].endswith("80-90%\n90-100%\nAnswer:")
        prompt = model.tokenize(line["prompt"])
        tails = [model.encode_text(" " + text) for text in bins.texts]
        mean = np.array([x.mean() for x in model.logprobs([prompt + t for t in tails], [len(prompt)] * 8)], np.float64)
        p = np.exp(mean - mean.max())
        assert line["normal"] == pytest.approx(float(p @ np.array(bins.midpoints) / p.sum()), rel=1e-3)
        best = tails[bins.texts.index(line["text"])]
        assert line["token_ids"].tolist() == prompt + best
        alone = model.forward([prompt + best], read=["resid_post.2"]).values("resid_post.2")[-1]
        np.testing.assert_allclose(found.activations("resid_post.2@last").row(line["row"]), alone.numpy(), atol=2e-4)


def test_one_order_alone_is_that_order(base, passes, tmp_path):
    whole = passes["gpt2"].table("confidence")
    for order in ("normal", "reversed"):
        one = asked(base["gpt2"], tmp_path / order, "gpt2", orders=order, content_free=False).table("confidence")
        np.testing.assert_allclose(one["confidence"], whole[order], atol=1e-5)
        assert one["normal" if order == "reversed" else "reversed"].isna().all()


def test_p_true_is_the_probability_of_true(base, tmp_path):
    found = asked(base["llama"], tmp_path, ask="p_true", context="alone")
    line, model = found.table("confidence").iloc[0], model_of("llama")
    assert line["prompt"].endswith("Is your answer true or false?\nA. False\nB. True\nAnswer:")
    logp = by_hand(model, model.tokenize(line["prompt"]))
    a, b = (np.exp(logp[letter_variants(model, c)]).sum() for c in "AB")
    assert line["normal"] == pytest.approx(b / (a + b), rel=1e-4)
    assert pd.isna(line["answer_token"])
    assert scale_of(found).texts == ("False", "True")


# ---------------------------------------------------------------- activations


@pytest.mark.parametrize("family", FAMILIES)
def test_every_position_holds_the_activations_of_its_token(passes, family):
    found, model = passes[family], model_of(family)
    for line in found.table("confidence").iloc[::6].to_dict("records"):
        ids = line["token_ids"].tolist()
        alone = model.forward([ids], read=["embed", "resid_post.1", "resid_post.3"])
        for site in ("embed", "resid_post.1", "resid_post.3"):
            x = alone.values(site).numpy()
            places = {
                "last_prompt": line["confidence_token"],
                "last": len(ids) - 1,
                "answer": int(line["answer_token"]),
            }
            for position, at in places.items():
                np.testing.assert_allclose(found.activations(site, position).row(line["row"]), x[at], atol=2e-4)
            np.testing.assert_allclose(found.activations(site, "all").row(line["row"]), x, atol=2e-4)
            np.testing.assert_allclose(found.activations(site, "response").row(line["row"])[0], x[-1], atol=2e-4)
    assert found.activations("embed@all").rows.tolist() == found.table("confidence")["row"].tolist()


class Stopping:
    """An executor that is killed after some shards, done in reverse order."""

    def __init__(self, shards: int) -> None:
        self.shards = shards

    def map(self, worker: Any, shards: Any, watch: Any = None) -> Iterator[tuple[Any, Any]]:
        worker.open()
        for shard in list(shards)[::-1][: self.shards]:
            yield shard, worker(shard)
        raise KeyboardInterrupt


def test_killed_and_resumed_is_byte_equal(base, passes, tmp_path):
    step = Confidence(capture=KEPT, shard_rows=8, batch_size=3)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            made(step, tmp_path, spec_of("llama"), inputs={"generations": [base["llama"]]}, executor=Stopping(1))
    partial = tmp_path / ".confidence.partial" / "_done"
    assert len(list(partial.glob("*.json"))) == 2
    resumed = made(step, tmp_path, spec_of("llama"), inputs={"generations": [base["llama"]]})
    assert data_files(resumed) == data_files(passes["llama"])
    assert len(data_files(resumed)) > 40


def test_float16_is_kept_as_float16(base, passes, tmp_path):
    small = asked(base["llama"], tmp_path, capture={"sites": "resid_post.0", "positions": ["all"], "dtype": "float16"})
    a, b = small.activations("resid_post.0@all"), passes["llama"].activations("resid_post.0@all")
    assert a.values.dtype == np.float16
    np.testing.assert_allclose(np.asarray(a.values, np.float32), np.asarray(b.values), rtol=2e-3, atol=2e-3)


def test_prompts_that_are_alike_run_once_and_serve_all_their_rows(base, tmp_path):
    found = asked(base["llama"], tmp_path, shard_rows=100, capture={"sites": "resid_post.0", "positions": ["last"]})
    table = found.table("confidence")
    info = json.loads((found.path / "_done" / "00000.json").read_text())["info"]
    assert info["prompts"] * 2 == info["rows"] == len(table), "two greedy samples of a question are alike"
    pairs = table.groupby("example_id")["confidence"].nunique()
    assert (pairs == 1).all()
    assert len(found.activations("resid_post.0@last")) == len(table)


# ---------------------------------------------------------------- other ways to say it


def test_percents_in_words():
    cases = {
        "85%": 0.85, " 85": 0.85, "I am 90 percent sure.": 0.9, "80 out of 100": 0.8, "8 out of 10": 0.8, "9/10": 0.9,
        "0.85": 0.85, "ninety-five percent": 0.95, "one hundred": 1.0, "80-90%": 0.85,
        "between 60 and 70 percent": 0.65, "99.99%": 0.9999, "0": 0.0, "8 in 10": 0.8, "1": 0.01, "100": 1.0,
        "not sure": None, "": None, "150%": None, "1000": None, "-5": None, "very likely": None, "12 out of 10": None,
    }  # fmt: skip
    found = {text: parse_percent(text) for text in cases}
    assert found == {text: None if v is None else pytest.approx(v) for text, v in cases.items()}


def test_a_verbalised_number_is_what_the_model_writes(base, tmp_path):
    found = asked(base["gpt2"], tmp_path, "gpt2", ask="verbalised", max_new_tokens=5,
                  capture={"sites": "resid_post.1", "positions": list(EVERY)})  # fmt: skip
    model, table = model_of("gpt2"), found.table("confidence")
    for line in table.iloc[::8].to_dict("records"):
        said = model.generate([model.tokenize(line["prompt"])], max_new_tokens=5, stop=("\n",)).rows[0]
        assert line["text"] == said.text
        value = parse_percent(said.text)
        assert (None if pd.isna(line["confidence"]) else line["confidence"]) == value
        ids = line["token_ids"].tolist()
        x = model.forward([ids], read=["resid_post.1"]).values("resid_post.1").numpy()
        np.testing.assert_allclose(found.activations("resid_post.1@answer").row(line["row"]),
                                   x[int(line["answer_token"])], atol=2e-4)  # fmt: skip
        np.testing.assert_allclose(found.activations("resid_post.1@all").row(line["row"]), x, atol=2e-4)
    totals = found.table("totals").set_index("name")["value"]
    assert totals["unparsed"] == table["confidence"].isna().sum() > 0


def test_consistency_is_the_share_of_samples_that_agree(base, tmp_path):
    found = asked(base["llama"], tmp_path / "hot", ask="consistency", samples=4, temperature=0.4, batch_size=6)
    rows, task = base["llama"].table("generations").set_index("row"), Letters()
    shares = []
    for line in found.table("confidence").to_dict("records"):
        own, meta = rows.loc[line["row"]], json.loads(line["meta"])
        answers = [task.grade(None, text).answer for text in meta["texts"]]  # type: ignore[arg-type]
        known = [a.lower() for a in answers if a is not None]
        assert meta["read"] == len(known)
        if known:
            shares.append(np.mean([a == own["answer"].lower() for a in known]))
            assert line["confidence"] == pytest.approx(shares[-1])
        else:
            assert pd.isna(line["confidence"])
        assert line["token_ids"].tolist() == own["token_ids"][: own["prompt_len"]].tolist()
    assert len(set(shares)) > 2
    cold = asked(base["llama"], tmp_path / "cold", ask="consistency", samples=3, temperature=0.001)
    assert (cold.table("confidence")["confidence"] == 1).all(), "near temperature 0 every sample is the greedy answer"
    assert not cold.has("content_free")


def test_samples_are_the_same_in_any_batch(base, tmp_path):
    one = asked(base["gpt2"], tmp_path / "a", "gpt2", ask="consistency", samples=3, batch_size=2, shard_rows=5)
    two = asked(base["gpt2"], tmp_path / "b", "gpt2", ask="consistency", samples=3, batch_size=16, shard_rows=50)
    assert one.table("confidence")["meta"].tolist() == two.table("confidence")["meta"].tolist()


def test_samples_are_not_the_draws_that_made_the_answer(tmp_path):
    hot = made(Generate(task="own_tasks:Letters", n=8, temperatures=[1.0]), tmp_path, spec_of("llama"))
    own = hot.table("generations").set_index("row")["text"]
    for line in asked(hot, tmp_path, ask="consistency", samples=2).table("confidence").to_dict("records"):
        assert own[line["row"]] not in json.loads(line["meta"])["texts"]


def test_samples_of_a_choice_are_read_as_one_of_the_options():
    line = {"choices": ["Rome", "Paris", "New York"], "label": True, "text": "Paris"}
    task = Pick()
    assert answer_in(task, line, " Paris is it") == alike("Paris")
    assert answer_in(task, line, "the answer is C") == alike("New York")
    assert answer_in(task, line, "no idea") is None
    assert answer_in(task, line, " ") is None
    assert answer_in(task, line, " Karakorum.") == OUTSIDE
    assert alike("-5") != alike("5")
    assert alike("2,125.0") == alike("2125")
    assert alike("Nuku'alofa") == alike("nukualofa")


def test_choices_are_asked_with_the_chosen_one(tmp_path):
    made_ = made(Generate(task="own_tasks:Pick", n=8), tmp_path, spec_of("llama"))
    rows = made_.table("generations").set_index("row")
    table = asked(made_, tmp_path).table("confidence")
    assert len(table) == 8
    for line in table.to_dict("records"):
        own = rows.loc[line["row"]]
        assert f"{own['prompt']} {own['text']}\n\nHow sure" in line["prompt"]
        assert model_of("llama").decode(line["token_ids"][: int(line["answer_token"]) + 1]).endswith(own["text"])
    again = asked(made_, tmp_path / "again", ask="consistency", samples=2)
    assert len(again.table("confidence")) == 8


# ---------------------------------------------------------------- counting


def planted(n: int, gap: float, seed: int = 0) -> pd.DataFrame:
    """Two rows a group; confidence of right answers lies `gap` above that of wrong ones."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n // 2), 2)
    label = rng.random(n // 2)[groups] < 0.4
    c = np.clip(0.5 + gap * (label - 0.4) + 0.1 * rng.normal(size=n), 0, 1)
    split = np.array(["fit", "fit", "tune", "test", "test"])[groups % 5]
    probs = [np.eye(8)[min(int(v * 8), 7)] for v in c]
    return pd.DataFrame({
        "row": np.arange(n), "group": groups.astype(str), "split": split, "confidence": c, "probs": probs, "mass": 0.9,
        "normal": c + 0.1, "reversed": c - 0.1, "answer_token": 3.0, "label": label.astype(float),
    })  # fmt: skip


def test_a_planted_signal_is_found_and_its_absence_too():
    for gap, low, high in ((0.2, 0.85, 1.0), (0.0, 0.35, 0.65)):
        rows = planted(400, gap)
        table = counts.scores(rows, 0).to_pandas().set_index(["split", "control"])
        test, null = table.loc[("test", ""), :], table.loc[("test", "shuffled"), :]
        assert low < test["value"] < high
        assert (test["ci_low"] > 0.5) == (gap > 0)
        assert (test["p"] < 0.01) == (gap > 0)
        assert null["ci_low"] < 0.5 < null["ci_high"]
        said = counts.stated(rows).to_pandas().set_index(["split", "label"])
        difference = said.loc[("all", "difference"), :]
        assert (difference["ci_low"] > 0) == (gap > 0)
        right = rows.loc[rows["label"] == 1, "confidence"].mean()
        assert said.loc[("all", "correct"), "mean"] == pytest.approx(right)


def test_auroc_equals_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rows = planted(300, 0.05, 3)
    table = counts.scores(rows, 0).to_pandas().set_index(["split", "control"])
    test = rows.loc[rows["split"] == "test", :]
    assert table.loc[("test", ""), "value"] == pytest.approx(roc_auc_score(test["label"], test["confidence"]))


def test_the_order_effect_has_its_size_and_interval():
    table = counts.order(planted(200, 0.1)).to_pandas().set_index("name")
    assert table.loc["effect", "value"] == pytest.approx(0.2)
    assert table.loc["effect", "ci_low"] == pytest.approx(0.2)
    assert table.loc["correlation", "value"] == pytest.approx(1.0)


def test_thin_classes_get_no_interval_and_say_why():
    table = counts.scores(planted(40, 0.2), 0).to_pandas().set_index(["split", "control"])
    assert pd.isna(table.loc[("test", ""), "ci_low"])
    assert "are needed for an interval" in table.loc[("test", ""), "note"]


def test_rows_without_an_answer_are_skipped_and_counted(base, passes):
    rows = base["gpt2"].table("generations")
    lost = passes["gpt2"].table("skipped")
    assert lost["n"].sum() == rows["label"].isna().sum() > 0
    assert set(lost["reason"]) <= {"the answer could not be parsed", "the answer is empty"}


def test_content_free_prompts_stand_beside(passes):
    free, model = passes["llama"].table("content_free").set_index("filler"), model_of("llama")
    assert set(free.index) == {*FILLERS, "mean"}
    assert free.loc["N/A", "prompt"].startswith("N/A N/A\n\nHow sure")
    bins, middle = "ABCDEFGH", np.array([2.5, 7.5, 15, 30, 50, 70, 85, 95]) / 100
    logp = by_hand(model, model.tokenize(free.loc["N/A", "prompt"]))
    p = np.array([np.exp(logp[letter_variants(model, c)]).sum() for c in bins])
    assert free.loc["N/A", "normal"] == pytest.approx(p @ middle / p.sum(), rel=1e-4)
    assert free.loc["mean", "confidence"] == pytest.approx(free.loc[list(FILLERS), "confidence"].mean())
    table = passes["llama"].table("bins")
    np.testing.assert_allclose(table["content_free"], free.loc["mean", "probs"])


def test_only_asks_these_splits_and_keeps_their_rows(base, passes, tmp_path):
    few = asked(base["llama"], tmp_path, only=["test"]).table("confidence")
    whole = passes["llama"].table("confidence").set_index("row")
    assert set(few["split"]) == {"test"}
    assert few["row"].tolist() == whole.index[whole["split"] == "test"].tolist()
    np.testing.assert_allclose(few["confidence"], whole.loc[few["row"], "confidence"], atol=1e-5)


def test_test_rows_are_in_the_ledger(passes):
    ledger = passes["llama"].meta["ledger"]
    assert [entry["split"] for entry in ledger] == ["test"]
    assert "self" in ledger[0]["why"]


# ---------------------------------------------------------------- planning


def planning(family: str = "llama", task: Any = "own_tasks:Letters", context: bool = True, **cost: Any) -> Planning:
    source = Cost(**{"rows": 28, "prompt_tokens": 400, "new_tokens": 168, "splits": {"fit": 14, "test": 14}, **cost})
    spec = spec_of(family) if context else ModelSpec(str(tiny_folder(family)), device="cpu")
    return Planning(spec, 0, {"generations": source}, {"generations": {"task": task}})


@pytest.mark.parametrize(
    ("options", "plan", "said"),
    [
        ({"letters": ["yes", "no", "AB", "C", "D", "E", "F", "G"]}, {}, "no single token"),
        ({}, {"task": "own_tasks:GuessTheNumber"}, "plays rounds"),
        ({}, {"context": False, "prompt_tokens": 28 * 200}, "reads 256 at most"),
        ({"ask": "consistency"}, {"task": None}, "needs the generation's task"),
        ({"ask": "consistency"}, {"task": "mbpp"}, "asks for programs"),
        ({"capture": {"sites": "resid_post.9"}}, {}, "layers 0 to 3"),
    ],
)
def test_planning_refuses_what_cannot_work(options, plan, said):
    with pytest.raises(UserError, match=said):
        Confidence(**options).check(planning(**plan))


def test_prompts_that_do_not_fit_are_refused_before_any_work(base, tmp_path):
    long = "How sure are you of all this? " * 20
    with pytest.raises(UserError, match="the model reads 512 at most"):
        asked(base["llama"], tmp_path, question=long)
    assert not list(tmp_path.glob(".confidence.partial/_done/*"))


def test_the_cost_is_near_what_it_takes(base, passes):
    rows = base["llama"].table("generations")
    new = sum(len(t) for t in rows["logprobs"])
    plan = planning(rows=28, prompt_tokens=int(rows["prompt_len"].sum()), new_tokens=new)
    found, table = Confidence(capture=KEPT).cost(plan), passes["llama"].table("confidence")
    free = [len(model_of("llama").tokenize(text)) for text in passes["llama"].table("content_free")["prompt"][:3]]
    heads = [len(model_of("llama").tokenize(text.partition("A. 0")[0])) for text in table["prompt"]]  # run once
    real = 28 / len(table) * (2 * table["prompt_len"].sum() - sum(heads)) + 2 * sum(free)
    assert found.forward_tokens == pytest.approx(real, rel=0.15)
    files = passes["llama"].meta["files"]
    held = sum(f["bytes"] for name, f in files.items() if name.startswith("activations/"))
    assert found.disk_bytes == pytest.approx(28 / len(table) * held, rel=0.2)
    assert "resid_post.3@answer" in found.sites
    assert Confidence(only="test").cost(plan).rows == 14
    more, prompts = Confidence(ask="consistency", samples=5).cost(plan), plan.inputs["generations"].prompt_tokens
    assert more.new_tokens == 28 * 5 * Letters().max_new_tokens
    assert prompts < more.forward_tokens - more.new_tokens <= 2 * prompts


def test_rounds_are_refused_where_the_plan_could_not_see_them(base, tmp_path, monkeypatch):
    table = base["llama"].table("generations")
    table["round"] = 1
    monkeypatch.setattr(Artifact, "table", lambda self, name, columns=None: table)
    with pytest.raises(UserError, match="several rounds"):
        asked(base["llama"], tmp_path)


# ---------------------------------------------------------------- the report


@pytest.mark.parametrize("ask", ["self", "other", "p_true", "verbalised", "consistency"])
def test_the_section_reads_and_every_number_resolves(base, tmp_path, ask):
    options: dict[str, Any] = {"samples": 2} if ask == "consistency" else {}
    found = asked(base["llama"], tmp_path, ask=ask, **options)
    section = Confidence(ask=ask, **options).summary(found)
    texts = [(b.kind, render_text(b, found)) for b in section if isinstance(b, Text)]
    assert texts[0][0] == "headline"
    assert any(kind == "method" for kind, _ in texts)
    assert all("{" not in text for _, text in texts)
    if ask in ("self", "other"):
        assert any("44.4%" in text for kind, text in texts if kind == "control")
        assert any("hardly moves" in text for kind, text in texts if kind == "warning")
        assert any("moves confidence by" in text for kind, text in texts if kind == "warning")


def test_a_study_runs_passes_side_by_side_and_keeps_them(tmp_path):
    import gnomon

    study = {
        "model": str(tiny_folder("llama", **ROOM["llama"])), "device": "cpu",
        "steps": [
            {"generate": {"task": "own_tasks:Letters", "n": 10}},
            {"confidence": {"ask": "self", "capture": {"sites": "resid_post.1"}}, "as": "self"},
            {"confidence": {"ask": "other"}, "as": "other"},
        ],
    }  # fmt: skip
    out = gnomon.run_study(study, out=tmp_path / "study", log_level="error")
    from gnomon.rows.signals import passes as of_inputs
    from gnomon.rows.signals import signals

    inputs = Inputs({"generations": [out["generate"]], "confidence": [out["self"], out["other"]]})
    assert set(of_inputs(inputs)) == {"self", "other"}
    joined, kinds = signals(inputs)
    assert {"self", "other"} <= {s.name for s in kinds}
    np.testing.assert_allclose(joined.set_index("row")["self"].dropna(), out["self"].table("confidence")["confidence"])
    assert "How sure are you" in (tmp_path / "study" / "report.html").read_text()
    before = out["self"].fingerprint
    again = gnomon.run_study(study, out=tmp_path / "study", log_level="error")
    assert again["self"].fingerprint == before
