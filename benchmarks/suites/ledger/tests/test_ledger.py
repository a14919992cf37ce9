"""What a ledger keeps."""

import pytest
from ledger import Ledger, split


@pytest.fixture
def ledger():
    made = Ledger()
    made.open("ann", 10)
    made.open("bob")
    return made


def test_moves_an_amount(ledger):
    ledger.move("ann", "bob", 4)
    assert ledger.balances == {"ann": 6, "bob": 4}


def test_keeps_the_total(ledger):
    ledger.move("ann", "bob", 4)
    assert ledger.total() == 10


def test_refuses_more_than_there_is(ledger):
    with pytest.raises(ValueError, match="ann has 10"):
        ledger.move("ann", "bob", 11)


def test_refuses_an_open_name(ledger):
    with pytest.raises(ValueError, match="open already"):
        ledger.open("ann")


def test_splits_without_a_rest():
    assert split(10, 4) == [3, 3, 2, 2]
