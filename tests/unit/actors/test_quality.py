"""What static tools say of code: scores, form, layers."""

from __future__ import annotations

import pytest

from actors.formatting import formatted
from actors.layers import layered
from actors.quality import measured
from orchestrator.building import FormatRequest, LayersRequest, Measured, QualityRequest
from orchestrator.steps import Severity
from orchestrator.tree import File, FileMode, Tree

CLEAN = 'def double(number: int) -> int:\n    """Twice the number."""\n    return 2 * number\n'
ORDER = (("domain",), ("application", "infrastructure"), ("api",))


def tree(files: dict[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


def of(files: dict[str, str], base: dict[str, str] | None = None) -> Measured:
    return measured(QualityRequest(base=tree(base or {}), tree=tree(files)))


def test_clean_code_has_nothing_to_be_blamed_for() -> None:
    found = of({"double.py": CLEAN})

    assert (found.quality, found.security, found.findings, found.complexity) == (100.0, 100.0, (), 1)
    assert found.maintainability > 80
    assert found.score == pytest.approx((200 + found.maintainability) / 3, abs=0.1)


def test_faults_cost_by_their_share_of_the_statements_and_errors_five_times() -> None:
    lines = "".join(f"x{number} = {number}\n" for number in range(38))

    unused, bare = of({"a.py": f"import os\nimport re\n{lines}re.compile\n"}), of({"a.py": lines})

    assert bare.quality == 100.0 and unused.quality == pytest.approx(100 - 100 * (5 + 1) / 41, abs=0.1)
    assert {each.message.split()[0] for each in unused.findings} == {"F401", "B018"}


def test_insecure_code_and_requirements_from_elsewhere_cost_security_only() -> None:
    found = of({"a.py": CLEAN + "\n\neval('1')\n", "requirements.txt": "x @ git+https://e.org/x\nfastapi\n"})

    assert found.security == 100 - 15 - 40 - 5 and found.quality == 100.0
    assert {each.kind.split()[0] for each in found.findings} == {"security", "dependency"}


def test_code_that_nobody_can_follow_is_hard_to_maintain() -> None:
    maze = "def f(x):\n" + "".join(
        f"    if x == {n} and x * {n} > 3 or x // 2 == {n}:\n        x = x * {n} + x - 1\n" for n in range(60)
    )

    found = of({"maze.py": f"{maze}    return x\n"})

    assert found.maintainability < 30 and found.complexity > 100


def test_what_is_no_python_costs_and_breaks_nothing() -> None:
    found = of({"a.py": "def f(:\n", "b.py": CLEAN, "c.txt": "x"})

    assert found.quality < 50 and found.maintainability < 100
    assert any(each.path == "a.py" and each.severity is Severity.MEDIUM for each in found.findings)
    assert of({"README.md": "x"}).score == 100.0


@pytest.mark.parametrize(
    "name", ["-x.py", "a b.py", "--config=x.py", "sub/../weird.py", "__init__.py", "n\u00e4me.py"]
)
def test_a_file_s_name_is_no_option_and_its_remarks_and_settings_count_for_nothing(name: str) -> None:
    files = {name: "import os  # noqa\n", "ruff.toml": "[lint]\nignore = ['ALL']\n"}

    assert [each.path for each in of(files).findings if "F401" in each.message] == [name]


def test_tests_are_blamed_for_errors_only() -> None:
    found = of({"a.py": CLEAN, "tests/test_a.py": "def test_A(): \n    l = 1\n    assert undefined == l\n"})

    assert [each.message.split()[0] for each in found.findings] == ["F821"]


def test_python_is_brought_into_one_form_and_keeps_its_mode() -> None:
    files = Tree(
        files={
            "run.py": File(content=b"x = {  'a':1 }\n", mode=FileMode.EXECUTABLE),
            "same.py": File(content=b"x = 1\n"),
            "broken.py": File(content=b"x = (\n"),
            "data.json": File(content=b"{ }\n"),
        }
    )

    found = formatted(FormatRequest(tree=files))

    assert dict(found.files) == {"run.py": File(content=b'x = {"a": 1}\n', mode=FileMode.EXECUTABLE)}
    assert (found.looked_at, found.unreadable) == (3, ("broken.py",))


def test_the_line_length_is_the_one_asked_for() -> None:
    files = tree({"a.py": f"value = function({'argument, ' * 6}last)\n"})

    assert formatted(FormatRequest(tree=files, line_length=100)).files == {}
    assert list(formatted(FormatRequest(tree=files, line_length=40)).files) == ["a.py"]


@pytest.mark.parametrize(
    ("path", "line", "told"),
    [
        ("app/domain/a.py", "from app.api.routes import x", "domain imports api, which lies further out"),
        ("app/domain/a.py", "import app.application.use as u", "domain imports application"),
        ("app/domain/a.py", "from ..infrastructure import db", "domain imports infrastructure"),
        ("app/domain/a.py", "from .. import api", "domain imports api"),
        ("app/domain/a.py", "def f():\n    from app import api", "domain imports api"),
        ("app/application/a.py", "from app.infrastructure import db", "which lies beside it"),
    ],
)
def test_an_import_that_points_outward_is_found(path: str, line: str, told: str) -> None:
    (found,) = layered(LayersRequest(tree=tree({path: line}), order=ORDER)).findings

    assert told in found.message and found.path == path


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("app/api/a.py", "from app.domain import x\nfrom app.infrastructure import y\nfrom . import z"),
        ("app/application/a.py", "from ..domain.notes import Note\nimport json"),
        ("app/main.py", "from app.api import x"),
        ("app/domain/test_a.py", "from app.api import x"),
        ("app/domain/broken.py", "from app.api import ("),
    ],
)
def test_imports_that_point_inward_are_fine(path: str, line: str) -> None:
    assert layered(LayersRequest(tree=tree({path: line}), order=ORDER)).findings == ()
