"""Sees a candidate's code read the tests, and tests read data that it changed; standard library only.

An audit hook cannot be taken out again, and sees every way to open a file in this interpreter. What a
process started by the code under test reads is not seen.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable
from types import FrameType
from typing import Any

_MOST = 20
# What reads a file or gives it another name; its path is the first argument.
_EVENTS = frozenset({"open", "os.link", "os.rename", "os.symlink", "os.truncate", "shutil.move"})


def install(
    work: str,
    added: Iterable[str],
    tests: Iterable[str],
    *,
    protected: Iterable[str] = (),
    data: Collection[str] = (),
) -> list[str]:
    """Watch from now on.

    Args:
        work: The folder that all paths are relative to.
        added: Files that the candidate added or changed.
        tests: Files with tests that decide.
        protected: All files that decide.
        data: Files of the base, no code, that the candidate changed: what a test expects may lie in them.

    Returns:
        A list that grows by a sentence for each new thing seen.
    """
    seen: list[str] = []
    places = {f"{work}/{path}": path for path in added}
    names = {path.rpartition("/")[2]: path for path in tests}
    by_place = {f"{work}/{path}": path for path in tests}
    expects_from = _expecting(work, protected, data)
    known: dict[str, str | None] = {}
    get_frame, realpath, normpath, fsdecode = sys._getframe, os.path.realpath, os.path.normpath, os.fsdecode
    ident, own = threading.get_ident, threading.get_ident()

    def meant(path: Any) -> str | None:
        """The test file that an argument leads to; a name alone may be relative to any open folder."""
        if not isinstance(path, (str, bytes)):
            return None
        text = fsdecode(path)
        if not text.startswith("/") and (named := names.get(text.rpartition("/")[2])):
            return named
        return by_place.get(text) or by_place.get(realpath(text))

    def added_file(code_filename: str) -> str | None:
        if code_filename not in known:
            # The workspace may be on sys.path as tests/.. too.
            known[code_filename] = places.get(normpath(code_filename))
        return known[code_filename]

    def reader(test: str) -> str | None:
        """The candidate's file that is at work; None for pytest's or the tests' own doing."""
        frame: FrameType | None = get_frame(2)
        inner, is_of_workspace = "", False
        while frame is not None:
            filename = frame.f_code.co_filename
            if inner == linecache.__file__ and filename == traceback.__file__ and is_in_trace(test):
                return None
            if found := added_file(filename):
                return found
            is_of_workspace = is_of_workspace or filename.startswith(work)
            inner, frame = filename, frame.f_back
        # A pool of threads calls what it was given with nobody behind it.
        return None if is_of_workspace or ident() == own else "a thread"

    def is_in_trace(test: str) -> bool:
        """Whether the exception that is being handled came through the test file."""
        error, seen_errors = sys.exc_info()[1], set()
        while error is not None and id(error) not in seen_errors:
            seen_errors.add(id(error))
            trace = error.__traceback__
            while trace is not None:
                if by_place.get(normpath(trace.tb_frame.f_code.co_filename)) == test:
                    return True
                trace = trace.tb_next
            error = error.__cause__ or error.__context__
        return False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or len(seen) >= _MOST:
            return
        try:
            told = expects_from(arguments[0])
            test = None if told else meant(arguments[0])
            who = reader(test) if test else None
        except Exception:  # whatever the tests put in the place of os's functions: this only watches
            return
        if who is not None:
            told = f"{who} read {test} while the tests ran"
        if told and told not in seen:
            seen.append(told)

    if (places and names) or data:
        sys.addaudithook(hook)
    return seen


def _expecting(work: str, protected: Iterable[str], data: Iterable[str]) -> Callable[[Any], str | None]:
    """Tells, in words, where a file that decides opens by itself data that the candidate changed."""
    by_data = {f"{work}/{path}": path for path in data}
    deciding = {f"{work}/{path}": path for path in protected}
    get_frame, realpath, normpath, fsdecode = sys._getframe, os.path.realpath, os.path.normpath, os.fsdecode

    def expects_from(path: Any) -> str | None:
        if not by_data or not isinstance(path, (str, bytes)):
            return None
        text = fsdecode(path)
        found = by_data.get(text) or by_data.get(realpath(text))
        frame: FrameType | None = get_frame(2) if found else None
        while frame is not None:
            filename = normpath(frame.f_code.co_filename)
            if filename.startswith(f"{work}/"):
                by = deciding.get(filename)
                return f"{by} reads {found}, which the patch changes" if by else None
            frame = frame.f_back
        return None

    return expects_from
