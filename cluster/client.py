"""A living factory, as its clients talk to it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.errors import RaysmithError, ReplicaLost
from orchestrator.events import Event, Kind, RunState
from orchestrator.task import Task
from orchestrator.tree import Tree

# An orchestrator that was killed comes back, folds its log and answers within this time.
PATIENCE_S = 60.0


class Factory:
    """A living factory. Every call is safe to repeat; while the orchestrator restarts it waits.

    Errors of ours arrive as they were raised; a factory that does not answer is a `ReplicaLost`.
    """

    def __init__(
        self,
        handle: Any,
        *,
        address: str,
        dashboard_url: str | None,
        started_here: bool,
        was_there: bool = True,
    ) -> None:
        self._handle = handle
        # Started here, it ends with this command; on a cluster it stays, whoever started it.
        self.was_there = was_there
        self.address = address
        self.dashboard_url = dashboard_url
        self.started_here = started_here
        self._mine: set[str] = set()

    def submit(
        self, task: Task, tree: Tree | None, *, candidate: Tree | None = None, key: str | None = None
    ) -> str:
        """Hand over a task and return its run's id; see `Orchestrator.submit` for `key`."""
        import ray

        trees = [ray.put(each) if each is not None else None for each in (tree, candidate)]
        run_id: str = self._ask("submit", task, *trees, key or _own_key())
        self._mine.add(run_id)
        return run_id

    def follow(self, run_id: str, after_seq: int = 0) -> Iterator[Event]:
        """The run's events as they happen, up to its `run_finished`."""
        while True:
            for event in self._ask("events", run_id, after_seq, 5.0):
                yield event
                after_seq = event.seq
                if event.type is Kind.RUN_FINISHED and not self._taken_up_again(event):
                    return

    def _taken_up_again(self, ended: Event) -> bool:
        """Whether this was not the run's last end; what is told to the outside may follow that one."""
        return bool(self._ask("state", ended.run_id).finished_at != ended.at)

    def wait(self, run_ids: Collection[str], timeout_s: float) -> dict[str, RunState]:
        """The finished ones of `run_ids`, as soon as there is one or after `timeout_s`."""
        states: dict[str, RunState] = self._ask("wait", list(run_ids), timeout_s)
        return states

    def state(self, run_id: str) -> RunState:
        """The run's state."""
        state: RunState = self._ask("state", run_id)
        return state

    def cancel(self, run_id: str, reason: str = "") -> RunState:
        """Stop a run; returns when it has stopped."""
        state: RunState = self._ask("cancel", run_id, reason)
        return state

    def fork(self, run_id: str, start: str, declaration: Mapping[str, Any] | None = None) -> str:
        """A new run from a step of a past one on; see `Orchestrator.fork`."""
        fork_id: str = self._ask("fork", run_id, start, declaration, _own_key())
        self._mine.add(fork_id)
        return fork_id

    def retry(self, run_id: str, node: str) -> str:
        """A new run that does one failed node anew; see `Orchestrator.retry`."""
        new_id: str = self._ask("retry", run_id, node, _own_key())
        self._mine.add(new_id)
        return new_id

    def pause(self, run_id: str, *, by: str, why: str = "", now: bool = False) -> RunState:
        """Have a run rest until it is resumed; see `Orchestrator.pause`."""
        state: RunState = self._ask("pause", run_id, by, why, now)
        return state

    def decide(self, run_id: str, node: str | None, *, approved: bool, by: str, why: str = "") -> RunState:
        """Say yes or no at a gate; see `Orchestrator.decide`."""
        state: RunState = self._ask("decide", run_id, node, approved, by, why)
        self._mine.add(run_id)
        return state

    def resume(self, run_ids: Collection[str] | None = None) -> list[str]:
        """Carry on unfinished runs; returns their ids."""
        resumed: list[str] = self._ask("resume", list(run_ids) if run_ids is not None else None)
        self._mine.update(resumed)
        return resumed

    def status(self) -> dict[str, Any]:
        """The fleet, its queue, and the runs in hand."""
        status: dict[str, Any] = self._ask("status")
        return status

    def result(self, run_id: str) -> dict[str, Any]:
        """The run's result in the words of every output."""
        found: dict[str, Any] = self._ask("result", run_id)
        return found

    def take_in(self, events: Sequence[Event]) -> bool:
        """Take a run of another store in; False where it is there already. See `Orchestrator.take_in`."""
        is_new: bool = self._ask("take_in", list(events))
        return is_new

    def artifact(self, digest: str) -> bytes:
        """The bytes behind `digest`."""
        content: bytes = self._ask("artifact", digest)
        return content

    def flush(self) -> bool:
        """Whether the reporter told everything, within the time that it has for that."""
        with contextlib.suppress(RaysmithError):
            return bool(self._ask("flush"))
        return False

    def others_active(self) -> list[str]:
        """Runs in hand that another command asked for."""
        return [run_id for run_id in self.status()["active_runs"] if run_id not in self._mine]

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray
        from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ray.get(getattr(self._handle, method).remote(*arguments))
            except RayTaskError as error:
                cause = error.cause
                raise cause if isinstance(cause, RaysmithError) else error from error
            except (ActorUnavailableError, ActorDiedError) as error:
                if time.monotonic() > deadline or isinstance(error, ActorDiedError):
                    raise ReplicaLost(
                        f"the factory at {self.address} is gone", "`raysmith resume` carries on from the log"
                    ) from error
                time.sleep(0.2)


def _own_key() -> str:
    """Makes a repeated call find the run that the first one made."""
    return f"call:{uuid.uuid4()}"
