"""The supported Pythons, by name: "3.6" to "3.15" and "pypy"."""

import pytest

from tests import hosts

__all__ = ["CHILDREN", "MASTERS", "NEWEST", "OLDEST", "find"]

OLDEST, NEWEST = "3.6", "3.15"
CHILDREN = ["3.{}".format(minor) for minor in range(6, 16)] + ["pypy"]
MASTERS = CHILDREN[CHILDREN.index("3.9") :]


def find(name):
    """Return the command of a Python with warnings as errors; skip the test if it is missing."""
    if name == "pypy":
        path = hosts.find_pypy()
    else:
        path = hosts.find_pythons().get(tuple(map(int, name.split("."))))
    if path is None:
        pytest.skip("no Python {}: neither pyenv, PATH nor scripts/_forky has it".format(name))
    return [path, "-W", "error"]
