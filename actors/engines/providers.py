"""Providers by name, and how one of them is chosen for a request."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from actors.engines.names import KEY_OF_URLS, ModelName, parse_model
from orchestrator.errors import RaysmithError, TaskError
from orchestrator.routing import Rule
from orchestrator.steps import Role

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One provider of the pool that `--model auto` chooses from."""

    model: str = ""
    """As `--model` names one; with `base_url` the endpoint's own name for it."""
    base_url: str = ""
    """Address of an OpenAI-compatible endpoint, as in http://10.0.0.5:8000/v1."""
    key_variable: str = ""
    """Environment variable that holds its key, where it is another than the provider's usual one."""
    key_file: str = ""
    """File that holds its key; it goes before the variable."""
    prompt_usd: float = 0.0
    """Price of a million prompt tokens."""
    cached_usd: float = 0.0
    """Price of a million prompt tokens that it had cached; 0 for the price of the others."""
    completion_usd: float = 0.0
    """Price of a million reply tokens."""
    gpu_hour_usd: float = 0.0
    """Price of an hour of one GPU, where that is what is paid for."""
    context_tokens: int = 0
    """Prompt and reply together; 0 for what it says itself."""
    tags: tuple[str, ...] = ()
    """What rules and `auto:TAG` choose by; `strong` is preferred for hard requests, `free` while testing."""
    roles: tuple[str, ...] = ()
    """Roles that it serves; none for all."""

    def __post_init__(self) -> None:
        if not self.model:
            raise TaskError("a provider in `providers` names no model", "give its `model`")
        check_roles(self.roles, "a provider's `roles`")
        if self.key_variable and not _VARIABLE.fullmatch(self.key_variable):
            # What stands there may be the key itself.
            raise TaskError(
                "a provider's `key_variable` is not the name of an environment variable",
                "put the key into a variable and name that",
            )
        try:
            kind = self.parsed.kind
        except RaysmithError as error:
            raise TaskError(f"a provider's model: {error.message}", error.next_move) from error
        if kind == "auto":
            raise TaskError("a provider's model is `auto`", "name one model")

    @property
    def parsed(self) -> ModelName:
        """Its model taken apart."""
        model = parse_model(f"{self.base_url}#{self.model}" if self.base_url else self.model)
        variable = self.key_variable or model.key_variable
        needs_key = model.needs_key or bool(self.key_variable)
        # The key of `endpoint.key_file` is no provider's unless nothing else is said.
        key_file = self.key_file or ("" if self.key_variable or variable != KEY_OF_URLS else None)
        return replace(model, key_variable=variable, needs_key=needs_key, key_file=key_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingSettings:
    """How `--model auto` chooses among `providers`."""

    rules: tuple[Rule, ...] = ()
    """Whom to ask first for which roles and difficulty; the first rule that fits counts."""
    hard_from_attempt: int = 3
    """Attempt of the repair loop from which on its requests count as hard."""
    testing: bool = False
    """Prefer providers that are free or local (RAYSMITH_TESTING=1)."""
    failures: int = 1
    """Requests in a row that a provider may fail before it is left alone."""
    rest_s: float = 30.0
    """How long it is left alone then, in seconds."""

    def __post_init__(self) -> None:
        for rule in self.rules:
            check_roles(rule.roles, "`routing.rules`")
            if rule.difficulty not in ("", "normal", "hard"):
                raise TaskError(
                    f"`routing.rules` has difficulty {rule.difficulty!r}", "use normal, hard or nothing"
                )


def check_roles(roles: tuple[str, ...], where: str) -> None:
    """Refuse what is no role.

    Raises:
        TaskError: One is not.
    """
    for role in roles:
        if role not in set(Role):
            raise TaskError(f"{where} names {role!r}, which is no role", f"use {', '.join(Role)}")
