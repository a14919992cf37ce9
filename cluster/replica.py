"""A replica: a Ray actor that hosts agents and works on what it is lent for. It never decides what is next.

Foreign exceptions of agents become ours here and nowhere else.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from actors.engines.ledger import Ledger
from cluster.wiring import loaded
from orchestrator.errors import AgentError, Cancelled, MachineError, RaysmithError, SandboxError, StaleEpoch
from orchestrator.scheduling import LeaseRequest
from orchestrator.steps import Allowance, Role

log = structlog.get_logger()

# Pings run on an event loop of their own, so that a busy agent is not taken for a dead one.
HEALTH = "health"
RESULTS_KEPT = 64
EPOCHS_KEPT = 10_000
STOP_GRACE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What a replica is made from.

    Attributes:
        build: Dotted path of the function that builds the agents, `module:function`; it is given
            the roles and `config`, and returns agents by role.
        fingerprint: Of all of this and the code's version; see `cluster.fleet.fingerprint`.
    """

    name: str
    group: str
    roles: tuple[str, ...]
    build: str
    config: Mapping[str, Any] = field(default_factory=dict)
    max_in_flight: int = 1
    namespace: str = "raysmith"
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Under which lease an agent works, and whom it may ask.

    Attributes:
        request: What the lease was granted for.
        scheduler: Ray handle, for child leases.
        reporter: Ray handle with `report_progress(dispatch_id, epoch, news)` and `report_call`,
            None for nobody.
        allowance: What its engine calls may cost.
    """

    request: LeaseRequest
    scheduler: Any = None
    reporter: Any = None
    allowance: Allowance = field(default_factory=Allowance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How an execution ended: a result, or an error of ours."""

    epoch: int
    result: Any = None
    error: RaysmithError | None = None

    def unpack(self) -> Any:
        """The result, or the error raised."""
        if self.error is not None:
            raise self.error
        return self.result


@dataclass(slots=True, kw_only=True)
class _Work:
    epoch: int
    request: LeaseRequest
    task: asyncio.Task[Kept] | None = None
    stop_reason: RaysmithError | None = None


class Replica:
    """Hosts agents. Invariant: of one dispatch, only the highest epoch seen is worked on, once."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._agents: Mapping[str, Any] = {}
        self._starting: asyncio.Task[None] | None = None
        self._working: dict[str, _Work] = {}
        self._sessions: dict[str, _Sessions] = {}
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._slots = asyncio.Semaphore(spec.max_in_flight)
        self._is_draining = False

    async def start(self) -> dict[str, Any]:
        """Build the agents; safe to repeat.

        Raises:
            RaysmithError: They cannot be built here.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._build())
        await asyncio.shield(self._starting)
        return await self.describe()

    async def execute(
        self, dispatch_id: str, epoch: int, method: str, payload: object, context: Context
    ) -> Any:
        """Have the agent of the request's role do `method`; asked again, it waits for or repeats the outcome.

        Raises:
            StaleEpoch: The dispatch was given away under a higher epoch.
            Cancelled: `cancel` stopped it.
            RaysmithError: What the agent raised; anything foreign comes as AgentError or SandboxError.
        """
        self._admit(dispatch_id, epoch)
        kept = self._kept.get(dispatch_id)
        if kept and kept.epoch == epoch:
            return kept.unpack()
        work = self._working.get(dispatch_id)
        if work and work.epoch < epoch:
            await self.cancel(dispatch_id, StaleEpoch(f"{dispatch_id} goes on under epoch {epoch}"))
            work = None
        if work is None or work.task is None:
            work = self._working[dispatch_id] = _Work(epoch=epoch, request=context.request)
            work.task = asyncio.create_task(self._outcome(work, method, payload, context))
            work.task.add_done_callback(functools.partial(self._finished, work))
        return (await asyncio.shield(work.task)).unpack()

    async def session(self, dispatch_id: str, epoch: int, method: str, context: Context, *args: Any) -> Any:
        """Call `open_session`, `call_session`, `close_session` or `test` of the runner under a child's lease.

        Raises:
            SandboxError: The sandbox is gone, or the lease was taken back; open another.
        """
        self._admit(dispatch_id, epoch)
        held = self._sessions.get(dispatch_id)
        if held is None:
            if method != "open_session":
                raise SandboxError(f"the sandbox under {dispatch_id} is closed", "open another")
            held = self._sessions[dispatch_id] = _Sessions(epoch=epoch, request=context.request)
        agent = self._agent(context.request.role)
        task = asyncio.current_task()
        assert task is not None
        held.calls.add(task)
        names = {"run": context.request.run_id, "step": context.request.step}
        try:
            with structlog.contextvars.bound_contextvars(**names):
                result = await getattr(agent, method)(*args)
        except asyncio.CancelledError:
            raise SandboxError(f"the runner of {dispatch_id} was taken back", "open another") from None
        except Exception as error:
            raise _ours(error, context.request.role, method) from error
        finally:
            held.calls.discard(task)
        if method == "open_session" and self._sessions.get(dispatch_id) is not held:
            await agent.close_session(result)
            raise SandboxError(f"the runner of {dispatch_id} was taken back", "open another")
        if method == "open_session":
            held.open.add(result)
        elif method == "close_session":
            held.open.discard(args[0])
            if not held.open:
                self._sessions.pop(dispatch_id, None)
        return result

    async def cancel(self, dispatch_id: str, reason: RaysmithError | None = None) -> bool:
        """Stop the work of a dispatch and close its sandboxes; whether it has stopped in time."""
        await self._close_sessions(dispatch_id)
        work = self._working.get(dispatch_id)
        if work is None or work.task is None:
            return True
        work.stop_reason = reason or Cancelled(f"{dispatch_id} was cancelled")
        work.task.cancel()
        done, _ = await asyncio.wait([work.task], timeout=STOP_GRACE_S)
        return bool(done)

    async def last_result(self, dispatch_id: str) -> Kept | None:
        """How the dispatch's last execution here ended, while it is remembered."""
        return self._kept.get(dispatch_id)

    async def ping(self) -> str:
        """Answer, however busy the agents are."""
        return self._spec.name

    async def describe(self) -> dict[str, Any]:
        """Who this is, where, and what it works on; `work` holds lease requests under their epochs."""
        import ray

        work = [(work.epoch, work.request) for work in self._working.values()]
        work += [(held.epoch, held.request) for held in self._sessions.values()]
        return {
            "name": self._spec.name,
            "group": self._spec.group,
            "roles": list(self._spec.roles),
            "fingerprint": self._spec.fingerprint,
            "node": ray.get_runtime_context().get_node_id(),
            "pid": os.getpid(),
            "started": bool(self._starting and self._starting.done() and not self._starting.exception()),
            "draining": self._is_draining,
            "max_in_flight": self._spec.max_in_flight,
            "work": work,
        }

    async def drain(self) -> None:
        """Remember, for a scheduler that restarts, that nothing new is to be lent here."""
        self._is_draining = True

    async def stop(self) -> None:
        """Stop all work and let agents clean up, before the process is ended."""
        self._is_draining = True
        for dispatch_id in [*self._working, *self._sessions]:
            await self.cancel(dispatch_id)
        for agent in self._agents.values():
            if hasattr(agent, "cancel_all"):
                await agent.cancel_all()

    async def _build(self) -> None:
        try:
            agents = loaded(self._spec.build)(list(self._spec.roles), dict(self._spec.config))
            self._agents = await agents if inspect.isawaitable(agents) else agents
        except RaysmithError:
            raise
        except Exception as error:
            raise MachineError(
                f"{self._spec.name} cannot build its agents by {self._spec.build!r}: {_told(error)}",
                "mend the wiring or the configuration",
            ) from error

    def _admit(self, dispatch_id: str, epoch: int) -> None:
        highest = self._epochs.get(dispatch_id, epoch)
        if epoch < highest:
            raise StaleEpoch(f"{dispatch_id} is at epoch {highest}, not {epoch}", "drop this work")
        self._epochs[dispatch_id] = epoch
        _bound(self._epochs, dispatch_id, EPOCHS_KEPT)

    async def _outcome(self, work: _Work, method: str, payload: object, context: Context) -> Kept:
        # On every line that anything logs on behalf of this step.
        structlog.contextvars.bind_contextvars(run=context.request.run_id, step=context.request.step)
        role = work.request.role
        ledger = _ledger(work, context)
        try:
            async with self._slots, ledger.kept():
                agent = self._agent(role)
                result = await getattr(agent, method)(*_arguments(agent, work, method, payload, context))
        except asyncio.CancelledError:
            return Kept(epoch=work.epoch, error=_stopped(work))
        except Exception as error:
            return Kept(epoch=work.epoch, error=_ours(error, role, method))
        return Kept(epoch=work.epoch, result=result)

    def _agent(self, role: str) -> Any:
        if role not in self._agents:
            raise MachineError(f"{self._spec.name} hosts no agent of role {str(role)!r}", "mend the wiring")
        return self._agents[role]

    def _finished(self, work: _Work, task: asyncio.Task[Kept]) -> None:
        dispatch_id = work.request.dispatch_id
        if self._working.get(dispatch_id) is work:
            del self._working[dispatch_id]
        # A task that was cancelled before its first step has no outcome of its own.
        kept = Kept(epoch=work.epoch, error=_stopped(work)) if task.cancelled() else task.result()
        self._kept[dispatch_id] = kept
        _bound(self._kept, dispatch_id, RESULTS_KEPT)

    async def _close_sessions(self, dispatch_id: str) -> None:
        held = self._sessions.pop(dispatch_id, None)
        if held is None:
            return
        for task in list(held.calls):
            task.cancel()
        if held.calls:
            await asyncio.wait(list(held.calls), timeout=STOP_GRACE_S)
        agent = self._agent(held.request.role)
        for session in list(held.open):
            try:
                await agent.close_session(session)
            except Exception as error:
                # The work of this lease has stopped all the same.
                log.warning("session_did_not_close", dispatch=dispatch_id, error=_told(error))


@dataclass(slots=True, kw_only=True)
class _Sessions:
    epoch: int
    request: LeaseRequest
    open: set[str] = field(default_factory=set)
    calls: set[asyncio.Task[Any]] = field(default_factory=set)


def _stopped(work: _Work) -> RaysmithError:
    return work.stop_reason or Cancelled(f"{work.request.dispatch_id} was cancelled")


def _arguments(
    agent: object, work: _Work, method: str, payload: object, context: Context
) -> tuple[object, ...]:
    """What an agent's method is called with; one that has sandboxes of its own is lent runners."""
    if method != "repair" and not getattr(agent, "needs_runners", False):
        return (payload,)
    from cluster.reporting import RayProgress
    from cluster.runner_pool import RayRunnerPool

    return (
        payload,
        RayRunnerPool(context.scheduler, work.request),
        RayProgress(context.reporter, work.request.dispatch_id, work.epoch),
    )


def _ledger(work: _Work, context: Context) -> Ledger:
    from cluster.reporting import RayCalls

    dispatch_id = work.request.dispatch_id
    attempt = dispatch_id.rpartition(".")[2]
    return Ledger(
        allowance=context.allowance,
        attempt=int(attempt) if attempt.isdigit() else 0,
        report=RayCalls(context.reporter, dispatch_id, work.epoch),
    )


def _bound(remembered: OrderedDict[str, Any], newest: str, limit: int) -> None:
    remembered.move_to_end(newest)
    if len(remembered) > limit:
        remembered.popitem(last=False)


def _ours(error: Exception, role: str, method: str) -> RaysmithError:
    """`error` as one of ours that survives pickling, with the foreign one as its cause."""
    if isinstance(error, RaysmithError):
        return error if _survives_pickling(error) else _plain(error)
    kind = SandboxError if role == Role.RUN else AgentError
    ours = kind(f"{method} of the {role} agent failed: {_told(error)}", "see the replica's log")
    ours.__cause__ = error
    return ours


def _plain(error: RaysmithError) -> RaysmithError:
    """The nearest error of ours that can be pickled, with the same words."""
    for base in type(error).__mro__[1:]:
        if issubclass(base, RaysmithError):
            plain = base(error.message, error.next_move)
            if _survives_pickling(plain):
                return plain
    return RaysmithError(str(error))


def _survives_pickling(error: Exception) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)  # noqa: S301  # our own bytes
    except Exception:
        return False


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def remote_class() -> Any:
    """`Replica` as a Ray actor class."""
    import ray

    options: dict[str, Any] = {"concurrency_groups": {HEALTH: 4}}
    return ray.remote(**options)(Replica)
