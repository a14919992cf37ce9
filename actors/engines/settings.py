"""How engines are asked and started. The defaults fit a remote endpoint and one GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.engines.port import Sampling
from actors.engines.providers import ProviderSettings, RoutingSettings, check_roles
from orchestrator.errors import TaskError


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How replies are drawn where an agent does not say."""

    temperature: float | None = 0.2
    """0 for the likeliest token every time, None for the model's own way."""
    top_p: float | None = None
    """Share of the likeliest tokens to draw from, None for the model's own way."""
    max_tokens: int = 8192
    """Tokens of one reply at most."""
    repetition_characters: int = 2000
    """A reply is cut when so long an end of it is one thing said at least four times over; 0 for never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """How OpenAI-compatible endpoints are asked."""

    key_file: str = ""
    """File that holds the endpoint's key; "" for the key in the environment of the replicas."""
    connect_timeout_s: float = 10.0
    """Longest wait for a connection."""
    timeout_s: float = 300.0
    """Longest wait for one whole reply."""
    retries: int = 5
    """How often one request is sent again after a busy, broken or silent answer."""
    longest_pause_s: float = 60.0
    """Longest pause between two tries; an endpoint that asks for a longer one is taken for down."""
    reply_kib: int = 2048
    """Largest answer that is read."""
    context_tokens: int = 0
    """Context of the model, prompt and reply together; 0 for what the endpoint says."""
    prompt_usd: float = 0.0
    """Price of a million prompt tokens; 0 for what the endpoint says."""
    cached_usd: float = 0.0
    """Price of a million prompt tokens that the endpoint had cached."""
    completion_usd: float = 0.0
    """Price of a million reply tokens."""
    breaker_failures: int = 10
    """Tries in a row that may fail before an endpoint is left alone; 0 never leaves it alone."""
    breaker_rest_s: float = 30.0
    """How long it is left alone then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings:
    """How vLLM is started inside a replica."""

    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of AsyncEngineArgs under vLLM's own names, such as max_model_len."""
    start_timeout_s: float = 1200.0
    """Longest wait for the weights to be loaded."""
    gpu_hour_usd: float = 0.0
    """Price of an hour of one GPU, for the cost of a run."""
    lora: Mapping[str, str] = field(default_factory=dict)
    """By role, the folder of the LoRA adapter that it is asked through; other roles ask the model itself."""
    memory_timeout_s: float = 120.0
    """Longest wait for the memory of an engine that was there before."""
    probe_every_s: float = 60.0
    """How often an engine that owes a reply is asked for one token, to see whether it hangs; 0 for never."""
    probe_timeout_s: float = 60.0
    """How long it may take over that token; then it is ended and started again."""

    def __post_init__(self) -> None:
        if "model" in self.args:
            raise TaskError("`vllm.args.model` is set", "name the model with `model: vllm:PATH`")
        check_roles(tuple(self.lora), "`vllm.lora`")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Where text comes from."""

    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    vllm: VllmSettings = field(default_factory=VllmSettings)
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    routing: RoutingSettings = field(default_factory=RoutingSettings)


def drawn_as(settings: SamplingSettings, asked: Sampling) -> dict[str, Any]:
    """What an agent asked for over what is configured; the smaller bound on tokens holds.

    `structured` is not in it: every engine says that in words of its own. Nor is what no engine is asked for.
    """
    wanted = {name: getattr(asked, name) for name in ("temperature", "top_p", "max_tokens", "seed")}
    wanted["n"] = asked.n if asked.n > 1 else None
    configured = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
    }
    drawn = configured | {name: value for name, value in wanted.items() if value is not None}
    if asked.max_tokens is not None:
        drawn["max_tokens"] = max(1, min(asked.max_tokens, settings.max_tokens))
    return {name: value for name, value in drawn.items() if value is not None}
