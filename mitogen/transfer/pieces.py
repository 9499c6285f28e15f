"""
One file between contexts: in pieces through the window of a flow. put_get.py and file_services.py
use it; docs/design/files.rst has the measurements.

Rules
    1. A piece is one frame, raw: neither end nor a relay puts anything together, and none of them
       holds more of a file than the flow's window.
    2. A file that changes while it is read is an error.
    3. What arrives is compared with what was sent: its size, and where it was passed on by others a
       check as well. On one stream a byte too many or too few makes the next frame none.

Threads: any, one at a time per object.
"""

from __future__ import annotations

import os
import stat
import sys
import zlib

from mitogen import core
from mitogen.core import RAW, CallError, ChannelError, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = [
    "Crc",
    "Error",
    "Outlet",
    "Packer",
    "Sha256",
    "check_for",
    "describe",
    "kind_of",
    "open_below",
    "open_regular",
    "read_pieces",
    "receive_pieces",
    "send_pieces",
    "unpacked",
    "write_all",
]

#: Bytes of a piece: one frame.
PIECE = core.FRAME_SIZE
#: Seconds without credit after which a transfer fails. Longer than a call's: a slow disk, or a link
#: that takes minutes for a window, is no error.
STALL_TIMEOUT = 300.0

OPEN_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Error(core.Error):
    """A transfer failed; nothing of it is left, unless `resume` was asked for."""

    #: The name that programs know, also where it was raised far away.
    __module__ = "mitogen.files"


# -- checks


class Crc:
    """
    A check of each piece and of their order: the CRC-32 of each, folded by a prime.

    A third of the price of SHA-256, and needs no library. It finds accidents; against a relay that
    lies no check helps, as that could alter it as well.
    """

    PRIME = (1 << 61) - 1

    def __init__(self) -> None:
        self.state = 0

    def update(self, piece: Any) -> None:
        """Take in one piece."""
        self.state = (self.state * 0x1F3D5B79 + zlib.crc32(piece) + 1) % self.PRIME

    def value(self) -> Any:
        """Return what both ends must have."""
        return self.state


class Sha256:
    """A check of all bytes, wherever the pieces were cut."""

    def __init__(self) -> None:
        # Not at the top: it takes a child 4 ms, and small files don't use it.
        import hashlib

        self._hash = hashlib.sha256()
        self.update = self._hash.update

    def value(self) -> Any:
        """Return what both ends must have."""
        return self._hash.digest()


def check_for(size: int | None) -> Any:
    return Crc() if size is not None and size <= PIECE else Sha256()


# -- packed pieces


class Packer:
    """
    Compresses pieces: what gets smaller by it. After one that doesn't, some are not tried: what is
    compressed already costs little then.

    :param bool enabled: whether to do anything
    """

    PASSED = 7

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._passed = self.PASSED

    def pack(self, record: Any) -> Any:
        """Return what to send for a piece, `["packed", bytes]`, or for what is no piece itself."""
        if not self.enabled or type(record) is not bytes:
            return record
        if self._passed < self.PASSED:
            self._passed += 1
            return record
        packed = zlib.compress(record, 1)
        if len(packed) < len(record) * 7 // 8:
            return ["packed", packed]
        self._passed = 0
        return record


def unpacked(record: Any) -> Any:
    """
    Return what pack() was given.

    :raises Error: it is not what pack() makes
    """
    if type(record) is not list or record[:1] != ["packed"]:
        return record
    if [type(each) for each in record[1:]] == [bytes]:
        try:
            stream = zlib.decompressobj()
            piece = stream.decompress(record[1], PIECE)
            if stream.eof and not stream.unused_data:
                return piece
        except zlib.error:
            pass
    raise Error("the sender sent nonsense for a packed piece")


# -- one file


class Outlet:
    """
    Sends to a mailbox of another context, and notices that nobody reads it any more.

    :param Sender sender: the mailbox
    """

    def __init__(self, sender: Any) -> None:
        self.context = sender.context
        self.handle = sender.dst_handle
        self.router = sender.context.router
        self.key = (self.context.context_id, self.handle)
        self._window: Any = None

    def _is_reached(self) -> bool:
        routes = self.router.routes
        return self.key[0] == self.router.context_id or routes.get(self.key[0]) is not None

    def _route(self, msg: Message) -> None:
        flows = self.router._flows
        # A mailbox that is closed ends the flow; what is sent from then on would be dropped.
        if self._window is not None and flows.get(self.key) is not self._window:
            raise ChannelError("context %d reads no more", self.key[0])
        if self._window is None and not self._is_reached():
            # Without a route there is no flow either.
            raise ChannelError("context %d is gone", self.key[0])
        msg.handle = self.handle
        waited = 0.0
        while True:
            try:
                self.context.send(msg)
                break
            except core.TimeoutError:
                waited += core.CREDIT_TIMEOUT
                if waited >= STALL_TIMEOUT:
                    raise
        if self._window is None:
            self._window = flows.get(self.key)

    def send(self, piece: bytes) -> None:
        """
        Send bytes; sleeps until there is credit.

        :raises ChannelError: nobody reads them
        :raises TimeoutError: they were not read for STALL_TIMEOUT seconds
        """
        self._route(Message(data=piece, flags=RAW))

    def record(self, value: Any) -> None:
        """Send a value; otherwise as send()."""
        if type(value) is bytes:
            self.send(value)
        else:
            self._route(Message(data=core.encode(value)))

    def fail(self, error: BaseException) -> None:
        """Send an error instead of the rest, if anybody still reads."""
        try:
            self.record(error if isinstance(error, CallError) else CallError(error))
        except core.Error:
            pass

    def abort(self) -> None:
        """End the flow, at once as far as this end is concerned."""
        self.router.route(Message.dead("given up", dst_id=self.key[0], handle=self.handle), False)


def kind_of(mode: int) -> str:
    for test, text in (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISFIFO, "fifo"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISLNK, "symlink"),
    ):
        if test(mode):
            return text
    return "device"


def open_regular(path: Any, dir_fd: int | None = None, follow: bool = True) -> int:
    """
    Return a descriptor of a regular file, for reading; a fifo or device is not waited for.

    :param path: the file
    :param int dir_fd: directory that it is relative to
    :param bool follow: open what a symlink leads to; otherwise that is an error
    :raises Error: it is something else
    :raises OSError: it cannot be opened
    """
    fd = os.open(path, OPEN_READ | (0 if follow else os.O_NOFOLLOW), dir_fd=dir_fd)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise Error("%r is a %s, no regular file", os.fsdecode(path), kind_of(mode))
    return fd


def open_below(root: str, path: str) -> int:
    """
    Return a descriptor of a regular file below a directory, for reading, whatever anybody does to
    the directories on the way meanwhile: no symlink is followed.

    :param str root: the directory, or the file itself where `path` is "."
    :param str path: relative, without `..`
    :raises Error: it is no regular file
    :raises OSError: it cannot be opened
    """
    names = [name for name in path.split(os.sep) if name not in ("", ".")]
    if not names:
        return open_regular(root, None, False)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            below = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        return open_regular(names[-1], fd, False)
    finally:
        os.close(fd)


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


def read_pieces(fd: int, name: Any, before: os.stat_result, offset: int = 0) -> Iterator[bytes]:
    """Yield what a file has from `offset` on, as it was when `before` was taken."""
    # What /proc and the like make up has no size, and ends where reading ends.
    left = before.st_size - offset if before.st_size else sys.maxsize
    position = offset
    while left > 0:
        piece = os.pread(fd, min(PIECE, left), position)
        if not piece:
            break
        left -= len(piece)
        position += len(piece)
        yield piece
    after = os.fstat(fd)
    if _changed(before, after):
        raise Error(
            "%r changed while it was sent: from %d bytes to %d, modified at %.6f",
            os.fsdecode(name),
            before.st_size,
            after.st_size,
            after.st_mtime,
        )


def describe(found: os.stat_result) -> dict[str, Any]:
    """
    Return what a FileService tells of a file.

    :param found: what os.fstat() returned
    :returns: dict of size (bytes), mode (with the file's type), owner, group (names, None where
        there is none), mtime and atime (seconds)
    """
    import grp
    import pwd

    def name_of(function: Any, number: int) -> str | None:
        try:
            return str(function(number)[0])
        except KeyError:
            return None

    return {
        "size": found.st_size,
        "mode": found.st_mode,
        "owner": name_of(pwd.getpwuid, found.st_uid),
        "group": name_of(grp.getgrgid, found.st_gid),
        "mtime": found.st_mtime,
        "atime": found.st_atime,
    }


def send_pieces(fd: int, path: str, outlet: Outlet, size: int, mtime: float) -> None:
    """
    Send one file, for receive_pieces().

    :param int fd: the file
    :param str path: its name, for errors
    :param Outlet outlet: where to
    :param int size: bytes that it had when it was asked for
    :param float mtime: seconds, likewise
    :raises Error: it has changed since then, or changes meanwhile
    :raises ChannelError: nobody reads it
    """
    before = os.fstat(fd)
    if (before.st_size, before.st_mtime) != (size, mtime):
        raise Error("%r changed between being asked for and being sent", path)
    check = Crc()
    sent = 0
    for piece in read_pieces(fd, path, before):
        check.update(piece)
        sent += len(piece)
        outlet.send(piece)
    outlet.record([sent, check.value()])


def write_all(write: Callable[[Any], Any], piece: bytes) -> None:
    # A raw file may take less than it is given; buffered ones, and others, take all.
    taken = write(piece)
    if type(taken) is int and 0 <= taken < len(piece):
        write_all(write, piece[taken:])


def receive_pieces(receiver: Any, write: Callable[[bytes], Any]) -> int:
    """
    Take in one file, as send_pieces() sends it.

    :param Receiver receiver: where it arrives
    :param write: called with each piece
    :returns: how many bytes
    :raises Error: it did not arrive as it was sent
    :raises CallError: the sender failed
    :raises ChannelError: the sender is gone
    """
    check = Crc()
    size = 0
    while True:
        msg = receiver.get()
        if not msg.flags & RAW:
            break
        check.update(msg.data)
        size += len(msg.data)
        write_all(write, msg.data)
    if msg.unpickle() != [size, check.value()]:
        raise Error("what arrived, %d bytes, is not what was sent", size)
    return size
