"""
The target's half of a program that another context runs here: start, three pipes (pipes.py),
signals and end (RFC 4254 section 6). The caller's half is client.py.

Rules
    1. A program is started by a call on a separate thread, never on the main thread.
    2. A program has its own session and process group, default signals, this account's environment
       and home directory, and no descriptors but its own three.
    3. A program has ended when both outputs are at end of file and its status is known. The status
       is the last message about it.
    4. Its process is not reaped before that, so that its process group id cannot be reused.
    5. If the caller is gone or has abandoned the program, the program gets the end of its input,
       then a grace period, then signals. If this process itself is killed, its Guard does that.

Threads: start() runs on the call's thread. Everything else runs on the broker's, except for one
thread per program that waits for its end.
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
from mitogen.core.lazy import LAZY, fetch
from mitogen.programs.endpoints import PolledReader, PolledWriter, Socket
from mitogen.programs.pipes import ReceivingEnd, SendingEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Union

    from mitogen.core import Router

    Spec = dict[str, Any]
    Word = Union[str, bytes]

__all__ = ["GRACE", "MAX_CONTROL", "Guard", "Refused", "Started", "start", "start_on_pipes"]

LAZY.update(sftp="sftp.server", tty_modes="programs.tty_modes")

#: Grace period of an abandoned program: seconds between the end of its input and the first signal.
GRACE = 5.0
#: Seconds between the signals; and the shorter pause for the processes that a program has left in
#: its group, and for all programs when the context shuts down.
PAUSE, SHORT_PAUSE = 1.0, 0.2
#: Seconds between the signals if the caller has set the grace period.
CUSTOM_GRACE_PAUSE = 0.5
#: Signals sent to an abandoned program's process group, in this order.
END_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL)
#: Largest window that a caller may request, in bytes.
MAX_WINDOW = 16 * 1048576
#: Programs that one stream's contexts may have running here at once; ancestors have no limit.
MAX_PROGRAMS = 256
#: Bytes of a message that controls a program, such as a signal's name.
MAX_CONTROL = 4096
#: Usual paths of OpenSSH's SFTP server.
SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/sftp-server",
)
SSHD_CONFIG = "/etc/ssh/sshd_config"
#: Names of login shells that do not run commands.
NOLOGIN_SHELLS = ("nologin", "false", "true", "sync", "halt", "shutdown")
#: Seconds that connecting may take for a Connect (`ssh -W`).
CONNECT_TIMEOUT = 30

#: Shell script that makes the terminal, $0, the controlling terminal, then runs the program.
_ON_TTY = 'exec 0<>"$0" 1>&0 2>&0;exec "$@"'
#: Python program that does the same for a login shell, whose argv[0] is not its path: sh cannot set
#: argv[0].
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
    """The context does not run the program, or does not run it for this caller."""

    #: Public name, by which the error is also known when it was raised in another context.
    __module__ = "mitogen.process"


# -- the program and its environment


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
    """Return this account's shell, or /bin/sh if it has none that runs commands."""
    import pwd

    try:
        path = pwd.getpwuid(os.geteuid()).pw_shell
    except KeyError:
        path = ""
    if os.path.basename(path) in NOLOGIN_SHELLS or not os.access(path, os.X_OK):
        return "/bin/sh"
    return path


def find_sftp_server() -> str | None:
    """Return the path of the system's SFTP server, or None if there is none."""
    paths = []
    try:
        with open(SSHD_CONFIG, encoding="utf-8", errors="replace") as fp:
            for line in fp:
                words = line.split()
                if len(words) > 2 and [word.lower() for word in words[:2]] == ["subsystem", "sftp"]:
                    # Options of the administrator's are ignored: only the path is used.
                    paths.append(words[2])
    except OSError:
        pass
    for path in paths + list(SFTP_SERVERS):
        if os.path.isabs(path) and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def environment(spec: Spec) -> dict[Any, Any]:
    """Return a program's environment: the account's own, unless the caller has replaced it."""
    if spec.get("env") is not None:
        env: dict[Any, Any] = dict(spec["env"])
    else:
        env = own_environment()
        env.setdefault("HOME", home())
        env.setdefault("SHELL", login_shell())
    env.update(spec.get("add_env") or {})
    return env


def command_of(spec: Spec) -> tuple[list[Word], str | None]:
    """Return (argv, path of the executable, or None if that is argv[0])."""
    if spec["kind"] == "argv":
        return list(spec["args"]), None
    shell = login_shell()
    name = os.path.basename(shell)
    # The name is the one that sshd(8) uses. The shell shows it in its error messages.
    return ([name, "-c", spec["args"]] if spec["kind"] == "command" else ["-" + name]), shell


def _check_program(name: Word, path: str | None) -> None:
    """Raise exec's error in advance: the shell in between would just exit with status 127."""
    word = os.fsdecode(name)
    files = [word] if "/" in word else [os.path.join(p, word) for p in _directories(path)]
    if not any(os.access(file, os.X_OK) and not os.path.isdir(file) for file in files):
        for file in files:
            if os.path.exists(file):
                raise PermissionError(13, "Permission denied", word)
        raise FileNotFoundError(2, "No such file or directory", word)


def _directories(path: str | None) -> list[str]:
    return (path or os.defpath).split(os.pathsep)


class _Tty:
    """A pseudo-terminal (pty(7)) for a program."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.master, self.slave = os.openpty()
        try:
            self.path = os.ttyname(self.slave)
            fetch("tty_modes").apply(self.slave, settings.get("modes", b""))
            self.resize(*settings.get("size", (80, 24, 0, 0)))
        except BaseException:
            os.close(self.master)
            os.close(self.slave)
            raise

        self._kept = -1

    def keep_open(self) -> None:
        """
        Keep the terminal open until hang_up(), independently of the endpoints of the pipes.

        A program that closes its terminal before it ends would end by SIGHUP otherwise.
        """
        self._kept = os.dup(self.master)

    def hang_up(self) -> None:
        """Close the terminal; the endpoints may still be open. Idempotent."""
        if self._kept >= 0:
            os.close(self._kept)
            self._kept = -1

    def resize(self, columns: int, lines: int, x: int = 0, y: int = 0) -> None:
        import fcntl
        import termios

        if columns and lines:
            packed = struct.pack("HHHH", *[max(0, min(n, 65535)) for n in (lines, columns, x, y)])
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, packed)


class _TtyWriter(PolledWriter):
    """Writer to a terminal, where the end of file is a character (termios(3), VEOF)."""

    last = b"\n"

    def write(self, data: bytes) -> None:
        self.last = data[-1:] or self.last
        PolledWriter.write(self, data)

    def end(self) -> None:
        import termios

        if self.fd >= 0 and not self.ended:
            attrs = termios.tcgetattr(self.fd)
            if attrs[3] & termios.ICANON:
                # Within a line, the first VEOF only submits the line so far.
                eof = attrs[6][termios.VEOF]
                # NUL means that VEOF is disabled. Then no end of file can be sent.
                if eof != b"\0":
                    self.write(eof if self.last == b"\n" else eof * 2)
        PolledWriter.end(self)


# -- starting


class Started:
    """A started program and this process' ends of its three pipes."""

    #: Signals sent when the program is abandoned, and the pause in seconds between them when the
    #: context shuts down.
    end_signals = END_SIGNALS
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

    :param int source: descriptor to use as standard input instead of a pipe
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
    settings = spec["pty"]
    tty = _Tty(settings)
    try:
        added = dict(spec.get("add_env") or {}, SSH_TTY=tty.path)
        if settings.get("term"):
            added["TERM"] = settings["term"]
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
    tty.keep_open()
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
        raise Refused("there is no subsystem %r; the only one is sftp", name)
    path = find_sftp_server()
    if path and not spec.get("builtin"):
        return start_on_pipes(router, dict(spec, kind="argv", args=[path]))
    import socket

    ours, theirs = socket.socketpair()

    def serve() -> None:
        fd = theirs.detach()
        try:
            fetch("sftp").serve(fd, fd, home())
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


def find_starter(kind: str) -> Callable[[Router, Spec], Started]:
    """Return the function that starts a program of this kind: one of KINDS, or a dotted name."""
    module, _, name = kind.rpartition(".")
    found: Any = getattr(core.import_module(module), name) if module else KINDS[kind]
    return found  # type: ignore[no-any-return]


#: Kinds of programs that can run on a terminal.
TTY_KINDS = ("argv", "command", "shell")


# -- running


class Program:
    """
    A program that runs for another context.

    :param Router router: this context's router
    :param Context peer: context that the program runs for, and that may control it
    :param list handles: the peer's mailboxes: control, credit for input (0 for no input), output,
        error
    :param dict spec: the program: see client.spec_of()
    """

    def __init__(self, router: Router, peer: Any, handles: Sequence[int], spec: Spec) -> None:
        self.router = router
        self.peer = peer
        self.control_to = handles[0]
        self.is_tty = bool(spec.get("pty")) and spec["kind"] in TTY_KINDS
        self.started = (_start_on_tty if self.is_tty else find_starter(spec["kind"]))(router, spec)
        self.proc = self.started.proc
        if self.proc:
            # First of all: this process could be killed at any moment.
            guard_of(router).watch(self.proc.pid)
        self.status: list[Any] | None = None if self.proc else [0, None, False]
        self.reaped = self.proc is None
        self.closing = self.ending = self.finished = False
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
        """Return this context's mailboxes in the caller's order; 0 where there is no pipe."""
        err = self.outputs[1].handle if len(self.outputs) > 1 else 0
        return [self.control, self.stdin.handle, self.outputs[0].handle, err]

    def _begin(self, handles: list[int]) -> None:
        guard_of(self.router).add(self)
        self.stdin.start(handles[1])
        if self.no_input:
            self.stdin.writer.end()
        for end, handle in zip(self.outputs, handles[2:]):
            end.start(handle)
        if self.proc:
            _thread.start_new_thread(self._wait, ())

    def _wait(self) -> None:
        """Sleep until the program has ended. The program's own thread."""
        pid = self.proc.pid
        try:
            found: Any = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            number = found.si_status
            if found.si_code == os.CLD_EXITED:
                status = [number, None, False]
            else:
                status = [None, _signal_name(number), found.si_code == os.CLD_DUMPED]
        except (AttributeError, OSError):
            # This system has no waitid(), so the process is reaped here.
            code = self.proc.wait()
            status = [code, None, False] if code >= 0 else [None, _signal_name(-code), False]
        self.router.broker.defer(self._on_exit, status)

    def _on_exit(self, status: list[Any]) -> None:
        self.status = status
        if self.closing and not self.ending:
            # Other processes that the program has started in its group may be left.
            self._end_group(1)
        if self.started.tty:
            # Background processes that the program has left do not keep the terminal open.
            self.started.tty.hang_up()
            self.started.stdout.finish()
        self._check_finished()

    def _on_output_end(self, lost: bool) -> None:
        self._check_finished()

    def _check_finished(self) -> None:
        if self.finished or self.status is None or not all(end.ended for end in self.outputs):
            return
        self.finished = True
        self.stdin.close()
        self.router.handlers.pop(self.control, None)
        self._send_control("exit", *self.status)
        if not self.closing:
            self._reap()

    def _reap(self) -> None:
        if not self.reaped:
            self.reaped = True
            guard_of(self.router).discard(self)
            self.proc.wait()
        else:
            guard_of(self.router).discard(self)

    def _send_control(self, *fields: Any) -> None:
        msg = Message(dst_id=self.peer.context_id, handle=self.control_to)
        msg.data = core.encode(list(fields))
        self.router.route(msg, False)

    # -- control

    def _on_control(self, msg: Message) -> None:
        if msg.reply_to == IS_DEAD:
            self.close()
        elif len(msg.data) <= MAX_CONTROL:
            fields = core.decode(msg.data)
            CONTROLS[fields[0]](self, *fields[1:])

    def signal(self, name: str) -> None:
        """Send a signal, named without SIG, to the program's group (RFC 4254 section 6.9)."""
        number: Any = getattr(signal, "SIG" + name, None)
        if number is None:
            self.router.log(ERROR, "unknown signal %r for a program: not sent", name)
        else:
            self._kill(number)

    def _kill(self, number: int) -> None:
        if not self.reaped:
            try:
                os.killpg(self.proc.pid, number)
            except OSError:
                # The process runs as another account (sudo), or the whole group has ended.
                pass

    def resize(self, *size: int) -> None:
        """Set the size of the terminal, if there is one."""
        tty = self.started.tty
        if tty and self.started.stdout.fd >= 0:
            tty.resize(*size)

    def close_now(self) -> None:
        """End the program as close() does, but without a grace period and with short pauses."""
        self.pause = self.started.short_pause
        if self.closing and not self.ending:
            self._end_group(0)
        self.close(0)

    def close(self, grace: float | None = None) -> None:
        """Abandon the program: see rule 5."""
        if self.closing:
            return
        self.closing = True
        if self.started.tty:
            self.started.tty.hang_up()
        if grace is None:
            grace = 0 if self.is_tty else GRACE
        else:
            self.pause = min(self.pause, CUSTOM_GRACE_PAUSE)
        self.stdin.close()
        for end in self.outputs:
            end.close(True)
        if self.reaped:
            self._finish()
        elif self.status is not None:
            self._end_group(1)
        else:
            self.router.broker.after(grace, lambda: self.ending or self._end_group(0))  # type: ignore[func-returns-value]

    def _end_group(self, step: int) -> None:
        """Send the termination signals to the process group, from index `step` on."""
        self.ending = True
        if self.reaped:
            return
        end_signals = self.started.end_signals
        if step == len(end_signals):
            if self.status is not None:
                return self._finish()
            step -= 1
        self._kill(end_signals[step])
        pause = self.pause if self.status is None else SHORT_PAUSE
        self.router.broker.after(pause, lambda: self._end_group(step + 1))

    def _finish(self) -> None:
        self._check_finished()
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
        # Real-time signals have no names.
        return str(number)


# -- all programs


class Guard:
    """
    Registry of this process' programs, with a small shell process that outlives this process.

    The shell is notified of each program, and ends the remaining ones when this process is gone.
    """

    #: Shell script that reads "+ PID" and "- PID" until the end of file, then ends those left.
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
        """Any thread: start the shell unless it has been started."""
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
                self.router.log(ERROR, "cannot start the guard of this context's programs: %s", e)
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
        """Any thread: add a process group to those that are ended if this process is killed."""
        self._write(b"+ %d\n" % pid)

    def unwatch(self, pid: int) -> None:
        """Any thread: remove a process group that has ended. To be called before it is reaped."""
        self._write(b"- %d\n" % pid)

    def _write(self, line: bytes) -> None:
        if self.pipe is not None:
            try:
                os.write(self.pipe, line)
            except OSError as e:
                self.router.log(ERROR, "lost the guard of this context's programs: %s", e)
                os.close(self.pipe)
                self.pipe = None

    def _on_parent_lost(self) -> None:
        """Close the programs of contexts that a detached context can no longer reach."""
        for program in list(self.programs):
            if self.router.routes.get(program.peer.context_id) is None:
                program.close()

    def _on_exit(self) -> None:
        """Close the pipe: from here on the shell ends the remaining programs."""
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            os.close(pipe)

    def _on_shutdown(self) -> None:
        """End all programs without a grace period, as the context is shutting down."""
        if self.programs:
            self.router.broker.holds.add(self)
            for program in list(self.programs):
                program.close_now()


def guard_of(router: Router) -> Guard:
    """Return this router's program registry."""
    return router.component(Guard)


@takes_router
def start(spec: Spec, peer_id: int, handles: list[int], router: Any = None) -> Any:
    """
    Start a program for a context. Called by that context, or by an ancestor on its behalf.

    :param dict spec: the program: see client.spec_of()
    :param int peer_id: context that has the pipes' other ends; only it may use the pipes
    :param list handles: its mailboxes: control, credit for input (0 for no input), output, error
    :returns: ("started", pid or None, this context's mailboxes in the same order); ("error",
        arguments of an OSError...); or ("refused", reason)
    """
    if not 1 <= spec["window"] <= MAX_WINDOW:
        raise ValueError("window must be 1 to %d bytes, not %r" % (MAX_WINDOW, spec["window"]))
    peer = router.context_by_id(peer_id)
    guard = guard_of(router)
    if peer_id != router.context_id and peer_id not in router.node.parent_ids:
        stream = router.routes.get(peer_id)
        running = [
            p for p in list(guard.programs) if router.routes.get(p.peer.context_id) is stream
        ]
        if len(running) >= MAX_PROGRAMS:
            return "refused", "%d programs run for context %d and its kin" % (MAX_PROGRAMS, peer_id)
    guard.start()
    try:
        program = Program(router, peer, handles, spec)
    except Refused as e:
        return "refused", str(e)
    except OSError as e:
        name = e.filename
        return ("error", e.errno, e.strerror, os.fsdecode(name) if name else None)
    return "started", program.proc and program.proc.pid, program.handles()
