"""Memory against the number of questions: every step holds one shard, or one site, however many questions there are.

The same study is run with 200 and with 4000 questions on a tiny random model, each in a process of its own: `generate`
keeping every token of every block in its pass, `capture` the same once more, and reading each site's last tokens back
in turn, as the probes do. The tiny model (4 MB of weights) hides nothing: kept values of 4000 questions are larger
than the process itself. A step's peak resident set is what its meta.json records.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.processes import begin_peak, measured, peak_above
from benchmarks.timing import Row, main

FEW, MANY = 200, 4000
LAYERS, WIDTH, NEW = 6, 128, 4
STEPS = ("generate", "capture", "reading")


def rows(runs: int) -> Iterator[Row]:
    """One row a step; memory is no matter of luck, so `runs` is not used."""
    few, many = (measured("memory", "--peak", n) for n in (FEW, MANY))
    for step in STEPS:
        grown = (many[step] - few[step]) / 2**20
        yield Row(
            f"peak memory of {step}, {MANY} questions / {FEW}", many[step] / few[step], 1.1, runs=1,
            ours=many[step], theirs=few[step], unit="bytes",
            note=f"whole process; it grew by {grown:.1f} MiB, the values on disk by "
            f"{(many['values'] - few['values']) / 2**20:.0f} MiB",
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
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def peak(n: int) -> dict[str, int]:
    """Peak resident set of each step with `n` questions, and the bytes of values that one step wrote."""
    from gnomon.run import run_study

    kept = {"sites": "resid_post.*", "positions": ["last", "all"]}
    steps: list[dict[str, Any]] = [
        {"generate": {"task": {"sums": {"digits": "1-3", "style": "plain"}}, "n": n, "max_new_tokens": NEW,
                      "stop": [], "capture": kept}},
        {"capture": kept},
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as folder:
        model = tiny(f"{folder}/model")
        study = run_study({"model": model, "device": "cpu", "steps": steps}, f"{folder}/study", log_level="error")
        out = {step: int(study[step].meta["peak_memory_bytes"]) for step in ("generate", "capture")}
        out["values"] = sum(p.stat().st_size for p in (study["capture"].path / "activations").rglob("*.npy"))
        out["reading"] = measured("memory", "--read", study.path)["peak"]
        return out


def read(folder: str) -> dict[str, int]:
    """Peak resident set while every site's last tokens are read, one site after the other."""
    import gnomon

    study = gnomon.open(folder)
    rows = study["generate"].table("generations", ["row"])["row"].to_numpy()
    baseline = begin_peak()
    for layer in range(LAYERS):
        study["generate"].activations(f"resid_post.{layer}@last").at(rows).mean(0)
    return peak_above(baseline)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print(json.dumps(peak(int(sys.argv[2]))))
    elif sys.argv[1:2] == ["--read"]:
        print(json.dumps(read(sys.argv[2])))
    else:
        main(rows)
