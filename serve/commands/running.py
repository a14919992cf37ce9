"""One run from submission to its folder of results, for every command that makes one."""

from __future__ import annotations

import os
import secrets
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import RaysmithError, TaskError
from orchestrator.events import RunState
from orchestrator.task import Task
from orchestrator.tree import File, Tree
from serve.commands.door import Door, Ended, Interrupted
from serve.plain_json import dumps
from serve.render import clean_lines, event_line, result_lines

if TYPE_CHECKING:
    from cluster.client import Factory


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A result and where it was put. `patch` is None when there is no diff."""

    result: Mapping[str, Any]
    out: Path
    patch: Path | None = None
    changes: dict[str, File | None] = field(default_factory=dict)


def carry_out(
    door: Door, factory: Factory, task: Task, tree: Tree, *, candidate: Tree | None = None
) -> tuple[RunState, dict[str, Any]]:
    """Submit, show what happens, and return how it ended.

    Raises:
        Ended: Bad input or an environment that cannot; told as an error.
        Interrupted: A person stopped it; the run can be resumed.
    """
    run_id = factory.submit(task, tree, candidate=candidate)
    return follow(door, factory, run_id)


def follow(door: Door, factory: Factory, run_id: str, after_seq: int = 0) -> tuple[RunState, dict[str, Any]]:
    """Show a run until it ends; raises as `carry_out` does."""
    began = time.monotonic()
    try:
        with door.screen.waiting("working"):
            for event in factory.follow(run_id, after_seq):
                if told := event_line(event):
                    door.screen.line(f"{time.monotonic() - began:6.1f} s  {told}")
        state = factory.state(run_id)
        result = factory.result(run_id)
    except KeyboardInterrupt:
        if not factory.started_here:
            factory.cancel(run_id, "interrupted")
        raise Interrupted(f"raysmith resume {run_id}") from None
    _raise_refusal(state)
    return state, result


def _raise_refusal(state: RunState) -> None:
    error = state.report.get("error")
    if error and error.get("exit_code") in (2, 3):
        raise Ended(error["message"], error.get("next", ""), error["code"], error["exit_code"])


def store_folder(
    door: Door, factory: Factory, state: RunState, result: Mapping[str, Any], out: Path | None
) -> Written:
    """Write patch.diff and report.json into the run's folder.

    Raises:
        TaskError: The folder cannot be written.
    """
    from orchestrator.report import changes_from

    folder = (out or door.home / "out" / state.run_id).absolute()
    diff = factory.artifact(state.report["diff"]) if state.report.get("diff") else b""
    stored = {**result, "out": str(folder)}
    patch = write_results(folder, stored, diff)
    digest = state.report.get("patch")
    changes = changes_from(factory.artifact(digest)) if digest else {}
    return Written(result=stored, out=folder, patch=patch, changes=changes)


def write_results(folder: Path, result: Mapping[str, Any], diff: bytes) -> Path | None:
    """Write report.json and, where there is a diff, patch.diff; returns the patch's path.

    Raises:
        TaskError: The folder cannot be written.
    """
    patch = folder / "patch.diff"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if diff:
            replace_file(patch, diff)
        else:
            patch.unlink(missing_ok=True)
        replace_file(folder / "report.json", dumps(result, indent=2).encode() + b"\n")
    except OSError as error:
        raise TaskError(
            f"results cannot be written to {folder}: {error.strerror}", "choose another --out"
        ) from error
    return patch if diff else None


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path`: whoever reads meanwhile sees the old bytes or the new ones."""
    passing = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with passing.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        passing.replace(path)
    finally:
        passing.unlink(missing_ok=True)


def finish(
    door: Door, written: Written, *, path: Path | None = None, applied: tuple[str, ...] | None = None
) -> int:
    """Show the result and give the exit code."""
    screen = door.screen
    if screen.as_json:
        screen.object(written.result)
        return exit_code(written.result)
    screen.line()
    if written.patch is not None:
        screen.diff(written.patch.read_text(errors="surrogateescape"))
        screen.line()
    for line in result_lines(written.result):
        screen.line(line)
    screen.line(f"written to {written.out}")
    if applied:
        screen.line(f"applied to {path}: {', '.join(applied)}")
    elif written.patch is not None:
        anyway = (
            "to apply it" if exit_code(written.result) == 0 else "not certified; to apply it all the same"
        )
        screen.line(f"{anyway}: {_apply_line(path, written.patch)}", "bold")
    return exit_code(written.result)


def _apply_line(path: Path | None, patch: Path) -> str:
    where = ["-C", str(path.absolute())] if path is not None else []
    return shlex.join(["git", *where, "apply", str(patch)])


def exit_code(result: Mapping[str, Any]) -> int:
    """0 for a run that succeeded, else 1."""
    return 0 if result["status"] == "succeeded" else 1


def error_object(error: RaysmithError) -> dict[str, Any]:
    """An error as `--json` prints it."""
    return {
        "error": {
            "code": error.code,
            "message": clean_lines(error.message),
            "next": clean_lines(error.next_move),
        }
    }
