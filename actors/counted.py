"""A draft that counts how replies of each form come out, so that a model is asked for what it does well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from actors.draft import Draft
from actors.editing import Permit
from actors.engines.port import Reply
from actors.formats import Formats
from orchestrator.errors import AgentError
from orchestrator.patch import Changes
from orchestrator.tree import Tree

T = TypeVar("T")


class CountedDraft(Draft[T]):
    """A draft whose long files are asked for in the form that its model does well.

    Attributes:
        large: Files to be changed by SEARCH/REPLACE blocks; none where whole files are asked for.
    """

    def __init__(
        self,
        tree: Tree,
        finish: Callable[[Changes], T],
        permit: Permit,
        *,
        formats: Formats,
        model: str,
        files: Mapping[str, str],
    ) -> None:
        """A draft over `tree` for the model called `model`, which may change the texts in `files`."""
        super().__init__(tree, finish, permit)
        self._formats, self._model = formats, model
        self._form = formats.choose(model, files)
        self._counts = bool(formats.large(files))
        self.large = tuple(formats.large(files)) if self._form == "edits" else ()

    def take(self, reply: Reply) -> T:
        """See `Draft.take`."""
        try:
            result = super().take(reply)
        except AgentError:
            self._saw(malformed=True)
            raise
        self._saw(malformed=False)
        return result

    def _saw(self, *, malformed: bool) -> None:
        # Where no file is large both forms are the same, and tell nothing of either.
        if self._counts:
            self._formats.saw(self._model, self._form, malformed=malformed)
