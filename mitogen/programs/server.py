"""
The target's half of a program that another context runs here: started, carried by three pipes
(pipes.py), signalled, and ended (RFC 4254 section 6). The caller's half is client.py.

Rules
    1. A program is started by a call on a thread of its own, never by the main thread's.
    2. It has a session and a process group of its own, default signals, this account's environment
       and home directory; and no descriptor but its own three.
    3. It is over when its output is at its end, both of it, and its status is known. The status is
       the last that is said of it.
    4. Until then its process is not reaped, so that the number of its group is nobody else's.
    5. If whoever wants it is gone it gets the end of its input, then time, then signals. Should
       this process itself be killed, its Guard does that.

Threads: start() on the call's own; everything else on the broker's, but for one thread for each
program that waits for its end.
"""

from __future__ import annotations

import _thread
import os
import signal
import struct
import subprocess
import sys

from mitogen import core
from mitogen.bootstrap.spawn import own_environment
from mitogen.core import ERROR, IS_DEAD, Message, takes_router
from mitogen.programs.endpoints import PolledReader, PolledWriter, Socket
from mitogen.programs.pipes import ReceivingEnd, SendingEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Union

    from mitogen.core import Router

    Spec = dict[str, Any]
    Word = Union[str, bytes]

__all__ = ["GRACE", "Guard", "Refused", "Started", "start", "start_on_pipes"]

#: Seconds that a program has after the end of its input, before it gets signals.
GRACE = 5.0
#: Seconds between those signals; and where there is no time: what is left of its group when it has
#: ended, or the context itself is about to end.
PAUSE, SHORT_PAUSE = 1.0, 0.2
#: Seconds between them where the caller has said how much time there is before the first.
BRISK_PAUSE = 0.5
#: What ends a program that nobody wants any more.
ENDINGS = (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL)
#: The largest window that a caller may ask for, in bytes.
MAX_WINDOW = 16 * 1048576
#: Where systems have OpenSSH's SFTP server.
SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/sftp-server",
)
SSHD_CONFIG = "/etc/ssh/sshd_config"
#: Shells that say no.
NO_SHELLS = ("nologin", "false", "true", "sync", "halt", "shutdown")
#: Seconds to connect where a program of ssh -W wants to.
CONNECT_TIMEOUT = 30

#: Takes the terminal that is its standard input as controlling terminal, then runs the program.
_ON_TTY = 'exec 0<>"$0" 1>&0 2>&0;exec "$@"'
#: The same with another name for the program than its path, which sh has no way to give.
_LOGIN_ON_TTY = (
    "import os,sys\n"
    "fd=os.open(sys.argv[1],os.O_RDWR)\n"
    "for n in 0,1,2: os.dup2(fd,n)\n"
    "fd>2 and os.close(fd)\n"
    "import signal\n"
    "signal.signal(signal.SIGPIPE,signal.SIG_DFL)\n"
    "os.execv(sys.argv[2],sys.argv[3:])"
)


class Refused(core.Error):
    """The context does not run that."""

    #: The name that programs know, also where it was raised far away.
    __module__ = "mitogen.process"


# -- what is to be run


def home() -> str:
    """Return this account's home directory, or the root directory if it has none."""
    import pwd

    try:
        found = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        found = ""
    for path in (os.environ.get("HOME"), found):
        if path and os.path.isabs(path) and os.path.isdir(path):
            return path
    return "/"


def login_shell() -> str:
    """Return this account's shell, or /bin/sh if it has none that runs anything."""
    import pwd

    try:
        path = pwd.getpwuid(os.geteuid()).pw_shell
    except KeyError:
        path = ""
    if os.path.basename(path) in NO_SHELLS or not os.access(path, os.X_OK):
        return "/bin/sh"
    return path


def find_sftp_server() -> str | None:
    """Return the path of the system's SFTP server; None if there is none."""
    paths = []
    try:
        with open(SSHD_CONFIG, encoding="utf-8", errors="replace") as fp:
            for line in fp:
                words = line.split()
                if len(words) > 2 and [word.lower() for word in words[:2]] == ["subsystem", "sftp"]:
                    # With options it is the administrator's, and we have to leave them out.
                    paths.append(words[2])
    except OSError:
        pass
    for path in paths + list(SFTP_SERVERS):
        if os.path.isabs(path) and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def environment(spec: Spec) -> dict[Any, Any]:
    """Return a program's environment: this account's, unless the caller has given all of it."""
    if spec.get("env") is not None:
        env: dict[Any, Any] = dict(spec["env"])
    else:
        env = own_environment()
        env.setdefault("HOME", home())
        env.setdefault("SHELL", login_shell())
    env.update(spec.get("add_env") or {})
    return env


def command_of(spec: Spec) -> tuple[list[Word], str | None]:
    """Return (argv, path of the program or None where argv[0] is that)."""
    if spec["kind"] == "argv":
        return list(spec["args"]), None
    shell = login_shell()
    name = os.path.basename(shell)
    # As sshd(8) names it; what it says of itself in errors is that.
    return ([name, "-c", spec["args"]] if spec["kind"] == "command" else ["-" + name]), shell


def _check_program(name: Word, path: str | None) -> None:
    """Raise what exec would, where a shell in between would only exit with 127."""
    word = os.fsdecode(name)
    places = [word] if "/" in word else [os.path.join(p, word) for p in _places(path)]
    if not any(os.access(place, os.X_OK) and not os.path.isdir(place) for place in places):
        for place in places:
            if os.path.exists(place):
                raise PermissionError(13, "Permission denied", word)
        raise FileNotFoundError(2, "No such file or directory", word)


def _places(path: str | None) -> list[str]:
    return (path or os.defpath).split(os.pathsep)


class _Tty:
    """A pseudo-terminal (pty(7)) for a program."""

    def __init__(self, facts: dict[str, Any]) -> None:
        from mitogen.programs import tty_modes

        self.master, self.slave = os.openpty()
        try:
            self.path = os.ttyname(self.slave)
            tty_modes.apply(self.slave, facts.get("modes", b""))
            self.resize(*facts.get("size", (80, 24, 0, 0)))
        except BaseException:
            os.close(self.master)
            os.close(self.slave)
            raise

    def resize(self, columns: int, lines: int, x: int = 0, y: int = 0) -> None:
        import fcntl
        import termios

        if columns and lines:
            packed = struct.pack("HHHH", *[max(0, min(n, 65535)) for n in (lines, columns, x, y)])
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, packed)


class _TtyWriter(PolledWriter):
    """Writes to a terminal, whose end of file is a character (termios(3), VEOF)."""

    last = b"\n"

    def write(self, data: bytes) -> None:
        self.last = data[-1:] or self.last
        PolledWriter.write(self, data)

    def end(self) -> None:
        import termios

        if self.fd >= 0 and not self.ended:
            attrs = termios.tcgetattr(self.fd)
            if attrs[3] & termios.ICANON:
                # In mid-line the first only sends what is there of the line.
                eof = attrs[6][termios.VEOF]
                # NUL: it is switched off, and there is no other way to say it.
                if eof != b"\0":
                    self.write(eof if self.last == b"\n" else eof * 2)
        PolledWriter.end(self)


# -- started


class Started:
    """What runs, and its ends of the three pipes."""

    #: What ends it, once nobody wants it any more; and the seconds between where there is no time.
    endings = ENDINGS
    short_pause = SHORT_PAUSE

    def __init__(self, stdin: Any, stdout: Any, stderr: Any = None, proc: Any = None) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.proc = proc
        self.tty: _Tty | None = None


def _popen(spec: Spec, **kwargs: Any) -> Any:
    cwd = os.path.join(os.fsencode(home()), os.fsencode(spec.get("cwd") or ""))
    return subprocess.Popen(cwd=cwd, env=environment(spec), start_new_session=True, **kwargs)


def start_on_pipes(router: Router, spec: Spec, source: int | None = None) -> Started:
    """
    Start a program on three pipes.

    :param int source: descriptor to be its standard input instead
    """
    words, path = command_of(spec)
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for number in range(3):
            read, write = os.pipe()
            ours.append(read if number else write)
            theirs.append(write if number else read)
        stdin, stdout, stderr = theirs
        if spec.get("merge"):
            stderr = stdout
        proc = _popen(
            spec,
            args=words,
            executable=path,
            stdin=stdin if source is None else source,
            stdout=stdout,
            stderr=stderr,
        )
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    broker = router.broker
    for fd in ours:
        os.set_blocking(fd, False)
    writer = PolledWriter(broker, ours[0])
    return Started(writer, PolledReader(broker, ours[1]), PolledReader(broker, ours[2]), proc)


def _start_on_tty(router: Router, spec: Spec) -> Started:
    words: list[Any]
    words, path = command_of(spec)
    facts = spec["pty"]
    tty = _Tty(facts)
    try:
        added = dict(spec.get("add_env") or {}, SSH_TTY=tty.path)
        if facts.get("term"):
            added["TERM"] = facts["term"]
        spec = dict(spec, add_env=added)
        if path:
            words = [sys.executable, "-I", "-S", "-c", _LOGIN_ON_TTY, tty.path, path] + words
        else:
            _check_program(words[0], environment(spec).get("PATH"))
            words = ["/bin/sh", "-c", _ON_TTY, tty.path] + words
        proc = _popen(spec, args=words, stdin=tty.slave, stdout=tty.slave, stderr=tty.slave)
    except BaseException:
        os.close(tty.master)
        raise
    finally:
        os.close(tty.slave)
    os.set_blocking(tty.master, False)
    copy = os.dup(tty.master)
    broker = router.broker
    started = Started(_TtyWriter(broker, copy), PolledReader(broker, tty.master), None, proc)
    started.tty = tty
    return started


def _start_connection(router: Router, spec: Spec) -> Started:
    import socket

    host, port = spec["args"]
    try:
        sock = socket.create_connection((host, port), CONNECT_TIMEOUT)
    except (OSError, OverflowError) as e:
        raise Refused("cannot connect to %s port %s: %s", host, port, e) from e
    sock.settimeout(None)
    return _on_socket(router, sock.detach())


def _on_socket(router: Router, fd: int) -> Started:
    copy = os.dup(fd)
    write, read = Socket(fd), Socket(copy)
    broker = router.broker
    return Started(
        PolledWriter(broker, fd, write.write, write.end, write.close),
        PolledReader(broker, copy, read.read, read.close),
    )


def _start_subsystem(router: Router, spec: Spec) -> Started:
    name = spec["args"]
    if name != "sftp":
        raise Refused("there is no subsystem %r; there is: sftp", name)
    path = find_sftp_server()
    if path and not spec.get("builtin"):
        return start_on_pipes(router, dict(spec, kind="argv", args=[path]))
    import socket

    from mitogen.sftp import server

    ours, theirs = socket.socketpair()

    def serve() -> None:
        fd = theirs.detach()
        try:
            server.serve(fd, fd, home())
        finally:
            os.close(fd)

    _thread.start_new_thread(serve, ())
    return _on_socket(router, ours.detach())


KINDS = {
    "argv": start_on_pipes,
    "command": start_on_pipes,
    "shell": start_on_pipes,
    "connect": _start_connection,
    "subsystem": _start_subsystem,
}


def starter_of(kind: str) -> Callable[[Router, Spec], Started]:
    """Return what starts one of KINDS, or the function of that dotted name."""
    module, _, name = kind.rpartition(".")
    found: Any = getattr(core.import_module(module), name) if module else KINDS[kind]
    return found  # type: ignore[no-any-return]


#: Those that can have a terminal.
TTY_KINDS = ("argv", "command", "shell")


# -- running


class Program:
    """
    One program, for one context.

    :param Router router: this context's
    :param Context peer: who runs it, and may say something of it
    :param list handles: its mailboxes: control, credit for input (0: there is none), output, error
    :param dict spec: what to run: see process.spec_of()
    """

    def __init__(self, router: Router, peer: Any, handles: Sequence[int], spec: Spec) -> None:
        self.router = router
        self.peer = peer
        self.control_to = handles[0]
        self.is_tty = bool(spec.get("pty")) and spec["kind"] in TTY_KINDS
        self.started = (_start_on_tty if self.is_tty else starter_of(spec["kind"]))(router, spec)
        self.proc = self.started.proc
        if self.proc:
            # Before anybody knows of it, or this process could be killed in between.
            programs(router).watch(self.proc.pid)
        self.status: list[Any] | None = None if self.proc else [0, None, False]
        self.reaped = self.proc is None
        self.closing = self.ending = self.over = False
        self.pause = PAUSE
        self.no_input = bool(spec.get("no_input"))
        window = spec["window"]
        stderr = self.started.stderr
        self.stdin = ReceivingEnd(router, peer, window, self.started.stdin, lambda lost: None)
        self.outputs = [SendingEnd(router, peer, window, self.started.stdout, self._on_output_end)]
        if stderr:
            self.outputs.append(SendingEnd(router, peer, window, stderr, self._on_output_end))
        self.control = router.add_handler(
            self._on_control, router.new_handle(False), True, None, peer, False, True
        )
        router.broker.defer(self._begin, list(handles))

    def handles(self) -> list[int]:
        """Return our mailboxes, in the order of the caller's; 0 where there is none."""
        err = self.outputs[1].handle if len(self.outputs) > 1 else 0
        return [self.control, self.stdin.handle, self.outputs[0].handle, err]

    def _begin(self, handles: list[int]) -> None:
        programs(self.router).add(self)
        self.stdin.start(handles[1])
        if self.no_input:
            self.stdin.writer.end()
        for end, handle in zip(self.outputs, handles[2:]):
            end.start(handle)
        if self.proc:
            _thread.start_new_thread(self._wait, ())

    def _wait(self) -> None:
        """The program's own thread: sleep until it has ended."""
        pid = self.proc.pid
        try:
            found: Any = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            number = found.si_status
            if found.si_code == os.CLD_EXITED:
                status = [number, None, False]
            else:
                status = [None, _signal_name(number), found.si_code == os.CLD_DUMPED]
        except (AttributeError, OSError):
            # A system without waitid(): it is reaped at once.
            code = self.proc.wait()
            status = [code, None, False] if code >= 0 else [None, _signal_name(-code), False]
        self.router.broker.defer(self._on_exit, status)

    def _on_exit(self, status: list[Any]) -> None:
        self.status = status
        if self.closing and not self.ending:
            # What it has started in its group.
            self._end_group(1)
        if self.is_tty:
            # What it has left in the background does not keep a terminal.
            self.started.stdout.finish()
        self._check_over()

    def _on_output_end(self, lost: bool) -> None:
        self._check_over()

    def _check_over(self) -> None:
        if self.over or self.status is None or not all(end.ended for end in self.outputs):
            return
        self.over = True
        self.stdin.close()
        self.router._handlers.pop(self.control, None)
        self._tell("exit", *self.status)
        if not self.closing:
            self._reap()

    def _reap(self) -> None:
        if not self.reaped:
            self.reaped = True
            programs(self.router).discard(self)
            self.proc.wait()
        else:
            programs(self.router).discard(self)

    def _tell(self, *fields: Any) -> None:
        msg = Message(dst_id=self.peer.context_id, handle=self.control_to)
        msg.data = core.encode(list(fields))
        self.router.route(msg, False)

    # -- control

    def _on_control(self, msg: Message) -> None:
        if msg.reply_to == IS_DEAD:
            self.close()
        else:
            fields = core.decode(msg.data)
            CONTROLS[fields[0]](self, *fields[1:])

    def signal(self, name: str) -> None:
        """Send a signal, by its name without SIG, to the program's group (RFC 4254 section 6.9)."""
        number: Any = getattr(signal, "SIG" + name, None)
        if number is None:
            self.router.log(ERROR, "there is no signal %r here", name)
        else:
            self._kill(number)

    def _kill(self, number: int) -> None:
        if not self.reaped:
            try:
                os.killpg(self.proc.pid, number)
            except OSError:
                # Another account's by now (sudo), or all of it gone.
                pass

    def resize(self, *size: int) -> None:
        """Tell the terminal its size."""
        tty = self.started.tty
        if tty and self.started.stdout.fd >= 0:
            tty.resize(*size)

    def hurry(self) -> None:
        """As close(), where there is no time."""
        self.pause = self.started.short_pause
        if self.closing and not self.ending:
            self._end_group(0)
        self.close(0)

    def close(self, grace: float | None = None) -> None:
        """Nobody wants it any more: see rule 5."""
        if self.closing:
            return
        self.closing = True
        if grace is None:
            grace = 0 if self.is_tty else GRACE
        else:
            self.pause = min(self.pause, BRISK_PAUSE)
        self.stdin.close()
        for end in self.outputs:
            end.close(True)
        if self.reaped:
            self._gone()
        elif self.status is not None:
            self._end_group(1)
        else:
            self.router.broker.after(grace, lambda: self.ending or self._end_group(0))  # type: ignore[func-returns-value]

    def _end_group(self, step: int) -> None:
        """Go on with what ends it, from that one on."""
        self.ending = True
        if self.reaped:
            return
        endings = self.started.endings
        if step == len(endings):
            if self.status is not None:
                return self._gone()
            step -= 1
        self._kill(endings[step])
        pause = self.pause if self.status is None else SHORT_PAUSE
        self.router.broker.after(pause, lambda: self._end_group(step + 1))

    def _gone(self) -> None:
        self._check_over()
        self._reap()


CONTROLS: dict[str, Callable[..., None]] = {
    "close": Program.close,
    "resize": Program.resize,
    "signal": Program.signal,
}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        # A real-time signal.
        return str(number)


# -- all of them


class Guard:
    """
    All programs of this process, and a small shell that outlives it: it is told of each program,
    and when this process is gone ends those that are left.
    """

    #: Reads "+ PID" and "- PID" until the end of file.
    SCRIPT = (
        'trap "" HUP INT TERM;p=;while read a b;do case $a in +)p="$p $b";;'
        '*)n=;for i in $p;do [ $i = $b ]||n="$n $i";done;p=$n;;esac;done;'
        's() { n=;for i in $p;do kill -s $1 -- -$i&&n="$n $i";done;p=$n;[ "$p" ]||exit;};'
        "for k in 1 2 3 4 5;do s 0;sleep 1;done;s HUP;sleep 1;s TERM;sleep 1;s KILL"
    )

    def __init__(self, router: Router) -> None:
        self.router = router
        self.programs: list[Program] = []
        self.pipe: int | None = None
        self.lock = _thread.allocate_lock()
        self.started = False

    def start(self) -> None:
        """Any thread: start the shell, if there is none."""
        with self.lock:
            if self.started:
                return
            self.started = True
            core.listen(self.router.broker, "shutdown", self._on_shutdown)
            core.listen(self.router.broker, "exit", self._on_exit)
            core.listen(self.router, "parent_lost", self._on_parent_lost)
            read, write = os.pipe()
            try:
                proc = subprocess.Popen(
                    ["/bin/sh", "-c", self.SCRIPT, "mitogen-guard"],
                    stdin=read,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as e:
                os.close(write)
                self.router.log(ERROR, "no guard for this context's programs: %s", e)
                return
            finally:
                os.close(read)
            self.pipe = write
        _thread.start_new_thread(proc.wait, ())

    def add(self, program: Program) -> None:
        self.programs.append(program)

    def discard(self, program: Program) -> None:
        if program in self.programs:
            self.programs.remove(program)
            if program.proc:
                self.unwatch(program.proc.pid)
        if not self.programs:
            self.router.broker.holds.discard(self)
            self.router.broker.stop()

    def watch(self, pid: int) -> None:
        """Any thread: have the process group of that number ended, should this process be."""
        self._say(b"+ %d\n" % pid)

    def unwatch(self, pid: int) -> None:
        """Any thread: it is over; to be said before it is reaped."""
        self._say(b"- %d\n" % pid)

    def _say(self, line: bytes) -> None:
        if self.pipe is not None:
            try:
                os.write(self.pipe, line)
            except OSError as e:
                self.router.log(ERROR, "the guard of this context's programs is gone: %s", e)
                os.close(self.pipe)
                self.pipe = None

    def _on_parent_lost(self) -> None:
        """A detached context goes on; those that it ran programs for are not reached any more."""
        for program in list(self.programs):
            if self.router.routes.get(program.peer.context_id) is None:
                program.close()

    def _on_exit(self) -> None:
        """From here on it is the shell's."""
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            os.close(pipe)

    def _on_shutdown(self) -> None:
        """The context ends in order: so do its programs, without the grace."""
        if self.programs:
            self.router.broker.holds.add(self)
            for program in list(self.programs):
                program.hurry()


def programs(router: Router) -> Guard:
    """Return what knows all programs of this context."""
    found: Guard = router.__dict__.get("_guard") or router.__dict__.setdefault(
        "_guard", Guard(router)
    )
    return found


@takes_router
def start(spec: Spec, peer_id: int, handles: list[int], router: Any = None) -> Any:
    """
    Start a program for a context; called by it, or by an ancestor on its behalf.

    :param dict spec: what to run: see process.spec_of()
    :param int peer_id: context that has the pipes' other ends, and alone may use ours
    :param list handles: its mailboxes: control, credit for input (0: there is none), output, error
    :returns: ("started", pid or None, our mailboxes in the same order); ("error", arguments of an
        OSError), or ("refused", why)
    """
    if not 1 <= spec["window"] <= MAX_WINDOW:
        raise ValueError("window of %r bytes: not within 1 to %d" % (spec["window"], MAX_WINDOW))
    peer = router.context_by_id(peer_id)
    programs(router).start()
    try:
        program = Program(router, peer, handles, spec)
    except Refused as e:
        return "refused", str(e)
    except OSError as e:
        name = e.filename
        return ("error", e.errno, e.strerror, os.fsdecode(name) if name else None)
    return "started", program.proc and program.proc.pid, program.handles()
