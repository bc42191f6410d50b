"""Laws of the central types: sites print and parse back, directions survive their files, prompts are hashed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gnomon.errors import UserError, nearest, unknown
from gnomon.methods.direction_files import from_gguf, to_gguf
from gnomon.sites import COMPONENTS
from gnomon.types import Activations, Direction, Example, Site

SITES = [Site("embed"), *(Site(c, layer) for c in COMPONENTS[1:] for layer in (0, 7, 123)), Site("z", 5, 3)]


@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_site_prints_and_parses_back(site: Site):
    assert Site.parse(str(site)) == site
    assert Site.parse(site) is site


@pytest.mark.parametrize("site", [s for s in SITES if s.head is None], ids=str)
def test_a_site_has_one_transformer_lens_name_and_comes_back(site: Site):
    assert Site.from_lens_name(site.lens_name) == site


def test_lens_names_are_those_of_transformer_lens():
    names = {
        "embed": "hook_embed", "resid_pre.0": "blocks.0.hook_resid_pre", "resid_mid.3": "blocks.3.hook_resid_mid",
        "resid_post.20": "blocks.20.hook_resid_post", "attn_out.1": "blocks.1.hook_attn_out",
        "mlp_out.2": "blocks.2.hook_mlp_out", "mlp_post.2": "blocks.2.mlp.hook_post", "z.4": "blocks.4.attn.hook_z",
    }  # fmt: skip
    assert {site: Site.parse(site).lens_name for site in names} == names
    with pytest.raises(UserError, match="unknown TransformerLens hook"):
        Site.from_lens_name("blocks.1.attn.hook_pattern")


def test_an_unknown_site_names_the_nearest():
    with pytest.raises(UserError) as caught:
        Site.parse("resid_pst.12")
    assert str(caught.value).startswith("unknown site 'resid_pst.12'; did you mean 'resid_post.12'? Components: embed")


@pytest.mark.parametrize(
    ("text", "said"),
    [("resid_post", "has no layer"), ("resid_post.x", "has no layer"), ("mlp_out.1.2", "only z has heads"),
     ("embed.3", "embedding has none"), ("", "unknown site"), ("resid_post.-1", "has no layer")],
)  # fmt: skip
def test_a_bad_site_says_what_is_wrong(text: str, said: str):
    with pytest.raises(UserError, match=said):
        Site.parse(text)


def test_expand_gives_each_site_once_in_order():
    def expand(*patterns: str) -> list[str]:
        return [str(site) for site in Site.expand(patterns, 4)]

    assert expand("resid_post.*") == [f"resid_post.{i}" for i in range(4)]
    assert expand("mlp_out.1-2", "mlp_out.2", "embed", "resid_pre.-1") == [
        "mlp_out.1",
        "mlp_out.2",
        "embed",
        "resid_pre.3",
    ]
    assert expand("z.3.1") == ["z.3.1"]
    assert [str(s) for s in Site.expand("resid_mid.0", 4)] == ["resid_mid.0"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("resid_post.4", "layers 0 to 3"), ("resid_post.2-9", "layers 0 to 3"), ("resid_post.-5", "layers 0 to 3"),
     ("resid_post.3-1", "backwards"), ("reside.*", "resid_pre|resid_post|resid_mid"),
     ("embed.*", "embedding has none")],
)  # fmt: skip
def test_expand_refuses_what_the_model_lacks(pattern: str, said: str):
    with pytest.raises(UserError, match=said):
        Site.expand(pattern, 4)


def test_activations_are_found_by_generation_row():
    values = np.arange(12, dtype="<f4").reshape(4, 3)
    dense = Activations(Site("resid_post", 1), "last", values, np.array([2, 5, 6, 9]))
    assert dense.d == 3
    assert np.array_equal(dense.row(5), values[1])
    assert np.array_equal(dense.at([9, 2]), values[[3, 0]])
    with pytest.raises(KeyError):
        dense.row(4)
    for missing in ([4], [10], [2, 3]):
        with pytest.raises(UserError, match="lacks some of the rows"):
            dense.at(missing)
    ragged = Activations(Site("resid_post", 1), "all", values, np.array([3, 7]), np.array([0, 1, 4]))
    assert [len(ragged.row(r)) for r in (3, 7)] == [1, 3]
    with pytest.raises(UserError, match="many tokens a row"):
        ragged.at([3])


# ---------------------------------------------------------------- directions


def direction(layer: int = 5, **changes: object) -> Direction:
    values = np.random.default_rng(layer).standard_normal(8).astype("<f4") * 7
    fields = {"name": "right", "kind": "probe", "score": 0.75, "meta": {"target": "correct", "n": 3}} | changes
    return Direction(Site("resid_post", layer), values, **fields)  # type: ignore[arg-type]


def same(a: Direction, b: Direction) -> bool:
    return (
        (a.site, a.name, a.kind, a.score, dict(a.meta)) == (b.site, b.name, b.kind, b.score, dict(b.meta))
        and a.vector.tobytes() == b.vector.tobytes()
    )  # fmt: skip


def test_a_direction_is_read_only_finite_and_never_zero():
    one = direction()
    with pytest.raises(ValueError, match="read-only"):
        one.vector[0] = 1
    for bad in (np.zeros(3), np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.ones((2, 2)), np.array([1e300])):
        with pytest.raises(UserError):
            Direction(Site("resid_post", 1), bad)
    assert one.norm == pytest.approx(np.linalg.norm(one.vector))
    assert np.linalg.norm(one.unit) == pytest.approx(1)
    assert [one] == [one]  # directions can stand in lists and sets
    assert {one}


def test_random_controls_match_norm_and_site_and_repeat_with_the_seed():
    one = direction()
    controls = one.random_controls(4, seed=1)
    assert all(
        c.kind == "random" and c.site == one.site and c.norm == pytest.approx(one.norm, rel=1e-6) for c in controls
    )
    assert all(same(a, b) for a, b in zip(controls, one.random_controls(4, seed=1), strict=True))
    assert not same(controls[0], one.random_controls(4, seed=2)[0])
    assert abs(np.dot(controls[0].unit, controls[1].unit)) < 0.99


def test_a_direction_saves_to_npy_and_json_and_comes_back(tmp_path: Path):
    one = direction()
    path = one.save(tmp_path / "claim.npy")
    assert same(Direction.load(path), one)
    side = json.loads((tmp_path / "claim.json").read_text())
    assert (side["site"], side["hook_name"]) == ("resid_post.5", "blocks.5.hook_resid_post")
    assert np.load(path).dtype == np.dtype("<f4")


def test_a_direction_with_only_a_lens_name_or_only_a_site_loads(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.ones((1, 4)))
    (tmp_path / "a.json").write_text('{"hook_name": "blocks.3.mlp.hook_post"}')
    assert Direction.load(tmp_path / "a.npy").site == Site("mlp_post", 3)
    assert Direction.load(tmp_path / "a.npy", "resid_post.2").site == Site("resid_post", 2)
    (tmp_path / "a.json").unlink()
    with pytest.raises(UserError, match="--site"):
        Direction.load(tmp_path / "a.npy")


def test_files_that_are_no_direction_are_refused_by_name(tmp_path: Path):
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    (tmp_path / "text.npy").write_text("not numpy")
    for name in ("pickle", "words", "text", "absent"):
        with pytest.raises(UserError, match=name):
            Direction.load(tmp_path / f"{name}.npy", "resid_post.1")
    np.save(tmp_path / "fine.npy", np.ones(3))
    (tmp_path / "fine.json").write_text("{broken")
    with pytest.raises(UserError, match="readable JSON"):
        Direction.load(tmp_path / "fine.npy")


# ---------------------------------------------------------------- GGUF control vectors


def test_gguf_round_trip_is_exact(tmp_path: Path):
    chosen = [direction(12), direction(3, score=None, meta={}, name="", kind="difference")]
    path = to_gguf(chosen, tmp_path / "deep" / "cvec.gguf", model_hint="llama")
    back = from_gguf(path)
    assert [d.site.layer for d in back] == [3, 12]
    assert same(back[0], chosen[1])
    assert same(back[1], chosen[0])


def test_gguf_has_the_layout_that_llama_cpp_reads(tmp_path: Path):
    import gguf

    reader = gguf.GGUFReader(str(to_gguf(direction(4), tmp_path / "c.gguf", "qwen2")))

    def content(key: str) -> object:
        field = reader.get_field(key)
        assert field is not None
        return field.contents()

    assert content("general.architecture") == "controlvector"
    assert content("controlvector.model_hint") == "qwen2"
    assert content("controlvector.layer_count") == 1
    (tensor,) = reader.tensors
    assert tensor.name == "direction.4"
    assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
    assert list(tensor.shape) == [8]
    assert np.asarray(tensor.data).tobytes() == direction(4).vector.tobytes()


def test_gguf_of_another_tool_loads(tmp_path: Path):
    import gguf

    writer = gguf.GGUFWriter(str(tmp_path / "o.gguf"), "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", 1)
    writer.add_tensor("direction.9", np.arange(1, 5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (one,) = from_gguf(tmp_path / "o.gguf")
    assert (one.site, one.kind, one.vector.tolist()) == (Site("resid_post", 9), "given", [1, 2, 3, 4])
    assert one.meta["model_hint"] == "mistral"


def test_gguf_refuses_what_the_format_cannot_say(tmp_path: Path):
    for bad, said in (
        ([direction(0)], "block 1 or later"),
        ([Direction(Site("mlp_out", 3), np.ones(4))], "resid_post"),
        ([direction(3), direction(3)], "two directions"),
        ([direction(3), Direction(Site("resid_post", 4), np.ones(4))], "one width"),
        ([], "no direction"),
    ):
        with pytest.raises(UserError, match=said):
            to_gguf(bad, tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for name in ("x", "absent"):
        with pytest.raises(UserError):
            from_gguf(tmp_path / f"{name}.gguf")


# ---------------------------------------------------------------- examples and errors


def test_a_prompt_hash_depends_on_the_prompt_alone():
    chat = ({"role": "user", "content": "Hi"},)
    assert Example("a", chat, "x").prompt_hash == Example("b", ({"content": "Hi", "role": "user"},), "y").prompt_hash
    assert (
        Example("a", "Hi", "x").prompt_hash
        != Example("a", "Hi ", "x").prompt_hash
        != Example("a", chat, "x").prompt_hash
    )
    assert Example("a", "Hi", "x").group == "a"


def test_errors_say_got_wanted_do_and_survive_a_process_border():
    import pickle

    error = UserError("unknown x", "one of y", "try z")
    again = pickle.loads(pickle.dumps(error))
    assert (again.got, again.wanted, again.do) == ("unknown x", "one of y", "try z")
    assert str(again) == "unknown x; one of y; try z"
    assert str(UserError("a", "b?", "see c")) == "a; b? See c"
    assert nearest("generat", ["generate", "probe"]) == "did you mean 'generate'?"
    assert str(unknown("step", "zzz", ["b", "a"])) == "unknown step 'zzz'; known: a, b"
