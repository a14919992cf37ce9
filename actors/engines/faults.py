"""What can go wrong with an endpoint, in our words. The errors of the SDK and of HTTP become ours here.

Whatever the endpoint says is shown on one short line and without the key.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from actors.engines.answers import BadAnswer, told
from actors.engines.names import ModelName
from actors.engines.pauses import retry_after_s
from actors.engines.port import Unusable
from actors.engines.settings import EndpointSettings
from orchestrator.errors import EngineDown, PromptTooLong, RaysmithError
from orchestrator.steps import Usage

SHOWN_CHARACTERS = 300
_BUSY = frozenset({408, 409, 425, 429})
_TOO_LONG = re.compile(
    r"context.?(length|window)|maximum context|(prompt|input).{0,20} too (long|large)|too many tokens",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An endpoint's key and where it was found; it never shows in a representation."""

    secret: str
    source: str

    def __repr__(self) -> str:
        return f"Key(source={self.source!r})"


class Fault(Exception):
    """One try failed.

    Attributes:
        error: It in our words.
        again: Whether another try may help.
        after_s: When the endpoint says to come.
        status: Of HTTP, 0 for none.
        usage: What the try cost all the same.
    """

    def __init__(
        self,
        error: RaysmithError,
        *,
        again: bool = False,
        after_s: float | None = None,
        status: int = 0,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.again = again
        self.after_s = after_s
        self.status = status
        self.usage = usage or Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Tells the faults of one endpoint apart."""

    where: str
    model: ModelName
    key: Key | None
    settings: EndpointSettings

    def of(self, error: Exception) -> Fault:
        """`error`, raised while the endpoint was asked."""
        import httpx2
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        if isinstance(error, BadAnswer):
            return self._answer(error)
        if isinstance(error, APIStatusError):
            reason = told(error.body) or error.message
            return self._status(error.status_code, reason, error.response.headers.get("retry-after"))
        if isinstance(error, APITimeoutError | httpx2.TimeoutException | TimeoutError):
            return self._silence()
        cause = error.__cause__ if isinstance(error, APIConnectionError) and error.__cause__ else error
        said = f"{self.where} cannot be reached: {self.shown(f'{type(cause).__name__}: {cause}')}"
        return Fault(EngineDown(said, "start it, or mend the address in --model"), again=True)

    def shown(self, text: str) -> str:
        """`text` of the endpoint on one line, short, and without the key."""
        if self.key:
            text = text.replace(self.key.secret, "[key]")
        return " ".join(text.split())[:SHOWN_CHARACTERS] or "no reason"

    def _silence(self) -> Fault:
        said = f"{self.where} gave no whole answer within {self.settings.timeout_s:g} s"
        return Fault(EngineDown(said, "look at the endpoint, or raise endpoint.timeout_s"), again=True)

    def _status(self, status: int, reason: str, after: str | None = None) -> Fault:
        said = f"{self.where} answered {status}: {self.shown(reason)}"
        if status in _BUSY or status >= 500:
            return self._busy(said, retry_after_s(after, time.time()), status)
        if status == 413 or _TOO_LONG.search(reason):
            return Fault(PromptTooLong(said, "set endpoint.context_tokens"))
        key = self.key.source if self.key else self.model.key_variable
        next_moves = {
            401: f"check the key in {key}",
            403: f"check what the key in {key} may do",
            402: "top up the account, or use another model",
            404: f"check the address and that it serves {self.model.name!r}",
        }
        next_move = next_moves.get(status, "check the model's name and sampling")
        return Fault(EngineDown(said, next_move), status=status)

    def _busy(self, said: str, after_s: float | None, status: int) -> Fault:
        if after_s is not None and after_s > self.settings.longest_pause_s:
            said += f" (and asks to wait {after_s:.0f} s)"
            next_move = "try again then, use another model, or raise endpoint.longest_pause_s"
            return Fault(EngineDown(said, next_move), status=status)
        error = EngineDown(said, "try again later, or use another model")
        return Fault(error, again=True, after_s=after_s, status=status)

    def _answer(self, answer: BadAnswer) -> Fault:
        if answer.status >= 400:
            return self._status(answer.status, answer.reason)
        said = f"{self.where} answered with {self.shown(answer.reason)}"
        if answer.is_protocol:
            return Fault(EngineDown(said, "check that the address speaks chat completions"), again=True)
        return Fault(Unusable(said, "ask again, or use another model"), usage=answer.usage)
