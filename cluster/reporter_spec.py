"""What a reporter is made from; plain values that cross Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterSpec:
    """What a reporter is made from; plain values that cross Ray.

    Attributes:
        build: Dotted path of what makes it, `module:function`; see `Build`.
        config: What `build` is given. It may hold a secret and is shown nowhere.
        effect: What its facts are filed under.
        flush_s: How long a command that ends its factory waits for what is still to be told.
    """

    build: str
    config: Mapping[str, Any] = field(repr=False)
    effect: str = "slack"
    flush_s: float = 5.0
