"""
Names of `mitogen.parent` in old releases, still available there.

They start programs and cover terminals, pollers and small helpers. Connections do not use them: see
bootstrap/spawn.py and tree/connecting.py.

Threads: any; Reaper does its work on the broker thread.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import zlib

from mitogen import core
from mitogen.bootstrap import spawn
from mitogen.compat import core_names
from mitogen.compat.streams import (
    LineLoggingProtocolMixin,
    LogProtocol,
    RegexProtocol,
    Timer,
    TimerList,
)
from mitogen.core import Poller as PollPoller, fire, is_neighbour as is_immediate_child
from mitogen.tree import pollers, routes
from mitogen.tree.connecting import BROKER_SHUTDOWN_MSG, ChildStream as MitogenProtocol
from mitogen.tree.ids import ChildIds as ChildIdAllocator
from mitogen.tree.pollers import EpollPoller, KqueuePoller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

__all__ = [
    "Argv",
    "BROKER_SHUTDOWN_MSG",
    "CallSpec",
    "ChildIdAllocator",
    "EpollPoller",
    "KqueuePoller",
    "LineLoggingProtocolMixin",
    "LogProtocol",
    "MitogenProtocol",
    "POLLERS",
    "POLLER_LIGHTWEIGHT",
    "PREFERRED_POLLER",
    "PartialZlib",
    "PollPoller",
    "PopenProcess",
    "Process",
    "Reaper",
    "RegexProtocol",
    "Timer",
    "TimerList",
    "cfmakeraw",
    "create_best_pipe",
    "create_child",
    "create_socketpair",
    "disable_echo",
    "flags",
    "get_core_source_partial",
    "get_log_levels",
    "hybrid_tty_create_child",
    "is_immediate_child",
    "openpty",
    "popen",
    "returncode_to_str",
    "tty_create_child",
]

#: The best poller for this platform, all pollers, and the cheapest one for few descriptors.
PREFERRED_POLLER = pollers.best()
POLLERS = (EpollPoller, KqueuePoller, PollPoller)
POLLER_LIGHTWEIGHT = PollPoller


class BrokerNames:
    """Attributes of core.Broker: see lazy.CLASS_NAMES."""

    defer_sync = routes.defer_sync


class RouterNames:
    """Attributes of core.Router."""

    unidirectional_msg = routes.Branch.unidirectional_msg


# -- logs, source, text


def get_log_levels(loggers: Iterable[Any]) -> dict[str, int]:
    """
    Return the explicitly set levels of loggers.

    :param loggers: loggers of `logging`
    :returns: logger name to level, for loggers with a level of their own
    """
    return {logger.name: logger.level for logger in loggers if logger.level}


def returncode_to_str(n: int | None) -> str:
    """Describe an exit status: negative for a signal, None for a running process."""
    return str(spawn.status_text(n))


class PartialZlib:
    """
    A zlib stream whose common start is compressed once, for any number of endings.

    :param s: common start, as bytes
    """

    def __init__(self, s: bytes) -> None:
        self.s = s
        self._compressor = zlib.compressobj(9)
        self._out = self._compressor.compress(s)

    def append(self, s: bytes) -> bytes:
        """Return the zlib stream (RFC 1950) of the common start and `s`."""
        compressor = self._compressor.copy()
        return self._out + compressor.compress(s) + compressor.flush()


def get_core_source_partial() -> PartialZlib:
    """Return a PartialZlib of the sources of the core's files."""
    import inspect

    files = (core.import_module("mitogen.core." + name) for name in core.PREAMBLE)
    return PartialZlib("".join(map(inspect.getsource, files)).encode())


class Argv:
    """
    A command line for display: its `str()` can be pasted into a shell.

    :param argv: program and arguments
    """

    def __init__(self, argv: Sequence[Any]) -> None:
        self.argv = argv

    def __str__(self) -> str:
        return " ".join(shlex.quote(os.fsdecode(arg)) for arg in self.argv)


class CallSpec:
    """
    A call for display: its `str()` is a Python expression.

    :param fn: function
    :param args: its arguments
    :param kwargs: its keyword arguments
    """

    def __init__(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs

    def __str__(self) -> str:
        given = [repr(arg) for arg in self.args]
        given += ["%s=%r" % item for item in self.kwargs.items()]
        name = "%s.%s" % (self.fn.__module__, getattr(self.fn, "__qualname__", self.fn))
        return "%s(%s)" % (name, ", ".join(given))


# -- terminals


def flags(names: str) -> int:
    """Return the OR of the :mod:`termios` constants in `names`; missing ones count as 0."""
    import termios

    found = 0
    for name in names.split():
        found |= getattr(termios, name, 0)
    return found


def cfmakeraw(tflags: list[Any]) -> list[Any]:
    """Return a result of tcgetattr(), modified as by cfmakeraw(3)."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, cc = tflags
    iflag &= ~flags("IGNBRK BRKINT PARMRK ISTRIP INLCR IGNCR ICRNL IXON")
    oflag &= ~flags("OPOST")
    lflag &= ~flags("ECHO ECHONL ICANON ISIG IEXTEN")
    cflag &= ~flags("CSIZE PARENB")
    cflag |= flags("CS8")
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, cc]


def disable_echo(fd: int) -> None:
    """Set a terminal to pass bytes unchanged and not to echo its input."""
    import termios

    termios.tcsetattr(fd, termios.TCSAFLUSH, cfmakeraw(termios.tcgetattr(fd)))


def openpty() -> tuple[Any, Any]:
    """
    Open a new terminal that passes bytes unchanged; return two file objects, master and slave.

    :raises mitogen.core.StreamError: no terminal is available
    """
    try:
        master, slave = os.openpty()
    except OSError as e:
        raise core.StreamError("cannot get a terminal: %s; see pty(7)", e) from e
    disable_echo(slave)
    return os.fdopen(master, "r+b", 0), os.fdopen(slave, "r+b", 0)


# -- starting programs


def create_socketpair(size: int | None = None, blocking: bool | None = None) -> tuple[Any, Any]:
    """
    Return two connected file objects, each both readable and writable.

    :param size: buffer size to request, in bytes
    :param blocking: mode of both; None: blocking
    """
    fds = spawn.create_socketpair(size or spawn.BUFFER_SIZE)
    for fd in fds:
        os.set_blocking(fd, blocking is None or blocking)
    return os.fdopen(fds[0], "r+b", 0), os.fdopen(fds[1], "r+b", 0)


def create_best_pipe(
    escalates_privilege: bool = False, blocking: bool | None = None
) -> tuple[Any, Any]:
    """
    Return two file objects of a new pipe or socket pair: the reading end and the writing end.

    :param escalates_privilege: use a pipe, for programs such as sudo that may reject sockets
    :param blocking: mode of both; None: blocking
    """
    if escalates_privilege:
        found: tuple[Any, Any] = core_names.pipe(blocking)
        return found
    return create_socketpair(blocking=blocking)


def popen(**kwargs: Any) -> subprocess.Popen[bytes]:
    """Return `subprocess.Popen(**kwargs)`."""
    return subprocess.Popen(**kwargs)


class Process:
    """
    A started program, and this process's ends of its pipes.

    The event `exit` is fired on it if a Reaper watches it.

    :param pid: process id
    :param stdin: file object to write to
    :param stdout: file object to read from
    :param stderr: file object to read from, or None
    """

    def __init__(self, pid: int, stdin: Any, stdout: Any, stderr: Any = None) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None

    def __repr__(self) -> str:
        return "%s(pid %d)" % (type(self).__name__, self.pid)

    def poll(self) -> int | None:
        """Return the exit status (negative: a signal), or None while it runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # Reaped elsewhere: the status is unknown.
                self.returncode = 0
            else:
                if pid:
                    by = os.WTERMSIG(status)
                    self.returncode = -by if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process was reaped."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class PopenProcess(Process):
    """
    A Process made from a subprocess.Popen.

    :param proc: the Popen object
    """

    def __init__(self, proc: Any, stdin: Any, stdout: Any, stderr: Any = None) -> None:
        Process.__init__(self, proc.pid, stdin, stdout, stderr)
        self.proc = proc

    def poll(self) -> int | None:
        self.returncode = self.proc.poll()
        return self.returncode


def create_child(
    args: Sequence[Any],
    merge_stdio: bool = False,
    stderr_pipe: bool = False,
    escalates_privilege: bool = False,
    preexec_fn: Callable[[], Any] | None = None,
) -> PopenProcess:
    """
    Start a program with its standard input and output connected to this process.

    :param args: program and arguments
    :param merge_stdio: send its standard error to the same place as its output
    :param stderr_pipe: send its standard error to a pipe, `stderr` of the result
    :param escalates_privilege: see create_best_pipe()
    :param preexec_fn: function to call in the new process; unsafe if this process has threads
    :raises OSError: it cannot be started
    """
    ours: list[Any] = []
    theirs: list[Any] = []
    try:
        for pair in (
            create_best_pipe(escalates_privilege)[::-1],
            create_best_pipe(escalates_privilege),
        ):
            ours.append(pair[0])
            theirs.append(pair[1])
        if stderr_pipe:
            err_r, err_w = core_names.pipe()
            ours.append(err_r)
            theirs.append(err_w)
        proc = popen(
            args=[os.fspath(arg) for arg in args],
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2] if stderr_pipe else subprocess.STDOUT if merge_stdio else None,
            preexec_fn=preexec_fn,
        )
    except BaseException:
        for fp in ours:
            fp.close()
        raise
    finally:
        for fp in theirs:
            fp.close()
    return PopenProcess(proc, *ours)


def _on_terminal(args: Sequence[Any], stdin: Any, stdout: Any) -> tuple[Any, Any]:
    """Start a program on a terminal, which replaces `stdin` and `stdout` that are None."""
    spawn.check_program(os.fspath(args[0]))
    master, slave = openpty()
    try:
        # The program keeps it open as standard error: no hang-up of the master before its end.
        path = os.ttyname(slave.fileno())
        proc = popen(
            args=["/bin/sh", "-c", spawn._TAKE_TTY, path] + [os.fspath(arg) for arg in args],
            stdin=stdin or slave,
            stdout=stdout or slave,
            stderr=slave,
            start_new_session=True,
        )
    except BaseException:
        master.close()
        raise
    finally:
        slave.close()
    return proc, master


def tty_create_child(args: Sequence[Any]) -> PopenProcess:
    """
    Start a program with a terminal as its standard input, output and error.

    :param args: program and arguments
    :raises OSError: it cannot be started
    """
    proc, master = _on_terminal(args, None, None)
    reader = fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 0)
    return PopenProcess(proc, master, os.fdopen(reader, "rb", 0))


def hybrid_tty_create_child(args: Sequence[Any], escalates_privilege: bool = False) -> PopenProcess:
    """
    Start a program with its standard input and output connected to this process, and a terminal of
    its own, which is also its standard error.

    :param args: program and arguments
    :param escalates_privilege: see create_best_pipe()
    :returns: `stderr` is the terminal
    :raises OSError: it cannot be started
    """
    pairs = create_best_pipe(escalates_privilege)[::-1], create_best_pipe(escalates_privilege)
    try:
        proc, master = _on_terminal(args, pairs[0][1], pairs[1][1])
    except BaseException:
        for pair in pairs:
            pair[0].close()
        raise
    finally:
        for pair in pairs:
            pair[1].close()
    return PopenProcess(proc, pairs[0][0], pairs[1][0], master)


class Reaper:
    """
    A task of a broker that ends and reaps a process.

    :param broker: broker whose timers are used
    :param proc: a Process; the event `exit` is fired on it
    :param kill: send SIGTERM and then SIGKILL if the process does not end on its own
    :param wait_on_shutdown: let a broker's shutdown wait for the process, for `shutdown_timeout`
        seconds at most
    """

    def __init__(
        self, broker: core.Broker, proc: Process, kill: bool, wait_on_shutdown: bool
    ) -> None:
        self.broker = broker
        self.proc = proc
        self.kill = kill
        self.wait_on_shutdown = wait_on_shutdown
        self._waited = 0.0

    def reap(self) -> None:
        """Any thread: start reaping, or check the process again."""
        self.broker.defer(self._look)

    def _look(self) -> None:
        if self.wait_on_shutdown:
            self.broker.holds.add(self)
        if self.proc.poll() is not None:
            self._finish()
            fire(self.proc, "exit")
            return
        if self.broker.closing and self._waited > self.broker.shutdown_timeout:
            return self._finish()
        wait = min(max(spawn.FIRST_POLL, self._waited), spawn.LONGEST_POLL)
        for after, number in (
            (spawn.TERM_AFTER, signal.SIGTERM),
            (spawn.KILL_AFTER, signal.SIGKILL),
        ):
            if self.kill and self._waited <= after < self._waited + wait:
                self.proc.send_signal(number)
        self._waited += wait
        self.broker.after(wait, self._look)

    def _finish(self) -> None:
        self.broker.holds.discard(self)
        self.broker.stop()
