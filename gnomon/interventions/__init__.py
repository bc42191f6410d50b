"""Pure edits of an activation. Names only; an intervention is imported when it is asked for."""

INTERVENTIONS: dict[str, str] = {
    "ablate": "gnomon.interventions.ablate:Ablate",
    "steer": "gnomon.interventions.steer:Steer",
    "patch": "gnomon.interventions.patch:Patch",
    "clamp": "gnomon.interventions.clamp:Clamp",
    "orthogonalise": "gnomon.interventions.orthogonalise:Orthogonalise",
    "noise": "gnomon.interventions.noise:Noise",
    "neurons": "gnomon.interventions.neurons:Neurons",
    "latent": "gnomon.interventions.latent:SetLatent",
}
