"""What every event log owes its users. A test module imports all of this and gives a `store` fixture."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import pytest

from cluster.event_log import EventLog
from cluster.event_log_memory import MemoryEventLog
from cluster.event_log_projection import RunSummary, summary_of
from cluster.event_log_usage import By
from orchestrator.errors import StoreError, TaskError
from orchestrator.events import Kind, NewEvent, Status, chain_hash
from orchestrator.steps import Usage

Log = EventLog | MemoryEventLog


class Store(Protocol):
    """Where logs are opened; `open` twice is the same store again."""

    def open(self) -> Log: ...


def submitted(run_id: str, **data: Any) -> NewEvent:
    """The first event of a run."""
    return NewEvent(
        run_id=run_id, type=Kind.RUN_SUBMITTED, data={"task": {"id": "t", "graph": "repair"}, **data}
    )


def fact(run_id: str, kind: Kind = Kind.STEP_PROGRESS, **data: Any) -> NewEvent:
    """Some later event of a run."""
    return NewEvent(run_id=run_id, type=kind, step="repair", attempt=1, data=data)


def finished(run_id: str, status: Status = Status.SUCCEEDED) -> NewEvent:
    """The last event of a run."""
    return NewEvent(
        run_id=run_id, type=Kind.RUN_FINISHED, data={"status": str(status), "reason": "certified"}
    )


async def test_numbers_and_chains_the_events_of_each_run(store: Store) -> None:
    log = store.open()

    first = await log.append([submitted("r-1"), submitted("r-2"), fact("r-1", n=1)])
    second = await log.append([fact("r-2", n=2), fact("r-1", n=3)])

    assert [(event.run_id, event.seq) for event in [*first, *second]] == [
        ("r-1", 1),
        ("r-2", 1),
        ("r-1", 2),
        ("r-2", 2),
        ("r-1", 3),
    ]
    events = log.events("r-1")
    assert [event.prev_hash for event in events] == ["", events[0].hash, events[1].hash]
    assert len({event.hash for event in [*first, *second]}) == 5


async def test_gives_back_what_a_reader_will_see(store: Store) -> None:
    log = store.open()
    new = NewEvent(
        run_id="r-1",
        type=Kind.STEP_DISPATCHED,
        step="run",
        attempt=2,
        epoch=3,
        dispatch_id="d-1",
        tenant="acme",
        data={"tuple": (1, 2), "nested": {"b": [None, True, 1.5]}, "a_field_of_tomorrow": 1},
    )

    (appended,) = await log.append([new])

    assert log.events("r-1") == [appended]
    assert appended.data == {"tuple": [1, 2], "nested": {"b": [None, True, 1.5]}, "a_field_of_tomorrow": 1}
    assert (appended.step, appended.attempt, appended.epoch, appended.dispatch_id, appended.tenant) == (
        "run",
        2,
        3,
        "d-1",
        "acme",
    )
    assert (appended.type, appended.version) == (Kind.STEP_DISPATCHED, 1)


async def test_keeps_data_apart_from_the_caller_s(store: Store) -> None:
    log = store.open()
    data = {"names": ["a"]}

    (appended,) = await log.append([NewEvent(run_id="r-1", type=Kind.RUN_STARTED, data=data)])
    data["names"].append("b")

    assert appended.data == log.events("r-1")[0].data == {"names": ["a"]}


async def test_hash_covers_every_field(store: Store) -> None:
    log = store.open()

    (event,) = await log.append([submitted("r-1", x="é")])

    text = '{"task":{"graph":"repair","id":"t"},"x":"\\u00e9"}'
    assert event.hash == chain_hash(
        run_id="r-1",
        seq=1,
        type="run_submitted",
        version=1,
        at=event.at,
        step=None,
        attempt=0,
        epoch=0,
        dispatch_id=None,
        tenant="default",
        prev_hash="",
        data=text,
    )


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(NewEvent(run_id="r-1", type=Kind.RUN_STARTED, data={"x": object()}), id="not JSON"),
        pytest.param(NewEvent(run_id="r-1", type=Kind.RUN_STARTED, data={"x": float("nan")}), id="NaN"),
        pytest.param(
            NewEvent(run_id="r-1", type=Kind.RUN_STARTED, data={"x": {1: 2, "a": 3}}), id="mixed keys"
        ),
        pytest.param(NewEvent(run_id="r-1", type="gone", data={}), id="unknown type"),  # type: ignore[arg-type]
        pytest.param(NewEvent(run_id="", type=Kind.RUN_STARTED), id="no run"),
        pytest.param(NewEvent(run_id="r\0", type=Kind.RUN_STARTED), id="NUL in a name"),
        pytest.param(NewEvent(run_id="r", type=Kind.RUN_STARTED, tenant="\ud800"), id="surrogate in a name"),
        pytest.param(NewEvent(run_id="r", type=Kind.STEP_FAILED), id="step without a name"),
        pytest.param(NewEvent(run_id="r", type=Kind.RUN_FINISHED, data={"status": "won"}), id="bad status"),
        pytest.param(
            NewEvent(run_id="r", type=Kind.RUN_FINISHED, data={"status": [], "reason": ""}), id="list"
        ),
        pytest.param(NewEvent(run_id="r", type=Kind.RUN_SUBMITTED, data={"task": 1}), id="bad task"),
        pytest.param(NewEvent(run_id="r", type=Kind.PATCH_KEPT), id="no patch"),
        pytest.param(NewEvent(run_id="r", type=Kind.RUN_STARTED, attempt=-1), id="negative attempt"),
        pytest.param(NewEvent(run_id="r", type=Kind.RUN_STARTED, data={"x": "y" * 9 * 2**20}), id="too long"),
    ],
)
async def test_one_event_that_does_not_fit_keeps_its_whole_append_out(store: Store, bad: NewEvent) -> None:
    log = store.open()
    await log.append([submitted("r-0")])

    results = await asyncio.gather(
        log.append([fact("r-0", n=1)]),
        log.append([submitted("r-9"), bad]),
        log.append([fact("r-0", n=2)]),
        return_exceptions=True,
    )

    assert isinstance(results[1], ValueError)
    assert log.run_ids() == ["r-0"]
    assert [event.seq for event in log.events("r-0")] == [1, 2, 3]


async def test_appending_nothing_changes_nothing(store: Store) -> None:
    log = store.open()

    assert tuple(await log.append([])) == ()
    assert not log.runs()


@pytest.mark.parametrize(
    "text", ["\ud800 lone \udfff", "\0", "\u2028\u2029", "\x1b[31m", "𝔘𝔫𝔦", "a\r\nb", '{"task":1}', "'; DROP"]
)
async def test_any_text_comes_back_as_it_was(store: Store, text: str) -> None:
    log = store.open()

    task = {"id": text, "graph": text, "origin": text, "goal": text}
    await log.append(
        [
            NewEvent(run_id="r-1", type=Kind.RUN_SUBMITTED, data={"task": task, "key": text, text: [text]}),
            NewEvent(run_id="r-1", type=Kind.RUN_FINISHED, data={"status": "failed", "reason": text}),
        ]
    )

    event = log.events("r-1")[0]
    assert event.data["task"] == task
    assert event.data[text] == [text]
    assert log.state("r-1").reason == text
    assert log.run("r-1") == summary_of(log.state("r-1"))
    assert log.find_by_key(text) == "r-1"
    assert [run.run_id for run in log.runs(task_id=text)] == ["r-1"]
    assert (log.run(text), log.events(text), log.runs(tenant=text)) == (None, [], [])
    with pytest.raises(TaskError):
        log.find_run(text)
    assert log.check().problems == ()


async def test_large_data_comes_back_whole(store: Store) -> None:
    log = store.open()
    blob = "0123456789abcdef" * 65536

    await log.append([fact("r-1", blob=blob), fact("r-1", blob=blob[::-1])])

    assert [event.data["blob"] for event in log.events("r-1")] == [blob, blob[::-1]]


async def test_twenty_tasks_at_once_leave_no_gap(store: Store) -> None:
    log = store.open()

    async def work(number: int) -> None:
        for n in range(25):
            await log.append([fact(f"r-{number % 5}", n=n, by=number), fact(f"r-{number}", n=n)])

    await asyncio.gather(*(work(number) for number in range(20)))

    assert sum(run.last_seq for run in log.runs()) == 20 * 25 * 2
    for run in log.runs():
        assert [event.seq for event in log.events(run.run_id)] == list(range(1, run.last_seq + 1))
    assert log.check().problems == ()


async def test_each_task_s_events_keep_its_order(store: Store) -> None:
    log = store.open()

    async def work(number: int) -> None:
        for n in range(20):
            await log.append([fact("r-1", by=number, n=n)])

    await asyncio.gather(*(work(number) for number in range(10)))

    for number in range(10):
        mine = [event.data["n"] for event in log.events("r-1") if event.data["by"] == number]
        assert mine == list(range(20))


async def test_an_append_is_there_when_it_returns(store: Store) -> None:
    log = store.open()
    for n in range(10):
        await log.append([fact("r-1", n=n)])

        assert log.events("r-1")[-1].data == {"n": n}


async def test_reads_a_part_of_a_run(store: Store) -> None:
    log = store.open()
    await log.append([fact("r-1", n=n) for n in range(1, 11)])

    assert [event.seq for event in log.events("r-1", after_seq=7)] == [8, 9, 10]
    assert [event.seq for event in log.events("r-1", after_seq=2, limit=3)] == [3, 4, 5]
    assert log.events("r-1", limit=0) == log.events("r-1", after_seq=10) == log.events("r-none") == []


async def test_goes_on_where_it_ended(store: Store) -> None:
    log = store.open()
    await log.append([submitted("r-1"), fact("r-1", n=1)])
    log = store.open()

    (event,) = await log.append([fact("r-1", n=2)])

    assert event.seq == 3
    assert log.check().problems == ()
    run = log.run("r-1")
    assert run is not None
    assert (run.task_id, run.last_seq) == ("t", 3)


async def test_the_list_of_runs_is_what_the_events_fold_to(store: Store) -> None:
    log = store.open()
    await log.append([submitted("r-1", key="k", life="l-1"), submitted("r-2", key="k"), submitted("r-3")])
    await log.append([NewEvent(run_id="r-1", type=Kind.RUN_STARTED), finished("r-2")])
    await log.append([NewEvent(run_id="r-2", type=Kind.RUN_RESUMED, data={"life": "l-2"})])
    await log.append([fact("r-1", Kind.PATCH_KEPT, patch="0" * 64, failing=3), finished("r-3")])

    rows: list[RunSummary] = log.runs()

    assert [run.run_id for run in rows] == ["r-3", "r-2", "r-1"]
    assert rows == [summary_of(log.state(run.run_id)) for run in rows]
    assert log.rebuild_projection() == 3
    assert log.runs() == rows


async def test_lists_only_what_was_asked_for(store: Store) -> None:
    log = store.open()
    for number in range(6):
        new = submitted(f"r-{number}", key=f"k-{number % 2}", life="l")
        await log.append([new])
    await log.append([finished("r-0"), finished("r-3")])

    def ids(**filters: Any) -> list[str]:
        return [run.run_id for run in log.runs(**filters)]

    assert ids(limit=2) == ["r-5", "r-4"]
    assert ids(limit=2, offset=4) == ["r-1", "r-0"]
    assert ids(status=[Status.SUCCEEDED]) == ["r-3", "r-0"]
    assert ids(key="k-1", limit=None) == ["r-5", "r-3", "r-1"]
    assert ids(tenant="acme") == ids(status=[]) == ids(task_id="u") == ids(life="m") == []
    assert log.unfinished() == ["r-1", "r-2", "r-4", "r-5"]
    assert log.find_by_key("k-1") == "r-5"
    assert log.find_by_key("k-1", "acme") is None
    assert (log.count(), log.count(status=[Status.SUCCEEDED])) == (6, 2)


async def test_finds_a_run_by_the_start_of_its_id(store: Store) -> None:
    log = store.open()
    await log.append([submitted("r-ab1"), submitted("r-ab2"), submitted("r-c"), submitted("r-c_1")])

    assert log.find_run("r-ab1") == log.find_run("r-ab1"[:5])
    assert log.find_run("r-c") == "r-c"
    with pytest.raises(TaskError, match="any of 2 runs: r-ab1, r-ab2"):
        log.find_run("r-ab")
    for unknown in ("x", "R-AB1", "r%", "r-c__", ""):
        with pytest.raises(TaskError, match="there is no run"):
            log.find_run(unknown)
    with pytest.raises(TaskError, match="there is no run"):
        log.state("r-a")


async def test_an_empty_store_has_no_runs(store: Store) -> None:
    log = store.open()

    assert log.runs() == log.unfinished() == log.events("r-1") == []
    with pytest.raises(TaskError, match="there is no run"):
        log.find_run("r-1")


async def test_a_closed_log_takes_nothing(store: Store) -> None:
    log = store.open()
    await log.append([submitted("r-1")])
    log.close()
    log.close()

    with pytest.raises(StoreError, match="closed"):
        await log.append([fact("r-1")])
    with pytest.raises(StoreError, match="closed"):
        log.append_blocking([fact("r-1")])


def test_a_thread_without_a_loop_appends_too(store: Store) -> None:
    log = store.open()

    events = log.append_blocking([submitted("r-1"), fact("r-1")])

    assert log.events("r-1") == list(events)


async def test_feeds_all_runs_in_the_order_of_their_commits(store: Store) -> None:
    log = store.open()
    await log.append([submitted("r-1"), submitted("r-2"), fact("r-1", n=1)])
    await log.append([fact("r-2", n=2)])

    fed = log.feed(0)

    assert [(event.run_id, event.seq) for _, event in fed] == [("r-1", 1), ("r-2", 1), ("r-1", 2), ("r-2", 2)]
    positions = [position for position, _ in fed]
    assert positions == sorted(set(positions))
    assert log.end() == positions[-1]
    assert log.feed(positions[1]) == fed[2:]
    assert log.feed(positions[0], limit=2) == fed[1:3]
    assert log.feed(log.end()) == []


async def test_finds_the_runs_of_a_batch_and_no_others(store: Store) -> None:
    log = store.open()
    task = {"id": "t", "goal": 'say "batch":"b-1"'}
    for run_id, inputs in (
        ("r-1", {"batch": "b-1"}),
        ("r-2", {}),
        ("r-3", {"batch": "b-1", "x": 1}),
        ("r-4", {"batch": "b-12"}),
        ("r-5", {"other": {"batch": "b-1"}}),
    ):
        data = {"task": {**task, "inputs": inputs}}
        await log.append([NewEvent(run_id=run_id, type=Kind.RUN_SUBMITTED, data=data)])
    await log.append([finished("r-3")])

    found = log.batch("b-1")

    assert [run.run_id for run in found] == ["r-1", "r-3"]
    assert [run.status for run in found] == [Status.PENDING, Status.SUCCEEDED]
    assert log.batch("b-%") == []
    assert log.tally() == {(Status.PENDING, None): 4, (Status.SUCCEEDED, "certified"): 1}


async def test_keeps_the_last_value_of_a_note(store: Store) -> None:
    log = store.open()
    assert log.meta("outbox.slack") is None

    await log.set_meta("outbox.slack", "1")
    await log.set_meta("outbox.slack", "2")

    assert store.open().meta("outbox.slack") == "2"


def call(run_id: str, *, step: str = "repair", tenant: str = "default", **told: Any) -> NewEvent:
    """What an engine's reply cost."""
    tokens = {"prompt": 10, "completion": 2, "cached": 4, **told.pop("tokens", {})}
    data = {"engine": "m", "gpu_s": 0.1, "cost_usd": 0.1, "requests": 1, "retries": 0, **told}
    return NewEvent(
        run_id=run_id,
        type=Kind.ENGINE_CALLED,
        step=step,
        attempt=1,
        tenant=tenant,
        data={**data, "tokens": tokens},
    )


async def test_costs_add_up_by_tenant_run_step_engine_and_day(store: Store) -> None:
    log = store.open()
    calls = [
        call("r-1", tenant="a"),
        call("r-1", tenant="a", engine="n"),
        call("r-1", step="test", tenant="a"),
    ]
    # In one transaction and in several; 0.1 three times is 0.3, as it is not for floats.
    await log.append([*calls, call("r-2", tenant="b", retries=3), finished("r-2")])
    await log.append([call("r-3", tenant="a", tokens={"prompt": 5})])
    day = log.events("r-3")[0].at[:10]

    tenants = {spent.group["tenant"]: spent.usage for spent in log.usage()}
    steps = [(*spent.group.values(), spent.usage.requests) for spent in log.usage(By.STEP, tenant="a")]

    assert tenants["a"] == Usage(prompt=35, completion=8, cached=16, gpu_s=0.4, cost_usd=0.4, requests=4)
    assert tenants["b"] == Usage(
        prompt=10, completion=2, cached=4, gpu_s=0.1, cost_usd=0.1, requests=1, retries=3
    )
    assert steps == [("a", "r-1", "repair", 1, 2), ("a", "r-1", "test", 1, 1), ("a", "r-3", "repair", 1, 1)]
    assert [spent.group for spent in log.usage(By.RUN, run_id="r-2")] == [{"tenant": "b", "run_id": "r-2"}]
    assert {spent.group["engine"]: spent.usage.requests for spent in log.usage(By.ENGINE)} == {"m": 4, "n": 1}
    assert sum(spent.usage.requests for spent in log.usage(By.DAY, since=day)) == 5
    assert log.usage(By.DAY, since="9999-01-01") == log.usage(tenant="nobody") == []
    assert log.check().problems == ()


async def test_costs_are_the_same_after_a_restart_and_when_made_anew(store: Store) -> None:
    log = store.open()
    await log.append([call("r-1", gpu_s=n / 7, cost_usd=n / 3) for n in range(50)])
    told = log.usage(By.STEP)

    log.rebuild_projection()

    assert log.usage(By.STEP) == told
    if isinstance(log, EventLog):
        log.close()
        log = store.open()
        await log.append([call("r-1", cost_usd=1)])
        assert log.usage()[0].usage.requests == 51
        assert log.check().problems == ()


async def test_what_a_server_claims_does_not_break_the_log(store: Store) -> None:
    log = store.open()
    huge = {"prompt": 10**30, "completion": -5, "cached": 0}

    await log.append(
        [call("r-1", tokens=huge, cost_usd=1e300, engine="\ud800\0" + "é" * 5000, step="s" * 900)]
    )
    await log.append([call("r-1", tokens=huge)])

    (spent,) = log.usage()
    assert (spent.usage.prompt, spent.usage.completion) == (2 * 2**50, 0)
    assert log.check().problems == ()
