"""train_dictionary: planted features are found, gradients are true, a killed training goes on to the same bytes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gnomon.dictionaries import check_dictionary, dictionaries_of, load_dictionary
from gnomon.errors import UserError
from gnomon.lens import splice
from gnomon.lens.dictionary_training import Work
from gnomon.methods import dictionary_quality as quality
from gnomon.methods import topk_dictionary as topk
from gnomon.report.resolve import check
from gnomon.report.sections import make_section
from gnomon.step import Cost, ModelSpec, Planning
from gnomon.steps.train_dictionary import TrainDictionary
from gnomon.store import Artifact
from gnomon.types import Activations, Site
from tests.stepping import data_files, made
from tests.tiny import tiny_folder, tiny_model

SITE = "resid_post.1"
SMALL = {"latents": 48, "k": 4, "batch": 64, "steps": 60, "draws": 200, "checkpoint_every": 20, "loss_rows": 12,
         "dead_after": 600, "lr": 3e-3}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planted(n: int = 4000, d: int = 16, features: int = 24, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that are sums of k of `features` unit directions, off centre: (x `[n, d]`, directions)."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((features, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    z = np.zeros((n, features))
    for line in z:
        line[rng.choice(features, k, replace=False)] = rng.uniform(1, 2, k)
    return (z @ rows * 3 + rng.standard_normal(d) * 2).astype(np.float32), rows


# ---------------------------------------------------------------- the trainer


def test_planted_directions_are_found_and_shuffled_ones_are_not():
    x, rows = planted()
    options = topk.Training(latents=32, k=3, steps=800, batch=128, lr=3e-3, dead_after=2000)
    scale = topk.scaling(x)
    state = topk.train(x, options, scale)
    assert state.curve[-1][2] > 0.9
    cosines = (state.weights["decoder"] @ rows.T).max(0)
    assert (cosines > 0.9).mean() > 0.8
    shuffled = np.stack([np.random.default_rng(i).permutation(column) for i, column in enumerate(x.T)], axis=1)
    noise = topk.train(shuffled, options, topk.scaling(shuffled))
    assert ((noise.weights["decoder"] @ rows.T).max(0) > 0.9).mean() < 0.3
    assert noise.curve[-1][2] < state.curve[-1][2] - 0.1


def test_gradients_are_those_of_the_loss():
    """By automatic differentiation of the formula in the module's own words, auxiliary loss included."""
    rng = np.random.default_rng(0)
    options = topk.Training(latents=20, k=3, steps=1, aux_k=5, dead_after=10)
    x = torch.tensor(rng.standard_normal((6, 8)), dtype=torch.float64)
    w = {k: torch.tensor(v, dtype=torch.float64) for k, v in topk.start(8, options).weights.items()}
    w["encoder_bias"] += torch.tensor(rng.standard_normal(20) * 0.1)
    w["decoder_bias"] += torch.tensor(rng.standard_normal(8) * 0.1)
    idle = torch.zeros(20, dtype=torch.int64)
    idle[:16] = 1000
    before = idle.clone()
    grads, error, variance, aux = topk._gradients(w, x, idle, options)
    leaves = {k: v.clone().requires_grad_() for k, v in w.items()}
    pre = x @ leaves["encoder"].T + leaves["encoder_bias"]
    values, at = pre.topk(3, dim=-1)
    z = torch.zeros_like(pre).scatter(1, at, values.clamp_min(0))
    left = x - z @ leaves["decoder"] - leaves["decoder_bias"]
    loss = left.square().sum() / (x - x.mean(0)).square().sum()
    dead = [i for i in range(20) if before[i] + 6 > 10 and not (z[:, i] > 0).any()]
    assert 5 < len(dead) < 16
    best, where = pre[:, dead].topk(min(5, len(dead)), dim=-1)
    fill = torch.zeros_like(pre).scatter(1, torch.tensor(dead)[where], best.clamp_min(0))
    fixed = left.detach()
    second = (fixed - fill @ leaves["decoder"]).square().sum() / fixed.square().sum()
    whole = loss + options.aux * min(1.0, len(dead) / 5) * second
    whole.backward()
    assert error / variance + aux == pytest.approx(float(whole.detach()), rel=1e-9)
    for name, grad in grads.items():
        true = leaves[name].grad
        assert true is not None
        if name == "decoder":  # the part along each row is taken off
            true = true - (true * w[name]).sum(1, keepdim=True) * w[name]
        assert grad.numpy() == pytest.approx(true.numpy(), rel=1e-7, abs=1e-10), name


def test_a_cut_training_goes_on_to_the_same_bytes():
    x, _ = planted(500)
    options = topk.Training(latents=24, k=3, steps=50, batch=64, dead_after=300)
    scale, kept = topk.scaling(x), []
    whole = topk.train(x, options, scale)
    topk.train(x, options, scale, keep=kept.append, keep_every=15)
    assert [state.step for state in kept] == [15, 30, 45, 50]
    again = topk.train(x, options, scale, topk.State.of(kept[0].arrays()))
    for name, array in whole.arrays().items():
        assert np.array_equal(array, again.arrays()[name]), name
    other = topk.train(x, topk.Training(latents=24, k=3, steps=50, batch=64, dead_after=300, seed=1), scale)
    assert not np.array_equal(other.weights["decoder"], whole.weights["decoder"])


def test_dead_latents_are_brought_back_by_the_auxiliary_loss():
    """Latents whose encoder starts too small to be among the k largest stay dead without it."""
    x, _ = planted(3000)
    dead = {}
    for aux_k in (0, 8):
        options = topk.Training(latents=60, k=3, steps=300, batch=128, dead_after=1500, aux_k=aux_k)
        state = topk.start(16, options)
        state.weights["encoder"][20:] *= 0.02
        dead[aux_k] = topk.train(x, options, topk.scaling(x), state).curve[-1][4]
    assert dead[8] < dead[0] - 0.2


def test_rows_stay_of_length_one_and_every_token_is_seen():
    x, _ = planted(300)
    options = topk.Training(latents=24, k=3, steps=9, batch=100)
    state = topk.train(x, options, topk.scaling(x))
    assert np.linalg.norm(state.weights["decoder"], axis=1) == pytest.approx(np.ones(24), abs=1e-6)
    seen = np.concatenate([topk.tokens_of(step, 300, options) for step in range(3)])
    assert sorted(seen) == list(range(300))
    longer = topk.Training(latents=24, k=3, steps=100)
    rates = [topk.learning_rate(step, longer) for step in range(100)]
    assert rates[0] == pytest.approx(longer.lr / 5)
    assert max(rates) == rates[50] == longer.lr
    assert rates[-1] == pytest.approx(longer.lr / 30)
    with pytest.raises(UserError, match="k = 30 of 24 latents"):
        topk.train(x, topk.Training(latents=24, k=30, steps=1), topk.scaling(x))
    with pytest.raises(UserError, match="same vector"):
        topk.scaling(np.ones((50, 4), np.float32))


# ---------------------------------------------------------------- quality


def test_explained_variance_is_its_definition_and_controls_are_what_they_say():
    x, _ = planted(600)
    mean, components = quality.principal(x, 5)
    centred = x.astype(np.float64) - mean
    share = np.linalg.svd(centred, compute_uv=False) ** 2
    rebuild = {"pca": quality.by_components(mean, components), "mean": lambda y: np.broadcast_to(mean, y.shape),
               "random": quality.by_random_rows(x, mean, 40, 5, 0)}  # fmt: skip
    texts = [x[a : a + 30] for a in range(0, 600, 30)]
    sums, one = quality.text_sums(texts, rebuild, x.shape[1]), np.ones((1, 20))
    assert quality.explained(sums, "pca", one)[0] == pytest.approx(share[:5].sum() / share.sum(), rel=1e-9)
    assert quality.explained(sums, "mean", one)[0] == pytest.approx(0, abs=1e-9)
    assert 0 < quality.explained(sums, "random", one)[0] < quality.explained(sums, "pca", one)[0] + 0.5
    twice = np.zeros((1, 20))
    twice[0, :2] = 2
    direct = np.concatenate([texts[0], texts[1]]).astype(np.float64)
    wanted = 1 - ((direct - rebuild["pca"](direct)) ** 2).sum() / ((direct - direct.mean(0)) ** 2).sum()
    assert quality.explained(sums, "pca", twice)[0] == pytest.approx(wanted, rel=1e-9)
    found = quality.explained_interval(sums, "pca", np.arange(20) // 2, 200, 0)
    assert found.low < found.value < found.high


def test_a_perfect_splice_costs_nothing_and_massive_tokens_are_left_alone():
    model = tiny_model("llama")
    texts = [model.tokenize("The capital of Kenya is Nairobi."), model.tokenize("What is 12 + 30?")]
    site, width = Site.parse(SITE), model.d_model
    mean = np.zeros(width, np.float32)
    edits = splice.conditions(site, {"same": lambda x: x + 0.0, "half": lambda x: x / 2}, mean)
    losses, counts = splice.text_losses(model, texts, edits)
    assert losses["same"] == pytest.approx(losses["clean"], abs=1e-4)
    assert np.abs(losses["half"] - losses["clean"]).max() > 1e-3
    assert losses["zero"] == pytest.approx(losses["mean"], abs=1e-4), "the mean is 0 here"
    assert counts.tolist() == [len(t) - 1 for t in texts]
    direct = model.forward([texts[0]], logits="all").logits[0].log_softmax(-1)
    wanted = -sum(float(direct[i, t]) for i, t in enumerate(texts[0][1:]))
    assert losses["clean"][0] == pytest.approx(wanted, rel=1e-4)
    spared, _ = splice.text_losses(model, texts, splice.conditions(site, {"half": lambda x: x / 2}, mean, most=0.0))
    assert spared["half"] == pytest.approx(spared["clean"], abs=1e-5)


def test_the_share_of_loss_recovered():
    losses = {"clean": np.array([3.0, 5, 4]), "zero": np.array([9.0, 9, 8]), "good": np.array([4.0, 6, 4])}
    groups = np.arange(3)
    found = splice.recovered(losses, "good", "zero", groups, 200, 0)
    assert found.value == pytest.approx(12 / 14)
    assert found.low < found.value < found.high
    assert splice.recovered(losses, "clean", "zero", groups, 200, 0).value == 1
    assert splice.recovered(losses, "zero", "zero", groups, 200, 0).value == 0
    nothing = losses | {"zero": losses["clean"]}
    assert np.isnan(splice.recovered(nothing, "good", "zero", groups, 200, 0).value)
    assert splice.mean_loss(losses["clean"], np.array([6.0, 10, 8]), groups, 200, 0).value == pytest.approx(0.5)


# ---------------------------------------------------------------- the step


def facts_of(artifact: Artifact) -> Any:
    """Table `facts` by name."""
    return artifact.table("facts").set_index("name")["value"]


def spec() -> ModelSpec:
    return ModelSpec(str(tiny_folder("llama")), device="cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Artifact:
    from gnomon.steps.generate import Generate

    capture = {"sites": ["resid_post.1", "mlp_out.2"], "positions": ["all", "last_prompt"]}
    step = Generate(task="sums", n=60, capture=capture)  # pyright: ignore
    return made(step, tmp_path_factory.mktemp("train"), spec())


def run(study: Path, source: Artifact, name: str = "", **options) -> Artifact:
    step = TrainDictionary(**({"sites": (SITE,)} | SMALL | options))  # pyright: ignore
    return made(step, study, spec(), name, {"generations": [source], "activations": [source]})


@pytest.fixture(scope="module")
def trained(source: Artifact, tmp_path_factory) -> Artifact:
    return run(tmp_path_factory.mktemp("one"), source)


def test_the_step_writes_dictionaries_that_load_and_pass_their_checks(trained: Artifact, source: Artifact):
    found = dictionaries_of(trained)
    assert list(found) == [SITE]
    one = found[SITE]
    assert (one.d_sae, one.k, one.activation, str(one.site)) == (48, 4, "topk", SITE)
    view = source.activations(f"{SITE}@all")
    assert all(check.passed for check in check_dictionary(one, np.asarray(view.values)))
    assert load_dictionary(trained.path / "dictionaries" / SITE).meta["trained_tokens"] > 100
    assert not (trained.path / "_training").exists()
    assert not trained.verify()


def test_quality_is_of_rows_that_were_not_trained_on(trained: Artifact, source: Artifact):
    table: Any = trained.table("quality").set_index(["split", "predictor", "metric"])
    value = table["value"]
    ev = {p: value["test", p, "explained_variance"] for p in ("dictionary", "pca", "random", "mean")}
    assert ev["dictionary"] > ev["random"]
    assert ev["mean"] <= 1e-6
    rows: Any = source.table("generations")
    view, one = source.activations(f"{SITE}@all"), dictionaries_of(trained)[SITE]
    most = facts_of(trained)["massive_norm"]
    x = np.concatenate([view.row(r) for r in sorted(rows.loc[rows["split"] == "test", "row"])]).astype(np.float32)
    x = x[np.linalg.norm(x, axis=1) <= most]
    made_up = one.decode(one.encode(torch.from_numpy(x))).numpy().astype(np.float64)
    wanted = 1 - ((x - made_up) ** 2).sum() / ((x - x.astype(np.float64).mean(0)) ** 2).sum()
    assert ev["dictionary"] == pytest.approx(wanted, rel=1e-5)
    assert value["test", "dictionary", "l0"] <= 4
    assert {m for s, _, m in value.index if s == "test"} >= {
        "loss",
        "loss_recovered",
        "loss_recovered_from_mean",
        "dead",
    }
    assert value["test", "clean", "loss"] > 0
    ledger = trained.meta["ledger"]
    assert sum("quality" in line["why"] for line in ledger) == 1
    fit = int(facts_of(trained)["fit_rows"])
    assert fit == int((rows["split"] == "fit").sum())


def test_every_number_of_the_report_resolves(trained: Artifact):
    assert check(TrainDictionary().summary(trained), trained) == []
    headline = make_section(trained, {}, strict=True).sentences("headline")[0].text
    assert "95% interval" in headline
    assert "PCA with as many components" in headline
    assert "recovers" in headline


def test_a_killed_step_goes_on_to_the_same_bytes(trained: Artifact, source: Artifact, tmp_path: Path, monkeypatch):
    real, steps = topk._gradients, []

    def stopping(*args):
        steps.append(1)
        if len(steps) == 45:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(topk, "_gradients", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, source)
    assert (tmp_path / ".train_dictionary.partial" / "_training" / f"{SITE}.safetensors").is_file()
    again = run(tmp_path, source)
    assert len(steps) == 45 + 20, "it went on from step 40, not from the start"
    assert data_files(again) == data_files(trained)
    weights = f"dictionaries/{SITE}/sae_weights.safetensors"
    assert (again.path / weights).read_bytes() == (trained.path / weights).read_bytes()


def test_text_joins_the_training_and_nothing_else(source: Artifact, tmp_path: Path):
    text = tmp_path / "more.txt"
    text.write_text("The capital of France is Paris. " * 200)
    options: dict[str, Any] = {"steps": 5, "loss_rows": 0, "context": 32}
    one = run(tmp_path / "a", source, text=str(text), tokens=4000, **options)
    facts = facts_of(one)
    assert facts["tokens_of_rows"] < facts["tokens"] <= 4000
    bare = facts_of(run(tmp_path / "b", source, **options))
    assert facts["tokens_of_rows"] == bare["tokens_of_rows"] == bare["tokens"] + bare["masked"]
    capped = facts_of(run(tmp_path / "c", source, tokens=300, **options))
    assert capped["tokens"] + capped["masked"] == 300
    first = TrainDictionary(text=str(text)).identity()
    text.write_text("other")
    assert TrainDictionary(text=str(text)).identity() != first
    neutral = run(tmp_path / "d", source, text="neutral", tokens=2500, **options)
    assert facts_of(neutral)["tokens"] > facts["tokens_of_rows"]


@pytest.mark.parametrize("ragged", [True, False])
def test_tokens_that_are_not_trained_on_are_not_held(ragged: bool):
    """2,000 rows, of which few tokens are drawn: as if from all of them at once, and nothing like all in memory."""
    rng, width = np.random.default_rng(0), 64
    lengths = rng.integers(0, 60, size=2000) if ragged else np.ones(2000, int)
    values = rng.standard_normal((lengths.sum(), width)).astype(np.float16)
    values[::50] *= 30
    offsets = np.r_[0, np.cumsum(lengths)] if ragged else None
    view = Activations(Site.parse(SITE), "all" if ragged else "last", values, 3 * np.arange(2000), offsets)
    table = pd.DataFrame({"row": 3 * np.arange(2000), "split": "fit"})
    table.loc[::3, "split"] = "test"
    ctx: Any = SimpleNamespace(seed=4, split=lambda t, which, why: t.loc[t["split"] == which])
    inputs: Any = None
    tracemalloc.start()
    x, known = Work(TrainDictionary(tokens=700, k=2), inputs, inputs, ctx, view.position)._tokens(view, table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    own = np.concatenate([np.atleast_2d(view.row(r)) for r in table.loc[table["split"] == "fit", "row"]])
    drawn = own[np.sort(np.random.default_rng([4, 86028121]).permutation(len(own))[:700])].astype(np.float32)
    norms = np.linalg.norm(drawn.astype(np.float64), axis=1)
    keep = norms <= 5 * np.median(norms)
    np.testing.assert_array_equal(x, drawn[keep])
    assert known["masked"] == (~keep).sum() > 0
    assert known["fit_rows"] == (table["split"] == "fit").sum()
    assert not ragged or peak < own.size * 4 / 3


def test_what_cannot_work_is_refused_before_any_work(source: Artifact, tmp_path: Path):
    captured = Cost(rows=60, sites=(f"{SITE}@all", "mlp_out.2@all", f"{SITE}@last_prompt"),
                    splits={"fit": 30, "tune": 6, "test": 24})  # fmt: skip
    plan = Planning(spec(), 0, {"generations": captured, "activations": captured})
    TrainDictionary().check(plan)
    assert TrainDictionary().candidates([(SITE, "all"), (SITE, "last")], 4) == ([SITE], "all")
    assert TrainDictionary().cost(plan).memory_bytes > 0
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"sites": ("resid_post.3",)}, r"unknown activations to train on 'resid_post\.3@all'"),
        ({"position": "response"}, "no activations were captured at position response"),
        ({"position": "respons"}, "did you mean 'response'"),
        ({"k": 64, "latents": 32}, "k is 64; at most latents, which is 32"),
        ({"text": "/nowhere.txt"}, r"no file at /nowhere\.txt"),
    )
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            TrainDictionary(**options).check(plan)
    with pytest.raises(UserError, match=r"has \d+ tokens at"):
        run(tmp_path, source, tokens=6)
