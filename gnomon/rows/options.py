"""Options that `generate` and `capture` share: lists that may be written as one value, and what is captured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from gnomon.errors import UserError
from gnomon.step import expand_positions
from gnomon.types import Site


def one_or_more(value: Any) -> Any:
    """A single text or number as a tuple of one."""
    return (value,) if isinstance(value, str | int | float) and not isinstance(value, bool) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(one_or_more)]
OptionalTexts = Annotated[tuple[str, ...] | None, BeforeValidator(one_or_more)]


class Kept(BaseModel):
    """Which activations are kept, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sites: Texts
    """Sites such as resid_post.*, mlp_out.0-5, z.12; a head's z is kept with its whole layer."""
    positions: Texts = ("last_prompt", "last")
    """Any of last_prompt, last (the response's last token), answer (the parsed answer's last token), response (all of
    its tokens), all (prompt and response)."""
    dtype: Literal["float32", "float16"] = "float32"
    """On disk; a value beyond float16's range is refused, never written."""

    @model_validator(mode="after")
    def _known(self) -> Kept:
        check_kept(self.sites, self.positions)
        return self

    def expanded(self, n_layers: int) -> list[Site]:
        """The sites, in the order given, once each."""
        return layers_whole(self.sites, n_layers)


def check_kept(sites: Sequence[str], positions: Sequence[str]) -> None:
    """Refuse empty lists and unknown positions."""
    if not sites or not positions:
        raise UserError("capture without sites or positions", "both", "sites: resid_post.*")
    expand_positions(positions)


def layers_whole(patterns: Sequence[str], n_layers: int) -> list[Site]:
    """Expand site patterns; a head stands for its whole layer, of which reading takes the head's part again."""
    return list(dict.fromkeys(Site(site.component, site.layer) for site in Site.expand(patterns, n_layers)))
