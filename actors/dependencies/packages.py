"""What a task is profiled with: its declared packages, then one after the other that turns out missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from actors.dependencies.declared import declared, unmet
from actors.dependencies.installer import Installer, Lock, NotAllowed
from actors.dependencies.settings import DependencySettings
from actors.judge.profile import MissingDependency
from actors.sandbox.layer import Layer
from actors.sandbox.port import Sandbox
from orchestrator.errors import MachineError
from orchestrator.steps import PackagesAsked, Profiled, ProfileRequest
from orchestrator.tree import Tree
from orchestrator.verdict import TestProfile, TestRun

T = TypeVar("T")
_ROUNDS = 20


class Packages:
    """Finds, installs and shows what a task lacks; without a folder of wheels it changes nothing."""

    def __init__(self, settings: DependencySettings) -> None:
        self._installer = Installer(settings)
        self._one = asyncio.Lock()

    async def shown(self, sandbox: Sandbox, layer: Layer, lock: Lock) -> Layer:
        """`layer` with what a profile was locked to.

        Raises:
            Refused: It cannot be had any more.
        """
        if not lock:
            return layer
        async with self._one:
            return await self._installer.layer(sandbox, layer, lock)

    async def profile(
        self,
        sandbox: Sandbox,
        layer: Layer,
        request: ProfileRequest,
        profiled: Callable[[Layer], Awaitable[Profiled]],
    ) -> Profiled:
        """Profile with what is declared and what turns out missing, or tell what a person has to allow.

        Raises:
            MissingDependency: Something is missing and no folder of wheels is configured.
            Refused: Something is missing that may not, or cannot, be installed.
        """
        try:
            found, lock = await self.healed(sandbox, layer, request.tree, profiled, allowed=request.allowed)
        except NotAllowed as error:
            asks = PackagesAsked(packages=error.packages, why=error.why)
            return Profiled(profile=TestProfile(expected={}), run=TestRun(), asks=asks)
        return replace(found, profile=replace(found.profile, packages=lock))

    async def healed(
        self,
        sandbox: Sandbox,
        layer: Layer,
        tree: Tree,
        work: Callable[[Layer], Awaitable[T]],
        *,
        lock: Lock = (),
        allowed: Lock = (),
    ) -> tuple[T, Lock]:
        """What `work` gives on a layer with what is declared and what turns out missing, and its lock.

        Args:
            sandbox: Where pip runs.
            layer: Of the task's interpreter.
            tree: Whose files declare.
            work: Is done again while it finds something missing that may be installed.
            lock: Is shown in any case, in place of what is declared.
            allowed: Wheels that a person let this run install.

        Raises:
            MissingDependency: Something is missing and no folder of wheels is configured.
            NotAllowed: Something is missing that a person has to allow.
            Refused: Something is missing that cannot be installed.
        """
        if not self._installer.is_on:
            return await work(await self.shown(sandbox, layer, lock)), lock
        said = declared(tree, layer)
        kept = [Requirement(line.split()[0]) for line in lock]
        wanted, why, is_new = kept or unmet(said.needed, layer), "the task", not lock
        named = {canonicalize_name(each.name) for each in (*said.needed, *said.further)}
        for _ in range(_ROUNDS):
            if wanted and is_new:
                lock = await self._installer.lock(
                    sandbox, layer, wanted, said, why, allowed=(*allowed, *lock)
                )
            shown = await self.shown(sandbox, layer, lock)
            # A plugin would run in every test: only the task's own files ask for one.
            plugins = (each for each in shown.plugins if each in layer.plugins or each.distribution in named)
            try:
                return await work(replace(shown, plugins=tuple(plugins))), lock
            except MissingDependency as error:
                more = await asyncio.to_thread(self._installer.wanted, error.module, said)
                if more in wanted:
                    raise
                wanted, why, is_new = [*wanted, more], error.path, True
        raise MachineError(
            f"more than {_ROUNDS} packages turned out missing", "declare them in requirements.txt"
        )
