"""What the agents that write ask, take, refuse and count."""

from __future__ import annotations

import pytest
from scripted_engine import Only, ScriptedEngine, block

from actors.coder import Coder
from actors.engines.port import Reply
from actors.formats import ReplySettings
from actors.packing import chosen, pack, texts
from actors.prompts import fenced, render, version
from actors.tester import Tester
from actors.writer import LEFT_OUT, MAX_REPLIES, MAX_TURNS
from orchestrator.errors import AgentError, EngineDown, PromptTooLong
from orchestrator.steps import Usage, WriteRequest
from orchestrator.tree import File, FileMode, Tree

GOAL = "A function that adds."
GOOD = block("app.py", "x = 1")


def request(**files: str) -> WriteRequest:
    tree = Tree(files={f"{name}.py": File(content=text.encode()) for name, text in files.items()})
    return WriteRequest(goal=GOAL, tree=tree, model="m")


async def test_a_good_reply_becomes_files_with_their_usage() -> None:
    engine = ScriptedEngine([GOOD])

    written = await Coder(Only(engine)).write(request())

    assert written.files == {"app.py": File(content=b"x = 1\n")}
    assert (written.engine, written.usage) == ("scripted", Usage(completion=1, requests=1))
    assert GOAL in engine.asked[0][0].content


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("Sorry, no.", "holds no file"),
        ("a.py\n```\ncut", "ends inside a fenced block"),
        (block("../a.py", "x"), "cannot be written"),
        (block("/etc/a.py", "x"), "cannot be written"),
        (block("conftest.py", "x"), "steers tools"),
        (block("a.py", "x" * 600_000), "has 600001 bytes"),
    ],
)
async def test_a_reply_that_cannot_be_used_is_told_why_and_asked_again(bad: str, words: str) -> None:
    engine = ScriptedEngine([bad, GOOD])

    written = await Coder(Only(engine)).write(request())

    first, refused, told = engine.asked[1]
    assert (first, refused.role, told.role) == (engine.asked[0][0], "assistant", "user")
    assert words in told.content
    assert refused.content == LEFT_OUT
    assert (written.usage.requests, written.usage.unusable) == (2, 1)


async def test_garbage_ends_after_bounded_turns() -> None:
    engine = ScriptedEngine(["\x00\ufffd" * 1000] * 10)

    with pytest.raises(AgentError, match=f"no usable reply of scripted:m in {MAX_TURNS} turns: .*no file"):
        await Coder(Only(engine)).write(request())

    assert len(engine.asked) == MAX_TURNS


async def test_an_empty_reply_is_asked_again_without_entering_the_conversation() -> None:
    engine = ScriptedEngine([AgentError("an empty reply"), GOOD])

    written = await Coder(Only(engine)).write(request())

    assert engine.asked[0] == engine.asked[1]
    assert written.usage.unusable == 1


async def test_a_reply_that_was_cut_off_is_asked_for_shorter() -> None:
    cut = Reply(text="a.py\n```\nx", finish_reason="length")
    engine = ScriptedEngine([cut, GOOD])

    await Coder(Only(engine)).write(request())

    assert "cut off at its longest" in engine.asked[1][-1].content


async def test_an_engine_that_is_down_is_not_asked_again() -> None:
    engine = ScriptedEngine([EngineDown("gone"), GOOD])

    with pytest.raises(EngineDown, match="gone"):
        await Coder(Only(engine)).write(request())


async def test_a_prompt_that_the_endpoint_refuses_is_made_shorter() -> None:
    engine = ScriptedEngine([PromptTooLong("too long"), GOOD])

    written = await Coder(Only(engine)).write(request(big="y" * 200_000, small="z"))

    long, short = (asked[0].content for asked in engine.asked)
    assert "y" * 200_000 in long and "Not shown here: big.py" in short and "\nz\n" in short
    assert written.usage.unusable == 0


@pytest.mark.parametrize("bad", [block("app.py", "x"), block("test_a.py", "x"), block("checks.py", "x")])
async def test_the_tester_writes_new_test_files_only(bad: str) -> None:
    engine = ScriptedEngine([bad, block("tests/test_new.py", "x = 1")])

    written = await Tester(Only(engine)).write(request(app="code", test_a="tests"))

    assert list(written.files) == ["tests/test_new.py"]
    assert "is not a new file named test_*.py" in engine.asked[1][-1].content


async def test_an_ending_replica_closes_the_engines() -> None:
    engine = ScriptedEngine([])

    await Coder(Only(engine)).cancel_all()

    assert engine.closed == 1


async def test_a_prompt_is_cut_to_the_engines_context() -> None:
    engine = ScriptedEngine([GOOD], room=4000)
    files = {f"f{number}": "x = 1\n" * 500 for number in range(20)}

    await Coder(Only(engine)).write(request(**files))

    prompt = engine.asked[0][0].content
    assert len(prompt) // 3 <= 4000 - 1000
    assert "x = 1" in prompt and "Not shown here: " in prompt
    assert engine.sampled[0] is not None and engine.sampled[0].max_tokens == 4000 - len(prompt) // 3


async def test_a_task_larger_than_the_context_is_refused_with_both_sizes() -> None:
    engine = ScriptedEngine([], room=100)

    with pytest.raises(PromptTooLong, match=r"takes \d+ of the 100 tokens"):
        await pack(engine, lambda _limit: "word " * 500)


async def test_a_goal_that_cannot_fit_is_refused_before_anything_is_asked() -> None:
    engine = ScriptedEngine([GOOD], room=60)

    with pytest.raises(PromptTooLong, match="takes"):
        await Coder(Only(engine)).write(request())

    assert engine.asked == []


async def test_turns_that_do_not_fit_after_the_prompt_are_forgotten() -> None:
    long = block("long.py", "x = 1\n" * 200) + block("../b.py", "x")
    engine = ScriptedEngine([long, GOOD], room=260)

    written = await Coder(Only(engine)).write(request())

    assert [len(asked) for asked in engine.asked] == [1, 1]
    assert list(written.files) == ["long.py", "app.py"]


def test_weighty_files_go_in_first_and_the_rest_by_size() -> None:
    files = {"a.py": "a" * 50, "b.py": "b" * 10, "c.py": "c" * 60, "d.py": "d" * 1000}

    shown, left_out = chosen(files, 200, first=["c.py", "gone.py"])

    assert list(shown) == ["a.py", "b.py", "c.py"]
    assert left_out == ["d.py"]
    assert chosen({f"{n}.py": "x" for n in range(150)}, 0)[1][-1] == "and 50 more"


def test_only_text_is_shown() -> None:
    tree = Tree(
        files={
            "a.py": File(content=b"x"),
            "b.bin": File(content=b"\xff\x00"),
            "c": File(content=b"a.py", mode=FileMode.LINK),
        }
    )

    assert texts(tree) == {"a.py": "x"}


def test_nothing_in_a_file_ends_its_block() -> None:
    assert fenced("```\nx\n```") == "````\n```\nx\n```\n````"
    assert fenced("") == "```\n```"


def test_a_value_that_a_template_needs_and_nobody_gave_is_an_error() -> None:
    with pytest.raises(Exception, match="'goal' is undefined"):
        render("code", files={}, left_out=[])


def test_a_template_has_a_version() -> None:
    assert len({version(name) for name in ("code", "test", "repair")}) == 3


TWO = File(content=b"A = 1\nB = 2\n")
EDITS = """two.py
```
<<<<<<< SEARCH
A = 1
=======
A = 10
>>>>>>> REPLACE
<<<<<<< SEARCH
C = 3
=======
C = 30
>>>>>>> REPLACE
```
"""


async def test_what_applies_is_kept_and_only_the_rest_is_asked_for_again() -> None:
    second = "two.py\n```\n<<<<<<< SEARCH\nB = 2\n=======\nB = 20\n>>>>>>> REPLACE\n```\n"
    engine = ScriptedEngine([EDITS, second])

    written = await Coder(Only(engine)).write(
        WriteRequest(goal=GOAL, tree=Tree(files={"two.py": TWO}), model="m")
    )

    _, good, told = engine.asked[1]
    assert "A = 10" in good.content and "C = 30" not in good.content
    assert "stands nowhere" in told.content and "Kept as you wrote it: two.py" in told.content
    assert written.files == {"two.py": File(content=b"A = 10\nB = 20\n")}
    assert written.usage.unusable == 0


async def test_a_bad_turn_is_never_put_to_the_model_again() -> None:
    engine = ScriptedEngine(["gibberish one", "gibberish two", GOOD])

    await Coder(Only(engine)).write(request())

    last = engine.asked[-1]
    assert [message.role for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert not any("gibberish" in message.content for message in last)
    assert "holds no file" not in last[2].content and "holds no file" in last[4].content


async def test_the_files_before_the_cut_are_kept_and_the_rest_is_asked_for() -> None:
    cut = Reply(text=f"{GOOD}\nb.py\n```python\ny = ", finish_reason="length")
    engine = ScriptedEngine([cut, block("b.py", "y = 2")])

    written = await Coder(Only(engine)).write(request())

    assert written.files == {"app.py": File(content=b"x = 1\n"), "b.py": File(content=b"y = 2\n")}
    assert "cut off at its longest" in engine.asked[1][-1].content


async def test_a_reply_cut_off_behind_the_last_file_is_done_when_the_model_says_so() -> None:
    engine = ScriptedEngine([Reply(text=f"{GOOD}\nThis file", finish_reason="length"), "DONE"])

    written = await Coder(Only(engine)).write(request())

    assert list(written.files) == ["app.py"]


async def test_progress_is_bounded_too() -> None:
    replies = [block(f"f{number}.py", "x = 1") + block("../no.py", "x") for number in range(20)]
    engine = ScriptedEngine(list(replies))

    with pytest.raises(AgentError, match="cannot be written"):
        await Coder(Only(engine)).write(request())

    assert len(engine.asked) == MAX_REPLIES


LONG = "".join(f"line_{number} = {number}\n" for number in range(300))
EDIT = "app.py\n```\n<<<<<<< SEARCH\nline_7 = 7\n=======\nline_7 = 0\n>>>>>>> REPLACE\n```\n"


async def test_a_long_file_is_asked_for_by_blocks_until_a_model_gets_them_wrong() -> None:
    wrong = EDIT.replace("line_7 = 7", "line_7 = 8")
    engine = ScriptedEngine([wrong, wrong, EDIT, EDIT])
    coder = Coder(Only(engine))

    written = [await coder.write(request(app=LONG)) for _ in range(2)]

    assert {files.files["app.py"].content for files in written} == {LONG.replace("_7 = 7", "_7 = 0").encode()}
    first = [messages[0].content for messages in engine.asked if len(messages) == 1]
    assert ["<<<<<<< SEARCH" in prompt for prompt in first] == [True, False]
    assert "These files are long: app.py." in first[0]
    assert "Reply with whole files." in first[1]


async def test_a_form_that_is_configured_is_asked_for_and_short_files_are_always_whole() -> None:
    engine = ScriptedEngine([EDIT, EDIT.replace("app.py", "small.py")])

    await Coder(Only(engine), ReplySettings(format="edits", whole_file_lines=400)).write(request(app=LONG))
    await Coder(Only(engine), ReplySettings(format="whole")).write(request(small=LONG))

    assert not any("<<<<<<< SEARCH" in messages[0].content for messages in engine.asked)


async def test_tests_are_new_files_and_asked_for_whole_whatever_is_long() -> None:
    engine = ScriptedEngine([block("test_app.py", "def test(): ...")])

    await Tester(Only(engine), ReplySettings(format="edits")).write(request(app=LONG))

    assert "whole test files" in engine.asked[0][0].content
