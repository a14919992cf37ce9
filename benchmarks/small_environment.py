"""An environment with few packages, copied out of the one that this runs in: nothing is downloaded."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def made_in(folder: Path, *roots: str) -> Path:
    """The interpreter of a new environment in `folder` that holds `roots` and all they require.

    Without roots: FastAPI with its test client, and pytest.
    """
    place = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    site = next(place.glob("lib/python*/site-packages"))
    for found in closure(*(roots or ("fastapi", "httpx2", "pytest"))):
        for name in {file.parts[0] for file in found.files or () if file.parts[0] != ".."} - {"__pycache__"}:
            source, target = Path(str(found.locate_file(name))), site / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)
    return place / "bin" / "python"


def closure(*roots: str) -> list[Distribution]:
    """The installed distributions of `roots` and of everything they require here."""
    left, found = list(roots), {}
    while left:
        name = left.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            if name in roots:
                raise
            continue
        wanted = [Requirement(text) for text in found[key].requires or ()]
        left += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return list(found.values())
