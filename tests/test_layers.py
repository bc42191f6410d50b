"""Who may import whom, read from the source: floors from 0 up, six rooms without doors, steps apart, torch inside.

Every import counts, also one inside a function; only an import under TYPE_CHECKING does not.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "gnomon"
ROOMS = ("tasks", "models", "interventions", "dictionaries", "executors", "methods")
DISK = ("disk", "mounts", "lock", "store", "aside", "writer", "reading", "recorded", "sharded")
STUDY = ("config", "entries", "overrides", "describe")
RUN = (
    "run", "make", "repair", "plan", "planned", "decide", "fingerprints", "lineage", "budget", "criteria", "record",
    "provenance", "needs", "trial", "calibration", "timing", "doctor", "installed", "machine", "console", "progress",
)  # fmt: skip
COMMANDS = (
    "cli", "cli_list", "cli_check", "cli_grade", "cli_dictionary", "cli_show", "cli_plan", "cli_doctor", "cli_audit",
    "cli_compare", "cli_diff", "cli_pack", "cli_examples", "cli_arrays", "cleaning", "claims", "comparison", "diffs",
    "archive", "packing", "unpacking",
)  # fmt: skip

FLOORS: dict[str, int] = {
    "errors": 0,
    **dict.fromkeys(("types", "sites", "latents", "shards", "cores", "processor"), 1),
    **dict.fromkeys(("stats", "nulls", "registry", "blocks", "text", "strict", "halving"), 1),
    **dict.fromkeys((*DISK, "tally"), 2),
    **dict.fromkeys(ROOMS, 3),
    **dict.fromkeys(("step", "model_spec"), 4),
    **dict.fromkeys(("rows", "causal", "lens", "paths"), 4),  # what several steps share
    "steps": 5,
    "report": 6,
    "exports": 6,  # a study's folders under other tools' file names
    **dict.fromkeys(STUDY, 6),
    **dict.fromkeys(RUN, 7),
    **dict.fromkeys(COMMANDS, 8),
    "__init__": 9,
}
"""Floor of each module or folder under gnomon/."""

TOGETHER = (
    ("types", "sites", "latents", "shards"),
    DISK,
    ("step", "model_spec", "rows"),
    ("step", "model_spec", "causal", "lens", "paths"),
    STUDY,
    RUN,
    COMMANDS,
)
"""Parts of one floor that are one thing in several files; all others of a floor stay apart."""

MAY_LOAD_TORCH = ("models",)
"""Where torch and transformers are imported at module level; everywhere else inside functions."""
HEAVY = ("torch", "transformers", "peft", "ray", "sae_lens", "datasets")
WITHOUT_TORCH = tuple(name for name, floor in FLOORS.items() if floor <= 2)
"""Floors 0 to 2: no torch anywhere in them."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(("gnomon", *path.relative_to(ROOT).with_suffix("").parts)), path


def part(module: str) -> str:
    """gnomon.models.hooks -> models; gnomon itself -> __init__."""
    return module.split(".")[1] if "." in module else "__init__"


@cache
def imports(path: Path, module: str) -> list[tuple[str, bool]]:
    """(imported module, whether at module level), names imported from a package resolved to its modules."""
    return list(found_imports(path, module))


def found_imports(path: Path, module: str) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden: set[ast.AST] = set()
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            hidden |= {n for child in node.body for n in ast.walk(child)}
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner |= set(ast.walk(node)) - {node}
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in inner
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import hides where it goes"
            base = node.module or ""
            for alias in node.names:
                below = ROOT.parent / Path(*base.split("."), alias.name)
                is_module = base.startswith("gnomon") and (below.is_dir() or below.with_suffix(".py").is_file())
                yield f"{base}.{alias.name}" if is_module else base, node not in inner


def allowed(source: str, target: str) -> bool:
    """May a module of `source` import one of `target`?"""
    if source == target or any(source in group and target in group for group in TOGETHER):
        return True
    return FLOORS[target] < FLOORS[source]


FILES = list(modules())


def test_every_module_has_a_floor():
    assert {part(module) for module, _ in FILES} - set(FLOORS) == set()


@pytest.mark.parametrize(("module", "path"), FILES, ids=[m for m, _ in FILES])
def test_imports_go_down(module: str, path: Path):
    source = part(module) if module != "gnomon.__init__" else "__init__"
    wrong = []
    for name, _ in imports(path, module):
        if not name.startswith("gnomon"):
            continue
        target = part(name)
        if target == "__init__" or (target not in FLOORS and not (ROOT / target).is_dir()):
            continue  # the package's own version: gnomon.__version__
        if not allowed(source, target):
            wrong.append(f"{module} (floor {FLOORS[source]}) imports {name} (floor {FLOORS[target]})")
    assert wrong == []


def test_the_rooms_have_no_doors():
    for module, path in FILES:
        if part(module) in ROOMS:
            others = {part(n) for n, _ in imports(path, module) if n.startswith("gnomon.")} & set(ROOMS)
            assert others <= {part(module)}, module


def test_no_step_imports_another_step():
    for module, path in FILES:
        if part(module) == "steps" and not module.endswith("__init__"):
            others = {n for n, _ in imports(path, module) if n.startswith("gnomon.steps")}
            assert others <= {module}, module


def test_torch_is_imported_inside_functions_only():
    for module, path in FILES:
        found = {name.split(".")[0] for name, top in imports(path, module) if top} & set(HEAVY)
        if part(module) not in MAY_LOAD_TORCH:
            assert not found, f"{module} imports {found} when it is loaded"


def test_a_study_is_read_without_torch():
    for module, path in FILES:
        if part(module) in WITHOUT_TORCH:
            assert not {n.split(".")[0] for n, _ in imports(path, module)} & set(HEAVY), module


def test_only_the_models_room_knows_transformers():
    for module, path in FILES:
        if part(module) not in ("models",):
            assert "transformers" not in {n.split(".")[0] for n, _ in imports(path, module)}, module


def test_the_law_can_fail():
    assert not allowed("tasks", "models")
    assert not allowed("steps", "report")
    assert not allowed("report", "config")
    assert not allowed("types", "registry")
    assert not allowed("models", "step")
    assert allowed("steps", "models")
    assert allowed("run", "report")
    assert allowed("run", "machine")


LIGHT_USES = {
    "import": "import gnomon; gnomon.UserError",
    "steps": "from gnomon.registry import find, table\nfor name in table('step'): find('step', name)",
    "tasks": "from gnomon.registry import find, table\nfor name in table('task'): find('task', name)",
    "schema": "from gnomon.describe import schema; schema()",
    "list": "from gnomon.cli_list import listing; listing(None, None); listing('steps', 'generate')",
    "export": "from gnomon.exports import LAYOUTS, load\nfor x in LAYOUTS.values(): load(x)",
    "plan": "from gnomon.plan import plan_study; from gnomon.run import run_study",
}


@pytest.mark.parametrize("use", LIGHT_USES)
def test_what_only_reads_and_lists_never_loads_torch(use: str):
    code = f"{LIGHT_USES[use]}\nimport sys\nbad = {{'torch', 'transformers'}} & set(sys.modules)\nassert not bad, bad"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
