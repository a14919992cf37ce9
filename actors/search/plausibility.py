"""How much an operator repairs the task rather than fits its tests; it decides among plausible candidates."""

from __future__ import annotations

import math

#: Kinds of edits that make tests pass without being what was meant, 1 for those as likely meant as not.
FITTING = {
    "fitted": 0.04,
    "reset": 0.08,
    "first count": 0.25,
    "every variable": 0.2,
    "every number": 0.3,
    "every string": 0.6,
    "constant return": 0.3,
    "clamp": 0.35,
    "tail": 0.4,
    "condition": 0.4,
    "case": 0.45,
    "fitted number": 0.5,
    "other condition": 0.5,
    "rescue": 0.5,
    "insert": 0.4,
    "donor": 0.8,
    "term": 0.5,
    "conditional": 0.5,
    "jump": 0.5,
    "remove": 0.55,
    "return": 0.6,
    "transplant": 0.6,
    "wrap": 0.6,
    "off by one": 0.8,
    "guard": 0.7,
    "unwrap": 0.7,
    "branches": 0.7,
    "drop operand": 0.8,
}


def fitting(kind: str) -> float:
    """The product over the parts of a candidate's kind, in (0, 1]."""
    return math.prod(FITTING.get(part, 1.0) for part in kind.split(" + "))


def doubt(kind: str) -> float:
    """What a candidate's kind costs, in failing tests: none for plain operators, 1.7 for a fitted value."""
    return -1.2 * math.log10(fitting(kind))
