"""Temporary folders on the host that are named after their owner, so that a dead one's can be swept.

Standard library only, since the supervisor of a sandbox runs with nothing else.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from actors.sandbox.limits import started

PREFIX = "raysmith-box-"


def make_folder() -> Path:
    """A new folder that only this user can open."""
    name = f"{PREFIX}{os.getpid()}-{started(os.getpid())}-{secrets.token_hex(6)}"
    home = Path(tempfile.gettempdir(), name)
    home.mkdir(mode=0o700)
    return home


def remove_folder(path: str) -> None:
    """Remove a folder however deep what a task made there is: `shutil.rmtree` recurses, and gives up."""
    for command in (["/bin/rm", "-rf"], ["/bin/chmod", "-R", "u+rwx"], ["/bin/rm", "-rf"]):
        subprocess.run([*command, "--", path], check=False, stdin=subprocess.DEVNULL, capture_output=True)
        if not os.path.lexists(path):
            return


def sweep_folders() -> int:
    """Remove the folders of owners that are gone; how many went."""
    swept = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid, birth, *_ = [*folder.name.removeprefix(PREFIX).split("-"), ""]
        with suppress(OSError):
            if os.geteuid() in (0, folder.lstat().st_uid) and pid.isdigit() and started(int(pid)) != birth:
                remove_folder(str(folder))
                swept += 1
    return swept
