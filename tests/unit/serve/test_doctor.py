"""The doctor looks at this machine; every gap has a fix, and a check that breaks is a gap."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from serve.config import Loaded, load
from serve.doctor import Check, examine
from serve.engines import look

NAMES = ["python", "ray", "dashboard", "sandbox", "store", "git", "gpus", "engines", "slack"]
NAMES += ["cluster", "fleet", "http", "metrics"]


def loaded(home: Path, *settings: str) -> Loaded:
    return load(settings=settings, environ={"RAYSMITH_HOME": str(home)})


def found(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_everything_is_looked_at_and_every_gap_has_a_fix(tmp_path: Path) -> None:
    checks = examine(loaded(tmp_path / "home"))

    assert [check.name for check in checks] == NAMES
    assert all(check.found for check in checks)
    assert [check.name for check in checks if check.ok is not True and not check.fix] == []
    assert found(checks, "ray").found.startswith("2.60.")
    assert found(checks, "store").ok is True
    assert list((tmp_path / "home").iterdir()) == []


def test_a_home_that_is_a_file_is_a_gap_and_the_other_checks_go_on(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")

    checks = examine(loaded(tmp_path / "home"))

    store = found(checks, "store")
    assert (store.ok, "is a file" in store.found, store.fix) == (False, True, "name another RAYSMITH_HOME")
    assert [check.name for check in checks] == NAMES


@pytest.mark.parametrize(
    ("script", "ok", "words"),
    [
        ("echo 'NVIDIA L4, 23034 MiB'", True, "NVIDIA L4, 23034 MiB"),
        ("echo 'no driver' >&2; exit 9", None, "nvidia-smi fails"),
    ],
)
def test_gpus_are_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, ok: bool | None, words: str
) -> None:
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")

    gpus = found(examine(loaded(tmp_path / "home")), "gpus")

    assert (gpus.ok, gpus.found) == (ok, words)


def test_a_model_is_named_and_looked_for(tmp_path: Path) -> None:
    engines = found(examine(loaded(tmp_path / "home", "model=recorded:add_story")), "engines")
    absent = found(examine(loaded(tmp_path / "home", "model=recorded:x")), "engines")

    assert engines.ok is True
    assert engines.found.endswith("model: recorded:add_story")
    assert absent.ok is None and "no recording is called 'x'" in absent.found


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("magic:x", "no engine serves the model"),
        ("http://127.0.0.1:1/v1#m", "cannot be reached"),
        ("http://u:secret@127.0.0.1/v1#m", "holds a user, a password or a query"),
        ("vllm:/no/such/model", "vLLM, and it is not installed"),
    ],
)
def test_a_model_that_cannot_work_here_is_a_gap_with_a_fix(tmp_path: Path, model: str, words: str) -> None:
    engines = look(loaded(tmp_path / "home", f"model={model}").config)

    assert engines.problem is not None
    assert words in engines.problem.message and engines.problem.next_move
    assert "secret" not in str(engines.problem)


def test_a_cluster_that_does_not_answer_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        there = found(examine(loaded(tmp_path / "home")), "cluster")
    gone = found(examine(loaded(tmp_path / "home")), "cluster")

    assert (there.ok, f"127.0.0.1:{port} answers" in there.found) == (True, True)
    assert (gone.ok, f"127.0.0.1:{port}" in gone.found, "RAY_ADDRESS" in gone.fix) == (False, True, True)


def test_a_taken_port_and_a_door_without_keys_are_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken = found(examine(loaded(tmp_path / "home", f"http.port={port}")), "http")
    outside = found(examine(loaded(tmp_path / "home", f"http.port={port}", "http.host=0.0.0.0")), "http")

    assert (taken.ok, f"port {port} cannot be bound" in taken.found) == (None, True)
    assert (outside.ok, outside.fix) == (None, "raysmith keys create NAME")


def test_a_metrics_port_that_is_taken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr("serve.doctor_doors._RAY_METRICS_PORTS", (port,))
        check = found(examine(loaded(tmp_path / "home")), "metrics")

    assert (check.ok, f"port {port} taken" in check.found) == (None, True)


def test_cards_that_this_machine_does_not_have_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load(Path("configs/gke-l4.yaml"), environ={"RAYSMITH_HOME": str(tmp_path / "home")})

    check = found(examine(config), "fleet")

    assert check.ok is None
    assert "GPUs at least" in check.found


@pytest.mark.sandbox
def test_a_machine_without_namespaces_is_told_its_level_the_reason_and_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    strict, lax = (
        found(examine(loaded(tmp_path / "home", "sandbox.docker_host=unix:///nowhere", *more)), "sandbox")
        for more in ((), ("sandbox.minimum=weak",))
    )

    if not lax.found.startswith("weak by landlock"):
        pytest.skip(f"Landlock does not hold here: {lax.found}")
    assert "bubblewrap is not installed" in strict.found
    assert (strict.ok, lax.ok) == (False, True)
    assert "apt-get install bubblewrap" in strict.fix
    assert "sandbox.minimum=weak" in strict.fix
