"""
Waits of a sender: for credit, for room on a slow stream, for a long message to be sent. core.Router
imports this module on a program's thread at the first such wait.

Threads: wait() on a program's thread; LongSend.pump() on any, when credit or room becomes
available.
"""

from __future__ import annotations

import _thread

from mitogen import core
from mitogen.core import CONT, FRAME_SIZE, HIGH_WATER, LONG_WINDOW, MORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mitogen.core import Lock, Router, Stream, Ticket, Window


WARNING = 30

__all__ = ["LongSend", "wait"]


class LongSend:
    """
    A message of more than LONG_SIZE that is being sent in frames. Each frame waits for credit from
    the far end's broker, granted as frames are reassembled there, and for room on the stream. So a
    relay never holds more of the message than that credit.
    """

    def __init__(self, router: Router, ticket: Ticket, stream: Stream, flow: Window | None) -> None:
        self.router = router
        self.ticket = ticket
        self.stream = stream
        self.flow = flow
        self.msg = ticket.msg
        self.view: Any = memoryview(self.msg.data)
        self.started = False
        self.credit = LONG_WINDOW
        self.lock = _thread.allocate_lock()
        self.key = (self.msg.dst_id, self.msg.number)
        if flow:
            flow.busy = True
        router.longs[self.key] = self

    def pump(self) -> None:
        """Any thread: send as many frames as credit and the stream allow now."""
        stream = self.stream
        msg = self.msg
        with self.lock:
            while self.credit > 0 and stream.queued < HIGH_WATER and self.view:
                chunk = self.view[:FRAME_SIZE]
                self.view = self.view[FRAME_SIZE:]
                flags = msg.flags | (CONT if self.started else 0) | (MORE if self.view else 0)
                stream.send(msg.header(len(chunk), flags), chunk)
                self.started = True
                self.credit -= len(chunk)
            if self.view and not stream.closed:
                # The credit decides why the loop ended; the stream may have drained since.
                if self.credit > 0:
                    stream.when_drained(self.pump)
                return
        self.end()

    def give(self, amount: int) -> None:
        """Broker thread: add `amount` bytes of credit, which the far end has received."""
        with self.lock:
            self.credit += amount
        self.pump()

    def end(self, error: str | None = None) -> None:
        """Any thread: finish, after the last frame or with `error`; idempotent."""
        self.view = None
        if self.router.longs.pop(self.key, None):
            if self.flow:
                self.flow.busy = False
                self.router.broker.defer(self.router.drain, self.flow)
            self.ticket.done(error)


core.Router.pacer = LongSend


def wait(router: Router, ticket: Ticket | None, stream: Stream) -> None:
    """
    Program's thread: sleep until `ticket` is done or, without one, until the stream has room.

    :raises ChannelError: the receiver or its context is gone
    :raises TimeoutError: the receiver gave no credit for CREDIT_TIMEOUT seconds
    """
    lock: Any = ticket.lock if ticket else core.new_lock()
    if ticket is None:
        stream.when_drained(lock.release)
    while lock and not lock.acquire(True, core.CREDIT_WARNING):
        if not router.broker.alive:
            break
        # While bytes are in flight, the link's keepalive bounds this wait.
        under_way = ticket is None or (ticket.msg.dst_id, ticket.msg.number) in router.longs
        if ticket and not under_way and _wait_for_credit(router, ticket, lock):
            break
    if ticket and ticket.error:
        raise core.ChannelError("%s", ticket.error)


def _wait_for_credit(router: Router, ticket: Ticket, lock: Lock) -> bool:
    msg = ticket.msg
    text = "context %d waits for context %d to read from handle %d" % (
        router.node.context_id,
        msg.dst_id,
        msg.handle,
    )
    router.log(WARNING, "%s: nothing was read for %g s", text, core.CREDIT_WARNING)
    if lock.acquire(True, max(0, core.CREDIT_TIMEOUT - core.CREDIT_WARNING)):
        return True
    flow = router.flows.get((msg.dst_id, msg.handle))
    if flow:
        with flow.lock:
            given_up = flow.withdraw(ticket)
        if given_up:
            raise core.TimeoutError(
                "%s: gave up after %g s; read messages while they are sent, "
                "or use Receiver(window=None)",
                text,
                core.CREDIT_TIMEOUT,
            )
    return False
