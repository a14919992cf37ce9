"""Packages that a task needs and its interpreter lacks: allowed, installed confined, shown read-only."""
