"""Accuracies by log-likelihood on real sets against an independent direct computation: plain Hugging Face, one option
at a time, log_softmax of the whole sequence, the records read by hand.

    python benchmarks/choices.py FOLDER_OF_SETS [QUESTIONS A SET]       # default 40

Sets: ARC (easy and challenge), CommonsenseQA, TruthfulQA MC1, OpenBookQA, MMLU. Prints one line a set and
normalisation: both accuracies, in how many questions the chosen option differs, and the largest difference of a score
(nats). Exits 1 where an accuracy differs or a score by more than 1e-3, 2 where a set is missing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

MODEL = "smollm2-135m"
CLOSE = 1e-3
Read = Callable[[dict[str, Any]], tuple[str, list[str], str]]


def _arc(r: dict[str, Any]) -> tuple[str, list[str], str]:
    texts, labels = r["choices"]["text"], r["choices"]["label"]
    return r["question"] if "question" in r else r["question_stem"], texts, texts[labels.index(r["answerKey"])]


def _csqa(r: dict[str, Any]) -> tuple[str, list[str], str]:
    by_label = {c["label"]: c["text"] for c in r["question"]["choices"]}
    return r["question"]["stem"], list(by_label.values()), by_label[r["answerKey"]]


def _truthful(r: dict[str, Any]) -> tuple[str, list[str], str]:
    return r["question"], list(r["mc1_targets"]), max(r["mc1_targets"], key=r["mc1_targets"].__getitem__)


def _mmlu(r: dict[str, Any]) -> tuple[str, list[str], str]:
    return r["question"], r["choices"], r["choices"][r["answer"]]


SETS: dict[str, tuple[str, Read]] = {
    "ARC easy": ("arc/arc_easy_validation.jsonl", _arc),
    "ARC challenge": ("arc/arc_challenge_validation.jsonl", _arc),
    "CommonsenseQA": ("commonsenseqa/dev_rand_split.jsonl", _csqa),
    "TruthfulQA MC1": ("truthfulqa/mc_task.jsonl", _truthful),
    "OpenBookQA": ("openbookqa/openbookqa_validation.jsonl", _arc),
    "MMLU": ("mmlu/mmlu_test.jsonl", _mmlu),
}


def direct(hf: Any, tokenizer: Any, question: str, option: str) -> tuple[float, int]:
    """(log p of the option's tokens after "QUESTION\\nAnswer:", how many they are): one unbatched forward pass."""
    import torch

    prompt = tokenizer(f"{question}\nAnswer:")["input_ids"]
    said = tokenizer(f" {option}", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logp = torch.log_softmax(hf(torch.tensor([prompt + said])).logits[0].double(), -1)
    return sum(float(logp[len(prompt) - 1 + k, token]) for k, token in enumerate(said)), len(said)


def main() -> int:
    """Print one line a set and normalisation; the exit code."""
    if len(sys.argv) < 2:
        sys.exit("the folder that holds the sets (arc, commonsenseqa, ...) is wanted: choices.py FOLDER [QUESTIONS]")
    data = Path(sys.argv[1])
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    missing = [path for path, _ in SETS.values() if not (data / path).is_file()]
    if missing:
        print(f"{data} lacks {', '.join(missing)}")
        return 2
    import gnomon

    model = gnomon.load_model(MODEL, device="cpu")
    failed = False
    for name, (path, read) in SETS.items():
        raw = {}
        for line in filter(None, (data / path).read_text(encoding="utf-8").split("\n")):
            question, options, target = read(json.loads(line))
            raw[question.strip(), frozenset(o.strip() for o in options)] = (options, target)
        theirs: dict[str, list[tuple[float, int]]] = {}
        for how in ("tokens", "none"):
            task = {"choice": {"path": str(data / path), "skip_bad": True}}
            step = {"generate": {"task": task, "n": n, "normalise": how}}
            study = {"model": MODEL, "device": "cpu", "steps": [step]}
            with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as folder:
                table = gnomon.run_study(study, Path(folder) / "study")["generate"].table("generations")
            right, apart, other = 0, 0.0, 0
            for row in table.to_dict("records"):
                question = json.loads(row["meta"])["question"]
                options, target = raw[question, frozenset(row["choices"])]
                if row["example_id"] not in theirs:
                    theirs[row["example_id"]] = [
                        direct(model.hf, model.tokenizer, question, o.strip()) for o in options
                    ]
                found = theirs[row["example_id"]]
                scores = np.array([total / tokens if how == "tokens" else total for total, tokens in found])
                ours = np.array([dict(zip(row["choices"], row["scores"], strict=True))[o.strip()] for o in options])
                apart = max(apart, float(np.abs(scores - ours).max()))
                best = options[int(scores.argmax())]
                right += best == target
                other += best.strip() != row["text"]
            accuracy = sum(map(bool, table["label"])) / len(table)
            failed |= accuracy != right / len(table) or apart > CLOSE
            print(f"{name:15} {how:6} n={len(table):3}  gnomon {accuracy:.3f}  direct {right / len(table):.3f}  "
                  f"other choice in {other}  scores apart by {apart:.1e} at most", flush=True)  # fmt: skip
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
