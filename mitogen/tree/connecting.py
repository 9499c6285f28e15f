"""
A connection in progress: the process that a method starts, and the conversation until that process
is a context.

Rules
    1. Connecting is a state machine on the broker; the thread that asked for the connection only
       waits. So one thread can have any number of connections in progress.
    2. However it ends, the process is reaped and every descriptor is closed.

Threads: an Attempt's start() and wait() run on the caller's thread; everything else, and
ChildStream, on the broker's.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it
import _thread
import os
from collections import deque

from mitogen import core
from mitogen.bootstrap import handshake, spawn
from mitogen.core import StreamError, listen
from mitogen.core.mailbox import Latch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    from mitogen.core import Action
    from mitogen.methods.connection import Connection
    from mitogen.tree.contexts import Context
    from mitogen.tree.router import Router

__all__ = ["Attempt", "CancelledError", "ChildStream", "Connecting", "Logins"]

DEBUG = 10
#: Logins to one destination under way at once: sshd_config(5)'s MaxStartups begins to refuse at 10.
MAX_LOGINS = 8


class CancelledError(StreamError):
    """The broker ended before the connection was made."""


class Logins:
    """Counts the logins under way to each destination, and has those over MAX_LOGINS wait."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._entered: dict[Hashable, tuple[list[Action], deque[Action]]] = {}

    def enter(self, destination: Hashable, func: Action) -> None:
        """
        Any thread: call `func()` when one more login may begin: at once, or as another ends, on the
        broker thread.

        :param destination: any hashable; None for what has no limit
        """
        with self._lock:
            if destination is not None:
                entered, waiting = self._entered.setdefault(destination, ([], deque()))
                if len(entered) >= MAX_LOGINS:
                    return waiting.append(func)
                entered.append(func)
        func()

    def leave(self, destination: Hashable) -> None:
        """Broker thread: a login has ended, however."""
        with self._lock:
            if destination is None:
                return
            entered, waiting = self._entered[destination]
            if not waiting:
                entered.pop()
                if not entered:
                    del self._entered[destination]
                return
            func = waiting.popleft()
        func()


class ChildStream(core.Stream):
    """A stream to a child; until the child is ready, what comes is Connecting's."""

    connecting: Connecting | None = None
    process: Any = None
    #: If set, the authority that frames of the context at the other end are stamped with.
    auth_id: int | None = None
    #: The context leaves the tree, and its process stays when the stream ends.
    detached = False
    #: Scripts read stream.protocol.remote_id.
    protocol = property(lambda self: self)

    def __init__(self, router: Router, remote_id: int, fd: int) -> None:
        core.Stream.__init__(self, router, remote_id, fd, fd)
        #: Ids given out on this stream: (first, end) pairs. Routes are believed for these only.
        self.blocks: list[tuple[int, int]] = []
        #: Full names of the modules that were sent on it.
        self.sent_modules: set[str] = set()
        #: Functions to call once the process is reaped.
        self.when_gone: list[Action] = []
        self.gone = False

    def receive(self, data: bytes) -> None:
        if self.connecting:
            self.received += len(data)
            self.connecting.on_data("pipe", data)
        else:
            core.Stream.receive(self, data)

    def kill(self) -> None:
        """End the process at the other end, whatever runs there."""
        self.process.signal(_signal.SIGKILL)

    def give(self, first: int, end: int) -> None:
        """Record that the ids from `first` to before `end` were given out on this stream."""
        if self.blocks and self.blocks[-1][1] == first:
            first = self.blocks.pop()[0]
        self.blocks.append((first, end))

    def allows(self, context_id: int) -> bool:
        """Whether that id was given out on this stream."""
        return any(first <= context_id < end for first, end in self.blocks)


class Attempt:
    """
    A context being made, by whichever thread has asked for it; others only wait.

    :param Router router: of this context
    :param destination: see Connection.destination()
    """

    #: The Context, once wait() has returned it.
    context: Context | None = None
    if TYPE_CHECKING:
        # What kinds of attempts do each in their way.
        _start: Callable[[], None]
        _begin: Callable[[], None]
        _finish: Callable[[Any], Context]
        give_up: Callable[[], None]

    def __init__(self, router: Router, destination: Hashable) -> None:
        self.router = router
        self.broker = router.broker
        self.destination = destination
        self.latch = Latch()
        self._unsettled = [True]

    def when_allowed(self, func: Action) -> None:
        """Call `func()` once start() may be called: see Logins."""
        self.router.branch.logins.enter(self.destination, func)

    def start(self) -> None:
        """Begin; what is wrong from the start is raised."""
        try:
            self._start()
        except BaseException:
            self.router.branch.logins.leave(self.destination)
            raise
        self.broker.exit_actions.append(self._on_broker_exit)
        self._begin()
        if not self.broker.alive:
            self._on_broker_exit()

    def run(self) -> Context:
        """Start it when that may be, and return the Context, or raise what went wrong."""
        allowed = core.new_lock()
        self.when_allowed(allowed.release)
        allowed.acquire()
        self.start()
        return self.wait()

    def when_done(self, func: Action) -> None:
        """Call `func()` once wait() has something to return or to raise; on the broker thread."""
        self.latch.notify = lambda latch: func()
        if not self.latch.empty():
            func()

    def wait(self) -> Context:
        """Return the Context, or raise what went wrong."""
        try:
            outcome = self.latch.get()
        except BaseException:
            # Interrupted: nobody will have the context.
            self.give_up()
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        self.context = self._finish(outcome)
        return self.context

    def _on_broker_exit(self) -> None:
        self._settle(CancelledError("the broker has ended"))

    def _settle(self, outcome: Any) -> None:
        """Have wait() end; once, whichever thread is first."""
        try:
            self._unsettled.pop()
        except IndexError:
            return
        self.broker.exit_actions.remove(self._on_broker_exit)
        self.router.branch.logins.leave(self.destination)
        self.latch.put(outcome)


class Connecting(Attempt):
    """
    One connection under way, from here.

    :param Router router: of this context
    :param Connection conn: how
    :param int context_id: id that the child is given
    """

    def __init__(self, router: Router, conn: Connection, context_id: int) -> None:
        Attempt.__init__(self, router, conn.destination())
        self.conn = conn
        self.context_id = context_id
        self.stream: Any = None
        self.deadline: Any = None
        self.error: Callable[[int], object] | None = None

    # -- on the caller's thread

    def _start(self) -> None:
        self._spawn(self.conn.eager)

    def _begin(self) -> None:
        self.broker.defer(self._on_started)

    def _finish(self, context: Context) -> Context:
        return context

    def give_up(self) -> None:
        """Any thread: nobody will have the context."""
        self.broker.defer(self.cancel, "interrupted")

    def _spawn(self, eager: bool) -> None:
        self.eager = eager
        conn = self.conn
        process = conn.start()
        self.shake = handshake.Handshake(conn.rules(), conn.answers(), conn.lookup())
        self.stream = stream = ChildStream(self.router, self.context_id, process.pipe)
        stream.process = process
        stream.conn = conn
        stream.connecting = self
        stream.name = conn.options.name or conn.default_name()
        self.side_fds = {fd: n for fd, n in ((process.tty, "tty"), (process.err, "err")) if fd}

    # -- on the broker

    def cancel(self, reason: str) -> None:
        """Give up, whatever has been reached."""
        if self.stream.connecting:
            self._on_failed(CancelledError("%s: %s", self.stream.name, reason))
        else:
            self.stream.disconnect(reason)

    def _on_started(self) -> None:
        stream = self.stream
        for fd, channel in self.side_fds.items():
            os.set_blocking(fd, False)
            self.broker.poller.watch(fd, lambda fd=fd, c=channel: self._on_side(fd, c))  # type: ignore[misc]
        listen(stream, "disconnect", self._on_disconnect)
        stream.start()
        self.router.branch.add_connecting(self)
        if self.eager:
            stream.send(self.router.preamble_for(self))
        if stream.process.slave and self.conn.stdio == "tty":
            self._hold_slave(stream)
        if self.deadline is None:
            timeout = self.conn.options.connect_timeout
            self.deadline = self.broker.after(timeout, self._on_deadline)

    def _hold_slave(self, stream: ChildStream) -> None:
        """Keep the terminal from hanging up until the program has opened it, or has ended."""
        if stream.received or stream.closed or stream.process.poll() is not None:
            stream.process.close_slave()
        else:
            self.broker.after(0.01, lambda: self._hold_slave(stream))

    def _on_side(self, fd: int, channel: str) -> None:
        data = core.read_fd(fd)
        if data:
            self.on_data(channel, data)
        elif data is not None:
            self._close_side(fd)

    def _close_side(self, fd: int) -> None:
        if self.side_fds.pop(fd, None):
            self.broker.poller.watch(fd)
            os.close(fd)

    def on_data(self, channel: str, data: bytes) -> None:
        """Take in what came before the child was ready; or later, beside the stream."""
        if self.shake.state == "ready":
            text = data.decode("utf-8", "replace").strip()
            return self.router.log(DEBUG, "%s: %s", self.stream.name, text)
        for event in self.shake.receive(channel, data):
            self._EVENTS[event[0]](self, *event[1:])

    def _on_send(self, channel: str, data: bytes) -> None:
        if channel == "pipe":
            self.stream.send(data)
        else:
            os.write(self.stream.process.tty, data)

    def _on_hello(self) -> None:
        if not self.eager:
            self.stream.send(self.router.preamble_for(self))

    def _on_eaten(self) -> None:
        if not self.eager:
            return self._on_failed(
                StreamError(
                    "%s: something on the target reads what is meant for Python (a login script "
                    "that reads standard input?); last 100 lines received:\n%s",
                    self.stream.name,
                    self.shake.output(),
                )
            )
        self.router.log(DEBUG, "%s: standard input was read by another program", self.stream.name)
        self._abandon(self._again)

    def _again(self, _status: int | None) -> None:
        try:
            self._spawn(False)
        except StreamError as e:
            return self._report(e)
        self._on_started()

    def _on_ready(self, rest: bytes) -> None:
        stream = self.stream
        stream.connecting = None
        self.deadline.clear()
        router = self.router
        context = router.context_by_id(self.context_id, name=stream.name)
        context.via = None
        router.branch.add_stream(stream)
        self._settle(context)
        if rest:
            stream.receive(rest)

    def _on_failed(self, error: BaseException) -> None:
        self._abandon(lambda status: self._report(error))

    _EVENTS: dict[str, Any] = {
        "send": _on_send,
        "hello": _on_hello,
        "eaten": _on_eaten,
        "ready": _on_ready,
        "failed": _on_failed,
    }

    def _on_deadline(self) -> None:
        self._on_failed(self.shake.timeout(self.conn.options.connect_timeout))

    def _abandon(self, then: Callable[[int], object]) -> None:
        """End the attempt: close everything, kill, reap, then call `then(status)`."""
        stream = self.stream
        self.error = then
        stream.disconnect("given up")
        stream.process.signal(self.conn.end_signal)

    def _on_disconnect(self) -> None:
        """The stream has ended: before the child was ready, or at its end."""
        stream = self.stream
        for fd in list(self.side_fds):
            self._drain_side(fd)
            self._close_side(fd)
        stream.process.close_slave()
        then = self.error or (self._on_eof if stream.connecting else lambda status: None)
        self.error = None

        def gone(status: int) -> None:
            stream.gone = True
            for func in stream.when_gone:
                func()
            then(status)

        if stream.detached:
            stream.process.leave(self.conn.is_client)
            gone(0)
        else:
            stream.process.reap(self.broker, gone)

    def _drain_side(self, fd: int) -> None:
        while 1:
            data = core.read_fd(fd)
            if not data:
                break
            for event in self.shake.receive(self.side_fds[fd], data):
                if event[0] == "failed" and self.error is None:
                    self.error = lambda status, error=event[1]: self._report(error)

    def _on_eof(self, status: int) -> None:
        if status in (126, 127) and self.shake.state == "login":
            error: StreamError = self.shake.unsupported("found none\n%s" % self.shake.output())
        else:
            error = self.shake.eof(spawn.status_text(status))
        self._report(error)

    def _report(self, error: BaseException) -> None:
        self.stream.connecting = None
        self.deadline and self.deadline.clear()
        self._settle(error)
