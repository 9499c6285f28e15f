"""
Endpoints of pipes (pipes.py): readers and writers of descriptors of any kind, or of memory.

Rules
    1. The broker never sleeps in a read or write.
    2. O_NONBLOCK is a property of an open file description, which may be shared with any program,
       so it is set only on descriptions opened here. For a socket, each call passes a flag. A pipe
       is reopened through /proc. All others (files, terminals, devices, and pipes that cannot be
       reopened) get a thread that may block.
    3. A descriptor that its owner has made non-blocking is waited for: EAGAIN is not an error.
    4. Each object owns its descriptor and closes it once.
    5. New bytes are never joined to queued bytes, so that no work grows with the backlog.

Threads: the broker's, unless a docstring states another.
"""

from __future__ import annotations

import _thread
import os
import select
import stat
from collections import deque

from mitogen import core
from mitogen.core import read_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Union

    from mitogen.core import Broker

    Reader = Union["PolledReader", "ThreadReader", "Feed"]
    Writer = Union["PolledWriter", "ThreadWriter", "Buffer", "Discard"]
    Deliver = Callable[[bytes], object]
    OnWritten = Callable[[int], object]
    OnClosed = Callable[[bool], object]

__all__ = [
    "Buffer",
    "Discard",
    "Feed",
    "Keep",
    "PolledReader",
    "PolledWriter",
    "Socket",
    "ThreadReader",
    "ThreadWriter",
    "open_reader",
    "open_writer",
]

#: Default for the number of bytes that a reader delivers at once.
LIMIT = 65536
#: Path by which a pipe is reopened. Linux only: elsewhere /dev/fd only duplicates the descriptor.
_FD_PATH = "/proc/self/fd/%d"


# -- readers: start(deliver), then resume() and pause(). deliver(b"") reports the end of file.


class PolledReader:
    """
    Reader of a descriptor that never blocks.

    :param Broker broker: broker that watches the descriptor
    :param int fd: the descriptor
    :param read: `read(fd, size)`, which returns bytes, None if none are available, b"" at the end
    :param close: called with the descriptor at the end
    """

    limit = LIMIT

    def __init__(
        self,
        broker: Broker,
        fd: int,
        read: Callable[[int, int], bytes | None] = read_fd,
        close: Callable[[int], object] = os.close,
    ) -> None:
        self.poller = broker.poller
        self.fd = fd
        self.flowing = self.finishing = False
        self._read = read
        self._close = close

    def start(self, deliver: Deliver) -> None:
        self.deliver = deliver

    def resume(self) -> None:
        self.flowing = True
        if self.fd >= 0:
            self.poller.watch(self.fd, self._on_readable)
            self._drain()

    def pause(self) -> None:
        self.flowing = False
        if self.fd >= 0:
            self.poller.watch(self.fd)

    def _on_readable(self) -> None:
        data = self._read(self.fd, self.limit)
        if data is None and self.finishing:
            data = b""
        if data is not None:
            if not data:
                self.close()
            self.deliver(data)

    def finish(self) -> None:
        """Treat the first moment without data as the end of file, even if writers remain."""
        self.finishing = True
        self._drain()

    def _drain(self) -> None:
        while self.finishing and self.flowing and self.fd >= 0:
            self._on_readable()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self.poller.watch(fd)
            self._close(fd)


def _wait(fd: int, event: int, wake: int = -1) -> bool:
    """Sleep until `fd` is ready or `wake` is readable; return whether `fd` is ready."""
    poll = select.poll()
    poll.register(fd, event)
    if wake >= 0:
        poll.register(wake, select.POLLIN)
    return wake not in [ready for ready, _ in poll.poll()]


class ThreadReader:
    """
    Reader of a descriptor that may block. It runs on a thread and reads one piece ahead.

    :param Broker broker: broker on which the data is delivered
    :param int fd: the descriptor
    """

    limit = LIMIT

    def __init__(self, broker: Broker, fd: int) -> None:
        self.broker = broker
        self.fd = fd
        self.closed = self.started = False
        self.paused = True
        self.asked = False
        self.piece: bytes | None = None
        self.lock = core.new_lock()
        self.wake_r, self.wake_w = os.pipe()

    def start(self, deliver: Deliver) -> None:
        self.deliver = deliver
        self.started = True
        _thread.start_new_thread(self._run, ())

    def resume(self) -> None:
        self.paused = False
        self._ask()

    def pause(self) -> None:
        self.paused = True

    def _ask(self) -> None:
        if self.closed or self.paused:
            return
        piece, self.piece = self.piece, None
        if piece is not None:
            self._hand_over(piece)
        elif not self.asked:
            self.asked = True
            self.lock.release()

    def _hand_over(self, piece: bytes) -> None:
        if not piece:
            self.close()
        self.deliver(piece)
        self._ask()

    def _on_piece(self, piece: bytes) -> None:
        self.asked = False
        if self.closed:
            return
        if self.paused:
            self.piece = piece
        else:
            self._hand_over(piece)

    def _run(self) -> None:
        """Read pieces and pass them to the broker. The reader's own thread."""
        piece = b"?"
        while piece:
            self.lock.acquire()
            if self.closed:
                break
            read: bytes | None = None
            while read is None and _wait(self.fd, select.POLLIN, self.wake_r):
                read = read_fd(self.fd, self.limit)
            if read is None:
                break
            piece = read
            self.broker.defer(self._on_piece, piece)
        self._release()

    def _release(self) -> None:
        os.close(self.fd)
        os.close(self.wake_r)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            # The thread wakes up and closes the other descriptors.
            os.close(self.wake_w)
            if not self.started:
                self._release()
            elif not self.asked:
                self.asked = True
                self.lock.release()


class Feed:
    """
    Reader of data that a program writes to it with write().

    :param Broker broker: broker on which the data is delivered
    :param int size: number of queued bytes at which write() starts to sleep
    """

    limit = LIMIT

    def __init__(self, broker: Broker, size: int) -> None:
        self.broker = broker
        self.size = size
        self.queue: deque[Any] = deque()
        self.queued = 0
        self.ended = False
        #: Set when the data is not read any more.
        self.closed = False
        self.paused = True
        self.deliver: Deliver | None = None
        self.lock = _thread.allocate_lock()
        self.waiters: list[Any] = []

    # -- on a program's thread

    def write(self, data: Any) -> int:
        """
        Any thread: queue bytes, after sleeping until the queue has room; return their number.

        :raises BrokenPipeError: the data is not read any more
        """
        while not self.offer(data):
            with self.lock:
                if self.queued < self.size or self.closed:
                    continue
                waiter = core.new_lock()
                self.waiters.append(waiter)
            waiter.acquire()
        return memoryview(data).nbytes

    def offer(self, data: Any, copy: bool = True) -> bool:
        """
        Any thread: queue bytes if the queue has room; return whether it had.

        :param bool copy: False if the caller will not change `data` afterwards
        :raises BrokenPipeError: the data is not read any more
        """
        view = memoryview(data).cast("B")
        with self.lock:
            if self.closed:
                raise BrokenPipeError(32, "the program no longer reads its standard input")
            if self.queued >= self.size:
                return False
            if not len(view):
                return True
            self.queue.append(memoryview(view.tobytes()) if copy else view)
            self.queued += len(view)
        self.broker.defer(self._flow)
        return True

    def end(self) -> None:
        """Any thread: send the end of file after the queued data."""
        self.ended = True
        self.broker.defer(self._flow)

    # -- on the broker's thread

    def start(self, deliver: Deliver) -> None:
        self.deliver = deliver

    def resume(self) -> None:
        self.paused = False
        self.broker.defer(self._flow)

    def pause(self) -> None:
        self.paused = True

    def _flow(self) -> None:
        deliver = self.deliver
        while deliver and not (self.paused or self.closed):
            piece = self._take()
            if not piece:
                if self.ended:
                    self.close()
                    deliver(b"")
                break
            deliver(piece)

    def _take(self) -> bytes:
        with self.lock:
            if not self.queue:
                return b""
            view = self.queue.popleft()
            piece = bytes(view[: self.limit])
            if len(piece) < len(view):
                self.queue.appendleft(view[len(piece) :])
            self.queued -= len(piece)
            if self.queued < self.size:
                self._wake()
        return piece

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.release()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.queue.clear()
            self._wake()


# -- writers: start(on_written, on_closed), then write(). end() follows the last write();
# close() drops queued data.


class PolledWriter:
    """
    Writer to a descriptor that never blocks.

    :param Broker broker: broker that watches the descriptor
    :param int fd: the descriptor
    :param write: `write(fd, data)`, which returns the number of bytes written or raises
        BlockingIOError
    :param finish: called with the descriptor at the end of file, before `close`
    :param close: called with the descriptor at the end
    """

    def __init__(
        self,
        broker: Broker,
        fd: int,
        write: Callable[[int, Any], int] = os.write,
        finish: Callable[[int], object] | None = None,
        close: Callable[[int], object] = os.close,
    ) -> None:
        self.poller = broker.poller
        self.fd = fd
        self._write = write
        self.finish = finish
        self._close = close
        self.queue: deque[Any] = deque()
        self.ended = False

    def start(self, on_written: OnWritten, on_closed: OnClosed) -> None:
        self.on_written = on_written
        self.on_closed = on_closed

    def write(self, data: bytes) -> None:
        if self.fd < 0 or self.ended:
            return
        self.queue.append(data)
        if len(self.queue) == 1:
            self._flush()

    def _flush(self) -> None:
        written = 0
        try:
            while self.queue:
                data = self.queue[0]
                sent = self._write(self.fd, data)
                written += sent
                if sent == len(data):
                    self.queue.popleft()
                else:
                    self.queue[0] = memoryview(data)[sent:]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
            return self.on_closed(True)  # type: ignore[return-value]
        if written:
            self.on_written(written)
        if self.fd < 0:
            return
        if self.queue:
            self.poller.watch(self.fd, None, self._flush)
        else:
            self.poller.watch(self.fd)
            if self.ended:
                self._finish()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            if not self.queue and self.fd >= 0:
                self._finish()

    def _finish(self) -> None:
        if self.finish:
            try:
                self.finish(self.fd)
            except OSError:
                pass
        self.close()
        self.on_closed(False)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        self.queue.clear()
        if fd >= 0:
            self.poller.watch(fd)
            self._close(fd)


class ThreadWriter:
    """
    Writer to a descriptor that may block. It runs on a thread.

    :param Broker broker: broker on which `on_written` and `on_closed` are called
    :param int fd: the descriptor
    """

    def __init__(self, broker: Broker, fd: int) -> None:
        self.broker = broker
        self.fd = fd
        self.queue: deque[Any] = deque()
        self.ended = self.closed = False
        #: The thread is started by the first write() only.
        self.started = False
        self.lock = core.new_lock()

    def start(self, on_written: OnWritten, on_closed: OnClosed) -> None:
        self.on_written = on_written
        self.on_closed = on_closed

    def write(self, data: bytes) -> None:
        if not self.ended:
            self.queue.append(data)
            self._wake()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            if self.started:
                self._wake()
            else:
                os.close(self.fd)
                self.on_closed(False)

    def close(self) -> None:
        # A thread in the middle of a write ends when that write returns.
        ended, self.ended, self.closed = self.ended, True, True
        if self.started:
            self._wake()
        elif not ended:
            os.close(self.fd)

    def _wake(self) -> None:
        if not self.started:
            self.started = True
            _thread.start_new_thread(self._run, ())
        try:
            self.lock.release()
        except RuntimeError:
            # The lock is free already: the thread has not run since the last release.
            pass

    def _run(self) -> None:
        """Write the queued data. The writer's own thread."""
        broken = False
        while not (broken or self.closed or (self.ended and not self.queue)):
            self.lock.acquire()
            while self.queue and not (broken or self.closed):
                broken = not self._write_all(self.queue.popleft())
        os.close(self.fd)
        self.broker.defer(self._done, broken)

    def _write_all(self, data: Any) -> bool:
        size = len(data)
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:
                _wait(self.fd, select.POLLOUT)
            except OSError:
                return False
        self.broker.defer(self.on_written, size)
        return True

    def _done(self, broken: bool) -> None:
        self.on_closed(broken)


class Buffer:
    """
    Writer to memory, from which a program reads with take() or read().

    :param Broker broker: broker that counts the bytes taken, as written
    """

    #: Callback for new data or the end of file, called on any thread.
    on_change: Any = staticmethod(int)

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.chunks: deque[Any] = deque()
        self.ended = False
        self.lock = _thread.allocate_lock()
        self.waiters: list[Any] = []

    # -- on the broker's thread

    def start(self, on_written: OnWritten, on_closed: OnClosed) -> None:
        self.on_written = on_written
        self.on_closed = on_closed

    def write(self, data: bytes) -> None:
        if not self.ended:
            with self.lock:
                self.chunks.append(data)
            self._wake()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self._wake()
            self.on_closed(False)

    def close(self) -> None:
        # Data that has arrived can still be read.
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        with self.lock:
            waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.release()
        self.on_change()

    # -- on a program's thread

    def take(self, size: int) -> Any:
        """Any thread: return up to `size` bytes, b"" at the end, or None if none are available."""
        with self.lock:
            if not self.chunks:
                return b"" if self.ended else None
            chunk = self.chunks.popleft()
            if len(chunk) > size:
                self.chunks.appendleft(memoryview(chunk)[size:])
                chunk = chunk[:size]
        self.broker.defer(self.on_written, len(chunk))
        return chunk

    def read(self, size: int) -> Any:
        """Any thread: sleep until data is available or at its end, then return as take() does."""
        while True:
            chunk = self.take(size)
            if chunk is not None:
                return chunk
            with self.lock:
                if self.chunks or self.ended:
                    continue
                waiter = core.new_lock()
                self.waiters.append(waiter)
            waiter.acquire()

    def abandon(self) -> None:
        """Any thread: stop reading; the writing end is notified."""
        self.broker.defer(self._abandon)

    def _abandon(self) -> None:
        if not self.ended:
            self.close()
            self.on_closed(True)


class Discard:
    """Writer that drops all data."""

    def start(self, on_written: OnWritten, on_closed: OnClosed) -> None:
        self.on_written = on_written
        self.on_closed = on_closed

    def write(self, data: bytes) -> None:
        self.on_written(len(data))

    def end(self) -> None:
        self.on_closed(False)

    def close(self) -> None:
        """Do nothing: no data is queued."""


class Keep(Discard):
    """Writer that keeps all data in `chunks`, without a notification."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.chunks.append(data)
        self.on_written(len(data))


# -- the endpoint that suits a descriptor


def _reopen(fd: int, flags: int) -> int | None:
    """Open a pipe again to get a private description; return None if that is not possible."""
    try:
        return os.open(_FD_PATH % fd, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # Not Linux; or the pipe is another account's; or its other end is closed.
        return None


class Socket:
    """
    A connected socket whose read() and write(), for PolledReader and PolledWriter, never block.

    :param int fd: the socket's descriptor, owned by this object from now on
    """

    def __init__(self, fd: int) -> None:
        import _socket

        # The family may be any: only operations common to all are used.
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        self.flags = _socket.MSG_DONTWAIT

    def read(self, _fd: int, size: int) -> bytes | None:
        try:
            data: bytes = self.socket.recv(size, self.flags)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""
        return data

    def write(self, _fd: int, data: Any) -> int:
        sent: int = self.socket.send(data, self.flags)
        return sent

    def end(self, _fd: int) -> None:
        """Send the end of file, even if other processes have the socket open."""
        self.socket.shutdown(1)

    def close(self, _fd: int) -> None:
        self.socket.close()


def open_reader(broker: Broker, fd: int) -> Reader:
    """
    Return the reader that suits a descriptor which others may share.

    :param Broker broker: this context's broker
    :param int fd: the descriptor, owned by the reader from now on
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        sock = Socket(fd)
        return PolledReader(broker, fd, sock.read, sock.close)
    if stat.S_ISFIFO(mode):
        own = _reopen(fd, os.O_RDONLY)
        if own is not None:
            os.close(fd)
            return PolledReader(broker, own)
    return ThreadReader(broker, fd)


def open_writer(broker: Broker, fd: int) -> Writer:
    """
    Return the writer that suits a descriptor which others may share.

    :param Broker broker: this context's broker
    :param int fd: the descriptor, owned by the writer from now on
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        # No shutdown at the end: other processes, such as a shell, may continue to use the socket.
        sock = Socket(fd)
        return PolledWriter(broker, fd, sock.write, None, sock.close)
    if stat.S_ISFIFO(mode):
        own = _reopen(fd, os.O_WRONLY)
        if own is not None:
            os.close(fd)
            return PolledWriter(broker, own)
    return ThreadWriter(broker, fd)
