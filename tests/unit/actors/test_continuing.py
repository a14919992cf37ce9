"""Replies that were cut off at their longest: what is gone on with, and what is not believed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from openai_stand_in import Act, completion, error, say, stand_in
from scripted_engine import Only, ScriptedEngine, block

from actors.coder import Coder
from actors.continuing import MAX_JOINTS, anchor_of, joined
from actors.engines.names import parse_model
from actors.engines.openai import OpenAIEngine
from actors.engines.port import Message, Reply, Sampling
from orchestrator.errors import AgentError
from orchestrator.steps import Usage, WriteRequest
from orchestrator.tree import Tree

LINES = [f"    total += weigh_{number}(items)" for number in range(30)]
CODE = "\n".join(["def total(items):", "    total = 0", *LINES, "    return total"])
WHOLE = block("first.py", "x = 1") + block("app.py", CODE)
CUT_AT = WHOLE.index("weigh_17") + 4
TOLD = "\n".join(LINES[14:17])


def cut(text: str = WHOLE[:CUT_AT]) -> Reply:
    return Reply(text=text, finish_reason="length", usage=Usage(completion=1, requests=1))


async def written(engine: ScriptedEngine) -> dict[str, bytes]:
    result = await Coder(Only(engine)).write(WriteRequest(goal="Add up.", tree=Tree(), model="m"))
    return {path: file.content for path, file in result.files.items()}


async def test_a_cut_reply_is_gone_on_with_from_its_last_whole_line() -> None:
    rest = WHOLE[WHOLE.index(TOLD) :]
    engine = ScriptedEngine([cut(), rest])

    files = await written(engine)

    assert files == {"first.py": b"x = 1\n", "app.py": f"{CODE}\n".encode()}
    *_, said, asked = engine.asked[1]
    assert said.content == WHOLE[: WHOLE.index(LINES[17]) - 1]
    assert TOLD in asked.content


@pytest.mark.parametrize(
    "preface",
    [
        "Here is the rest:\n\n```python\n",
        "\n".join(LINES[5:14]) + "\n",
        "Sure!\n```python\n" + "\n".join(LINES[10:14]) + "\n",
    ],
    ids=["greeting", "more of the end", "both"],
)
async def test_what_stands_before_the_joint_is_left_out(preface: str) -> None:
    engine = ScriptedEngine([cut(), preface + WHOLE[WHOLE.index(TOLD) :]])

    assert (await written(engine))["app.py"] == f"{CODE}\n".encode()


@pytest.mark.parametrize(
    "more",
    [
        "\n".join(LINES[17:]) + "\n    return total\n```\n",
        f"{TOLD}\n    a()\n{TOLD}\n    return total\n```\n",
        "\n".join(f"    other_{n}()" for n in range(9)) + f"\n{TOLD}\n    return total\n```\n",
        "I cannot go on.",
    ],
    ids=["without the last lines", "twice", "behind something else", "prose"],
)
async def test_a_joint_that_is_not_sure_is_not_made_and_less_is_asked_for(more: str) -> None:
    again = block("app.py", "def total(items):\n    return sum(items)")
    engine = ScriptedEngine([cut(), more, again])

    files = await written(engine)

    assert files == {"first.py": b"x = 1\n", "app.py": b"def total(items):\n    return sum(items)\n"}
    assert "Kept as you wrote it: first.py" in engine.asked[2][-1].content
    # Turns can be counted, for recordings: one for each reply before.
    assert sum(message.role == "assistant" for message in engine.asked[2]) == 2


async def test_a_reply_that_is_cut_again_and_again_is_gone_on_with_a_bounded_number_of_times() -> None:
    endless = [f"    step_{number}(items, total)" for number in range(400)]
    start = block("app.py", "\n".join(["def run(items, total):", *endless]))
    parts = [start[: start.index(f"step_{n}(")] for n in (60, 120, 180, 240)]
    script: list[str | Reply | Exception] = [cut(parts[0])]
    for before, after in pairwise(parts):
        told = "\n".join(before.split("\n")[-4:-1])
        script.append(cut(told + after[len(before.rpartition("\n")[0]) :]))
    small = block("app.py", "def run(items, total):\n    return total")
    engine = ScriptedEngine([*script, small])

    assert await written(engine) == {"app.py": b"def run(items, total):\n    return total\n"}
    assert len(engine.asked) == 1 + MAX_JOINTS + 1


@pytest.mark.parametrize(
    "reply",
    [
        cut("app.py\n```python\n" + "x = 1\n" * 500),
        Reply(text="app.py\n```python\n" + "\n".join(LINES), finish_reason="repetition"),
        cut("<think>\n" + "\n".join(LINES)),
        cut(block("app.py", CODE) + "That is all there is to sa"),
        cut("app.py\n```python\nx = 1\ny"),
    ],
    ids=[
        "says the same over and over",
        "stopped for it",
        "inside a thought",
        "behind the block",
        "too short",
    ],
)
async def test_what_is_not_worth_going_on_with_is_asked_for_anew(reply: Reply) -> None:
    engine = ScriptedEngine([reply, block("app.py", "x = 1") + "\nDONE\n"])

    await written(engine)

    assert "cut off" not in engine.asked[1][-1].content or "Reply again" in engine.asked[1][-1].content
    assert len(engine.asked) == 2


async def test_without_room_for_more_less_is_asked_for() -> None:
    prompt = ScriptedEngine([block("app.py", "x = 1")])
    await written(prompt)
    taken = (await prompt.measure(prompt.asked[0])).prompt
    engine = ScriptedEngine([cut(), block("app.py", "x = 2")], room=taken * 4 // 3 + 10)

    files = await written(engine)

    assert files["app.py"] == b"x = 2\n"
    assert len(engine.asked) == 2
    assert "Go on from there" not in engine.asked[1][-1].content


def test_lines_that_stand_more_than_once_are_no_anchor() -> None:
    assert anchor_of("    return result_of_it\n" * 60) is None
    head = "a_long_line_of_its_own = 1\nsame_here = 2\nand_there = 3\n" * 2
    assert anchor_of(head * 6) is None
    assert anchor_of(head + "and_once = 4\n") == ["same_here = 2", "and_there = 3", "and_once = 4"]
    assert joined(head, ["missing"], "nothing") is None


async def test_a_vllm_server_goes_on_from_the_reply_s_own_words() -> None:
    acts = [say(WHOLE[:CUT_AT], finish_reason="length"), say(WHOLE[WHOLE.index(LINES[17]) - 1 :])]
    async with stand_in(*acts) as server:
        server.models = [{"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 32768}]
        name = f"{server.url}#m"
        engine = OpenAIEngine(parse_model(name), name=name, key=None)
        result = await Coder(Only(engine)).write(WriteRequest(goal="Add up.", tree=Tree(), model="m"))  # type: ignore[arg-type]
        await engine.close()

    assert result.files["app.py"].content == f"{CODE}\n".encode()
    last = server.requests[1]
    assert (last["continue_final_message"], last["add_generation_prompt"]) == (True, False)
    assert last["messages"][-1] == {"role": "assistant", "content": WHOLE[: WHOLE.index(LINES[17]) - 1]}
    assert "continue_final_message" not in server.requests[0]


async def test_a_server_that_refuses_to_go_on_is_asked_to_say_the_end_again() -> None:
    def act(request: dict[str, object]) -> Act:
        if request.get("continue_final_message"):
            return Act(status=400, body=error("continue_final_message is not supported"))
        return Act(body=completion("well"))

    async with stand_in(by=act) as server:
        server.models = [{"id": "m", "object": "model", "owned_by": "vllm"}]
        name = f"{server.url}#m"
        engine = OpenAIEngine(parse_model(name), name=name, key=None)
        turns = [Message(role="user", content="a"), Message(role="assistant", content="b")]
        await engine.measure(turns)
        assert engine.continues
        with pytest.raises(AgentError, match="not supported"):
            await engine.complete("code", turns, Sampling())
        assert not engine.continues
        assert (await engine.complete("code", turns[:1])).text == "well"
        await engine.close()
