"""Public names for shrinking Python source: see mitogen.bootstrap.minify."""

from __future__ import annotations

from mitogen.bootstrap.minify import (
    minimize_source as minimize_source,
)

__all__ = [
    "minimize_source",
]
