"""Who waits for a replica of one role, and who of them is next. It grants nothing."""

from __future__ import annotations

import heapq
from enum import StrEnum

from orchestrator.leases import Lease, LeaseRequest


class State(StrEnum):
    WAITING = "waiting"
    LEASED = "leased"
    REVOKED = "revoked"
    GONE = "gone"


class Entry:
    """One request on its way: waiting, leased, or revoked and not yet released."""

    __slots__ = (
        "children",
        "epoch",
        "is_extra",
        "order",
        "overtaken",
        "replica",
        "request",
        "since",
        "state",
    )

    def __init__(self, request: LeaseRequest, order: tuple[int, int], since: float) -> None:
        self.request = request
        self.epoch = request.epoch
        self.order = order
        self.since = since
        self.state = State.WAITING
        self.replica = ""
        self.children: dict[str, Entry] = {}
        self.is_extra = False
        self.overtaken = 0

    @property
    def lease(self) -> Lease:
        return Lease(dispatch_id=self.request.dispatch_id, replica=self.replica, epoch=self.epoch)

    @property
    def step(self) -> tuple[str, str]:
        return self.request.run_id, self.request.step

    @property
    def rank(self) -> tuple[bool, int, bool]:
        """Sorts first what goes first."""
        is_first_child = self.request.parent is not None and not self.is_extra
        return not is_first_child, -self.request.priority, self.is_extra


class TenantQueue:
    """One tenant's waiting requests of one rank, in `order`; what no longer waits is skipped lazily."""

    def __init__(self) -> None:
        self.all: list[_InOrder] = []
        self.by_home: dict[str, list[_InOrder]] = {}

    def add(self, entry: Entry, home: str) -> None:
        heapq.heappush(self.all, (entry.order, entry))
        if home:
            heapq.heappush(self.by_home.setdefault(home, []), (entry.order, entry))

    def head(self) -> Entry | None:
        return _first_waiting(self.all)

    def head_at(self, home: str) -> Entry | None:
        queue = self.by_home.get(home)
        entry = _first_waiting(queue) if queue else None
        if queue is not None and entry is None:
            del self.by_home[home]
        return entry


_InOrder = tuple[tuple[int, int], Entry]


def _first_waiting(queue: list[_InOrder]) -> Entry | None:
    while queue and queue[0][1].state is not State.WAITING:
        heapq.heappop(queue)
    return queue[0][1] if queue else None


Rank = tuple[bool, int, bool]


class Line:
    """Everything that waits for one role: ranks, and in each rank tenants by their share.

    A tenant's share is (leases it holds in this role, leases it was ever granted): the one with the
    smallest goes next. Heaps hold a fresh key after every change; keys that no longer match are dropped.
    """

    def __init__(self) -> None:
        self.ranks: list[Rank] = []
        self.queues: dict[Rank, dict[str, TenantQueue]] = {}
        self.heaps: dict[Rank, list[tuple[int, int, str]]] = {}
        self.held: dict[str, int] = {}
        self.served: dict[str, int] = {}
        self.waits_in: dict[str, set[Rank]] = {}
        self.clock = 0
        self.waiting = 0
        self.waiting_extras = 0

    def add(self, entry: Entry, home: str) -> None:
        rank, tenant = entry.rank, entry.request.tenant
        if rank not in self.queues:
            self.queues[rank], self.heaps[rank] = {}, []
            heapq.heappush(self.ranks, rank)
        if not self.held.get(tenant) and not self.waits_in.get(tenant):
            self.served[tenant] = max(self.served.get(tenant, 0), self.clock)
        if tenant not in self.queues[rank]:
            self.queues[rank][tenant] = TenantQueue()
            self.waits_in.setdefault(tenant, set()).add(rank)
            heapq.heappush(self.heaps[rank], self._share(tenant))
        self.queues[rank][tenant].add(entry, home)

    def head(self) -> tuple[Entry, TenantQueue] | None:
        """Who goes next, and the queue it stands in."""
        while self.ranks:
            rank = self.ranks[0]
            found = self._head_of(rank)
            if found:
                return found
            heapq.heappop(self.ranks)
            del self.queues[rank], self.heaps[rank]
        return None

    def took(self, tenant: str) -> None:
        self.held[tenant] = self.held.get(tenant, 0) + 1
        self.served[tenant] = self.served.get(tenant, self.clock) + 1
        self.clock = max(self.clock, self.served[tenant] - 1)
        self._changed(tenant)

    def gave_back(self, tenant: str) -> None:
        self.held[tenant] -= 1
        if not self.held[tenant]:
            del self.held[tenant]
        self._changed(tenant)

    def _share(self, tenant: str) -> tuple[int, int, str]:
        return self.held.get(tenant, 0), self.served.get(tenant, 0), tenant

    def _changed(self, tenant: str) -> None:
        for rank in self.waits_in.get(tenant, ()):
            heapq.heappush(self.heaps[rank], self._share(tenant))
        if tenant not in self.held and tenant not in self.waits_in:
            self.served.pop(tenant, None)

    def _head_of(self, rank: Rank) -> tuple[Entry, TenantQueue] | None:
        heap, queues = self.heaps[rank], self.queues[rank]
        while heap:
            tenant = heap[0][2]
            queue = queues.get(tenant)
            if queue is None or heap[0] != self._share(tenant):
                heapq.heappop(heap)
                continue
            entry = queue.head()
            if entry:
                return entry, queue
            heapq.heappop(heap)
            self._tenant_left(tenant, rank)
        return None

    def _tenant_left(self, tenant: str, rank: Rank) -> None:
        del self.queues[rank][tenant]
        ranks = self.waits_in[tenant]
        ranks.discard(rank)
        if not ranks:
            del self.waits_in[tenant]
            if tenant not in self.held:
                self.served.pop(tenant, None)
