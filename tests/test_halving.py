"""Every worker that runs a model halves a batch that does not fit: the same numbers, and the marker says so."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gnomon.causal.attending import Attender, Looks
from gnomon.causal.items import Item
from gnomon.causal.patching_choices import Chooser
from gnomon.causal.patching_text import Pen, Writing
from gnomon.causal.swap import Swapper
from gnomon.causal.swap_items import Block, Exchange, Place, Read, View
from gnomon.causal.worker import CLEAN, Condition, Scorer
from gnomon.causal.worker import Block as Scored
from gnomon.errors import UserError
from gnomon.halving import in_halves, run_halving
from gnomon.interventions.neurons import Neurons
from gnomon.interventions.steer import Steer
from gnomon.latents import Latent
from gnomon.lens.directions import ScoreDirection
from gnomon.lens.feature_reading import captured
from gnomon.lens.model_ablation import Repeated
from gnomon.lens.neurons import Ablated, Measured, NeuronWorker
from gnomon.lens.texts import ReadText
from gnomon.lens.worker import LensWorker, Masses, Outputs, Scores
from gnomon.models.model import Model
from gnomon.models.sweep import SitePatch, Sweep
from gnomon.paths import attribution
from gnomon.paths.active import active_latents
from gnomon.paths.attribution import Target, gradients
from gnomon.paths.pathway_work import Job as TraceJob
from gnomon.paths.pathway_work import Tracing
from gnomon.paths.replay import Replaying, Scan
from gnomon.paths.replay_plan import Row
from gnomon.paths.trace import Goal, Keep
from gnomon.rows.gather import Gather, Where
from gnomon.step import ModelSpec
from gnomon.steps.lexicon import Embedder, Embedding
from gnomon.types import Site
from gnomon.writer import Writer
from tests import pathway_study as quiet
from tests.test_paths_attribution import toy
from tests.tiny import tiny_folder, tiny_model

LIMIT = 2
VECTOR = np.cos(np.arange(32, dtype=np.float32))


def spec() -> ModelSpec:
    return ModelSpec(str(tiny_folder("llama")), device="cpu")


def texts(n: int = 6) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(3)
    return [tuple(int(t) for t in rng.integers(3, 250, size=6 + i)) for i in range(n)]


@pytest.fixture
def small(monkeypatch) -> None:
    """A device on which at most LIMIT rows fit."""
    for name in ("forward", "generate"):
        whole = getattr(Model, name)

        def few(self: Model, some: Any, /, *args: Any, whole: Any = whole, **options: Any) -> Any:
            if len(some) > LIMIT:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return whole(self, some, *args, **options)

        monkeypatch.setattr(Model, name, few)


def did(worker: Any, shards: list[Any], study: Path) -> tuple[dict[str, Any], list[list[int]]]:
    """What a worker wrote, by file, and the sizes that each shard's marker says did not fit."""
    out = Writer(study, "step", "step")
    worker.path = str(out.path)
    if getattr(worker, "trained", None):
        worker.trained = str(quiet.trained(study / "dictionaries").path)
    worker.open()
    for index, shard in enumerate(shards):
        worker((index, shard))
    found: dict[str, Any] = {}
    for path in sorted(out.path.rglob("*")):
        name = str(path.relative_to(out.path))
        if path.suffix == ".npy":
            found[name] = np.load(path)
        elif path.suffix == ".parquet":
            table = pd.read_parquet(path)
            keys = [c for c in table.columns if table[c].dtype.kind not in "f"]
            found[name] = table.sort_values(keys, ignore_index=True)
    markers = [json.loads(p.read_text())["info"] for p in sorted((out.path / "_done").glob("*.json"))]
    return found, [info.get("halved", []) for info in markers]


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(found[name], value, rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def scorer() -> tuple[Any, list[Any]]:
    """Conditions of their own rows too: masks name rows of the whole batch, whatever part of it is run."""
    items = tuple(Item(i, -1, t, len(t) - 2, len(t) - 3, len(t) - 2) for i, t in enumerate(texts()))
    site, mask = Site("mlp_post", 1), np.eye(6, 5, dtype=bool)
    rows = Repeated(Neurons(site, np.arange(5), 3.0, mask=mask, where="last_prompt"), 6)
    steered = [Steer(Site("resid_post", 1), VECTOR, where="last_prompt", strength=s) for s in (1.0, -2.0)]
    conditions = (CLEAN, *(Condition(f"steer {i}", (e,)) for i, e in enumerate(steered)), Condition("masked", (rows,)))
    return Scorer(spec(), "", 6), [Scored("task", items, conditions)]


def attender() -> tuple[Any, list[Any]]:
    model = tiny_model("llama")
    prompts = [model.decode([int(i) for i in t[:-1]]) for t in texts(5)]
    rows = tuple({"row": i, "token_ids": t, "prompt_len": len(t) - 1, "prompt": p}
                 for i, (t, p) in enumerate(zip(texts(5), prompts, strict=True)))  # fmt: skip
    parts = tuple({"all": p} for p in prompts)
    return Attender(spec(), "", "last_prompt"), [Looks(rows, parts, (CLEAN,))]


def lens() -> tuple[Any, list[Any]]:
    some = tuple(ReadText(i, t, len(t), 5) for i, t in enumerate(texts()))
    worker = LensWorker(spec(), "", (1, 2), None, 4, (ScoreDirection("given", VECTOR),),
                        {1: np.arange(4), 2: np.arange(4)}, effects=True, total=True)  # fmt: skip
    return worker, [Outputs(some), Scores(some), Masses(some, (1, 2))]


def neurons() -> tuple[Any, list[Any]]:
    some = tuple(ReadText(i, t, len(t), 5) for i, t in enumerate(texts()))
    return NeuronWorker(spec(), "", (1, 2), "logprob", None, False, 4), [
        Measured(some, True), Measured(some, False), Ablated(some, 1, (0, 3, 7)),
    ]  # fmt: skip


def embedder() -> tuple[Any, list[Any]]:
    return Embedder(spec(), "", "mean", 5), [[Embedding(t, 2) for t in texts()]]


def swapper() -> tuple[Any, list[Any]]:
    """Texts with an option of two tokens (it continues a cache), and of two views each."""
    read = Read(((65, 70), (66,), (68,)), (0.1, 0.5, 0.9), (2, 1, 1))
    some = [View(t, read, {"end": len(t) - 1}) for t in texts(6)]
    held = {i: (view, View(view.tokens[::-1], read, view.places)) for i, view in enumerate(some)}
    pairs = tuple(Exchange(i, "up", i, (("far", (i + 1) % 6), ("near", (i + 2) % 6))) for i in range(3))
    block = Block(set="task", items={"confidence": held}, swaps=pairs, places=(Place("confidence", "end", (0, 2)),))
    return Swapper(spec(), "", 0, 4), [block]


def tracing() -> tuple[Any, list[Any]]:
    low, high = (Latent(Site.parse(s), quiet.TARGET) for s in quiet.SITES[1:])
    rows = dict(enumerate(tuple(p) for p in quiet.asked()[0][:8]))
    goals = (Goal(low, tuple(rows)), Goal(high, tuple(rows)))
    return Tracing(quiet.spec(), "", None, "trained", ("total",), Keep(), 4, 8, False, None), [TraceJob(goals, rows)]


def replaying() -> tuple[Any, list[Any]]:
    rows = tuple(Row(i, str(i), "", "test", True, tuple(p)) for i, p in enumerate(quiet.asked()[0][:6]))
    shards = [Scan(rows, tuple(map(Site.parse, quiet.SITES)))]
    return Replaying(quiet.spec(), "", None, "trained", False, 4, 8, None), shards


WORKERS = {"scorer": scorer, "attender": attender, "lens": lens, "neurons": neurons, "embedder": embedder,
           "swapper": swapper, "tracing": tracing, "replaying": replaying}  # fmt: skip


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_runs_in_halves_what_does_not_fit(name, tmp_path, request):
    plain, unmarked = did(*WORKERS[name](), tmp_path / "plain")
    assert plain
    assert unmarked == [[]] * len(unmarked), "nothing is marked where all fits"
    request.getfixturevalue("small")
    found, halved = did(*WORKERS[name](), tmp_path / "halved")
    same(found, plain)
    assert all(sizes and min(sizes) > LIMIT for sizes in halved)


def test_choices_and_writing_under_patches(small, monkeypatch):
    """The parts of patch_features: every option's score and every reply under each patch."""
    edits = [None, *(Steer(Site("resid_post", 1), VECTOR, where="last_prompt", strength=s) for s in (1.0, -2.0))]
    rows = tuple({"row": i, "token_ids": t, "prompt_len": len(t) - 2, "example_id": str(i), "sample": 0, "round": 0,
                  "temperature": i % 2} for i, t in enumerate(texts(5)))  # fmt: skip
    items = tuple(Item(i, -1, t, len(t) - 2, len(t) - 3, len(t) - 2) for i, t in enumerate(texts(5)))

    def tried() -> tuple[np.ndarray, list[list[str]], list[int]]:
        from gnomon.causal.patching import PatchShard

        chooser = Chooser(spec(), "", ("a", "b"), "last_prompt", 0)
        chooser.model, chooser.clean, chooser.halved = spec().load(), ((), None), []
        pen = Pen(chooser.model, Writing(4), 0)
        pen.halved = chooser.halved
        return chooser.scores(PatchShard(rows, items=items), edits), pen.write(rows, edits), chooser.halved

    scores, said, halved = tried()
    monkeypatch.undo()
    wanted, written, none = tried()
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
    assert said == written
    assert (none, min(halved) > LIMIT) == ([], True)
    assert np.abs(wanted[1:] - wanted[:1]).min() > 1e-3


def test_text_that_no_worker_reads_is_said_in_the_log(small, monkeypatch, caplog):
    model, tokens, edit = tiny_model("llama"), texts(), [Steer(Site("resid_post", 1), VECTOR)]
    with caplog.at_level(logging.WARNING, "gnomon"):
        acts = captured(model, tokens, ["resid_post.2"], 4)["resid_post.2"]
        scored = model.logprobs(tokens, [3] * 6, edit)
    assert "a batch of 4 rows does not fit" in caplog.text
    monkeypatch.undo()
    for a, b in zip(acts, captured(model, tokens, ["resid_post.2"], 4)["resid_post.2"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(scored, model.logprobs(tokens, [3] * 6, edit), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_patches_that_ride_together(monkeypatch):
    model, site, high = tiny_model("llama"), Site("resid_post", 0), Site("mlp_post", 3)
    sweep = Sweep(model, texts()[5], [site, high])
    patches = [SitePatch(site, (i,), torch.from_numpy(VECTOR)[None], (high,)) for i in range(5)]
    plain, whole = sweep.run(patches), sweep._up

    def up(pack: Any, *rest: Any) -> None:
        if len(pack) > LIMIT:
            raise torch.OutOfMemoryError("CUDA out of memory")
        whole(pack, *rest)

    monkeypatch.setattr(sweep, "_up", up)
    halved: list[int] = []
    for a, b in zip(sweep.run(patches, halved=halved), plain, strict=True):
        torch.testing.assert_close(a[high], b[high], rtol=1e-4, atol=1e-5)
    assert halved == [5, 3]


def test_targets_of_several_sites_whose_backward_does_not_fit(monkeypatch):
    """Halves that a source has no part in are none of it, whichever half comes first."""
    model, tokens = tiny_model("llama", "float64"), texts()[5]
    low, high = Site("resid_post", 1), Site("resid_post", 3)
    sites = [Site("resid_post", 0), low, Site("resid_post", 2), high]
    shelf = {s: toy(s) for s in sites}
    x = model.forward([tokens], read=sites).acts
    active = [{s: active_latents(shelf[s], x[s][0], masked=False) for s in sites}]
    whole = attribution._backward

    def one(values: Any, acts: Any) -> Any:
        if len(values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(values, acts)

    for order in ((low, high, low), (high, low, high)):
        targets = [[Target.of(shelf[s], 4 + i, len(tokens) - 1, x[s][0]) for i, s in enumerate(order)]]
        wanted = gradients(model, [tokens], active, targets)[0]
        with monkeypatch.context() as short:
            short.setattr(attribution, "_backward", one)
            found = gradients(model, [tokens], active, targets, halved=(halved := []))[0]
        assert halved == [3, 2]
        assert found.keys() == wanted.keys() == set(sites[:3])
        for site in wanted:
            torch.testing.assert_close(found[site], wanted[site])
            assert float(wanted[site].abs().max()) > 0


# ---------------------------------------------------------------- the mechanism


def test_parts_come_in_order_and_sizes_count_rows():
    def work(some: Any) -> list[int]:
        if len(some) > 2:
            raise torch.OutOfMemoryError("no room")
        return [2 * x for x in some]

    halved: list[int] = []
    assert run_halving(work, range(7), halved) == [0, 2, 4, 6, 8, 10, 12]
    assert halved == [7, 4, 3]
    assert in_halves(work, range(4), halved := [], each=5) == [[0, 2], [4, 6]]
    assert halved == [20]


def test_what_fails_while_it_is_gathered_leaves_nothing_behind():
    """The second position of a batch does not fit: the first one's values of that try are not kept twice."""
    site = Site("resid_post", 0)
    gather = Gather(tiny_model("llama"), [site], ("last_prompt", "all"), "float32")

    def values(picks: Any) -> dict[Site, torch.Tensor]:
        if len(places) > 1 and any(b - a > 1 for _, a, b in picks):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {site: torch.tensor([[float(slot)] * 32 for slot, a, b in picks for _ in range(a, b)])}

    def work(some: Any) -> list[int]:
        nonlocal places
        places = [Where(row, slot, 2, 3) for slot, row in enumerate(some)]
        gather.take(places, values)
        return list(some)

    places: list[Where] = []
    assert run_halving(work, [5, 6, 7], halved := []) == [5, 6, 7]
    assert halved == [3, 2]
    assert gather.rows == {"last_prompt": [5, 6, 7], "all": [5, 6, 7]}
    assert gather.counts["all"] == [3, 3, 3]
    assert [len(part) for part in gather.parts[site, "last_prompt"]] == [1, 1, 1]


def test_a_single_row_is_refused_by_the_outer_and_passed_on_by_the_inner():
    def never(some: Any) -> list[int]:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(UserError, match="one row"):
        run_halving(never, [1, 2], [])
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(never, [1], [])
    calls = []

    def nested(some: Any) -> list[Any]:
        """Conditions run as copies: when one alone does not fit, the rows are halved."""

        def copies(conditions: Any) -> str:
            calls.append((len(some), len(conditions)))
            if len(some) * len(conditions) > 2:
                raise torch.OutOfMemoryError("no room")
            return f"{len(some)}x{len(conditions)}"

        return in_halves(copies, "ab", [], len(some))

    assert run_halving(nested, [1, 2, 3, 4], []) == ["2x1"] * 4
    assert calls[:3] == [(4, 2), (4, 1), (2, 2)]
