"""
One way to be late: the table of modules that are imported when they are first needed, and the base
of objects that find their rarely used attributes in one of those.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Rules
    1. The table has every module that a file below it in the layering imports late. No import
       statement inside a function says the same.
    2. A child's broker thread must not be the first to need one: it does not import.

Threads: any but a child's broker thread, where the module is not loaded yet.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Modules that are imported when first needed, by the name that fetch() and Late know them by.
LATE = {
    "errors": "calls.errors",
    "first_call": "calls.first_call",
    "names": "compat.lazy",
    "values": "core.values",
    "waiting": "core.flow",
    "contexts": "tree.contexts",
    "router": "tree.router",
}


def import_module(name: str) -> Any:
    """Import and return the module of that dotted name."""
    __import__(name)
    return sys.modules[name]


def fetch(name: str) -> Any:
    """Return a module of LATE, imported if this is its first use."""
    return import_module("mitogen." + LATE[name])


class Late:
    """
    Base of objects whose rarely used attributes another module has.

    That module's `find_late(obj, name)` returns the attribute or raises AttributeError.
    """

    #: Name of the module in LATE that has more attributes of this.
    more: str

    def __getattr__(self, name: str) -> Any:
        if name[0] == "_":
            raise AttributeError(name)
        return fetch(self.more).find_late(self, name)
