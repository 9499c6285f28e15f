"""
Connection of this process' terminal to a program in a context: shell(). raw_tty.py controls the
local terminal, and programs/client.py runs the program.

Rules
    1. With a terminal on both sides, keys and screen pass through two socket pairs between relay()
       and the program's pipes. Their buffers are small, so that ^C takes effect at once.
    2. Without a local terminal, the program gets the descriptors themselves.
    3. If only the local side has a terminal, relay() reads it as well, so that keys typed after the
       program's end are not consumed.
    4. While the terminal is raw, text that this process writes to it has CR LF at line ends.
    5. Whichever way shell() ends, the terminal is restored and the program is abandoned.

Threads: the caller's. Signals are handled on the main thread only (raw_tty.py).
"""

from __future__ import annotations

import _thread
import os
import sys

from mitogen.bootstrap.spawn import create_socketpair
from mitogen.core import ChannelError
from mitogen.programs import client, tty_modes
from mitogen.terminal.raw_tty import BREAK, CLOSED, LIST, Escapes, RawTty, escape_char, relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

__all__ = ["shell"]

#: Requested size of the buffers between the program's pipes and the terminal, in bytes.
BUFFER_SIZE = 16384
#: Exit status if the program's own is not known, as for ssh(1).
LOST = 255


def shell(
    context: Any,
    argv: Any = None,
    *,
    tty: bool | None = None,
    escape: str = "~",
    quiet: bool = False,
    env: Mapping[str, str] | None = None,
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
) -> int:
    """
    Run a program in a context, connected to this process' terminal, as ssh(1) does; return its
    exit status.

    If the program gets a terminal and this process has one, the local terminal is raw meanwhile,
    and is always restored. Keys after a newline that begin with the escape character are handled
    locally: `~.` ends the connection, `~^Z` suspends this process, `~?` lists the others.

    With a terminal, the program gets TERM, the size and modes of this terminal, and COLORTERM, LANG
    and LC_*. Without one it gets the descriptors, and the end of input is passed on.

    While it is suspended, this process does not respond: connections with keepalives, such as
    ssh's, end after a minute.

    :param Context context: context to run the program in
    :param argv: list: program and arguments; str: command for the account's login shell; None: the
        login shell itself
    :param bool tty: whether the program gets a terminal; None: yes if `argv` is None and standard
        input is a terminal
    :param str escape: the escape character; `^` and a character for a control character; or "none"
    :param bool quiet: do not print that the connection is closed
    :param dict env: variables added to the program's environment
    :param int stdin: descriptor to use instead of standard input
    :param int stdout: descriptor to use instead of standard output
    :param int stderr: descriptor to use instead of standard error
    :returns: the exit status; 128 plus the number of the signal that ended the program; 255 if the
        connection was lost (standard error shows the reason) or ended by `~.`, or the local
        terminal is gone
    :raises OSError: the program cannot be started: FileNotFoundError, PermissionError, ...
    :raises process.Refused: the context does not run this program, or not for this context
    :raises ChannelError: the context is gone already
    :raises ValueError: `escape` is not an escape character
    """
    escapes = Escapes(escape_char(escape))
    add_env = dict(_forwarded(os.environ), **(env or {}))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with _Descriptors(stdin, stdout, stderr) as fds:
        if tty is None:
            tty = argv is None and os.isatty(fds[0])
        session = _Session(context, argv, fds, add_env, tty)
        if not os.isatty(fds[0]):
            return session.run_plain()
        if not tty:
            return session.run_cooked()
        status = session.run_raw(escapes)
        if not quiet and not session.lost:
            session.print_line("Connection to %s closed." % context.name)
        return status


def _forwarded(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that describe the terminal and its user's language."""
    return {
        name: value
        for name, value in environ.items()
        if name in ("COLORTERM", "LANG") or name.startswith("LC_")
    }


class _Descriptors:
    """
    Context manager that returns the three descriptors, with /dev/null in place of closed ones.

    One of 0 to 2 that was closed when Python started counts as closed: meanwhile its number may
    have been reused by this process.
    """

    def __init__(self, *fds: int) -> None:
        self.fds = list(fds)
        self.opened: list[int] = []

    def __enter__(self) -> list[int]:
        for number, fd in enumerate(self.fds):
            if not _is_open(fd):
                self.fds[number] = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                self.opened.append(self.fds[number])
        return self.fds

    def __exit__(self, *_exc_info: Any) -> None:
        for fd in self.opened:
            os.close(fd)


def _is_open(fd: int) -> bool:
    if 0 <= fd < 3 and (sys.__stdin__, sys.__stdout__, sys.__stderr__)[fd] is None:
        return False
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class _Session:
    """The state of one shell()."""

    #: Whether the context was lost.
    lost = False

    def __init__(
        self, context: Any, argv: Any, fds: list[int], add_env: dict[str, str], tty: bool
    ) -> None:
        self.context = context
        self.argv = argv
        self.fds = fds
        self.add_env = add_env
        self.tty = RawTty(fds[0], fds[1])
        self.pty = self._pty() if tty else None

    def _pty(self) -> client.Pty:
        """Return the settings of the program's terminal: those of the local one."""
        term = os.environ.get("TERM") or "dumb"
        columns, lines, x, y = self.tty.size()
        modes = tty_modes.encode(self.tty.before) if self.tty.before else b""
        return client.Pty(term, columns or 80, lines or 24, x, y, modes)

    def print_line(self, text: str) -> None:
        """Write a line to standard error. Errors are ignored."""
        try:
            os.write(self.fds[2], (text + "\n").encode("utf-8", "replace"))
        except OSError:
            pass

    def _start(self, stdin: Any, stdout: Any, stderr: Any) -> client.Popen:
        return client.Popen(
            self.context,
            self.argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            add_env=self.add_env,
            pty=self.pty,
        )

    def _status(self, program: client.Popen) -> int:
        """Wait for the program's end; return its exit status in the form that shells use."""
        try:
            status = program.wait()
        except ChannelError:
            self.lost = True
            self.print_line("Connection to %s lost: %s" % (self.context.name, program.error))
            return LOST
        return 128 - status if status < 0 else status

    # ---- three cases

    def run_plain(self) -> int:
        """Run the program on the given descriptors: there is no local terminal."""
        with self._start(*self.fds) as program, _Interruptible(program):
            return self._status(program)

    def run_cooked(self) -> int:
        """Run the program without a terminal, with relay() for the keys, until the program ends."""
        with _Pair() as keys, _Pair() as done:
            with self._start(keys.far, *self.fds[1:]) as program, _Interruptible(program):
                keys.close_far()
                program.when_done(lambda _: done.close_far())
                relay(self.tty, keys.take(), None, watch={done.near: lambda: True})
                return self._status(program)

    def run_raw(self, escapes: Escapes) -> int:
        """Run the program on a terminal, with relay() for keys and screen."""
        with _Pair() as keys, _Pair() as screen:
            with self._start(keys.far, screen.far, client.DEVNULL) as program:
                keys.close_far()
                screen.close_far()
                with self.tty, _LineEnds(self.tty):
                    reason = relay(
                        self.tty,
                        keys.take(),
                        screen.take(),
                        escapes=escapes,
                        on_size=program.resize,
                        on_action=lambda action: self._escape_text(action, program),
                    )
                return self._status(program) if reason == CLOSED else LOST

    def _escape_text(self, action: str, program: client.Popen) -> bytes:
        """Return the text that an escape shows."""
        texts = {
            LIST: "The following connections are open:\r\n  %s (process %s)\r\n"
            % (self.context.name, program.pid),
            BREAK: "A pseudo-terminal has no BREAK; nothing was sent.\r\n",
        }
        return texts[action].encode("utf-8", "replace")


class _Interruptible:
    """Context manager that passes a KeyboardInterrupt on: the program has no terminal with a ^C."""

    def __init__(self, program: client.Popen) -> None:
        self.program = program

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is KeyboardInterrupt:
            self.program.send_signal("INT")


class _Pair:
    """Two connected descriptors. Several threads may close the far one."""

    def __init__(self) -> None:
        self.near, self.far = create_socketpair(BUFFER_SIZE)
        self._lock = _thread.allocate_lock()

    def take(self) -> int:
        """Return the near descriptor, which the caller must close."""
        fd, self.near = self.near, -1
        return fd

    def close_far(self) -> None:
        with self._lock:
            fd, self.far = self.far, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> _Pair:
        return self

    def __exit__(self, *_exc_info: Any) -> None:
        self.close_far()
        if self.near >= 0:
            os.close(self.take())


# ---- log lines


class _RawStream:
    """A text file on a raw terminal, where a newline does not return the cursor."""

    def __init__(self, stream: Any, tty: RawTty) -> None:
        self.stream = stream
        self.tty = tty

    def write(self, text: str) -> Any:
        if self.tty.is_raw:
            text = text.replace("\r\n", "\n").replace("\n", "\r\n")
        return self.stream.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _LineEnds:
    """
    Context manager in which sys.stdout, sys.stderr and log handlers that write to the terminal use
    a _RawStream. A reference kept afterwards still works: it passes its data on.
    """

    def __init__(self, tty: RawTty) -> None:
        self.tty = tty
        self.changed: list[tuple[Any, str, _RawStream]] = []

    def __enter__(self) -> None:
        self._change(sys, "stdout")
        self._change(sys, "stderr")
        for handler in _log_handlers():
            with _locked(handler):
                self._change(handler, "stream")

    def __exit__(self, *_exc_info: Any) -> None:
        for owner, name, raw in self.changed:
            with _locked(owner):
                # Skipped if the stream was replaced meanwhile.
                if getattr(owner, name, None) is raw:
                    setattr(owner, name, raw.stream)

    def _change(self, owner: Any, name: str) -> None:
        stream = getattr(owner, name, None)
        if isinstance(stream, _RawStream) and stream.tty.is_raw:
            return  # a handler that is shared by several loggers
        if _is_on(stream, self.tty.fd_in):
            raw = _RawStream(stream, self.tty)
            self.changed.append((owner, name, raw))
            setattr(owner, name, raw)


class _locked:
    """Context manager that holds a log handler's lock. No-op for other objects."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner if hasattr(owner, "acquire") else None

    def __enter__(self) -> None:
        if self.owner:
            self.owner.acquire()

    def __exit__(self, *_exc_info: Any) -> None:
        if self.owner:
            self.owner.release()


def _log_handlers() -> Iterator[Any]:
    """Yield the handlers of all loggers; none if logging was never imported."""
    logging: Any = sys.modules.get("logging")
    if logging:
        for logger in [logging.root] + list(logging.root.manager.loggerDict.values()):
            yield from getattr(logger, "handlers", ())


def _is_on(stream: Any, fd: int) -> bool:
    """Return whether a file writes to the same terminal as a descriptor."""
    try:
        number = stream.fileno()
        return os.isatty(number) and os.fstat(number).st_rdev == os.fstat(fd).st_rdev
    except Exception:  # None, closed, without a descriptor, or a class with other methods
        return False
