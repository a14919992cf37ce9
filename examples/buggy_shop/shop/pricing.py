"""Prices, discounts and taxes. All amounts are in euros."""

VAT = {"standard": 0.19, "reduced": 0.07}

# Quantity from which on a discount applies, and how much it takes off.
TIERS = [(100, 0.15), (50, 0.10), (10, 0.05)]


def quantity_discount(quantity):
    """The share taken off for ordering `quantity` pieces; 10 pieces are enough for the first tier."""
    for minimum, share in TIERS:
        if quantity > minimum:
            return share
    return 0.0


def line_total(unit_price, quantity):
    """Price of a line after its quantity discount, in whole cents."""
    total = unit_price * quantity
    return round(total * (1 - quantity_discount(quantity)), 2)


def with_vat(amount, kind="standard"):
    """`amount` plus value added tax."""
    if kind not in VAT:
        raise ValueError(f"unknown kind of VAT: {kind}")
    return round(amount * (1 + VAT[kind]), 2)
