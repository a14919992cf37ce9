"""Calls to Ray actors: what they return, and Ray's errors as ours."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import Awaitable
from typing import Any

from orchestrator.errors import AgentError, RaysmithError, ReplicaLost

# Above this, a payload goes to the object store once instead of with every call.
LARGE_PAYLOAD_BYTES = 100_000


class Unreachable(ReplicaLost):
    """Ray could not reach an actor; `certain` when it is dead for good."""

    def __init__(self, message: str, next_move: str = "", *, certain: bool = False) -> None:
        super().__init__(message, next_move)
        self.certain = certain


async def report_lost(scheduler: Any, replica: str, error: Unreachable) -> bool | None:
    """Tell the scheduler; None when the replica lives, else whether its steps are to blame."""
    blame: bool | None = await answered(
        scheduler.report_lost.remote(replica, error.message, certain=error.certain)
    )
    return blame


async def answered(reference: Awaitable[Any]) -> Any:
    """What a Ray call returned; errors of ours as they were raised, Ray's as ours.

    Raises:
        ReplicaLost: The actor is dead or cannot be reached.
        AgentError: The call failed in a way that is not ours, for example with a result that cannot be sent.
    """
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

    try:
        return await reference
    except RayTaskError as error:
        if isinstance(error.cause, Unreachable):
            # Whom the other side could not reach is not the one that we called.
            raise ReplicaLost(error.cause.message, error.cause.next_move) from None
        if isinstance(error.cause, RaysmithError):
            raise error.cause from None
        raise AgentError(f"a remote call failed: {error.cause!r}", "see the replica's log") from error
    except ActorDiedError as error:
        raise Unreachable(_told(error), certain=True) from error
    except (ActorUnavailableError, RayError) as error:
        raise Unreachable(_told(error)) from error


def _told(error: Exception) -> str:
    """Ray's reason in a line: the sentence after the actor's particulars."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return (lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__)[:300]


def packed(payload: object) -> Any:
    """A reference for what is large, so that a retry does not send it again."""
    if len(pickle.dumps(payload, protocol=5)) <= LARGE_PAYLOAD_BYTES:
        return payload
    import ray

    return ray.put(payload)


async def in_every_case(cleanup: Awaitable[Any]) -> None:
    """Finish `cleanup` although this task is being cancelled; errors in it are the scheduler's to mend."""
    task = asyncio.ensure_future(cleanup)
    with contextlib.suppress(RaysmithError):
        await asyncio.shield(task)
