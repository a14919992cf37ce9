"""Ray nodes without their machines: each a raylet with resources, labels and a folder of its own.

Hosted by a process of its own, which takes every node along when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_head import end_session, free_port

# So that the death of a node is noticed in two seconds; a node that is only slow has ten.
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 10,
}
QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class FakeCluster:
    """A head that nothing is placed on, a node for control, and whatever is added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self.nodes: dict[str, str] = {}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYSMITH_")}
        self._host = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            env=environment | QUIET | {"RAY_TMPDIR": str(folder), "HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.add("head", {"raysmith.io/pool": "head"}, num_cpus=0)
        self.add("control", {"raysmith.io/pool": "control"}, num_cpus=2)

    def add(self, name: str, labels: dict[str, str], **resources: Any) -> None:
        """One more node, up when this returns."""
        data = self.folder / name
        for part in ("home", "raysmith", "tmp"):
            (data / part).mkdir(parents=True)
        variables = {"HOME": str(data / "home"), "RAYSMITH_HOME": str(data / "raysmith")}
        variables |= {"TMPDIR": str(data / "tmp"), **QUIET}
        told = self._ask({"add": name, "labels": labels, "env_vars": variables, **resources})
        self.address, self.nodes[name] = told["address"], told["node_id"]

    def add_l4(self, name: str) -> None:
        """A model pod of k8s/components/l4."""
        self.add(name, {"ray.io/accelerator-type": "L4"}, num_cpus=6, num_gpus=1)

    def add_runner(self, name: str) -> None:
        """A runner pod."""
        self.add(name, {"raysmith.io/pool": "runners"}, num_cpus=2)

    def kill(self, name: str) -> None:
        """The node is gone at once, with all that ran on it."""
        self._ask({"kill": name})

    def name_of(self, node_id: str) -> str:
        """The node that Ray knows by `node_id`."""
        return next(name for name, known in self.nodes.items() if known == node_id)

    def close(self) -> None:
        """End everything."""
        end_session(self._host)
        for pipe in (self._host.stdin, self._host.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        self._host.stdin.write(json.dumps(question) + "\n")
        self._host.stdin.flush()
        for line in self._host.stdout:
            if line.startswith("{"):
                told: dict[str, Any] = json.loads(line)
                return told
        raise AssertionError(f"the fake cluster broke at {question}")


@contextlib.contextmanager
def fake_cluster() -> Iterator[FakeCluster]:
    """A cluster in a folder of its own, gone at the end."""
    # Sockets lie below it, and their paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    cluster = None
    try:
        cluster = FakeCluster(folder)
        yield cluster
    finally:
        if cluster is not None:
            cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def host() -> None:
    """Be the process that holds the nodes: a question a line, an answer a line."""
    from ray.cluster_utils import Cluster

    cluster: Any = None
    nodes: dict[str, Any] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "kill" in question:
            cluster.remove_node(nodes[question["kill"]], allow_graceful=False)
            print("{}", flush=True)
            continue
        name = question.pop("add")
        given = {"object_store_memory": 100_000_000, "include_dashboard": False, **question}
        if cluster is None:
            # Ray looks whether the dashboard's port is free even where it starts none.
            given |= {"_system_config": HEALTH, "dashboard_port": free_port()}
            cluster = Cluster(initialize_head=True, head_node_args=given)
            nodes[name] = cluster.head_node
        else:
            nodes[name] = cluster.add_node(**given)
        print(json.dumps({"address": cluster.address, "node_id": nodes[name].node_id}), flush=True)


if __name__ == "__main__":
    host()
