"""Every table of the chain from separated features to tokens, made of numbers: what is in them is known.

Latent k of a layer feeds latent k of the next (planted: the first CAUSAL of each layer, whose replay follows the
prediction and whose patches move the answers); all other pathways are weak and their replay is noise. Token texts are
hostile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gnomon.latents import Latent, latent_name
from gnomon.methods import chain_tables as schemas
from gnomon.methods.token_tables import COMPARISONS
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests.synthetic import Planted, rows, save

SITES = ("resid_post.9", "resid_post.15", "resid_post.21")
CAUSAL = 2
"""Latents of each layer that are causal, and whose pathways are real."""
ROWS, TRIALS = 8, 30
HOSTILE = (" <script>alert(1)</script>", "\u202egnp.", "\n", "</script><img src=x onerror=alert(2)>", " risky")
KINDS = {
    "features": "features", "patch_features": "causal_features", "pathways": "pathways", "replay": "replay",
    "tokens": "tokens",
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """How much of everything; the same options give the same tables."""

    sites: Sequence[str] = SITES
    per_layer: int = 5
    classes: tuple[str, str] = ("safe", "risky")
    kinds: Sequence[str] = ("total", "mediated", "dark")
    edges: bool = True
    """False: the pathways step kept none."""
    sources: int = 1000
    """Kept pathways of a target at most."""
    n: int = 240
    parsed: float = 1.0
    """Share of answers that could be parsed."""
    texts: Sequence[str] = field(default=HOSTILE)
    seed: int = 0


def generation(study: Path, made: Made) -> Artifact:
    """Step generate: labels of both classes, activations at one site."""
    table, acts = rows(Planted(n=made.n, d=8, layers=1, unparsed=1 - made.parsed, seed=made.seed))
    return save(study, table, acts)


def separations(made: Made) -> list[dict[str, Any]]:
    out, rng = [], np.random.default_rng([made.seed, 1])
    first, second = made.classes
    for site in made.sites:
        for k in range(made.per_layer):
            d = (1.0 if k < CAUSAL else 0.4) * (-1) ** k + 0.05 * rng.standard_normal()
            out.append(_named(site, 10 + k) | {
                "rank": k, "fit_d": d, "d": 0.9 * d, "ci_low": 0.9 * d - 0.3, "ci_high": 0.9 * d + 0.3,
                "fit_separation": d / 3, "separation": d / 3, "separation_low": d / 3 - 0.1,
                "separation_high": d / 3 + 0.1, "first": first, "second": second, "first_mean": 1 + max(d, 0),
                "second_mean": 1 + max(-d, 0), "first_rate": 0.5, "second_rate": 0.4, "sd": 1.0, "general_rate": 0.01,
                "n_first": 60, "n_second": 60, "test_first": 48, "test_second": 48, "position": "last_prompt",
                "dictionary": f"made for {site}", "link": f"https://www.neuronpedia.org/m/9-set/{10 + k}" if k else "",
                "note": "",
            })  # fmt: skip
    return out


def patched(made: Made) -> dict[str, list[dict[str, Any]]]:
    """Tables effects, causal and responses of patch_features."""
    rng = np.random.default_rng([made.seed, 2])
    effects, causal, responses = [], [], []
    seen = [(p, f"{p}_baseline", "") for p in made.classes]
    six = [*seen, *((p, f"{p}_with_{q}_patch", q) for p in made.classes for q in made.classes)]
    for prompt, condition, _ in seen:
        responses += _responses(made, rng, {"name": "", "kind": "baseline"}, prompt, condition, "", 0.5)
    for feature in separations(made):
        k, name = feature["feature"] - 10, feature["name"]
        moves = 0.35 if k < CAUSAL else 0.01
        for kind, matches, size in (("feature", "", moves), ("control", name, 0.02)):
            who = {key: feature[key] for key in ("site", "layer")}
            who |= {"name": name, "feature": feature["feature"]} if kind == "feature" else {
                "name": latent_name(feature["site"], 500 + k), "feature": 500 + k}  # fmt: skip
            for prompt, condition, patch in six[2:]:
                change = size * (1 if patch == made.classes[0] else -1) * (prompt != patch)
                effects.append(who | {
                    "kind": kind, "matches": matches, "condition": condition, "prompt": prompt, "patch": patch,
                    "set_to": 1.0, "measure": "rate", "baseline": 0.5, "value": 0.5 + change, "change": change,
                    "ci_low": change - 0.1, "ci_high": change + 0.1, "effect": 2 * change,
                    "p": 0.001 if abs(change) > 0.3 else 0.6, "q": 0.004 if abs(change) > 0.3 else 0.8, "n": TRIALS,
                    "unparsed": 0.0, "note": "",
                })  # fmt: skip
                if kind == "feature":
                    responses += _responses(
                        made, rng, who | {"kind": kind}, prompt, condition, patch, 0.5 + change, made.texts
                    )
        strongest = f"{made.classes[1]}_with_{made.classes[0]}_patch"
        known = ("name", "site", "layer", "feature", "d", "first_mean", "second_mean")
        causal.append({c: feature[c] for c in known} | {
            "condition": strongest, "measure": "rate", "change": moves, "ci_low": moves - 0.1, "ci_high": moves + 0.1,
            "effect": 2 * moves, "p": 0.001 if k < CAUSAL else 0.6, "q": 0.004 if k < CAUSAL else 0.8,
            "control_change": 0.02, "control_p": 0.02 if k < CAUSAL else 0.5, "controls": 5, "is_causal": k < CAUSAL,
            "verdict": "causal" if k < CAUSAL else "not causal", "n": TRIALS, "note": "",
        })  # fmt: skip
    return {"effects": effects, "causal": causal, "responses": responses}


def _responses(
    made: Made, rng: np.random.Generator, who: Mapping[str, Any], prompt: str, condition: str, patch: str, rate: float,
    texts: Sequence[str] = ("a plain answer",),
) -> list[dict[str, Any]]:  # fmt: skip
    known = {k: who[k] for k in ("name", "kind")} | {"matches": ""}
    return [
        known | {
            "condition": condition, "prompt": prompt, "patch": patch, "trial": t, "row": t, "example_id": f"g{t}",
            "group": f"g{t}", "seed": t, "outcome": bool(rng.random() < rate), "margin": float(rng.standard_normal()),
            "text": f"{texts[t % len(texts)]} said", "activation": 1.0, "set_to": 1.0,
        }
        for t in range(TRIALS)
    ]  # fmt: skip


def pathways(made: Made) -> dict[str, list[dict[str, Any]]]:
    """Tables pathways and prompts: every pair of neighbouring layers, strong where source and target are one k."""
    edges, prompts = [], []
    for low, high in zip(made.sites, made.sites[1:], strict=False):
        for k in range(made.per_layer):
            target = _named(high, 10 + k)
            prompts += [
                {c: target[c] for c in ("name", "site", "feature")} | {
                    "rank": i, "row": i, "example_id": f"g{i}", "split": "fit", "label": bool(i % 2), "position": 5,
                    "activation": 3.0 - 0.1 * i, "prompt": f"Option A or option B? <b>{i}</b>"}
                for i in range(4)
            ]  # fmt: skip
            for rank, j in enumerate([k, *(j for j in range(made.per_layer) if j != k)][: made.sources]):
                for kind in made.kinds:
                    part = {"total": 1.0, "mediated": 0.7, "dark": 0.3}.get(kind, 0.0)
                    size = (2.0 if j == k and k < CAUSAL else 0.1) * (-1) ** j * part
                    edges.append(_pair(_named(low, 10 + j), target) | {
                        "kind": kind, "gradient": size / 2, "attribution": size, "ci_low": size - 0.2,
                        "ci_high": size + 0.2, "share": size / 3, "rank": rank, "prompts": 4, "same_sign": 1.0,
                    })  # fmt: skip
    return {"pathways": edges if made.edges else [], "prompts": prompts}


def replayed(made: Made) -> dict[str, list[dict[str, Any]]]:
    """Tables replay and agreement: planted pathways change their target as predicted, the others by noise."""
    rng = np.random.default_rng([made.seed, 3])
    lines, agreement = [], []
    for edge in pathways(made)["pathways"]:
        if edge["kind"] != "total":
            continue
        real = edge["source"] == edge["target"] and edge["source"] < 10 + CAUSAL
        for control in (False, True):
            for row in range(ROWS):
                predicted = -edge["attribution"] * (1 + 0.3 * rng.standard_normal()) * (0.1 if control else 1)
                measured = predicted * (1.05 if real else 0.2) + 0.02 * rng.standard_normal()
                mine = {k: edge[k] for k in edge if k.startswith(("source", "target"))}
                if control:
                    mine |= {"source": 700, "source_name": latent_name(edge["source_site"], 700)}
                lines.append(mine | {
                    "control": control, "matches": edge["source_name"] if control else "", "row": row,
                    "example_id": f"g{row}", "group": f"g{row}", "split": "test", "position": 5,
                    "source_activation": 1.0, "set_to": 0.0, "target_activation": 2.0, "predicted": predicted,
                    "measured": measured,
                })  # fmt: skip
        agreement.append({c: edge[c] for c in ("source_name", "target_name", "source_layer", "target_layer")} | {
            "scope": "pathway", "n": ROWS, "slope": 1.05 if real else 0.2, "slope_low": 0.1, "slope_high": 1.2,
            "r2": 0.9, "pearson": 0.97 if real else 0.4, "pearson_low": 0.3, "pearson_high": 0.99, "spearman": 0.9,
            "spearman_low": 0.2, "spearman_high": 0.99, "sign": 1.0 if real else 0.6, "predicted": -edge["attribution"],
            "measured": -edge["attribution"] * (1.05 if real else 0.2), "measured_low": -3.0, "measured_high": 3.0,
            "control_measured": 0.05, "p": 0.01 if real else 0.5, "q": 0.03 if real else 0.7, "validated": real,
            "note": "",
        })  # fmt: skip
    for scope, pearson in (("all", 0.95), ("controls", 0.88)) if agreement else ():
        agreement.append({
            "scope": scope, "source_name": "", "target_name": "", "n": len(lines) // 2, "slope": 1.0, "slope_low": 0.9,
            "slope_high": 1.1, "r2": 0.8, "pearson": pearson, "pearson_low": pearson - 0.05,
            "pearson_high": pearson + 0.03, "spearman": 0.9, "spearman_low": 0.8, "spearman_high": 0.95, "sign": 0.9,
            "validated": None, "note": "",
        })  # fmt: skip
    return {"replay": lines, "agreement": agreement}


def tokens(made: Made) -> dict[str, list[dict[str, Any]]]:
    """Tables tokens and logits: the hostile texts are found for the causal features, and for none else."""
    found, logits = [], []
    first, second = made.classes
    for feature in separations(made):
        causal = feature["feature"] < 10 + CAUSAL
        for i, text in enumerate(made.texts):
            counts = (24, 3) if causal else (9, 8)
            found.append({
                "comparison": "patches", "name": feature["name"], "condition": f"{first}_with_{second}_patch",
                "against": f"{first}_baseline", "token": text, "token_id": 100 + i, "count": counts[0],
                "against_count": counts[1], "n": TRIALS, "against_n": TRIALS, "rate": counts[0] / TRIALS,
                "against_rate": counts[1] / TRIALS, "log_odds": 2.0 if causal else 0.1,
                "ci_low": 1.0 if causal else -0.5, "ci_high": 3.0 if causal else 0.7, "z": 4.0 if causal else 0.3,
                "p": 0.0001 if causal else 0.9, "q": 0.002 if causal else 0.95, "test": "permutation", "found": causal,
                "note": "",
            })  # fmt: skip
        found.append(found[-1] | {"comparison": "controls", "name": latent_name(feature["site"], 900),
                                  "found": feature["feature"] == 10,
                                  "matches": feature["name"]})  # fmt: skip
        for side, sign in (("raised", 1.0), ("lowered", -1.0)):
            logits += [
                {c: feature[c] for c in ("name", "site", "feature")} | {
                    "side": side, "rank": i, "token": text, "token_id": 100 + i, "effect": sign * (1 - 0.1 * i),
                    "found": causal}
                for i, text in enumerate(made.texts)
            ]  # fmt: skip
    lines = {(f["comparison"], f["name"], f.get("matches", "")): f for f in found}
    comparisons = [
        {"comparison": family, "name": name, "matches": matches, "condition": line["condition"],
         "against": line["against"], "n": TRIALS, "vocabulary": 40, "tested": 12, "note": ""}
        for (family, name, matches), line in lines.items()
    ]  # fmt: skip
    return {"tokens": found, "logits": logits, "comparisons": comparisons}


SCHEMAS = {
    "separations": schemas.SEPARATIONS, "effects": schemas.EFFECTS, "causal": schemas.CAUSAL,
    "responses": schemas.RESPONSES, "pathways": schemas.PATHWAYS, "prompts": schemas.PROMPTS,
    "replay": schemas.REPLAY, "agreement": schemas.AGREEMENT, "tokens": schemas.TOKENS, "logits": schemas.LOGITS,
    "comparisons": COMPARISONS,
}  # fmt: skip


def commit(
    study: Path, step: str, tables: Mapping[str, Sequence[Mapping[str, Any]]], inputs: Mapping[str, Artifact],
    options: Mapping[str, Any] | None = None,
) -> Artifact:  # fmt: skip
    """A committed folder of that step, which says what it read."""
    writer = Writer(study, step, f"fingerprint of {step}")
    for name, lines in tables.items():
        writer.table(name, pa.Table.from_pylist([dict(line) for line in lines], schema=SCHEMAS[name]))
    read = {kind: {"name": a.name, "fingerprint": a.fingerprint} for kind, a in inputs.items()}
    return writer.commit({
        "step": step, "name": step, "version": 1, "options": dict(options or {}), "inputs": read, "ledger": [],
        "writes": [KINDS[step]], "seed": 0, "seconds": 1.0, "peak_memory_bytes": 1_500_000_000,
        "model": {"name": "tiny-model", "n_layers": 30},
    })  # fmt: skip


def whole(study: Path, made: Made | None = None, steps: Sequence[str] = tuple(KINDS)) -> dict[str, Artifact]:
    """The chain's steps, by the kind each writes; `steps` leaves some out (features is always there)."""
    made = made or Made()
    study.mkdir(parents=True, exist_ok=True)
    out = {"generations": generation(study, made)}
    out["features"] = commit(study, "features", {"separations": separations(made)}, out)
    tables = {"patch_features": patched, "pathways": pathways, "replay": replayed, "tokens": tokens}
    for step, make in tables.items():
        if step in steps:
            out[KINDS[step]] = commit(study, step, make(made), out)
    return out


def _named(site: str, latent: int) -> dict[str, Any]:
    found = Latent.parse(latent_name(site, latent))
    return {"name": str(found), "site": site, "layer": found.site.layer, "feature": latent}


def _pair(source: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{end}{column}": values[key]
        for end, values in (("source", source), ("target", target))
        for column, key in (("_site", "site"), ("", "feature"), ("_name", "name"), ("_layer", "layer"))
    }


def integrated(study: Path, inputs: Mapping[str, Artifact], **options: Any) -> Artifact:
    """Step integrate of these, committed with what it read."""
    from gnomon.step import Context, Inputs, ModelSpec
    from gnomon.steps.integrate import Integrate

    step = Integrate(**options)
    writer = Writer(study, "integrate", "fingerprint of integrate")
    ctx = Context(study, ModelSpec("tiny-model"))
    step.run(Inputs({kind: [a] for kind, a in inputs.items()}), writer, ctx)
    read = {kind: {"name": a.name, "fingerprint": a.fingerprint} for kind, a in inputs.items()}
    return writer.commit({
        "step": "integrate", "name": "integrate", "version": 1, "options": step.model_dump(mode="json"), "inputs": read,
        "ledger": ctx.ledger, "writes": ["integrated"], "seed": 0, "seconds": 1.0, "peak_memory_bytes": 1000,
    })  # fmt: skip
