"""Takes packages out of an install sandbox: plain files only, written through descriptors."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from actors.beneath import Beneath, check_path
from orchestrator.errors import SandboxError, TaskError
from orchestrator.tree import File, FileMode

_MOST_FILES, _MOST_BYTES, _DEEPEST = 50_000, 2 << 30, 32


def unpack(archive: bytes, folder: Path) -> None:
    """Write what an archive holds below `folder`.

    A `.pth` file is left out: Python would run it wherever the folder is a site's.

    Raises:
        SandboxError: It holds anything but files and folders, leaves the folder, or is too much.
    """
    files = size = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|gz") as members, Beneath(folder) as place:
            for member in members:
                name = member.name.removeprefix("./")
                if member.isdir():
                    continue
                files, size = files + 1, size + member.size
                if not member.isreg() or files > _MOST_FILES or size > _MOST_BYTES:
                    raise SandboxError(
                        f"the installed packages hold {name!r}, which is no plain file or too much"
                    )
                if len(PurePosixPath(check_path(name)).parts) > _DEEPEST:
                    raise SandboxError(f"the installed packages hold {name!r}, which lies too deep")
                if not name.endswith(".pth"):
                    _write(place, name, members.extractfile(member), bool(member.mode & 0o100))
    except (tarfile.TarError, zlib.error, EOFError, OSError, TaskError) as error:
        raise SandboxError(f"the installed packages cannot be taken over: {error}") from error


def _write(place: Beneath, name: str, source: IO[bytes] | None, executable: bool) -> None:
    content = source.read() if source is not None else b""
    mode = FileMode.EXECUTABLE if executable else FileMode.FILE
    place.place(place.stage(name, File(content=content, mode=mode), None), name)
