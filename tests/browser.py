"""Headless Chromium for tests of the report: the page after its scripts ran, its console, a screenshot, a print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--enable-logging=stderr", "--log-level=0",
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """One page as the browser left it: the document after its scripts, and what the console said."""

    dom: str
    console: list[str] = field(default_factory=list)

    @property
    def root(self) -> dict[str, str]:
        """Attributes of the <html> element: data-charts, data-errors, data-theme."""
        tag = re.search(r"<html[^>]*>", self.dom)
        return dict(re.findall(r'([\w-]+)="([^"]*)"', tag[0])) if tag else {}

    @property
    def errors(self) -> list[str]:
        """What the page's own collector caught, and every line of the console."""
        return [e for e in [self.root.get("data-errors", ""), *self.console] if e]


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome, or None. GNOMON_CHROMIUM names another one."""
    named = os.environ.get("GNOMON_CHROMIUM")
    if named:
        return named
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    return found or (MAC if Path(MAC).exists() else None)


def need_chromium() -> str:
    """Path of a Chromium; a machine without one skips the test, by this one allowed reason."""
    found = find_chromium()
    if found is None:
        pytest.skip("chromium not found")
    return found


def _call(page: Path, *flags: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        return subprocess.run(
            [need_chromium(), *FLAGS, f"--user-data-dir={profile}", *flags, Path(page).resolve().as_uri()],
            capture_output=True, timeout=timeout, check=True, encoding="utf-8", errors="replace",
        )  # fmt: skip


def visit(page: Path, dark: bool = False, width: int = 1280, height: int = 900, wait_ms: int = 20_000) -> Visit:
    """Open a page and let its scripts finish (`wait_ms` of virtual time, which passes as fast as they run)."""
    done = _call(
        page, f"--window-size={width},{height}", f"--virtual-time-budget={wait_ms}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom",
    )  # fmt: skip
    return Visit(done.stdout, re.findall(r'CONSOLE[:(]\S*\s*"(.*)", source', done.stderr))


def screenshot(page: Path, to: Path, dark: bool = False, width: int = 1280, height: int = 900) -> Path:
    """A picture of the top `height` pixels of a page, as a PNG."""
    _call(
        page, f"--window-size={width},{height}", "--virtual-time-budget=20000", f"--screenshot={to}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    )  # fmt: skip
    return to


def print_pdf(page: Path, to: Path) -> Path:
    """A page as it prints."""
    _call(page, "--virtual-time-budget=20000", "--no-pdf-header-footer", f"--print-to-pdf={to}")
    return to


class Outside(HTMLParser):
    """Collects every address that a page would fetch from outside itself; plain links are not fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            fetched = name in ("src", "srcset", "data", "poster", "action", "formaction", "background", "xlink:href")
            if (fetched or (name == "href" and tag != "a")) and value and not value.startswith(("data:", "#")):
                self.found.append(f"<{tag} {name}={value[:80]}>")
            if name == "style" and value and "url(" in value:
                self.found.append(f"<{tag} style={value[:80]}>")


def outside_resources(html: str) -> list[str]:
    """What a page would fetch: elements with outside addresses, @import and url() in its styles. [] when none."""
    parser = Outside()
    parser.feed(html)
    styles = "".join(re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL))
    return parser.found + re.findall(r"@import[^;]*|url\(\s*['\"]?(?!data:)[^)]*\)", styles)
