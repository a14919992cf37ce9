"""Every overlay builds, and what it builds is what KubeRay accepts."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kuberay_rules import faults
from manifests import BUILDS, K8S, ROOT, built, cluster_spec, groups, of_kind, ray_container, the_cluster

VALIDATOR = ROOT.parent / "shared" / "tools" / "validate_kuberay.py"
KINDS = {"cluster": "RayCluster", "batch": "RayJob"}


def validated(folder: Path, documents: list[Any]) -> subprocess.CompletedProcess[str]:
    if not VALIDATOR.exists():
        pytest.skip("KubeRay's schemas are not beside this repository (../shared)")
    file = folder / "documents.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    return subprocess.run([sys.executable, VALIDATOR, file], capture_output=True, text=True, timeout=60)


def kustomization(folder: Path, components: list[str]) -> Path:
    """A build of `components` on the base, outside of the repository's tree."""
    paths = {path: os.path.relpath(K8S / path, folder) for path in ("base", *components)}
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [paths["base"]],
        "components": [paths[path] for path in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_all_overlays_of_the_plan_are_there() -> None:
    assert {build.split("/")[1] for build in BUILDS} == {"gke-l4", "l4-small", "local-cpu", "gcs-ft"}


@pytest.mark.parametrize("build", BUILDS)
def test_builds_exactly_one_kuberay_document_of_its_kind(build: str) -> None:
    kinds = [document["kind"] for document in built(build) if cluster_spec(document) is not None]

    assert kinds == [KINDS.get(build.rpartition("/")[2], "RayService")]


@pytest.mark.parametrize("build", BUILDS)
def test_is_valid_by_kuberays_schemas(build: str, tmp_path: Path) -> None:
    done = validated(tmp_path, built(build))

    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("1 KubeRay documents checked")


@pytest.mark.parametrize("build", BUILDS)
def test_is_accepted_by_the_operators_rules(build: str) -> None:
    for document in built(build):
        if cluster_spec(document) is not None:
            assert faults(document) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("minReplica", 3),
        ("rayStartParams.num-cpus", 0),
        ("template.spec.containers.0.ports.0.containerPort", "8080"),
        ("template.spec.containers.0.securityContext.seccompProfil", {"type": "RuntimeDefault"}),
    ],
)
def test_a_typing_error_is_caught_by_the_schemas(path: str, value: object, tmp_path: Path) -> None:
    (cluster,) = copy.deepcopy(of_kind(built("overlays/gke-l4/cluster"), "RayCluster"))
    at = cluster["spec"]["workerGroupSpecs"][2]
    *above, last = path.split(".")
    for part in above:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[last] = value

    done = validated(tmp_path, [cluster])

    assert done.returncode == 1
    assert done.stdout.count("\n") == 2, done.stdout


def test_the_elastic_component_scales_models_by_autoscaler_v2(tmp_path: Path) -> None:
    folder = kustomization(tmp_path, ["overlays/gke-l4/shape", "components/elastic", "doors/service"])

    (service,) = of_kind(built(folder), "RayService")

    assert faults(service) == []
    assert validated(tmp_path, [service]).returncode == 0
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    models = groups(cluster)["models"]
    assert (models.get("replicas"), models["minReplicas"], models["maxReplicas"]) == (None, 10, 16)
    assert cluster["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is True


@pytest.mark.parametrize("site", ["gke-l4", "local-cpu"])
def test_the_weak_runners_component_asks_for_nothing_special_and_says_so(site: str, tmp_path: Path) -> None:
    folder = kustomization(tmp_path, [f"overlays/{site}/shape", "components/weak-runners", "doors/service"])

    pod = groups(the_cluster(folder))["runners"]["template"]["spec"]
    context = pod["containers"][0]["securityContext"]
    (settings,) = (
        document
        for document in of_kind(built(folder), "ConfigMap")
        if document["metadata"]["name"] == "raysmith-settings"
    )

    assert "hostUsers" not in pod
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"procMount", "appArmorProfile"} & set(context)
    assert settings["data"]["RAYSMITH_SANDBOX__MINIMUM"] == "weak"


def test_fault_tolerance_takes_redis_address_and_password_from_a_secret() -> None:
    cluster = the_cluster("overlays/gcs-ft")

    options = cluster["gcsFaultToleranceOptions"]
    variables = ray_container(groups(cluster)["head"])["env"]

    assert options["redisAddress"] == "$(GCS_REDIS_ADDRESS)"
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "raysmith-redis"
    assert [
        v["valueFrom"]["secretKeyRef"]["name"] for v in variables if v["name"] == "GCS_REDIS_ADDRESS"
    ] == ["raysmith-redis"]
