"""One engine out of many providers: each request goes to the best that is well, and on to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import structlog

from actors.engines.breaker import Breaker
from actors.engines.ledger import MeteredEngine, current
from actors.engines.names import ModelName
from actors.engines.openai import CHARACTERS_PER_TOKEN, MESSAGE_TOKENS
from actors.engines.port import Measure, Message, Reply, Sampling
from actors.engines.providers import ProviderSettings, RoutingSettings
from orchestrator.errors import BudgetSpent, EngineDown, MachineError, PromptTooLong
from orchestrator.routing import Choice, Option, Wanted, ranked
from orchestrator.steps import Allowance

log = structlog.get_logger()

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RoutedEngine:
    """Chooses by `orchestrator.routing`, and falls back in its order when a provider cannot serve.

    Args:
        name: The model as `--model` names it.
        among: Name or tag of the providers to choose from, empty for all.
        providers: By name, in the order of the configuration.
        routing: The rules.
        engine: Makes the metered engine of a provider.
        reply_tokens: Of a request that names no bound of its own.
    """

    kind = "auto"

    def __init__(
        self,
        name: str,
        *,
        among: str,
        providers: Mapping[str, ProviderSettings],
        routing: RoutingSettings,
        engine: Callable[[str], MeteredEngine],
        reply_tokens: int,
    ) -> None:
        self.name = name
        self._among = among
        self._providers = providers
        self._routing = routing
        self._engine = engine
        self._reply_tokens = reply_tokens
        self._breakers = {each: Breaker(routing.failures, routing.rest_s) for each in providers}
        self._down: dict[str, str] = {}

    async def complete(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None = None
    ) -> Reply:
        """The next turn, by the first provider that can give one.

        Raises:
            BudgetSpent: No provider is cheap enough for what is left.
            EngineDown: None can be asked; the message says of each why.
        """
        ledger = current()
        ledger.check()
        choices, passed = self._choices(role, messages, sampling)
        too_long: PromptTooLong | None = None
        for choice in choices:
            breaker = self._breakers[choice.name]
            if left := breaker.enter():
                # Somebody else is trying whether it is back.
                passed.append(f"not {choice.name}: left alone for {left:.0f} s")
                continue
            try:
                reply = await self._engine(choice.name).complete(
                    role, messages, sampling, why="; ".join([choice.why, *passed])
                )
            except PromptTooLong as error:
                too_long = error
                passed.append(f"not {choice.name}: {error.message}")
            except MachineError as error:
                breaker.failed()
                self._down[choice.name] = error.message
                passed.append(f"not {choice.name}: {error.message}")
                log.warning("provider_passed_over", provider=choice.name, role=role, reason=error.message)
            else:
                breaker.succeeded()
                return reply
        if too_long is not None:
            raise too_long
        reasons = "; ".join(passed) or f"none is called or tagged {self._among!r}"
        if passed and all("are left" in reason for reason in passed):
            raise BudgetSpent(f"no provider fits into what is left: {reasons}", "raise budget.cost_usd")
        raise EngineDown(
            f"no provider can serve {role}: {reasons}", "see to one of them, or add one to `providers`"
        )

    async def measure(self, messages: Sequence[Message]) -> Measure:
        """By the provider that would be asked first, for any role."""
        choices, _ = self._choices("", messages, None)
        for choice in choices:
            with contextlib.suppress(MachineError):
                measure = await self._engine(choice.name).measure(messages)
                room = self._providers[choice.name].context_tokens or measure.room
                measure = Measure(prompt=measure.prompt, room=room)
                break
        else:
            measure = Measure(prompt=_tokens(messages))
        current().measured(messages, measure)
        return measure

    async def check_health(self) -> None:
        """Whether any provider is well.

        Raises:
            EngineDown: None is; the message says of each why.
        """
        reasons = []
        for name in self._providers:
            try:
                await self._engine(name).check_health()
                return
            except MachineError as error:
                reasons.append(f"{name}: {error.message}")
        raise EngineDown(f"no provider is well: {'; '.join(reasons)}", "see to one of them")

    async def close(self) -> None:
        """Its engines are closed by whoever made them."""

    def _choices(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None
    ) -> tuple[list[Choice], list[str]]:
        ledger = current()
        asked = sampling.max_tokens if sampling and sampling.max_tokens else self._reply_tokens
        wanted = Wanted(
            role=str(role),
            is_hard=ledger.attempt >= self._routing.hard_from_attempt,
            prompt_tokens=_tokens(messages),
            reply_tokens=min(asked, self._reply_tokens) * (sampling.n if sampling else 1),
            left=ledger.left if role else Allowance(),
            among=self._among,
            testing=self._routing.testing,
        )
        options = [self._option(name, each, role) for name, each in self._providers.items()]
        return ranked(options, self._routing.rules, wanted)

    def _option(self, name: str, provider: ProviderSettings, role: str) -> Option:
        model = provider.parsed
        prices = (provider.prompt_usd, provider.completion_usd)
        is_known = any(prices)
        left = self._breakers[name].resting_s
        return Option(
            name=name,
            tags=frozenset(provider.tags) | ({"free"} if model.name.endswith(":free") else frozenset()),
            # Whoever measures asks for no role.
            roles=provider.roles if role else (),
            prompt_usd=prices[0] if is_known else None,
            completion_usd=prices[1] if is_known else None,
            context_tokens=provider.context_tokens,
            is_local=is_local(model),
            resting=f"left alone for {left:.0f} s: {self._down.get(name, 'it failed')}" if left else "",
        )


def is_local(model: ModelName) -> bool:
    """Whether it runs on this machine, or answers from a file."""
    return model.kind in ("vllm", "recorded") or urlsplit(model.url).hostname in LOOPBACK


def _tokens(messages: Sequence[Message]) -> int:
    characters = sum(len(message.content) for message in messages)
    return characters // CHARACTERS_PER_TOKEN + MESSAGE_TOKENS * len(messages)
