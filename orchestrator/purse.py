"""What nodes side by side may spend: shares are reserved before they start, the rest is settled after.

Arithmetic only: what was spent is asked of the run, whose log counts every engine call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

from orchestrator.steps import Allowance, Usage


class Purse:
    """Shares of what is left of one budget.

    Invariant: what is spent and what is reserved together are never more than the budget.

    Args:
        left: What is left of the budget, everything that was spent until now taken off.
        spent: What the steps whose names begin so have cost until now.
    """

    def __init__(self, left: Callable[[], Allowance], spent: Callable[[str], Usage]) -> None:
        self._left = left
        self._spent = spent
        self._held: dict[str, tuple[Allowance, Usage]] = {}

    def reserve(self, under: str, sharers: int = 1) -> Allowance:
        """An even share among `sharers`, of whom `under` is one, of what nobody has reserved."""
        free = self._left()
        for name, (share, before) in self._held.items():
            free = minus(free, share.after(self._spent(name) - before))
        share = Allowance(
            tokens=None if free.tokens is None else max(0, free.tokens // sharers),
            gpu_s=None if free.gpu_s is None else max(0.0, free.gpu_s / sharers),
            cost_usd=None if free.cost_usd is None else max(0.0, free.cost_usd / sharers),
        )
        self._held[under] = (share, self._spent(under))
        return share

    def settle(self, under: str) -> None:
        """What `under` did not spend of its share is free again."""
        self._held.pop(under, None)


def minus(free: Allowance, held: Allowance) -> Allowance:
    """`free` without what is still `held` of it; an overdrawn share holds nothing."""
    taken = {}
    for each in fields(Allowance):
        have, other = getattr(free, each.name), getattr(held, each.name)
        taken[each.name] = have if have is None or other is None else have - max(0, other)
    return replace(free, **taken)
