"""capture: activations of an earlier generation's rows at more sites and positions, teacher-forced.

The rows' own tokens run through the model once more, as whole texts: cost = the tokens up to the last wanted one,
through the blocks up to the last wanted site. The values equal those of `generate`'s own pass within rounding.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from gnomon.blocks import Block, Ref, Table, Text
from gnomon.reading import load_array
from gnomon.rows import price
from gnomon.rows.force import Forcer
from gnomon.rows.options import Texts, check_kept, layers_whole
from gnomon.sites import RAGGED
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.types import Site
from gnomon.writer import Writer

CAPTURED = pa.schema(
    [("position", pa.string()), ("rows", pa.int64()), ("missing", pa.int64()), ("tokens", pa.int64()),
     ("sites", pa.int64()), ("bytes", pa.int64())]
)  # fmt: skip


class Capture(Step):
    """Capture more sites and positions of the rows of an earlier generation."""

    name: ClassVar[str] = "capture"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    writes: ClassVar[tuple[str, ...]] = ("activations",)

    sites: Texts
    """Sites such as resid_post.*, mlp_out.0-5, z.12; a head's z is kept with its whole layer."""
    positions: Texts = ("last_prompt", "last")
    """Any of last_prompt, last (the response's last token), answer (the parsed answer's last token), response (all of
    its tokens), all (prompt and response)."""
    dtype: Literal["float32", "float16"] = "float32"
    """On disk; a value beyond float16's range is refused, never written."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Most tokens, padding included, that run together; a longer row runs alone."""

    @model_validator(mode="after")
    def _known(self) -> Capture:
        check_kept(self.sites, self.positions)
        return self

    def _sites(self, facts: Any) -> list[Site]:
        return layers_whole(self.sites, int(facts["n_layers"]))

    def check(self, plan: Planning) -> None:
        self._sites(plan.model.facts())

    def cost(self, plan: Planning) -> Cost:
        facts, source = plan.model.facts(), plan.inputs["generations"]
        sites = self._sites(facts)
        prompt_only = set(self.positions) == {"last_prompt"}
        tokens = source.prompt_tokens + (0 if prompt_only else source.new_tokens)
        depth = (max(s.layer if s.component != "embed" else -1 for s in sites) + 1) / int(facts["n_layers"])
        size = price.activation_bytes(sites, self.positions, self.dtype, facts, source.rows, source.prompt_tokens,
                                      source.new_tokens)  # fmt: skip
        names = tuple(f"{s}@{p}" for s in sites for p in self.positions)
        again = [name for name in names if name in source.sites]
        notes = [f"{len(again)} of the sites and positions were captured by the generation already"] if again else []
        memory = price.batch_memory(facts, plan.model.dtype, 1, self.batch_tokens, sites, self.batch_tokens)
        return Cost(
            rows=source.rows,
            forward_tokens=int(tokens * depth),
            disk_bytes=size,
            memory_bytes=memory + 2 * size * min(50, source.rows or 50) // max(source.rows, 1),
            sites=names,
            splits=source.splits,
            notes=tuple(notes),
        )

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        source = inputs["generations"]
        stems = sorted(path.stem for path in (source.path / "generations").glob("*.parquet"))
        sites = tuple(str(site) for site in self._sites(ctx.model_spec.facts()))
        worker = Forcer(ctx.model_spec, source.path, out.path, sites, tuple(self.positions), self.dtype,
                        self.batch_tokens)  # fmt: skip
        rows = source.table("generations", ["row"])
        ctx.map(worker, stems, out, "capture", [1] * len(stems))
        table = self._captured(out, sites, len(rows))
        out.table("captured", table)
        for line in table.to_pylist():
            if not line["rows"]:
                ctx.log.warning("no row has the position %s", line["position"])

    def _captured(self, out: Writer, sites: tuple[str, ...], rows: int) -> pa.Table:
        """Rows, tokens and bytes of every position, from the files that were written."""
        lines: list[dict[str, Any]] = []
        base = out.path / "activations"
        for position in self.positions:
            there = sum(len(load_array(p)) for p in (base / f"rows@{position}").glob("*.npy"))
            tokens = there
            if position in RAGGED:
                tokens = sum(int(np.asarray(load_array(p))[-1]) for p in (base / f"offsets@{position}").glob("*.npy"))
            size = sum(load_array(p).nbytes for s in sites for p in (base / f"{s}@{position}").glob("*.npy"))
            lines.append({"position": position, "rows": there, "missing": rows - there, "tokens": tokens,
                          "sites": len(sites), "bytes": size})  # fmt: skip
        return pa.Table.from_pylist(lines, schema=CAPTURED)

    def summary(self, artifact: Any) -> list[Block]:
        """What was captured, of which generation."""
        record = artifact.meta.get("inputs", {}).get("generations", {})
        of = f" of {record['name']}" if isinstance(record, dict) and record.get("name") else ""
        options = artifact.options
        first = artifact.table("captured")["position"].iloc[0]
        out: list[Block] = [Text(
            f"Activations{of} at {{sites}} sites ({_words(options.get('sites'))}) were captured from the rows' own "
            f"tokens, run once more through the model; kept as {options.get('dtype', 'float32')}.",
            {"sites": Ref("captured", {"position": first}, "sites", ",d")}, "method",
        )]  # fmt: skip
        out.append(Table("captured", "What was captured", labels={"missing": "rows without it"},
                         formats={"bytes": ",d", "tokens": ",d", "rows": ",d"}))  # fmt: skip
        return out


def _words(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value or ()))
