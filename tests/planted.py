"""A transformer whose weights are set by hand: its stated confidence is carried by a known direction at a known layer.

Every character is a token (a GPT-2 without positions). A prompt is some filler and a key, a digit; the key alone makes
the answer, one of ten signs; each sign holds a confidence u and a mark w (it is right where w = 1), unrelated to u.
Attention finds the sign and nothing else: block RIGHT copies w, block LAYER copies u, from the sign to all later
tokens, along known directions. Other heads only mix filler into what follows. What the letters of the bins read:

    carried   u, where block LAYER wrote it: so it is carried by the sign before LAYER, by the last token from then on
    unread    nothing: u lies there all the same, and stated confidence is the same for every item
    surface   the filler, which block 0 brings: stated confidence varies, and u has nothing to do with it
"""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from gnomon.types import Example, Grade, Mode

Kind = Literal["carried", "unread", "surface"]
LAYERS, RIGHT, LAYER, WIDTH = 6, 1, 3, 64
KEYS, SIGNS, FILLER, LETTERS = "0123456789", "#$&@^_~|{}", "JKLNPQRSTUVXYZ", "ABCDEFGH"
SURE = np.linspace(-1, 1, len(SIGNS))
"""u of each sign: what the model states, from unsure to sure."""
KNOWN = np.array([1, -1, -1, 1, 1, -1, -1, 1, 1, -1])
"""w of each sign: right or wrong."""
_ROOT = Path(tempfile.mkdtemp(prefix="gnomon-planted-"))
atexit.register(shutil.rmtree, _ROOT, ignore_errors=True)


@dataclass(frozen=True)
class Keys:
    """Filler and a key; the answer is the key's sign, and the target is that sign where it counts as right."""

    name: ClassVar[str] = "keys"
    version: ClassVar[int] = 1
    mode: Mode = "generate"
    max_new_tokens: int = 1
    stop: tuple[str, ...] = ()

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        out = []
        for i in range(n or 120):
            rng = random.Random(f"{seed}/{i}")
            words = "".join(rng.choice(FILLER) for _ in range(rng.randint(16, 22)))
            key = i % len(KEYS)
            target = SIGNS[key] if KNOWN[key] > 0 else "?"
            out.append(Example(f"k{i}", f"{words} {KEYS[key]}", target, difficulty=float(rng.random())))
        return out

    def grade(self, example: Example, text: str) -> Grade:
        said = text.strip()
        if said[:1] not in SIGNS or not said:
            return Grade(None, reason="no sign")
        return Grade(said[0] == example.target, said[0], "", (text.index(said[0]), text.index(said[0]) + 1))


@functools.cache
def directions() -> np.ndarray:
    """Orthonormal directions of the stream `[WIDTH - 1, WIDTH]`, each of mean 0, so that LayerNorm centres nothing."""
    start = np.random.default_rng(11).standard_normal((WIDTH, WIDTH))
    start[:, 0] = 1
    return np.linalg.qr(start)[0][:, 1:].T


AT = {"one": 0, "sign": 1, "u": 2, "w": 3, "told": 4, "knows": 5, "asked": 6}
"""Which direction is which. one: of every token. sign: where attention looks. told, knows: what u, w become."""
_KEY, _FILL, _MIXED = 10, 20, 26
MIX = 6


def carrier() -> np.ndarray:
    """The direction along which block LAYER writes u: what carries stated confidence from then on."""
    return directions()[AT["told"]]


def tokenizer() -> Any:
    """One token a byte, no merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator([], trainers.BpeTrainer(vocab_size=258, special_tokens=["<|endoftext|>", "<|pad|>"],
                                                    initial_alphabet=alphabet))  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|endoftext|>", eos_token="<|endoftext|>",
                                   pad_token="<|pad|>")  # fmt: skip


@functools.cache
def planted_folder(kind: Kind = "carried") -> Path:
    """A folder that `load_model` can read."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tok = tokenizer()
    config = GPT2Config(
        vocab_size=len(tok), n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_inner=8, n_positions=1024, bos_token_id=0,
        eos_token_id=0, pad_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    q, fill = directions(), np.random.default_rng(12).choice([-1.0, 1.0], size=(len(FILLER), MIX))

    def ids(text: str) -> list[int]:
        return [tok.convert_tokens_to_ids(c) for c in text]

    embed = np.tile(8 * q[AT["one"]], (len(tok), 1))
    embed[ids(SIGNS)] += 2 * q[AT["sign"]] + SURE[:, None] * q[AT["u"]] + KNOWN[:, None] * q[AT["w"]]
    embed[ids(KEYS)] += 3 * q[_KEY : _KEY + len(KEYS)]
    embed[ids(FILLER)] += fill @ q[_FILL : _FILL + MIX]
    embed[ids(":")] += 3 * q[AT["asked"]]
    unembed = np.zeros((len(tok), WIDTH))
    unembed[ids(SIGNS)] = 20 * q[_KEY : _KEY + len(KEYS)]
    read = {"carried": 2.0 * q[AT["told"]], "unread": 0.0 * q[0], "surface": 5.0 * q[_MIXED]}[kind]
    unembed[ids(LETTERS)] = 2 * q[AT["asked"]] + np.linspace(-1, 1, len(LETTERS))[:, None] * read
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight.copy_(torch.tensor(embed))
        model.lm_head.weight.copy_(torch.tensor(unembed))
        blocks: Any = model.transformer.h
        for layer, block in enumerate(blocks):
            into, out = _attention(layer, q)
            block.attn.c_attn.weight.copy_(torch.tensor(into))
            block.attn.c_proj.weight.copy_(torch.tensor(out))
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=_ROOT))
    model.generation_config.eos_token_id = 0
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def _attention(layer: int, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """c_attn `[WIDTH, 3 * WIDTH]` and c_proj `[WIDTH, WIDTH]` of a block: head 0 copies from the sign, head 1 mixes."""
    head = WIDTH // 2
    into, out = np.zeros((WIDTH, 3 * WIDTH)), np.zeros((WIDTH, WIDTH))
    moved = {RIGHT: ("w", "knows"), LAYER: ("u", "told")}.get(layer)
    if moved is not None:
        into[:, 0] = q[AT["one"]]  # every token asks
        into[:, WIDTH] = 14 * q[AT["sign"]]  # for the sign
        into[:, 2 * WIDTH] = q[AT[moved[0]]]
        out[0] = 2 * q[AT[moved[1]]]
    if layer == 0:
        into[:, 2 * WIDTH + head : 2 * WIDTH + head + MIX] = q[_FILL : _FILL + MIX].T  # asks nothing: the mean of all
        out[head : head + MIX] = 8 * q[_MIXED : _MIXED + MIX]
    return into, out
