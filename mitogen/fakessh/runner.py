"""
Programs that use `ssh`, such as rsync, scp, sftp and git, over an established context. run() and
session() provide them with an `ssh` whose remote command is run by Context.popen().

ssh_options.py parses its command line, and rendezvous.py provides the program. The same is
available as a command: `python3 -m mitogen.fakessh DESTINATION COMMAND ...`.

Rules
    1. Exit status: the remote program's; 128 plus the number of a signal; 255 for all other
       failures, with a line on standard error.
    2. All output has been delivered before the stand-in exits with the status.
    3. When a stand-in has ended, its remote program is ended as well, as Popen.close() does.
    4. At a depth of MAX_DEPTH, an `ssh` in a remote command that is this `ssh` again is refused.

Threads: run() and session() may be called on any thread, several at once. Each `ssh` is served on
its own thread; the broker carries its bytes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from mitogen import core
from mitogen.fakessh import ssh_options
from mitogen.fakessh.rendezvous import Connection, Rendezvous, numbers
from mitogen.fakessh.ssh_options import FAILED, Answer, Invocation
from mitogen.programs import client, grants, server
from mitogen.programs.grants import allow as allow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Union

    Hosts = Mapping[str, core.Context]
    Args = Union[str, Sequence[str | bytes | "os.PathLike[str]"]]

__all__ = ["allow", "main", "run", "session"]

#: Limit of nesting: an `ssh` within a remote command within an `ssh`, and so on.
MAX_DEPTH = 8
DEPTH_VARIABLE = "MITOGEN_FAKESSH_DEPTH"
#: Seconds between SIGTERM and SIGKILL to a program.
GRACE = 5.0
#: Seconds that a remote program may run on after rsync has ended its `ssh`, for remaining output.
OUTPUT_GRACE = 2.0
#: Seconds that an `ssh` may run on after its tool has ended.
IDLE_TIMEOUT = 3.0
#: Seconds between checks of a process that should end.
POLL_INTERVAL = 0.02

LOST = "ssh: connection to host %s lost: %s\n"


class _Session:
    """
    A Rendezvous and the contexts that its `ssh` connects to.

    :param Context dest: context for all host names, unless `hosts` is given
    :param hosts: host name to Context
    :param env: variables that change this process' environment, or None
    :param bool strict: see run()
    """

    def __init__(
        self,
        dest: core.Context | None,
        hosts: Hosts | None,
        env: Mapping[str, str] | None,
        strict: bool,
    ) -> None:
        self.dest = dest
        self.hosts = None if hosts is None else dict(hosts)
        self.strict = strict
        contexts = [dest] if hosts is None else list(hosts.values())
        if not contexts or not all(isinstance(each, core.Context) for each in contexts):
            raise TypeError(
                "dest must be a Context, or hosts a dict of Contexts by host name, not %r"
                % contexts
            )
        self.router: Any = contexts[0].router  # type: ignore[union-attr]
        #: Additional callback for the broker's shutdown.
        self.on_shutdown: Callable[[], object] = int
        plain = dict(os.environ, **(env or {}))
        self.rendezvous = Rendezvous(self.serve, self.router, plain.get("PATH", os.defpath))
        #: Environment in which tools find this `ssh`.
        self.environment = self.rendezvous.environment(plain)
        core.listen(self.router.broker, "shutdown", self._on_shutdown)
        if self.router.broker.closing or not self.router.broker.alive:
            self.close()
            raise core.Error("fakessh: the broker has been shut down")

    def _on_shutdown(self) -> None:
        # First of all: in a child, the process may end soon.
        self.rendezvous.close()
        self.on_shutdown()

    def close(self) -> None:
        core.unlisten(self.router.broker, "shutdown", self._on_shutdown)
        self.rendezvous.close()
        if not self.router.broker.on_thread():
            self.rendezvous.join()

    # -- one `ssh`, on its own thread

    def serve(self, connection: Connection) -> None:
        """Serve a stand-in until it ends."""
        try:
            found = ssh_options.parse(connection.argv)
        except Answer as answer:
            return connection.end(answer.status, answer.text)
        if found.kind in LOCAL_KINDS:
            return LOCAL_KINDS[found.kind](connection, found)
        refusal = self._refusal(connection, found)
        if refusal:
            return connection.end(FAILED, refusal if found.shows_errors else "")
        _warn_of_forwardings(connection, found)
        if found.kind == "none":
            self._serve_none(connection, found)
        else:
            self._serve_program(connection, found)

    def _serve_none(self, connection: Connection, found: Invocation) -> None:
        """Serve `ssh -N`: wait until the stand-in or the context ends."""
        context = self._context(str(found.host))

        def on_disconnect() -> None:
            text = LOST % (found.host, "the context is gone")
            connection.end(FAILED, text if found.shows_errors else "")

        connection.close_fds()
        core.listen(context, "disconnect", on_disconnect)
        try:
            connection.send(b"O", _opened(found))
            while connection.read():
                pass
        finally:
            core.unlisten(context, "disconnect", on_disconnect)

    def _context(self, name: str) -> core.Context | None:
        if self.hosts is None:
            return self.dest
        bare = name[1:-1] if name[:1] == "[" else name
        for each in (name, bare, bare.lower()):
            if each in self.hosts:
                return self.hosts[each]
        return None

    def _refusal(self, connection: Connection, found: Invocation) -> str:
        """Return a line with the reason why this `ssh` cannot be served, or ""."""
        if self._context(str(found.host)) is None:
            known = ", ".join(sorted(self.hosts or ()))
            return "ssh: %s: unknown host; known hosts: %s\n" % (found.host, known)
        if found.forwardings and found.exit_on_forward_failure:
            return (
                "ssh: mitogen.fakessh does not support port forwarding, and "
                "ExitOnForwardFailure is yes\n"
            )
        if _depth(connection.environ) >= MAX_DEPTH:
            return (
                "ssh: %d nested remote commands have run this ssh of mitogen.fakessh: is it on the "
                "remote PATH?\n" % MAX_DEPTH
            )
        return ""

    def _serve_program(self, connection: Connection, found: Invocation) -> None:
        wants_pty, warning = found.wants_pty(connection.terminals[0])
        if warning and found.shows_warnings:
            connection.send(b"E", warning.encode())
        size: list[int] = []
        modes = b""
        if connection.terminals[0] and not found.stdin_null:
            relayed = connection.relay_terminal(wants_pty, found.escape if wants_pty else None)
            if relayed is None:
                return
            size, modes = relayed
        pty = _pty(connection, size, modes) if wants_pty else None
        popen = self._start(connection, found, pty)
        if popen is None:
            return
        connection.close_fds()
        try:
            connection.send(b"O", _opened(found))
            closing_text = ""
            if pty and found.shows_warnings:
                closing_text = "Connection to %s closed.\n" % found.host
            popen.when_done(lambda popen: self._on_done(connection, found, popen, closing_text))
            _handle_frames(connection, popen)
        finally:
            popen.close()

    def _start(self, connection: Connection, found: Invocation, pty: Any) -> Any:
        stdin, stdout, stderr = connection.fds
        context: Any = self._context(str(found.host))
        try:
            return context.popen(
                _args(found),
                stdin=client.DEVNULL if found.stdin_null else stdin,
                stdout=stdout,
                stderr=client.DEVNULL if pty else stderr,
                add_env=_remote_environment(connection, found),
                pty=pty,
            )
        except (core.Error, OSError) as e:
            connection.end(FAILED, _start_error(found, e) if found.shows_errors else "")
            return None

    def _on_done(
        self, connection: Connection, found: Invocation, popen: Any, closing_text: str
    ) -> None:
        code = popen.returncode
        if code is None:
            connection.end(FAILED, LOST % (found.host, popen.error) if found.shows_errors else "")
        elif code < 0:
            connection.end(FAILED if self.strict else 128 - code, closing_text)
        else:
            connection.end(code, closing_text)


def _args(found: Invocation) -> Any:
    if found.kind == "subsystem":
        return client.Subsystem(str(found.command))
    if found.forward:
        return client.Connect(*found.forward)
    return found.command


def _start_error(found: Invocation, error: BaseException) -> str:
    if found.kind == "subsystem" and isinstance(error, client.Refused):
        return "subsystem request failed on channel 0\n"
    if found.kind == "forward" and isinstance(error, client.Refused):
        return "channel 0: open failed: %s\nstdio forwarding failed\n" % error
    if isinstance(error, core.ChannelError):
        return LOST % (found.host, error)
    return "ssh: %s: %s\n" % (found.host, error)


def _opened(found: Invocation) -> bytes:
    return (b"b" if found.background else b"") + (b"n" if found.kind == "none" else b"")


def _depth(environ: Mapping[str, str]) -> int:
    text = environ.get(DEPTH_VARIABLE, "0")
    return int(text) if text.isdecimal() else 0


def _remote_environment(connection: Connection, found: Invocation) -> dict[str, str]:
    """Return the variables added to the remote account's environment."""
    env = found.environment(connection.environ)
    port = found.port or 22
    # Address and port of a client, and of the server. There are none, but programs count words.
    env["SSH_CLIENT"] = "127.0.0.1 0 %d" % port
    env["SSH_CONNECTION"] = "127.0.0.1 0 127.0.0.1 %d" % port
    env[DEPTH_VARIABLE] = str(_depth(connection.environ) + 1)
    return env


def _pty(connection: Connection, size: list[int], modes: bytes) -> client.Pty:
    term = connection.environ.get("TERM") or "dumb"
    if size[:2] and all(size[:2]):
        columns, lines, x, y = size
        return client.Pty(term, columns, lines, x, y, modes)
    return client.Pty(term, modes=modes)


def _handle_frames(connection: Connection, popen: Any) -> None:
    """Handle the frames of a stand-in until it ends or was ended."""
    while True:
        frame = connection.read()
        if frame is None:
            return
        if frame[0] == b"W":
            popen.resize(*numbers(frame[1]))
        elif frame[0] == b"S":
            with contextlib.suppress(client.TimeoutExpired, core.Error):
                popen.wait(OUTPUT_GRACE)
            return


def _warn_of_forwardings(connection: Connection, found: Invocation) -> None:
    if found.shows_warnings:
        for kind, what in found.forwardings:
            text = "Warning: %s forwarding %s: not supported (mitogen.fakessh)\n" % (kind, what)
            connection.send(b"E", os.fsencode(text))


def _print_config(connection: Connection, found: Invocation) -> None:
    import pwd

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    connection.print(found.config(user))
    connection.end(0)


def _control(connection: Connection, found: Invocation) -> None:
    """Answer `-O` like a master connection that is always running."""
    answers = {
        "check": (0, "Master running (pid=%d)\n" % os.getpid()),
        "stop": (0, "Stop listening request sent.\n"),
        "exit": (0, "Exit request sent.\n"),
    }
    text = "mux_client_%s: not supported (mitogen.fakessh)\n" % found.control
    connection.end(*answers.get(str(found.control), (FAILED, text)))


#: Kinds of invocations that need no context.
LOCAL_KINDS: dict[str, Callable[[Connection, Invocation], None]] = {
    "config": _print_config,
    "control": _control,
}


# ---- the tool


def _at_terminal() -> bool:
    """Return whether this process is in the foreground of its terminal."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(fd)


class _Tool:
    """
    The program that uses `ssh`, in its own process group.

    At a terminal it stays in this process' group, as a shell's command does: ^C and ^Z reach it,
    and signals sent from here reach only the program itself.

    :param Router router: in a child, the program is also ended if this process is killed
    """

    def __init__(self, router: Any, args: Args, **kwargs: Any) -> None:
        self.own_group = not _at_terminal()
        self.guard: Any = None
        if self.own_group and router.__dict__.get("econtext"):
            self.guard = server.guard_of(router)
            self.guard.start()
        self.popen = subprocess.Popen(args, start_new_session=self.own_group, **kwargs)
        if self.guard:
            self.guard.watch(self.popen.pid)

    def unwatch(self) -> None:
        """Remove the program from the guard: its process id may be reused."""
        if self.guard:
            self.guard.unwatch(self.popen.pid)

    def signal(self, number: int) -> None:
        """Any thread: send a signal, unless the program has ended."""
        try:
            if self.own_group:
                os.killpg(self.popen.pid, number)
            else:
                self.popen.send_signal(number)
        except (ProcessLookupError, PermissionError):
            # It has ended, or the rest of its group runs as another account.
            pass

    def is_running(self) -> bool:
        """Return whether the program, or any process of its group, is running."""
        if self.popen.poll() is None:
            return True
        try:
            if self.own_group:
                # The id of an existing process group is not reused for a new process.
                os.killpg(self.popen.pid, 0)
            return self.own_group
        except OSError:
            return False

    def end(self) -> None:
        """End the program with SIGTERM, and with SIGKILL after GRACE seconds."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.is_running():
                return
            self.signal(number)
            deadline = time.monotonic() + GRACE
            while self.is_running() and time.monotonic() < deadline:
                time.sleep(POLL_INTERVAL)


@core.takes_econtext
def run(
    dest: Any,
    router: Any = None,
    args: Any = None,
    deadline: float | None = None,
    econtext: Any = None,
    *,
    hosts: Hosts | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Any = None,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    strict: bool = False,
) -> int:
    """
    Run a program in this context, whichever that is, with an `ssh` that runs its remote commands in
    another context. When the program has ended, any `ssh` that it has left is ended.

    In the foreground of a terminal the program stays in this process' group, like any command, so
    that ^C and ^Z reach both. Otherwise it has its own group, all of which is ended at the
    deadline.

    :param Context dest: context for remote commands; user and port in the command line are ignored
    :param Router router: not used (old programs pass it); it may be omitted
    :param args: list: program and arguments
    :param float deadline: seconds after which the program is ended
    :param econtext: passed automatically to functions called from another context
    :param dict hosts: host name to Context, instead of `dest`; other host names are unknown then
    :param dict env: variables that change this process' environment
    :param cwd: working directory of the program
    :param stdin: as for subprocess.Popen, except PIPE; likewise `stdout` and `stderr`
    :param bool strict: if a signal ends the remote program, the exit status of `ssh` is 255, as in
        OpenSSH, instead of 128 plus the signal's number
    :returns: exit status of the program, negative for a signal
    :raises TimeoutError: (of mitogen.core) the deadline passed, and the program has been ended
    :raises OSError: the program cannot be started
    :raises Error: no directory allows programs to be started from it
    """
    if args is None or isinstance(router, (str, bytes, list, tuple)):
        if args is not None:
            raise TypeError("run(dest, router, args): router must be a Router, not %r" % (router,))
        args = router
    if not args or isinstance(args, (str, bytes)):
        raise TypeError("args must be a list of a program and its arguments, not %r" % (args,))
    if subprocess.PIPE in (stdin, stdout, stderr):
        raise ValueError("PIPE is not supported by run(); use session() with subprocess")
    found = _Session(dest, hosts, env, strict)
    try:
        tool = _Tool(
            found.router,
            list(args),
            env=found.environment,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        status = _wait(found, tool, deadline)
        # An `ssh` may run on after its tool has ended, and its output belongs to the tool.
        found.rendezvous.wait_idle(IDLE_TIMEOUT)
        return status
    finally:
        found.close()


def _grant(msg: Any, source: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Grant a context that is called to run() a program the use of the contexts in `args`."""
    targets = [*args[:1], kwargs.get("dest"), *(kwargs.get("hosts") or {}).values()]
    for target in targets:
        if isinstance(target, core.Context):
            grants.grant_for_call(msg, source, target)


run.mitogen_before_call = _grant  # type: ignore[attr-defined]  # see calls.CallChain.make_msg()


def _wait(found: _Session, tool: _Tool, deadline: float | None) -> int:
    """Wait for the tool and return its exit status. If an exception is raised, end it."""
    found.on_shutdown = lambda: tool.signal(signal.SIGTERM)
    try:
        return tool.popen.wait(deadline)
    except BaseException as e:
        # Each `ssh` first, so that the remote programs are ended as well.
        found.rendezvous.close()
        tool.end()
        if isinstance(e, subprocess.TimeoutExpired):
            raise core.TimeoutError(
                "%r did not finish within %s s and was ended", tool.popen.args, deadline
            ) from None
        raise
    finally:
        found.on_shutdown = int
        tool.unwatch()


@contextlib.contextmanager
def session(
    dest: Any,
    router: Any = None,
    *,
    hosts: Hosts | None = None,
    env: Mapping[str, str] | None = None,
    strict: bool = False,
) -> Iterator[dict[str, str]]:
    """
    Context manager that yields the environment for starting programs with an `ssh` like run()'s. At
    the end of the block the `ssh` is removed, and any that still runs is ended.

    :param Context dest: as for run(); likewise `router`, `hosts`, `env` and `strict`
    :raises Error: no directory allows programs to be started from it

    >>> with session(context) as environ:
    ...     subprocess.run(["git", "clone", "ssh://x/srv/repo"], env=environ, check=True)
    """
    found = _Session(dest, hosts, env, strict)
    try:
        yield found.environment
    finally:
        found.close()


# ---- the command line


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python3 -m mitogen.fakessh",
        usage="%(prog)s [--deadline SECONDS] [--strict] DESTINATION COMMAND [ARGUMENT ...]\n"
        "       %(prog)s [...] --host NAME=DESTINATION [--host ...] COMMAND [ARGUMENT ...]",
        description="Run COMMAND with an ssh that runs its remote commands in the context named by "
        "DESTINATION.",
        epilog="A destination is a text such as ssh:user@bastion/ssh:web/sudo:root or docker:db.",
    )
    add = parser.add_argument
    add("--deadline", type=float, metavar="SECONDS", help="end the command after this time")
    add(
        "--host",
        action="append",
        default=[],
        metavar="NAME=DESTINATION",
        help="destination of a host name; other host names are unknown then",
    )
    add("--strict", action="store_true", help="exit status 255 if a signal ends a remote program")
    add("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _run_command(options: Any) -> int:
    import mitogen.master

    with mitogen.master.Router() as router:
        dest: Any = None
        hosts: dict[str, Any] | None = None
        if options.host:
            pairs = [each.partition("=") for each in options.host]
            hosts = {name: router.from_spec(text) for name, _, text in pairs}
        else:
            dest = router.from_spec(options.destination)
        return run(
            dest,
            args=options.words,
            deadline=options.deadline,
            hosts=hosts,
            strict=options.strict,
        )


def _on_signal(number: int, _frame: Any) -> None:
    # SystemExit runs the clean-up.
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command `python3 -m mitogen.fakessh`; return its exit status.

    :param argv: arguments; None for the process' own
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.host:
        options.destination, *options.words = options.words or [""]
    options.words = options.words[options.words[:1] == ["--"] :]
    if not options.words:
        parser.error("a command is missing")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _on_signal)
    try:
        status = _run_command(options)
    except KeyboardInterrupt:
        return 130
    except (core.Error, OSError, ValueError, TypeError) as e:
        print("mitogen.fakessh: %s" % e, file=sys.stderr)
        return FAILED
    return status if status >= 0 else 128 - status
