"""The files of one forked run: its workspace in a memory file, pipes for its output and its records."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from actors.sandbox.port import Job
from actors.sandbox.process import pack

_PART = 1 << 16


class Pipes:
    """What this side and the fork share; `given` are the fork's ends in the order of a request."""

    def __init__(
        self, job: Job, placed: Callable[[bytes], bytes], *, output_bytes: int, record_bytes: int
    ) -> None:
        self._open: set[int] = set()
        payload = os.memfd_create("raysmith-run", os.MFD_CLOEXEC)
        self._open.add(payload)
        self.output, output = self._pipe()
        self.records, records = self._pipe()
        self.given = [payload, output, records]
        self.overflowed = False
        self._most = {self.output: output_bytes, self.records: record_bytes}
        self._taken = {self.output: bytearray(), self.records: bytearray()}
        with open(payload, "wb", closefd=False) as file:
            file.write(pack(job.tree))
            file.write(placed(job.stdin))
        os.lseek(payload, 0, os.SEEK_SET)

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def handed_over(self) -> None:
        """The fork has its ends: close ours of them, so that a pipe ends with the last process of the run."""
        self._close(*self.given)

    def take(self, fd: int) -> bool:
        """Read what is there; whether more may come."""
        taken = self._taken[fd]
        try:
            data = os.read(fd, _PART)
        except BlockingIOError:
            return True
        taken += data
        if len(taken) > self._most[fd]:
            del taken[self._most[fd] :]
            self.overflowed = True
        return bool(data)

    def drain(self) -> tuple[bytes, bytes]:
        """Output and records of a run that is over: nobody writes any more."""
        for fd in self._taken:
            os.set_blocking(fd, False)
            before = -1
            while not self.overflowed and len(self._taken[fd]) != before:
                before = len(self._taken[fd])
                self.take(fd)
        return bytes(self._taken[self.output]), bytes(self._taken[self.records])

    def close(self) -> None:
        """Close everything that is still open here."""
        self._close(*self._open)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def _close(self, *fds: int) -> None:
        for fd in fds:
            if fd in self._open:
                self._open.discard(fd)
                with contextlib.suppress(OSError):
                    os.close(fd)
