"""The command `context`: what a run's models were shown, from the manifests beside its steps' results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from orchestrator.events import RunState
from serve.commands import options
from serve.commands.door import Door, open_door
from serve.commands.past import recall
from serve.render import clean


def context(
    run: options.RunId,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Show what a run's models were shown: every part with reason and tokens, and what was left out."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    state, _ = recall(door, run)
    steps = list(_steps(door, state))
    if as_json:
        door.screen.object({"run_id": state.run_id, "steps": steps})
        return 0
    if not steps:
        door.screen.line(f"no model was shown anything in run {state.run_id}")
    for step in steps:
        for manifest in step["contexts"]:
            for line in _lines(step, manifest):
                door.screen.line(line)
    return 0


def _steps(door: Door, state: RunState) -> Iterator[dict[str, Any]]:
    """The steps with manifests; results of earlier releases have none."""
    artifacts = door.artifacts()
    for (step, attempt), done in state.steps.items():
        if done.result is None:
            continue
        result = json.loads(artifacts.get(done.result))
        if isinstance(result, dict) and result.get("contexts"):
            yield {"step": step, "attempt": attempt, "contexts": result["contexts"]}


def _lines(step: dict[str, Any], manifest: dict[str, Any]) -> Iterator[str]:
    room = f" of {manifest['room']}" if manifest["room"] is not None else ""
    attempt = f" (attempt {step['attempt']})" if step["attempt"] else ""
    template = f"{manifest['template']} {manifest['version']}"
    yield f"{clean(step['step'])}{attempt}: {manifest['prompt']}{room} tokens by template {clean(template)}"
    for part in manifest["shown"]:
        name = f"{part['kind']} {part['name']}" if part["name"] != part["kind"] else part["kind"]
        yield f"  {part['tokens']:6}  {clean(name)}: {clean(part['why'])}"
    for part in manifest["left_out"]:
        yield f"       -  {clean(part['kind'])} {clean(part['name'])} was left out: {clean(part['why'])}"
