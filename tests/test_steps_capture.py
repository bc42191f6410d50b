"""capture: what generate would have kept, forced from the rows' tokens; like texts once; foreign prompts refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gnomon.blocks import Text
from gnomon.errors import UserError
from gnomon.report.resolve import render_text
from gnomon.rows.force import Forcer, needed, same_prompts
from gnomon.rows.gather import token_order
from gnomon.step import Cost, Inputs, ModelSpec, Planning
from gnomon.steps.capture import Capture
from gnomon.steps.generate import Generate
from tests.stepping import InTurn, data_files, made
from tests.tiny import tiny_folder, tiny_model

ALL = ("last_prompt", "last", "answer", "response", "all")
SITES = ("embed", "resid_pre.1", "resid_mid.2", "resid_post.*", "attn_out.0", "mlp_out.3", "mlp_post.2", "z.1")


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def spec_of(family: str = "llama", **changes: Any) -> ModelSpec:
    return ModelSpec(str(tiny_folder(family, **changes)), device="cpu")


def source(root: Path, family: str = "llama", **options: Any) -> Any:
    step = Generate(task="own_tasks:Letters", **{"n": 14, "shard_rows": 6, "batch_size": 4, **options})
    return made(step, root, spec_of(family))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_capture_gives_what_the_generation_kept(tmp_path, family):
    sampled = {"samples": 2, "temperatures": [1.0], "max_new_tokens": 9, "stop": ["e"]}
    generation = source(tmp_path, family, capture={"sites": list(SITES), "positions": list(ALL)}, **sampled)
    step = Capture(sites=list(SITES), positions=list(ALL), batch_tokens=100)
    later = made(step, tmp_path, spec_of(family), inputs={"generations": [generation]})
    assert later.sites() == generation.sites()
    for site, position in later.sites():
        ours, theirs = later.activations(site, position), generation.activations(site, position)
        np.testing.assert_array_equal(ours.rows, theirs.rows)
        if theirs.offsets is not None:
            np.testing.assert_array_equal(ours.offsets, theirs.offsets)
        np.testing.assert_allclose(np.asarray(ours.values), np.asarray(theirs.values), atol=3e-5, rtol=1e-4)
    found = Inputs({"generations": [generation], "activations": [generation, later]})
    assert len(found.activations("z.1.3@last")) == len(generation.activations("z.1@last"))


def test_batches_respect_the_budget_and_rows_keep_their_order(tmp_path):
    generation = source(tmp_path, n=20, shard_rows=10, temperatures=[1.0], max_new_tokens=20, stop=["a"])
    wide = made(Capture(sites="resid_post.3", positions="all", batch_tokens=5000), tmp_path, spec_of(), "wide",
                {"generations": [generation]})  # fmt: skip
    tight = made(Capture(sites="resid_post.3", positions="all", batch_tokens=90), tmp_path, spec_of(), "tight",
                 {"generations": [generation]})  # fmt: skip
    a, b = wide.activations("resid_post.3@all"), tight.activations("resid_post.3@all")
    np.testing.assert_array_equal(a.rows, b.rows)
    np.testing.assert_array_equal(a.rows, np.arange(20))
    np.testing.assert_allclose(np.asarray(a.values), np.asarray(b.values), atol=2e-5)
    lengths = generation.table("generations").set_index("row")["token_ids"].map(len)
    many = [json.loads(p.read_text())["info"]["batches"] for p in sorted((tight.path / "_done").glob("*.json"))]
    assert sum(map(len, many)) > 4
    for batch in (batch for shard in many for batch in shard):
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 90
    assert sorted(row for shard in many for batch in shard for row in batch) == list(range(20))


def test_ragged_rows_move_whole():
    rows, counts = np.array([5, 2, 9]), np.array([2, 3, 1])
    order = np.argsort(rows)
    values = np.array([50, 51, 20, 21, 22, 90])
    assert values[token_order(order, counts)].tolist() == [20, 21, 22, 50, 51, 90]


def test_only_the_needed_tokens_run_and_like_texts_run_once(tmp_path, monkeypatch):
    generation = source(tmp_path, samples=3, temperatures=[1.0])
    ran: list[tuple[int, int]] = []
    model = spec_of().load()
    whole = type(model).forward

    def counted(self, tokens, read=(), **options):
        out = whole(self, tokens, read=read, **options)
        ran.append((len(tokens), sum(map(len, tokens))))
        assert out.logits is None
        return out

    monkeypatch.setattr(type(model), "forward", counted)
    step = Capture(sites="resid_post.1", positions="last_prompt")
    later = made(step, tmp_path, spec_of(), inputs={"generations": [generation]})
    table = generation.table("generations")
    shards = [pq.read_table(p).to_pandas() for p in sorted((generation.path / "generations").glob("*.parquet"))]
    assert sum(rows for rows, _ in ran) == sum(shard["example_id"].nunique() for shard in shards) < len(table) / 2
    assert sum(n for _, n in ran) == sum(s.drop_duplicates("example_id")["prompt_len"].sum() for s in shards)
    view = later.activations("resid_post.1@last_prompt")
    assert len(view) == len(table)
    for _, same in table.groupby("example_id"):
        assert np.ptp(view.at(same["row"].to_numpy()), axis=0).max() < 1e-5


def test_rows_without_the_position_are_left_out():
    lines = [{"row": 3, "token_ids": [1, 2, 3, 4], "prompt_len": 2, "answer_token": 2},
             {"row": 4, "token_ids": [1, 2], "prompt_len": 2, "answer_token": None},
             {"row": 5, "token_ids": [1, 2, 3, 9], "prompt_len": 2, "answer_token": 2}]  # fmt: skip
    texts = needed(lines, ["answer"])
    assert [(t.tokens, [w.row for w in t.wanted]) for t in texts] == [((1, 2, 3), [3, 5])]
    assert [t.tokens for t in needed(lines, ["last_prompt"])] == [(1, 2)]
    assert [t.tokens for t in needed(lines, ["last"])] == [(1, 2, 3, 4), (1, 2, 3, 9)]


def test_another_models_prompts_are_refused(tmp_path):
    generation = source(tmp_path)
    step = Capture(sites="resid_post.1")
    with pytest.raises(UserError, match=r"6 of 6 prompts have other tokens here .* first is example 'q\d+' \(row \d+"):
        made(step, tmp_path, spec_of("gpt2"), inputs={"generations": [generation]})  # gpt2 adds no begin token


def test_a_chat_prompt_is_recognised_by_its_hash():
    model = tiny_model("llama")
    from gnomon.models.tokens import render
    from gnomon.types import Example

    prompt = ({"role": "user", "content": "What is 12 + 30?"},)
    line = {"row": 0, "example_id": "q", "prompt": render(model.tokenizer, prompt), "token_ids": model.tokenize(prompt),
            "prompt_hash": Example("q", prompt, "").prompt_hash, "prompt_len": len(model.tokenize(prompt))}  # fmt: skip
    same_prompts(model.tokenizer, [line])
    with pytest.raises(UserError, match="1 of 1 prompts"):
        same_prompts(model.tokenizer, [line | {"prompt": line["prompt"].replace("12", "13")}])
    with pytest.raises(UserError, match="1 of 1 prompts"):
        same_prompts(model.tokenizer, [line | {"prompt_hash": Example("q", line["prompt"], "").prompt_hash}])


def test_float16_is_stored_and_its_overflow_refused(tmp_path, monkeypatch):
    generation = source(tmp_path)
    half = made(Capture(sites="resid_post.1", dtype="float16"), tmp_path, spec_of(), "half",
                {"generations": [generation]})  # fmt: skip
    assert half.activations("resid_post.1@last").values.dtype == np.dtype("<f2")
    model = spec_of().load()
    whole = type(model).forward

    def huge(self, tokens, read=(), **options):
        out = whole(self, tokens, read=read, **options)
        out.acts = {site: x * 1e6 for site, x in out.acts.items()}
        return out

    monkeypatch.setattr(type(model), "forward", huge)
    with pytest.raises(UserError, match=r"resid_post.1@last_prompt has \|x\| = .* over float16's 65504"):
        made(Capture(sites="resid_post.1", dtype="float16"), tmp_path, spec_of(), "over", {"generations": [generation]})


def test_workers_do_not_change_a_byte(tmp_path):
    generation = source(tmp_path)
    step = Capture(sites=["resid_post.*", "z.0"], positions=["last", "all"])
    one = made(step, tmp_path, spec_of(), "one", {"generations": [generation]})
    two = made(step, tmp_path, spec_of(), "two", {"generations": [generation]}, executor=InTurn())
    assert data_files(one) == data_files(two)


def test_cost_and_checks():
    before = Cost(rows=100, prompt_tokens=2000, new_tokens=600, sites=("resid_post.1@last",), splits={"test": 40})
    plan = Planning(spec_of(), 0, {"generations": before})
    step = Capture(sites=["resid_post.1", "z.0"], positions=["last", "all"], dtype="float16")
    step.check(plan)
    cost = step.cost(plan)
    assert cost.disk_bytes == (32 + 32) * 2 * (100 + 2600)
    assert cost.forward_tokens == 2600 * 2 // 4
    assert cost.sites == ("resid_post.1@last", "resid_post.1@all", "z.0@last", "z.0@all")
    assert cost.notes == ("1 of the sites and positions were captured by the generation already",)
    with pytest.raises(UserError, match="layers 0 to 3"):
        Capture(sites="resid_post.7").check(plan)
    with pytest.raises(UserError, match="did you mean 'response'"):
        Capture(sites="embed", positions=["respons"])


def test_the_section_says_what_was_captured(tmp_path):
    generation = source(tmp_path)
    later = made(Capture(sites="resid_post.*", positions=["answer", "all"]), tmp_path, spec_of(),
                 inputs={"generations": [generation]})  # fmt: skip
    text = next(b for b in Capture(sites="embed").summary(later) if isinstance(b, Text))
    assert "at 4 sites (resid_post.*)" in render_text(text, later)
    table = generation.table("generations")
    lines = later.table("captured").set_index("position")
    assert lines.loc["answer", "rows"] == table["answer_token"].notna().sum()
    assert lines.loc["answer", "missing"] == table["answer_token"].isna().sum()
    assert lines.loc["all", "tokens"] == table["token_ids"].map(len).sum()
    assert lines.loc["all", "bytes"] == lines.loc["all", "tokens"] * 4 * 32 * 4


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """What a shard's worker holds is the shard: nothing stays behind from one to the next."""
    import tracemalloc

    spec = spec_of()
    generation = source(tmp_path, n=120, shard_rows=10, max_new_tokens=2)
    out = tmp_path / ".capture.partial"
    out.mkdir()
    (out / "fingerprint").write_text("x")
    worker = Forcer(spec, generation.path, out, ("resid_post.3",), ("all",), "float32", 2048)
    worker.open()
    stems = sorted(p.stem for p in (generation.path / "generations").glob("*.parquet"))
    worker((0, stems[0]))
    tracemalloc.start()
    worker((1, stems[1]))
    after_one = tracemalloc.get_traced_memory()[0]
    for index in range(2, len(stems)):
        worker((index, stems[index]))
    after_all = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    one_shard = (generation.table("generations")["token_ids"].map(len).sum() / 12) * 32 * 4
    assert after_all - after_one < one_shard


def test_smollm2_capture_equals_its_generation(smollm2, tmp_path, monkeypatch):
    spec = ModelSpec("smollm2-135m", device="cpu")
    monkeypatch.setitem(sys.modules["gnomon.model_spec"]._LOADED, spec, smollm2)
    capture = {"sites": ["resid_post.0", "resid_post.29"], "positions": ["last_prompt", "last", "answer"]}
    generation = made(Generate(task={"sums": {"digits": 1}}, n=6, capture=capture), tmp_path, spec)
    later = made(Capture(**capture), tmp_path, spec, inputs={"generations": [generation]})
    for site, position in generation.sites():
        ours, theirs = later.activations(site, position), generation.activations(site, position)
        np.testing.assert_array_equal(ours.rows, theirs.rows)
        scale = np.abs(np.asarray(theirs.values)).max()
        assert np.abs(np.asarray(ours.values) - np.asarray(theirs.values)).max() < 2e-5 * scale
