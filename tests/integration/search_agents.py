"""The search repairer and the runner as replicas load them for `test_search_runners.py`."""

from __future__ import annotations

from typing import Any

from actors.repairer import SearchRepairer
from actors.runner import Runner
from actors.search.settings import SearchSettings
from orchestrator.ports import RunnerPool
from orchestrator.steps import Repaired, RepairRequest


class Repairer(SearchRepairer):
    """Tells nobody of progress: the fleet of these tests has no orchestrator."""

    async def repair(self, request: RepairRequest, runners: RunnerPool, progress: Any) -> Repaired:
        async def quiet(_: object) -> None: ...

        return await super().repair(request, runners, quiet)


def build(roles: list[str], config: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, Any] = {"run": Runner, "repair": lambda: Repairer(SearchSettings(**config))}
    return {role: kinds[role]() for role in roles}
