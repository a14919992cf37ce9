from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from orchestrator import failpoints


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_an_unarmed_point_does_nothing() -> None:
    failpoints.hit("a")
    failpoints.arm("b:raise")
    failpoints.hit("a")


def test_raises_every_time_or_the_nth() -> None:
    failpoints.arm("a:raise, b:raise:2")

    for _ in range(2):
        with pytest.raises(failpoints.InjectedFault, match="fail point a"):
            failpoints.hit("a")
    failpoints.hit("b")
    with pytest.raises(OSError, match="fail point b"):
        failpoints.hit("b")
    failpoints.hit("b")


def test_sleeps() -> None:
    failpoints.arm("a:sleep=0.05")
    started = time.monotonic()

    failpoints.hit("a")

    assert 0.04 < time.monotonic() - started < 1


def test_the_environment_arms_and_exit_is_sudden() -> None:
    code = (
        "import atexit; from orchestrator import failpoints\n"
        "atexit.register(print, 'late'); failpoints.hit('a'); failpoints.hit('a'); print('after')"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env={"RAYSMITH_FAILPOINT": "a:exit:2"}, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout) == (137, b"")


def test_a_blocked_process_stands_still_until_it_is_let_go_on() -> None:
    code = "from orchestrator import failpoints; failpoints.hit('a'); print('after')"

    with subprocess.Popen(
        [sys.executable, "-c", code], env={"RAYSMITH_FAILPOINT": "a:block"}, stdout=subprocess.PIPE
    ) as child:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        child.send_signal(signal.SIGCONT)
        assert child.communicate(timeout=10)[0] == b"after\n"


def test_passages_are_counted_while_a_point_is_armed() -> None:
    failpoints.arm("a:sleep=0, b:sleep=0")

    for name in "aac":
        failpoints.hit(name)

    assert failpoints.passages() == {"a": 2, "b": 0}


@pytest.mark.parametrize(
    "spec", ["a", "a:explode", ":raise", "a:raise:0", "a:raise:x", "a:exit=3", "a:sleep=x", "a:raise:1:2"]
)
def test_a_wrong_spec_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=r"fail point|could not convert"):
        failpoints.arm(spec)
