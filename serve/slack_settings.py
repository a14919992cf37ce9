"""Where and how the factory talks to Slack."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

_CHANNEL_ID = re.compile(r"[CGD][A-Z0-9]{5,20}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


# Checked one by one: an error about the section as a whole would show the token.
def _channel(value: str) -> str:
    if value and not _CHANNEL_ID.fullmatch(value):
        raise ValueError("a channel's id, such as C0123456789, from the channel's details in Slack")
    return value


def _address(value: str) -> str:
    address = urlsplit(value)
    if address.scheme != "https" and address.hostname not in _LOOPBACK:
        raise ValueError("an https address, since the token travels to it")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackSettings:
    """Where and how the factory talks to Slack; off without a token."""

    token: SecretStr = field(default_factory=lambda: SecretStr(""))
    """Bot token, given as RAYSMITH_SLACK__TOKEN only."""
    token_file: str = ""
    """File that holds the token, such as a mounted secret; read again when Slack refuses it."""
    channel: Annotated[str, AfterValidator(_channel)] = ""
    """Id of the channel, such as C0123456789."""
    base_url: Annotated[str, AfterValidator(_address)] = "https://slack.com/api/"
    """Where Slack's Web API is."""
    timeout_s: float = 10.0
    """How long Slack may take to answer."""
    edit_every_s: float = 2.0
    """How long a message stays as it is at least before it is edited or answered again."""
    pace_s: float = 1.0
    """Seconds per message, all threads together; a few may come at once."""
    recheck_s: float = 300.0
    """How often a token or channel that Slack refused is tried again."""
    flush_s: float = 5.0
    """How long a command that ends its factory waits for what is still to be told."""

    @property
    def is_on(self) -> bool:
        """Whether there is a token to talk with."""
        return bool(self.token.get_secret_value() or self.token_file)
