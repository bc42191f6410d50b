"""A confidence pass as a plan knows it, before any of it is there: which step it is, and what it captures."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.errors import UserError, unknown
from gnomon.sites import RAGGED
from gnomon.step import KINDS, Planning
from gnomon.store import Artifact


def planned_passes(plan: Planning) -> dict[str, str]:
    """What each confidence step will ask, by step name."""
    asks, seen = {}, set()
    for name in sorted(plan.source_options, key=lambda name: name in KINDS):  # a kind stands for a step that has a name
        options = plan.source_options[name]
        if "ask" in options and id(options) not in seen:
            asks[name] = str(options["ask"])
            seen.add(id(options))
    return asks


def planned_pass(plan: Planning, wanted: str) -> str:
    """The name of the confidence step that is called so, or else of the one that asks for it; UserError otherwise."""
    asks = planned_passes(plan)
    if wanted in asks:
        return wanted
    found = [name for name, ask in asks.items() if ask == wanted]
    if len(found) > 1:
        raise UserError(f"several confidence passes ask for {wanted!r}: {', '.join(found)}", "the name of one of them")
    if not found:
        raise unknown("confidence pass", wanted, [*asks, *asks.values()])
    return found[0]


def asked_pass(artifact: Artifact) -> str:
    """What a pass asks: self, other, p_true, ..."""
    return str(artifact.options.get("ask", ""))


def dense_sites(sites: Sequence[str]) -> list[tuple[str, str]]:
    """(site, position) of `site@position` texts that have one token a row."""
    pairs = [tuple(text.split("@")) for text in sites]
    return [(site, position) for site, position in pairs if position not in RAGGED]
