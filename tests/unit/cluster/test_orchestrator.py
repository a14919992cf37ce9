"""The orchestrator on real stores and a scripted fleet: what it keeps, and how it goes on after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FAILING, improvement, repaired, run_of, tree
from orchestrator_house import BASE, FIXED, House, ScriptedFleet, ended, kinds, until

from orchestrator.errors import (
    AgentError,
    KeyReused,
    MachineError,
    QueueFull,
    ReplicaLost,
    StaleEpoch,
    StoreError,
    TaskError,
)
from orchestrator.events import Kind, Status
from orchestrator.lessons import Lesson
from orchestrator.report import changes_from
from orchestrator.steps import EngineCall, Profiled, RepairRequest, Turn, Usage
from orchestrator.task import AgentSettings, Budget, Task
from orchestrator.tree import File
from orchestrator.verdict import TestCase, TestProfile

TREE = tree(a="start", test_a="tests")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    for log in house.logs:
        log.close()


async def test_a_run_is_in_the_log_before_submit_returns_and_ends_certified(house: House) -> None:
    orchestrator = house.start(ScriptedFleet())

    run_id = await orchestrator.submit(Task(id="t"), TREE)
    first = await orchestrator.events(run_id)
    state = await ended(orchestrator, run_id)

    assert first[0].type is Kind.RUN_SUBMITTED
    assert (state.status, state.reason) == (Status.SUCCEEDED, "certified")
    result = await orchestrator.result(run_id)
    assert (result["files"], result["candidates"], result["repairer"]) == (["a.py"], 3, "search")
    assert "+fixed" in result["diff"]


async def test_a_crash_redoes_nothing_that_was_completed(house: House) -> None:
    held = asyncio.Event()
    before, after = ScriptedFleet(repair=held), ScriptedFleet()
    first = house.start(before)
    run_id = await first.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in before.began)
    await house.lose(first)

    second = house.start(after)
    resumed = await second.resume_life(["life-1"])
    state = await ended(second, run_id)

    assert resumed == [run_id] and state.status is Status.SUCCEEDED
    assert "profile" not in after.done and "repair" in after.done
    epochs = [event.epoch for event in await second.events(run_id) if event.step == "repair"]
    assert epochs == sorted(epochs) and len(set(epochs)) == 2


async def test_partial_progress_outlives_a_crash(house: House) -> None:
    held = asyncio.Event()
    before, after = ScriptedFleet(repair=held), ScriptedFleet(repair=repaired(None, exhausted=True))
    first = house.start(before)
    run_id = await first.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in before.began)
    await first.report_progress(f"{run_id}/repair.1", 1, improvement("half", failing=["test_a.py::two"]))
    await house.lose(first)

    second = house.start(after)
    await second.resume()
    state = await ended(second, run_id)

    patch = changes_from(await second.artifact(state.report["patch"]))
    assert (state.reason, patch) == ("stuck", {"a.py": File(content=b"half")})


async def test_an_agents_turn_is_an_event_with_what_was_said_and_shown(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    turn = Turn(
        agent="shell",
        number=1,
        reply="```bash\nls\n```",
        command="ls",
        exit_code=0,
        told="Exit code 0.\na.py",
        usage=Usage(prompt=7, requests=1),
    )

    await orchestrator.report_progress(f"{run_id}/repair.1", 1, turn)

    event = (await orchestrator.events(run_id))[-1]
    assert (event.type, event.step) == (Kind.STEP_PROGRESS, "repair")
    assert event.data == {
        "agent": "shell",
        "turn": 1,
        "reply": "```bash\nls\n```",
        "command": "ls",
        "exit_code": 0,
        "told": "Exit code 0.\na.py",
        "usable": True,
        "failing": None,
        "usage": {"prompt": 7, "requests": 1},
    }
    assert (await orchestrator.state(run_id)).best_patch is None


async def test_late_progress_of_an_old_epoch_is_refused(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)

    with pytest.raises(StaleEpoch):
        await orchestrator.report_progress(f"{run_id}/repair.1", 0, improvement("late", failing=["x"]))
    with pytest.raises(StaleEpoch):
        await orchestrator.report_progress(f"{run_id}/other.1", 1, improvement("late", failing=["x"]))
    with pytest.raises(ReplicaLost):
        await orchestrator.report_progress("r-none/repair.1", 1, improvement("late", failing=["x"]))


async def test_cancelling_stops_the_step_and_keeps_the_best_patch(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    await orchestrator.report_progress(
        f"{run_id}/repair.1", 1, improvement("half", failing=["test_a.py::two"])
    )

    state = await orchestrator.cancel(run_id, "enough")

    assert (state.status, state.reason) == (Status.CANCELLED, "cancelled_by_user")
    assert fleet.stopped == ["repair"]
    assert (await orchestrator.result(run_id))["files"] == ["a.py"]
    assert (await orchestrator.cancel(run_id)).last_seq == state.last_seq


async def test_a_run_that_waits_for_its_turn_can_be_cancelled(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet, max_active_runs=1)
    first = await orchestrator.submit(Task(id="one"), TREE)
    second = await orchestrator.submit(Task(id="two"), TREE)
    await until(lambda: "repair" in fleet.began)

    state = await orchestrator.cancel(second)

    assert state.status is Status.CANCELLED
    assert (await orchestrator.state(first)).status is Status.RUNNING


async def test_a_cancelled_run_can_be_resumed(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    await orchestrator.cancel(run_id)
    fleet.answers["repair"] = FIXED

    resumed = await orchestrator.resume([run_id])
    state = await ended(orchestrator, run_id)

    assert resumed == [run_id] and fleet.forgotten == [run_id]
    assert (state.status, state.reason) == (Status.SUCCEEDED, "certified")
    assert kinds(await orchestrator.events(run_id)).count("run_resumed") == 1


async def test_the_same_key_is_the_same_run_until_it_needs_another(house: House) -> None:
    fleet = ScriptedFleet()
    orchestrator = house.start(fleet)
    done = await orchestrator.submit(Task(id="t"), TREE, key="k")
    await ended(orchestrator, done)
    fleet.answers["repair"] = MachineError("no GPU", "add one")
    failed = await orchestrator.submit(Task(id="u"), TREE, key="l")
    await ended(orchestrator, failed)

    assert await orchestrator.submit(Task(id="t"), TREE, key="k") == done
    assert await orchestrator.submit(Task(id="u"), TREE, key="l") != failed


async def test_submitting_one_key_twice_at_once_makes_one_run(house: House) -> None:
    orchestrator = house.start(ScriptedFleet())

    ids = await asyncio.gather(*(orchestrator.submit(Task(id="t"), TREE, key="k") for _ in range(8)))

    assert len(set(ids)) == 1


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (TaskError("no tests", "add some"), Status.FAILED, "bad_input"),
        (MachineError("no bwrap", "install it"), Status.FAILED, "environment"),
        (ReplicaLost("it kills replicas", "look at it"), Status.PARKED, "quarantined"),
        (ValueError("a bug of ours"), Status.FAILED, "error"),
    ],
)
async def test_every_error_ends_the_run_with_its_reason(
    house: House, error: Exception, status: Status, reason: str
) -> None:
    orchestrator = house.start(ScriptedFleet(profile=error))

    run_id = await orchestrator.submit(Task(id="t"), TREE)
    state = await ended(orchestrator, run_id)

    assert (state.status, state.reason) == (status, reason)
    assert str(error.args[0]) in state.report["error"]["message"]


async def test_the_wall_budget_is_hard(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)

    run_id = await orchestrator.submit(Task(id="t", budget=Budget(wall_s=0.3)), TREE)
    state = await ended(orchestrator, run_id)

    assert state.reason == "budget_exhausted" and fleet.stopped == ["repair"]
    assert 0.2 < state.report["wall_s"] < 2.0


async def test_a_task_that_does_not_fit_its_graph_is_refused(house: House) -> None:
    orchestrator = house.start(ScriptedFleet())

    with pytest.raises(TaskError, match="needs a folder"):
        await orchestrator.submit(Task(id="t", graph="repair"))
    with pytest.raises(TaskError, match="no graph is called"):
        await orchestrator.submit(Task(id="t", graph="nonsense"), TREE)
    with pytest.raises(TaskError, match="candidate"):
        await orchestrator.submit(Task(id="t", graph="verify"), TREE)


async def test_a_follower_hears_of_news_without_asking_twice(house: House) -> None:
    held = asyncio.Event()
    fleet = ScriptedFleet(repair=held)
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    seen = (await orchestrator.events(run_id))[-1].seq

    waiting = asyncio.create_task(orchestrator.events(run_id, seen, 5.0))
    await asyncio.sleep(0.05)
    held.set()

    assert (await waiting)[0].seq == seen + 1


async def test_a_store_that_fails_for_a_while_costs_no_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.run_tasks.STORE_RETRY_S", (0.01,) * 20)
    orchestrator = house.start(ScriptedFleet())
    log = house.logs[-1]
    append, failures = log.append, iter([False, False, True, True, False, False, False, True])

    async def sometimes(events: Any) -> Any:
        if next(failures, False):
            raise StoreError("disk full", "make room")
        return await append(events)

    monkeypatch.setattr(log, "append", sometimes)
    run_id = await orchestrator.submit(Task(id="t"), TREE)

    assert (await ended(orchestrator, run_id)).reason == "certified"


async def test_a_run_cancelled_while_the_store_fails_ends_cancelled(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.run_tasks.STORE_RETRY_S", (0.01,))
    orchestrator = house.start(ScriptedFleet(repair=asyncio.Event()))
    log = house.logs[-1]
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "attempt_started" in kinds(log.events(run_id)))
    append, refusals = log.append, iter([True] * 5)

    async def later(events: Any) -> Any:
        if next(refusals, False):
            raise StoreError("disk full", "make room")
        return await append(events)

    monkeypatch.setattr(log, "append", later)
    state = await orchestrator.cancel(run_id, "enough")

    assert (state.status, state.reason) == (Status.CANCELLED, "cancelled_by_user")
    assert next(refusals, None) is None


async def test_a_run_that_ends_while_it_is_cancelled_ends_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator = house.start(ScriptedFleet())
    log, written = house.logs[-1], asyncio.Event()
    append = log.append

    async def unheard(events: Any) -> Any:
        answer = await append(events)
        if events[0].type is Kind.RUN_FINISHED:
            # Committed, and cancelled before anybody hears of it.
            written.set()
            await asyncio.sleep(30)
        return answer

    monkeypatch.setattr(log, "append", unheard)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await written.wait()
    # As `cancel` does whose look at the state came just before.
    orchestrator._stopping[run_id] = "enough"
    orchestrator._tasks[run_id].cancel()
    await asyncio.wait([orchestrator._tasks[run_id]], timeout=10)

    ends = [event.data["status"] for event in log.events(run_id) if event.type is Kind.RUN_FINISHED]
    assert ends == ["succeeded"]


async def test_an_orchestrator_that_ends_while_its_store_fails_leaves_no_task(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator = house.start(ScriptedFleet())
    log, hangs = house.logs[-1], asyncio.Event()
    append = log.append

    async def fails_when_cancelled(events: Any) -> Any:
        if events[0].type is not Kind.ATTEMPT_STARTED:
            return await append(events)
        hangs.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # As a task group does in which a failure and a cancellation meet.
            raise StoreError("the event log is closed", "open it again") from None

    monkeypatch.setattr(log, "append", fails_when_cancelled)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await hangs.wait()
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == run_id]
    task.cancel()
    await asyncio.wait([task], timeout=5)

    assert task.cancelled()


async def test_an_idempotency_key_names_one_run_however_it_ended(house: House) -> None:
    orchestrator = house.start(ScriptedFleet(repair=repaired(None, exhausted=True)))
    first = await orchestrator.submit_once(Task(id="t"), TREE, None, key="http:k", fingerprint="f")
    await orchestrator.wait([first[0]], 5.0)

    again = await orchestrator.submit_once(Task(id="t"), TREE, None, key="http:k", fingerprint="f")

    assert (first[1], again) == (False, (first[0], True))
    assert (await orchestrator.state(first[0])).status is Status.FAILED
    with pytest.raises(KeyReused, match="another request"):
        await orchestrator.submit_once(Task(id="u"), TREE, None, key="http:k", fingerprint="g")


async def test_one_more_run_than_may_be_pending_is_refused(house: House) -> None:
    waiting = asyncio.Event()
    orchestrator = house.start(ScriptedFleet(repair=waiting), max_active_runs=1, max_pending_runs=1)
    runs = [await orchestrator.submit(Task(id="t"), TREE) for _ in range(2)]

    with pytest.raises(QueueFull, match="max_pending_runs"):
        await orchestrator.submit(Task(id="t"), TREE)

    waiting.set()
    while orchestrator.room < 2:
        await orchestrator.wait(runs, 5.0)
    assert (await orchestrator.runs(limit=1))[1] == 2


async def test_asking_twice_to_cancel_is_one_cancellation(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)

    states = await asyncio.gather(*(orchestrator.cancel(run_id, str(n)) for n in range(5)))

    assert {state.status for state in states} == {Status.CANCELLED}
    assert kinds(await orchestrator.events(run_id)).count("cancel_requested") == 1


async def test_what_engines_cost_is_in_the_result_whatever_became_of_the_step(house: House) -> None:
    fleet = ScriptedFleet(repair=AgentError("no usable reply"))
    orchestrator = house.start(fleet)
    call = EngineCall(
        engine="m",
        kind="openai",
        role="repair",
        messages=(("user", "mend \ud800"),),
        replies=("done",),
        usage=Usage(prompt=10, completion=5, cost_usd=0.5, gpu_s=2.0, requests=1),
    )

    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await orchestrator.report_call(f"{run_id}/repair.1", 1, call)
    assert (await ended(orchestrator, run_id)).reason == "agent"
    await orchestrator.report_call(f"{run_id}/repair.1", 1, call)

    result = await orchestrator.result(run_id)
    events = [each for each in await orchestrator.events(run_id) if each.type is Kind.ENGINE_CALLED]
    assert (result["cost_usd"], result["gpu_s"], result["tokens"]["prompt"]) == (1.0, 4.0, 20)
    assert [(each.step, each.attempt) for each in events] == [("repair", 1)] * 2
    assert await orchestrator.artifact(events[0].data["replies"][0]) == b"done"


SAID = "E   TypeError: unsupported operand type(s) for +: 'int' and 'Money'\ncart.py:12: TypeError"
SHOWN = Profiled(
    profile=TestProfile(expected=BASE),
    run=run_of(BASE, cases=tuple(TestCase(id=test, outcome=FAILING, detail=SAID) for test in BASE)),
)


async def repaired_like(house: House, task: Task, fleet: ScriptedFleet) -> tuple[str, RepairRequest]:
    """A run of `task` to its end, and what its repair was asked."""
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(task, TREE)
    assert (await ended(orchestrator, run_id)).reason == "certified"
    house.logs[-1].close()
    return run_id, next(asked for asked in fleet.asked if isinstance(asked, RepairRequest))


async def test_what_a_run_taught_is_shown_to_the_next_model_that_meets_the_same(house: House) -> None:
    task = Task(id="t", model="m")
    first, asked = await repaired_like(house, task, ScriptedFleet(profile=SHOWN))
    assert asked.lessons == ()

    _, asked = await repaired_like(house, task, ScriptedFleet(profile=SHOWN))

    (lesson,) = asked.lessons
    assert (lesson.run_id, lesson.outcome, lesson.notes) == (first, "certified", "fixed")
    assert "+fixed" in lesson.patch


@pytest.mark.parametrize(
    "task",
    [
        Task(id="t", model="m", tenant="other"),
        Task(id="t", model="m", agents=AgentSettings(memory=False)),
        Task(id="t"),
    ],
)
async def test_another_tenant_a_switch_and_a_search_are_not_reminded(house: House, task: Task) -> None:
    await repaired_like(house, Task(id="t", model="m"), ScriptedFleet(profile=SHOWN))

    _, asked = await repaired_like(house, task, ScriptedFleet(profile=SHOWN))

    assert asked.lessons == ()


async def test_a_run_with_the_switch_off_leaves_no_lesson(house: House) -> None:
    off = Task(id="t", model="m", agents=AgentSettings(memory=False))
    await repaired_like(house, off, ScriptedFleet(profile=SHOWN))

    _, asked = await repaired_like(house, Task(id="t", model="m"), ScriptedFleet(profile=SHOWN))

    assert asked.lessons == ()


async def test_a_run_resumed_between_its_end_and_what_it_taught_is_worked_on(house: House) -> None:
    class Slow:
        def __init__(self) -> None:
            self.learning, self.go_on = asyncio.Event(), asyncio.Event()
            self.again: list[bool] = []

        async def recall(self, *_: object, **__: object) -> list[Lesson]:
            return []

        async def learn(self, _lesson: Lesson, *, tenant: str, is_again: bool = True) -> None:
            self.again.append(is_again)
            self.learning.set()
            await self.go_on.wait()

    memory = Slow()
    orchestrator = house.start(ScriptedFleet(profile=SHOWN, repair=repaired(improvement("wrong"))))
    orchestrator._work._memory = memory
    run_id = await orchestrator.submit(Task(id="t", model="m"), TREE)
    await asyncio.wait_for(memory.learning.wait(), 20)
    assert (await orchestrator.state(run_id)).status is Status.FAILED

    resuming = asyncio.create_task(orchestrator.resume([run_id]))
    await asyncio.sleep(0.1)
    memory.go_on.set()

    assert await asyncio.wait_for(resuming, 20) == [run_id]
    state = await ended(orchestrator, run_id)
    assert (state.resumed, state.status) == (1, Status.FAILED)
    assert memory.again[0] is False
