"""The house itself: the README's commands are the ones that run, files keep one purpose, registered names resolve."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gnomon import registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_reaches_code_within_sixty_words():
    before = README.split("```")[0]
    assert len(re.findall(r"\b[\w'-]+\b", before.split("\n", 1)[1])) < 60


def test_ci_runs_the_commands_that_the_readme_names():
    ci = (ROOT / ".ci" / "run").read_text()
    first = README.split("```")[1]
    commands = re.findall(r"^(make \w+)", first, re.M)
    assert commands == ["make demo", "make test"]
    for command in commands:
        assert re.search(rf"^{command}\b", ci, re.M), f".ci/run does not run {command}"
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"demo", "test", "check", "bench"} <= set(targets)


def test_readme_study_file_is_valid():
    from gnomon.config import load

    block = next(b for b in re.findall(r"```yaml\n(.*?)```", README, re.S))
    from gnomon.strict import read_yaml

    loaded = load(read_yaml(block).value)
    assert loaded.study.steps[0].step == "generate"


def test_readme_names_only_commands_that_exist():
    shown = subprocess.run(
        [sys.executable, "-c", "from gnomon.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S))
    for name in set(re.findall(r"^gnomon ([a-z-]+)", blocks, re.M)):
        assert re.search(rf"\b{name}\b", shown), f"README names gnomon {name}"


def test_readme_layout_names_what_is_there():
    block = README.split("## Layout")[1].split("```")[1]
    for name in re.findall(r"([\w/]+\.py|[a-z]+/)", block):
        base = ROOT if name in ("gnomon/", "examples/", "benchmarks/", "docs/", "tests/") else ROOT / "gnomon"
        assert (base / name).exists(), f"README's layout names {name}"


def test_files_stay_short():
    long = {p.name: n for p in (ROOT / "gnomon").rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"split by purpose: {long}"
    lengths = [len(p.read_text().splitlines()) for p in (ROOT / "gnomon").rglob("*.py")]
    assert sum(n > 300 for n in lengths) <= 0.05 * len(lengths), "most files stay under 300 lines"


@pytest.mark.parametrize("kind", sorted(registry.TABLES))
def test_every_registered_name_resolves(kind):
    for name in registry.table(kind):
        found = registry.find(kind, name)
        assert callable(found) if kind == "dictionary" else isinstance(found, type), f"{kind} {name}"


def test_examples_are_valid_study_files():
    from gnomon.config import load

    files = sorted((ROOT / "examples").glob("*.yaml"))
    assert (ROOT / "examples" / "demo.yaml") in files
    for file in files:
        load(file)


def test_import_is_light():
    heavy = {"torch", "transformers", "plotly", "sklearn"}
    code = f"import sys, gnomon; gnomon.open; bad = {heavy} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_those_that_load():
    import gnomon

    assert set(gnomon.__all__) == {*gnomon._NAMES, "__version__"}
    assert all(getattr(gnomon, name) is not None for name in gnomon.__all__)
    modules = {path.stem for path in (ROOT / "gnomon").iterdir()}
    assert not modules & set(gnomon.__all__), "importing such a module would hide the name"
