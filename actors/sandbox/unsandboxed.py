"""Level `none`: a plain process tree, for an operator who wrote the accept string in full.

Only time, output and, by looking at /proc, memory are bounded. Code runs as the user who started
Raysmith and can do whatever that user can. Its folders are gone afterwards, its processes too where the
kernel lets a parent adopt orphans.
"""

from __future__ import annotations

from actors.sandbox.plain import Plain
from actors.sandbox.settings import SandboxSettings
from orchestrator.errors import SandboxError
from orchestrator.verdict import Level


class Unsandboxed(Plain):
    """Plain processes under a supervisor."""

    level = Level.NONE

    def __init__(self, settings: SandboxSettings) -> None:
        super().__init__(settings)
        if not settings.accepts_unsandboxed:
            raise SandboxError(
                "nobody accepted to run code without a sandbox", "set sandbox.allow_unsandboxed"
            )
