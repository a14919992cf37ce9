"""A graph with every kind of node, killed, hung and hurt at every fail point: it ends as if nothing had been.

By default at a few positions of each point; RAYSMITH_FAULTS=all takes every one (`make faults`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graph_child import Lives
from graph_suite import BEFORE, Journal, node_of, run_too_late
from postgres_server import a_schema

from cluster.artifacts import ArtifactStore
from cluster.event_log import EventReader, open_log, open_reader
from cluster.store_settings import StoreSettings
from orchestrator import failpoints
from orchestrator.events import Event, Kind, RunState, fold

pytestmark = pytest.mark.slow

EVERY = os.environ.get("RAYSMITH_FAULTS") == "all"
OWN = "teller.effect_done"
# Of the store's lock, which its own tests pass.
POINTS = sorted({*failpoints.POINTS, OWN} - {"owner.after_lock"})
ACTIONS = ("exit", "block", "raise", "sleep=0.05")


class Suite:
    """Cases on one store, each a run of its own, and the run that nothing happened to."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url
        self.settings = StoreSettings(url=url) if url else StoreSettings()
        open_log(self.settings, home).close()
        self.lives = Lives()
        watch = ",".join(f"{point}:sleep=0" for point in POINTS)
        told = self.life("reference", watch)
        assert told["exit"] == 0
        self.passed: dict[str, int] = told["passed"]
        self.expected = self.state("reference")

    def life(self, case: str, failpoint: str = "") -> dict[str, Any]:
        journal = self.home / f"{case}.journal"
        return self.lives.live(
            home=str(self.home), journal=str(journal), key=case, store=self.url, failpoint=failpoint
        )

    def journal(self, case: str) -> list[list[str]]:
        return Journal(self.home / f"{case}.journal").lines()

    def events(self, case: str) -> list[Event]:
        with self.reader() as reader:
            run_id = reader.find_by_key(case)
            return reader.events(run_id) if run_id else []

    def state(self, case: str) -> RunState:
        return fold(self.events(case))

    def reader(self) -> EventReader:
        return open_reader(self.settings, self.home)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    home = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(a_schema()) if request.param == "postgres" else None
        made = Suite(home, server.url() if server else "")
        stack.callback(made.lives.close)
        yield made
        with made.reader() as reader:
            assert reader.check().problems == ()


def test_the_points_are_those_of_the_code() -> None:
    root = Path(failpoints.__file__).parents[1]
    sources = [
        path
        for part in ("orchestrator", "cluster", "actors", "serve")
        for path in root.glob(f"{part}/**/*.py")
    ]
    named = {
        name for path in sources for name in re.findall(r'failpoints\.hit\("([^"]+)"\)', path.read_text())
    }

    assert named == set(failpoints.POINTS)


def cases(suite: Suite, point: str) -> list[tuple[str, int]]:
    """Which actions at which positions; a Postgres run passes as often as one on SQLite."""
    passed = suite.passed[point]
    number = POINTS.index(point)
    if EVERY:
        others = [(ACTIONS[1 + nth % 3], nth) for nth in range(1, passed + 1, 4)]
        return [("exit", nth) for nth in range(1, passed + 1)] + others
    if suite.url:
        return [("exit", 1 + (5 * number) % passed)]
    return [("exit", 1 + (7 * number) % passed), (ACTIONS[1 + number % 3], 1 + (11 * number + 3) % passed)]


@pytest.mark.parametrize("point", POINTS)
def test_whatever_happens_at_a_point_the_run_ends_as_if_nothing_had(suite: Suite, point: str) -> None:
    for action, nth in cases(suite, point):
        case = f"{point}-{action.partition('=')[0]}-{nth}"
        first = suite.life(case, f"{point}:{action}:{nth}")
        before, journal = suite.events(case), suite.journal(case)
        assert first["exit"] in {"exit": (137, 0), "block": (137, 0), "raise": (0, 1)}.get(action, (0,)), case

        if first["exit"]:
            assert suite.life(case)["exit"] == 0, case

        ends_as_expected(suite, case)
        repeats_only_what_was_in_flight(before, journal, suite.journal(case), case)


def ends_as_expected(suite: Suite, case: str) -> None:
    state, expected = suite.state(case), suite.expected
    assert (state.status, state.reason) == (expected.status, expected.reason), case
    for name in ("patch", "diff", "files"):
        assert state.report[name] == expected.report[name], case
    assert {name: node.status for name, node in state.nodes.items()} == {
        name: node.status for name, node in expected.nodes.items()
    }, case
    assert {gate: asked.approved for gate, asked in state.approvals.items()} == {"ann": True, "bob": True}
    with suite.reader() as reader:
        artifacts = ArtifactStore(str(suite.home / "artifacts" / case))
        found = {digest for event in reader.events(state.run_id) for digest in named_by(event)}
    assert all(artifacts.get(digest) for digest in found), case


def named_by(event: Event) -> list[str]:
    return [event.data[key] for key in ("result", "artifact", "patch", "diff") if event.data.get(key)]


def repeats_only_what_was_in_flight(
    before: list[Event], journal: list[list[str]], whole: list[list[str]], case: str
) -> None:
    began = [words[1] for words in whole if words[0] == "began"]
    assert run_too_late(step.rpartition(".")[0] for step in began) == [], case
    deliveries = Counter(tuple(words[1:]) for words in whole if words[0] == "began")
    assert set(deliveries.values()) == {1}, (case, deliveries)

    over = {f"{each.step}.{each.attempt}" for each in before if each.type is Kind.STEP_COMPLETED}
    ended = {each.step for each in before if each.type is Kind.NODE_ENDED}
    later = [words[1] for words in whole[len(journal) :] if words[0] == "began"]
    assert over.isdisjoint(later), (case, over & set(later))
    assert not [step for step in later if node_of(step.rpartition(".")[0]) in ended], case

    effects = Counter(words[1].partition(":")[2] for words in whole if words[0] == "effect")
    assert effects == Counter(list(BEFORE)), (case, effects)
