"""The neuron files of the second-order layout: scores, ranking, components, text set, sparse decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gnomon.exports.folder import Folder, latest, source
from gnomon.exports.rows import Part
from gnomon.store import Artifact, Study

CRITERIA = ("mean_abs", "variance", "direct", "grad_act")


def second_order_scores(study: Study, folder: Folder, parts: Sequence[Part], second: Artifact | None) -> None:
    """_second_order_layer{L}.npy `[examples, neurons]`, main direction; which neurons, in _second_order_meta.json."""
    if second is None:
        folder.leave_out("{dataset}_{split}_{model}_second_order_layer{L}.npy", "step second_order")
        folder.leave_out("{dataset}_{split}_{model}_second_order_meta.json", "step second_order")
        return
    neurons = second.table("neurons").sort_values("index")
    directions = second.directions() if "directions" in second.arrays() else []
    for part in parts:
        files = {}
        for layer, mine in neurons.groupby("layer", sort=True):
            name, numbers = f"scores_layer{layer}", [int(v) for v in mine["neuron"]]
            if name not in second.arrays():
                continue
            values = np.asarray(second.array(name)[0][part.index])[:, numbers].astype(np.float32)
            files[str(layer)] = f"{part.prefix}_second_order_layer{layer}.npy"
            folder.array(files[str(layer)], values, source(second, f"{name}[0]", "neurons"),
                         "column j is neuron neuron_indices[j] of the meta file")  # fmt: skip
        meta = {
            "prefix": part.prefix, "num_examples": len(part), "row_ids": [str(v) for v in part.column("example_id")],
            "mlp_layers": sorted(int(v) for v in set(neurons["layer"])), "files": files,
            "neuron_indices": {str(k): [int(v) for v in m["neuron"]] for k, m in neurons.groupby("layer", sort=True)},
            "neurons": [[int(a), int(b)] for a, b in zip(neurons["layer"], neurons["neuron"], strict=True)],
            "direction": directions[0].name if directions else None,
            "direction_space": directions[0].meta.get("space") if directions else None,
            "direction_file": f"{part.prefix}_correctness_direction.npy" if directions else None,
            "options": second.options,
        }  # fmt: skip
        folder.json(f"{part.prefix}_second_order_meta.json", meta, source(second, "neurons", "directions"))


def ranking(study: Study, folder: Folder, model: str) -> None:
    """neuron_ranking.json: per layer the selected neurons, best first, with the criteria of each."""
    made = latest(study, "neurons")
    if made is None:
        folder.leave_out("neuron_ranking.json", "step neurons")
        return
    table = made.table("neurons").sort_values(["layer", "rank"], kind="stable")
    table = table.loc[np.asarray(table["selected"], dtype=bool)]
    shown = [c for c in ("neuron", "rank", "score", *CRITERIA) if c in table.columns]
    layers: list[dict[str, Any]] = []
    for layer, mine in table.groupby("layer", sort=True):
        layers.append({"layer": int(str(layer)), "neurons": mine[shown].to_dict("records")})
    value = {
        "model": model, "options": made.options, "layers": layers,
        "neuron_indices": {str(one["layer"]): [int(n["neuron"]) for n in one["neurons"]] for one in layers},
    }  # fmt: skip
    folder.json("neuron_ranking.json", value, source(made, "neurons"))


def text_files(study: Study, folder: Folder, parts: Sequence[Part], second: Artifact | None, model: str) -> None:
    """Components and norms, the phrases with their embeddings, and each neuron's phrases with coefficients."""
    prefix = next((p.prefix for p in parts if p.split == "fit"), parts[0].prefix if parts else "study")
    pca = latest(study, "pca", {"second_order": second})
    if pca is None:
        folder.leave_out(f"{prefix}_pca.npy", "step pca")
        folder.leave_out(f"{prefix}_norm.npy", "step pca")
    else:
        note = "row i is neurons[i] of second_order_meta.json"
        folder.array(f"{prefix}_pca.npy", np.asarray(pca.array("pca"), np.float32), source(pca, "pca"), note)
        norms = np.asarray(pca.array("norm"), np.float32)[:, ::-1]
        folder.array(f"{prefix}_norm.npy", norms, source(pca, "norm"), f"{note}; ascending: [:, 0] is the threshold")
    lexicon = latest(study, "lexicon")
    names = (f"text_set_{model}.npy", "text_set.txt", "text_set.json")
    if lexicon is None:
        for name in names:
            folder.leave_out(name, "step lexicon")
    else:
        phrases = lexicon.table("phrases").sort_values("index")
        note = "row i is line i of text_set.txt; raw: centre, then make the rows unit"
        folder.array(names[0], np.asarray(lexicon.array("embeddings"), np.float32), source(lexicon, "embeddings"), note)
        folder.text(names[1], [str(p) for p in phrases["phrase"]], source(lexicon, "phrases"))
        folder.json(names[2], phrases.to_dict("records"), source(lexicon, "phrases"))
    _decomposition(study, folder, f"{prefix}_sparse_decomposition", pca, lexicon)


def _decomposition(study: Study, folder: Folder, name: str, pca: Artifact | None, lexicon: Artifact | None) -> None:
    """{"i": [[phrase number, coefficient, phrase], ...]}, largest coefficient first; and how good each one is."""
    text = latest(study, "text_decomposition", {"pca": pca, "lexicon": lexicon})
    if text is None:
        folder.leave_out(f"{name}.json", "step text_decomposition")
        return
    rows = text.table("phrases")
    codes: dict[str, list[list[Any]]] = {}
    for index, mine in rows.groupby("index", sort=True):
        order = np.argsort(-np.abs(np.asarray(mine["coefficient"], dtype=float)), kind="stable")
        mine = mine.iloc[order]
        codes[str(index)] = [
            [int(a), float(b), str(c)]
            for a, b, c in zip(mine["phrase_index"], mine["coefficient"], mine["phrase"], strict=True)
        ]
    folder.json(f"{name}.json", codes, source(text, "phrases"), "key i is neurons[i] of second_order_meta.json")
    folder.json(f"{name}_quality.json", text.table("neurons").to_dict("records"), source(text, "neurons"))
    if "reconstruction" in text.arrays():
        values = np.asarray(text.array("reconstruction"), np.float32)
        folder.array(f"{name}_reconstruction.npy", values, source(text, "reconstruction"))
