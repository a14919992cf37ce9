"""The search worker: started as `python -I -B worker.py` in the work folder of a sandbox.

It finds its other modules beside itself or in `inside/`, loads them under a name no task uses, and serves
the UNIX stream socket whose descriptor is in RAYSMITH_CHANNEL_FD.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import types
from pathlib import Path


def main() -> None:
    """Serve until the channel closes."""
    fd = int(os.environ.pop("RAYSMITH_CHANNEL_FD"))
    os.environ.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONDONTWRITEBYTECODE="1")
    os.set_inheritable(fd, False)
    channel = socket.socket(fileno=fd)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    here = Path(__file__).resolve().parent
    package = types.ModuleType("_raysmith_inside")
    inside = here / "inside"
    package.__path__ = [str(inside if inside.is_dir() else here)]
    sys.modules[package.__name__] = package
    importlib.import_module("_raysmith_inside.top").serve(channel)


if __name__ == "__main__":
    main()
