"""`gnomon check-dictionary`: its table, what it measures with a model, its exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from gnomon.cli import guarded
from gnomon.cli_dictionary import check_dictionary
from gnomon.dictionaries import canonical, save_dictionary
from tests import dictionary_files as files
from tests.tiny import tiny_folder, tiny_model

app = typer.Typer()
app.command()(guarded(check_dictionary))


def run(*args: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in args])
    return done.exit_code, done.output


def identity(folder: Path, d: int, scale: float = 1.0, layer: int = 1) -> Path:
    """A dictionary that rebuilds anything (times `scale`): latents along every axis, both ways."""
    both = np.concatenate([np.eye(d), -np.eye(d)])
    one = canonical(f"resid_post.{layer}", both.T, np.zeros(2 * d), both * scale, np.zeros(d))
    return save_dictionary(one, folder)


def test_a_sound_dictionary_is_described(tmp_path: Path):
    files.gemma_scope(tmp_path)
    code, output = run(tmp_path / "gemma-scope-2b-pt-res")
    assert code == 0, output
    assert "gemma_scope, jumprelu, 40 latents of width 12 at resid_post.4" in output
    assert "5 of 5 checks hold" in output
    assert "unit rows" in output


def test_with_a_model_it_is_spliced_in(tmp_path: Path):
    width = tiny_model("llama").d_model
    text = tmp_path / "text.txt"
    text.write_text("The capital of Kenya is Nairobi. " * 120)
    model = ("--model", tiny_folder("llama"), "--device", "cpu")
    code, output = run(identity(tmp_path / "good", width), *model, "--text", text)
    assert code == 0, output
    lines = [line for line in output.splitlines() if line.startswith("ok")]
    assert len(lines) == 15
    clean = next(line for line in lines if "nothing changed" in line).split()[2]
    spliced = next(line for line in lines if "reconstruction in its place" in line).split()[3]
    assert float(spliced) == pytest.approx(float(clean), rel=1e-3), "it rebuilds exactly, so nothing is lost"
    bad = identity(tmp_path / "bad", width, scale=-3.0)
    code, output = run(bad, *model)
    assert code == 1, output
    assert "FAIL" in output
    assert "unexplained variance" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "MODEL"], "is of width 12, and resid_post.2 of"),
        (["--text", "x.txt"], "--text without --model"),
        (["--layer", "7"], "is of resid_post.2"),
        (["--site", "resid_pst.2"], "did you mean 'resid_post.2'"),
        (["--sha256", "00"], "has the sha256"),
    ],
)
def test_a_mistake_is_one_message(options: list[str], message: str, tmp_path: Path):
    files.saelens(tmp_path)
    options = [str(tiny_folder("llama")) if o == "MODEL" else o for o in options]
    code, output = run(tmp_path / "sae_weights.safetensors", *options)
    assert code == 2, output
    assert message in output
    assert "Traceback" not in output
