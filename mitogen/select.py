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
    """A Select was used in a way that it can't be."""


class Event:
    """What arrived (`data`), and on which receiver, latch or select (`source`)."""

    source = None
    data = None

    def __init__(self, source: Any = None, data: Any = None) -> None:
        self.source = source
        self.data = data


class Select:
    """
    Waits until one of many Receivers, Latches or Selects has something.

    It is true while it holds any. It iterates over messages; with `oneshot`, which is the default,
    a receiver is taken out once it has delivered, so that iteration ends.

    :param receivers: what to wait on
    :param bool oneshot: take each out after its first message
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
        """Yield the values of one message of each."""
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
        """Yield messages while there is anything to wait on."""
        while self._receivers:
            yield self.get()

    def iter_events(self) -> Iterator[Event]:
        """Yield Events while there is anything to wait on."""
        while self._receivers:
            yield self.get_event()

    def _check_no_loop(self, receiver: Source) -> None:
        if receiver is self:
            raise Error(self.loop_msg)
        for inner in getattr(receiver, "_receivers", ()):
            self._check_no_loop(inner)

    def add(self, recv: Source) -> None:
        """
        Wait on `recv` too.

        :raises Error: another Select waits on it, or it (a Select) waits on this one
        """
        if isinstance(recv, Select):
            self._check_no_loop(recv)
        if recv.notify:
            raise Error(self.owned_msg)
        self._receivers.append(recv)
        recv.notify = self._put
        # What was there before is announced now; something may be announced twice, which get()
        # takes for nothing.
        for _ in range(recv.size()):
            self._put(recv)

    def remove(self, recv: Source) -> None:
        """
        Wait on `recv` no more.

        :raises Error: this does not wait on it
        """
        try:
            self._receivers.remove(recv)
        except ValueError:
            raise Error(self.not_present_msg) from None
        recv.notify = None

    def close(self) -> None:
        """Wait on nothing more; who is in get() gets an Error."""
        for receiver in self._receivers[:]:
            self.remove(receiver)
        self._latch.close()

    def size(self) -> int:
        """Return how many messages wait."""
        return sum(receiver.size() for receiver in self._receivers)

    def empty(self) -> bool:
        """Return True if nothing waits now."""
        return self.size() == 0

    def get(self, timeout: float | None = None, block: bool = True) -> Any:
        """
        Return the next message (a Latch's: its item).

        :param float timeout: seconds to wait; None for ever
        :raises TimeoutError: nothing came in time
        :raises ChannelError: what came is the end of a receiver's sender; the others go on
        :raises Error: there is nothing to wait on, or close() was called
        """
        return self.get_event(timeout, block).data

    def get_event(self, timeout: float | None = None, block: bool = True) -> Event:
        """Return the next Event: as get(), with the source."""
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
            # It was announced twice, or somebody else was quicker.
            delivered = False
            return None
        finally:
            # After a dead message too, which is raised as ChannelError.
            if delivered and self._oneshot and not (isinstance(source, Select) and source):
                self.remove(source)
