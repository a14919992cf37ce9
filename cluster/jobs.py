"""Ray's job API for one cluster, from outside of it: hand in, follow, tell how it ended.

The job's status decides, never the end of a log. The one module that meets that API's errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.connect import present_token
from orchestrator.errors import MachineError, TaskError

KNOCK_S = 5.0
# A dashboard that restarts, or a connection that broke, is waited for this long.
PATIENCE_S = 60.0
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """How a job stands: `status` in Ray's words, `exit_code` of its command once that has ended."""

    status: str
    message: str = ""
    exit_code: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Jobs:
    """The jobs of the cluster whose dashboard is at `address`."""

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            TaskError: That is no address.
            MachineError: No Ray dashboard answers there, or it refuses us.
        """
        self.address = _checked(address)
        present_token()
        from ray.job_submission import JobSubmissionClient

        # It tells what it uploads and why a tail ended; what matters of that is told here.
        logging.getLogger("ray").setLevel(logging.ERROR)
        with _told(self.address):
            self._client = JobSubmissionClient(self.address)

    def submit(self, entrypoint: str, folder: Path, *, job_id: str, metadata: Mapping[str, str]) -> None:
        """Hand in the shell command `entrypoint`, to run in a copy of `folder` on the head.

        Raises:
            MachineError: It was not accepted.
        """
        with _told(self.address):
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=job_id,
                runtime_env={"working_dir": str(folder)},
                metadata=dict(metadata),
            )

    def state(self, job_id: str) -> JobState:
        """How the job stands.

        Raises:
            MachineError: The cluster cannot be asked, or does not know it.
        """
        with _told(self.address):
            info = self._client.get_job_info(job_id)
        return JobState(
            status=str(getattr(info.status, "value", info.status)),
            message=info.message or "",
            exit_code=info.driver_exit_code,
        )

    def log(self, job_id: str) -> str:
        """All that the job has printed; raises as `state` does."""
        with _told(self.address):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, show: Callable[[str], None]) -> JobState:
        """Give what the job prints to `show`, each character once, until it is over.

        Raises:
            MachineError: The cluster did not answer for a minute. The job goes on.
        """
        seen = 0

        def tell(text: str) -> None:
            nonlocal seen
            seen += len(text)
            show(text)

        while True:
            # Whatever ends the tail, the status decides.
            with contextlib.suppress(Exception):
                asyncio.run(self._tail(job_id, seen, tell))
            state: JobState = self._patiently(self.state, job_id)
            if state.is_over:
                tell(self._patiently(self.log, job_id)[seen:])
                return state
            time.sleep(_PAUSE_S)

    def stop(self, job_id: str) -> None:
        """Ask the job to stop; raises as `state` does."""
        with _told(self.address):
            self._client.stop_job(job_id)

    async def _tail(self, job_id: str, skip: int, tell: Callable[[str], None]) -> None:
        # A tail always begins at the beginning.
        async for chunk in self._client.tail_job_logs(job_id):
            fresh, skip = chunk[skip:], max(0, skip - len(chunk))
            if fresh:
                tell(fresh)

    def _patiently(self, ask: Callable[[str], Any], job_id: str) -> Any:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask(job_id)
            except MachineError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(_PAUSE_S)


def _checked(address: str) -> str:
    """`address` as the URL of a dashboard; whether anybody listens there is known at once."""
    url = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        host = None
    if not host or parts.username or parts.query:
        raise TaskError(
            f"{_without_user(address)!r} is not the address of a Ray dashboard",
            "write http://HOST:8265; of a token, RAY_AUTH_TOKEN",
        )
    try:
        socket.create_connection((host, port), timeout=KNOCK_S).close()
    except OSError as error:
        raise _unreachable(url, error) from error
    return url


def _without_user(address: str) -> str:
    return address.rpartition("@")[2].partition("?")[0]


def _unreachable(address: str, error: object) -> MachineError:
    return MachineError(
        f"no Ray dashboard answers at {address} ({error})",
        "name the cluster's with --address http://HOST:8265; a cluster has one where Ray was started with it",
    )


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """Errors of the job API in our words."""
    from ray.exceptions import AuthenticationError
    from requests import RequestException

    try:
        yield
    except AuthenticationError as error:
        raise MachineError(
            f"{address} asks for a token, and none or another one was shown",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's",
        ) from error
    except (RequestException, ConnectionError, OSError) as error:
        raise _unreachable(address, error) from error
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:500]
        raise MachineError(
            f"the cluster at {address} refused: {reason}", "check the address and the job"
        ) from error
