"""The dictionaries that a step wrote: `dictionaries/SITE/{cfg.json, sae_weights.safetensors}`."""

from __future__ import annotations

from dataclasses import replace

from gnomon.dictionaries.base import SparseDictionary
from gnomon.dictionaries.load import load_dictionary
from gnomon.errors import UserError
from gnomon.store import Artifact


def sites_of(artifact: Artifact) -> list[str]:
    """Sites of which a step wrote a dictionary, without loading any. UserError where it has none."""
    folder = artifact.path / "dictionaries"
    sites = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if not sites:
        raise UserError(
            f"step {artifact.name} holds no dictionaries", "a step that writes some, such as train_dictionary"
        )
    return sites


def dictionary_of(artifact: Artifact, site: str) -> SparseDictionary:
    """The dictionary that a step wrote for one of its `sites_of`."""
    one = load_dictionary(artifact.path / "dictionaries" / site, site=site)
    return replace(one, name=f"{artifact.name} {site}", source=artifact.name)


def dictionaries_of(artifact: Artifact) -> dict[str, SparseDictionary]:
    """The dictionaries of a step by site, all of them in memory. UserError where it has none."""
    return {site: dictionary_of(artifact, site) for site in sites_of(artifact)}
