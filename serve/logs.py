"""Log lines: JSON in a file below RAYSMITH_HOME, and short on standard error when asked for."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_MOST_BYTES = 10 * 1024 * 1024


def log_file(home: Path, name: str = "raysmith") -> Path:
    """Where the log of commands is, or that of the process `name`."""
    return home / "logs" / f"{name}.log"


def configure(home: Path, *, verbose: bool = False, name: str = "raysmith") -> None:
    """Send structlog's lines to a log file as JSON, and to standard error when `verbose`.

    Args:
        home: RAYSMITH_HOME.
        verbose: Whether standard error gets them too, with the level debug.
        name: Of the file; a process that lives beside others takes one of its own.

    Run and step ids bound with `structlog.contextvars` are on every line. A log that cannot
    be written is no reason to stop: then standard error gets the lines alone.
    """
    import structlog

    sinks: list[logging.Handler] = []
    if (file := _file_sink(log_file(home, name))) is not None:
        file.setFormatter(_formatter(structlog.processors.JSONRenderer()))
        sinks.append(file)
    if verbose:
        screen = logging.StreamHandler(sys.stderr)
        screen.setFormatter(_formatter(_concise))
        sinks.append(screen)
    logger = logging.getLogger("raysmith")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    for sink in sinks:
        logger.addHandler(sink)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=lambda *_names: logger,
        wrapper_class=structlog.make_filtering_bound_logger(logger.level),
        cache_logger_on_first_use=False,
    )


def write_crash(home: Path, error: BaseException) -> Path | None:
    """Append the traceback of `error` to the log file; None when that cannot be written."""
    file = log_file(home)
    text = "".join(traceback.format_exception(error))
    try:
        _make_folder(file.parent)
        with file.open("a", encoding="utf-8", errors="backslashreplace") as out:
            out.write(_json_line({"event": "crash", "level": "critical", "exception": text}))
    except OSError:
        return None
    return file


def _json_line(fields: Mapping[str, Any]) -> str:
    import json

    stamped = {**fields, "timestamp": datetime.now(UTC).isoformat()}
    return json.dumps(stamped, ensure_ascii=True) + "\n"


def _make_folder(folder: Path) -> None:
    # RAYSMITH_HOME itself is for this user alone: it will hold sources and patches.
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _file_sink(file: Path) -> logging.Handler | None:
    try:
        _make_folder(file.parent)
        return logging.handlers.RotatingFileHandler(
            file, maxBytes=_MOST_BYTES, backupCount=3, encoding="utf-8", errors="backslashreplace"
        )
    except OSError:
        return None


def _formatter(last: Any) -> logging.Formatter:
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
    )


def _concise(_logger: Any, _method: str, event: Mapping[str, Any]) -> str:
    known = ("timestamp", "level", "event", "exception")
    rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in known)
    line = (
        f"{str(event.get('timestamp', ''))[11:19]} {event.get('level', ''):7} {event.get('event', '')} {rest}"
    )
    return f"{line.rstrip()}\n{event['exception']}" if "exception" in event else line.rstrip()
