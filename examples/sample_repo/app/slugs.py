"""Addresses of articles."""

import re


def slug(title):
    """A title as it stands in an address: lower case, words joined by dashes."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))
