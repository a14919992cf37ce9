from app.answers import answer, greet


def test_the_answer():
    assert answer() == 42


def test_a_greeting_names_the_customer():
    assert greet("Ann") == "Good day, Ann!"
