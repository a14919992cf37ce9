"""One bug searched by several runners: the same patch as one finds, by real actors and by local processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from local_runners import LocalRunners, LocalSession, Told, profile_of, tree_of

from actors.repairer import SearchRepairer
from actors.search.settings import SearchSettings
from cluster.fleet import ReplicaGroup
from cluster.handles import Dispatch, FleetClient
from orchestrator.errors import SandboxError
from orchestrator.ports import SessionSpec
from orchestrator.steps import Repaired, RepairRequest, Role

pytestmark = pytest.mark.slow

#: Two edits away, and slow enough that a second runner joins.
FILES = {
    "letters.py": (
        "def first_unique(text):\n    for letter in text:\n        if text.count(letter) > 1:\n"
        "            return letter\n    return text[0]\n"
    ),
    "test_letters.py": (
        "from letters import first_unique\n\n\n"
        "def test_first_unique():\n    assert sum(range(20_000)) and first_unique('aabc') == 'b'\n\n\n"
        "def test_none():\n    assert sum(range(20_000)) and first_unique('zz') is None\n\n\n"
        "def test_between():\n    assert first_unique('xyx') == 'y'\n"
    ),
}


async def asked() -> RepairRequest:
    tree = tree_of(FILES)
    profile = await profile_of(tree)
    return RepairRequest(
        base=tree, tree=tree, profile=profile, failing=profile.failing, cpu_s=120, wall_s=600
    )


async def searched(runners: LocalRunners, most: int) -> Repaired:
    """With settings that allow `most` runners, which says nothing of how many there are."""
    return await SearchRepairer(SearchSettings(runners=most)).repair(await asked(), runners, Told())


def same(one: Repaired, other: Repaired) -> bool:
    assert one.best is not None
    assert other.best is not None
    assert one.best.failing == ()
    return (one.best.changes, one.candidates) == (other.best.changes, other.candidates)


class LoneRunners(LocalRunners):
    """One session at a time, as where no second runner is free."""

    @asynccontextmanager
    async def session(self, spec: SessionSpec) -> AsyncIterator[LocalSession]:
        if self.opened:
            raise SandboxError("no second runner is free", "wait")
        async with super().session(spec) as session:
            yield session


class FailingRunners(LocalRunners):
    """Every session but the first is taken away at its second request to evaluate."""

    @asynccontextmanager
    async def session(self, spec: SessionSpec) -> AsyncIterator[LocalSession]:
        async with super().session(spec) as session:
            call, is_first, left = session.call, self.opened == 1, [2]

            async def called(method: str, arguments: object, timeout_s: float) -> object:
                if method == "evaluate" and not is_first:
                    left[0] -= 1
                    if not left[0]:
                        raise SandboxError("its lease was taken back", "open another")
                return await call(method, arguments, timeout_s)  # type: ignore[arg-type]

            session.call = called  # type: ignore[method-assign, assignment]
            yield session


async def test_several_runners_find_what_one_finds_and_losing_some_changes_nothing() -> None:
    pools = [LoneRunners(), LocalRunners(), FailingRunners()]

    alone, three, fewer = [await searched(pool, 3) for pool in pools]

    assert same(alone, three)
    assert same(alone, fewer)
    assert pools[0].opened == 1
    assert pools[1].opened > 1
    assert pools[2].opened > 1


@pytest.fixture
def cluster() -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(Path(__file__).parent)}
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, namespace="search", log_to_driver=False)
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.ray
@pytest.mark.sandbox
async def test_two_runner_replicas_search_one_bug_under_the_repairers_lease(cluster: None) -> None:
    request = await asked()
    groups = (
        ReplicaGroup(name="repairers", roles=("repair",), max_replicas=1, num_cpus=0.1),
        ReplicaGroup(
            name="runners", roles=("run",), min_replicas=2, max_replicas=2, num_cpus=0.1, max_in_flight=1
        ),
    )
    fleet = await FleetClient.start(
        groups=groups, build="search_agents:build", config={"runners": 2}, namespace="search"
    )
    dispatch = Dispatch(
        dispatch_id="r/repair", run_id="r", step="repair", role=Role.REPAIR, method="repair", payload=request
    )
    work = asyncio.ensure_future(fleet.execute(dispatch))
    most = 0
    while not work.done():
        rows = (await fleet.status())["replicas"]
        most = max(most, sum(row["in_flight"] for row in rows if row["name"].startswith("run")))
        await asyncio.sleep(0.1)
    repaired = await work
    left = sum(row["in_flight"] for row in (await fleet.status())["replicas"])
    await fleet.close()

    assert same(repaired, await searched(LoneRunners(), 2))
    assert most == 2
    assert left == 0
