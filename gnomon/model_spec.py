"""Which model, and how it is loaded: what a study names, a plan looks at, and a worker process takes along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gnomon.halving import release_memory

if TYPE_CHECKING:
    from gnomon.models.model import Model


@dataclass(frozen=True)
class ModelSpec:
    """Which model, loaded how: picklable, so that a worker process loads its own copy."""

    name: str
    adapter: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    attention: str = "sdpa"
    device_map: str = "none"
    """How accelerate spreads a model that is larger than one GPU: auto, balanced, sequential. Not in the fingerprint:
    where a block computes is no part of what it computes."""
    max_memory: tuple[tuple[int | str, int], ...] = ()
    """(device, bytes) that the model may take, in order (`models.devices.sizes`)."""

    def load(self) -> Model:
        """Load (or find, in a small per-process cache) the model."""
        from gnomon.models import load_model

        if self not in _LOADED:
            _LOADED.clear()  # one model at a time: two would double the memory that the plan promised
            release_memory(cycles=True)
            _LOADED[self] = load_model(
                self.name,
                adapter=self.adapter,
                revision=self.revision,
                dtype=self.dtype,
                device=self.device,
                attention=self.attention,
                device_map=self.device_map,
                max_memory=dict(self.max_memory),
            )
        return _LOADED[self]

    def facts(self) -> dict[str, Any]:
        """n_layers, d_model, n_heads, d_mlp, d_vocab, parameters, family, fingerprint - without loading weights."""
        from gnomon.models import peek

        if self not in _FACTS:
            _FACTS[self] = peek(
                self.name, adapter=self.adapter, revision=self.revision, dtype=self.dtype, attention=self.attention
            )
        return _FACTS[self]


_LOADED: dict[ModelSpec, Any] = {}
_FACTS: dict[ModelSpec, dict[str, Any]] = {}
