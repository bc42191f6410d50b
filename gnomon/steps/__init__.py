"""One file = one method = one section of the report. Names only; a step is imported when it is asked for."""

STEPS: dict[str, str] = {
    "generate": "gnomon.steps.generate:Generate",
    "capture": "gnomon.steps.capture:Capture",
    "audit": "gnomon.steps.audit:Audit",
    "probe": "gnomon.steps.probe:Probe",
    "layer_ablation": "gnomon.steps.layer_ablation:LayerAblation",
    "intervene": "gnomon.steps.intervene:Intervene",
    "audit_claim": "gnomon.steps.audit_claim:AuditClaim",
}
