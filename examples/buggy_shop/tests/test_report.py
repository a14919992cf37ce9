from shop import report

ORDERS = [
    {"customer": "Ada", "total": 10.0, "paid": True},
    {"customer": "Bo", "total": 30.0, "paid": True},
    {"customer": "Ada", "total": 25.5, "paid": True},
    {"customer": "Cy", "total": 99.0, "paid": False},
]


def test_revenue_counts_paid_orders():
    assert report.revenue(ORDERS) == 65.5


def test_best_customers():
    assert report.best_customers(ORDERS) == ["Ada", "Bo"]
    assert report.best_customers(ORDERS, 1) == ["Ada"]


def test_average():
    assert report.average(ORDERS) == 21.83
    assert report.average([]) == 0
