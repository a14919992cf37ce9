"""A snapshot of a folder held in memory: relative path to content. It never touches a disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar


class FileMode(StrEnum):
    """What kind of entry a path is; `LINK` content is the link's target."""

    FILE = "file"
    EXECUTABLE = "executable"
    LINK = "link"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file's bytes. A link's bytes are its target, relative and inside the tree."""

    # Bytes that are no text survive JSON; read by pydantic (`orchestrator/codec.py`).
    __pydantic_config__: ClassVar[dict[str, str]] = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}

    content: bytes
    mode: FileMode = FileMode.FILE

    @property
    def digest(self) -> str:
        """SHA-256 of the content, 64 hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """An immutable mapping of POSIX paths, relative to the snapshot's root, to files.

    Paths hold no empty, `.` or `..` component and no leading slash; whoever builds a tree from
    an untrusted source checks that first (`actors/workspace.py`, `orchestrator/patch.py`).
    """

    files: Mapping[str, File] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of the manifest: the same for two trees exactly when they hold the same files."""
        lines = [[path, file.mode, file.digest] for path, file in sorted(self.files.items())]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()

    def with_files(self, changes: Mapping[str, File | None]) -> Tree:
        """A tree with `changes` laid over this one; None removes a path."""
        merged = {**self.files, **changes}
        return Tree(files={path: file for path, file in merged.items() if file is not None})

    def changes_to(self, other: Tree) -> dict[str, File | None]:
        """What turns this tree into `other`, None for a path that goes."""
        changed: dict[str, File | None] = {
            path: file for path, file in other.files.items() if self.files.get(path) != file
        }
        changed.update({path: None for path in self.files if path not in other.files})
        return changed
