"""The factory from Python: repair a package, watch it, apply the patch, then do several things at once.

    python examples/programmatic.py [FOLDER]

FOLDER is a package with failing tests; without one a copy of examples/buggy_shop is repaired.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import raysmith

HERE = Path(__file__).parent
GOAL = (HERE / "add_story" / "goal.txt").read_text()


def repair_and_apply(factory: raysmith.Factory, package: Path) -> raysmith.Result:
    """Follow one run to its end, and write its patch when it is certified."""
    run = factory.repair(package, attempts=3)
    for event in run.events():
        print(f"  {event.seq:3} {event.type} {event.step or ''}")
    result = run.result()
    if result.succeeded:
        print("  applied:", ", ".join(run.apply()))
    return result


async def at_once(factory: raysmith.Factory, package: Path) -> list[raysmith.Result]:
    """Two runs side by side: the mended package's tests, and a goal in words from recorded replies."""
    return await asyncio.gather(
        _ended(factory.test(package)),
        _ended(factory.run(GOAL, model="recorded:add_story")),
    )


async def _ended(run: raysmith.Run) -> raysmith.Result:
    return await run


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch, raysmith.connect(note=print) as factory:
        package = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "shop"
        if not package.exists():
            shutil.copytree(HERE / "buggy_shop", package)
        repaired = repair_and_apply(factory, package)
        results = [repaired, *asyncio.run(at_once(factory, package))]
        for result in results:
            passed = len(result.verdict.passed) if result.verdict else 0
            print(f"{result.run_id}: {result.status}, {result.reason}; {passed} passed; {result.repairer}")
        try:
            factory.repair(Path(scratch) / "nowhere")
        except raysmith.TaskError as error:
            print("refused:", error)
    return 0 if all(result.succeeded for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
