"""
I/O: the poller, the streams to neighbours, and the broker, the thread that does the I/O.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Rules
    1. Any thread may send. Only the broker thread reads and runs handlers.
    2. The broker thread never waits for credit; a program's thread may.

Threads: named by each method; "Any thread" if all threads may call it.
"""

from __future__ import annotations

import _thread
import os
import select
import sys
import time
from collections import deque

from mitogen.core.errors import StreamError
from mitogen.core.frames import CHUNK_SIZE, HIGH_WATER, Framer

try:
    from _heapq import heappop, heappush  # heapq itself would cost each child half a millisecond
except Exception:  # PyPy has no _heapq; a longer name of the error costs bytes
    from heapq import heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from mitogen.core.codec import Bytes
    from mitogen.core.routing import Router

    Lock = _thread.LockType
    Action = Callable[[], Any]
    Watched = tuple[Action | None, Action | None]

now = time.monotonic
ERROR = 40


def listen(obj: object, name: str, func: Callable[..., Any]) -> None:
    """Register `func` as a callback of the event `name` of `obj`; see fire()."""
    obj.__dict__.setdefault("_signals", {}).setdefault(name, []).append(func)


def fire(obj: object, name: str, *args: Any, **kwargs: Any) -> None:
    """Call the callbacks of the event `name` of `obj`, in the order of registration."""
    for func in list(obj.__dict__.get("_signals", {}).get(name, ())):
        func(*args, **kwargs)


def new_lock() -> Lock:
    """Return a held lock, the cheapest way for one thread to wait for another."""
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


class Poller:
    """Table of callbacks for ready descriptors. tree/pollers.py has faster implementations."""

    def __init__(self) -> None:
        self._poll_object = select.poll()
        self.table: dict[int, Watched] = {}

    def watch(self, fd: int, read: Action | None = None, write: Action | None = None) -> None:
        """Call `read()` or `write()` whenever `fd` is ready for it; with neither, unwatch `fd`."""
        old = self.table.get(fd)
        if read or write:
            self.table[fd] = (read, write)
            self._set(fd, (1 if read else 0) | (4 if write else 0), old)
        elif old:
            del self.table[fd]
            self._unset(fd)

    def _set(self, fd: int, mask: int, old: Watched | None) -> None:
        self._poll_object.register(fd, mask)

    def _unset(self, fd: int) -> None:
        self._poll_object.unregister(fd)

    def _wait(self, seconds: float | None) -> Iterable[tuple[int, int]]:
        return self._poll_object.poll(seconds and seconds * 1000)

    def poll(self, seconds: float | None = None) -> None:
        """Wait for ready descriptors, then call their callbacks."""
        for fd, mask in self._wait(seconds):
            # Looked up here: an earlier callback may have closed the descriptor.
            read, write = self.table.get(fd, (None, None))
            if read and mask & ~4:
                read()
            elif write and mask & ~1:
                write()


def read_fd(fd: int, size: int = CHUNK_SIZE) -> bytes | None:
    """Read without blocking: None if nothing is available, b'' at the end (or a pty's EIO)."""
    try:
        return os.read(fd, size)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


class Stream:
    """
    A byte pipe to a neighbour, split into frames.

    Any thread sends: data that the descriptor accepts is written at once, the rest by the broker.
    Only the broker reads.

    :param Router router: router of this end
    :param int remote_id: context at the other end
    :param int rfd: descriptor to read from
    :param int wfd: descriptor to write to; may be `rfd`
    """

    conn: Any = None
    closed = False
    reason: str | None = None

    def __init__(
        self,
        router: Router,
        remote_id: int,
        rfd: int,
        wfd: int,
        name: str | None = None,
    ) -> None:
        self.router = router
        #: Called with each frame and this stream.
        self.on_frame = router.on_frame
        self.broker = router.broker
        self.remote_id = remote_id
        self.name = name
        self.rfd = rfd
        self.wfd = wfd
        self.framer = Framer()
        self.lock = _thread.allocate_lock()
        #: Chunks to write, and the sizes of the writes of their beginning that are done.
        self.owed: tuple[list[Bytes], list[int]] = ([], [])
        #: Bytes of `owed`, or more after an interruption.
        self.queued = 0
        #: True if the broker writes the chunks owed.
        self.watched = False
        self.waiters: list[Action] = []
        #: Contexts that this neighbour sent messages to: it is notified when one of them ends.
        self.egress_ids: set[int] = set()
        self.received = 0
        os.set_blocking(rfd, False)
        os.set_blocking(wfd, False)

    def start(self, data: bytes = b"") -> None:
        """Broker thread: start receiving; `data` was already read."""
        self._watch_ends()
        if data:
            self.receive(data)

    def _watch_ends(self) -> None:
        poller = self.broker.poller
        write = self.on_writable if self.queued else None
        if self.rfd == self.wfd:
            poller.watch(self.rfd, self.on_readable, write)
        else:
            poller.watch(self.rfd, self.on_readable)
            poller.watch(self.wfd, None, write)

    def on_readable(self) -> None:
        data = read_fd(self.rfd)
        if data:
            self.receive(data)
        elif data is not None:
            self.disconnect("EOF")

    def receive(self, data: bytes) -> None:
        """Broker thread: process received bytes."""
        self.received += len(data)
        try:
            for msg in self.framer.feed(data):
                self.on_frame(msg, self)
                if self.closed:
                    break
        except StreamError as e:
            self.router.log(ERROR, "%s: %s", self.name, e)
            self.disconnect(str(e))

    def send(
        self, head: Bytes = b"", body: Bytes = b"", cork: bool = False, more: Sequence[Bytes] = ()
    ) -> None:
        """
        Any thread: send frames. They are written at once, unless the broker has others to write.

        A signal can interrupt this anywhere. So `owed` is right after each step.

        :param head: header of the first frame; empty to write the owed bytes
        :param body: its payload
        :param bool cork: delay the write: another frame will follow soon
        :param more: headers and payloads of other frames; all are sent or none
        """
        with self.lock:
            if self.closed:
                return
            chunks, written = self.owed
            if head:
                # First: it may become too large, but never too small.
                self.queued += len(head) + len(body) + (sum(map(len, more)) if more else 0)
                # One step: from here on, all parts are owed.
                chunks += (head, body, *more) if more else (head, body)
                if self.watched:
                    return
            try:
                # Unless an interrupted thread has left a count.
                if chunks and not (written or cork):
                    # One step: a write counts its bytes.
                    written.extend(map(os.writev, (self.wfd,), (chunks[:1000],)))
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as e:
                self.broker.defer(self.disconnect, str(e))
            if written != [self.queued]:
                rest = chunks[:]
                sent = sum(written)
                while rest and sent >= len(rest[0]):
                    sent -= len(rest.pop(0))
                if sent:
                    rest[0] = memoryview(rest[0])[sent:]
                # One step: the counted bytes are forgotten.
                self.owed = rest, []
                self.queued = sum(map(len, rest))
                if rest:
                    if not self.watched:
                        self.broker.defer(self._watch_if_open)
                        self.watched = True
                    return
            self.watched = False
            self.owed = [], []
            self.queued = 0

    def flush(self) -> None:
        """Any thread: write as much of the owed bytes as the descriptor accepts."""
        self.send()

    def _watch_if_open(self) -> None:
        if self.queued and not self.closed:
            self.on_writable()
            if not self.closed:
                self._watch_ends()

    def on_writable(self) -> None:
        self.flush()
        if self.waiters and self.queued * 2 < HIGH_WATER:
            waiters, self.waiters = self.waiters, []
            for func in waiters:
                func()
        if not self.queued and not self.closed:
            self._watch_ends()

    def when_drained(self, func: Action) -> None:
        """Any thread: make the broker call `func()` once the backlog is small, or at the end."""
        self.broker.defer(self._when_drained, func)

    def _when_drained(self, func: Action) -> None:
        if self.closed or self.queued * 2 < HIGH_WATER:
            func()
        else:
            self.waiters.append(func)

    def disconnect(self, reason: str = "closed") -> None:
        """Broker thread: close the descriptors and notify the router; idempotent."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
        self.reason = reason
        self.owed = [], []
        self.queued = 0
        for fd in {self.rfd, self.wfd}:
            self.broker.poller.watch(fd)
            os.close(fd)
        for func in self.waiters:
            func()
        self.router.on_stream_lost(self)
        fire(self, "disconnect")


class Broker:
    """
    The thread that does the I/O.

    :param poller_class: Poller, or a class of tree/pollers.py
    """

    #: Seconds that a shutdown waits for streams to end on their own.
    shutdown_timeout = 3.0
    poller_class = Poller

    def __init__(self, poller_class: type[Poller] | None = None) -> None:
        self.poller = (poller_class or self.poller_class)()
        self._deferred: deque[tuple[Callable[..., Any], Any, Any]] = deque()
        self._timers: list[tuple[float, int, list[Action]]] = []
        self._sequence = 0
        #: Number of the iteration, and of the last one that was woken by a byte.
        self._turn = self._rung = 0
        self._end_lock = new_lock()
        self.alive = True
        self.stopping = self.closing = False
        #: Objects that keep the thread alive until they finish; each then calls stop().
        self.holds: set[Any] = set()
        self.ident: int | None = None
        self.exit_actions: list[Action] = []
        self._wake_r, self.wake_w = os.pipe()
        self._wake_lock = _thread.allocate_lock()
        self.poller.watch(self._wake_r, self._on_wake)
        self.start()

    def start(self) -> None:
        _thread.start_new_thread(self.run, ())

    def on_thread(self) -> bool:
        """Return True if called on the broker's own thread."""
        return _thread.get_ident() == self.ident

    def defer(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Any thread: call `func` on the broker thread. Pending calls share one wake-up byte."""
        self._deferred.append((func, args, kwargs))
        turn = self._turn
        if self._rung != turn and _thread.get_ident() != self.ident:
            with self._wake_lock:
                if self.alive:
                    os.write(self.wake_w, b"!")
            # Last, so that an interrupted thread leaves no broker asleep that counts as woken.
            self._rung = turn

    def after(self, seconds: float, func: Action) -> list[Action]:
        """Broker thread: call `func()` later; return a list whose clear() cancels the call."""
        self._sequence += 1
        cell = [func]
        heappush(self._timers, (now() + seconds, self._sequence, cell))
        return cell

    def _on_wake(self) -> None:
        os.read(self._wake_r, 64)

    def run(self) -> None:
        self.ident = _thread.get_ident()
        try:
            while not self.stopping:
                self._once()
        finally:
            self._end()

    def _once(self) -> None:
        # Before the look at the deferred calls: later ones wake this iteration.
        self._turn += 1
        timers = self._timers
        wait: float | None = None
        if self._deferred:
            wait = 0
        elif timers:
            wait = max(0, timers[0][0] - now())
        self.guard(self.poller.poll, wait)
        # Only the calls queued by now: calls that they defer wait for the next iteration.
        for _ in range(len(self._deferred)):
            func, args, kwargs = self._deferred.popleft()
            self.guard(func, *args, **kwargs)
        while timers and timers[0][0] <= now():
            for func in heappop(timers)[2]:
                self.guard(func)

    def guard(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call `func`; report an exception rather than let it end the thread that does all I/O."""
        try:
            func(*args, **kwargs)
        except Exception:
            sys.excepthook(*sys.exc_info())

    def _end(self) -> None:
        with self._wake_lock:
            self.alive = False
            os.close(self.wake_w)
        while self._deferred:
            func, args, kwargs = self._deferred.popleft()
            self.guard(func, *args, **kwargs)
        for func in list(self.exit_actions):
            self.guard(func)
        fire(self, "exit")
        os.close(self._wake_r)
        self._end_lock.release()

    def shutdown(self) -> None:
        """Any thread: end the children, then the broker thread."""
        self.defer(self._shutdown)

    def _shutdown(self) -> None:
        if not self.closing:
            self.closing = True
            fire(self, "before_shutdown")
            fire(self, "shutdown")
            self.stop()

    def stop(self) -> None:
        """Broker thread: end the thread once `holds` is empty, if shutdown has begun."""
        self.stopping = self.closing and not self.holds

    def join(self) -> None:
        """Wait until the broker thread has ended."""
        if self._end_lock.acquire():
            self._end_lock.release()
