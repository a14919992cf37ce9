"""JavaScript: which changes are tried, what is searched, and what node's reporter tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.languages.javascript import _findings, _selected, _told
from actors.languages.javascript_mutate import edits
from actors.languages.javascript_search import imported
from actors.sandbox.port import Completed
from orchestrator.languages import javascript_tests, language_of, python_tests
from orchestrator.tree import File, Tree
from orchestrator.verdict import Level, Outcome, RunEnd


def tree(files: dict[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("if (age > 18) f();", "if (age >= 18) f();"),
        ("x === y && z", "x === y || z"),
        ("return 41;", "return 42;"),
        ("rate = 19;", "rate = 0.19;"),
        ("Math.floor(n)", "Math.ceil(n)"),
        ("if (!ok) go();", "if (ok) go();"),
        ("f(a.x, a.y); g(a.x);", "f(a.x, a.y); g(a.y);"),
        ("const total = 0; const count = 1; f(count)", "const total = 0; const count = 1; f(total)"),
        ("sum + l.price; l.quantity;", "sum + l.price * l.quantity; l.quantity;"),
        ("return true", "return false"),
    ],
)
def test_the_change_that_was_meant_is_among_those_tried(wrong: str, right: str) -> None:
    assert right in [edit.text for edit in edits(wrong)]


def test_comments_and_texts_stay_and_no_change_comes_twice() -> None:
    source = "// 1 < 2\nconst a = '1 < 2'; /* true */ let b = `x > ${1}`;\n"

    found = [edit.text for edit in edits(source)]

    assert len(found) == len(set(found)) and source not in found
    assert all("// 1 < 2\n" in text and "'1 < 2'" in text and "/* true */" in text for text in found)


def test_a_change_tells_its_line() -> None:
    assert {edit.line for edit in edits("\n\nf(1)\n")} == {3}


def test_only_what_the_failing_tests_import_is_searched_the_nearest_first() -> None:
    files = {
        "web/a.test.js": 'import { x } from "./a.js";\nimport y from "node:assert";',
        "web/a.js": 'const b = require("../lib/b"); export * from "./sub"',
        "lib/b.js": 'import("./gone.js")',
        "web/sub/index.js": 'import "../a.js"',
        "other.js": "",
    }

    assert imported(tree(files), ["web/a.test.js"]) == ["web/a.js", "lib/b.js", "web/sub/index.js"]


def test_tests_are_known_by_their_names_and_others_code_is_left_alone() -> None:
    files = tree(
        dict.fromkeys(
            ("a.test.js", "b.spec.mjs", "c.js", "node_modules/d.test.js", "test_e.py", "f_test.py"), ""
        )
    )

    assert javascript_tests(files) == ("a.test.js", "b.spec.mjs")
    assert python_tests(files) == ("f_test.py", "test_e.py")


def told(*records: dict[str, Any], whole: frozenset[str] = frozenset()) -> Any:
    lines = "".join(json.dumps({"file": "/work/a.test.js", "nesting": 0, **each}) + "\n" for each in records)
    done = Completed(
        end=RunEnd.EXITED, exit_code=0, output=b"", records=lines.encode(), wall_s=1, cpu_s=1, peak_mib=1,
        memory="none", level=Level.NAMESPACE,
    )  # fmt: skip
    return _told(done, {"a.test.js": "a.test.js"}, whole)


END = {"type": "end"}


def started(name: str, nesting: int = 0) -> dict[str, Any]:
    return {"type": "test:start", "name": name, "nesting": nesting}


def ended(name: str, kind: str = "pass", nesting: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": f"test:{kind}", "name": name, "nesting": nesting, **more}


def test_every_test_has_an_id_and_suites_have_none() -> None:
    run = told(
        started("s"), started("one", 1), ended("one", nesting=1), started("two", 1),
        ended("two", "fail", 1, detail="1 !== 2"), ended("s", "fail", suite=True),
        started("one"), ended("one"), started("one"), ended("one", skip=True), started("later"),
        ended("later", "fail", todo=True), END,
    )  # fmt: skip

    assert run.complete and run.outcomes == {
        "a.test.js::s > one": Outcome.PASSED,
        "a.test.js::s > two": Outcome.FAILED,
        "a.test.js::one": Outcome.PASSED,
        "a.test.js::one #2": Outcome.SKIPPED,
        "a.test.js::later": Outcome.XFAILED,
    }


def test_a_file_that_cannot_be_loaded_is_one_test_also_once_it_can() -> None:
    broken = told(started("/work/a.test.js"), ended("/work/a.test.js", "fail"), END)
    mended = told(started("x"), ended("x"), started("y"), ended("y"), END, whole=frozenset({"a.test.js"}))
    half = told(
        started("x"), ended("x"), started("y"), ended("y", "fail"), END, whole=frozenset({"a.test.js"})
    )

    assert broken.outcomes == {"a.test.js": Outcome.ERROR}
    assert mended.outcomes == {"a.test.js": Outcome.PASSED} and half.outcomes == {"a.test.js": Outcome.FAILED}


def test_a_report_that_breaks_off_is_not_complete() -> None:
    assert not told(started("x"), ended("x")).complete
    assert not told().complete


@pytest.mark.parametrize(
    "line",
    [
        "process.exit(0)",
        'process["stdout"].write(x)',
        'import "node:test"',
        "eval(code)",
        "new Function('x')",
    ],
)
def test_code_that_could_speak_for_the_tests_raises_an_alarm(line: str) -> None:
    base = tree({"a.js": "export const x = 1;\nprocess.exit(1)\n"})

    (found,) = _findings(
        base, base.with_files({"a.js": File(content=f"export const x = 1;\n{line}\n".encode())})
    )

    assert found.startswith("a.js:2 uses")
    assert not list(_findings(base, base))


@pytest.mark.parametrize(
    ("files", "tests", "language"),
    [
        (("a.test.js", "a.js"), (), "javascript"),
        (("a.spec.mjs", "tools/generate.py"), (), "javascript"),
        (("a.test.js", "tests/test_a.py"), (), "python"),
        (("a.test.js", "check.py"), ("check.py",), "python"),
        (("node_modules/x/a.test.js", "a.py"), (), "python"),
        (("a.js",), (), "python"),
    ],
)
def test_a_folder_is_judged_by_the_tests_it_holds(
    files: tuple[str, ...], tests: tuple[str, ...], language: str
) -> None:
    assert language_of(tree(dict.fromkeys(files, "")), tests) == language


def test_a_suite_that_names_its_own_files_is_pythons() -> None:
    files = {"a.test.js": "", "pytest.ini": "[pytest]\npython_files = check_*.py\n", "check_a.py": ""}

    assert language_of(tree(files)) == "python"


def test_tests_can_be_chosen_by_file_or_folder() -> None:
    files = ("a.test.js", "web/b.test.js", "web/sub/c.spec.js")

    assert _selected(files, ("web/",)) == files[1:]
    assert _selected(files, ("./a.test.js", "web/sub")) == (files[0], files[2])
    assert _selected(files, ()) == files
