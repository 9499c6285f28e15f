"""A module that work.py imports, so that calling work's functions takes more than one module."""

GREETING = "far away"


def double(value):
    """Return *value* twice."""
    return value + value
