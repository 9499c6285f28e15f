"""
For programs that fork by themselves: hold this library's threads while they do.

    corker = mitogen.os_fork.Corker(brokers=(router.broker,), pools=(pool,))
    corker.cork()
    try:
        pid = os.fork()
    finally:
        corker.uncork()

Otherwise a copy may find a lock held for ever, by a thread that it does not have. It must not use
the program's routers, contexts or pools, and ends in os._exit() or runs another program.

Threads: cork(), uncork() and the wrapped os.fork() on any of the program's.
"""

from __future__ import annotations

import functools
import gc
import os
import sys

from mitogen import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["Corker", "real_fork", "wrap_os__fork"]

#: Seconds between looks at whether a thread has ended instead of stopping.
LOOK = 0.1

#: os.fork() as it was.
real_fork = os.fork


def _is_open(pool: Any) -> bool:
    return not pool.closed


class Corker:
    """
    Holds threads.

    :param brokers: whose threads
    :param pools: service pools, whose threads
    """

    def __init__(self, brokers: Sequence[core.Broker] = (), pools: Sequence[Any] = ()) -> None:
        self.brokers = brokers
        self.pools = pools
        self._held: list[Any] = []

    def cork(self) -> None:
        """
        Return once every thread stands still between two pieces of work, until uncork(). A pool's
        thread that serves a call stops after that. Until then, call nothing: it might wait for one
        of them.
        """
        # Pools first: what their threads do may need a broker.
        for pool in self.pools:
            for _ in range(pool.size):
                self._hold(pool.defer, functools.partial(_is_open, pool))
        for broker in self.brokers:
            if not broker.on_thread():
                self._hold(broker.defer, functools.partial(getattr, broker, "alive"))

    def _hold(self, defer: Callable[[Callable[[], Any]], Any], goes_on: Callable[[], bool]) -> None:
        stopped = core.new_lock()
        resume = core.new_lock()

        def hold() -> None:
            stopped.release()
            resume.acquire()

        if not goes_on():
            return
        defer(hold)
        self._held.append(resume)
        while not stopped.acquire(True, LOOK):
            if not goes_on():
                return

    def uncork(self) -> None:
        """Let the threads go on; in the copy, where there are none, do nothing."""
        held, self._held = self._held, []
        for resume in held:
            resume.release()


def _instances(cls: type) -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, cls)]


def wrap_os__fork() -> None:
    """
    Have os.fork() hold the threads of every broker and pool of the process while it forks.

    A second call does nothing more. `mitogen.fork` holds what it needs itself.
    """
    if os.fork is not real_fork:
        return

    @functools.wraps(real_fork)
    def fork() -> int:
        service = sys.modules.get("mitogen.service")
        pools = _instances(service.Pool) if service else []
        corker = Corker(_instances(core.Broker), pools)
        corker.cork()
        try:
            return real_fork()
        finally:
            corker.uncork()

    os.fork = fork
