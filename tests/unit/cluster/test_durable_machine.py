"""Random graphs of every kind of node, orders, cuts and forks: nothing is lost, done twice or changed."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import tree
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_house import BASE, ScriptedFleet, run_of

from cluster.artifacts import ArtifactStore
from cluster.event_log_chain import to_line
from cluster.event_log_memory import MemoryEventLog
from cluster.graphs import parsed
from cluster.handles import Dispatch
from cluster.orchestrator import Orchestrator
from cluster.orchestrator_settings import OrchestratorSettings
from orchestrator.declaration import Declaration
from orchestrator.errors import SandboxError, StoreOwned, TaskError
from orchestrator.events import Event, Kind, NewEvent, RunState, Status, apply, canonical, fold
from orchestrator.forking import start_of
from orchestrator.steps import Profiled
from orchestrator.task import Task
from orchestrator.verdict import TestProfile

pytestmark = pytest.mark.slow

PROFILE = {"kind": "agent", "role": "run", "work": "profile"}
INNER = {"name": "inner", "nodes": {"a": PROFILE, "b": {**PROFILE, "needs": ["a"]}}, "result": ["b"]}
KINDS = ("agent", "fan_out", "graph", "gate", "flaky", "closed", "choice", "bounded")


def node(kind: str, before: Sequence[str]) -> dict[str, Any]:
    """A node of this kind that needs those before it."""
    needs: dict[str, Any] = {"needs": list(before)}
    match kind:
        case "fan_out":
            return {**PROFILE, **needs, "for_each": [1, 2, 3], "max_parallel": 2}
        case "graph":
            return {"kind": "graph", "graph": "inner", **needs}
        case "gate":
            return {"kind": "approval", "message": "Go on?", **needs}
        case "flaky":
            return {**PROFILE, **needs, "policy": {"retry": {"attempts": 2, "backoff_s": 0.0}}}
        case "closed":
            return {**PROFILE, **needs, "policy": {"on_failure": "continue"}}
        case "choice" if before:
            return {**PROFILE, **needs, "when": f"${before[0]}.green"}
        case "bounded":
            return {**PROFILE, **needs, "policy": {"budget": {"wall_s": 60, "tokens": 100}}}
    return {**PROFILE, **needs}


@st.composite
def graphs(draw: st.DrawFn) -> Declaration:
    """A graph without circles; a node's name tells its kind."""
    nodes: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(KINDS))
        before = draw(st.lists(st.sampled_from(list(nodes)), unique=True, max_size=2)) if nodes else []
        nodes[f"{kind}{number}"] = node(kind, before)
    nodes["end"] = {**PROFILE, "needs": list(nodes)}
    declared = {"name": "g", "nodes": nodes, "graphs": {"inner": INNER}, "result": ["end"]}
    if not any(each["kind"] == "graph" for each in nodes.values()):
        del declared["graphs"]
    return parsed(json.dumps(declared), "g.yaml")


class CutLog(MemoryEventLog):
    """Takes so many more events, then belongs to somebody else: as for an orchestrator that was killed."""

    left = 10**9
    is_cut = False

    def cut_after(self, events: int) -> None:
        self.left, self.is_cut = events, False

    async def append(self, events: Sequence[NewEvent]) -> Sequence[Event]:
        await asyncio.sleep(0)
        self.is_cut = self.is_cut or len(events) > self.left
        if self.is_cut:
            raise StoreOwned("cut off")
        self.left -= len(events)
        return self.append_blocking(events)


class Agents(ScriptedFleet):
    """Take random turns; under `flaky` the first try of a step fails, under `closed` every one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)

    async def execute(self, dispatch: Dispatch, *, on_dispatched: Callable[..., Any], **_: Any) -> Any:
        await on_dispatched("run-01", dispatch.epoch)
        self.began.append(f"{dispatch.step}.{dispatch.epoch}")
        for _turn in range(self.chance.randrange(5)):
            await asyncio.sleep(0)
        if dispatch.step.startswith("flaky") and dispatch.epoch == 1:
            raise SandboxError("once only")
        if dispatch.step.startswith("closed"):
            raise TaskError("this way is closed")
        return Profiled(profile=TestProfile(expected=BASE), run=run_of(BASE))


class World:
    """A log and artifacts that outlive every orchestrator."""

    def __init__(self, folder: Path, graph: Declaration) -> None:
        self.log = CutLog()
        self.artifacts = ArtifactStore(str(folder))
        self.task = Task(id="t", graph=graph.name, declaration=json.loads(graph.canonical_json()))

    def orchestrator(self, seed: int) -> tuple[Orchestrator, Agents]:
        agents = Agents(seed)
        made = Orchestrator(
            event_log=self.log,  # type: ignore[arg-type]
            artifacts=self.artifacts,
            fleet=agents,  # type: ignore[arg-type]
            settings=OrchestratorSettings(),
            life="life",
        )
        return made, agents

    async def submitted(self, seed: int) -> str:
        orchestrator, _ = self.orchestrator(seed)
        run_id = await orchestrator.submit(self.task, tree(a="start"))
        await self.lived(orchestrator, run_id)
        return run_id

    async def lived(self, orchestrator: Orchestrator, run_id: str) -> RunState:
        """Answer every gate; how the run stands when it has ended or this life has."""
        async with asyncio.timeout(60):
            while True:
                states = await orchestrator.wait([run_id], 0.01)
                state = self.log.state(run_id)
                if self.log.is_cut or (states and state.status is not Status.PARKED):
                    break
                for gate, asked in state.approvals.items():
                    if asked.approved is None:
                        try:
                            await orchestrator.decide(run_id, gate, approved=True, by="ann")
                        except StoreOwned:
                            return self.log.state(run_id)
        for task in [each for each in asyncio.all_tasks() if each.get_name().startswith("r-")]:
            task.cancel()
            await asyncio.wait([task])
        return self.log.state(run_id)


def shown(state: RunState) -> Any:
    return state.status, state.reason, {name: node.status for name, node in state.nodes.items()}


@given(
    graph=graphs(),
    seeds=st.lists(st.integers(0, 99), min_size=3, max_size=3),
    cuts=st.lists(st.integers(3, 40), min_size=1, max_size=4),
    data=st.data(),
)
@settings(max_examples=15, deadline=None)
def test_cut_anywhere_and_forked_anywhere_a_run_ends_as_if_nothing_had(
    graph: Declaration, seeds: list[int], cuts: list[int], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world, whole = World(Path(folder), graph), World(Path(folder), graph)
        expected = asyncio.run(_whole(whole, seeds[0]))
        run_id = asyncio.run(_cut(world, seeds[1], cuts))

        events = world.log.events(run_id)
        state = fold(events)
        assert shown(state) == shown(expected)
        assert world.log.check().problems == ()
        by_one = fold(events[:1])
        for event in events[1:]:
            by_one = apply(by_one, event)
        assert by_one == state
        ends = [event.step for event in events if event.type is Kind.NODE_ENDED]
        assert len(ends) == len(set(ends))

        start = data.draw(st.sampled_from(sorted({str(each) for each in ends})))
        asyncio.run(_forked(world, run_id, start, seeds[2]))


async def _whole(world: World, seed: int) -> RunState:
    return world.log.state(await world.submitted(seed))


async def _cut(world: World, seed: int, cuts: list[int]) -> str:
    """The run's id after a life for each cut, and one that nothing cuts."""
    world.log.cut_after(cuts[0] + 1)
    run_id = await world.submitted(seed)
    for number, left in enumerate([*cuts[1:], 10**9]):
        world.log.cut_after(left)
        before = world.log.state(run_id)
        orchestrator, agents = world.orchestrator(seed + number)
        await orchestrator.resume()
        await world.lived(orchestrator, run_id)
        over = {name for (name, _), step in before.steps.items() if step.status == "completed"}
        assert over.isdisjoint(step.rpartition(".")[0] for step in agents.began)
    return run_id


async def _forked(world: World, run_id: str, start: str, seed: int) -> None:
    """The fork has the parent's past word for word and ends as it did; the parent is what it was."""
    parent = world.log.events(run_id)
    before = [to_line(event) for event in parent]
    orchestrator, agents = world.orchestrator(seed)

    fork_id = await orchestrator.fork(run_id, start)
    state = await world.lived(orchestrator, fork_id)

    past = parent[: start_of(parent, start) - 1]
    kept = [each for each in past if each.type in (Kind.STEP_COMPLETED, Kind.NODE_STARTED, Kind.NODE_ENDED)]
    forked = world.log.events(fork_id)
    inherited = [each for each in forked[1 : 1 + len(past)] if each.type in {event.type for event in kept}]
    words = [(each.type, each.step, each.attempt, each.epoch, canonical(each.data)) for each in kept]
    assert [
        (each.type, each.step, each.attempt, each.epoch, canonical(each.data))
        for each in inherited[: len(kept)]
    ] == words
    assert [to_line(event) for event in world.log.events(run_id)] == before
    assert shown(state) == shown(world.log.state(run_id))
    done = {each.step for each in kept if each.type is Kind.STEP_COMPLETED}
    assert done.isdisjoint(step.rpartition(".")[0] for step in agents.began)
    assert world.log.check().problems == ()
