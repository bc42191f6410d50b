"""A study made by hand, for tests of the report: five small steps with every kind of block, and hostile transcripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import report_steps  # noqa: F401 - a report imports no module that only a folder names
from report_tables import generations, intervene_tables, probe_tables

from gnomon.store import Artifact
from gnomon.writer import Writer


def step(
    study: Path,
    name: str,
    kind: str,
    tables: Mapping[str, pd.DataFrame],
    version: int = 1,
    seconds: float = 1.0,
    options: Mapping[str, Any] | None = None,
    **meta: Any,
) -> Artifact:
    """Commit one step folder with these tables."""
    writer = Writer(study, name, f"{abs(hash_of(name)):064x}")
    for table, rows in tables.items():
        writer.table(table, rows)
    record = {
        "step": kind,
        "name": name,
        "version": version,
        "options": dict(options or {}),
        "inputs": {},
        "seed": 0,
        "seconds": seconds,
        "peak_memory_bytes": 812_000_000,
        "ledger": [],
    }
    return writer.commit(record | meta)


def hash_of(name: str) -> int:
    return sum((i + 1) * ord(c) * 2**40 for i, c in enumerate(name))


def build(root: Path, hostile_title: str = "What does SmolLM2 know about its own answers?") -> Path:
    """Write the study folder and return it."""
    rng = np.random.default_rng(0)
    study = root / "demo"
    study.mkdir(parents=True)
    table = generations(240, rng)
    split_of = {"all": table, **dict(list(table.groupby("split")))}
    counts = []
    for split, part in split_of.items():
        for label, mask in (
            ("correct", part["label"].eq(True)),
            ("incorrect", part["label"].eq(False)),
            ("unparsed", part["label"].isna()),
        ):
            share = float(mask.mean())
            half = 1.96 * np.sqrt(share * (1 - share) / len(part))
            small = mask.sum() < 6
            counts.append(
                {
                    "split": split,
                    "label": label,
                    "n": int(mask.sum()),
                    "share": share,
                    "ci_low": np.nan if small else max(share - half, 0),
                    "ci_high": np.nan if small else share + half,
                }
            )
    facts = pd.DataFrame([{"name": "answers", "value": 240.0}, {"name": "majority", "value": 0.1}])
    ledger = [{"split": "test", "rows": 96, "why": "the reported AUROC at the chosen site"}]
    step(
        study,
        "generate",
        "report_steps:Generate",
        {"generations": table, "counts": pd.DataFrame(counts), "facts": facts},
        seconds=71.4,
        options={"n": 240, "task": {"capitals": {"style": "prefix"}}, "temperatures": [0.0]},
    )
    checks = pd.DataFrame(
        [
            {"check": "duplicates", "level": "ok", "value": 0.0, "limit": 0.0, "detail": "no prompt twice"},
            {"check": "split leaks", "level": "ok", "value": 0.0, "limit": 0.0, "detail": "no group in two splits"},
            {"check": "parse failures", "level": "warn", "value": 0.0375, "limit": 0.02, "detail": "9 of 240 answers"},
            {"check": "class balance", "level": "fail", "value": np.nan, "limit": 0.1, "detail": "<b>bold?</b> no"},
        ]
    )
    step(study, "audit", "report_steps:Audit", {"checks": checks}, seconds=0.3)
    step(
        study,
        "probe",
        "report_steps:Probe",
        probe_tables(rng),
        version=2,
        seconds=18.2,
        ledger=ledger,
        options={"site": "resid_post.*", "position": "last_prompt", "permutations": 499},
    )
    step(
        study,
        "intervene",
        "report_steps:Intervene",
        intervene_tables(rng),
        seconds=93.0,
        options={"coefficients": [-4.0, -2.0, 2.0, 4.0]},
        ledger=[{"split": "test", "rows": 96, "why": "chosen coefficient"}],
    )
    (study / "study.yaml").write_text(
        "model: smollm2-135m\nseed: 0\nsteps:\n  - generate: {task: capitals, n: 240}\n  - audit: {}\n  - probe: {}\n"
    )
    (study / "run.json").write_text(json.dumps(run_json(hostile_title)))
    return study


def run_json(title: str) -> dict[str, Any]:
    names = ["generate", "audit", "probe", "intervene"]
    return {
        "title": title,
        "study": {
            "model": "smollm2-135m",
            "description": "Do the activations before an answer tell whether it will be right?",
        },
        "steps": [{"name": n, "step": n, "fingerprint": "f", "seconds": 1.0, "kept": n == "audit"} for n in names],
        "model": {
            "name": "smollm2-135m",
            "family": "llama",
            "n_layers": 30,
            "d_model": 576,
            "dtype": "float32",
            "device": "cpu",
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
        "machine": {"system": "Linux", "cpu": "two cores", "memory_bytes": 8_000_000_000},
        "seed": 0,
        "started": "2025-11-21T03:40:12+00:00",
        "finished": "2025-11-21T03:43:24+00:00",
        "criteria": [
            {
                "name": "probe beats chance",
                "text": "AUROC on test above .6",
                "verdict": "pass",
                "value": 0.7912,
                "ci_low": 0.7203,
                "ci_high": 0.8511,
                "bound": "≥ .6",
                "n": 96,
            },
            {
                "name": "increment over baselines",
                "text": "The probe adds at least .01",
                "verdict": "undecided",
                "value": 0.0213,
                "ci_low": -0.0181,
                "ci_high": 0.0604,
                "bound": 0.01,
            },
            {
                "name": "sparse effect",
                "text": "Under 5% of answers change",
                "verdict": "fail",
                "value": 0.11,
                "ci_low": None,
                "ci_high": None,
                "bound": "< .05",
            },
        ],
        "command": "gnomon run examples/demo.yaml --out studies/demo",
        "gnomon": "0.1.0",
    }
