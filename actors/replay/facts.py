"""The facts that a graph records: those of the record, in order, and how far a replay has come in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from actors.replay.comparing import first_difference
from orchestrator.events import Event, Kind, canonical
from orchestrator.patch import Changes
from orchestrator.recording import Recording
from orchestrator.report import changes_from, changes_json
from orchestrator.steps import Role

_KEPT = Kind.PATCH_KEPT


class Facts:
    """Compares each fact with the recorded one of its place; a fact is recorded once, as in a live run.

    Nodes side by side come to theirs in any order, so that each node has a place of its own.
    """

    def __init__(self, recording: Recording) -> None:
        self.left = list(recording.facts)
        self.equal = 0
        self.attempt = 0
        self._recording = recording
        self._recorded: set[tuple[Kind, str, int, str]] = set()
        # The best so far of the run, under "", and of each of its nodes: digest, changes, what fails.
        self._kept: dict[str, tuple[str, Changes, tuple[str, ...]]] = {}

    def kept(self, node: str) -> tuple[Changes, tuple[str, ...]] | None:
        """The best changes so far of `node`, and what fails with them."""
        known = self._kept.get(node)
        return None if known is None else known[1:]

    def knows(self, kind: Kind, step: str, attempt: int, data: Mapping[str, Any]) -> bool:
        """Whether this fact was recorded already."""
        return (kind, step, attempt, canonical(data)) in self._recorded

    def expected(self, step: str, data: Mapping[str, Any]) -> Event | None:
        """The next recorded fact of the same node."""
        lane = _lane(step, data)
        return next((event for event in self.left if _lane_of(event) == lane), None)

    def record(self, then: Event, kind: Kind, step: str, attempt: int, data: Mapping[str, Any]) -> str | None:
        """Take the next fact; how it differs from the recorded one, `then`, in words."""
        self.left.remove(then)
        # What is kept bears the attempt of whichever node began one last.
        if then.type is not kind or (then.attempt != attempt and kind is not _KEPT):
            return (
                f"event {then.seq} was {then.type} (attempt {then.attempt}), "
                f"now it is {kind} (attempt {attempt})"
            )
        if found := self._difference(then, json.loads(canonical(data))):
            return f"event {then.seq} ({kind}): {found}"
        self._recorded.add((kind, step, attempt, canonical(data)))
        self.equal += 1
        if kind is Kind.ATTEMPT_STARTED:
            self._begin(attempt, str(data.get("node", "")))
        return None

    def _difference(self, then: Event, now: dict[str, Any]) -> str | None:
        recorded = dict(then.data)
        if then.type is Kind.NODE_ENDED:
            # What a node gave is compared by its content: it holds times.
            recorded["output"] = self._recording.json(str(recorded.pop("artifact")))
            now["output"] = json.loads(now.pop("output"))
        return first_difference(recorded, now)

    def keep(
        self, changes: Changes, failing: Sequence[str], explanation: str, node: str
    ) -> dict[str, Any] | None:
        """The data of the fact that these are the best changes; None where they were so before."""
        digest = sha256(changes_json(changes))
        if node in self._kept and self._kept[node][0] == digest:
            return None
        self._kept[""] = self._kept[node] = (digest, dict(changes), tuple(failing))
        return {
            "patch": digest,
            "failing": len(failing),
            "failing_tests": list(failing),
            "files": sorted(changes),
            "explanation": explanation,
            **({"node": node} if node else {}),
        }

    def take(self, event: Event) -> None:
        """A `patch_kept` of a delivery that was lost: it stands in the log, and counts."""
        self._recorded.add((event.type, "", event.attempt, canonical(event.data)))
        self._set(event)

    def changes_of(self, event: Event) -> Changes:
        """The changes that a `patch_kept` names."""
        return changes_from(self._recording.load(event.data["patch"]))

    def _begin(self, attempt: int, node: str) -> None:
        self.attempt = attempt
        for step in self._recording.steps.values():
            kept = step.was_kept
            is_its = kept is not None and kept.data.get("node", "") == node
            if kept is not None and is_its and (step.role, step.attempt) == (Role.REPAIR, attempt):
                self._set(kept)

    def _set(self, event: Event) -> None:
        known = (str(event.data["patch"]), self.changes_of(event), tuple(event.data["failing_tests"]))
        self._kept[""] = self._kept[str(event.data.get("node", ""))] = known


def _lane(step: str, data: Mapping[str, Any]) -> tuple[str, str]:
    return step, str(data.get("node", ""))


def _lane_of(event: Event) -> tuple[str, str]:
    return _lane(event.step or "", event.data)


def sha256(content: bytes) -> str:
    """The digest under which an artifact of these bytes is stored."""
    return hashlib.sha256(content).hexdigest()
