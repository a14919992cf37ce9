"""Starts the service of a tree in a sandbox, asks it over HTTP from a process of its own, and stops it."""
