"""All proposals for one statement, by every operator, each with its rank among the operator's own."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from actors.search.mutators import (
    accumulating,
    adapting,
    calls,
    constants,
    flow,
    grouping,
    indexing,
    literals,
    missing,
    names,
    operators,
    rescuing,
    statements,
    terms,
    unused,
    updates,
    wraps,
)
from actors.search.mutators.site import Change, Evidence, Site, children_of
from actors.search.source import Source

_PLAIN = (
    operators,
    grouping,
    constants,
    literals,
    names,
    calls,
    indexing,
    wraps,
    statements,
    flow,
    unused,
    accumulating,
    rescuing,
)
#: Families of operators with the highest weight of any of their proposals; the numerous ones come second.
FAMILIES = (
    (1.0, tuple(operator for module in _PLAIN for operator in module.ALL)),
    (0.55, tuple(operator for module in (missing, updates, terms, adapting) for operator in module.ALL)),
)
EVERY = (*FAMILIES[0][1], *FAMILIES[1][1])
Operator = Callable[[Site], Iterator[Change]]


def changes(
    source: Source,
    statement: ast.stmt,
    evidence: Evidence,
    decay: float,
    operators: Sequence[Operator] = EVERY,
) -> Iterator[tuple[ast.AST, Change, float]]:
    """Node, change and weight for `statement`'s own expressions; not for statements nested in it.

    Args:
        operators: Those of one of `FAMILIES`, or all of them.
        decay: How much weight the second, third, … proposal of a kind at one node loses.
    """
    seen: set[tuple[tuple[int, int, str], ...]] = set()
    for node in [statement, *children_of(statement)]:
        if not isinstance(node, ast.expr | ast.stmt | ast.comprehension):
            continue
        if _unsafe(source, node):
            continue
        site = Site(source, node, evidence)
        quoted = _in_f_string(source, node)
        ranks: Counter[str] = Counter()
        for operator in operators:
            for change in operator(site):
                if change.spans in seen or _is_idle(source, change):
                    continue
                if quoted and any(set(text) & set("\"'\\#\n") for _, _, text in change.spans):
                    continue
                seen.add(change.spans)
                weight = change.weight / (1 + decay * ranks[change.kind])
                ranks[change.kind] += 1
                yield node, change, weight


def _is_idle(source: Source, change: Change) -> bool:
    """Whether the change gives the same text, or an operand that does nothing: `x + 0`, `x * 1`."""
    if all(source.text[start:end] == text for start, end, text in change.spans):
        return True
    start, _, text = change.spans[0]
    if len(change.spans) > 1 or text not in ("0", "1"):
        return False
    before = source.text[max(0, start - 4) : start].rstrip()
    idle = ("+", "-") if text == "0" else ("*", "/", "//", "**")
    return before.endswith(idle) and not before.endswith("=") and bool(re.search(r"[\w)\]]\s*\W+$", before))


def _unsafe(source: Source, node: ast.AST) -> bool:
    """Inside an f-string, where positions are only right when the text there is the node's own."""
    if not _in_f_string(source, node):
        return False
    if not isinstance(node, ast.expr) or isinstance(node, ast.JoinedStr | ast.Constant):
        return True
    try:
        return ast.dump(ast.parse(source.segment(node), mode="eval").body) != ast.dump(node)
    except (SyntaxError, ValueError):
        return True


def _in_f_string(source: Source, node: ast.AST) -> bool:
    current = source.parent(node)
    while current is not None and not isinstance(current, ast.stmt):
        if isinstance(current, ast.JoinedStr):
            return True
        current = source.parent(current)
    return False
