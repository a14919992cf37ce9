"""Wheels for tests that install packages."""

from __future__ import annotations

import zipfile
from pathlib import Path


def wheel(
    folder: Path, name: str, version: str = "1.0", *, needs: tuple[str, ...] = (), **files: str
) -> Path:
    """A wheel that pip takes; keys of `files` have `__` for a dot and `___` for a slash."""
    info = f"{name}-{version}.dist-info"
    content = {key.replace("___", "/").replace("__", "."): text for key, text in files.items()}
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {each}\n" for each in needs
    )
    content[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in {**content, f"{info}/RECORD": record}.items():
            archive.writestr(place, text)
    return path
