"""The image holds what the manifests count on."""

from __future__ import annotations

import fnmatch
import re
import tomllib

from manifests import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = {
    match["name"]: match["body"]
    for match in re.finditer(
        r"^FROM \S+ AS (?P<name>\S+)\n(?P<body>.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S
    )
}


def test_has_an_image_for_every_pod_and_one_with_vllm() -> None:
    assert list(STAGES) == ["build", "runtime", "build-vllm", "vllm"]
    assert ".[postgres,gcs,vllm]" in STAGES["build-vllm"]
    assert "vllm" not in STAGES["build"] + STAGES["runtime"]


def test_ends_as_the_user_that_the_manifests_name() -> None:
    for stage in ("runtime", "vllm"):
        assert re.findall(r"^USER (\S+)$", STAGES[stage], re.M)[-1] == "1000:1000"
    assert "--uid 1000" in STAGES["runtime"]


def test_starts_with_tini_and_brings_the_sandbox_and_what_kuberays_probes_call() -> None:
    (packages,) = re.findall(r"apt-get install -y --no-install-recommends (.*?) \\", STAGES["runtime"])

    assert {"tini", "bubblewrap", "libseccomp2", "wget", "git"} <= set(packages.split())
    assert 'ENTRYPOINT ["/usr/bin/tini", "-g", "--"]' in STAGES["runtime"]


def test_installs_by_the_pins_and_knows_its_ray() -> None:
    assert 'pip install -c constraints.txt ".[postgres,gcs]"' in STAGES["build"]
    assert re.search(r"^ARG RAY_VERSION=\d", STAGES["build"], re.M)
    assert "ray.__version__ == '${RAY_VERSION}'" in STAGES["build"]


def test_no_base_image_is_the_latest() -> None:
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.M)
    own = set(STAGES) | {"${PYTHON_IMAGE}"}

    assert re.fullmatch(r"python:3\.11-\S+", base)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)) <= own


def test_the_context_holds_the_packages_and_nothing_by_chance() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    admitted = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {pattern.rstrip("*").partition(".")[0] for pattern in patterns}

    assert lines[0] == "*"
    assert packages | {"raysmith.py", "pyproject.toml", "constraints.txt", "README.md"} <= admitted
    for secret in (".env", ".git", ".venv", "tasks.jsonl"):
        assert not any(fnmatch.fnmatch(secret, pattern) for pattern in admitted)
