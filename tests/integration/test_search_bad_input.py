"""Awkward files are repaired with every other byte as it was."""

from __future__ import annotations

import pytest
from local_runners import LocalRunners, Told, profile_of, tree_of

from actors.repairer import SearchRepairer
from actors.search.settings import SearchSettings
from orchestrator.steps import Repaired, RepairRequest
from orchestrator.tree import Tree

pytestmark = pytest.mark.slow

NEXT = "from m import f\n\n\ndef test_f():\n    assert f(5) == 6\n    assert f(1) == 2\n"
#: The module, its tests, and the only bytes that a repair may change, as before and after it.
REPAIRED = {
    "carriage returns and tabs": (
        b"\xef\xbb\xbfdef g():\r\n\treturn 1\r\n\x0c\r\ndef f(n):  # next\r\n\treturn n - 1\r\n",
        NEXT,
        (b"n - 1", b"n + 1"),
    ),
    "another encoding": (
        "# coding: cp1251\n# Привет\ndef f(n):\n    'мир'\n    return n - 1\n".encode("cp1251"),
        NEXT,
        (b"n - 1", b"n + 1"),
    ),
}


async def searched(tree: Tree, *, cpu_s: float = 20.0) -> Repaired:
    profile = await profile_of(tree)
    request = RepairRequest(
        base=tree, tree=tree, profile=profile, failing=profile.failing, cpu_s=cpu_s, wall_s=300
    )
    settings = SearchSettings(runners=1, window=60)
    return await SearchRepairer(settings).repair(request, LocalRunners(), Told())


@pytest.mark.parametrize("kind", REPAIRED)
async def test_a_repair_changes_no_other_byte(kind: str) -> None:
    module, tests, (before, after) = REPAIRED[kind]
    tree = tree_of({"m.py": module, "test_m.py": tests})

    result = await searched(tree)

    assert result.best is not None
    assert result.best.failing == ()
    [changed] = result.best.changes.values()
    assert changed is not None
    assert changed.content == module.replace(before, after)
