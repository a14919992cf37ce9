"""Prices in cents."""

VAT_PERCENT = 19


def gross(net_cents):
    """A price with value added tax, rounded to whole cents."""
    return round(net_cents * (100 + VAT_PERCENT) / 100)


def shown(cents):
    """A price as a page shows it."""
    return f"{cents // 100}.{cents % 100:02d} EUR"
