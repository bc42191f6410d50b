"""What a person sees of a run: lines, progress bars and tables; rich on a terminal, plain when piped. And run.log.

run.log holds one JSON object a line: time, level, logger, message, and whatever a log call gives as `extra`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gnomon.disk import disk_error, plain
from gnomon.errors import UserError
from gnomon.progress import Lines, bars
from gnomon.tally import Meter

LEVELS = ("debug", "info", "warning", "error")
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=_text)


def _text(value: Any) -> Any:
    try:
        return plain(value)
    except TypeError:
        return str(value)


class Screen:
    """The terminal, or a pipe: lines to stderr, results to stdout."""

    def __init__(self, terminal: bool | None = None) -> None:
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self._console: Any = None
        if self.terminal:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)

    def line(self, text: str, style: str = "") -> None:
        """One line of what is going on (stderr)."""
        if self._console is not None:
            self._console.print(text, style=style or None, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, label: str, total: int | None) -> Iterator[Meter]:
        """A progress bar, and one a worker of several; when piped, a line at each quarter of what takes long."""
        if self._console is None:
            yield Lines(self.line, label, total)
            return
        with bars(self._console, label, total) as meter:
            yield meter


class ScreenHandler(logging.Handler):
    """Shows log records as plain lines."""

    def __init__(self, screen: Screen, level: int) -> None:
        super().__init__(level)
        self.screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        style = {logging.WARNING: "yellow", logging.ERROR: "red", logging.DEBUG: "dim"}.get(record.levelno, "")
        self.screen.line(mark + record.getMessage(), style)


class LogFile(logging.FileHandler):
    """run.log. A disk that takes no more of it is said once; it does not stop the run, which meets the disk itself."""

    def __init__(self, file: Path, screen: Screen) -> None:
        super().__init__(file, encoding="utf-8")
        self.screen, self.said = screen, False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.said:
            self.said = True
            self.screen.line(f"warning: {self.baseFilename} cannot be written: {error.strerror or error}", "yellow")

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def level_number(level: str) -> int:
    """The number of a level's name; UserError for an unknown one."""
    if level.lower() not in LEVELS:
        raise UserError(f"unknown log level {level!r}", f"one of {', '.join(LEVELS)}")
    return logging.getLevelNamesMapping()[level.upper()]


@contextmanager
def logged(file: Path | None, level: str, screen: Screen) -> Iterator[logging.Logger]:
    """Within: gnomon's log goes to `file` (everything, as JSON lines) and to the screen from `level` on."""
    log = logging.getLogger("gnomon")
    handlers: list[logging.Handler] = [ScreenHandler(screen, level_number(level))]
    if file is not None:
        try:
            handlers.append(LogFile(file, screen))
        except OSError as error:
            raise disk_error(file, error) from error
        handlers[-1].setFormatter(JsonLines())
    before = log.level, log.propagate
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield log
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        log.level, log.propagate = before
