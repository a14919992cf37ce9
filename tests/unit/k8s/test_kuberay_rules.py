"""Each rule of the operator catches a manifest that was broken on purpose."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from kuberay_rules import faults

GROUP = {
    "groupName": "workers",
    "minReplicas": 1,
    "maxReplicas": 2,
    "rayStartParams": {},
    "template": {"spec": {"containers": [{"name": "ray", "env": []}]}},
}
CLUSTER = {
    "rayVersion": "2.60.0",
    "authOptions": {"mode": "token"},
    "headGroupSpec": {
        "rayStartParams": {"num-cpus": "0"},
        "template": {"spec": {"containers": [{"name": "ray", "env": []}]}},
    },
    "workerGroupSpecs": [GROUP],
}
GOOD: dict[str, dict[str, Any]] = {
    "RayCluster": {"kind": "RayCluster", "metadata": {"name": "a"}, "spec": CLUSTER},
    "RayService": {
        "kind": "RayService",
        "metadata": {"name": "a", "annotations": {"ray.io/initializing-timeout": "60m"}},
        "spec": {"upgradeStrategy": {"type": "None"}, "rayClusterConfig": CLUSTER},
    },
    "RayJob": {
        "kind": "RayJob",
        "metadata": {"name": "a"},
        "spec": {
            "submissionMode": "SidecarMode",
            "deletionStrategy": {
                "deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]
            },
            "rayClusterSpec": CLUSTER,
        },
    },
}
HEAD = "headGroupSpec"
HEAD_ENV = f"{HEAD}.template.spec.containers.0.env.+"
WORKER = "workerGroupSpecs.0"
REDIS = {"gcsFaultToleranceOptions": {"redisAddress": "redis:6379"}}
V2 = {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}
RULES = "deletionStrategy.deletionRules"
WORKERS_LATE = {"policy": "DeleteWorkers", "condition": {"jobStatus": "FAILED", "ttlSeconds": 9}}

BROKEN_CLUSTERS: list[tuple[str, dict[str, Any]]] = [
    ("resources in rayStartParams and", {f"{HEAD}.resources": {"CPU": "1"}}),
    ("labels in rayStartParams", {f"{WORKER}.rayStartParams": {"labels": "a=b"}}),
    ("no Kubernetes label", {f"{WORKER}.labels": {"a b": "c"}}),
    ("minReplicas above maxReplicas", {f"{WORKER}.minReplicas": 3}),
    ("replicas outside", {f"{WORKER}.replicas": 3}),
    ("no container", {f"{WORKER}.template.spec.containers": []}),
    ("not the first", {f"{WORKER}.template.spec.containers": [{"name": "side"}, {"name": "ray"}]}),
    ("two worker groups", {"workerGroupSpecs.+": GROUP}),
    ("without enableInTree", {HEAD_ENV: {"name": "RAY_enable_autoscaler_v2", "value": "1"}}),
    ("version and RAY_enable", V2 | {HEAD_ENV: {"name": "RAY_enable_autoscaler_v2", "value": "1"}}),
    ("suspended", V2 | {f"{WORKER}.suspend": True}),
    ("head: autoscaler v2 and a restart", V2 | {f"{HEAD}.template.spec.restartPolicy": "Always"}),
    ("workers: autoscaler v2 and a restart", V2 | {f"{WORKER}.template.spec.restartPolicy": "OnFailure"}),
    ("idleTimeoutSeconds without", {f"{WORKER}.idleTimeoutSeconds": 9}),
    ("priority without", {f"{WORKER}.priority": 9}),
    ("RAY_REDIS_ADDRESS without", {HEAD_ENV: {"name": "RAY_REDIS_ADDRESS", "value": "redis"}}),
    ("the annotation ray.io/ft-enabled", REDIS | {"annotations": {"ray.io/ft-enabled": "true"}}),
    (
        "external-storage-namespace",
        REDIS | {"annotations": {"ray.io/external-storage-namespace": "a"}},
    ),
    ("the variable REDIS_PASSWORD", REDIS | {HEAD_ENV: {"name": "REDIS_PASSWORD", "value": "a"}}),
    ("the variable RAY_REDIS_ADDRESS", REDIS | {HEAD_ENV: {"name": "RAY_REDIS_ADDRESS", "value": "a"}}),
    ("redis-password", REDIS | {f"{HEAD}.rayStartParams.redis-password": "a"}),
    ("redis-username", {f"{HEAD}.rayStartParams.redis-username": "a"}),
    ("from 2.52", {"rayVersion": ""}),
    ("from 2.52", {"rayVersion": "2.51.1"}),
    ("from 2.55", {"rayVersion": "2.54.0", "authOptions.enableK8sTokenAuth": True}),
]
BROKEN_SERVICES: list[tuple[str, dict[str, Any]]] = [
    ("headService", {f"rayClusterConfig.{HEAD}.headService": {"metadata": {"name": "a"}}}),
    ("upgradeStrategy.type", {"upgradeStrategy.type": "Rolling"}),
    ("without an autoscaler", {"upgradeStrategy.type": "NewClusterWithIncrementalUpgrade"}),
    ("gatewayClassName", {"upgradeStrategy.type": "NewClusterWithIncrementalUpgrade"}),
    ("intervalSeconds", {"upgradeStrategy.type": "NewClusterWithIncrementalUpgrade"}),
    ("stepSizePercent", {"upgradeStrategy.type": "NewClusterWithIncrementalUpgrade"}),
    ("DeletionDelay", {"rayClusterDeletionDelaySeconds": -1}),
    ("initializing-timeout", {"annotations": {"ray.io/initializing-timeout": "soon"}}),
    ("initializing-timeout", {"annotations": {"ray.io/initializing-timeout": "0"}}),
    ("enableK8sTokenAuth in", {"rayClusterConfig.authOptions.enableK8sTokenAuth": True}),
    ("no container", {f"rayClusterConfig.{WORKER}.template.spec.containers": []}),
]
BROKEN_JOBS: list[tuple[str, dict[str, Any]]] = [
    ("neither", {"rayClusterSpec": None}),
    ("SidecarMode with clusterSelector", {"clusterSelector": {"ray.io/cluster": "a"}}),
    ("DeleteCluster with clusterSelector", {"clusterSelector": {"ray.io/cluster": "a"}}),
    ("backoffLimit", {"clusterSelector": {"ray.io/cluster": "a"}, "backoffLimit": 1}),
    ("backoffLimit", {"backoffLimit": -1}),
    ("backoffLimit", {"backoffLimit": 1, "submissionMode": "InteractiveMode"}),
    ("submitterPodTemplate", {"submitterPodTemplate": {}}),
    ("submitterConfig", {"submitterConfig": {}}),
    ("SidecarMode and a head", {f"rayClusterSpec.{HEAD}.template.spec.restartPolicy": "Always"}),
    ("suspend needs", {"suspend": True}),
    ("ttlSecondsAfterFinished", {"ttlSecondsAfterFinished": 9}),
    ("deletionRules with shutdown", {"shutdownAfterJobFinishes": True}),
    ("activeDeadlineSeconds", {"activeDeadlineSeconds": 0}),
    ("deletionStrategy needs", {"deletionStrategy": {}}),
    ("deletionStrategy needs", {"deletionStrategy": {"onSuccess": {"policy": "DeleteSelf"}}}),
    ("two rules", {f"{RULES}.+": {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}}),
    ("one of jobStatus", {f"{RULES}.+": {"policy": "DeleteSelf", "condition": {}}}),
    ("workers go before", {f"{RULES}.+": WORKERS_LATE}),
    (
        "DeleteWorkers with an autoscaler",
        {f"{RULES}.+": WORKERS_LATE, "rayClusterSpec.enableInTreeAutoscaling": True},
    ),
    ("enableK8sTokenAuth in", {"rayClusterSpec.authOptions.enableK8sTokenAuth": True}),
    ("from 2.52", {"rayClusterSpec.rayVersion": "2.9.0"}),
]


def broken(kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    document = copy.deepcopy(GOOD[kind])
    for path, value in changes.items():
        if path == "annotations":
            document["metadata"]["annotations"] = value
            continue
        at: Any = document["spec"]
        *above, last = path.split(".")
        for part in above:
            at = at[int(part)] if isinstance(at, list) else at[part]
        if last == "+":
            at.append(value)
        else:
            at[last] = value
    return document


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_manifest_has_no_faults(kind: str) -> None:
    assert faults(GOOD[kind]) == []


@pytest.mark.parametrize(
    ("kind", "told", "changes"),
    [
        *(("RayCluster", *case) for case in BROKEN_CLUSTERS),
        *(("RayService", *case) for case in BROKEN_SERVICES),
        *(("RayJob", *case) for case in BROKEN_JOBS),
    ],
)
def test_a_broken_manifest_is_told(kind: str, told: str, changes: dict[str, Any]) -> None:
    found = faults(broken(kind, changes))

    assert any(told in fault for fault in found), found


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("RayCluster", "a" * 54),
        ("RayService", "a" * 48),
        ("RayJob", "a" * 48),
        ("RayJob", "1a"),
        ("RayJob", "A"),
    ],
)
def test_a_name_kubernetes_cannot_build_on_is_told(kind: str, name: str) -> None:
    document = copy.deepcopy(GOOD[kind])
    document["metadata"]["name"] = name

    assert any("name" in fault for fault in faults(document))


@pytest.mark.parametrize("length", [("RayCluster", 53), ("RayService", 47), ("RayJob", 47)])
def test_the_longest_name_is_good(length: tuple[str, int]) -> None:
    document = copy.deepcopy(GOOD[length[0]])
    document["metadata"]["name"] = "a" * length[1]

    assert faults(document) == []
