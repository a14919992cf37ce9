"""The wiring: the one module that knows every concrete class."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.steps import Role

if TYPE_CHECKING:
    from actors.engines.shelf import EngineShelf
    from serve.config import Config

AGENTS = "serve.bootstrap:build_agents"


async def build_agents(roles: Collection[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """The agents of a replica by role; called in the replica's own process.

    Where the group holds an engine it is up when this returns.

    Args:
        roles: Of the replica group.
        config: Plain JSON values, as `agents_config` gives them; of a group with an engine also
            that engine's key as `engine`.
    """
    engines = _engines(config)
    if config.get("engine") and config["model"]:
        await engines.start(config["model"])
    return {role: _AGENTS[Role(role)](config, engines) for role in roles}


def agents_config(config: Config) -> dict[str, Any]:
    """What agents are built from, as plain values that cross Ray whatever code the other side runs."""
    return {
        "sandbox": as_json(config.sandbox),
        "dependencies": as_json(config.dependencies),
        "repair": as_json(config.repair),
        "reply": as_json(config.reply),
        "search": as_json(config.search),
        "shell": as_json(config.shell),
        "sampling": as_json(config.sampling),
        "endpoint": as_json(config.endpoint),
        "vllm": as_json(config.vllm),
        "providers": {name: as_json(each) for name, each in config.providers.items()},
        "routing": as_json(config.routing),
        # A replica that holds an engine loads its weights before it takes work.
        "model": config.model if any(group.engine for group in config.fleet) else "",
    }


def _engines(config: Mapping[str, Any]) -> EngineShelf:
    from pydantic import TypeAdapter

    from actors.engines.providers import ProviderSettings, RoutingSettings
    from actors.engines.settings import (
        EndpointSettings,
        EngineSettings,
        SamplingSettings,
        VllmSettings,
    )
    from actors.engines.shelf import EngineShelf
    from serve.secrets import endpoint_key

    settings = EngineSettings(
        sampling=SamplingSettings(**config["sampling"]),
        endpoint=EndpointSettings(**config["endpoint"]),
        vllm=VllmSettings(**config["vllm"]),
        providers=TypeAdapter(dict[str, ProviderSettings]).validate_python(config["providers"]),
        routing=TypeAdapter(RoutingSettings).validate_python(config["routing"]),
    )
    held = config["model"] if config.get("engine") else ""
    return EngineShelf(settings, lambda model: endpoint_key(model, settings.endpoint.key_file), held=held)


def _runner(config: Mapping[str, Any], _engines: EngineShelf) -> Any:
    from actors.dependencies.settings import DependencySettings
    from actors.runner import Runner
    from actors.sandbox.settings import SandboxSettings

    return Runner(SandboxSettings(**config["sandbox"]), DependencySettings(**config["dependencies"]))


def _repairer(config: Mapping[str, Any], engines: EngineShelf) -> Any:
    from actors.formats import ReplySettings
    from actors.model_repairer import ModelRepairer
    from actors.portfolio import MODEL, SEARCH, SHELL, Portfolio
    from actors.repairer import SearchRepairer
    from actors.search.settings import SearchSettings
    from actors.shell.repairer import ShellRepairer
    from actors.shell.settings import ShellSettings

    agents, samples = config["repair"]["agents"], config["repair"]["samples"]
    return Portfolio(
        SearchRepairer(SearchSettings(**config["search"])) if SEARCH in agents else None,
        ModelRepairer(engines, ReplySettings(**config["reply"]), samples=samples)
        if MODEL in agents
        else None,
        ShellRepairer(engines, ShellSettings(**config["shell"])) if SHELL in agents else None,
    )


def _coder(config: Mapping[str, Any], engines: EngineShelf) -> Any:
    from actors.formats import ReplySettings
    from actors.shell.coder import ShellCoder
    from actors.shell.settings import ShellSettings

    return ShellCoder(engines, ShellSettings(**config["shell"]), ReplySettings(**config["reply"]))


def _tester(config: Mapping[str, Any], engines: EngineShelf) -> Any:
    from actors.formats import ReplySettings
    from actors.tester import Tester

    return Tester(engines, ReplySettings(**config["reply"]))


def _planner(_config: Mapping[str, Any], engines: EngineShelf) -> Any:
    from actors.planner import Planner

    return Planner(engines)


def _reviewer(_config: Mapping[str, Any], engines: EngineShelf) -> Any:
    from actors.reviewer import Reviewer

    return Reviewer(engines)


_AGENTS = {
    Role.RUN: _runner,
    Role.REPAIR: _repairer,
    Role.CODE: _coder,
    Role.TEST: _tester,
    Role.PLAN: _planner,
    Role.REVIEW: _reviewer,
}


def new_life() -> str:
    """A name for a factory's time from start to end."""
    return f"life-{uuid.uuid4().hex[:12]}"


def as_json(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain values that cross Ray whatever code the other side runs."""
    return dataclasses.asdict(settings)
