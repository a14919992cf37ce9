"""YAML as people mean it: a key that stands twice, or a value by reference, is a mistake and no feature."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

# Python's own depth ends at a few hundred levels, after seconds.
DEEPEST = 100


class NoDuplicates(yaml.SafeLoader):
    """A key given twice is an error: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # told of below
            if key in seen:
                told = f"{key!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, told, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class NoAliases(NoDuplicates):
    """Also without references: a few lines of them can stand for gigabytes; and not deeper than `DEEPEST`."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "references (*name) are not read", self._mark())
        if self._depth == DEEPEST:
            told = f"it lies deeper than {DEEPEST} levels"
            raise yaml.composer.ComposerError(None, None, told, self._mark())
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _mark(self) -> Any:
        return self.peek_event().start_mark  # type: ignore[no-untyped-call]
