"""The arms of a trial: the direction and each of its controls, steered, ablated or taken out of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gnomon.causal.measure import Scale
from gnomon.causal.options import CausalOptions
from gnomon.causal.worker import Condition
from gnomon.interventions.ablate import Ablate
from gnomon.interventions.base import places
from gnomon.interventions.orthogonalise import everywhere
from gnomon.interventions.steer import Steer
from gnomon.types import Direction, Intervention, Site


@dataclass(frozen=True)
class Arm:
    """One condition and what it is in the tables. `coefficient` is in units of the median norm; 1 for an ablation."""

    condition: Condition
    kind: str
    control: str
    direction: str
    direction_kind: str
    site: str
    coefficient: float

    @property
    def name(self) -> str:
        return self.condition.name


@dataclass
class Arms:
    """Makes arms of one direction: its edits, and those of its controls, share site, place and unit."""

    options: CausalOptions
    direction: Direction
    scale: Scale
    shuffled: np.ndarray
    """Differences of means under shuffled labels, `[m, d]`."""
    seed: int
    ablated: Sequence[Site]
    n_layers: int = 0
    gains: Mapping[Site, np.ndarray] = field(default_factory=dict)
    """Gains of norms behind the writers (`gains_of`), for kind orthogonalise."""
    random: list[Direction] = field(init=False)

    def __post_init__(self) -> None:
        options = self.options
        n = max(
            options.random_controls, options.isotropic_controls, options.sweep_controls, options.attention_controls
        )  # fmt: skip
        self.random = self.direction.random_controls(n, self.seed)

    def steer(self, vector: np.ndarray, coefficient: float) -> tuple[Intervention, ...]:
        """The edits that add `coefficient` units along a vector at the direction's own site."""
        return tuple(
            Steer(self.direction.site, vector, where=place, strength=coefficient, unit=self.scale.unit)
            for place in places(self.options.where)
        )

    def ablate(self, vector: np.ndarray) -> tuple[Intervention, ...]:
        """The edits that remove a vector's component at every ablated site."""
        unit = vector.astype(np.float64) / np.linalg.norm(vector)
        zero = self.options.ablate_to == "zero"
        return tuple(
            Ablate(site, vector, where=place, to=0.0 if zero else float(self.scale.means[site] @ unit))
            for site in self.ablated
            for place in places(self.options.where)
        )

    def orthogonalise(self, vector: np.ndarray) -> tuple[Intervention, ...]:
        """The edits that take a vector out of everything that writes into the stream, at every token."""
        return tuple(everywhere(vector.astype(np.float64), self.n_layers, gains=self.gains))

    def vector(self, arm: Arm) -> np.ndarray:
        """The vector that an arm edits along, `[d]` float64."""
        kind, number = arm.direction.rsplit(" ", 1) if arm.control not in ("", "sign_flip") else ("", "0")
        if kind == "shuffled":
            return self.shuffled[int(number)].astype(np.float64)
        chosen = self.random[int(number)] if kind == "random" else self.direction
        return chosen.vector.astype(np.float64)

    def controls(self) -> list[Direction]:
        """All directions that serve as controls."""
        site = self.direction.site
        shuffled = [
            Direction(site, v, f"shuffled {i}", "difference", None, {"labels": "shuffled"})
            for i, v in enumerate(self.shuffled)
        ]
        return [*self.random, *shuffled]

    def _arm(self, kind: str, control: str, label: str, made_as: str, vector: np.ndarray, coefficient: float) -> Arm:
        own = kind == "steer" or (kind == "ablate" and self.options.sites == "own")
        made = {"ablate": self.ablate, "orthogonalise": self.orthogonalise}
        edits = self.steer(vector, coefficient) if kind == "steer" else made[kind](vector)
        name = f"{kind} {control or 'own'} {label}" + (f" {coefficient:+g}" if kind == "steer" else "")
        site = str(self.direction.site) if own else "all"
        return Arm(Condition(name, edits), kind, control, label, made_as, site, coefficient)

    def own(self, kind: str, coefficient: float = 1.0, control: str = "") -> Arm:
        """The direction itself."""
        name = self.direction.name or "direction"
        return self._arm(kind, control, name, self.direction.kind, self.direction.vector, coefficient)

    def isotropic(self, kind: str, n: int, coefficient: float = 1.0) -> list[Arm]:
        """The first `n` random directions."""
        control = "isotropic" if kind == "ablate" else "random"
        return [self._arm(kind, control, d.name, "random", d.vector, coefficient) for d in self.random[:n]]

    def relabelled(self, kind: str, coefficient: float = 1.0) -> list[Arm]:
        """The shuffled-label directions."""
        return [
            self._arm(kind, "shuffled", f"shuffled {i}", "difference", v, coefficient)
            for i, v in enumerate(self.shuffled)
        ]

    def sweep(self) -> list[Arm]:
        """Both signs of every coefficient for the direction, and a few random directions at every size."""
        sizes = self.options.coefficients
        own = [self.own("steer", sign * size) for size in sizes for sign in (1, -1)]
        return own + [arm for size in sizes for arm in self.isotropic("steer", self.options.sweep_controls, size)]

    def tested(self, coefficient: float | None) -> list[Arm]:
        """Everything that is run on test: the chosen coefficient with its sign flip and controls, and the ablation."""
        out: list[Arm] = []
        if coefficient is not None:
            out += [self.own("steer", coefficient), self.own("steer", -coefficient, "sign_flip")]
            out += self.isotropic("steer", self.options.random_controls, abs(coefficient))
            out += self.relabelled("steer", coefficient)
        if "ablate" in self.options.kinds:
            out += [self.own("ablate"), *self.relabelled("ablate")]
            out += self.isotropic("ablate", self.options.isotropic_controls)
        if "orthogonalise" in self.options.kinds:
            out += [self.own("orthogonalise"), *self.relabelled("orthogonalise")]
            out += self.isotropic("orthogonalise", self.options.random_controls)
        return out

    def damaging(self, tested: Sequence[Arm]) -> list[Arm]:
        """Those of the tested arms whose off-target damage is measured: the direction's own, a few of each control."""
        seen: dict[tuple[str, str], int] = {}
        out = []
        for arm in tested:
            key = (arm.kind, arm.control)
            seen[key] = seen.get(key, 0) + 1
            if arm.control in ("", "sign_flip") or seen[key] <= self.options.damage_controls:
                out.append(arm)
        return out
