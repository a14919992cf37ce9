"""What is asked of agents that build an application, beside writing and testing: values that cross Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.context import ContextManifest
from orchestrator.steps import Finding, Usage
from orchestrator.tree import File, Tree
from orchestrator.verdict import Level

# The step in which code is measured, whatever the node is called.
QUALITY_STEP = "quality"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementsRequest:
    """Role plan: say what `goal` requires, sentence by sentence."""

    goal: str
    model: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a goal requires, or in `refused` why no reply could be used; the goal then stands for itself.

    Attributes:
        service: Whether it is a program that answers over HTTP; None where that is not known.
    """

    items: tuple[str, ...] = ()
    service: bool | None = None
    refused: str = ""
    usage: Usage = field(default_factory=Usage)
    contexts: tuple[ContextManifest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatRequest:
    """Role run: bring the Python of `tree` into one form; nothing of it is executed."""

    tree: Tree
    line_length: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Formatted:
    """Files that changed, how many were looked at, and those that are no Python, which stay as they are."""

    files: Mapping[str, File] = field(default_factory=dict)
    looked_at: int = 0
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRequest:
    """Role run: measure `tree`, of which `base` was there before; nothing of it is executed."""

    base: Tree
    tree: Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What static tools say of Python code. Every score is 0 to 100, higher is better.

    Attributes:
        quality: 100 less ten points for every fault per ten statements; an error counts five times.
        security: 100 less 40, 15 or 5 points for every high, medium or low finding.
        maintainability: Maintainability index of the source files, the mean weighted by their lines.
        lines: Of source, tests included.
        complexity: The highest cyclomatic complexity of one function.
    """

    quality: float
    security: float
    maintainability: float
    findings: tuple[Finding, ...] = ()
    dependencies: tuple[str, ...] = ()
    lines: int = 0
    complexity: int = 0

    @property
    def score(self) -> float:
        """The mean of the three."""
        return round((self.quality + self.security + self.maintainability) / 3, 1)

    def scores(self) -> dict[str, float]:
        """Its numbers."""
        return {
            "score": self.score,
            "quality": self.quality,
            "security": self.security,
            "maintainability": self.maintainability,
            "lines": self.lines,
            "complexity": self.complexity,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersRequest:
    """Role run: see whether imports in `tree` point inward; nothing of it is executed.

    `order` holds groups of folder names, the innermost layer first; layers of one group lie side by side.
    """

    tree: Tree
    order: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layered:
    """Imports that point outward, or sideways."""

    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRequest:
    """Role run: start the service in `tree` in a sandbox, ask it over HTTP, and stop it.

    Attributes:
        packages: Wheels that it is shown besides what the interpreter has: a test profile's.
        app: What uvicorn serves, as `module:name`; empty to find it.
        command: How it is started where uvicorn does not; `{port}` stands for the port it has to listen on.
        health: Path that has to answer with a status of 2xx; empty to find one.
        openapi: Path of its description; empty when it has none.
        timeout_s: Wall seconds until it has answered everything.
    """

    tree: Tree
    packages: tuple[str, ...] = ()
    app: str = ""
    command: str = ""
    health: str = ""
    openapi: str = "/openapi.json"
    timeout_s: float = 60.0
    python: str | None = None
    minimum: Level = Level.NONE


class ServiceEnd(StrEnum):
    """What became of a service that was started and asked."""

    HEALTHY = "healthy"
    NO_SERVICE = "no_service"
    CRASHED = "service_crashed"
    SILENT = "service_silent"
    WRONG_PORT = "wrong_port"
    FLOODED = "service_flooded"
    UNHEALTHY = "unhealthy"
    BAD_OPENAPI = "bad_openapi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How a service answered.

    Attributes:
        explanation: In words, with the tail of what it printed where it failed.
        app: What was started.
        health: The path that told its health.
        title, version: Of its description.
        routes: Operations of its description, as `GET /notes`.
        asked: Statuses of the paths that were asked, by path.
        startup_s: Until it first answered.
        packages: That it was shown in the end, those found missing included.
    """

    end: ServiceEnd
    explanation: str = ""
    app: str = ""
    health: str = ""
    title: str = ""
    version: str = ""
    routes: tuple[str, ...] = ()
    asked: Mapping[str, int] = field(default_factory=dict)
    startup_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mib: float = 0.0
    packages: tuple[str, ...] = ()
    level: Level = Level.NONE

    def to_json(self) -> dict[str, Any]:
        """It in the words of a node's metrics."""
        return {
            "end": str(self.end),
            "app": self.app,
            "health": self.health,
            "title": self.title,
            "routes": list(self.routes),
            "asked": dict(self.asked),
            "startup_s": round(self.startup_s, 3),
            "peak_mib": round(self.peak_mib, 1),
            "sandbox_level": str(self.level),
        }
