"""Where the fault may be: suspicion per line from what passing and failing tests execute."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actors.search.source import Function, Source

Lines = dict[str, dict[int, float]]
#: `where 3 = <…>.count`, `where 3 = total(…)` in pytest's explanation of an assertion.
_SHOWN = re.compile(r"where .* = (?:.*\.)?(\w+)(?:\(.*\))?$", flags=re.MULTILINE)
_ASSERTED = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What the worker's `trace` and `start` told.

    Attributes:
        lines: Per test and file, the lines executed.
        types: Type names per function (`path:first line`) and name.
        calls: Arguments of calls seen, as literals, per function (`path:name`).
        visits: What names held per test, file and line, and which lines were visited more often than noted.
        failures: Per failing test its exception's type, message and frames in task files.
        collection: Text of each collection error.
    """

    lines: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    types: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    calls: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    visits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    collection: tuple[str, ...] = ()


def of_tests(traces: Traces, wanted: Iterable[str], failing: Iterable[str]) -> Traces:
    """What was traced of the `wanted` failing tests and of the passing ones."""
    hidden = frozenset(failing) - frozenset(wanted)
    return replace(
        traces,
        lines={test: lines for test, lines in traces.lines.items() if test not in hidden},
        failures={test: failure for test, failure in traces.failures.items() if test not in hidden},
    )


def suspicion(sources: Mapping[str, Source], traces: Traces, failing: Iterable[str]) -> Lines:
    """A score in [0, 1] per line of each file; lines without one are not suspected.

    The mean of Ochiai's coefficient (Abreu et al., 2007) and of D* (Wong et al., 2014) brought into [0, 1];
    lines of a traceback count more, and so does what gives the values that a failing assertion names.
    """
    failing = frozenset(failing)
    scores = spectrum(traces.lines, failing)
    if not scores and not traces.collection:
        scores = {
            path: dict.fromkeys(range(1, len(source.starts) + 1), 0.3) for path, source in sources.items()
        }
    _add_tracebacks(scores, traces.failures)
    _add_asserted(scores, sources, traces.failures)
    _add_collection_errors(scores, sources, traces.collection)
    _add_definitions(scores, sources)
    return scores


def spectrum(lines: Mapping[str, Mapping[str, Sequence[int]]], failing: frozenset[str]) -> Lines:
    """Suspicion per line from how many failing and passing tests run it."""
    failed: dict[tuple[str, int], int] = {}
    passed: dict[tuple[str, int], int] = {}
    for test, files in lines.items():
        counts = failed if test in failing else passed
        for path, numbers in files.items():
            for line in numbers:
                counts[path, line] = counts.get((path, line), 0) + 1
    total = sum(1 for test in lines if test in failing)
    scores: Lines = {}
    for (path, line), count in failed.items():
        others = passed.get((path, line), 0)
        score = (ochiai(count, others, total) + d_star(count, others, total)) / 2
        scores.setdefault(path, {})[line] = score
    return scores


def ochiai(failed: int, passed: int, total: int) -> float:
    """Ochiai's coefficient of a line that `failed` of `total` failing tests run, and `passed` others."""
    return failed / math.sqrt(total * (failed + passed))


def d_star(failed: int, passed: int, total: int) -> float:
    """D* with exponent 2, failed² / (passed + failing tests that do not run the line), as x / (1 + x)."""
    return failed**2 / (failed**2 + passed + total - failed)


def covering(
    lines: Mapping[str, Mapping[str, Sequence[int]]], failing: Sequence[str]
) -> dict[tuple[str, int], list[str]]:
    """Failing tests per line, those that execute the least first."""
    weight = {test: sum(len(numbers) for numbers in lines.get(test, {}).values()) for test in failing}
    table: dict[tuple[str, int], list[str]] = {}
    for test in sorted(failing, key=lambda test: weight[test]):
        for path, numbers in lines.get(test, {}).items():
            for line in numbers:
                table.setdefault((path, line), []).append(test)
    return table


def _add_tracebacks(scores: Lines, failures: Mapping[str, Mapping[str, Any]]) -> None:
    for failure in failures.values():
        for depth, (path, line, _) in enumerate(reversed(failure["frames"])):
            old = scores.setdefault(path, {}).get(line, 0.3)
            factor = 1.6 if depth == 0 else 1.25
            scores[path][line] = min(1.0, old * factor)


def _add_asserted(
    scores: Lines, sources: Mapping[str, Source], failures: Mapping[str, Mapping[str, Any]]
) -> None:
    """Lines that write an attribute, or return from a function, whose value a failing assertion shows."""
    shown: set[str] = set()
    for failure in failures.values():
        shown |= set(_SHOWN.findall(str(failure.get("message", ""))))
    for path, lines in scores.items():
        source = sources.get(path)
        for node in source.statements if source and shown else ():
            if node.lineno in lines and source is not None and _gives(source, node) & shown:
                lines[node.lineno] = min(1.0, lines[node.lineno] * _ASSERTED)


def _gives(source: Source, node: ast.stmt) -> set[str]:
    """Attributes that a statement writes to, and the function that it returns from."""
    if isinstance(node, ast.Return):
        function = source.function_of(node)
        return {function.name} if function is not None else set()
    if not isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.Delete):
        return set()
    return {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}


def _add_collection_errors(scores: Lines, sources: Mapping[str, Source], texts: Sequence[str]) -> None:
    for text in texts:
        places = re.findall(
            r'^(?:E\s+)?(?:\s*File ")?([^\s":]+\.py)(?::|", line )(\d+)', text, flags=re.MULTILINE
        )
        for name, number in places:
            path = next((path for path in sources if name == path or name.endswith(f"/{path}")), None)
            if path is None:
                continue
            known = scores.setdefault(path, {})
            known[int(number)] = 1.0
            for line in range(1, len(sources[path].starts) + 1):
                known.setdefault(line, 0.15)


def _add_definitions(scores: Lines, sources: Mapping[str, Source]) -> None:
    """Lines run at import: constants, fields and defaults that suspected lines use."""
    wanted: dict[str, float] = {}
    for path, lines in scores.items():
        source = sources.get(path)
        for node in ast.walk(source.tree) if source and source.tree else ():
            name = (
                node.id
                if isinstance(node, ast.Name)
                else node.attr
                if isinstance(node, ast.Attribute)
                else ""
            )
            score = lines.get(getattr(node, "lineno", 0), 0.0)
            if name and score:
                wanted[name] = max(wanted.get(name, 0.0), score)
    top = max((score for lines in scores.values() for score in lines.values()), default=0.3)
    for path, source in sources.items():
        for node in source.statements:
            if source.function_of(node) is not None:
                continue
            score = max((wanted.get(name, 0.0) for name in _names_bound(node)), default=0.0) * 0.8
            if isinstance(source.parent(node), ast.ClassDef) and isinstance(node, ast.AnnAssign):
                score = max(score, 0.3 * top)
            if score:
                known = scores.setdefault(path, {})
                for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                    known[line] = max(known.get(line, 0.0), score)


def _names_bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
    if isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, Function):
        return [node.name]
    return []
