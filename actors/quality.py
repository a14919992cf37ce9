"""Measures Python code with ruff and radon: quality, security, maintainability. Nothing of it is executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from actors.formatting import QUIET
from actors.python_tools import python_of, run_tool
from actors.scan import scan as security
from orchestrator.building import Measured, QualityRequest
from orchestrator.plan import is_test_path
from orchestrator.steps import Finding, ScanRequest, Severity
from orchestrator.tree import File

# Faults, not taste: pyflakes, errors of style, bugbear, needless code, too complex functions, naming.
_RULES = ("--select", "F,E4,E7,E9,W6,B,C4,C90,N,PIE,RET,SIM,UP,A,ERA,PLE,PLW")
# FastAPI's way to declare a parameter is a call in its default.
_NOT = ("--ignore", "B008,PLW0603")
_ERRORS = ("F", "E9", "PLE", "invalid-syntax")
_WEIGHTS = {Severity.HIGH: 40.0, Severity.MEDIUM: 15.0, Severity.LOW: 5.0}
_ERROR_WEIGHT = 5


def measured(request: QualityRequest) -> Measured:
    """Scores of the request's tree, each 0 to 100; a tree without Python has nothing to be blamed for.

    Raises:
        MachineError: ruff or radon is not installed here.
    """
    files = python_of(request.tree)
    scanned = security.scan(ScanRequest(base=request.base, candidate=request.tree))
    if not files:
        return Measured(
            quality=100.0,
            security=_security(scanned.findings),
            maintainability=100.0,
            findings=scanned.findings,
            dependencies=scanned.dependencies,
        )
    faults = tuple(_faults(files))
    sizes = {path: each for path, each in _radon("raw", files).items() if "error" not in each}
    statements = sum(int(each["lloc"]) for each in sizes.values())
    return Measured(
        quality=_quality(faults, statements),
        security=_security(scanned.findings),
        maintainability=_maintainability(files, sizes),
        findings=(*scanned.findings, *faults),
        dependencies=scanned.dependencies,
        lines=sum(int(each["loc"]) for each in sizes.values()),
        complexity=_most_complex(files),
    )


def _faults(files: Mapping[str, File]) -> Iterable[Finding]:
    """What ruff finds in the code; of tests only what breaks them."""
    ran = run_tool("ruff", ("check", *QUIET, *_RULES, *_NOT), files)
    for each in ran.json():
        path, code = ran.path(each["filename"]), each["code"] or "invalid-syntax"
        is_error = code.startswith(_ERRORS)
        if is_test_path(path) and not is_error:
            continue
        yield Finding(
            path=path,
            line=each["location"]["row"],
            severity=Severity.MEDIUM if is_error else Severity.LOW,
            kind="quality",
            message=f"{code} {each['message']}"[:300],
        )


def _quality(faults: Iterable[Finding], statements: int) -> float:
    """As pylint rates code: ten points for every fault per ten statements, errors five times."""
    weight = sum(_ERROR_WEIGHT if each.severity is Severity.MEDIUM else 1 for each in faults)
    return _bounded(100.0 - 100.0 * weight / max(1, statements))


def _security(findings: Iterable[Finding]) -> float:
    return _bounded(100.0 - sum(map(_security_weight, findings)))


def _security_weight(finding: Finding) -> float:
    """An unpinned requirement is a remark; one from elsewhere is grave."""
    is_remark = finding.kind == "dependency" and finding.severity is not Severity.HIGH
    return _WEIGHTS[Severity.LOW if is_remark else finding.severity]


def _maintainability(files: Mapping[str, File], sizes: Mapping[str, Any]) -> float:
    """radon's index of every source file, weighted by its lines; one that is no Python counts 0."""
    sources = {path: file for path, file in files.items() if not is_test_path(path)} or dict(files)
    found = _radon("mi", sources)
    weights = {path: max(1, int(sizes[path]["sloc"]) if path in sizes else 1) for path in sources}
    total = sum(weights[path] * float(found.get(path, {}).get("mi", 0.0)) for path in sources)
    return _bounded(total / sum(weights.values()))


def _most_complex(files: Mapping[str, File]) -> int:
    blocks = (each for told in _radon("cc", files).values() if isinstance(told, list) for each in told)
    return max((int(each["complexity"]) for each in blocks), default=0)


def _radon(command: str, files: Mapping[str, File]) -> dict[str, Any]:
    ran = run_tool("radon", (command, "--json"), files)
    return {ran.path(name): told for name, told in ran.json().items()}


def _bounded(score: float) -> float:
    return round(min(100.0, max(0.0, score)), 1)
