"""Names of dictionary latents: L29-2374 is latent 2374 of the dictionary at resid_post.29.

Any other site is written out: `mlp_out.7-12`. The name is the key by which tables of several steps, and older logs,
are joined.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gnomon.errors import UserError
from gnomon.sites import Site

_SHORT = re.compile(r"L(\d+)-(\d+)")
_LONG = re.compile(r"([a-z_]+\.\d+)-(\d+)")


@dataclass(frozen=True, order=True)
class Latent:
    """Latent `index` of the dictionary at `site`."""

    site: Site
    index: int

    def __str__(self) -> str:
        if self.site.component == "resid_post" and self.site.head is None:
            return f"L{self.site.layer}-{self.index}"
        return f"{self.site}-{self.index}"

    @classmethod
    def parse(cls, text: str | Latent) -> Latent:
        """Read a name; UserError for what is none."""
        if isinstance(text, Latent):
            return text
        if found := _SHORT.fullmatch(text.strip()):
            return cls(Site("resid_post", int(found[1])), int(found[2]))
        if found := _LONG.fullmatch(text.strip()):
            return cls(Site.parse(found[1]), int(found[2]))
        raise UserError(f"feature {text!r}", "a name like L29-2374 (layer, latent) or mlp_out.7-12 (site, latent)")


def latent_name(site: Site | str, index: int) -> str:
    """The name of a latent at a site."""
    return str(Latent(Site.parse(site), int(index)))
