"""text_decomposition: planted phrases and planted agreement are found, null ones are not; the zero neuron; mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gnomon.errors import UserError
from gnomon.report.resolve import check
from gnomon.report.sections import make_section
from gnomon.step import Cost, Planning
from gnomon.steps.pca import Pca
from gnomon.steps.text_decomposition import TextDecomposition
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests import causal_study
from tests.second_order_study import Numbers, made_second_order
from tests.stepping import data_files, made

PHRASES = 60
SMALL = {"m": 6, "isotropic_draws": 40, "permutations": 499, "draws": 300}
SIZES = Numbers(rows=200, d=48, strong=0.9, active=0.3)


def made_lexicon(study: Path, vectors: np.ndarray, name: str = "lexicon", **meta) -> Artifact:
    writer = Writer(study, name, name)
    writer.array("embeddings", vectors.astype(np.float32))
    writer.table("phrases", pd.DataFrame({
        "index": range(len(vectors)), "phrase": [f"phrase {i}" for i in range(len(vectors))], "source": "file",
        "topic": "", "tokens": 1, "documents": 0,
    }))  # fmt: skip
    return writer.commit({"step": "lexicon", "name": name, "writes": ["lexicon"], "options": {}, **meta})


def changed(source: Artifact, name: str, **arrays: np.ndarray) -> Artifact:
    """A copy of a folder with some arrays replaced."""
    shutil.copytree(source.path, source.path.parent / name)
    for array, values in arrays.items():
        np.save(source.path.parent / name / f"{array}.npy", values.astype(np.float32))
    return Artifact(source.path.parent / name)


def effects(source: Artifact) -> np.ndarray:
    """All selected neurons' effects, materialised: [S, N, d]."""
    out = []
    for layer in source.table("neurons")["layer"].drop_duplicates():
        coef, basis = source.array(f"coef_layer{layer}"), source.array(f"basis_layer{layer}")
        out.append(np.einsum("bnr,nrd->nbd", coef.astype(np.float64), basis.astype(np.float64)))
    return np.concatenate(out)


def run(study: Path, second: Artifact, pca: Artifact, lexicon: Artifact, name: str = "text", **options) -> Artifact:
    inputs = {"second_order": [second], "pca": [pca], "lexicon": [lexicon]}
    generations = study / "generate"
    if generations.exists():
        inputs["generations"] = [Artifact(generations)]
    return made(TextDecomposition(**(SMALL | options)), study, causal_study.spec(), name, inputs)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> dict[str, Artifact]:
    """Two of the phrases of even neurons are planted: pc = 2 a - b + a little; the others' directions are random.

    The output at the read position is noise, all neurons' effects, and for even neurons also their direction wherever
    they are active: what their prompts would hold if they were about the phrases.
    """
    root = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    source = made_second_order(root, SIZES)
    pca = made(Pca(), root, causal_study.spec(), "pca", {"second_order": [source]})
    pc, projection = np.asarray(pca.array("pca"), np.float64), np.asarray(pca.array("projection"), np.float64)
    vectors = rng.standard_normal((PHRASES, SIZES.d))
    for i in range(0, len(pc), 2):
        vectors[i + 1] -= vectors[i + 1] @ pc[i] * pc[i]
        vectors[i] = 6 * pc[i] + vectors[i + 1] + 0.2 * rng.standard_normal(SIZES.d)
    phi = effects(source)
    noise = rng.standard_normal((SIZES.rows, SIZES.d))
    null = 3 * noise + phi.sum(0)
    about = np.einsum("sn,sd->nd", projection[::2], pc[::2])
    writer = Writer(root, "generate", "generate")
    writer.table("generations", pd.DataFrame({"row": range(200), "prompt": [f"prompt {i}" for i in range(200)]}))
    writer.commit({"step": "generate", "writes": ["generations"]})
    return {
        "null": changed(source, "null", output=null), "planted": changed(source, "planted", output=null + 2 * about),
        "pca": pca, "lexicon": made_lexicon(root, vectors), "root": root,
        "random": made_lexicon(root, rng.standard_normal((PHRASES, SIZES.d)), "random"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def planted(study) -> Artifact:
    return run(study["root"], study["planted"], study["pca"], study["lexicon"], "planted_text")


def test_tables_and_arrays_agree(study, planted):
    neurons, phrases, pc = planted.table("neurons"), planted.table("phrases"), np.asarray(study["pca"].array("pca"))
    reconstruction = np.asarray(planted.array("reconstruction"))
    assert reconstruction.shape == pc.shape == (16, SIZES.d)
    cosine = (reconstruction * pc).sum(1) / np.linalg.norm(reconstruction, axis=1)
    assert neurons["cosine"].to_numpy() == pytest.approx(cosine, abs=1e-5)
    raw = np.asarray(study["lexicon"].array("embeddings"), np.float64)
    atoms = raw - raw.mean(0)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    for index, part in phrases.groupby("index"):
        assert part["order"].tolist() == list(range(1, 7))
        assert (part["cosine"].diff().dropna() > 0).all()
        made_of = part["coefficient"].to_numpy() @ atoms[part["phrase_index"]]
        assert made_of == pytest.approx(reconstruction[index], abs=1e-5)
        assert part["phrase"].iloc[0] == f"phrase {part['phrase_index'].iloc[0]}"
        needed = neurons.loc[index, "needed"]
        reached = part.loc[part["cosine"] >= 0.8, "order"]
        assert pd.isna(needed) if reached.empty else needed == reached.iloc[0]
    assert neurons["ci_low"].le(neurons["test_share"]).all()
    assert neurons["test_share"].le(neurons["ci_high"]).all()


def test_the_test_share_is_that_of_materialised_effects(study, planted):
    rows, phi = study["null"].table("rows"), effects(study["null"])
    fit, test = np.asarray(rows["split"] == "fit"), np.asarray(rows["split"] == "test")
    direction = np.asarray(planted.array("reconstruction"), np.float64)
    for i in (0, 7):
        held = phi[i][test] - phi[i][fit].mean(0)
        along = held @ direction[i] / np.linalg.norm(direction[i])
        wanted = (along**2).sum() / (held**2).sum()
        assert planted.table("neurons").loc[i, "test_share"] == pytest.approx(wanted, rel=1e-4)


def test_planted_phrases_are_found_and_beat_mixtures(planted):
    neurons, phrases = planted.table("neurons"), planted.table("phrases")
    even, odd = neurons.iloc[::2], neurons.iloc[1::2]
    first = phrases[phrases["order"] == 1].set_index("index")
    assert [first.loc[i, "phrase_index"] for i in even["index"]] == even["index"].tolist()
    assert (first.loc[even["index"], "coefficient"] > 0).all()
    assert even["phrases"].str.startswith("+ phrase").all()
    assert (even["cosine"] > 0.95).all()
    assert (even["q_mixed"] <= 0.05).mean() >= 0.8
    assert (odd["q_mixed"] <= 0.05).mean() <= 0.25
    assert (even["needed"] <= 2).all()
    assert (even["cosine"] > even["random_high"]).all()


def test_a_random_lexicon_is_no_better_than_its_controls(study):
    text = run(study["root"], study["null"], study["pca"], study["random"], "random_text")
    neurons, overall = text.table("neurons"), text.table("overall").set_index(["measure", "against"])
    assert (neurons["q_mixed"] <= 0.05).sum() <= 1
    assert overall.loc[("cosine", "isotropic"), "p"] > 0.05
    assert overall.loc[("cosine", "mixtures"), "p"] > 0.05
    assert neurons["cosine"].median() == pytest.approx(neurons["random_cosine"].iloc[0], abs=0.06)
    assert text.table("counts").set_index("what").loc["agreement", "neurons"] == 0


def test_agreement_is_found_where_prompts_hold_the_phrases(planted):
    neurons = planted.table("neurons")
    even = neurons.iloc[::2]
    assert (even["q"] <= 0.05).mean() >= 0.8
    assert (even["agreement"] > even["agreement_other"] + 0.1).mean() >= 0.8
    overall = planted.table("overall").set_index(["measure", "against"])
    line = overall.loc[("agreement", "shuffled rows")]
    assert line["p"] <= 0.01
    assert line["control_high"] < line["ci_low"] < line["value"] < line["ci_high"]


def test_a_neurons_own_effect_on_the_output_is_no_agreement(study):
    """The output holds every effect, so top rows lie along the direction by construction; that part is taken out."""
    text = run(study["root"], study["null"], study["pca"], study["lexicon"], "null_text")
    assert (text.table("neurons")["q"] <= 0.05).sum() <= 1
    assert text.table("overall").set_index(["measure", "against"]).loc[("agreement", "shuffled rows"), "p"] > 0.05


def test_top_prompts_are_test_rows_of_largest_projection(study, planted):
    prompts, rows = planted.table("prompts"), study["null"].table("rows")
    projection = np.asarray(study["pca"].array("projection"))
    test = np.flatnonzero(rows["split"] == "test")
    one = prompts[prompts["index"] == 3]
    assert one["row"].tolist() == test[np.argsort(-projection[3][test])[:5]].tolist()
    assert one["prompt"].tolist() == [f"prompt {r}" for r in one["row"]]
    assert len(prompts) == 16 * 5


def test_a_neuron_with_two_directions_is_polysemantic_and_the_others_are_not(study, tmp_path):
    """Neuron 0 of layer 1: silent in most rows, active in some through one head, in others through another."""
    rng = np.random.default_rng(1)
    source = study["null"]
    coef, basis = np.array(source.array("coef_layer1")), np.array(source.array("basis_layer1"))
    basis[0] = rng.standard_normal(basis[0].shape)
    coef[:, 0] = 0.1 * rng.standard_normal(coef[:, 0].shape)
    which = rng.choice(3, 200, p=(0.7, 0.15, 0.15))
    for head in (0, 1):
        coef[which == head + 1, 0, head] += 4 + rng.random((which == head + 1).sum())
    twice = changed(source, "twice", coef_layer1=coef, basis_layer1=basis)
    pca = made(Pca(k=30), tmp_path, causal_study.spec(), "pca", {"second_order": [twice]})
    text = run(tmp_path, twice, pca, study["random"], max_evr=0.9)
    neurons = text.table("neurons")
    assert neurons["clusters"].tolist()[0] >= 2
    assert neurons.index[neurons["polysemantic"]].tolist() == [0]
    assert neurons["clusters"].iloc[1:].le(2).all()
    assert text.table("counts").set_index("what").loc["polysemantic", "neurons"] == 1
    titles = [b.title for b in TextDecomposition().summary(text) if hasattr(b, "title")]
    assert "Polysemantic neurons" in titles


def test_a_neuron_without_an_effect_has_no_phrases(study, tmp_path):
    coef = np.array(study["null"].array("coef_layer3"))
    coef[:, 1] = 0
    source = changed(study["null"], "silent", coef_layer3=coef)
    pca = made(Pca(), tmp_path, causal_study.spec(), "pca", {"second_order": [source]})
    text = run(tmp_path, source, pca, study["lexicon"])
    neurons = text.table("neurons")
    assert neurons.index[neurons["zero"]].tolist() == [9]
    silent = neurons.loc[9]
    assert silent[["cosine", "agreement", "p", "q", "clusters", "needed", "test_share"]].isna().all()
    assert not silent["polysemantic"]
    assert silent["phrases"] == ""
    assert 9 not in set(text.table("phrases")["index"]) | set(text.table("prompts")["index"])
    assert not np.asarray(text.array("reconstruction"))[9].any()
    assert text.table("overall")["neurons"].tolist() == [15] * 5
    assert check(TextDecomposition().summary(text), text) == []
    section = make_section(text, {}, strict=True)
    assert section.sentences("warning")[0].text.startswith("1 neurons have no effect that varies")


def test_the_section_of_the_report_is_made_whole(planted):
    assert check(TextDecomposition().summary(planted), planted) == []
    headlines = [s.text for s in make_section(planted, {}, strict=True).sentences("headline")]
    assert len(headlines) == 2
    assert "random mixtures of the same phrases" in headlines[0]
    assert "with the rows shuffled" in headlines[1]
    assert [entry["split"] for entry in planted.meta["ledger"]] == ["test"]


def test_the_same_seed_gives_the_same_bytes(study, planted):
    again = run(study["root"], study["planted"], study["pca"], study["lexicon"], "again")
    assert data_files(again) == data_files(planted)


def test_mistakes_are_named(study, tmp_path):
    second, pca = study["null"], study["pca"]
    with pytest.raises(UserError, match="m is 61 phrases; at most the lexicon's 60"):
        run(tmp_path, second, pca, study["lexicon"], m=61)
    narrow = made_lexicon(tmp_path, np.random.default_rng(0).standard_normal((60, 16)), "narrow")
    with pytest.raises(UserError, match="width 16 and effects of width 48"):
        run(tmp_path, second, pca, narrow)
    foreign = made_lexicon(
        tmp_path, np.random.default_rng(0).standard_normal((60, 48)), "foreign", model={"fingerprint": "b"}
    )
    other = changed(second, "other")
    meta = json.loads((other.path / "meta.json").read_text())
    (other.path / "meta.json").write_text(json.dumps(meta | {"model": {"fingerprint": "a"}}))
    with pytest.raises(UserError, match="foreign was embedded by another model than other"):
        run(tmp_path, Artifact(other.path), pca, foreign)
    nothing = changed(pca, "nothing", pca=np.zeros((16, 48)))
    with pytest.raises(UserError, match="all 16 neurons have an effect of zero"):
        run(tmp_path, second, nothing, study["lexicon"])
    plan = Planning(
        causal_study.spec(), 0, {"lexicon": Cost(rows=20), "second_order": Cost(rows=100)}, {"lexicon": {"mine": None}}
    )
    with pytest.raises(UserError, match="at most the lexicon's 20"):
        TextDecomposition().check(plan)
    TextDecomposition(m=20).check(plan)
    assert TextDecomposition().cost(plan).memory_bytes > 0
