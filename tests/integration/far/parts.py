"""A module imported by work.py, so that calling work's functions requires more than one module."""

GREETING = "far away"


def double(value):
    """Return *value* twice."""
    return value + value
