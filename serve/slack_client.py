"""The one seam to Slack's Web API: what its answers mean for a message that is to be there once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.async_handler import AsyncRetryHandler
from slack_sdk.http_retry.builtin_async_handlers import (
    AsyncRateLimitErrorRetryHandler,
    AsyncServerErrorRetryHandler,
)
from slack_sdk.web.async_client import AsyncWebClient

from serve.slack_settings import SlackSettings
from serve.slack_text import blocks, plain

# What a message carries so that it can be found again.
EVENT_TYPE = "raysmith_effect"
_RETRIES = 2
_PAGES = 20
# Slack's clock and ours may differ by this much.
_SKEW_S = 300.0
_TRY_AGAIN = frozenset(
    {"fatal_error", "internal_error", "service_unavailable", "request_timeout", "team_added_to_org"}
)
_FIXES: Mapping[str, str] = {
    "missing_scope": "give the app the scopes chat:write and channels:history (groups:history if private)",
    "not_in_channel": "invite the app to the channel",
    "channel_not_found": "set `slack.channel` to the id of a channel that the app is in",
    "is_archived": "set `slack.channel` to a channel that is not archived",
    "restricted_action": "let the app post to the channel",
    "no_text": "report this",
}
_TOKEN_FIX = "give a valid bot token as RAYSMITH_SLACK__TOKEN or in the file `slack.token_file` names"  # noqa: S105
_OF_THE_TOKEN = frozenset(
    {
        "invalid_auth",
        "not_authed",
        "account_inactive",
        "token_revoked",
        "token_expired",
        "no_permission",
        "org_login_required",
        "ekm_access_denied",
        "access_denied",
        "not_allowed_token_type",
        "invalid_token",
    }
)
_OF_THE_CHANNEL = frozenset(_FIXES) - {"no_text"}


class NotSent(Exception):
    """Nothing happened; try again, after `retry_after_s` at the earliest."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason, retry_after_s)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.reason


class Unsure(Exception):
    """It may have happened or not: look before trying again."""


class Refused(Exception):
    """This message will never be taken; others may. `code` is Slack's word for why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Misconfigured(Exception):
    """Nothing goes until an operator acts."""

    def __init__(self, code: str, fix: str) -> None:
        super().__init__(code, fix)
        self.code = code
        self.fix = fix

    def __str__(self) -> str:
        return f"Slack refuses: {self.code}; {self.fix}"


class SlackChannel:
    """One channel of Slack.

    Posts are never repeated on a server error or a lost connection, as edits and reads are: the
    message may be there already.
    """

    def __init__(self, settings: SlackSettings, token: Callable[[], str]) -> None:
        self._settings = settings
        self._token = token
        self.channel = settings.channel

    async def post(self, text: str, *, key: str, thread: tuple[str, str] | None = None) -> tuple[str, str]:
        """Post `text`, in the thread of a message if given; the channel and ts of the new message."""
        channel, thread_ts = thread or (self.channel, None)
        if not channel:
            raise Misconfigured("no channel", "set `slack.channel`")
        answer = await self._ask(
            "chat_postMessage",
            repeats=False,
            elsewhere=channel != self.channel,
            channel=channel,
            thread_ts=thread_ts,
            text=text,
            blocks=blocks(text),
            metadata={"event_type": EVENT_TYPE, "event_payload": {"key": key}},
            unfurl_links=False,
            unfurl_media=False,
        )
        return answer["channel"], answer["ts"]

    async def edit(self, message: tuple[str, str], text: str, *, key: str) -> None:
        """Make a message say `text`."""
        channel, ts = message
        metadata = {"event_type": EVENT_TYPE, "event_payload": {"key": key}}
        await self._ask(
            "chat_update",
            elsewhere=channel != self.channel,
            channel=channel,
            ts=ts,
            text=text,
            blocks=blocks(text),
            metadata=metadata,
        )

    async def find(
        self, key: str, around: float, *, channel: str = "", thread: tuple[str, str] | None = None
    ) -> tuple[str, str] | None:
        """The message that carries `key` and was posted at about `around`, in seconds of the epoch."""
        where, method = channel or self.channel, "conversations_history"
        # A post may have waited for as long as Slack had asked it to.
        window = {"oldest": f"{around - _SKEW_S:.6f}", "latest": f"{around + 3600:.6f}"}
        named: dict[str, Any] = dict(window)
        if thread is not None:
            where, method, named["ts"] = thread[0], "conversations_replies", thread[1]
        cursor: str | None = None
        for _ in range(_PAGES):
            answer = await self._ask(
                method, channel=where, include_all_metadata=True, limit=200, cursor=cursor, **named
            )
            for message in answer["messages"]:
                if _key_of(message) == key:
                    return where, message["ts"]
            cursor = (answer.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                break
        return None

    async def check(self) -> str:
        """Who the token is and that it can read the channel, in a line."""
        if not self.channel:
            raise Misconfigured("no channel", "set `slack.channel`")
        who = await self._ask("auth_test")
        await self._ask("conversations_history", channel=self.channel, limit=1)
        return f"{who.get('user')} of {who.get('team')} in {self.channel}"

    async def _ask(
        self, method: str, *, repeats: bool = True, elsewhere: bool = False, **arguments: Any
    ) -> Mapping[str, Any]:
        client = self._client(repeats)
        try:
            answer = await getattr(client, method)(**arguments)
        except SlackApiError as error:
            meaning = _meaning(error)
            if elsewhere and isinstance(meaning, Misconfigured) and meaning.code in _OF_THE_CHANNEL:
                # A thread in a channel of an earlier configuration: that thread alone is out of reach.
                meaning = Refused(meaning.code)
            raise meaning from error
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"{self._settings.base_url} cannot be reached") from error
        except (SlackClientError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unsure(f"{type(error).__name__} from {self._settings.base_url}") from error
        if not isinstance(answer.data, dict):
            raise Unsure(f"no JSON from {self._settings.base_url}")
        return answer.data

    def _client(self, repeats: bool) -> AsyncWebClient:
        handlers: list[AsyncRetryHandler] = [AsyncRateLimitErrorRetryHandler(max_retry_count=_RETRIES)]
        if repeats:
            handlers.append(AsyncServerErrorRetryHandler(max_retry_count=_RETRIES))
        token = self._token()
        if not token:
            raise Misconfigured("no token", _TOKEN_FIX)
        return AsyncWebClient(
            token=token,
            base_url=self._settings.base_url,
            # Slack's type says int; aiohttp takes any number of seconds.
            timeout=self._settings.timeout_s,  # type: ignore[arg-type]
            retry_handlers=handlers,
        )


def _key_of(message: Mapping[str, Any]) -> str | None:
    metadata = message.get("metadata") or {}
    if metadata.get("event_type") != EVENT_TYPE:
        return None
    key: str | None = (metadata.get("event_payload") or {}).get("key")
    return key


def _meaning(error: SlackApiError) -> Exception:
    answer = error.response
    status: int = getattr(answer, "status_code", None) or getattr(answer, "status", None) or 0
    data = getattr(answer, "data", None)
    code = str(data.get("error", "")) if isinstance(data, dict) else ""
    if status == 429 or code in ("ratelimited", "rate_limited"):
        return NotSent("Slack asks to slow down", _retry_after_s(answer))
    if code in _OF_THE_TOKEN:
        return Misconfigured(code, _TOKEN_FIX)
    if code in _OF_THE_CHANNEL:
        return Misconfigured(code, _FIXES[code])
    if status >= 500 or not code or code in _TRY_AGAIN:
        return Unsure(f"Slack answers {status} {plain(code, 60)}".rstrip())
    return Refused(plain(code, 60))


def _retry_after_s(answer: Any) -> float:
    headers = getattr(answer, "headers", None) or {}
    found = next((value for name, value in headers.items() if name.lower() == "retry-after"), 1)
    try:
        return float(found[0] if isinstance(found, list) else found)
    except ValueError:
        return 1.0
