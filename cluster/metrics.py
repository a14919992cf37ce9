"""Numbers over time, through Ray's metrics: what the event log counts, and what the fleet is doing now.

Names start with `raysmith_`; Ray exports them as `ray_raysmith_…`. No tag carries a run, a task or a replica,
and only tenants that the configuration names are told apart.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from cluster.event_log import EventLog
from cluster.event_log_memory import MemoryEventLog
from cluster.event_log_usage import Spent
from orchestrator.errors import RaysmithError
from orchestrator.events import Event, Kind, Status, usage_of
from orchestrator.steps import Role, Usage

log = structlog.get_logger()

# Ray lets a gauge vanish 20 to 30 s after it was last set.
EVERY_S = 2.0
SAVE_EVERY_S = 60.0
_READ = 1000
_TOTALS = "metrics.totals"
DURATIONS_S = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0)
REASONS = frozenset(
    {
        "certified",
        "already_passing",
        "attempts_exhausted",
        "budget_exhausted",
        "stuck",
        "integrity_alarm",
        "no_candidate",
        "not_certified",
        "tests_failed",
        "flaky",
        "quarantined",
        "bad_input",
        "environment",
        "sandbox",
        "no_model",
        "engine",
        "store",
        "agent",
        "error",
        "cancelled_by_user",
    }
)
STATES = ("starting", "idle", "busy", "draining", "stopping")
ENGINES = frozenset({"recorded", "openai", "vllm"})
_ENDS = {
    Kind.STEP_COMPLETED: "completed",
    Kind.STEP_FAILED: "failed",
    Kind.STEP_REQUEUED: "requeued",
}
_ROLES_OF_STEPS = {"profile": Role.RUN, "judge": Role.RUN, "certify": Role.RUN}
# A metric and the values of its tags, in the order of the tags.
Series = tuple[str, tuple[str, ...]]

# Every metric's tags and its one line of help.
COUNTERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "raysmith_events": (("type",), "Events committed to the log."),
    "raysmith_runs_submitted": ((), "Runs accepted."),
    "raysmith_runs_finished": (("status", "reason"), "Ends of runs; one that is taken up again ends again."),
    "raysmith_attempts": ((), "Passes of the repair loop begun."),
    "raysmith_steps": (("role", "outcome"), "Steps that ended, or were requeued."),
    "raysmith_verdicts": (("certified",), "Verdicts, by whether they are a certificate."),
    "raysmith_candidates": ((), "Candidates tried by runs that ended."),
    "raysmith_engine_calls": (("kind", "role", "outcome"), "Requests to engines, by how they ended."),
    "raysmith_engine_retries": (("kind",), "Requests that an engine sent again."),
    "raysmith_engine_tokens": (
        ("kind", "of"),
        "Tokens of engines; cached ones are among those of the prompt.",
    ),
    "raysmith_engine_gpu_seconds": (("kind",), "GPU seconds of engines."),
    "raysmith_engine_cost_usd": (("kind",), "Dollars that engines cost."),
}
LOG_GAUGES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "raysmith_log_runs": (("status", "reason"), "Runs in the log, as they stand now."),
    "raysmith_log_attempts": ((), "Passes of the repair loop in the whole log."),
    "raysmith_log_steps": (("role", "outcome"), "Steps that ended, or were requeued, in the whole log."),
    "raysmith_log_verdicts": (("certified",), "Verdicts in the whole log."),
    "raysmith_log_candidates": ((), "Candidates tried by runs that ended, in the whole log."),
    "raysmith_log_tenant_tokens": (
        ("tenant", "of"),
        "Tokens of engines in the whole log; cached ones are among those of the prompt.",
    ),
    "raysmith_log_tenant_gpu_seconds": (("tenant",), "GPU seconds of engines in the whole log."),
    "raysmith_log_tenant_cost_usd": (("tenant",), "Dollars that engines cost in the whole log."),
}
FLEET_GAUGES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "raysmith_queue_length": (("role",), "Requests that wait for a lease."),
    "raysmith_leases": (("role",), "Leases in flight."),
    "raysmith_replicas": (("group", "state"), "Replicas, by what they are doing."),
    "raysmith_replicas_wanted": (("group",), "Replicas that the group should have."),
}
FLEET_COUNTERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "raysmith_replicas_lost": (("group",), "Replicas that died while they were wanted."),
}
DURATION = "raysmith_run_duration_seconds"


class Sink(Protocol):
    """Where numbers go: Ray's metrics, or a test's dictionary."""

    def add(self, name: str, tags: Mapping[str, str], value: float) -> None:
        """Count `value`, above 0, more."""
        ...

    def set(self, name: str, tags: Mapping[str, str], value: float) -> None:
        """It is `value` now."""
        ...

    def observe(self, name: str, tags: Mapping[str, str], value: float) -> None:
        """One more was `value`."""
        ...


class RaySink:
    """Implements `Sink` on `ray.util.metrics`, in a process that Ray knows."""

    def __init__(self) -> None:
        from ray.util import metrics

        counters, gauges = {**COUNTERS, **FLEET_COUNTERS}, {**LOG_GAUGES, **FLEET_GAUGES}
        self._counters = {
            name: metrics.Counter(name, help_, tag_keys=tags) for name, (tags, help_) in counters.items()
        }
        self._gauges = {
            name: metrics.Gauge(name, help_, tag_keys=tags) for name, (tags, help_) in gauges.items()
        }
        self._duration = metrics.Histogram(
            DURATION, "Wall seconds that runs were worked on.", list(DURATIONS_S), ("status",)
        )

    def add(self, name: str, tags: Mapping[str, str], value: float) -> None:
        self._counters[name].inc(value, tags=dict(tags))

    def set(self, name: str, tags: Mapping[str, str], value: float) -> None:
        self._gauges[name].set(value, tags=dict(tags))

    def observe(self, name: str, tags: Mapping[str, str], value: float) -> None:
        assert name == DURATION
        self._duration.observe(value, tags=dict(tags))


def counted(event: Event) -> Iterable[tuple[Series, float]]:
    """What an event adds to which counters."""
    kind, data = event.type, event.data
    known = str(kind) if kind in set(Kind) else "unknown"
    yield ("raysmith_events", (known,)), 1
    if kind == Kind.RUN_SUBMITTED:
        yield ("raysmith_runs_submitted", ()), 1
    elif kind == Kind.ATTEMPT_STARTED:
        yield ("raysmith_attempts", ()), 1
    elif kind in _ENDS:
        yield ("raysmith_steps", (role_of(event.step or ""), _ENDS[kind])), 1
    elif kind == Kind.ENGINE_CALLED:
        yield from _called(data)
    elif kind == Kind.VERDICT_REACHED:
        yield ("raysmith_verdicts", (_is_certified(data.get("verdict")),)), 1
    elif kind == Kind.RUN_FINISHED:
        yield ("raysmith_runs_finished", (str(data["status"]), bounded(data["reason"]))), 1
        if (tried := data.get("candidates")) and type(tried) is int and tried > 0:
            yield ("raysmith_candidates", ()), tried


def _called(data: Mapping[str, Any]) -> Iterable[tuple[Series, float]]:
    usage = usage_of(data)
    kind = str(data.get("kind")) if data.get("kind") in ENGINES else "other"
    role = str(data.get("role")) if data.get("role") in set(Role) else "other"
    outcome = "replied" if not data.get("error") else "failed"
    if data.get("error") == "cancelled":
        outcome = "cancelled"
    elif data.get("finish_reason") == "repetition":
        outcome = "repetition"
    yield ("raysmith_engine_calls", (kind, role, outcome)), 1
    amounts: list[tuple[Series, float]] = [
        (("raysmith_engine_retries", (kind,)), usage.retries),
        (("raysmith_engine_tokens", (kind, "prompt")), usage.prompt),
        (("raysmith_engine_tokens", (kind, "completion")), usage.completion),
        (("raysmith_engine_tokens", (kind, "cached")), usage.cached),
        (("raysmith_engine_gpu_seconds", (kind,)), usage.gpu_s),
        (("raysmith_engine_cost_usd", (kind,)), usage.cost_usd),
    ]
    yield from ((series, amount) for series, amount in amounts if amount > 0)


def role_of(step: str) -> str:
    """The role that does a step of this name; `other` for steps of graphs that nobody foresaw."""
    first = step.partition("-")[0]
    role = _ROLES_OF_STEPS.get(first, first)
    return str(role) if role in set(Role) else "other"


def bounded(reason: Any) -> str:
    """A reason as a tag: one of those known, or `other`."""
    return reason if isinstance(reason, str) and reason in REASONS else "other"


def _is_certified(verdict: Any) -> str:
    return "yes" if isinstance(verdict, Mapping) and verdict.get("certified") is True else "no"


class LogMetrics:
    """Counts the log from its feed: what is new as counters, and everything in it as gauges.

    A counter starts at 0 with every process and counts what was committed since; a gauge holds the
    same for the whole log, so it is exact over restarts. Totals are saved now and then, with the
    position that they reach to, so that a restart reads little.
    """

    def __init__(
        self, event_log: EventLog | MemoryEventLog, sink: Sink, *, tenants: Iterable[str] = ()
    ) -> None:
        """Count `event_log` into `sink`; costs of other than `tenants` are told as one."""
        self._log = event_log
        self._sink = sink
        self._tenants = frozenset(tenants)
        self._costs: Mapping[str, Usage] | None = None
        self._totals: dict[Series, float] = defaultdict(float)
        # Rules look at what is unfinished; no series and none are not the same.
        self._runs = {(str(status), "") for status in Status if not status.is_finished}
        self._position = 0
        self._born = 0
        self._saved = 0

    async def run(self) -> None:
        """Count, for ever. Trouble with the store is waited out."""
        loop = asyncio.get_running_loop()
        is_started, saved_at = False, loop.time()
        while True:
            try:
                if not is_started:
                    await self.start()
                    is_started = True
                await self.count()
                if loop.time() - saved_at > SAVE_EVERY_S:
                    await self.save()
                    saved_at = loop.time()
            except (RaysmithError, OSError) as error:
                log.warning("metrics_wait_for_store", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def start(self) -> None:
        """Take up the saved totals; events up to here are in no counter."""
        self._born = await asyncio.to_thread(self._log.end)
        text = await asyncio.to_thread(self._log.meta, _TOTALS)
        if text:
            saved = json.loads(text)
            self._position = self._saved = int(saved["position"])
            self._totals.update({(name, tuple(tags)): value for name, tags, value in saved["totals"]})

    async def count(self) -> None:
        """Count what is new and set every gauge."""
        while True:
            rows = await asyncio.to_thread(self._log.feed, self._position, _READ)
            for position, event in rows:
                self._take(position, event)
            if len(rows) < _READ:
                break
        tally = await asyncio.to_thread(self._log.tally)
        if self._costs is None:
            self._costs = self._by_tenant(await asyncio.to_thread(self._log.usage))
        self._set_all(tally)
        self._set_costs(self._costs)

    async def save(self) -> None:
        """Keep the totals in the store."""
        if self._position == self._saved:
            return
        totals = [[name, list(tags), value] for (name, tags), value in sorted(self._totals.items())]
        await self._log.set_meta(_TOTALS, json.dumps({"position": self._position, "totals": totals}))
        self._saved = self._position

    def _take(self, position: int, event: Event) -> None:
        self._position = position
        if event.type == Kind.ENGINE_CALLED:
            self._costs = None
        is_new = position > self._born
        for series, value in counted(event):
            self._totals[series] += value
            if is_new:
                name, tags = series
                self._sink.add(name, _tags(COUNTERS, name, tags), value)
        if is_new and event.type == Kind.RUN_FINISHED:
            seconds = event.data.get("wall_s")
            if isinstance(seconds, int | float):
                self._sink.observe(DURATION, {"status": str(event.data["status"])}, float(seconds))

    def _set_all(self, tally: Mapping[tuple[Status, str | None], int]) -> None:
        runs: Counter[tuple[str, str]] = Counter()
        for (status, reason), number in tally.items():
            runs[str(status), bounded(reason) if reason is not None else ""] += number
        self._runs.update(runs)
        for stand in self._runs:
            # What was seen once is told for ever: a series that ends would keep its last value.
            self._sink.set("raysmith_log_runs", _tags(LOG_GAUGES, "raysmith_log_runs", stand), runs[stand])
        for (name, tags), value in self._totals.items():
            gauge = name.replace("raysmith_", "raysmith_log_", 1)
            if gauge in LOG_GAUGES and gauge != "raysmith_log_runs":
                self._sink.set(gauge, _tags(LOG_GAUGES, gauge, tags), value)

    def _by_tenant(self, spent: Iterable[Spent]) -> Mapping[str, Usage]:
        costs = dict.fromkeys(self._tenants, Usage())
        for each in spent:
            tenant = each.group["tenant"] if each.group["tenant"] in self._tenants else "other"
            costs[tenant] = costs.get(tenant, Usage()) + each.usage
        return costs

    def _set_costs(self, costs: Mapping[str, Usage]) -> None:
        for tenant, usage in costs.items():
            tags = {"tenant": tenant}
            for of in ("prompt", "completion", "cached"):
                self._sink.set("raysmith_log_tenant_tokens", {**tags, "of": of}, getattr(usage, of))
            self._sink.set("raysmith_log_tenant_gpu_seconds", tags, usage.gpu_s)
            self._sink.set("raysmith_log_tenant_cost_usd", tags, usage.cost_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCounts:
    """What a fleet is doing at one moment."""

    waiting: Mapping[str, int]
    leases: Mapping[str, int]
    replicas: Mapping[tuple[str, str], int]
    wanted: Mapping[str, int]


class FleetMetrics:
    """What the scheduler tells. A role or state without anything is told as 0."""

    def __init__(self, sink: Sink, *, groups: Iterable[str], roles: Iterable[str]) -> None:
        self._sink = sink
        self._groups = tuple(groups)
        self._roles = tuple(sorted(set(roles)))

    def set(self, counts: FleetCounts) -> None:
        """It is so now; to be called every few seconds."""
        for role in self._roles:
            self._sink.set("raysmith_queue_length", {"role": role}, counts.waiting.get(role, 0))
            self._sink.set("raysmith_leases", {"role": role}, counts.leases.get(role, 0))
        for group in self._groups:
            self._sink.set("raysmith_replicas_wanted", {"group": group}, counts.wanted.get(group, 0))
            for state in STATES:
                tags = {"group": group, "state": state}
                self._sink.set("raysmith_replicas", tags, counts.replicas.get((group, state), 0))

    def lost(self, group: str) -> None:
        """A replica died."""
        self._sink.add("raysmith_replicas_lost", {"group": group}, 1)


def _tags(
    metrics: Mapping[str, tuple[tuple[str, ...], str]], name: str, values: tuple[str, ...]
) -> dict[str, str]:
    return dict(zip(metrics[name][0], values, strict=True))
