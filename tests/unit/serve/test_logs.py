"""Log lines go to a file as JSON, and to standard error only when asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from serve.logs import configure, log_file, write_crash


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    logger = logging.getLogger("raysmith")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def lines(home: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log_file(home).read_text().splitlines()]


def test_a_line_carries_run_and_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(tmp_path)

    with structlog.contextvars.bound_contextvars(run="r-1", step="repair"):
        structlog.get_logger().info("lease_granted", replica="repair-01")

    (line,) = lines(tmp_path)
    assert (line["event"], line["run"], line["step"], line["replica"]) == (
        "lease_granted",
        "r-1",
        "repair",
        "repair-01",
    )
    assert line["level"] == "info"
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_verbose_shows_short_lines_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(tmp_path, verbose=True)

    structlog.get_logger().debug("looked", at="x")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.split(maxsplit=1)[1] == "debug   looked at=x\n"


def test_an_exception_is_logged_with_its_traceback(tmp_path: Path) -> None:
    configure(tmp_path)

    try:
        raise ValueError("odd\nline")
    except ValueError:
        structlog.get_logger().exception("broke")

    (line,) = lines(tmp_path)
    assert "ValueError: odd" in str(line["exception"])


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")

    configure(tmp_path / "home")
    structlog.get_logger().info("still here")

    assert write_crash(tmp_path / "home", ValueError("x")) is None


def test_the_home_made_for_the_log_is_private(tmp_path: Path) -> None:
    configure(tmp_path / "state/home")

    assert (tmp_path / "state/home").stat().st_mode & 0o777 == 0o700
