"""The shell agent with a scripted model: real sandbox, real runner, real judge."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_runners import tree_of
from one_runner import OneRunner
from scripted_engine import Only, ScriptedEngine

from actors.engines.port import Message, Reply, Sampling
from actors.runner import Runner
from actors.sandbox.settings import SandboxSettings
from actors.shell.coder import ShellCoder
from actors.shell.repairer import ShellRepairer
from actors.shell.settings import ShellSettings
from cluster import processes
from orchestrator.errors import AgentError, BudgetSpent, EngineDown, SandboxError
from orchestrator.lessons import Lesson
from orchestrator.loop import failure_details
from orchestrator.steps import (
    Improvement,
    ProfileRequest,
    Repaired,
    RepairRequest,
    TestRequest,
    Turn,
    Usage,
    WriteRequest,
    Written,
)
from orchestrator.tree import Tree
from orchestrator.verdict import Level, judge

pytestmark = [pytest.mark.sandbox]

SHOP = tree_of(
    {
        "shop/__init__.py": "",
        "shop/price.py": "def total(prices):\n    return sum(prices) + 1\n",
        "shop/page.py": "def start(page, size):\n    return page * size\n",
        "tests/test_shop.py": (
            "from shop import page, price\n\n\n"
            "def test_total():\n    assert price.total([1, 2]) == 3\n\n\n"
            "def test_start():\n    assert page.start(1, 10) == 0\n\n\n"
            "def test_type():\n    assert isinstance(price.total([]), int)\n"
        ),
        ".gitignore": "*.log\n",
    }
)
MEND_PRICE = "sed -i 's/ + 1//' shop/price.py"
MEND_PAGE = "cat > shop/page.py <<'EOF'\ndef start(page, size):\n    return (page - 1) * size\nEOF"
DONE = "echo RAYSMITH_DONE"


def say(command: str, why: str = "Next.") -> str:
    return f"{why}\n\n```bash\n{command}\n```\n"


class Told:
    """A progress that keeps turns and improvements apart."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.improvements: list[Improvement] = []

    async def __call__(self, news: Improvement | Turn) -> None:
        (self.turns if isinstance(news, Turn) else self.improvements).append(news)  # type: ignore[arg-type]


class Agent:
    """A shell agent on a runner of this process, and everything that can be asked of it afterwards."""

    def __init__(
        self, script: Sequence[Any], tree: Tree = SHOP, room: int | None = None, **limits: Any
    ) -> None:
        self.engine = ScriptedEngine(list(script), room=room)
        self.runner = Runner(SandboxSettings(minimum=Level.NAMESPACE))
        self.runners = OneRunner(self.runner)
        self.told = Told()
        self.tree = tree
        self.settings = ShellSettings(**{"command_s": 30.0, **limits})

    async def request(self, **changes: Any) -> RepairRequest:
        profile = (await self.runner.profile(ProfileRequest(tree=self.tree, timeout_s=60))).profile
        return replace(
            RepairRequest(
                base=self.tree,
                tree=self.tree,
                profile=profile,
                failing=profile.failing,
                model="scripted:m",
                wall_s=120.0,
                timeout_s=60.0,
            ),
            **changes,
        )

    async def repair(self, **changes: Any) -> Repaired:
        request = await self.request(**changes)
        repairer = ShellRepairer(Only(self.engine), self.settings)
        async with asyncio.timeout(180):
            return await repairer.repair(request, self.runners, self.told)

    @property
    def shown(self) -> list[str]:
        """What was given back to the model, turn by turn."""
        return [turn.told for turn in self.told.turns]


def on_this_machine(marker: str) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if marker.encode() in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
            except OSError:
                continue
    return found


async def test_reads_edits_tests_and_submits_until_the_judge_certifies() -> None:
    agent = Agent(
        [
            say("ls; cat shop/price.py; grep -n 'def ' -r shop"),
            say(MEND_PRICE),
            say(MEND_PAGE),
            say("python -m pytest -q"),
            say(DONE),
        ]
    )

    result = await agent.repair()

    assert result.best is not None and result.best.failing == ()
    assert result.repairer == "model" and "shell" in result.best.explanation
    assert set(result.best.changes) == {"shop/price.py", "shop/page.py"}
    assert "return sum(prices) + 1" in agent.shown[0]
    assert "3 passed" in agent.shown[3]
    candidate = SHOP.with_files(result.best.changes)
    request = await agent.request()
    runs = [
        await agent.runner.test(
            TestRequest(base=SHOP, candidate=candidate, profile=request.profile, seed=seed)
        )
        for seed in (0, 2)
    ]
    assert judge(request.profile, runs).certified


async def test_every_improvement_is_told_before_the_work_goes_on() -> None:
    agent = Agent([say(MEND_PRICE), say(MEND_PAGE), say(DONE)])

    await agent.repair()

    assert [len(each.failing) for each in agent.told.improvements] == [1, 0]
    assert [turn.failing for turn in agent.told.turns] == [1, 0, 0]
    assert [turn.command for turn in agent.told.turns] == [MEND_PRICE, MEND_PAGE, ""]


async def test_the_best_state_is_kept_when_the_agent_spoils_it_and_runs_out_of_turns() -> None:
    agent = Agent([say(MEND_PRICE), say("echo nonsense > shop/price.py"), say("ls")], turns=3)

    result = await agent.repair()

    assert result.best is not None
    assert [test.rpartition("::")[2] for test in result.best.failing] == ["test_start"]
    assert result.best.changes["shop/price.py"].content == b"def total(prices):\n    return sum(prices)\n"


async def test_a_submission_that_still_fails_is_told_which_tests_and_goes_on() -> None:
    agent = Agent([say(f"{MEND_PRICE} && {DONE}"), say(MEND_PAGE), say(DONE)])

    result = await agent.repair()

    assert result.best is not None and not result.best.failing
    assert "1 fail" in agent.shown[0] and "test_start" in agent.shown[0]
    assert "assert 10 == 0" in agent.shown[0]


async def test_submitting_the_same_failing_state_again_ends_the_work() -> None:
    agent = Agent([say(MEND_PRICE), say(DONE), say(DONE), say("ls")])

    result = await agent.repair()

    assert len(agent.engine.asked) == 3
    assert result.best is not None and len(result.best.failing) == 1


async def test_nothing_but_the_code_reaches_the_patch() -> None:
    agent = Agent(
        [
            say("sed -i 's/== 3/== 4/; s/== 0/== 10/' tests/test_shop.py && python -m pytest -q"),
            say(
                "echo 'def pytest_collection_modifyitems(items): items.clear()' > conftest.py;"
                "printf '[pytest]\\naddopts = --co\\n' > pytest.ini; echo 'x' > debug.log;"
                "ln -s /etc/passwd passwd; mkdir -p .git/hooks; echo hi > .git/hooks/x;"
                "echo 'def test_own(): pass' > tests/test_own.py; head -c 2000000 /dev/zero > huge.bin;"
                "python -c \"open('bad:name', 'w'); open(b'\\xff.txt', 'w')\"; touch a$'\\n'b"
            ),
            say(f"{MEND_PRICE}; {MEND_PAGE}"),
            say(DONE),
        ]
    )

    result = await agent.repair()

    assert result.best is not None and result.best.failing == ()
    assert set(result.best.changes) == {"shop/price.py", "shop/page.py"}
    assert "tests/test_shop.py (protected" in agent.shown[0]
    assert "huge.bin" in agent.shown[1]
    assert [turn.failing for turn in agent.told.turns] == [None, None, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("sleep 1000", "still running after 2 seconds"),
        ("while :; do sleep 0.01; done", "still running after 2 seconds"),
        ("yes raysmith", "printed more than 1 MiB"),
        (":(){ :|:& };: ; sleep 1000", "still running after 2 seconds"),
        ("python -c 'import os\nwhile True: os.fork()'", ""),
        ("kill -9 $$", "Exit code 137"),
        ("kill -9 -1", "ended its sandbox"),
        ("nohup sleep 1000 >/dev/null 2>&1 & echo begun", "begun"),
        ("python -c 'x = [bytearray(10**7) for _ in range(1000)]'", ""),
        ("exec 2>&-; exec 1>&-; sleep 1000", "still running after 2 seconds"),
    ],
)
async def test_a_command_that_misbehaves_is_ended_and_the_work_goes_on(command: str, told: str) -> None:
    agent = Agent(
        [say(MEND_PRICE), say(command), say("cat shop/price.py; ps -e | wc -l"), say(MEND_PAGE), say(DONE)],
        command_s=2.0,
        output_mib=1,
    )

    result = await agent.repair()

    assert told in agent.shown[1]
    assert "return sum(prices)\n" in agent.shown[2]
    # The header, the first process, the worker, the shell, ps and wc.
    assert int(agent.shown[2].split("```")[1].split()[-1]) <= 6
    assert result.best is not None and result.best.failing == ()


async def test_removing_everything_does_not_lose_what_was_reached() -> None:
    agent = Agent([say(MEND_PRICE), say("rm -rf . .git * /work/.* 2>/dev/null; ls -A"), say("ls")], turns=3)

    result = await agent.repair()

    assert result.best is not None and len(result.best.failing) == 1
    assert set(result.best.changes) == {"shop/price.py"}


async def test_links_out_of_the_workspace_show_nothing_of_this_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a key of the host")
    agent = Agent(
        [say(f"ln -s {secret} s; ln -s / r; cat s; ls r/root; cat r{secret}; {MEND_PRICE}"), say(DONE)],
        turns=2,
    )

    result = await agent.repair()

    assert "a key of the host" not in "".join(agent.shown)
    assert result.best is not None and set(result.best.changes) == {"shop/price.py"}


async def test_there_is_no_network() -> None:
    probe = "python -c \"import socket; socket.create_connection(('1.1.1.1', 53), 2)\""
    agent = Agent([say(probe)], turns=1)

    await agent.repair()

    assert agent.told.turns[0].exit_code == 1 and "Network is unreachable" in agent.shown[0]


async def test_replies_without_a_command_are_counted_told_and_forgotten() -> None:
    agent = Agent(
        ["I think it is fine.", "", say(MEND_PRICE), "```python\nprint(1)\n```", say(MEND_PAGE), say(DONE)]
    )
    agent.engine.script[1] = Reply(text="```bash\nls", finish_reason="length", usage=Usage(requests=1))

    result = await agent.repair()

    assert result.usage.unusable == 3
    assert result.best is not None and not result.best.failing
    last: list[Message] = agent.engine.asked[-1]
    assert not any("I think it is fine" in each.content for each in last)
    assert [each.role for each in last] == ["user", "assistant", "user", "assistant", "user"]
    assert "no command block" in agent.engine.asked[1][-1].content
    assert "cut off at its longest" in agent.engine.asked[2][-1].content
    assert "could not be used" not in agent.engine.asked[3][-1].content


async def test_an_agent_that_only_talks_is_given_up() -> None:
    agent = Agent(["Hm."] * 50, unusable=3)

    result = await agent.repair()

    assert result.best is None and result.exhausted
    assert len(agent.engine.asked) == 3


async def test_what_a_reply_says_after_its_command_is_neither_run_nor_kept() -> None:
    reply = say("echo first") + "Output: all pass!\n" + say("touch second")
    agent = Agent([reply, say("ls")], turns=2)

    await agent.repair()

    assert agent.engine.asked[1][1].content.endswith("echo first\n```")
    assert "second" not in agent.shown[1]


async def test_the_history_is_compacted_to_fit_and_the_task_stays() -> None:
    flood = "seq 1 2000; cat shop/price.py"
    agent = Agent([*[say(flood)] * 12, say(MEND_PRICE), say(MEND_PAGE), say(DONE)], room=9000)

    result = await agent.repair()

    assert result.best is not None and not result.best.failing
    for asked in agent.engine.asked:
        assert sum(len(each.content) for each in asked) // 3 <= 9000
        assert "test_total" in asked[0].content
    assert "not shown any more" in "".join(each.content for each in agent.engine.asked[-1])


async def test_the_turns_that_were_told_replay_the_work_to_the_letter() -> None:
    agent = Agent(
        [
            "I wonder.",
            say("cat shop/price.py"),
            say(MEND_PRICE),
            "```python\npass\n```",
            say("python -m pytest -q; python -c 'print(object())'"),
            say(f"{MEND_PAGE}\ncp shop/page.py shop/copy.py"),
            say(DONE),
        ]
    )
    first = await agent.repair()

    again = Agent([turn.reply for turn in agent.told.turns])
    second = await again.repair()

    # What the sandbox answered is kept as it came, with how long it took.
    replayed = zip(again.told.turns, agent.told.turns, strict=True)
    assert all(replace(one, answers=other.answers) == other for one, other in replayed)
    assert [len(one.answers) for one in again.told.turns] == [len(one.answers) for one in agent.told.turns]
    assert again.engine.asked == agent.engine.asked
    assert second.best is not None and first.best is not None
    assert second.best.changes == first.best.changes
    assert [each.changes for each in again.told.improvements] == [
        each.changes for each in agent.told.improvements
    ]


async def test_a_token_limit_ends_the_work() -> None:
    costly = Reply(text=say("ls"), usage=Usage(prompt=600, completion=10, requests=1))
    agent = Agent([costly] * 10, tokens=1500)

    result = await agent.repair()

    assert len(agent.engine.asked) == 3
    assert result.usage.prompt == 1800 and not result.exhausted


async def test_a_wall_limit_ends_the_work_within_a_command() -> None:
    agent = Agent([say(MEND_PRICE), say("sleep 1000")])
    began = time.monotonic()

    result = await agent.repair(wall_s=6.0)

    assert time.monotonic() - began < 20
    assert result.best is not None and len(result.best.failing) == 1 and not result.exhausted


class Hanging(ScriptedEngine):
    """Never answers once its script has ended."""

    stopped_at = 0.0

    async def complete(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None = None
    ) -> Reply:
        if self.script:
            return await super().complete(role, messages, sampling)
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped_at = time.monotonic()
        raise AssertionError


@pytest.mark.parametrize("last", [None, "echo 7391; sleep 739112"])
async def test_cancelling_aborts_the_request_and_ends_the_sandbox_within_a_second(last: str | None) -> None:
    agent = Agent([])
    agent.engine = Hanging([say(MEND_PRICE), *([say(last)] if last else [])])
    request = await agent.request()
    repairer = ShellRepairer(Only(agent.engine), agent.settings)
    work = asyncio.create_task(repairer.repair(request, agent.runners, agent.told))
    while len(agent.told.turns) < 1 or (last and not on_this_machine("739112")):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    # Other sandboxes of this machine are other tests'.
    mine = processes.below(os.getpid()).keys() & set(on_this_machine("/trusted/inside.py"))
    assert mine

    began = time.monotonic()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert time.monotonic() - began < 1.0
    assert not mine & set(on_this_machine("/trusted/inside.py")) and not on_this_machine("739112")
    assert last or agent.engine.stopped_at
    assert [improvement.failing for improvement in agent.told.improvements]


@pytest.mark.parametrize("end", [EngineDown("gone", "start it"), BudgetSpent("no tokens left")])
async def test_an_engine_that_goes_down_leaves_what_passed_before(end: Exception) -> None:
    agent = Agent([say(MEND_PRICE), end])

    result = await agent.repair()

    assert result.best is not None and len(result.best.failing) == 1


async def test_an_engine_that_is_down_from_the_start_is_an_error() -> None:
    agent = Agent([EngineDown("gone", "start it")])

    with pytest.raises(EngineDown):
        await agent.repair()


async def test_a_command_longer_than_an_argument_may_be_is_run() -> None:
    lines = "\n".join(f"VALUE_{number} = {number}" for number in range(8_000))
    agent = Agent([say(f"cat > shop/big.py <<'EOF'\n{lines}\nEOF\ntail -n 1 shop/big.py")], turns=1)

    await agent.repair()

    assert "VALUE_7999" in agent.shown[0]


async def test_without_a_sandbox_no_command_is_run() -> None:
    from actors.sandbox.settings import ACCEPT
    from actors.sandbox.unsandboxed import Unsandboxed

    agent = Agent([say("id")])
    request = await agent.request()
    settings = SandboxSettings(minimum=Level.NONE, allow_unsandboxed=ACCEPT)
    agent.runner._sandbox = Unsandboxed(settings)

    with pytest.raises(SandboxError, match="sandbox only"):
        await ShellRepairer(Only(agent.engine), agent.settings).repair(request, agent.runners, agent.told)


GOAL = WriteRequest(goal="Add count to shop/page.py", tree=SHOP, model="scripted:m")
COUNT = "printf '\\ndef count(total, size):\\n    return -(-total // size)\\n' >> shop/page.py"


async def code(agent: Agent, request: WriteRequest = GOAL) -> Written:
    coder = ShellCoder(Only(agent.engine), agent.settings)
    async with asyncio.timeout(120):
        return await coder.write(request, agent.runners, agent.told)


async def test_a_goal_is_worked_on_until_it_is_submitted() -> None:
    agent = Agent(
        [say(DONE), say(f"{COUNT}; rm tests/test_shop.py; rm shop/price.py"), say(DONE)], code_files=1
    )

    written = await code(agent)

    assert set(written.files) == {"shop/page.py"}
    assert b"def count" in written.files["shop/page.py"].content
    assert "No file of the project is changed" in agent.shown[0]
    assert "shop/price.py (a file is not removed" in agent.shown[2]
    assert agent.runners.tested == []


async def test_a_goal_whose_turns_run_out_gives_what_is_there() -> None:
    written = await code(Agent([say(COUNT), say("ls")], code_files=1, turns=2))

    assert set(written.files) == {"shop/page.py"}


@pytest.mark.parametrize(
    "end",
    [
        EngineDown("gone", "start it"),
        BudgetSpent("no tokens left"),
        Reply(text="x", usage=Usage(prompt=9**9)),
    ],
)
async def test_a_goal_that_something_else_ends_gives_what_is_there(end: Exception | Reply) -> None:
    written = await code(Agent([say(COUNT), end, say("ls")], code_files=1))

    assert set(written.files) == {"shop/page.py"}


async def test_a_goal_whose_wall_time_runs_out_gives_what_is_there() -> None:
    written = await code(Agent([say(COUNT), say("sleep 1000")], code_files=1, wall_s=6.0))

    assert b"def count" in written.files["shop/page.py"].content


async def test_a_change_that_no_test_could_look_at_any_more_is_offered_untested() -> None:
    # Its tests hang, so that the time is over before anything is known of the change.
    hang = "printf 'import time\\ntime.sleep(900)\\n' >> shop/page.py"
    result = await Agent([say(f"{hang}; {MEND_PRICE}")]).repair(wall_s=8.0)

    assert result.best is not None and set(result.best.changes) == {"shop/page.py", "shop/price.py"}
    assert not result.exhausted


async def test_a_goal_that_changes_nothing_is_an_error() -> None:
    with pytest.raises(AgentError, match="changed nothing in 2 turns"):
        await code(Agent([say("ls")] * 2, code_files=1, turns=2))


@pytest.mark.parametrize("code_files", [0, 100])
async def test_a_small_folder_is_written_in_one_prompt(code_files: int) -> None:
    agent = Agent(["shop/new.py\n```python\nX = 1\n```\n"], code_files=code_files)

    written = await code(agent)

    assert written.files["shop/new.py"].content == b"X = 1\n"
    assert agent.runners.sessions == []


async def test_what_the_first_prompt_holds_is_in_a_manifest() -> None:
    lesson = Lesson(signature="x", outcome="certified", patch="+ mend\n", run_id="r-1")
    agent = Agent([say(DONE), say(DONE)])
    run = (await agent.runner.profile(ProfileRequest(tree=SHOP, timeout_s=60))).run

    result = await agent.repair(details=failure_details([run]), lessons=(lesson,))

    [context] = result.contexts
    assert context.template == "shell" and context.version
    assert {part.kind for part in context.shown} == {"output", "memory", "frame"}
    assert "+ mend" in agent.engine.asked[0][0].content
    assert sum(part.tokens for part in context.shown) == context.prompt


async def test_a_structured_action_is_asked_for_and_read() -> None:
    steps = [MEND_PRICE, MEND_PAGE, DONE]
    agent = Agent([json.dumps({"thought": "x", "command": step}) for step in steps], structured=True)

    result = await agent.repair()

    assert result.best is not None and not result.best.failing
    sampled = [sampling for sampling in agent.engine.sampled if sampling is not None]
    assert [sampling.structured.kind for sampling in sampled if sampling.structured] == ["json"] * 3
