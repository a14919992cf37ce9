"""Accounts and what moves between them."""


class Ledger:
    def __init__(self):
        self.balances = {}
        self.moves = []

    def open(self, name, balance=0):
        if name in self.balances:
            raise ValueError(f"{name} is open already")
        self.balances[name] = balance

    def move(self, source, target, amount):
        if amount <= 0:
            raise ValueError("nothing to move")
        if self.balances[source] < amount:
            raise ValueError(f"{source} has {self.balances[source]}, not {amount}")
        self.balances[source] -= amount
        self.balances[target] += amount
        self.moves.append((source, target, amount))

    def total(self):
        return sum(self.balances.values())


def split(amount, parts):
    """Whole parts that differ by at most one."""
    share, rest = divmod(amount, parts)
    return [share + (number < rest) for number in range(parts)]
