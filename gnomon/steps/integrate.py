"""Integrate: everything that the chain found out about each feature in one place, and the graph of what feeds what.

One table row a feature: how it separates the classes, whether patching it moves the answers, which features feed it
and which it feeds, whether the replayed cause agrees with the gradient, which tokens move. The same as a page to look
at (`graph.html`, one file, no network), as a picture in the report, and as the JSON that Neuronpedia's and
circuit-tracer's viewers read (`attribution_graph.json`). Nothing is measured here and no verdict is made: each is the
step's own that measured it. Cost: joins of tables; no model.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon.blocks import Block
from gnomon.disk import write_bytes
from gnomon.errors import UserError
from gnomon.methods.chain_tables import INTEGRATED
from gnomon.methods.integrate import EDGES, NODES, Chain, check_names, edge_rows, feature_rows
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.writer import Writer

TABLES = {
    "causal": "causal_features", "effects": "causal_features", "pathways": "pathways", "prompts": "pathways",
    "replay": "replay", "agreement": "replay", "tokens": "tokens", "logits": "tokens", "comparisons": "tokens",
}  # fmt: skip
"""Table -> the kind that holds it; each is left out where its step, or the table, is not there."""


class Integrate(Step):
    """Join what every step of the chain says of each feature; draw the graph of pathways between them."""

    name: ClassVar[str] = "integrate"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "features")
    optional: ClassVar[tuple[str, ...]] = ("causal_features", "pathways", "replay", "tokens")
    writes: ClassVar[tuple[str, ...]] = ("integrated",)
    uses_model: ClassVar[bool] = False

    title: str = ""
    """Heading of the page; unless given: the two classes."""
    strongest: int = Field(default=300, ge=1)
    """Pathways that the page and the picture draw at first, by |attribution|; the page can draw all."""
    shown: int = Field(default=25, ge=1, le=500)
    """Rows of each table in the report; the files hold all."""

    def cost(self, plan: Planning) -> Cost:
        return Cost(rows=plan.inputs.get("generations", Cost()).rows, disk_bytes=2_000_000)

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.methods.graph_json import attribution_graph
        from gnomon.methods.graph_layout import node_rows
        from gnomon.methods.graph_page import page
        from gnomon.methods.graph_picture import picture
        from gnomon.methods.integrate_facts import FACTS, fact_rows
        from gnomon.methods.two_classes import judged, shortfall

        chain = read_chain(inputs)
        edges = edge_rows(chain)
        features = feature_rows(chain, edges)
        nodes = node_rows(features, chain.classes)
        rows = inputs.generations()
        test = ctx.split(rows, "test", "how many rows each class has, before anything is said to be concluded")
        why = shortfall(judged(test), chain.classes, "test")
        facts = fact_rows(chain, features, edges, why)
        graph, no_graph = attribution_graph(features, edges, chain.classes, model_name(inputs))
        facts.append({"name": "graph", "value": float(graph is not None), "n": len(nodes), "text": no_graph})

        _write(out, "features", features, INTEGRATED)
        _write(out, "edges", edges, EDGES)
        _write(out, "nodes", nodes, NODES)
        out.table("facts", pa.Table.from_pylist(facts, schema=FACTS))
        title = self.title or f"Features of {chain.classes[0]} and {chain.classes[1]}"
        text = page(title, chain, features, nodes, edges, why, self.strongest)
        write_bytes(out.path / "graph.html", text.encode())
        write_bytes(out.path / "graph.svg", picture(nodes, edges, chain.classes, self.strongest).encode())
        if graph is not None:
            out.json("attribution_graph", graph)

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.integrate_blocks import integrate_blocks

        return integrate_blocks(artifact, self.shown)


def read_chain(inputs: Inputs) -> Chain:
    """The tables of the steps that are there.

    UserError for a features step without separations, for steps made of another features step than the one read, and
    for names that do not fit their columns.
    """
    features = inputs["features"]
    if "separations" not in features.tables():
        raise UserError(
            f"{features.name} has no table separations", "one of this version of step features",
            f"gnomon run --remake {features.name}",
        )  # fmt: skip
    found: dict[str, pd.DataFrame] = {"separations": features.table("separations")}
    for table, kind in TABLES.items():
        if kind in inputs:
            _of_those_features(inputs[kind], features)
            if table in inputs[kind].tables():
                found[table] = inputs[kind].table(table)
    check_names(found)
    return Chain(**found)


def _of_those_features(artifact: Artifact, features: Artifact) -> None:
    read = (artifact.meta.get("inputs") or {}).get("features") or {}
    if read.get("fingerprint") not in (None, features.fingerprint):
        raise UserError(
            f"{artifact.name} was made of the features in {read.get('name')}, not of those in {features.name}",
            "steps of one features step: latents of two dictionaries can have one name",
            f"say from: {{features: {read.get('name')}}}, or leave {artifact.name} out",
        )


def model_name(inputs: Inputs) -> str:
    """The last part of the model's name, as the generation recorded it."""
    model: Any = inputs["generations"].meta.get("model") or {}
    name = str(model.get("name") or "") if isinstance(model, dict) else str(model)
    return name.rstrip("/").rsplit("/", 1)[-1] or "model"


def _write(out: Writer, name: str, rows: pd.DataFrame, schema: pa.Schema) -> None:
    """A table whose missing values are null, whatever pandas holds them as."""
    arrays = [pa.array(rows[f.name].to_numpy(dtype=object), type=f.type, from_pandas=True) for f in schema]
    out.table(name, pa.Table.from_arrays(arrays, schema=schema))
