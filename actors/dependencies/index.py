"""A folder of wheels: which there are, and which modules each would bring. Nothing in them is run."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from orchestrator.errors import MachineError

_MOST_NAMES = 100_000
# Where neither the wheels nor the module's own name tell the distribution.
_KNOWN = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "git": "gitpython",
    "google.protobuf": "protobuf",
    "jose": "python-jose",
    "jwt": "pyjwt",
    "magic": "python-magic",
    "markdown_it": "markdown-it-py",
    "multipart": "python-multipart",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "psycopg2": "psycopg2-binary",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One file of the folder."""

    path: Path
    name: str
    version: str
    modules: frozenset[str]


def wheels(folder: str) -> tuple[Wheel, ...]:
    """The wheels of a folder; what is no wheel, an sdist above all, is not there.

    Raises:
        MachineError: The folder is not there.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise MachineError(f"dependencies.index is {folder!r}, which is no folder", "name a folder of wheels")
    return tuple(
        wheel
        for path in sorted(place.glob("*.whl"))
        if (wheel := _wheel(path, path.stat().st_mtime_ns)) is not None
    )


def distribution_of(module: str, known: tuple[Wheel, ...], allowed: frozenset[str]) -> str:
    """The canonical name of the distribution that provides a module, as well as it can be told.

    Allowed ones come first; a table of well-known names second; the module's own name last.
    """
    top = module.partition(".")[0]
    holders = sorted({wheel.name for wheel in known if top in wheel.modules})
    for name in holders:
        if name in allowed:
            return name
    named = canonicalize_name(_KNOWN.get(module, _KNOWN.get(top, top)))
    return holders[0] if holders and named not in holders else named


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4096)
def _wheel(path: Path, _changed: int) -> Wheel | None:
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            modules = frozenset(_modules(archive.namelist()[:_MOST_NAMES]))
    except (InvalidWheelFilename, zipfile.BadZipFile, OSError):
        return None
    return Wheel(path=path, name=name, version=str(version), modules=modules)


def _modules(names: list[str]) -> Iterator[str]:
    for name in names:
        parts = name.split("/")
        if parts[0].endswith(".data") and parts[1:2] in (["purelib"], ["platlib"]):
            parts = parts[2:]
        if parts and parts[0] and not parts[0].endswith((".dist-info", ".data", ".pth", ".libs")):
            yield parts[0].partition(".")[0]
