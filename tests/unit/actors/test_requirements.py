"""A goal taken apart by a model, whatever the model replies; and recordings that answer by what is asked."""

from __future__ import annotations

import json

import pytest

from actors.engines.port import Message, NoReply
from actors.engines.recorded import RecordedEngine
from actors.planner import Planner
from actors.requirements import MOST
from orchestrator.building import Requirements, RequirementsRequest


class Shelf:
    """One engine for every model."""

    def __init__(self, *replies: str) -> None:
        lines = [{"role": "plan", "turn": turn, "reply": reply} for turn, reply in enumerate(replies)]
        self.engine = RecordedEngine.parse("t", "\n".join(map(json.dumps, lines)))

    def __call__(self, _model: str) -> RecordedEngine:
        return self.engine

    async def close(self) -> None: ...


async def found(*replies: str) -> Requirements:
    return await Planner(Shelf(*replies)).requirements(RequirementsRequest(goal="A clock", model="m"))


@pytest.mark.parametrize(
    "reply",
    [
        '{"requirements": ["It ticks", "It tocks"], "service": false}',
        'Sure!\n```json\n{"service": false, "requirements": ["It ticks", "It tocks", "It ticks"],}\n```',
        '{"requirements": "- It ticks\\n- It tocks", "service": false}',
        '{"requirements": [{"text": "It ticks"}, {"text": "It tocks"}], "service": false}',
    ],
)
async def test_requirements_are_taken_from_what_models_write(reply: str) -> None:
    told = await found(reply)

    assert (told.items, told.service, told.refused) == (("It ticks", "It tocks"), False, "")


@pytest.mark.parametrize(
    "reply", ["", "I cannot.", "{}", '{"requirements": []}', '{"requirements": [1]}', "{" * 5000]
)
async def test_a_goal_that_no_reply_takes_apart_is_told_why(reply: str) -> None:
    told = await found(reply)

    assert told.items == () and told.service is None and told.refused


async def test_a_second_reply_may_be_better_and_too_many_are_cut() -> None:
    told = await found("no", json.dumps({"requirements": [f"r{n}" for n in range(100)]}))

    assert len(told.items) == MOST and told.usage.requests == 2


async def test_a_recording_answers_by_what_is_asked() -> None:
    lines = [
        {"role": "code", "when": "the first", "reply": "one"},
        {"role": "code", "when": "the second", "reply": "two"},
        {"role": "code", "reply": "any"},
    ]
    engine = RecordedEngine.parse("t", "\n".join(map(json.dumps, lines)))

    async def said(text: str) -> str:
        return (await engine.complete("code", [Message(role="user", content=text)])).text

    assert [await said(text) for text in ("the second", "the first", "else")] == ["two", "one", "any"]
    with pytest.raises(NoReply):
        await engine.complete("test", [Message(role="user", content="the first")])
