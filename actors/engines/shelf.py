"""The engines of one replica by the model's name, each made once and shared by all its agents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from actors.engines.faults import Key
from actors.engines.ledger import MeteredEngine
from actors.engines.names import ModelName, parse_model
from actors.engines.port import Engine
from actors.engines.settings import EndpointSettings, EngineSettings
from orchestrator.errors import EngineMissing

Keys = Callable[[ModelName], Key | None]


class EngineShelf:
    """Makes and keeps engines. Nothing is loaded or connected before an engine is asked.

    Args:
        settings: Of all kinds of engines.
        keys: Finds an endpoint's key.
        held: The model whose engine the replica group holds, "" for none: no other is loaded then.
    """

    def __init__(self, settings: EngineSettings, keys: Keys, *, held: str = "") -> None:
        self._settings = settings
        self._keys = keys
        self._held = held
        self._engines: dict[str, Engine] = {}

    def __call__(self, model: str) -> Engine:
        """The engine that serves `model`, metered.

        Raises:
            EngineMissing: None does.
            TaskError: The model's address is wrong.
        """
        if model not in self._engines:
            self._engines[model] = self._made(model, parse_model(model))
        return self._engines[model]

    async def start(self, model: str) -> None:
        """Have the engine of `model` ready for its first request.

        Raises:
            MachineError: It cannot be.
        """
        if parse_model(model).kind == "vllm":
            await self(model).check_health()

    async def close(self) -> None:
        """Close every engine."""
        engines, self._engines = list(self._engines.values()), {}
        for engine in engines:
            await engine.close()

    def _made(self, model: str, named: ModelName) -> Engine:
        if named.kind != "auto":
            price = self._settings.vllm.gpu_hour_usd if named.kind == "vllm" else 0.0
            return MeteredEngine(self._plain(model, named, self._settings.endpoint), gpu_hour_usd=price)
        providers = self._settings.providers
        if not providers:
            raise EngineMissing(
                "the model is `auto` and no `providers` are configured", "add one, or name a model"
            )
        from actors.engines.router import RoutedEngine

        return RoutedEngine(
            model,
            among=named.name,
            providers=providers,
            routing=self._settings.routing,
            engine=self._of_provider,
            reply_tokens=self._settings.sampling.max_tokens,
        )

    def _of_provider(self, name: str) -> MeteredEngine:
        key = f"provider:{name}"
        if key not in self._engines:
            provider = self._settings.providers[name]
            endpoint = replace(
                self._settings.endpoint,
                prompt_usd=provider.prompt_usd,
                cached_usd=provider.cached_usd or provider.prompt_usd,
                completion_usd=provider.completion_usd,
                context_tokens=provider.context_tokens,
            )
            model = f"{provider.base_url}#{provider.model}" if provider.base_url else provider.model
            self._engines[key] = MeteredEngine(
                self._plain(model, provider.parsed, endpoint),
                provider=name,
                gpu_hour_usd=provider.gpu_hour_usd,
            )
        engine = self._engines[key]
        assert isinstance(engine, MeteredEngine)
        return engine

    def _plain(self, model: str, named: ModelName, endpoint: EndpointSettings) -> Engine:
        if named.kind == "vllm" and self._held and model != self._held:
            raise EngineMissing(
                f"these replicas hold {self._held} and have no room for {model} beside it",
                "use the configured model, or configure the other one",
            )
        if named.kind == "recorded":
            from actors.engines.recorded import RecordedEngine

            return RecordedEngine.named(named.name)
        if named.kind == "endpoint":
            from actors.engines.openai import OpenAIEngine

            return OpenAIEngine(
                named,
                name=model,
                key=self._keys(named),
                endpoint=endpoint,
                sampling=self._settings.sampling,
            )
        from actors.engines.vllm import VllmEngine

        return VllmEngine(
            named.name, name=model, settings=self._settings.vllm, sampling=self._settings.sampling
        )
