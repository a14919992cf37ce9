"""Whether a file that a reply gives whole is whole."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence

from actors.python_text import hollowed, imports_of, module_of, names_of, unbound_in

# A file with fewer filled lines may be written anew by anything.
SMALL = 4
_PROSE = (".md", ".markdown", ".mdx", ".rst", ".txt")
_KEYED = (".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".env", ".properties")
_KEY = re.compile(r"[\w.\"'-]+(?=\s*[:=])|\[[^\]]+\]")


def lost(path: str, old: Sequence[str], new: Sequence[str]) -> list[str]:
    """What a file that is given whole would lose, where that shows it is not whole."""
    before, after = (module_of("\n".join(each)) if path.endswith(".py") else None for each in (old, new))
    fewer = len(filled(new)) < len(filled(old))
    if before is not None and after is not None:
        had, has = names_of(before), names_of(after)
        without = [name for name in had if name not in has]
        missed = [name for name in (*had, *imports_of(before)) if name in unbound_in(after)]
        gone = missed or hollowed(before, after)
        if gone or (without and len(without) == len(had) and _is_defining(before)):
            return gone or without
        if len(filled(old)) < SMALL:
            return []
        return without if had and 2 * len(without) >= len(had) and fewer else []
    keys = _keys(path, old)
    missing = [key for key in keys if key not in _keys(path, new)]
    if missing and fewer and 2 * len(missing) >= len(keys):
        return missing
    stays = sum((Counter(filled(old)) & Counter(filled(new))).values())
    shorter = len(filled(old)) >= SMALL and len(filled(new)) < len(filled(old)) * 0.6
    if shorter and (not path.lower().endswith(_PROSE) or stays >= len(filled(new)) * 0.3):
        return [f"{len(filled(old)) - stays} of its {len(filled(old))} lines"]
    return []


def _is_defining(module: ast.Module) -> bool:
    return any(
        isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for each in module.body
    )


def _keys(path: str, lines: Sequence[str]) -> dict[str, None]:
    """The keys at the top of a configuration file."""
    if not path.lower().endswith(_KEYED):
        return {}
    return {found[0].strip(): None for line in lines if (found := _KEY.match(line[:200]))}


def filled(lines: Sequence[str]) -> list[str]:
    """The lines that hold anything, without their indentation."""
    return [line.strip() for line in lines if line.strip()]
