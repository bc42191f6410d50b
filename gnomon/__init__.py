"""gnomon finds, tests and explains what a language model knows about its own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "open": "gnomon.store:Study",
    "Study": "gnomon.store:Study",
    "run_study": "gnomon.run:run_study",
    "load_model": "gnomon.models:load_model",
    "Example": "gnomon.types:Example",
    "Site": "gnomon.types:Site",
    "Direction": "gnomon.types:Direction",
    "Step": "gnomon.step:Step",
    "UserError": "gnomon.errors:UserError",
}
__all__ = [
    "Direction",
    "Example",
    "Site",
    "Step",
    "Study",
    "UserError",
    "__version__",
    "load_model",
    "open",
    "run_study",
]

if TYPE_CHECKING:
    from gnomon.errors import UserError as UserError
    from gnomon.models import load_model as load_model
    from gnomon.run import run_study as run_study
    from gnomon.step import Step as Step
    from gnomon.store import Study as Study
    from gnomon.store import Study as open
    from gnomon.types import Direction as Direction
    from gnomon.types import Example as Example
    from gnomon.types import Site as Site


def __getattr__(name: str) -> Any:
    """Load a public name on its first use, so that `import gnomon` stays light."""
    if name not in _NAMES:
        raise AttributeError(f"module 'gnomon' has no attribute {name!r}; public names: {', '.join(_NAMES)}")
    from gnomon.registry import load

    value = load(_NAMES[name])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
