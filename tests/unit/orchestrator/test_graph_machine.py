"""Random graphs, orders and cuts: whatever happens, a graph ends as if nothing had, and repeats no end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Mapping
from typing import Any

from fakes import FakeRun
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.graphs import parsed
from orchestrator.declaration import Declaration
from orchestrator.events import Status
from orchestrator.graph_check import needed
from orchestrator.graph_run import Given, execute
from orchestrator.loop import Outcome
from orchestrator.tree import File


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Declaration, frozenset[str]]:
    """A graph without circles, and which of its nodes fail."""
    names = [f"n{number}" for number in range(draw(st.integers(1, 8)))]
    nodes: dict[str, Any] = {}
    for number, name in enumerate(names):
        before = draw(st.lists(st.sampled_from(names[:number]), unique=True, max_size=3)) if number else []
        nodes[name] = {"kind": "agent", "role": "run", "work": "profile", "needs": before}
        nodes[name]["policy"] = {"on_failure": "continue"}
        if before and draw(st.booleans()):
            nodes[name]["when"] = {
                draw(st.sampled_from(["any", "all"])): [f"${each}.green" for each in before]
            }
        if before and draw(st.booleans()):
            nodes[name]["patch_of"] = before[0]
    nodes["end"] = {"kind": "agent", "role": "run", "work": "profile", "needs": names}
    failing = draw(st.sets(st.sampled_from(names)))
    declared = {"name": "g", "nodes": nodes, "result": ["end"]}
    return parsed(json.dumps(declared), "g.yaml"), frozenset(failing)


class CutOff(Exception):
    """The process is gone."""


class Life:
    """One life of a run: works take random turns, and after so many ends the process is gone."""

    def __init__(self, graph: Declaration, failing: frozenset[str], seed: int, ends: int = 10**6) -> None:
        self.graph, self.failing, self.left = graph, failing, ends
        self.chance = random.Random(seed)
        self.began: list[str] = []

    def __call__(self, _node: object) -> Any:
        return self._work

    async def _work(self, given: Given) -> tuple[Outcome, Mapping[str, Any]]:
        name = given.run.place.path
        assert needed(self.graph.nodes[name]) <= given.others.keys()
        self.began.append(name)
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)
        if self.left == 0:
            raise CutOff
        self.left -= 1
        changes = {f"{name}.py": File(content=name.encode())}
        if name in self.failing:
            return Outcome(status=Status.FAILED, reason="no_candidate"), {}
        return Outcome(status=Status.SUCCEEDED, reason="done", changes=changes), {}


@given(made=graphs(), seeds=st.lists(st.integers(0, 99), min_size=2, max_size=6), data=st.data())
@settings(max_examples=60, deadline=None)
def test_cuts_and_orders_change_nothing(
    made: tuple[Declaration, frozenset[str]], seeds: list[int], data: st.DataObject
) -> None:
    graph, failing = made
    whole = FakeRun({})
    expected = asyncio.run(execute(graph, whole, Life(graph, failing, 0)))

    run, ended = FakeRun({}), list[str]()
    for seed in seeds[:-1]:
        life = Life(graph, failing, seed, data.draw(st.integers(0, len(graph.nodes))))
        known = set(run.ended)
        with contextlib.suppress(CutOff):
            asyncio.run(execute(graph, run, life))
        assert known.isdisjoint(life.began)
        ended += [name for name in run.ended if name not in known]
    run.news = asyncio.Event()
    outcome = asyncio.run(execute(graph, run, last := Life(graph, failing, seeds[-1])))

    assert outcome == expected
    assert run.ended == whole.ended
    assert len(ended) == len(set(ended)) and set(ended).isdisjoint(last.began)
