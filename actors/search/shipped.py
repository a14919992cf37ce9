"""The files that a sandbox needs to run the search worker: by name, to be laid side by side."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

#: What to start: `python -I -B worker.py`, its siblings beside it or in `inside/`.
WORKER = _HERE / "worker.py"


def shipped() -> dict[str, Path]:
    """File name to where it is now; all of them go into one folder."""
    return {path.name: path for path in [WORKER, *sorted((_HERE / "inside").glob("*.py"))]}
