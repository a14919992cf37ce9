"""One request to vLLM: how it is put, and what comes of it increment by increment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.engines.port import Reply, Sampling, Unusable
from actors.engines.repetition import REPETITION, period_of, without_copies
from orchestrator.steps import Usage

# Often enough to cut an endless reply early, seldom enough to cost nothing.
INTERVAL_TOKENS = 32


def params(drawn: Mapping[str, Any], asked: Sampling, room: int) -> Any:
    """vLLM's SamplingParams.

    Args:
        drawn: As `drawn_as` gives it.
        asked: Holds the form of the reply.
        room: Tokens that the context has left for it.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    limits = {**drawn, "max_tokens": min(drawn["max_tokens"], room)}
    if limits.get("temperature") == 0:
        # The likeliest turn is one turn; vLLM refuses to draw it more than once.
        limits.pop("n", None)
    return SamplingParams(
        output_kind=RequestOutputKind.DELTA,
        stream_interval=INTERVAL_TOKENS,
        structured_outputs=_structured(asked),
        **limits,
    )


def _structured(asked: Sampling) -> Any:
    if asked.structured is None:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    kind = asked.structured.kind
    value = getattr(asked.structured, kind)
    given = list(value) if kind == "choice" else dict(value) if kind == "json" else value
    # Small models write white space for ever where the grammar lets them.
    return StructuredOutputsParams(**{kind: given}, disable_any_whitespace=kind == "json")


@dataclass(slots=True)
class _Turn:
    text: str = ""
    tokens: int = 0
    finish_reason: str = ""
    period: int = 0


class Drawing:
    """What a request has drawn so far, of one turn or several.

    Args:
        prompt: Its tokens.
        turns: How many are drawn.
        repetition_characters: See `SamplingSettings`.
    """

    def __init__(self, prompt: int, turns: int, repetition_characters: int) -> None:
        self._prompt = prompt
        self._wanted = turns
        self._characters = repetition_characters
        self._turns: dict[int, _Turn] = {}
        self._cached = 0

    def take(self, output: Any) -> None:
        """One more of vLLM's RequestOutputs, which holds what is new."""
        self._cached = max(self._cached, output.num_cached_tokens or 0)
        for new in output.outputs:
            turn = self._turns.setdefault(new.index, _Turn())
            turn.text += new.text
            turn.tokens += len(new.token_ids)
            turn.finish_reason = new.finish_reason or ""
            turn.period = period_of(turn.text, self._characters)

    @property
    def is_endless(self) -> bool:
        """Whether whatever is still being drawn only repeats itself."""
        open_turns = [turn for turn in self._turns.values() if not turn.finish_reason]
        return (
            len(self._turns) == self._wanted and any(open_turns) and all(turn.period for turn in open_turns)
        )

    def usage(self, gpu_s: float) -> Usage:
        """What it has cost by now."""
        made = sum(turn.tokens for turn in self._turns.values())
        return Usage(prompt=self._prompt, completion=made, cached=self._cached, gpu_s=gpu_s, requests=1)

    def reply(self, name: str, gpu_s: float) -> Reply:
        """The turns that hold something, those that ended by themselves first.

        Raises:
            Unusable: None does.
        """
        ended = [_ended(turn) for _, turn in sorted(self._turns.items())]
        drawn = sorted((each for each in ended if each[0].strip()), key=lambda each: each[1] != "stop")
        usage = self.usage(gpu_s)
        if not drawn:
            raise Unusable(f"{name} gave an empty reply", "ask again, or use another model", usage)
        (text, reason), *others = drawn
        return Reply(text=text, usage=usage, finish_reason=reason, others=tuple(each for each, _ in others))


def _ended(turn: _Turn) -> tuple[str, str]:
    """A turn's text and why it ended."""
    if turn.period and turn.finish_reason != "stop":
        return without_copies(turn.text, turn.period), REPETITION
    return turn.text, turn.finish_reason or "stop"
