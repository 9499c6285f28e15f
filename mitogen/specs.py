"""Public names for contexts described by a text such as "ssh:host/sudo:root". See mitogen.tree."""

from __future__ import annotations

from mitogen.tree.specs import (
    connect as connect,
    parse as parse,
)

__all__ = [
    "connect",
    "parse",
]
