"""Share of small bugs that the search repairs without a model, and how fast it tries candidates.

    python benchmarks/repair.py [--json] [--cpu-s 10] [--only CLASS] [--corpus FOLDER]

A repair is plausible when all tests pass, and right when it also agrees with the reference on expressions
that the repairer never saw. The corpus is a development corpus: its figures say how the operators do on known
classes of bugs, not how they do on unseen ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from corpus.cases import Case, cases, evaluate  # noqa: E402
from local_runners import LocalRunners, tree_of  # noqa: E402

from actors.repairer import SearchRepairer  # noqa: E402
from orchestrator.steps import Improvement, RepairRequest  # noqa: E402
from orchestrator.verdict import Outcome, TestProfile  # noqa: E402


async def _ignore(improvement: Improvement) -> None: ...


async def repair(case: Case, cpu_s: float) -> dict[str, Any]:
    tree = tree_of({"program.py": case.buggy, "test_program.py": case.test_file})
    expected = {
        f"test_program.py::test_{number}": Outcome.PASSED if _passes(case, test) else Outcome.FAILED
        for number, test in enumerate(case.tests, 1)
    }
    profile = TestProfile(expected=expected, protected=frozenset({"test_program.py"}))
    request = RepairRequest(
        base=tree, tree=tree, profile=profile, failing=profile.failing, cpu_s=cpu_s, wall_s=cpu_s * 6
    )
    found = await SearchRepairer().repair(request, LocalRunners(), _ignore)
    best = found.best
    plausible = best is not None and not best.failing
    program = best.changes["program.py"].content.decode() if plausible and best is not None else ""
    return {
        "plausible": plausible,
        "right": plausible and _right(program, case),
        "cpu_s": best.cpu_s if best is not None else found.cpu_s,
        "all_cpu_s": found.cpu_s,
        "candidates": found.candidates,
        "explanation": best.explanation if best is not None else "",
        "program": program,
    }


def _passes(case: Case, expression: str) -> bool:
    return _limited(case.buggy, [expression]) == _limited(case.reference, [expression])


def _right(program: str, case: Case) -> bool:
    both = [*case.tests, *case.held]
    return _limited(program, both) == _limited(case.reference, both)


def _limited(program: str, expressions: list[str]) -> list[Any] | None:
    """Values in a process of their own: a wrong repair may never end."""
    queue: multiprocessing.Queue[list[Any]] = multiprocessing.Queue()
    process = multiprocessing.Process(target=_values, args=(program, expressions, queue))
    process.start()
    process.join(5)
    if process.is_alive():
        process.kill()
        return None
    return queue.get() if process.exitcode == 0 else None


def _values(program: str, expressions: list[str], queue: Any) -> None:
    queue.put([evaluate(program, expression) for expression in expressions])


def _table(results: dict[tuple[str, str], dict[str, Any]]) -> None:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (kind, name), result in results.items():
        groups[kind].append(result)
        mark = "right    " if result["right"] else "plausible" if result["plausible"] else "-        "
        print(
            f"{mark} {kind:18} {name:20} {result['all_cpu_s']:6.2f} s {result['candidates']:6}  "
            f"{result['explanation'][:70]}"
        )
    print()
    for kind, some in groups.items():
        print(
            f"{kind:18} {sum(r['plausible'] for r in some)}/{len(some)} plausible, "
            f"{sum(r['right'] for r in some)} right"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cpu-s", type=float, default=10.0)
    parser.add_argument("--only")
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    chosen = [case for case in cases(options.corpus) if options.only in (None, case.kind, case.name)]
    results = {(case.kind, case.name): await repair(case, options.cpu_s) for case in chosen}
    values = list(results.values())
    tried, spent = sum(r["candidates"] for r in values), sum(r["all_cpu_s"] for r in values)
    summary = {
        "bugs": len(values),
        "plausible": round(sum(r["plausible"] for r in values) / len(values), 3),
        "right": round(sum(r["right"] for r in values) / len(values), 3),
        "candidates_per_cpu_s": round(tried / spent),
        "median_cpu_s_to_patch": round(
            statistics.median([r["cpu_s"] for r in values if r["plausible"]] or [0.0]), 2
        ),
        "cpu_s_each": options.cpu_s,
    }
    if options.json:
        print(json.dumps(summary))
    else:
        _table(results)
        print(*(f"{name:32} {value}" for name, value in summary.items()), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
