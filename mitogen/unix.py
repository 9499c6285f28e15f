"""
Join a tree from another process of this machine and account, through a Unix domain socket.

The listening process gives a joining one an id and its own authority: the joined process may call
functions in every context that the listening one may, and start contexts of its own.

Protocol on the socket, big-endian: the joining process sends `>L`, its pid; the listener replies
`>LLL`, the new id, the listener's id, the listener's pid; `>LL`, a count and a length; that many
`>L`, the ids of the listener's ancestors, nearest first; and that many bytes, the path of its main
program. Frames follow.

Rules
    1. Each end gets the other's user id from the kernel (SO_PEERCRED): other accounts are refused.
    2. Only frames sent by the joined process itself get the listener's authority; frames from
       other contexts that pass through it are checked as usual.
    3. Functions are imported where they are called: modules of the joined process are not sent to
       contexts that it did not start. Functions of `__main__` can be called if both processes run
       the same program.

Threads: accepting and all streams on the broker's; connect() on the caller's.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
import tempfile
import types

from mitogen import core, identity, parent
from mitogen.tree.connecting import ChildStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "ConnectError",
    "Error",
    "JoinedStream",
    "Listener",
    "connect",
    "is_path_dead",
    "make_socket_path",
]

#: Seconds within which the greeting must be complete, at both ends.
GREETING_TIMEOUT = 10.0
#: Maximum number of connections in the greeting phase.
MAX_GREETINGS = 1000

_PID = struct.Struct(">L")
_WELCOME = struct.Struct(">LLLLL")


class Error(core.Error):
    """A socket cannot be listened on, or the process at its other end is not trusted."""


class ConnectError(Error):
    """
    No process listens at a path.

    `errno` is the system's error number, if the system reported the error.
    """

    errno: int | None = None


def make_socket_path() -> str:
    """Return a path for a new socket, in a new directory that only this account may enter."""
    return os.path.join(tempfile.mkdtemp(prefix="mitogen_unix_"), "socket")


def is_path_dead(path: str | os.PathLike[str]) -> bool:
    """
    Return whether no process listens at `path`: there is no socket, or an abandoned one.

    :param path: path of a socket, str or path
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(os.fspath(path))
    except OSError as e:
        return e.errno in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK)
    finally:
        sock.close()
    return False


def peer_credentials(sock: socket.socket) -> tuple[int | None, int]:
    """
    Return (pid or None, user id) of the process at the other end of a connected socket.

    :raises Error: this system does not support it
    """
    if hasattr(socket, "SO_PEERCRED"):  # unix(7)
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("=iII", data)
        return pid, uid
    if hasattr(socket, "LOCAL_PEERCRED"):  # unix(4) of the BSDs: struct xucred
        data = sock.getsockopt(0, socket.LOCAL_PEERCRED, 128)
        return None, struct.unpack_from("=II", data)[1]
    raise Error("this system does not report the account at the other end of a socket")


def _check_peer(sock: socket.socket, path: str) -> None:
    uid = peer_credentials(sock)[1]
    if uid != os.geteuid():
        raise Error(
            "%s: the process at the other end runs as user %d, not %d", path, uid, os.geteuid()
        )


class JoinedStream(ChildStream):
    """
    The stream to a process that has joined.

    :param Router router: router of the listening process
    :param int remote_id: id given to the joined process
    :param int fd: descriptor of the socket
    """

    #: Attributes of a connection method. No keepalives: the kernel reports the end of the process.
    keepalive_interval = 0
    is_client = False
    conn = property(lambda self: self)

    def __init__(self, router: Any, remote_id: int, fd: int, name: str) -> None:
        ChildStream.__init__(self, router, remote_id, fd)
        self.router: Any = router
        self.name = name
        self.auth_id = router.context_id
        self.give(remote_id, remote_id + 1)
        self.on_frame = self._stamp
        core.listen(self, "disconnect", self._on_gone)

    def _stamp(self, msg: Any, stream: Any) -> None:
        router = self.router
        if msg.src_id != self.remote_id or msg.auth_id != self.remote_id:
            router.on_frame(msg, stream)
            return
        if router.routes.get(msg.src_id) is stream:
            msg.auth_id = self.auth_id
            router.accept(msg, stream)

    def _on_gone(self) -> None:
        self.router.branch.streams.discard(self)
        for func in self.when_gone:
            func()

    def kill(self) -> None:
        """Do nothing: the process is only disconnected, not terminated."""


class Listener:
    """
    Accepts processes of this account that join; made by build_stream().

    :param Router router: router of this process, also a child's
    :param str path: path of the socket
    :param int backlog: maximum number of connections waiting to be accepted
    :param bool own_directory: remove the socket's directory with it
    """

    def __init__(
        self, router: Any, path: str, backlog: int = 100, own_directory: bool = False
    ) -> None:
        self.router = router
        self.broker = router.broker
        #: Path of the socket.
        self.path = path
        self.own_directory = own_directory
        self.closed = False
        self.greetings: dict[int, _Greeting] = {}
        self.streams: set[JoinedStream] = set()
        # On the broker thread no signal can interrupt it before the clean-up is registered.
        parent.defer_sync(self.broker, lambda: self._open(backlog))

    @classmethod
    def build_stream(
        cls, router: Any, path: str | os.PathLike[str] | None = None, backlog: int = 100
    ) -> Listener:
        """
        Listen at `path` and return the Listener; its `path` (and `protocol.path`) is the place.

        :param Router router: router of this process, also a child's
        :param path: str or path; None for a new socket in a directory of its own
        :param int backlog: maximum number of connections waiting to be accepted
        :raises Error: the path is in use or not usable
        """
        parent.upgrade(router)
        own = path is None
        text = make_socket_path() if path is None else os.fspath(path)
        try:
            return cls(router, text, backlog, own)
        except BaseException:
            if own and not os.path.lexists(text):
                os.rmdir(os.path.dirname(text))
            raise

    def _open(self, backlog: int) -> None:
        if self.broker.closing:
            raise Error("%s: cannot listen, because this context is shutting down", self.path)
        self.sock = self._listen(backlog)
        core.listen(self.broker, "shutdown", self._close)
        self.broker.poller.watch(self.sock.fileno(), self._on_accept)

    @property
    def protocol(self) -> Listener:
        """Return itself, because programs read `listener.protocol.path`."""
        return self

    def _listen(self, backlog: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            if os.path.lexists(self.path) and stat.S_ISSOCK(os.lstat(self.path).st_mode):
                if not is_path_dead(self.path):
                    raise Error("%s: another process listens there; use another path", self.path)
                os.unlink(self.path)
            self._bind(sock)
            sock.listen(backlog)
            sock.setblocking(False)
        except OSError as e:
            sock.close()
            raise Error("cannot listen at %s: %s", self.path, e) from e
        except BaseException:
            sock.close()
            raise
        return sock

    def _bind(self, sock: socket.socket) -> None:
        # On Linux the file gets the mode of the socket. Some systems ignore a socket's mode, so
        # _on_accept() checks the account, too.
        try:
            os.fchmod(sock.fileno(), 0o600)
        except OSError:
            pass
        sock.bind(self.path)
        if os.chmod in os.supports_follow_symlinks:
            os.chmod(self.path, 0o600, follow_symlinks=False)

    def _on_accept(self) -> None:
        try:
            sock = self.sock.accept()[0]
        except OSError:
            # The connection is gone, or no descriptor is free: then it stays in the backlog.
            return
        try:
            _check_peer(sock, self.path)
            if len(self.greetings) >= MAX_GREETINGS:
                raise Error("%s: too many connections at once", self.path)
        except (Error, OSError) as e:
            sock.close()
            self.router.log(core.ERROR, "unix: %s", e)
            return
        greeting = _Greeting(self, sock)
        self.greetings[sock.fileno()] = greeting

    def close(self) -> None:
        """Any thread: stop listening, remove the socket, and disconnect the joined processes."""
        self.broker.defer(self._close)

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.broker.poller.watch(self.sock.fileno())
        self.sock.close()
        for greeting in list(self.greetings.values()):
            greeting.end()
        for stream in list(self.streams):
            stream.disconnect("the listener was closed")
        try:
            os.unlink(self.path)
            if self.own_directory:
                os.rmdir(os.path.dirname(self.path))
        except OSError:
            # Already removed by another process.
            pass


class _Greeting:
    """A connection before it becomes a stream. Broker thread only."""

    def __init__(self, listener: Listener, sock: socket.socket) -> None:
        self.listener = listener
        self.sock = sock
        self.fd = sock.fileno()
        self.data = b""
        sock.setblocking(False)
        broker = listener.broker
        broker.poller.watch(self.fd, self.on_readable)
        self.deadline = broker.after(GREETING_TIMEOUT, self.end)

    def end(self) -> None:
        """Close the connection."""
        self._forget()
        self.sock.close()

    def _forget(self) -> None:
        self.deadline.clear()
        if self.listener.greetings.pop(self.fd, None):
            self.listener.broker.poller.watch(self.fd)

    def on_readable(self) -> None:
        data = core.read_fd(self.fd, _PID.size - len(self.data))
        if data is None:
            return
        self.data += data
        if not data:
            self.end()
        elif len(self.data) == _PID.size:
            self.listener.broker.poller.watch(self.fd)
            self.listener.router.branch.ids.take(self._welcome)

    def _welcome(self, context_id: int | None) -> None:
        listener = self.listener
        router = listener.router
        if context_id is None or self.fd not in listener.greetings:
            return self.end()
        self._forget()
        pid = _PID.unpack(self.data)[0]
        stream = JoinedStream(router, context_id, self.sock.detach(), "unix.%d" % pid)
        listener.streams.add(stream)
        core.listen(stream, "disconnect", lambda: listener.streams.discard(stream))
        router.context_by_id(context_id, name=stream.name)
        above = router.node.parent_ids
        # Done before it learns its id, because messages to it may follow at once.
        router.branch.add_stream(stream)
        main = main_path()
        head = (context_id, router.context_id, os.getpid(), len(above), len(main))
        stream.send(_WELCOME.pack(*head), b"".join(map(_PID.pack, above)) + main)
        stream.start()


def connect(
    path: str | os.PathLike[str], broker: core.Broker | None = None
) -> tuple[Any, core.Context]:
    """
    Join the tree of the process that listens at `path`.

    Leave it by `router.broker.shutdown()` and `join()`; contexts that this process started are shut
    down, too.

    :param path: path of the socket, str or path
    :param Broker broker: None to start one
    :returns: (Router, Context of the listening process)
    :raises ConnectError: no process listens there
    :raises Error: the listening process is another account's, or uses another protocol
    """
    text = os.fspath(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(GREETING_TIMEOUT)
        context_id, ids, main = _greet(sock, text)
        router = _make_router(broker, core.Node(context_id, ids))
        router.shares_main = bool(main) and main == main_path()
    except BaseException:
        sock.close()
        raise
    fd = sock.detach()
    stream = core.Stream(router, ids[0], fd, fd, "unix.%s" % text)
    router.routes.parent = stream
    router.add_handler(
        lambda msg: stream.disconnect("ended by the tree"),
        core.SHUTDOWN,
        policy=core.has_parent_authority,
    )
    core.listen(router.broker, "shutdown", lambda: stream.disconnect("shutdown"))
    router.broker.defer(stream.start)
    return router, router.context_by_id(ids[0], name="unix.%s" % text)


def main_path() -> bytes:
    """Return the path of this process's main program, a child's too; empty if it has none."""
    if identity.is_master():
        path = getattr(sys.modules.get("__main__"), "__file__", None)
        return os.fsencode(os.path.realpath(path)) if path else b""
    importer: Any = sys.modules["mitogen"].__loader__
    entry = importer.modules.get("__main__")
    return os.fsencode(os.path.realpath(entry.path)) if entry and entry.path else b""


def _greet(sock: socket.socket, path: str) -> tuple[int, list[int], bytes]:
    try:
        sock.connect(path)
    except OSError as e:
        error = ConnectError("cannot connect to %s: %s; check that its program is running", path, e)
        error.errno = e.errno
        raise error from e
    _check_peer(sock, path)
    try:
        sock.sendall(_PID.pack(os.getpid()))
        head = _WELCOME.unpack(_receive(sock, _WELCOME.size))
        context_id, remote_id, _, count, length = head
        rest = _receive(sock, count * _PID.size)
        main = _receive(sock, length)
    except (OSError, EOFError) as e:
        raise ConnectError("%s: no greeting from the listening process: %s", path, e) from e
    return context_id, [remote_id] + [each for (each,) in _PID.iter_unpack(rest)], main


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise EOFError("it closed the connection")
        data += chunk
    return data


def _make_router(broker: core.Broker | None, node: core.Node) -> Any:
    if identity.is_master():
        from mitogen import master

        identity.set_parents(node.parent_ids, node.context_id)
        return master.Router(broker, node=node)
    return _router_of_child(broker or core.Broker(), node)


def _router_of_child(broker: core.Broker, node: core.Node) -> Any:
    """Return a second router for a process that is a child in a tree, to pass on its modules."""
    importer: Any = sys.modules["mitogen"].__loader__
    econtext = importer.router.econtext
    router: Any = parent.Router(broker, node)
    router.importer = importer
    router.log = importer.router.log
    router.log_level = importer.router.log_level
    router.econtext = types.SimpleNamespace(
        config=econtext.config, core_source=econtext.core_source, detached=False
    )
    parent.upgrade(router)
    return router
