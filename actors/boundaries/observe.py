"""What calls answer on an accepted tree, seen in a sandbox, and written down as tests."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from actors.judge.suite import Suite, run_suite
from actors.sandbox.layer import Layer
from actors.sandbox.port import Sandbox
from orchestrator.steps import Observed, ObserveRequest, ProposedCall
from orchestrator.tree import File, Tree
from orchestrator.verdict import Outcome

MOST_TESTS = 40
MOST_EACH = 6
_LONGEST = 300
_TOLD = "RAYSMITH "
# Errors that say something about the code; any other may come from a call that makes no sense.
_RAISED = ("ArithmeticError", "IndexError", "KeyError", "LookupError", "OverflowError", "ValueError")
_PROBE = """\
import ast, json, pytest
{imports}

def _plain(value):
    try:
        text = repr(value)
        return text if len(text) <= {longest} and ast.literal_eval(text) == value else None
    except Exception:
        return None

def _seen(call):
    try:
        return "value", _plain(call())
    except ({raised}, ZeroDivisionError) as error:
        known = type(error).__name__ if type(error).__module__ == "builtins" else None
        return "raises", known

@pytest.mark.parametrize("number", range({count}))
def test_seen(number):
    call = _CALLS[number]
    first = _seen(call)
    again = _seen(call)
    pytest.fail({told!r} + json.dumps(first if first == again else ("differs", None)), pytrace=False)

_CALLS = [
{calls}
]
"""


async def observe(sandbox: Sandbox, layer: Layer, request: ObserveRequest) -> Observed:
    """Tests of the calls that answer with a plain value or an error, the same twice.

    Raises:
        SandboxError: A sandbox could not be started or broke.
    """
    found: dict[str, File] = {}
    by_file: dict[str, list[ProposedCall]] = {}
    for call in request.calls:
        by_file.setdefault(call.path, []).append(call)
    for path, calls in by_file.items():
        seen = await _seen(sandbox, layer, request, path, calls)
        chosen = _chosen(calls, seen)
        if chosen:
            name = free_name(request.tree, path)
            found[name] = File(content=written(path, chosen).encode())
    return Observed(files=found, tried=len(request.calls))


async def _seen(
    sandbox: Sandbox, layer: Layer, request: ObserveRequest, path: str, calls: Sequence[ProposedCall]
) -> dict[int, tuple[str, str]]:
    """By the number of a call, what was seen."""
    probe = free_name(request.tree, path, "probe")
    text = _PROBE.format(
        imports="\n".join(dict.fromkeys(call.imports for call in calls)),
        longest=_LONGEST,
        raised=", ".join(_RAISED),
        count=len(calls),
        told=_TOLD,
        calls="\n".join(f"    lambda: {call.expression}," for call in calls),
    )
    profile = request.profile
    suite = Suite(
        arguments=(probe,),
        options=profile.options,
        plugins=profile.plugins,
        protected=profile.protected | {probe},
    )
    tree = request.tree.with_files({probe: File(content=text.encode())})
    run = (await run_suite(sandbox, layer, tree, suite, timeout_s=request.timeout_s)).run
    found = {}
    for case in run.cases:
        number = re.search(r"\[(\d+)\]$", case.id)
        told = case.detail.strip()
        if case.outcome is Outcome.FAILED and number and told.startswith(_TOLD):
            kind, value = json.loads(told.removeprefix(_TOLD))
            # A stub answers None too, so that such a test would notice nothing.
            if kind in ("value", "raises") and value not in (None, "None"):
                found[int(number[1])] = (kind, value)
    return found


def _chosen(
    calls: Sequence[ProposedCall], seen: Mapping[int, tuple[str, str]]
) -> list[tuple[ProposedCall, tuple[str, str]]]:
    """At most `MOST_EACH` of every name, in all `MOST_TESTS`; different answers first."""
    chosen: list[tuple[ProposedCall, tuple[str, str]]] = []
    answers: set[tuple[str, str, str]] = set()
    each: dict[str, int] = {}
    later: list[tuple[ProposedCall, tuple[str, str]]] = []
    for number, answer in sorted(seen.items()):
        call = calls[number]
        is_new = (call.name, *answer) not in answers
        answers.add((call.name, *answer))
        (chosen if is_new else later).append((call, answer))
    kept: list[tuple[ProposedCall, tuple[str, str]]] = []
    for call, answer in [*chosen, *later]:
        if each.get(call.name, 0) < MOST_EACH and len(kept) < MOST_TESTS:
            each[call.name] = each.get(call.name, 0) + 1
            kept.append((call, answer))
    return kept


def free_name(tree: Tree, path: str, what: str = "boundaries") -> str:
    """A test file beside `path` that is not there yet."""
    place = PurePosixPath(path)
    stem = place.stem if place.stem.startswith("test_") else f"test_{place.stem.removesuffix('_test')}"
    names = (f"{stem}_{what}{number}.py" for number in ("", *map(str, range(2, 1000))))
    return next(str(place.with_name(name)) for name in names if str(place.with_name(name)) not in tree.files)


def written(path: str, chosen: Sequence[tuple[ProposedCall, tuple[str, str]]]) -> str:
    """The text of a test file."""
    like = f"Calls like those of {PurePosixPath(path).name} with values next to its own"
    head = f'"""{like}, as the accepted code answers them."""'
    imports = sorted({line for call, _ in chosen for line in call.imports.splitlines()})
    if any(kind == "raises" for _, (kind, _) in chosen):
        imports = ["import pytest", "", *imports]
    numbers: dict[str, int] = {}
    tests = []
    for call, (kind, value) in chosen:
        numbers[call.name] = number = numbers.get(call.name, 0) + 1
        name = re.sub(r"\W", "_", call.name).strip("_").lower()
        tests.append(f"def test_{name}_boundary_{number}():\n{_body(call.expression, kind, value)}")
    return "\n\n\n".join(["\n".join([head, "", *imports]), *tests]) + "\n"


def _body(expression: str, kind: str, value: str) -> str:
    if kind == "raises":
        return f"    with pytest.raises({value}):\n        {expression}"
    operator = "is" if isinstance(ast.literal_eval(value), bool) else "=="
    return f"    assert {expression} {operator} {value}"
