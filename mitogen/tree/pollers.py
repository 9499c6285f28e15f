"""
Pollers for contexts with many streams: epoll and kqueue with core.Poller's interface.

Threads: the broker thread only.
"""

from __future__ import annotations

import select
import sys

from mitogen.core import Poller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mitogen.core.io import Watched


__all__ = ["EpollPoller", "KqueuePoller", "best"]


class EpollPoller(Poller):
    """Poller for Linux."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        if sys.implementation.name != "pypy":  # Its poll() takes no None.
            self._wait = self._epoll.poll  # type: ignore[method-assign, assignment]  # one call less
        self.table = {}

    def _set(self, fd: int, mask: int, old: Watched | None) -> None:
        if old:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)

    def _unset(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def _wait(self, seconds: float | None) -> Iterable[tuple[int, int]]:
        return self._epoll.poll(-1 if seconds is None else seconds)

    def close(self) -> None:
        self._epoll.close()


class KqueuePoller(Poller):
    """Poller for macOS and the BSDs."""

    def __init__(self) -> None:
        kq: Any = select
        self._kqueue: Any = kq.kqueue()
        self.table = {}

    def _set(self, fd: int, mask: int, old: Watched | None) -> None:
        kq: Any = select
        changes = []
        for bit, kind in ((1, kq.KQ_FILTER_READ), (4, kq.KQ_FILTER_WRITE)):
            had = bool(old and old[0 if bit == 1 else 1])
            if bool(mask & bit) != had:
                flag = kq.KQ_EV_ADD if mask & bit else kq.KQ_EV_DELETE
                changes.append(kq.kevent(fd, kind, flag))
        if changes:
            self._kqueue.control(changes, 0, 0)

    def _unset(self, fd: int) -> None:
        kq: Any = select
        for kind in (kq.KQ_FILTER_READ, kq.KQ_FILTER_WRITE):
            try:
                self._kqueue.control([kq.kevent(fd, kind, kq.KQ_EV_DELETE)], 0, 0)
            except OSError:
                pass

    def _wait(self, seconds: float | None) -> Iterable[tuple[int, int]]:
        kq: Any = select
        events = self._kqueue.control(None, 64, seconds)
        return [(e.ident, 1 if e.filter == kq.KQ_FILTER_READ else 4) for e in events]

    def close(self) -> None:
        self._kqueue.close()


def best() -> type[Poller]:
    """Return the best poller class for this platform."""
    if hasattr(select, "epoll"):
        return EpollPoller
    if hasattr(select, "kqueue"):
        return KqueuePoller
    return Poller
