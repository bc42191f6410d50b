"""What a person sees: bars and lines on a terminal, plain lines in a pipe, JSON lines in run.log, aligned tables."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest

from gnomon.console import Screen, logged
from gnomon.errors import UserError
from gnomon.text import duration, size, table
from gnomon.types import Site


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    screen = Screen()
    assert not screen.terminal
    with screen.bar("generate", 8) as advance:
        for _ in range(8):
            advance(1)
    with screen.bar("endless", None) as advance:
        advance(3)
    screen.line("[bold]not markup[/bold]")
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(",")[0] for line in said.err.splitlines()] == [
        "  generate: 2 of 8", "  generate: 4 of 8", "  generate: 6 of 8", "[bold]not markup[/bold]"
    ]  # fmt: skip


def test_a_terminal_gets_a_bar_and_text_is_never_markup(capsys: pytest.CaptureFixture[str]):
    screen = Screen(terminal=True)
    with screen.bar("generate", 4) as advance:
        advance(4)
    screen.line("[bold]not markup[/bold]", "red")
    assert "[bold]not markup[/bold]" in capsys.readouterr().err


def test_run_log_is_json_lines_with_everything_that_was_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "run.log"
    with logged(file, "warning", Screen(terminal=False)) as log:
        log.info("made %d", 3, extra={"site": Site("resid_post", 3), "value": np.float32(0.5), "odd": {1, 2}})
        log.warning("look out\nhere")
        try:
            raise ZeroDivisionError("on purpose")
        except ZeroDivisionError:
            log.exception("it broke")
    logging.getLogger("gnomon").warning("after")
    first, second, third = (json.loads(line) for line in file.read_text().splitlines())
    assert (first["message"], first["level"], first["site"], first["value"]) == ("made 3", "info", "resid_post.3", 0.5)
    assert first["time"].endswith("+00:00")
    assert second["message"] == "look out\nhere"
    assert "ZeroDivisionError: on purpose" in third["traceback"]
    said = capsys.readouterr().err
    assert "warning: look out" in said
    assert "made 3" not in said


def test_a_log_that_cannot_be_written_is_a_users_error(tmp_path: Path):
    with (
        pytest.raises(UserError, match="cannot write"),
        logged(tmp_path / "absent" / "run.log", "info", Screen(terminal=False)),
    ):
        pass


def test_tables_align_and_numbers_stand_to_the_right():
    assert (
        table([("a", "1"), ("bcd", "1,200")], ("name", "rows"), "  ") == "  name   rows\n  a         1\n  bcd   1,200"
    )
    assert table([]) == ""
    assert table([("x", "")], ("a", "b")) == "a  b\nx"


def test_sizes_and_durations_in_words():
    assert [size(n) for n in (0, 999, 1000, 123456, 5 * 10**9, 10**13)] == [
        "",
        "999 B",
        "1.0 kB",
        "123 kB",
        "5.0 GB",
        "10.0 TB",
    ]
    assert [duration(t) for t in (0.04, 9.99, 59, 61, 3661)] == ["0.0 s", "10.0 s", "59 s", "1 min 1 s", "1 h 1 min"]
