"""Schemas of the tables that `calibration` writes."""

from __future__ import annotations

import pyarrow as pa

TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
VALUES = [("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("p", NUMBER), ("q", NUMBER), ("n", WHOLE),
          ("n_pos", WHOLE), ("groups", WHOLE)]  # fmt: skip
SIGNALS = pa.schema(
    [("signal", TEXT), ("kind", TEXT), ("scaled", TEXT), ("split", TEXT), ("metric", TEXT), ("control", TEXT), *VALUES,
     ("note", TEXT)]
)  # fmt: skip
KNOWN = pa.schema(
    [("signal", TEXT), ("text", TEXT), ("kind", TEXT), ("probability", pa.bool_()), ("fit", WHOLE), ("tune", WHOLE),
     ("test", WHOLE), ("missing", WHOLE), ("distinct", WHOLE), ("mean", NUMBER), ("best", pa.bool_())]
)  # fmt: skip
SCALING = pa.schema(
    [("signal", TEXT), ("scaled", TEXT), ("slope", NUMBER), ("offset", NUMBER), ("temperature", NUMBER), ("n", WHOLE),
     ("n_pos", WHOLE), ("note", TEXT)]
)  # fmt: skip
RELIABILITY = pa.schema(
    [("signal", TEXT), ("scaled", TEXT), ("bin", WHOLE), ("n", WHOLE), ("confidence", NUMBER), ("accuracy", NUMBER),
     ("ci_low", NUMBER), ("ci_high", NUMBER), ("expected_low", NUMBER), ("expected_high", NUMBER)]
)  # fmt: skip
RISK = pa.schema([("signal", TEXT), ("kind", TEXT), ("coverage", NUMBER), ("risk", NUMBER), ("ci_low", NUMBER),
                  ("ci_high", NUMBER), ("n", WHOLE)])  # fmt: skip
INCREMENTS = pa.schema(
    [("signal", TEXT), ("choice", TEXT), ("over", TEXT), ("against", TEXT), ("split", TEXT), ("metric", TEXT),
     ("control", TEXT), *VALUES, ("selected", pa.bool_()), ("verdict", TEXT), ("note", TEXT)]
)  # fmt: skip
CONFIDENCES = pa.schema(
    [("row", WHOLE), ("example_id", TEXT), ("split", TEXT), ("label", pa.bool_()), ("signal", TEXT), ("value", NUMBER),
     ("temperature", NUMBER), ("platt", NUMBER), ("options", NUMBER)]
)  # fmt: skip
FACTS = pa.schema([("fact", TEXT), ("value", NUMBER), ("text", TEXT)])
