from app.prices import gross, shown


def test_tax_is_added():
    assert gross(1000) == 1190


def test_cents_have_two_digits():
    assert shown(1205) == "12.05 EUR"
