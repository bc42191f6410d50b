"""Records of the layout `introspection`: what metadata.json says of one question in one pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from gnomon.store import Artifact
from gnomon.tasks import surface

PROMPT_TYPES = {"mcq": "mcq", "self_conf": "self_confidence", "other_conf": "other_confidence"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _meta(row: Mapping[str, Any]) -> dict[str, Any]:
    found = json.loads(row["meta"] or "{}")
    return found if isinstance(found, dict) else {}


def _listed(value: Any) -> list[Any]:
    return [] if value is None else np.asarray(value).tolist()


def question_text(row: Mapping[str, Any]) -> str:
    """The question in its own words, where the row keeps them; else the whole prompt."""
    own = _meta(row).get("question")
    return own.strip() if isinstance(own, str) and own.strip() else str(row["prompt"])


def letters_of(row: Mapping[str, Any]) -> list[str]:
    """The letter of each option: as they were shown, else A, B, ... in the options' order ("27" beyond Z)."""
    shown, count = _meta(row).get("letters"), len(_listed(row["choices"]))
    if isinstance(shown, list) and len(shown) >= count:
        return [str(letter) for letter in shown[:count]]
    return [LETTERS[i] if i < len(LETTERS) else str(i + 1) for i in range(count)]


def common_record(generation: Artifact, row: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same in every pass: the question, its options and surface, and what the model answered."""
    text, letters, choices = question_text(row), letters_of(row), _listed(row["choices"])
    meta, model = _meta(row), generation.meta.get("model") or {}
    features = surface.features(text)
    adapter, revision = model.get("adapter"), model.get("revision")
    place = choices.index(row["target"]) if row["target"] in choices else None
    return {
        "question_id": row["example_id"], "question_text": text,
        "options": dict(zip(letters, choices, strict=True)) if choices else None, "target": row["target"],
        "correct_answer_letter": letters[place] if place is not None else None,
        "group": row["group"], "split": row["split"], "difficulty": _number(row["difficulty"]), "row": int(row["row"]),
        "model_name": model.get("name"), "adapter": adapter,
        "checkpoint_id": PurePath(str(adapter)).name if adapter else revision or str(model.get("fingerprint") or ""),
        "is_correct": None if pd.isna(row["label"]) else bool(row["label"]),
        "char_length": len(text), "word_length": int(features["question_words"]),
        "question_type": str(meta.get("question_type") or surface.question_type(text)),
        "has_negation": features["negation"] > 0, "has_ambiguity": features["hedging"] > 0,
        "token_rarity_mean": features["rarity_mean"], "token_rarity_max": features["rarity_max"],
        "named_entities": int(features["names"]), "numbers": int(features["numbers"]),
    }  # fmt: skip


def answer_record(row: Mapping[str, Any], generation: Artifact, shift: int) -> dict[str, Any]:
    """What the generation adds; `shift` zeros stand before the row's first token."""
    options, meta = generation.options, _meta(row)
    choices, letters, scores = _listed(row["choices"]), letters_of(row), _listed(row["scores"])
    chosen, answer = meta.get("choice"), row["answer"]
    if chosen is None and answer in choices:
        chosen = choices.index(answer)
    probs = softmax(np.asarray(scores, dtype=np.float64)).tolist() if scores else None
    place = choices.index(row["target"]) if row["target"] in choices else None
    others = [s for i, s in enumerate(scores) if i != place]
    margin = scores[place] - max(others) if place is not None and others and len(scores) == len(choices) else None
    kind = "log p of the letter" if "letters" in meta else f"log-likelihood, normalised by {options.get('normalise')}"
    end = _number(row["answer_token"])
    return {
        "prompt_type": "mcq", "prompt_text": row["prompt"], "prompt_hash": row["prompt_hash"],
        "temperature": float(row["temperature"]), "top_p": float(options.get("top_p") or 1.0),
        **({"max_new_tokens": 0} if row["finish"] == "choice" else {}),
        "output_text": row["text"], "parsed_answer": letters[int(chosen)] if chosen is not None and letters else answer,
        "parsed_text": answer, "reason": row["reason"],
        "logits": scores or None, "logits_are": kind if scores else None, "probs": probs,
        "entropy": _number(row["entropy"]), "logit_margin": margin if scores else _number(row["margin"]),
        "max_prob": _number(row["max_prob"]), "letter_mass": _number(meta.get("letter_mass")),
        "answer_token_index": shift + int(row["prompt_len"]) - 1,
        "answer_end_index": None if end is None else shift + int(end), "first_token_index": shift,
        "self_confidence": None, "other_confidence": None,
    }  # fmt: skip


def pass_record(row: Mapping[str, Any], artifact: Artifact, shift: int) -> dict[str, Any]:
    """What a confidence pass adds; confidences are in percent, as the older files have them."""
    ask, stated, own = str(artifact.options.get("ask")), _number(row["confidence"]), _number(row["answer_token"])
    percent = None if stated is None else 100 * stated
    return {
        "prompt_type": f"{ask}_confidence", "prompt_text": row["prompt"], "prompt_hash": row["prompt_hash"],
        "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 0,
        "output_text": row["text"], "parsed_answer": row["parsed"], "bins": _listed(row["choices"]),
        "logits": _listed(row["logits"]) or None, "probs": _listed(row["probs"]) or None,
        "entropy": _number(row["entropy"]), "logit_margin": _number(row["margin"]), "bin_mass": _number(row["mass"]),
        "confidence_normal_order": _percent(row["normal"]), "confidence_reversed_order": _percent(row["reversed"]),
        "confidence_token_index": shift + int(row["confidence_token"]),
        "own_answer_token_index": None if own is None else shift + int(own), "first_token_index": shift,
        "self_confidence": percent if ask == "self" else None, "other_confidence": percent if ask == "other" else None,
    }  # fmt: skip


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _percent(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else 100 * number
