"""Runs forked from a process that has pytest and packages loaded; docs/design/warm-verdicts.md."""
