"""
An SFTP server, version 3, for targets that have none. With it sftp, scp and sshfs can copy files
to containers and service accounts. requests.py has the file operations and packets.py the encoding.
docs/design/sftp.rst compares it with OpenSSH's sftp-server and lists the omissions.

Rules
    1. Each request gets one reply, in order. If the end of a packet is unknown, the session ends.
    2. Requests that have arrived together are answered by one write, unless that takes longer than
       HOLD.
    3. The two descriptors belong to the caller and may be shared: they are neither changed nor
       closed.
    4. While replies cannot be sent, requests are read and answered as long as there is room.
       Otherwise a client that sends many requests before it reads (sftp -R 1000) would block
       forever.
    5. However a session ends, the handles that its client left open are closed.

Threads: a session runs on its caller's thread. It blocks on its two descriptors and on disks.
`python3 -m mitogen.sftp` is a session on stdin and stdout, as sftp-server is.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import stat
import sys
import time

from mitogen.sftp import packets, requests
from mitogen.sftp.packets import BadMessage, Fields, FramingError, Packet, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mitogen.sftp.requests import Reply

__all__ = ["MAX_HANDLES", "main", "serve"]

LOG = logging.getLogger("mitogen.sftp")

#: Maximum number of handles in a session, if the process may have twice as many descriptors.
MAX_HANDLES = 1024
#: Seconds that a reply may wait for the replies to the next requests.
HOLD = 0.01


class _ClientGone(Exception):
    """The client does not accept replies any more."""


def _default_home() -> bytes:
    # As for `~` in a shell: HOME, or the directory in passwd.
    home = os.path.expanduser(b"~")
    return home if home.startswith(b"/") and os.path.isdir(home) else b"/"


def _default_handles() -> int:
    # Half of the process' limit, since other code uses descriptors too.
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_HANDLES if soft == resource.RLIM_INFINITY else max(1, min(MAX_HANDLES, soft // 2))


class _Writer:
    """
    Writer that does not block. It does not set O_NONBLOCK, which would affect all processes that
    share the descriptor.

    :param int fd: the descriptor, blocking or not
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._own = -1
        self._socket: Any = None
        mode = os.fstat(fd).st_mode
        self._is_pipe = stat.S_ISFIFO(mode)
        if stat.S_ISSOCK(mode):
            import socket

            self._socket = socket.socket(fileno=fd)
            self._flags = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
        elif self._is_pipe:
            self._own = self._reopen()

    def _reopen(self) -> int:
        # On Linux this gives the pipe's private flags. It fails for another account's pipe.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open("/proc/self/fd/%d" % self.fd, flags)
        except OSError:
            return -1

    def write(self, data: memoryview) -> int:
        """
        Write as much as is possible at once; return the number of bytes.

        :raises BlockingIOError: nothing can be written now
        """
        if self._socket is not None:
            count: int = self._socket.send(data, self._flags)
            return count
        if self._own >= 0:
            return os.write(self._own, data)
        if self._is_pipe:
            # POSIX guarantees only that a pipe reported as writable accepts this many bytes.
            if not _poll({self.fd: select.POLLOUT}, 0):
                raise BlockingIOError
            data = data[: select.PIPE_BUF]
        return os.write(self.fd, data)

    def close(self) -> None:
        """Close the descriptors that this object opened."""
        if self._socket is not None:
            self._socket.detach()
        if self._own >= 0:
            os.close(self._own)


def _poll(events: dict[int, int], timeout: int | None = None) -> dict[int, int]:
    """Return the result of poll(2) for {fd: events}. `timeout` is in milliseconds."""
    poller = select.poll()
    for fd in events:
        poller.register(fd, events[fd])
    return dict(poller.poll(timeout))


class _Session:
    """A session that reads requests from one descriptor and writes replies to another."""

    def __init__(self, rfd: int, wfd: int, home: bytes, max_handles: int) -> None:
        self._rfd = rfd
        self._requests = packets.Buffer()
        self._replies = packets.Replies()
        self._files = requests.Files(home, self._replies, max_handles, self._is_gone)
        self._begun = self._ended = False
        self._sent_at = 0.0
        # Last of all: an error after it would leave a socket object that closes the caller's
        # descriptor.
        self._writer = _Writer(wfd)

    def _is_gone(self) -> bool:
        return bool(_poll({self._writer.fd: 0}, 0))

    def run(self) -> int:
        """Answer requests until the client ends the session; return an exit status."""
        try:
            return self._run()
        except _ClientGone as error:
            LOG.debug("SFTP session ends: the client is gone: %s", error)
            return 1
        finally:
            self._files.close_all()
            self._writer.close()

    def _run(self) -> int:
        try:
            self._answer_all()
            return 0
        except (FramingError, BadMessage) as error:
            LOG.warning("SFTP session ends: protocol error by the client: %s", error)
        # All previous requests were answered. Nothing more is read.
        # Requests before that were answered; nothing is read any more.
        self._ended = True
        while self._replies.pending():
            if not self._send():
                self._wait()
        return 255

    def _answer_all(self) -> None:
        while True:
            packet = self._requests.take() if self._replies.has_room() else None
            if packet is not None:
                self._answer(packet)
                if time.monotonic() - self._sent_at > HOLD:
                    self._send()
            elif self._replies.pending():
                if not self._send():
                    self._wait()
            elif self._ended:
                return
            else:
                self._read()

    # -- packets

    def _answer(self, packet: memoryview) -> None:
        fields = Fields(packet)
        kind = fields.u8()
        if kind == Packet.INIT:
            fields.u32()
            self._begun = True
            extensions = [(name, version) for name, (version, _) in requests.EXTENSIONS.items()]
            return self._replies.add(packets.version_reply(extensions))
        if not self._begun:
            raise FramingError("request %d before INIT" % kind)
        # Without an id no reply is possible, so an error here ends the session.
        request = fields.u32()
        try:
            reply = self._run_request(kind, request, fields)
        except Exception as error:
            reply = requests.error_reply(request, error)
        if reply is None or isinstance(reply, int):
            reply = packets.status_reply(request, reply or Status.OK)
        self._replies.add(reply)

    def _run_request(self, kind: int, request: int, fields: Fields) -> Reply:
        if kind == Packet.EXTENDED:
            row = requests.EXTENSIONS.get(fields.string(), (b"", None))[1]
        else:
            row = requests.REQUESTS.get(kind)
        if row is None:
            return Status.OP_UNSUPPORTED
        method, parsers = row
        return method(self._files, request, *[parse(fields) for parse in parsers])

    # -- bytes

    def _read(self) -> None:
        """Wait for requests, or for the end of file."""
        try:
            count = os.readv(self._rfd, [self._requests.space()])
        except BlockingIOError:
            # Another process that shares the descriptor has set O_NONBLOCK. It is not changed.
            _poll({self._rfd: select.POLLIN})
            return
        except OSError as error:
            raise _ClientGone(error) from None
        self._requests.filled(count)
        self._ended = not count

    def _send(self) -> bool:
        """Send some of the replies; return False if none can be sent now."""
        self._sent_at = time.monotonic()
        try:
            self._replies.sent(self._writer.write(self._replies.pending()))
        except BlockingIOError:
            return False
        except OSError as error:
            raise _ClientGone(error) from None
        return True

    def _wait(self) -> None:
        """Wait until replies can be sent. Meanwhile, read requests if there is room."""
        events = {self._writer.fd: select.POLLOUT}
        if not self._ended and self._requests.space():
            events[self._rfd] = events.get(self._rfd, 0) | select.POLLIN
        found = _poll(events)
        if events.get(self._rfd, 0) & select.POLLIN and found.get(self._rfd, 0) & ~select.POLLOUT:
            self._read()


def serve(
    rfd: int,
    wfd: int,
    home: None | str | bytes = None,
    max_handles: int | None = None,
) -> int:
    """
    Serve one client on this thread until it ends the session. Handles it left open are closed.

    The two descriptors stay open. To end a session from outside, close the client's ends of them,
    or call shutdown() on a socket: closing `rfd` does not wake this thread.

    The protocol is draft-ietf-secsh-filexfer-02, with extensions of OpenSSH's PROTOCOL file,
    section 4.

    :param int rfd: descriptor to read requests from: a pipe or socket, blocking or not
    :param int wfd: descriptor to write replies to; may be the same as `rfd`
    :param home: directory in which relative paths begin; None: HOME, the account's home directory,
        or `/`
    :param int max_handles: limit of open files and directories; None: 1024, or half of
        RLIMIT_NOFILE if that is less
    :returns int: exit status: 0: the client ended the session; 1: the client was lost; 255: the
        client violated the protocol
    :raises OSError: a descriptor is not open
    :raises ValueError: `home` is not absolute, or `max_handles` is less than 1
    """
    for fd in (rfd, wfd):
        os.fstat(fd)  # a closed number could be reused for a file that the client opens
    where = _default_home() if home is None else os.fsencode(home)
    if not where.startswith(b"/"):
        raise ValueError("home must be an absolute path, not %r" % (home,))
    limit = _default_handles() if max_handles is None else max_handles
    if limit < 1:
        raise ValueError("max_handles must be at least 1, not %d" % limit)
    return _Session(rfd, wfd, where, limit).run()


def main() -> int:
    """
    Run a session on stdin and stdout, as sftp-server does. Paths begin at the working directory.

    :returns int: exit status
    """
    import signal

    if len(sys.argv) > 1:
        sys.stderr.write("usage: python3 -m mitogen.sftp, which takes no arguments: see serve()\n")
        return 2
    # No traceback on SIGINT. There is nothing to clean up.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return serve(0, 1, os.getcwdb())
    except OSError as error:
        sys.stderr.write(
            "mitogen.sftp: stdin, stdout and a working directory are required: %s\n" % error
        )
        return 1
