"""Looks for what a patch should not bring: insecure Python, secrets, and dependencies from elsewhere.

Nothing of the patch is executed: ruff parses it, the rest reads lines.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from actors.scan.advisories import Book, book_of, faults
from actors.scan.requirements import Required, required
from actors.scan.secrets import secrets
from orchestrator.errors import MachineError
from orchestrator.languages import is_foreign
from orchestrator.steps import Finding, Scanned, ScanRequest, Severity
from orchestrator.tree import Tree

_RUFF_S = 60.0
# Without the folder's own settings and remarks; asserts are what tests are made of.
_RUFF = (
    *("--isolated", "--no-cache", "--ignore-noqa", "--exit-zero", "--output-format", "json"),
    *("--select", "S", "--ignore", "S101"),
)
_ELSEWHERE = re.compile(
    r"(?i)\b(git\+|https?:|ssh:|file:|hg\+|svn\+)|^\s*(-i|--(extra-)?index-url|-f|--find-links)\b"
)


def scan(request: ScanRequest, advisories: str = "") -> Scanned:
    """What the candidate brings that the base has not.

    Args:
        advisories: Where known faults of packages are kept; see `advisories.book_of`.

    Raises:
        MachineError: ruff is not installed, or the advisories cannot be read.
    """
    base, candidate = request.base, request.candidate
    changed = [path for path, file in base.changes_to(candidate).items() if file and not is_foreign(path)]
    findings = [*_insecure(base, candidate, changed), *secrets(base, candidate, changed)]
    dependencies = _changed_dependencies(base, candidate)
    book = book_of(advisories) if dependencies else {}
    findings += [
        found for path, new in dependencies.items() for each in new for found in _doubts(path, each, book)
    ]
    told = tuple(f"{path}: {each.text}" for path, new in dependencies.items() for each in new)
    return Scanned(findings=tuple(findings), dependencies=told)


def _insecure(base: Tree, candidate: Tree, changed: list[str]) -> Iterator[Finding]:
    """What ruff's security rules say of changed Python, without what they said before."""
    python = [path for path in changed if path.endswith(".py")]
    if not python:
        return
    before = Counter((path, code, text) for path, _, code, text in _ruff(base, python))
    for path, line, code, text in _ruff(candidate, python):
        if before[path, code, text] > 0:
            before[path, code, text] -= 1
            continue
        yield Finding(path=path, line=line, severity=Severity.MEDIUM, kind=f"security {code}", message=text)


def _ruff(tree: Tree, paths: list[str]) -> list[tuple[str, int, str, str]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for number, path in enumerate(paths):
            if path in tree.files:
                # Their own names could be options, or climb.
                (folder / f"{number}.py").write_bytes(tree.files[path].content)
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", *_RUFF, str(folder)],
            capture_output=True,
            timeout=_RUFF_S,
            check=False,
        )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise MachineError(f"ruff cannot look for insecure code: {said}", "run `pip install ruff`")
    return [
        (paths[int(Path(each["filename"]).stem)], each["location"]["row"], each["code"], each["message"])
        for each in json.loads(done.stdout)
        # What is no Python has no rule; the tests tell of it.
        if each["code"] and each["code"].startswith("S")
    ]


def _changed_dependencies(base: Tree, candidate: Tree) -> Mapping[str, list[Required]]:
    """What is required that was not before, by file."""
    found = {}
    for path in candidate.files:
        if base.files.get(path) == candidate.files[path] or is_foreign(path):
            continue
        before = {each.text for each in required(base, path)}
        if new := {each.text: each for each in required(candidate, path) if each.text not in before}:
            found[path] = [new[text] for text in sorted(new)]
    return found


def _doubts(path: str, each: Required, book: Book) -> Iterator[Finding]:
    told = list(faults(book, each))
    if _ELSEWHERE.search(each.text):
        told.append((Severity.HIGH, "does not come from the package index"))
    elif (each.name and all(not one for one in each.versions)) or each.text.endswith(("@*", "@latest", "@")):
        told.append((Severity.MEDIUM, "may be any version"))
    for severity, what in told:
        message = f"{each.text[:200]!r} {what}"
        yield Finding(path=path, line=0, severity=severity, kind="dependency", message=message)
