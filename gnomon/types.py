"""The central types: what every room of the house hands to the next one.

Nothing here imports torch; tensors appear only in annotations, as `Any`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from gnomon.errors import UserError
from gnomon.sites import Site

Split = Literal["fit", "tune", "test"]
SPLITS: tuple[Split, ...] = ("fit", "tune", "test")
Mode = Literal["generate", "choices", "episode"]
Prompt = str | tuple[Mapping[str, str], ...]

# ---------------------------------------------------------------- behaviour


@dataclass(frozen=True)
class Example:
    """One question.

    `prompt` is text, or chat messages ({"role", "content"}); a last message of the role `assistant` is the beginning
    of the model's own answer and is continued, not closed. `group` joins paraphrases, pairs and all samples of one
    problem: a group never straddles splits. `difficulty` is a real number where the task knows one.
    """

    id: str
    prompt: Prompt
    target: str
    choices: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    difficulty: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.id)

    @property
    def prompt_hash(self) -> str:
        """sha256 of the prompt's canonical JSON, 16 hex digits: two stages that share a prompt must agree on it."""
        prompt = self.prompt if isinstance(self.prompt, str) else [dict(m) for m in self.prompt]
        return hashlib.sha256(json.dumps(prompt, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Grade:
    """What a task says of one answer. `label` is None when nothing could be parsed: counted, never taken for wrong."""

    label: bool | None
    answer: str | None = None
    reason: str = ""
    span: tuple[int, int] | None = None
    """Characters [start, end) of `answer` in the graded text, where known: the token position `answer`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What else grading found, kept in the row's meta: of a program its verdict, its errors, the sandbox level. Only
    what would be the same if it were graded again: no times, no addresses."""


@dataclass(frozen=True)
class Turn:
    """One reply of an episode's environment: the next prompt, or None when the episode is over.

    The prompt continues the transcript (text after text, messages after messages); a `fresh` one stands alone.
    """

    prompt: Prompt | None
    meta: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False


@runtime_checkable
class Episode(Protocol):
    """One play of a multi-round task; a single question is an episode of one turn."""

    def first(self) -> Prompt: ...
    def reply(self, text: str) -> Turn: ...
    def grade(self) -> Grade: ...


@runtime_checkable
class Task(Protocol):
    """Where labelled examples come from.

    `generate`: the model writes, `grade` reads. `choices`: each of `example.choices` is scored by its
    log-likelihood and the best one is graded. `episode`: `episode(example, seed)` plays rounds.
    """

    name: ClassVar[str]
    mode: Mode
    max_new_tokens: int
    stop: tuple[str, ...]

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]: ...
    def grade(self, example: Example, text: str) -> Grade: ...


@dataclass(frozen=True, eq=False)
class Activations:
    """A read-only view of what was captured at one site and position.

    Dense positions: `values [m, d]`. Ragged ones (`response`, `all`): `values [tokens, d]` with `offsets [m + 1]`.
    `rows [m]` are the generation rows, ascending; a row without the position (an unparsed answer) is absent.
    """

    site: Site
    position: str
    values: Any
    rows: np.ndarray
    offsets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def d(self) -> int:
        return int(self.values.shape[-1])

    def row(self, row: int) -> np.ndarray:
        """Values of one generation row: `[d]`, or `[tokens, d]` at a ragged position; KeyError where it has none."""
        i = int(np.searchsorted(self.rows, row))
        if i >= len(self.rows) or self.rows[i] != row:
            raise KeyError(row)
        if self.offsets is None:
            return np.asarray(self.values[i])
        return np.asarray(self.values[int(self.offsets[i]) : int(self.offsets[i + 1])])

    def at(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Dense values of the given generation rows, in that order: `[len(rows), d]` float32."""
        if self.offsets is not None:
            raise UserError(f"{self.site}@{self.position} has many tokens a row", "one token a row is needed here")
        rows = np.asarray(rows)
        index = np.searchsorted(self.rows, rows)
        if len(rows) and (index.max(initial=0) >= len(self.rows) or not np.array_equal(self.rows[index], rows)):
            raise UserError(f"{self.site}@{self.position} lacks some of the rows asked for", "rows that were captured")
        return np.asarray(self.values[index], dtype=np.float32)


# ---------------------------------------------------------------- directions and edits

DirectionKind = Literal["probe", "difference", "neuron", "feature", "head", "random", "logit", "given"]


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector at a site: the currency between analysis and causal test. Never zero, always finite.

    `score` is how well it did where it was chosen (AUROC on tune, ...); `meta` says how it was made.
    """

    site: Site
    vector: np.ndarray
    name: str = ""
    kind: DirectionKind = "given"
    score: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
            vector = np.array(self.vector, dtype=np.float32, copy=True)
        if vector.ndim != 1:
            raise UserError(f"direction {self.name!r} has shape {vector.shape}", "one vector [d]")
        if not np.all(np.isfinite(vector)):
            raise UserError(f"direction {self.name!r} holds NaN or infinite numbers", "finite numbers")
        if not np.any(vector):
            raise UserError(f"direction {self.name!r} is all zeros", "a vector that points somewhere")
        vector.setflags(write=False)
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "site", Site.parse(self.site))

    @property
    def d(self) -> int:
        return len(self.vector)

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.vector.astype(np.float64)))

    @property
    def unit(self) -> np.ndarray:
        """The vector at length 1, `[d]` float32."""
        return (self.vector.astype(np.float64) / self.norm).astype(np.float32)

    def random_controls(self, n: int, seed: int = 0) -> list[Direction]:
        """`n` isotropic random directions of the same site and norm: the matched control of a steering claim."""
        rng = np.random.default_rng([seed, 7919])
        raw = rng.standard_normal((n, self.d))
        raw *= self.norm / np.linalg.norm(raw, axis=1, keepdims=True)
        return [
            Direction(self.site, v, f"random {i}", "random", None, {"matches": self.name}) for i, v in enumerate(raw)
        ]

    def save(self, path: str | Path) -> Path:
        """Write `path` (.npy) and its side file (.json): site, TransformerLens hook name, kind, score, meta."""
        path = Path(path).with_suffix(".npy")
        np.save(path, np.asarray(self.vector, dtype="<f4"))
        side = {"site": str(self.site), "hook_name": self.site.lens_name, "name": self.name, "kind": self.kind}
        path.with_suffix(".json").write_text(
            json.dumps(side | {"score": self.score, "meta": dict(self.meta)}, indent=2)
        )
        return path

    @classmethod
    def load(cls, path: str | Path, site: str | Site | None = None) -> Direction:
        """Read a .npy (with its .json beside it, or with `site` given). Pickles are refused."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no direction file at {path}", "a .npy of one vector")
        try:
            vector = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} is not a plain .npy file ({error})", "one float vector, no pickles") from None
        if vector.dtype.kind not in "fiu":
            raise UserError(f"{path} holds {vector.dtype}", "one vector of real numbers")
        if vector.ndim == 2 and 1 in vector.shape:
            vector = vector.reshape(-1)
        side_file = path.with_suffix(".json")
        try:
            side = json.loads(side_file.read_text()) if side_file.is_file() else {}
        except ValueError as error:
            raise UserError(
                f"{side_file} is not readable JSON ({error})", "", "mend it, or take it away and give a site"
            ) from None
        if site is None and "site" not in side and "hook_name" in side:
            site = Site.from_lens_name(side["hook_name"])
        where = site if site is not None else side.get("site")
        if where is None:
            raise UserError(f"{path} has no .json beside it that names a site", "a site", "pass --site resid_post.15")
        return cls(
            Site.parse(where), vector, side.get("name", path.stem), side.get("kind", "given"), side.get("score"),
            side.get("meta", {}),
        )  # fmt: skip


@runtime_checkable
class Intervention(Protocol):
    """A pure edit of selected activations.

    `edit` gets real token vectors only (no padding) `x [m, d]`, each one's row in the call's batch `rows [m]` and
    token index `positions [m]`, and returns a tensor of the same shape, dtype and device. `strength` 0 registers no
    hook at all. `where`: `all`, `prompt`, `generated`, `last_prompt`, or a sequence of token indices from the start
    of the unpadded text.
    """

    @property
    def site(self) -> Site: ...
    @property
    def where(self) -> str | tuple[int, ...]: ...
    @property
    def strength(self) -> float: ...
    def edit(self, x: Any, rows: Any, positions: Any) -> Any: ...


class Dictionary(Protocol):
    """A sparse autoencoder: latents `[., d_sae]` of activations `[., d_model]` and back."""

    site: Site

    def encode(self, x: Any) -> Any: ...
    def decode(self, z: Any) -> Any: ...
    def direction(self, i: int) -> Direction: ...


Progress = Callable[[int], None]
