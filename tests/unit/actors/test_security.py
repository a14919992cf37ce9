"""What a patch should not bring, and what it may."""

from __future__ import annotations

import pytest

from actors.security import scan
from orchestrator.steps import Scanned, ScanRequest, Severity
from orchestrator.tree import File, Tree


def tree(files: dict[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


def scanned(base: dict[str, str], candidate: dict[str, str]) -> Scanned:
    return scan(ScanRequest(base=tree(base), candidate=tree({**base, **candidate})))


def test_what_ruff_finds_in_new_code_is_told_with_its_place() -> None:
    found = scanned({}, {"a b/-x.py": "import subprocess\n\nsubprocess.run('ls', shell=True)\n"}).findings

    assert ("a b/-x.py", 3) in {(each.path, each.line) for each in found}
    assert all(each.kind.startswith("security S") for each in found)


def test_what_was_there_before_is_not_the_patch_s_even_when_it_moves() -> None:
    old = "eval(input())\n"

    assert scanned({"a.py": old}, {"a.py": f"X = 1\n{old}"}).findings == ()
    assert len(scanned({"a.py": old}, {"a.py": old + old}).findings) == 1


def test_a_remark_or_a_setting_of_the_patch_silences_nothing() -> None:
    patch = {"a.py": "eval(input())  # noqa: S307\n", "ruff.toml": "[lint]\nselect = []\n"}

    assert len(scanned({}, patch).findings) == 1


@pytest.mark.parametrize(
    "line",
    [
        'API_KEY = "q7Zk29sLmW04xT"',
        "aws = 'AKIAABCDEFGHIJKLMNOP'",
        "-----BEGIN RSA PRIVATE KEY-----",
        'token: "ghp_' + "a" * 36 + '"',
        '"db_password": "correct-horse-battery"',
    ],
)
def test_secrets_are_found_in_any_file(line: str) -> None:
    (found,) = (each for each in scanned({}, {"conf.txt": f"x\n{line}\n"}).findings if each.kind == "secret")

    assert (found.line, found.severity) == (2, Severity.HIGH) and line not in found.message


@pytest.mark.parametrize(
    "line",
    ['password = os.environ["PASSWORD"]', 'api_key = ""', 'secret: "${SECRET_NAME}"', "token = parse(text)"],
)
def test_what_only_names_a_secret_is_none(line: str) -> None:
    assert [each for each in scanned({}, {"conf.txt": line}).findings if each.kind == "secret"] == []


def test_new_requirements_are_told_and_those_from_elsewhere_doubted() -> None:
    base = {"requirements.txt": "ray==2.60\n", "pyproject.toml": '[project]\ndependencies = ["a>=1"]\n'}
    patch = {
        "requirements.txt": "ray==2.60\nx @ git+https://example.org/x\ny\n--index-url https://example.org\n",
        "pyproject.toml": '[project]\ndependencies = ["a>=1", "b>=2,<3"]\n',
        "package.json": '{"dependencies": {"c": "^1.2.0", "d": "latest"}}',
    }

    found = scanned(base, patch)

    assert (
        "pyproject.toml: b>=2,<3" in found.dependencies and "pyproject.toml: a>=1" not in found.dependencies
    )
    doubted = {(each.path, each.severity) for each in found.findings if each.kind == "dependency"}
    assert doubted == {
        ("requirements.txt", Severity.HIGH),
        ("requirements.txt", Severity.MEDIUM),
        ("package.json", Severity.MEDIUM),
    }


def test_files_that_cannot_be_read_as_what_they_are_called_are_left_to_the_tests() -> None:
    patch = {"pyproject.toml": "[[[", "package.json": "[1]", "a.py": "def f(:\n"}

    assert scanned({}, patch) == Scanned()
