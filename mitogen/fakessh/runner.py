"""
Programs that use `ssh` - rsync, scp, sftp, git and others - work over an established context: run()
and session() give them an `ssh` whose remote command is run by Context.popen().

What a command line asks for ssh_options.py says, where its `ssh` comes from rendezvous.py. The same
as a program: `python3 -m mitogen.fakessh DESTINATION COMMAND ...`.

Rules
    1. Exit status: the remote program's; 128 and its number for a signal; 255 for whatever else,
       with a line on standard error.
    2. All output is where it belongs before the stand-in ends with the status.
    3. A stand-in that has ended, however, has no remote program any more: what is left is ended as
       Popen.close() does.
    4. An `ssh` of a remote command that finds this `ssh` again is refused at MAX_DEPTH.

Threads: run() and session() on any, several at once. Each `ssh` is served on a thread of its own;
its bytes are carried by the broker.
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
from mitogen.fakessh.rendezvous import Rendezvous, Visit, numbers
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

#: An `ssh` within a remote command within an `ssh`, and so on: as deep as that and no deeper.
MAX_DEPTH = 8
DEPTH_VARIABLE = "MITOGEN_FAKESSH_DEPTH"
#: Seconds that a program has after SIGTERM, before it gets SIGKILL.
GRACE = 5.0
#: Seconds that a program has to end, after rsync has ended the `ssh` that it served.
LAST_WORDS = 2.0
#: Seconds that an `ssh` has to end after its tool.
SETTLE = 3.0
#: Seconds between looks at processes that should end.
LOOK = 0.02

LOST = "ssh: connection to host %s lost: %s\n"


class _Session:
    """
    One Rendezvous and the contexts that its `ssh` leads to.

    :param Context dest: where every host name leads, unless there are `hosts`
    :param hosts: host name to Context
    :param env: names to set over this process's environment, or None
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
                "a destination is a Context, and `hosts` a dict of these: %r" % contexts
            )
        self.router: Any = contexts[0].router  # type: ignore[union-attr]
        #: Called at the broker's shutdown, besides.
        self.on_shutdown: Callable[[], object] = int
        plain = dict(os.environ, **(env or {}))
        self.rendezvous = Rendezvous(self.serve, self.router, plain.get("PATH", os.defpath))
        #: In which tools find our `ssh`.
        self.environment = self.rendezvous.environment(plain)
        core.listen(self.router.broker, "shutdown", self._on_shutdown)
        if self.router.broker.closing or not self.router.broker.alive:
            self.close()
            raise core.Error("fakessh: the broker has been shut down")

    def _on_shutdown(self) -> None:
        # Before anything else: a child's process may not last much longer.
        self.rendezvous.close()
        self.on_shutdown()

    def close(self) -> None:
        core.unlisten(self.router.broker, "shutdown", self._on_shutdown)
        self.rendezvous.close()
        if not self.router.broker.on_thread():
            self.rendezvous.join()

    # -- one `ssh`, on its thread

    def serve(self, visit: Visit) -> None:
        """Do what a stand-in has been asked for, until it ends."""
        try:
            found = ssh_options.parse(visit.argv)
        except Answer as answer:
            return visit.end(answer.status, answer.text)
        if found.kind in LOCAL_KINDS:
            return LOCAL_KINDS[found.kind](visit, found)
        problem = self._problem(visit, found)
        if problem:
            return visit.end(FAILED, problem if found.shows_errors else "")
        _warn_of_forwardings(visit, found)
        if found.kind == "none":
            self._serve_none(visit, found)
        else:
            self._serve_program(visit, found)

    def _serve_none(self, visit: Visit, found: Invocation) -> None:
        """Be there until the stand-in ends, or the context does."""
        context = self._context(str(found.host))

        def on_disconnect() -> None:
            visit.end(FAILED, LOST % (found.host, "it is gone") if found.shows_errors else "")

        visit.close_fds()
        core.listen(context, "disconnect", on_disconnect)
        try:
            visit.send(b"O", _opened(found))
            while visit.read():
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

    def _problem(self, visit: Visit, found: Invocation) -> str:
        """Return why this `ssh` cannot be: a line, or ""."""
        if self._context(str(found.host)) is None:
            known = ", ".join(sorted(self.hosts or ()))
            return "ssh: %s: no such host; there are: %s\n" % (found.host, known)
        if found.forwardings and found.exit_on_forward_failure:
            return "ssh: port forwarding is not done here, and ExitOnForwardFailure is yes\n"
        if _depth(visit.environ) >= MAX_DEPTH:
            return (
                "ssh: %d remote commands, each in the one before, have run this ssh of "
                "mitogen.fakessh: is it on the remote PATH?\n" % MAX_DEPTH
            )
        return ""

    def _serve_program(self, visit: Visit, found: Invocation) -> None:
        wants_pty, warning = found.wants_pty(visit.terminals[0])
        if warning and found.shows_warnings:
            visit.send(b"E", warning.encode())
        size: list[int] = []
        modes = b""
        if visit.terminals[0] and not found.stdin_null:
            pumped = visit.pump(wants_pty, found.escape if wants_pty else None)
            if pumped is None:
                return
            size, modes = pumped
        pty = _pty(visit, size, modes) if wants_pty else None
        popen = self._start(visit, found, pty)
        if popen is None:
            return
        visit.close_fds()
        try:
            visit.send(b"O", _opened(found))
            farewell = ""
            if pty and found.shows_warnings:
                farewell = "Connection to %s closed.\n" % found.host
            popen.when_done(lambda popen: self._on_done(visit, found, popen, farewell))
            _follow(visit, popen)
        finally:
            popen.close()

    def _start(self, visit: Visit, found: Invocation, pty: Any) -> Any:
        stdin, stdout, stderr = visit.fds
        context: Any = self._context(str(found.host))
        try:
            return context.popen(
                _args(found),
                stdin=client.DEVNULL if found.stdin_null else stdin,
                stdout=stdout,
                stderr=client.DEVNULL if pty else stderr,
                add_env=_remote_environment(visit, found),
                pty=pty,
            )
        except (core.Error, OSError) as e:
            visit.end(FAILED, _why_not_started(found, e) if found.shows_errors else "")
            return None

    def _on_done(self, visit: Visit, found: Invocation, popen: Any, farewell: str) -> None:
        code = popen.returncode
        if code is None:
            visit.end(FAILED, LOST % (found.host, popen.error) if found.shows_errors else "")
        elif code < 0:
            visit.end(FAILED if self.strict else 128 - code, farewell)
        else:
            visit.end(code, farewell)


def _args(found: Invocation) -> Any:
    if found.kind == "subsystem":
        return client.Subsystem(str(found.command))
    if found.forward:
        return client.Connect(*found.forward)
    return found.command


def _why_not_started(found: Invocation, error: BaseException) -> str:
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


def _remote_environment(visit: Visit, found: Invocation) -> dict[str, str]:
    """Return what the remote program's environment has besides its account's own."""
    env = found.environment(visit.environ)
    port = found.port or 22
    # A client's address and port, and the server's: there are none. Programs count the words.
    env["SSH_CLIENT"] = "127.0.0.1 0 %d" % port
    env["SSH_CONNECTION"] = "127.0.0.1 0 127.0.0.1 %d" % port
    env[DEPTH_VARIABLE] = str(_depth(visit.environ) + 1)
    return env


def _pty(visit: Visit, size: list[int], modes: bytes) -> client.Pty:
    term = visit.environ.get("TERM") or "dumb"
    if size[:2] and all(size[:2]):
        columns, lines, x, y = size
        return client.Pty(term, columns, lines, x, y, modes)
    return client.Pty(term, modes=modes)


def _follow(visit: Visit, popen: Any) -> None:
    """Read what a stand-in has to say until it ends, or has been told to."""
    while True:
        frame = visit.read()
        if frame is None:
            return
        if frame[0] == b"W":
            popen.resize(*numbers(frame[1]))
        elif frame[0] == b"S":
            with contextlib.suppress(client.TimeoutExpired, core.Error):
                popen.wait(LAST_WORDS)
            return


def _warn_of_forwardings(visit: Visit, found: Invocation) -> None:
    if found.shows_warnings:
        for kind, what in found.forwardings:
            text = "Warning: %s forwarding %s: not done here (mitogen.fakessh)\n" % (kind, what)
            visit.send(b"E", os.fsencode(text))


def _print_config(visit: Visit, found: Invocation) -> None:
    import pwd

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    visit.print(found.config(user))
    visit.end(0)


def _control(visit: Visit, found: Invocation) -> None:
    """Answer `-O`, as a master connection would that is always there."""
    answers = {
        "check": (0, "Master running (pid=%d)\n" % os.getpid()),
        "stop": (0, "Stop listening request sent.\n"),
        "exit": (0, "Exit request sent.\n"),
    }
    text = "mux_client_%s: not done here (mitogen.fakessh)\n" % found.control
    visit.end(*answers.get(str(found.control), (FAILED, text)))


#: What needs no context.
LOCAL_KINDS: dict[str, Callable[[Visit, Invocation], None]] = {
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
    The program that uses `ssh`, in a process group of its own.

    At a terminal it stays in ours, as a shell's command: so ^C and ^Z reach it, and signals from
    here only itself.

    :param Router router: where that is a child's, the program is ended also if this process is
        killed
    """

    def __init__(self, router: Any, args: Args, **kwargs: Any) -> None:
        self.alone = not _at_terminal()
        self.guard: Any = None
        if self.alone and router.__dict__.get("econtext"):
            self.guard = server.guard_of(router)
            self.guard.start()
        self.popen = subprocess.Popen(args, start_new_session=self.alone, **kwargs)
        if self.guard:
            self.guard.watch(self.popen.pid)

    def forget(self) -> None:
        """It is over: its number may be another program's."""
        if self.guard:
            self.guard.unwatch(self.popen.pid)

    def signal(self, number: int) -> None:
        """Any thread: send a signal, unless it has ended."""
        try:
            if self.alone:
                os.killpg(self.popen.pid, number)
            else:
                self.popen.send_signal(number)
        except (ProcessLookupError, PermissionError):
            # It has ended; or what is left of its group has become another account's.
            pass

    def there(self) -> bool:
        """Return whether anything of it still runs."""
        if self.popen.poll() is None:
            return True
        try:
            if self.alone:
                # A number that a process group has is given to no new process.
                os.killpg(self.popen.pid, 0)
            return self.alone
        except OSError:
            return False

    def end(self) -> None:
        """End it: SIGTERM, and SIGKILL after GRACE seconds."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.there():
                return
            self.signal(number)
            deadline = time.monotonic() + GRACE
            while self.there() and time.monotonic() < deadline:
                time.sleep(LOOK)


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
    Run a program here, whichever context that is, such that the `ssh` that it starts runs its
    remote command in another context. When it is over, so is each `ssh` that it has left behind.

    Where this process is in the foreground of a terminal the program is in its process group, as
    any command is, for ^C and ^Z to reach both; elsewhere it has a group of its own, and whatever
    is in that is ended at the deadline.

    :param Context dest: where; a user and a port that the program names do not matter
    :param Router router: not needed (old programs pass it); it may be left out
    :param args: program and arguments
    :param float deadline: seconds from now after which the program is ended
    :param econtext: passed to functions that are called from afar
    :param dict hosts: host name to Context, instead of `dest`: other names are then unknown
    :param dict env: names to set over this process's environment
    :param cwd: directory to run it in
    :param stdin: as for subprocess.Popen, but not PIPE; so are `stdout` and `stderr`
    :param bool strict: 255, as OpenSSH has it, and not 128 and its number, is the exit status of an
        `ssh` whose remote program is ended by a signal
    :returns: the program's exit status, negative for a signal
    :raises TimeoutError: (mitogen.core's) the deadline passed; the program has been ended
    :raises OSError: it cannot be started
    :raises Error: there is no directory that programs can be started from
    """
    if args is None or isinstance(router, (str, bytes, list, tuple)):
        if args is not None:
            raise TypeError("run(dest, router, args): router is %r" % (router,))
        args = router
    if not args or isinstance(args, (str, bytes)):
        raise TypeError("args: a program and its arguments are wanted, not %r" % (args,))
    if subprocess.PIPE in (stdin, stdout, stderr):
        raise ValueError("nobody would read or write the pipe; use session()")
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
        # A tool may end before its ssh has: what that has yet to say belongs to it.
        found.rendezvous.settle(SETTLE)
        return status
    finally:
        found.close()


def _grant(msg: Any, source: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Let a context that is asked to run() something use the contexts that this is done with."""
    targets = [*args[:1], kwargs.get("dest"), *(kwargs.get("hosts") or {}).values()]
    for target in targets:
        if isinstance(target, core.Context):
            grants.grant_for_call(msg, source, target)


run.mitogen_before_call = _grant  # type: ignore[attr-defined]  # see calls.CallChain.make_msg()


def _wait(found: _Session, tool: _Tool, deadline: float | None) -> int:
    """Return the tool's exit status; on the way out by an exception it is ended."""
    found.on_shutdown = lambda: tool.signal(signal.SIGTERM)
    try:
        return tool.popen.wait(deadline)
    except BaseException as e:
        # Each `ssh` first: then it is over at the far end, too.
        found.rendezvous.close()
        tool.end()
        if isinstance(e, subprocess.TimeoutExpired):
            raise core.TimeoutError(
                "%r was not done within %s s and has been ended", tool.popen.args, deadline
            ) from None
        raise
    finally:
        found.on_shutdown = int
        tool.forget()


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
    A `with` block in which programs find an `ssh` as run() gives them; it yields the environment to
    start them with. At the end of the block that `ssh` is gone, and what it still did is ended.

    :param Context dest: as for run(), and so are `router`, `hosts`, `env` and `strict`
    :raises Error: there is no directory that programs can be started from

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
        description="Run COMMAND such that the ssh that it starts runs its remote commands in the "
        "context that DESTINATION names.",
        epilog="A destination is a text such as ssh:user@bastion/ssh:web/sudo:root or docker:db.",
    )
    add = parser.add_argument
    add("--deadline", type=float, metavar="SECONDS", help="end the command after that long")
    add(
        "--host",
        action="append",
        default=[],
        metavar="NAME=DESTINATION",
        help="a host name's destination; names that none is given for are unknown then",
    )
    add("--strict", action="store_true", help="status 255 for a remote program's end by a signal")
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
    # As an exception it undoes all that has been done.
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Be the program `python3 -m mitogen.fakessh`; return its exit status.

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
