"""Tokens that shift between two conditions, on data in which nothing does: the usual test, and step tokens' own.

The usual one pools the tokens of each condition's responses, takes the smoothed log ratio of counts and a chi-square
test of each token, and keeps |log ratio| > .5 with p < .05. But tokens of one response are no independent draws (who
says a word says it again), conditions differ in length, and hundreds of tokens are tested. Ours tests the presence of a
token in responses, exactly, with q over all tokens. Null data: responses from one bursty source (each draws its own
word frequencies about a Zipf law), and real paragraphs dealt out at random. Power: a token put into 60% of one side's
responses. Sources: Madsen, Kauchak & Elkan 2005 (bursty text as Dirichlet-multinomial); Lijffijt et al. 2016 (how
chi-square and log-likelihood tests of pooled words fail).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np
from scipy import sparse, special

from benchmarks.timing import Row, main
from gnomon.methods.token_counts import Corpus
from gnomon.methods.token_shifts import Samples, adjusted, compared, paired, unpaired

NULLS, HITS = 200, 19
"""Null runs, of which at most so many may have a hit."""
SIDE = 30
"""Responses of a side, as trials of a condition."""
Draw = Callable[[np.random.Generator], Samples]


def bursty(
    rng: np.random.Generator, n: int, words: int = 1000, spread: float = 150.0, length: tuple[int, int] = (50, 250),
    own: Any = None,
) -> np.ndarray:  # fmt: skip
    """Counts `[n, words]` of responses of `length` tokens; each has word frequencies of its own, Dirichlet about Zipf's
    law with weight `spread`. `own [n]`: rows with the same number share half of theirs (a prompt)."""
    law = 1 / np.arange(1, words + 1)
    law = spread * law / law.sum()
    rates = rng.dirichlet(law, size=n)
    if own is not None:
        rates = (rates + rng.dirichlet(law, size=int(np.max(own)) + 1)[own]) / 2
    return np.stack([rng.multinomial(rng.integers(*length), r) for r in rates])


def apart(rng: np.random.Generator) -> Samples:
    """Responses to different prompts: two classes."""
    at = np.arange(2 * SIDE).astype(str)
    return unpaired(sparse.csr_array(bursty(rng, 2 * SIDE)), np.arange(2 * SIDE) < SIDE, at, at)


def same_prompts(rng: np.random.Generator) -> Samples:
    """The same prompts under two conditions."""
    counts = sparse.csr_array(bursty(rng, 2 * SIDE, own=np.tile(np.arange(SIDE), 2)))
    return paired(counts[:SIDE], counts[SIDE:], np.arange(SIDE).astype(str))


def within_prompts(rng: np.random.Generator) -> Samples:
    """Several samples of each prompt, of which some fall into one class, some into the other."""
    prompt = np.repeat(np.arange(SIDE), 4)
    counts = sparse.csr_array(bursty(rng, len(prompt), 200, 60.0, (20, 80), prompt))
    return unpaired(counts, rng.random(len(prompt)) < 0.5, prompt.astype(str), prompt.astype(str))


DESIGNS: dict[str, Draw] = {
    "different prompts": apart, "same prompts, two conditions": same_prompts, "within prompts": within_prompts,
}  # fmt: skip


def usual(samples: Samples) -> np.ndarray:
    """Columns that the usual test keeps: |log((a + 1) / (b + 1))| > .5 and chi-square (Yates) p < .05 of the counts a,
    b of a token among all tokens of each condition."""
    counts: Any = samples.counts
    one, two = (np.asarray(counts[s].sum(axis=0)).reshape(-1) for s in (samples.side, ~samples.side))
    n, m = one.sum(), two.sum()
    ratio = np.log((one + 1) / (two + 1))
    expected = (one + two) * n / (n + m)
    gap = np.abs(one - expected)
    gap = np.maximum(gap - np.minimum(0.5, gap), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        square = gap**2 * (n + m) ** 3 / ((one + two) * (n + m - one - two) * n * m)
    return np.flatnonzero((np.abs(ratio) > 0.5) & (special.gammaincc(0.5, square / 2) < 0.05))


def ours(samples: Samples, alpha: float = 0.05) -> np.ndarray:
    """Columns with q at most alpha."""
    found = compared(samples)
    return found.columns[adjusted(found.p, found.least, alpha) <= alpha]


def injected(samples: Samples, rng: np.random.Generator, share: float = 0.6) -> Samples:
    """The same with one more token, the last column, in a `share` of the condition's responses."""
    new = (rng.random(len(samples.side)) < share) & samples.side
    counts: Any = sparse.hstack([samples.counts, sparse.csr_array(new[:, None].astype(np.int64))], format="csr")
    return replace(samples, counts=counts)


def paragraphs() -> Draw:
    """Real text: the shipped paragraphs, by SmolLM2's tokenizer, dealt out at random to two sides."""
    import gnomon

    text = "\n".join(resources.files("gnomon.data").joinpath(f"{n}.txt").read_text() for n in ("neutral", "unrelated"))
    model = gnomon.load_model("smollm2-135m")
    pieces = [p for p in text.split("\n") if len(p.split()) >= 8]
    corpus = Corpus(pieces, model.encode_text)

    def deal(rng: np.random.Generator) -> Samples:
        some: Any = corpus.counts
        order, half = rng.permutation(len(corpus.place)), len(corpus.place) // 2
        at = np.arange(2 * half).astype(str)
        return unpaired(some[order[: 2 * half]], np.arange(2 * half) < half, at, at)

    return deal


def rows(runs: int) -> Iterator[Row]:
    """Of each design: false tokens a null run by the usual test, runs with any by ours, and ours' power."""
    del runs  # every null run is one of NULLS
    for name, draw in [*DESIGNS.items(), ("real paragraphs", paragraphs())]:
        theirs, hits, power, looked = [], [], [], []
        for seed in range(NULLS):
            rng = np.random.default_rng([11, seed])
            samples = draw(rng)
            theirs.append(len(usual(samples)))
            hits.append(len(ours(samples)))
            planted = injected(samples, rng)
            power.append(planted.counts.shape[1] - 1 in ours(planted))  # pyright: ignore[reportOptionalSubscript]
            looked.append(len(compared(samples).columns))
        note = f"{NULLS} null runs; {np.mean(looked):.0f} tokens in 5 responses or more"
        yield Row(f"false tokens a null run, log ratio and chi-square: {name}", float(np.mean(theirs)), None,
                  runs=NULLS, ours=float(np.mean(hits)), theirs=float(np.mean(theirs)), unit="tokens",
                  note=f"{note}; {np.mean(np.array(theirs) > 0):.0%} of runs have one")  # fmt: skip
        yield Row(f"share of null runs in which step tokens finds any: {name}", float(np.mean(np.array(hits) > 0)),
                  HITS / NULLS, "<=", NULLS, unit="", note=note)  # fmt: skip
        yield Row(f"power of step tokens, a token in 60% of responses: {name}", float(np.mean(power)), 0.8, ">=", NULLS,
                  unit="", note=note)  # fmt: skip


if __name__ == "__main__":
    main(rows)
