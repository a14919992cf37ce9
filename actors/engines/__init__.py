"""Engines turn messages into text."""
