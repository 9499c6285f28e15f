"""
Log handlers that `mitogen.core` had in old releases. Children send their records without them
(first_call.install_log_handler).

Separate from core_names.py, so that `logging` is imported only by programs that log.

Threads: any.
"""

from __future__ import annotations

import errno
import getpass
import logging
import os
import stat
import sys

from mitogen import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["IOLOG", "LOG", "LOGGERS", "LogHandler", "PidfulStreamHandler"]

LOG = logging.getLogger("mitogen")
IOLOG = logging.getLogger("mitogen.io")
LOGGERS = [LOG, IOLOG]


class LogHandler(logging.Handler):
    """
    Handler that sends log records to a context. Records logged before uncork() are queued.

    :param context: destination; a master passes the records to its own loggers
    """

    def __init__(self, context: core.Context) -> None:
        logging.Handler.__init__(self)
        self.context = context
        self._held: list[Any] | None = []

    def uncork(self) -> None:
        """Send the queued records; from now on send records at once."""
        held, self._held = self._held, None
        for fields in held or ():
            self._send(fields)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record. Records that mitogen logs while sending are not sent."""
        if record.name == "mitogen.io":
            return
        try:
            fields = [
                record.name,
                record.levelno,
                self.format(record),
                record.pathname,
                record.lineno,
                record.funcName,
            ]
            if self._held is None:
                self._send(fields)
            else:
                self._held.append(fields)
        except Exception:
            self.handleError(record)

    def _send(self, fields: list[Any]) -> None:
        msg = core.Message(
            dst_id=self.context.context_id, handle=core.FORWARD_LOG, data=core.encode(fields)
        )
        self.context.router.route(msg, False)


def _open_private(path: str) -> int:
    """Open a file for appending that no other account has made or may read."""
    flags = os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fd = os.open(path, flags)
    found = os.fstat(fd)
    own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
    if not own or found.st_mode & 0o077:
        os.close(fd)
        raise PermissionError(errno.EPERM, "the file was made by another account", path)
    return fd


class PidfulStreamHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """
    Handler that writes records to a file per process, also after a fork.

    It leaves files behind, so it is for debugging only. mitogen itself never installs it.
    """

    #: Path of the file: user and pid.
    template = "/tmp/mitogen.%s.%s.log"
    #: Process that opened the file.
    open_pid: int | None = None

    def __init__(self, stream: Any = None) -> None:
        logging.StreamHandler.__init__(self, stream or sys.stderr)

    def _reopen(self) -> None:
        if self.open_pid is not None:
            self.stream.close()
        path = self.template % (getpass.getuser(), os.getpid())
        self.stream = os.fdopen(_open_private(path), "a")
        self.open_pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.acquire()
        try:
            if self.open_pid != os.getpid():
                self._reopen()
            logging.StreamHandler.emit(self, record)
        except Exception:
            self.handleError(record)
        finally:
            self.release()

    def close(self) -> None:
        """Close the file."""
        if self.open_pid == os.getpid():
            self.stream.close()
            self.open_pid = None
        logging.StreamHandler.close(self)
