"""A model over several devices gives the numbers of the whole one: with weights on disk, and with blocks elsewhere.

No second device is needed: `two_devices` makes one that says it is one. What that cannot show: the speed, and that
CUDA's own kernels agree.
"""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gnomon.cli_check import check_model_command
from gnomon.config import load
from gnomon.errors import UserError
from gnomon.interventions.base import per_row
from gnomon.interventions.patch import Patch
from gnomon.interventions.steer import Steer
from gnomon.lens.ablate import single_neuron_effects
from gnomon.lens.gradient import gradient_times_activation
from gnomon.lens.lens import Lens
from gnomon.lens.readout import target_logprob
from gnomon.models.check import hooks_left
from gnomon.models.device_map import check_map, check_room, sizes
from gnomon.models.devices import check_placed
from gnomon.models.model import Model
from gnomon.models.replay import Replay
from gnomon.models.sources import load_model
from gnomon.models.sweep import SitePatch, Sweep
from gnomon.step import ModelSpec
from gnomon.types import Site
from tests.tiny import tiny_folder, tiny_model, tiny_prompts
from tests.two_devices import AWAY, Away, send, strict

VECTOR = np.cos(np.arange(32, dtype=np.float32))


def everything(model: Model) -> dict[str, Any]:
    """What a model is asked for by steps, as tensors and arrays at home."""
    prompts = tiny_prompts(model, 3)
    sites = ["embed", "resid_pre.1", "z.2", "mlp_post.3", "attn_out.3", "mlp_out.0", "resid_mid.2", "resid_post.3"]
    scales = ["ln1.0", "ln2.3", "ln_final"]
    out = model.forward(prompts, read=sites, logits="all", patterns=[0, 3], norm_scales=scales)
    assert out.resid is not None
    assert all(x.device == model.device for x in (*out.acts.values(), out.logits, out.resid, *out.norm_scales.values()))
    found: dict[str, Any] = {str(s): out.values(s) for s in out.acts}
    found |= {"resid": out.resid[0, :3], "logits": out.logits[0, :3]}
    found |= {f"pattern {k}": v[0] for k, v in out.patterns.items()}
    found |= {name: scale[0, :3] for name, scale in out.norm_scales.items()}
    edits = [Steer(Site("resid_post", 0), VECTOR, strength=2.0), Patch(Site("z", 3, 1), VECTOR[: model.d_head]),
             Patch(Site("resid_mid", 2), VECTOR, where="last_prompt")]  # fmt: skip
    found["edited"] = model.forward(prompts, edit=edits, logits="last").logits
    made = model.generate(prompts, max_new_tokens=4, edit=edits, read=["resid_post.3", "mlp_post.0"],
                          positions=["last", "all"])  # fmt: skip
    found["ids"] = np.array([[*row.token_ids, *[-1] * 4][:4] for row in made.rows])
    found |= {f"made {site}": acts.last() for site, acts in made.acts.items()}
    found |= {f"all {site}": acts.values("all")[0] for site, acts in made.acts.items()}
    texts, lens = [[*p, 5, 6, 7] for p in prompts], [len(p) for p in prompts]
    replay = Replay(model, texts, [n - 1 for n in lens], lens, lens)
    found["replayed"] = replay.run(per_row([[edits[0]], [edits[1]]], np.repeat([0, 1], len(texts))), 2).logprob
    cache = model.new_cache()
    model.forward(prompts, cache=cache)
    found["continued"] = model.forward([[5]] * len(prompts), cache=cache, logits="last").logits  # rows end apart
    return found | downstream(model, prompts)


@functools.cache
def whole(family: str) -> dict[str, Any]:
    """Everything of the model on one device."""
    return everything(tiny_model(family))


def downstream(model: Model, prompts: list[list[int]]) -> dict[str, Any]:
    """What lens and causal code makes of it, and the weights."""
    names = ["W_E", "W_U", "b_U", "ln_final.w"]
    found: dict[str, Any] = {name: model.weights(name) for name in names}
    per_layer = ["W_Q", "W_V", "W_O", "b_O", "W_in", "W_out", "ln1.w", "ln2.w"]
    found |= {f"{name}.{layer}": model.weights(name, layer) for name in per_layer for layer in (0, 3)}
    found["unembed directions"] = model.unembed_directions([3, 4])
    readout = target_logprob(model, [5] * len(prompts))
    found["ablated"] = single_neuron_effects(model, prompts, 1, [0, 3], readout)
    found["gradient"] = np.stack(list(gradient_times_activation(model, prompts, [0, 2, 3], readout).values()))
    out = model.forward(prompts[:1], read=["resid_mid.2", "resid_post.0", "resid_post.3"], grad=True)
    top = out.acts[Site("resid_post", 3)][0, -1].sum()
    slopes = torch.autograd.grad(top, [out.acts[Site("resid_mid", 2)], out.acts[Site("resid_post", 0)]])
    found |= {f"slope {i}": slope for i, slope in enumerate(slopes)}
    lens = Lens(model)
    factors = lens.capture(prompts, [0, 2])
    found |= {"lens rows": factors.rows[3], "lens acts": factors.acts[2], "lens output": factors.output}
    found |= {f"total {k}": v for k, v in lens.total(prompts, [0, 2], VECTOR).items()}
    low, high = Site("resid_post", 0), Site("mlp_post", 3)
    sweep = Sweep(model, prompts[0], [low, high, "attn_out.2"])
    patches = [SitePatch(low, (1,), torch.from_numpy(VECTOR)[None], (high, Site("attn_out", 2))),
               SitePatch(Site("attn_out", 2), (0, 2), torch.ones(2, 32), (high,))]  # fmt: skip
    for i, reads in enumerate(sweep.run(patches)):
        found |= {f"sweep {i} {site}": value for site, value in reads.items()}
    with model.exact():
        found["exact"] = model.forward(prompts, logits="last").logits
    return found


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        a, b = (
            x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in (found[name], value)
        )
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1e-3, np.abs(b).max()), err_msg=name)


def on_disk(family: str, **options: Any) -> Model:
    folder = tiny_folder(family)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return load_model(str(folder), device_map="auto", max_memory={"cpu": int(size * 0.75), "disk": "1GB"}, **options)


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_blocks_on_disk_give_the_numbers_of_the_whole_model(family):
    model = on_disk(family, check=False)
    assert model.placed["disk"] >= 2
    assert model.placed["cpu"] >= 1
    assert any(p.device.type == "meta" for p in model.hf.parameters())
    assert model.describe()["blocks_on"] == model.placed
    before = [module.__dict__.get("forward") for module in model.hf.modules()]
    same(everything(model), whole(family))
    assert hooks_left(model) == 0
    assert [module.__dict__.get("forward") for module in model.hf.modules()] == before  # accelerate's own are back
    assert model.fingerprint == tiny_model(family).fingerprint


def elsewhere(family: str, part: slice) -> Model:
    """A copy of the tiny model with some blocks (and the final norm) on the other device."""
    whole = tiny_model(family)
    hf = copy.deepcopy(whole.hf)
    body = Model(hf, whole.tokenizer).body
    send(*body.blocks[part], body.final_norm, *([] if hf.config.tie_word_embeddings else [body.head]))
    return Model(hf, whole.tokenizer, family)


@pytest.mark.parametrize(("family", "part"), [("gpt2", slice(2, None)), ("gemma3", slice(1, 3))])
def test_blocks_on_another_device_give_the_numbers_of_the_whole_model(family, part):
    """The last ones, and some between: what goes there comes back."""
    model = elsewhere(family, part)
    assert [p == AWAY for p in model.body.places] == [i in range(4)[part] for i in range(4)]
    with strict():
        found = everything(model)
    assert not any(isinstance(x, Away) for x in found.values())
    same(found, whole(family))


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_capped_logits_and_a_head_of_its_own_on_another_device(family):
    model, prompts = elsewhere(family, slice(2, None)), tiny_prompts(tiny_model(family), 3)
    options: dict[str, Any] = {"logits": "all", "edit": [Patch(Site("z", 3, 1), VECTOR[: model.d_head])]}
    with strict():
        found = model.forward(prompts, **options).logits
    same({"logits": found[0, :3]}, {"logits": tiny_model(family).forward(prompts, **options).logits[0, :3]})


def test_the_other_device_refuses_to_mix():
    here, there = torch.ones(3), Away(torch.ones(3))
    with strict():
        assert (there + 1).device == AWAY
        assert torch.arange(3, device=AWAY).device == torch.tensor([1, 2], device=there.device).device == AWAY
        assert torch.equal((there * 2).to("cpu"), here * 2)
        with pytest.raises(RuntimeError, match="one device"):
            _ = here + there
        with pytest.raises(RuntimeError, match="one device"):
            here[torch.tensor([0, 1], device=AWAY)]


# ---------------------------------------------------------------- options


def test_sizes_are_read():
    assert sizes({"cpu": "60GiB", 1: "1.5GB", "0": 2000}) == ((0, 2000), (1, 1_500_000_000), ("cpu", 60 << 30))
    for bad in ({"gpu": "1GB"}, {0: "much"}, {0: "-1GB"}, {0: 0}, {0: True}, {-1: "1GB"}):
        with pytest.raises(UserError, match="max_memory"):
            sizes(bad)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"device_map": "auto", "adapter": "lora"}, "adapter"), ({"device_map": "auto", "device": "cpu"}, "device: auto"),
     ({"max_memory": {0: "1GB"}}, "without device_map"), ({"device_map": "auto", "max_memory": {"x": "1GB"}}, "'x'"),
     ({"device_map": "atuo"}, "auto")],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused_before_work(options, said):
    study = {"model": str(tiny_folder("llama")), "steps": [{"generate": {"task": "capitals"}}]} | options
    with pytest.raises(UserError, match=said):
        load(study).study.spec()
    with pytest.raises(UserError, match=said):
        load_model(str(tiny_folder("llama")), **options)


def test_a_study_file_says_how_and_no_fingerprint_knows():
    steps = {"steps": [{"generate": {"task": "capitals"}}]}
    study = load({"device_map": "balanced", "max_memory": {"cpu": "2GB"}} | steps).study
    spec = study.spec()
    assert (spec.device_map, spec.max_memory) == ("balanced", (("cpu", 2 * 10**9),))
    assert load(study.model_dump(mode="json", exclude={"steps"}) | steps).study.spec() == spec
    name = str(tiny_folder("llama"))
    whole, spread = ModelSpec(name).facts(), ModelSpec(name, device_map="auto").facts()
    assert whole == spread


def test_what_has_no_room_is_refused_with_every_device():
    with pytest.raises(UserError, match=r"needs about 4\.2 GB .*room for 3\.5 GB: cpu 1\.5 GB, disk 2\.0 GB") as error:
        check_room("big", 10**9, "float32", {"cpu": 1_500_000_000, "disk": 2_000_000_000})
    assert "bfloat16" in str(error.value)
    with pytest.raises(UserError, match="GPU 7"):
        check_room("big", 1, "float32", {7: 10**9})
    with pytest.raises(UserError, match="on disk"):
        check_placed("big", SimpleNamespace(hf_device_map={"a": "cpu", "b": "disk"}), {"cpu": 1})
    check_map("auto", (), "auto", None)


def test_the_command_checks_such_a_model(capsys):
    check_model_command(str(tiny_folder("gpt2")), device_map="auto", max_memory=["cpu=150KB", "disk=1GB"])
    said = capsys.readouterr().out
    assert "3 disk" in said
    assert "8 of 8 laws hold" in said


# ---------------------------------------------------------------- memory


def test_a_process_holds_one_model_also_one_with_hooks():
    first = ModelSpec(str(tiny_folder("llama")), device_map="auto", max_memory=(("cpu", 150_000), ("disk", 10**9)))
    hf = weakref.ref(first.load().hf)
    gc.disable()  # what goes, goes at once
    try:
        ModelSpec(str(tiny_folder("gpt2")), device="cpu").load()
        assert hf() is None
    finally:
        gc.enable()
