"""Chooses a provider for one request to a model: by role, difficulty, budget, context and health. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.steps import Allowance


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A provider as a choice.

    Attributes:
        name: In the configuration.
        tags: What rules and `auto:TAG` choose by; `strong` and `free` mean something without a rule.
        roles: Which it serves; none for all.
        prompt_usd: Price of a million prompt tokens, None where nobody knows.
        completion_usd: Price of a million reply tokens.
        context_tokens: Prompt and reply together, 0 where nobody knows.
        is_local: Runs on hardware of one's own, or answers from a file.
        resting: Why it is not to be asked just now, empty when it may be.
    """

    name: str
    tags: frozenset[str] = frozenset()
    roles: tuple[str, ...] = ()
    prompt_usd: float | None = None
    completion_usd: float | None = None
    context_tokens: int = 0
    is_local: bool = False
    resting: str = ""

    @property
    def is_free(self) -> bool:
        """Asking it costs nothing, or nothing more than what is there already."""
        return self.is_local or "free" in self.tags or self.prompt_usd == self.completion_usd == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """For some requests, whom to ask in order."""

    use: tuple[str, ...]
    """Names and tags of providers, the first one first; whoever is not named comes after them."""
    roles: tuple[str, ...] = ()
    """Of the agents that ask; none for all."""
    difficulty: str = ""
    """`normal` or `hard`; "" for both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be asked.

    Attributes:
        prompt_tokens: About.
        reply_tokens: At most.
        among: Name or tag of the providers to choose from, empty for all.
        testing: Prefer what costs nothing.
    """

    role: str
    is_hard: bool = False
    prompt_tokens: int = 0
    reply_tokens: int = 0
    left: Allowance = field(default_factory=Allowance)
    among: str = ""
    testing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Whom to ask, and why."""

    name: str
    why: str


def ranked(
    options: Sequence[Option], rules: Sequence[Rule], wanted: Wanted
) -> tuple[list[Choice], list[str]]:
    """Whom to ask, the best first, and why the others are not asked.

    A rule that fits goes first; then, for hard requests, `strong` ones; then the cheapest, as
    far as prices are known; then the order of the configuration.
    """
    refused = {option.name: reason for option in options if (reason := _against(option, wanted))}
    fit = [option for option in options if option.name not in refused and _is_among(option, wanted.among)]
    rule = next((rule for rule in rules if _fits(rule, wanted)), None)
    order = {option.name: number for number, option in enumerate(options)}
    best = sorted(fit, key=lambda option: (*_rank(option, rule, wanted), order[option.name]))
    choices = [
        Choice(name=option.name, why=f"{option.name}: {_why(option, rule, wanted, len(fit))}")
        for option in best
    ]
    return choices, [f"not {name}: {reason}" for name, reason in refused.items()]


def worst_usd(option: Option, wanted: Wanted) -> float | None:
    """Dollars that the request costs at most, None where the price is not known."""
    if option.is_free:
        return 0.0
    if option.prompt_usd is None or option.completion_usd is None:
        return None
    return (wanted.prompt_tokens * option.prompt_usd + wanted.reply_tokens * option.completion_usd) / 1e6


def _is_among(option: Option, among: str) -> bool:
    return not among or among == option.name or among in option.tags


def _against(option: Option, wanted: Wanted) -> str:
    """Why `option` cannot serve the request; empty when it can."""
    if not _is_among(option, wanted.among):
        return ""
    if option.roles and wanted.role not in option.roles:
        return f"it does not serve {wanted.role}"
    if option.resting:
        return option.resting
    if option.context_tokens and wanted.prompt_tokens >= option.context_tokens:
        return f"about {wanted.prompt_tokens} tokens do not fit into {option.context_tokens}"
    left, worst = wanted.left.cost_usd, worst_usd(option, wanted)
    if left is not None and worst is not None and worst > left:
        return f"it may cost ${worst:.4f} and ${max(0.0, left):.4f} are left"
    return ""


def _fits(rule: Rule, wanted: Wanted) -> bool:
    difficulty = "hard" if wanted.is_hard else "normal"
    return (not rule.roles or wanted.role in rule.roles) and rule.difficulty in ("", difficulty)


def _place(option: Option, rule: Rule | None) -> int:
    """Where the rule has it, 0 for its first; its length for whoever it does not name."""
    if rule is None:
        return 0
    named = (place for place, use in enumerate(rule.use) if use == option.name or use in option.tags)
    return next(named, len(rule.use))


def _rank(option: Option, rule: Rule | None, wanted: Wanted) -> tuple[float, ...]:
    worst = worst_usd(option, wanted)
    return (
        wanted.testing and not option.is_free,
        _place(option, rule),
        wanted.is_hard and "strong" not in option.tags,
        float("inf") if worst is None else worst,
    )


def _why(option: Option, rule: Rule | None, wanted: Wanted, among: int) -> str:
    reasons = []
    if wanted.testing:
        reasons.append("costs nothing, while testing" if option.is_free else "nothing free is left to ask")
    if rule is not None and _place(option, rule) < len(rule.use):
        reasons.append(f"the rule for {', '.join(rule.roles) or 'all roles'}")
    elif wanted.is_hard and "strong" in option.tags:
        reasons.append("strong, for a hard request")
    if not reasons:
        worst = worst_usd(option, wanted)
        price = "its price is not known" if worst is None else f"at most ${worst:.4f}"
        reasons.append(f"{price}, of {among} that fit" if among > 1 else "the only one that fits")
    return ", ".join(reasons)
