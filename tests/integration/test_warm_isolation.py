"""A hostile run in a fork reaches neither the warm process nor later runs nor the host; nothing stays."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from local_runners import tree_of

from actors.judge.suite import Suite, reporter_files, run_suite
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.layer import build_layer
from actors.sandbox.limits import PREFIX, ROOT, sweep
from actors.sandbox.probe import probe
from actors.sandbox.settings import SandboxSettings
from actors.warm.sandbox import WarmSandbox
from orchestrator.verdict import Level, Outcome, RunEnd, TestProfile, TestRun, judge

SETTINGS = SandboxSettings(memory_mib=512, processes=64, disk_mib=16, output_kib=64, timeout_s=30)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"bubblewrap cannot run here: {_REPORT.error}"),
]
# A longer count finds slower leaks.
RUNS = int(os.environ.get("WARM_RUNS", "40"))
GOOD = "def test_good(): pass\n"


@pytest.fixture
async def warm() -> AsyncIterator[WarmSandbox]:
    made = WarmSandbox(Bubblewrap(SETTINGS), reporter_files, most=1)
    yield made
    await asyncio.to_thread(made.kill_all)


async def run(sandbox: WarmSandbox, test: str, timeout_s: float = 20, **files: str) -> TestRun:
    tree = tree_of({"test_it.py": test, **files})
    shown = await run_suite(sandbox, build_layer(), tree, Suite(), timeout_s=timeout_s, preload=())
    return shown.run


async def told(sandbox: WarmSandbox, code: str) -> dict[str, object]:
    """What `code` leaves in `found`, of a run that was forked."""
    ending = "    assert 0, '@' + json.dumps(found) + '@'"
    test = f"import json\ndef test_it():\n    found = {{}}\n{indented(code)}\n{ending}\n"
    shown = await run(sandbox, test)
    assert shown.warm, sandbox.why
    detail = next((case.detail for case in shown.cases if "@{" in case.detail), shown.output)
    found: dict[str, object] = json.loads(detail.partition("AssertionError: @")[2].partition("@")[0])
    return found


def indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.strip().splitlines())


def processes(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def below(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *below(int(child))]
    return found


def zygote_of(sandbox: WarmSandbox) -> tuple[int, int]:
    """Process ids of the supervisor of the only warm process and of that itself."""
    (_, process), *_ = sandbox._held.idle
    supervisor = process._process._process.pid
    inside = [pid for pid in below(supervisor) if b"zygote.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return supervisor, max(inside)


def gone(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


async def test_a_fork_has_no_privileges_and_sees_only_itself(warm: WarmSandbox) -> None:
    found = await told(
        warm,
        """
import ctypes, errno, os
proc = "/pr" + "oc"
lines = open(proc + "/self/status").read().splitlines()
status = dict(line.split(":\\t") for line in lines if ":\\t" in line)
found["caps"] = [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
found["locked"] = [status["NoNewPrivs"], status["Seccomp"]]
found["pids"] = sorted(int(name) for name in os.listdir(proc) if name.isdigit())
found["fds"] = sorted(int(name) for name in os.listdir(proc + "/self/fd"))
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, *args):
    return errno.errorcode.get(ctypes.get_errno()) if getattr(libc, name)(*args) == -1 else "worked"
found["calls"] = {
    "user namespace": tried("unshare", 0x10000000),
    "mount": tried("mount", b"x", b"/tmp", b"tmpfs", 0, None),
    "umount": tried("umount2", b"/tmp", 0),
    "ptrace": tried("ptrace", 16, 1, 0, 0),
    "vm": tried("process_vm_readv", 1, None, 0, None, 0, 0),
    "setns": tried("setns", 0, 0),
}
found["places"] = {}
for place in ("/work", "/tmp", "/dev/shm", "/", "/env", "/trusted", "/usr", "/dev", "/etc", "/opt"):
    try:
        open(place + "/left", "w").close()
        found["places"][place] = "written"
    except OSError as error:
        found["places"][place] = errno.errorcode[error.errno]
try:
    open(proc + "/1/mem", "rb")
    found["init"] = "opened"
except OSError as error:
    found["init"] = errno.errorcode[error.errno]
""",
    )

    assert found["caps"] == [0, 0, 0, 0, 0]
    assert found["locked"] == ["1", "2"]
    assert found["pids"] == [1, 2]
    # pytest and the listing have more of their own open.
    assert set(found["fds"]) & {0, 1, 2, 3} == {0, 1, 2, 3}  # type: ignore[call-overload]
    assert set(found["calls"].values()) == {"EPERM"}  # type: ignore[attr-defined]
    places: Mapping[str, str] = found["places"]  # type: ignore[assignment]
    assert {place for place, what in places.items() if what == "written"} == {"/work", "/tmp", "/dev/shm"}
    assert set(places.values()) <= {"written", "EROFS", "EACCES"}
    assert found["init"] in ("EACCES", "EPERM")


async def test_every_run_has_namespaces_of_its_own(warm: WarmSandbox) -> None:
    look = (
        "import os\nfound = {name: os.readlink('/pr' + f'oc/self/ns/{name}') "
        "for name in ('user', 'mnt', 'pid', 'ipc', 'net')}"
    )

    runs = [await told(warm, look), await told(warm, look)]

    # Numbers of namespaces that are gone are given again: only those of the living tell two apart.
    _, zygote = zygote_of(warm)
    for name in ("user", "mnt", "pid", "ipc", "net"):
        assert os.readlink(f"/proc/{zygote}/ns/{name}") not in [run[name] for run in runs]


async def test_nothing_of_a_hostile_run_reaches_the_next(warm: WarmSandbox) -> None:
    name = f"raysmith-test-{secrets.token_hex(8)}"
    await run(warm, GOOD)
    before = zygote_of(warm)

    hostile = await run(
        warm,
        f"""
import json, os, random, signal, socket, subprocess, sys
def test_leaves():
    for place in ("/tmp/left", "/dev/shm/left", "/work/left"):
        open(place, "w").write("x")
    os.environ["LEFT"] = "x"; sys.path.append("/left"); json.left = 1; sys.setswitchinterval(0.5)
    global held
    held = socket.create_server(("127.0.0.1", 45872))
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", {name!r}])
        os._exit(0)
def test_shoots():
    for target in (os.getppid(), 1, -os.getpgrp()):
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            if target < 0 and number != signal.SIGTERM: continue
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            try: os.kill(target, number)
            except OSError: pass
def test_writes_to_everything():
    forged = b'{{"id": 2, "end": "exited", "exit_code": 0, "wall_s": 0.1}}'
    for fd in [int(name) for name in os.listdir("/pr" "oc/self/fd")]:
        try: os.write(fd, len(forged).to_bytes(4, "big") + forged)
        except OSError: pass
    os.kill(-1, signal.SIGKILL)
""",
    )
    after = await run(
        warm,
        """
import json, os, socket, sys
def test_clean():
    for place in ("/tmp/left", "/dev/shm/left", "/work/left"):
        assert not os.path.exists(place)
    assert "LEFT" not in os.environ and "/left" not in sys.path and not hasattr(json, "left")
    assert sys.getswitchinterval() < 0.1
    socket.create_server(("127.0.0.1", 45872)).close()
""",
    )

    assert hostile.warm
    assert hostile.irregular
    assert (after.warm, list(after.outcomes.values())) == (True, [Outcome.PASSED])
    assert processes(name) == []
    assert zygote_of(warm) == before


async def test_a_warm_run_is_never_part_of_a_certificate(warm: WarmSandbox) -> None:
    profile = TestProfile(expected={"test_it.py::test_good": Outcome.PASSED})

    one = await run(warm, GOOD)

    assert one.warm
    assert judge(profile, [one, one]).green
    assert not judge(profile, [one, one]).certified
    assert not judge(profile, [replace(one, warm=False), one]).certified
    assert judge(profile, [replace(one, warm=False)] * 2).certified


async def test_hangs_and_floods_end_and_leave_the_process_as_it_was(warm: WarmSandbox) -> None:
    await run(warm, GOOD)
    before = zygote_of(warm)

    hung = await run(
        warm,
        "import signal\ndef test_hang():\n    [signal.signal(n, 1) for n in (2, 15)]\n    while True: pass\n",
        timeout_s=2,
    )
    flood = await run(
        warm, "import os\ndef test_flood():\n    while True: os.write(2, b'x' * 65536)\n", **NO_CAPTURE
    )

    assert (hung.warm, hung.end, hung.exit_code) == (True, RunEnd.TIMEOUT, None)
    assert hung.collected == ("test_it.py::test_hang",)
    assert flood.end is RunEnd.OUTPUT_LIMIT
    assert (await run(warm, GOOD)).outcomes == {"test_it.py::test_good": Outcome.PASSED}
    assert zygote_of(warm) == before


NO_CAPTURE = {"pytest.ini": "[pytest]\naddopts = -s\n"}


async def test_limits_of_a_fresh_sandbox_hold(warm: WarmSandbox) -> None:
    found = await told(
        warm,
        """
import os, resource
made = []
try:
    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            import time; time.sleep(20); os._exit(0)
        made.append(pid)
except OSError: pass
found["processes"] = len(made)
for pid in made: os.kill(pid, 9)
size = 0
try:
    with open("/work/fill", "wb") as file:
        for _ in range(64): size += file.write(bytes(1 << 20)); file.flush()
except OSError: pass
found["mib"] = size >> 20
found["core"] = resource.getrlimit(resource.RLIMIT_CORE)[1]
""",
    )

    assert 0 < int(str(found["processes"])) < 64
    assert 0 < int(str(found["mib"])) <= 16
    assert found["core"] == 0


@pytest.mark.parametrize("victim", ["supervisor", "zygote"])
async def test_a_killed_warm_process_leaves_nothing_and_costs_no_verdict(
    warm: WarmSandbox, victim: str
) -> None:
    await run(warm, GOOD)
    supervisor, zygote = zygote_of(warm)

    os.kill(supervisor if victim == "supervisor" else zygote, signal.SIGKILL)
    after = await run(warm, GOOD)
    again = await run(warm, GOOD)

    assert after.outcomes == again.outcomes == {"test_it.py::test_good": Outcome.PASSED}
    assert again.warm
    assert gone(zygote)
    assert gone(supervisor)
    for place in {folder.parent for folder in ROOT.glob(f"*/{PREFIX}*")} | {ROOT}:
        sweep(place)
    assert not list(ROOT.glob(f"*/{PREFIX}{supervisor}-*"))


_OWNER = """
import asyncio, sys
sys.path[:0] = {path!r}
from test_warm_isolation import *
async def main():
    made = WarmSandbox(Bubblewrap(SETTINGS), reporter_files, most=1)
    await run(made, GOOD)
    print(*zygote_of(made), flush=True)
    await run(made, "import time\\ndef test_long(): time.sleep(60)\\n", timeout_s=60)
asyncio.run(main())
"""


def test_a_killed_owner_leaves_nothing() -> None:
    here = Path(__file__)
    path = [str(here.parent), str(here.parents[1]), str(here.parents[2])]
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER.format(path=path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    supervisor, zygote = (int(word) for word in owner.stdout.readline().split())
    time.sleep(0.5)
    family = [supervisor, *below(supervisor)]

    owner.kill()
    owner.wait()
    owner.stdout.close()

    assert zygote in family
    assert all(gone(pid) for pid in family)


async def test_many_runs_leave_no_process_file_or_mount(warm: WarmSandbox) -> None:
    await run(warm, GOOD)
    supervisor, zygote = zygote_of(warm)

    def held() -> tuple[int, int, int, int]:
        return (
            len(below(supervisor)),
            len(os.listdir(f"/proc/{zygote}/fd")),
            len(os.listdir("/proc/self/fd")),
            len(Path(f"/proc/{zygote}/mountinfo").read_text().splitlines()),
        )

    await run(warm, GOOD)
    before = held()
    for _ in range(RUNS):
        assert (await run(warm, GOOD)).warm

    assert held() == before
    assert zygote_of(warm) == (supervisor, zygote)
