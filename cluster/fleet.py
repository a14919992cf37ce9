"""Replica groups: what a fleet is made of, how its replicas are called, and why one cannot start."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import TaskError
from orchestrator.scheduling import GroupInfo

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_REPLICA = re.compile(r"([a-z][a-z0-9_]*)-(\d{2,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaGroup:
    """Replicas of one shape."""

    name: str
    """Lower case, unique in the fleet; for people."""
    roles: tuple[str, ...]
    """What its replicas do; the first one names them, as in `code-01`."""
    min_replicas: int = 0
    """Replicas kept alive; with 0 the first request for one of the roles starts one."""
    max_replicas: int = 1
    """Replicas at most."""
    num_cpus: float = 1.0
    """CPUs that Ray sets aside for each."""
    num_gpus: float = 0.0
    """GPUs that Ray sets aside for each; more than 1 must be whole."""
    memory_mib: int = 0
    """Memory that Ray sets aside for each, for placement only; 0 for none."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Node labels to match, in Ray's `label_selector` words: `L4`, `!L4`, `in(L4,T4)`."""
    engine: str | None = None
    """Key of the engine that its agents ask for text, None where they need none."""
    max_in_flight: int = 1
    """Leases on one replica at once."""
    idle_timeout_s: float = 300.0
    """How long a replica beyond `min_replicas` stays warm without work."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its replicas' processes."""

    def __post_init__(self) -> None:
        # A configuration file brings lists.
        object.__setattr__(self, "roles", tuple(str(role) for role in self.roles))
        for name, is_right, what in (
            ("name", bool(_NAME.fullmatch(self.name)), "lower-case letters, digits and dashes"),
            ("roles", bool(self.roles) and len(set(self.roles)) == len(self.roles), "one or more, each once"),
            ("min_replicas", self.min_replicas >= 0, "0 or more"),
            ("max_replicas", self.max_replicas >= max(1, self.min_replicas), "1 or more, and min_replicas"),
            ("num_cpus", self.num_cpus >= 0, "0 or more"),
            ("num_gpus", _is_gpu_share(self.num_gpus), "a share below 1 or a whole number"),
            ("memory_mib", self.memory_mib >= 0, "0 or more"),
            ("max_in_flight", self.max_in_flight >= 1, "1 or more"),
            ("idle_timeout_s", self.idle_timeout_s >= 0, "0 or more"),
        ):
            if not is_right:
                raise _wrong(f"fleet.{self.name}.{name}", getattr(self, name), what)

    @property
    def info(self) -> GroupInfo:
        """What scheduling needs to know of it."""
        return GroupInfo(
            name=self.name,
            roles=frozenset(self.roles),
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            max_in_flight=self.max_in_flight,
            idle_timeout_s=self.idle_timeout_s,
        )


def _is_gpu_share(share: float) -> bool:
    return 0 <= share <= 1 or float(share).is_integer()


def _wrong(path: str, value: object, what: str) -> TaskError:
    return TaskError(f"`{path}` is {value!r}", f"it has to be {what}")


def check_fleet(groups: Sequence[ReplicaGroup]) -> tuple[ReplicaGroup, ...]:
    """`groups` when they can live side by side.

    Raises:
        TaskError: Two have the same name, or their replicas would be called the same.
    """
    for what, names in (
        ("name", [group.name for group in groups]),
        ("roles", [group.roles[0] for group in groups]),
    ):
        twice = [name for index, name in enumerate(names) if name in names[:index]]
        if twice:
            group = groups[names.index(twice[0], names.index(twice[0]) + 1)]
            raise _wrong(f"fleet.{group.name}.{what}", twice[0], "another one than every other group's first")
    return tuple(groups)


def replica_name(group: ReplicaGroup, taken: Collection[str]) -> str:
    """`code-01` and so on: the group's first role and the smallest number that is not taken."""
    number = 1
    while (name := f"{group.roles[0]}-{number:02d}") in taken:
        number += 1
    return name


def group_of(name: str, groups: Sequence[ReplicaGroup]) -> ReplicaGroup | None:
    """The group whose replica is called `name`."""
    match = _REPLICA.fullmatch(name)
    return next((g for g in groups if match and g.roles[0] == match.group(1)), None)


def fingerprint(group: ReplicaGroup, build: str, config: Mapping[str, Any], version: str) -> str:
    """Of all that a replica was made from; a living one with another fingerprint is replaced.

    Bounds and timeouts of the group are left out: they change without a new process.
    """
    made_from = asdict(group)
    for name in ("min_replicas", "max_replicas", "idle_timeout_s"):
        del made_from[name]
    text = json.dumps([made_from, build, dict(config), version], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_version() -> str:
    """Hash of our installed code: a detached actor keeps the code that it was started with."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for package in ("orchestrator", "actors", "cluster", "serve"):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def actor_options(group: ReplicaGroup, name: str, namespace: str) -> dict[str, Any]:
    """Ray's options for one replica of `group`."""
    options: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "lifetime": "detached",
        "num_cpus": group.num_cpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": 1000,
    }
    if group.num_gpus:
        options["num_gpus"] = group.num_gpus
    if group.memory_mib:
        options["memory"] = group.memory_mib * 1024 * 1024
    if group.labels:
        options["label_selector"] = dict(group.labels)
    if group.env:
        options["runtime_env"] = {"env_vars": dict(group.env)}
    return options


def pending_reason(group: ReplicaGroup, nodes: Sequence[Mapping[str, Any]], free: Mapping[str, float]) -> str:
    """Why a replica of `group` is not placed yet, as far as the living nodes tell.

    Args:
        group: The replica's group.
        nodes: As `ray.nodes()` gives them.
        free: As `ray.available_resources()` gives them.
    """
    living = [node for node in nodes if node.get("Alive")]
    for key, value in group.labels.items():
        if not any(_label_fits(node.get("Labels", {}).get(key), value) for node in living):
            return f"pending: no node with label {key}={value}"
    fitting = [
        node
        for node in living
        if all(_label_fits(node.get("Labels", {}).get(key), value) for key, value in group.labels.items())
    ]
    needs = {"GPU": group.num_gpus, "CPU": group.num_cpus, "memory": group.memory_mib * 2**20}
    for resource, amount in needs.items():
        most = max((node.get("Resources", {}).get(resource, 0) for node in fitting), default=0)
        if amount > most:
            return (
                f"pending: no node with {_told(resource, amount)} (the largest has {_told(resource, most)})"
            )
    for resource, amount in needs.items():
        if amount > free.get(resource, 0):
            return f"pending: {_told(resource, amount)} needed, {_told(resource, free.get(resource, 0))} free"
    return "pending: its process is starting"


def _told(resource: str, amount: float) -> str:
    return f"{amount / 2**20:.0f} MiB of memory" if resource == "memory" else f"{amount:g} {resource}"


def _label_fits(actual: str | None, wanted: str) -> bool:
    if wanted.startswith("!"):
        return not _label_fits(actual, wanted[1:])
    if wanted.startswith("in(") and wanted.endswith(")"):
        return actual in [value.strip() for value in wanted[3:-1].split(",")]
    return actual == wanted
