"""
An SFTP server, version 3, for targets that have none: file copy by sftp, scp and sshfs works into
containers and service accounts. What it does with files: files.py; bytes of the protocol:
packets.py; how it compares with OpenSSH's sftp-server, and what is left out:
docs/design/sftp.rst.

Rules
    1. Each request gets one reply, in order. Where a packet ends is unknown, the session ends.
    2. Requests that are there already are answered by one write, if that takes no longer than HOLD.
    3. The two descriptors are the caller's, and may be shared: they are neither changed nor closed.
    4. While replies can't be sent, requests are read and answered, as long as there is room: a
       client that sends many before it reads (sftp -R 1000) would wait for ever otherwise.
    5. However a session ends, what its client left open is closed.

Threads: a session is its caller's thread; it blocks on its two descriptors, and on disks.
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

from mitogen.sftp import files, packets
from mitogen.sftp.packets import BadMessage, Fields, FramingError, Packet, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mitogen.sftp.files import Reply

__all__ = ["MAX_HANDLES", "main", "serve"]

LOG = logging.getLogger("mitogen.sftp")

#: Handles of a session at most, if the process may have twice as many descriptors.
MAX_HANDLES = 1024
#: Seconds that a reply waits for those to the next requests.
HOLD = 0.01


class _Lost(Exception):
    """The client takes no more replies."""


def _default_home() -> bytes:
    # As a shell's `~`: HOME, else what passwd has.
    home = os.path.expanduser(b"~")
    return home if home.startswith(b"/") and os.path.isdir(home) else b"/"


def _default_handles() -> int:
    # Half of what the process may have: others share it.
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_HANDLES if soft == resource.RLIM_INFINITY else max(1, min(MAX_HANDLES, soft // 2))


class _Writer:
    """
    Writes what is taken at once, without O_NONBLOCK: that would be everybody's who shares the
    descriptor.

    :param int fd: blocking or not
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
        # Linux: the same pipe with flags of its own. Refused where it is another account's.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open("/proc/self/fd/%d" % self.fd, flags)
        except OSError:
            return -1

    def write(self, data: memoryview) -> int:
        """
        Return how many bytes were taken.

        :raises BlockingIOError: none, as of now
        """
        if self._socket is not None:
            count: int = self._socket.send(data, self._flags)
            return count
        if self._own >= 0:
            return os.write(self._own, data)
        if self._is_pipe:
            # Of a pipe with room POSIX promises no more than that it takes these.
            if not _poll({self.fd: select.POLLOUT}, 0):
                raise BlockingIOError
            data = data[: select.PIPE_BUF]
        return os.write(self.fd, data)

    def close(self) -> None:
        """Close what is its own."""
        if self._socket is not None:
            self._socket.detach()
        if self._own >= 0:
            os.close(self._own)


def _poll(events: dict[int, int], timeout: int | None = None) -> dict[int, int]:
    """Return what poll(2) says of {fd: events}; `timeout` is in ms."""
    poller = select.poll()
    for fd in events:
        poller.register(fd, events[fd])
    return dict(poller.poll(timeout))


class _Session:
    """Reads requests from one descriptor and writes replies to another."""

    def __init__(self, rfd: int, wfd: int, home: bytes, max_handles: int) -> None:
        self._rfd = rfd
        self._requests = packets.Buffer()
        self._replies = packets.Replies()
        self._files = files.Files(home, self._replies, max_handles, self._is_gone)
        self._begun = self._ended = False
        self._sent_at = 0.0
        # Last: what has a writer must close it, or a socket of the caller's goes with it.
        self._writer = _Writer(wfd)

    def _is_gone(self) -> bool:
        return bool(_poll({self._writer.fd: 0}, 0))

    def run(self) -> int:
        """Answer until the client ends; return an exit status."""
        try:
            return self._run()
        except _Lost as error:
            LOG.debug("an SFTP session ends: its client is gone: %s", error)
            return 1
        finally:
            self._files.close_all()
            self._writer.close()

    def _run(self) -> int:
        try:
            self._answer_all()
            return 0
        except (FramingError, BadMessage) as error:
            LOG.warning("an SFTP session ends: its client sent %s", error)
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
            extensions = [(name, version) for name, (version, _) in files.EXTENSIONS.items()]
            return self._replies.add(packets.version_reply(extensions))
        if not self._begun:
            raise FramingError("request %d before INIT" % kind)
        # Without an id there is nobody to tell: that ends the session.
        request = fields.u32()
        try:
            reply = self._carry_out(kind, request, fields)
        except Exception as error:
            reply = files.refusal(request, error)
        if reply is None or isinstance(reply, int):
            reply = packets.status_reply(request, reply or Status.OK)
        self._replies.add(reply)

    def _carry_out(self, kind: int, request: int, fields: Fields) -> Reply:
        if kind == Packet.EXTENDED:
            row = files.EXTENSIONS.get(fields.string(), (b"", None))[1]
        else:
            row = files.REQUESTS.get(kind)
        if row is None:
            return Status.OP_UNSUPPORTED
        method, parsers = row
        return method(self._files, request, *[parse(fields) for parse in parsers])

    # -- bytes

    def _read(self) -> None:
        """Wait for requests, or for their end."""
        try:
            count = os.readv(self._rfd, [self._requests.space()])
        except BlockingIOError:
            # Whoever shares this descriptor made it so; it is not ours to change.
            _poll({self._rfd: select.POLLIN})
            return
        except OSError as error:
            raise _Lost(error) from None
        self._requests.filled(count)
        self._ended = not count

    def _send(self) -> bool:
        """Send some of the replies; return False if none is taken now."""
        self._sent_at = time.monotonic()
        try:
            self._replies.sent(self._writer.write(self._replies.pending()))
        except BlockingIOError:
            return False
        except OSError as error:
            raise _Lost(error) from None
        return True

    def _wait(self) -> None:
        """Wait until replies are taken; read meanwhile, if there is room."""
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
    Answer one client until it ends, on this thread; files it left open are closed.

    The two descriptors stay open. To end a session from outside, end the client's side of them, or
    shutdown() a socket: closing `rfd` wakes nobody.

    The protocol is draft-ietf-secsh-filexfer-02, with extensions of OpenSSH's PROTOCOL file,
    section 4.

    :param int rfd: where requests come from: a pipe or socket, blocking or not
    :param int wfd: where replies go to; may be the same
    :param home: directory that relative paths begin at; None: HOME, or that of the account, or `/`
    :param int max_handles: open files and directories of the client at most; None: 1024, or half of
        what RLIMIT_NOFILE lets the process have
    :returns int: an exit status: 0 the client ended the session, 1 it went while it was answered,
        255 what it sent was no SFTP
    :raises OSError: a descriptor is not open
    :raises ValueError: `home` is not absolute, or `max_handles` is less than 1
    """
    for fd in (rfd, wfd):
        os.fstat(fd)  # or a file that the client opens gets the number, and the replies
    where = _default_home() if home is None else os.fsencode(home)
    if not where.startswith(b"/"):
        raise ValueError("home=%r: give an absolute path" % (home,))
    limit = _default_handles() if max_handles is None else max_handles
    if limit < 1:
        raise ValueError("max_handles=%d: give 1 or more" % limit)
    return _Session(rfd, wfd, where, limit).run()


def main() -> int:
    """
    Be an sftp-server: a session on stdin and stdout, whose paths begin at the working directory.

    :returns int: the exit status
    """
    import signal

    if len(sys.argv) > 1:
        sys.stderr.write("usage: python3 -m mitogen.sftp, which takes no arguments: see serve()\n")
        return 2
    # Not a traceback; and without an end of its own, nothing needs to be done.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return serve(0, 1, os.getcwdb())
    except OSError as error:
        sys.stderr.write("mitogen.sftp: %s: stdin, stdout and a directory are needed\n" % error)
        return 1
