"""
Calls as concurrent.futures: `context.submit(fn, ...)`, and an Executor over many contexts.

Rules
    1. An answer is decoded by the thread that requests the result, not on the broker thread.
    2. A future is pending until its answer arrives. Until then cancel() succeeds, and reaches the
       child, where the call is interrupted if it runs.

Threads: any; a future's callbacks are called on the broker's, when its answer arrives.
"""

from __future__ import annotations

import concurrent.futures
import threading

from mitogen.calls.chain import CallChain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Base = concurrent.futures.Future[Any]
else:
    Base = concurrent.futures.Future

__all__ = ["CallFuture", "Executor", "submit"]


class CallFuture(Base):
    """
    The future of a call; made by submit().

    :param chain: the call's CallChain
    """

    def __init__(self, chain: CallChain) -> None:
        super().__init__()
        self.chain = chain
        self._handle: Any = 0

    def start(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Send the call."""
        self._handle = self.chain.start(self._on_answer, fn, args, kwargs)

    def _on_answer(self, msg: Any) -> None:
        if self.set_running_or_notify_cancel():
            self.set_result(msg)

    def cancel(self) -> bool:
        """
        Interrupt the call, or drop it if it has not begun. Return False if its answer has already
        arrived.
        """
        fresh = not self.cancelled()
        if not super().cancel():
            return False
        if fresh:
            self.chain.cancel(self._handle)
        return True

    def result(self, timeout: float | None = None) -> Any:
        """
        Return the call's result.

        :param timeout: seconds to wait; None for no limit
        :raises concurrent.futures.TimeoutError: there is no answer within `timeout`
        :raises concurrent.futures.CancelledError: cancel() was called
        :raises CallError: the call raised an exception
        :raises ChannelError: the context is gone
        """
        return super().result(timeout).unpickle()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception of result(), or None; TimeoutError and CancelledError are raised."""
        msg = super().result(timeout)
        try:
            msg.unpickle()
        except Exception as e:
            return e
        return None


def submit(chain: CallChain, fn: Callable[..., Any], args: Any, kwargs: Any) -> CallFuture:
    """
    Call a function; return a CallFuture for its result.

    :param CallChain chain: chain for the call, which determines its context and order
    :param fn: function; see CallChain.call()
    """
    future = CallFuture(chain)
    future.start(fn, args, kwargs)
    return future


class Executor(concurrent.futures.Executor):
    """
    Runs each call in the least busy of its contexts.

    :param contexts: Contexts, at least one; shutting down the executor does not affect them
    :param int workers: number of simultaneous calls in each context
    :raises ValueError: there are no contexts, or `workers` is less than one
    """

    def __init__(self, contexts: Iterable[Any], workers: int = 1) -> None:
        contexts = list(contexts)
        if not contexts or workers < 1:
            raise ValueError("an Executor needs at least one context and one worker per context")
        threaded = workers > 1
        self._chains = [CallChain(c, worker=threaded) for c in contexts for _ in range(workers)]
        #: Number of pending calls by chain.
        self._load = dict.fromkeys(self._chains, 0)
        self._futures: set[CallFuture] = set()
        self._lock = threading.Condition()
        self._shut = False

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> CallFuture:  # type: ignore[override]
        """
        Call `fn(*args, **kwargs)` in one of the contexts; return a CallFuture.

        :raises RuntimeError: the executor was shut down, or all of its contexts are gone
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot submit: the executor was shut down")
            chain = min(self._load, key=self._load.__getitem__, default=None)
            if chain is None:
                raise RuntimeError("cannot submit: every context of the executor is gone")
            self._load[chain] += 1
        try:
            future = submit(chain, fn, args, kwargs)
        except BaseException:
            self._note_end(chain)
            raise
        with self._lock:
            self._futures.add(future)
        future.add_done_callback(self._on_done)
        return future

    def _on_done(self, future: Any) -> None:
        chain = future.chain
        self._note_end(chain)
        context = chain.context
        with self._lock:
            self._futures.discard(future)
            if context.router.stream_by_id(context.context_id) is None:
                # Otherwise it would always be the least busy one.
                self._load.pop(chain, None)
            self._lock.notify_all()

    def _note_end(self, chain: CallChain) -> None:
        with self._lock:
            if chain in self._load:
                self._load[chain] -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """
        Stop accepting calls.

        :param bool wait: wait for the answers of all pending calls
        :param bool cancel_futures: cancel the pending calls
        """
        with self._lock:
            self._shut = True
            futures = list(self._futures)
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            with self._lock:
                self._lock.wait_for(lambda: not self._futures)
