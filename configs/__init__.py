"""Shipped configuration; a package only so that a wheel carries the YAML files."""
