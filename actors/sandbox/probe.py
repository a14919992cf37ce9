"""Decides, by trying, how strongly this machine can confine code. A binary on PATH proves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from actors.sandbox.bubblewrap import Bubblewrap, Supervised
from actors.sandbox.containers import Containers, OwnKernel
from actors.sandbox.layer import Layer, build_layer
from actors.sandbox.port import Completed, Job, Sandbox
from actors.sandbox.settings import ACCEPT, SandboxSettings
from orchestrator.errors import RaysmithError, SandboxError
from orchestrator.verdict import Level, RunEnd

_ATTACKS = Path(__file__).with_name("attacks.py")
_TIMEOUT_S = 20.0
_BOMB_MIB = 48
_BOMB = "import sys; data = [bytearray(8 << 20) for _ in range(400)]; print(len(data))"
_ORDER = ("bubblewrap", "docker", "landlock")
_KERNEL, _NAMESPACE = "kernel ", "made a user namespace"
_TRIED = (
    "network",
    "host file",
    "sockets of the host",
    "writing outside",
    "signals",
    "user namespace",
    "vsock",
    "environment",
    "daemon",
    "memory bomb",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """What a start-up self-test found.

    Attributes:
        level: What the machine can do; `none` when nothing works.
        provider: `bubblewrap`, `docker`, `landlock`, `unsandboxed` or `none`.
        memory: How memory is bounded: `cgroup-v1`, `cgroup-v2`, `polled` or `none`.
        tried: The attacks that were really made, or what was tried to start.
        error: Exact words of what failed, of every provider tried before this one too; empty when all held.
        fix: What an operator can do about it.
    """

    level: Level
    provider: str
    memory: str = "none"
    tried: tuple[str, ...] = ()
    error: str = ""
    fix: str = ""


_lock = threading.Lock()
_known: dict[SandboxSettings, ProbeReport] = {}


def probe(settings: SandboxSettings) -> ProbeReport:
    """Try providers against real attacks, the strongest first, once per process and settings."""
    with _lock:
        if settings not in _known:
            _known[settings] = _probe(settings)
        return _known[settings]


def choose(settings: SandboxSettings) -> tuple[Sandbox, ProbeReport]:
    """The strongest sandbox this machine has.

    Raises:
        SandboxError: It is weaker than `sandbox.minimum` and the operator did not accept that in full words.
    """
    report = probe(settings)
    if report.level.at_least(settings.minimum) and report.level is not Level.NONE:
        return make(report.provider, settings), report
    if settings.accepts_unsandboxed:
        from actors.sandbox.unsandboxed import Unsandboxed

        return Unsandboxed(settings), report
    weaker = f"or set sandbox.minimum={report.level}; " if report.level is not Level.NONE else ""
    raise SandboxError(
        f"this machine confines code at level {report.level}, and sandbox.minimum is {settings.minimum}; "
        f"tried {', '.join(report.tried) or 'nothing'}: {report.error}",
        f"{report.fix}; {weaker}or set sandbox.allow_unsandboxed={ACCEPT}",
    )


def make(provider: str, settings: SandboxSettings) -> Supervised:
    """The provider of that name.

    Raises:
        SandboxError: It is not installed.
    """
    if provider == "gvisor":
        return OwnKernel(settings)
    if provider == "docker":
        return Containers(settings)
    if provider == "landlock":
        from actors.sandbox.landlock import Landlocked

        return Landlocked(settings)
    return Bubblewrap(settings)


def _probe(settings: SandboxSettings) -> ProbeReport:
    """The first provider at level `namespace`, else the best that was tried, with what every one said.

    A kernel for each sandbox costs time at every start, so only who asks for that level gets one unasked.
    """
    order = ("gvisor", *_ORDER) if settings.minimum is Level.KERNEL else _ORDER
    wanted = order if settings.provider == "auto" else (settings.provider,)
    reports: list[ProbeReport] = []
    for provider in wanted:
        reports.append(_try(provider, settings))
        if reports[-1].level.at_least(Level.NAMESPACE):
            break
    best = next((report for report in reversed(reports) if report.level is not Level.NONE), None)
    if best is None:
        best = replace(reports[0], tried=tuple(what for report in reports for what in report.tried))
    return replace(
        best,
        error="; ".join(
            f"{name}: {report.error}" for name, report in zip(wanted, reports, strict=False) if report.error
        ),
        fix=next((report.fix for report in reports if report.fix), ""),
    )


def _try(provider: str, settings: SandboxSettings) -> ProbeReport:
    """What one provider holds against."""
    try:
        sandbox = make(provider, settings)
        attacked, bombed = _attack(sandbox, build_layer())
    except RaysmithError as error:
        return ProbeReport(
            level=Level.NONE,
            provider="none",
            tried=(provider,),
            error=error.message,
            fix=_fix(error.message) or error.next_move,
        )
    wrong = _judge(attacked, bombed, sandbox)
    return ProbeReport(
        level=Level.NONE if wrong else sandbox.level,
        provider="none" if wrong else provider,
        memory=attacked.memory,
        tried=_TRIED,
        error="; ".join(wrong),
        fix="use a machine where these attacks fail" if wrong else "",
    )


def _attack(sandbox: Supervised, layer: Layer) -> tuple[Completed, Completed]:
    """Run both attack jobs at once, against real targets on the host."""
    with _targets() as asked, ThreadPoolExecutor(2) as threads:
        attack = Job(
            layer=layer,
            argv=("-I", "-S", "-B", "{trusted}/attacks.py"),
            trusted={"attacks.py": _ATTACKS.read_text()},
            stdin=json.dumps(asked).encode(),
            timeout_s=_TIMEOUT_S,
        )
        bomb = Job(layer=layer, argv=("-I", "-S", "-c", _BOMB), timeout_s=_TIMEOUT_S, memory_mib=_BOMB_MIB)
        attacked, bombed = threads.map(lambda job: sandbox.start(job).wait(), (attack, bomb))
        if survivors := _survivors(str(asked["mark"])):
            raise SandboxError(f"a daemon outlived its sandbox: {survivors}")
        if Path(str(asked["outside"])).exists():
            raise SandboxError("a sandbox wrote a file of the host")
    return attacked, bombed


@contextlib.contextmanager
def _targets() -> Iterator[dict[str, object]]:
    """A listener, a secret file and a variable on the host, all to be out of reach."""
    mark = f"raysmith-probe-{secrets.token_hex(8)}"
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
        _unix(f"{folder}/socket"),
        _unix(f"\0{mark}"),
    ):
        secret = Path(folder, "key")
        secret.write_text("secret")
        Path(folder).chmod(0o755)
        secret.chmod(0o644)
        key = next(
            iter(set(os.environ) - {"PATH", "HOME", "LANG", "USER", "TMPDIR", "VIRTUAL_ENV", "PWD"}), "-"
        )
        yield {
            "port": listener.getsockname()[1],
            "secret": str(secret),
            "outside": str(Path(folder, "escape")),
            "key": key,
            "mark": mark,
            "socket": f"{folder}/socket",
            "pid": os.getpid(),
        }


def _unix(address: str) -> socket.socket:
    """A service of the host that answers whoever finds it, as the raylet does."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    if not address.startswith("\0"):
        Path(address).chmod(0o777)
    return listener


def _survivors(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def _judge(attacked: Completed, bombed: Completed, sandbox: Supervised) -> list[str]:
    """What did not hold, in words."""
    words = attacked.output.decode(errors="replace").strip()
    try:
        worked = json.loads(words.splitlines()[-1]) if words else ["said nothing"]
    except ValueError:
        worked = [f"the attacks could not be made: {words[-500:]}"]
    kernel = next((what.removeprefix(_KERNEL) for what in worked if what.startswith(_KERNEL)), "")
    wrong = [what for what in worked if what != "own loopback" and not what.startswith(_KERNEL)]
    if isinstance(sandbox, OwnKernel):
        if not kernel or sandbox.shares(kernel):
            wrong.append(f"the sandbox has no kernel of its own, it sees {kernel or 'none'}")
        elif _NAMESPACE in wrong:
            wrong.remove(_NAMESPACE)  # of its own kernel's making
    if "own loopback" not in worked and sandbox.level is not Level.WEAK:
        wrong.append("the sandbox has no loopback of its own")
    if bombed.end is RunEnd.EXITED and bombed.exit_code == 0:
        wrong.append(f"{_BOMB_MIB} MiB did not bound a process that took 3200")
    return wrong


def _fix(error: str) -> str:
    """What mends the usual causes of a refusal to start; empty for others."""
    if "Unknown option" in error:
        return "install bubblewrap 0.8 or later"
    if "CAP_SYS_ADMIN" in error:
        return "run Raysmith as an ordinary user, or give this container CAP_SYS_ADMIN"
    if "namespace" in error or "Permission" in error or "not permitted" in error:
        return (
            "allow unprivileged user namespaces (sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns) "
            "or, in a pod, use the seccomp profile of docs/design/sandbox.md"
        )
    return ""
