"""Tests without a model: what existing tests call, called with values next to theirs."""
