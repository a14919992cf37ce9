"""Looks for what a patch should not bring: insecure Python, secrets, and dependencies from elsewhere.

Nothing of the patch is executed: ruff parses it, the rest reads lines.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

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
_SECRETS = (
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("an AWS key", re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})\b")),
    ("a Slack token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}")),
    ("an API key", re.compile(r"\bsk-[A-Za-z0-9_-]{20,}")),
    (
        "a password or key",
        re.compile(
            r"(?i)\b\w*(password|passwd|secret|api_?key|auth_?token|access_?token)\w*['\"]?\s*[:=]\s*"
            r"['\"](?!\$|\{|<|%)[^'\"\s]{8,}['\"]"
        ),
    ),
)
_ELSEWHERE = re.compile(
    r"(?i)\b(git\+|https?:|ssh:|file:|hg\+|svn\+)|^\s*(-i|--(extra-)?index-url|-f|--find-links)\b"
)
_REQUIREMENTS = re.compile(r"(^|/)(requirements[^/]*|constraints[^/]*)\.(txt|in)$")
_UNPINNED = re.compile(r"^[A-Za-z0-9._-]+(\[[^\]]*\])?\s*(;.*)?$")


def scan(request: ScanRequest) -> Scanned:
    """What the candidate brings that the base has not.

    Raises:
        MachineError: ruff is not installed.
    """
    base, candidate = request.base, request.candidate
    changed = [path for path, file in base.changes_to(candidate).items() if file and not is_foreign(path)]
    findings = [*_insecure(base, candidate, changed), *_secrets(base, candidate, changed)]
    dependencies = _changed_dependencies(base, candidate)
    findings += [
        found for path, names in dependencies.items() for name in names if (found := _doubt(path, name))
    ]
    told = tuple(f"{path}: {name}" for path, names in dependencies.items() for name in names)
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


def _secrets(base: Tree, candidate: Tree, changed: list[str]) -> Iterator[Finding]:
    for path in changed:
        known = set(_lines(base, path))
        for number, line in enumerate(_lines(candidate, path), 1):
            if line in known:
                continue
            what = next((what for what, pattern in _SECRETS if pattern.search(line)), None)
            if what:
                yield Finding(
                    path=path,
                    line=number,
                    severity=Severity.HIGH,
                    kind="secret",
                    message=f"looks like {what}",
                )


def _changed_dependencies(base: Tree, candidate: Tree) -> Mapping[str, list[str]]:
    """What is required that was not before, by file."""
    found = {}
    for path in candidate.files:
        if new := sorted(set(_required(candidate, path)) - set(_required(base, path))):
            found[path] = new
    return found


def _required(tree: Tree, path: str) -> list[str]:
    text = "\n".join(_lines(tree, path))
    try:
        if _REQUIREMENTS.search(path):
            return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
        if path.endswith("pyproject.toml"):
            project = tomllib.loads(text).get("project", {})
            extras = project.get("optional-dependencies", {}).values()
            return [str(each) for part in (project.get("dependencies", []), *extras) for each in part]
        if path.endswith("package.json"):
            package = json.loads(text)
            parts = (package.get(key) or {} for key in ("dependencies", "devDependencies"))
            return [f"{name}@{version}" for part in parts for name, version in part.items()]
    except (ValueError, AttributeError, TypeError):
        # No file of its kind; the tests tell of it.
        return []
    return []


def _doubt(path: str, requirement: str) -> Finding | None:
    if _ELSEWHERE.search(requirement):
        severity, what = Severity.HIGH, "does not come from the package index"
    elif _UNPINNED.match(requirement) or requirement.endswith(("@*", "@latest", "@")):
        severity, what = Severity.MEDIUM, "may be any version"
    else:
        return None
    return Finding(
        path=path, line=0, severity=severity, kind="dependency", message=f"{requirement[:200]!r} {what}"
    )


def _lines(tree: Tree, path: str) -> list[str]:
    return tree.files[path].content.decode("utf-8", "replace").splitlines() if path in tree.files else []
