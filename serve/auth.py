"""API keys: 256 random bits, shown once, kept as SHA-256. Nothing here ever logs or stores a key itself."""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path

from orchestrator.errors import StoreError, TaskError

_PREFIX = "rsk"
_FILE = "api_keys.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAMES = "use letters, digits, dot, dash and underscore"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A revoked key is refused everywhere after this long.
_FRESH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is kept of a key: `id` is the part of it that may be shown, `sha256` is of the whole.

    Attributes:
        tenant: Whose runs it submits and may see; None for the operator, who sees all.
    """

    id: str
    sha256: str
    name: str = ""
    created_at: str = ""
    tenant: str | None = None

    @property
    def entry(self) -> str:
        """As RAYSMITH_API_KEYS takes it."""
        return f"{self.id}{f'@{self.tenant}' if self.tenant else ''}:{self.sha256}"


class KeyFile:
    """The keys of one RAYSMITH_HOME, in a file that only its user can read."""

    def __init__(self, home: Path) -> None:
        self.path = home / _FILE

    def create(self, name: str, tenant: str | None = None) -> tuple[str, Key]:
        """A new key, and what was stored of it; the key itself cannot be shown again.

        Raises:
            TaskError: `name` or `tenant` has other characters than names have.
            StoreError: The file cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise TaskError(f"{name!r} cannot name a key", _NAMES)
        if tenant is not None and not _NAME.fullmatch(tenant):
            raise TaskError(f"{tenant!r} cannot name a tenant", _NAMES)
        key_id = secrets.token_hex(4)
        text = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        key = Key(id=key_id, sha256=digest(text), name=name, created_at=now, tenant=tenant)
        with self._locked():
            self._write([*self.keys(), key])
        return text, key

    def revoke(self, key_id: str) -> Key:
        """Forget the key with this id.

        Raises:
            TaskError: There is none.
            StoreError: The file cannot be written.
        """
        with self._locked():
            keys = self.keys()
            for key in keys:
                if key.id == key_id:
                    self._write([each for each in keys if each is not key])
                    return key
        raise TaskError(f"there is no key {key_id!r}", "`raysmith keys list` shows them")

    def keys(self) -> list[Key]:
        """All keys, the oldest first.

        Raises:
            StoreError: The file cannot be read, or is no such file.
        """
        try:
            return [Key(**each) for each in json.loads(self.path.read_text())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                f"{self.path} cannot be read: {error}", "mend it, or delete it and make new keys"
            ) from error

    def _write(self, keys: list[Key]) -> None:
        passing = self.path.with_suffix(f".{secrets.token_hex(4)}")
        descriptor = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as out:
                json.dump([asdict(key) for key in keys], out, indent=2)
                out.flush()
                os.fsync(out.fileno())
            passing.replace(self.path)
        finally:
            passing.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written: {error.strerror}", "make RAYSMITH_HOME writable"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Keyring:
    """Says whose a presented key is. A key that was revoked is refused within a second or two."""

    def __init__(self, home: Path, variable: str = "") -> None:
        """Keys of `home` and of `variable`, the text of RAYSMITH_API_KEYS.

        Raises:
            TaskError: `variable` holds something that is no hash.
        """
        self._file = KeyFile(home)
        self._fixed = parse_variable(variable)
        self._read: list[Key] = []
        self._read_at = float("-inf")

    def whose(self, presented: str) -> Key | None:
        """The key that `presented` is; every known hash is compared, each in constant time."""
        asked = digest(presented)
        found = None
        for key in self._keys():
            if compare_digest(key.sha256, asked):
                found = key
        return found

    @property
    def is_empty(self) -> bool:
        """There is no key at all, so that nobody can come in."""
        return not self._keys()

    def _keys(self) -> list[Key]:
        if time.monotonic() - self._read_at > _FRESH_S:
            self._read = self._file.keys()
            self._read_at = time.monotonic()
        return [*self._fixed, *self._read]


def digest(key: str) -> str:
    """The SHA-256 that is kept of a key. It has 256 random bits, so there is nothing to slow down."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def parse_variable(text: str) -> tuple[Key, ...]:
    """The keys in RAYSMITH_API_KEYS: `ID:SHA256` or `ID@TENANT:SHA256` each, with commas or spaces between.

    Raises:
        TaskError: Something in it is not of that form; it is not repeated, it might be a key.
    """
    keys = []
    for number, word in enumerate(text.replace(",", " ").split(), 1):
        named, _, sha256 = word.rpartition(":")
        key_id, at, tenant = named.partition("@")
        if not _DIGEST.fullmatch(sha256) or (at and not _NAME.fullmatch(tenant)):
            raise TaskError(
                f"entry {number} of RAYSMITH_API_KEYS is not ID:SHA256 or ID@TENANT:SHA256",
                "take the entry that `raysmith keys create` prints, not the key itself",
            )
        keys.append(Key(id=key_id or sha256[:8], sha256=sha256, tenant=tenant or None))
    return tuple(keys)


def bearer(header: str) -> str | None:
    """The key in an Authorization header of scheme Bearer, None for another scheme."""
    scheme, _, value = header.partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def basic(header: str) -> str | None:
    """The password in an Authorization header of scheme Basic: what a browser's own prompt sends."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None
