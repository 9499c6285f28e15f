"""
The version of this library, and the place of this process in its tree.

Programs read both as attributes of the package: `mitogen.__version__`, `mitogen.context_id`. The
values are stored there, because a child's package is made from its configuration; this module sets
them.

Threads: any. Imports nothing of mitogen.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["VERSION", "attributes", "is_master", "set_parents"]

#: Version of this library: (major, minor, patch).
VERSION = (0, 4, 0)


def attributes(context_id: int, parent_ids: list[int]) -> dict[str, Any]:
    """
    Return the attributes of the package `mitogen` in a child.

    :param int context_id: id of the child
    :param list parent_ids: ids of its ancestors, nearest first
    """
    return {
        "__version__": VERSION,
        "is_master": False,
        "context_id": context_id,
        "parent_id": parent_ids[0],
        "parent_ids": parent_ids,
    }


def is_master() -> bool:
    """Return whether this process is the root of a tree."""
    return bool(sys.modules["mitogen"].is_master)


def set_parents(parent_ids: list[int], context_id: int | None = None) -> None:
    """
    Set `mitogen.parent_ids` and `mitogen.parent_id` of this process.

    :param list parent_ids: ids of this context's ancestors, nearest first; empty if it has none
    :param int context_id: new id of this context; None to leave it unchanged
    """
    package: Any = sys.modules["mitogen"]
    package.parent_ids = parent_ids[:]
    package.parent_id = parent_ids[0] if parent_ids else None
    if context_id is not None:
        package.context_id = context_id
