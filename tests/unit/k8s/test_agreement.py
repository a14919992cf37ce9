"""Manifests, configuration, Dockerfile and pins say the same."""

from __future__ import annotations

import re
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import (
    BUILDS,
    CONFIG_OF,
    K8S,
    L4_BUILDS,
    ROOT,
    built,
    groups,
    mebibytes,
    of_kind,
    pod_specs,
    ray_container,
    settings,
    site,
    the_cluster,
)
from packaging.requirements import Requirement

from cluster.fleet import ReplicaGroup
from serve.config import Config, load

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVE = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())
L4_LABEL = {"ray.io/accelerator-type": "L4"}


def configured(build: str) -> Config:
    return load(ROOT / "configs" / f"{CONFIG_OF[site(build)]}.yaml", environ={}).config


def pods_for(group: ReplicaGroup, build: str) -> list[tuple[str, Any]]:
    """The worker groups whose Ray nodes a replica group may be placed on."""
    return [
        (name, pods)
        for name, pods in groups(the_cluster(build)).items()
        if group.labels.items() <= (pods.get("labels") or {}).items() and int(gpus(pods)) >= group.num_gpus
    ]


def gpus(pods: Any) -> int:
    return int(ray_container(pods)["resources"]["limits"].get("nvidia.com/gpu", 0))


def test_sixteen_cards_carry_fourteen_to_twenty_replicas() -> None:
    fleet = {group.name: group for group in configured("overlays/gke-l4").fleet}
    models, runners = fleet["models"], fleet["runners"]

    assert (models.roles, runners.roles) == (
        ("code", "test", "repair", "plan", "review"),
        ("run",),
    )
    assert (models.min_replicas, models.max_replicas) == (10, 16)
    assert (runners.min_replicas, runners.max_replicas) == (4, 4)
    assert (models.num_gpus, runners.num_gpus) == (1.0, 0.0)
    assert models.labels == L4_LABEL
    assert sum(group.max_replicas * group.num_gpus for group in fleet.values()) == 16
    assert sum(group.min_replicas for group in fleet.values()) == 14
    assert sum(group.max_replicas for group in fleet.values()) == 20


def test_one_or_two_cards_carry_the_small_fleet() -> None:
    fleet = {group.name: group for group in configured("overlays/l4-small").fleet}

    assert (fleet["models"].min_replicas, fleet["models"].max_replicas) == (1, 2)
    assert fleet["runners"].max_replicas == 2


@pytest.mark.parametrize("build", BUILDS)
def test_every_replica_group_has_pods_of_exactly_one_group(build: str) -> None:
    for group in configured(build).fleet:
        assert len(pods_for(group, build)) == 1, group.name


@pytest.mark.parametrize("build", L4_BUILDS)
def test_a_pod_for_every_replica_and_a_card_for_every_engine(build: str) -> None:
    for group in configured(build).fleet:
        ((name, pods),) = pods_for(group, build)

        assert name == group.name
        assert (pods["replicas"], pods["maxReplicas"]) == (group.max_replicas, group.max_replicas)
        assert pods["minReplicas"] == group.min_replicas
        assert gpus(pods) == group.num_gpus


@pytest.mark.parametrize("build", L4_BUILDS)
def test_all_cards_together_are_those_of_the_fleet(build: str) -> None:
    asked = sum(gpus(pods) * pods.get("replicas", 1) for pods in groups(the_cluster(build)).values())

    assert asked == sum(group.num_gpus * group.max_replicas for group in configured(build).fleet)


@pytest.mark.parametrize("build", L4_BUILDS)
def test_a_replica_fills_its_pod_so_that_nothing_else_is_placed_there(build: str) -> None:
    for group in configured(build).fleet:
        ((_, pods),) = pods_for(group, build)

        assert float(ray_container(pods)["resources"]["limits"]["cpu"]) == group.num_cpus


@pytest.mark.parametrize("build", BUILDS)
def test_runners_have_pods_without_a_card_or_an_engine(build: str) -> None:
    for group in configured(build).fleet:
        ((name, pods),) = pods_for(group, build)

        assert (name == "runners") == ("run" in group.roles)
        if "run" in group.roles:
            assert group.roles == ("run",)
            assert group.engine is None
            assert gpus(pods) == 0


@pytest.mark.parametrize("build", BUILDS)
def test_the_head_schedules_nothing_and_has_no_card(build: str) -> None:
    head = groups(the_cluster(build))["head"]

    assert head["rayStartParams"]["num-cpus"] == "0"
    assert gpus(head) == 0


@pytest.mark.parametrize("build", BUILDS)
def test_a_runners_pod_outlasts_and_outweighs_a_test_run(build: str) -> None:
    config, pods = configured(build), groups(the_cluster(build))["runners"]
    object_store = int(pods["rayStartParams"]["object-store-memory"]) // 2**20

    # Ray's own processes were seen at half a gibibyte.
    needed = config.sandbox.memory_mib + object_store + 1024
    assert mebibytes(ray_container(pods)["resources"]["limits"]["memory"]) >= needed
    assert pods["template"]["spec"]["terminationGracePeriodSeconds"] > config.budget.test_timeout_s


@pytest.mark.parametrize("build", BUILDS)
def test_the_settings_of_the_pods_load(build: str) -> None:
    environ = settings(build) | {"RAYSMITH_STORE__URL": "postgresql://raysmith@db/raysmith"}
    inside = Path(environ.pop("RAYSMITH_CONFIG"))

    config = load(ROOT / "configs" / inside.name, environ=environ).config

    assert inside == Path("/etc/raysmith") / f"{CONFIG_OF[site(build)]}.yaml"
    assert "COPY configs/*.yaml /etc/raysmith/" in DOCKERFILE
    assert not config.store.node_local


def test_ray_is_one_version_everywhere() -> None:
    (pin,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    (wanted,) = (Requirement(each) for each in PROJECT["dependencies"] if Requirement(each).name == "ray")

    assert pin in wanted.specifier
    assert re.findall(r"^ARG RAY_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE) == [pin]
    for build in BUILDS:
        assert the_cluster(build)["rayVersion"] == pin


@pytest.mark.parametrize("build", BUILDS)
def test_our_images_carry_our_version_and_rays(build: str) -> None:
    tag = f"{PROJECT['version']}-ray{the_cluster(build)['rayVersion']}"
    images = {
        container["image"]
        for _, pod in pod_specs(build)
        for container in [*pod.get("initContainers", []), *pod["containers"]]
        if container["image"].startswith("raysmith")
    }

    assert images == {f"raysmith:{tag}"} | ({f"raysmith-vllm:{tag}"} if build in L4_BUILDS else set())
    assert f"-t raysmith:{tag} ." in DOCKERFILE
    assert f"-t raysmith-vllm:{tag} ." in DOCKERFILE


@pytest.mark.parametrize("build", BUILDS)
def test_model_workers_alone_carry_vllm(build: str) -> None:
    for name, pods in groups(the_cluster(build)).items():
        assert ray_container(pods)["image"].startswith("raysmith-vllm:") == (name == "models")


@pytest.mark.parametrize("build", [build for build in BUILDS if build.count("/") == 1])
def test_the_service_deploys_what_configs_serve_yaml_says(build: str) -> None:
    (service,) = of_kind(built(build), "RayService")

    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == SERVE


@pytest.mark.parametrize("build", BUILDS)
def test_the_http_port_is_one_number(build: str) -> None:
    config, (application,) = configured(build), SERVE["applications"]
    variables = application["runtime_env"]["env_vars"]
    (door,) = (d for d in of_kind(built(build), "NetworkPolicy") if d["metadata"]["name"] == "door")
    ports = {
        port["containerPort"]
        for name in ("head", "control")
        for port in ray_container(groups(the_cluster(build))[name])["ports"]
        if port["name"] == "serve"
    }

    assert ports == {config.http.port} == {SERVE["http_options"]["port"]}
    assert door["spec"]["ingress"][0]["ports"] == [{"port": config.http.port, "protocol": "TCP"}]
    assert variables["RAYSMITH_HTTP__PORT"] == str(config.http.port)
    assert variables["RAYSMITH_HTTP__HOST"] == config.http.host == SERVE["http_options"]["host"]


def test_ray_serve_accepts_the_configuration() -> None:
    with warnings.catch_warnings():
        # Ray declares its fields in pydantic's old way.
        warnings.simplefilter("ignore")
        from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(SERVE)

    assert [application.import_path for application in schema.applications] == ["serve.app:app"]


def test_the_application_is_where_the_configuration_says() -> None:
    module, _, _ = SERVE["applications"][0]["import_path"].partition(":")
    file = ROOT / f"{module.replace('.', '/')}.py"
    if not file.exists():
        pytest.skip(f"{file.name} is not written yet")

    assert re.search(r"^app\b", file.read_text(), re.MULTILINE)


@pytest.mark.parametrize("build", BUILDS)
def test_ports_of_ray_are_the_same_in_every_pod_and_known_to_ray_start(build: str) -> None:
    from ray.scripts.scripts import start

    known = {option.lstrip("-") for parameter in start.params for option in parameter.opts}
    pods = groups(the_cluster(build))
    shared = {key for key in pods["control"]["rayStartParams"] if key.endswith("port")}

    assert len(shared) == 7
    for group in pods.values():
        assert set(group["rayStartParams"]) <= known
        assert all(group["rayStartParams"][key] == pods["control"]["rayStartParams"][key] for key in shared)


@pytest.mark.parametrize("build", [build for build in BUILDS if build.endswith("/batch")])
def test_the_batch_runs_a_command_that_there_is(build: str) -> None:
    from typer.testing import CliRunner

    from serve.cli import app

    (job,) = of_kind(built(build), "RayJob")
    python, dash_m, module, command, file, out, folder = job["spec"]["entrypoint"].split()
    head = groups(job["spec"]["rayClusterSpec"])["head"]
    mounts = {mount["mountPath"]: mount for mount in ray_container(head)["volumeMounts"]}

    help_ = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})

    assert (python, dash_m, module) == ("python", "-m", "raysmith")
    assert help_.exit_code == 0
    assert out in help_.output
    assert mounts[str(Path(file).parent)]["name"] == "batch"
    assert not mounts[str(Path(folder).parent)].get("readOnly")


def test_what_is_to_fill_in_is_marked() -> None:
    for file in K8S.glob("**/*.yaml"):
        text = file.read_text()
        assert text.count("CHANGE-ME") <= text.count("SITE"), file
