"""Laws that every registered intervention obeys, and what each of them says it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnomon.errors import UserError
from gnomon.interventions import INTERVENTIONS
from gnomon.interventions.ablate import Ablate
from gnomon.interventions.base import JOINED, Edit, PerRow, per_row, places
from gnomon.interventions.clamp import Clamp
from gnomon.interventions.neurons import Neurons
from gnomon.interventions.orthogonalise import Orthogonalise, everywhere
from gnomon.interventions.patch import Patch
from gnomon.interventions.steer import Steer
from gnomon.registry import find
from gnomon.types import Direction, Intervention, Site
from tests.tiny import tiny_model, tiny_prompts

D, M = 16, 7
PROJECTIONS = ("ablate", "clamp", "patch", "orthogonalise", "neurons")
"""Those that set something to a value: doing so twice is doing so once. Steering adds, and is not among them."""


def made(name: str, **options) -> Intervention:
    vector = np.random.default_rng(3).standard_normal(D)
    return find("intervention", name).of(Direction(Site("mlp_out", 1), vector), **options)  # pyright: ignore


def tokens(dtype=torch.float32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(M, D, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x, torch.tensor([0, 0, 1, 1, 1, 2, 2]), torch.tensor([3, 4, 0, 1, 2, 8, 9])


@pytest.mark.parametrize("name", INTERVENTIONS)
class TestContract:
    def test_is_an_intervention(self, name):
        one = made(name, where="generated", strength=0.5)
        assert isinstance(one, Intervention)
        assert (one.site, one.where, one.strength) == (Site("mlp_out", 1), "generated", 0.5)

    def test_strength_0_is_identity_and_registers_no_hook(self, name):
        x, rows, positions = tokens()
        off = made(name, strength=0.0)
        assert off.edit(x, rows, positions) is x
        model = tiny_model("llama")
        prompts = tiny_prompts(model, 3)
        vector = np.ones(model.d_model)
        edit = find("intervention", name).of(Direction(Site("mlp_out", 1), vector), strength=0.0)
        clean = model.forward(prompts, logits="all").logits
        hooks: list[int] = []
        probe = model.body.part(1, "mlp_out").register_forward_pre_hook(
            lambda module, args: hooks.append(len(module._forward_hooks))
        )
        try:
            edited = model.forward(prompts, edit=[edit], logits="all").logits
        finally:
            probe.remove()
        assert hooks == [0]
        assert torch.equal(clean, edited)

    def test_strength_1_changes_something(self, name):
        x, rows, positions = tokens()
        assert not torch.allclose(made(name).edit(x, rows, positions), x)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_shape_dtype_and_device_are_kept(self, name, dtype):
        x, rows, positions = tokens(dtype)
        out = made(name).edit(x, rows, positions)
        assert (out.shape, out.dtype, out.device) == (x.shape, x.dtype, x.device)

    def test_is_pure(self, name):
        x, rows, positions = tokens()
        copy, one = x.clone(), made(name)
        first = one.edit(x, rows, positions)
        assert torch.equal(x, copy)
        assert torch.equal(first, one.edit(x, rows, positions))
        with pytest.raises(AttributeError):
            one.strength = 3.0  # pyright: ignore

    def test_one_token_at_a_time_is_the_same(self, name):
        x, rows, positions = tokens(torch.float64)
        one = made(name)
        alone = torch.cat([one.edit(x[i : i + 1], rows[i : i + 1], positions[i : i + 1]) for i in range(M)])
        assert torch.allclose(one.edit(x, rows, positions), alone, atol=1e-12)

    def test_no_token_at_all(self, name):
        x, rows, positions = tokens()
        assert made(name).edit(x[:0], rows[:0], positions[:0]).shape == (0, D)

    def test_gradient_flows(self, name):
        x, rows, positions = tokens(torch.float64)
        x.requires_grad_()
        made(name, strength=0.5).edit(x, rows, positions).pow(2).sum().backward()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().sum() > 0

    def test_twice_is_once(self, name):
        if name not in PROJECTIONS:
            return
        x, rows, positions = tokens(torch.float64)
        once = made(name).edit(x, rows, positions)
        assert torch.allclose(made(name).edit(once, rows, positions), once, atol=1e-6)

    def test_strength_is_linear(self, name):
        x, rows, positions = tokens(torch.float64)
        half, whole = (made(name, strength=s).edit(x, rows, positions) for s in (0.5, 1.0))
        assert torch.allclose(half - x, (whole - x) / 2, atol=1e-12)

    def test_unknown_place_and_strength_are_refused(self, name):
        with pytest.raises(UserError, match="did you mean 'generated'"):
            made(name, where="generatd")
        with pytest.raises(UserError, match="finite"):
            made(name, strength=float("nan"))


def test_steer_adds_the_unit_vector():
    x, rows, positions = tokens(torch.float64)
    v = np.arange(1.0, D + 1)
    out = Steer(Site("resid_post", 0), v, strength=-2.0, unit=3.0).edit(x, rows, positions)
    assert np.allclose((out - x).numpy(), -6 * v / np.linalg.norm(v), atol=1e-6)


def test_ablate_sets_the_component_and_leaves_the_rest():
    x, rows, positions = tokens(torch.float64)
    v = np.arange(1.0, D + 1)
    u = v / np.linalg.norm(v)
    for to in (0.0, 1.5):
        out = Ablate(Site("resid_post", 0), v, to=to).edit(x, rows, positions).numpy()
        assert np.allclose(out @ u, to, atol=1e-5)
        assert np.allclose(out - np.outer(out @ u, u), x.numpy() - np.outer(x.numpy() @ u, u), atol=1e-5)


def test_clamp_moves_only_what_lies_outside():
    x, rows, positions = tokens(torch.float64)
    u = np.eye(D)[2]
    out = Clamp(Site("resid_post", 0), 5 * u, low=-0.3, high=0.4).edit(x, rows, positions)
    assert torch.allclose(out[:, 2], x[:, 2].clamp(-0.3, 0.4), atol=1e-6)
    assert torch.allclose(out[:, :2], x[:, :2], atol=1e-12)
    one_sided = Clamp(Site("resid_post", 0), u, low=0.0, high=float("inf")).edit(x, rows, positions)
    assert torch.allclose(one_sided[:, 2], x[:, 2].clamp(min=0), atol=1e-6)
    with pytest.raises(UserError, match="low <= high"):
        Clamp(Site("resid_post", 0), u, low=1.0, high=0.0)


def test_patch_takes_the_donor_of_the_row_and_token():
    x, rows, positions = tokens(torch.float64)
    site = Site("resid_post", 0)
    mean = np.random.default_rng(0).standard_normal(D)
    assert np.allclose(Patch(site, mean).edit(x, rows, positions).numpy(), np.tile(mean, (M, 1)), atol=1e-6)
    by_row = np.random.default_rng(1).standard_normal((3, D))
    assert np.allclose(Patch(site, by_row).edit(x, rows, positions).numpy(), by_row[rows.numpy()], atol=1e-6)
    by_token = np.random.default_rng(2).standard_normal((3, 10, D))
    out = Patch(site, by_token).edit(x, rows, positions).numpy()
    assert np.allclose(out, by_token[rows.numpy(), positions.numpy()], atol=1e-6)
    with pytest.raises(UserError, match="no token 9"):
        Patch(site, by_token[:, :9]).edit(x, rows, positions)
    with pytest.raises(UserError, match="no row 2"):
        Patch(site, by_row[:2]).edit(x, rows, positions)


def test_orthogonalise_removes_the_whole_span():
    x, rows, positions = tokens(torch.float64)
    v = np.random.default_rng(5).standard_normal((2, D))
    spanned = np.stack([v[0], v[1], v[0] - 3 * v[1]])  # the third adds nothing
    one = Orthogonalise(Site("attn_out", 1), spanned)
    assert one.vectors.shape == (2, D)
    out = one.edit(x, rows, positions).numpy()
    assert np.abs(out @ v.T).max() < 1e-5
    with pytest.raises(UserError, match="what writes into the stream"):
        Orthogonalise(Site("resid_post", 1), v)


def test_orthogonalising_every_writer_equals_orthogonalising_the_weights():
    """Llama writes with o_proj and down_proj (bias included): W(I - uu') gives the logits that the edits give."""
    import copy

    from gnomon.models.sources import load_model
    from tests.tiny import tiny_folder

    model = tiny_model("llama")
    prompts = tiny_prompts(model, 3)
    u = np.random.default_rng(0).standard_normal(model.d_model)
    edited = model.forward(prompts, edit=everywhere(u, model.n_layers), logits="last").logits
    other = load_model(str(tiny_folder("llama")), device="cpu", check=False)
    other.hf = copy.deepcopy(other.hf)
    changed = type(other)(other.hf, other.tokenizer)
    unit = torch.tensor(u / np.linalg.norm(u), dtype=torch.float32)
    keep = torch.eye(model.d_model) - torch.outer(unit, unit)
    with torch.no_grad():
        embed = changed.body.embedding.weight
        embed.copy_(embed @ keep)
        for layer in range(model.n_layers):
            for part in ("o_proj", "down_proj"):
                linear = changed.body.part(layer, part)
                linear.weight.copy_(keep @ linear.weight)
                if linear.bias is not None:
                    linear.bias.copy_(keep @ linear.bias)
    wanted = changed.forward(prompts, logits="last").logits
    assert torch.allclose(edited, wanted, atol=2e-4)
    assert not torch.allclose(edited, model.forward(prompts, logits="last").logits, atol=1e-2)


def test_per_row_gives_each_copy_its_own_edit():
    model = tiny_model("llama")
    prompts = tiny_prompts(model, 3)
    lens = [max(1, len(p) - 2) for p in prompts]
    v = np.random.default_rng(0).standard_normal(model.d_model)
    a = [Steer(Site("resid_post", 1), v, where="last_prompt", strength=2.0), Ablate(Site("mlp_out", 2), v)]
    b = [Steer(Site("resid_post", 1), v, where="last_prompt"), Steer(Site("resid_post", 1), v, where="last_prompt")]
    conditions = [a, [], b, [Steer(Site("resid_post", 1), v, strength=0.0)]]
    joined = per_row(conditions, np.repeat(np.arange(4), 3))
    together = model.forward(prompts * 4, edit=joined, logits="last", prompt_lens=lens * 4).logits
    for i, edits in enumerate(conditions):
        alone = model.forward(prompts, edit=edits, logits="last", prompt_lens=lens).logits
        assert torch.allclose(together[3 * i : 3 * i + 3], alone, atol=1e-4), i
    assert not torch.allclose(together[:3], together[3:6], atol=1e-2)
    assert torch.allclose(together[3:6], together[9:12], atol=1e-5)  # other rows of a batch, other rounding


def test_per_row_of_nothing_registers_nothing():
    off = Steer(Site("resid_post", 1), np.ones(4), strength=0.0)
    assert per_row([[off], []], [0, 0, 1, 1]) == []


def test_places():
    assert places(JOINED) == ("last_prompt", "generated")
    assert places("all") == ("all",)
    assert places((3, 4)) == ((3, 4),)
    with pytest.raises(UserError, match="unknown place 'prompts'"):
        places("prompts+generated")
    assert places("generated+last_prompt") == ("last_prompt", "generated")
    for twice in ("all+generated", "prompt+last_prompt", "generated+generated"):
        with pytest.raises(UserError, match="edit a token twice"):
            places(twice)


def test_bad_vectors_are_refused():
    site = Site("resid_post", 0)
    for vector, word in ((np.zeros(4), "all zeros"), (np.ones((2, 2)), "one vector"), (np.array([np.nan]), "NaN")):
        with pytest.raises(UserError, match=word):
            Steer(site, vector)
    with pytest.raises(UserError, match="positive length"):
        Steer(site, np.ones(4), unit=0.0)
    assert isinstance(PerRow(site), Edit)


def test_neurons_change_their_own_coordinates_in_their_own_rows():
    x, rows, positions = tokens(torch.float64)
    site = Site("mlp_post", 0)
    out = Neurons(site, [3, 1], [2.0, -1.0]).edit(x, rows, positions)
    assert torch.equal(out[:, [3, 1]], torch.tensor([[2.0, -1.0]], dtype=torch.float64).expand(M, 2))
    others = [i for i in range(D) if i not in (1, 3)]
    assert torch.equal(out[:, others], x[:, others])
    mask = np.array([[True, False], [False, False], [False, True]])
    out = Neurons(site, [3, 1], 0.0, mask=mask).edit(x, rows, positions)
    wanted = x.clone()
    wanted[rows == 0, 3] = 0
    wanted[rows == 2, 1] = 0
    assert torch.equal(out, wanted)
    half = Neurons(site, [5], factor=3.0, strength=0.5).edit(x, rows, positions)
    assert torch.allclose(half[:, 5], 2 * x[:, 5])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"indices": [1, 1], "values": 0.0}, "different whole numbers"),
        ({"indices": [-1], "values": 0.0}, "different whole numbers"),
        ({"indices": [0.5], "values": 0.0}, "different whole numbers"),
        ({"indices": [1]}, "one of the two"),
        ({"indices": [1], "values": 0.0, "factor": 2.0}, "one of the two"),
        ({"indices": [1, 2], "values": [0.0] * 3}, "one number"),
        ({"indices": [1], "factor": float("nan")}, "finite"),
        ({"indices": [1], "values": 0.0, "mask": np.ones((2, 2), dtype=bool)}, "booleans"),
        ({"indices": [1], "values": 0.0, "mask": np.ones((2, 1))}, "booleans"),
    ],
)
def test_neurons_that_make_no_sense_are_refused(options, wanted):
    with pytest.raises(UserError, match=wanted):
        Neurons(Site("mlp_post", 0), **options)


def test_neurons_and_rows_that_are_not_there_are_refused():
    x, rows, positions = tokens()
    with pytest.raises(UserError, match="neurons are 0 to 15"):
        Neurons(Site("mlp_post", 0), [D], 0.0).edit(x, rows, positions)
    with pytest.raises(UserError, match="no row 2"):
        Neurons(Site("mlp_post", 0), [1], 0.0, mask=np.ones((2, 1), dtype=bool)).edit(x, rows, positions)
