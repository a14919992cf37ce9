"""The conversation of a shell agent stays linear and fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine

from actors.shell.history import History
from orchestrator.errors import PromptTooLong


def roles(history: History) -> list[str]:
    return [message.role for message in history.messages]


def test_a_refusal_is_shown_once_and_leaves_with_the_next_turn() -> None:
    history = History("task")
    history.add("one", "told")

    history.refuse("that was no command")
    shown = history.messages
    history.add("two", "told")

    assert shown[-1].content == "told\n\nthat was no command"
    assert all("no command" not in message.content for message in history.messages)
    assert roles(history) == ["user", "assistant", "user", "assistant", "user"]


async def test_where_nobody_knows_the_context_nothing_is_left_out() -> None:
    history = History("task")
    for _ in range(50):
        history.add("x" * 1000, "y" * 1000)

    sampling = await history.fit(ScriptedEngine([]), 0.8)

    assert sampling.max_tokens is None and history.compactions == 0


async def test_old_output_goes_before_recent_output_and_before_commands() -> None:
    history = History("task")
    for number in range(8):
        history.add(f"command {number}", f"Exit code 0.\n{number}" + "z" * 3000)

    await history.fit(ScriptedEngine([], room=7000), 0.8)

    shown = [message.content for message in history.messages]
    assert all(f"command {number}" in shown for number in range(8))
    assert "not shown any more" in shown[2] and shown[-1].endswith("z" * 3000)


async def test_a_task_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(PromptTooLong):
        await History("t" * 9000).fit(ScriptedEngine([], room=2000), 0.8)


@given(st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 9000)), max_size=30), st.integers(800, 9000))
async def test_whatever_was_said_fits_and_keeps_its_order(turns: list[tuple[int, int]], room: int) -> None:
    engine = ScriptedEngine([], room=room)
    history = History("task")
    for said, told in turns:
        history.add("s" * said, "t" * told)

    try:
        sampling = await history.fit(engine, 0.8)
    except PromptTooLong:
        # One last command alone may be longer than a small context.
        assert max((said for said, _ in turns), default=0) > room
        return

    assert roles(history) == ["user", *["assistant", "user"] * (len(roles(history)) // 2)]
    assert (await engine.measure(history.messages)).prompt + (sampling.max_tokens or 0) <= room
