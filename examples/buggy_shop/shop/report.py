"""Figures about orders; an order is a dictionary with `customer`, `total` and `paid`."""


def revenue(orders):
    """Sum of all paid orders."""
    return round(sum(order["total"] for order in orders if order["paid"]), 2)


def by_customer(orders):
    """Paid total per customer."""
    totals = {}
    for order in orders:
        if order["paid"]:
            name = order["customer"]
            totals[name] = totals.get(name, 0) + order["total"]
    return totals


def best_customers(orders, count=3):
    """Names of the customers who paid most, best first."""
    totals = by_customer(orders)
    return sorted(totals, key=lambda name: (-totals[name], name))[:count]


def average(orders):
    """Mean of the paid orders; 0 without any."""
    paid = [order["total"] for order in orders if order["paid"]]
    return round(sum(paid) / len(paid), 2) if paid else 0
