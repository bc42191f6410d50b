"""Writes report.html: one file that holds its styles, its script, its charts and the library that draws them.

It opens from a file:// address with no network: a content security policy allows the page's own scripts by their
hashes and nothing else, so that text which a model wrote can neither run nor call out. The same folders give the same
bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gnomon import __version__
from gnomon.disk import write_bytes
from gnomon.errors import UserError
from gnomon.report import evidence
from gnomon.report.escape import clean, clip, script_json, visible
from gnomon.report.formats import is_missing, moment, number, parse_time, seconds, size
from gnomon.report.rows import column, columns, read
from gnomon.report.sections import Section, make_section
from gnomon.store import Artifact, Study

CONFIG = 200_000


def build_report(study_dir: str | Path, strict: bool = False) -> Path:
    """Write `study_dir/report.html` from run.json and the steps' folders; returns its path.

    A block whose table, column or reference is not there is withheld, and the page says so in its place; `strict`
    raises UserError instead (the tests use it). The file is replaced in one move, so a reader never sees half of it.
    """
    study = Study(study_dir)
    by_name = {str(s.get("name")): s for s in study.run.get("steps") or []}
    sections = [make_section(artifact, by_name.get(artifact.name, {}), strict) for artifact in study]
    page = render(study, sections)
    path = study.path / "report.html"
    write_bytes(path, page.encode("utf-8"))
    return path


def render(study: Study, sections: list[Section]) -> str:
    """The page as text."""
    env = environment()
    early, script, plotly = (_script(env, "early.js"), _script(env, "report.js"), plotly_js())
    draws = any(view.kind == "figure" for section in sections for view in section.views)
    scripts = [early, *([plotly] if draws else []), script]
    return env.get_template("page.html").render(
        about=about(study),
        criteria=evidence.criteria(study.run),
        sections=sections,
        limits=evidence.limits(study, sections),
        ledger=evidence.reads_of_test(study),
        provenance=provenance(study),
        policy=policy(scripts),
        early=Markup(early),
        plotly=Markup(plotly) if draws else "",
        script=Markup(script),
        version=__version__,
    )


@cache
def environment() -> Environment:
    """Templates with escaping on; every string is cleaned of what would break or reorder the page."""
    env = Environment(
        loader=PackageLoader("gnomon.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    env.filters.update(visible=visible, script_json=script_json, clip=clip)
    return env


def _script(env: Environment, name: str) -> str:
    if env.loader is None:
        raise RuntimeError("the report's templates have no loader")
    text = env.loader.get_source(env, name)[0].strip()
    if "</script" in text.lower() or "<!--" in text:
        raise RuntimeError(f"{name} would end its own script element")
    return text


@cache
def plotly_js() -> str:
    """The chart library as the plotly package carries it (its Python half is never imported)."""
    spec = find_spec("plotly")
    path = Path(spec.origin).parent / "package_data" / "plotly.min.js" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError("plotly.min.js was not found", "the plotly package, whole", "pip install plotly")
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def policy(scripts: list[str]) -> str:
    """The content security policy: these inline scripts by hash, inline styles, no network, no frames, no forms."""
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{h}'" for h in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


# ---------------------------------------------------------------- what was run


def about(study: Study) -> dict[str, Any]:
    """Title, one sentence, and a few facts: what was asked, of which model, how many, when."""
    run = study.run
    made = [a for a in study if "generations" in a.tables()]
    tasks = list(dict.fromkeys(task_name(a.options.get("task")) for a in made))
    joined = {name for a in made for name in a.options.get("append") or ()}  # their rows stand in the later one, too
    answers = [_answers(a) for a in made if a.name not in joined]
    model = _model(study)
    started, finished = run.get("started"), run.get("finished")
    n = sum(x["n"] for x in answers)
    examples = sum(x["examples"] for x in answers)
    stated = run.get("study")
    mapping: Mapping[str, Any] = stated if isinstance(stated, dict) else {}
    title = run.get("title") or mapping.get("title") or study.path.resolve().name.replace("_", " ").capitalize()
    parts = []
    if tasks and n:
        of = "" if n == examples else f" to {number(examples, '', 'n')} questions"
        parts.append(f"{number(n, '', 'n')} answers{of} on {', '.join(tasks)}")
    if model.get("name"):
        parts.append(f"from {model['name']}" if parts else str(model["name"]))
    when = moment(started)
    sentence = " ".join(parts) + (f", {when.split(',')[0]}" if when and parts else "")
    facts = [
        ("Asked", ", ".join(tasks), "; ".join(filter(None, (x["splits"] for x in answers)))),
        ("Model", str(model.get("name") or ""), _model_line(model)),
        ("Answers", number(n, "", "n") if n else "", "; ".join(filter(None, (x["marks"] for x in answers)))),
        ("Run", when.split(",")[0] if when else "", _duration(started, finished, run)),
    ]
    return {
        "title": str(title),
        "description": str(mapping.get("description") or mapping.get("question") or ""),
        "sentence": sentence[:1].upper() + sentence[1:] + "." if sentence else "",
        "facts": [f for f in facts if f[1]],
        "unfinished": unfinished(study),
    }


def unfinished(study: Study) -> str:
    """What is missing of a run that did not reach its end; "" for one that did."""
    status = str(study.run.get("status") or "finished")
    names = study.names()
    waiting = [str(s.get("name")) for s in study.run.get("steps") or [] if s.get("name") not in names]
    if status == "finished" and not waiting:
        return ""
    left = f" Steps without results: {', '.join(waiting)}." if waiting else ""
    return f"The run is {status}; the page shows what stands in the folder.{left}"


def task_name(task: Any) -> str:
    """The name of a task option: a name, {name: options}, or {name: NAME, ...}."""
    if isinstance(task, Mapping):
        return str(task.get("name") or next(iter(task), ""))
    return str(task or "")


def _answers(artifact: Artifact) -> dict[str, Any]:
    """Counts of one generation: answers, examples, splits and marks in words."""
    have = columns(artifact, "generations")
    table = read(artifact, "generations", ("example_id", "split", "label", "row"))
    n = len(table)
    examples = int(column(table, "example_id").nunique()) if "example_id" in have else n
    splits = Counter(column(table, "split")) if "split" in have else Counter()
    split_text = ", ".join(f"{s} {splits[s]:,}" for s in ("fit", "tune", "test") if splits[s])
    marks = ""
    if "label" in have and n:
        label = column(table, "label")
        right, none = int(label.eq(True).fillna(False).sum()), int(label.isna().sum())
        marks = f"{number(right / n, '.1%')} right ({right:,} of {n:,}), {none:,} unparsed"
    return {"n": n, "examples": examples, "splits": split_text, "marks": marks}


def _model(study: Study) -> dict[str, Any]:
    model = study.run.get("model")
    if isinstance(model, str):
        return {"name": model}
    if isinstance(model, dict) and model:
        return model
    return next((a.meta["model"] for a in study if isinstance(a.meta.get("model"), dict)), {})


def _model_line(model: Mapping[str, Any]) -> str:
    parts = [
        f"{model['n_layers']} layers" if model.get("n_layers") else "",
        f"width {model['d_model']}" if model.get("d_model") else "",
        str(model.get("dtype") or "").removeprefix("torch."),
        str(model.get("device") or ""),
    ]
    return ", ".join(p for p in parts if p)


def _duration(started: Any, finished: Any, run: Mapping[str, Any]) -> str:
    begin, end = parse_time(started), parse_time(finished)
    took = ""
    if begin and end and (begin.tzinfo is None) == (end.tzinfo is None):
        took = seconds((end - begin).total_seconds())
    steps = run.get("steps") or []
    kept = sum(bool(s.get("kept")) for s in steps)
    return ", ".join(filter(None, (took, f"{kept} of {len(steps)} steps kept" if kept else "")))


def provenance(study: Study) -> dict[str, Any]:
    """Configuration, versions, machine, fingerprints, timings, and the command that makes all of it again."""
    run = study.run
    kept = {str(s.get("name")): bool(s.get("kept")) for s in run.get("steps") or []}
    times = {a.name: a.meta.get("seconds") for a in study}
    longest = max((float(t) for t in times.values() if not is_missing(t) and t), default=0.0)
    steps = [
        {
            "name": a.name,
            "step": str(a.meta.get("step", "")),
            "version": str(a.meta.get("version", "")),
            "fingerprint": a.fingerprint,
            "seconds": seconds(times[a.name]),
            "share": round(100 * float(times[a.name] or 0) / longest, 1) if longest else 0,
            "memory": size(a.meta.get("peak_memory_bytes")),
            "where": _where(a.meta),
            "kept": kept.get(a.name, False),
        }
        for a in study
    ]
    files = [f for a in study for f in (a.meta.get("files") or {}).values()]
    yaml = study.path / "study.yaml"
    if yaml.is_file():
        config = yaml.read_text(encoding="utf-8", errors="replace")
    else:
        config = json.dumps(run.get("study") or {}, indent=2, ensure_ascii=False, default=str)
    return {
        "steps": steps,
        "files": f"{len(files):,} files, {size(sum(int(f.get('bytes', 0)) for f in files))}" if files else "",
        "config": clip(config, CONFIG),
        "config_name": "study.yaml" if yaml.is_file() else "study, as resolved",
        "tables": [(name, _pairs(run.get(key))) for name, key in GROUPS if _pairs(run.get(key))],
        "seed": number(run["seed"]) if not is_missing(run.get("seed")) else "",
        "started": moment(run.get("started")),
        "finished": moment(run.get("finished")),
        "command": str(run.get("command") or "gnomon run study.yaml"),
        "made_by": str(run.get("gnomon") or ""),
    }


def _where(meta: Mapping[str, Any]) -> str:
    """Where a step was computed: cpu, 2 workers x 1 thread, begun 3 times; hosts where there were several."""
    workers, threads, tries, hosts = (meta.get(key) for key in ("workers", "threads", "tries", "hosts"))
    parts = [str(meta.get("device") or "")]
    if isinstance(workers, int) and isinstance(threads, int):
        parts.append(f"{workers} worker{'s' * (workers != 1)} x {threads} thread{'s' * (threads != 1)}")
    if isinstance(hosts, Mapping) and len(hosts) > 1:
        parts.append(f"on {', '.join(map(str, hosts))}")
    if isinstance(tries, list) and len(tries) > 1:
        parts.append(f"begun {len(tries)} times")
    return ", ".join(part for part in parts if part)


GROUPS = (
    ("Model", "model"), ("Versions", "versions"), ("Machine", "machine"), ("Environment", "environment"),
    ("Source", "source"),
)  # fmt: skip


def _pairs(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return [("name", str(value))] if value else []
    return [(str(k), _said(str(k), v)) for k, v in value.items() if v not in (None, "", [], {})]


def _said(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return size(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
