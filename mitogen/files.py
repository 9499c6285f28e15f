"""Public names for sending and fetching files and trees: put() and get(). See mitogen.transfer."""

from __future__ import annotations

from mitogen.transfer.put_get import (
    Error as Error,
    Skipped as Skipped,
    get as get,
    put as put,
)

__all__ = [
    "Error",
    "Skipped",
    "get",
    "put",
]
