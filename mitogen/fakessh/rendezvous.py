"""
The directory and socket through which stand-ins for `ssh` reach the process that created them. The
private directory contains the program `ssh`, wrappers of tools that would use no other `ssh`, and a
socket at which each stand-in passes on its command line and descriptors. The protocol is in
stand_in.py.

Rules
    1. The directory is 0700 and is removed by close(), on any thread and at any time. A directory
       left by a killed process is removed by the next Rendezvous of that account and directory.
    2. Connections are accepted only from processes of this account and of root.
    3. A stand-in whose connection is cut, by close() or by this process' end, exits with 255.

Threads: one accepts, and each stand-in is served on its own. close() may be called on any thread.
"""

from __future__ import annotations

import _thread
import errno
import os
import re
import select
import shlex
import shutil
import socket
import stat
import tempfile
import threading
import time
from array import array

from mitogen import core, unix
from mitogen.fakessh import stand_in
from mitogen.methods.connection import get_sys_executable
from mitogen.programs import tty_modes
from mitogen.terminal import raw_tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

__all__ = ["Rendezvous", "Connection"]

#: Prefix of the directories' names.
PREFIX = "mitogen-ssh-"
#: Limit of a socket's path in bytes: unix(7) has 108, other systems 104, including a NUL.
MAX_PATH = 100
#: Paths that need no quoting anywhere: some tools use a path from the environment without parsing.
_PLAIN = re.compile(r"[\w@%+=,./-]+\Z", re.ASCII)
#: Limit of a frame in bytes: a command line and an environment.
MAX_FRAME = 1 << 25
#: Limit of concurrent stand-ins: it stops a tool that starts them without end.
MAX_CONNECTIONS = 500
#: Seconds that close() waits for threads.
JOIN_TIMEOUT = 2.0
#: Connections that may wait to be accepted.
BACKLOG = 128
#: Programs that have the path of ssh compiled in, but accept `-S`.
WRAPPED = ("scp", "sftp")

#: Text for a stand-in that could not be served.
FAILED_TEXT = "ssh: mitogen.fakessh: error in the process that provides this ssh; see its log\n"

_SCRIPT = '#!/bin/sh\nexec %s "$@"\n'


class Connection:
    """
    The connection of a stand-in: its request, and the answers to it.

    :param sock: the socket
    """

    #: For each of the three descriptors, whether it is a terminal.
    terminals = [False, False, False]

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: The stand-in's standard input, output and error. close() closes them.
        self.fds: list[int] = []
        self._buffer = b""
        self._lock = _thread.allocate_lock()
        self._ended = False
        #: The stand-in's arguments.
        self.argv: list[str] = []
        #: The stand-in's environment.
        self.environ: dict[str, str] = {}

    def take_request(self) -> bool:
        """
        Read the request; return False if the stand-in is gone before it was complete.

        :raises Error: the request is malformed
        """
        frame = self.read()
        if frame is None:
            return False
        try:
            if frame[0] != b"R" or len(self.fds) != 3:
                raise ValueError
            fields = [os.fsdecode(field) for field in frame[1].split(b"\0")]
            count = 2 + int(fields[1])
            self.terminals = [digit == "1" for digit in fields[0]]
        except (ValueError, IndexError):
            raise core.Error("malformed request of an ssh stand-in") from None
        self.argv = fields[2:count]
        pairs = (field.partition("=") for field in fields[count:])
        self.environ = {name: value for name, _, value in pairs}
        return True

    def read(self) -> tuple[bytes, bytes] | None:
        """Return the next frame, (letter, payload), or None if the connection has ended."""
        while True:
            buffer = self._buffer
            size = 5 + int.from_bytes(buffer[1:5], "big") if len(buffer) >= 5 else 5
            if size > MAX_FRAME:
                return None
            if 5 <= size <= len(buffer):
                self._buffer = buffer[size:]
                return buffer[:1], buffer[5:size]
            data = self._receive(size - len(buffer))
            if not data:
                return None
            self._buffer += data

    def _receive(self, size: int) -> bytes:
        # MSG_CMSG_CLOEXEC if available: another thread may start a program before the loop below.
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        room = socket.CMSG_SPACE(3 * 4)
        try:
            data, messages, _, _ = self.sock.recvmsg(min(size, 1 << 20), room, flags)
        except OSError:
            return b""
        for level, kind, payload in messages:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self.fds += fds
                for fd in fds:
                    os.set_inheritable(fd, False)
        return data

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Any thread: send a frame. Never blocks: frames fit into the socket's buffer."""
        frame = kind + len(payload).to_bytes(4, "big") + payload
        try:
            self.sock.send(frame, socket.MSG_DONTWAIT)
        except OSError:
            # The stand-in has ended.
            pass

    def end(self, status: int, text: str = "") -> None:
        """Any thread: make the stand-in print `text` and exit; read() returns None from then on."""
        with self._lock:
            if not self._ended:
                self._ended = True
                data = text.encode("utf-8", "surrogateescape")[:4000]
                self.send(b"X", bytes([status & 255]) + data)
        self._shut(socket.SHUT_RD)

    def disconnect(self) -> None:
        """Any thread: cut the connection."""
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        try:
            self.sock.shutdown(how)
        except OSError:
            pass

    def print(self, text: str) -> None:
        """Write to the stand-in's standard output. May block this thread."""
        data = text.encode("utf-8", "surrogateescape")
        try:
            poll = select.poll()
            poll.register(self.fds[1], select.POLLOUT)
            while data:
                poll.poll()
                try:
                    data = data[os.write(self.fds[1], data) :]
                except BlockingIOError:
                    pass
        except OSError:
            pass

    def relay_terminal(self, raw: bool, escape: int | None) -> tuple[list[int], bytes] | None:
        """
        Make the stand-in carry keys and screen of its terminal itself, through new descriptors that
        replace its own.

        :param bool raw: True if the far end has a terminal, so that the local one must be raw
        :param int escape: escape character, or None
        :returns: ([columns, lines, x, y], modes), or None if the stand-in has ended
        """
        before = len(self.fds)
        self.send(b"T", (b"r" if raw else b"c") + (b"" if escape is None else bytes([escape])))
        frame = self.read()
        if frame is None or frame[0] != b"K" or len(self.fds) == before:
            return None
        received, self.fds[before:] = self.fds[before:], []
        for at, fd in enumerate(received):
            os.close(self.fds[at])
            self.fds[at] = fd
        size, _, modes = frame[1].partition(b"\0")
        return numbers(size), modes

    def close_fds(self) -> None:
        """Close the received descriptors. The program has its own copies."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)

    def close(self) -> None:
        """Close the connection and the received descriptors."""
        self.close_fds()
        self.sock.close()


def numbers(text: bytes) -> list[int]:
    """Return the four numbers of a terminal's size, with zeros for invalid ones."""
    words = text.split()
    return [int(word) if word.isdigit() else 0 for word in words[:4]] + [0] * (4 - len(words))


class Rendezvous:
    """
    A directory with an `ssh`, and the socket on which its stand-ins are served.

    :param serve: `serve(connection)`, called on a thread for each stand-in; errors are logged
    :param Router router: router, for its log
    :param path: the PATH on which wrapped programs are looked up
    :raises Error: no directory allows programs to be started from it
    """

    def __init__(
        self, serve: Callable[[Connection], object], router: core.Router, path: str
    ) -> None:
        self.serve = serve
        self.router = router
        self._lock = _thread.allocate_lock()
        self._connections: set[Connection] = set()
        self._threads: set[threading.Thread] = set()
        self._closed = False
        self.directory = make_directory()
        #: Path of the program `ssh`.
        self.ssh = os.path.join(self.directory, "bin", "ssh")
        self._wake, self._woken = socket.socketpair()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._write_programs(path)
            self._listen()
            self._acceptor = self._start(self._accept_all)
        except BaseException:
            self.close()
            self._close_sockets()
            raise

    # -- the directory

    def _write_programs(self, path: str) -> None:
        for module in (stand_in, raw_tty, tty_modes):
            name = module.__name__.rpartition(".")[2] + ".py"
            self._write(name, source_of(module), 0o600)
        ours = os.path.join(self.directory, "stand_in.py")
        self._write("bin/ssh", script(get_sys_executable(), "-I", "-S", ours))
        for name in WRAPPED:
            real = shutil.which(name, path=path)
            if real:
                self._write("bin/" + name, script(os.path.abspath(real), "-S", self.ssh))

    def _write(self, name: str, text: str, mode: int = 0o700) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
        fd = os.open(os.path.join(self.directory, name), flags, mode)
        with os.fdopen(fd, "wb") as fp:
            fp.write(text.encode("utf-8", "surrogateescape"))

    def _listen(self) -> None:
        # Under another name before it listens: remove_stale() of another process would remove it.
        with short_path(self.directory) as directory:
            self._socket.bind(os.path.join(directory, "new"))
            self._socket.listen(BACKLOG)
        os.rename(os.path.join(self.directory, "new"), os.path.join(self.directory, "socket"))

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return a copy of `environ` in which tools find this `ssh`."""
        quoted = shlex.quote(self.ssh)
        found = dict(environ)
        found.pop("GIT_SSH", None)
        found.update(
            PATH=os.path.dirname(self.ssh) + ":" + environ.get("PATH", os.defpath),
            GIT_SSH_COMMAND=quoted,
            GIT_SSH_VARIANT="ssh",
            RSYNC_RSH=quoted,
            SVN_SSH=quoted,
            BORG_RSH=quoted,
            # These programs do not parse the value: it is a path, without quotes.
            CVS_RSH=self.ssh,
            AUTOSSH_PATH=self.ssh,
            ANSIBLE_SSH_EXECUTABLE=self.ssh,
        )
        return found

    # -- threads

    def _start(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name="mitogen.ssh", daemon=True)
        self._threads.add(thread)
        thread.start()
        return thread

    def _accept_all(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        try:
            while not self._closed:
                poll.poll()
                if not self._closed:
                    self._accept()
        finally:
            self._close_sockets()
            self._threads.discard(threading.current_thread())

    def _close_sockets(self) -> None:
        for sock in (self._socket, self._wake, self._woken):
            sock.close()

    def _accept(self) -> None:
        try:
            sock = self._socket.accept()[0]
        except OSError as e:
            # The client is gone, or no descriptor is free. Then the connection stays in the
            # backlog, and the next accept() gets it.
            self.router.log(core.ERROR, "fakessh: %s", e)
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            poll.poll(100)
            return
        try:
            uid = unix.peer_credentials(sock)[1]
            if uid not in (0, os.geteuid()):
                raise core.Error("account %d may not use the ssh of account %d", uid, os.geteuid())
            if len(self._threads) > MAX_CONNECTIONS:
                raise core.Error("more than %d stand-ins at once", MAX_CONNECTIONS)
            self._start(self._receive, sock)
        except (core.Error, OSError, RuntimeError) as e:
            self.router.log(core.ERROR, "fakessh: connection refused: %s", e)
            sock.close()

    def _receive(self, sock: socket.socket) -> None:
        connection = Connection(sock)
        with self._lock:
            self._connections.add(connection)
        try:
            if not self._closed and connection.take_request():
                self.serve(connection)
        except Exception as e:
            if not self._closed:
                self.router.log(core.ERROR, "fakessh: %s: %s", type(e).__name__, e)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.end(stand_in.FAILED, FAILED_TEXT)
            connection.close()
            self._threads.discard(threading.current_thread())

    def close(self) -> None:
        """Any thread: remove the directory and cut all connections. Never blocks."""
        with self._lock:
            closed, self._closed = self._closed, True
            connections = list(self._connections)
        if closed:
            return
        remove(self.directory)
        self._wake.close()
        for connection in connections:
            connection.disconnect()

    def wait_idle(self, timeout: float) -> None:
        """Wait until no stand-in is being served, for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for thread in list(self._threads):
            if thread is not self._acceptor:
                thread.join(max(0.0, deadline - time.monotonic()))

    def join(self) -> None:
        """Wait for the threads to end after close(), for at most JOIN_TIMEOUT seconds."""
        deadline = time.monotonic() + JOIN_TIMEOUT
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))


def source_of(module: ModuleType) -> str:
    """Return a module's source, whichever loader loaded it."""
    loader = module.__spec__ and module.__spec__.loader
    source = loader.get_source(module.__name__) if loader else None  # type: ignore[attr-defined]
    if source is None:
        raise core.Error("%s: cannot get its source, which an ssh stand-in needs", module.__name__)
    return str(source)


def script(*words: str) -> str:
    """Return a shell script that executes the program `words`, followed by its own arguments."""
    return _SCRIPT % " ".join(map(shlex.quote, words))


# ---- directories


def remove(directory: str) -> None:
    """Remove a directory tree as far as possible."""
    shutil.rmtree(directory, ignore_errors=True)


class short_path:
    """
    Context manager that returns a path of a directory which is short enough for bind(2) after a
    socket's name is appended.

    :raises OSError: there is no such path
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.fd: int | None = None

    def __enter__(self) -> str:
        if len(os.fsencode(self.directory)) + len("/socket") <= MAX_PATH:
            return self.directory
        self.fd = os.open(self.directory, os.O_RDONLY)
        return "/proc/self/fd/%d" % self.fd

    def __exit__(self, *exc_info: object) -> None:
        if self.fd is not None:
            os.close(self.fd)


def parent_candidates() -> Iterator[str]:
    """Yield directories in which the private directory may be created, the best first."""
    try:
        yield tempfile.gettempdir()
    except OSError:
        # It found no writable directory.
        pass
    for path in ("/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR"), "~/.cache", "/dev/shm"):
        if path:
            yield os.path.expanduser(path)
    try:
        yield os.getcwd()
    except OSError:
        # The working directory was removed.
        pass


def is_private(directory: str) -> bool:
    """Return whether only this account and root can rename files in a directory."""
    status = os.stat(directory)
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    return not shared and status.st_uid in (0, os.geteuid())


def make_directory() -> str:
    """
    Create the private directory, 0700, with a `bin` from which programs can be started; return its
    path.

    :raises Error: no directory allows that
    """
    found = [os.path.abspath(parent) for parent in parent_candidates()]
    # A colon would end the path within PATH.
    found = [parent for parent in dict.fromkeys(found) if ":" not in parent]
    found.sort(key=lambda parent: not _PLAIN.match(parent))
    tried = []
    for parent in found:
        try:
            return create_in(parent)
        except OSError as e:
            tried.append("%s: %s" % (parent, e.strerror or e))
    raise core.Error(
        "no directory to start programs from; set TMPDIR to one that is not mounted noexec (%s)",
        "; ".join(tried),
    )


def create_in(parent: str) -> str:
    """
    Create the private directory in `parent` and return its path.

    :raises OSError: it cannot be created, or programs cannot be started from it
    """
    if not is_private(parent):
        raise OSError(0, "other accounts may rename files there")
    remove_stale(parent)
    directory = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    try:
        os.mkdir(os.path.join(directory, "bin"), 0o700)
        program = os.path.join(directory, "bin", "ssh")
        os.close(os.open(program, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700))
        # access(2) takes noexec into account.
        if not os.access(program, os.X_OK):
            raise OSError(0, "mounted noexec")
        with short_path(directory) as path:
            os.stat(path)
        return directory
    except BaseException:
        remove(directory)
        raise


def is_dead(path: str) -> bool:
    """Return whether a socket exists that no process listens on. Never blocks."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except OSError as e:
            return e.errno == errno.ECONNREFUSED
    return False


def remove_stale(parent: str) -> None:
    """Remove directories in `parent` that killed processes of this account have left."""
    for name in os.listdir(parent):
        directory = os.path.join(parent, name)
        if name.startswith(PREFIX):
            try:
                path = os.path.join(directory, "socket")
                if os.lstat(directory).st_uid != os.geteuid() or not os.path.exists(path):
                    continue
                with short_path(directory) as short:
                    dead = is_dead(os.path.join(short, "socket"))
            except OSError:
                continue
            if dead:
                remove(directory)
