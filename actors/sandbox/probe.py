"""Decides, by trying, how strongly this machine can confine code. A binary on PATH proves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from actors.sandbox.bubblewrap import Bubblewrap, Supervised
from actors.sandbox.layer import Layer, build_layer
from actors.sandbox.port import Completed, Job, Sandbox
from actors.sandbox.settings import ACCEPT, SandboxSettings
from orchestrator.errors import RaysmithError, SandboxError
from orchestrator.verdict import Level, RunEnd

_ATTACKS = Path(__file__).with_name("attacks.py")
_TIMEOUT_S = 20.0
_BOMB_MIB = 48
_BOMB = "import sys; data = [bytearray(8 << 20) for _ in range(400)]; print(len(data))"
_TRIED = (
    "network",
    "host file",
    "writing outside",
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
        provider: `bubblewrap`, `unsandboxed` or `none`.
        memory: How memory is bounded: `cgroup-v1`, `cgroup-v2`, `polled` or `none`.
        tried: The attacks that were really made, or what was tried to start.
        error: Exact words of what failed; empty when all held.
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
    """Try bubblewrap against real attacks, once per process and settings."""
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
        return Bubblewrap(settings), report
    if settings.accepts_unsandboxed:
        from actors.sandbox.unsandboxed import Unsandboxed

        return Unsandboxed(settings), report
    raise SandboxError(
        f"this machine confines code at level {report.level}, and sandbox.minimum is {settings.minimum}; "
        f"tried {', '.join(report.tried) or 'nothing'}: {report.error}",
        f"{report.fix}; or set sandbox.allow_unsandboxed={ACCEPT}",
    )


def _probe(settings: SandboxSettings) -> ProbeReport:
    if shutil.which("bwrap") is None:
        return ProbeReport(
            level=Level.NONE,
            provider="none",
            tried=("bwrap",),
            error="bubblewrap is not installed",
            fix="run `apt-get install bubblewrap`",
        )
    sandbox = Bubblewrap(settings)
    try:
        attacked, bombed = _attack(sandbox, build_layer())
    except RaysmithError as error:
        return ProbeReport(
            level=Level.NONE,
            provider="none",
            tried=("bubblewrap",),
            error=error.message,
            fix=_fix(error.message),
        )
    wrong = _judge(attacked, bombed)
    return ProbeReport(
        level=Level.NONE if wrong else Level.NAMESPACE,
        provider="none" if wrong else "bubblewrap",
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
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
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
        }


def _survivors(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def _judge(attacked: Completed, bombed: Completed) -> list[str]:
    """What did not hold, in words."""
    words = attacked.output.decode(errors="replace").strip()
    try:
        worked = json.loads(words.splitlines()[-1]) if words else ["said nothing"]
    except ValueError:
        worked = [f"the attacks could not be made: {words[-500:]}"]
    wrong = [what for what in worked if what != "own loopback"]
    if "own loopback" not in worked:
        wrong.append("the sandbox has no loopback of its own")
    if bombed.end is RunEnd.EXITED and bombed.exit_code == 0:
        wrong.append(f"{_BOMB_MIB} MiB did not bound a process that took 3200")
    return wrong


def _fix(error: str) -> str:
    """The usual cause of a refusal to start."""
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
    return "see docs/design/sandbox.md"
