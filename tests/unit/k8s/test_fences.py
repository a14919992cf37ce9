"""What pods may do and whom they reach."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from manifests import BUILDS, L4_BUILDS, built, groups, of_kind, pod_specs, ray_container, the_cluster

TRUSTED = ("head", "control", "models")
# Measured with ss between two nodes of Ray 2.60 that exchanged actor calls and objects.
BOTH_WAYS = (8076, 8077, 10002, 10999)
GCS = 6379
DASHBOARD, CLIENT, SERVE = 8265, 10001, 8000
AGENTS = (8079, 52365)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Kubernetes' label selectors, as far as they are used here."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for wanted in selector.get("matchExpressions", []):
        if wanted["operator"] == "Exists" and wanted["key"] not in labels:
            return False
        if wanted["operator"] == "In" and labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return True


def admits(policies: list[Any], direction: str, me: dict[str, str], other: dict[str, str], port: int) -> bool:
    """Whether policies let `me` talk to (Egress) or be reached by (Ingress) a pod of this namespace."""
    mine = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], me)
    ]
    assert mine, "a pod without a policy would be open"
    peers = "from" if direction == "Ingress" else "to"
    return any(
        any(
            "namespaceSelector" not in p and selects(p.get("podSelector") or {"matchLabels": {"": ""}}, other)
            for p in rule[peers]
        )
        and any(p["port"] <= port <= p.get("endPort", p["port"]) for p in rule["ports"])
        for spec in mine
        for rule in spec.get(direction.lower(), [])
    )


def pod(pool: str) -> dict[str, str]:
    return {"raysmith.io/pool": pool}


def reaches(build: str, source: str, target: str, port: int) -> bool:
    policies = of_kind(built(build), "NetworkPolicy")
    return admits(policies, "Egress", pod(source), pod(target), port) and admits(
        policies, "Ingress", pod(target), pod(source), port
    )


@pytest.mark.parametrize("build", BUILDS)
def test_every_pod_that_is_not_named_is_closed(build: str) -> None:
    policies = of_kind(built(build), "NetworkPolicy")

    (closed,) = (policy for policy in policies if policy["metadata"]["name"] == "closed")
    assert closed["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not any({} in policy["spec"].get(way, []) for policy in policies for way in ("ingress", "egress"))


@pytest.mark.parametrize("build", BUILDS)
def test_ray_crosses_where_it_was_seen_to_cross(build: str) -> None:
    for worker in ("control", "models", "runners"):
        assert reaches(build, worker, "head", GCS)
        for port in BOTH_WAYS:
            assert reaches(build, worker, "head", port)
            assert reaches(build, "head", worker, port)
        for port in AGENTS:
            assert reaches(build, "head", worker, port)
    for port in BOTH_WAYS:
        assert reaches(build, "models", "runners", port)
        assert reaches(build, "runners", "models", port)


@pytest.mark.parametrize("build", BUILDS)
def test_a_runner_reaches_nothing_else(build: str) -> None:
    assert not any(reaches(build, "runners", "runners", port) for port in (GCS, *BOTH_WAYS, *AGENTS))
    for target in TRUSTED:
        for port in (DASHBOARD, CLIENT, SERVE, *AGENTS, 80, 443, 5432, 4443, 8080):
            assert not reaches(build, "runners", target, port), (target, port)
    for target in ("control", "models"):
        assert not reaches(build, "runners", target, GCS)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("pool", ["runners", "models"])
def test_runners_and_models_have_no_way_out_of_the_namespace_but_names(build: str, pool: str) -> None:
    for policy in of_kind(built(build), "NetworkPolicy"):
        if not selects(policy["spec"]["podSelector"], pod(pool)):
            continue
        for rule in policy["spec"].get("egress", []):
            assert rule["to"], policy
            for peer in rule["to"]:
                assert "ipBlock" not in peer
                if "namespaceSelector" in peer:
                    assert policy["metadata"]["name"] == "names"
                    assert {port["port"] for port in rule["ports"]} == {53}


@pytest.mark.parametrize("build", BUILDS)
def test_the_way_out_leads_to_no_private_address(build: str) -> None:
    (outside,) = (p for p in of_kind(built(build), "NetworkPolicy") if p["metadata"]["name"] == "outside")

    world = outside["spec"]["egress"][0]

    assert world["ports"] == [{"port": 443, "protocol": "TCP"}]
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(
        world["to"][0]["ipBlock"]["except"]
    )


@pytest.mark.parametrize("build", BUILDS)
def test_ports_of_the_policies_are_those_that_ray_is_given(build: str) -> None:
    for name, group in groups(the_cluster(build)).items():
        given = group["rayStartParams"]
        assert (int(given["object-manager-port"]), int(given["node-manager-port"])) == BOTH_WAYS[:2]
        assert (int(given["min-worker-port"]), int(given["max-worker-port"])) == BOTH_WAYS[2:]
        assert (int(given["dashboard-agent-grpc-port"]), int(given["dashboard-agent-listen-port"])) == AGENTS
        assert int(given["metrics-export-port"]) == 8080
        if name == "head":
            assert (int(given["port"]), int(given["dashboard-port"])) == (GCS, DASHBOARD)
        assert group["template"]["metadata"]["labels"]["raysmith.io/pool"] == name
        assert group["labels"]["raysmith.io/pool"] == name


@pytest.mark.parametrize("build", BUILDS)
def test_no_secret_is_written_down(build: str) -> None:
    assert of_kind(built(build), "Secret") == []
    for _, spec in pod_specs(build):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            for variable in container.get("env", []):
                is_secret = any(word in variable["name"] for word in ("TOKEN", "PASSWORD", "KEY", "URL"))
                assert not (is_secret and "value" in variable), variable
    for settings in of_kind(built(build), "ConfigMap"):
        assert not any(word in key for key in settings["data"] for word in ("TOKEN", "PASSWORD", "URL"))


@pytest.mark.parametrize("build", BUILDS)
def test_ray_asks_for_its_token(build: str) -> None:
    assert the_cluster(build)["authOptions"] == {"mode": "token", "secretName": "raysmith-ray-token"}


@pytest.mark.parametrize("build", BUILDS)
def test_no_pod_holds_powers_in_kubernetes(build: str) -> None:
    documents = built(build)

    for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
        assert of_kind(documents, kind) == []
    assert len(of_kind(documents, "ServiceAccount")) == 3
    for account in of_kind(documents, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for name, spec in pod_specs(build):
        assert spec["automountServiceAccountToken"] is False, name


@pytest.mark.parametrize("build", BUILDS)
def test_containers_are_locked_down(build: str) -> None:
    for name, spec in pod_specs(build):
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            context = spec["securityContext"] | container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not context.get("privileged")
            if container["name"] != "install":
                assert context["runAsNonRoot"] is True, name


@pytest.mark.parametrize("build", BUILDS)
def test_only_runners_build_sandboxes(build: str) -> None:
    for name, group in groups(the_cluster(build)).items():
        spec, context = group["template"]["spec"], ray_container(group)["securityContext"]
        if name == "runners":
            assert spec["hostUsers"] is False
            assert context["procMount"] == "Unmasked"
            assert context["appArmorProfile"] == {"type": "Unconfined"}
            assert context["seccompProfile"]["localhostProfile"] == "profiles/raysmith-runner.json"
        else:
            assert "hostUsers" not in spec
            assert not {"procMount", "appArmorProfile", "seccompProfile"} & set(context)


@pytest.mark.parametrize("build", BUILDS)
def test_runners_and_models_are_told_no_secret(build: str) -> None:
    for name in set(groups(the_cluster(build))) - {"head", "control"}:
        container = ray_container(groups(the_cluster(build))[name])
        assert "envFrom" not in container
        assert not any("valueFrom" in variable for variable in container["env"])


@pytest.mark.parametrize("build", BUILDS)
def test_process_one_of_every_ray_pod_reaps_and_starts_what_kuberay_generated(build: str) -> None:
    for group in groups(the_cluster(build)).values():
        container = ray_container(group)
        assert container["command"] == ["/usr/bin/tini", "-g", "--", "/bin/bash", "-c", "--"]
        assert "$KUBERAY_GEN_RAY_START_CMD" in container["args"][0]
        assert group["template"]["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] == "true"


@pytest.mark.parametrize("build", BUILDS)
def test_ray_pods_get_what_they_ask_for(build: str) -> None:
    for group in groups(the_cluster(build)).values():
        resources = ray_container(group)["resources"]
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["limits"])


@pytest.mark.parametrize("build", L4_BUILDS)
def test_models_and_runners_go_to_nodes_with_cards_and_runners_see_none(build: str) -> None:
    for name in ("models", "runners"):
        spec = groups(the_cluster(build))[name]["template"]["spec"]
        assert spec["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
        assert spec["tolerations"] == [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in ray_container(
        groups(the_cluster(build))["runners"]
    )["env"]


@pytest.mark.parametrize("build", BUILDS)
def test_disruption_budgets_are_of_the_only_kind_that_fits_kuberays_pods(build: str) -> None:
    budgets = of_kind(built(build), "PodDisruptionBudget")

    assert {each["spec"]["selector"]["matchLabels"]["raysmith.io/pool"] for each in budgets} == {
        "head",
        "control",
    }
    for each in budgets:
        assert isinstance(each["spec"]["minAvailable"], int)
        assert "maxUnavailable" not in each["spec"]


@pytest.mark.parametrize("build", BUILDS)
def test_volumes_that_are_mounted_are_there(build: str) -> None:
    for name, spec in pod_specs(build):
        there = {volume["name"] for volume in spec.get("volumes", [])}
        if name in ("postgres", "artifacts"):
            there.add("data")
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= there


@pytest.mark.parametrize(
    ("name", "change", "port"),
    [
        ("ray-runners", lambda spec: spec["egress"][1]["ports"].append({"port": DASHBOARD}), DASHBOARD),
        ("ray-runners", lambda spec: spec["egress"][0]["ports"].append({"port": 1, "endPort": 65535}), SERVE),
        ("ray-runners", lambda spec: spec.update(podSelector={"matchLabels": pod("models")}), GCS),
    ],
)
def test_the_check_of_policies_sees_a_hole_and_a_gap(name: str, change: Any, port: int) -> None:
    policies = copy.deepcopy(of_kind(built("overlays/gke-l4"), "NetworkPolicy"))
    before = admits(policies, "Egress", pod("runners"), pod("head"), port)
    (policy,) = (policy for policy in policies if policy["metadata"]["name"] == name)

    change(policy["spec"])

    assert admits(policies, "Egress", pod("runners"), pod("head"), port) is not before
