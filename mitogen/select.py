"""
Waiting on many receivers at once.

Threads: get() on any; messages come from the broker.
"""

from __future__ import annotations

from mitogen import core
from mitogen.core.mailbox import Latch, LatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Union

    from mitogen.core.mailbox import Receiver

    Notify = Callable[[Any], object]
    Source = Union[Receiver, Latch, "Select"]


__all__ = ["Error", "Event", "Select"]


class Error(core.Error):
    """Invalid use of a Select."""


class Event:
    """An arrival: the message or item (`data`) and its receiver, latch or select (`source`)."""

    source = None
    data = None

    def __init__(self, source: Any = None, data: Any = None) -> None:
        self.source = source
        self.data = data


class Select:
    """
    Waits for the first of many Receivers, Latches or Selects to have an item.

    It is true while it has members. It iterates over messages; with `oneshot`, the default, a
    member is removed once it has delivered, so that iteration ends.

    :param receivers: initial members
    :param bool oneshot: remove each member after its first message
    """

    notify: Notify | None = None
    owned_msg = "Cannot add: Receiver is already owned by another Select"
    loop_msg = "Adding this Select instance would create a Select cycle"
    not_present_msg = "Instance is not a member of this Select"
    empty_msg = "Cannot get(), Select instance is empty"
    closed_msg = "Select was closed during get()"

    def __init__(self, receivers: Iterable[Source] = (), oneshot: bool = True) -> None:
        self._receivers: list[Any] = []
        self._oneshot = oneshot
        self._latch = Latch()
        for receiver in receivers:
            self.add(receiver)

    @classmethod
    def all(cls, receivers: Iterable[Source]) -> list[Any]:
        """Return the values of one message of each receiver."""
        return list(msg.unpickle() for msg in cls(receivers))

    def _put(self, source: Source) -> None:
        self._latch.put(source)
        if self.notify:
            self.notify(self)

    def __bool__(self) -> bool:
        return bool(self._receivers)

    def __enter__(self) -> Select:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return self.iter_data()

    def iter_data(self) -> Iterator[Any]:
        """Yield messages while there are members."""
        while self._receivers:
            yield self.get()

    def iter_events(self) -> Iterator[Event]:
        """Yield Events while there are members."""
        while self._receivers:
            yield self.get_event()

    def _check_no_loop(self, receiver: Source) -> None:
        if receiver is self:
            raise Error(self.loop_msg)
        for inner in getattr(receiver, "_receivers", ()):
            self._check_no_loop(inner)

    def add(self, recv: Source) -> None:
        """
        Add `recv` as a member.

        :raises Error: it is a member of another Select, or is a Select that contains this one
        """
        if isinstance(recv, Select):
            self._check_no_loop(recv)
        if recv.notify:
            raise Error(self.owned_msg)
        self._receivers.append(recv)
        recv.notify = self._put
        # Announce items that are already there. get() ignores items announced twice.
        for _ in range(recv.size()):
            self._put(recv)

    def remove(self, recv: Source) -> None:
        """
        Remove the member `recv`.

        :raises Error: it is not a member
        """
        try:
            self._receivers.remove(recv)
        except ValueError:
            raise Error(self.not_present_msg) from None
        recv.notify = None

    def close(self) -> None:
        """Remove all members; a thread waiting in get() gets an Error."""
        for receiver in self._receivers[:]:
            self.remove(receiver)
        self._latch.close()

    def size(self) -> int:
        """Return the number of waiting messages."""
        return sum(receiver.size() for receiver in self._receivers)

    def empty(self) -> bool:
        """Return True if no message waits now."""
        return self.size() == 0

    def get(self, timeout: float | None = None, block: bool = True) -> Any:
        """
        Return the next message (a Latch's: its item).

        :param float timeout: seconds to wait; None for no limit
        :raises TimeoutError: no message came in time
        :raises ChannelError: a receiver's sender has closed it; other members are not affected
        :raises Error: there are no members, or close() was called
        """
        return self.get_event(timeout, block).data

    def get_event(self, timeout: float | None = None, block: bool = True) -> Event:
        """Return the next Event: like get(), with the source."""
        if not self._receivers:
            raise Error(self.empty_msg)
        deadline = None if timeout is None else core.now() + timeout
        while True:
            left = None if deadline is None else max(0, deadline - core.now())
            try:
                source = self._latch.get(left, block)
            except LatchError:
                raise Error(self.closed_msg) from None
            event = self._take(source)
            if event:
                return event

    def _take(self, source: Any) -> Event | None:
        if source not in self._receivers:
            return None
        delivered = True
        try:
            if isinstance(source, Select):
                return source.get_event(block=False)
            return Event(source, source.get(block=False))
        except (core.TimeoutError, LatchError, Error):
            # It was announced twice, or another thread was faster.
            delivered = False
            return None
        finally:
            # After a dead message too, which is raised as ChannelError.
            if delivered and self._oneshot and not (isinstance(source, Select) and source):
                self.remove(source)
