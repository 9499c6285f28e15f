"""
Worker threads: concurrent calls in one context, for `CallChain(worker=True)`.

Rules
    1. A chain's calls run in order on one thread, which lives while calls are queued.
    2. A cancel raises KeyboardInterrupt at the thread's next bytecode; a blocking system call is
       not interrupted.

Threads: run() on the chain's thread; interrupt_call() on a thread of its own, as it imports ctypes.
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
    A thread that runs the calls of one chain.

    :param first_call.Diverter diverter: owner of the queues
    :param str chain_id: id of the chain
    """

    def __init__(self, diverter: Any, chain_id: str) -> None:
        # Dispatcher.__init__() is not called: the handlers are already registered.
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
        """Run calls until the queue is empty."""
        self.diverter.workers.add(self)
        try:
            while self._take():
                try:
                    self._run_current()
                except KeyboardInterrupt:
                    # A late interrupt: the cancelled call is already over.
                    pass
        finally:
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
        """Any thread: raise KeyboardInterrupt in `call` if it is the current one."""
        with self.interrupt_lock:
            if self.current is call and self.interruptible:
                self.interruptible = False
                self.interrupted = True
                _raise_in(self.thread, KeyboardInterrupt)


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """Schedule `exception` to be raised in a thread; None: revoke a pending one."""
    import ctypes

    argument = ctypes.py_object(exception) if exception else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), argument)
