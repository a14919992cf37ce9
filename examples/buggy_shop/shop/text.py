"""Texts for pages and mails."""

import re


def slug(title):
    """A title as it stands in an address: lower case, words joined by dashes."""
    words = re.findall(r"[a-z0-9]+", title)
    return "-".join(words)


def shorten(text, limit):
    """`text` cut at a word to at most `limit` characters, the dots included."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 1].rsplit(" ", 1)[0]
    return kept + "…"


def money(amount):
    """An amount for people: 1,234.50 €."""
    return f"{amount:,.2f} €"
