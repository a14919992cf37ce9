"""The scheduler actor on a real local Ray: kills, orphaned leases, groups that cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.fleet import ReplicaGroup
from cluster.handles import Dispatch, FleetClient
from orchestrator.errors import MachineError, TaskError
from orchestrator.steps import Role

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(Path(__file__).parent)}
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, namespace="scheduler-test", log_to_driver=False
    )
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


WRITERS = ReplicaGroup(name="writers", roles=("code",), min_replicas=2, max_replicas=2, num_cpus=0.1)


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """Starts fleets, each in a namespace of its own where none is given, and ends them."""
    clients: list[FleetClient] = []

    async def start(
        *groups: ReplicaGroup, config: dict[str, Any] | None = None, **options: Any
    ) -> FleetClient:
        # Two processes of one test run the same code, also while somebody edits a file.
        options.setdefault("version", "tested")
        options.setdefault("namespace", f"test-{os.getpid()}-{time.monotonic_ns()}")
        client = await FleetClient.start(
            groups=groups, build="fleet_agents:build", config=config or {}, **options
        )
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.stop()


def write(name: str, **payload: Any) -> Dispatch:
    return Dispatch(
        dispatch_id=f"r/{name}", run_id="r", step=name, role=Role.CODE, method="write", payload=payload
    )


async def until(claim: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not await claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.05)


def in_journal(journal: Path, line: str, times: int = 1) -> Any:
    async def claim() -> bool:
        return await asyncio.to_thread(lambda: journal.exists() and journal.read_text().count(line) >= times)

    return claim


def in_state(fleet: FleetClient, state: str, count: int) -> Any:
    async def claim() -> bool:
        return [row["state"] for row in (await fleet.status())["replicas"]].count(state) == count

    return claim


async def scheduler_pid(namespace: str) -> int:
    import ray

    handle = ray.get_actor("scheduler", namespace)
    return int(await handle.pid.remote())


async def test_a_killed_scheduler_finds_its_replicas_and_their_work_again(start: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    fleet = await start(WRITERS, namespace="killed")
    working = [
        asyncio.create_task(fleet.execute(write(f"w{n}", sleep_s=4.0, journal=str(journal))))
        for n in range(2)
    ]
    await until(in_journal(journal, "start", times=2))
    waiting = asyncio.create_task(fleet.execute(write("waits", echo="after")))
    before = {row["name"]: row["pid"] for row in (await fleet.status())["replicas"]}

    os.kill(await scheduler_pid("killed"), signal.SIGKILL)
    status = await fleet.status()
    rows = {row["name"]: row["pid"] for row in status["replicas"]}
    in_flight = [row["in_flight"] for row in status["replicas"]]
    results = await asyncio.gather(*working, waiting)

    assert rows == before
    assert in_flight == [1, 1]
    assert journal.read_text().count("start") == 2
    assert results[2]["echo"] == "after"
    await until(in_state(fleet, "idle", 2))


async def test_a_client_that_dies_gives_its_leases_back(start: Any, tmp_path: Path) -> None:
    import ray

    journal = tmp_path / "journal"
    fleet = await start(WRITERS, namespace="holder", holder_timeout_s=6.0)

    class Holder:
        async def hold(self) -> None:
            client = await FleetClient.start(
                groups=(WRITERS,),
                build="fleet_agents:build",
                config={},
                namespace="holder",
                holder_timeout_s=6.0,
                version="tested",
            )
            for n in range(3):
                step = write(f"held{n}", sleep_s=60.0, journal=str(journal))
                self.tasks = [*getattr(self, "tasks", []), asyncio.create_task(client.execute(step))]

        async def pid(self) -> int:
            return os.getpid()

    holder = ray.remote(Holder).options(num_cpus=0).remote()
    await holder.hold.remote()
    await until(in_journal(journal, "start", times=2))

    os.kill(await holder.pid.remote(), signal.SIGKILL)
    result = await asyncio.wait_for(fleet.execute(write("next", echo="mine")), 40.0)

    assert result["echo"] == "mine"
    assert journal.read_text().count("cancelled") == 2
    assert (await fleet.status())["waiting"] == {}


async def test_a_restarted_client_takes_over_what_is_still_at_work(start: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    dead = await start(WRITERS, namespace="again")
    first = asyncio.create_task(dead.execute(write("long", sleep_s=3.0, echo="one", journal=str(journal))))
    await until(in_journal(journal, "start"))
    dead._heart.cancel()
    told: list[int] = []

    async def on_dispatched(replica: str, epoch: int) -> None:
        told.append(epoch)

    heir = await start(WRITERS, namespace="again")
    dispatch = Dispatch(
        dispatch_id="r/long", run_id="r", step="long", role=Role.CODE, method="write", payload={}, epoch=2
    )
    result = await heir.execute(dispatch, on_dispatched=on_dispatched)
    await first

    assert result["echo"] == "one"
    assert told == [1]
    assert journal.read_text().count("start") == 1


async def test_what_ended_while_nobody_listened_is_not_done_again(start: Any, tmp_path: Path) -> None:
    import ray

    journal = tmp_path / "journal"
    fleet = await start(WRITERS, namespace="unheard")

    class Holder:
        async def hold(self) -> None:
            client = await FleetClient.start(
                groups=(WRITERS,),
                build="fleet_agents:build",
                config={},
                namespace="unheard",
                version="tested",
            )
            step = write("unheard", sleep_s=1.0, echo="one", journal=str(journal))
            self.task = asyncio.create_task(client.execute(step))

        async def pid(self) -> int:
            return os.getpid()

    holder = ray.remote(Holder).options(num_cpus=0).remote()
    await holder.hold.remote()
    await until(in_journal(journal, "start"))
    rows = (await fleet.status())["replicas"]
    os.kill(await holder.pid.remote(), signal.SIGKILL)
    await until(in_journal(journal, "end"))
    # What it lent out is found by what replicas work on, and that is over.
    os.kill(await scheduler_pid("unheard"), signal.SIGKILL)

    (was_on,) = [row["name"] for row in rows if row["in_flight"]]
    again = replace(write("unheard", journal=str(journal)), epoch=2, was_on=was_on)
    result = await fleet.execute(again)

    assert result["echo"] == "one"
    assert journal.read_text().count("start") == 1
    assert await fleet.execute(replace(again, epoch=3)) != result, "epoch 2 was never given out"
    await until(in_state(fleet, "idle", 2))


async def test_a_missing_label_is_told(start: Any) -> None:
    labels = {"ray.io/accelerator-type": "L4"}
    fleet = await start(ReplicaGroup(name="model", roles=("code",), num_cpus=0.1, labels=labels))
    waits = asyncio.create_task(fleet.execute(write("waits")))

    await until(in_state(fleet, "pending: no node with label ray.io/accelerator-type=L4", 1))
    waits.cancel()

    await until(in_state(fleet, "pending: no node with label ray.io/accelerator-type=L4", 0))


async def test_a_group_that_cannot_start_refuses_who_waits(start: Any) -> None:
    fleet = await start(
        ReplicaGroup(name="model", roles=("code",), num_cpus=0.1),
        config={"broken": True},
        start_attempts=2,
    )

    with pytest.raises(MachineError, match="no such engine"):
        await asyncio.wait_for(fleet.execute(write("waits")), 30.0)


async def test_an_idle_replica_is_retired_after_its_time(start: Any) -> None:
    fleet = await start(ReplicaGroup(name="w", roles=("code",), num_cpus=0.1, idle_timeout_s=1.0))

    await fleet.execute(write("one"))
    warm = len((await fleet.status())["replicas"])

    assert warm == 1
    await until(in_state(fleet, "idle", 0))


async def test_a_drained_replica_ends_its_work_first(start: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    fleet = await start(WRITERS)
    step = asyncio.create_task(fleet.execute(write("long", sleep_s=2.0, journal=str(journal), echo=1)))
    await until(in_journal(journal, "start"))
    [busy] = [row["name"] for row in (await fleet.status())["replicas"] if row["state"] == "busy"]

    await fleet.drain(busy)

    assert (await step)["echo"] == 1

    async def replaced() -> bool:
        names = {row["name"] for row in (await fleet.status())["replicas"] if row["state"] == "idle"}
        return len(names) == 2

    await until(replaced)


async def test_replicas_of_another_configuration_are_replaced(start: Any) -> None:
    old = await start(WRITERS, namespace="config", config={"a": 1})
    before = await old.execute(write("one"))

    new = await start(WRITERS, namespace="config", config={"a": 2})

    after = await new.execute(write("two"))
    assert after["pid"] != before["pid"]
    await until(in_state(new, "idle", 2))


async def test_a_fleet_without_clients_ends(start: Any) -> None:
    import ray

    fleet = await start(WRITERS, namespace="orphan", orphan_timeout_s=5.0)
    await fleet.execute(write("one"))

    await fleet.close()

    async def gone() -> bool:
        names = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        return not any(each["namespace"] == "orphan" for each in names)

    await until(gone)


async def test_groups_that_would_be_called_the_same_are_refused(start: Any) -> None:
    with pytest.raises(TaskError, match=r"fleet\.b\.roles"):
        await start(ReplicaGroup(name="a", roles=("code",)), ReplicaGroup(name="b", roles=("code", "test")))
