"""What a verdict costs: plain pytest, a fresh sandbox, Docker where it answers, a fork, a certificate.

    python benchmarks/verdict.py [--json] [--rounds 15] [--python ENV/bin/python] [--no-corpus]

First the corpus of awkward suites: a fork shows what a fresh pytest shows on each, or it is not taken. Then
three suites in one environment that holds FastAPI, httpx2, pytest and what they need, and nothing else: the
FastAPI example (`fastapi`), pure Python (`pure`) and an application that each test makes anew (`todo`). Every
way is handed a candidate it has never seen and gives outcomes back; all take turns in one run, so that the
load of the machine meets all alike. CPU is that of all processes of a verdict. Ratios are medians of pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from docker_pytest import DockerPytest, why_no_docker  # noqa: E402
from small_environment import made_in  # noqa: E402
from verdict_ways import Cost, Way, Ways  # noqa: E402

from actors.runner import Runner  # noqa: E402
from orchestrator.steps import ProfileRequest  # noqa: E402
from orchestrator.tree import File, Tree  # noqa: E402

SUITES = {"fastapi": "add_story", "pure": "ledger", "todo": "todo_api"}
CORPUS = ROOT / "tests" / "integration" / "test_warm_suites.py"
_TOLD_OF_SUITE = re.compile(r"(\d+) (passed|failed|skipped|error)")


def suite(name: str) -> Tree:
    """The files of one suite."""
    folder = ROOT / "benchmarks" / "suites" / SUITES[name]
    return Tree(
        files={
            str(path.relative_to(folder)): File(content=path.read_bytes())
            for path in sorted(folder.rglob("*.py"))
        }
    )


def corpus() -> dict[str, int]:
    """Outcome by outcome, each awkward suite by a fork and by a fresh pytest; how many tests agreed.

    Raises:
        RuntimeError: One differed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(CORPUS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    told = {what: int(number) for number, what in _TOLD_OF_SUITE.findall(done.stdout[-300:])}
    if done.returncode != 0:
        raise RuntimeError(f"a fork showed something else than a fresh pytest:\n{done.stdout[-4000:]}")
    return {"corpus_agreed": told.get("passed", 0), "corpus_skipped": told.get("skipped", 0)}


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


def ratio(costs: dict[str, list[Cost]], over: str, under: str, what: str) -> float:
    """Median over the rounds of one way's cost by another's."""
    pairs = zip(costs[over], costs[under], strict=True)
    return round(statistics.median(getattr(one, what) / getattr(other, what) for one, other in pairs), 2)


def figures(costs: list[Cost]) -> dict[str, float]:
    """p50, p95 and median CPU in milliseconds."""
    walls = sorted(cost.wall_s * 1000 for cost in costs)
    return {
        "p50_ms": round(statistics.median(walls), 1),
        "p95_ms": round(walls[min(len(walls) - 1, round(0.95 * (len(walls) - 1)))], 1),
        "cpu_ms": round(statistics.median(cost.cpu_s for cost in costs) * 1000, 1),
    }


def paid_after(costs: dict[str, list[Cost]], what: str) -> float:
    """After how many warm verdicts in place of plain ones the start of the warm process is paid back."""
    plain, warm, first = (
        statistics.median(getattr(cost, what) for cost in costs[way]) for way in ("plain", "warm", "first")
    )
    return round(max(0.0, first - warm) / (plain - warm), 2)


async def measure(name: str, python: Path, rounds: int, seconds: float) -> dict[str, object]:
    """Everything about one suite, in the names of the JSON."""
    tree = suite(name)
    profiled = await Runner().profile(ProfileRequest(tree=tree, python=str(python)))
    why_not = why_no_docker()
    docker = None if why_not else DockerPytest(python)
    one, two = (Ways(tree, profiled, python, docker) for _ in range(2))
    found: dict[str, object] = {"docker": why_not or "measured", f"{name}_judge": str(profiled.profile.judge)}
    try:
        costs = await interleaved({**one.all(), "first": one.first}, rounds)
        for way, some in costs.items():
            found |= {f"{name}_{way}_{what}": value for what, value in figures(some).items()}
        other = two.all()
        for way, its in one.all().items():
            found[f"{name}_{way}_per_s_1"] = round(await rate([its], seconds), 2)
            found[f"{name}_{way}_per_s_2"] = round(await rate([its, other[way]], seconds), 2)
    finally:
        await asyncio.gather(one.close(), two.close())
        if docker is not None:
            docker.close()
    return found | {
        f"cpu_ratio_{name}": ratio(costs, "plain", "warm", "cpu_s"),
        f"p50_ratio_{name}": ratio(costs, "plain", "warm", "wall_s"),
        f"cpu_ratio_no_autoload_{name}": ratio(costs, "plain_no_autoload", "warm", "cpu_s"),
        f"p50_ratio_no_autoload_{name}": ratio(costs, "plain_no_autoload", "warm", "wall_s"),
        f"certificate_ratio_{name}": ratio(costs, "certificate", "plain", "wall_s"),
        f"certificate_cpu_ratio_{name}": ratio(costs, "certificate", "plain", "cpu_s"),
        f"start_paid_after_{name}": paid_after(costs, "wall_s"),
        f"start_cpu_paid_after_{name}": paid_after(costs, "cpu_s"),
    }


def table(found: dict[str, object], names: Iterable[str] = SUITES) -> str:
    """The figures by suite and way, then all ratios so far."""
    columns = ("p50_ms", "p95_ms", "cpu_ms", "per_s_1", "per_s_2")
    lines = ["".join(f"{word:>12}" for word in ("", "", *columns))]
    for name in names:
        for way in ("plain", "plain_no_autoload", "fresh", "docker", "warm", "first", "certificate"):
            values = [found.get(f"{name}_{way}_{column}", "-") for column in columns]
            lines.append(f"{name:>8} {way:<17}" + "".join(f"{value!s:>12}" for value in values))
    told = [key for key in found if "ratio" in key or key.startswith(("start_", "corpus_"))]
    return "\n".join([*lines, "", *(f"{key:34} {found[key]}" for key in told), f"docker: {found['docker']}"])


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement of verdicts a second")
    parser.add_argument("--python", type=Path, help="an interpreter with pytest, fastapi and httpx2")
    parser.add_argument("--no-corpus", action="store_true", help="costs only")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="verdict-"))
    found: dict[str, object] = {"rounds": options.rounds, "load": round(os.getloadavg()[0], 2)}
    try:
        found |= {} if options.no_corpus else corpus()
        python = options.python or made_in(folder)
        for name in SUITES:
            found |= await measure(name, python, options.rounds, options.seconds)
            print(table(found, [name]), file=sys.stderr)
        found["certificate_ratio"] = max(float(str(found[f"certificate_ratio_{name}"])) for name in SUITES)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(found))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
