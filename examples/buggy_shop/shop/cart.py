"""The cart of one customer."""

from shop import pricing


class Cart:
    """Lines of (name, unit price, quantity); the same article is one line."""

    def __init__(self):
        self._lines = {}

    def add(self, name, unit_price, quantity=1):
        """Put `quantity` pieces into the cart."""
        if quantity < 1:
            raise ValueError("quantity must be at least 1")
        _, already = self._lines.get(name, (unit_price, 0))
        self._lines[name] = (unit_price, quantity)

    def remove(self, name):
        """Take an article out, whatever its quantity."""
        self._lines.pop(name, None)

    def quantity(self, name):
        """Pieces of an article in the cart."""
        return self._lines[name][1] if name in self._lines else 0

    def total(self):
        """What the customer pays before tax."""
        return round(sum(pricing.line_total(price, count) for price, count in self._lines.values()), 2)

    def __len__(self):
        return len(self._lines)
