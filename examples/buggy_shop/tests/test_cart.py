import pytest

from shop.cart import Cart


@pytest.fixture
def cart():
    cart = Cart()
    cart.add("pen", 1.5, 2)
    cart.add("book", 12.0)
    return cart


def test_total(cart):
    assert cart.total() == 15.0


def test_the_same_article_is_one_line(cart):
    cart.add("pen", 1.5, 3)

    assert len(cart) == 2
    assert cart.quantity("pen") == 5


def test_remove(cart):
    cart.remove("pen")
    cart.remove("ghost")

    assert len(cart) == 1
    assert cart.quantity("pen") == 0


def test_nothing_cannot_be_added(cart):
    with pytest.raises(ValueError):
        cart.add("pen", 1.5, 0)
