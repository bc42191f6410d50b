"""Memory against the number of questions: a step that streams holds one shard, or one site, however many there are.

The same study is run with 200 and with 4000 questions on a tiny random model (1 MB of weights hides nothing), each step
in a process of its own that begins where the one before ended. Measured is the highest anonymous resident set (what a
process allocated; the pages of memory maps are the system's to drop), read every few milliseconds.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.processes import measured
from benchmarks.timing import Row, main
from gnomon.types import Example, Grade, Mode

FEW, MANY = 200, 4000
LAYERS, WIDTH, NEW = 4, 64, 4
PAUSE = 0.005
KEPT = {"sites": ["resid_post.1", "resid_post.2"], "positions": ["last_prompt", "all"]}
STEPS: dict[str, dict[str, Any]] = {
    "generate": {"task": "benchmarks.memory:Letters", "max_new_tokens": NEW, "temperatures": [1.0], "capture": KEPT},
    "capture": {"sites": "resid_post.*", "positions": ["last", "all"]},
    "confidence": {"ask": "self", "capture": KEPT},
    "layer_ablation": {},
    "neurons": {"layers": "all", "permutations": 199},
    "second_order": {"neurons": 16},
    "lexicon": {},
    "train_dictionary": {"sites": KEPT["sites"], "latents": 128, "k": 8, "tokens": 2000, "steps": 50,
                         "draws": 200, "loss_rows": 4},
    "features": {"permutations": 19, "random": 19, "draws": 200, "folds": 3, "pages": 1, "general_text": None,
                 "probes": False},
    "patch_features": {"top": 2, "trials": 20, "controls": 2, "flips": 999, "draws": 200, "max_new_tokens": NEW},
    "pathways": {"targets": "strongest", "strongest": 2, "top": 5, "draws": 200, "prompts": 4},
    "replay": {"top": 2, "scan": 40, "rows": 4, "controls": 2, "draws": 200},
}  # fmt: skip
"""Steps whose work is in shards or site by site, in the order of a study; each reads what those above it wrote."""
GOAL = 1.1
WORDS = ("cat", "dog", "bird", "tree", "house", "river", "stone", "cloud")


@dataclass(frozen=True)
class Letters:
    """Random words; an answer is its first letter, right when it comes early: a random model answers both ways."""

    name: ClassVar[str] = "letters"
    version: ClassVar[int] = 1
    mode: Mode = "generate"
    max_new_tokens: int = NEW
    stop: tuple[str, ...] = ()

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        """`n` prompts of three to six words."""
        draws = (random.Random(f"{seed}/{i}") for i in range(n or FEW))
        texts = (" ".join(draw.choices(WORDS, k=draw.randint(3, 6))) for draw in draws)
        return [Example(f"q{i}", f"{i}: {text} =", "a", difficulty=float(i % 5)) for i, text in enumerate(texts)]

    def grade(self, example: Example, text: str) -> Grade:
        """By the first letter."""
        found = re.search("[A-Za-z]", text)
        if found is None:
            return Grade(None, reason="no letter")
        return Grade(found[0].lower() < "m", found[0], "first letter", found.span())

    def baselines(self, example: Example) -> dict[str, float]:
        """The length of the prompt."""
        return {"length": float(len(str(example.prompt)))}


def rows(runs: int) -> Iterator[Row]:
    """One row a step; memory is no matter of luck, so `runs` is not used."""
    with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as folder:
        tiny(f"{folder}/model")
        for step in STEPS:
            few, many = (measured("memory", "--step", step, folder, n) for n in (FEW, MANY))
            grown = many["peak"] - few["peak"]
            yield Row(
                f"peak memory of {step}, {MANY} questions / {FEW}", many["peak"] / few["peak"], GOAL, runs=1,
                ours=many["peak"], theirs=few["peak"], unit="bytes",
                note=f"anonymous; it grew by {grown / 2**20:.1f} MiB, {max(grown, 0) / (MANY - FEW):.0f} bytes a "
                f"question, its files by {(many['files'] - few['files']) / 2**20:.1f} MiB",
            )  # fmt: skip


def tiny(folder: str) -> str:
    """A random Llama with a byte-level tokenizer, written to `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({name: i for i, name in enumerate(["<end>", *alphabet])}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.add_special_tokens(["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class Highest(threading.Thread):
    """The highest anonymous resident set of this process while it runs, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._over = 0, threading.Event()

    def run(self) -> None:
        """Look every few milliseconds."""
        while not self._over.wait(PAUSE):
            self.look()

    def look(self) -> None:
        """Read RssAnon of /proc/self/status (Linux)."""
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                self.peak = max(self.peak, 1024 * int(line.split()[1]))

    def stop(self) -> int:
        """The highest so far."""
        self._over.set()
        self.join()
        self.look()
        return self.peak


def peak(step: str, folder: str, n: int) -> dict[str, int]:
    """Run the study up to `step`, what stands there kept; the peak of this process, and the bytes of its files."""
    import gnomon.report.html
    from gnomon.run import run_study

    gnomon.report.html.build_report = lambda folder: Path(folder)  # it is measured by its own tests
    entries = [{name: STEPS[name]} for name in list(STEPS)[: list(STEPS).index(step) + 1]]
    entries[0] = {"generate": STEPS["generate"] | {"n": n}}
    for entry in entries:
        if "train_dictionary" in entry or "features" in entry:
            entry["from"] = {"activations": "generate"}
    highest = Highest()
    highest.start()
    study = run_study({"model": f"{folder}/model", "device": "cpu", "threads": 1, "steps": entries},
                      f"{folder}/{n}", log_level="error")  # fmt: skip
    return {"peak": highest.stop(), "files": sum(r["bytes"] for r in study[step].meta["files"].values())}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        print(json.dumps(peak(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main(rows)
