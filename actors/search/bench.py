"""One warm sandbox of a search and the tree that it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from actors.search.inside.text import decode
from orchestrator.errors import SandboxError
from orchestrator.ports import RunnerPool, SearchSession, SessionSpec
from orchestrator.steps import RepairRequest
from orchestrator.tree import Tree

Wall = Callable[[], float]


class Bench:
    """A session on one runner, one call at a time.

    Attributes:
        is_lost: A call failed; it is to be closed.
        is_busy: A call is under way.
        is_ready: Its tree was measured there.
    """

    def __init__(
        self, request: RepairRequest, runners: RunnerPool, sources: Sequence[str], wall_s: Wall
    ) -> None:
        self._request = request
        self._runners = runners
        self._sources = list(sources)
        self._wall_s = wall_s
        self._session: SearchSession | None = None
        self._stack = AsyncExitStack()
        self._closed_s = 0.0
        self.tree: Tree | None = None
        self.collected: dict[str, Any] = {}
        self.is_lost = False
        self.is_busy = False
        self.is_ready = False

    @property
    def is_open(self) -> bool:
        """Whether it has a sandbox."""
        return self._session is not None

    @property
    def cpu_s(self) -> float:
        """CPU seconds of its sandbox, as told with the last answer."""
        return self._session.cpu_s if self._session is not None else self._closed_s

    async def stand_on(self, tree: Tree) -> None:
        """Open the sandbox with `tree`, or move it there."""
        self.is_ready = self.is_ready and self.tree is tree
        if self._session is None or self.tree is None:
            await self._open(tree)
            return
        edits = {}
        for path, file in self.tree.changes_to(tree).items():
            if file is not None:
                length = len(decode(self.tree.files[path].content)[0])
                edits[path] = [[0, length, decode(file.content)[0]]]
        self.tree = tree
        if edits:
            self.collected = dict(await self.call("rebase", {"edits": edits}))

    async def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call the search worker.

        Raises:
            SandboxError: It is gone, or cannot do it.
        """
        assert self._session is not None
        try:
            return await self._session.call(method, arguments, max(self._wall_s(), 1.0))
        except SandboxError:
            self.is_lost = True
            raise

    async def close(self) -> None:
        """Give the sandbox back."""
        self._closed_s, self._session = self.cpu_s, None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    async def _open(self, tree: Tree) -> None:
        profile, request = self._request.profile, self._request
        spec = SessionSpec(
            tree=tree,
            arguments=profile.arguments,
            options=profile.options,
            plugins=profile.plugins,
            python=request.python,
            timeout_s=request.timeout_s,
            packages=profile.packages,
            preload=profile.may_be_loaded,
        )
        self._session = await self._stack.enter_async_context(self._runners.session(spec))
        self.tree = tree
        words = {"arguments": profile.arguments, "options": profile.options, "plugins": profile.plugins}
        self.collected = dict(await self.call("start", {**words, "sources": self._sources}))
