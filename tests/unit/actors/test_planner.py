"""Plans, planned files and reviews out of what models reply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import Only, ScriptedEngine, block

from actors.coder import Coder
from actors.engines.port import Reply
from actors.planner import Planner, plan_from
from actors.repository import FRUITLESS
from actors.reviewer import Reviewer
from actors.structured import parse_data
from actors.tester import Tester
from actors.writer import MAX_TURNS
from orchestrator.errors import AgentError, EngineDown
from orchestrator.plan import CI_FILE, Plan, PlannedFile
from orchestrator.steps import PlanRequest, ReviewRequest, Severity, WriteRequest
from orchestrator.tree import File, Tree

REQUEST = PlanRequest(goal="A service.", model="m")


def plan(*paths: str, **more: Any) -> str:
    return json.dumps({"project": "service", "files": [{"path": path} for path in paths], **more})


async def test_a_plan_is_found_in_prose_and_after_a_thought() -> None:
    thought = '<think>maybe {"project": "x", "files": [{"path": "wrong.py"}]}</think>'
    engine = ScriptedEngine(
        [f"{thought}Here it is {{so far}}:\n```json\n{plan('./a.py', 'tests/test_a.py')}\n```"]
    )

    planned = await Planner(Only(engine)).plan(REQUEST)

    assert planned.plan is not None
    assert [file.path for file in planned.plan.files] == ["a.py", "tests/test_a.py"]
    assert engine.sampled[0] is not None and engine.sampled[0].structured is not None
    assert engine.sampled[0].structured.kind == "json"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("no", "no JSON object"),
        ('{"project": "x"}', "`files`: Field required"),
        ('{"project": "x", "files": [{"path": 3}]}', "`files.0.path`"),
        (plan(), "`files`"),
        (plan("../a.py"), "cannot be written"),
        (plan("/etc/a.py"), "cannot be written"),
        (plan("a.py", "a.py"), "twice"),
        (plan("README.md"), "no Python source file"),
        (plan("test_a.py", "conftest.py"), "no Python source file"),
        (plan(*(f"f{n}.py" for n in range(500))), "`files`"),
        (
            json.dumps({"project": "x", "files": [{"path": "a.py", "needs": ["a.py"]}]}),
            "circle: a.py -> a.py",
        ),
        ("{" * 100_000, "no JSON object"),
        ("[" * 100_000, "no JSON object"),
    ],
)
async def test_what_is_no_plan_is_told_why_and_asked_again(bad: str, words: str) -> None:
    engine = ScriptedEngine([bad, plan("a.py")])

    planned = await Planner(Only(engine)).plan(REQUEST)

    assert words in engine.asked[1][-1].content
    assert planned.plan is not None and planned.usage.unusable == 1


@pytest.mark.parametrize(
    "said",
    [
        '{"project": "x", "files": ["a.py", "tests/test_a.py"], "stack": "Python, FastAPI"}',
        '{"project": "x", "files": {"a.py": "code", "tests/test_a.py": "it"}, "dependencies": {"six": "1"}}',
        '{"project": "x", "files": [{"path": "a.py", "purpose": "' + "p" * 5000 + '", "needs": null}, '
        '{"path": "tests/test_a.py",},],}',
    ],
)
def test_what_models_write_in_other_words_is_understood(said: str) -> None:
    made = plan_from(said)

    assert [file.path for file in made.files] == ["a.py", "tests/test_a.py"]
    assert max(len(file.purpose) for file in made.files) <= 600


async def test_a_model_that_gives_no_plan_is_asked_so_often_and_no_more() -> None:
    engine = ScriptedEngine(["I would start with a plan."] * 10)

    planned = await Planner(Only(engine)).plan(REQUEST)

    assert planned.plan is None and "no JSON object" in planned.refused
    assert len(engine.asked) == MAX_TURNS == planned.usage.unusable


async def test_an_engine_that_has_no_plan_recorded_is_asked_once() -> None:
    engine = ScriptedEngine([])

    planned = await Planner(Only(engine)).plan(REQUEST)

    assert (planned.plan, len(engine.asked)) == (None, 1)


async def test_an_engine_that_is_down_is_no_missing_plan() -> None:
    with pytest.raises(EngineDown):
        await Planner(Only(ScriptedEngine([EngineDown("gone")]))).plan(REQUEST)


def test_files_that_steer_the_judge_are_not_planned_but_ci_is() -> None:
    made = plan_from(plan("a.py", "b.py", "tests/conftest.py", "pytest.ini", ".github/evil.yml", CI_FILE))

    assert {file.path for file in made.files} == {
        *("a.py", "b.py", CI_FILE, "README.md", "Dockerfile", ".gitignore"),
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["project", "files", "path", "needs", "stack", "x"]), inner)
        ),
        max_leaves=20,
    )
)
def test_whatever_is_replied_is_a_plan_or_a_fault(value: Any) -> None:
    try:
        made = plan_from(json.dumps(value))
    except AgentError:
        return
    assert made.sources


def test_the_first_object_of_the_right_form_counts() -> None:
    from pydantic import BaseModel

    class Pair(BaseModel):
        a: int

    assert parse_data('{"b": 1} {"a": {"a": 2}} {"a": 3}', Pair).a == 3


PLAN = Plan(
    project="service", files=tuple(PlannedFile(path=p) for p in ("a.py", "b.py", "README.md", CI_FILE))
)


def wanted(plan: Plan = PLAN, **files: str) -> WriteRequest:
    tree = Tree(files={f"{name}.py": File(content=text.encode()) for name, text in files.items()})
    return WriteRequest(goal="G", tree=tree, model="m", plan=plan, wanted=plan.sources)


async def test_what_did_not_come_is_asked_for_again_and_alone() -> None:
    first = block("a.py", "1") + block("b.py", "2") + block("extra.py", "3")
    engine = ScriptedEngine([first, block("README.md", "4") + block(CI_FILE, "5")])

    written = await Coder(Only(engine)).write(wanted())

    assert set(written.files) == {"a.py", "b.py", "extra.py", "README.md", CI_FILE}
    again = engine.asked[1][0].content
    assert f"Write these now, each whole and working: README.md, {CI_FILE}." in again
    assert "a.py\n```\n1\n```" in again
    assert (written.missing, written.usage.requests) == ((), 2)


async def test_a_reply_that_is_cut_off_is_asked_for_in_smaller_parts() -> None:
    cut = Reply(text="a.py\n```\nx", finish_reason="length")
    engine = ScriptedEngine(
        [*[cut] * MAX_TURNS, block("a.py", "1") + block("b.py", "2"), block("README.md", "3")]
    )
    engine.script.append(block(CI_FILE, "4"))

    written = await Coder(Only(engine)).write(wanted())

    assert set(written.files) == {file.path for file in PLAN.files}
    assert "working: a.py, b.py." in engine.asked[MAX_TURNS][0].content


async def test_files_that_never_come_are_named_and_the_others_kept() -> None:
    engine = ScriptedEngine([block("a.py", "1") + block("b.py", "2"), *[block("a.py", "again")] * 20])

    written = await Coder(Only(engine)).write(wanted())

    assert written.files["a.py"].content == b"1\n"
    assert written.missing == ("README.md", CI_FILE)
    assert len(engine.asked) == 1 + FRUITLESS


async def test_a_model_that_writes_none_of_the_files_is_an_error() -> None:
    engine = ScriptedEngine(["no"] * 100)

    with pytest.raises(AgentError, match="no usable reply of scripted:m: the reply holds no file"):
        await Coder(Only(engine)).write(wanted())

    assert len(engine.asked) == FRUITLESS * MAX_TURNS


async def test_only_ci_may_be_written_beside_code_and_only_when_planned() -> None:
    for path in (".github/workflows/other.yml", "conftest.py"):
        engine = ScriptedEngine([block("a.py", "1") + block(path, "x"), block("a.py", "1")])
        written = await Coder(Only(engine)).write(wanted())
        assert list(written.files) == ["a.py"]
    engine = ScriptedEngine([block(CI_FILE, "x"), block("a.py", "1")])

    await Coder(Only(engine)).write(WriteRequest(goal="G", tree=Tree(), model="m"))

    assert "steers tools" in engine.asked[1][-1].content


async def test_an_empty_package_file_is_made_and_not_asked_for() -> None:
    made = Plan(project="x", files=(PlannedFile(path="shop/__init__.py"), PlannedFile(path="shop/cart.py")))
    engine = ScriptedEngine([block("shop/cart.py", "1")])

    written = await Coder(Only(engine)).write(wanted(made))

    assert written.files["shop/__init__.py"] == File(content=b"") and written.missing == ()
    assert len(engine.asked) == 1


async def test_a_coder_does_not_write_the_planned_tests() -> None:
    made = Plan(project="x", files=(PlannedFile(path="a.py"), PlannedFile(path="tests/test_a.py")))
    engine = ScriptedEngine([block("a.py", "1") + block("tests/test_b.py", "x"), block("a.py", "1")])

    written = await Coder(Only(engine)).write(wanted(made))

    assert list(written.files) == ["a.py"]


async def test_planned_tests_are_written_by_the_tester_and_nothing_else() -> None:
    made = Plan(project="x", files=(PlannedFile(path="a.py"), PlannedFile(path="tests/test_a.py")))
    request = WriteRequest(
        goal="G", tree=Tree(files={"a.py": File(content=b"x")}), model="m", plan=made, wanted=made.tests
    )
    engine = ScriptedEngine([block("a.py", "cheat"), block("tests/test_a.py", "1")])

    written = await Tester(Only(engine)).write(request)

    assert list(written.files) == ["tests/test_a.py"]
    assert "Test what the goal says" in engine.asked[0][0].content


REVIEW = ReviewRequest(
    tree=Tree(files={"a.py": File(content=b"old\n"), "c.py": File(content=b"c\n")}),
    changes={"a.py": File(content=b"new\n"), "c.py": None},
    model="m",
    goal="G",
)


def finding(**more: Any) -> dict[str, Any]:
    return {"path": "a.py", "line": 1, "severity": "low", "kind": "quality", "message": "m", **more}


async def test_findings_about_the_change_are_told_gravest_first() -> None:
    said = [
        finding(),
        finding(),
        finding(severity="high", kind="SECURITY"),
        finding(path="c.py"),
        finding(path="b.py"),
    ]
    engine = ScriptedEngine([json.dumps({"findings": [*said, finding(kind="taste", line=0)]})])

    reviewed = await Reviewer(Only(engine)).review(REVIEW)

    assert [(each.severity, each.kind, each.line) for each in reviewed.findings] == [
        (Severity.HIGH, "security", 1),
        (Severity.LOW, "quality", 1),
        (Severity.LOW, "quality", 0),
    ]
    assert "-old\n+new" in engine.asked[0][0].content


async def test_a_reviewer_that_makes_no_sense_finds_nothing() -> None:
    engine = ScriptedEngine(["LGTM", '{"findings": [{"severity": "fatal"}]}', "LGTM"])

    reviewed = await Reviewer(Only(engine)).review(REVIEW)

    assert reviewed.findings == () and "no JSON object" in reviewed.refused
    assert "`findings.0.path`" in engine.asked[2][-1].content
