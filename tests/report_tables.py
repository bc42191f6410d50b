"""Tables of a study made by hand, for tests of the report; some transcripts try to break the page."""

from __future__ import annotations

import numpy as np
import pandas as pd

HOSTILE = (
    "<script>window.gnomonError('ran');document.title='owned'</script>",
    "</script></div></article><img src=x onerror=\"window.gnomonError('ran')\">",
    "<!-- <script> --> ]]> &amp; &#x3c;b&#x3e; {{ 7*7 }} {% raw %} ${7*7}",
    "a NUL \x00, a bell \x07, a return \r, a delete \x7f, an escape \x1b[31mred\x1b[0m",
    "left \u202egnorw\u202c right, zero\u200bwidth, \u2067isolate\u2069, tag \U000e0041, line\u2028sep",
    "  two leading spaces\n\ttab\n\n\n   and   runs   of   them  ",
    "العاصمة هي نيروبي — ירושלים",
    "x" * 60_000,
    "👩‍👩‍👧 emoji with joiners, ﷽, a̐éö̲",
)


def generations(n: int, rng: np.random.Generator) -> pd.DataFrame:
    countries = ["Kenya", "Peru", "Nauru", "France", "Bhutan", "Ghana", "Chile", "Oman", "Latvia", "Fiji"]
    capitals = ["Nairobi", "Lima", "Yaren", "Paris", "Thimphu", "Accra", "Santiago", "Muscat", "Riga", "Suva"]
    rows = []
    for i in range(n):
        k = i % len(countries)
        label = None if i % 29 == 3 else bool(rng.random() < 0.58)
        said = capitals[k] if label else "I am not sure." if label is None else capitals[(k + 3) % len(capitals)]
        rows.append(
            {
                "row": i,
                "example_id": f"capitals/{i:04d}",
                "split": ("fit", "test", "fit", "tune", "test")[i % 5],
                "difficulty": float(np.round(rng.normal(6.5, 1), 2)),
                "prompt": f"The capital of {countries[k]} is",
                "text": f" {said}." + (f" It lies in the east of {countries[k]}.\n" if i % 3 else ""),
                "label": label,
                "target": capitals[k],
                "answer": None if label is None else said,
            }
        )
    for i, text in enumerate(HOSTILE):
        rows[i * 2 + 1] |= {
            "text": text,
            "label": (True, False, None)[i % 3],
            "answer": text[:40],
            "prompt": text[:300],
        }
    return pd.DataFrame(rows)


def probe_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    layers = np.arange(30)
    sweep = []
    for predictor, top in (
        ("difference", 0.29),
        ("logistic", 0.32),
        ("shuffled labels", 0.0),
        ("random direction", 0.03),
    ):
        centre = 0.5 + top / (1 + np.exp(-(layers - 11) / 3)) + rng.normal(0, 0.012, 30)
        for layer, value in zip(layers, centre, strict=True):
            gone = predictor == "logistic" and layer in (7, 8)
            sweep.append(
                {
                    "site": f"resid_post.{layer}",
                    "layer": layer,
                    "predictor": predictor,
                    "value": value,
                    "ci_low": np.nan if gone else value - 0.06,
                    "ci_high": np.nan if gone else value + 0.06,
                }
            )
    base = {"site": "resid_post.20", "split": "test", "n": 96, "n_pos": 55, "selected": False, "note": ""}
    scores = [
        {
            "predictor": "difference",
            "control": "",
            "metric": "auroc",
            "value": 0.7912,
            "ci_low": 0.7203,
            "ci_high": 0.8511,
            "p": 0.0002,
            "q": 0.0006,
            "selected": True,
        },
        {
            "predictor": "difference",
            "control": "shuffled",
            "metric": "auroc",
            "value": 0.4821,
            "ci_low": 0.39,
            "ci_high": 0.57,
        },
        {
            "predictor": "difference",
            "control": "random",
            "metric": "auroc",
            "value": 0.5233,
            "ci_low": 0.42,
            "ci_high": 0.61,
        },
        {
            "predictor": "logistic",
            "control": "",
            "metric": "auroc",
            "value": 0.8034,
            "ci_low": 0.73,
            "ci_high": 0.87,
            "p": 0.05,
            "q": 0.05,
        },
        {
            "predictor": "baselines",
            "control": "",
            "metric": "auroc",
            "value": 0.7756,
            "ci_low": 0.70,
            "ci_high": 0.84,
            "p": 0.012,
        },
        {
            "predictor": "baselines+difference",
            "control": "",
            "metric": "increment",
            "value": 0.0213,
            "ci_low": -0.0181,
            "ci_high": 0.0604,
            "p": 0.21,
            "q": 0.32,
        },
        {
            "predictor": "difference",
            "control": "",
            "metric": "f1",
            "value": 0.71,
            "n": 14,
            "n_pos": 6,
            "note": "rare class",
        },
    ]
    projections = pd.DataFrame(
        {
            "difficulty": rng.normal(6.5, 1, 200),
            "projection": rng.normal(0, 1, 200),
            "mark": np.where(rng.random(200) < 0.58, "right", "wrong"),
        }
    )
    projections["projection"] += 0.9 * (projections["mark"] == "right") + 0.3 * projections["difficulty"]
    return {
        "sweep": pd.DataFrame(sweep),
        "scores": pd.DataFrame([base | s for s in scores]),
        "null": pd.DataFrame({"value": rng.normal(0.5, 0.05, 499)}),
        "projections": projections,
    }


def intervene_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    effects = []
    for control, slope in (("", 0.21), ("random", 0.02), ("sign_flip", -0.19), ("shuffled", 0.05)):
        for c in (-4.0, -2.0, 2.0, 4.0):
            value = slope * c + rng.normal(0, 0.02)
            effects.append(
                {
                    "direction": "probe",
                    "control": control,
                    "coefficient": c,
                    "value": value,
                    "ci_low": value - 0.12,
                    "ci_high": value + 0.12,
                    "n": 96,
                }
            )
    grid = [
        {"site": f"resid_post.{layer}", "coefficient": c, "value": 0.01 * c * layer / 10 + rng.normal(0, 0.01)}
        for layer in range(0, 30, 3)
        for c in (-4.0, -2.0, -1.0, 1.0, 2.0, 4.0)
    ]
    components = [
        {"component": f"mlp_out of layer {k}", "value": v, "ci_low": v - 0.04, "ci_high": v + 0.03}
        for k, v in enumerate(rng.normal(-0.1, 0.08, 12))
    ]
    return {"effects": pd.DataFrame(effects), "grid": pd.DataFrame(grid), "components": pd.DataFrame(components)}
