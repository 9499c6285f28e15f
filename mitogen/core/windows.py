"""
Flow control: the windows of a flow, the sender's side and the receiver's. docs/design/wire.rst
has the protocol.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Rules
    1. Nothing here touches a descriptor, a thread or a clock; the caller holds the locks.

Threads: any; Window and Meter name the lock that their methods need.
"""

from __future__ import annotations

import _thread
from collections import deque

from mitogen.core.frames import (
    CALL_FUNCTION,
    CALL_SERVICE,
    FIRST_HANDLE,
    FIRST_UNWINDOWED,
    FORWARD_LOG,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mitogen.core.routing import Ticket

#: Bytes of a long message that may be in flight.
LONG_WINDOW = 1048576
#: Initial credit of a flow, in bytes.
WINDOW = 4194304
#: Initial credit for log records, which include the output of a child's programs, in bytes.
LOG_WINDOW = 65536
#: Bytes that a message costs in a window besides its data, so that empty messages are not free.
MESSAGE_COST = 64
#: Seconds without credit after which a waiting sender logs a warning, and after which it fails.
CREDIT_WARNING = 5.0
CREDIT_TIMEOUT = 30.0


def is_windowed(handle: int) -> bool:
    """Return whether messages to `handle` need credit; both ends decide by the number alone."""
    return FIRST_HANDLE <= handle < FIRST_UNWINDOWED or handle in (
        CALL_FUNCTION,
        CALL_SERVICE,
        FORWARD_LOG,
    )


def window_size(handle: int) -> int:
    """Return the initial credit of a flow to `handle`, in bytes."""
    return LOG_WINDOW if handle == FORWARD_LOG else WINDOW


class Window:
    """
    Pure: the sender's side of a flow. The caller holds `lock` around every method.

    Invariant: while `queue` is not empty no message passes it, so order is kept. One message may
    overdraw the credit, so any size fits.
    """

    def __init__(self, size: int) -> None:
        self.credit = size
        self.queue: deque[tuple[Any, int]] = deque()
        self.queued = 0
        #: The LongSend of the message that is being sent in frames.
        self.busy: Any = None
        self.ended = False
        self.lock = _thread.allocate_lock()

    def take(self, cost: int) -> bool:
        """Return True if a message of `cost` may be sent now, and charge it."""
        if self.credit > 0 and not (self.queue or self.busy or self.ended):
            self.credit -= cost
            return True
        return False

    def push(self, entry: Ticket, cost: int) -> None:
        """Queue `entry` until there is credit."""
        self.queue.append((entry, cost))
        self.queued += cost

    def withdraw(self, entry: Ticket) -> Any:
        """Remove `entry` from the queue; return whether it was queued."""
        for item in self.queue:
            if item[0] is entry:
                self.queue.remove(item)
                self.queued -= item[1]
                return True

    def pop(self) -> Any:
        """Remove and return the next entry that may be sent, or None."""
        if self.queue and self.credit > 0 and not self.busy:
            entry, cost = self.queue.popleft()
            self.queued -= cost
            self.credit -= cost
            return entry


class Meter:
    """
    Pure: the receiver's side of a flow. Credit is returned once it reaches half of the window.

    Only the broker calls receive(); a caller of consume() holds the router's lock.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.received = 0
        self.credited = 0
        self.owed = 0

    def receive(self, cost: int) -> Any:
        """Count an arriving message; return False if its sender had no credit left."""
        if self.received - self.credited < self.size:
            self.received += cost
            return True

    def consume(self, cost: int) -> int:
        """Count a message as consumed; return the credit to give now, or 0."""
        self.owed += cost
        if self.owed * 2 < self.size:
            return 0
        owed, self.owed = self.owed, 0
        self.credited += owed
        return owed
