"""Tiny random models of every family, with a tiny byte-level tokenizer: `tiny_model("llama")`, `tiny_folder("gpt2")`.

The weights are large enough for attention to be peaked and for norms and biases to matter, so that a wrong norm, map
or bias shows. Head width differs from d_model / heads where a family allows it; windows are shorter than the prompts.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

FAMILIES = (
    "gpt2", "gpt_neox", "gpt_neox_serial", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3",
)  # fmt: skip
PARALLEL = ("gpt_neox",)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = (
    "The capital of Kenya is Nairobi. The capital of France is Paris. What is 12 + 30? The answer is 42.",
    "Question: is it true or false that some cats are dogs? Answer: false, no cat is a dog.",
)
PROMPTS = (
    "The capital of Kenya is", "What is 12 + 30?", "Is it true?", "A", "Question: is it true or false that cats are"
)  # fmt: skip
_ROOT = Path(tempfile.mkdtemp(prefix="gnomon-tiny-"))
atexit.register(shutil.rmtree, _ROOT, ignore_errors=True)


def tiny_tokenizer(bos: bool, chat: bool = True) -> Any:
    """A byte-level BPE of 320 tokens over `TEXTS`; any text encodes and decodes exactly. `bos` adds one in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    if bos:
        raw.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_config(family: str, n_layers: int = 4, vocab: int = 320, **changes: Any) -> Any:
    """The transformers config of a tiny model; `changes` override its fields."""
    import transformers as tf

    rope: dict[str, Any] = {
        "vocab_size": vocab, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": n_layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0,
        "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
    }  # fmt: skip
    gpt2 = {
        "vocab_size": vocab, "n_embd": 32, "n_layer": n_layers, "n_head": 4, "n_inner": 48, "n_positions": 256,
        "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    neox = {k: v for k, v in rope.items() if k != "num_key_value_heads"} | {"use_parallel_residual": True}
    layer_types = ["sliding_attention", "full_attention"] * n_layers
    gemma = rope | {
        "head_dim": 12, "sliding_window": 6, "query_pre_attn_scalar": 12, "layer_types": layer_types[:n_layers],
        "tie_word_embeddings": True, "final_logit_softcapping": 20.0,
    }  # fmt: skip
    table: dict[str, tuple[Any, dict[str, Any]]] = {
        "gpt2": (tf.GPT2Config, gpt2),
        "gpt_neox": (tf.GPTNeoXConfig, neox),
        "gpt_neox_serial": (tf.GPTNeoXConfig, neox | {"use_parallel_residual": False}),
        "llama": (tf.LlamaConfig, rope | {"attention_bias": True, "mlp_bias": True}),
        "mistral": (tf.MistralConfig, rope | {"head_dim": 12, "sliding_window": 6}),
        "qwen2": (tf.Qwen2Config, rope),
        "qwen3": (tf.Qwen3Config, rope | {"head_dim": 12}),
        "gemma2": (tf.Gemma2Config, gemma | {"attn_logit_softcapping": 5.0}),
        "gemma3": (tf.Gemma3TextConfig, gemma | {"final_logit_softcapping": None}),
    }  # fmt: skip
    kind, fields = table[family]
    return kind(**(fields | changes))


@functools.cache
def tiny_folder(family: str, seed: int = 0, chat: bool = True, **changes: Any) -> Path:
    """A folder that `load_model` can read: config, random safetensors (float32), tokenizer. Made once a session."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = tiny_tokenizer(bos=family in ("llama", "mistral", "gemma2", "gemma3"), chat=chat)
    model = AutoModelForCausalLM.from_config(tiny_config(family, vocab=len(tokenizer), **changes))
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            draw = torch.randn(weight.shape, generator=noise)
            if weight.ndim == 1:
                weight.add_(0.2 * draw)  # norms stay near their own start (0 or 1), biases near 0
            elif "emb" in name or "wte" in name or "wpe" in name:
                weight.copy_(draw * (0.2 if "gemma" in family else 0.4 if family == "gpt2" else 1.0))
            else:
                weight.copy_(1.2 * draw / weight.shape[-1] ** 0.5)
    folder = Path(tempfile.mkdtemp(prefix=f"{family}-", dir=_ROOT))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def tiny_model(family: str, dtype: str = "float32", seed: int = 0, chat: bool = True, **changes: Any) -> Any:
    """A loaded tiny `Model`, one for all tests of a session: leave it as it was found."""
    from gnomon.models.sources import load_model

    return load_model(str(tiny_folder(family, seed, chat, **changes)), dtype=dtype, device="cpu", check=False)


def tiny_prompts(model: Any, n: int = 5) -> list[list[int]]:
    """Token lists of mixed lengths (1 to about 40 tokens), the same for every call."""
    texts = [PROMPTS[i % len(PROMPTS)] + " and" * (i // len(PROMPTS)) for i in range(n)]
    return [model.tokenize(text) for text in texts]
