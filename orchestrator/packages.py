"""Packages that a task lacks and no policy names: a person is asked for exactly these wheels."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import count

from orchestrator.errors import RaysmithError
from orchestrator.ports import Call, Run
from orchestrator.steps import PackagesAsked, Profiled, ProfileRequest


class Waits(Exception):
    """Nothing goes on here before a person has decided."""


class Rejected(RaysmithError):
    """A person said no."""

    code = "rejected"


async def profiled_with(run: Run, call: Call[Profiled]) -> Profiled:
    """What profiling gave, once every package that it takes is allowed.

    Each answer of a person is for the wheels it was asked about: what they turn out to need is asked anew,
    and so is another file of the same version.

    Raises:
        Waits: A person has been asked and has not decided.
        Rejected: A person said no.
    """
    allowed: tuple[str, ...] = ()
    for attempt in count():
        assert isinstance(call.request, ProfileRequest)
        request = replace(call.request, allowed=allowed)
        found = await run.call(replace(call, request=request, attempt=attempt))
        if found.asks is None:
            return found
        await _allowed(run, found.asks)
        allowed += found.asks.packages
    raise AssertionError("counting has no end")


async def _allowed(run: Run, asks: PackagesAsked) -> None:
    gate = gate_of(asks)
    decision = run.decision(gate)
    if decision is None:
        await run.ask(gate, {"message": _question(asks), "packages": list(asks.packages)})
        raise Waits(gate)
    if not decision["approved"]:
        raise Rejected(
            f"{decision.get('by') or 'a person'} did not allow {', '.join(asks.packages)}",
            "let the task do without, or run it again and approve",
        )


def gate_of(asks: PackagesAsked) -> str:
    """Where it is decided: by the wheels, so that two nodes that lack the same ask once."""
    return f"packages-{hashlib.sha256(chr(10).join(asks.packages).encode()).hexdigest()[:8]}"


def _question(asks: PackagesAsked) -> str:
    return f"{asks.why} needs packages that dependencies.allow does not name: {', '.join(asks.packages)}"
