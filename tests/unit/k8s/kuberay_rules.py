"""What KubeRay 1.7 refuses although its schemas admit it.

Source: `ray-operator/controllers/ray/utils/validation.go` of KubeRay, and the CRDs' CEL rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAME_LIMITS = {"RayCluster": 53, "RayService": 47, "RayJob": 47}
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_GO_DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|ms|s|m|h))+")
_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_UPGRADES = ("None", "NewCluster", "NewClusterWithIncrementalUpgrade")


def faults(document: Mapping[str, Any]) -> list[str]:
    """Why the operator would refuse a RayCluster, RayService or RayJob; empty when it would not."""
    kind, metadata, spec = document["kind"], document["metadata"], document["spec"]
    return [*_name(kind, metadata["name"]), *_RULES[kind](spec, metadata.get("annotations") or {})]


def _name(kind: str, name: str) -> Iterator[str]:
    if len(name) > _NAME_LIMITS[kind]:
        yield f"name {name!r} is longer than {_NAME_LIMITS[kind]} characters"
    if not _DNS_1035.fullmatch(name):
        yield f"name {name!r} is not a DNS-1035 label"


def _cluster(spec: Mapping[str, Any], annotations: Mapping[str, str]) -> Iterator[str]:
    head, workers = spec["headGroupSpec"], spec.get("workerGroupSpecs", [])
    for name, group in [("head", head), *((worker["groupName"], worker) for worker in workers)]:
        yield from _group(name, group)
    names = [worker["groupName"] for worker in workers]
    if len(set(names)) < len(names):
        yield "two worker groups have one name"
    yield from _autoscaling(spec, head, workers)
    yield from _fault_tolerance(spec, head, annotations)
    yield from _auth(spec)


def _group(name: str, group: Mapping[str, Any]) -> Iterator[str]:
    parameters, labels = group.get("rayStartParams") or {}, group.get("labels") or {}
    if group.get("resources") and any(parameters.get(key) for key in _RESOURCES):
        yield f"{name}: resources in rayStartParams and in the group"
    if "labels" in parameters:
        yield f"{name}: labels in rayStartParams"
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            yield f"{name}: {key}={value} is no Kubernetes label"
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
    if least > most:
        yield f"{name}: minReplicas above maxReplicas"
    elif name != "head" and not least <= group.get("replicas", least) <= most:
        yield f"{name}: replicas outside of minReplicas and maxReplicas"
    containers = group["template"]["spec"].get("containers", [])
    if not containers:
        yield f"{name}: no container"
    elif any(container["name"].startswith("ray") for container in containers[1:]):
        yield f"{name}: the Ray container is not the first"


def _autoscaling(spec: Mapping[str, Any], head: Mapping[str, Any], workers: list[Any]) -> Iterator[str]:
    is_on = bool(spec.get("enableInTreeAutoscaling"))
    version = (spec.get("autoscalerOptions") or {}).get("version")
    variable = _environment(head).get("RAY_enable_autoscaler_v2")
    is_v2 = is_on and (version == "v2" or variable in ("1", "true"))
    if not is_on and variable in ("1", "true"):
        yield "RAY_enable_autoscaler_v2 without enableInTreeAutoscaling"
    if is_on and version and variable is not None:
        yield "autoscalerOptions.version and RAY_enable_autoscaler_v2"
    for name, group in [("head", head), *((worker["groupName"], worker) for worker in workers)]:
        if is_on and group.get("suspend"):
            yield f"{name}: suspended with an autoscaler"
        if is_v2 and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: autoscaler v2 and a restartPolicy other than Never"
        for key in ("idleTimeoutSeconds", "priority"):
            if key in group and not is_v2:
                yield f"{name}: {key} without autoscaler v2"


def _fault_tolerance(
    spec: Mapping[str, Any], head: Mapping[str, Any], annotations: Mapping[str, str]
) -> Iterator[str]:
    variables, parameters = _environment(head), head.get("rayStartParams") or {}
    if spec.get("gcsFaultToleranceOptions") is None:
        if "RAY_REDIS_ADDRESS" in variables and annotations.get("ray.io/ft-enabled") != "true":
            yield "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
    else:
        for annotation in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
            if annotations.get(annotation):
                yield f"gcsFaultToleranceOptions and the annotation {annotation}"
        for variable in ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS"):
            if variable in variables:
                yield f"gcsFaultToleranceOptions and the variable {variable}"
        if parameters.get("redis-password"):
            yield "gcsFaultToleranceOptions and redis-password in rayStartParams"
    if parameters.get("redis-username") or "REDIS_USERNAME" in variables:
        yield "redis-username outside of gcsFaultToleranceOptions"


def _auth(spec: Mapping[str, Any]) -> Iterator[str]:
    options = spec.get("authOptions") or {}
    for is_wanted, least in (
        (options.get("mode") == "token", (2, 52)),
        (bool(options.get("enableK8sTokenAuth")), (2, 55)),
    ):
        if is_wanted and _version(spec.get("rayVersion", "")) < least:
            yield f"authOptions need a rayVersion from {least[0]}.{least[1]}"


def _service(spec: Mapping[str, Any], annotations: Mapping[str, str]) -> Iterator[str]:
    cluster = spec["rayClusterConfig"]
    yield from _cluster(cluster, annotations)
    yield from _no_kubernetes_tokens(cluster)
    if ((cluster["headGroupSpec"].get("headService") or {}).get("metadata") or {}).get("name"):
        yield "headService.metadata.name is set"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds below 0"
    timeout = annotations.get("ray.io/initializing-timeout", "1")
    if not (_GO_DURATION.fullmatch(timeout) or timeout.isdigit()) or not re.search("[1-9]", timeout):
        yield f"initializing-timeout {timeout!r} is no duration above 0"
    upgrade = spec.get("upgradeStrategy") or {}
    if upgrade.get("type", "None") not in _UPGRADES:
        yield f"upgradeStrategy.type {upgrade['type']!r} is none of {', '.join(_UPGRADES)}"
    if upgrade.get("type") == "NewClusterWithIncrementalUpgrade":
        yield from _incremental(cluster, upgrade.get("clusterUpgradeOptions") or {})


def _incremental(cluster: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[str]:
    if not cluster.get("enableInTreeAutoscaling"):
        yield "incremental upgrade without an autoscaler"
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    if not 0 <= surge <= 100 or not 0 <= step <= surge:
        yield "incremental upgrade: stepSizePercent has to be from 0 to maxSurgePercent, that up to 100"
    if options.get("intervalSeconds", 0) <= 0:
        yield "incremental upgrade: intervalSeconds has to be above 0"
    if not options.get("gatewayClassName"):
        yield "incremental upgrade without gatewayClassName"


def _no_kubernetes_tokens(cluster: Mapping[str, Any]) -> Iterator[str]:
    if (cluster.get("authOptions") or {}).get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth in a RayService or RayJob"


def _job(spec: Mapping[str, Any], annotations: Mapping[str, str]) -> Iterator[str]:
    cluster, selector = spec.get("rayClusterSpec"), spec.get("clusterSelector")
    mode, strategy = spec.get("submissionMode", "K8sJobMode"), spec.get("deletionStrategy")
    shuts_down = bool(spec.get("shutdownAfterJobFinishes"))
    if cluster is None and not selector:
        yield "neither rayClusterSpec nor clusterSelector"
    if cluster is not None:
        yield from _cluster(cluster, annotations)
        yield from _no_kubernetes_tokens(cluster)
    if spec.get("suspend") and (not shuts_down or selector):
        yield "suspend needs shutdownAfterJobFinishes and no clusterSelector"
    if spec.get("ttlSecondsAfterFinished", 0) and not shuts_down:
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "activeDeadlineSeconds has to be above 0"
    retries = spec.get("backoffLimit", 0)
    if retries < 0 or (retries and (mode == "InteractiveMode" or selector)):
        yield "backoffLimit below 0, or above with InteractiveMode or clusterSelector"
    if mode == "SidecarMode":
        yield from _sidecar(spec, cluster, selector)
    if strategy is not None:
        yield from _deletion(strategy, shuts_down, selector, cluster or {})


def _sidecar(spec: Mapping[str, Any], cluster: Any, selector: Any) -> Iterator[str]:
    if selector:
        yield "SidecarMode with clusterSelector"
    for key in ("submitterPodTemplate", "submitterConfig"):
        if spec.get(key) is not None:
            yield f"SidecarMode with {key}"
    restart = ((cluster or {}).get("headGroupSpec") or {}).get("template", {}).get("spec", {})
    if restart.get("restartPolicy", "Never") != "Never":
        yield "SidecarMode and a head with a restartPolicy other than Never"


def _deletion(
    strategy: Mapping[str, Any], shuts_down: bool, selector: Any, cluster: Mapping[str, Any]
) -> Iterator[str]:
    rules, legacy = strategy.get("deletionRules"), [strategy.get("onSuccess"), strategy.get("onFailure")]
    if bool(rules) == any(legacy) or (any(legacy) and not all(legacy)):
        yield "deletionStrategy needs deletionRules, or both onSuccess and onFailure"
    if rules and shuts_down:
        yield "deletionRules with shutdownAfterJobFinishes"
    seen: dict[Any, dict[str, int]] = {}
    for rule in rules or []:
        policy, condition = rule["policy"], rule["condition"]
        status = condition.get("jobStatus") or condition.get("jobDeploymentStatus")
        if ("jobStatus" in condition) == ("jobDeploymentStatus" in condition):
            yield "a deletion rule needs one of jobStatus and jobDeploymentStatus"
        if selector and policy in ("DeleteCluster", "DeleteWorkers"):
            yield f"{policy} with clusterSelector"
        if policy == "DeleteWorkers" and cluster.get("enableInTreeAutoscaling"):
            yield "DeleteWorkers with an autoscaler"
        times = seen.setdefault(status, {})
        if policy in times:
            yield f"two rules {policy} for {status}"
        times[policy] = condition.get("ttlSeconds", 0)
    for status, times in seen.items():
        order = [times[key] for key in ("DeleteWorkers", "DeleteCluster", "DeleteSelf") if key in times]
        if order != sorted(order):
            yield f"{status}: workers go before the cluster, and that before the job"


def _environment(group: Mapping[str, Any]) -> dict[str, str]:
    containers = group["template"]["spec"].get("containers") or [{}]
    return {each["name"]: each.get("value", "") for each in containers[0].get("env") or []}


def _version(text: str) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


_RULES = {"RayCluster": _cluster, "RayService": _service, "RayJob": _job}
