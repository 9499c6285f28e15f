"""
Waits of a sender: for credit, for room on a slow stream, for a long message to be sent.
core.routing gets this module from the table of lazy.py: a program's thread imports it for its first
long message or its first wait; the broker sends long messages without pacing before that.

Threads: wait() on a program's thread; a LongSend on the broker thread, which no signal interrupts.
"""

from __future__ import annotations

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
    The frames of a message of more than LONG_SIZE. Each frame waits for credit from the far end's
    broker, granted as frames are reassembled there, and for room on the stream. So a relay never
    holds more of the message than that credit.
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
        self.key = (self.msg.dst_id, self.msg.number)
        if flow:
            flow.busy = self
        router.longs[self.key] = self

    def pump(self) -> None:
        """Send as many frames as credit and the stream allow now."""
        stream = self.stream
        msg = self.msg
        while self.credit > 0 and stream.queued < HIGH_WATER and self.view:
            chunk = self.view[:FRAME_SIZE]
            self.view = self.view[FRAME_SIZE:]
            flags = msg.flags | (CONT if self.started else 0) | (MORE if self.view else 0)
            stream.send(msg.header(len(chunk), flags), chunk)
            self.started = True
            self.credit -= len(chunk)
        if not self.view or stream.closed:
            self.end()
        # The credit decides why the loop ended; the stream may have drained since.
        elif self.credit > 0:
            stream.when_drained(self.pump)

    def give(self, amount: int) -> None:
        """Add `amount` bytes of credit, which the far end has received."""
        self.credit += amount
        self.pump()

    def end(self, error: str | None = None) -> None:
        """Finish, after the last frame or with `error`; idempotent."""
        self.view = None
        if self.router.longs.pop(self.key, None):
            if self.flow:
                self.flow.busy = None
                self.router.broker.defer(self.router.drain, self.flow)
            self.ticket.done(error)


def wait(router: Router, ticket: Ticket | None, stream: Stream) -> None:
    """
    Program's thread: sleep until `ticket` is done or, without one, until the stream has room.

    :raises ChannelError: the receiver, its context or the broker is gone
    :raises TimeoutError: the receiver gave no credit for CREDIT_TIMEOUT seconds
    """
    lock: Any = ticket.lock if ticket else core.new_lock()
    if ticket is None:
        stream.when_drained(lock.release)
    # A broker that ends after this look ends the ticket, too.
    while lock and router.broker.alive and not lock.acquire(True, core.CREDIT_WARNING):
        # While bytes are in flight, the link's keepalive bounds this wait.
        under_way = ticket is None or (ticket.msg.dst_id, ticket.msg.number) in router.longs
        if ticket and not under_way and _wait_for_credit(router, ticket, lock):
            break
    if ticket and not ticket.error and lock and not router.broker.alive and ticket.then:
        raise core.ChannelError("%s", router.broker_exit_msg)
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
