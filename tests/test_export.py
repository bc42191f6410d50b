"""Exports: read with plain numpy and json as older tools read them; aligned, padded, whole; nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gnomon.cli import app
from gnomon.errors import UserError
from gnomon.exports import LAYOUTS, export_study
from gnomon.exports.final_norm import recover
from gnomon.exports.folder import Folder, strict
from gnomon.store import Artifact
from tests import export_study as made
from tests.second_order_study import made_second_order

NAME = "arithmetic_{}_tiny-model"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return made.whole(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def out(study: Path, tmp_path_factory) -> Path:
    return export_study(study, "second-order", tmp_path_factory.mktemp("out") / "files").path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_file_that_older_tools_ask_for_is_there(out: Path):
    each = ("residual_stream.npy", "tokens.npy", "attention_mask.npy", "metadata.jsonl", "stats.json", "eval.jsonl",
            "representations.npy", "correctness.npy", "correctness_direction.npy", "correctness_labels.npy",
            "correctness_records.jsonl", "second_order_layer1.npy", "second_order_layer3.npy",
            "second_order_meta.json")  # fmt: skip
    wanted = {f"{NAME.format(split)}_{name}" for split in ("fit", "tune", "test") for name in each}
    wanted |= {f"{NAME.format('fit')}_{name}" for name in ("pca.npy", "norm.npy", "sparse_decomposition.json")}
    wanted |= {"neuron_ranking.json", "layer_ablation.json", "neuron_ablation.json", "text_set_tiny-model.npy",
               "text_set.txt", "text_set.json"}  # fmt: skip
    assert wanted <= {p.name for p in out.iterdir()}
    assert json.loads((out / "manifest.json").read_text())["left_out"] == {}


@pytest.mark.parametrize("split", ["fit", "tune", "test"])
def test_row_i_of_every_file_of_a_split_is_the_same_example(study: Path, out: Path, split: str):
    """As an older tool would: numpy and json alone, no gnomon."""
    prefix = str(out / NAME.format(split))
    stream, tokens = np.load(f"{prefix}_residual_stream.npy"), np.load(f"{prefix}_tokens.npy")
    mask, labels = np.load(f"{prefix}_attention_mask.npy"), np.load(f"{prefix}_correctness.npy")
    meta, answers = lines(Path(f"{prefix}_metadata.jsonl")), lines(Path(f"{prefix}_eval.jsonl"))
    records = lines(Path(f"{prefix}_correctness_records.jsonl"))
    states, direction = np.load(f"{prefix}_representations.npy"), np.load(f"{prefix}_correctness_direction.npy")
    n = len(meta)
    assert stream.shape == (*tokens.shape, made.D)
    assert tokens.shape == mask.shape == (n, max(m["length"] for m in meta))
    assert {a.dtype.str for a in (stream, states, direction)} == {"<f4"}
    assert {a.dtype.str for a in (tokens, mask, labels)} == {"<i8"}
    assert len(labels) == len(answers) == len(records) == len(states) == n
    assert [m["index"] for m in meta] == list(range(n))
    for i, m in enumerate(meta):
        held = mask[i] == 1
        assert held.sum() == m["length"] == held[: m["length"]].sum()  # padding is on the right
        assert (stream[i][held] == m["row"] + 1 + 5000).all()  # the last captured layer, this very row
        assert (stream[i][~held] == 0).all()
        assert (tokens[i][~held] == 0).all()
    rows = Artifact(study / "second_order").table("rows")
    rows = rows[rows["split"] == split]
    assert [m["id"] for m in meta] == list(rows["example_id"])
    assert labels.tolist() == rows["label"].astype(int).tolist() == [int(a["correct"]) for a in answers]
    assert np.array_equal(labels, np.load(f"{prefix}_correctness_labels.npy"))
    assert np.array_equal(states, np.load(study / "second_order" / "output.npy")[rows["index"]])
    assert np.allclose([r["projection"] for r in records], states @ direction, rtol=1e-4, atol=1e-4)
    stats = json.loads(Path(f"{prefix}_stats.json").read_text())
    assert (stats["num_examples"], stats["accuracy"]) == (n, pytest.approx(labels.mean()))
    assert stats["residual_stream_normalised"] is False
    assert stats["residual_stream_site"] == "resid_post.5"


@pytest.mark.parametrize("split", ["fit", "test"])
def test_second_order_matrices_hold_the_main_direction_of_the_named_neurons(study: Path, out: Path, split: str):
    prefix = str(out / NAME.format(split))
    meta = json.loads(Path(f"{prefix}_second_order_meta.json").read_text())
    rows = Artifact(study / "second_order").table("rows")
    index = rows.loc[rows["split"] == split, "index"]
    for layer in meta["mlp_layers"]:
        values = np.load(out / meta["files"][str(layer)])
        numbers = meta["neuron_indices"][str(layer)]
        assert values.shape == (len(index), len(numbers))
        scores = np.load(study / "second_order" / f"scores_layer{layer}.npy")
        for j, neuron in enumerate(numbers):
            assert np.array_equal(values[:, j], scores[0, index, neuron])
    assert meta["direction"] == "difference"
    assert (meta["direction_space"], meta["num_examples"]) == ("final_norm", len(index))
    assert meta["row_ids"] == list(rows.loc[rows["split"] == split, "example_id"])


def test_components_norms_and_texts(study: Path, out: Path):
    prefix = str(out / NAME.format("fit"))
    pca, norm = np.load(f"{prefix}_pca.npy"), np.load(f"{prefix}_norm.npy")
    neurons = json.loads(Path(f"{prefix}_second_order_meta.json").read_text())["neurons"]
    table = Artifact(study / "second_order").table("neurons")
    assert neurons == table.sort_values("index")[["layer", "neuron"]].to_numpy().tolist()
    assert pca.shape == (len(neurons), made.D)
    assert (np.diff(norm, axis=1) >= 0).all()  # older tools take norms[:, 0] for the threshold: the smallest of the top
    assert np.allclose(norm[:, 0], np.load(study / "pca" / "norm.npy").min(axis=1))
    texts, phrases = np.load(out / "text_set_tiny-model.npy"), (out / "text_set.txt").read_text().splitlines()
    assert texts.shape == (len(phrases), made.D)
    assert phrases == [
        "adding two numbers",
        "a remainder of a division",
        "naïve ∑",
        "",
    ]  # one a line, whatever is in it
    codes = json.loads(Path(f"{prefix}_sparse_decomposition.json").read_text())
    assert list(codes) == [str(i) for i in range(len(neurons))]
    for i, code in codes.items():
        assert [abs(c) for _, c, _ in code] == [3.0, 2.0, 1.0]  # largest first
        assert all(phrase == made.PHRASES[k] for k, _, phrase in code)
        assert code[0][0] == (int(i) + 2) % 4


def test_rankings_and_ablations(out: Path):
    ranking = json.loads((out / "neuron_ranking.json").read_text())
    assert list(ranking["neuron_indices"]) == ["1", "3"]
    first = ranking["layers"][0]["neurons"]
    assert [n["rank"] for n in first] == list(range(1, 9))
    assert [n["neuron"] for n in first] == ranking["neuron_indices"]["1"]
    assert first[0]["direct"] is None  # NaN is no JSON
    layers = json.loads((out / "layer_ablation.json").read_text())
    assert layers["selected_layers"] == {"attn": [5, 4], "mlp": [5, 4]}
    assert len(layers["layers"]) == 12
    assert json.loads((out / "neuron_ablation.json").read_text())["ablations"][0]["change"] == -0.2


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_study_gives_the_same_bytes_and_no_step_is_touched(study: Path, out: Path, tmp_path: Path):
    before = tree(study)
    again = export_study(study, "second-order", tmp_path / "again")
    first = tree(again.path)
    assert first == tree(out)
    export_study(study, "second-order", tmp_path / "again")
    assert tree(tmp_path / "again") == first
    assert tree(study) == before
    assert [p.name for p in tmp_path.iterdir()] == ["again"]  # no temporary folder is left


def test_the_manifest_names_source_and_hash_of_each_file(out: Path):
    import hashlib

    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["files"]) | {"manifest.json"} == {p.name for p in out.iterdir()}
    for name, record in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == record["sha256"]
        assert record["from"]
    stream = manifest["files"][f"{NAME.format('fit')}_residual_stream.npy"]
    assert stream["from"] == "generate/activations/resid_post.5@all"
    assert "not normalised" in stream["note"]
    assert manifest["steps"]["pca"]["fingerprint"] == "fingerprint of pca"


# ---------------------------------------------------------------- what a study lacks


def test_what_is_lacking_is_left_out_and_named_with_the_step_that_writes_it(tmp_path: Path):
    made.generation(tmp_path, positions=("last",))
    made.probe(tmp_path)
    folder = export_study(tmp_path, "second-order")
    assert folder.path == tmp_path / "exports" / "second-order"
    prefix = NAME.format("fit")
    assert folder.left_out == json.loads((folder.path / "manifest.json").read_text())["left_out"]
    needs = {
        f"{prefix}_residual_stream.npy": "positions: [all]", f"{prefix}_pca.npy": "step pca",
        "neuron_ranking.json": "step neurons", "layer_ablation.json": "step layer_ablation",
        "text_set.txt": "step lexicon", f"{prefix}_sparse_decomposition.json": "step text_decomposition",
        "{dataset}_{split}_{model}_second_order_layer{L}.npy": "step second_order",
        "neuron_ablation.json": "step neuron_ablation",
    }  # fmt: skip
    for name, step in needs.items():
        assert step in folder.left_out[name]
        assert not (folder.path / name).exists()
    assert "left out" in folder.report()
    assert "needs step pca" in folder.report()
    assert "exports" not in [a.name for a in folder._study]
    states = np.load(folder.path / f"{prefix}_representations.npy")
    meta = lines(folder.path / f"{prefix}_metadata.jsonl")
    assert (states[:, 0] == [m["row"] + 1 + 5000 for m in meta]).all()
    direction = np.load(folder.path / f"{prefix}_correctness_direction.npy")
    assert np.allclose(direction, Artifact(tmp_path / "probe").directions()[1].vector)  # the difference in means
    projections = [r["projection"] for r in lines(folder.path / f"{prefix}_correctness_records.jsonl")]
    assert np.allclose(projections, states.astype(float) @ direction, rtol=1e-5)
    total = sum(len(lines(folder.path / f"{NAME.format(s)}_eval.jsonl")) for s in ("fit", "tune", "test"))
    stats = [json.loads((folder.path / f"{NAME.format(s)}_stats.json").read_text()) for s in ("fit", "tune", "test")]
    assert total == made.ROWS + made.MORE - 3
    assert sum(s["num_unparsed_left_out"] for s in stats) == 3


def test_a_second_order_step_alone_is_exported_too(tmp_path: Path):
    made_second_order(tmp_path)
    folder = export_study(tmp_path, "second-order")
    assert "data_fit_model_second_order_layer1.npy" in folder.files
    assert "data_fit_model_representations.npy" in folder.files
    assert any("step generate" in needs for needs in folder.left_out.values())


def test_rows_of_another_generation_are_refused(tmp_path: Path):
    made_second_order(tmp_path, made.Numbers(rows=made.ROWS + made.MORE + 5))
    made.generation(tmp_path)
    with pytest.raises(UserError, match="rows that the generation lacks"):
        export_study(tmp_path, "second-order")
    assert not (tmp_path / "exports" / "second-order").exists()


def test_components_of_another_second_order_run_are_left_out(tmp_path: Path):
    from gnomon.writer import Writer

    second = made_second_order(tmp_path)
    writer = Writer(tmp_path, "pca", "p")
    writer.array("pca", np.ones((2, 3)))
    read = {"second_order": {"name": "second_order", "fingerprint": "of an older run"}}
    writer.commit({"step": "pca", "name": "pca", "options": {}, "inputs": read, "version": 1, "ledger": []})
    assert second.fingerprint != "of an older run"
    assert "data_fit_model_pca.npy" in export_study(tmp_path, "second-order").left_out


def test_nothing_to_export_is_an_error_that_names_the_steps(tmp_path: Path):
    made.commit(tmp_path, "audit", {}, {})
    with pytest.raises(UserError, match=r"nothing that layout 'second-order' takes.*step generate.*step second_order"):
        export_study(tmp_path, "second-order", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


# ---------------------------------------------------------------- the final norm


def planted_norm(x: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    gain, bias = rng.normal(size=x.shape[1]), rng.normal(size=x.shape[1])
    if kind == "rmsnorm":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + bias


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_a_final_norm_is_found_again_and_anything_else_is_not(kind: str):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 16)) * 20 + 3
    y = planted_norm(x, kind, rng)
    norm = recover(x.astype(np.float32), y.astype(np.float32))
    assert norm is not None
    assert (norm.centred, norm.rows) == (kind == "layernorm", 60)
    more = rng.normal(size=(5, 16)) * 30
    again = np.random.default_rng(0)
    again.normal(size=(60, 16))
    assert np.allclose(norm(more), planted_norm(more, kind, again), atol=1e-3)
    assert recover(x, np.tanh(y)) is None  # not a norm of x
    assert recover(x, y[rng.permutation(60)]) is None  # other rows
    assert recover(x[:6], y[:6]) is None  # too few to hold some out
    assert recover(x, np.zeros_like(y)) is None


def test_the_stream_goes_through_the_final_norm_where_the_study_can_tell_it(tmp_path: Path):
    second = made_second_order(tmp_path, made.NUMBERS)
    made.generation(tmp_path, second, noise=1.0)
    stream = Artifact(tmp_path / "generate").activations("resid_post.5@all")
    rows = second.table("rows")
    x = np.stack([stream.row(r)[at] for r, at in zip(rows["row"], rows["read_at"], strict=True)]).astype(np.float64)
    np.save(tmp_path / "second_order" / "output.npy", planted_norm(x, "layernorm", np.random.default_rng(3)))
    out = export_study(tmp_path, "second-order").path
    for split in ("fit", "tune", "test"):
        prefix = str(out / NAME.format(split))
        stats = json.loads(Path(f"{prefix}_stats.json").read_text())
        assert stats["residual_stream_normalised"] is True
        assert stats["final_norm"]["kind"] == "layernorm"
        assert stats["final_norm"]["largest_error_on_rows_held_out"] < 1e-4
        values, states = np.load(f"{prefix}_residual_stream.npy"), np.load(f"{prefix}_representations.npy")
        at = np.asarray(rows.loc[rows["split"] == split, "read_at"])
        assert np.allclose(values[np.arange(len(at)), at], states, atol=1e-3)
        assert (values[np.load(f"{prefix}_attention_mask.npy") == 0] == 0).all()


# ---------------------------------------------------------------- where it may write


def test_other_folders_are_never_written_to(study: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("x")
    for path, said in ((tmp_path / "mine", "holds other things"), (tmp_path / "file", "is a file"),
                       (study / "pca", "step folder"), (study / "pca" / "new", "step folder"),
                       (study, "own folder")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            export_study(study, "second-order", path)
    assert tree(tmp_path) == {"mine/notes.txt": b"keep", "file": b"x"}


def test_an_export_that_fails_leaves_the_earlier_one(study: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    export_study(study, "second-order", out)
    before = tree(out)
    monkeypatch.setattr(Folder, "commit", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export_study(study, "second-order", out)
    assert tree(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_command(study: Path, tmp_path: Path):
    said = CliRunner().invoke(app, ["export", str(study), "--layout", "second-order", "--out", str(tmp_path / "o")])
    assert said.exit_code == 0, said.output
    assert "files (" in said.stdout
    assert str(tmp_path / "o") in said.stdout
    wrong = CliRunner().invoke(app, ["export", str(study), "--layout", "secondorder"])
    assert wrong.exit_code == 2
    assert "did you mean 'second-order'" in wrong.output
    gone = CliRunner().invoke(app, ["export", str(tmp_path / "none"), "--layout", "second-order"])
    assert gone.exit_code == 2


def test_json_is_strict():
    value = {"a": np.float32("nan"), 3: [np.int64(2), float("inf")], "b": np.array([1.0, np.nan])}
    assert strict(value) == {"a": None, "3": [2, None], "b": [1.0, None]}


# ---------------------------------------------------------------- its page


def test_the_page_names_every_file_and_the_help_every_layout(out: Path):
    page = (Path(__file__).parent.parent / "docs" / "export.md").read_text()
    for name in (p.name for p in out.iterdir()):
        short = (
            name.removeprefix(NAME.format("fit")).removeprefix(NAME.format("tune")).removeprefix(NAME.format("test"))
        )
        short = short.replace("layer1", "layer{L}").replace("layer3", "layer{L}").replace("tiny-model", "{model}")
        assert f"`{short}`" in page, short
    shown = CliRunner().invoke(app, ["export", "--help"]).stdout
    assert all(layout in shown for layout in LAYOUTS)


def test_a_file_of_ones_own_in_an_export_is_not_taken_away(study: Path, tmp_path: Path):
    out = export_study(study, "second-order", tmp_path / "out").path
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, which no export wrote"):
        export_study(study, "second-order", out)
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    export_study(study, "second-order", out)


def test_a_link_and_the_present_folder_are_filled(study: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    export_study(study, "second-order", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "manifest.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_study(study, "second-order", ".")
    assert (tmp_path / "here" / "manifest.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "link", "real"]
