from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.fleet import (
    ReplicaGroup,
    actor_options,
    check_fleet,
    fingerprint,
    group_of,
    pending_reason,
    replica_name,
)
from orchestrator.errors import TaskError

GROUP = ReplicaGroup(
    name="l4", roles=("code", "repair"), num_gpus=1, labels={"ray.io/accelerator-type": "L4"}, max_replicas=16
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "L4 nodes"),
        ("roles", ()),
        ("roles", ("code", "code")),
        ("min_replicas", -1),
        ("max_replicas", 0),
        ("num_cpus", -1.0),
        ("num_gpus", 1.5),
        ("memory_mib", -1),
        ("max_in_flight", 0),
        ("idle_timeout_s", -1.0),
    ],
)
def test_a_wrong_field_is_named_by_its_path(field: str, value: object) -> None:
    with pytest.raises(TaskError, match=rf"`fleet\..*\.{field}` is "):
        replace(GROUP, **{field: value})  # type: ignore[arg-type]


def test_max_is_at_least_min() -> None:
    with pytest.raises(TaskError, match="max_replicas"):
        ReplicaGroup(name="w", roles=("run",), min_replicas=3, max_replicas=2)


def test_groups_may_not_share_a_name() -> None:
    with pytest.raises(TaskError, match=r"fleet\.l4\.name"):
        check_fleet([GROUP, replace(GROUP, roles=("test",))])


def test_replicas_are_called_after_the_first_role() -> None:
    assert replica_name(GROUP, set()) == "code-01"
    assert replica_name(GROUP, {"code-01", "code-03"}) == "code-02"
    assert replica_name(GROUP, {f"code-{n:02d}" for n in range(1, 100)}) == "code-100"


def test_a_replicas_name_tells_its_group() -> None:
    assert group_of("code-07", [GROUP]) is GROUP
    assert group_of("repair-07", [GROUP]) is None
    assert group_of("scheduler", [GROUP]) is None


def test_bounds_do_not_change_what_a_replica_is_made_from() -> None:
    print_of = fingerprint(GROUP, "m:f", {"a": 1}, "v1")

    assert fingerprint(replace(GROUP, max_replicas=10, idle_timeout_s=1), "m:f", {"a": 1}, "v1") == print_of
    assert fingerprint(replace(GROUP, env={"A": "1"}), "m:f", {"a": 1}, "v1") != print_of
    assert fingerprint(GROUP, "m:f", {"a": 2}, "v1") != print_of
    assert fingerprint(GROUP, "m:f", {"a": 1}, "v2") != print_of


def test_options_are_in_rays_words() -> None:
    options = actor_options(replace(GROUP, memory_mib=1024, env={"A": "1"}), "code-01", "factory")

    assert options["label_selector"] == {"ray.io/accelerator-type": "L4"}
    assert options["num_gpus"] == 1
    assert options["memory"] == 2**30
    assert options["runtime_env"] == {"env_vars": {"A": "1"}}
    assert options["max_restarts"] == 0


def node(labels: dict[str, str] | None = None, **resources: float) -> dict[str, object]:
    return {"Alive": True, "Labels": labels or {}, "Resources": resources}


L4 = {"ray.io/accelerator-type": "L4"}


@pytest.mark.parametrize(
    ("nodes", "free", "reason"),
    [
        ([node(CPU=8, GPU=1)], {}, "pending: no node with label ray.io/accelerator-type=L4"),
        ([node(L4, CPU=8)], {}, "pending: no node with 1 GPU (the largest has 0 GPU)"),
        ([node(L4, CPU=8, GPU=1)], {"CPU": 8, "GPU": 0}, "pending: 1 GPU needed, 0 GPU free"),
        ([node(L4, CPU=8, GPU=1)], {"CPU": 8, "GPU": 1}, "pending: its process is starting"),
        ([{**node(L4, CPU=8, GPU=1), "Alive": False}], {}, "pending: no node with label"),
    ],
)
def test_pending_says_what_is_missing(
    nodes: list[dict[str, object]], free: dict[str, float], reason: str
) -> None:
    assert pending_reason(GROUP, nodes, free).startswith(reason)


@pytest.mark.parametrize(("selector", "fits"), [("in(T4, L4)", True), ("!L4", False), ("!T4", True)])
def test_label_selectors_are_rays(selector: str, fits: bool) -> None:
    group = replace(GROUP, labels={"ray.io/accelerator-type": selector})

    reason = pending_reason(group, [node(L4, CPU=1, GPU=1)], {"CPU": 1, "GPU": 1})

    assert ("no node with label" not in reason) is fits
