"""The dictionaries that a step wrote: `dictionaries/SITE/{cfg.json, sae_weights.safetensors}`."""

from __future__ import annotations

from dataclasses import replace

from gnomon.dictionaries.base import SparseDictionary
from gnomon.dictionaries.load import load_dictionary
from gnomon.errors import UserError
from gnomon.store import Artifact


def dictionaries_of(artifact: Artifact) -> dict[str, SparseDictionary]:
    """The dictionaries of a step by site. UserError where it has none."""
    folder = artifact.path / "dictionaries"
    sites = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if not sites:
        raise UserError(
            f"step {artifact.name} holds no dictionaries", "a step that writes some, such as train_dictionary"
        )
    out = {site: load_dictionary(folder / site, site=site) for site in sites}
    return {site: replace(one, name=f"{artifact.name} {site}", source=artifact.name) for site, one in out.items()}
