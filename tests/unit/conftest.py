"""Fixtures of the unit tests."""

import pytest

from tests.unit import nodes


@pytest.fixture
def net():
    """Yield a network of nodes in memory; see nodes.py."""
    with nodes.network() as found:
        yield found
