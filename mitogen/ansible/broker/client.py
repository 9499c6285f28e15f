"""
A worker's client of the broker process of its run; the first client starts that process.

Rules
    1. The run's directory is private to its account, and named after its main process.
    2. The process that starts the broker holds a lock, so that there is only one. A broker that is
       started in advance holds the lock itself until it accepts connections.
    3. A connection belongs to one process: a fork of it makes its own.

Threads: one at a time for each Client.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import socket
import subprocess
import sys

from mitogen import core
from mitogen.ansible.broker import rpc, scripts
from mitogen.ansible.broker.names import LOCK, SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Client", "Failed", "make_private_directories"]


#: Program of the broker process: uses this copy of mitogen, wherever it is.
_MAIN = "import sys;sys.path.insert(0,%r);from mitogen.ansible.broker.server import main;main()"


def make_private_directories(path: str) -> None:
    """
    Make a directory and those missing above it, all with mode 0700 whatever the umask is.

    os.makedirs() applies its mode only to the last of them.
    """
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        make_private_directories(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass


class Failed(core.Error):
    """
    The broker could not carry out a request.

    :param str kind: name of the exception's class in the broker
    """

    def __init__(self, kind: str, text: str) -> None:
        core.Error.__init__(self, "%s", text)
        self.kind = kind


class Client:
    """
    Client of one run's broker.

    :param str directory: directory of the run; created if needed
    :param int main_pid: pid of the run's main process
    """

    def __init__(self, directory: str, main_pid: int) -> None:
        self.directory = directory
        self.main_pid = main_pid
        self._connection: rpc.Connection | None = None
        self._pid = 0
        self._divider = scripts.Divider()
        #: Digests of long parts of scripts already sent on this connection.
        self._carried: set[bytes] = set()

    def request(self, name: str, *args: Any) -> Any:
        """
        Send a request to the broker and return its result.

        :raises Failed: the broker could not carry it out
        :raises Lost: the broker is gone
        """
        connection = self._connect()
        try:
            connection.send([name, *args])
            answer = connection.receive()
        except BaseException:
            # Interrupted or lost: a late answer would be taken for the next request's.
            self.close()
            raise
        if answer[0] == "error":
            raise Failed(*answer[1:])
        return answer[1]

    def script(
        self,
        steps: list[Any],
        interpreter: str,
        environment: dict[str, str],
        script: bytes,
        options: dict[str, Any],
    ) -> Any:
        """Run a script in a Python, like request() of Broker.script()."""
        parts = self._divider.parts(script)
        self._connect()
        sent = [[digest, None if digest in self._carried else data] for digest, data in parts]
        answer = self.request("script", steps, interpreter, environment, sent, options)
        self._carried.update(digest for digest, data in parts if len(data) >= scripts.LONG)
        return answer

    def close(self) -> None:
        """Close the connection; the broker cancels a pending request."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def start(self) -> subprocess.Popen[bytes] | None:
        """Start the broker process if there is none; return it without waiting for it."""
        fd = self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            if fd is None or os.path.exists(os.path.join(self.directory, SOCKET)):
                return None
            return self._popen(str(fd), pass_fds=[fd], stdout=subprocess.DEVNULL)
        finally:
            if fd is not None:
                os.close(fd)

    def _connect(self) -> rpc.Connection:
        if self._connection is None or self._pid != os.getpid():
            self._connection = rpc.Connection(self._open())
            self._pid = os.getpid()
            self._carried.clear()
        return self._connection

    def _open(self) -> socket.socket:
        try:
            return self._dial()
        except OSError:
            # No broker was started, or it does not accept connections yet.
            pass
        fd: Any = self._lock(fcntl.LOCK_EX)
        try:
            try:
                return self._dial()
            except OSError:
                self._start()
                return self._dial()
        finally:
            os.close(fd)

    def _lock(self, how: int) -> int | None:
        """Return a descriptor that holds the run's lock; None if another process holds it."""
        make_private_directories(self.directory)
        self._check(os.stat(self.directory))
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        fd = os.open(os.path.join(self.directory, LOCK), flags, 0o600)
        try:
            fcntl.flock(fd, how)
            return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise

    def _check(self, found: os.stat_result) -> None:
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise core.Error("%s is not private to this account", self.directory)

    def _dial(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            self._check(os.fstat(directory))
            # A path relative to a descriptor, because the full path may be too long for a socket.
            sock.connect("/proc/self/fd/%d/%s" % (directory, SOCKET))
            return sock
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(directory)

    def _start(self) -> None:
        path = os.path.join(self.directory, SOCKET)
        if os.path.exists(path):
            os.unlink(path)
        process = self._popen(stdout=subprocess.PIPE)
        stdout: Any = process.stdout
        with stdout:
            if not stdout.readline():
                status = process.wait()
                raise core.Error(
                    "the broker process exited at its start with status %s; its output precedes "
                    "this message",
                    status,
                )

    def _popen(self, *args: str, **kwargs: Any) -> subprocess.Popen[bytes]:
        # The environment is inherited, because local tasks need it. -S leaves out installed
        # packages: none is needed, and looking for them takes a fifth of the start-up time.
        place = str(pathlib.Path(__file__).absolute().parents[3])
        words = [_MAIN % place, self.directory, str(self.main_pid), *args]
        command = [sys.executable, "-S", "-c", *words]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True, **kwargs
        )
