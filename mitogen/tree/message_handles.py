"""
Protocol handles used only by a master or a context with children. The others are in mitogen.core;
docs/design/wire.rst lists all of them with their payloads.
"""

from __future__ import annotations

__all__ = [
    "ADD_ROUTE",
    "ALLOCATE_ID",
    "AWAIT_END",
    "DETACHING",
    "FORWARD_MODULE",
    "GET_RESOURCE",
    "LOAD_RESOURCE",
]

ADD_ROUTE = 103
ALLOCATE_ID = 105
FORWARD_MODULE = 108
DETACHING = 109
GET_RESOURCE = 112
LOAD_RESOURCE = 113
#: A message to this handle is answered once a child's process is reaped.
AWAIT_END = 117
