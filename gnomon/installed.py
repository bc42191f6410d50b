"""What is installed, against what gnomon says that it needs and against the versions that it was tested with."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


def names_of_extras() -> set[str]:
    """The optional parts that gnomon can be installed with."""
    return set(metadata.metadata("gnomon").get_all("Provides-Extra") or ())


def required(extra: str) -> Iterator[tuple[str, bool]]:
    """(requirement, is it met) of gnomon itself or of one of its extras, from what the installation says."""
    from packaging.requirements import Requirement

    for text in metadata.requires("gnomon") or ():
        one = Requirement(text)
        marked = "extra ==" in str(one.marker or "")
        if marked == bool(extra) and (one.marker is None or one.marker.evaluate({"extra": extra})):
            here = version(one.name)
            yield f"{one.name}{one.specifier}", bool(here) and one.specifier.contains(here, prereleases=True)


def differing(pinned: Path) -> Iterator[str]:
    """Packages that gnomon itself asks for and that are here in another version than `pinned` says."""
    from packaging.requirements import Requirement

    lines = [line.split("#")[0].strip() for line in pinned.read_text(encoding="utf-8").splitlines()]
    wanted = {_plain(n): v for n, _, v in (line.partition("==") for line in lines if "==" in line)}
    for text in metadata.requires("gnomon") or ():
        name = Requirement(text).name
        here = version(name)
        if "extra" not in text and here and wanted.get(_plain(name), here) != here:
            yield f"{name} {here}, not {wanted[_plain(name)]}"


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def version(name: str) -> str:
    """An installed package's version; "" where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def bare(text: str) -> str:
    """The name in a requirement: peft of peft>=0.17."""
    from packaging.requirements import Requirement

    return Requirement(text).name
