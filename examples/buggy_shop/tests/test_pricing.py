import pytest

from shop import pricing


@pytest.mark.parametrize(
    ("quantity", "share"), [(1, 0.0), (9, 0.0), (10, 0.05), (49, 0.05), (50, 0.10), (99, 0.10), (250, 0.15)]
)
def test_discount_grows_with_quantity(quantity, share):
    assert pricing.quantity_discount(quantity) == share


def test_line_total_is_in_cents():
    assert pricing.line_total(0.333, 3) == 1.0
    assert pricing.line_total(2.0, 20) == 38.0


def test_vat():
    assert pricing.with_vat(100) == 119.0
    assert pricing.with_vat(10, "reduced") == 10.7


def test_unknown_vat_is_refused():
    with pytest.raises(ValueError):
        pricing.with_vat(1, "none")
