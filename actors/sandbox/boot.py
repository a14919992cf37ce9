"""First process inside a sandbox: trusted, standard library only.

Reads the workspace from its standard input, writes it, sets the limits that only a process inside
can set, tells the supervisor that the sandbox stands, and becomes the process asked for. What is
left on standard input belongs to that process.

Arguments: the work folder, four limits (processes, file bytes, open files, 1 to set them), `--`, argv.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path


def read(count: int) -> bytes:
    """Exactly `count` bytes, never one more."""
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 20))
        if not part:
            raise SystemExit("the workspace ended early")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def unpack(work: str) -> None:
    """Write the files that come in; links last, so that nothing is written through one."""
    listing = json.loads(read(int.from_bytes(read(4), "big")))
    links = []
    for name, mode, size in listing:
        content = read(size)
        path = Path(work, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "link":
            links.append((content, path))
            continue
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o755 if mode == "executable" else 0o644), "wb") as file:
            file.write(content)
    for target, path in links:
        path.symlink_to(os.fsdecode(target))


def limit(processes: int, file_bytes: int, open_files: int) -> None:
    """Hard limits: what runs from here on cannot raise them."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for what, value in (
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, open_files),
    ):
        hard = resource.getrlimit(what)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (bound, bound))


def main() -> None:
    """Unpack, limit, report, become."""
    split = sys.argv.index("--")
    work, processes, file_bytes, open_files, limited = sys.argv[1:split]
    unpack(work)
    os.chdir(work)
    if limited == "1":
        limit(int(processes), int(file_bytes), int(open_files))
    os.write(3, b"ready\n")
    command = sys.argv[split + 1 :]
    os.execv(command[0], command)  # noqa: S606 - becoming it is the point


if __name__ == "__main__":
    main()
