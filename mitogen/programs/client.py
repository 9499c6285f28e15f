"""
Programs in other contexts: run() captures what one prints, Popen is one that runs, with its input
and output as files or descriptors of this process. What subprocess has the same name for behaves as
there. The target's half is server.py, what carries the bytes pipes.py.

Rules
    1. The status is told when all output is where it belongs: in the final descriptor, or read.
    2. A program whose caller is gone, or has given up, is ended by its own context.
    3. No mailbox listens to another context than the program's.

Threads: any; callbacks are called where their docstring says.
"""

from __future__ import annotations

import io
import os
import signal
from collections import deque
from subprocess import (
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedProcess,
    TimeoutExpired,
)

from mitogen import core
from mitogen.core import ChannelError, Message
from mitogen.programs import pipes
from mitogen.programs.endpoints import Buffer, Discard, Feed, open_reader, open_writer
from mitogen.programs.grants import request
from mitogen.programs.output import Capture
from mitogen.programs.pipes import ReceivingEnd, SendingEnd
from mitogen.programs.server import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import (
        Any,
        Union,
    )

    Word = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
    Args = Union[None, Word, Sequence[Word], "Subsystem", "Connect", "Custom"]
    Env = Mapping[str, str]
    Callback = Callable[[Any], object]

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "CompletedProcess",
    "Connect",
    "Conversation",
    "Custom",
    "Popen",
    "Pty",
    "Refused",
    "Subsystem",
    "TimeoutExpired",
    "feed",
    "run",
]

#: Bytes queued for a program's input at which a writer sleeps.
INPUT_QUEUE = 262144


class Subsystem:
    """
    What stands for a program: a subsystem of SSH (RFC 4254 section 6.5).

    :param str name: there is "sftp": the system's server, else mitogen's own
    :param bool builtin: mitogen's own in any case
    """

    def __init__(self, name: str, builtin: bool = False) -> None:
        self.name = name
        self.builtin = builtin


class Custom:
    """
    What stands for a program: whatever a function of the target's starts.

    :param str function: dotted name of `function(router, spec)`, which returns programs.Started
    :param args: what it finds as `spec["args"]`
    """

    def __init__(self, function: str, args: Any) -> None:
        self.function = function
        self.args = args


class Connect:
    """
    What stands for a program: a TCP connection made by the context, as `ssh -W` asks for.

    :param str host: name or address
    :param int port: number, 1 to 65535
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port


class Pty:
    """
    A terminal for a program.

    :param str term: its kind: TERM; None: the target's own
    :param int columns: its size in characters
    :param int lines: likewise
    :param int x: its size in pixels, 0 where unknown
    :param int y: likewise
    :param bytes modes: its modes, encoded as RFC 4254 section 8 says
    """

    def __init__(
        self,
        term: str | None = "xterm",
        columns: int = 80,
        lines: int = 24,
        x: int = 0,
        y: int = 0,
        modes: bytes = b"",
    ) -> None:
        self.term = term
        self.size = (columns, lines, x, y)
        self.modes = modes


# -- what is to be run


def _word(value: Any, what: str) -> Any:
    try:
        word = os.fspath(value)
    except TypeError:
        raise TypeError(
            "%s: expected str, bytes or os.PathLike, not %s" % (what, type(value).__name__)
        ) from None
    return str(word) if isinstance(word, str) else bytes(word)


def _kind_of(args: Any) -> tuple[str, Any]:
    if args is None:
        return "shell", None
    if isinstance(args, Subsystem):
        return "subsystem", args.name
    if isinstance(args, Custom):
        return args.function, args.args
    if isinstance(args, Connect):
        return "connect", [args.host, args.port]
    if isinstance(args, (str, bytes)):
        return "command", _word(args, "args")
    if isinstance(args, os.PathLike):
        return "argv", [_word(args, "args")]
    words = [_word(value, "args[%d]" % index) for index, value in enumerate(args)]
    if not words:
        raise ValueError("args is empty: it has to name a program")
    return "argv", words


def spec_of(
    args: Args,
    env: Env | None,
    add_env: Env | None,
    cwd: Word | None,
    pty: None | bool | Pty,
    merge: bool,
) -> dict[str, Any]:
    """Return what programs.start() takes: see Popen."""
    kind, words = _kind_of(args)
    spec: dict[str, Any] = {"kind": kind, "args": words, "window": pipes.WINDOW}
    for name, names in (("env", env), ("add_env", add_env)):
        if names is not None:
            spec[name] = {_word(k, name): _word(v, name) for k, v in names.items()}
    if cwd is not None:
        spec["cwd"] = _word(cwd, "cwd")
    if pty:
        if not isinstance(pty, Pty):
            pty = Pty(os.environ.get("TERM"))
        spec["pty"] = {"term": pty.term, "size": list(pty.size), "modes": pty.modes}
        spec["window"] = pipes.PTY_WINDOW
    if merge:
        spec["merge"] = True
    if isinstance(args, Subsystem) and args.builtin:
        spec["builtin"] = True
    return spec


# -- its input and output


class _Input(io.RawIOBase):
    """A program's standard input, as a file that takes bytes."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """
        Send bytes; sleeps while INPUT_QUEUE bytes wait to be sent.

        :raises BrokenPipeError: the program reads no more
        """
        if self.closed:
            raise ValueError("write to closed file")
        return self._feed.write(data)

    def offer(self, data: Any) -> bool:
        """As write(), but return False where that would sleep; nothing is sent then."""
        if self.closed:
            raise ValueError("write to closed file")
        return self._feed.offer(data)

    def close(self) -> None:
        """Have the program read the end of file; its output stays open."""
        if not self.closed:
            self._feed.end()
        io.RawIOBase.close(self)


class _Output(io.RawIOBase):
    """What a program prints, as a raw file."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        data = self._buffer.read(len(target))
        target[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._buffer.read(1 << 20), b""))

    def close(self) -> None:
        """Read no more: the program gets SIGPIPE."""
        if not self.closed:
            self._buffer.abandon()
        io.RawIOBase.close(self)


def _fd_of(where: Any, number: int) -> int:
    if where is None:
        where = number
    fd = where if isinstance(where, int) else where.fileno()
    if fd < 0:
        raise ValueError("%r is no descriptor" % (where,))
    return os.dup(fd)


def _open_input(broker: Any, where: Any) -> Any:
    if where in (PIPE, DEVNULL):
        feed = Feed(broker, INPUT_QUEUE)
        if where == DEVNULL:
            feed.end()
        return feed
    return open_reader(broker, _fd_of(where, 0))


def _open_output(broker: Any, where: Any, number: int) -> Any:
    if where == PIPE:
        return Buffer(broker)
    if where == DEVNULL:
        return Discard()
    if isinstance(where, Discard):
        return where
    return open_writer(broker, _fd_of(where, number))


def _returncode(number: int | None, name: str | None) -> int:
    if number is not None:
        return number
    # Of a signal, by its name: numbers differ between systems.
    found: Any = getattr(signal, "SIG%s" % name, None)
    if found is None:
        found = int(name) if name and name.isdigit() else 127
    return -int(found)


class Popen:
    """
    A program that runs in a context.

    It is ended as soon as nobody is there any more who wants it: by close(), at the end of a `with`
    block, or because this process is gone.

    :param Context context: where
    :param args: list: program and arguments; str: a command for the account's login shell; None:
        that shell itself; or a Subsystem or Connect
    :param stdin: PIPE: `stdin` is a file to write to; DEVNULL; None: this process' own; a
        descriptor or what has one (fileno()): it is duplicated, and never made non-blocking
    :param stdout: likewise, to read from; or an endpoints.Keep
    :param stderr: likewise; STDOUT: where standard output goes
    :param dict env: its whole environment, instead of the account's own
    :param dict add_env: names to set in addition
    :param cwd: directory, relative to the account's home directory, which is also the default
    :param pty: a Pty, or True, for a terminal; standard error is in the output then
    :raises OSError: the program cannot be started: there is none of that name, it may not be run,
        there is no such directory
    :raises Refused: the context does not run that, or not for this one
    :raises ChannelError: the context is gone
    """

    #: Exit status, negative for a signal; None while it runs, and where the context was lost.
    returncode: int | None = None
    #: Whether the signal that ended it left a core.
    core_dumped = False
    #: Why there is no exit status, once all is over.
    error: str | None = None
    #: Its process id over there; None for what is no process.
    pid: int | None = None

    def __init__(
        self,
        context: Any,
        args: Args,
        *,
        stdin: Any = PIPE,
        stdout: Any = PIPE,
        stderr: Any = PIPE,
        env: Env | None = None,
        add_env: Env | None = None,
        cwd: Word | None = None,
        pty: None | bool | Pty = None,
    ) -> None:
        self.args: Any = args
        self.context = context
        self.router = context.router
        spec = spec_of(args, env, add_env, cwd, pty, stderr == STDOUT)
        self._over = core.new_lock()
        self._opened = core.new_lock()
        self._answer: Any = None
        self._given_up = False
        self._done = False
        self._callbacks: deque[Callback] = deque()
        self._control_to = 0
        if stdin == DEVNULL:
            # So nobody has to say so when it has started.
            spec["no_input"] = True
        self._open_ends(spec["window"], stdin, stdout, DEVNULL if stderr == STDOUT else stderr)
        try:
            self._start(spec)
        except BaseException:
            self._given_up = True
            self.router.broker.defer(self._abandon)
            raise

    def _open_ends(self, window: int, stdin: Any, stdout: Any, stderr: Any) -> None:
        broker, router = self.router.broker, self.router
        made: list[Any] = []
        try:
            made.append(_open_input(broker, stdin))
            made.append(_open_output(broker, stdout, 1))
            made.append(_open_output(broker, stderr, 2))
        except BaseException:
            for endpoint in made:
                endpoint.close()
            raise
        #: Files, where PIPE was asked for; else None.
        self.stdin = _Input(made[0]) if stdin == PIPE else None
        self.stdout = io.BufferedReader(_Output(made[1]), 65536) if stdout == PIPE else None
        self.stderr = io.BufferedReader(_Output(made[2]), 65536) if stderr == PIPE else None
        self._buffers = [m if isinstance(m, Buffer) else None for m in made[1:]]
        peer = self.context
        self._in = SendingEnd(router, peer, window, made[0], lambda lost: None)
        self._outs = [
            ReceivingEnd(router, peer, window, writer, self._on_output_end) for writer in made[1:]
        ]
        self._control = router.add_handler(
            self._on_control, router.new_handle(False), True, None, peer, False, True
        )

    def _start(self, spec: dict[str, Any]) -> None:
        handles = [self._control, self._in.handle] + [end.handle for end in self._outs]
        if spec.get("no_input"):
            self.router.broker.defer(self._in.close)
            handles[1] = 0
        request(self.context, spec, handles, self._on_opened)
        self._opened.acquire()
        answer = self._answer.unpickle()
        if answer[0] == "error":
            raise OSError(*answer[1:])
        if answer[0] == "refused":
            raise Refused("%s", answer[1])
        self.pid = answer[1]

    # -- the broker's thread

    def _on_opened(self, msg: Message) -> None:
        self._answer = msg
        try:
            answer = None if msg.is_dead else msg.unpickle()
        except core.Error:
            answer = None
        if answer and answer[0] == "started":
            control, stdin, stdout, stderr = answer[2]
            self._control_to = control
            if self._given_up:
                self._say("close")
            else:
                self._in.start(stdin)
                for end, handle in zip(self._outs, (stdout, stderr)):
                    end.start(handle)
                    if not handle:
                        # There is none; nothing will come.
                        end.writer.end()
        self._opened.release()

    def _on_control(self, msg: Message) -> None:
        if msg.is_dead:
            self.error = msg.data.decode("utf-8", "replace") or "the context is gone"
            if not self.router.broker.alive:
                # Nobody will write what is left.
                for end in self._outs:
                    end.close(True)
        else:
            fields = core.decode(msg.data)
            if fields[0] == "exit":
                self.core_dumped = bool(fields[3])
                self.returncode = _returncode(*fields[1:3])
        self._check_done()

    def _on_output_end(self, lost: bool) -> None:
        self._check_done()

    def _check_done(self) -> None:
        known = self.returncode is not None or self.error is not None
        if self._done or not known or not all(end.ended for end in self._outs):
            return
        self._done = True
        self._in.close()
        self.router._handlers.pop(self._control, None)
        self._over.release()
        self._call_back()

    def _call_back(self) -> None:
        while self._callbacks:
            self.router.broker._guard(self._callbacks.popleft(), self)

    def _abandon(self) -> None:
        """It was not started, or nobody wants it."""
        if not self._control_to:
            self.router._handlers.pop(self._control, None)
        self._in.close()
        for end in self._outs:
            end.close()

    def _say(self, *fields: Any) -> None:
        if self._control_to and not self._done:
            msg = Message(dst_id=self.context.context_id, handle=self._control_to)
            msg.data = core.encode(list(fields))
            self.router.route(msg, False)

    # -- any thread

    def __repr__(self) -> str:
        return "<Popen: returncode: %s args: %r in %r>" % (
            self.returncode,
            self.args,
            self.context,
        )

    def __enter__(self) -> Popen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def when_done(self, callback: Callback) -> None:
        """
        Have `callback(popen)` called on the broker's thread once it is over: its status known, or
        its context lost, and all that it has printed in its place.
        """
        self._callbacks.append(callback)
        if self._done:
            # The broker may have looked before.
            self.router.broker.defer(self._call_back)

    def poll(self) -> int | None:
        """Return its exit status, or None while it is not over."""
        return self.returncode if self._done else None

    def wait(self, timeout: float | None = None) -> int:
        """
        Sleep until it is over; return its exit status.

        :param float timeout: seconds
        :raises TimeoutExpired: it is not over by then, and goes on
        :raises ChannelError: its context is gone
        """
        if not self._over.acquire(True, -1 if timeout is None else max(0, timeout)):
            raise TimeoutExpired(self.args, timeout or 0)
        self._over.release()
        if self.returncode is None:
            raise ChannelError("%r in %r: %s", self.args, self.context, self.error)
        return self.returncode

    def communicate(
        self, input: Any = None, timeout: float | None = None
    ) -> tuple[bytes | None, bytes | None]:
        """
        Send `input`, and the end of file; return all that it prints, when it is over.

        :param bytes input: for its standard input, if that is PIPE
        :param float timeout: seconds
        :returns: (output, error): bytes, None for what is not PIPE
        :raises TimeoutExpired: it is not over by then, and goes on; call this again to wait on
        :raises ChannelError: its context is gone
        """
        kept = self.__dict__.setdefault("_kept", [[], []])
        self._converse(input, timeout, [kept[0].append, kept[1].append])
        out, err = [b"".join(chunks) if b else None for b, chunks in zip(self._buffers, kept)]
        return out, err

    def _converse(self, input: Any, timeout: float | None, sinks: Sequence[Callback]) -> None:
        deadline = None if timeout is None else core.now() + timeout

        def left() -> float:
            return -1 if deadline is None else max(0, deadline - core.now())

        ready = core.new_lock()
        conversation = Conversation(self, input, sinks, lambda: _release(ready))
        while not conversation.go_on():
            if not ready.acquire(True, left()):
                raise TimeoutExpired(self.args, timeout or 0)
        self.wait(None if deadline is None else left())

    def send_signal(self, signum: int | str) -> None:
        """
        Send a signal to its process group; nothing if it is over.

        :param signum: number here, or name with or without SIG: names mean the same everywhere
        :raises ValueError: there is no such signal
        """
        if isinstance(signum, str):
            name = signum[3:] if signum.startswith("SIG") else signum
            if not hasattr(signal, "SIG" + name):
                raise ValueError("there is no signal %r" % signum)
        else:
            name = signal.Signals(signum).name[3:]
        self._say("signal", name)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal("TERM")

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal("KILL")

    def resize(self, columns: int, lines: int, x: int = 0, y: int = 0) -> None:
        """Tell its terminal the size, in characters and, where known, pixels."""
        self._say("resize", columns, lines, x, y)

    def close(self, grace: float | None = None) -> None:
        """
        Give it up: no input, output or signal passes any more. If it still runs, its context lets
        it have 5 seconds after the end of its input, none on a terminal, and then ends it, with
        SIGHUP, SIGTERM and SIGKILL to its process group.

        :param float grace: seconds instead of those; the signals come half a second apart then,
            else one second
        """
        if not self._done:
            self.router.broker.defer(self._close, grace)

    def _close(self, grace: float | None = None) -> None:
        self._say("close", grace)
        self._abandon()


def _release(lock: Any) -> None:
    try:
        lock.release()
    except RuntimeError:
        # Nobody has looked since the last time.
        pass


def feed(popen: Popen, input: Any) -> None:
    """Give a program all of its input, bytes, and the end of file, without sleeping."""
    if popen.stdin and not popen.stdin.closed:
        reader: Any = popen._in.reader
        try:
            reader.offer(memoryview(input or b""), False)
            popen.stdin.close()
        except BrokenPipeError:
            # It reads nothing: as in subprocess, that is its own affair.
            pass


class Conversation:
    """
    Gives a program all of its input and takes what it prints, without sleeping.

    :param Popen popen: the program
    :param input: bytes or None, if `stdin` is PIPE
    :param list sinks: what is called with each piece of output, and of error output
    :param on_change: any thread: called when go_on() has something to do
    """

    def __init__(
        self,
        popen: Popen,
        input: Any,
        sinks: Sequence[Callback],
        on_change: Callable[[], object],
    ) -> None:
        feed(popen, input)
        self.pairs = [(b, sink) for b, sink in zip(popen._buffers, sinks) if b]
        for buffer, _ in self.pairs:
            buffer.on_change = on_change

    def go_on(self) -> bool:
        """Take all there is now; return whether that was the end of it."""
        for pair in list(self.pairs):
            while True:
                chunk = pair[0].take(pipes.CHUNK)
                if not chunk:
                    break
                pair[1](chunk)
            if chunk is not None:
                self.pairs.remove(pair)
        return not self.pairs


# -- run()


def run(
    context: Any,
    args: Word | Sequence[Word],
    *,
    input: Any = None,
    check: bool = False,
    capture_output: bool = True,
    text: bool = False,
    env: Env | None = None,
    cwd: Word | None = None,
    timeout: float | None = None,
    pty: bool | Pty = False,
    on_stdout: Callback | None = None,
    on_stderr: Callback | None = None,
) -> CompletedProcess[Any]:
    """
    Run a program in a context and return what it printed: subprocess.run() for another machine.

    :param Context context: where
    :param args: list: program and arguments; str: a command for the account's login shell
    :param input: bytes (str with `text`) for its standard input, which is empty otherwise
    :param bool check: raise an error if its exit status is not 0
    :param bool capture_output: False: it goes to this process' own standard output and error
    :param bool text: str instead of bytes, in this process' locale's encoding
    :param dict env: its whole environment, instead of the account's own
    :param cwd: directory, relative to the account's home directory, which is also the default
    :param float timeout: seconds after which it is killed
    :param pty: give it a terminal; standard error is in the output then
    :param on_stdout: called on this thread with each piece of output as it comes, besides
    :param on_stderr: likewise with each piece of error output
    :returns: subprocess.CompletedProcess; `returncode` is negative for a signal
    :raises subprocess.CalledProcessError: `check`, and it failed
    :raises subprocess.TimeoutExpired: it was not over in time; it has the output so far
    :raises OSError: it could not be started
    :raises ChannelError: the context was lost
    """
    capture = Capture(
        input=input,
        check=check,
        capture_output=capture_output,
        text=text,
        on_stdout=on_stdout,
        on_stderr=on_stderr,
    )
    with Popen(context, args, env=env, cwd=cwd, pty=pty, **capture.options) as popen:
        try:
            popen._converse(capture.input, timeout, capture.sinks)
        except TimeoutExpired:
            popen.kill()
            raise capture.too_late(popen, timeout or 0) from None
        except BaseException:
            popen.kill()
            raise
    return capture.result(popen)
