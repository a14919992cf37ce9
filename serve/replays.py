"""A run taken out of a store as one file, and such a file done again; for every door. No Ray in sight."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import RaysmithError, TaskError
from orchestrator.events import Event
from orchestrator.steps import Profiled, ProfileRequest, TestRequest
from orchestrator.tree import Tree
from orchestrator.verdict import TestRun
from serve.commands.running import error_object

if TYPE_CHECKING:
    from actors.replay.run import Replayed
    from actors.sandbox.settings import SandboxSettings
    from cluster.artifacts import ArtifactStore
    from cluster.export import Contents, Export
    from orchestrator.declaration import Declaration
    from orchestrator.recording import Differs

SUFFIX = ".raysmith.zip"


def save_export(
    file: Path, events: Sequence[Event], store: Contents, *, known_secrets: Mapping[str, str]
) -> dict[str, Any]:
    """Write the export of a run's `events` to `file`, whole or not at all; its facts as JSON values.

    Raises:
        TaskError: `file` cannot be written, or the run holds a secret of this machine.
        StoreDamaged: The store lacks what an event names.
    """
    from cluster.export import write_export

    passing = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with passing.open("xb") as out:
            write_export(out, events, store, secrets=known_secrets)
            out.flush()
            os.fsync(out.fileno())
        passing.replace(file)
        size, digest = file.stat().st_size, _sha256(file)
    except OSError as error:
        raise TaskError(f"{file} cannot be written: {error.strerror}", "choose another --out") from error
    finally:
        passing.unlink(missing_ok=True)
    return {
        "run_id": events[0].run_id,
        "file": str(file),
        "bytes": size,
        "sha256": digest,
        "events": len(events),
    }


def take_in(file: Path, store: ArtifactStore, insert: Callable[[Sequence[Event]], bool]) -> dict[str, Any]:
    """Take the run in `file` into a store; its facts as JSON values.

    Args:
        file: An export; all of it is verified before anything is written.
        store: Takes its contents.
        insert: Commits its events; False where they are there already.

    Raises:
        ExportRefused: It is no whole export of a run.
        TaskError: The run has not ended, or another of that id is there.
    """
    from cluster.export import Export
    from cluster.importing import store_contents
    from orchestrator.events import fold

    with Export(file) as export:
        events = export.events
        state = fold(events)
        if not state.status.is_finished:
            raise TaskError(
                f"run {state.run_id} had not ended when it was exported, and would go on in two stores",
                f"`raysmith pause {state.run_id}` there, export it again, and resume it here",
            )
        contents = store_contents(export, store)
    told = {"run_id": state.run_id, "events": len(events), "artifacts": contents}
    return {**told, "imported": insert(events)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """What a replay came to; see `actors.replay.run.Replayed`.

    Attributes:
        equal: Everything that was compared was equal.
        difference: The first that was not.
        tests_rerun, tests_equal: Test runs that were really done again, and those that showed the same.
    """

    run_id: str
    equal: bool
    replayed: Replayed
    difference: RaysmithError | None = None
    events: int = 0
    tests_rerun: int = 0
    tests_equal: int = 0

    def json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        done = self.replayed
        return {
            "run_id": self.run_id,
            "equal": self.equal,
            "difference": error_object(self.difference)["error"] if self.difference else None,
            "status": done.status,
            "reason": done.reason,
            "patch_sha256": done.patch,
            "verdict": done.verdict,
            "compared": {
                "events": self.events,
                "facts": done.facts,
                "replies": done.replies,
                "steps_redone": done.steps_redone,
                "steps_taken": done.steps_taken,
                "tests": done.tests,
                "tests_rerun": self.tests_rerun,
                "tests_equal": self.tests_equal,
            },
            "notes": list(done.notes),
        }


async def replay_file(
    file: Path,
    *,
    rerun: SandboxSettings | None = None,
    python: str | None = None,
    graph: Declaration | None = None,
) -> ReplayResult:
    """Do the run in `file` again, offline, and compare.

    Args:
        file: An export. Nothing in it is trusted.
        rerun: How to really do its test runs again; None answers them from the file.
        python: Interpreter for that; one that the file names is never used.
        graph: Another graph than the run's own; what that asks for and was not recorded is a difference.

    Raises:
        ExportRefused: It is no whole export of a run.
        MachineError: There is no sandbox to run tests in.
    """
    from actors.replay.run import replay
    from cluster.export import Export, ExportRefused, graph_in
    from orchestrator.recording import Recording

    with Export(file) as export:
        tests = _Tests(rerun, python)
        try:
            recording = Recording(export.events, export.get)
            tree, candidate = _trees(export, recording)
            if rerun is not None and recording.task.python and python is None:
                raise TaskError(
                    f"the run's tests had an interpreter of their own ({recording.task.python})",
                    "name one on this machine by --python, or leave out --rerun-tests",
                )
            followed = graph or graph_in(recording.state, export.get)
            done = await replay(recording, followed, tree, candidate, tests)
        except RaysmithError:
            raise
        except Exception as error:
            # Verified by its hashes, a file may still hold values that no Raysmith writes.
            raise ExportRefused(
                f"{file} cannot be replayed: {type(error).__name__}: {error}", "export the run again"
            ) from error
        finally:
            await tests.close()
    difference = done.difference or tests.difference
    return ReplayResult(
        run_id=recording.state.run_id,
        equal=difference is None,
        replayed=done,
        difference=difference,
        events=len(recording.events),
        tests_rerun=tests.done,
        tests_equal=tests.equal,
    )


def _trees(export: Export, recording: Any) -> tuple[Tree, Tree | None]:
    task = recording.task
    candidate = task.inputs.get("candidate")
    return export.tree(task.tree), export.tree(str(candidate)) if candidate else None


class _Tests:
    """Does recorded test runs again where that is wanted."""

    def __init__(self, settings: SandboxSettings | None, python: str | None) -> None:
        self.done = self.equal = 0
        self.difference: Differs | None = None
        self._python = python
        self._runner: Any = None
        if settings is not None:
            from actors.runner import Runner

            self._runner = Runner(settings)
        # The recorded runs came two at a time; here they share two cores with whoever reads this.
        self._turn = asyncio.Lock()

    async def __call__(self, step: str, request: object, recorded: object) -> None:
        if self._runner is None:
            return
        async with self._turn:
            found = await self._again(request, recorded)
        self.done += 1
        self.equal += found is None
        if found and self.difference is None:
            from orchestrator.recording import Differs

            self.difference = Differs(
                f"the tests of {step}, really run again: {found}",
                "look for what differs on this machine: interpreter, packages, tests that are flaky",
            )

    async def _again(self, request: object, recorded: object) -> str | None:
        from actors.replay.comparing import profile_difference, test_difference

        if isinstance(request, ProfileRequest) and isinstance(recorded, Profiled):
            _check_paths(request.tree)
            now = await self._runner.profile(replace(request, python=self._python))
            return profile_difference(recorded, now)
        assert isinstance(request, TestRequest)
        assert isinstance(recorded, TestRun)
        _check_paths(request.base)
        _check_paths(request.candidate)
        return test_difference(recorded, await self._runner.test(replace(request, python=self._python)))

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cancel_all()


def _check_paths(tree: Tree) -> None:
    """Refuse a tree whose paths would lead outside the folder that it is laid into."""
    from cluster.export import check_paths

    check_paths(tree.files)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sentences(result: ReplayResult) -> list[str]:
    """What a person is told of a replay."""
    done = result.replayed
    told = [
        f"replayed run {result.run_id}: {done.status}" + (f" ({done.reason})" if done.reason else ""),
        f"{done.facts} facts of {result.events} events, {done.replies} model replies and "
        f"{done.tests} test runs; {done.steps_redone} steps done again by their agents, "
        f"{done.steps_taken} taken as recorded",
    ]
    if result.tests_rerun:
        told.append(f"tests really run again: {result.tests_equal} of {result.tests_rerun} showed the same")
    if done.patch:
        told.append(f"patch sha256 {done.patch}")
    told += [f"  {note}" for note in done.notes]
    if result.difference is None:
        told.append("equal to the recording")
    return told
