"""The gate says no where a forked run could show something else than a fresh process."""

from __future__ import annotations

import pytest
from local_runners import tree_of

from actors.warm.gate import Loaded, steers_imports, why_fresh, why_shadowed

LOADED = Loaded(modules=frozenset({"json", "doctest", "pydantic"}), missed=frozenset({"dotenv"}))


@pytest.mark.parametrize(
    "text",
    [
        "import gc\ngc.get_objects()",
        "from gc import freeze",
        "open('/proc/self/cmdline')",
        "sys.getrecursionlimit()",
        "import psutil",
        "sys.orig_argv",
    ],
)
def test_what_looks_at_its_process_gets_a_fresh_one(text: str) -> None:
    assert why_fresh(tree_of({"test_it.py": text})) == "test_it.py looks at its own process"


@pytest.mark.parametrize("text", ["import gc\ngc.collect()", "x = 'process'", "def test_it(): assert 1"])
def test_what_does_not_may_be_forked(text: str) -> None:
    assert why_fresh(tree_of({"test_it.py": text})) == ""


@pytest.mark.parametrize("path", ["hook.pth", "fast.so"])
def test_what_is_not_plain_source_gets_a_fresh_process(path: str) -> None:
    assert why_fresh(tree_of({path: b""})).startswith(path)


@pytest.mark.parametrize(
    "files",
    [
        {"doctest.py": ""},
        {"src/doctest.py": ""},
        {"src/pydantic/__init__.py": ""},
        {"tests/json.py": ""},
        {"tests/dotenv/__init__.py": ""},
        {
            "vendor/__init__.py": "",
            "vendor/json.py": "",
            "conftest.py": "import sys\nsys.path.append('vendor')",
        },
        {"vendor/__init__.py": "", "vendor/json.py": "", "pytest.ini": "[pytest]\npythonpath = vendor\n"},
        {"vendor/__init__.py": "", "vendor/json.py": "", "conftest.py": "import os\nos.chdir('vendor')"},
    ],
)
def test_names_that_could_hide_a_loaded_module_are_seen(files: dict[str, str]) -> None:
    assert why_shadowed(tree_of(files), LOADED)


@pytest.mark.parametrize(
    "files",
    [
        {"shop/__init__.py": "", "shop/json.py": ""},
        {"shop/__init__.py": "", "shop/deep/__init__.py": "", "shop/deep/doctest.py": ""},
        {"json.txt": ""},
        {"test_json.py": "import json"},
    ],
)
def test_names_that_cannot_are_let_through(files: dict[str, str]) -> None:
    assert why_shadowed(tree_of(files), LOADED) == ""


@pytest.mark.parametrize(
    "files",
    [
        {"conftest.py": "import os\nos.environ['A'] = 'b'"},
        {"conftest.py": "import os\nos.environ.setdefault('A', 'b')"},
        {"conftest.py": "os.environ |= {}"},
        {"conftest.py": "del os.environ['A']"},
        {"test_it.py": "def test_it(monkeypatch): monkeypatch.setenv('A', 'b')"},
        {"test_it.py": "assert 'fastapi' not in sys.modules"},
        {"test_it.py": "importlib.reload(x)"},
        {"pytest.ini": "[pytest]\nenv =\n    A=b\n"},
        {".env": "A=b"},
    ],
)
def test_what_could_change_an_import_is_seen(files: dict[str, str]) -> None:
    assert steers_imports(tree_of(files))


@pytest.mark.parametrize("text", ["os.environ['A'] == 'b'", "os.environ.get('A')", "import environment"])
def test_reading_the_environment_changes_nothing(text: str) -> None:
    assert not steers_imports(tree_of({"test_it.py": text}))
