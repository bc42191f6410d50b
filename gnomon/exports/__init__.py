"""Layouts of older tools, written from a study's folders: one layout, one function, imported when it is asked for."""

from __future__ import annotations

from pathlib import Path

from gnomon.errors import UserError, unknown
from gnomon.exports.folder import Folder
from gnomon.registry import load
from gnomon.store import Study

LAYOUTS: dict[str, str] = {
    "second-order": "gnomon.exports.second_order:export",
    "neuronpedia": "gnomon.exports.neuronpedia:export",
    "pva": "gnomon.exports.pva:export",
    "introspection": "gnomon.exports.introspection:export",
    "pathways": "gnomon.exports.pathways:export",
}
"""Name of a layout -> a function of (study, folder) that writes its files into the folder."""


def export_study(study: str | Path, layout: str, out: str | Path | None = None) -> Folder:
    """Write a layout's files to `out` (STUDY/exports/LAYOUT unless given) and return what was written and left out.

    Everything is written beside it first and moved there in one rename; the same study gives the same bytes. Only a
    folder that is new, empty or an earlier export of this layout is replaced, and no step's folder is ever written to.
    Raises UserError for an unknown layout (with the nearest), a folder that holds something else, and a study that
    has nothing which the layout could take.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    opened = Study(study)
    folder = Folder(Path(out) if out is not None else opened.path / "exports" / layout, layout, opened)
    with folder:
        load(LAYOUTS[layout], layout)(opened, folder)
        if not folder.files:
            needs = "; ".join(dict.fromkeys(folder.left_out.values()))
            raise UserError(f"{opened.path} has nothing that layout {layout!r} takes", needs)
        folder.commit()
    return folder
