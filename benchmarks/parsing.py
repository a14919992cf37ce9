"""Share of replies that are read and applied as they were meant, on a corpus of ways in which models write.

    python benchmarks/parsing.py [--json] [--part development|heldout]

The held-out part was written before the parser and the matcher, and they were not changed for it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from corpus.reply_cases import PARTS, cases, judged  # noqa: E402


def measure(part: str) -> dict[str, float | int | list[str]]:
    began = time.perf_counter()
    outcomes: dict[bool, Counter[str]] = defaultdict(Counter)
    missed = []
    styles = set()
    for case in cases(part):
        outcome = judged(case)
        outcomes[case.must_be_refused][outcome] += 1
        styles.add(case.style)
        if outcome != "as_meant":
            missed.append(f"{outcome} {case.name}")
    total = sum(sum(each.values()) for each in outcomes.values())
    both = outcomes[True] + outcomes[False]
    return {
        "replies": total,
        "styles": len(styles),
        "to_apply": sum(outcomes[False].values()),
        "to_refuse": sum(outcomes[True].values()),
        "applied_as_meant": round(both["as_meant"] / total, 4),
        "applied_wrongly": both["wrongly"],
        "refused_needlessly": both["refused"],
        "seconds": round(time.perf_counter() - began, 2),
        "missed": missed,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--json", action="store_true", help="one object as the last line")
    options.add_argument("--part", choices=PARTS, help="only this part")
    chosen = options.parse_args()
    found = {part: measure(part) for part in ([chosen.part] if chosen.part else PARTS)}
    names = [name for name in next(iter(found.values())) if name != "missed"]
    print(f"{'':20}" + "".join(f"{part:>14}" for part in found))
    for name in names:
        print(f"{name:20}" + "".join(f"{result[name]!s:>14}" for result in found.values()))
    for part, result in found.items():
        for each in result["missed"]:  # type: ignore[union-attr]
            print(f"  {part}: {each}")
    if chosen.json:
        print(json.dumps(_flat(found)))


def _flat(found: dict[str, dict[str, float | int | list[str]]]) -> dict[str, float | int]:
    """The whole corpus in the plain names, each part behind its own."""
    flat: dict[str, float | int] = {}
    total = sum(result["replies"] for result in found.values())  # type: ignore[misc]
    for name in ("replies", "styles", "to_apply", "to_refuse", "applied_wrongly", "refused_needlessly"):
        flat[name] = sum(result[name] for result in found.values())  # type: ignore[misc]
    flat["applied_as_meant"] = round(
        sum(result["applied_as_meant"] * result["replies"] for result in found.values()) / total,  # type: ignore[operator]
        4,
    )
    for part, result in found.items():
        flat |= {f"{part}_{name}": value for name, value in result.items() if not isinstance(value, list)}
    return flat


if __name__ == "__main__":
    main()
