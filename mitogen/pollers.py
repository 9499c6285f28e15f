"""
Pollers for contexts with many streams: epoll and kqueue behind core.Poller's interface.

Threads: the broker's only.
"""

import select

from mitogen.core import Poller

MYPY = False
if MYPY:
    from typing import Iterable, Optional, Tuple, Type

    from mitogen.core import Watched


__all__ = ["EpollPoller", "KqueuePoller", "best"]


class EpollPoller(Poller):
    """Linux."""

    def __init__(self) -> "None":
        self._epoll = select.epoll()
        self._wait = self._epoll.poll  # type: ignore[method-assign, assignment]
        self.table = {}

    def _set(self, fd: "int", mask: "int", old: "Optional[Watched]") -> "None":
        if old:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)

    def _unset(self, fd: "int") -> "None":
        self._epoll.unregister(fd)

    def close(self) -> "None":
        self._epoll.close()


class KqueuePoller(Poller):
    """macOS and the BSDs."""

    def __init__(self) -> "None":
        self._kqueue = select.kqueue()
        self.table = {}

    def _set(self, fd: "int", mask: "int", old: "Optional[Watched]") -> "None":
        changes = []
        for bit, kind in ((1, select.KQ_FILTER_READ), (4, select.KQ_FILTER_WRITE)):
            had = bool(old and old[0 if bit == 1 else 1])
            if bool(mask & bit) != had:
                flag = select.KQ_EV_ADD if mask & bit else select.KQ_EV_DELETE
                changes.append(select.kevent(fd, kind, flag))
        if changes:
            self._kqueue.control(changes, 0, 0)

    def _unset(self, fd: "int") -> "None":
        for kind in (select.KQ_FILTER_READ, select.KQ_FILTER_WRITE):
            try:
                self._kqueue.control([select.kevent(fd, kind, select.KQ_EV_DELETE)], 0, 0)
            except OSError:
                pass

    def _wait(self, seconds: "Optional[float]") -> "Iterable[Tuple[int, int]]":
        events = self._kqueue.control(None, 64, seconds)
        return [(e.ident, 1 if e.filter == select.KQ_FILTER_READ else 4) for e in events]

    def close(self) -> "None":
        self._kqueue.close()


def best() -> "Type[Poller]":
    """Return the class of the best poller here."""
    if hasattr(select, "epoll"):
        return EpollPoller
    if hasattr(select, "kqueue"):
        return KqueuePoller
    return Poller
