"""What the log and the fleet are as numbers: exact over restarts, and with tags that stay few."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from event_log_conformance import call

from cluster.event_log_chain import draft, link
from cluster.event_log_memory import MemoryEventLog
from cluster.metrics import (
    COUNTERS,
    DURATION,
    FLEET_COUNTERS,
    FLEET_GAUGES,
    LOG_GAUGES,
    STATES,
    FleetCounts,
    FleetMetrics,
    LogMetrics,
    bounded,
    counted,
    role_of,
)
from orchestrator.events import Kind, NewEvent
from orchestrator.steps import Role

CONFIGS = Path(__file__).parents[3] / "configs"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)"
)


class Numbers:
    """A sink that a test can read."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.observed: list[tuple[str, float]] = []

    def add(self, name: str, tags: Mapping[str, str], value: float) -> None:
        assert value > 0
        self.counters[_named(name, tags)] += value  # type: ignore[assignment]

    def set(self, name: str, tags: Mapping[str, str], value: float) -> None:
        self.gauges[_named(name, tags)] = value

    def observe(self, name: str, tags: Mapping[str, str], value: float) -> None:
        self.observed.append((_named(name, tags), value))


def _named(name: str, tags: Mapping[str, str]) -> str:
    return f"{name}{{{','.join(f'{key}={value}' for key, value in sorted(tags.items()))}}}"


def submitted(run_id: str) -> NewEvent:
    return NewEvent(run_id=run_id, type=Kind.RUN_SUBMITTED, data={"task": {"id": run_id}})


def ended(run_id: str, status: str = "succeeded", reason: str = "certified", **data: Any) -> NewEvent:
    told = {"status": status, "reason": reason, "candidates": 12, "wall_s": 3.5, **data}
    return NewEvent(run_id=run_id, type=Kind.RUN_FINISHED, data=told)


def whole_run(run_id: str) -> list[NewEvent]:
    step = {"run_id": run_id, "attempt": 1}
    return [
        submitted(run_id),
        NewEvent(run_id=run_id, type=Kind.RUN_STARTED),
        NewEvent(run_id=run_id, type=Kind.ATTEMPT_STARTED, attempt=1),
        NewEvent(type=Kind.STEP_REQUEUED, step="repair", **step),
        NewEvent(type=Kind.STEP_COMPLETED, step="repair", **step),
        NewEvent(type=Kind.STEP_COMPLETED, step="certify-0-1", **step),
        NewEvent(type=Kind.STEP_FAILED, step="certify-0-2", **step),
        NewEvent(run_id=run_id, type=Kind.VERDICT_REACHED, data={"verdict": {"certified": True}}),
        ended(run_id),
    ]


async def test_a_run_is_counted_in_every_word() -> None:
    log, numbers = MemoryEventLog(), Numbers()
    metrics = LogMetrics(log, numbers)
    await metrics.start()

    await log.append(whole_run("r-1"))
    await metrics.count()

    assert numbers.counters == {
        "raysmith_events{type=run_submitted}": 1,
        "raysmith_events{type=run_started}": 1,
        "raysmith_events{type=attempt_started}": 1,
        "raysmith_events{type=step_requeued}": 1,
        "raysmith_events{type=step_completed}": 2,
        "raysmith_events{type=step_failed}": 1,
        "raysmith_events{type=verdict_reached}": 1,
        "raysmith_events{type=run_finished}": 1,
        "raysmith_runs_submitted{}": 1,
        "raysmith_runs_finished{reason=certified,status=succeeded}": 1,
        "raysmith_attempts{}": 1,
        "raysmith_steps{outcome=requeued,role=repair}": 1,
        "raysmith_steps{outcome=completed,role=repair}": 1,
        "raysmith_steps{outcome=completed,role=run}": 1,
        "raysmith_steps{outcome=failed,role=run}": 1,
        "raysmith_verdicts{certified=yes}": 1,
        "raysmith_candidates{}": 12,
    }
    assert numbers.gauges == {
        "raysmith_log_runs{reason=,status=pending}": 0,
        "raysmith_log_runs{reason=,status=running}": 0,
        "raysmith_log_runs{reason=certified,status=succeeded}": 1,
        "raysmith_log_attempts{}": 1,
        "raysmith_log_steps{outcome=requeued,role=repair}": 1,
        "raysmith_log_steps{outcome=completed,role=repair}": 1,
        "raysmith_log_steps{outcome=completed,role=run}": 1,
        "raysmith_log_steps{outcome=failed,role=run}": 1,
        "raysmith_log_verdicts{certified=yes}": 1,
        "raysmith_log_candidates{}": 12,
    }
    assert numbers.observed == [(f"{DURATION}{{status=succeeded}}", 3.5)]


@pytest.mark.parametrize("is_saved", [True, False])
async def test_after_a_restart_gauges_tell_all_and_counters_what_is_new(is_saved: bool) -> None:
    log = MemoryEventLog()
    before = LogMetrics(log, Numbers())
    await before.start()
    await log.append(whole_run("r-1"))
    await before.count()
    if is_saved:
        await before.save()
    await log.append(whole_run("r-2"))

    numbers = Numbers()
    after = LogMetrics(log, numbers)
    await after.start()
    await log.append([submitted("r-3"), ended("r-3", "failed", "stuck")])
    await after.count()

    assert numbers.gauges["raysmith_log_attempts{}"] == 2
    assert numbers.gauges["raysmith_log_candidates{}"] == 36
    assert numbers.gauges["raysmith_log_runs{reason=certified,status=succeeded}"] == 2
    assert numbers.gauges["raysmith_log_runs{reason=stuck,status=failed}"] == 1
    assert numbers.counters["raysmith_runs_submitted{}"] == 1
    assert numbers.counters["raysmith_attempts{}"] == 0


async def test_a_state_that_no_run_is_in_any_more_is_told_as_none() -> None:
    log, numbers = MemoryEventLog(), Numbers()
    metrics = LogMetrics(log, numbers)
    await log.append([submitted("r-1")])
    await metrics.count()
    assert numbers.gauges["raysmith_log_runs{reason=,status=pending}"] == 1

    await log.append([ended("r-1")])
    await metrics.count()

    assert numbers.gauges["raysmith_log_runs{reason=,status=pending}"] == 0
    assert numbers.gauges["raysmith_log_runs{reason=certified,status=succeeded}"] == 1


async def test_costs_are_told_of_the_tenants_that_are_named_and_of_the_others_together() -> None:
    log, numbers = MemoryEventLog(), Numbers()
    metrics = LogMetrics(log, numbers, tenants=("web", "idle"))
    await log.append([call("r-1", tenant="web"), call("r-2", tenant="a"), call("r-3", tenant="b")])
    await metrics.count()
    assert numbers.gauges["raysmith_log_tenant_cost_usd{tenant=web}"] == 0.1
    assert numbers.gauges["raysmith_log_tenant_cost_usd{tenant=other}"] == 0.2

    await log.append([call("r-1", tenant="web", gpu_s=2.5)])
    await metrics.count()

    assert numbers.gauges["raysmith_log_tenant_tokens{of=prompt,tenant=web}"] == 20
    assert numbers.gauges["raysmith_log_tenant_gpu_seconds{tenant=web}"] == 2.6
    assert numbers.gauges["raysmith_log_tenant_tokens{of=prompt,tenant=idle}"] == 0
    assert {name for name in numbers.gauges if "tenant=a" in name or "tenant=b" in name} == set()


async def test_tags_stay_few_whatever_the_log_holds() -> None:
    log, numbers = MemoryEventLog(), Numbers()
    metrics = LogMetrics(log, numbers)
    await metrics.start()
    for number in range(200):
        run_id = f"r-{number}"
        await log.append(
            [
                submitted(run_id),
                NewEvent(run_id=run_id, type=Kind.STEP_COMPLETED, step=f"step-{number}"),
                ended(run_id, "failed", f"reason {number}"),
            ]
        )
    await metrics.count()

    names = [*numbers.counters, *numbers.gauges]
    assert len(names) < 15
    assert not any("r-1" in name for name in names)


def test_reasons_and_steps_nobody_foresaw_are_other() -> None:
    assert bounded("quota of r-17 exceeded") == bounded(None) == "other"
    assert [role_of(step) for step in ("profile", "judge-2", "certify-0-1")] == ["run"] * 3
    assert {role_of(str(role)) for role in Role} == {str(role) for role in Role}
    assert role_of("deploy-eu") == "other"


async def test_trouble_with_the_store_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.metrics.EVERY_S", 0.01)
    log, numbers = MemoryEventLog(), Numbers()
    await log.append(whole_run("r-1"))
    feed, failures = log.feed, iter([OSError("disk"), OSError("disk")])

    def broken(after: int, limit: int = 1000) -> Any:
        for failure in failures:
            raise failure
        return feed(after, limit)

    monkeypatch.setattr(log, "feed", broken)
    running = asyncio.create_task(LogMetrics(log, numbers).run())
    while not numbers.gauges:  # noqa: ASYNC110  # nothing tells when
        await asyncio.sleep(0.01)
    running.cancel()

    assert numbers.gauges["raysmith_log_attempts{}"] == 1


def test_the_fleet_tells_every_role_and_state_also_when_there_is_nothing() -> None:
    numbers = Numbers()
    metrics = FleetMetrics(numbers, groups=["runners"], roles=["run", "repair", "run"])

    metrics.set(
        FleetCounts(
            waiting={"run": 3}, leases={"run": 2}, replicas={("runners", "busy"): 2}, wanted={"runners": 2}
        )
    )
    metrics.lost("runners")

    assert numbers.gauges["raysmith_queue_length{role=run}"] == 3
    assert numbers.gauges["raysmith_queue_length{role=repair}"] == 0
    assert numbers.gauges["raysmith_leases{role=run}"] == 2
    assert {
        state: numbers.gauges[f"raysmith_replicas{{group=runners,state={state}}}"] for state in STATES
    } == {
        "starting": 0,
        "idle": 0,
        "busy": 2,
        "draining": 0,
        "stopping": 0,
    }
    assert numbers.counters == {"raysmith_replicas_lost{group=runners}": 1}


def test_no_metric_has_a_tag_that_grows_with_the_work() -> None:
    tags = {
        tag
        for metrics in (COUNTERS, LOG_GAUGES, FLEET_GAUGES, FLEET_COUNTERS)
        for names, _ in metrics.values()
        for tag in names
    }

    few = {"type", "status", "reason", "role", "outcome", "certified", "group", "state", "kind", "of"}
    few |= {"tenant"}  # those that the configuration names, and `other`
    assert tags == few


def test_engine_calls_are_counted_under_few_tags() -> None:
    data = {
        "engine": "http://secret.example/v1#m",
        "kind": "openai",
        "role": "code",
        "error": "engine: down",
        "tokens": {"prompt": 10, "completion": 0, "cached": 4},
        "gpu_s": 0.0,
        "cost_usd": 0.25,
        "requests": 1,
        "retries": 2,
    }
    new = draft(NewEvent(run_id="r-1", type=Kind.ENGINE_CALLED, data=data), 10**6)
    event = link(new, seq=1, at="", prev_hash="").event

    found = {
        _named(name, dict(zip(COUNTERS[name][0], tags, strict=True))): value
        for (name, tags), value in counted(event)
    }

    assert found == {
        "raysmith_events{type=engine_called}": 1,
        "raysmith_engine_calls{kind=openai,outcome=failed,role=code}": 1,
        "raysmith_engine_retries{kind=openai}": 2,
        "raysmith_engine_tokens{kind=openai,of=prompt}": 10,
        "raysmith_engine_tokens{kind=openai,of=cached}": 4,
        "raysmith_engine_cost_usd{kind=openai}": 0.25,
    }


def test_an_endless_reply_is_counted_as_such() -> None:
    tokens = {"prompt": 10, "completion": 600, "cached": 0}
    data = {
        "engine": "vllm:m",
        "kind": "vllm",
        "role": "code",
        "finish_reason": "repetition",
        "tokens": tokens,
    }
    data |= {"gpu_s": 0.0, "cost_usd": 0.0, "requests": 1, "retries": 0}
    new = draft(NewEvent(run_id="r-1", type=Kind.ENGINE_CALLED, data=data), 10**6)

    found = dict(counted(link(new, seq=1, at="", prev_hash="").event))

    assert found["raysmith_engine_calls", ("vllm", "code", "repetition")] == 1


@pytest.mark.parametrize("file", ["prometheus/rules.yml", "grafana/raysmith.json"])
def test_rules_and_dashboard_ask_for_metrics_that_there_are(file: str) -> None:
    exported = {f"ray_{name}_total" for name in (*COUNTERS, *FLEET_COUNTERS)}
    exported |= {f"ray_{name}" for name in (*LOG_GAUGES, *FLEET_GAUGES)}
    exported |= {f"ray_{DURATION}_{part}" for part in ("bucket", "count", "sum")}

    asked = set(re.findall(r"ray_raysmith_\w+", (CONFIGS / file).read_text()))

    assert asked
    assert asked <= exported


def test_there_are_three_alerts_with_a_next_move_each() -> None:
    rules = yaml.safe_load((CONFIGS / "prometheus/rules.yml").read_text())["groups"][0]["rules"]
    alerts = [rule for rule in rules if "alert" in rule]

    assert [rule["alert"] for rule in alerts] == [
        "RaysmithNoProgress",
        "RaysmithReplicasLost",
        "RaysmithCertificates",
    ]
    assert all(rule["annotations"]["next"] and rule["labels"]["severity"] for rule in alerts)


def test_the_scrape_configuration_reads_the_file_that_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    config = yaml.safe_load((CONFIGS / "prometheus/prometheus.yml").read_text())

    (files,) = [
        job["file_sd_configs"][0]["files"] for job in config["scrape_configs"] if "file_sd_configs" in job
    ]
    assert files == [f"/tmp/ray/session_latest/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]


def test_the_dashboard_is_json_with_a_panel_for_every_question() -> None:
    dashboard = json.loads((CONFIGS / "grafana/raysmith.json").read_text())

    assert len(dashboard["panels"]) >= 8
    assert all(panel["targets"][0]["expr"] for panel in dashboard["panels"])


@needs_promtool
@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *words], cwd=CONFIGS / "prometheus", capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
