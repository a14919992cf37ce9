"""The search worker as a process: what it reports, and what task code cannot do to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from local_runners import LocalRunners, LocalSession, tree_of

from actors.search.shipped import WORKER, shipped
from orchestrator.errors import SandboxError
from orchestrator.ports import SessionSpec

LIMITS = {"cpu_s": 10.0, "factor": 10.0, "floor_s": 0.05, "turns": 4000, "batch": 8}


@asynccontextmanager
async def worker(files: Mapping[str, str], timeout_s: float = 1.0) -> AsyncIterator[LocalSession]:
    spec = SessionSpec(tree=tree_of(files), arguments=(), options=(), plugins=(), python=None, timeout_s=60)
    sources = [path for path in files if path.endswith(".py") and "test" not in path]
    async with LocalRunners().session(spec) as session:
        arguments = {"arguments": (), "options": (), "plugins": (), "sources": sources}
        await session.call("start", arguments, 60)
        await session.call("baseline", {"timeout_s": timeout_s}, 60)
        yield session


def change(files: Mapping[str, str], old: str, new: str, path: str = "m.py") -> dict[str, Any]:
    start = files[path].index(old)
    return {"edits": {path: [[start, start + len(old), new]]}}


async def evaluate(
    session: LocalSession,
    candidates: list[dict[str, Any]],
    failing: list[str],
    others: Sequence[str] = (),
    **limits: float,
) -> list[dict[str, Any]]:
    arguments = {
        "candidates": candidates,
        "failing": failing,
        "others": others,
        "limits": {**LIMITS, **limits},
    }
    results: list[dict[str, Any]] = await session.call("evaluate", arguments, 60)
    return results


ADD = {
    "m.py": "def add(a, b):\n    return a - b\n\n\ndef other(a):\n    return a\n",
    "test_m.py": (
        "from m import add, other\n\n\n"
        "def test_add():\n    assert add(1, 2) == 3\n\n\n"
        "def test_zero():\n    assert add(4, 0) == 4\n\n\n"
        "def test_other():\n    assert other(1) == 1\n"
    ),
}
FAILING, OTHERS = ["test_m.py::test_add"], ["test_m.py::test_zero", "test_m.py::test_other"]


def test_what_is_shipped_is_flat_and_complete() -> None:
    names = shipped()

    assert names["worker.py"] == WORKER
    assert {"top.py", "server.py", "swap.py", "wire.py"} <= set(names)


async def test_a_candidate_in_a_function_gets_its_full_vector_without_an_import() -> None:
    async with worker(ADD) as session:
        right, wrong, broken = await evaluate(
            session,
            [change(ADD, "a - b", "a + b"), change(ADD, "a - b", "a * b"), change(ADD, "a - b", "a -* b")],
            FAILING,
            OTHERS,
        )

    assert right["complete"] is True
    assert "slow" not in right
    assert set(right["outcomes"].values()) == {"passed"}
    assert (wrong["status"], wrong["fixed"], "outcomes" in wrong) == ("ran", 0, False)
    assert broken["status"] == "rejected"


async def test_the_same_code_is_tried_once() -> None:
    async with worker(ADD) as session:
        results = await evaluate(
            session,
            [
                change(ADD, "a - b", "a * b"),
                change(ADD, "a - b", "(a * b)"),
                change(ADD, "a - b", "a - b  # x"),
            ],
            FAILING,
        )

    assert [result["status"] for result in results] == ["ran", "duplicate", "duplicate"]


async def test_what_a_request_had_no_time_for_can_be_sent_again() -> None:
    async with worker(ADD) as session:
        (skipped,) = await evaluate(session, [change(ADD, "a - b", "a + b")], FAILING, cpu_s=0.0)
        (tried,) = await evaluate(session, [change(ADD, "a - b", "a + b")], FAILING)

    assert (skipped["status"], tried["status"]) == ("skipped", "ran")


async def test_an_accepted_edit_becomes_the_base() -> None:
    async with worker(ADD) as session:
        await session.call("rebase", {"edits": change(ADD, "a - b", "a + b")["edits"]}, 60)
        measured = await session.call("baseline", {"timeout_s": 1.0}, 60)

    assert {result[0] for result in measured["results"].values()} == {"passed"}


async def test_a_trace_tells_lines_types_and_failures() -> None:
    async with worker(ADD) as session:
        told = await session.call("trace", {"tests": [*FAILING, *OTHERS]}, 60)

    assert told["lines"]["test_m.py::test_add"] == {"m.py": [1, 2]}
    assert told["types"]["m.py:1"] == {"a": ["int"], "b": ["int"]}
    assert "assert -1 == 3" in told["failures"]["test_m.py::test_add"]["message"]
    assert list(told["failures"]) == FAILING


async def test_a_test_that_never_ends_on_the_base_still_has_its_lines_traced() -> None:
    files = {
        "m.py": "def f(n):\n    while n:\n        n = n + 1\n    return n\n",
        "test_m.py": (
            "from m import f\n\n\ndef test_f():\n    assert f(1) == 0\n\n\ndef test_g():\n"
            "    assert f(0) == 0\n"
        ),
    }
    async with worker(files) as session:
        told = await session.call(
            "trace", {"tests": ["test_m.py::test_f", "test_m.py::test_g"], "test_s": 0.2}, 60
        )

    assert told["lines"]["test_m.py::test_f"] == {"m.py": [1, 2, 3]}
    assert told["failures"]["test_m.py::test_f"]["type"] == "Timeout"
    assert told["lines"]["test_m.py::test_g"]["m.py"] == [1, 2, 4]


async def test_a_hang_ends_by_fuel_and_costs_little() -> None:
    files = {
        "m.py": "def f(n):\n    while n > 0:\n        n = n - 1\n    return n + 1\n",
        "test_m.py": "from m import f\n\n\ndef test_f():\n    assert f(3) == 0\n",
    }
    async with worker(files) as session:
        before = session.cpu_s
        hang, right = await evaluate(
            session,
            [change(files, "n - 1", "n + 1"), change(files, "n + 1", "n")],
            ["test_m.py::test_f"],
        )

    assert hang["status"] == "timeout"
    assert right["outcomes"] == {"test_m.py::test_f": "passed"}
    assert session.cpu_s - before < 1


async def test_a_candidate_that_sleeps_or_spins_in_c_is_killed() -> None:
    files = {
        "m.py": "import time\n\n\ndef f(n):\n    return n + 1\n",
        "test_m.py": "from m import f\n\n\ndef test_f():\n    assert f(3) == 3\n",
    }
    async with worker(files) as session:
        results = await evaluate(
            session,
            [
                change(files, "n + 1", "time.sleep(60) or n"),
                change(files, "n + 1", "sum(range(10 ** 12))"),
                change(files, "n + 1", "n"),
            ],
            ["test_m.py::test_f"],
        )

    assert [result["status"] for result in results] == ["timeout", "timeout", "ran"]
    assert results[2]["outcomes"] == {"test_m.py::test_f": "passed"}


async def test_state_that_one_candidate_leaves_does_not_reach_the_next() -> None:
    """Pitfall 2: a cache, a module's list, a default argument, and state the worker knows nothing of."""
    files = {
        "m.py": (
            "import functools\n\nSEEN = []\n\n\nclass Odd:\n    pass\n\n\nODD = Odd()\n\n\n"
            "@functools.lru_cache\ndef cached(n):\n    return n + 1\n\n\n"
            "def f(n, bag={}):\n    SEEN.append(n)\n    bag[n] = n\n"
            "    ODD.last = getattr(ODD, 'last', 0) + 1\n"
            "    return cached(n), len(SEEN), len(bag), ODD.last\n"
        ),
        "test_m.py": "from m import f\n\n\ndef test_f():\n    assert f(3) == (3, 1, 1, 1)\n",
    }
    wrong = [change(files, "n + 1", f"n + {number}") for number in range(2, 9)]
    async with worker(files) as session:
        *_, right = await evaluate(session, [*wrong, change(files, "n + 1", "n")], ["test_m.py::test_f"])

    assert right.get("outcomes") == {"test_m.py::test_f": "passed"}


async def test_a_suite_that_depends_on_its_order_keeps_it() -> None:
    """Pitfall 1."""
    files = {
        "m.py": "LOG = []\n\n\ndef note():\n    LOG.append(1)\n    return len(LOG) - 1\n",
        "test_m.py": (
            "import m\n\n\ndef test_a():\n    m.LOG.append(0)\n    assert m.LOG\n\n\n"
            "def test_b():\n    assert m.LOG == [0]\n\n\ndef test_c():\n    assert m.note() == 2\n"
        ),
    }
    spec = SessionSpec(tree=tree_of(files), arguments=(), options=(), plugins=(), python=None, timeout_s=60)
    async with LocalRunners().session(spec) as session:
        arguments = {"arguments": (), "options": (), "plugins": (), "sources": ["m.py"]}
        await session.call("start", arguments, 60)
        measured = await session.call("baseline", {"timeout_s": 1.0}, 60)
        others = ["test_m.py::test_a", "test_m.py::test_b"]
        (right,) = await evaluate(session, [change(files, " - 1", "")], ["test_m.py::test_c"], others)

    assert measured["fixed_order"] is True
    assert set(right["outcomes"].values()) == {"passed"}


async def test_the_budget_holds_inside_a_request() -> None:
    """Pitfall 5."""
    files = {
        "m.py": "def f(n):\n    return sum(range(n))\n",
        "test_m.py": "from m import f\n\n\ndef test_f():\n    assert f(3) == 4\n",
    }
    hangs = [change(files, "range(n)", f"range(10 ** 11 + {number})") for number in range(60)]
    async with worker(files) as session:
        before = session.cpu_s
        results = await evaluate(session, hangs, ["test_m.py::test_f"], cpu_s=1.0, floor_s=0.3)

    assert session.cpu_s - before < 2.0
    assert results[-1]["status"] == "skipped"


async def test_code_that_runs_at_import_is_imported_anew() -> None:
    files = {
        "m.py": (
            "def table(n):\n    return [n + 1]\n\n\nTABLE = table(3)\n\n\ndef get():\n    return TABLE[0]\n"
        ),
        "test_m.py": "from m import get\n\n\ndef test_get():\n    assert get() == 3\n",
    }
    async with worker(files) as session:
        (right,) = await evaluate(session, [change(files, "n + 1", "n")], ["test_m.py::test_get"])

    assert right["slow"] is True
    assert right["outcomes"] == {"test_m.py::test_get": "passed"}


async def test_a_function_imported_late_shows_its_edit() -> None:
    files = {
        "m.py": "def f():\n    return 1\n",
        "test_m.py": "def test_f():\n    from m import f\n\n    assert f() == 2\n",
    }
    async with worker(files) as session:
        (right,) = await evaluate(session, [change(files, "1", "2")], ["test_m.py::test_f"])

    assert right["outcomes"] == {"test_m.py::test_f": "passed"}


@pytest.mark.parametrize(
    "attack",
    [
        "os.kill(os.getpid(), 9)",
        "os._exit(0)",
        "os.kill(os.getppid(), 9)",
        "[os.write(fd, b'\\x00\\x00\\x00\\x02{}') for fd in os.listdir('/proc/self/fd') if False]",
        "os.closerange(0, 4096)",
        "os.write(1, b'x' * 100000)",
        "__import__('pathlib').Path('m.py').write_text('broken')",
        "__import__('shutil').rmtree('.')",
        "os.fork() or __import__('time').sleep(30)",
        "__import__('gc').disable()",
        "'x' * (1 << 40)",
        "[b'x' * (1 << 26) for _ in range(40)]",
    ],
)
async def test_what_a_candidate_does_reaches_only_itself(attack: str) -> None:
    files = {
        "m.py": "import os\n\n\ndef f(n):\n    return n - 1\n",
        "test_m.py": "from m import f\n\n\ndef test_f():\n    assert f(3) == 4\n",
    }
    async with worker(files) as session:
        results = await evaluate(
            session,
            [change(files, "n - 1", f"({attack}) and n"), change(files, "n - 1", "n + 1")],
            ["test_m.py::test_f"],
        )
        if results[1]["status"] == "skipped":
            results[1:] = await evaluate(session, [change(files, "n - 1", "n + 1")], ["test_m.py::test_f"])

    assert "passed" not in results[0].get("outcomes", {}).values()
    assert results[1]["outcomes"] == {"test_m.py::test_f": "passed"}


async def test_garbage_on_every_descriptor_is_no_result() -> None:
    files = {
        "m.py": (
            "import os\n\n\ndef f(n):\n    for fd in range(3, 1000):\n        try:\n"
            "            os.write(fd, b'garbage garbage garbage')\n        except OSError:\n"
            "            pass\n"
            "    return n\n\n\ndef g(n):\n    return n - 1\n"
        ),
        "test_m.py": "from m import f, g\n\n\ndef test_g():\n    assert g(f(3)) == 3\n",
    }
    async with worker(files) as session:
        (result,) = await evaluate(session, [change(files, "n - 1", "n")], ["test_m.py::test_g"])

    assert result["status"] in ("died", "ran")


async def test_a_suite_that_cannot_be_collected_says_why() -> None:
    files = {"m.py": "x = y\n", "test_m.py": "import m\n\n\ndef test_m():\n    assert m.x == 1\n"}
    spec = SessionSpec(tree=tree_of(files), arguments=(), options=(), plugins=(), python=None, timeout_s=60)
    async with LocalRunners().session(spec) as session:
        arguments = {"arguments": (), "options": (), "plugins": (), "sources": ["m.py"]}
        answer = await session.call("start", arguments, 60)
        await session.call("baseline", {"timeout_s": 1.0}, 60)
        (right,) = await evaluate(session, [change(files, "y", "1")], ["test_m.py::test_m"])

    assert answer["items"] == []
    assert "m.py:1" in answer["errors"][0]["detail"]
    assert "NameError" in answer["errors"][0]["detail"]
    assert right["outcomes"] == {"test_m.py::test_m": "passed"}


async def test_a_broken_conftest_says_why() -> None:
    files = {
        "m.py": "x = y\n",
        "conftest.py": "import m\n",
        "test_m.py": "def test_m():\n    assert True\n",
    }
    spec = SessionSpec(tree=tree_of(files), arguments=(), options=(), plugins=(), python=None, timeout_s=60)
    async with LocalRunners().session(spec) as session:
        arguments = {"arguments": (), "options": (), "plugins": (), "sources": ["m.py"]}
        answer = await session.call("start", arguments, 60)
        await session.call("baseline", {"timeout_s": 1.0}, 60)
        (right,) = await evaluate(session, [change(files, "y", "1")], ["test_m.py::test_m"])

    assert "NameError" in answer["errors"][0]["detail"]
    assert right["outcomes"] == {"test_m.py::test_m": "passed"}


async def test_an_unknown_method_is_an_answer_not_the_end() -> None:
    async with worker(ADD) as session:
        with pytest.raises(SandboxError, match="AttributeError"):
            await session.call("nonsense", {}, 10)
        (right,) = await evaluate(session, [change(ADD, "a - b", "a + b")], FAILING)

    assert right["status"] == "ran"
