"""Runs of a factory without Ray, replayed: equal where nothing changed, told apart where something did."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes import improvement, repaired
from local_fleet import TREE, Factory, LocalFleet, task_of, types, writes

from actors import prompts
from actors.engines.port import Reply
from actors.replay.run import Replayed, replay
from cluster.event_log_chain import draft, link
from cluster.export import graph_in
from orchestrator.errors import AgentError, EngineDown
from orchestrator.events import Event, Kind, NewEvent
from orchestrator.recording import Recording
from orchestrator.steps import RaceEnd, Repaired
from orchestrator.task import Budget


@pytest.fixture
async def factory(tmp_path: Path) -> AsyncIterator[Factory]:
    factory = Factory(tmp_path)
    yield factory
    factory.close()


async def again(factory: Factory, events: list[Event]) -> Replayed:
    """The run replayed from its events and artifacts alone."""
    recording = Recording(events, factory.store.get)
    graph = graph_in(recording.state, factory.store.get)

    async def on_test(_step: str, _request: object, _run: object) -> None: ...

    return await asyncio.wait_for(replay(recording, graph, TREE, None, on_test), 20)


def rewritten(events: list[Event], change: Any) -> list[Event]:
    """The log as it would be with other data, its chain mended; `change` gives an event's data or None."""
    made: list[Event] = []
    for event in events:
        data = change(event)
        if data is None:
            continue
        new = NewEvent(
            run_id=event.run_id,
            type=event.type,
            data=data,
            step=event.step,
            attempt=event.attempt,
            epoch=event.epoch,
            dispatch_id=event.dispatch_id,
            tenant=event.tenant,
        )
        prev = made[-1].hash if made else ""
        made.append(link(draft(new, 1 << 20), seq=len(made) + 1, at=event.at, prev_hash=prev).event)
    return made


def older(events: list[Event]) -> list[Event]:
    """The log as a release before exports would have written it."""
    newer = ("agents", "measures", "next", "answers", "number")
    return rewritten(
        events, lambda event: {name: each for name, each in event.data.items() if name not in newer}
    )


async def none_found(_request: Any, _progress: Any) -> Repaired:
    return repaired(None, exhausted=True)


async def test_a_repair_by_a_model_is_equal_and_asks_every_reply_again(factory: Factory) -> None:
    events = await factory.run(LocalFleet(script=["no code", AgentError("busy"), writes("fixed")], room=9000))

    done = await again(factory, events)

    assert done.difference is None
    assert (done.status, done.reason, done.replies) == ("succeeded", "certified", 3)
    assert (done.steps_redone, done.steps_taken, done.tests) == (1, 0, 3)
    assert done.patch == events[-1].data["diff"]


async def test_samples_of_one_request_come_to_the_same_candidates(factory: Factory) -> None:
    drawn = Reply(text=writes("half"), others=(writes("fixed"), "no code", writes("fixed")))
    events = await factory.run(LocalFleet(script=[drawn], samples=4))

    done = await again(factory, events)

    [call] = [event.data for event in events if event.type is Kind.ENGINE_CALLED]
    assert call["sampling"] == {"n": 4}
    assert (done.difference, done.reason, done.replies) == (None, "certified", 1)


async def test_nodes_of_a_graph_and_a_persons_decision_come_again(factory: Factory) -> None:
    declaration = {
        "name": "gated",
        "requires": ["folder"],
        "nodes": {
            "profile": {"kind": "agent", "role": "run", "work": "profile"},
            "repair": {
                "kind": "repair_loop",
                "until": "certified",
                "inputs": {"profile": "$profile.profile"},
            },
            "gate": {"kind": "approval", "patch_of": "repair", "message": "Take it?"},
        },
        "result": ["gate"],
    }
    orchestrator = factory.start(LocalFleet(script=["no code", writes("fixed")]))
    run_id = await orchestrator.submit(task_of(graph="gated", declaration=declaration), TREE)
    await orchestrator.wait([run_id], 20)
    parked = await again(factory, factory.events(run_id))
    await orchestrator.decide(run_id, "gate", approved=True, by="ann")
    await orchestrator.wait([run_id], 20)
    events = factory.events(run_id)

    done = await again(factory, events)

    assert {"node_started", "node_ended", "approval_asked", "approval_decided"} <= set(types(events))
    assert (parked.difference, parked.status) == (None, "parked")
    assert (done.difference, done.status) == (None, "succeeded")


async def test_a_prompt_that_has_changed_is_named(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    events = await factory.run(LocalFleet(script=[writes("half"), writes("fixed")]))
    render = prompts.render
    monkeypatch.setattr("actors.repair_context.render", lambda *a, **k: f"Be brief.\n{render(*a, **k)}")

    done = await again(factory, events)

    assert done.difference is not None
    told = done.difference.message
    assert "step repair (attempt 1), role repair, call 1 of 1: message 1 (user) differs, line 1" in told
    assert "now 'Be brief.'" in told


async def test_replies_are_found_by_what_was_asked_not_by_their_order(factory: Factory) -> None:
    events = await factory.run(LocalFleet(script=["no code", writes("fixed")]))
    calls = [event.data for event in events if event.type is Kind.ENGINE_CALLED]
    swapped = {number: {**call, "number": number} for number, call in enumerate(reversed(calls), 1)}
    numbers = iter([1, 2])

    done = await again(
        factory,
        rewritten(events, lambda e: swapped[next(numbers)] if e.type is Kind.ENGINE_CALLED else e.data),
    )

    assert done.difference is None


async def test_a_reply_that_nobody_asks_for_any_more_is_named(factory: Factory) -> None:
    events = await factory.run(LocalFleet(script=[writes("fixed")]))
    [call] = [event.data for event in events if event.type is Kind.ENGINE_CALLED]
    later = {**call, "number": 2, "messages": [*call["messages"], *call["messages"]]}
    twice = []
    for event in events:
        twice += [event, dataclasses.replace(event, data=later)] if event.data is call else [event]

    done = await again(factory, rewritten(twice, lambda event: event.data))

    assert done.difference is not None
    assert "call 2 of 2 was recorded and is not asked again" in done.difference.message


async def test_another_result_of_the_same_replies_is_named(factory: Factory) -> None:
    events = await factory.run(LocalFleet(script=[writes("fixed")]))
    [step] = [e for e in events if e.type is Kind.STEP_COMPLETED and e.step == "repair"]
    other = factory.store.get(step.data["result"]).replace(b"rewrote a.py", b"rewrote b.py")
    digest = factory.store.put(other)

    done = await again(
        factory, rewritten(events, lambda e: {**e.data, "result": digest} if e.seq == step.seq else e.data)
    )

    assert done.difference is not None
    assert "the result of step repair (attempt 1): best.explanation is" in done.difference.message


async def test_a_search_alone_is_taken_and_its_patch_certified_again(factory: Factory) -> None:
    async def find(_request: Any, progress: Any) -> Repaired:
        await progress(improvement("half", ["test_a.py::two"]))
        await progress(improvement("fixed"))
        return repaired(improvement("fixed"), candidates=3, cpu_s=1.5)

    events = await factory.run(LocalFleet(agents=("search",), search=find), model=None)

    done = await again(factory, events)

    assert types(events).count("patch_kept") == 2
    assert (done.difference, done.steps_taken, done.reason) == (None, 1, "certified")


async def test_a_model_that_a_search_outran_is_stopped_where_it_was(factory: Factory) -> None:
    async def find(_request: Any, _progress: Any) -> Repaired:
        await asked_again.wait()
        return repaired(improvement("fixed"), candidates=3, cpu_s=1.5)

    fleet = LocalFleet(script=["no code", writes("half")], agents=("search", "model"), search=find)
    complete, asked_again = fleet.engine.complete, asyncio.Event()

    async def slow(*asked: Any) -> Any:
        if fleet.engine.asked:
            asked_again.set()
            await asyncio.Event().wait()
        return await complete(*asked)

    fleet.engine.complete = slow  # type: ignore[method-assign]
    events = await factory.run(fleet)

    done = await again(factory, events)

    errors = [event.data["error"] for event in events if event.type is Kind.ENGINE_CALLED]
    assert sorted(errors) == ["", "cancelled"]
    assert (done.difference, done.steps_redone, done.replies) == (None, 1, 2)


async def test_a_model_that_outran_a_search_wins_again(factory: Factory) -> None:
    async def never(_request: Any, _progress: Any) -> Repaired:
        await asyncio.Event().wait()
        raise AssertionError

    fleet = LocalFleet(script=[writes("fixed")], agents=("search", "model"), search=never)
    events = await factory.run(fleet)

    done = await again(factory, events)

    assert (done.difference, done.steps_redone, done.replies) == (None, 1, 1)


SHELL = ["```bash\nwrite a.py half\n```", "no command", "```bash\ndie now\n```"]
SHELL += ["```bash\nwrite a.py fixed\n```", "```bash\necho RAYSMITH_DONE\n```"]


async def test_a_shell_agent_takes_every_turn_again_without_a_sandbox(factory: Factory) -> None:
    events = await factory.run(LocalFleet(script=list(SHELL), agents=("shell",), room=9000))

    done = await again(factory, events)

    assert done.difference is None
    assert (done.reason, done.replies, done.steps_redone) == ("certified", 5, 1)
    # Two states that the agent tested, the base, and both runs of the certificate.
    assert done.tests == 5


async def test_a_sandbox_that_answered_otherwise_is_named(factory: Factory) -> None:
    events = await factory.run(LocalFleet(script=list(SHELL), agents=("shell",)))

    def change(event: Event) -> Any:
        if event.data.get("turn") != 1:
            return event.data
        answers = factory.store.get(event.data["answers"]).replace(b'"done\\\\n', b'"gone\\\\n')
        return {**event.data, "answers": factory.store.put(answers)}

    done = await again(factory, rewritten(events, change))

    assert done.difference is not None
    assert "role shell, call 2 of 5: message 3 (user) differs" in done.difference.message


async def test_three_repairers_side_by_side_come_to_the_same(factory: Factory) -> None:
    # The shell agent's words are no files, and the model's no command: each takes what is said to it.
    fleet = LocalFleet(agents=("search", "model", "shell"), search=none_found)
    script = iter(SHELL)

    async def complete(role: str, messages: Any, sampling: Any = None) -> Any:
        fleet.engine.script = [next(script) if role == "shell" else "nothing to say"]
        return await type(fleet.engine).complete(fleet.engine, role, messages, sampling)

    fleet.engine.complete = complete  # type: ignore[method-assign]
    events = await factory.run(fleet)

    done = await again(factory, events)

    [result] = [e.data["result"] for e in events if e.type is Kind.STEP_COMPLETED and e.step == "repair"]
    raced = Recording(events, factory.store.get).json(result)["raced"]
    assert [(each["name"], each["end"]) for each in raced] == [
        ("search", RaceEnd.ANSWERED),
        ("shell", RaceEnd.ANSWERED),
        ("model", RaceEnd.ANSWERED),
    ]
    assert (done.difference, done.replies) == (None, 8)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([EngineDown("nobody answers", "start it")], "environment"),
        ([writes("half"), writes("worse"), writes("start")], "attempts_exhausted"),
        (["nothing"] * 3, "no_candidate"),
        ([], "no_candidate"),
    ],
)
async def test_a_run_that_failed_fails_again(factory: Factory, script: list[Any], reason: str) -> None:
    events = await factory.run(LocalFleet(script=script))

    done = await again(factory, events)

    assert events[-1].data["reason"] == reason
    assert (done.difference, done.status, done.reason) == (None, "failed", reason)


async def test_a_budget_of_tokens_is_spent_again(factory: Factory) -> None:
    fleet = LocalFleet(script=[writes("half"), "no code", writes("fixed")])
    events = await factory.run(fleet, budget=Budget(attempts=3, tokens=1))

    done = await again(factory, events)

    assert events[-1].data["reason"] == "budget_exhausted"
    assert done.difference is None


@pytest.mark.parametrize("agents", [("model",), ("shell",), ("search", "model")])
async def test_a_cancelled_run_is_cut_off_at_the_same_place(
    factory: Factory, agents: tuple[str, ...]
) -> None:
    async def never(_request: Any, progress: Any) -> Repaired:
        await progress(improvement("half", ["test_a.py::two"]))
        await asyncio.Event().wait()
        raise AssertionError

    fleet = LocalFleet(script=["no code", "no code"], agents=agents, search=never)
    complete, asked = fleet.engine.complete, asyncio.Event()

    async def slow(*given: Any) -> Any:
        if fleet.engine.asked:
            asked.set()
            await asyncio.Event().wait()
        return await complete(*given)

    fleet.engine.complete = slow  # type: ignore[method-assign]
    orchestrator = factory.start(fleet)
    run_id = await orchestrator.submit(task_of(), TREE)
    await asyncio.wait_for(asked.wait(), 20)

    await orchestrator.cancel(run_id, "enough")

    done = await again(factory, factory.events(run_id))
    assert (done.difference, done.status, done.reason) == (None, "cancelled", "cancelled_by_user")


async def test_a_run_that_a_killed_orchestrator_left_is_replayed_as_it_went_on(factory: Factory) -> None:
    reached = asyncio.Event()

    async def half_way(_request: Any, progress: Any) -> Repaired:
        await progress(improvement("half", ["test_a.py::two"]))
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def from_there(request: Any, progress: Any) -> Repaired:
        assert request.tree.files["a.py"].content == b"half"
        await progress(improvement("fixed"))
        return repaired(improvement("fixed"), candidates=3)

    fleet = LocalFleet(agents=("search",), search=half_way)
    run_id = await factory.start(fleet).submit(task_of(model=None), TREE)
    await asyncio.wait_for(reached.wait(), 20)
    await factory.lose()
    orchestrator = factory.start(LocalFleet(agents=("search",), search=from_there), life="life-2")
    await orchestrator.resume()
    await orchestrator.wait([run_id], 20)
    events = factory.events(run_id)

    done = await again(factory, events)

    assert "run_resumed" in types(events)
    assert (done.difference, done.reason) == (None, "certified")
    for cut in range(3, len(events)):
        part = await again(factory, events[:cut])
        assert part.difference is None, (cut, part.difference)


async def test_a_model_that_was_killed_while_it_worked_is_asked_from_where_it_went_on(
    factory: Factory,
) -> None:
    reached = asyncio.Event()

    first = LocalFleet(script=["no code", writes("half")])
    complete = first.engine.complete

    async def slow(*asked: Any) -> Any:
        if first.engine.asked:
            reached.set()
            await asyncio.Event().wait()
        return await complete(*asked)

    first.engine.complete = slow  # type: ignore[method-assign]
    run_id = await factory.start(first).submit(task_of(), TREE)
    await asyncio.wait_for(reached.wait(), 20)
    await factory.lose()
    second = LocalFleet(script=[writes("fixed")])
    orchestrator = factory.start(second, life="life-2")
    await orchestrator.resume()
    await orchestrator.wait([run_id], 20)

    done = await again(factory, factory.events(run_id))

    assert (done.difference, done.reason, done.replies) == (None, "certified", 1)


async def test_a_log_of_an_older_release_is_equal_as_far_as_it_tells(factory: Factory) -> None:
    events = await factory.run(LocalFleet(script=["no code", writes("fixed")], room=9000))
    old = older(events)

    done = await again(factory, old)

    assert (done.difference, done.reason) == (None, "certified")
    assert done.steps_redone + done.steps_taken == 1


async def test_a_shell_run_of_an_older_release_is_taken_as_recorded(factory: Factory) -> None:
    events = await factory.run(LocalFleet(script=list(SHELL), agents=("shell",)))
    old = older(events)

    done = await again(factory, old)

    assert (done.difference, done.steps_taken) == (None, 1)
    assert "taken as recorded" in done.notes[0]


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        (Kind.VERDICT_REACHED, {"verdict": {"certified": False}}, "(verdict_reached): verdict."),
        (Kind.RUN_FINISHED, {"patch": "0" * 64}, "the end: patch is"),
        (Kind.ATTEMPT_STARTED, {"failing": []}, "(attempt_started): failing has 2 entries where 0"),
    ],
)
async def test_a_fact_that_does_not_come_again_is_named(
    factory: Factory, kind: Kind, change: dict[str, Any], told: str
) -> None:
    events = await factory.run(LocalFleet(script=[writes("fixed")]))

    done = await again(
        factory, rewritten(events, lambda e: {**e.data, **change} if e.type is kind else e.data)
    )

    assert done.difference is not None
    assert told in done.difference.message
