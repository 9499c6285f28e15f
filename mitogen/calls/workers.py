"""
Calls on threads of their own, in a context that runs several at once: `CallChain(worker=True)`.

Rules
    1. A chain's calls are run in order, by one thread, which lives while some are queued.
    2. A cancel raises KeyboardInterrupt at the thread's next bytecode; a system call that it waits
       in is not interrupted.

Threads: run() on the chain's; interrupt() on one of its own, as it imports ctypes.
"""

from __future__ import annotations

import _thread

from mitogen import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Worker"]


class Worker(core.Dispatcher):
    """
    Runs one chain's calls.

    :param child.Diverter diverter: has the queues
    :param str chain_id: which one
    """

    def __init__(self, diverter: Any, chain_id: str) -> None:
        # Nothing of Dispatcher's: it has the handler already.
        self.econtext = diverter.econtext
        self.router = diverter.router
        self.errors = diverter.econtext.dispatcher.errors
        self.diverter = diverter
        self.chain_id = chain_id
        self.queue = diverter.chains[chain_id]
        self.thread = _thread.get_ident()
        self.current = None
        self.interruptible = False
        self.interrupted = False
        self.interrupt_lock = _thread.allocate_lock()

    def run(self) -> None:
        """Run calls until there are none."""
        self.diverter.workers.add(self)
        while self._take():
            try:
                self._run_current()
            except KeyboardInterrupt:
                # It came too late for the call that it was meant for.
                pass
        self.diverter.workers.discard(self)

    def _take(self) -> bool:
        with self.diverter.lock:
            if self.queue:
                self.current = self.queue.popleft()
                return True
            del self.diverter.chains[self.chain_id]
            return False

    def _run_current(self) -> None:
        msg: Any = self.current
        _, position = core.decode_next(msg.data, 1)
        msg.data = b"\x83" + msg.data[position:]
        try:
            self._run_one(msg)
        finally:
            with self.interrupt_lock:
                self.current = None
                if self.interrupted:
                    self.interrupted = False
                    _raise_in(self.thread, None)
            self.router.consumed(msg)

    def interrupt_call(self, call: Any) -> None:
        """Any thread: raise KeyboardInterrupt in that call, if it is the current one."""
        with self.interrupt_lock:
            if self.current is call and self.interruptible:
                self.interruptible = False
                self.interrupted = True
                _raise_in(self.thread, KeyboardInterrupt)


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """Have `exception` raised in a thread; None: take back one that was not raised yet."""
    import ctypes

    argument = ctypes.py_object(exception) if exception else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), argument)
