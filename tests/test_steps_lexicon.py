"""lexicon: embeddings are the model's own final-norm output, phrases come from where they should, a kill resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gnomon.errors import UserError
from gnomon.methods.phrases import curated
from gnomon.report.resolve import check
from gnomon.report.sections import make_section
from gnomon.step import Cost, Planning
from gnomon.steps import lexicon as module
from gnomon.steps.lexicon import PHRASES, Lexicon
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests import causal_study
from tests.stepping import data_files, made
from tests.tiny import tiny_model


def run(study: Path, name: str = "lexicon", inputs=None, **options) -> Artifact:
    return made(Lexicon(**options), study, causal_study.spec(), name, inputs or {})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Artifact:
    return run(tmp_path_factory.mktemp("lexicon"))


def words(tmp_path: Path, text: str = "# fruit\nred apple\n\npear\n# sums\ntwelve\nRED apple\n") -> str:
    (tmp_path / "words.txt").write_text(text)
    return str(tmp_path / "words.txt")


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_embeddings_are_hugging_faces_last_hidden_state(tmp_path, pool):
    """Llama's last hidden state is after the final norm; one text at a time, no padding."""
    artifact = run(tmp_path, curated=False, file=words(tmp_path), pool=pool, template="It is {phrase}")
    table, model = artifact.table("phrases"), tiny_model("llama")
    assert table["phrase"].tolist() == ["red apple", "pear", "twelve"]
    assert table["topic"].tolist() == ["fruit", "fruit", "sums"]
    found = np.asarray(artifact.array("embeddings"))
    for i, phrase in enumerate(table["phrase"]):
        ids, ahead = model.tokenize(f"It is {phrase}"), len(model.tokenize("It is"))
        assert table["tokens"][i] == len(ids) - ahead
        with torch.no_grad():
            hidden = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        wanted = hidden[-1] if pool == "last" else hidden[ahead:].mean(0)
        assert found[i] == pytest.approx(wanted.numpy(), abs=1e-4)


def test_the_unembedding_reads_the_embeddings_as_it_reads_outputs(whole):
    model = tiny_model("llama")
    ids = model.tokenize("Think about " + whole.table("phrases")["phrase"][3])
    logits = model.forward([ids], logits="last").logits[0].numpy()
    assert np.asarray(whole.array("embeddings"))[3] @ model.unembed.numpy() == pytest.approx(logits, abs=1e-3)


def test_the_curated_list_is_embedded_whole(whole):
    table = whole.table("phrases")
    assert list(table.columns) == PHRASES.names
    assert table["phrase"].tolist() == [p.text for p in curated()]
    assert np.asarray(whole.array("embeddings")).shape == (len(table), tiny_model("llama").d_model)
    assert whole.table("sources").to_dict("records")[0]["phrases"] == len(table)
    assert check(Lexicon().summary(whole), whole) == []
    assert len(make_section(whole, {}, strict=True).sentences("headline")) == 1


def test_topics_that_mean_something_have_alike_neighbours_and_shuffled_ones_do_not():
    rng = np.random.default_rng(0)
    topics = np.repeat([f"t{i}" for i in range(12)], 10)
    centres = np.repeat(rng.standard_normal((12, 30)), 10, axis=0)
    cell = {}
    for name, size in (("planted", 1.0), ("null", 0.0)):
        checks = module._checks(size * centres + rng.standard_normal((120, 30)), topics, 199, 0)
        cell[name] = checks.set_index("measure").loc["topic_neighbour"]
    assert cell["planted"]["p"] == pytest.approx(1 / 200)
    assert cell["planted"]["ci_low"] > cell["planted"]["control_high"]
    assert cell["null"]["p"] > 0.05
    assert cell["null"]["control"] == pytest.approx(9 / 119, abs=0.02)


def test_a_flat_space_is_warned_of(tmp_path):
    artifact = run(tmp_path, curated=False, file=words(tmp_path))
    checks = artifact.table("checks")
    checks.loc[checks["measure"] == "first_component", "value"] = 0.98
    checks.to_parquet(artifact.path / "checks.parquet")
    section = make_section(Artifact(artifact.path), {}, strict=True)
    assert "98.0% of the variance" in section.sentences("warning")[0].text
    assert "{phrase}" in section.sentences("warning")[0].text


def test_a_killed_step_resumes_at_its_missing_shards(whole, tmp_path, monkeypatch):
    real, seen = module.Embedder.__call__, []

    def dies(self, shard):
        seen.append(shard[0])
        if shard[0] == 1 and len(seen) < 3:
            raise RuntimeError("killed")
        return real(self, shard)

    monkeypatch.setattr(module.Embedder, "__call__", dies)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path)
    assert data_files(run(tmp_path)) == data_files(whole)
    assert seen == [0, 1, 1, 2], "shard 0 was not done again"


def texts(study: Path) -> Artifact:
    said = ["the prime factor of six", "a prime factor, then another one", "Prime factor", "hidden gem", "hidden gem"]
    writer = Writer(study, "generate", "generate")
    writer.table("generations", pd.DataFrame({
        "row": range(5), "split": ["fit"] * 3 + ["test"] * 2, "prompt": ["some question"] * 5,
        "prompt_hash": ["a", "b", "c", "d", "e"], "text": said,
    }))  # fmt: skip
    return writer.commit({"step": "generate", "writes": ["generations"]})


def test_phrases_are_mined_from_fit_rows_only(tmp_path):
    artifact = run(
        tmp_path, inputs={"generations": [texts(tmp_path)]}, curated=False, mine="generations", fewest=2, longest=2,
        common=1.0,
    )  # fmt: skip
    table = artifact.table("phrases")
    assert table["phrase"].tolist() == ["prime factor", "question"]
    assert table["documents"].tolist() == [3, 3]
    assert set(table["source"]) == {"mined"}


def test_words_of_every_document_are_not_mined_and_an_empty_yield_is_said(tmp_path):
    """A chat template's words tell nothing apart; with the curated list there the step goes on, and warns."""
    inputs = {"generations": [texts(tmp_path)]}
    with pytest.raises(UserError, match="no phrase of generations is in 2 documents and in at most 90% of them"):
        run(tmp_path, "alone", inputs, curated=False, mine="generations", fewest=2)
    artifact = run(tmp_path, "beside", inputs, mine="generations", fewest=2)
    assert set(artifact.table("phrases")["source"]) == {"curated"}
    assert artifact.table("sources")["phrases"].tolist() == [len(curated()), 0]
    assert check(Lexicon().summary(artifact), artifact) == []
    assert "0 phrases were found" in make_section(artifact, {}, strict=True).sentences("warning")[0].text


def test_phrases_are_mined_from_a_file_and_the_file_is_part_of_the_identity(tmp_path):
    path = words(tmp_path, "the long division\na long division\nlong division\nthe blue car\nblue car\na blue car\n")
    artifact = run(tmp_path, curated=False, mine=path)
    assert artifact.table("phrases")["phrase"].tolist() == ["blue car", "long division"]
    before = Lexicon(mine=path, file=path).identity()
    words(tmp_path, "another text\n")
    after = Lexicon(mine=path, file=path).identity()
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"mine_sha256", "file_sha256"}


def test_mistakes_are_named(tmp_path):
    plan = Planning(causal_study.spec(), 0, {})
    with pytest.raises(UserError, match=r"no phrase file at nowhere\.txt"):
        Lexicon(file="nowhere.txt").check(plan)
    with pytest.raises(UserError, match=r"no text to mine at nowhere\.txt"):
        Lexicon(mine="nowhere.txt").check(plan)
    with pytest.raises(UserError, match="is empty"):
        Lexicon(file=words(tmp_path, " \n")).check(plan)
    with pytest.raises(UserError, match="holds no phrase"):
        Lexicon(file=words(tmp_path, "# only a topic\n")).check(plan)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match="no UTF-8 text"):
        Lexicon(file=str(tmp_path / "bytes.txt")).check(plan)
    with pytest.raises(UserError, match="has no phrases"):
        Lexicon(curated=False).check(plan)
    with pytest.raises(UserError, match="no earlier step wrote any"):
        Lexicon(mine="generations").check(plan)
    Lexicon(mine="generations").check(Planning(causal_study.spec(), 0, {"generations": Cost(rows=5)}))
    with pytest.raises(UserError, match=r"holds \{phrase\} once"):
        Lexicon(template="Think about it")
    with pytest.raises(UserError, match="at least 2"):
        run(tmp_path, curated=False, file=words(tmp_path, "one\nOne\n"))
    assert Lexicon().cost(plan).forward_tokens > 2000


def test_words_before_a_phrase_keep_it_off_the_attention_sink(smollm2):
    """What the default template is for, on the real model: single words differ along more than one direction."""
    share = {}
    for template in (" {phrase}", Lexicon().template):
        items = [module._tokens(smollm2, template, w) for w in ("addition", "therefore", "seven", "dollars", "proof")]
        found = module.embed(smollm2, items, "last")
        spectrum = np.linalg.svd(found - found.mean(0), compute_uv=False) ** 2
        share[template] = spectrum[0] / spectrum.sum()
    assert share[" {phrase}"] > 0.8
    assert share[Lexicon().template] < 0.6
