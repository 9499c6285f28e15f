"""Fixtures of the tests of races: those of the unit tests."""

from tests.unit.conftest import net

__all__ = ["net"]
