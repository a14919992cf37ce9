"""Conditions judged by the values that names held when tests came by, before any candidate is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from actors.search.mutators.site import Site
from actors.search.snapshots import Truth

#: A condition that changes nothing in tests that pass is as much more plausible, one that does as much less.
_SPARING, _SWEEPING = 1.5, 0.5
#: A change may show at a visit that was not noted.
_UNSEEN = 0.3
#: How fast conditions lose weight that say the same as a better one at every visit.
_TWIN = 0.7
_MAX = 60


def sifted(
    site: Site, options: Iterable[tuple[str, float]], old: str, form: str = "{}"
) -> Iterator[tuple[str, float]]:
    """The options that make a difference to a failing test, each with its weight.

    Args:
        options: Conditions, the most plausible first.
        old: What decides now, as an expression: `False` where a guard is to be put in.
        form: The whole condition, with `{}` where an option stands.
    """
    shots = site.snapshots
    base = shots.truth(old) if shots is not None else None
    twins: Counter[Truth] = Counter()
    given = 0
    for text, weight in options:
        truth = shots.truth(form.replace("{}", text)) if shots is not None and base is not None else None
        if given >= _MAX:
            return
        if shots is None or base is None or truth is None or not any(said is not None for said in truth[0]):
            given += 1
            yield text, weight
            continue
        factor = 1.0
        if truth[0] == base[0]:
            if not shots.truncated:
                continue
            factor = _UNSEEN
        factor *= _SPARING if truth[1] == base[1] else _SWEEPING
        factor /= 1 + _TWIN * twins[truth]
        twins[truth] += 1
        given += 1
        yield text, min(1.0, weight * factor)
