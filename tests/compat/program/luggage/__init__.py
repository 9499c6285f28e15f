"""A small package that the driver's functions need; Python 3.6."""

from luggage.weight import total  # noqa: F401
