"""What has come of a conversation so far: files that hold, and what is still to be asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Generic, TypeVar

from actors.blocks import Block, Broken, Edit, WholeFile
from actors.editing import Applied, Permit, Problem, apply_blocks
from actors.engines.port import Reply
from actors.parsing import parse
from actors.prompts import fenced, render
from orchestrator.errors import AgentError
from orchestrator.patch import Changes
from orchestrator.tree import File, Tree

T = TypeVar("T")
# Of what was usable, so much is repeated in the conversation; more is only named.
_REPEATED = 24_000
_PROBLEMS_TOLD = 8
_DONE = re.compile(r"^\W*DONE\W*$", re.MULTILINE)


class Unfinished(AgentError):
    """A reply that does not finish the draft.

    Attributes:
        good: The part of it that holds, as it should have been written; empty for none.
        told: What to tell the model.
    """

    def __init__(self, reason: str, told: str, good: str = "") -> None:
        super().__init__(reason)
        self.args = (reason, told, good)
        self.told = told
        self.good = good


class Draft(Generic[T]):
    """Takes replies until they make a result.

    What applied in one reply holds for the next; edits are made to the files as they are by then.
    """

    def __init__(self, tree: Tree, finish: Callable[[Changes], T], permit: Permit | None = None) -> None:
        self._base = tree
        self._finish = finish
        self._permit = permit
        self._may_be_done = False
        self.tree = tree
        self.kept: dict[str, File | None] = {}

    def is_open(self, reply: Reply) -> bool:
        """Whether the reply was cut off at its longest in the middle of a block."""
        if reply.finish_reason != "length":
            return False
        blocks = parse(reply.text, known=self.tree.files, cut=True)
        return bool(blocks) and isinstance(blocks[-1], Broken) and blocks[-1].is_cut

    def take(self, reply: Reply) -> T:
        """The result, when the reply leaves nothing open.

        Raises:
            Unfinished: Something is missing; what applied is kept.
        """
        cut = reply.finish_reason != "stop"
        if self._may_be_done and self.kept and not cut and _DONE.search(reply.text):
            return self.end()
        applied = apply_blocks(self.tree, parse(reply.text, known=self.tree.files, cut=cut), self._permit)
        self.tree = self.tree.with_files(applied.changes)
        self.kept.update(applied.changes)
        self._may_be_done = cut and bool(self.kept)
        # What an agent may not write is left out: the rest is a result all the same.
        problems = [each for each in applied.problems if not (each.is_forbidden and self.kept)]
        if not self.kept and not problems:
            problems = [Problem(path=None, reason="the reply holds no file")]
        if not problems and not cut and applied.blocks:
            try:
                return self.end()
            except AgentError as error:
                raise Unfinished(
                    error.message, self._told([Problem(path=None, reason=str(error))], False)
                ) from error
        reason = problems[0].reason if problems else "the reply was cut off at its longest"
        raise Unfinished(reason, self._told(problems, cut), _written(applied))

    def end(self) -> T:
        """The result of what is kept, which starts anew when it is none.

        Raises:
            AgentError: It cannot be used as a whole.
        """
        try:
            return self._finish(dict(self.kept))
        except AgentError:
            self.tree, self.kept = self._base, {}
            raise

    def _told(self, problems: list[Problem], cut: bool) -> str:
        return render(
            "again",
            problems=problems[:_PROBLEMS_TOLD],
            more=max(0, len(problems) - _PROBLEMS_TOLD),
            kept=sorted(self.kept),
            cut=cut,
        )


def _written(applied: Applied) -> str:
    """The applied blocks as they should be written."""
    text = "\n\n".join(_block(block) for block in applied.blocks)
    if len(text) <= _REPEATED:
        return text
    return "I changed " + ", ".join(sorted(applied.changes)) + "."


def _block(block: Block) -> str:
    if isinstance(block, WholeFile):
        return f"{block.path}\n{fenced(block.text)}"
    if isinstance(block, Edit):
        lines = ["<<<<<<< SEARCH", *block.search, "=======", *block.replace, ">>>>>>> REPLACE"]
        return f"{block.path}\n{fenced(chr(10).join(lines))}"
    return f"{block.path} is removed."
