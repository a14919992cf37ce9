"""The seams the core calls outward through. Whoever builds the factory chooses what is behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from orchestrator.events import Event, Kind, NewEvent
from orchestrator.lessons import Lesson
from orchestrator.steps import Allowance, Improvement, Role, TestRequest, Turn, Usage
from orchestrator.task import Task
from orchestrator.tree import Tree
from orchestrator.verdict import TestRun

T = TypeVar("T")


class EventLog(Protocol):
    """Append-only facts. Every event acknowledged survives kill -9 and power loss."""

    async def append(self, events: Sequence[NewEvent]) -> Sequence[Event]:
        """Commit `events` in order and return them with seq and hash; all or none.

        Raises:
            StoreError: Nothing of it was committed.
        """
        ...

    def events(self, run_id: str, after_seq: int = 0) -> Sequence[Event]:
        """The run's events after number `after_seq`, in order."""
        ...


class Artifacts(Protocol):
    """Content-addressed bytes: a folder by default, a bucket on a cluster."""

    def put(self, content: bytes) -> str:
        """Store `content` and return its SHA-256; storing it twice is one object."""
        ...

    def get(self, digest: str) -> bytes:
        """The bytes behind `digest`.

        Raises:
            StoreDamaged: Absent, or the content does not hash to `digest`.
        """
        ...


class Memory(Protocol):
    """What earlier runs taught. It serves hints: it never fails, and may know nothing."""

    async def recall(self, terms: Sequence[str], *, tenant: str) -> Sequence[Lesson]:
        """The tenant's lessons that are closest to a failure of these words, the closest first."""
        ...

    async def learn(self, lesson: Lesson, *, tenant: str, is_again: bool = True) -> None:
        """Keep a lesson; where its run `is_again` at its end, in place of an earlier one of that run."""
        ...


class Progress(Protocol):
    """Where a working agent tells of partial progress; each call is an event before it returns."""

    async def __call__(self, news: Improvement | Turn) -> None: ...


class SearchSession(Protocol):
    """One warm sandbox that holds a tree and its collected tests, ready to try candidates."""

    async def call(self, method: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """Call the search worker inside the sandbox; arguments and result are JSON values.

        Raises:
            SandboxError: The sandbox died or broke its protocol; open another.
            SandboxTimeout: No answer in `timeout_s`; the session is closed.
        """
        ...

    @property
    def cpu_s(self) -> float:
        """CPU seconds that the sandbox has used, as told with its last answer."""
        ...

    async def test(self, request: TestRequest) -> TestRun:
        """Test a candidate on the same runner, in a fresh sandbox beside this one.

        Raises:
            SandboxError: It could not be tested, or this session is closed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """What a warm sandbox starts with: the tree to work on, tested under a frozen profile's arguments.

    Attributes:
        preload: Modules that a warm process may have loaded; None for a fresh one.
        worker: Who serves the session inside: `search`, or `shell` for a model's commands.
        packages: The profile's, installed besides what the interpreter has.
    """

    tree: Tree
    arguments: tuple[str, ...]
    options: tuple[str, ...]
    plugins: tuple[str, ...]
    python: str | None
    timeout_s: float
    worker: str = "search"
    packages: tuple[str, ...] = ()
    preload: tuple[str, ...] | None = None


class RunnerPool(Protocol):
    """Runners lent to a repairer: child leases, revoked with the repairer's own."""

    def session(self, spec: SessionSpec) -> AbstractAsyncContextManager[SearchSession]:
        """Lease a runner, open a warm sandbox on it, and give both back on leaving."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """What a step asks of an agent: `method` of a replica of `role`, answered by a `returns`.

    `progress` hears of partial progress while the agent works; `allowance` is what its engine calls may
    cost where that is less than the run's.
    """

    step: str
    role: Role
    method: str
    request: object
    returns: type[T]
    attempt: int = 0
    progress: Callable[[Improvement], Awaitable[None]] | None = None
    allowance: Allowance = field(default_factory=Allowance)


class Run(Protocol):
    """One run as its graph sees it: what was asked, and hands that remember what they did.

    A graph is executed from its start again after a crash: a call whose outcome is in the
    log is answered from there, and a fact already recorded is not recorded twice.
    """

    task: Task
    tree: Tree
    candidate: Tree | None

    async def call(self, call: Call[T]) -> T:
        """Have the step done, or return what it returned before the crash."""
        ...

    async def record(self, kind: Kind, data: Mapping[str, Any], *, attempt: int = 0) -> None:
        """Commit a fact."""
        ...

    async def keep(
        self, changes: Mapping[str, Any], failing: Sequence[str], explanation: str, node: str = ""
    ) -> None:
        """Commit the best changes so far, relative to `tree`; those of `node` where one is named."""
        ...

    def kept(self, node: str = "") -> tuple[Mapping[str, Any], tuple[str, ...]] | None:
        """The best changes that were kept before a crash, and what still failed with them."""
        ...

    def remaining_s(self) -> float:
        """Wall seconds left of the budget; a replayed part costs none."""
        ...

    def left(self) -> Allowance:
        """What engines may still cost; every call that was told of is taken off."""
        ...

    def spent(self, under: str) -> Usage:
        """What engine calls of the steps whose names begin with `under` have cost, in all lives."""
        ...

    async def recall(self, node: str) -> bytes | None:
        """What `node` gave when it ended, None for one that has not."""
        ...

    async def begin(self, node: str) -> None:
        """Commit that `node` starts, once."""
        ...

    async def end(self, node: str, data: Mapping[str, Any], output: bytes) -> None:
        """Commit that `node` has ended, and what it gave; it is never worked on again."""
        ...

    async def ask(self, node: str, data: Mapping[str, Any]) -> None:
        """Commit, once, that a person's decision is waited for at `node`."""
        ...

    def decision(self, node: str) -> Mapping[str, Any] | None:
        """What a person decided at `node`: `approved`, `by`, `why`; None before that."""
        ...

    def decided(self) -> asyncio.Event:
        """Set when a person decides something in this run."""
        ...
