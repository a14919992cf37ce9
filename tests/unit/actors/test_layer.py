"""What of an environment a sandbox shows."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from actors.sandbox.layer import Layer, build_layer, importable_names
from orchestrator.errors import MachineError, TaskError
from orchestrator.tree import File, Tree


def shown(layer: Layer) -> set[str]:
    return {place.rpartition("/")[2] for _, place in layer.links}


def test_our_own_packages_are_not_shown() -> None:
    names = shown(build_layer())

    assert "pytest" in names
    assert not names & {"orchestrator", "actors", "cluster", "serve", "configs", "raysmith.py"}
    assert not [name for name in names if name.startswith(("__editable__", "raysmith"))]


def test_the_package_under_repair_is_not_shown() -> None:
    names = shown(build_layer(without={"numpy", "six"}))

    assert not names & {"numpy", "six.py"}
    assert not [name for name in names if name.startswith("numpy-")]
    assert "pluggy" in names


def test_plugins_are_read_from_what_is_shown() -> None:
    with_asyncio = {plugin.name for plugin in build_layer().plugins}
    without = {plugin.name for plugin in build_layer(without={"pytest_asyncio"}).plugins}

    assert "asyncio" in with_asyncio
    assert "asyncio" not in without


def test_it_describes_and_leaves_nothing_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    layer = build_layer()

    assert list(tmp_path.iterdir()) == []
    assert layer.python == "/env/bin/python"
    assert "include-system-site-packages = false" in layer.files["/env/pyvenv.cfg"]
    assert {"json", "pytest"} <= layer.modules
    assert layer.version == sys.version_info[:3]


def fake_python(folder: Path, **facts: object) -> str:
    site = folder / "lib/site-packages"
    site.mkdir(parents=True, exist_ok=True)
    told = {
        "executable": str(folder / "bin/python3"),
        "prefixes": [str(folder)],
        "sites": [str(site)],
        "stdlib": str(folder / "lib"),
        "version": [3, 12, 1],
        "modules": ["json"],
        **facts,
    }
    python = folder / "bin/python3"
    python.parent.mkdir(exist_ok=True)
    python.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return str(python)


def test_files_that_point_into_a_checkout_are_not_shown(tmp_path: Path) -> None:
    python = fake_python(tmp_path)
    site = tmp_path / "lib/site-packages"
    for name in ("pytest", "_pytest", "inner", "mine-1.0.dist-info"):
        (site / name).mkdir()
    (site / "out.pth").write_text(f"{tmp_path}/checkout\n")
    (site / "in.pth").write_text("# comment\ninner\n")
    (site / "hook.pth").write_text("import __editable___mine_finder; x()\n")
    (site / "plain.pth").write_text("import os\n")
    (site / "__editable___mine_finder.py").write_text("")
    (site / "old.egg-link").write_text("")
    (site / "mine-1.0.dist-info/direct_url.json").write_text(
        '{"dir_info": {"editable": true}, "url": "file:///x"}'
    )

    names = shown(build_layer(python))

    assert {"in.pth", "plain.pth", "pytest"} <= names
    assert not names & {
        "out.pth",
        "hook.pth",
        "__editable___mine_finder.py",
        "old.egg-link",
        "mine-1.0.dist-info",
    }


def test_another_interpreter_keeps_packages_named_like_ours(tmp_path: Path) -> None:
    python = fake_python(tmp_path)
    for name in ("pytest", "serve"):
        (tmp_path / "lib/site-packages" / name).mkdir()

    assert "serve" in shown(build_layer(python))


def test_missing_pytest_names_the_line_to_run(tmp_path: Path) -> None:
    python = fake_python(tmp_path)

    with pytest.raises(MachineError, match=f"{python} -m pip install pytest"):
        build_layer(python)


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false", os.devnull])
def test_what_is_no_interpreter_is_the_callers(python: str) -> None:
    with pytest.raises(TaskError, match="--python"):
        build_layer(python)


def test_importable_names_of_a_tree() -> None:
    paths = [
        "a.py",
        "pkg/mod.py",
        "src/inner/x.py",
        "src/lone.py",
        "data/x.json",
        "my-scripts/x.py",
        "tests/test_a.py",
    ]
    tree = Tree(files={path: File(content=b"") for path in paths})

    assert importable_names(tree) == {"a", "pkg", "inner", "lone", "tests"}
