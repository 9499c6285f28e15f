"""
The stream layer of old releases: a program's own descriptors on the broker.

A program creates the Stream of a Protocol, passes it two files with accept(), and calls
`Broker.start_receive(stream)`. From then on the broker calls the protocol with received data, and
at shutdown. mitogen's own streams (core.Stream) do not use this module.

Rules
    1. However a stream ends, on_disconnect() is called once and both of its files are closed.
    2. An exception in a callback is reported and ends its stream, not the broker.
    3. A stream that is still open when the broker shuts down delays the shutdown, for
       `shutdown_timeout` seconds at most.

The names are available in mitogen.core and, as methods, on core.Broker.

Threads: start_receive(), stop_receive(), Waker.defer() and the timers on any thread; everything
else, including callbacks, on the broker thread.
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

#: Bytes of an unterminated line after which DelimitedProtocol delivers the received part.
LINE_LIMIT = 1048576


class Side:
    """
    One direction of a stream: a descriptor in non-blocking mode.

    :param stream: the stream that it belongs to
    :param fp: a file object, or a descriptor as int
    :param cloexec: close the descriptor in started programs
    :param keep_alive: let a broker's shutdown wait while this side receives
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
        """Close the file; idempotent."""
        if not self.closed:
            self.closed = True
            if isinstance(self.fp, int):
                os.close(self.fp)
            else:
                self.fp.close()

    def read(self, n: int = CHUNK_SIZE) -> bytes | None:
        """Read up to `n` bytes; return None if none are available, b"" at the end."""
        return b"" if self.closed else core.read_fd(self.fd, n)

    def write(self, s: bytes | memoryview) -> int | None:
        """Write `s`; return the number of bytes written, or None if the other end is gone."""
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
    Two files on a broker, and the Protocol that handles them.

    It fires the events `shutdown` and `disconnect`.
    """

    receive_side: Side | None = None
    transmit_side: Side | None = None
    protocol: Any = None
    conn: Any = None
    name: str | None = None
    #: True once on_disconnect() was called.
    ended = False

    def __repr__(self) -> str:
        return "%s(%r)" % (type(self).__name__, self.name)

    def set_protocol(self, protocol: Any) -> None:
        """Make `protocol` the handler from now on; its `stream` becomes this stream."""
        if self.protocol:
            self.protocol.stream = None
        self.protocol = protocol
        protocol.stream = self

    def accept(self, rfp: Any, wfp: Any) -> None:
        """
        Take over two files.

        :param rfp: file object or descriptor to read from
        :param wfp: file object or descriptor to write to; may be `rfp`
        """
        self.receive_side = Side(self, rfp)
        self.transmit_side = self.receive_side if wfp is rfp else Side(self, wfp)

    def sides(self) -> list[Side]:
        """Return the sides that have a file."""
        return [side for side in (self.receive_side, self.transmit_side) if side]

    def on_receive(self, broker: Any) -> None:
        """Handle a readable file."""
        assert self.receive_side
        data = self.receive_side.read(self.protocol.read_size)
        if data:
            self.protocol.on_receive(broker, data)
        elif data is not None:
            self.on_disconnect(broker)

    def on_transmit(self, broker: Any) -> None:
        """Handle a writable file."""
        self.protocol.on_transmit(broker)

    def on_shutdown(self, broker: Any) -> None:
        """Handle the broker's shutdown."""
        fire(self, "shutdown")
        if self.protocol:
            self.protocol.on_shutdown(broker)
        else:
            self.on_disconnect(broker)

    def on_disconnect(self, broker: Any) -> None:
        """Handle the loss of the other end or the broker's end; idempotent."""
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
    """Handler of the bytes of a Stream. Its methods run on the broker thread."""

    stream_class: type[Any] = BasicStream
    stream: Any = None
    #: Maximum number of bytes per read.
    read_size = CHUNK_SIZE

    @classmethod
    def build_stream(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a new stream with `cls(*args, **kwargs)` as its protocol."""
        stream = cls.stream_class()
        stream.set_protocol(cls(*args, **kwargs))
        return stream

    def on_receive(self, broker: Any, buf: bytes) -> None:
        """Process received bytes; to be overridden by protocols that read."""

    def on_transmit(self, broker: Any) -> None:
        """Write; to be overridden by protocols that call `broker.start_transmit()`."""
        broker._stop_transmit(self.stream)

    def on_shutdown(self, broker: Any) -> None:
        """Handle the broker's shutdown: disconnect."""
        self.stream.on_disconnect(broker)

    def on_disconnect(self, broker: Any) -> None:
        """Take the stream's files off the broker and close them."""
        release(broker, self.stream)


class DelimitedProtocol(Protocol):
    """A protocol of lines, passed to on_line_received(). A last unterminated line is partial."""

    #: Terminator of a line, not part of it.
    delimiter = b"\n"
    _trailer = b""

    def on_receive(self, broker: Any, buf: bytes) -> None:
        """Split off complete lines; buffer the rest, up to LINE_LIMIT bytes."""
        rest = self._trailer + buf
        stream = self.stream
        protocol = self
        while protocol is self:
            line, found, after = rest.partition(self.delimiter)
            if not found:
                break
            # The callback may set another protocol, which then gets the remaining lines.
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
        """Process a line, without its terminator."""

    def on_partial_line_received(self, line: bytes) -> None:
        """Process the start of a line; it is delivered again when more of it arrives."""

    def on_disconnect(self, broker: Any) -> None:
        """Deliver a last unterminated line, then disconnect."""
        line, self._trailer = self._trailer, b""
        if line:
            self.on_line_received(line)
        Protocol.on_disconnect(self, broker)


class RegexProtocol(DelimitedProtocol):
    """
    A protocol of lines that calls the method of the pattern that matches.

    PATTERNS and PARTIAL_PATTERNS hold pairs of a compiled pattern (bytes) and a function
    `func(self, line, match)`; the first one that matches at the line's start is used.
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
        """Process a line that no pattern matches."""

    def on_unrecognized_partial_line_received(self, line: bytes) -> None:
        """Process the start of a line that no pattern matches."""


class LineLoggingProtocolMixin:
    """History of the last 100 lines of a DelimitedProtocol."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.logged_lines: deque[tuple[float, bytes]] = deque(maxlen=100)

    def on_line_received(self, line: bytes) -> Any:
        self.logged_lines.append((now(), line))
        return super().on_line_received(line)  # type: ignore[misc]

    def get_history(self) -> bytes:
        """Return the remembered lines."""
        return b"\n".join(line for _, line in self.logged_lines)


class LogProtocol(LineLoggingProtocolMixin, DelimitedProtocol):
    """A protocol that logs each line, at level DEBUG, with the stream's name."""

    def on_line_received(self, line: bytes) -> None:
        super().on_line_received(line)
        _log("mitogen", 10, "%s: %s", self.stream.name, line.decode("utf-8", "replace"))


class BufferedWriter:
    """
    A write buffer of a stream. Used on the broker thread only.

    The protocol's on_transmit() must call this object's on_transmit().

    :param broker: the stream's broker
    :param protocol: its protocol
    """

    def __init__(self, broker: Any, protocol: Protocol) -> None:
        self._broker = broker
        self._protocol = protocol
        self._pending: deque[bytes | memoryview] = deque()

    def write(self, s: bytes | memoryview) -> None:
        """Write `s` now, or queue it behind earlier data."""
        if not s:
            return
        self._pending.append(s)
        if len(self._pending) == 1:
            self.on_transmit(self._broker)
            if self._pending:
                self._broker._start_transmit(self._protocol.stream)

    def on_transmit(self, broker: Any) -> None:
        """Write as much as the descriptor accepts."""
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
    A `Broker.defer()` that raises if the broker has ended. (The broker wakes itself without it.)

    :param broker: the broker
    """

    broker_shutdown_msg = (
        "the broker has ended, so the function will not be called; "
        "call defer() before Broker.shutdown()"
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
        Any thread: call `func(*args, **kwargs)` on the broker thread.

        :raises mitogen.core.Error: the broker has ended
        """
        if not self._broker.alive:
            raise core.Error(self.broker_shutdown_msg)
        self._broker.defer(func, *args, **kwargs)


class IoLoggerProtocol(DelimitedProtocol):
    """
    Logger of lines written to a descriptor of this process, such as its standard output.

    :param name: name of the logger
    """

    def __init__(self, name: str) -> None:
        # Imported here because the broker thread never imports.
        import logging

        self._log = logging.getLogger(name).info

    @classmethod
    def build_stream(cls, name: str, dest_fd: int) -> Any:
        """
        Replace `dest_fd` with a pipe; return the stream that reads from it.

        :param name: name of the logger
        :param dest_fd: descriptor; it still belongs to the caller
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
        """Log the output written so far, then disconnect."""
        while not self.stream.receive_side.closed:
            data = self.stream.receive_side.read(self.read_size)
            if not data:
                break
            self.on_receive(broker, data)
        Protocol.on_shutdown(self, broker)


def IoLogger(broker: Any, name: str, dest_fd: int) -> Any:
    """Start an IoLoggerProtocol on `broker`; return its stream."""
    stream = IoLoggerProtocol.build_stream(name, dest_fd)
    broker.start_receive(stream)
    return stream


def _log(logger: str, level: int, fmt: str, *args: Any) -> None:
    logging = sys.modules.get("logging")
    if logging:
        logging.getLogger(logger).log(level, fmt, *args)


# -- on the broker


class _Watched:
    """Sides watched by a broker: descriptor to [side to read from, side to write to]."""

    def __init__(self, broker: Any) -> None:
        self.broker = broker
        self.table: dict[int, list[Side | None]] = {}
        listen(broker, "shutdown", self.on_shutdown)
        listen(broker, "exit", self.on_exit)

    def set(self, side: Side, place: int, on: bool) -> None:
        """Broker thread: watch or unwatch a side for reading (0) or writing (1)."""
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
        """Call `func(broker)`; end the stream if it raises."""
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
        """Return whether a shutdown waits for any side."""
        return any(entry[0] and entry[0].keep_alive for entry in self.table.values())

    def on_shutdown(self) -> None:
        """Broker thread: notify the streams; those that stay open hold the broker for a while."""
        for stream in self.streams():
            self.call(stream, stream.on_shutdown)
        self.release()
        self.broker.after(self.broker.shutdown_timeout, self.on_exit)

    def release(self) -> None:
        """Broker thread: during shutdown, hold the broker while keeps_alive() is true."""
        if self.broker.closing:
            (self.broker.holds.add if self.keeps_alive() else self.broker.holds.discard)(self)
            self.broker.stop()

    def on_exit(self) -> None:
        """Broker thread: end the remaining streams."""
        for stream in self.streams():
            self.call(stream, stream.on_disconnect)
        self.release()


def _watched(broker: Any) -> _Watched:
    """Broker thread: return the _Watched of `broker`."""
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
    # At once on the broker thread: a stream that stops transmitting must not be called again.
    if broker.on_thread():
        func(broker, *args)
    else:
        broker.defer(func, broker, *args)


# -- timers


class Timer:
    """
    A callback scheduled for a time.

    :param when: time, in seconds of the monotonic clock
    :param func: callback without arguments
    """

    def __init__(self, when: float, func: Callable[[], Any]) -> None:
        self.when = when
        self.func = func
        #: True until it is called or cancelled.
        self.active = True

    def __repr__(self) -> str:
        return "Timer(%r, %r)" % (self.when, self.func)

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        """Cancel the callback."""
        self.active = False


class TimerList:
    """Timers in order. Pure except for the clock, `_now`."""

    _now: Callable[[], float] = staticmethod(now)

    def __init__(self) -> None:
        self._heap: list[Timer] = []

    def get_timeout(self) -> float | None:
        """Return the seconds until the next timer: 0 if it is due, None if there is none."""
        while self._heap and not self._heap[0].active:
            heappop(self._heap)
        return max(0, self._heap[0].when - self._now()) if self._heap else None

    def schedule(self, when: float, func: Callable[[], Any]) -> Timer:
        """
        Schedule `func()` for `when`.

        :param when: time, in seconds of the monotonic clock, `mitogen.core.now()`
        :returns: the Timer, which can be cancelled
        """
        timer = Timer(when, func)
        heappush(self._heap, timer)
        return timer

    def expire(self) -> None:
        """Call all due timers."""
        due = self._now()
        while self._heap and self._heap[0].when <= due:
            timer = heappop(self._heap)
            if timer.active:
                timer.active = False
                timer.func()


class BrokerTimers(TimerList):
    """Timers of a broker, `Broker.timers`. schedule() may be called on any thread."""

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
        """Any thread: call `stream.on_receive(broker)` whenever the stream is readable."""
        _on_broker(self, _set, stream.receive_side, 0, True)

    def stop_receive(self: Any, stream: Any) -> None:
        """Any thread: stop calling `stream.on_receive()`."""
        _on_broker(self, _set, stream.receive_side, 0, False)

    def start_transmit(self: Any, stream: Any) -> None:
        """Any thread: call `stream.on_transmit(broker)` whenever the stream is writable."""
        _on_broker(self, _set, stream.transmit_side, 1, True)

    def stop_transmit(self: Any, stream: Any) -> None:
        """Any thread: stop calling `stream.on_transmit()`."""
        _on_broker(self, _set, stream.transmit_side, 1, False)

    _start_transmit = start_transmit
    _stop_transmit = stop_transmit

    def keep_alive(self: Any) -> bool:
        """Return whether a shutdown would wait for any stream."""
        return bool(self.holds) or _watched(self).keeps_alive()

    @property
    def timers(self: Any) -> BrokerTimers:
        """The broker's TimerList."""
        found: BrokerTimers = self.__dict__.setdefault("_timer_list", BrokerTimers(self))
        return found


class _OwnSide(Side):
    """One direction of a core.Stream, which does its own reading and writing."""

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
        """Return the number of bytes queued for writing."""
        return int(self.queued)

    def on_receive(self: Any, broker: Any, buf: bytes | None = None) -> None:
        """Broker thread: process `buf`, or read and process available data."""
        if buf is None:
            self.on_readable()
        else:
            self.receive(buf)

    def on_transmit(self: Any, broker: Any) -> None:
        """Broker thread: write as much as the descriptor accepts."""
        self.on_writable()

    def on_shutdown(self: Any, broker: Any) -> None:
        """Broker thread: handle the broker's shutdown."""
        fire(self, "shutdown")
        self.disconnect("shutdown")

    def on_disconnect(self: Any, broker: Any) -> None:
        """Broker thread: close the stream and notify its listeners."""
        self.disconnect()


#: The framed stream to a neighbour.
MitogenProtocol = core.Stream
