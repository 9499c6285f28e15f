"""
A worker's way to the broker process of its run: started by whoever needs it first.

Rules
    1. The run's directory is private to its account, and named by its main process.
    2. Who starts the broker holds a lock, so that there is one; one that is started ahead holds it
       itself until it can be asked.
    3. A connection is a process' own: a copy of the process makes another.

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

__all__ = ["Client", "Failed"]


#: What the broker process runs: this mitogen, wherever it is.
_MAIN = "import sys;sys.path.insert(0,%r);from mitogen.ansible.broker.server import main;main()"


class Failed(core.Error):
    """
    The broker could not do something.

    :param str kind: name of the exception there
    """

    def __init__(self, kind: str, text: str) -> None:
        core.Error.__init__(self, "%s", text)
        self.kind = kind


class Client:
    """
    :param str directory: the run's; made if need be
    :param int main_pid: the run's main process
    """

    def __init__(self, directory: str, main_pid: int) -> None:
        self.directory = directory
        self.main_pid = main_pid
        self._connection: rpc.Connection | None = None
        self._pid = 0
        self._divider = scripts.Divider()
        #: Digests of long parts of scripts that the connection has carried.
        self._carried: set[bytes] = set()

    def request(self, name: str, *args: Any) -> Any:
        """
        Ask the broker and return its answer.

        :raises Failed: it could not do that
        :raises Lost: it is gone
        """
        connection = self._connect()
        try:
            connection.send([name, *args])
            answer = connection.receive()
        except BaseException:
            # Interrupted, or lost: an answer that comes yet would be the next one's.
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
        """Have a Python run a script: as request() of Broker.script()."""
        parts = self._divider.parts(script)
        self._connect()
        sent = [[digest, None if digest in self._carried else data] for digest, data in parts]
        answer = self.request("script", steps, interpreter, environment, sent, options)
        self._carried.update(digest for digest, data in parts if len(data) >= scripts.LONG)
        return answer

    def close(self) -> None:
        """Close the connection; what was asked for is ended."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def start(self) -> subprocess.Popen[bytes] | None:
        """Start the broker process if there is none, without waiting for it; return it."""
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
            # None has been started, or it can't be asked yet.
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
        """Return a descriptor that holds the run's lock; None if another does."""
        os.makedirs(self.directory, 0o700, exist_ok=True)
        self._check(os.stat(self.directory))
        fd = os.open(os.path.join(self.directory, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
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
            # However long the path is.
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
                raise core.Error("the broker process has ended with status %s", status)

    def _popen(self, *args: str, **kwargs: Any) -> subprocess.Popen[bytes]:
        # With the environment as it is: that is what local tasks have. Without packages that are
        # installed: it needs none, and to look for them takes a fifth of its start.
        place = str(pathlib.Path(__file__).absolute().parents[3])
        words = [_MAIN % place, self.directory, str(self.main_pid), *args]
        command = [sys.executable, "-S", "-c", *words]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True, **kwargs
        )
