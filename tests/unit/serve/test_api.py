"""The Python API as far as it needs no factory; `tests/acceptance/test_python_api.py` has the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import raysmith
from orchestrator.errors import RaysmithError
from orchestrator.events import RunState, Status
from orchestrator.loop import Outcome
from orchestrator.patch import Changes
from orchestrator.report import changes_json, diff_text, finished
from orchestrator.report import result as told
from orchestrator.task import Task
from orchestrator.tree import File, Tree
from orchestrator.verdict import Verdict
from serve.api_factory import Factory
from serve.config import load

BASE = Tree(files={"shop.py": File(content=b"x = 1\n"), "test_shop.py": File(content=b"def test(): pass\n")})
CHANGES: Changes = {"shop.py": File(content=b"x = 2\n"), "caf\xe9.txt": File(content=b"\xff\n")}


class Client:
    """A factory whose every run has ended with `outcome` before anybody asks."""

    started_here = True

    def __init__(self, outcome: Outcome, error: RaysmithError | None = None) -> None:
        self.tasks: list[Task] = []
        self.artifacts = {"diff": diff_text(BASE, outcome.changes), "patch": changes_json(outcome.changes)}
        kept = ("diff", "patch") if outcome.changes else (None, None)
        report = finished(outcome, diff=kept[0], patch=kept[1], wall_s=1.5, usage=outcome.usage, error=error)
        # As it comes out of the log.
        report = json.loads(json.dumps(report))
        self.ended = RunState(run_id="r-1", status=outcome.status, reason=outcome.reason, report=report)

    def submit(self, task: Task, tree: Tree, *, candidate: Tree | None = None) -> str:
        self.tasks.append(task)
        return "r-1"

    def wait(self, run_ids: Any, timeout_s: float) -> dict[str, RunState]:
        return {"r-1": self.ended}

    def state(self, run_id: str) -> RunState:
        return self.ended

    def result(self, run_id: str) -> dict[str, Any]:
        return told(self.ended, self.artifacts.__getitem__)

    def artifact(self, digest: str) -> bytes:
        return self.artifacts[digest]


def factory(client: Client, tmp_path: Path) -> Factory:
    loaded = load(environ={"RAYSMITH_HOME": str(tmp_path / "home")})
    return Factory(client, loaded, lambda _text: None)  # type: ignore[arg-type]


def package(folder: Path) -> Path:
    folder.mkdir()
    for path, file in BASE.files.items():
        (folder / path).write_bytes(file.content)
    return folder


def succeeded(**more: Any) -> Outcome:
    verdict = Verdict(passed=("test_shop.py::test",), certified=True)
    return Outcome(
        status=Status.SUCCEEDED, reason="certified", verdict=verdict, changes=CHANGES, attempts=2, **more
    )


def test_a_result_says_what_json_says(tmp_path: Path) -> None:
    client = Client(succeeded(repairer="search", candidates=7))

    result = factory(client, tmp_path).repair(package(tmp_path / "p")).result()

    assert result.succeeded and result.status == "succeeded" and result.reason == "certified"
    assert result.verdict is not None and result.verdict.passed == ("test_shop.py::test",)
    assert (result.attempts, result.candidates, result.repairer, result.wall_s) == (2, 7, "search", 1.5)
    assert result.changes == {"shop.py": b"x = 2\n", "caf\xe9.txt": b"\xff\n"}
    assert result.diff.encode("utf-8", "surrogateescape") == client.artifacts["diff"]
    assert result.json == client.result("r-1")


async def test_a_run_can_be_awaited(tmp_path: Path) -> None:
    run = factory(Client(succeeded()), tmp_path).test(package(tmp_path / "p"))

    assert (await run).run_id == "r-1"


def test_options_reach_the_task(tmp_path: Path) -> None:
    client = Client(succeeded())

    factory(client, tmp_path).repair(
        package(tmp_path / "p"),
        tests="-k test",
        protect=["*.lock"],
        model="recorded:add_story",
        attempts=3,
        budget_s=9,
    )

    (task,) = client.tasks
    assert (task.tests, task.protect, task.model) == (("-k", "test"), ("*.lock",), "recorded:add_story")
    assert (task.budget.attempts, task.budget.wall_s) == (3, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "`attempts` is 0"),
        ({"attempts": 1.5}, "whole number"),
        ({"attempts": True}, "`attempts` is True"),
        ({"budget_s": float("nan")}, "`budget_s` is nan"),
        ({"budget_s": "60"}, "`budget_s` is '60'"),
        ({"budgets": 1}, "'budgets' is no option; known: tests,"),
        ({"tests": "--cov"}, "'--cov' is not an option that selects tests"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: Mapping[str, Any], message: str) -> None:
    client = Client(succeeded())

    with pytest.raises(raysmith.TaskError, match=message):
        factory(client, tmp_path).repair(package(tmp_path / "p"), **options)
    assert client.tasks == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (raysmith.TaskError("no test", "add one"), raysmith.TaskError),
        (raysmith.EngineMissing("no model", "name one"), raysmith.MachineError),
    ],
)
def test_what_somebody_has_to_mend_is_raised(
    tmp_path: Path, error: RaysmithError, kind: type[RaysmithError]
) -> None:
    client = Client(Outcome(status=Status.FAILED, reason="x"), error)

    with pytest.raises(kind, match=error.message) as raised:
        factory(client, tmp_path).repair(package(tmp_path / "p")).result()
    assert (raised.value.code, raised.value.next_move) == (error.code, error.next_move)


def test_a_run_that_failed_is_a_result_and_is_not_applied(tmp_path: Path) -> None:
    error = RaysmithError("the reply made no sense")
    run = factory(Client(Outcome(status=Status.FAILED, reason="agent"), error), tmp_path).repair(
        package(tmp_path / "p")
    )

    assert not run.result().succeeded and str(run.result().error) == "the reply made no sense"
    with pytest.raises(raysmith.TaskError, match="failed"):
        run.apply()


def test_a_patch_is_applied_to_the_folder_it_was_made_from(tmp_path: Path) -> None:
    folder = package(tmp_path / "p")
    run = factory(Client(succeeded()), tmp_path).repair(folder)

    assert run.apply() == ("caf\xe9.txt", "shop.py")
    assert (folder / "shop.py").read_text() == "x = 2\n"
    with pytest.raises(raysmith.TaskError, match="not what the patch was made from"):
        run.apply()


def test_a_batch_with_a_line_that_is_no_task_runs_nothing(tmp_path: Path) -> None:
    client = Client(succeeded())
    good = {"id": "a", "path": str(package(tmp_path / "p"))}

    with pytest.raises(raysmith.TaskError, match=r"line 2: .*`path` 'nowhere' does not exist"):
        factory(client, tmp_path).batch([good, {"id": "b", "path": "nowhere"}], out=tmp_path / "out")
    assert client.tasks == []


def test_a_goal_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(raysmith.EngineMissing):
        factory(Client(succeeded()), tmp_path).run("build it")


def test_settings_are_checked_before_anything_starts(tmp_path: Path) -> None:
    with (
        pytest.raises(raysmith.TaskError, match=r"budget\.attemps"),
        raysmith.connect(home=tmp_path, settings={"budget.attemps": 3}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_nobody_heeds_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(raysmith.TaskError, match="'model' is no option; known: config, settings"),
        raysmith.connect(home=tmp_path, model="recorded:x"),  # type: ignore[call-arg]
    ):
        pass


def test_importing_it_loads_neither_ray_nor_pydantic() -> None:
    heavy = "{'ray', 'pydantic', 'fastapi', 'typer', 'rich', 'jinja2', 'openai', 'yaml'}"
    words = [sys.executable, "-c", f"import sys, raysmith; print({heavy} & set(sys.modules))"]

    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "set()"
