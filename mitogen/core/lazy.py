"""
Lazy imports: the table of modules that are imported at first use, and the base class of objects
whose rarely used attributes live in one of those modules.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Rules
    1. The table has every module that a file below it in the layering imports late. No import
       statement inside a function does the same.
    2. A child's broker thread never imports: a module must be loaded before that thread uses it.

Threads: any; a child's broker thread only for modules that are already loaded.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Key, as passed to fetch() and Lazy.more, to the module that is imported at first use.
LAZY = {
    "errors": "calls.errors",
    "first_call": "calls.first_call",
    "names": "compat.lookup",
    "values": "core.value_types",
    "waiting": "calls.sender_waits",
    "contexts": "tree.contexts",
    "router": "tree.router",
}


def import_module(name: str) -> Any:
    """Import the module with that dotted name and return it."""
    __import__(name)
    return sys.modules[name]


def loaded(name: str) -> Any:
    """Return a module of LAZY that was imported, or None."""
    return sys.modules.get("mitogen." + LAZY[name])


def fetch(name: str) -> Any:
    """Return a module of LAZY, importing it at first use."""
    return import_module("mitogen." + LAZY[name])


class Lazy:
    """
    Base of objects whose rarely used attributes are defined in another module.

    That module's `find_lazy(obj, name)` returns the attribute or raises AttributeError.
    """

    #: Key in LAZY of the module that defines the other attributes.
    more: str

    def __getattr__(self, name: str) -> Any:
        if name[0] == "_":
            raise AttributeError(name)
        return fetch(self.more).find_lazy(self, name)
