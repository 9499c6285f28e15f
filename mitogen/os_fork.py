"""
Pause this library's threads while a program forks.

    corker = mitogen.os_fork.Corker(brokers=(router.broker,), pools=(pool,))
    corker.cork()
    try:
        pid = os.fork()
    finally:
        corker.uncork()

Otherwise the child might inherit a lock held by a thread that does not exist there, and wait for
ever. The child must not use the program's routers, contexts or pools, and must end in os._exit() or
exec another program.

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

#: Seconds between checks whether a thread has ended instead of pausing.
POLL_INTERVAL = 0.1

#: The original os.fork().
real_fork = os.fork


def _is_open(pool: Any) -> bool:
    return not pool.closed


class Corker:
    """
    Pauses threads.

    :param brokers: brokers whose threads to pause
    :param pools: service pools whose threads to pause
    """

    def __init__(self, brokers: Sequence[core.Broker] = (), pools: Sequence[Any] = ()) -> None:
        self.brokers = brokers
        self.pools = pools
        self._held: list[Any] = []

    def cork(self) -> None:
        """
        Pause the threads, until uncork(); return once each is idle. A pool's thread finishes its
        current call first. Until uncork(), don't call functions that may depend on these threads.
        """
        # Pools first: their current calls may need a broker.
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
        while not stopped.acquire(True, POLL_INTERVAL):
            if not goes_on():
                return

    def uncork(self) -> None:
        """Resume the threads. No-op in the child, which does not have them."""
        held, self._held = self._held, []
        for resume in held:
            resume.release()


def _instances(cls: type) -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, cls)]


def wrap_os__fork() -> None:
    """
    Make os.fork() pause the threads of all brokers and pools of the process.

    Idempotent. `mitogen.fork` pauses the threads itself.
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
