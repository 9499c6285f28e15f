"""
Connections in progress: the process that a connection method starts, and the handshake until that
process is a context.

Rules
    1. Connecting is a state machine on the broker; the thread that requested the connection only
       waits. So one thread can have any number of connections in progress.
    2. On every outcome the process is reaped and every descriptor is closed.

Threads: an Attempt's start() and wait() run on the caller's thread; everything else, and
ChildStream, on the broker thread.
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

    from mitogen.bootstrap.handshake import Prompt
    from mitogen.core import Action
    from mitogen.methods.connection import Connection
    from mitogen.tree.contexts import Context
    from mitogen.tree.router import Router

__all__ = ["Attempt", "CancelledError", "ChildStream", "Connecting", "Logins"]

DEBUG = 10
WARNING = 30
#: Concurrent logins to one destination; MaxStartups of sshd_config(5) refuses logins from 10 on.
MAX_LOGINS = 8


#: Text of the CancelledError of an attempt that the broker's end cancelled; programs compare it.
BROKER_SHUTDOWN_MSG = "Connection cancelled because the associated Broker began to shut down."


class CancelledError(StreamError):
    """A connection that was not made before the broker ended."""

    __module__ = "mitogen.parent"


class Logins:
    """Limiter of concurrent logins: at most MAX_LOGINS per destination, others are queued."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._entered: dict[Hashable, tuple[list[Action], deque[Action]]] = {}

    def enter(self, destination: Hashable, func: Action) -> None:
        """
        Any thread: call `func()` when one more login may begin: at once, or on the broker thread
        when another login ends.

        :param destination: any hashable; None for no limit
        """
        if destination is not None:
            with self._lock:
                entered, waiting = self._entered.setdefault(destination, ([], deque()))
                if len(entered) >= MAX_LOGINS:
                    return waiting.append(func)
                entered.append(func)
        func()

    def cancel(self, destination: Hashable, func: Action, waits: bool) -> None:
        """
        Any thread: withdraw `func` after an interruption of enter().

        :param bool waits: it has not been called
        """
        if destination is None:
            return
        with self._lock:
            entered, waiting = self._entered.get(destination, ([], deque()))
            if func in waiting:
                return waiting.remove(func)
            if waits and func not in entered:
                return
        self.leave(destination)

    def leave(self, destination: Hashable) -> None:
        """Broker thread: release the slot of a login, successful or not."""
        if destination is None:
            return
        with self._lock:
            entered, waiting = self._entered[destination]
            if not waiting:
                entered.pop()
                if not entered:
                    del self._entered[destination]
                return
            func = waiting.popleft()
        func()


class ChildStream(core.Stream):
    """A stream to a child. Until the child is ready, received data goes to Connecting."""

    connecting: Connecting | None = None
    process: Any = None
    #: If set, the authority stamped on frames from the context at the other end.
    auth_id: int | None = None
    #: True if the context leaves the tree; its process then survives the end of the stream.
    detached = False
    #: Alias for scripts that read stream.protocol.remote_id.
    protocol = property(lambda self: self)

    def __init__(self, router: Router, remote_id: int, fd: int) -> None:
        core.Stream.__init__(self, router, remote_id, fd, fd)
        #: Ids granted on this stream, as (first, end) pairs. Only routes to these are accepted.
        self.blocks: list[tuple[int, int]] = []
        #: Full names of the modules that were sent on this stream.
        self.sent_modules: set[str] = set()
        #: Callbacks for when the process is reaped.
        self.when_gone: list[Action] = []
        self.gone = False

    def receive(self, data: bytes) -> None:
        if self.connecting:
            self.received += len(data)
            self.connecting.on_data("pipe", data)
        else:
            core.Stream.receive(self, data)

    def kill(self) -> None:
        """Kill the process at the other end, even if it is busy."""
        self.process.signal(_signal.SIGKILL)

    def give(self, first: int, end: int) -> None:
        """Record that the ids from `first` to `end` - 1 were granted on this stream."""
        if self.blocks and self.blocks[-1][1] == first:
            first = self.blocks.pop()[0]
        self.blocks.append((first, end))

    def allows(self, context_id: int) -> bool:
        """Return whether that id was granted on this stream."""
        return any(first <= context_id < end for first, end in self.blocks)


class Attempt:
    """
    An attempt to connect a context, driven by the requesting thread; other threads only wait.

    :param Router router: router of this context
    :param destination: see Connection.destination()
    """

    #: The Context, set once wait() has returned it.
    context: Context | None = None
    #: Whether the outcome is an error.
    failed = False
    if TYPE_CHECKING:
        # Defined by subclasses.
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
        """Call `func()` once start() may be called; see Logins."""
        self.router.branch.logins.enter(self.destination, func)

    def start(self) -> None:
        """Start connecting; raise errors that are found at once."""
        try:
            self.broker.exit_actions.append(self._on_broker_exit)
            self._start()
            self._begin()
        except BaseException:
            # Maybe an interruption: at any point, even after something was started.
            self._undo()
            raise
        if not self.broker.alive:
            self._on_broker_exit()

    def _undo(self) -> None:
        """Withdraw the attempt after start() has failed or was interrupted. There is no outcome."""
        self.give_up()
        self._withdraw()

    def run(self) -> Context:
        """Start when Logins permits, then return the Context or raise the error."""
        allowed = core.new_lock()
        try:
            self.when_allowed(allowed.release)
            allowed.acquire()
        except BaseException:
            self.router.branch.logins.cancel(self.destination, allowed.release, allowed.locked())
            raise
        try:
            self.start()
            return self.wait()
        except BaseException:
            if not self.failed:
                # Interrupted: the context would have no owner.
                self.give_up()
            raise

    def when_done(self, func: Action) -> None:
        """Call `func()` on the broker thread once wait() would not block."""
        self.latch.notify = lambda latch: func()
        if not self.latch.empty():
            func()

    def wait(self) -> Context:
        """Wait for the outcome: return the Context or raise the error."""
        try:
            outcome = self.latch.get()
        except BaseException:
            self.give_up()
            raise
        if isinstance(outcome, BaseException):
            self.failed = True
            raise outcome
        self.context = self._finish(outcome)
        return self.context

    def _on_broker_exit(self) -> None:
        self._settle(CancelledError(BROKER_SHUTDOWN_MSG))

    def _settle(self, outcome: Any) -> None:
        """Set the outcome and wake wait(). The first thread to call this wins."""
        if self._withdraw():
            self.latch.put(outcome)

    def _withdraw(self) -> bool:
        """Any thread: end the attempt; return False if it was ended before."""
        try:
            self._unsettled.pop()
        except IndexError:
            return False
        if self._on_broker_exit in self.broker.exit_actions:
            self.broker.exit_actions.remove(self._on_broker_exit)
        self.router.branch.logins.leave(self.destination)
        return True


class Connecting(Attempt):
    """
    One connection attempt that this context makes itself.

    :param Router router: router of this context
    :param Connection conn: the connection method with its options
    :param int context_id: id of the child
    """

    def __init__(self, router: Router, conn: Connection, context_id: int) -> None:
        Attempt.__init__(self, router, conn.destination())
        self.conn = conn
        self.context_id = context_id
        self.stream: Any = None
        self.shake: Any = None
        self.deadline: Any = None
        self.error: Callable[[int], object] | None = None
        #: Whether the stream's descriptors belong to the broker.
        self.started = False
        self.given_up = False

    # -- on the caller's thread

    def _start(self) -> None:
        self._spawn(self.conn.eager)

    def _begin(self) -> None:
        self.broker.defer(self._on_started)

    def _undo(self) -> None:
        if self.conn.process:
            self.give_up()
        else:
            self.conn.forget()
            self._withdraw()

    def _finish(self, context: Context) -> Context:
        return context

    def give_up(self) -> None:
        """Any thread: abandon the attempt; its context is no longer wanted."""
        self.broker.defer(self._on_interrupted)

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
        """Give up at any stage once started."""
        if self.stream.connecting:
            self._on_failed(CancelledError("%s: %s", self.stream.name, reason))
        else:
            self.stream.disconnect(reason)

    def _on_interrupted(self) -> None:
        if self.started:
            self.cancel("interrupted")
        elif not self.given_up:
            if self.conn.process:
                self.conn.process.abandon()
            self._settle(CancelledError("interrupted"))
        self.given_up = True

    def _on_started(self) -> None:
        if self.given_up:
            return
        self.started = True
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
        """Keep the terminal from hanging up until the program has opened it or has ended."""
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
        """Process data received before the child was ready, or later on a side channel."""
        if self.shake.state == "ready":
            text = data.decode("utf-8", "replace").strip()
            return self.router.log(DEBUG, "%s: %s", self.stream.name, text)
        for event in self.shake.receive(channel, data):
            self._EVENTS[event[0]](self, *event[1:])

    def _on_send(self, channel: str, data: bytes) -> None:
        prompt = self.shake.prompts.popleft()
        if channel != "pipe":
            # A report that authentication is over precedes any text of later programs, but the two
            # come by different descriptors.
            self.stream.on_readable()
        if self.shake.state != "login" or self.stream.closed:
            return self._on_refused(prompt)
        verdict = self.conn.judge(prompt)
        if verdict is False:
            self._on_refused(prompt)
        elif verdict is True:
            self._send_answer(channel, data)
        else:
            _thread.start_new_thread(self._judge, (verdict, channel, data))

    def _on_refused(self, prompt: Prompt) -> None:
        self.shake.pass_login()
        text = "%s: not answered, since authentication is over: %r"
        self.router.log(WARNING, text, self.stream.name, prompt.line)

    def _judge(self, verdict: Callable[[], Any], channel: str, data: bytes) -> None:
        """Thread of its own: find out whether to answer a prompt."""
        try:
            error = verdict()
        except BaseException as e:
            error = e
        self.broker.defer(self._on_judged, error, channel, data)

    def _on_judged(self, error: BaseException | None, channel: str, data: bytes) -> None:
        if self.stream.closed or self.shake.state != "login":
            return
        if error is None:
            self._send_answer(channel, data)
        else:
            self._on_failed(error)

    def _send_answer(self, channel: str, data: bytes) -> None:
        if channel == "pipe":
            self.stream.send(data)
        elif self.stream.process.tty in self.side_fds:
            # Otherwise the terminal is closed, and its number may be another descriptor's.
            os.write(self.stream.process.tty, data)

    def _on_hello(self) -> None:
        if not self.eager:
            self.stream.send(self.router.preamble_for(self))

    def _on_eaten(self) -> None:
        if not self.eager:
            return self._on_failed(
                StreamError(
                    "%s: a program on the target reads the input meant for Python (a login script "
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
        """End the attempt: close all descriptors, kill, reap, then call `then(status)`."""
        stream = self.stream
        self.error = then
        stream.disconnect("given up")
        stream.process.signal(self.conn.end_signal)

    def _on_disconnect(self) -> None:
        """Handle the end of the stream, before the child was ready or after."""
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
        if status in (126, 127) and self.shake.version is None:
            error: StreamError = self.shake.unsupported("found none\n%s" % self.shake.output())
        else:
            error = self.shake.eof(spawn.status_text(status))
        self._report(error)

    def _settle(self, outcome: Any) -> None:
        self.conn.forget()
        if self.shake:
            self.shake.answers.clear()
        Attempt._settle(self, outcome)

    def _report(self, error: BaseException) -> None:
        self.stream.connecting = None
        self.deadline and self.deadline.clear()
        self._settle(error)
