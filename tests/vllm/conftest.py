"""A tiny model that knows three stories by heart, taught in a process of its own and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.engines.vllm import is_installed

HERE = Path(__file__).parent
# Test helpers are plain modules.
sys.path.insert(0, str(HERE))

# Read by vLLM when it is imported. A gigabyte is plenty for a tiny model.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
# One thread: two that wait for one another on a busy machine take ten times as long over so little.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Everything is in a folder; nothing is to be asked of a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.slow)
            if not is_installed():
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed here; make test-vllm"))


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of the model."""
    done = subprocess.run(
        [sys.executable, str(HERE / "tiny.py")],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Path(done.stdout.splitlines()[-1])
