"""The layout of the older introspection collection: a folder a pass, records in metadata.json, an array a layer.

    mcq | self_conf | other_conf /  metadata.json  activations_layer_00.npy ...  attention_mask.npy  read_position.npy

Activations are resid_post at position `all`, float16 `[n_questions, seq_len, d_model]`, padded on the left, so that
`[i, -1]` is the last real token. Question i is the same in every pass. docs/export.md lists the fields. No model is
loaded, and no more than about 64 MB of activations are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gnomon.disk import FLOAT16_MAX
from gnomon.errors import UserError
from gnomon.exports.folder import Folder, source
from gnomon.exports.introspection_records import PROMPT_TYPES, answer_record, common_record, pass_record
from gnomon.store import Artifact, Study
from gnomon.types import Activations, Site

PASSES = {"self_conf": "self", "other_conf": "other"}
"""Folder -> what its pass asks."""
BLOCK = 64_000_000
"""Bytes of padded activations that are held."""
CAPTURE = "capture: {sites: resid_post.*, positions: [all], dtype: float16} in the step"


@dataclass(frozen=True)
class Pass:
    """One folder of the export: rows in order, their lengths in tokens, and the layers that were captured."""

    name: str
    artifact: Artifact
    table: pd.DataFrame
    """Indexed by row, of the export's questions in order."""
    layers: dict[int, Activations]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.table["token_ids"]], dtype=np.int64)

    @property
    def width(self) -> int:
        return int(self.lengths.max(initial=0))

    @property
    def read_at(self) -> np.ndarray:
        """Index on axis 1 of the token at which the answer, or the confidence, is read: `[n]`."""
        return self.width - self.lengths + np.asarray(self.table["prompt_len"], dtype=np.int64) - 1

    @property
    def bytes(self) -> int:
        each = len(self.table) * self.width
        return sum(2 * each * acts.d for acts in self.layers.values()) + 8 * each


def export(study: Study, folder: Folder) -> None:
    """Write each generation with whole-prompt activations or passes: at the top where it is one, else by its name."""
    made = [a for a in study if "generations" in a.tables()]
    if not made:
        folder.leave_out("mcq, self_conf, other_conf", "step generate")
        return
    wanted = [a for a in made if _layers(_captures(study, a)) or _passes(study, a)] or made[:1]
    sets = [_set(study, folder, a, "" if len(wanted) == 1 else f"{a.name}/") for a in wanted]
    folder.room_for(sum(one.bytes for passes, _ in sets for one in passes))
    for generation, (passes, left) in zip(wanted, sets, strict=True):
        prefix = "" if len(wanted) == 1 else f"{generation.name}/"
        _write(study, folder, generation, passes, left, prefix)


def _set(study: Study, folder: Folder, generation: Artifact, prefix: str) -> tuple[list[Pass], dict[str, Any]]:
    """The passes of a generation over the questions that all of them have, and what was left out, counted."""
    answers = generation.table("generations").sort_values("row")
    first = answers.sort_values(["temperature", "sample", "row"]).drop_duplicates("example_id").sort_values("row")
    tables = {"mcq": (generation, first.set_index("row"), _layers(_captures(study, generation)))}
    asked = _passes(study, generation)
    for name, ask in PASSES.items():
        mine = [p for p in asked if p.options.get("ask") == ask]
        mine.sort(key=lambda p: not _layers([p]))  # of several the first that kept every token
        if mine:
            tables[name] = (mine[0], mine[0].table("confidence").set_index("row"), _layers([mine[0]]))
        else:
            folder.leave_out(f"{prefix}{name}", f"step confidence: {{ask: {ask}}} with {CAPTURE}")
    left: dict[str, Any] = {"further_samples": len(answers) - len(first)}
    rows = first["row"].to_numpy()
    for name, (_, table, layers) in tables.items():
        here = np.isin(rows, table.index)
        left[f"not_in_{name}"] = int((~here).sum())
        rows = rows[here]
        for acts in layers.values():
            rows = rows[np.isin(rows, acts.rows)]
    if not len(rows):
        raise UserError(f"{generation.name} and its passes share no question", "passes about the same rows")
    other = [p.name for p in asked if p.name not in {t[0].name for t in tables.values()}]
    left |= {"questions": len(first) - len(rows), "passes": other}
    if left["questions"]:
        folder.tell(f"{generation.name}: {left['questions']} of {len(first)} questions are left out: a pass lacks them")
    made = []
    for name, (artifact, table, layers) in tables.items():
        made.append(Pass(name, artifact, table.loc[rows], layers))
        if not layers:
            folder.leave_out(f"{prefix}{name}/activations_layer_*.npy", f"{CAPTURE} {artifact.name}")
    return made, left


def _captures(study: Study, generation: Artifact) -> list[Artifact]:
    """A generation and the captures of it."""
    out = [generation]
    for artifact in study:
        read = (artifact.meta.get("inputs") or {}).get("generations") or {}
        if artifact.meta.get("step") == "capture" and _same(study, read, generation):
            out.append(artifact)
    return out


def _passes(study: Study, generation: Artifact) -> list[Artifact]:
    """Confidence passes about a generation, in the study's order."""
    return [a for a in study if "confidence" in a.tables() and a.meta.get("step") == "confidence"
            and _same(study, (a.meta.get("inputs") or {}).get("generations") or {}, generation)]  # fmt: skip


def _same(study: Study, read: dict[str, Any], generation: Artifact) -> bool:
    return (study.path / str(read.get("name", ""))).resolve() == generation.path.resolve()


def _layers(artifacts: Sequence[Artifact]) -> dict[int, Activations]:
    """resid_post at position `all` by layer, from the first artifact that has it."""
    out: dict[int, Activations] = {}
    for artifact in artifacts:
        for site, position in artifact.sites():
            if site.component == "resid_post" and position == "all" and site.layer not in out:
                out[site.layer] = artifact.activations(Site("resid_post", site.layer), "all")
    return dict(sorted(out.items()))


def _write(
    study: Study, folder: Folder, generation: Artifact, passes: Sequence[Pass], left: dict[str, Any], prefix: str
) -> None:
    counted, lengths = _question_tokens(generation, passes[0].table)
    more = {"max_new_tokens": _longest(generation)}
    shared = [common_record(generation, row) | more | {"token_length": n}
              for row, n in zip(passes[0].table.reset_index().to_dict("records"), lengths, strict=True)]  # fmt: skip
    for one in passes:
        offset = one.width - one.lengths
        make = answer_record if one.name == "mcq" else pass_record
        rows = one.table.reset_index().to_dict("records")
        records = [base | make(row, one.artifact, int(shift))
                   for base, row, shift in zip(shared, rows, offset, strict=True)]  # fmt: skip
        made = source(one.artifact, "generations" if one.name == "mcq" else "confidence")
        folder.json(f"{prefix}{one.name}/metadata.json", records, made)
        mask = (np.arange(one.width) >= offset[:, None]).astype(np.int64)
        folder.array(f"{prefix}{one.name}/attention_mask.npy", mask, made, "1 at real tokens")
        folder.array(f"{prefix}{one.name}/read_position.npy", one.read_at, made, "axis 1: where the answer is read")
        for layer, acts in one.layers.items():
            shape = (len(one.table), one.width, acts.d)
            parts = padded(acts, np.asarray(one.table.index), one.lengths, one.width)
            where = source(one.artifact, f"activations/resid_post.{layer}@all")
            folder.stream(f"{prefix}{one.name}/activations_layer_{layer:02d}.npy", shape, "float16", parts, where)
    folder.json(f"{prefix}run_config.json", _config(study, generation, passes, left, counted), generation.name)


def padded(acts: Activations, rows: np.ndarray, lengths: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Blocks `[k, width, d]` float16 of each row's tokens behind zeros, about BLOCK bytes each.

    UserError where a row has another number of vectors than tokens, or a value that float16 cannot hold.
    """
    step = max(1, BLOCK // max(1, 2 * width * acts.d))
    for start in range(0, len(rows), step):
        block = np.zeros((min(step, len(rows) - start), width, acts.d), np.float16)
        for i, (row, n) in enumerate(
            zip(rows[start : start + step].tolist(), lengths[start : start + step], strict=True)
        ):
            values = acts.row(row)
            if len(values) != n:
                raise UserError(f"row {row} has {len(values)} vectors at {acts.site} and {n} tokens", "the same tokens")
            peak = float(np.abs(values).max(initial=0.0))
            if not peak <= FLOAT16_MAX:
                raise UserError(
                    f"{acts.site} of row {row} has |x| = {peak:.0f}", f"at most {FLOAT16_MAX:.0f}, float16's largest",
                    "read the study's own arrays, which are float32",
                )  # fmt: skip
            block[i, width - int(n) :] = values
        yield block


def _question_tokens(generation: Artifact, table: pd.DataFrame) -> tuple[str, list[int]]:
    """("question", tokens of each question) where the tokenizer is at hand, else ("prompt", tokens of each prompt)."""
    from gnomon.exports.introspection_records import question_text

    meta = generation.meta.get("model") or {}
    try:
        from gnomon.models import load_tokenizer

        tokenizer = load_tokenizer(str(meta.get("name") or ""), meta.get("revision"))
        texts = [question_text(row) for row in table.to_dict("records")]
        return "question", [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    except UserError:
        return "prompt", [int(n) for n in table["prompt_len"]]


def _longest(generation: Artifact) -> int | None:
    """The longest answer in tokens, as the generation had it (its task's own where no option says)."""
    table = generation.table("settings") if "settings" in generation.tables() else None
    said = {} if table is None else dict(zip(table["setting"], table["value"], strict=True))
    value = str(said.get("max_new_tokens", generation.options.get("max_new_tokens")))
    return int(value) if value.isdigit() else None


def _config(
    study: Study, generation: Artifact, passes: Sequence[Pass], left: dict[str, Any], counted: str
) -> dict[str, Any]:
    meta, options = generation.meta.get("model") or {}, generation.options
    return {
        "study": study.path.resolve().name, "generation": generation.name,
        "model_type": "finetuned" if meta.get("adapter") else "base", "model_name": meta.get("name"),
        "lora_checkpoint": meta.get("adapter"), "revision": meta.get("revision"), "dtype": meta.get("dtype"),
        "model_fingerprint": meta.get("fingerprint"), "seed": generation.meta.get("seed"), "task": options.get("task"),
        "num_questions": len(passes[0].table), "left_out": left, "generation_options": options,
        "activations": "resid_post (output of each block, before the final norm) at every token, float16, left-padded",
        "layer_numbers": "activations_layer_00.npy is the output of the first block",
        "read_position": "index on axis 1 of the token whose next-token distribution is the answer or confidence",
        "token_length": f"tokens of the {counted}",
        "passes": {
            one.name: {"prompt_type": PROMPT_TYPES[one.name], "step": one.artifact.name, "seq_len": one.width,
                       "layers": list(one.layers), "d_model": next((a.d for a in one.layers.values()), None),
                       "options": one.artifact.options, "fingerprint": one.artifact.fingerprint}
            for one in passes
        },
    }  # fmt: skip
