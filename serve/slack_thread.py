"""What a thread has been told, from effects in the log, and what it has to say now. It does no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.events import EffectState

ROOT, REPLY, EDIT = "root", "reply", "edit"
SENT, FOUND, REFUSED = "sent", "found", "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A thread as the effects of its home run tell it.

    Attributes:
        root: Channel and ts of the message that it hangs on, None before there is one.
        is_refused: Slack takes no root: nothing more is told.
        upto: Mark of the last line that a reply told, "" for none.
        shown: Mark of the last final state that the root showed, "" for none.
        unsettled: An effect that may have happened or not.
    """

    root: tuple[str, str] | None = None
    is_refused: bool = False
    upto: str = ""
    shown: str = ""
    unsettled: EffectState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread and what it has to say. Marks are texts that sort as what they mark happened.

    Attributes:
        name: What its effects' keys start with.
        home: The run whose chain holds its effects.
        root_text: What the message that it hangs on should show.
        lines: All that happened, each with its mark.
        final: Mark of the state that `root_text` shows, "" while that will change.
    """

    name: str
    home: str
    told: Told
    root_text: str
    lines: Sequence[tuple[str, str]]
    final: str = ""

    @property
    def upto(self) -> str:
        """The mark of the last line."""
        return self.lines[-1][0] if self.lines else ""

    def untold(self, upto: str | None = None) -> list[str]:
        """The lines that no reply told, those after the mark `upto` left out."""
        return [line for mark, line in self.lines if mark > self.told.upto and (upto is None or mark <= upto)]


def told(effects: Mapping[str, EffectState], thread: str) -> Told:
    """What the effects whose keys start with `thread` add up to, in their order."""
    values: dict[str, Any] = {}
    for key, effect in effects.items():
        what = what_of(key, thread)
        if what is None:
            continue
        if effect.outcome is None:
            values["unsettled"] = effect
            continue
        upto = str(effect.data.get("upto", ""))
        if what == REPLY:
            values["upto"] = upto
        elif what == EDIT:
            values["shown"] = upto
        elif effect.outcome == REFUSED:
            values["is_refused"] = True
        else:
            values["root"] = (str(effect.data["channel"]), str(effect.data["ts"]))
            values["shown"] = upto
    return Told(**values)


def key_of(thread: str, what: str, upto: str = "") -> str:
    """The idempotency key of a thread's root, of its reply up to a mark, or of its last edit."""
    return f"{thread}:{what}:{upto}" if upto else f"{thread}:{what}"


def what_of(key: str, thread: str) -> str | None:
    """Which effect of `thread` a key names, None for another thread's."""
    if not key.startswith(f"{thread}:"):
        return None
    return key.removeprefix(f"{thread}:").partition(":")[0]


def run_thread(run_id: str) -> str:
    """The name of a run's thread."""
    return f"{run_id}:run"


def batch_thread(home: str) -> str:
    """The name of a batch's thread; its effects are kept with the batch's first run."""
    return f"{home}:batch"


def mark(seq: int) -> str:
    """An event's number as a mark."""
    return f"{seq:09d}"
