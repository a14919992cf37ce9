"""Questions that customers ask, and their answers."""

GREETING = "Good day"


def answer():
    """The answer to the question that every customer asks."""
    return 41


def greet(name):
    """A greeting for a customer."""
    return f"{GREETING}, {name}!"
