"""How long and how wide a shell agent may work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellSettings:
    """Limits of one piece of work of the shell agent."""

    turns: int = 60
    """Replies that are asked for, unusable ones included."""
    tokens: int = 2_000_000
    """Tokens of all prompts and replies together, cached ones included."""
    wall_s: float = 1800.0
    """Wall seconds in all; those of the run's budget hold too."""
    command_s: float = 120.0
    """Wall seconds of one command."""
    output_characters: int = 10_000
    """What is shown of a command's output, from its head and its tail."""
    output_mib: int = 16
    """Output after which a command is ended."""
    tests: int = 20
    """How often Raysmith itself tests the workspace while the agent works; a submission is always tested."""
    unusable: int = 4
    """Replies without a usable command in a row after which the agent gives up."""
    sandboxes: int = 5
    """Sandboxes in all: a command that ends its sandbox costs one."""
    context_share: float = 0.85
    """Share of the model's context beyond which the history is compacted."""
    structured: bool = False
    """Whether a reply is drawn as a JSON action where the engine can do that; else it is a fenced block."""
    code_files: int = 0
    """A goal for a folder of so many files or more is worked on at the shell; 0 for never."""

    def __post_init__(self) -> None:
        if not 0.2 <= self.context_share <= 1:
            raise ValueError(f"shell.context_share is {self.context_share}; it has to be from 0.2 to 1")
        for name in ("turns", "tokens", "wall_s", "command_s", "output_mib", "unusable", "sandboxes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"shell.{name} is {getattr(self, name)}; it has to be above 0")
        if self.output_characters < 400:
            raise ValueError(
                f"shell.output_characters is {self.output_characters}; it has to be at least 400"
            )
