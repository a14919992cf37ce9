"""Loads what the configuration names by a dotted path, so that nothing here imports outward."""

from __future__ import annotations

import importlib
from typing import Any


def loaded(path: str) -> Any:
    """The object that `module:name` means."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
