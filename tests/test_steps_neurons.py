"""The step neurons: its columns are what the definitions say, planted neurons are found, shuffled ones are not."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gnomon.errors import UserError
from gnomon.lens.ablate import single_neuron_effects
from gnomon.lens.gradient import gradient_times_activation
from gnomon.lens.readout import target_logprob
from gnomon.lens.texts import read_texts
from gnomon.methods.agreement import CHECKS
from gnomon.methods.neuron_auroc import AUROC
from gnomon.methods.neuron_ranking import NEURONS
from gnomon.model_spec import _LOADED
from gnomon.report.resolve import check
from gnomon.report.sections import make_section
from gnomon.step import Cost, Planning
from gnomon.steps.neurons import Neurons
from gnomon.store import Artifact
from gnomon.types import Direction, Site
from gnomon.writer import Writer
from tests.causal_study import directions, generations, planted, spec
from tests.stepping import data_files, made
from tests.tiny import tiny_folder, tiny_model

OPTIONS: dict[str, Any] = {
    "layers": [1, 3], "top_k": 6, "max_rows": 40, "check_neurons": 24, "check_rows": 3, "permutations": 199,
    "draws": 200, "confirm": 5,
}  # fmt: skip


@functools.cache
def study() -> tuple[Path, Artifact, Artifact]:
    """generate and neurons, made once."""
    folder = Path(tempfile.mkdtemp())
    rows = generations(folder)
    return folder, rows, made(Neurons(**OPTIONS), folder, spec(), inputs={"generations": [rows]})


def again(name: str, seed: int = 0, extra: dict[str, list[Artifact]] | None = None, **options) -> Artifact:
    folder, rows, _ = study()
    inputs = {"generations": [rows]} | (extra or {})
    return made(Neurons(**(OPTIONS | options)), folder, spec(), name, inputs, seed=seed)


def fit_rows(most: int = 40) -> tuple[pd.DataFrame, list]:
    """The step's fit rows, one at a time as the definitions have them."""
    from gnomon.causal.items import scored_rows, spread

    table = scored_rows(study()[1].table("generations"))
    part = spread(table[table["split"] == "fit"], most)
    model = tiny_model("llama")
    return part, read_texts(part, "before_answer", model.encode_text, model.decode)


def test_tables_have_what_was_promised():
    _, _, artifact = study()
    table = artifact.table("neurons")
    assert list(table.columns) == NEURONS.names
    assert len(table) == 2 * 48
    for _, part in table.groupby("layer"):
        assert sorted(part["rank"]) == list(range(1, 49))
        assert part["selected"].sum() == 6
        assert (part["rank"][part["selected"]] <= 6).all()
        for name in ("mean_abs", "variance", "direct", "grad_act"):
            assert sorted(part[f"rank_{name}"]) == list(range(1, 49))
        ranked = [part[f"rank_{name}"] for name in ("mean_abs", "variance", "direct", "grad_act")]
        np.testing.assert_allclose(part["score"], np.mean(ranked, 0))
        assert part.sort_values("rank")["score"].is_monotonic_increasing
        assert (part["grad_act_low"] <= part["grad_act"]).all()
        assert (part["grad_act"] <= part["grad_act_high"]).all()
    checks = artifact.table("checks")
    assert list(checks.columns) == CHECKS.names
    assert len(checks) == 2 * 2 * 3
    assert set(checks["chosen"]) == {"random", "rank"}
    assert list(artifact.table("auroc").columns) == AUROC.names
    pairs = artifact.table("pairs")
    assert len(pairs) == 24 * 3
    assert len(pairs[["layer", "neuron"]].drop_duplicates()) == 24
    for (layer, chosen), part in pairs.groupby(["layer", "chosen"]):
        first = table[(table["layer"] == layer) & (table["rank"] <= 6)]["neuron"]
        assert (set(part["neuron"]) == set(first)) == (chosen == "rank")


@pytest.mark.parametrize("tokens", ["all", "last_k"])
def test_columns_are_what_the_definitions_say(tokens):
    last_k = 2 if tokens == "last_k" else None
    artifact = study()[2] if last_k is None else again("last", tokens="last_k", last_k=2, auroc="none")
    model, (table, texts) = tiny_model("llama"), fit_rows()
    labels = table["label"].to_numpy(dtype=bool)
    norm = model.norm("ln_final")
    acts: dict[int, list[np.ndarray]] = {1: [], 3: []}
    read: dict[int, list[np.ndarray]] = {1: [], 3: []}
    output, scale = [], []
    for text in texts:
        sites = [f"mlp_post.{a}" for a in acts] + [f"resid_post.{a}" for a in acts]
        found = model.forward([text.tokens], read=sites)
        for layer in acts:
            x, resid = (found.acts[Site(c, layer)][0].double().numpy() for c in ("mlp_post", "resid_post"))
            size = np.linalg.norm(resid, axis=1)
            calm = size <= 5 * np.sort(size)[(len(size) - 1) // 2]
            calm[: len(calm) - (last_k or len(calm))] = False
            acts[layer].append(x[calm])
            read[layer].append(x[-1])
        last = found.acts[Site("resid_post", 3)][0, -1]
        output.append(norm.apply(last).double().numpy())
        scale.append(float(norm.scale(last)))
    output = np.stack(output)
    u = output[labels].mean(0) - output[~labels].mean(0)
    np.testing.assert_allclose(artifact.directions()[0].vector, u, atol=1e-5)
    tokens_of = [list(t.tokens) for t in texts]
    readout = target_logprob(model, [t.target_token for t in texts])
    wanted = gradient_times_activation(model, tokens_of, [1, 3], readout, last_k=last_k)
    for layer in (1, 3):
        got = artifact.table("neurons")
        got = got[got["layer"] == layer].sort_values("neuron")
        every = np.concatenate(acts[layer])
        np.testing.assert_allclose(got["mean_abs"], np.abs(every).mean(0), rtol=1e-4)
        np.testing.assert_allclose(got["variance"], every.var(0), rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(got["grad_act"], wanted[layer].mean(0), atol=1e-4)
        w = model.weights("W_out", layer).double().numpy() * norm.gain.double().numpy()
        direct = np.stack(read[layer]) * (w @ u) * np.array(scale)[:, None]
        np.testing.assert_allclose(got["direct"], direct.mean(0), atol=1e-4)
        np.testing.assert_allclose(got["direct_abs"], np.abs(direct).mean(0), atol=1e-4)
    pairs = artifact.table("pairs")
    by_row = {t.row: i for i, t in enumerate(texts)}
    for r in pairs.iloc[::9].itertuples():
        i = by_row[r.row]
        real = single_neuron_effects(
            model, [tokens_of[i]], r.layer, [r.neuron], target_logprob(model, [texts[i].target_token]), last_k=last_k
        )
        assert r.effect == pytest.approx(-float(real[0, 0, 0]), abs=1e-4)
        assert r.grad_act == pytest.approx(wanted[r.layer][i, r.neuron], abs=1e-4)


def test_a_probe_direction_is_read_in_the_stream_and_later_layers_have_no_direct_effect():
    folder, *_ = study()
    vector = np.random.default_rng(5).normal(size=32)
    writer = Writer(folder, "early", "early")
    writer.directions([Direction(Site("resid_post", 2), vector, "early", "probe", 0.6, {})])
    found = writer.commit({"step": "probe", "name": "early", "options": {}, "writes": ["directions"]})
    artifact = again("probed", extra={"directions": [found]}, direction="probe", auroc="none", check_rows=0)
    table = artifact.table("neurons")
    assert not table.loc[table["layer"] == 3, "direct_abs"].any()
    model, (_, texts) = tiny_model("llama"), fit_rows()
    read = np.stack([
        model.forward([t.tokens], read=["mlp_post.1"]).acts[Site("mlp_post", 1)][0, -1].double().numpy() for t in texts
    ])  # fmt: skip
    want = (read * (model.weights("W_out", 1).double().numpy() @ vector)).mean(0)
    np.testing.assert_allclose(table.loc[table["layer"] == 1, "direct"], want, atol=1e-4)


@pytest.mark.parametrize("combine", ["direct", "grad_act"])
def test_a_planted_neuron_ranks_first(combine):
    """One neuron's output is turned to the right answer's own direction and made large; nothing else is touched."""
    model = spec().load()
    *_, vector = planted()
    weight = model.body.part(3, "down_proj").weight
    old = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[:, 17] = 3 * torch.tensor(vector / np.linalg.norm(vector), dtype=weight.dtype)
        options = {"direction": "logit_lens", "auroc": "none", "check_rows": 0, "layers": [3], "combine": combine}
        artifact = again(f"planted_{combine}", **options)
        table = artifact.table("neurons")
        assert table.loc[table["rank"] == 1, "neuron"].tolist() == [17]
    finally:
        with torch.no_grad():
            weight.copy_(old)
        _LOADED.clear()
    plain = again(f"plain_{combine}", **options).table("neurons")
    assert plain.loc[plain["neuron"] == 17, "rank"].tolist() != [1]


def test_auroc_is_of_the_activation_that_was_asked_for():
    model, (table, texts) = tiny_model("llama"), fit_rows()
    labels = table["label"].to_numpy(dtype=bool)
    for name, artifact in (("read", study()[2]), ("max", again("largest", auroc="max", check_rows=0))):
        every = []
        for text in texts:
            x = model.forward([text.tokens], read=["mlp_post.1"]).acts[Site("mlp_post", 1)][0].numpy()
            every.append(x[-1] if name == "read" else x.max(0))
        values = np.stack(every)
        got = artifact.table("auroc")
        got = got[got["layer"] == 1].sort_values("neuron")["fit_auroc"].to_numpy()
        for n in (0, 20, 47):
            wins = values[labels, n][:, None] - values[~labels, n][None]
            assert got[n] == pytest.approx((wins > 0).mean() + 0.5 * (wins == 0).mean(), abs=1e-6)


def test_the_ledger_holds_the_test_reading_and_options_are_kept():
    _, _, artifact = study()
    assert [entry["split"] for entry in artifact.meta["ledger"]] == ["test"]
    none = again("nothing", auroc="none", check_rows=0)
    assert none.meta["ledger"] == []
    assert "auroc" not in none.tables()
    assert len(none.table("checks")) == 0


def test_same_seed_same_files():
    _, _, artifact = study()
    assert data_files(again("twice")) == data_files(artifact)


@pytest.mark.parametrize("options", [{}, {"auroc": "none", "check_rows": 0}, {"readout": "margin"}])
def test_the_section_resolves(options):
    artifact = study()[2] if not options else again(f"section{len(options)}", **options)
    section = make_section(artifact, {}, strict=True)
    assert check(Neurons(**OPTIONS).summary(artifact), artifact) == []
    headlines = [sentence.text for sentence in section.sentences("headline")]
    assert len(headlines) == (0 if options.get("auroc") == "none" else 2)
    assert all("{" not in h for h in headlines)


def test_mistakes_are_named():
    folder, *_ = study()
    plan = Planning(spec(), 0, {"generations": Cost(rows=150, splits={"fit": 60, "test": 60})})
    Neurons(**OPTIONS).check(plan)
    assert Neurons(**OPTIONS).cost(plan).forward_tokens > 0
    for options, match in (
        ({"layers": [9]}, "layers 0 to 3"), ({"layers": []}, "layers is empty"),
        ({"layers": "kept"}, "no earlier step keeps layers"), ({"layers": "all", "criteria": []}, "each once"),
        ({"layers": "all", "direction": "probe"}, "finds a direction"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=match):
            Neurons(**options).check(plan)
    with pytest.raises(UserError, match="rows in split 'test'"):
        Neurons(layers="all").check(Planning(spec(), 0, {"generations": Cost(splits={"fit": 60})}))
    wide = directions(folder, Direction(Site("resid_post", 1), np.ones(99), "wide", "probe", None, {}))
    writer = Writer(folder, "wide", "wide")
    writer.directions([wide.directions()[-1]])
    other = writer.commit({"step": "probe", "name": "wide", "options": {}, "writes": ["directions"]})
    with pytest.raises(UserError, match="99 numbers"):
        again("other", extra={"directions": [other]}, direction="probe")
    writer = Writer(folder, "layers", "layers")
    writer.table("selected", pd.DataFrame({"component": ["mlp", "attn"], "layer": [7, 1], "rank": [1, 1]}))
    kept = writer.commit({"step": "layer_ablation", "name": "layers", "options": {}, "writes": ["layers"]})
    with pytest.raises(UserError, match="layers 0 to 3"):
        again("beyond", extra={"layers": [kept]}, layers="kept")


def few(folder: Path, keep: int, label: bool | None = None) -> Artifact:
    """A generation of which fit has few rows, or rows of one label."""
    import pyarrow as pa

    from gnomon.rows.table import SCHEMA

    table = study()[1].table("generations")
    fit = table[table["split"] == "fit"].head(keep)
    if label is not None:
        fit = table[(table["split"] == "fit") & (table["label"] == label)]
    table = pd.concat([fit, table[table["split"] != "fit"]])
    writer = Writer(folder, "few", "few")
    writer.table("generations", pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False))
    return writer.commit({"step": "generate", "name": "few", "options": {}, "writes": ["generations"]})


def test_too_few_rows_and_one_class_are_refused(tmp_path):
    with pytest.raises(UserError, match="3 graded rows in fit"):
        made(Neurons(**OPTIONS), tmp_path, spec(), inputs={"generations": [few(tmp_path, 3)]})
    one = few(tmp_path / "b", 0, True)
    with pytest.raises(UserError, match="one label"):
        made(Neurons(**OPTIONS), tmp_path / "b", spec(), inputs={"generations": [one]})
    options = OPTIONS | {"direction": "logit_lens", "check_rows": 0}
    with pytest.raises(UserError, match="0 wrong rows in fit"):
        made(Neurons(**options), tmp_path / "b", spec(), "c", {"generations": [one]})


def test_a_layer_that_is_never_active_is_refused_and_a_neuron_that_never_is_ranks_last():
    model = spec().load()
    back = _mute(model, 3, None)
    try:
        with pytest.raises(UserError, match="all activations of layer 3 are 0"):
            again("mute", check_rows=0, auroc="none")
    finally:
        back()
    model = spec().load()
    back = _mute(model, 3, 4)
    try:
        artifact = again("silent", check_rows=0)
        table = artifact.table("neurons")
        one = table[(table["layer"] == 3) & (table["neuron"] == 4)].iloc[0]
        assert (one["mean_abs"], one["variance"], one["direct"], one["grad_act"]) == (0, 0, 0, 0)
        assert not one["selected"]
        auroc = artifact.table("auroc")
        line = auroc[(auroc["layer"] == 3) & (auroc["neuron"] == 4)].iloc[0]
        assert (line["fit_auroc"], line["p"], line["discovered"]) == (0.5, 1.0, False)
        facts = artifact.table("facts").set_index("fact")["value"]
        assert facts["never active"] == 1
    finally:
        back()


def _mute(model, layer: int, neuron: int | None):
    """Set the up projection (of one neuron) to zero, so that its activation is; returns what undoes it."""
    part = model.body.blocks[layer].mlp.up_proj
    old = [p.detach().clone() for p in part.parameters()]
    rows = slice(None) if neuron is None else slice(neuron, neuron + 1)
    with torch.no_grad():
        for p in part.parameters():
            p[rows] = 0

    def undo() -> None:
        with torch.no_grad():
            for p, was in zip(part.parameters(), old, strict=True):
                p.copy_(was)
        _LOADED.clear()

    return undo


def test_post_norm_families_write_through_their_norm():
    """The direct effect of a Gemma layer, all neurons and the bias of nothing: it sums to the MLP's own, exactly."""
    from gnomon.lens.neurons import NeuronWorker
    from gnomon.lens.texts import ReadText
    from gnomon.step import ModelSpec

    model = tiny_model("gemma2")
    worker = NeuronWorker(ModelSpec(str(tiny_folder("gemma2"))), "", (0, 2), "logprob", None, False, 4)
    worker.model = model
    texts = [ReadText(i, tuple(model.tokenize(t)), 1, 5) for i, t in enumerate(("What is 12 + 30?", "Is it", "A"))]
    arrays, _ = worker.batch(texts, True)
    from gnomon.lens.lens import Lens

    circuit = Lens(model).circuit
    for i, layer in enumerate((0, 2)):
        for t, text in enumerate(texts):
            out = model.forward([text.tokens], read=[f"mlp_out.{layer}"]).acts[Site("mlp_out", layer)][0, -1].numpy()
            np.testing.assert_allclose(arrays["read"][t, i] @ circuit.write(layer).numpy(), out, rtol=1e-3, atol=1e-4)
