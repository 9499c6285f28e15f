"""
Start the program that is to become a context, with a pipe to it; terminate and reap it.

Rules
    1. No Python code runs between fork and exec: subprocess execs the program, or a small `sh`
       script if a controlling terminal must be acquired.
    2. Every descriptor created here is closed in children (PEP 446) and belongs to the Process
       until its owner takes it over.
    3. A process is terminated by its own pid, and reaped.

Threads: start() on any; reaping by the broker's timers.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it
import _socket
import _thread
import os

from mitogen.core import StreamError, fire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Union

    from mitogen.core import Broker

    Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


__all__ = ["Process", "create_socketpair", "own_environment", "start", "status_text"]

#: Bytes of socket buffer requested; the system may grant less.
BUFFER_SIZE = 425984
#: Seconds between polls of a process that should exit: first and longest interval.
FIRST_POLL, LONGEST_POLL = 0.002, 0.1
#: Seconds after which a process that should exit is sent SIGTERM, and SIGKILL.
TERM_AFTER, KILL_AFTER = 3.0, 5.0

#: Script for a session leader: make the terminal named by $0 the controlling terminal, then exec.
_TAKE_TTY = ': <>"$0";exec "$@"'
#: The same, with the terminal also as standard input, output and error.
_ON_TTY = 'exec 0<>"$0" 1>&0 2>&0;exec "$@"'


def create_socketpair(size: int = BUFFER_SIZE) -> tuple[int, int]:
    """Return the descriptors of a pair of Unix stream sockets; request `size`-byte buffers."""
    pair: Any = ()
    try:
        pair = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        for sock in pair:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, size)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, size)
        return pair[0].detach(), pair[1].detach()
    except BaseException:
        for sock in pair:
            sock.close()
        raise


def make_raw(slave: int) -> str:
    """Put a terminal into raw mode; return its path."""
    import tty

    tty.setraw(slave)
    return os.ttyname(slave)


class Process:
    """
    A started program.

    :param proc: a subprocess.Popen, or an object with its `pid`, `poll()` and `kill()`
    :param int pipe: our end of its standard input and output
    :param int tty: master of its terminal, or None
    :param int err: read end of its standard error, or None if that goes to `pipe`
    """

    #: Slave of the terminal, held open so that the master gets no hangup while no program has the
    #: terminal open.
    slave: int | None = None

    def __init__(
        self, proc: Any, pipe: int, tty: int | None = None, err: int | None = None
    ) -> None:
        self.proc = proc
        self.pid = proc.pid
        self.pipe = pipe
        self.tty = tty
        self.err = err

    def close_slave(self) -> None:
        """Close the slave, so that the terminal hangs up when the last program closes it."""
        slave, self.slave = self.slave, None
        if slave is not None:
            os.close(slave)

    def abandon(self) -> None:
        """Kill the process and close all descriptors, before any of them has another owner."""
        self.close_slave()
        for fd in (self.pipe, self.tty, self.err):
            if fd is not None:
                os.close(fd)
        self.leave(True)

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has been reaped."""
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def poll(self) -> int | None:
        """
        Return the exit status, or None while the process runs. The remaining processes in its group
        are terminated before it is reaped, because the group's id may be reused afterwards.
        """
        try:
            if not os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return None
            os.killpg(self.pid, _signal.SIGTERM)
        except (OSError, AttributeError):
            # Already reaped, no process group of its own, or a system without waitid().
            pass
        status: int | None = self.proc.poll()
        return status

    def reap(self, broker: Broker, done: Callable[[int], object], waited: float = 0.0) -> Any:
        """
        Broker thread: call `done(status)` once the process is gone, then the callbacks of the event
        "exit": see core.listen(). It may exit by itself first;
        after `TERM_AFTER` and `KILL_AFTER` seconds it is sent a signal.
        """
        status = self.poll()
        if status is not None:
            done(status)
            return fire(self, "exit", status)
        wait = min(max(FIRST_POLL, waited), LONGEST_POLL)
        for after, number in _SIGNALS.items():
            if waited <= after < waited + wait:
                self.signal(number)
        broker.after(wait, lambda: self.reap(broker, done, waited + wait))

    def leave(self, kill: bool) -> None:
        """
        Let the process run on, and reap it when it exits. A thread waits for it, because the broker
        may be gone by then.

        :param bool kill: the process is a mere client and of no more use: send it SIGKILL
        """
        if kill:
            self.signal(_signal.SIGKILL)
        _thread.start_new_thread(self.proc.wait, ())


_SIGNALS = {TERM_AFTER: _signal.SIGTERM, KILL_AFTER: _signal.SIGKILL}


def accounts_below(pid: int) -> list[set[int]] | None:
    """
    Return the user ids (real, effective and saved) of a process, then of each of its descendants;
    None if the system does not show them. Those of an ended process include -1.
    """
    found: list[set[int]] = []
    pids = [b"%d" % pid]
    while pids:
        path = b"/proc/%b/" % pids.pop()
        try:
            with open(path + b"status", "rb") as fp:
                fields = dict(line.split(b":", 1) for line in fp if b":" in line)
            found.append({*map(int, fields[b"Uid"].split())})
            if fields[b"State"].split()[0] in (b"Z", b"X"):
                found[-1].add(-1)
            for task in os.listdir(path + b"task"):
                with open(path + b"task/%b/children" % task, "rb") as fp:
                    pids += fp.read().split()
        except (OSError, KeyError, ValueError):
            # The program itself can't end unnoticed, because this process is its parent.
            if path == b"/proc/%d/" % pid:
                return None
            found.append({-1})
    return found


def has_reaped(pid: int) -> bool:
    """Return whether a process has reaped children, or the system does not show it."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as fp:
            fields = fp.read().rpartition(b")")[2].split()
        # Page faults and ticks of children that were waited for: see proc(5).
        return any(map(int, fields[8:12:2] + fields[13:15]))
    except (OSError, ValueError, IndexError):
        return True


def status_text(status: int | None) -> str:
    """Describe an exit status of subprocess, for an error message."""
    if status is None:
        return "process still running"
    if status < 0:
        return "process was ended by signal %d" % -status
    return "process exited with status %d" % status


def check_program(name: str) -> None:
    """Raise FileNotFoundError if no executable of that name or path exists."""
    paths = [name] if "/" in name else [os.path.join(p, name) for p in os.get_exec_path()]
    if not any(os.access(path, os.X_OK) for path in paths):
        raise FileNotFoundError(2, "No such file or directory", name)


def own_environment() -> dict[str, str]:
    """Return this process's environment, without the variable that Python adds (PEP 538)."""
    env = dict(os.environ)
    if "LC_CTYPE" in env:
        try:
            with open("/proc/self/environ", "rb") as fp:
                given = fp.read()
        except OSError:
            return env
        if b"\0LC_CTYPE=" not in b"\0" + given:
            del env["LC_CTYPE"]
    return env


def start(
    argv: Sequence[Path],
    stdio: str = "pipe",
    tty: bool = False,
    err: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Process:
    """
    Start a program in a session of its own.

    :param list argv: program and arguments
    :param str stdio: "pipe" to connect its standard input and output to a socketpair, "tty" to a
        terminal
    :param bool tty: with "pipe", add a controlling terminal, for prompts
    :param bool err: connect standard error to a pipe of its own; otherwise it goes to stdout
    :param dict environ: changes to its environment
    :returns: Process
    :raises StreamError: the program could not be started
    """
    # This accounts for half of the import time, and contexts without children don't need it.
    import subprocess

    # Each line that opens descriptors also records them: an interruption may come between lines.
    opened: list[int] = []
    theirs: list[int] = []
    words: list[Any] = [os.fspath(arg) for arg in argv]
    master: int | None = None
    slave: int | None = None
    err_r: int | None = None
    err_w: int = subprocess.STDOUT
    proc: Any = None
    try:
        if tty or stdio == "tty":
            # A shell execs the program, so a missing program would look like the child's error.
            check_program(words[0])
            opened += os.openpty()
            master, slave = opened
            path = make_raw(slave)
            words = ["/bin/sh", "-c", _ON_TTY if stdio == "tty" else _TAKE_TTY, path] + words
        if err:
            opened += os.pipe()
            err_r, err_w = opened[-2:]
            theirs.append(err_w)
        if stdio == "tty":
            pipe, master = master, None
            stdin = subprocess.DEVNULL
        else:
            opened += create_socketpair()
            pipe, stdin = opened[-2:]
            theirs.append(stdin)
        proc = subprocess.Popen(
            words,
            stdin=stdin,
            stdout=stdin,
            stderr=err_w,
            start_new_session=True,
            env=dict(own_environment(), **(environ or {})),
        )
        while theirs:
            os.close(opened.pop(opened.index(theirs.pop())))
        process = Process(proc, pipe, master, err_r)  # type: ignore[arg-type]
        process.slave = slave
        return process
    except BaseException as e:
        # Without its pipe and terminal, a program that was started meanwhile ends by itself.
        while opened:
            os.close(opened.pop())
        if proc:
            Process(proc, -1).leave(True)
        if not isinstance(e, (OSError, ValueError)):
            raise
        raise StreamError(
            "cannot start %s: %s; check that it is installed and the path is right", words[0], e
        ) from e
