"""Share of bugs that the search repairs without a model, and how fast it tries candidates.

    python benchmarks/repair.py [--development] [--json] [--cpu-s 10] [--package-cpu-s 120]
                                [--only CLASS] [--no-half] [--sample N] [--check]

A repair is plausible when all tests pass, and right when it also agrees with the reference on expressions
that the repairer never saw. The measuring half of `tests/corpus` is used unless `--development` is given; its
cases are not looked at one by one, so only sums are shown. `--check` judges the corpus, not the repairer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from corpus.cases import DEVELOPMENT, MEASURING, Case, cases, complaints, evaluate  # noqa: E402
from local_runners import LocalRunners, profile_of, tree_of  # noqa: E402

from actors.repairer import SearchRepairer  # noqa: E402
from actors.search.settings import SearchSettings  # noqa: E402
from orchestrator.steps import Improvement, RepairRequest  # noqa: E402

#: Programs that no edit repairs, so that the whole budget goes into trying.
_STRAIGHT = {
    "program.py": """
def price(count, unit, percent, member):
    subtotal = count * unit
    if member and subtotal > 100:
        subtotal = subtotal - subtotal * percent // 100
    elif count >= 10:
        subtotal = subtotal - unit
    shipping = 5 if subtotal < 50 else 0
    return {"subtotal": subtotal, "shipping": shipping, "total": subtotal + shipping}


def label(name, count, unit, percent=0, member=False):
    found = price(count, unit, percent, member)
    text = name.strip().title()
    return f"{text}: {found['total']}" if found["shipping"] else f"{text} (free): {found['total']}"
""",
    "test_program.py": """
import pytest
from program import label, price


@pytest.mark.parametrize("count", [1, 5, 20])
def test_never(count):
    first = len(label(" pen ", count, 7, 10, True))
    assert first < first and len(label("cup", count, 3)) < 0
""",
}
_HANGING = {
    "program.py": """
def collatz(number):
    steps = 0
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps


def digits(number, base):
    out = []
    while number > 0:
        out.append(number % base)
        number = number // base
    low, high = 0, len(out) - 1
    while low < high:
        out[low], out[high] = out[high], out[low]
        low += 1
        high -= 1
    return out
""",
    "test_program.py": """
import pytest
from program import collatz, digits


@pytest.mark.parametrize("number", [3, 6, 27])
def test_never(number):
    first = collatz(number) + len(digits(number, 2))
    assert first < first
""",
}
Result = dict[str, Any]


async def _ignore(improvement: Improvement) -> None: ...


async def repair(case: Case, cpu_s: float, numbers: Sequence[int]) -> Result:
    """Repair `case` by the tests `numbers`, and judge the repair by all of them and the held ones."""
    every = [*case.tests, *case.held]
    expected = evaluate(case.reference, case.header, every)
    assert expected is not None, case.name
    found = await _search({**case.buggy, "test_program.py": case.test_file(expected, numbers)}, cpu_s)
    best = found.best
    plausible = best is not None and not best.failing
    files = dict(case.buggy)
    if best is not None:
        files.update({path: file.content.decode() for path, file in best.changes.items() if file})
    return {
        "plausible": plausible,
        "right": plausible and evaluate(files, case.header, every) == expected,
        "patch_cpu_s": best.cpu_s if best is not None else found.cpu_s,
        "cpu_s": found.cpu_s,
        "over": found.cpu_s / cpu_s,
        "candidates": found.candidates,
        "explanation": best.explanation if best is not None else "",
    }


async def _search(files: Mapping[str, str], cpu_s: float) -> Any:
    tree = tree_of(files)
    profile = await profile_of(tree)
    request = RepairRequest(
        base=tree, tree=tree, profile=profile, failing=profile.failing, cpu_s=cpu_s, wall_s=cpu_s * 100
    )
    return await SearchRepairer(SearchSettings(runners=1)).repair(request, LocalRunners(), _ignore)


def half(case: Case) -> list[int]:
    """Every second test, the half with a failing one."""
    expected, actual = (evaluate(files, case.header, case.tests) for files in (case.reference, case.buggy))
    for numbers in (range(0, len(case.tests), 2), range(1, len(case.tests), 2)):
        if actual is None or expected is None or any(actual[n] != expected[n] for n in numbers):
            return list(numbers)
    return list(range(len(case.tests)))


async def rate(files: Mapping[str, str], cpu_s: float) -> int:
    """Candidates per CPU second of a search that finds nothing, start and tracing included."""
    found = await _search(files, cpu_s)
    return round(found.candidates / found.cpu_s)


def _share(results: Sequence[Result], name: str) -> float:
    return round(sum(result[name] for result in results) / len(results), 3) if results else 0.0


def _table(groups: Mapping[str, Sequence[Result]], halves: Mapping[str, Sequence[Result]]) -> None:
    print("| class | bugs | plausible | right | right with half the tests | median CPU s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, some in groups.items():
        some_half = halves.get(kind, ())
        counts = [sum(result[name] for result in some) for name in ("plausible", "right")]
        with_half = sum(result["right"] for result in some_half) if some_half else "-"
        median = statistics.median(result["cpu_s"] for result in some)
        print(f"| {kind} | {len(some)} | {counts[0]} | {counts[1]} | {with_half} | {median:.2f} |")
    print()


def _summary(
    groups: Mapping[str, Sequence[Result]], halves: Mapping[str, Sequence[Result]], cpu_s: float
) -> dict[str, Any]:
    small = [result for kind, some in groups.items() for result in some if kind != "packages"]
    packages = list(groups.get("packages", ()))
    missing = [result for kind, some in groups.items() for result in some if kind.startswith("missing")]
    patched = [result["patch_cpu_s"] for result in small if result["plausible"]]
    summary = {
        "bugs": len(small),
        "plausible": _share(small, "plausible"),
        "right": _share(small, "right"),
        "right_missing_logic": _share(missing, "right"),
        "packages": len(packages),
        "packages_repaired": sum(result["right"] for result in packages),
        "median_cpu_s_to_patch": round(statistics.median(patched), 2) if patched else 0.0,
        "highest_share_of_budget": round(max((r["over"] for r in [*small, *packages]), default=0.0), 3),
        "cpu_s_each": cpu_s,
    }
    if halves:
        summary["right_half_tests"] = _share([r for some in halves.values() for r in some], "right")
    return summary


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--development", action="store_true", help="the half that operators are improved on")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cpu-s", type=float, default=10.0)
    parser.add_argument("--package-cpu-s", type=float, default=120.0)
    parser.add_argument("--only", help="one class, or with --development one case")
    parser.add_argument("--no-half", action="store_true", help="skip the runs with half of the tests")
    parser.add_argument("--sample", type=int, default=1, metavar="N", help="every Nth case only")
    parser.add_argument("--check", action="store_true", help="judge the corpus, not the repairer")
    options = parser.parse_args()
    folder = DEVELOPMENT if options.development else MEASURING
    names = {case.name for case in cases(folder)} if options.development else set()
    wanted = [c for c in cases(folder) if options.only in (None, c.kind, *({c.name} & names))]
    chosen = wanted[:: options.sample]
    if options.check:
        found = [text for case in chosen for text in complaints(case)]
        print(*found or [f"{len(chosen)} cases are sound"], sep="\n")
        raise SystemExit(bool(found))
    groups: dict[str, list[Result]] = defaultdict(list)
    halves: dict[str, list[Result]] = defaultdict(list)
    for case in chosen:
        cpu_s = options.package_cpu_s if case.kind == "packages" else options.cpu_s
        result = await repair(case, cpu_s, range(len(case.tests)))
        groups[case.kind].append(result)
        if options.development and not options.json:
            mark = "right" if result["right"] else "plausible" if result["plausible"] else "-"
            print(
                f"{mark:9} {case.kind:18} {case.name:20} {result['cpu_s']:6.2f} s {result['candidates']:6}  "
                f"{result['explanation'][:150]}",
                flush=True,
            )
        if not options.no_half and case.kind != "packages":
            halves[case.kind].append(await repair(case, cpu_s, half(case)))
    summary = _summary(groups, halves, options.cpu_s)
    if options.only is None:
        summary["candidates_per_cpu_s"] = await rate(_STRAIGHT, options.cpu_s)
        summary["candidates_per_cpu_s_hangs"] = await rate(_HANGING, options.cpu_s)
    if options.json:
        print(json.dumps(summary))
    else:
        _table(groups, halves)
        print(*(f"{name:32} {value}" for name, value in summary.items()), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
