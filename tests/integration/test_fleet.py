"""Steps on a real local Ray: spread, losses, cancellation, child leases, groups started on demand."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.fleet import ReplicaGroup
from cluster.handles import Dispatch, FleetClient
from orchestrator.errors import AgentError, Cancelled, MachineError, ReplicaLost, TaskError
from orchestrator.scheduling import SchedulingSettings
from orchestrator.steps import Role

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NAMESPACE = "fleet-test"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(Path(__file__).parent)}
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, namespace=NAMESPACE, log_to_driver=False)
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


SCHEDULING = SchedulingSettings(extra_child_wait_s=2.0)
GROUPS = (
    ReplicaGroup(name="writers", roles=("code", "test"), min_replicas=2, max_replicas=2, num_cpus=0.1),
    ReplicaGroup(name="repairers", roles=("repair",), max_replicas=2, num_cpus=0.1, max_in_flight=4),
    ReplicaGroup(name="runners", roles=("run",), min_replicas=1, max_replicas=2, num_cpus=0.1),
)


@pytest.fixture
async def fleet() -> AsyncIterator[FleetClient]:
    """One fleet for the whole module; each test is a client of its own."""
    client = await FleetClient.start(
        groups=GROUPS, scheduling=SCHEDULING, build="fleet_agents:build", config={}, namespace=NAMESPACE
    )
    yield client
    await client.close()


def write(name: str, *, run: str = "r", affinity: str = "", **payload: Any) -> Dispatch:
    return Dispatch(
        dispatch_id=f"{run}/{name}",
        run_id=run,
        step=name,
        role=Role.CODE,
        method="write",
        payload=payload,
        affinity=affinity,
    )


def repair(name: str, run: str, **payload: Any) -> Dispatch:
    payload.setdefault("arguments", {})
    return Dispatch(
        dispatch_id=f"{run}/{name}",
        run_id=run,
        step=name,
        role=Role.REPAIR,
        method="repair",
        payload=payload,
    )


async def until(claim: Any, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not await claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.05)


def in_journal(journal: Path, line: str, times: int = 1) -> Any:
    async def claim() -> bool:
        return await asyncio.to_thread(lambda: journal.exists() and journal.read_text().count(line) >= times)

    return claim


async def in_flight(fleet: FleetClient) -> int:
    return sum(row["in_flight"] for row in (await fleet.status())["replicas"])


async def nothing_in_flight(fleet: FleetClient) -> None:
    async def claim() -> bool:
        return await in_flight(fleet) == 0

    await until(claim)


async def test_steps_spread_over_the_replicas(fleet: FleetClient) -> None:
    results = await asyncio.gather(
        *(fleet.execute(write(f"spread{n}", sleep_s=0.3, echo=n)) for n in range(4))
    )

    assert [result["echo"] for result in results] == [0, 1, 2, 3]
    assert len({result["pid"] for result in results}) == 2
    await nothing_in_flight(fleet)


async def test_a_runs_turns_go_back_to_the_same_replica(fleet: FleetClient) -> None:
    pids = set()
    for turn in range(4):
        result = await fleet.execute(write(f"turn{turn}", run="warm", affinity="warm"))
        await fleet.execute(write(f"turn{turn}", run=f"other{turn}", affinity=f"other{turn}"))
        pids.add(result["pid"])

    assert len(pids) == 1


async def test_tells_replica_and_epoch_before_the_call(fleet: FleetClient, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    told: list[tuple[str, int]] = []

    async def on_dispatched(replica: str, epoch: int) -> None:
        assert not journal.exists()
        told.append((replica, epoch))

    await fleet.execute(write("told", journal=str(journal)), on_dispatched=on_dispatched)

    [(replica, epoch)] = told
    assert replica.startswith("code-")
    assert epoch == 1


async def test_a_large_payload_arrives(fleet: FleetClient) -> None:
    result = await fleet.execute(write("large", echo=b"x" * 1_000_000))

    assert len(result["echo"]) == 1_000_000


async def test_a_step_goes_on_elsewhere_when_its_replica_dies(fleet: FleetClient, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    told: list[int] = []
    requeued: list[tuple[int, str]] = []

    async def on_dispatched(replica: str, epoch: int) -> None:
        told.append(epoch)

    async def on_requeued(epoch: int, reason: str) -> None:
        requeued.append((epoch, reason))

    step = asyncio.create_task(
        fleet.execute(
            write("killed", sleep_s=1.0, journal=str(journal)),
            on_dispatched=on_dispatched,
            on_requeued=on_requeued,
        )
    )
    await until(in_journal(journal, "start"))
    victim = int(journal.read_text().split()[1])
    os.kill(victim, signal.SIGKILL)
    result = await step

    assert result["pid"] != victim
    assert told == [1, 2]
    assert [epoch for epoch, _ in requeued] == [2]
    assert "lost" in requeued[0][1]


async def test_a_step_that_kills_three_replicas_is_quarantined(fleet: FleetClient) -> None:
    with pytest.raises(ReplicaLost, match="code-") as caught:
        await fleet.execute(write("poison", run="poison", die=True))

    assert str(caught.value).count("code-") >= 3
    assert (await fleet.execute(write("healthy", echo=7)))["echo"] == 7
    with pytest.raises(ReplicaLost):
        await fleet.execute(write("poison", run="poison", die=True))


async def test_a_busy_agent_is_not_taken_for_a_dead_one(fleet: FleetClient) -> None:
    result = await fleet.execute(write("blocking", block_s=4.0, echo="alive"))

    assert result["echo"] == "alive"


@pytest.mark.parametrize(
    ("kind", "expected", "words"),
    [
        ("ours", TaskError, "a wrong path; mend it"),
        ("foreign", AgentError, "ZeroDivisionError: by hand"),
        ("unpicklable", TaskError, "holds a file"),
    ],
)
async def test_errors_arrive_as_ours(
    fleet: FleetClient, kind: str, expected: type[Exception], words: str
) -> None:
    with pytest.raises(expected, match=words):
        await fleet.execute(write(f"raises-{kind}", **{"raise": kind}))

    await nothing_in_flight(fleet)


async def test_cancelling_the_caller_stops_the_agent(fleet: FleetClient, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    step = asyncio.create_task(fleet.execute(write("long", sleep_s=60.0, journal=str(journal))))
    await until(in_journal(journal, "start"))

    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step

    assert "cancelled" in journal.read_text()
    assert await in_flight(fleet) == 0


async def test_cancelling_a_run_stops_what_works_and_what_waits(fleet: FleetClient, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    steps = [
        asyncio.create_task(fleet.execute(write(f"l{n}", run="gone", sleep_s=60.0, journal=str(journal))))
        for n in range(5)
    ]
    await until(in_journal(journal, "start", times=2))

    await fleet.cancel(run_id="gone")
    outcomes = await asyncio.gather(*steps, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Cancelled] * 5
    assert journal.read_text().count("cancelled") == 2
    assert await in_flight(fleet) == 0


async def test_a_group_of_none_starts_on_demand_and_a_repairer_gets_runners(fleet: FleetClient) -> None:
    before = {row["group"] for row in (await fleet.status())["replicas"]}

    answer = await fleet.execute(repair("adds", "demand", arguments={"add": 3}))

    assert "repairers" not in before
    assert answer["sum"] == 5
    assert answer["open"] == 1
    assert answer["cpu_s"] == 1.5
    assert "repair-01" in {row["name"] for row in (await fleet.status())["replicas"]}
    await nothing_in_flight(fleet)


async def test_a_repairer_opens_another_sandbox_when_its_runner_dies(
    fleet: FleetClient, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"

    answer = await fleet.execute(repair("loses", "lost", method="die", tries=3, journal=str(journal)))

    assert answer["sum"] == 7
    assert "sandbox lost: runner run-" in journal.read_text()


async def test_cancelling_a_repair_gives_its_runner_back(fleet: FleetClient) -> None:
    step = asyncio.create_task(
        fleet.execute(repair("sleeps", "asleep", method="sleep", arguments={"s": 60.0}))
    )

    async def both_busy() -> bool:
        rows = (await fleet.status())["replicas"]
        return {row["group"] for row in rows if row["in_flight"]} == {"repairers", "runners"}

    await until(both_busy)

    await fleet.cancel(run_id="asleep")

    with pytest.raises(Cancelled):
        await step
    await nothing_in_flight(fleet)
    again = await fleet.execute(repair("adds", "awake", arguments={}))
    assert again["open"] == 1


async def test_a_repairers_death_gives_its_runner_back(fleet: FleetClient, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    step = asyncio.create_task(
        fleet.execute(repair("dies", "widow", method="sleep", arguments={"s": 3.0}, journal=str(journal)))
    )

    async def at_work() -> list[dict[str, Any]]:
        rows = (await fleet.status())["replicas"]
        children = [work for row in rows for work in row["work"] if work["parent"] == "widow/dies"]
        return [row for row in rows if row["group"] == "repairers" and row["in_flight"] and children]

    await until(at_work)
    [parent] = await at_work()

    os.kill(parent["pid"], signal.SIGKILL)
    answer = await step

    assert journal.read_text().count("start") == 2
    assert answer["open"] == 1
    await nothing_in_flight(fleet)


async def test_two_repairers_that_each_want_two_runners_do_not_lock_up(fleet: FleetClient) -> None:
    answers = await asyncio.gather(
        *(fleet.execute(repair("nested", f"n{n}", nested=True)) for n in range(2)), return_exceptions=True
    )

    assert all(isinstance(answer, list | MachineError) for answer in answers)
    await nothing_in_flight(fleet)


async def test_status_is_a_table(fleet: FleetClient) -> None:
    import json

    step = asyncio.create_task(fleet.execute(write("shown", run="r-shown", sleep_s=1.0)))
    await asyncio.sleep(0.4)
    status = await fleet.status()
    await step

    json.dumps(status)
    [row] = [row for row in status["replicas"] if row["state"] == "busy"]
    assert row["work"][0]["run_id"] == "r-shown"
    assert row["roles"] == ["code", "test"]
    assert row["node"]


async def test_progress_reaches_the_reporter(fleet: FleetClient) -> None:
    import ray

    class Reporter:
        def __init__(self) -> None:
            self.told: list[Any] = []

        async def report_progress(self, dispatch_id: str, epoch: int, improvement: Any) -> None:
            self.told.append((dispatch_id, epoch, improvement))

        async def all(self) -> list[Any]:
            return self.told

    reporter = ray.remote(Reporter).options(num_cpus=0).remote()
    client = await FleetClient.start(
        groups=GROUPS,
        scheduling=SCHEDULING,
        build="fleet_agents:build",
        config={},
        namespace=NAMESPACE,
        reporter=reporter,
    )

    await client.execute(repair("reports", "progress", report="better", arguments={}))
    await client.close()

    assert await reporter.all.remote() == [("progress/reports", 1, "better")]


async def test_a_role_that_nobody_serves_is_refused(fleet: FleetClient) -> None:
    from dataclasses import replace

    with pytest.raises(MachineError, match="no replica group serves role 'review'"):
        await fleet.execute(replace(write("nobody"), role="review"))  # type: ignore[arg-type]
