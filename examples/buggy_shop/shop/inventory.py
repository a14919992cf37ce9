"""What is in stock, and what has to be ordered."""


class OutOfStock(Exception):
    """Fewer pieces are left than were asked for."""


class Inventory:
    """Pieces in stock by article."""

    def __init__(self, stock=None, reorder_at=5):
        self.stock = dict(stock or {})
        self.reorder_at = reorder_at

    def take(self, name, count):
        """Take `count` pieces out.

        Raises:
            OutOfStock: Not that many are left.
        """
        left = self.stock.get(name, 0)
        if count > left:
            raise OutOfStock(f"{name}: {left} left, {count} wanted")
        self.stock[name] = left - count

    def deliver(self, name, count):
        """Put delivered pieces into stock; an article may be new."""
        self.stock[name] = self.stock.get(name, 0) + count

    def to_reorder(self):
        """Articles at or below the reorder level, by name."""
        return sorted(name for name, count in self.stock.items() if count <= self.reorder_at)

    def page(self, number, size=10):
        """One page of the article list; pages are counted from 1."""
        names = sorted(self.stock)
        start = number * size
        return names[start : start + size]
