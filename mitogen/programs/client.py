"""
Programs in other contexts: run() captures a program's output, and Popen is a running program
whose input and output are files or descriptors of this process. Names shared with subprocess
behave as they do there. server.py is the target's half, and pipes.py carries the bytes.

Rules
    1. The exit status is reported after all output has been delivered: written to the final
       descriptor, or read.
    2. If the caller is gone or has abandoned the program, the program's own context ends it.
    3. Each mailbox accepts messages from the program's context only.

Threads: any. The docstrings state on which thread a callback is called.
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
from mitogen.programs.server import MAX_CONTROL, Refused

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

#: Bytes queued for a program's input at which a writer starts to sleep.
INPUT_QUEUE = 262144


class Subsystem:
    """
    A subsystem of SSH (RFC 4254 section 6.5), to be run instead of a program.

    :param str name: "sftp" is the only one: the system's SFTP server, or mitogen's own if the
        system has none
    :param bool builtin: use mitogen's own server in any case
    """

    __module__ = "mitogen.process"

    def __init__(self, name: str, builtin: bool = False) -> None:
        self.name = name
        self.builtin = builtin


class Custom:
    """
    A program that a function in the target starts.

    :param str function: dotted name of `function(router, spec)`, which returns server.Started
    :param args: arguments for the function, passed as `spec["args"]`
    """

    __module__ = "mitogen.process"

    def __init__(self, function: str, args: Any) -> None:
        self.function = function
        self.args = args


class Connect:
    """
    A TCP connection from the context, as `ssh -W` makes it, to be used instead of a program.

    :param str host: host name or address
    :param int port: port number, 1 to 65535
    """

    __module__ = "mitogen.process"

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port


class Pty:
    """
    A terminal for a program.

    :param str term: terminal type, the value of TERM; None for the target's own
    :param int columns: width in characters
    :param int lines: height in characters
    :param int x: width in pixels, 0 if unknown
    :param int y: height in pixels, 0 if unknown
    :param bytes modes: terminal modes, encoded according to RFC 4254 section 8
    """

    __module__ = "mitogen.process"

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


# -- the program and its arguments


def _word(value: Any, name: str) -> Any:
    try:
        word = os.fspath(value)
    except TypeError:
        raise TypeError(
            "%s: expected str, bytes or os.PathLike, not %s" % (name, type(value).__name__)
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
        raise ValueError("args is empty: the first item must be the name of a program")
    return "argv", words


def spec_of(
    args: Args,
    env: Env | None,
    add_env: Env | None,
    cwd: Word | None,
    pty: None | bool | Pty,
    merge: bool,
) -> dict[str, Any]:
    """Return the dict that server.start() takes. The arguments are those of Popen."""
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


# -- input and output


class _Input(io.RawIOBase):
    """A program's standard input, as a writable raw file."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """
        Send bytes. Sleep while INPUT_QUEUE bytes are waiting to be sent.

        :raises BrokenPipeError: the program no longer reads its input
        """
        if self.closed:
            raise ValueError("write to closed file")
        return self._feed.write(data)

    def offer(self, data: Any, copy: bool = True) -> bool:
        """
        Send bytes as write() does, or return False and send nothing if that would sleep.

        :param bool copy: False if the caller will not change `data` afterwards
        """
        if self.closed:
            raise ValueError("write to closed file")
        return self._feed.offer(data, copy)

    def close(self) -> None:
        """Send the end of file to the program. Its output stays open."""
        if not self.closed:
            self._feed.end()
        io.RawIOBase.close(self)


class _Output(io.RawIOBase):
    """A program's output, as a readable raw file."""

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
        """Stop reading. The program gets SIGPIPE."""
        if not self.closed:
            self._buffer.abandon()
        io.RawIOBase.close(self)


def _fd_of(where: Any, number: int) -> int:
    if where is None:
        where = number
    fd = where if isinstance(where, int) else where.fileno()
    if fd < 0:
        raise ValueError("%r is not a file descriptor" % (where,))
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
    # Signals are sent by name: their numbers differ between systems.
    found: Any = getattr(signal, "SIG%s" % name, None)
    if found is None:
        found = int(name) if name and name.isdigit() else 127
    return -int(found)


class Popen:
    """
    A program that runs in a context.

    The program is ended when it is no longer needed: by close(), at the end of a `with` block, or
    when this process is gone.

    :param Context context: context to run the program in
    :param args: list: program and arguments; str: command for the account's login shell; None:
        the login shell itself; or a Subsystem or Connect
    :param stdin: PIPE: the attribute `stdin` is a file to write to; DEVNULL; None: this process'
        standard input; a descriptor or an object with fileno(), which is duplicated and never
        made non-blocking
    :param stdout: as `stdin`, with a file to read from; or an endpoints.Keep
    :param stderr: as `stdout`; STDOUT: to the same place as standard output
    :param dict env: complete environment, replacing the account's own
    :param dict add_env: variables added to the environment
    :param cwd: directory, relative to the account's home directory, which is the default
    :param pty: a Pty, or True, to run the program on a terminal; standard error is then part of
        standard output
    :raises OSError: the program cannot be started: it does not exist, it is not executable, or
        the directory does not exist
    :raises Refused: the context does not run this program, or not for this context
    :raises ChannelError: the context is gone
    """

    __module__ = "mitogen.process"

    #: Exit status, negative for a signal; None while the program runs or if the context was lost.
    returncode: int | None = None
    #: Whether the signal that ended the program produced a core dump.
    core_dumped = False
    #: Reason why there is no exit status, set when the context was lost.
    error: str | None = None
    #: Process id in the target; None if there is no process.
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
        self._finished = core.new_lock()
        self._opened = core.new_lock()
        self._answer: Any = None
        self._abandoned = False
        self._done = False
        self._callbacks: deque[Callback] = deque()
        self._control_to = 0
        if stdin == DEVNULL:
            # Saves a message with the end of file after the start.
            spec["no_input"] = True
        self._open_ends(spec["window"], stdin, stdout, DEVNULL if stderr == STDOUT else stderr)
        try:
            self._start(spec)
        except BaseException:
            self._abandoned = True
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
        #: Files if PIPE was given, else None.
        self.stdin = _Input(made[0]) if stdin == PIPE else None
        self.stdout = io.BufferedReader(_Output(made[1]), 65536) if stdout == PIPE else None
        self.stderr = io.BufferedReader(_Output(made[2]), 65536) if stderr == PIPE else None
        # The Buffers of stdout and stderr, None where PIPE was not given.
        self.buffers = [m if isinstance(m, Buffer) else None for m in made[1:]]
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
        if len(self._answer.data) > MAX_CONTROL:
            raise core.StreamError("%s: the answer to the start of a program is too long", self)
        self.pid = answer[1]

    # -- the broker's thread

    def _on_opened(self, msg: Message) -> None:
        self._answer = msg
        try:
            # Longer answers are errors, which only the caller decodes.
            short = not msg.is_dead and len(msg.data) <= MAX_CONTROL
            answer = msg.unpickle() if short else None
        except core.Error:
            answer = None
        if answer and answer[0] == "started":
            control, stdin, stdout, stderr = answer[2]
            self._control_to = control
            if self._abandoned:
                self._send_control("close")
            else:
                self._in.start(stdin)
                for end, handle in zip(self._outs, (stdout, stderr)):
                    end.start(handle)
                    if not handle:
                        # The target has no such pipe, so no end of file will arrive.
                        end.writer.end()
        self._opened.release()

    def _on_control(self, msg: Message) -> None:
        if msg.is_dead:
            self.error = msg.data.decode("utf-8", "replace") or "the context is gone"
            if not self.router.broker.alive:
                # The broker is ending: buffered output cannot be written any more.
                for end in self._outs:
                    end.close(True)
        elif len(msg.data) <= MAX_CONTROL:
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
        self.router.handlers.pop(self._control, None)
        self._finished.release()
        self._call_back()

    def _call_back(self) -> None:
        while self._callbacks:
            self.router.broker.guard(self._callbacks.popleft(), self)

    def _abandon(self) -> None:
        """Close all ends of a program that was not started or is no longer needed."""
        if not self._control_to:
            self.router.handlers.pop(self._control, None)
        self._in.close()
        for end in self._outs:
            end.close()

    def _send_control(self, *fields: Any) -> None:
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
        Call `callback(popen)` on the broker's thread when the program has ended: its status is
        known, or its context is lost, and all of its output has been delivered.
        """
        self._callbacks.append(callback)
        if self._done:
            # The broker may have run the callbacks before this one was added.
            self.router.broker.defer(self._call_back)

    def poll(self) -> int | None:
        """Return the exit status, or None if the program has not ended."""
        return self.returncode if self._done else None

    def wait(self, timeout: float | None = None) -> int:
        """
        Sleep until the program has ended, and return its exit status.

        :param float timeout: seconds
        :raises TimeoutExpired: the program has not ended within that time; it continues to run
        :raises ChannelError: its context is gone
        """
        if not self._finished.acquire(True, -1 if timeout is None else max(0, timeout)):
            raise TimeoutExpired(self.args, timeout or 0)
        self._finished.release()
        if self.returncode is None:
            raise ChannelError("%r in %r: %s", self.args, self.context, self.error)
        return self.returncode

    def communicate(
        self, input: Any = None, timeout: float | None = None
    ) -> tuple[bytes | None, bytes | None]:
        """
        Send `input` and the end of file, and return all output when the program has ended.

        :param bytes input: data for standard input, if that is a PIPE
        :param float timeout: seconds
        :returns: (output, error): bytes, or None for each that is not a PIPE
        :raises TimeoutExpired: the program has not ended within that time; it continues to run,
            and another call continues to wait
        :raises ChannelError: its context is gone
        """
        kept = self.__dict__.setdefault("_kept", [[], []])
        _converse(self, input, timeout, [kept[0].append, kept[1].append])
        out, err = [b"".join(chunks) if b else None for b, chunks in zip(self.buffers, kept)]
        return out, err

    def send_signal(self, signum: int | str) -> None:
        """
        Send a signal to the program's process group. No-op if the program has ended.

        :param signum: number on this system, or name with or without SIG; a name means the same
            signal on all systems
        :raises ValueError: this system has no such signal
        """
        if isinstance(signum, str):
            name = signum[3:] if signum.startswith("SIG") else signum
            if not hasattr(signal, "SIG" + name):
                raise ValueError("unknown signal %r" % signum)
        else:
            name = signal.Signals(signum).name[3:]
        self._send_control("signal", name)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal("TERM")

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal("KILL")

    def resize(self, columns: int, lines: int, x: int = 0, y: int = 0) -> None:
        """Set the size of the program's terminal, in characters and, where known, pixels."""
        self._send_control("resize", columns, lines, x, y)

    def close(self, grace: float | None = None) -> None:
        """
        Abandon the program: no more input, output or signals are passed. If it still runs, its
        context waits for 5 seconds after the end of its input (0 on a terminal), then sends SIGHUP,
        SIGTERM and SIGKILL to its process group.

        :param float grace: seconds to wait instead; the signals then follow each other after half a
            second, instead of one second
        """
        if not self._done:
            self.router.broker.defer(self._close, grace)

    def _close(self, grace: float | None = None) -> None:
        self._send_control("close", grace)
        self._abandon()


def _release(lock: Any) -> None:
    try:
        lock.release()
    except RuntimeError:
        # The lock is free already: the waiting thread has not run since the last release.
        pass


def feed(popen: Popen, input: Any) -> None:
    """Send a program all of its input, bytes or None, and the end of file, without sleeping."""
    if popen.stdin and not popen.stdin.closed:
        try:
            popen.stdin.offer(memoryview(input or b""), False)
            popen.stdin.close()
        except BrokenPipeError:
            # The program does not read its input. subprocess ignores that too.
            pass


class Conversation:
    """
    Exchange of a program's input and output without sleeping.

    :param Popen popen: the program
    :param input: bytes or None, if `stdin` is a PIPE
    :param list sinks: callbacks for each piece of standard output, and of standard error
    :param on_change: called on any thread when advance() has new data to take
    """

    __module__ = "mitogen.process"

    def __init__(
        self,
        popen: Popen,
        input: Any,
        sinks: Sequence[Callback],
        on_change: Callable[[], object],
    ) -> None:
        feed(popen, input)
        self.pairs = [(b, sink) for b, sink in zip(popen.buffers, sinks) if b]
        for buffer, _ in self.pairs:
            buffer.on_change = on_change

    def advance(self) -> bool:
        """Pass all available output to the sinks; return whether all pipes are at their end."""
        for pair in list(self.pairs):
            while True:
                chunk = pair[0].take(pipes.CHUNK)
                if not chunk:
                    break
                pair[1](chunk)
            if chunk is not None:
                self.pairs.remove(pair)
        return not self.pairs


def _converse(popen: Popen, input: Any, timeout: float | None, sinks: Sequence[Callback]) -> None:
    """Run a Conversation to its end and wait for the program. See Popen.wait() for errors."""
    deadline = None if timeout is None else core.now() + timeout

    def time_left() -> float:
        return -1 if deadline is None else max(0, deadline - core.now())

    ready = core.new_lock()
    conversation = Conversation(popen, input, sinks, lambda: _release(ready))
    while not conversation.advance():
        if not ready.acquire(True, time_left()):
            raise TimeoutExpired(popen.args, timeout or 0)
    popen.wait(None if deadline is None else time_left())


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
    Run a program in a context and return its output, as subprocess.run() does on this machine.

    :param Context context: context to run the program in
    :param args: list: program and arguments; str: command for the account's login shell
    :param input: bytes (str with `text`) for standard input; None for an empty input
    :param bool check: raise an error if the exit status is not 0
    :param bool capture_output: False: pass the output to this process' standard output and error
    :param bool text: use str instead of bytes, in the encoding of this process' locale
    :param dict env: complete environment, replacing the account's own
    :param cwd: directory, relative to the account's home directory, which is the default
    :param float timeout: seconds after which the program is killed
    :param pty: run the program on a terminal; standard error is then part of standard output
    :param on_stdout: called on this thread with each piece of output as it arrives, in addition
        to capturing it
    :param on_stderr: as `on_stdout`, for standard error
    :returns: subprocess.CompletedProcess; `returncode` is negative for a signal
    :raises subprocess.CalledProcessError: `check` was given and the exit status is not 0
    :raises subprocess.TimeoutExpired: the program did not end in time; contains the output so far
    :raises OSError: the program could not be started
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
            _converse(popen, capture.input, timeout, capture.sinks)
        except TimeoutExpired:
            popen.kill()
            raise capture.timeout_error(popen, timeout or 0) from None
        except BaseException:
            popen.kill()
            raise
    return capture.result(popen)
