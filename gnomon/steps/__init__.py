"""One file = one method = one section of the report. Names only; a step is imported when it is asked for."""

STEPS: dict[str, str] = {
    "generate": "gnomon.steps.generate:Generate",
    "capture": "gnomon.steps.capture:Capture",
    "audit": "gnomon.steps.audit:Audit",
    "near_misses": "gnomon.steps.near_misses:NearMisses",
    "probe": "gnomon.steps.probe:Probe",
    "temperatures": "gnomon.steps.temperatures:Temperatures",
    "layer_ablation": "gnomon.steps.layer_ablation:LayerAblation",
    "neurons": "gnomon.steps.neurons:Neurons",
    "second_order": "gnomon.steps.second_order:SecondOrder",
    "pca": "gnomon.steps.pca:Pca",
    "lexicon": "gnomon.steps.lexicon:Lexicon",
    "text_decomposition": "gnomon.steps.text_decomposition:TextDecomposition",
    "intervene": "gnomon.steps.intervene:Intervene",
    "audit_claim": "gnomon.steps.audit_claim:AuditClaim",
    "edit": "gnomon.steps.edit:Edit",
    "neuron_ablation": "gnomon.steps.neuron_ablation:NeuronAblation",
    "train_dictionary": "gnomon.steps.train_dictionary:TrainDictionary",
    "features": "gnomon.steps.features:Features",
    "metrics": "gnomon.steps.metrics:Metrics",
}
