"""What a patch should not bring, and what it may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.scan.advisories import book_of
from actors.scan.requirements import ranges, required
from actors.scan.scan import scan
from orchestrator.errors import MachineError
from orchestrator.steps import Scanned, ScanRequest, Severity
from orchestrator.tree import File, Tree


def tree(files: dict[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


def scanned(base: dict[str, str], candidate: dict[str, str], advisories: object = "") -> Scanned:
    return scan(ScanRequest(base=tree(base), candidate=tree({**base, **candidate})), str(advisories))


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
        "clientSecret: 'Zx81-spectrum-48k'",
        'login(password="tr0ub4dor&3x")',
        "const apiKey = `f81d4fae7dec11d0`;",
        "secret: str = 'not-so-secret-now'",
        "'AUTH_TOKEN' => 'c0ffee-c0ffee-1'",
        "DB_PASSWORD=correcthorsebattery",
        "  - export api_key=9f8e7d6c5b4a",
        "URL = 'postgres://bob:hunter2@db.internal/shop'",
        "redis://:p4ssw0rd@cache:6379/0",
        "glpat-" + "x1" * 10,
        "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
        "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
        "https://hooks.slack.com/services/T00000000/B00000000/" + "X" * 24,
        "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
        "aws_secret_access_key = " + "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYab",
        "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=" + "Ab1/" * 11,
        "hf_" + "abcdefghijKLMNOPQRSTuvwxyz0123456789",
        "session_token = 'q8Zr2TnVx5Kp0LwYc7Bd3Fh6'",
        "encryption_key: 9e107d9d372bb6826bd81d3542a419d6",
    ],
)
def test_secrets_are_found_in_any_file(line: str) -> None:
    (found,) = (each for each in scanned({}, {"conf.txt": f"x\n{line}\n"}).findings if each.kind == "secret")

    assert (found.line, found.severity) == (2, Severity.HIGH) and line not in found.message


@pytest.mark.parametrize(
    "line",
    [
        'password = os.environ["PASSWORD"]',
        'api_key = ""',
        'secret: "${SECRET_NAME}"',
        "token = parse(text)",
        "password: changeme-please",
        "api_key = 'your-api-key-here'",
        "SECRET_KEY=${SECRET_KEY}",
        "password == 'is it this one'",
        "def check(password: str) -> bool:",
        "keyboard = 'qwertz-german-layout'",
        "https://example.org:8080/path@2",
        "token_count = 12345",
        "auth_url = 'https://example.org/login'",
        "SHA = '9e107d9d372bb6826bd81d3542a419d6'",
        "password: <your password>",
        "api_key=process.env.API_KEY",
        "the secret is to keep it simple",
        "author = 'somebody_with_a_long_name'",
        "key = 'settings.theme.dark'",
    ],
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


def test_made_up_passwords_in_tests_are_told_and_fail_nothing_and_real_tokens_do() -> None:
    patch = {"tests/test_a.py": "login(password='made-up-1')\nT = 'glpat-" + "x1" * 10 + "'\n"}

    assert [each.severity for each in scanned({}, patch).findings if each.kind == "secret"] == [
        Severity.LOW,
        Severity.HIGH,
    ]


@pytest.mark.parametrize(
    ("path", "text", "names"),
    [
        ("requirements-dev.txt", "A_b==1 \\\n  --hash=sha256:00\n# c\nd>=2 # why\n", ["a-b", "d"]),
        ("app/requirements/base.txt", "x[y]==1; python_version < '4'\n", ["x"]),
        ("pyproject.toml", "[dependency-groups]\ntest = ['a==1', {include-group = 'b'}]\n", ["a"]),
        ("pyproject.toml", "[build-system]\nrequires = ['setuptools>=1']\n", ["setuptools"]),
        ("pyproject.toml", "[tool.poetry.dependencies]\npython = '^3.11'\nb = {version = '^1.2'}\n", ["b"]),
        ("setup.cfg", "[options]\ninstall_requires =\n  a==1\n  b>2\n", ["a", "b"]),
        ("Pipfile", "[packages]\na = '==1.0'\n", ["a"]),
        ("uv.lock", "[[package]]\nname = 'A'\nversion = '1.0'\n", ["a"]),
        ("web/package.json", '{"optionalDependencies": {"@x/y": "~1.2"}}', ["@x/y"]),
        ("package-lock.json", '{"packages": {"": {}, "node_modules/@x/y": {"version": "1.2.3"}}}', ["@x/y"]),
    ],
)
def test_every_file_that_asks_for_packages_is_read(path: str, text: str, names: list[str]) -> None:
    assert [each.name for each in required(tree({path: text}), path)] == names


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("^1.2.3", "1.9.0", "2.0.0"),
        ("^0.2.3", "0.2.9", "0.3.0"),
        ("~1.2.3", "1.2.9", "1.3.0"),
        ("1.x", "1.7.0", "2.0.0"),
        ("1.2", "1.2.5", "1.3.0"),
        ("1.2.3", "1.2.3", "1.2.4"),
        (">=1.2 <2", "1.5.0", "2.0.0"),
        (">=1.2,<2", "1.5.0", "1.1.0"),
        ("1.0.0 - 1.5.0", "1.5.0", "1.6.0"),
        ("^1.0.0 || ^3.0.0", "3.1.0", "2.0.0"),
        ("v1.2.3", "1.2.3", "1.2.2"),
        ("*", "9.9.9", ""),
    ],
)
def test_ranges_of_npm_and_poetry_are_read(text: str, inside: str, outside: str) -> None:
    sets = ranges(text)

    assert any(each.contains(inside) for each in sets)
    assert not outside or not any(each.contains(outside) for each in sets)


ADVISORIES = [
    {
        "id": "GHSA-1", "summary": "Reads any file.",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": "Web_Kit"},
                "ranges": [
                    {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5"}]},
                    {"type": "ECOSYSTEM", "events": [{"introduced": "2.0"}, {"last_affected": "2.1"}]},
                ],
                "versions": ["3.7"],
            },
            {
                "package": {"ecosystem": "npm", "name": "left"},
                "ranges": [{"type": "SEMVER", "events": [{"introduced": "1.0.0"}, {"fixed": "1.2.0"}]}],
            },
        ],
    },
    {"id": "OLD-2", "withdrawn": "2024-01-01", "affected": [{"package": {"ecosystem": "PyPI", "name": "a"}}]},
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text", "severities"),
    [
        ("requirements.txt", "web-kit==1.4", [Severity.HIGH]),
        ("requirements.txt", "Web.Kit==2.1", [Severity.HIGH]),
        ("requirements.txt", "web-kit==3.7", [Severity.HIGH]),
        ("requirements.txt", "web-kit<1.5", [Severity.HIGH]),
        ("requirements.txt", "web-kit>=1.0,<3", [Severity.LOW]),
        ("requirements.txt", "web-kit==1.5", []),
        ("requirements.txt", "web-kit==2.2", []),
        ("requirements.txt", "web-kit>=1.5,<2", []),
        ("requirements.txt", "other==1.4", []),
        ("package.json", '{"dependencies": {"left": "1.1.0"}}', [Severity.HIGH]),
        ("package.json", '{"dependencies": {"left": "~1.1.0"}}', [Severity.HIGH]),
        ("package.json", '{"dependencies": {"left": "^1.1.0"}}', [Severity.LOW]),
        ("package.json", '{"dependencies": {"left": "^1.2.0"}}', []),
        ("poetry.lock", "[[package]]\nname = 'web-kit'\nversion = '0.1'\n", [Severity.HIGH]),
    ],
)
def test_packages_that_a_patch_asks_for_are_held_against_advisories(
    path: str, text: str, severities: list[Severity], tmp_path: Path
) -> None:
    (tmp_path / "all.json").write_text(json.dumps(ADVISORIES))

    found = scanned({}, {path: text}, tmp_path).findings

    assert [each.severity for each in found] == severities
    assert all("GHSA-1: Reads any file." in each.message for each in found)


def test_what_was_asked_for_before_is_not_the_patch_s(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, ADVISORIES)))
    base = {"requirements.txt": "web-kit==1.4\n"}

    assert scanned(base, {"requirements.txt": "web-kit==1.4\n\n"}, tmp_path / "all.jsonl").findings == ()
    assert len(scanned(base, {"requirements.txt": "web-kit==1.3\n"}, tmp_path / "all.jsonl").findings) == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"id": "x"}'])
def test_advisories_that_cannot_be_read_are_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)

    if text:
        with pytest.raises(MachineError, match=r"a\.json cannot be read"):
            book_of(str(tmp_path))
    with pytest.raises(MachineError, match=r"dependencies\.advisories"):
        book_of(str(tmp_path / "gone"))
