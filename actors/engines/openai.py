"""Models behind an OpenAI-compatible endpoint: OpenRouter, OpenAI, a vLLM server, ray.serve.llm."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from actors.engines.answers import Answer, BadAnswer, read_answer
from actors.engines.breaker import Breaker
from actors.engines.faults import Fault, Faults, Key
from actors.engines.names import ModelName
from actors.engines.pauses import pause_s
from actors.engines.port import Measure, Message, Reply, Sampling, Structured, Unusable
from actors.engines.repetition import REPETITION, period_of, without_copies
from actors.engines.settings import EndpointSettings, SamplingSettings, drawn_as
from orchestrator.errors import AgentError, EngineDown, RaysmithError
from orchestrator.steps import Usage

log = structlog.get_logger()

# Characters in a token, at the low end for code: a wrong estimate asks for too little, not for too much.
CHARACTERS_PER_TOKEN = 3
MESSAGE_TOKENS = 16
TOO_MANY = 429
# What an endpoint may refuse and can be asked without, by the words of its refusal.
_LEFT_OUT = {
    "n": r"['\"`]n['\"`]|\bn (must|is|should|>)|parameter:? n\b",
    "response_format": r"response_format|json_schema|structured|schema",
    "extra_body": r"structured_outputs|extra|unknown|unrecognized",
    "seed": r"\bseed\b",
}


class OpenAIEngine:
    """Asks one endpoint for one model. Every request ends in bounded time and tries."""

    kind = "openai"
    continues = False
    """Whether it goes on from a last message of the assistant's: known of vLLM's own server only."""

    def __init__(
        self,
        model: ModelName,
        *,
        name: str,
        key: Key | None,
        endpoint: EndpointSettings | None = None,
        sampling: SamplingSettings | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._model = model
        self._key = key
        self._settings = endpoint or EndpointSettings()
        self._sampling = sampling or SamplingSettings()
        self._chance = chance
        self._client: Any = None
        self._room: int | None = self._settings.context_tokens or None
        # A server of one's own is asked all the same: whether it is vLLM's.
        self._room_is_known = self._room is not None and model.needs_key
        self._not_taken: set[str] = set()
        self._breaker = Breaker(self._settings.breaker_failures, self._settings.breaker_rest_s)
        self._faults = Faults(where=f"{name} at {model.url}", model=model, key=key, settings=self._settings)

    async def complete(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None = None
    ) -> Reply:
        """The model's next turn; a busy, broken or silent endpoint is asked again."""
        asked = sampling or Sampling()
        tries = 0
        while True:
            tries += 1
            request = self._request(messages, asked)
            self._check_rest()
            try:
                async with self._told():
                    answer = await self._ask(request)
                self._breaker.succeeded()
            except Fault as fault:
                self._heard(fault)
                if messages[-1].role == "assistant" and fault.status in (400, 422):
                    self.continues = False
                    raise AgentError(fault.error.message, "ask it to say the end again") from fault
                if self._learnt(fault, request):
                    continue
                if not fault.again or tries > self._settings.retries:
                    raise self._paid(fault, tries) from fault.__cause__
                await self._pause(fault, tries, role)
                continue
            usage = replace(self._priced(answer.usage), retries=tries - 1)
            text, reason = answer.text, answer.finish_reason
            if reason != "stop" and (period := period_of(text, self._sampling.repetition_characters)):
                text, reason = without_copies(text, period), REPETITION
            return Reply(text=text, usage=usage, finish_reason=reason, others=answer.others)

    async def measure(self, messages: Sequence[Message]) -> Measure:
        """An estimate by characters; the room as configured, else as the endpoint's model list tells it."""
        if not self._room_is_known:
            with contextlib.suppress(Fault):
                told = await self._told_room()
                self._room = self._room or told
                self._room_is_known = True
        characters = sum(len(message.content) for message in messages)
        prompt = characters // CHARACTERS_PER_TOKEN + MESSAGE_TOKENS * len(messages)
        return Measure(prompt=prompt, room=self._room)

    async def check_health(self) -> None:
        """Ask the endpoint for its models, once."""
        try:
            async with self._told():
                await self._connected().models.list()
        except Fault as fault:
            raise fault.error from fault.__cause__

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @contextlib.asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        """Whatever goes wrong inside becomes a `Fault`; what takes too long is cut off."""
        try:
            # The SDK's import is not the endpoint's time.
            self._connected()
            async with asyncio.timeout(self._settings.timeout_s):
                yield
        except RaysmithError as error:
            raise Fault(error) from error.__cause__
        except Exception as error:
            raise self._faults.of(error) from error

    def _request(self, messages: Sequence[Message], asked: Sampling) -> dict[str, Any]:
        drawn = drawn_as(self._sampling, asked)
        if messages[-1].role == "assistant":
            drawn["extra_body"] = {"continue_final_message": True, "add_generation_prompt": False}
        if self._model.needs_new_names and "max_tokens" in drawn:
            drawn["max_completion_tokens"] = drawn.pop("max_tokens")
        wanted = {**drawn, **self._form(asked.structured)}
        return {
            "model": self._model.name,
            "messages": [{"role": each.role, "content": each.content} for each in messages],
            **{name: value for name, value in wanted.items() if name not in self._not_taken},
        }

    def _heard(self, fault: Fault) -> None:
        # Who is busy, or refuses, is there all the same.
        if fault.again and fault.status != TOO_MANY:
            self._breaker.failed()
        else:
            self._breaker.succeeded()

    def _check_rest(self) -> None:
        if left := self._breaker.enter():
            raise EngineDown(
                f"{self._faults.where} failed {self._settings.breaker_failures} times in a row "
                f"and is left alone for {left:.0f} s",
                "look at the endpoint, or use another model",
            )

    def _form(self, structured: Structured | None) -> dict[str, Any]:
        """JSON in OpenAI's words; the other forms only vLLM's server knows, which has no name of its own."""
        if structured is None:
            return {}
        kind = structured.kind
        if kind == "json":
            schema = {"name": "reply", "schema": dict(structured.json or {}), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        if self._model.needs_key:
            return {}
        return {"extra_body": {"structured_outputs": {kind: getattr(structured, kind)}}}

    def _learnt(self, fault: Fault, request: Mapping[str, Any]) -> bool:
        """Whether the endpoint refuses what can be left out; it is left out from now on."""
        if fault.status not in (400, 422):
            return False
        refused = [
            name
            for name, words in _LEFT_OUT.items()
            if name in request and re.search(words, fault.error.message, re.IGNORECASE)
        ]
        self._not_taken.update(refused)
        for name in refused:
            log.warning("engine_does_without", engine=self.name, field=name, reason=fault.error.message)
        return bool(refused)

    def _paid(self, fault: Fault, tries: int) -> RaysmithError:
        error = fault.error
        if isinstance(error, Unusable):
            usage = replace(self._priced(fault.usage), retries=tries - 1, requests=1)
            return Unusable(error.message, error.next_move, usage)
        if isinstance(error, EngineDown):
            error.retries = tries - 1
        return error

    def _connected(self) -> Any:
        if self._client is None:
            from openai import AsyncOpenAI, Timeout

            if self._key is None and self._model.needs_key:
                raise EngineDown(
                    f"{self.name} needs a key, and {self._model.key_variable} is not set for the agents",
                    "set it where the factory starts, or name its file in endpoint.key_file",
                )
            client = AsyncOpenAI(
                api_key=self._key.secret if self._key else "none",
                base_url=self._model.url,
                timeout=Timeout(self._settings.timeout_s, connect=self._settings.connect_timeout_s),
                max_retries=0,
            )
            # The SDK takes these from the environment, whomever it talks to.
            client.organization = client.project = None
            self._client = client
        return self._client

    async def _ask(self, request: dict[str, Any]) -> Answer:
        limit = self._settings.reply_kib * 1024
        body = bytearray()
        completions = self._connected().chat.completions
        async with completions.with_streaming_response.create(**request) as response:
            async for part in response.iter_bytes():
                body += part
                if len(body) > limit:
                    raise BadAnswer(f"more than {self._settings.reply_kib} KiB")
        return read_answer(bytes(body))

    async def _pause(self, fault: Fault, tries: int, role: str) -> None:
        wait_s = pause_s(tries, fault.after_s, self._settings.longest_pause_s, self._chance())
        log.warning(
            "engine_asked_again",
            engine=self.name,
            role=role,
            tries=tries,
            wait_s=round(wait_s, 2),
            reason=fault.error.message,
        )
        await asyncio.sleep(wait_s)

    def _priced(self, usage: Usage) -> Usage:
        prices = self._settings
        if not (prices.prompt_usd or prices.cached_usd or prices.completion_usd):
            return usage
        fresh = max(0, usage.prompt - usage.cached) * prices.prompt_usd
        rest = usage.cached * prices.cached_usd + usage.completion * prices.completion_usd
        return replace(usage, cost_usd=(fresh + rest) / 1_000_000)

    async def _told_room(self) -> int | None:
        """As vLLM's model list (`max_model_len`) or OpenRouter's (`context_length`) tells it."""
        async with self._told():
            listed = await self._connected().models.list()
        for model in getattr(listed, "data", None) or ():
            if getattr(model, "id", None) == self._model.name:
                self.continues = getattr(model, "owned_by", None) == "vllm"
                told = getattr(model, "max_model_len", None) or getattr(model, "context_length", None)
                return told if isinstance(told, int) and told > 0 else None
        return None
