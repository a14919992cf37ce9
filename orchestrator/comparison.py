"""Two runs side by side: where their facts part, and how nodes, outcomes, patches and costs differ. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.events import ASIDE, Event, Kind, RunState, fold

# A run's own life, and what tells nothing of what was worked out.
_ASIDE = ASIDE | {
    *(Kind.RUN_RESUMED, Kind.PAUSE_REQUESTED, Kind.CANCEL_REQUESTED),
    *(Kind.STEP_REQUEUED, Kind.STEP_PROGRESS),
}
# Measured or given, not worked out; what a step or node gave holds what it measured.
_OWN = frozenset(
    {
        *("life", "key", "fingerprint", "parent", "agents", "replica", "lessons"),
        *("wall_s", "cpu_s", "gpu_s", "cost_usd", "tokens", "candidates", "result", "artifact", "metrics"),
    }
)


def compared(
    first: Sequence[Event],
    second: Sequence[Event],
    results: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> dict[str, Any]:
    """What two runs have in common and where they differ, as JSON values; pairs are first, second.

    Args:
        first, second: All events of one run each.
        results: Of both, as `orchestrator.report.result` gives them.

    Returns:
        `runs`; `equal`: status, reason, nodes, verdict and patch are the same; `same_task`, `same_graph`;
        `parted_at`: the first fact of each that is not in both, None when there is none; `shared`: how many
        of the first's are; `outcome`, `cost`: pairs by name; `events`: how many; `nodes`, `steps`, `tests`
        (of both verdicts): pairs by name, of those that differ; `patch`: `same`, and per run its `files`.
    """
    states = (fold(first), fold(second))
    told = [_facts(first), _facts(second)]
    rest = [_without(told[0], told[1]), _without(told[1], told[0])]
    outcome = _pairs([{"status": str(each.status), "reason": each.reason} for each in states])
    nodes = _differing([_nodes(each) for each in states])
    patch = {
        "same": results[0]["diff"] == results[1]["diff"],
        "files": [list(each.get("files") or ()) for each in results],
    }
    tests = _differing([_tests(each.get("verdict")) for each in results])
    return {
        "runs": [each.run_id for each in states],
        "equal": not nodes and not tests and patch["same"] and _is_same(outcome),
        "same_task": _task(states[0]) == _task(states[1]),
        "same_graph": states[0].graph_version == states[1].graph_version,
        "shared": len(told[0]) - len(rest[0]),
        "parted_at": [_place(each) for each in rest] if any(rest) else None,
        "outcome": outcome,
        "events": [len(first), len(second)],
        "nodes": nodes,
        "steps": _differing([_steps(each) for each in states]),
        "patch": patch,
        "tests": tests,
        "cost": _pairs([_cost(*each) for each in zip(states, results, strict=True)]),
    }


def _facts(events: Sequence[Event]) -> list[tuple[Event, str]]:
    """The run's facts with what of them can be compared."""
    return [
        (event, json.dumps([event.type, event.step, event.attempt, _worked_out(event.data)], sort_keys=True))
        for event in events
        if event.type not in _ASIDE
    ]


def _worked_out(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in _OWN}


def _without(facts: Sequence[tuple[Event, str]], others: Sequence[tuple[Event, str]]) -> list[Event]:
    """Those of `facts` that are not among `others`, in whichever order steps side by side ended."""
    free = Counter(fact for _, fact in others)
    left = []
    for event, fact in facts:
        if free[fact]:
            free[fact] -= 1
        else:
            left.append(event)
    return left


def _place(left: Sequence[Event]) -> dict[str, Any] | None:
    if not left:
        return None
    event = left[0]
    return {"seq": event.seq, "type": str(event.type), "step": event.step, "attempt": event.attempt}


def _task(state: RunState) -> dict[str, Any]:
    return {name: value for name, value in state.task.items() if name != "id"}


def _nodes(state: RunState) -> dict[str, Any]:
    return {
        name: {"status": node.status, **{key: node.data.get(key) for key in ("reason", "files")}}
        for name, node in state.nodes.items()
    }


def _steps(state: RunState) -> dict[str, Any]:
    return {
        f"{step}.{attempt}" if attempt else step: done.status for (step, attempt), done in state.steps.items()
    }


def _tests(verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    groups = ("passed", "failed", "errors", "missing", "flaky", "skipped")
    return {test: group for group in groups for test in (verdict or {}).get(group, ())}


def _cost(state: RunState, result: Mapping[str, Any]) -> dict[str, Any]:
    used = state.usage
    return {
        "requests": used.requests,
        "prompt_tokens": used.prompt,
        "completion_tokens": used.completion,
        "gpu_s": used.gpu_s,
        "cost_usd": used.cost_usd,
        "attempts": state.attempt,
        "wall_s": result.get("wall_s"),
    }


def _pairs(both: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [each[name] for each in both] for name in both[0]}


def _differing(both: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys([*both[0], *both[1]])
    pairs = {name: [each.get(name) for each in both] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _is_same(pairs: Mapping[str, list[Any]]) -> bool:
    return all(first == second for first, second in pairs.values())
