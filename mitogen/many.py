"""Public names for connecting to many contexts at once. See mitogen.tree."""

from __future__ import annotations

from mitogen.tree.many import (
    Result as Result,
    connect_many as connect_many,
    hops_of as hops_of,
)

__all__ = [
    "Result",
    "connect_many",
    "hops_of",
]
