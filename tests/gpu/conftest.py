"""What only a GPU can show: `make test-gpu`. Without one every test says why it is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from actors.engines.vllm import is_installed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# The tiny model of the tests on vLLM serves here too.
sys.path.insert(0, str(HERE.parent / "vllm"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def missing() -> str:
    """Why nothing of this can be run here; empty where it can."""
    if shutil.which("nvidia-smi") is None:
        return "there is no NVIDIA GPU here (nvidia-smi is not installed)"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    if listed.returncode or "GPU" not in listed.stdout:
        return f"there is no NVIDIA GPU here: {(listed.stdout + listed.stderr).strip()[:200]}"
    if not is_installed():
        return "vLLM is not installed here; make test-gpu does it"
    from vllm.platforms import current_platform

    return "" if current_platform.is_cuda() else "the vLLM that is installed here is not built for CUDA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    reason = missing() if ours else ""
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        item.add_marker(pytest.mark.slow)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of the model."""
    done = subprocess.run(
        [sys.executable, str(HERE.parent / "vllm/tiny.py")],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Path(done.stdout.splitlines()[-1])
