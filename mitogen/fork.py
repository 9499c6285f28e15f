"""
Connection method `fork`: a fork of this process, with the modules that it has loaded.

Rules
    1. The broker is paused during the fork, holding no lock.
    2. In the child, all descriptors of this process's tree are closed before any other code runs.
    3. The child never returns into the program: it ends in os._exit().

Threads: the one that connects. The program's other threads do not exist in the child; locks that
they held stay locked there.
"""

from __future__ import annotations

import os
import sys
import warnings

from mitogen import core, os_fork
from mitogen.bootstrap import handshake, spawn
from mitogen.methods import connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from mitogen.core import ExternalContext
    from mitogen.tree.router import Router


__all__ = ["FORK_SUPPORTED", "Connection", "Error", "Options", "Process"]

FORK_SUPPORTED = hasattr(os, "fork")


class Error(core.StreamError):
    """fork is not available on this system."""


class Options(connection.Options):
    """
    Options of the method.

    :param str name: name of the context
    :param on_fork: called in the child once the tree's descriptors are closed
    :param on_start: called in the child as `on_start(econtext)` before it serves calls
    """

    def __init__(
        self,
        name: str | None = None,
        on_fork: Callable[[], object] | None = None,
        on_start: Callable[[ExternalContext], object] | None = None,
        debug: bool = False,
        profiling: bool = False,
        unidirectional: bool = False,
        max_message_size: int | None = None,
    ) -> None:
        if not FORK_SUPPORTED:
            raise Error("fork: os.fork() is not available on this system; use Router.local()")
        connection.Options.__init__(
            self, name=name, debug=debug, profiling=profiling, unidirectional=unidirectional
        )
        self.on_fork = on_fork
        self.on_start = on_start


class Process:
    """A forked process with the parts of subprocess.Popen that spawn.Process uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: Any = None

    def poll(self) -> int | None:
        """Return the exit status (negative: a signal), or None while the process runs."""
        if self.status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.status = 0
            else:
                if pid:
                    self._set_status(status)
        return self.status

    def wait(self) -> Any:
        """Wait for the process to exit, and return its exit status."""
        if self.status is None:
            try:
                self._set_status(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:
                self.status = 0
        return self.status

    def _set_status(self, status: int) -> None:
        signalled = os.WIFSIGNALED(status)
        self.status = -os.WTERMSIG(status) if signalled else os.WEXITSTATUS(status)


class Connection(connection.Connection):
    """A forked process."""

    options_class = Options

    def default_name(self) -> str:
        return "fork.%d" % self.process.pid

    def lookup(self) -> str:
        return "fork()"

    def start(self) -> spawn.Process:
        if not self.router.broker.alive:
            raise core.StreamError("fork: the broker has ended")
        ours, theirs = spawn.create_socketpair()
        corker = os_fork.Corker((self.router.broker,))
        corker.cork()
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns about threads; rule 1 makes that safe for mitogen's own.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os_fork.real_fork()
            if not pid:
                # Otherwise the child would keep its own pipe open when this process exits.
                os.close(ours)
                _become_child(self, theirs)
        finally:
            corker.uncork()
        os.close(theirs)
        process = spawn.Process(Process(pid), ours)
        self.process = process
        return process


def _become_child(conn: Connection, fd: int) -> NoReturn:
    """Child: leave the parent's tree, read the configuration, run as a context. Never returns."""
    status = 1
    try:
        _leave_tree(conn.router)
        reset_logging_framework()
        if conn.options.on_fork:
            conn.options.on_fork()
        os.dup2(fd, 0)
        os.dup2(fd, 1)
        os.close(fd)
        _read_preamble(conn)
        status = 0
    except BaseException:
        handle_child_crash()
    finally:
        core.end_process(status)


def _leave_tree(router: Router) -> None:
    broker = router.broker
    broker.alive = False
    for fd in list(broker.poller.table):
        try:
            os.close(fd)
        except OSError:
            pass
    os.close(broker.wake_w)
    getattr(broker.poller, "close", int)()
    import atexit

    atexit._clear()


class ForkedContext(core.ExternalContext):
    """A context that calls `on_start(econtext)` after its set-up, before it serves calls."""

    on_start: Callable[[ExternalContext], object] | None = None

    @property
    def dispatcher(self) -> Any:
        return self.serving

    @dispatcher.setter
    def dispatcher(self, dispatcher: Any) -> Any:
        self.serving = dispatcher
        serve = dispatcher.run

        def run() -> None:
            if self.on_start:
                self.on_start(self)
            serve()

        dispatcher.run = run


def _read_preamble(conn: Connection) -> None:
    """Do the work of the first stage, with the core that is already loaded."""
    import zlib

    stream = zlib.decompressobj()
    text = b""
    head = b""
    while len(head) < 14:
        head += _read(14 - len(head))
    while not stream.eof:
        text += stream.decompress(_read(65536))
    source, config = handshake.split_preamble(text)
    econtext = ForkedContext(core.decode(config), source, stream.unused_data)
    econtext.on_start = conn.options.on_start
    econtext.main()


def _read(size: int) -> bytes:
    data = os.read(0, size)
    if not data:
        raise EOFError("the parent has closed the connection")
    return data


def reset_logging_framework() -> None:
    """In a forked child: remove the parent's log handlers."""
    logging = sys.modules.get("logging")
    if logging:
        for name in [None, *logging.Logger.manager.loggerDict]:
            for handler in logging.getLogger(name).handlers[:]:
                logging.getLogger(name).removeHandler(handler)


def fixup_prngs() -> None:
    """In a forked child: reseed `random` on Python 3.6; since 3.7 it does so itself."""
    random = sys.modules.get("random")
    if random:
        random.seed()


def on_fork() -> None:
    """In a forked child: clean up. To be called by programs that use os.fork() themselves."""
    reset_logging_framework()
    fixup_prngs()


def handle_child_crash() -> None:
    """In a forked child: write the traceback to the terminal, or else to standard error."""
    import traceback

    text = "mitogen: fork: the child of %d failed:\n%s" % (os.getppid(), traceback.format_exc())
    try:
        with open("/dev/tty", "w") as fp:
            fp.write(text)
    except OSError:
        os.write(2, text.encode())
