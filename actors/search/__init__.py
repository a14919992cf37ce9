"""Repair without a model: locate the fault, mutate the source, let the tests choose."""
