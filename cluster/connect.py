"""The client's side: join a living factory or start one."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster import processes
from cluster.client import PATIENCE_S, Factory
from cluster.factory import ORCHESTRATOR, FactoryActor, FactorySettings
from cluster.owner import is_owned, lost_owner, read_owner
from cluster.ray_settings import DASHBOARD_PORT, RaySettings
from orchestrator.errors import MachineError, RaysmithError, ReplicaLost, StoreOwned

NAMESPACE = "raysmith"
# How long an owner that is there may keep newcomers waiting for an answer.
SILENT_S = 10.0
# After kill -9 of a driver its local actors live on for seconds, many on a busy machine, and hold the store.
DYING_S = 60.0
# Where Ray keeps the token of this user's clusters.
_TOKEN = Path.home() / ".ray" / "auth_token"


@contextlib.contextmanager
def connect(
    settings: FactorySettings,
    *,
    ray_settings: RaySettings,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    starts: bool = True,
) -> Iterator[Factory]:
    """Join the named cluster's factory, else the one that owns the store, else start one there or here.

    A factory started on a named cluster stays. One started here ends on leaving, once the runs
    that other commands gave it have ended.

    Raises:
        StoreOwned: Another factory owns the store and cannot be joined.
        MachineError: No cluster answers, or Ray does not start here.
        ReplicaLost: There is no factory, and `starts` is False.
    """
    home = Path(settings.home)
    if is_owned(home) or lost_owner(home) or ray_settings.address:
        present_token()

    factory = _join_named(settings, ray_settings) or _join_owner(home) or _join_returning(home)
    if factory is None and not starts:
        raise ReplicaLost(
            f"no factory runs on the cluster at {ray_settings.address}"
            if ray_settings.address
            else "no factory runs",
            "`raysmith up` starts one",
        )
    factory = factory or _enter_or_join(settings, home, ray_settings)
    try:
        yield factory
        if factory.started_here:
            _linger(factory, say)
            factory.flush()
    finally:
        _shut_down()


def end_factory(settings: FactorySettings, ray_settings: RaySettings) -> bool:
    """End the named cluster's factory with its fleet; whether there was one.

    Unfinished runs stay in the log. Raises:
        MachineError: No cluster answers.
    """
    present_token()
    import ray
    from ray.util import list_named_actors

    _enter_cluster(settings, ray_settings)
    try:
        named = [each["name"] for each in list_named_actors(True) if each["namespace"] == settings.namespace]
        # The orchestrator first, lest it makes a new scheduler; then that one, lest it makes new replicas.
        for name in sorted(named, key=lambda name: (name != ORCHESTRATOR, name != "scheduler")):
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(name, namespace=settings.namespace))
        return ORCHESTRATOR in named
    finally:
        _shut_down()


def _enter_or_join(settings: FactorySettings, home: Path, ray_settings: RaySettings) -> Factory:
    try:
        return _enter(settings, ray_settings)
    except StoreOwned:
        # Another newcomer was faster.
        if (factory := _join_owner(home)) is None:
            raise
        return factory


def _linger(factory: Factory, say: Callable[[str], None]) -> None:
    told = False
    while waiting := factory.others_active():
        if not told:
            say(f"waiting for {len(waiting)} runs that another command gave this factory (Ctrl-C leaves)")
            told = True
        factory.wait(waiting, 5.0)


def _join_named(settings: FactorySettings, ray_settings: RaySettings) -> Factory | None:
    """The factory of the named cluster, wherever its store is; None without an address or a factory."""
    import ray

    if not ray_settings.address:
        return None
    _enter_cluster(settings, ray_settings)
    try:
        handle = ray.get_actor(ORCHESTRATOR, namespace=settings.namespace)
    except ValueError:
        ray.shutdown()
        return None
    try:
        _wait_until_ready(handle)
    except BaseException:
        ray.shutdown()
        raise
    address = ray.get_runtime_context().gcs_address
    return Factory(handle, address=address, dashboard_url=_dashboard_url(), started_here=False)


def _enter_cluster(settings: FactorySettings, ray_settings: RaySettings) -> None:
    if ray_settings.address.rpartition(":")[2].isdecimal() and "://" not in ray_settings.address:
        try:
            _knock(ray_settings.address)
        except OSError as error:
            raise _no_cluster(ray_settings.address, error) from error
    _init(address=ray_settings.address, namespace=settings.namespace)


def _join_owner(home: Path) -> Factory | None:
    """The living owner's factory; None when nobody owns the store."""
    began = time.monotonic()
    last: Exception | None = None
    while is_owned(home):
        owner = read_owner(home)
        dying = owner is not None and owner.is_dying
        if owner is not None and owner.address and not dying:
            try:
                return _attach(owner.address, owner.namespace)
            except (OSError, ValueError, RuntimeError, RaysmithError) as error:
                last = error
        if time.monotonic() - began > (DYING_S if dying else SILENT_S):
            raise StoreOwned(
                f"another factory owns {home} and does not answer ({last})",
                "`raysmith down` ends it; or set RAYSMITH_HOME to another folder",
            ) from last
        time.sleep(0.3)
    return None


def _join_returning(home: Path) -> Factory | None:
    """The factory that was killed and that its cluster brings back; None where there is none.

    One started here in its place would take the store from it.
    """
    if (lost := lost_owner(home)) is None:
        return None
    try:
        return _attach(lost.address, lost.namespace)
    except (OSError, ValueError, RuntimeError, RaysmithError):
        return None


def _attach(address: str, namespace: str) -> Factory:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    _knock(address)
    _init(address=address, namespace=namespace)
    try:
        handle = ray.get_actor(ORCHESTRATOR, namespace=namespace)
        ray.get(handle.ready.remote(), timeout=PATIENCE_S)
    except (RayError, GetTimeoutError, ValueError) as error:
        ray.shutdown()
        raise ConnectionError(str(error)) from error
    return Factory(handle, address=address, dashboard_url=_dashboard_url(), started_here=False)


def _knock(address: str) -> None:
    """Ray tries a dead address for minutes; whether anybody listens is known at once."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
        pass


def present_token() -> None:
    """Ray makes clusters of its own ask for the user's token, and does not show it when it joins one.

    It reads its mode when it is imported.
    """
    if _TOKEN.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _enter(settings: FactorySettings, ray_settings: RaySettings) -> Factory:
    """A factory of our own: on the cluster at `address`, else on a local one."""
    import ray

    if ray_settings.address:
        _init(address=ray_settings.address, namespace=settings.namespace)
        try:
            refuse_node_local_store(settings)
        except BaseException:
            ray.shutdown()
            raise
        settings = replace(settings, detached=True, adopt_all=True)
    else:
        settings = replace(settings, driver_pid=os.getpid())
        _init(
            address="local",
            namespace=settings.namespace,
            num_cpus=ray_settings.num_cpus or None,
            object_store_memory=ray_settings.object_store_mib * 1024 * 1024,
            include_dashboard=ray_settings.dashboard,
            dashboard_port=_dashboard_port(ray_settings),
        )
    try:
        handle = start_actor(settings)
    except BaseException:
        _shut_down()
        raise
    context = ray.get_runtime_context()
    return Factory(
        handle,
        address=context.gcs_address,
        dashboard_url=_dashboard_url(),
        started_here=not ray_settings.address,
        was_there=False,
    )


def _dashboard_port(ray_settings: RaySettings) -> int | None:
    """What to ask Ray for; None for the first free port from its own default.

    A port that is asked for has to be free, even where Ray starts no dashboard.
    """
    port = ray_settings.dashboard_port
    return None if not ray_settings.dashboard or port == DASHBOARD_PORT else _free_port(port)


def _free_port(first: int, tries: int = 50) -> int:
    """`first`, or the next port that nobody listens on: another cluster's dashboard is no reason to stop."""
    for port in range(first, first + tries):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    return first


def start_actor(settings: FactorySettings) -> Any:
    """The factory's actor on the cluster that this process is in, made unless there is one; it is ready.

    Raises:
        StoreOwned: Another living factory has the store.
        StoreError: The store cannot be used.
    """
    import ray

    remote: Any = ray.remote(FactoryActor)
    actor = remote.options(
        name=ORCHESTRATOR,
        namespace=settings.namespace,
        lifetime="detached" if settings.detached else None,
        get_if_exists=True,
        max_restarts=-1,
        max_concurrency=10_000,
        num_cpus=0,
        resources={"node:__internal_head__": 0.001},
    )
    handle = actor.remote(settings)
    try:
        _wait_until_ready(handle)
    except RaysmithError:
        # It keeps what it was made from; who comes with mended settings has to find no factory.
        ray.kill(handle)
        raise
    return handle


def _wait_until_ready(handle: Any) -> None:
    import ray
    from ray.exceptions import ActorUnavailableError, RayTaskError

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            ray.get(handle.ready.remote())
            return
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, RaysmithError) else error from error
        except ActorUnavailableError as error:
            # A call that was lost, or an orchestrator that died while it started and comes back.
            if time.monotonic() > deadline:
                raise ReplicaLost(
                    "the factory does not answer", "`raysmith down` ends it; try again when it is gone"
                ) from error
            time.sleep(0.2)


def refuse_node_local_store(settings: FactorySettings) -> None:
    """Refuse a store on a node's own disk where the cluster has several nodes.

    The orchestrator is on the head. A head that is replaced finds another disk, and commands on other
    nodes would read stores of their own. Raises:
        MachineError: It is so; names each setting that has to change.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) > 1 and (wrong := settings.store.on_one_node()):
        raise MachineError(
            f"this cluster has {len(nodes)} nodes, and on one node's own disk "
            + (f"are {' and '.join(wrong)}" if len(wrong) > 1 else f"is {wrong[0]}"),
            "; ".join(f"set {_SHARED[each]}" for each in wrong),
        )


_SHARED = {
    "the event log (`store.url`)": "`store.url` to postgresql://USER@HOST/DATABASE",
    "the artifacts (`store.artifacts`)": "`store.artifacts` to a URL such as gs://BUCKET/PREFIX, "
    "or file:///PATH for a folder that every node mounts",
}


def _shut_down() -> None:
    """Leave the cluster; one that was started here ends, its agents too."""
    import ray
    from ray._private import worker

    node: Any = worker._global_node
    every = node.all_processes.values() if node else ()
    started = [each.process.pid for some in every for each in some]
    family = {pid: at for parent in started for pid, at in processes.below(parent, depth=1).items()}
    ray.shutdown()
    processes.end(family)


def _init(*, address: str, namespace: str, **options: Any) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import logging

    import ray

    before = processes.below(os.getpid())
    try:
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            **options,
        )
    except (Exception, KeyboardInterrupt) as error:
        # What Ray has started so far it does not know yet how to end.
        now = processes.below(os.getpid())
        processes.end({pid: at for pid, at in now.items() if pid not in before})
        if isinstance(error, KeyboardInterrupt):
            raise
        if address != "local":
            raise _no_cluster(address, error) from error
        # A node that comes up too late is a bare Exception of Ray's.
        reason = " ".join(str(error).split())[:300]
        raise MachineError(
            f"Ray does not start here: {reason}",
            "try again when the machine is less busy; `raysmith doctor` says what else is wrong",
        ) from error


def _no_cluster(address: str, error: Exception) -> MachineError:
    reason = " ".join(str(error).split())[:300]
    return MachineError(
        f"no Ray cluster answers at {address} ({reason})",
        "check RAY_ADDRESS; where the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN",
    )


def _dashboard_url() -> str | None:
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url()  # type: ignore[no-untyped-call]
    return f"http://{url}" if url else None
