"""What a study's folder holds beyond its finished steps, and how it goes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from gnomon.aside import finish_swaps
from gnomon.budget import folder_size
from gnomon.disk import disk_error
from gnomon.lock import study_lock
from gnomon.store import Study


def leftovers(study: str | Path) -> list[tuple[Path, int]]:
    """(path, bytes) of replaced results (.old/*), half-made steps (.NAME.partial) and temporary files, in order."""
    folder = Study(study).path
    found = [*sorted(folder.glob(".old/*")), *sorted(folder.glob(".*.partial")), *sorted(folder.glob(".*.tmp"))]
    return [(path, folder_size(path) if path.is_dir() else path.stat().st_size) for path in found]


def remove(study: str | Path, paths: Sequence[Path]) -> None:
    """Remove them, while no run writes to the study; a commit that was only cut off is finished instead."""
    folder = Path(study)
    with study_lock(folder):
        finish_swaps(folder)
        for path in paths:
            try:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise disk_error(path, error) from error
        old = folder / ".old"
        if old.is_dir() and not any(old.iterdir()):
            old.rmdir()
