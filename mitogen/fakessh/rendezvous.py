"""
Where stand-ins for `ssh` meet the process that has made them: a private directory with the program
`ssh`, wrappers of tools that know of no other, and a socket at which each stand-in hands over its
command line and descriptors. What passes there is in stand_in.py.

Rules
    1. The directory is 0700 and goes with close(), whoever calls that, and whatever goes on. What
       a killed process has left is removed by the next Rendezvous of that account and directory.
    2. Only processes of this account, and root's, are listened to.
    3. A stand-in that is let down, by close() or by this process's death, ends with 255.

Threads: one accepts, and each stand-in is served on one of its own; close() on any.
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

__all__ = ["Rendezvous", "Visit"]

#: Begins the names of the directories.
PREFIX = "mitogen-ssh-"
#: Bytes of a socket's path at most: unix(7) has 108, other systems 104, with a NUL.
MAX_PATH = 100
#: What needs no quotes anywhere: some tools take a path from the environment as it is.
_PLAIN = re.compile(r"[\w@%+=,./-]+\Z", re.ASCII)
#: Bytes of one frame at most: a command line and an environment.
MAX_FRAME = 1 << 25
#: Stand-ins at once at most: a tool gone wild stops there.
MAX_VISITS = 500
#: Seconds that close() waits for threads.
JOIN_TIMEOUT = 2.0
#: Connections that may wait to be accepted.
BACKLOG = 128
#: Programs that have the path of ssh compiled in, but take `-S`.
WRAPPED = ("scp", "sftp")

#: Last words to a stand-in that could not be served.
FAILED_TEXT = "ssh: mitogen.fakessh: this failed in the process that runs it; see its log\n"

_SCRIPT = '#!/bin/sh\nexec %s "$@"\n'


class Visit:
    """
    A stand-in that has come: its request, and the way to answer.

    :param sock: the connection
    """

    #: Which of the three descriptors are terminals.
    terminals = [False, False, False]

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: The stand-in's standard input, output and error; close() closes them.
        self.fds: list[int] = []
        self._buffer = b""
        self._lock = _thread.allocate_lock()
        self._over = False
        #: The stand-in's arguments.
        self.argv: list[str] = []
        #: The stand-in's environment.
        self.environ: dict[str, str] = {}

    def take_request(self) -> bool:
        """
        Read what it wants; return False if it went away before it had said that.

        :raises Error: it speaks something else
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
            raise core.Error("what came is not a stand-in's request") from None
        self.argv = fields[2:count]
        pairs = (field.partition("=") for field in fields[count:])
        self.environ = {name: value for name, _, value in pairs}
        return True

    def read(self) -> tuple[bytes, bytes] | None:
        """Return the next frame, (letter, payload); None: it has ended, or was let go."""
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
        # MSG_CMSG_CLOEXEC, where there is one: another thread may start a program in between.
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
        """Any thread: send a frame. Never blocks: no more is sent than a socket's buffer holds."""
        frame = kind + len(payload).to_bytes(4, "big") + payload
        try:
            self.sock.send(frame, socket.MSG_DONTWAIT)
        except OSError:
            # It has ended.
            pass

    def end(self, status: int, text: str = "") -> None:
        """Any thread: have the stand-in print `text` and end; read() returns None from now on."""
        with self._lock:
            if not self._over:
                self._over = True
                data = text.encode("utf-8", "surrogateescape")[:4000]
                self.send(b"X", bytes([status & 255]) + data)
        self._shut(socket.SHUT_RD)

    def let_down(self) -> None:
        """Any thread: cut the connection."""
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        try:
            self.sock.shutdown(how)
        except OSError:
            pass

    def print(self, text: str) -> None:
        """Write on its standard output; this thread waits for who reads there."""
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

    def pump(self, raw: bool, escape: int | None) -> tuple[list[int], bytes] | None:
        """
        Have it carry keys and screen of its terminal itself, by descriptors that come in place of
        its own.

        :param bool raw: the terminal at the far end does what a terminal does
        :param int escape: escape character, or None
        :returns: ([columns, lines, x, y], modes); None: it has ended
        """
        before = len(self.fds)
        self.send(b"T", (b"r" if raw else b"c") + (b"" if escape is None else bytes([escape])))
        frame = self.read()
        if frame is None or frame[0] != b"K" or len(self.fds) == before:
            return None
        fresh, self.fds[before:] = self.fds[before:], []
        for at, fd in enumerate(fresh):
            os.close(self.fds[at])
            self.fds[at] = fd
        size, _, modes = frame[1].partition(b"\0")
        return numbers(size), modes

    def close_fds(self) -> None:
        """Close the descriptors that came: whoever uses them has its own."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)

    def close(self) -> None:
        """Cut the connection and close all that came with it."""
        self.close_fds()
        self.sock.close()


def numbers(text: bytes) -> list[int]:
    """Return the four numbers of a terminal's size; zeros for what is none."""
    words = text.split()
    return [int(word) if word.isdigit() else 0 for word in words[:4]] + [0] * (4 - len(words))


class Rendezvous:
    """
    A directory with an `ssh`, and who listens for it.

    :param serve: `serve(visit)`, called on a thread for each stand-in; what it raises is logged
    :param Router router: for the log
    :param path: the PATH on which wrapped programs are looked for
    :raises Error: there is no directory that programs can be started from
    """

    def __init__(self, serve: Callable[[Visit], object], router: core.Router, path: str) -> None:
        self.serve = serve
        self.router = router
        self._lock = _thread.allocate_lock()
        self._visits: set[Visit] = set()
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
        fd = os.open(os.path.join(self.directory, name), os.O_WRONLY | os.O_CREAT, mode)
        with os.fdopen(fd, "wb") as fp:
            fp.write(text.encode("utf-8", "surrogateescape"))

    def _listen(self) -> None:
        # Under another name until it listens: to remove_stale() it would be a dead one's.
        with short_path(self.directory) as directory:
            self._socket.bind(os.path.join(directory, "new"))
            self._socket.listen(BACKLOG)
        os.rename(os.path.join(self.directory, "new"), os.path.join(self.directory, "socket"))

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which tools find this `ssh`: `environ`, changed for it."""
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
            # These are taken as a path, whatever is in it.
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
            # Gone again; or no descriptor is left: it stays in the backlog, and is asked for anew.
            self.router.log(core.ERROR, "fakessh: %s", e)
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            poll.poll(100)
            return
        try:
            uid = unix.peer_credentials(sock)[1]
            if uid not in (0, os.geteuid()):
                raise core.Error("user %d may not use user %d's ssh", uid, os.geteuid())
            if len(self._threads) > MAX_VISITS:
                raise core.Error("more than %d at once", MAX_VISITS)
            self._start(self._receive, sock)
        except (core.Error, OSError, RuntimeError) as e:
            self.router.log(core.ERROR, "fakessh: connection refused: %s", e)
            sock.close()

    def _receive(self, sock: socket.socket) -> None:
        visit = Visit(sock)
        with self._lock:
            self._visits.add(visit)
        try:
            if not self._closed and visit.take_request():
                self.serve(visit)
        except Exception as e:
            if not self._closed:
                self.router.log(core.ERROR, "fakessh: %s: %s", type(e).__name__, e)
        finally:
            with self._lock:
                self._visits.discard(visit)
            visit.end(stand_in.FAILED, FAILED_TEXT)
            visit.close()
            self._threads.discard(threading.current_thread())

    def close(self) -> None:
        """Any thread: remove the directory, and let down who is still there. Never blocks."""
        with self._lock:
            closed, self._closed = self._closed, True
            visits = list(self._visits)
        if closed:
            return
        remove(self.directory)
        self._wake.close()
        for visit in visits:
            visit.let_down()

    def settle(self, timeout: float) -> None:
        """Wait until no stand-in is at work, `timeout` seconds at most."""
        deadline = time.monotonic() + timeout
        for thread in list(self._threads):
            if thread is not self._acceptor:
                thread.join(max(0.0, deadline - time.monotonic()))

    def join(self) -> None:
        """Wait until what close() has let down is gone, JOIN_TIMEOUT seconds at most."""
        deadline = time.monotonic() + JOIN_TIMEOUT
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))


def source_of(module: ModuleType) -> str:
    """Return a module's source, from wherever it was loaded."""
    loader = module.__spec__ and module.__spec__.loader
    source = loader.get_source(module.__name__) if loader else None  # type: ignore[attr-defined]
    if source is None:
        raise core.Error(
            "%s: its source is not to be had, and a stand-in needs it", module.__name__
        )
    return str(source)


def script(*words: str) -> str:
    """Return a shell script that becomes the program *words*, with its own arguments after them."""
    return _SCRIPT % " ".join(map(shlex.quote, words))


# ---- directories


def remove(directory: str) -> None:
    """Remove a directory with all in it, as far as that can be done."""
    shutil.rmtree(directory, ignore_errors=True)


class short_path:
    """
    `with short_path(directory) as path`: a path for the same directory that a socket's name may
    follow in bind(2).

    :raises OSError: there is none
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


def places() -> Iterator[str]:
    """Yield directories in which another may be made, the best first."""
    try:
        yield tempfile.gettempdir()
    except OSError:
        # None that it knows of can be written to.
        pass
    for path in ("/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR"), "~/.cache", "/dev/shm"):
        if path:
            yield os.path.expanduser(path)
    try:
        yield os.getcwd()
    except OSError:
        # It was removed.
        pass


def is_private(directory: str) -> bool:
    """Return whether nobody but us and root can rename what we make there."""
    facts = os.stat(directory)
    shared = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not facts.st_mode & stat.S_ISVTX
    return not shared and facts.st_uid in (0, os.geteuid())


def make_directory() -> str:
    """
    Make a directory, 0700, with a `bin` that programs can be started from; return its path.

    :raises Error: there is no place for it
    """
    found = [os.path.abspath(place) for place in places()]
    # A colon would end a path in PATH.
    found = [place for place in dict.fromkeys(found) if ":" not in place]
    found.sort(key=lambda place: not _PLAIN.match(place))
    tried = []
    for place in found:
        try:
            return try_place(place)
        except OSError as e:
            tried.append("%s: %s" % (place, e.strerror or e))
    raise core.Error(
        "no directory to start programs from; set TMPDIR to one that is not mounted noexec (%s)",
        "; ".join(tried),
    )


def try_place(place: str) -> str:
    """
    Make our directory in `place` and return its path.

    :raises OSError: that cannot be done, or not be used
    """
    if not is_private(place):
        raise OSError(0, "others may rename what is there")
    remove_stale(place)
    directory = tempfile.mkdtemp(prefix=PREFIX, dir=place)
    try:
        os.mkdir(os.path.join(directory, "bin"), 0o700)
        program = os.path.join(directory, "bin", "ssh")
        os.close(os.open(program, os.O_WRONLY | os.O_CREAT, 0o700))
        # access(2) knows of noexec.
        if not os.access(program, os.X_OK):
            raise OSError(0, "mounted noexec")
        with short_path(directory) as path:
            os.stat(path)
        return directory
    except BaseException:
        remove(directory)
        raise


def is_dead(path: str) -> bool:
    """Return whether nobody listens at a socket that is there; never waits for who does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except OSError as e:
            return e.errno == errno.ECONNREFUSED
    return False


def remove_stale(place: str) -> None:
    """Remove what processes of ours that were killed have left in `place`."""
    for name in os.listdir(place):
        directory = os.path.join(place, name)
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
