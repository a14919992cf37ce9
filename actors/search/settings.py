"""How the search repairer spends its budget."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Settings of the search repairer; the defaults suit small packages.

    Attributes:
        ochiai_power: Exponent of a line's suspiciousness in a candidate's rank.
        depth_decay: How fast later proposals of one operator at one place lose rank.
        import_discount: Factor on the rank of candidates that take a fresh import of the task.
        import_decay: How much later each such candidate comes for every one that was given before.
        request_size: Candidates sent to the worker in one call.
        request_cpu_s: CPU seconds that one call may use.
        batch: Candidates that share one forked process at most while they are only tried.
        time_factor: How many times its time on the base a test may take under a candidate.
        time_floor_s: CPU seconds that a candidate has in any case.
        turns: Turns of loops that a test may take beyond `time_factor` times those it takes on the base.
        retry_factor: How many times longer a candidate that timed out has on its second try.
        window: Candidates tried after the first complete repair, to compare it with others.
        partial_window: Candidates tried after the last newly repaired test, while some still fail.
        max_kept: Plausible candidates compared at most.
        slice: Candidates tried on one tree, per cluster of failing tests, before another one has its turn.
        slice_per_cpu_s: The same per CPU second of the request's budget, where that is less.
        doubt_per_cpu_s: Candidates per CPU second of the budget after which a doubtful repair is good enough.
        children: Partial repairs of one tree that the search goes on from.
        pair_seeds: Partly promising candidates that are combined with a second edit.
        pair_partners: Second edits tried per seed.
        runners: Runners that one search uses at most, where more than one are free.
        max_sessions: Sandboxes opened in one repair, the first included.
        max_traced_passing: Passing tests whose lines are traced.
        base_timeout_s: CPU seconds a test may take on the base before it counts as hanging.
    """

    ochiai_power: float = 1.5
    depth_decay: float = 0.06
    import_discount: float = 0.3
    import_decay: float = 0.3
    request_size: int = 96
    request_cpu_s: float = 2.0
    batch: int = 96
    time_factor: float = 10.0
    time_floor_s: float = 0.05
    turns: int = 4_000
    retry_factor: float = 10.0
    window: int = 400
    partial_window: int = 400
    max_kept: int = 12
    slice: int = 1_200
    slice_per_cpu_s: float = 40.0
    doubt_per_cpu_s: float = 200.0
    children: int = 4
    pair_seeds: int = 24
    pair_partners: int = 400
    runners: int = 2
    max_sessions: int = 5
    max_traced_passing: int = 200
    base_timeout_s: float = 2.0
