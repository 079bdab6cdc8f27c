"""How log events look on standard error."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from afs.runtime.logs import configure_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Gives the process its logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, each event is one line with level, time and its keys; lesser levels are left out."""
    configure_logging("info", "json")
    log = structlog.get_logger("test")
    log.debug("volume.looked_at")
    log.info("volume.attached", volume=7)
    logging.getLogger("library").warning("from a %s", "library")
    logging.getLogger("library").info("chatter")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["event"], first["volume"], first["level"]) == ("volume.attached", 7, "info")
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"], second["logger"]) == (
        "from a library",
        "warning",
        "library",
    )


def test_json_traceback_is_one_line_without_local_variables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A traceback stays in its line and shows no values of variables."""
    configure_logging("info", "json")
    _log_failure()
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError" in line
    assert "the-secret" not in line


def test_console_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """For people, an event is a line with its keys; a traceback shows no values of variables."""
    configure_logging("debug", "console")
    structlog.get_logger("test").debug("volume.looked_at", volume=7)
    _log_failure()
    err = capsys.readouterr().err
    assert "volume.looked_at" in err.splitlines()[0]
    assert "volume=7" in err.splitlines()[0]
    assert "ZeroDivisionError" in err
    assert "the-secret" not in err


def _log_failure() -> None:
    secret = "-".join(("the", "secret"))
    try:
        assert len(secret) / 0
    except ZeroDivisionError:
        structlog.get_logger("test").exception("call.failed")
