"""Public names for letting one context start programs in another. See mitogen.programs."""

from __future__ import annotations

from mitogen.programs.grants import (
    Grant as Grant,
    allow as allow,
    set_policy as set_policy,
)

__all__ = [
    "Grant",
    "allow",
    "set_policy",
]
