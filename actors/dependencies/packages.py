"""What a task is profiled with: its declared packages, then one after the other that turns out missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from packaging.utils import canonicalize_name

from actors.dependencies.declared import declared, unmet
from actors.dependencies.installer import Installer, Lock, NotAllowed
from actors.dependencies.settings import DependencySettings
from actors.judge.profile import MissingDependency
from actors.sandbox.layer import Layer
from actors.sandbox.port import Sandbox
from orchestrator.errors import MachineError
from orchestrator.steps import PackagesAsked, Profiled, ProfileRequest
from orchestrator.verdict import TestProfile, TestRun

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
        if not self._installer.is_on:
            return await profiled(layer)
        said = declared(request.tree, layer)
        wanted, why = unmet(said.needed, layer), "the task"
        named = {canonicalize_name(each.name) for each in (*said.needed, *said.further)}
        lock: Lock = ()
        for _ in range(_ROUNDS):
            try:
                if wanted:
                    lock = await self._installer.lock(
                        sandbox, layer, wanted, said, why, allowed=request.allowed
                    )
                shown = await self.shown(sandbox, layer, lock)
                # A plugin would run in every test: only the task's own files ask for one.
                plugins = (
                    each for each in shown.plugins if each in layer.plugins or each.distribution in named
                )
                found = await profiled(replace(shown, plugins=tuple(plugins)))
                return replace(found, profile=replace(found.profile, packages=lock))
            except NotAllowed as error:
                asks = PackagesAsked(packages=error.packages, why=why)
                return Profiled(profile=TestProfile(expected={}), run=TestRun(), asks=asks)
            except MissingDependency as error:
                more = await asyncio.to_thread(self._installer.wanted, error.module, said)
                if more in wanted:
                    raise
                wanted, why = [*wanted, more], error.path
        raise MachineError(
            f"more than {_ROUNDS} packages turned out missing", "declare them in requirements.txt"
        )
