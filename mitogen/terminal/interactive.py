"""
A person's terminal in front of a program in a context: shell(). What is done to the local terminal
is raw_tty.py's, what runs the program programs/client.py's.

Rules
    1. With a terminal on both sides, keys and screen pass through two socket pairs between relay()
       and the program's pipes; their buffers are small, so that ^C is felt at once.
    2. Where there is no terminal the program gets the descriptors themselves.
    3. A terminal without one at the far side is read by relay() too: it does not take what is typed
       after the program's end.
    4. While the terminal is raw, text that this program writes to it has CR LF at a line's end.
    5. Whatever way out is taken, the terminal is as before, and the program is given up.

Threads: the caller's; signals are noticed on the main thread only (raw_tty.py).
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

#: Bytes of buffer asked for between the program's pipes and the terminal.
BUFFER_SIZE = 16384
#: Exit status where there is none of the program: as of ssh(1).
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
    Run a program in a context with this process' terminal in front of it, as ssh(1) does; return
    its exit status.

    If it gets a terminal, and this process has one, that one is raw meanwhile, and restored
    whatever happens. Keys after a newline that begin with the escape character are for this end:
    `~.` ends the connection, `~^Z` suspends this process, `~?` tells the others.

    The program gets TERM and the size and modes of this terminal, and COLORTERM, LANG and LC_*.
    Else it gets the descriptors, and the end of input is passed on.

    Suspended, this process answers nobody: connections with keepalives, as of ssh, end after a
    minute of that.

    :param Context context: where
    :param argv: list: program and arguments; str: a command for the account's login shell; None:
        that shell itself
    :param bool tty: whether the program gets a terminal; None: if `argv` is None and standard input
        is a terminal
    :param str escape: the escape character, `^` and one for a control character, or "none"
    :param bool quiet: don't say that the connection is closed
    :param dict env: names to set for the program in addition
    :param int stdin: descriptor to use instead of standard input
    :param int stdout: likewise
    :param int stderr: likewise
    :returns: the exit status; 128 and the number of the signal that ended it; 255 if the connection
        was lost (standard error says why), or ended by `~.`, or the local terminal is gone
    :raises OSError: the program cannot be started: FileNotFoundError, PermissionError, ...
    :raises process.Refused: the context does not run that, or not for this one
    :raises ChannelError: the context is gone already
    :raises ValueError: `escape` is no escape character
    """
    escapes = Escapes(escape_char(escape))
    add_env = dict(_forwarded(os.environ), **(env or {}))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with _Descriptors(stdin, stdout, stderr) as fds:
        if tty is None:
            tty = argv is None and os.isatty(fds[0])
        front = _Front(context, argv, fds, add_env, tty)
        if not os.isatty(fds[0]):
            return front.run_plain()
        if not tty:
            return front.run_cooked()
        status = front.run_raw(escapes)
        if not quiet and not front.lost:
            front.say("Connection to %s closed." % context.name)
        return status


def _forwarded(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment belongs to a terminal and the person at it."""
    return {
        name: value
        for name, value in environ.items()
        if name in ("COLORTERM", "LANG") or name.startswith("LC_")
    }


class _Descriptors:
    """
    Within `with`, the three descriptors; for a closed one /dev/null, also for one of 0 to 2 that
    was closed when Python started: it may be something of ours by now.
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


class _Front:
    """One shell() under way."""

    #: The context was lost.
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
        """Return the terminal that the program gets: like ours."""
        term = os.environ.get("TERM") or "dumb"
        columns, lines, x, y = self.tty.size()
        modes = tty_modes.encode(self.tty.before) if self.tty.before else b""
        return client.Pty(term, columns or 80, lines or 24, x, y, modes)

    def say(self, text: str) -> None:
        """Write a line to standard error, if it can be written to."""
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
        """Wait for the program's end; return what a shell calls its exit status."""
        try:
            status = program.wait()
        except ChannelError:
            self.lost = True
            self.say("Connection to %s lost: %s" % (self.context.name, program.error))
            return LOST
        return 128 - status if status < 0 else status

    # ---- three ways

    def run_plain(self) -> int:
        """No terminal here: the program gets our descriptors."""
        with self._start(*self.fds) as program, _Interruptible(program):
            return self._status(program)

    def run_cooked(self) -> int:
        """A terminal here, none there: relay() carries the keys only, until the program ends."""
        with _Pair() as keys, _Pair() as done:
            with self._start(keys.far, *self.fds[1:]) as program, _Interruptible(program):
                keys.close_far()
                program.when_done(lambda _: done.close_far())
                relay(self.tty, keys.take(), None, watch={done.near: lambda: True})
                return self._status(program)

    def run_raw(self, escapes: Escapes) -> int:
        """A terminal on both sides."""
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
                        on_action=lambda action: self._answer(action, program),
                    )
                return self._status(program) if reason == CLOSED else LOST

    def _answer(self, action: str, program: client.Popen) -> bytes:
        """Return what an escape shows."""
        texts = {
            LIST: "The following connections are open:\r\n  %s (process %s)\r\n"
            % (self.context.name, program.pid),
            BREAK: "A pseudo-terminal has no BREAK; nothing was sent.\r\n",
        }
        return texts[action].encode("utf-8", "replace")


class _Interruptible:
    """A KeyboardInterrupt within `with` is the program's too: it has no terminal with a ^C."""

    def __init__(self, program: client.Popen) -> None:
        self.program = program

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is KeyboardInterrupt:
            self.program.send_signal("INT")


class _Pair:
    """Two descriptors that are connected; the far one may be closed by several threads."""

    def __init__(self) -> None:
        self.near, self.far = create_socketpair(BUFFER_SIZE)
        self._lock = _thread.allocate_lock()

    def take(self) -> int:
        """Return the near one, which is the caller's to close from then on."""
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
    """A text file on a raw terminal, where a newline only moves down."""

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
    Within `with`, sys.stdout, sys.stderr and the handlers of logging that write to a terminal do so
    through a _RawStream; whoever keeps one afterwards finds it passing on what it gets.
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
                # Somebody may have put another in its place.
                if getattr(owner, name, None) is raw:
                    setattr(owner, name, raw.stream)

    def _change(self, owner: Any, name: str) -> None:
        stream = getattr(owner, name, None)
        if isinstance(stream, _RawStream) and stream.tty.is_raw:
            return  # a handler that several loggers have
        if _is_on(stream, self.tty.fd_in):
            raw = _RawStream(stream, self.tty)
            self.changed.append((owner, name, raw))
            setattr(owner, name, raw)


class _locked:
    """Hold a log handler's lock; nothing for what is none."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner if hasattr(owner, "acquire") else None

    def __enter__(self) -> None:
        if self.owner:
            self.owner.acquire()

    def __exit__(self, *_exc_info: Any) -> None:
        if self.owner:
            self.owner.release()


def _log_handlers() -> Iterator[Any]:
    """Return the handlers of all loggers; none where logging was never imported."""
    logging: Any = sys.modules.get("logging")
    if logging:
        for logger in [logging.root] + list(logging.root.manager.loggerDict.values()):
            yield from getattr(logger, "handlers", ())


def _is_on(stream: Any, fd: int) -> bool:
    """Return whether a file writes to the terminal that a descriptor is of."""
    try:
        number = stream.fileno()
        return os.isatty(number) and os.fstat(number).st_rdev == os.fstat(fd).st_rdev
    except Exception:  # None, closed, without a descriptor, or somebody's own class
        return False
