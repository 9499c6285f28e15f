"""
Mailboxes that threads wait on: Latch, Receiver, Channel.

They are not part of the preamble because a context that only runs calls needs none of them. The
names are available as `mitogen.core.Receiver` etc., imported at first use.

Threads: any thread may put to a Latch and wait on it; the broker thread fills Receivers.
"""

from __future__ import annotations

import _thread
from collections import deque

from mitogen.core import (
    IS_DEAD,
    WINDOW,
    ChannelError,
    Error,
    Sender,
    TimeoutError,
    new_lock,
    now,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from mitogen.core import Context, Lock, Message, Policy, Router

    Notify = Callable[[Any], object]


__all__ = ["Channel", "Latch", "LatchError", "Queue", "Receiver"]


class LatchError(Error):
    """A latch that was closed before or during a wait on it."""

    __module__ = "mitogen.core"


class Latch:
    """A queue that any number of threads may wait on; each put calls `notify(latch)`."""

    __module__ = "mitogen.core"

    notify: Notify | None = None
    closed = False

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiters: deque[Lock] = deque()
        #: Guards `closed`, the waiters, and the answer to "an item, closed, or wait".
        self._lock = _thread.allocate_lock()

    def __repr__(self) -> str:
        return "Latch(%#x, size=%d)" % (id(self), len(self._items))

    def size(self) -> int:
        """Return how many items wait."""
        return len(self._items)

    def empty(self) -> bool:
        """Return True if nothing waits now; raise LatchError if the latch is closed."""
        if self.closed:
            raise LatchError("latch is closed")
        return not self._items

    def close(self) -> None:
        """Close the latch and drop its items: present and future waits raise LatchError."""
        self._close(False)

    def _close(self, keep: bool) -> None:
        with self._lock:
            self.closed = True
            if not keep:
                self._items.clear()
            while self._waiters:
                self._wake()

    def put(self, obj: Any = None) -> None:
        """Append `obj`; raise LatchError if the latch is closed."""
        with self._lock:
            if self.closed:
                raise LatchError("latch is closed")
            self._items.append(obj)
            self._wake()
        if self.notify:
            self.notify(self)

    def _wake(self) -> None:
        try:
            self._waiters.popleft().release()
        except IndexError:
            pass

    def get(self, timeout: float | None = None, block: bool = True) -> Any:
        """
        Return the oldest item.

        :param float timeout: seconds to wait; None for ever, 0 not at all
        :raises TimeoutError: nothing came in time
        :raises LatchError: the latch was closed
        """
        deadline = None if timeout is None else now() + timeout
        while 1:
            try:
                return self._items.popleft()
            except IndexError:
                pass
            wait = -1 if deadline is None else deadline - now()
            if self._wait(wait, block and (timeout is None or wait > 0)):
                raise TimeoutError("nothing came within %s seconds", timeout or 0)

    def _wait(self, seconds: float, block: bool) -> bool:
        """Return True if it is empty and `block` is False; otherwise there may be an item now."""
        lock = new_lock()
        try:
            with self._lock:
                if self._items:
                    return False
                if self.closed:
                    raise LatchError("latch is closed")
                if not block:
                    return True
                self._waiters.append(lock)
            lock.acquire(True, seconds)
            return False
        finally:
            with self._lock:
                if lock in self._waiters:
                    self._waiters.remove(lock)
                elif self._items and self._waiters:
                    # Already woken: if this thread leaves (signal, deadline), wake another one.
                    self._wake()


class Queue(Latch):
    """A latch whose items can still be taken after close()."""

    def empty(self) -> bool:
        """Return True if nothing waits now."""
        return not self._items

    def close(self) -> None:
        """Close the queue: once it is empty, present and future waits raise LatchError."""
        self._close(True)


class Receiver:
    """
    A mailbox that threads read from. Iteration ends when the sender closes it.

    :param Router router: router of this context
    :param int handle: None for a new handle
    :param bool persist: False: accept one message only
    :param Context respondent: accept only its messages; its loss is delivered as a dead message
    :param policy: `policy(msg, stream)` returns whether a message is accepted
    :param bool overwrite: replace an existing handler
    :param window: None: queue without limit, for a program that reads only after all is sent
    """

    __module__ = "mitogen.core"

    #: Callback for each arriving message, called with this Receiver on the broker thread.
    notify: Notify | None = None
    raise_channelerror = True
    closed_msg = "the Receiver has been closed"

    def __init__(
        self,
        router: Router,
        handle: int | None = None,
        persist: bool = True,
        respondent: Context | None = None,
        policy: Policy | None = None,
        overwrite: bool = False,
        window: int | None = WINDOW,
    ) -> None:
        self.router = router
        self._latch = Queue()
        if handle is None:
            handle = router.new_handle(persist and window is not None)
        self.handle: Any = router.add_handler(
            self.on_message, handle, persist, policy, respondent, overwrite, True
        )

    def __repr__(self) -> str:
        return "Receiver(%r, %r)" % (self.router.node.context_id, self.handle)

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def to_sender(self) -> Sender:
        """Return a Sender for this mailbox, to pass to another context."""
        return Sender(self.router.context_by_id(self.router.context_id), self.handle)

    def on_message(self, msg: Message) -> None:
        msg.receiver = self
        try:
            self._latch.put(msg)
        except LatchError:
            return self.router.consumed(msg)
        if self.notify:
            self.notify(self)

    def close(self) -> None:
        """Stop receiving; a waiting reader and a waiting sender get ChannelError."""
        if self.handle is None:
            return
        try:
            self.router.del_handler(self.handle)
        except KeyError:
            pass
        self._latch.close()
        try:
            while 1:
                self.router.consumed(self._latch.get())
        except LatchError:
            pass
        for src_id, handle in list(self.router.meters):
            if handle == self.handle:
                # Credit of zero bytes ends the flow.
                self.router.meters.pop((src_id, handle), None)
                self.router.send_credit(src_id, handle, 0, 0)
        self.handle = None

    def size(self) -> int:
        """Return how many messages wait."""
        return self._latch.size()

    def empty(self) -> bool:
        """Return True if nothing waits now."""
        return self._latch.empty()

    def get(
        self, timeout: float | None = None, block: bool = True, throw_dead: bool = True
    ) -> Message:
        """
        Return the oldest Message.

        :param float timeout: seconds to wait; None for ever
        :param bool throw_dead: raise ChannelError for a dead message
        :raises TimeoutError: nothing came in time
        :raises ChannelError: the sender closed it, its context is gone, or close() was called
        """
        try:
            msg: Message = self._latch.get(timeout, block)
        except LatchError:
            raise ChannelError(self.closed_msg) from None
        self.router.consumed(msg)
        if throw_dead and msg.reply_to == IS_DEAD:
            msg.unpickle()
        return msg

    def get_data(self, timeout: float | None = None) -> Any:
        """Return the oldest message's value."""
        return self.get(timeout).unpickle()

    def __iter__(self) -> Iterator[Message]:
        while 1:
            try:
                msg = self.get()
            except ChannelError:
                return
            yield msg


class Channel(Sender, Receiver):
    """
    A Receiver here and a Sender to a mailbox of `context`, in one object (kept for old programs).

    :param Router router: router of this context
    :param Context context: context to send to
    :param int dst_handle: handle of the mailbox there
    :param int handle: handle of the Receiver; None for a new one
    """

    __module__ = "mitogen.core"

    def __init__(
        self,
        router: Router,
        context: Context,
        dst_handle: int,
        handle: int | None = None,
    ) -> None:
        Sender.__init__(self, context, dst_handle)
        Receiver.__init__(self, router, handle)

    def close(self) -> None:
        """Close both directions."""
        Receiver.close(self)
        Sender.close(self)

    def __repr__(self) -> str:
        return "Channel(%s, %s)" % (Sender.__repr__(self), Receiver.__repr__(self))
