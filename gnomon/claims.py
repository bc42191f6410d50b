"""`gnomon audit-claim`: somebody's direction becomes one more step of a finished study, with all of its controls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnomon.cli_show import page
from gnomon.errors import UserError
from gnomon.run import run_study
from gnomon.store import Study
from gnomon.strict import read_yaml


def audit(
    study: str | Path, direction: str | Path, site: str | None, name: str | None, options: Sequence[str],
    log_level: str = "info",
) -> str:  # fmt: skip
    """Run the step `audit_claim` on a study's rows; the study's own steps are kept. Returns the verdict as text.

    Args:
        direction: a .npy of one vector; `site` may be left out where a .json beside it names one.
        name: the step's name; claim_FILE by default. Another direction under the same name replaces it.
        options: further options of the step, such as `position=last`.
    """
    folder, file = Path(study).expanduser(), Path(direction).expanduser()
    Study(folder)
    saved = folder / "study.yaml"
    if not saved.is_file():
        raise UserError(f"{folder} has no study.yaml", "the folder of a study that gnomon run made")
    if not file.is_file():
        raise UserError(f"no direction file at {direction}", "a .npy of one vector")
    name = name or "claim_" + re.sub(r"[^A-Za-z0-9_-]+", "_", file.stem).strip("_")
    content: Any = read_yaml(saved.read_text(encoding="utf-8", errors="replace"), str(saved)).value
    claim: dict[str, Any] = {"direction": str(file.resolve())} | ({"site": site} if site else {})
    content["steps"] = [
        *(entry for entry in content["steps"] if not (isinstance(entry, dict) and entry.get("as") == name)),
        {"audit_claim": claim, "as": name},
    ]
    prefixed = [option if option.startswith(f"{name}.") else f"{name}.{option}" for option in options]
    done = run_study(content, folder, prefixed, log_level=log_level)
    return page(done[name])
