"""The layout of the port of the CLIP second-order pipeline to language models: its file names, its padding.

Names begin with `{dataset}_{split}_{model}`, split being fit, tune or test. Row i of every file of a split is the same
example. docs/export.md lists the files with their shapes, types and sources. No model is loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gnomon.exports.final_norm import norm_of
from gnomon.exports.folder import Folder, latest, source
from gnomon.exports.neurons import ranking, second_order_scores, text_files
from gnomon.exports.rows import Part, generation_of, last_site, model_of, padded_stream, padded_tokens, parts_of
from gnomon.store import Artifact, Study

CAPTURE = "a capture of resid_post at position all (generate: {capture: {sites: resid_post.-1, positions: [all]}})"
GENERATE = "step generate"
LAST = "step second_order, or a capture of resid_post at position last or last_prompt"
DIRECTION = "step second_order, or step probe"


def export(study: Study, folder: Folder) -> None:
    """Write what the study has; name what it lacks."""
    second = latest(study, "second_order")
    generation = generation_of(study, second)
    model = model_of(study, generation, second)
    parts = parts_of(generation, second, model)
    if generation is None:
        folder.leave_out("{dataset}_{split}_{model}_eval.jsonl and the other files of answers", GENERATE)
    for part in parts:
        facts: dict[str, Any] = {}
        if generation is not None:
            _answers(study, folder, part, generation, facts)
            _stream(study, folder, part, second, facts)
        _correctness(study, folder, part, second, generation, facts)
        folder.json(f"{part.prefix}_stats.json", _stats(part, generation, second, facts), _names(generation, second))
    second_order_scores(study, folder, parts, second)
    ranking(study, folder, model)
    layers(study, folder)
    ablations(study, folder)
    text_files(study, folder, parts, second, model)


def _names(*artifacts: Artifact | None) -> str:
    return ", ".join(a.name for a in artifacts if a is not None)


def _stats(part: Part, generation: Artifact | None, second: Artifact | None, facts: dict[str, Any]) -> dict[str, Any]:
    labels = part.labels
    unparsed = 0
    if generation is not None:
        every = generation.table("generations", ["split", "label"])
        unparsed = int((np.asarray(every["split"] == part.split) & np.asarray(every["label"].isna())).sum())
    return {
        "prefix": part.prefix, "split": part.split, "num_examples": len(part), "accuracy": float(labels.mean()),
        "num_correct": int(labels.sum()), "num_incorrect": int(len(labels) - labels.sum()),
        "num_unparsed_left_out": unparsed, "groups": len(set(part.column("group"))),
        "label_source": None if generation is None else f"{generation.name} (graded by its task; see eval.jsonl)",
        "rows_of": second.name if second is not None else generation.name if generation is not None else None,
        "task": None if generation is None else generation.options.get("task"),
        "model": (generation.meta.get("model") if generation is not None else None) or {}, **facts,
    }  # fmt: skip


# ---------------------------------------------------------------- answers and their activations


def _answers(study: Study, folder: Folder, part: Part, generation: Artifact, facts: dict[str, Any]) -> None:
    """Tokens, mask, metadata and the graded answers."""
    records = part.table.to_dict("records")
    where = source(generation, "generations")
    tokens, mask = padded_tokens(part)
    facts["max_length"] = int(tokens.shape[1])
    folder.array(f"{part.prefix}_tokens.npy", tokens, where, "prompt and response; padded with 0 on the right")
    folder.array(f"{part.prefix}_attention_mask.npy", mask, where, "1 at real tokens")
    folder.lines(f"{part.prefix}_metadata.jsonl", (
        {"index": i, "row": r["row"], "id": r["example_id"], "group": r["group"], "split": r["split"],
         "prompt": r["prompt"], "answer": r["target"], "difficulty": r["difficulty"],
         "prompt_length": r["prompt_len"], "length": len(r["token_ids"])}
        for i, r in enumerate(records)
    ), where)  # fmt: skip
    folder.lines(f"{part.prefix}_eval.jsonl", (
        {"index": i, "id": r["example_id"], "prompt": r["prompt"], "response": r["text"], "target": r["target"],
         "predicted": r["answer"], "correct": bool(r["label"]), "reason": r["reason"],
         "temperature": r["temperature"]}
        for i, r in enumerate(records)
    ), where)  # fmt: skip


def _stream(study: Study, folder: Folder, part: Part, second: Artifact | None, facts: dict[str, Any]) -> None:
    """The residual stream at every token, padded; through the final norm where that can be found again, else raw."""
    name = f"{part.prefix}_residual_stream.npy"
    found = last_site(study, "all", part)
    if found is None:
        folder.leave_out(name, CAPTURE)
        return
    artifact, acts = found
    norm = norm_of(second, acts)
    state = "before the final norm (not normalised)" if norm is None else "through the final norm"
    values = padded_stream(acts, part, facts["max_length"], norm)
    note = f"{acts.site}, {state}; padded with zeros on the right"
    folder.array(name, values, f"{artifact.name}/activations/{acts.site}@all", note)
    facts |= {"residual_stream_site": str(acts.site), "residual_stream_normalised": norm is not None,
              "hidden_size": acts.d}  # fmt: skip
    if norm is not None:
        facts["final_norm"] = {"kind": "layernorm" if norm.centred else "rmsnorm", "rows": norm.rows,
                               "largest_error_on_rows_held_out": norm.error}  # fmt: skip


# ---------------------------------------------------------------- right against wrong


def _correctness(
    study: Study,
    folder: Folder,
    part: Part,
    second: Artifact | None,
    generation: Artifact | None,
    facts: dict[str, Any],
) -> None:
    """States at the read position, labels, the direction that tells them apart, and a record of each example."""
    name = f"{part.prefix}_correctness"
    where = source(second, "rows") if second is not None else _names(generation) + "/generations"
    folder.array(f"{name}.npy", part.labels, where, "1 right, 0 wrong")
    folder.array(f"{name}_labels.npy", part.labels, where, "the same as _correctness.npy")
    states, of, what = _states(study, part, second)
    if states is None:
        folder.leave_out(f"{part.prefix}_representations.npy", LAST)
    else:
        folder.array(f"{part.prefix}_representations.npy", states, of, what)
        facts |= {"representations": what, "hidden_size": int(states.shape[1])}
    vector, of, space = _direction(study, second)
    if vector is None:
        folder.leave_out(f"{name}_direction.npy", DIRECTION)
    else:
        folder.array(f"{name}_direction.npy", vector, of, f"fitted on split fit; space: {space}")
        facts |= {"correctness_direction": of, "correctness_direction_space": space}
    projection = None
    if states is not None and vector is not None and states.shape[1] == len(vector) and space in what:
        projection = states.astype(np.float64) @ vector.astype(np.float64)
    source_name = _names(generation) or _names(second)
    folder.lines(f"{name}_records.jsonl", (
        {"index": i, "id": r["example_id"], "label": int(bool(r["label"])), "label_source": source_name,
         "projection": None if projection is None else float(projection[i])}
        for i, r in enumerate(part.table.to_dict("records"))
    ), where)  # fmt: skip


def _states(study: Study, part: Part, second: Artifact | None) -> tuple[np.ndarray | None, str, str]:
    """`[N, hidden]` float32: the final norm's output at the read position, else a captured stream; where from, what."""
    if second is not None and "output" in second.arrays() and part.index is not None:
        position = second.options.get("position", "before_answer")
        values = np.asarray(second.array("output")[part.index], dtype=np.float32)
        return values, source(second, "output"), f"final_norm output at {position}"
    for position in ("last", "last_prompt"):
        found = last_site(study, position, part)
        if found is not None:
            artifact, acts = found
            values = np.stack([np.asarray(acts.row(r), dtype=np.float32) for r in part.rows.tolist()])
            return values, f"{artifact.name}/activations/{acts.site}@{position}", f"{acts.site} at {position}, raw"
    return None, "", ""


def _direction(study: Study, second: Artifact | None) -> tuple[np.ndarray | None, str, str]:
    """The main score direction of the second-order step, else the probe's difference in means; where from, space."""
    if second is not None and "directions" in second.arrays():
        first = second.directions()[0]
        return first.vector.astype(np.float32), source(second, "directions[0]"), str(first.meta.get("space", ""))
    probe = latest(study, "probe")
    if probe is not None and "directions" in probe.arrays():
        found = probe.directions()
        i = next((i for i, d in enumerate(found) if d.kind == "difference"), 0)
        return found[i].vector.astype(np.float32), source(probe, f"directions[{i}]"), str(found[i].site)
    return None, "", ""


def layers(study: Study, folder: Folder) -> None:
    """layer_ablation.json: every layer's change, and the layers kept."""
    made = latest(study, "layer_ablation")
    if made is None:
        folder.leave_out("layer_ablation.json", "step layer_ablation")
        return
    rows, kept = made.table("layers"), made.table("selected")
    chosen = {str(c): [int(v) for v in part.sort_values("rank")["layer"]] for c, part in _by(kept, "component")}
    value = {"options": made.options, "selected_layers": chosen, "selected": kept.to_dict("records"),
             "layers": rows.to_dict("records")}  # fmt: skip
    folder.json("layer_ablation.json", value, source(made, "layers", "selected"))


def ablations(study: Study, folder: Folder) -> None:
    """neuron_ablation.json: what is left without all, without significant and without insignificant effects."""
    made = latest(study, "neuron_ablation")
    if made is None:
        folder.leave_out("neuron_ablation.json", "step neuron_ablation")
        return
    value = {"options": made.options, "ablations": made.table("ablations").to_dict("records")}
    folder.json("neuron_ablation.json", value, source(made, "ablations"))


def _by(table: pd.DataFrame, column: str) -> list[tuple[Any, pd.DataFrame]]:
    return [(key, part) for key, part in table.groupby(column, sort=True)]
