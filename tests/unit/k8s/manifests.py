"""Builds k8s/ with the real kustomize, and finds things in what comes out."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "k8s"
BUILDS = sorted(
    str(file.parent.relative_to(K8S))
    for file in K8S.glob("overlays/**/kustomization.yaml")
    if yaml.safe_load(file.read_text())["kind"] == "Kustomization"
)
L4_BUILDS = [build for build in BUILDS if "local-cpu" not in build]
CONFIG_OF = {"gke-l4": "gke-l4", "gcs-ft": "gke-l4", "l4-small": "l4-small", "local-cpu": "local-cpu"}

Document = dict[str, Any]
# libyaml's where PyYAML has it: ten times faster.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def site(build: str) -> str:
    """`gke-l4` of `overlays/gke-l4/batch`."""
    return build.split("/")[1]


def _text(folder: Path) -> str:
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", str(folder)]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build", str(folder)]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    # Building needs no cluster; /dev/null keeps kubectl from looking for one.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env={"KUBECONFIG": "/dev/null", "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

    return os.environ["PATH"]


@functools.cache
def built(build: str | Path) -> list[Document]:
    """The documents of a folder below k8s/, or of any other; shared, so copy before changing them."""
    return list(yaml.load_all(_text(K8S / build), Loader=_LOADER))


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def cluster_spec(document: Document) -> Document | None:
    """The RayClusterSpec in a KubeRay document, None in others."""
    where = {"RayCluster": (), "RayService": ("rayClusterConfig",), "RayJob": ("rayClusterSpec",)}
    if document["kind"] not in where:
        return None
    found: Document = document["spec"]
    for key in where[document["kind"]]:
        found = found[key]
    return found


def the_cluster(build: str | Path) -> Document:
    """The one RayClusterSpec of a build."""
    (found,) = [spec for document in built(build) if (spec := cluster_spec(document)) is not None]
    return found


def groups(cluster: Document) -> dict[str, Document]:
    """Head and worker groups by name."""
    return {"head": cluster["headGroupSpec"]} | {
        group["groupName"]: group for group in cluster["workerGroupSpecs"]
    }


def pod_specs(build: str | Path) -> Iterator[tuple[str, Document]]:
    """Name and spec of every pod that a build makes."""
    for name, group in groups(the_cluster(build)).items():
        yield name, group["template"]["spec"]
    for document in built(build):
        if document["kind"] in ("DaemonSet", "StatefulSet", "Deployment", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def ray_container(group: Document) -> Document:
    container: Document = group["template"]["spec"]["containers"][0]
    return container


def mebibytes(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


def settings(build: str | Path) -> dict[str, str]:
    """The variables that the factory's pods get from the ConfigMap."""
    (found,) = [
        document["data"]
        for document in of_kind(built(build), "ConfigMap")
        if document["metadata"]["name"] == "raysmith-settings"
    ]
    return dict(found)
