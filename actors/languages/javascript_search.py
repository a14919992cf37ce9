"""Role repair for JavaScript without a model: small changes to what failing tests import, in a sandbox."""

from __future__ import annotations

import base64
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from actors.languages.javascript import SUFFIXES, sources
from actors.languages.javascript_mutate import Edit, edits
from orchestrator.errors import SandboxError
from orchestrator.ports import Progress, RunnerPool, SearchSession, SessionSpec
from orchestrator.steps import Improvement, Repaired, RepairRequest
from orchestrator.tree import File, Tree

# Candidates that one command tries; a command is the smallest thing that can be cut off.
BATCH = 12
# What one candidate may take; a change may well make a loop endless.
CANDIDATE_S = 10
MOST_CANDIDATES = 1500
# Whole candidates that are offered, so that the judge has a second choice.
MOST_KEPT = 3
_IMPORT = re.compile(r"""(?:\bfrom\s*|\bimport\s*\(?\s*|\brequire\s*\(\s*)['"](\.{1,2}/[^'"]+)['"]""")
_FAILED = re.compile(r"^RAYSMITH (\d+) (\d+)$", re.MULTILINE)
_NODE = "node --test-reporter=tap"
_KEEP, _FLOOD = 200_000, 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is searched, where and for how long."""

    request: RepairRequest
    session: SearchSession
    files: Sequence[str]
    deadline: float

    @property
    def is_spent(self) -> bool:
        return time.monotonic() > self.deadline or self.session.cpu_s > self.request.cpu_s


@dataclass(slots=True)
class _Found:
    """Where the search stands."""

    tree: Tree
    failing: int
    said: list[str] = field(default_factory=list)
    whole: list[Improvement] = field(default_factory=list)
    tried: int = 0


class JavaScriptRepairer:
    """Repairs by search. It holds no state between requests."""

    async def repair(self, request: RepairRequest, runners: RunnerPool, progress: Progress) -> Repaired:
        """Look for changes with which no test of the failing files fails.

        Args:
            request: The tree, the profile and the budget.
            runners: Where the warm sandbox comes from.
            progress: Awaited with every improvement.

        Returns:
            The best improvement, tested in the warm sandbox only; the judge certifies it.
        """
        files = tuple(dict.fromkeys(test.partition("::")[0] for test in request.failing))
        deadline = time.monotonic() + min(request.wall_s, request.timeout_s)
        spec = SessionSpec(
            tree=request.tree,
            arguments=(),
            options=(),
            plugins=(),
            python=request.python,
            timeout_s=request.timeout_s,
            worker="shell",
        )
        found = _Found(tree=request.tree, failing=len(request.failing))
        async with runners.session(spec) as session:
            started = {"skip": [".git", "node_modules"], "most": _MOST}
            await session.call("start", started, request.timeout_s)
            asked = _Asked(request=request, session=session, files=files, deadline=deadline)
            exhausted = await _search(asked, found, progress)
            cpu_s = session.cpu_s
        best = found.whole[0] if found.whole else None
        return Repaired(
            best=best,
            alternatives=tuple(found.whole[1:]),
            repairer="search",
            candidates=found.tried,
            cpu_s=round(cpu_s, 3),
            exhausted=exhausted,
        )


_MOST = {"bytes": 1 << 20, "file": 1 << 20, "entries": 20_000, "depth": 20}


async def _search(asked: _Asked, found: _Found, progress: Progress) -> bool:
    """Whether everything was tried."""
    while not found.whole:
        before = found.failing
        for batch in _batches(_candidates(found.tree, asked.files)):
            if asked.is_spent or found.tried > MOST_CANDIDATES:
                return False
            failed = await _try(asked, found.tree, batch)
            found.tried += len(batch)
            await _take(asked.request, found, batch, failed, progress)
            if found.whole or found.failing < before:
                break
        if found.failing == before:
            return True
    return True


async def _take(
    request: RepairRequest,
    found: _Found,
    batch: Sequence[tuple[str, Edit]],
    failed: Sequence[int | None],
    progress: Progress,
) -> None:
    """Keep what repairs all, else go on from what repairs most."""
    best: tuple[int, str, Edit] | None = None
    for (path, edit), count in zip(batch, failed, strict=True):
        tree = found.tree.with_files({path: _file(found.tree, path, edit)})
        if count == 0 and tree.digest not in request.rejected and len(found.whole) < MOST_KEPT:
            found.whole.append(_improvement(request, tree, found, (path, edit)))
        elif count and count < found.failing and (best is None or count < best[0]):
            best = (count, path, edit)
    if found.whole:
        await progress(found.whole[0])
    elif best is not None:
        found.failing, path, edit = best
        found.tree = found.tree.with_files({path: _file(found.tree, path, edit)})
        found.said.append(_said(path, edit))


def _improvement(request: RepairRequest, tree: Tree, found: _Found, edit: tuple[str, Edit]) -> Improvement:
    return Improvement(
        changes=request.base.changes_to(tree),
        failing=(),
        explanation="; ".join([*found.said, _said(*edit)]),
        candidates=found.tried,
    )


def _said(path: str, edit: Edit) -> str:
    return f"{path}:{edit.line}: {edit.said}"


def _file(tree: Tree, path: str, edit: Edit) -> File:
    return replace(tree.files[path], content=edit.text.encode())


def _candidates(tree: Tree, files: Sequence[str]) -> Iterator[tuple[str, Edit]]:
    """Changes to what the failing files import, the nearest first."""
    for path in imported(tree, files):
        source = tree.files[path].content
        try:
            text = source.decode()
        except UnicodeDecodeError:
            continue
        for edit in edits(text):
            yield path, edit


def imported(tree: Tree, files: Sequence[str]) -> list[str]:
    """The sources that `files` import, directly and further on, the nearest first."""
    ours = set(sources(tree))
    found: dict[str, None] = {}
    waiting = list(files)
    while waiting:
        path = waiting.pop(0)
        text = tree.files[path].content.decode("utf-8", "replace") if path in tree.files else ""
        for name in _IMPORT.findall(text):
            target = _resolved(tree, path, name)
            if target in ours and target not in found:
                found[target] = None
                waiting.append(target)
    return list(found)


def _resolved(tree: Tree, path: str, name: str) -> str:
    parts: list[str] = []
    for part in (*PurePosixPath(path).parent.parts, *name.split("/")):
        if part == ".." and parts:
            parts.pop()
        elif part not in (".", ".."):
            parts.append(part)
    plain = "/".join(parts)
    tries = (plain, *(f"{plain}{suffix}" for suffix in SUFFIXES), f"{plain}/index.js")
    return next((each for each in tries if each in tree.files), plain)


def _batches(candidates: Iterator[tuple[str, Edit]]) -> Iterator[list[tuple[str, Edit]]]:
    batch: list[tuple[str, Edit]] = []
    for each in candidates:
        batch.append(each)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _try(asked: _Asked, tree: Tree, batch: Sequence[tuple[str, Edit]]) -> list[int | None]:
    """How many tests fail with each candidate; None for one that did not come to an end."""
    scripts = (_script(tree, number, path, edit, asked.files) for number, (path, edit) in enumerate(batch))
    command = "\n".join(scripts)
    wall_s = float(CANDIDATE_S * len(asked.files) * len(batch))
    run: dict[str, Any] = {"command": command, "timeout_s": wall_s, "keep": _KEEP, "flood": _FLOOD}
    done = await asked.session.call("run", run, wall_s + 30)
    if not isinstance(done, dict):
        raise SandboxError("the worker's reply makes no sense", "open another session")
    told = dict(_FAILED.findall(f"{done.get('head', '')}{done.get('tail', '')}"))
    return [int(told[str(number)]) if str(number) in told else None for number in range(len(batch))]


def _script(tree: Tree, number: int, path: str, edit: Edit, files: Sequence[str]) -> str:
    """Put a candidate in place, run the failing files each in a node of its own, put the old text back."""
    new, old = (base64.b64encode(text).decode() for text in (edit.text.encode(), tree.files[path].content))
    place = shlex.quote(path)
    count = "| grep -aE '^# fail [0-9]+$' | tail -n 1 | tr -dc 0-9"
    runs = "\n".join(
        f"n=$(timeout -s KILL {CANDIDATE_S} {_NODE} {shlex.quote(file)} 2>/dev/null {count})\n"
        'all="$all+${n:-x}"'
        for file in files
    )
    return (
        f"echo {new} | base64 -d > {place}; all=0\n{runs}\n"
        f'case "$all" in *x*) ;; *) echo "RAYSMITH {number} $((all))";; esac\n'
        f"echo {old} | base64 -d > {place}"
    )
