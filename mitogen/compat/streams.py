"""
Descriptors of a program's own on the broker: the stream layer of old releases.

A program makes a Protocol's Stream, gives it two files with accept(), and calls
`Broker.start_receive(stream)`. From then on its protocol is called with what arrives, and when the
broker ends. mitogen's own streams (core.Stream) do not come by here.

Rules
    1. Whatever way a stream ends, on_disconnect() is called once and both of its files are closed.
    2. A callback that raises is reported and ends its stream, not the broker.
    3. A stream that is still there when the broker shuts down holds it, for `shutdown_timeout`
       seconds at most.

The names are found in mitogen.core and, as methods, on core.Broker.

Threads: start_receive(), stop_receive(), Waker.defer() and the timers on any; all else on the
broker's, which calls the callbacks.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections import deque
from heapq import heappop, heappush

from mitogen import core
from mitogen.core import CHUNK_SIZE, fire, listen, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "BasicStream",
    "BrokerTimers",
    "BufferedWriter",
    "DelimitedProtocol",
    "IoLogger",
    "IoLoggerProtocol",
    "LineLoggingProtocolMixin",
    "LogProtocol",
    "MitogenProtocol",
    "Protocol",
    "RegexProtocol",
    "Side",
    "Timer",
    "TimerList",
    "Waker",
    "release",
]

#: Bytes of a line without end after which DelimitedProtocol hands on what it has.
LINE_LIMIT = 1048576


class Side:
    """
    One direction of a stream: a descriptor, put into non-blocking mode.

    :param stream: the stream that it belongs to
    :param fp: a file object, or a descriptor as int
    :param cloexec: close it in programs that are started
    :param keep_alive: while it receives, a broker that shuts down waits for it
    """

    def __init__(self, stream: Any, fp: Any, cloexec: bool = True, keep_alive: bool = True) -> None:
        self.stream = stream
        self.fp = fp
        self.fd: int = fp if isinstance(fp, int) else fp.fileno()
        self.closed = False
        self.keep_alive = keep_alive
        os.set_inheritable(self.fd, not cloexec)
        os.set_blocking(self.fd, False)

    def __repr__(self) -> str:
        return "Side(%r, fd %d%s)" % (self.stream, self.fd, ", closed" if self.closed else "")

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.fd

    def close(self) -> None:
        """Close the file; once."""
        if not self.closed:
            self.closed = True
            if isinstance(self.fp, int):
                os.close(self.fp)
            else:
                self.fp.close()

    def read(self, n: int = CHUNK_SIZE) -> bytes | None:
        """Return up to `n` bytes; None if there are none now, b"" at the end."""
        return b"" if self.closed else core.read_fd(self.fd, n)

    def write(self, s: bytes | memoryview) -> int | None:
        """Return how many bytes of `s` were written, maybe 0; None if the other end is gone."""
        if self.closed:
            return None
        try:
            return os.write(self.fd, s)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return None


class BasicStream:
    """
    Two files on a broker, and the Protocol that is called for them.

    Listen for `shutdown` and `disconnect` on it.
    """

    receive_side: Side | None = None
    transmit_side: Side | None = None
    protocol: Any = None
    conn: Any = None
    name: str | None = None
    #: on_disconnect() was called.
    ended = False

    def __repr__(self) -> str:
        return "%s(%r)" % (type(self).__name__, self.name)

    def set_protocol(self, protocol: Any) -> None:
        """Have `protocol` called from now on; it gets this stream as its `stream`."""
        if self.protocol:
            self.protocol.stream = None
        self.protocol = protocol
        protocol.stream = self

    def accept(self, rfp: Any, wfp: Any) -> None:
        """
        Take over two files.

        :param rfp: to read from: a file object or a descriptor
        :param wfp: to write to; may be the same
        """
        self.receive_side = Side(self, rfp)
        self.transmit_side = self.receive_side if wfp is rfp else Side(self, wfp)

    def sides(self) -> list[Side]:
        """Return the sides that there are."""
        return [side for side in (self.receive_side, self.transmit_side) if side]

    def on_receive(self, broker: Any) -> None:
        """The file can be read."""
        assert self.receive_side
        data = self.receive_side.read(self.protocol.read_size)
        if data:
            self.protocol.on_receive(broker, data)
        elif data is not None:
            self.on_disconnect(broker)

    def on_transmit(self, broker: Any) -> None:
        """The file can be written to."""
        self.protocol.on_transmit(broker)

    def on_shutdown(self, broker: Any) -> None:
        """The broker is to end."""
        fire(self, "shutdown")
        if self.protocol:
            self.protocol.on_shutdown(broker)
        else:
            self.on_disconnect(broker)

    def on_disconnect(self, broker: Any) -> None:
        """The other end is gone, or the broker ends; once."""
        if self.ended:
            return
        self.ended = True
        try:
            fire(self, "disconnect")
            if self.protocol:
                self.protocol.on_disconnect(broker)
        finally:
            release(broker, self)


class Protocol:
    """What is done with the bytes of a Stream. Its methods run on the broker's thread."""

    stream_class: type[Any] = BasicStream
    stream: Any = None
    #: Bytes that are read at once.
    read_size = CHUNK_SIZE

    @classmethod
    def build_stream(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a new stream with `cls(*args, **kwargs)` as its protocol."""
        stream = cls.stream_class()
        stream.set_protocol(cls(*args, **kwargs))
        return stream

    def on_receive(self, broker: Any, buf: bytes) -> None:
        """Take in bytes: to be overridden by what reads."""

    def on_transmit(self, broker: Any) -> None:
        """Write: to be overridden by what called `broker.start_transmit()`."""
        broker._stop_transmit(self.stream)

    def on_shutdown(self, broker: Any) -> None:
        """The broker is to end: disconnect."""
        self.stream.on_disconnect(broker)

    def on_disconnect(self, broker: Any) -> None:
        """Take the stream's files off the broker and close them."""
        release(broker, self.stream)


class DelimitedProtocol(Protocol):
    """Calls on_line_received() for each line; a last one without end is a partial line."""

    #: What a line ends with; not part of it.
    delimiter = b"\n"
    _trailer = b""

    def on_receive(self, broker: Any, buf: bytes) -> None:
        """Cut off the lines; what is left waits for its end, LINE_LIMIT bytes at most."""
        rest = self._trailer + buf
        stream = self.stream
        protocol = self
        while protocol is self:
            line, found, after = rest.partition(self.delimiter)
            if not found:
                break
            # A protocol may put another in its place: the lines that follow are that one's.
            self.on_line_received(line)
            rest = after
            protocol = stream.protocol
        self._trailer = b""
        if protocol is not self:
            if rest:
                protocol.on_receive(broker, rest)
        elif rest:
            self._trailer = b"" if len(rest) > LINE_LIMIT else rest
            self.on_partial_line_received(rest)

    def on_line_received(self, line: bytes) -> None:
        """Take in a line, without its end."""

    def on_partial_line_received(self, line: bytes) -> None:
        """Look at the beginning of a line; it will come again, with more."""

    def on_disconnect(self, broker: Any) -> None:
        """Hand on a last line without end, then disconnect."""
        line, self._trailer = self._trailer, b""
        if line:
            self.on_line_received(line)
        Protocol.on_disconnect(self, broker)


class RegexProtocol(DelimitedProtocol):
    """
    Calls a method for each line that matches a pattern.

    PATTERNS and PARTIAL_PATTERNS hold pairs of a compiled pattern (bytes) and a function
    `func(self, line, match)`; the first that matches at the line's beginning counts.
    """

    PATTERNS: list[tuple[Any, Any]] = []
    PARTIAL_PATTERNS: list[tuple[Any, Any]] = []

    def on_line_received(self, line: bytes) -> None:
        self._dispatch(self.PATTERNS, line, self.on_unrecognized_line_received)

    def on_partial_line_received(self, line: bytes) -> None:
        self._dispatch(self.PARTIAL_PATTERNS, line, self.on_unrecognized_partial_line_received)

    def _dispatch(
        self, patterns: list[tuple[Any, Any]], line: bytes, otherwise: Callable[..., Any]
    ) -> None:
        for pattern, func in patterns:
            match = pattern.match(line)
            if match:
                func(self, line, match)
                return
        otherwise(line)

    def on_unrecognized_line_received(self, line: bytes) -> None:
        """Take in a line that no pattern matches."""

    def on_unrecognized_partial_line_received(self, line: bytes) -> None:
        """Look at the beginning of a line that no pattern matches."""


class LineLoggingProtocolMixin:
    """Remembers the last 100 lines of a DelimitedProtocol."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.logged_lines: deque[tuple[float, bytes]] = deque(maxlen=100)

    def on_line_received(self, line: bytes) -> Any:
        self.logged_lines.append((now(), line))
        return super().on_line_received(line)  # type: ignore[misc]

    def get_history(self) -> bytes:
        """Return those lines."""
        return b"\n".join(line for _, line in self.logged_lines)


class LogProtocol(LineLoggingProtocolMixin, DelimitedProtocol):
    """Logs each line, at level DEBUG, under the stream's name."""

    def on_line_received(self, line: bytes) -> None:
        super().on_line_received(line)
        _log("mitogen", 10, "%s: %s", self.stream.name, line.decode("utf-8", "replace"))


class BufferedWriter:
    """
    Broker thread: writes to a stream in order, as fast as the other end takes it.

    Call on_transmit() from the protocol's.

    :param broker: the stream's broker
    :param protocol: its protocol
    """

    def __init__(self, broker: Any, protocol: Protocol) -> None:
        self._broker = broker
        self._protocol = protocol
        self._pending: deque[bytes | memoryview] = deque()

    def write(self, s: bytes | memoryview) -> None:
        """Write `s`, now or behind what waits."""
        if not s:
            return
        self._pending.append(s)
        if len(self._pending) == 1:
            self.on_transmit(self._broker)
            if self._pending:
                self._broker._start_transmit(self._protocol.stream)

    def on_transmit(self, broker: Any) -> None:
        """Write what the descriptor takes."""
        stream = self._protocol.stream
        while self._pending:
            data = self._pending[0]
            written = stream.transmit_side.write(data)
            if written is None:
                self._pending.clear()
                stream.on_disconnect(broker)
                return
            if written < len(data):
                self._pending[0] = memoryview(data)[written:]
                return
            self._pending.popleft()
        broker._stop_transmit(stream)


class Waker(Protocol):
    """
    `Broker.defer()` that refuses when the broker has ended. (The broker wakes itself.)

    :param broker: whose
    """

    broker_shutdown_msg = (
        "the broker has ended: what was to be called on its thread will not be; "
        "defer() before Broker.shutdown()"
    )
    keep_alive = False

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    @classmethod
    def build_stream(cls, broker: Any) -> Any:
        """Return a stream whose protocol is a new Waker; it has no descriptors."""
        return super().build_stream(broker)

    def defer(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """
        Any thread: have `func(*args, **kwargs)` called on the broker's.

        :raises mitogen.core.Error: it has ended
        """
        if not self._broker.alive:
            raise core.Error(self.broker_shutdown_msg)
        self._broker.defer(func, *args, **kwargs)


class IoLoggerProtocol(DelimitedProtocol):
    """
    Logs the lines that are written to a descriptor of this process, its standard output perhaps.

    :param name: of the logger
    """

    def __init__(self, name: str) -> None:
        # Here, since the broker's thread does not import.
        import logging

        self._log = logging.getLogger(name).info

    @classmethod
    def build_stream(cls, name: str, dest_fd: int) -> Any:
        """
        Put a pipe in place of `dest_fd`; return the stream that reads from it.

        :param name: of the logger
        :param dest_fd: descriptor, which belongs to the caller from then on
        """
        rfd, wfd = os.pipe()
        os.dup2(wfd, dest_fd)
        stream = super().build_stream(name)
        stream.name = name
        stream.accept(os.fdopen(rfd, "rb", 0), os.fdopen(wfd, "wb", 0))
        return stream

    def on_line_received(self, line: bytes) -> None:
        self._log("%s", line.decode("utf-8", "replace"))

    def on_shutdown(self, broker: Any) -> None:
        """Log what was written until now, then disconnect."""
        while not self.stream.receive_side.closed:
            data = self.stream.receive_side.read(self.read_size)
            if not data:
                break
            self.on_receive(broker, data)
        Protocol.on_shutdown(self, broker)


def IoLogger(broker: Any, name: str, dest_fd: int) -> Any:
    """Return an IoLoggerProtocol's stream that `broker` reads from already."""
    stream = IoLoggerProtocol.build_stream(name, dest_fd)
    broker.start_receive(stream)
    return stream


def _log(logger: str, level: int, fmt: str, *args: Any) -> None:
    logging = sys.modules.get("logging")
    if logging:
        logging.getLogger(logger).log(level, fmt, *args)


# -- on the broker


class _Watched:
    """The sides that a broker watches: descriptor to [side to read from, side to write to]."""

    def __init__(self, broker: Any) -> None:
        self.broker = broker
        self.table: dict[int, list[Side | None]] = {}
        listen(broker, "shutdown", self.on_shutdown)
        listen(broker, "exit", self.on_exit)

    def set(self, side: Side, place: int, on: bool) -> None:
        """Broker thread: watch a side for reading (0) or writing (1), or no longer."""
        if side.closed and on:
            return
        entry = self.table.setdefault(side.fd, [None, None])
        entry[place] = side if on else None
        read, write = entry
        if self.broker.alive:
            self.broker.poller.watch(
                side.fd,
                read and (lambda: self.call(read.stream, read.stream.on_receive)),
                write and (lambda: self.call(write.stream, write.stream.on_transmit)),
            )
        if not read and not write:
            del self.table[side.fd]

    def call(self, stream: Any, func: Callable[..., Any]) -> None:
        """Call `func(broker)`; if it raises, end the stream."""
        try:
            func(self.broker)
        except Exception:
            sys.excepthook(*sys.exc_info())
            if not stream.ended:
                self.call(stream, stream.on_disconnect)
            release(self.broker, stream)

    def streams(self) -> builtins.set[Any]:
        """Return the streams that are watched."""
        return {side.stream for entry in self.table.values() for side in entry if side}

    def keeps_alive(self) -> bool:
        """Whether there is a side that a shutdown waits for."""
        return any(entry[0] and entry[0].keep_alive for entry in self.table.values())

    def on_shutdown(self) -> None:
        """Broker thread: tell the streams; what stays holds the broker for a while."""
        for stream in self.streams():
            self.call(stream, stream.on_shutdown)
        self.release()
        self.broker.after(self.broker.shutdown_timeout, self.on_exit)

    def release(self) -> None:
        """Broker thread: once the broker shuts down, hold it while something keeps it alive."""
        if self.broker.closing:
            (self.broker.holds.add if self.keeps_alive() else self.broker.holds.discard)(self)
            self.broker.stop()

    def on_exit(self) -> None:
        """Broker thread: end what is left."""
        for stream in self.streams():
            self.call(stream, stream.on_disconnect)
        self.release()


def _watched(broker: Any) -> _Watched:
    """Broker thread: return what `broker` watches."""
    found = broker.__dict__.get("_watched")
    if found is None:
        found = broker.__dict__["_watched"] = _Watched(broker)
    watched: _Watched = found
    return watched


def release(broker: Any, stream: Any) -> None:
    """Broker thread: take a stream off the broker and close its files."""
    watched = _watched(broker)
    for entry in list(watched.table.values()):
        for place, side in enumerate(entry):
            if side and side.stream is stream:
                watched.set(side, place, False)
    for side in stream.sides():
        side.close()
    watched.release()


def _set(broker: Any, side: Side, place: int, on: bool) -> None:
    _watched(broker).set(side, place, on)
    if not on:
        _watched(broker).release()


def _on_broker(broker: Any, func: Callable[..., Any], *args: Any) -> None:
    # At once where it can be: who stops to transmit must not be called again.
    if broker.on_thread():
        func(broker, *args)
    else:
        broker.defer(func, broker, *args)


# -- timers


class Timer:
    """
    Something to be called at a time.

    :param when: seconds of the monotonic clock
    :param func: called with no arguments
    """

    def __init__(self, when: float, func: Callable[[], Any]) -> None:
        self.when = when
        self.func = func
        #: Whether it is still to be called.
        self.active = True

    def __repr__(self) -> str:
        return "Timer(%r, %r)" % (self.when, self.func)

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        """Do not call it."""
        self.active = False


class TimerList:
    """Timers in order. Pure but for the clock, `_now`."""

    _now: Callable[[], float] = staticmethod(now)

    def __init__(self) -> None:
        self._heap: list[Timer] = []

    def get_timeout(self) -> float | None:
        """Return the seconds until the next timer, 0 if it is due; None if there is none."""
        while self._heap and not self._heap[0].active:
            heappop(self._heap)
        return max(0, self._heap[0].when - self._now()) if self._heap else None

    def schedule(self, when: float, func: Callable[[], Any]) -> Timer:
        """
        Have `func()` called at `when`.

        :param when: seconds of the monotonic clock, `mitogen.core.now()`
        :returns: the Timer, which can be cancelled
        """
        timer = Timer(when, func)
        heappush(self._heap, timer)
        return timer

    def expire(self) -> None:
        """Call what is due."""
        due = self._now()
        while self._heap and self._heap[0].when <= due:
            timer = heappop(self._heap)
            if timer.active:
                timer.active = False
                timer.func()


class BrokerTimers(TimerList):
    """`Broker.timers`: the broker calls what is due. schedule() may be called on any thread."""

    def __init__(self, broker: Any) -> None:
        TimerList.__init__(self)
        self._broker = broker

    def schedule(self, when: float, func: Callable[[], Any]) -> Timer:
        timer = Timer(when, func)
        _on_broker(self._broker, self._add, timer)
        return timer

    def _add(self, broker: Any, timer: Timer) -> None:
        heappush(self._heap, timer)
        broker.after(max(0, timer.when - self._now()), self.expire)


# -- what core's classes get


class BrokerNames:
    """Methods of core.Broker."""

    def start_receive(self: Any, stream: Any) -> None:
        """Any thread: have `stream.on_receive(broker)` called when it can be read."""
        _on_broker(self, _set, stream.receive_side, 0, True)

    def stop_receive(self: Any, stream: Any) -> None:
        """Any thread: do not call it any more."""
        _on_broker(self, _set, stream.receive_side, 0, False)

    def start_transmit(self: Any, stream: Any) -> None:
        """Any thread: have `stream.on_transmit(broker)` called when it can be written to."""
        _on_broker(self, _set, stream.transmit_side, 1, True)

    def stop_transmit(self: Any, stream: Any) -> None:
        """Any thread: do not call it any more."""
        _on_broker(self, _set, stream.transmit_side, 1, False)

    _start_transmit = start_transmit
    _stop_transmit = stop_transmit

    def keep_alive(self: Any) -> bool:
        """Return whether something is left that a shutdown waits for."""
        return bool(self.holds) or _watched(self).keeps_alive()

    @property
    def timers(self: Any) -> BrokerTimers:
        """The broker's TimerList."""
        found: BrokerTimers = self.__dict__.setdefault("_timer_list", BrokerTimers(self))
        return found


class _OwnSide(Side):
    """One direction of a core.Stream, which reads and writes by itself."""

    keep_alive = True
    closed = property(lambda self: self.stream.closed)

    def __init__(self, stream: core.Stream, fd: int) -> None:
        self.stream = stream
        self.fd = fd
        self.fp = fd

    def close(self) -> None:
        """Any thread: end the stream."""
        self.stream.broker.defer(self.stream.disconnect)


class StreamNames:
    """Attributes and methods of core.Stream, which is stream and protocol in one."""

    protocol = property(lambda self: self)
    receive_side = property(lambda self: _OwnSide(self, self.rfd))
    transmit_side = property(lambda self: _OwnSide(self, self.wfd))

    def pending_bytes(self: Any) -> int:
        """Return how many bytes wait to be written."""
        return int(self.queued)

    def on_receive(self: Any, broker: Any, buf: bytes | None = None) -> None:
        """Broker thread: take in `buf`, or what can be read."""
        if buf is None:
            self.on_readable()
        else:
            self.receive(buf)

    def on_transmit(self: Any, broker: Any) -> None:
        """Broker thread: write what can be written."""
        self.on_writable()

    def on_shutdown(self: Any, broker: Any) -> None:
        """Broker thread: the broker is to end."""
        fire(self, "shutdown")
        self.disconnect("shutdown")

    def on_disconnect(self: Any, broker: Any) -> None:
        """Broker thread: close the stream; its listeners are told."""
        self.disconnect()


#: The framed stream to a neighbour.
MitogenProtocol = core.Stream
