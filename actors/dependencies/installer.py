"""Brings packages that a task lacks into a layer of their own, keyed by its lock, reused by later runs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from actors.dependencies.collect import unpack
from actors.dependencies.declared import Declared
from actors.dependencies.index import Wheel, distribution_of, sha256, wheels
from actors.dependencies.inside import INDEX, PIP
from actors.dependencies.settings import DependencySettings, Unknown
from actors.sandbox.folders import remove_folder
from actors.sandbox.layer import ENV, Layer, with_packages
from actors.sandbox.port import Completed, Job, Sandbox
from orchestrator.errors import MachineError, SandboxError
from orchestrator.verdict import RunEnd

_INSIDE = Path(__file__).with_name("inside.py")
_MOUNT = "/opt/raysmith"
Lock = tuple[str, ...]


class Refused(MachineError):
    """A package is not installed, by policy or because no wheel of it is at hand."""

    code = "missing_dependency"


class NotAllowed(Exception):
    """Wheels that nobody has allowed, of which a person may be asked; `why` says who needs them."""

    def __init__(self, packages: Lock, why: str) -> None:
        super().__init__(packages, why)
        self.packages = packages
        self.why = why


class Installer:
    """Resolves and installs from the configured folder. A lock has one line a wheel: name, version, hash."""

    def __init__(self, settings: DependencySettings) -> None:
        self.settings = settings

    @property
    def is_on(self) -> bool:
        """Whether a folder of wheels is configured."""
        return bool(self.settings.index)

    async def lock(
        self,
        sandbox: Sandbox,
        layer: Layer,
        wanted: Sequence[Requirement],
        said: Declared,
        why: str,
        *,
        allowed: Lock = (),
    ) -> Lock:
        """The wheels that `wanted` takes, everything they need included.

        Args:
            sandbox: Where pip runs.
            layer: Of the task's interpreter.
            wanted: Requirements to meet.
            said: Versions that the task's files ask for.
            why: Who needs them, for messages.
            allowed: Wheels that a person allowed.

        Raises:
            Refused: A distribution is not allowed, or no wheel fits.
            NotAllowed: It takes wheels that a person would have to allow.
        """
        known = await asyncio.to_thread(wheels, self.settings.index)
        self._check((each.name for each in wanted), known, why)
        asked = {
            "wanted": [str(each) for each in wanted],
            "constraints": [f"{each.name}{each.specifier}" for each in (*said.needed, *said.further)],
            "lock": [],
        }
        done = await sandbox.run(self._job(layer, asked))
        if done.exit_code != 0:
            raise Refused(
                f"{why} needs {', '.join(asked['wanted'])}, which cannot be resolved: {_last_error(done)}",
                f"put wheels that fit into {self.settings.index}",
            )
        chosen = {urllib.parse.unquote(name) for name in _told(done)}
        taken = [wheel for wheel in known if wheel.path.name in chosen]
        if len(taken) != len(chosen):
            raise SandboxError(f"pip chose {sorted(chosen)}, which are not all in {self.settings.index}")
        self._check((wheel.name for wheel in taken), known, why)
        lines = await asyncio.to_thread(lambda: {_line(wheel): wheel for wheel in sorted(taken, key=_line)})
        unknown = [line for line, wheel in lines.items() if wheel.name not in self.settings.names]
        if any(line not in allowed for line in unknown):
            raise NotAllowed(tuple(unknown), why)
        return tuple(lines)

    async def layer(self, sandbox: Sandbox, layer: Layer, lock: Lock) -> Layer:
        """`layer` with the locked packages, installed now unless an earlier run did.

        Raises:
            Refused: The folder of wheels no longer holds what was locked.
        """
        if not lock:
            return layer
        key = hashlib.sha256(json.dumps([layer.version, lock]).encode()).hexdigest()[:32]
        kept = self.settings.kept_in() / key
        if not kept.is_dir():
            if not self.is_on:
                raise Refused(
                    f"this run was locked to {', '.join(lock)}",
                    "set dependencies.index to a folder that has them",
                )
            done = await sandbox.run(self._job(layer, {"lock": list(lock)}))
            if done.exit_code != 0 or done.end is not RunEnd.EXITED:
                raise Refused(
                    f"the locked packages cannot be installed: {_last_error(done)}", "see the wheels"
                )
            await asyncio.to_thread(_keep, done.records, kept)
        return with_packages(layer, kept)

    def wanted(self, module: str, said: Declared) -> Requirement:
        """The requirement that would bring an absent module, at the version that the task's files ask for."""
        known = wheels(self.settings.index)
        name = distribution_of(module, known, self.settings.names)
        return next(iter(said.about(name)), Requirement(name))

    def _check(self, names: Iterable[str], known: tuple[Wheel, ...], why: str) -> None:
        """Refuse what policy does not allow, before anything of it is opened.

        Where a person may be asked, pip reads metadata first: the question is about files.
        """
        asked = sorted({canonicalize_name(name) for name in names})
        unknown = [name for name in asked if name not in self.settings.names]
        if unknown and self.settings.unknown is Unknown.REFUSE:
            raise Refused(
                f"{why} needs {', '.join(unknown)}, which dependencies.allow does not name",
                "add it there once a person has looked at it, or set dependencies.unknown to park",
            )
        if absent := [name for name in asked if name not in {wheel.name for wheel in known}]:
            raise Refused(
                f"{why} needs {', '.join(absent)}, of which {self.settings.index} holds no wheel",
                "put one there; source distributions are never used",
            )

    def _job(self, layer: Layer, asked: object) -> Job:
        index = str(Path(self.settings.index).expanduser().resolve())
        mounts = ((index, f"{_MOUNT}/index"), (_pip(), f"{_MOUNT}/pip-lib/pip"))
        links = ((f"{_MOUNT}/index", f"{ENV}/{INDEX}"), (f"{_MOUNT}/pip-lib/pip", f"{ENV}/{PIP}/pip"))
        return Job(
            layer=replace(layer, mounts=layer.mounts + mounts, links=layer.links + links),
            argv=("-I", "-B", "{trusted}/inside.py"),
            trusted={"inside.py": _INSIDE.read_text()},
            stdin=json.dumps(asked).encode(),
            timeout_s=self.settings.timeout_s,
        )


def _line(wheel: Wheel) -> str:
    return f"{wheel.name}=={wheel.version} --hash=sha256:{sha256(wheel.path)}"


def _pip() -> str:
    """Where Raysmith's own pip lies.

    Raises:
        MachineError: There is none.
    """
    from importlib.util import find_spec

    found = find_spec("pip")
    if found is None or found.origin is None:
        raise MachineError("pip is not installed beside Raysmith", "run `python -m ensurepip`")
    return str(Path(found.origin).parent)


def _told(done: Completed) -> list[str]:
    try:
        told = json.loads(done.records)
    except ValueError as error:
        raise SandboxError(f"the install sandbox told nonsense: {error}") from error
    return [str(name) for name in told]


def _last_error(done: Completed) -> str:
    lines = done.output.decode(errors="replace").strip().splitlines() or [f"it ended by {done.end}"]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])[:500]


def _keep(archive: bytes, place: Path) -> None:
    """Unpack beside the place and move there whole, so that a layer is complete or absent."""
    place.parent.mkdir(parents=True, exist_ok=True)
    passing = place.with_name(f".{place.name}-{secrets.token_hex(6)}")
    passing.mkdir()
    try:
        unpack(archive, passing)
        passing.rename(place)
    except FileExistsError:
        return
    except OSError:
        if not place.is_dir():
            raise
    finally:
        if passing.exists():
            remove_folder(str(passing))
