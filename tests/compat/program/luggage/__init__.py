"""A small package required by the driver's functions; for Python 3.6."""

from luggage.weight import total  # noqa: F401
