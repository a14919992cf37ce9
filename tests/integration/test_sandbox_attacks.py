"""Real attacks from inside a real sandbox; what matters is the state of the host afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from actors.sandbox.bubblewrap import Bubblewrap, Supervised
from actors.sandbox.containers import Containers, connect
from actors.sandbox.folders import PREFIX as FOLDERS
from actors.sandbox.layer import build_layer
from actors.sandbox.limits import PREFIX, ROOT, sweep
from actors.sandbox.limits import started as birth
from actors.sandbox.port import Completed, Job
from actors.sandbox.probe import make, probe
from actors.sandbox.process import SupervisedProcess
from actors.sandbox.settings import PROVIDERS, SandboxSettings
from orchestrator.errors import SandboxError
from orchestrator.tree import File, FileMode, Tree
from orchestrator.verdict import Level, RunEnd

pytestmark = pytest.mark.sandbox
REPORTS = {name: probe(SandboxSettings(provider=name)) for name in PROVIDERS if name != "auto"}
SMALL = SandboxSettings(memory_mib=128, processes=48, disk_mib=16, file_mib=8, output_kib=64, timeout_s=20)

NOW = ["bubblewrap"]


def that_hold(*names: str) -> list[object]:
    """Parameters: the providers of these names, skipped with the reason where they do not hold here."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                REPORTS[name].level is Level.NONE, reason=f"{name} cannot confine here: {REPORTS[name].error}"
            ),
        )
        for name in names
    ]


@pytest.fixture(params=that_hold(*REPORTS), autouse=True)
def provider(request: pytest.FixtureRequest) -> str:
    NOW[0] = request.param
    return NOW[0]


def box(settings: SandboxSettings = SMALL) -> Supervised:
    return make(NOW[0], settings)


def weak() -> bool:
    return REPORTS[NOW[0]].level is Level.WEAK


def run(
    code: str, *, settings: SandboxSettings = SMALL, timeout_s: float = 20, stdin: bytes = b""
) -> Completed:
    job = Job(layer=build_layer(), argv=("-I", "-S", "-c", code), stdin=stdin, timeout_s=timeout_s)
    return box(settings).start(job).wait()


def said(code: str, **asked: object) -> object:
    done = run(code, stdin=json.dumps(asked).encode())
    assert done.end is RunEnd.EXITED, done
    return json.loads(done.output)


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


def groups_of(pid: int) -> list[Path]:
    return list(ROOT.glob(f"*/{PREFIX}{pid}-*"))


def gone(mark: str, within_s: float = 3.0) -> bool:
    deadline = time.monotonic() + within_s
    while processes(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def mark() -> str:
    return f"raysmith-test-{secrets.token_hex(8)}"


def test_a_fork_bomb_is_bounded_and_gone() -> None:
    name = mark()

    done = run(
        f"{name!r}\nimport os\nwhile True:\n    try: os.fork()\n    except OSError: pass", timeout_s=1.5
    )

    assert done.end is RunEnd.TIMEOUT
    assert processes(name) == []


def test_a_memory_bomb_is_killed_within_its_limit() -> None:
    done = run("data = [bytearray(8 << 20) for _ in range(200)]")

    assert done.end is RunEnd.OUT_OF_MEMORY
    assert done.exit_code is None
    if done.memory != "polled":
        assert done.peak_mib <= SMALL.memory_mib + 1


def test_many_processes_share_one_memory_limit() -> None:
    code = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        data = bytearray(32 << 20); time.sleep(0.7); os._exit(0)
codes = [os.wait()[1] for _ in range(20)]
raise SystemExit(sum(code == 9 for code in codes))
"""
    done = run(code)

    assert done.exit_code != 0
    assert done.peak_mib <= SMALL.memory_mib + 1 or done.memory == "polled"


@pytest.mark.parametrize("provider", that_hold("bubblewrap", "docker"), indirect=True)
def test_disks_have_sizes_and_the_rest_is_read_only(provider: str) -> None:
    code = """
import errno, json
found = {}
for place in ("/work", "/tmp", "/dev/shm", "/dev", "/", "/usr", "/env", "/trusted", "/etc"):
    size = 0
    try:
        for number in range(40):
            with open(f"{place}/fill{number}", "wb") as file:
                size += file.write(b"x" * (1 << 20)); file.flush()
        found[place] = "unbounded"
    except OSError as error:
        found[place] = [errno.errorcode[error.errno], size >> 20]
print(json.dumps(found))
"""
    found = said(code)

    assert isinstance(found, dict)
    for place in ("/work", "/tmp", "/dev/shm"):
        assert found[place][0] == "ENOSPC"
        assert found[place][1] <= 17
    for place in ("/dev", "/", "/usr", "/env", "/trusted", "/etc"):
        assert found[place] in (["EROFS", 0], ["EACCES", 0])


@pytest.mark.parametrize("provider", that_hold("landlock"), indirect=True)
def test_a_folder_on_the_hosts_disk_is_bounded_by_looking(provider: str) -> None:
    done = run(
        "import time\n"
        "for number in range(12):\n"
        "    with open(f'fill{number}', 'wb') as file: file.write(b'x' * (4 << 20))\n"
        "time.sleep(19)"
    )

    assert done.end is RunEnd.KILLED
    assert b"more than 16 MiB" in done.output
    assert list(Path(tempfile.gettempdir()).glob(f"{FOLDERS}{os.getpid()}-*")) == []


def test_empty_files_are_bounded() -> None:
    done = run(
        "import itertools\nfor number in itertools.count(): open(str(number), 'w').close()",
        settings=replace(SMALL, inodes=2000),
    )

    # podman's memory folders have no inodes to count; what an empty file takes is memory of the cgroup.
    assert done.end in (RunEnd.KILLED, RunEnd.OUT_OF_MEMORY) or b"No space left on device" in done.output
    assert done.exit_code != 0
    assert done.wall_s < 15


def test_cpu_time_of_all_processes_is_bounded() -> None:
    name = mark()

    done = run(
        f"{name!r}\nimport os\nfor _ in range(3):\n    if os.fork() == 0:\n"
        "        while True: pass\nos.wait()",
        settings=replace(SMALL, cpu_s=1),
    )

    assert done.end is RunEnd.TIMEOUT
    assert b"1 s of CPU time" in done.output
    assert 1 < done.cpu_s < 3
    assert processes(name) == []


def test_one_file_has_a_size() -> None:
    done = run(
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "with open('big', 'wb') as file:\n"
        "    try:\n"
        "        for _ in range(16): file.write(b'x' * (1 << 20)); file.flush()\n"
        "    except OSError as error: print(error.errno)"
    )

    assert b"27" in done.output


def test_endless_output_stops_the_run() -> None:
    done = run("while True: print('x' * 1000)")

    assert done.end is RunEnd.OUTPUT_LIMIT
    assert len(done.output) == SMALL.output_kib * 1024
    assert done.wall_s < 5


def test_a_loop_that_ignores_signals_ends_at_its_limit() -> None:
    name = mark()

    done = run(
        f"{name!r}\nimport signal\n"
        "for n in range(1, 65):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True: pass",
        timeout_s=1,
    )

    assert done.end is RunEnd.TIMEOUT
    assert done.wall_s < 3
    assert processes(name) == []


def test_daemonised_grandchildren_do_not_outlive_the_run() -> None:
    name = mark()

    done = run(
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        os.execv(sys.executable, ['python', '-S', '-c', 'import time; time.sleep(99)', {name!r}])\n"
        "    os._exit(0)\n"
        "os.wait(); time.sleep(0.1); print('daemon runs')"
    )

    assert done.output == b"daemon runs\n"
    assert processes(name) == []


def test_the_hosts_environment_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(16)
    monkeypatch.setenv("RAYSMITH_TEST_SECRET", secret)

    found = said(
        "import glob, json, os, sys\n"
        "asked = json.loads(sys.stdin.read()); text = repr(dict(os.environ)).encode()\n"
        "for path in glob.glob('/proc/*/environ'):\n"
        "    try: text += open(path, 'rb').read()\n"
        "    except OSError: pass\n"
        "print(json.dumps(asked['half'].encode() in text))",
        half=secret[:16],
    )

    assert found is False


def test_host_files_are_not_seen(tmp_path: Path) -> None:
    key = tmp_path / "id_rsa"
    key.write_text("secret")

    found = said(
        "import json, os, sys\n"
        "found = []\n"
        "for path in json.loads(sys.stdin.read())['paths']:\n"
        "    for look in (open, os.listdir):\n"
        "        try: look(path); found.append(path)\n"
        "        except OSError: pass\n"
        "print(json.dumps(found))",
        paths=[
            str(key),
            str(Path.cwd() / "pyproject.toml"),
            str(Path.home() / ".ssh"),
            str(Path.home() / ".ray"),
            "/var/run/docker.sock",
            "/run/docker.sock",
            "/sys/class/net",
            "/etc/shadow",
            "/etc/machine-id",
            "/var/log",
            "/home",
        ],
    )

    assert found == []


def test_nothing_answers_outside_and_loopback_works_inside(tmp_path: Path) -> None:
    path_socket = tmp_path / "raylet"
    abstract = "\0" + mark()
    with (
        socket.create_server(("0.0.0.0", 0)) as listener,
        socket.socket(socket.AF_UNIX) as by_path,
        socket.socket(socket.AF_UNIX) as by_name,
    ):
        by_path.bind(str(path_socket))
        by_name.bind(abstract)
        by_path.listen()
        by_name.listen()
        port = listener.getsockname()[1]
        found = said(
            "import json, socket, sys\n"
            "asked = json.loads(sys.stdin.read()); reached = []\n"
            "for kind, target in asked['targets']:\n"
            "    target = tuple(target) if isinstance(target, list) else target\n"
            "    try:\n"
            "        made = socket.socket(getattr(socket, kind)); made.settimeout(0.5); made.connect(target)\n"  # noqa: E501 - one line of an attack
            "        reached.append(target)\n"
            "    except OSError: pass\n"
            "try:\n"
            "    own = socket.create_server(('127.0.0.1', 0))\n"
            "    socket.create_connection(own.getsockname(), timeout=2).close(); reached.append('own')\n"
            "except PermissionError: pass\n"
            "print(json.dumps(reached))",
            targets=[
                ("AF_INET", ["127.0.0.1", port]),
                ("AF_INET", ["169.254.169.254", 80]),
                ("AF_INET", ["8.8.8.8", 53]),
                ("AF_INET", [socket.gethostbyname("localhost"), 8265]),
                ("AF_UNIX", str(path_socket)),
                ("AF_UNIX", abstract),
            ],
        )

    assert found == ([] if weak() else ["own"])


def test_dangerous_system_calls_are_refused() -> None:
    numbers = {
        "io_uring_setup": 425,
        "keyctl": 250,
        "add_key": 248,
        "userfaultfd": 323,
        "ptrace": 101,
        "personality": 135,
        "mount": 165,
        "umount2": 166,
        "bpf": 321,
        "perf_event_open": 298,
        "unshare": 272,
        "setns": 308,
        "pivot_root": 155,
        "chroot": 161,
        "kexec_load": 246,
        "open_by_handle_at": 304,
        "process_vm_readv": 310,
        "init_module": 175,
        "swapon": 167,
        "reboot": 169,
    }
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are of x86_64")

    found = said(
        "import ctypes, json, sys, socket\n"
        "libc = ctypes.CDLL(None, use_errno=True); worked = []\n"
        "for name, number in json.loads(sys.stdin.read())['numbers'].items():\n"
        "    ctypes.set_errno(0); result = libc.syscall(number, 0, 0, 0, 0, 0, 0)\n"
        "    if result != -1 or ctypes.get_errno() != 1: worked.append([name, result, ctypes.get_errno()])\n"
        "for family in (38, 40, 16, 17, 29):\n"
        "    kind = socket.SOCK_STREAM if family == 40 else socket.SOCK_RAW\n"
        "    try: socket.socket(family, kind); worked.append(family)\n"
        "    except OSError: pass\n"
        "import fcntl, pty, termios\n"
        "try:\n"
        "    leader, follower = pty.openpty()\n"
        "    fcntl.ioctl(follower, termios.TIOCSTI, b'x'); worked.append('TIOCSTI')\n"
        "except OSError: pass\n"
        "print(json.dumps(worked))",
        numbers=numbers,
    )

    assert [name for name in found if name != 16] == []  # type: ignore[union-attr]


def test_it_cannot_write_outside_its_folders_nor_raise_itself() -> None:
    found = said(
        "import ctypes, json, os, sys\n"
        "worked = []\n"
        "for path in ('/proc/self/oom_score_adj', '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger',\n"
        "             '/proc/sys/kernel/hostname', sys.prefix + '/pyvenv.cfg', '/etc/passwd',\n"
        "             sys.prefix + '/../trusted/boot.py'):\n"
        "    try:\n"
        "        with open(path, 'w') as file: file.write('-1000' if 'oom' in path else 'x')\n"
        "        worked.append(path)\n"
        "    except OSError: pass\n"
        "import resource\n"
        "for name in ('NOFILE', 'NPROC', 'FSIZE', 'CORE'):\n"
        "    what = getattr(resource, 'RLIMIT_' + name)\n"
        "    hard = resource.getrlimit(what)[1]\n"
        "    try: resource.setrlimit(what, (hard + 1, hard + 1)); worked.append(what)\n"
        "    except (OSError, ValueError): pass\n"
        "try: status = open('/proc/self/status').read()\n"
        "except PermissionError: status = ''\n"
        "worked += [line for line in status.splitlines() if line.startswith('Cap') and line.split()[1].strip('0')]\n"  # noqa: E501 - one line of an attack
        "prctl = ctypes.CDLL(None).prctl\n"
        "worked += [] if prctl(39, 0, 0, 0, 0) == 1 and prctl(21, 0, 0, 0, 0) == 2 else ['no filter']\n"
        "worked += ['root'] if os.getuid() == 0 else []\n"
        "print(json.dumps(worked))"
    )

    assert found == []


def test_no_descriptor_of_the_host_leaks_in(tmp_path: Path) -> None:
    secret = tmp_path / "open"
    secret.write_text("secret")
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        found = said(
            "import json, os, stat\n"
            "kinds = {}\n"
            "for fd in range(1024):\n"
            "    try: kinds[fd] = stat.S_ISFIFO(os.fstat(fd).st_mode)\n"
            "    except OSError: pass\n"
            "print(json.dumps(kinds))"
        )

    assert found == {"0": True, "1": True, "2": True, "3": True}


def test_no_program_gives_more_rights() -> None:
    found = said(
        "import json, os, stat, subprocess\n"
        "gained = []\n"
        "for words in (['/usr/bin/su', '-c', 'id -u'], ['/usr/bin/sudo', '-n', 'id', '-u']):\n"
        "    try: helped = os.stat(words[0]).st_mode & stat.S_ISUID\n"
        "    except OSError: continue\n"
        "    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)\n"
        "    gained += [words, helped] if done.stdout.startswith('0') else []\n"
        "print(json.dumps([gained, os.geteuid() == 0]))"
    )

    assert found == [[], False]


def test_killing_everything_from_inside_kills_only_itself() -> None:
    done = run("import os, signal; os.kill(-1, signal.SIGKILL); print('alive')")

    assert done.end is RunEnd.EXITED
    assert os.getpid() > 0


@pytest.mark.parametrize("provider", that_hold("bubblewrap", "docker"), indirect=True)
def test_host_paths_do_not_show_in_process_arguments(provider: str) -> None:
    found = run("print(open('/proc/1/cmdline').read())")

    assert str(Path.cwd()).encode() not in found.output
    assert b"--ro-bind" not in found.output


def supervised(code: str) -> tuple[subprocess.Popen[bytes], int]:
    """A process that owns a sandbox, and the supervisor it started."""
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from actors.sandbox.layer import build_layer\n"
            "from actors.sandbox.port import Job\n"
            "from actors.sandbox.probe import make\n"
            "from actors.sandbox.settings import SandboxSettings\n"
            "job = Job(layer=build_layer(), argv=('-I', '-S', '-c', sys.argv[1]), timeout_s=60)\n"
            "process = make(sys.argv[2], SandboxSettings()).start(job)\n"
            "print(process._process.pid, flush=True)\n"
            "process.wait()\n",
            code,
            NOW[0],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert owner.stdout is not None
    return owner, int(owner.stdout.readline())


def started(name: str) -> None:
    deadline = time.monotonic() + 10
    while len(processes(name)) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(processes(name)) >= 3


SPREAD = (
    "import os, time\n"
    "for _ in range(2):\n"
    "    if os.fork() == 0: os.setsid(); time.sleep(99)\n"
    "time.sleep(99)\n"
)


@pytest.mark.parametrize("victim", ["owner", "supervisor"])
def test_kill_9_of_the_owner_or_the_supervisor_leaves_no_process(victim: str) -> None:
    name = mark()
    owner, supervisor = supervised(f"{name!r}\n{SPREAD}")
    try:
        started(name)

        os.kill(owner.pid if victim == "owner" else supervisor, signal.SIGKILL)

        owner.wait(timeout=10)
        assert gone(name)
    finally:
        owner.kill()
        owner.communicate()
    time.sleep(0.3)
    for parent in ROOT.glob("*") if ROOT.is_dir() else []:
        sweep(parent)
    assert groups_of(supervisor) == []


@pytest.mark.parametrize("provider", that_hold("docker"), indirect=True)
@pytest.mark.parametrize("victim", ["owner", "bridge"])
def test_kill_9_leaves_no_container_and_no_volume(provider: str, victim: str) -> None:
    name = mark()
    with closing(connect(Containers(SMALL).host)) as client:
        volumes = {volume["Name"] for volume in client.volumes()["Volumes"] or []}
        owner, bridge = supervised(f"{name!r}\n{SPREAD}")
        try:
            started(name)
            mine = f"raysmith.owner={bridge}-{birth(bridge)}"
            assert len(client.containers(filters={"label": mine})) == 1

            os.kill(owner.pid if victim == "owner" else bridge, signal.SIGKILL)

            assert gone(name, within_s=10)
            deadline = time.monotonic() + 10
            while client.containers(all=True, filters={"label": mine}) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert client.containers(all=True, filters={"label": mine}) == []
            assert {volume["Name"] for volume in client.volumes()["Volumes"] or []} <= volumes
        finally:
            owner.kill()
            owner.communicate()


async def test_cancelling_a_run_kills_it() -> None:
    name = mark()
    job = Job(layer=build_layer(), argv=("-I", "-S", "-c", f"{name!r}\n{SPREAD}"), timeout_s=60)
    running = asyncio.ensure_future(box().run(job))
    await asyncio.to_thread(started, name)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes(name) == []


@pytest.mark.parametrize("provider", that_hold("bubblewrap"), indirect=True)
def test_fifty_runs_leave_nothing_behind(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zombies() -> int:
        found = 0
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    found += "(bwrap) Z" in (folder / "stat").read_text(errors="replace")
                except OSError:
                    continue
        return found

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    box = Counted(SMALL)
    asyncio.run(ten(box))
    ours, mounts, dead = len(os.listdir("/proc/self/fd")), Path("/proc/self/mounts").read_text(), zombies()

    for _ in range(4):
        asyncio.run(ten(box))

    assert len(os.listdir("/proc/self/fd")) <= ours + 1
    assert Path("/proc/self/mounts").read_text() == mounts
    assert zombies() <= dead
    assert list(tmp_path.iterdir()) == []
    assert len(box.supervisors) == 50
    assert [group for pid in box.supervisors for group in groups_of(pid)] == []


class Counted(Bubblewrap):
    """Remembers which supervisors it started."""

    def __init__(self, settings: SandboxSettings) -> None:
        super().__init__(settings)
        self.supervisors: list[int] = []

    def start(self, job: Job, *, channel: bool = False) -> SupervisedProcess:
        process = super().start(job, channel=channel)
        self.supervisors.append(process._process.pid)
        return process


async def ten(box: Bubblewrap) -> None:
    job = Job(
        layer=build_layer(),
        argv=("-I", "-S", "-c", "import os; os.fork(); open('/tmp/x', 'w').write('x' * 1000)"),
        tree=Tree(files={"a/b": File(content=b"x")}),
        timeout_s=20,
    )
    for _ in range(5):
        await asyncio.gather(box.run(job), box.run(job))


def test_a_workspace_arrives_as_it_was() -> None:
    tree = Tree(
        files={
            "pkg/naïve name.py": File(content=b"x = 1\n"),
            "run.sh": File(content=b"#!/bin/sh\necho ran\n", mode=FileMode.EXECUTABLE),
            "alias": File(content=b"pkg/na\xc3\xafve name.py", mode=FileMode.LINK),
            "binary": File(content=bytes(range(256)) * 5000),
        }
    )
    code = (
        "import hashlib, os, subprocess, sys\n"
        "print(open('alias').read(), subprocess.check_output('./run.sh', text=True),\n"
        "      hashlib.sha256(open('binary', 'rb').read()).hexdigest(), os.listdir('pkg'))"
    )
    done = box().start(Job(layer=build_layer(), argv=("-I", "-c", code), tree=tree, timeout_s=20)).wait()

    assert tree.files["binary"].digest.encode() in done.output
    assert b"x = 1" in done.output
    assert b"ran" in done.output


@pytest.mark.parametrize("provider", that_hold("bubblewrap", "docker"), indirect=True)
def test_a_workspace_too_large_is_said_to_be(
    provider: str,
) -> None:
    tree = Tree(files={f"{n}": File(content=b"x" * (4 << 20)) for n in range(6)})

    with pytest.raises(SandboxError, match="No space left"):
        box().start(Job(layer=build_layer(), argv=("-c", "1"), tree=tree, timeout_s=20)).wait()


def test_cpu_of_all_processes_is_measured() -> None:
    done = run(
        "import os, time\n"
        "for _ in range(2):\n"
        "    if os.fork() == 0:\n"
        "        while time.process_time() < 0.4: pass\n"
        "        os._exit(0)\n"
        "os.wait(); os.wait()"
    )

    assert 0.75 < done.cpu_s < 2


@pytest.mark.parametrize("provider", that_hold("bubblewrap"), indirect=True)
async def test_without_a_cgroup_memory_and_processes_are_still_bounded(
    provider: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Polled(Bubblewrap):
        def request(self, job: Job) -> dict[str, object]:
            return super().request(job) | {"polled": True}

    def polled(code: str) -> Completed:
        job = Job(layer=build_layer(), argv=("-I", "-S", "-c", code), timeout_s=5)
        return Polled(SMALL).start(job).wait()

    grow = "import time\ndata = []\nwhile True: data.append(bytearray(4 << 20)); time.sleep(0.01)"
    fork = "import os, time\nfor n in range(500):\n    if os.fork() == 0: time.sleep(9)"
    bomb = await asyncio.to_thread(polled, grow)
    forks = await asyncio.to_thread(polled, fork)

    assert bomb.end is RunEnd.OUT_OF_MEMORY
    assert bomb.memory == "polled"
    assert forks.end is not RunEnd.EXITED or forks.exit_code != 0


def test_a_channel_carries_bytes_both_ways_and_closes() -> None:
    code = (
        "import os, socket\n"
        "channel = socket.socket(fileno=int(os.environ['RAYSMITH_CHANNEL_FD']))\n"
        "while data := channel.recv(100): channel.sendall(data.upper())"
    )
    process = box().start(Job(layer=build_layer(), argv=("-I", "-c", code)), channel=True)

    process.send(b"hello")
    answer = process.receive(5, 10)
    cpu_s = process.cpu_s()
    done = process.close()

    assert answer == b"HELLO"
    assert cpu_s > 0
    assert done.end is RunEnd.KILLED
