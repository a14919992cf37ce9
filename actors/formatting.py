"""Brings Python into one form with ruff; what is no Python stays as it is."""

from __future__ import annotations

from collections.abc import Mapping

from actors.python_tools import python_of, run_tool
from orchestrator.building import FormatRequest, Formatted
from orchestrator.errors import MachineError
from orchestrator.tree import File

_UNREADABLE = 2
# Without the folder's own settings and remarks.
QUIET = ("--isolated", "--no-cache", "--ignore-noqa", "--exit-zero", "--output-format", "json")


def formatted(request: FormatRequest) -> Formatted:
    """The Python files of the request's tree that ruff would write differently.

    Raises:
        MachineError: ruff is not installed here.
    """
    files = python_of(request.tree)
    if not files:
        return Formatted()
    length = ("--config", f"line-length={request.line_length}")
    ran = run_tool("ruff", ("format", "--isolated", "--no-cache", "--quiet", *length), files)
    if ran.exit_code not in (0, _UNREADABLE):
        raise MachineError(f"ruff cannot format: {ran.said}", "run `pip install ruff`")
    changed = {
        path: File(content=ran.after[path], mode=file.mode)
        for path, file in files.items()
        if ran.after[path] != file.content
    }
    same = {path: file for path, file in files.items() if path not in changed}
    return Formatted(
        files=changed,
        looked_at=len(files),
        unreadable=tuple(sorted(not_python(same))) if ran.exit_code == _UNREADABLE else (),
    )


def not_python(files: Mapping[str, File]) -> frozenset[str]:
    """The paths of `files` that ruff cannot parse."""
    if not files:
        return frozenset()
    ran = run_tool("ruff", ("check", *QUIET, "--select", "E9"), files)
    return frozenset(ran.path(each["filename"]) for each in ran.json() if each["code"] == "invalid-syntax")
