"""What is left on the host after many sandboxes, some of which were killed from outside.

    python benchmarks/leaks.py [--runs 1000] [--provider bubblewrap] [--json]

Every run leaves a daemon, files and a deep folder behind on purpose. In every tenth the supervisor is killed
with SIGKILL in the middle, in every tenth the process that owns it. Counted before and afterwards: processes
with the mark, zombies of this process, its open files, mounts, cgroups and temporary folders whose owner
is gone. One run more, at the end, sweeps what a killed pair left, as any later run does.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from actors.sandbox.folders import PREFIX as FOLDERS  # noqa: E402
from actors.sandbox.layer import build_layer  # noqa: E402
from actors.sandbox.limits import PREFIX, started  # noqa: E402
from actors.sandbox.limits import ROOT as CGROUPS  # noqa: E402
from actors.sandbox.port import Job  # noqa: E402
from actors.sandbox.probe import make, probe  # noqa: E402
from actors.sandbox.settings import SandboxSettings  # noqa: E402
from orchestrator.errors import SandboxError  # noqa: E402
from orchestrator.verdict import Level  # noqa: E402

_MESS = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(99)", {mark!r}])
for number in range(40):
    os.mkdir("d"); os.chdir("d"); open("f", "w").write("x" * 1000)
time.sleep({pause})
"""
_OWNER = """
import sys
sys.path.insert(0, {root!r})
from actors.sandbox.layer import build_layer
from actors.sandbox.port import Job
from actors.sandbox.probe import make
from actors.sandbox.settings import SandboxSettings
job = Job(layer=build_layer(), argv=("-I", "-S", "-c", sys.argv[1]), timeout_s=30)
process = make({provider!r}, SandboxSettings()).start(job)
print("started", flush=True)
process.wait()
"""


def main() -> None:
    """Run, count, tell; exit 1 when anything is left."""
    asked = _arguments()
    if probe(SandboxSettings(provider=asked.provider)).level is Level.NONE:
        raise SystemExit(f"{asked.provider} does not hold here; see `raysmith doctor`")
    mark = f"raysmith-leak-{secrets.token_hex(8)}"
    box = make(asked.provider, SandboxSettings())
    layer = build_layer()

    def one(number: int) -> None:
        code = _MESS.format(mark=mark, pause=5 if number % 10 in (3, 7) else 0)
        if number % 10 == 7:
            return _kill_owner(code, asked.provider)
        process = box.start(Job(layer=layer, argv=("-I", "-S", "-c", code), timeout_s=30))
        if number % 10 == 3:
            time.sleep(0.3)
            os.kill(process._process.pid, signal.SIGKILL)
        try:
            process.wait()
        except SandboxError:
            return None
        return None

    one(0)
    before, begin = count(mark), time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(one, range(1, asked.runs + 1)))
    wall_s = time.monotonic() - begin
    one(0)
    time.sleep(1)
    after = count(mark)
    left = {name: after[name] - before[name] for name in after}
    told = {"provider": asked.provider, "runs": asked.runs, "wall_s": round(wall_s, 1), "left": left}
    if asked.json:
        print(json.dumps(told))
    else:
        print(f"{asked.runs} runs by {asked.provider} in {wall_s:.0f} s; left on the host:")
        print("\n".join(f"  {name:<20}{number:>6}" for name, number in left.items()))
    raise SystemExit(any(number > 0 for number in left.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--provider", default="bubblewrap")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _kill_owner(code: str, provider: str) -> None:
    script = _OWNER.format(root=str(ROOT), provider=provider)
    with subprocess.Popen(
        [sys.executable, "-c", script, code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        time.sleep(0.3)
        owner.kill()


def count(mark: str) -> dict[str, int]:
    """What this machine holds now of everything that a sandbox could leave."""
    return {
        "processes": sum(mark.encode() in line for line in _each("cmdline")),
        "zombies": sum(f") Z {os.getpid()} ".encode() in line for line in _each("stat")),
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
        "cgroups": sum(_orphaned(group.name, PREFIX) for group in CGROUPS.glob(f"**/{PREFIX}*-*")),
        "temporary folders": sum(
            _orphaned(folder.name, FOLDERS) for folder in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*")
        ),
    }


def _orphaned(name: str, prefix: str) -> bool:
    """Whether something named after its owner outlived it, or is ours."""
    pid, birth, *_ = [*name.removeprefix(prefix).split("-"), ""]
    return started(int(pid)) != birth or int(pid) == os.getpid()


def _each(name: str) -> list[bytes]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((folder / name).read_bytes())
            except OSError:
                continue
    return found


if __name__ == "__main__":
    main()
