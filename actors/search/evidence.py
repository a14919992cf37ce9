"""What tests and failures say beside pass and fail: values, expected exceptions, messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from actors.search.inside.text import decode
from actors.search.locate import Traces
from actors.search.mutators.site import Evidence
from actors.search.snapshots import Snapshots
from orchestrator.tree import File, Tree

_LITERAL = re.compile(r"-?\d+\.\d+|-?\d+|'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")
_COMPARED = re.compile(r"(?:AssertionError: )?assert (.+) == (.+)$")
_UNRAISED = re.compile(r"DID NOT RAISE <class '(?:\w+\.)*(\w+)'>|(\w+) not raised")
_MAX = 40
_MAX_VISITS = 12


def gather(tree: Tree, traces: Traces, failing: Iterable[str]) -> Evidence:
    """Evidence from the failing tests' source and from how they failed."""
    failing = list(failing)
    constants: dict[str, None] = {}
    raises: dict[str, None] = {}
    for test in failing[:20]:
        message = str(traces.failures.get(test, {}).get("message", ""))
        for text in _LITERAL.findall(message.split("\n", maxsplit=1)[0][:400]):
            constants.setdefault(_normal(text))
    for node in _test_nodes(tree.files, failing):
        for part in ast.walk(node):
            if (
                isinstance(part, ast.Constant)
                and type(part.value) in (int, float, str)
                and len(repr(part.value)) < 60
            ):
                constants.setdefault(repr(part.value))
            elif isinstance(part, ast.Call) and ast.unparse(part.func).endswith(("raises", "assertRaises")):
                for kind in part.args[:1]:
                    raises.setdefault(ast.unparse(kind).split(".")[-1])
    errors = {
        (str(failure["type"]), str(failure["message"])[:400])
        for test, failure in traces.failures.items()
        if test in failing
    }
    errors |= {(kind, text) for kind, text in _collection_errors(traces.collection)}
    return Evidence(
        snapshots=_snapshots(traces, frozenset(failing)),
        constants=tuple(text for text in constants if text)[:_MAX],
        types={
            place: {name: tuple(kinds) for name, kinds in names.items()}
            for place, names in traces.types.items()
        },
        raises=tuple(kind for kind in raises if kind.isidentifier()),
        errors=tuple(sorted(errors)),
        unraised=tuple(sorted({found for _, text in errors for found in _unraised(text)})),
        differences=tuple(dict.fromkeys(_differences(traces, failing))),
        wanted=tuple(dict.fromkeys(_wanted(traces, failing))),
    )


def _snapshots(traces: Traces, failing: frozenset[str]) -> dict[tuple[str, int], Snapshots]:
    """Distinct visits per file and line."""
    found: dict[tuple[str, int], tuple[dict[str, Any], dict[str, Any]]] = {}
    truncated = {
        (path, line)
        for noted in traces.visits.values()
        for path, lines in noted["truncated"].items()
        for line in lines
    }
    for test, noted in traces.visits.items():
        for path, lines in noted["values"].items():
            for line, visits in lines.items():
                kept = found.setdefault((path, int(line)), ({}, {}))[test not in failing]
                for visit in visits:
                    kept.setdefault(repr(visit), visit)
    return {
        place: Snapshots(
            failing=list(one.values())[:_MAX_VISITS],
            passing=list(other.values())[:_MAX_VISITS],
            truncated=place in truncated or len(one) > _MAX_VISITS,
        )
        for place, (one, other) in found.items()
    }


def _unraised(text: str) -> Iterator[str]:
    """Exception types that pytest and unittest say were not raised."""
    for names in _UNRAISED.findall(text):
        yield from (name for name in names if name)


def _wanted(traces: Traces, failing: Iterable[str]) -> Iterator[str]:
    for test in failing:
        line = str(traces.failures.get(test, {}).get("message", "")).split("\n")[0]
        found = _COMPARED.match(line)
        value = _value(found.group(2)) if found is not None else None
        if value is not None:
            yield type(value).__name__


def _differences(traces: Traces, failing: Iterable[str]) -> Iterator[tuple[str, str]]:
    for test in failing:
        line = str(traces.failures.get(test, {}).get("message", "")).split("\n")[0]
        found = _COMPARED.match(line)
        if found is None:
            continue
        actual, expected = map(_value, found.groups())
        if isinstance(actual, str) and isinstance(expected, str):
            yield actual, expected
        elif isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
            yield from (
                (one, other)
                for one, other in zip(actual, expected, strict=False)
                if isinstance(one, str) and isinstance(other, str) and one != other
            )


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _collection_errors(texts: Iterable[str]) -> list[tuple[str, str]]:
    return [
        (kind, message)
        for text in texts
        for kind, message in re.findall(r"^E\s+(\w*(?:Error|Exception)): (.*)$", text, flags=re.MULTILINE)
    ]


def _normal(text: str) -> str:
    try:
        return repr(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return ""


def _test_nodes(files: Mapping[str, File], failing: Iterable[str]) -> list[ast.AST]:
    wanted: dict[str, set[str]] = {}
    for test in failing:
        path, _, rest = test.partition("::")
        wanted.setdefault(path, set()).add(rest.split("[")[0].split("::")[-1])
    nodes: list[ast.AST] = []
    for path, names in wanted.items():
        try:
            tree = ast.parse(decode(files[path].content)[0].removeprefix("\ufeff"))
        except (KeyError, ValueError, SyntaxError, RecursionError):
            continue
        nodes += [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in names
        ]
    return nodes
