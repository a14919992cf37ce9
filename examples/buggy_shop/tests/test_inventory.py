import pytest

from shop.inventory import Inventory, OutOfStock


def test_take_and_deliver():
    inventory = Inventory({"pen": 4})

    inventory.take("pen", 3)
    inventory.deliver("ink", 2)

    assert inventory.stock == {"pen": 1, "ink": 2}


def test_cannot_take_more_than_there_is():
    with pytest.raises(OutOfStock):
        Inventory({"pen": 4}).take("pen", 5)


def test_reorder_level_is_included():
    assert Inventory({"a": 5, "b": 6, "c": 0}).to_reorder() == ["a", "c"]


def test_pages_count_from_one():
    inventory = Inventory({f"article{number:02}": 1 for number in range(25)})

    assert inventory.page(1)[0] == "article00"
    assert len(inventory.page(3)) == 5
    assert inventory.page(2, 5) == [f"article{number:02}" for number in range(5, 10)]
