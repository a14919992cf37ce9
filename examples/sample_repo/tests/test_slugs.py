from app.slugs import slug


def test_a_title_becomes_an_address():
    assert slug("Green Tea, 100 g") == "green-tea-100-g"
