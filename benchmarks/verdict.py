"""What a verdict costs: plain pytest, a fresh sandbox, Docker where it answers, a fork of a warm process.

    python benchmarks/verdict.py [--json] [--rounds 15] [--python ENV/bin/python]

Two suites in one environment that holds FastAPI, httpx2, pytest and what they need, and nothing else. Every
way is handed the workspace and gives outcomes back; all ways take turns in one run, so that the load of the
machine meets all alike. CPU is that of all processes of a verdict, the caller's own part included. Ratios are
medians of pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from docker_pytest import DockerPytest, why_no_docker  # noqa: E402
from small_environment import made_in  # noqa: E402

from actors.runner import Runner  # noqa: E402
from actors.sandbox.settings import SandboxSettings  # noqa: E402
from orchestrator.steps import Profiled, ProfileRequest, TestRequest  # noqa: E402
from orchestrator.tree import File, Tree  # noqa: E402
from orchestrator.verdict import TestRun, judge  # noqa: E402

SUITES = {"fastapi": "todo_api", "pure": "ledger"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one verdict."""

    wall_s: float
    cpu_s: float


Way = Callable[[], Awaitable[Cost]]


def suite(name: str) -> Tree:
    folder = ROOT / "benchmarks" / "suites" / SUITES[name]
    return Tree(
        files={
            str(path.relative_to(folder)): File(content=path.read_bytes())
            for path in sorted(folder.rglob("*.py"))
        }
    )


class Ways:
    """The ways to a verdict on one suite, each a coroutine function that measures one verdict."""

    def __init__(self, tree: Tree, profiled: Profiled, python: Path, runner: Runner) -> None:
        self.tree = tree
        self.python = python
        self.runner = runner
        self.count = len(profiled.profile.expected)
        self.profile = profiled.profile
        self.request = TestRequest(base=tree, candidate=tree, profile=self.profile, python=str(python))

    async def plain(self) -> Cost:
        return await asyncio.to_thread(self._plain, {})

    async def plain_no_autoload(self) -> Cost:
        return await asyncio.to_thread(self._plain, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})

    async def fresh(self) -> Cost:
        return await self._measured(self.request, warm=False)

    async def warm(self) -> Cost:
        return await self._measured(replace(self.request, quick=True), warm=True)

    async def certificate(self) -> Cost:
        began, own_s = time.perf_counter(), time.process_time()
        requests = [self.request, replace(self.request, seed=2)]
        runs = await asyncio.gather(*(self.runner.test(request) for request in requests))
        assert judge(self.profile, runs).certified
        return Cost(
            wall_s=time.perf_counter() - began,
            cpu_s=time.process_time() - own_s + sum(run.cpu_s for run in runs),
        )

    async def _measured(self, request: TestRequest, *, warm: bool) -> Cost:
        began, own_s = time.perf_counter(), time.process_time()
        run = await self.runner.test(request)
        cost = Cost(wall_s=time.perf_counter() - began, cpu_s=time.process_time() - own_s + run.cpu_s)
        self._check(run, warm=warm)
        return cost

    def _check(self, run: TestRun, *, warm: bool) -> None:
        assert run.warm is warm, "the runner chose another way"
        assert run.outcomes == self.profile.expected, run.output

    def _plain(self, environment: dict[str, str]) -> Cost:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for path, file in self.tree.files.items():
                place = Path(folder, path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.content)
            process = subprocess.Popen(
                [str(self.python), "-m", "pytest", "-q"],
                cwd=folder,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            assert process.stdout is not None
            said = process.stdout.read()
            process.stdout.close()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert f"{self.count} passed".encode() in said, said
        return Cost(wall_s=time.perf_counter() - began, cpu_s=usage.ru_utime + usage.ru_stime)


async def interleaved(ways: dict[str, Way], rounds: int) -> dict[str, list[Cost]]:
    """`rounds` verdicts of each way, taking turns; one of each before, which is not counted."""
    costs: dict[str, list[Cost]] = defaultdict(list)
    for number in range(-1, rounds):
        for name, way in ways.items():
            cost = await way()
            if number >= 0:
                costs[name].append(cost)
    return costs


async def rate(ways: list[Way], seconds: float) -> float:
    """Verdicts a second of as many workers as there are `ways`."""
    done, began = 0, time.perf_counter()

    async def work(way: Way) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            await way()
            done += 1

    await asyncio.gather(*(work(way) for way in ways))
    return done / (time.perf_counter() - began)


async def start_cost(ways: Ways) -> Cost:
    """Of the first quick verdict of a runner: the warm process' start and one run."""
    runner = Runner(ways.runner.settings)
    await runner.probe()
    first = Ways(ways.tree, Profiled(profile=ways.profile, run=TestRun()), ways.python, runner)
    began, own_s = time.perf_counter(), time.process_time()
    run = await runner.test(replace(first.request, quick=True))
    wall_s = time.perf_counter() - began
    inside_s = runner.warm_cpu_s()
    await runner.cancel_all()
    assert run.warm
    return Cost(wall_s=wall_s, cpu_s=time.process_time() - own_s + inside_s)


def ratio(costs: dict[str, list[Cost]], over: str, under: str, what: str) -> float:
    """Median over the rounds of one way's cost by another's."""
    pairs = zip(costs[over], costs[under], strict=True)
    return round(statistics.median(getattr(one, what) / getattr(other, what) for one, other in pairs), 2)


def figures(costs: list[Cost]) -> dict[str, float]:
    walls = sorted(cost.wall_s * 1000 for cost in costs)
    return {
        "p50_ms": round(statistics.median(walls), 1),
        "p95_ms": round(walls[min(len(walls) - 1, round(0.95 * (len(walls) - 1)))], 1),
        "cpu_ms": round(statistics.median(cost.cpu_s for cost in costs) * 1000, 1),
    }


async def measure(name: str, python: Path, rounds: int, seconds: float) -> dict[str, object]:
    """Everything about one suite, in the names of the JSON."""
    runners = [Runner(SandboxSettings()), Runner(SandboxSettings())]
    tree = suite(name)
    profiled = await runners[0].profile(ProfileRequest(tree=tree, python=str(python)))
    one, two = (Ways(tree, profiled, python, runner) for runner in runners)
    names = ["plain", "plain_no_autoload", "fresh", "warm", "certificate"]
    chosen: dict[str, Way] = {way: getattr(one, way) for way in names}
    why_not = why_no_docker()
    docker = None if why_not else DockerPytest(python)
    if docker is not None:
        chosen["docker"] = lambda: asyncio.to_thread(docker.verdict, tree, Cost)
    try:
        costs = await interleaved(chosen, rounds)
        found: dict[str, object] = {}
        for way, some in costs.items():
            found |= {f"{name}_{way}_{what}": value for what, value in figures(some).items()}
        for way in ("plain", "fresh", "warm"):
            pair: list[Way] = [getattr(one, way), getattr(two, way)]
            found[f"{name}_{way}_per_s_1"] = round(await rate(pair[:1], seconds), 2)
            found[f"{name}_{way}_per_s_2"] = round(await rate(pair, seconds), 2)
        starts = [await start_cost(one) for _ in range(3)]
    finally:
        for runner in runners:
            await runner.cancel_all()
        if docker is not None:
            docker.close()
    start_s = statistics.median(start.wall_s for start in starts)
    plain_s, warm_s = (statistics.median(cost.wall_s for cost in costs[way]) for way in ("plain", "warm"))
    found |= {
        f"cpu_ratio_{name}": ratio(costs, "plain", "warm", "cpu_s"),
        f"p50_ratio_{name}": ratio(costs, "plain", "warm", "wall_s"),
        f"cpu_ratio_no_autoload_{name}": ratio(costs, "plain_no_autoload", "warm", "cpu_s"),
        f"p50_ratio_no_autoload_{name}": ratio(costs, "plain_no_autoload", "warm", "wall_s"),
        f"certificate_ratio_{name}": ratio(costs, "certificate", "plain", "wall_s"),
        f"first_ms_{name}": round(start_s * 1000, 1),
        f"first_cpu_ms_{name}": round(statistics.median(start.cpu_s for start in starts) * 1000, 1),
        f"start_paid_after_{name}": round(max(0.0, start_s - warm_s) / (plain_s - warm_s), 2),
        "docker": why_not or "measured",
    }
    return found


def table(found: dict[str, object]) -> str:
    """The figures by suite and way."""
    columns = ("p50_ms", "p95_ms", "cpu_ms", "per_s_1", "per_s_2")
    lines = ["".join(f"{word:>12}" for word in ("", "", *columns))]
    for name in SUITES:
        for way in ("plain", "plain_no_autoload", "fresh", "docker", "warm", "certificate"):
            values = [found.get(f"{name}_{way}_{column}", "-") for column in columns]
            lines.append(f"{name:>8} {way:<17}" + "".join(f"{value!s:>12}" for value in values))
    ratios = {
        key: value for key, value in found.items() if "ratio" in key or key.startswith(("start_", "first_"))
    }
    return "\n".join(
        [*lines, "", *(f"{key:34} {value}" for key, value in ratios.items()), f"docker: {found['docker']}"]
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement of verdicts a second")
    parser.add_argument("--python", type=Path, help="an interpreter with pytest, fastapi and httpx2")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="verdict-"))
    try:
        python = options.python or made_in(folder)
        found: dict[str, object] = {"rounds": options.rounds, "load": round(os.getloadavg()[0], 2)}
        for name in SUITES:
            found |= await measure(name, python, options.rounds, options.seconds)
        found["certificate_ratio"] = max(float(str(found[f"certificate_ratio_{name}"])) for name in SUITES)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(found))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
