"""Step features: table `separations` against the latents themselves; classes by name; nothing concluded from little."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gnomon.errors import UserError
from gnomon.lens import feature_sources
from gnomon.methods.chain_tables import SEPARATIONS
from gnomon.methods.feature_latents import encode
from gnomon.methods.separations import BY_SITE
from gnomon.report.resolve import check
from gnomon.report.sections import make_section
from gnomon.rows.table import SCHEMA
from gnomon.stats import cohens_d
from gnomon.steps.features import Features
from gnomon.store import Artifact
from tests.features_study import PLANTED, SITE, dictionary, generation, labels, spec
from tests.stepping import made

OPTIONS: dict[str, Any] = {
    "dictionary": {SITE: "a"}, "permutations": 19, "random": 19, "draws": 200, "general_text": None,
    "nested_below": 0, "top": 1, "keep": 5, "pages": 0, "probes": False, "per_layer": 8, "baselines": "prompt_len",
}  # fmt: skip


@pytest.fixture(autouse=True)
def made_dictionaries(monkeypatch):
    monkeypatch.setattr(feature_sources, "load_dictionary", lambda source, site: dictionary(site or SITE))


def run(folder: Path, rows: Artifact, name: str = "features", **options) -> Artifact:
    inputs = {"generations": [rows], "activations": [rows]}
    return made(Features(**(OPTIONS | options)), folder, spec(), name, inputs)


@functools.cache
def study() -> tuple[Path, Artifact, Artifact]:
    folder = Path(tempfile.mkdtemp())
    rows = generation(folder, labels(160))
    return folder, rows, run(folder, rows, classes=("safe", "risky"), pages=2, top=2)


def said(artifact: Artifact, kind: str = "headline") -> str:
    section = make_section(artifact, {"name": artifact.name, "step": "features"}, strict=True)
    assert section is not None
    return " ".join(s.text for s in section.sentences(kind))


def test_separations_are_those_of_the_latents_themselves():
    _, rows, artifact = study()
    table = artifact.table("separations")
    assert list(table.columns) == SEPARATIONS.names
    assert list(artifact.table("separations_by_site").columns) == BY_SITE.names
    z = encode(dictionary(SITE), rows.activations(SITE, "last_prompt").at(np.arange(160))).astype(float)
    answers = rows.table("generations").sort_values("row")
    y = answers["label"].to_numpy(dtype=bool)
    for line in table.to_dict("records"):
        a = z[:, line["feature"]]
        for split, column in (("fit", "fit_d"), ("test", "d")):
            here = (answers["split"] == split).to_numpy()
            assert line[column] == pytest.approx(float(cohens_d(a[here], y[here])), rel=1e-5), (line["name"], split)
        here = (answers["split"] == "fit").to_numpy()
        assert line["first_mean"] == pytest.approx(a[here & y].mean(), rel=1e-5)
        assert line["second_mean"] == pytest.approx(a[here & ~y].mean(), rel=1e-5)
        assert line["second_rate"] == pytest.approx((a[here & ~y] > 0).mean())
        assert line["first_rate"] - line["second_rate"] == pytest.approx(line["fit_separation"])
    assert len(table) == 8
    assert table["name"].iloc[0] == f"L2-{PLANTED}"
    assert (table["ci_low"] <= table["d"]).all()
    assert (table["d"] <= table["ci_high"]).all()
    reads = [e["why"] for e in artifact.meta["ledger"] if e["split"] == "test"]
    assert len(reads) == 1
    assert "separations" in reads[0]


def test_classes_are_called_by_their_names():
    folder, rows, artifact = study()
    assert set(artifact.table("separations")["first"]) == {"safe"}
    assert set(artifact.table("separations")["second"]) == {"risky"}
    assert set(artifact.table("selected")["class"]) == {"safe", "risky"}
    assert set(artifact.table("rates")["class"]) == {"safe", "risky"}
    assert set(artifact.table("histogram")["kind"]) - {"logit"} <= {"safe", "risky"}
    text = said(artifact)
    assert "predicts safe best" in text
    assert "predicts risky best" in text
    assert "safe minus risky" in text
    assert "predicts correct" not in text
    assert "incorrect" not in text
    assert check(Features(**OPTIONS).summary(artifact), artifact) == []
    plain = run(folder, rows, "plain")
    assert "correct minus incorrect" in said(plain)
    with pytest.raises(UserError, match="two different names"):
        Features(classes=("safe",))


def test_nothing_is_concluded_from_too_few_rows_or_answers_that_could_not_be_parsed(tmp_path):
    rows = generation(tmp_path, labels(60))
    few = run(tmp_path, rows, "few", classes=("safe", "risky"))
    assert few.table("separations")["ci_low"].isna().all()
    assert "No conclusion: " in said(few)
    assert "rows in split test; 20 are needed" in said(few)
    assert "So it separates" not in said(few)
    assert few.table("facts").set_index("fact").loc["verdict correct", "text"] == "undecided"
    assert "safe rows in split 'test'" in said(few, "warning") or "risky rows in split 'test'" in said(few, "warning")
    assert check(Features(**OPTIONS).summary(few), few) == []
    more = generation(tmp_path / "unparsed", labels(200))
    lines = more.table("generations")
    lines["label"] = [None if i % 4 == 0 else bool(v) for i, v in enumerate(lines["label"])]
    pq.write_table(pa.Table.from_pandas(lines, schema=SCHEMA, preserve_index=False),
                   more.path / "generations" / "00000.parquet")  # fmt: skip
    unparsed = run(tmp_path / "unparsed", more)
    assert unparsed.table("separations")["ci_low"].notna().all()
    assert "could be parsed; 80% are needed" in said(unparsed)
    assert "So it separates" not in said(unparsed)
    assert "So this latent tells more" not in said(unparsed)


def test_a_pass_rate_is_separated_too(tmp_path):
    rng = np.random.default_rng(6)
    rate = np.repeat(rng.choice([0.0, 0.5, 1.0], size=100), 2)
    rows = generation(tmp_path, rng.random(200) < rate, samples=2)
    artifact = run(tmp_path, rows, target="pass_rate")
    first = artifact.table("separations").iloc[0]
    assert first["name"] == f"L2-{PLANTED}"
    assert first["n_first"] + first["n_second"] in (49, 50, 51)  # prompts, shared between the classes
    assert first["d"] > 0


def test_the_largest_of_the_kept_is_no_finding_where_labels_say_nothing(tmp_path):
    rows = generation(tmp_path, labels(160), push=0.0)
    artifact = run(tmp_path, rows)
    site = artifact.table("separations_by_site").iloc[0]
    assert site["largest"] < 1.5 * site["luck_high"]
    assert site["ci_low"] < 0.1
