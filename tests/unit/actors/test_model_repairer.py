"""The model's repair, and how it races with the search."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from fakes import FAILING, PASSING, improvement, repaired
from scripted_engine import Only, ScriptedEngine, block

from actors.engines.port import Reply
from actors.model_repairer import ModelRepairer
from actors.portfolio import Portfolio
from orchestrator.errors import EngineDown, EngineMissing, RaysmithError, SandboxError
from orchestrator.steps import Refused, Repaired, RepairRequest, Usage
from orchestrator.tree import File, FileMode, Tree
from orchestrator.verdict import TestProfile

TREE = Tree(
    files={
        "a.py": File(content=b"def f():\n    return 1\n"),
        "run.sh": File(content=b"old\n", mode=FileMode.EXECUTABLE),
        "other.py": File(content=b"unrelated = 1\n"),
        "test_a.py": File(content=b"def test_one(): ...\n"),
    }
)
PROFILE = TestProfile(
    expected={"test_a.py::test_one": FAILING, "test_a.py::test_two": PASSING},
    protected=frozenset({"test_a.py"}),
)
REQUEST = RepairRequest(
    base=TREE,
    tree=TREE,
    profile=PROFILE,
    failing=("test_a.py::test_one",),
    goal="Count to two.",
    details={"test_a.py::test_one": "/work/a.py:2: AssertionError: 1 != 2"},
    model="m",
)
FIXED = block("a.py", "def f():\n    return 2")
MENDED = File(content=b"def f():\n    return 2\n")


async def repair(engine: ScriptedEngine, request: RepairRequest = REQUEST) -> Repaired:
    return await ModelRepairer(Only(engine)).repair(request)


async def test_a_reply_becomes_a_candidate_relative_to_the_base() -> None:
    started = TREE.with_files({"other.py": File(content=b"changed = 1\n")})

    found = await repair(ScriptedEngine([FIXED]), replace(REQUEST, tree=started))

    assert found.best is not None
    assert found.best.changes == {"a.py": MENDED, "other.py": File(content=b"changed = 1\n")}
    assert (found.best.failing, found.repairer, found.candidates) == ((), "model", 1)
    assert found.best.explanation == "scripted:m rewrote a.py"
    assert found.usage == Usage(completion=1, requests=1)


async def test_the_prompt_holds_goal_failures_their_output_and_the_files() -> None:
    engine = ScriptedEngine([FIXED])

    await repair(engine)

    prompt = engine.asked[0][0].content
    for part in (
        "Count to two.",
        "- test_a.py::test_one",
        "1 != 2",
        "    return 1",
        "cannot be changed: test_a.py.",
    ):
        assert part in prompt
    assert "was tried" not in prompt


async def test_the_next_prompt_holds_what_was_refused_and_why() -> None:
    engine = ScriptedEngine([FIXED])
    refused = Refused(
        changes={"a.py": File(content=b"def f():\n    return 3\n")},
        details={"test_a.py::test_one": "3 != 2"},
        doubts=("run 1 ended by timeout",),
    )

    await repair(engine, replace(REQUEST, refused=refused))

    prompt = engine.asked[0][0].content
    assert "+    return 3" in prompt and "3 != 2" in prompt and "run 1 ended by timeout" in prompt


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (block("test_a.py", "def test_one(): pass"), "is protected"),
        (block("conftest.py", "x"), "steers tools"),
        (block("a.py", "def f():\n    return 1"), "as they were"),
        (block("a.py", "def f():\n    return 9"), "tried before and refused"),
        (block("../x.py", "x"), "cannot be written"),
        ("I think it is fine.", "holds no file"),
    ],
)
async def test_a_candidate_that_cannot_be_is_asked_for_again(reply: str, words: str) -> None:
    refused = TREE.with_files({"a.py": File(content=b"def f():\n    return 9\n")}).digest
    engine = ScriptedEngine([reply, FIXED])

    found = await repair(engine, replace(REQUEST, rejected=(refused,)))

    assert words in engine.asked[1][-1].content
    assert found.best is not None and found.best.changes == {"a.py": MENDED}
    assert found.usage.unusable == 1


async def test_protected_files_repeated_as_they_are_do_no_harm() -> None:
    reply = FIXED + block("test_a.py", "def test_one(): ...")

    found = await repair(ScriptedEngine([reply]))

    assert found.best is not None and found.best.changes == {"a.py": MENDED}


async def test_an_executable_stays_one() -> None:
    found = await repair(ScriptedEngine([f"run.sh\n```sh\nnew\n```\n{FIXED}"]))

    assert found.best is not None
    assert found.best.changes["run.sh"] == File(content=b"new\n", mode=FileMode.EXECUTABLE)


async def test_garbage_is_no_candidate_and_counted() -> None:
    found = await repair(ScriptedEngine(["?"] * 9))

    assert (found.best, found.exhausted, found.usage.unusable) == (None, True, 3)


async def test_a_repair_without_a_model_is_refused() -> None:
    with pytest.raises(EngineMissing):
        await repair(ScriptedEngine([]), replace(REQUEST, model=None))


async def test_what_the_output_names_is_shown_before_other_files() -> None:
    big = {f"pad{number}.py": File(content=b"# x\n" * 300) for number in range(40)}
    engine = ScriptedEngine([FIXED], room=3000)
    tree = TREE.with_files({**big, "a.py": File(content=b"# weighty\n" * 200)})

    await repair(engine, replace(REQUEST, tree=tree, base=tree))

    assert "# weighty" in engine.asked[0][0].content
    assert "Not shown here: " in engine.asked[0][0].content


class Search:
    """A search that takes its time and ends as told."""

    def __init__(self, outcome: Repaired | Exception, *, after: asyncio.Event | None = None) -> None:
        self.outcome = outcome
        self.after = after
        self.was_stopped = False

    async def repair(self, request: Any, runners: Any, progress: Any) -> Repaired:
        try:
            if self.after is not None:
                await self.after.wait()
        except asyncio.CancelledError:
            self.was_stopped = True
            raise
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Slow(ScriptedEngine):
    """An engine that never answers."""

    was_stopped = False

    async def complete(self, *_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_stopped = True
            raise


NOTHING = repaired(None, exhausted=True, candidates=5, cpu_s=1.0)
WHOLE = repaired(improvement("searched"), candidates=5, cpu_s=1.0)
PARTIAL = repaired(improvement("half", failing=["test_a.py::test_one"]), candidates=5)


async def race(search: Search, engine: ScriptedEngine, request: RepairRequest = REQUEST) -> Repaired:
    portfolio = Portfolio(search, ModelRepairer(Only(engine)))
    async with asyncio.timeout(60):
        return await portfolio.repair(request, None, None)  # type: ignore[arg-type]


async def test_without_a_model_the_search_works_alone() -> None:
    engine = ScriptedEngine([FIXED])

    found = await race(Search(WHOLE), engine, replace(REQUEST, model=None))

    assert found is WHOLE
    assert engine.asked == []


async def test_a_search_that_is_first_stops_the_model() -> None:
    engine = Slow([])

    found = await race(Search(WHOLE), engine)

    assert (found.repairer, found.best) == ("search", WHOLE.best)
    assert engine.was_stopped


async def test_a_model_that_is_first_stops_the_search() -> None:
    search = Search(WHOLE, after=asyncio.Event())

    found = await race(search, ScriptedEngine([FIXED]))

    assert found.repairer == "model"
    assert search.was_stopped
    assert found.cpu_s <= REQUEST.cpu_s


async def test_once_a_candidate_was_refused_the_search_is_heard_first() -> None:
    gate = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, gate.set)

    found = await race(Search(WHOLE, after=gate), ScriptedEngine([FIXED]), replace(REQUEST, rejected=("x",)))

    assert (found.repairer, found.best) == ("search", WHOLE.best)
    assert [(other.changes, other.repairer) for other in found.alternatives] == [({"a.py": MENDED}, "model")]


async def test_the_model_goes_on_where_the_search_found_nothing() -> None:
    found = await race(Search(NOTHING), ScriptedEngine(["?", FIXED]))

    assert (found.repairer, found.candidates, found.cpu_s) == ("model", 6, 1.0)
    assert found.usage.unusable == 1


async def test_a_whole_candidate_of_the_model_goes_before_a_partial_one_of_the_search() -> None:
    found = await race(Search(PARTIAL), ScriptedEngine([FIXED]), replace(REQUEST, rejected=("x",)))

    assert found.best is not None and found.best.failing == ()
    assert found.repairer == "model"


async def test_a_recording_without_repairs_leaves_it_to_the_search() -> None:
    found = await race(Search(NOTHING), ScriptedEngine([]))

    assert (found.best, found.exhausted, found.usage) == (None, True, Usage())


async def test_a_model_that_is_down_costs_the_search_nothing() -> None:
    found = await race(Search(WHOLE), ScriptedEngine([EngineDown("gone")]))

    assert found.best == WHOLE.best


@pytest.mark.parametrize(
    ("search", "engine", "error"),
    [
        (NOTHING, EngineDown("gone"), EngineDown),
        (SandboxError("no sandbox"), "?", SandboxError),
        (SandboxError("no sandbox"), EngineDown("gone"), EngineDown),
    ],
)
async def test_when_neither_has_anything_the_reason_is_told(
    search: Any, engine: Any, error: type[RaysmithError]
) -> None:
    with pytest.raises(error):
        await race(Search(search), ScriptedEngine([engine]))


async def test_a_cancelled_race_stops_both() -> None:
    search, engine = Search(WHOLE, after=asyncio.Event()), Slow([])
    running = asyncio.create_task(race(search, engine))
    await asyncio.sleep(0.01)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert search.was_stopped and engine.was_stopped


LONG = "".join(f"value_{number} = {number}\n" for number in range(300))
LONG_TREE = TREE.with_files({"long.py": File(content=LONG.encode())})
LONG_REQUEST = replace(REQUEST, base=LONG_TREE, tree=LONG_TREE)
SMALL_EDIT = "long.py\n```\n<<<<<<< SEARCH\nvalue_7 = 7\n=======\nvalue_7 = 8\n>>>>>>> REPLACE\n```\n"
BAD_EDIT = "long.py\n```\n<<<<<<< SEARCH\nvalu_7 = 7\n=======\nvalue_7 = 8\n>>>>>>> REPLACE\n```\n"


async def test_a_long_file_is_changed_by_blocks() -> None:
    engine = ScriptedEngine([SMALL_EDIT])

    found = await repair(engine, LONG_REQUEST)

    assert "These files are long: long.py." in engine.asked[0][0].content
    assert found.best is not None
    assert found.best.changes == {"long.py": File(content=LONG.replace("= 7\n", "= 8\n").encode())}


async def test_a_replica_leaves_blocks_for_a_model_that_gets_them_wrong() -> None:
    engine = ScriptedEngine([*[BAD_EDIT] * 3, FIXED])
    repairer = ModelRepairer(Only(engine))

    first = await repairer.repair(LONG_REQUEST)
    second = await repairer.repair(LONG_REQUEST)

    assert first.best is None and first.usage.unusable == 3
    assert "stands nowhere" in engine.asked[1][-1].content and "value_7 = 7" in engine.asked[1][-1].content
    assert "Reply with every file that you change, whole." in engine.asked[3][0].content
    assert second.best is not None


async def test_what_held_of_an_unfinished_answer_is_a_candidate() -> None:
    engine = ScriptedEngine([SMALL_EDIT + block("../x.py", "x"), "no", "no", "no"])

    found = await repair(engine, LONG_REQUEST)

    assert found.best is not None and list(found.best.changes) == ["long.py"]


def drawn(*texts: str) -> Reply:
    first, *others = texts
    return Reply(text=first, others=tuple(others), usage=Usage(completion=len(texts), requests=1))


async def repair_by(engine: ScriptedEngine, samples: int) -> Repaired:
    return await ModelRepairer(Only(engine), samples=samples).repair(REQUEST)


async def test_equal_samples_are_offered_once_and_the_smaller_change_first() -> None:
    longer = block("a.py", "def f():\n    two = 1 + 1\n    return two")
    commented = block("a.py", "def f():\n    return 2  # two")
    engine = ScriptedEngine([drawn(longer, FIXED, "nothing", commented)])

    found = await repair_by(engine, 4)

    assert engine.sampled[0] is not None and engine.sampled[0].n == 4
    assert found.best is not None
    assert (found.best.changes, found.best.votes) == ({"a.py": MENDED}, 2)
    assert found.best.explanation == "scripted:m rewrote a.py (2 of 3 usable replies)"
    assert [each.votes for each in found.alternatives] == [1]
    assert found.candidates == 2


async def test_another_sample_serves_where_the_first_cannot_be_used() -> None:
    engine = ScriptedEngine([drawn("Sorry, no.", FIXED)])

    found = await repair_by(engine, 2)

    assert found.best is not None and found.best.changes == {"a.py": MENDED}
    assert len(engine.asked) == 1


async def test_without_any_usable_sample_one_more_is_asked_for() -> None:
    engine = ScriptedEngine([drawn("No.", "No!"), FIXED])

    found = await repair_by(engine, 2)

    assert found.best is not None
    assert [sampling.n if sampling else 1 for sampling in engine.sampled] == [2, 1]


async def test_a_model_that_agrees_with_the_search_is_judged_once() -> None:
    class Search:
        async def repair(self, *_: Any) -> Repaired:
            return repaired(improvement("def f():\n    return 2\n"))

    # The judge refused something before, so that both are heard to their end.
    request = replace(REQUEST, rejected=("0" * 64,))
    other = block("a.py", "def f():\n    return 1 + 1")
    model = ModelRepairer(Only(ScriptedEngine([drawn(FIXED, other)])), samples=2)

    found = await Portfolio(Search(), model).repair(request, None, None)  # type: ignore[arg-type]

    assert found.best is not None
    assert (found.best.votes, found.repairer) == (2, "search")
    assert [each.explanation for each in found.alternatives] == [
        "scripted:m rewrote a.py (1 of 2 usable replies)"
    ]


async def test_javascript_is_repaired_with_what_the_failing_test_imports_in_sight() -> None:
    files = {
        "web/a.test.js": 'import { f } from "./a.js";\n',
        "web/a.js": 'import { g } from "../lib/g.js";\nexport const f = g;\n',
        "lib/g.js": "export const g = () => 1;\n",
    }
    base = Tree(files={path: File(content=text.encode()) for path, text in files.items()})
    profile = TestProfile(
        expected={"web/a.test.js::f": FAILING}, protected=frozenset({"web/a.test.js"}), language="javascript"
    )
    request = RepairRequest(base=base, tree=base, profile=profile, failing=("web/a.test.js::f",), model="m")

    found = await repair(ScriptedEngine([block("lib/g.js", "export const g = () => 2;")]), request)

    assert found.best is not None and list(found.best.changes) == ["lib/g.js"]
    why = {part.name: part.why for part in found.contexts[0].shown}
    assert why["web/a.js"] == "imported by web/a.test.js" and "lib/g.js" in why
