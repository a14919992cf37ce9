"""Makespan of seeded repair loops through the pure scheduler, against the lower bound. Simulated time.

A loop is a chain of steps (profile, then attempts of repair and run); its length is not known to the
scheduler. The bound is max(total / replicas, longest loop): no scheduler of any kind can be below it.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import time
from dataclasses import dataclass

from orchestrator.scheduling import Decisions, GroupInfo, LeaseRequest, ReplicaInfo, Scheduler

ROLES = frozenset({"run", "repair"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """One loop's steps in order: role and seconds."""

    name: str
    tenant: str
    steps: tuple[tuple[str, float], ...]

    @property
    def length_s(self) -> float:
        """Seconds it takes alone."""
        return sum(seconds for _, seconds in self.steps)


def seeded_loops(count: int, seed: int, attempts: int) -> list[Loop]:
    """Loops of a profile and 1..`attempts` attempts (repair 0.8 s and run 0.4 s, medians, log-normal)."""
    chance = random.Random(seed)
    loops = []
    for number in range(count):
        steps = [("run", chance.lognormvariate(-0.9, 0.5))]
        for _ in range(chance.randint(1, attempts)):
            steps.append(("repair", chance.lognormvariate(-0.2, 0.7)))
            steps.append(("run", chance.lognormvariate(-0.9, 0.5)))
        loops.append(Loop(name=f"l{number}", tenant=f"t{number % 3}", steps=tuple(steps)))
    return loops


def simulate(loops: list[Loop], replicas: int) -> tuple[float, int, float]:
    """Makespan in simulated seconds, the scheduler's transitions and its CPU seconds."""
    group = GroupInfo(name="all", roles=ROLES, min_replicas=replicas, max_replicas=replicas)
    scheduler = Scheduler(groups=[group])
    by_name = {loop.name: loop for loop in loops}
    running: list[tuple[float, str, int, int]] = []
    transitions, now, began = 0, 0.0, time.process_time()

    def carry_out(made: Decisions) -> None:
        nonlocal transitions
        transitions += 1
        for lease in made.granted:
            name, index = lease.dispatch_id.split("/")
            seconds = by_name[name].steps[int(index)][1]
            heapq.heappush(running, (now + seconds, name, int(index), lease.epoch))

    def ask(loop: Loop, index: int) -> None:
        request = LeaseRequest(
            dispatch_id=f"{loop.name}/{index}",
            run_id=loop.name,
            step=f"{loop.steps[index][0]}{index}",
            role=loop.steps[index][0],
            tenant=loop.tenant,
            affinity=loop.name,
        )
        carry_out(scheduler.request(request, now))

    for number in range(replicas):
        info = ReplicaInfo(name=f"all-{number:02d}", group="all", roles=ROLES)
        carry_out(scheduler.replica_joined(info, now))
    for loop in loops:
        ask(loop, 0)
    while running:
        now, name, index, epoch = heapq.heappop(running)
        carry_out(scheduler.release(f"{name}/{index}", epoch, now))
        if index + 1 < len(by_name[name].steps):
            ask(by_name[name], index + 1)
    return now, transitions, time.process_time() - began


def main() -> None:
    """Print one row per seed and the medians, or one flat JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--loops", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=20)
    parser.add_argument("--attempts", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = []
    for seed in range(given.seed, given.seed + given.seeds):
        loops = seeded_loops(given.loops, seed, given.attempts)
        makespan, transitions, cpu_s = simulate(loops, given.replicas)
        total, longest = sum(loop.length_s for loop in loops), max(loop.length_s for loop in loops)
        bound = max(total / given.replicas, longest)
        rows.append(
            (seed, total / len(loops), longest, bound, makespan, makespan / bound, transitions, cpu_s)
        )
    ratios = [row[5] for row in rows]
    if not given.json:
        print(f"{'seed':>4} {'mean s':>7} {'longest s':>9} {'bound s':>8} {'makespan s':>10} {'ratio':>6}")
        for row in rows:
            print(f"{row[0]:4d} {row[1]:7.2f} {row[2]:9.2f} {row[3]:8.2f} {row[4]:10.2f} {row[5]:6.3f}")
    figures = {
        "makespan_ratio": round(statistics.median(ratios), 4),
        "makespan_ratio_worst": round(max(ratios), 4),
        "loops": given.loops,
        "replicas": given.replicas,
        "attempts_max": given.attempts,
        "first_seed": given.seed,
        "seeds": given.seeds,
        "mean_loop_s": round(statistics.mean(row[1] for row in rows), 3),
        "scheduler_us_per_transition": round(1e6 * sum(r[7] for r in rows) / sum(r[6] for r in rows), 1),
    }
    if given.json:
        print(json.dumps(figures))
    else:
        print(*(f"{name:32} {value}" for name, value in figures.items()), sep="\n")


if __name__ == "__main__":
    main()
