"""The review agent: what a reader of a certified patch should look at. It decides and changes nothing."""

from __future__ import annotations

from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from actors.engines.port import Engines
from actors.output import head_and_tail
from actors.packing import Composed, Part, chosen, parts_of, texts
from actors.prompts import render
from actors.structured import form_of, parse_data
from actors.writer import converse
from orchestrator.patch import unified_diff
from orchestrator.steps import Finding, Reviewed, ReviewRequest, Role, Severity

log = structlog.get_logger()

MOST_FINDINGS = 20
# Of the part of a prompt that can be left out, the diff gets this share; whole files get the rest.
_DIFF_SHARE = 0.7
_KINDS = ("security", "correctness", "quality")


class _Finding(BaseModel):
    model_config = ConfigDict(title="Finding")

    path: Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)]
    line: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    severity: Severity = Severity.LOW
    kind: Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, max_length=40)] = "quality"
    message: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class _Review(BaseModel):
    model_config = ConfigDict(title="Review")

    findings: list[_Finding] = Field(max_length=200)


class Reviewer:
    """Asks an engine for findings until the reply holds a list of them."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def review(self, request: ReviewRequest) -> Reviewed:
        """What the model finds in the request's changes, the gravest first; only in files that they write.

        Raises:
            MachineError: The request's model cannot be reached here.
        """
        engine = self._engines(request.model)
        conversed = await converse(
            engine,
            Role.REVIEW,
            lambda limit: _prompt(request, limit),
            lambda text: _findings(request, text),
            structured=form_of(_Review),
            again="Reply again with the whole JSON object and nothing else.",
        )
        if conversed.result is None:
            log.info("patch_not_reviewed", engine=engine.name, reason=conversed.refused)
        return Reviewed(
            findings=conversed.result or (),
            refused=conversed.refused,
            usage=conversed.usage,
            contexts=conversed.contexts,
        )

    async def cancel_all(self) -> None:
        """Close the engines; the replica ends."""
        await self._engines.close()


def _findings(request: ReviewRequest, text: str) -> tuple[Finding, ...]:
    changed = {path for path, file in request.changes.items() if file is not None}
    grave = list(Severity)
    found = [
        Finding(
            path=each.path.removeprefix("./"),
            line=each.line,
            severity=each.severity,
            kind=each.kind if each.kind in _KINDS else "quality",
            message=each.message,
        )
        for each in parse_data(text, _Review).findings
    ]
    about = [each for each in dict.fromkeys(found) if each.path in changed]
    return tuple(sorted(about, key=lambda each: grave.index(each.severity))[:MOST_FINDINGS])


def _prompt(request: ReviewRequest, limit: int) -> Composed:
    diff = unified_diff(request.tree, request.changes).encode("utf-8", "replace").decode()
    most = int(limit * _DIFF_SHARE)
    changed = {path: file for path, file in request.changes.items() if file is not None}
    # A new file is whole in the diff already.
    after = texts(request.tree.with_files(changed))
    touched = {path: after[path] for path in changed if path in after and path in request.tree.files}
    diff = head_and_tail(diff, most)
    files, _ = chosen(touched, limit - len(diff))
    made = parts_of(request.goal, touched, files, "changed by the patch")
    return Composed(
        text=render("review", goal=request.goal, diff=diff, files=files),
        template="review",
        parts=(Part(kind="diff", name="the patch", why="what is reviewed", text=diff), *made["parts"]),
        left_out=made["left_out"],
    )
