"""What an audit of older result files says as one JSON object, under the names that those files' readers know."""

from __future__ import annotations

from collections import Counter
from typing import Any

from gnomon.methods.log_audit import LogAudit, no_number


def validation(audit: LogAudit) -> dict[str, Any]:
    """`causal_by_layer`, `joinable_features`, `validated`, and what stands behind them.

    validated: no check failed, and there were both checkpoints and logs to join.
    """
    checks, covered = audit.checks(), audit.covered()
    least, middle, most = covered.trials
    return {
        "validated": bool(audit.found and audit.asked) and all(c.level != "fail" for c in checks),
        "causal_by_layer": by_layer(audit, causal=True),
        "features_by_layer": by_layer(audit, causal=False),
        "causal_features": len(audit.causal),
        "checkpoint_features": len(audit.found),
        "response_features": len(audit.logged),
        "joinable_features": sorted(audit.joined()),
        "causal_without_responses": sorted(audit.only_checkpoints()),
        "responses_without_checkpoint": sorted(audit.only_logs()),
        "conditions": list(covered.conditions),
        "missing_conditions": {name: covered.missing[name] for name in sorted(covered.missing)},
        "trials": {"wanted": audit.trials, "min": least, "median": middle, "max": most},
        "too_few_trials": {name: covered.short[name] for name in sorted(covered.short)},
        "repeated_trials": [
            {"feature": f, "condition": c, "trial": t, "again": n} for (f, c, t), n in sorted(audit.twice.items())
        ],
        "empty_responses": dict(sorted(audit.empty.items())),
        "without_cohen_d": sorted(audit.no_d),
        "repeated_features": sorted(audit.repeated),
        "names_without_layer": sorted(audit.unnamed),
        "schema_errors": {"count": audit.wrong, "first": audit.errors},
        "files": audit.files,
        "checks": [{"check": c.check, "level": c.level, "value": c.value, "detail": c.detail} for c in checks],
    }


def by_layer(audit: LogAudit, causal: bool) -> dict[str, int]:
    """Features, or causal ones, by layer, lowest first."""
    counts = Counter(r["layer"] for r in audit.found.values() if r["is_causal"] or not causal)
    return {str(layer): counts[layer] for layer in sorted(counts)}


def strongest(audit: LogAudit, top: int) -> list[dict[str, Any]]:
    """Causal features' records as they stand, the `top` of each layer by |cohen_d|; those without one are left out."""
    ranked = sorted(
        (r for r in audit.found.values() if r["is_causal"] and not no_number(r["cohen_d"])),
        key=lambda r: (r["layer"], -abs(r["cohen_d"]), r["feature_id"], r["feature"]),
    )
    seen: Counter[int] = Counter()
    out = []
    for record in ranked:
        seen[record["layer"]] += 1
        if seen[record["layer"]] <= top:
            out.append(record)
    return out
