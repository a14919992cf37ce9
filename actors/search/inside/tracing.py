"""Which lines of the task's own files a test executes, and what its names hold, as literals."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

_MAX_CALLS = 3
_MAX_NOTED = 8
_CHECK_EVERY = 2000
_MAX_VISITS = 6
_MAX_VALUE = 120
_MAX_TEXT = 60_000


class Tracer:
    """Collects lines per file and type names per function while it is on."""

    def __init__(self, filenames: Mapping[str, str], overrun: Callable[[], None], cpu_s: float) -> None:
        self._paths = {filename: path for path, filename in filenames.items()}
        self._overrun = overrun
        self._cpu_s = cpu_s
        self._events = 0
        self._calls: dict[Any, int] = {}
        self.lines: dict[str, set[int]] = {}
        self.types: dict[str, dict[str, list[str]]] = {}
        self.calls: dict[str, list[list[str]]] = {}
        self._until = 0.0
        self.visits: dict[str, dict[int, list[dict[str, str]]]] = {}
        self.truncated: dict[str, list[int]] = {}
        self._text = 0

    def start(self) -> None:
        """Forget what was seen and watch from now on."""
        self.lines = {}
        self.visits, self.truncated, self._text = {}, {}, 0
        self._events = 0
        self._until = time.process_time() + self._cpu_s
        threading.settrace(self._called)
        sys.settrace(self._called)

    def stop(self) -> None:
        """Watch no longer."""
        sys.settrace(None)
        threading.settrace(None)

    def _called(self, frame: FrameType, _event: str, _: object) -> Any:
        path = self._paths.get(frame.f_code.co_filename)
        if path is None:
            return None
        lines = self.lines.setdefault(path, set())
        lines.add(frame.f_lineno)
        self._note_call(path, frame)

        def local(frame: FrameType, event: str, _: object) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
                self._note_visit(path, frame)
                self._events += 1
                if self._events % _CHECK_EVERY == 0 and time.process_time() > self._until:
                    self._overrun()
            elif event == "return":
                self._note_types(path, frame)
            return local

        return local

    def _note_call(self, path: str, frame: FrameType) -> None:
        """Arguments of the first calls, as literals; only where all of them are."""
        code = frame.f_code
        known = self.calls.setdefault(f"{path}:{code.co_name}", [])
        if len(known) >= _MAX_NOTED or code.co_flags & 0x0C or not code.co_argcount:
            return
        values = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
        if all(map(_is_literal, values)):
            arguments = [repr(value) for value in values]
            if arguments not in known and sum(map(len, arguments)) < 500:
                known.append(arguments)

    def _note_visit(self, path: str, frame: FrameType) -> None:
        """What the names hold before the line runs; the first visits only."""
        known = self.visits.setdefault(path, {}).setdefault(frame.f_lineno, [])
        if len(known) >= _MAX_VISITS or self._text > _MAX_TEXT:
            truncated = self.truncated.setdefault(path, [])
            if frame.f_lineno not in truncated:
                truncated.append(frame.f_lineno)
            return
        visit: dict[str, str] = {}
        for name, value in _named_values(frame):
            if _is_literal(value, 2):
                text = repr(value)
                if len(text) <= _MAX_VALUE:
                    visit[name] = text
                    self._text += len(text)
        known.append(visit)

    def _note_types(self, path: str, frame: FrameType) -> None:
        code = frame.f_code
        seen = self._calls.get(code, 0)
        if seen >= _MAX_CALLS:
            return
        self._calls[code] = seen + 1
        known = self.types.setdefault(f"{path}:{code.co_firstlineno}", {})
        for name, value in _named_values(frame):
            kinds = known.setdefault(name, [])
            kind = type(value).__name__
            if kind not in kinds:
                kinds.append(kind)


def _named_values(frame: FrameType) -> list[tuple[str, object]]:
    """Locals, and what the object of a method holds, as `self.x`."""
    found: list[tuple[str, object]] = list(frame.f_locals.items())
    held = getattr(frame.f_locals.get("self"), "__dict__", None)
    if type(held) is dict:
        found += [(f"self.{name}", value) for name, value in list(held.items())[:12] if type(name) is str]
    return found


def _is_literal(value: object, depth: int = 3) -> bool:
    if type(value) in (int, float, str, bool, type(None)):
        return True
    if depth and type(value) in (list, tuple, dict, set) and len(value) < 40:  # type: ignore[arg-type]
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return all(_is_literal(part, depth - 1) for part in parts)  # type: ignore[attr-defined]
    return False


def locations(trace: TracebackType | None, paths: Mapping[str, str]) -> list[list[Any]]:
    """`[path, line, function]` of a traceback's frames in the task's files, outermost first."""
    found: list[list[Any]] = []
    while trace is not None and len(found) < 50:
        code = trace.tb_frame.f_code
        path = paths.get(code.co_filename)
        if path is not None:
            found.append([path, trace.tb_lineno, code.co_name])
        trace = trace.tb_next
    return found
