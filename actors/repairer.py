"""Role repair without a model: fault localisation and mutation of the syntax tree, chosen by the tests."""

from __future__ import annotations

from actors.search.search import Search
from actors.search.settings import SearchSettings
from orchestrator.ports import Progress, RunnerPool
from orchestrator.steps import Repaired, RepairRequest


class SearchRepairer:
    """Repairs by search in a warm sandbox. It holds no state between requests."""

    def __init__(self, settings: SearchSettings | None = None) -> None:
        self.settings = settings or SearchSettings()

    async def repair(self, request: RepairRequest, runners: RunnerPool, progress: Progress) -> Repaired:
        """Look for edits that make the failing tests pass and break none.

        Args:
            request: The tree, the frozen profile, the failing tests and the budget; CPU seconds
                count those of the sandboxes and this process' own.
            runners: Where warm sandboxes come from; one is open at a time.
            progress: Awaited with every improvement as soon as it is accepted.

        Returns:
            The best improvement, which need not be complete, and how far the search went.
        """
        return await Search(request, runners, progress, self.settings).run()
