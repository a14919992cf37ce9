from shop import text


def test_slug():
    assert text.slug("Blue Pen, 0.5 mm") == "blue-pen-0-5-mm"
    assert text.slug("ink") == "ink"


def test_shorten_cuts_at_a_word():
    assert text.shorten("a very long title", 10) == "a very…"
    assert text.shorten("short", 10) == "short"


def test_money():
    assert text.money(1234.5) == "1,234.50 €"
