"""Asks for a service to be started in a sandbox, and makes a value of what was seen of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from actors.judge.profile import MissingDependency
from actors.judge.suite import process_environment, source_roots
from actors.judge.text import clean
from actors.sandbox.layer import Layer, importable_names
from actors.sandbox.port import Completed, Job, Sandbox
from actors.service.openapi import Described, described
from orchestrator.building import Served, ServiceEnd, ServiceRequest
from orchestrator.verdict import RunEnd

_INSIDE = Path(__file__).with_name("inside.py")
_ABSENT = re.compile(r"ModuleNotFoundError: No module named '(?P<module>[\w.]+)'")
_NO_RUNNER = re.compile(r"No module named (?P<module>uvicorn)\b")
# Beyond the service's own time: for the sandbox, and for stopping it.
_AROUND_S = 20.0
_TAIL = 2000


async def served(sandbox: Sandbox, layer: Layer, request: ServiceRequest) -> Served:
    """Start the request's service in a fresh sandbox, ask it, and stop it; nothing of it is left.

    Raises:
        MissingDependency: It imports a package that the layer does not have.
        SandboxError: The sandbox could not be started or broke.
    """
    done = await sandbox.run(_job(layer, request))
    seen = _seen(done)
    measures: dict[str, Any] = {
        "startup_s": float(seen.get("startup_s", 0.0)),
        "wall_s": done.wall_s,
        "cpu_s": done.cpu_s,
        "peak_mib": done.peak_mib,
        "level": done.level,
        "packages": request.packages,
        "app": str(seen.get("app", ""))[:300],
        "asked": {str(path)[:300]: int(status) for path, status in seen.get("asked", {}).items()},
    }
    tail = clean(str(seen.get("tail", "")), _TAIL)
    if end := seen.get("end"):
        if end == ServiceEnd.CRASHED:
            _refuse_missing(tail, layer, request)
        return Served(end=ServiceEnd(end), explanation=_why(seen, request, tail), **measures)
    return _judged(seen, request, measures)


def _job(layer: Layer, request: ServiceRequest) -> Job:
    asked = {
        "work": "{work}",
        "roots": list(source_roots(request.tree)),
        "app": request.app,
        "command": request.command,
        "health": request.health,
        "openapi": request.openapi,
        "timeout_s": request.timeout_s,
    }
    return Job(
        layer=layer,
        argv=("-I", "-B", "{trusted}/inside.py"),
        tree=request.tree,
        trusted={"inside.py": _INSIDE.read_text()},
        stdin=json.dumps(asked).encode(),
        environment=process_environment(request.tree, layer),
        timeout_s=request.timeout_s + _AROUND_S,
    )


def _seen(done: Completed) -> dict[str, Any]:
    """What the process inside told; it is ended with its sandbox where the service took that down."""
    try:
        seen = json.loads(done.records)
        if isinstance(seen, dict):
            return seen
    except (ValueError, RecursionError):
        pass
    why = {
        RunEnd.TIMEOUT: "it kept the sandbox busy until its time was over",
        RunEnd.OUT_OF_MEMORY: "it used up the sandbox's memory",
        RunEnd.KILLED: "it used up the sandbox's CPU time or processes, or ended the process that asked it",
    }.get(done.end, "it ended the process that asked it")
    tail = done.output[-_TAIL:].decode(errors="replace")
    return {"end": str(ServiceEnd.CRASHED), "why": why, "tail": tail}


def _why(seen: dict[str, Any], request: ServiceRequest, tail: str) -> str:
    end = ServiceEnd(seen["end"])
    if end is ServiceEnd.NO_SERVICE:
        return str(seen.get("why"))
    if end is ServiceEnd.WRONG_PORT:
        ports = ", ".join(map(str, seen["elsewhere"][:5]))
        told = f"it listens on port {ports} and was told to listen on {seen['port']} (also in $PORT)"
    elif end is ServiceEnd.FLOODED:
        told = f"it printed more than {seen['printed'] // 1024} KiB"
    elif end is ServiceEnd.CRASHED and "exit_code" in seen:
        told = f"it ended with exit code {seen['exit_code']}"
    else:
        told = str(seen.get("why"))
    if end is ServiceEnd.SILENT:
        told = f"{told}; {request.timeout_s:g} s were given"
    return f"{seen.get('app', '')}: {told}" + (f"; it printed:\n{tail}" if tail.strip() else "")


def _refuse_missing(tail: str, layer: Layer, request: ServiceRequest) -> None:
    """Raise where what it lacks is a package and no mistake of its own."""
    found = [*_ABSENT.finditer(tail), *_NO_RUNNER.finditer(tail)]
    if not found:
        return
    module = found[-1]["module"]
    if module.partition(".")[0] in importable_names(request.tree) | layer.modules:
        return
    raise MissingDependency("the service", module, layer.host_python)


def _judged(seen: dict[str, Any], request: ServiceRequest, measures: dict[str, Any]) -> Served:
    """The end of a service that answered everything it was asked."""
    description, fault = _description(seen, request)
    health, status = str(seen.get("health", "")), int(seen.get("health_status", 0))
    measures |= {"title": description.title, "version": description.version, "routes": description.routes}
    asked: dict[str, int] = measures["asked"]
    broken = [f"{path} answers {code}" for path, code in asked.items() if code >= 500]
    if broken:
        return Served(end=ServiceEnd.UNHEALTHY, explanation="; ".join(broken), health=health, **measures)
    if fault:
        return Served(end=ServiceEnd.BAD_OPENAPI, explanation=fault, health=health, **measures)
    if 200 <= status < 300:
        told = f"{health} answers {status}"
        return Served(end=ServiceEnd.HEALTHY, explanation=_told(told, description), health=health, **measures)
    if request.health:
        told = f"{health} answers {status}, and 200 to 299 is asked for: {seen.get('health_body', '')}"
        return Served(end=ServiceEnd.UNHEALTHY, explanation=told, health=health, **measures)
    if description.routes:
        told = f"it has no route for its health; {request.openapi} answers 200"
        return Served(
            end=ServiceEnd.HEALTHY, explanation=_told(told, description), health=request.openapi, **measures
        )
    told = f"it has no route for its health; / answers {asked.get('/', status)}"
    return Served(end=ServiceEnd.UNHEALTHY, explanation=told, **measures)


def _description(seen: dict[str, Any], request: ServiceRequest) -> tuple[Described, str]:
    if not request.openapi:
        return Described(), ""
    if "openapi" not in seen:
        return Described(), f"{request.openapi} answers {seen.get('openapi_status')}"
    found = described(seen["openapi"])
    return found, f"{request.openapi} is no OpenAPI document: {found.fault}" if found.fault else ""


def _told(health: str, description: Described) -> str:
    return f"{health}; {len(description.routes)} operations described" if description.routes else health
