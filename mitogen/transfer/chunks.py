"""
Transfer of one file between contexts, in chunks through the window of a flow. Used by put_get.py
and file_services.py; docs/design/files.rst has the measurements.

Rules
    1. A chunk is one raw frame. Neither an end nor a relay joins frames, and none of them holds
       more of a file than the flow's window.
    2. A file that changes while it is read is an error.
    3. Received data is compared with the data that was sent, by size and, if a relay was involved,
       by a check as well. On a single stream, a missing or extra byte would make the next frame
       invalid.

Threads: any, one at a time per object.
"""

from __future__ import annotations

import errno
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
    "read_chunks",
    "receive_chunks",
    "send_chunks",
    "unpacked",
    "write_all",
]

#: Bytes in a chunk: one frame.
CHUNK = core.FRAME_SIZE
#: Seconds without credit after which a transfer fails. Longer than a call's limit: a slow disk is
#: not an error, nor is a link that takes minutes for a window.
STALL_TIMEOUT = 300.0

OPEN_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
#: PyPy does not define it. The value is Linux's.
O_PATH = getattr(os, "O_PATH", 0o10000000)
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Error(core.Error):
    """A transfer failed. Nothing of it is left, unless `resume` was given."""

    #: Public name, by which the error is also known when it was raised in another context.
    __module__ = "mitogen.files"


# -- checks


class Crc:
    """
    A checksum of each chunk and of their order: the CRC-32 of each, combined modulo a prime.

    It takes a third of the time of SHA-256 and needs no library. It detects accidents. No checksum
    protects against a malicious relay, which could alter the checksum as well.
    """

    PRIME = (1 << 61) - 1

    def __init__(self) -> None:
        self.state = 0

    def update(self, chunk: Any) -> None:
        """Add one chunk."""
        self.state = (self.state * 0x1F3D5B79 + zlib.crc32(chunk) + 1) % self.PRIME

    def value(self) -> Any:
        """Return the checksum, which must be the same at both ends."""
        return self.state


class Sha256:
    """A checksum of all bytes, independent of the division into chunks."""

    def __init__(self) -> None:
        # Imported here: it takes a child 4 ms, and small files do not need it.
        import hashlib

        self._hash = hashlib.sha256()
        self.update = self._hash.update

    def value(self) -> Any:
        """Return the checksum, which must be the same at both ends."""
        return self._hash.digest()


def check_for(size: int | None) -> Any:
    return Crc() if size is not None and size <= CHUNK else Sha256()


# -- packed chunks


class Packer:
    """
    Compressor of chunks. Chunks that do not shrink are sent as they are.

    After a chunk that did not shrink, the next PASSED chunks are not tried, so that data that is
    compressed already costs little.

    :param bool enabled: False: compress nothing
    """

    PASSED = 7

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._passed = self.PASSED

    def pack(self, record: Any) -> Any:
        """Return the record to send: `["packed", bytes]` if a chunk shrinks, else `record`."""
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
    Reverse Packer.pack().

    :raises Error: the record is malformed
    """
    if type(record) is not list or record[:1] != ["packed"]:
        return record
    if [type(each) for each in record[1:]] == [bytes]:
        try:
            stream = zlib.decompressobj()
            chunk = stream.decompress(record[1], CHUNK)
            if stream.eof and not stream.unused_data:
                return chunk
        except zlib.error:
            pass
    raise Error("the sender sent a malformed packed chunk")


# -- one file


class Outlet:
    """
    Sender to a mailbox of another context, which detects that the mailbox is closed.

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
        flows = self.router.flows
        # A closed mailbox ends the flow. Anything sent after that would be dropped.
        if self._window is not None and flows.get(self.key) is not self._window:
            raise ChannelError("context %d has closed the mailbox", self.key[0])
        if self._window is None and not self._is_reached():
            # Without a route there is no flow.
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

    def send(self, chunk: bytes) -> None:
        """
        Send bytes, after sleeping until there is credit.

        :raises ChannelError: the mailbox is closed, or its context is gone
        :raises TimeoutError: nothing was read for STALL_TIMEOUT seconds
        """
        self._route(Message(data=chunk, flags=RAW))

    def record(self, value: Any) -> None:
        """Send a value; bytes are sent as a chunk. Errors are those of send()."""
        if type(value) is bytes:
            self.send(value)
        else:
            self._route(Message(data=core.encode(value)))

    def fail(self, error: BaseException) -> None:
        """Send an error in place of the remaining records, unless the mailbox is closed."""
        try:
            self.record(error if isinstance(error, CallError) else CallError(error))
        except core.Error:
            pass

    def abort(self) -> None:
        """End the flow without waiting for the other end."""
        msg = Message.dead("transfer aborted", dst_id=self.key[0], handle=self.handle)
        self.router.route(msg, False)


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
    Open a regular file for reading, and return the descriptor. A fifo or device does not block.

    :param path: the file
    :param int dir_fd: directory that a relative path starts from
    :param bool follow: follow a symlink; otherwise a symlink is an error
    :raises Error: the path is not a regular file
    :raises OSError: the file cannot be opened
    """
    fd = os.open(path, OPEN_READ | (0 if follow else os.O_NOFOLLOW), dir_fd=dir_fd)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise Error("%r is a %s, not a regular file", os.fsdecode(path), kind_of(mode))
    return fd


def chmod_unfollowed(name: bytes, mode: int, dir_fd: int) -> None:
    """
    Change the mode of a file or directory, never that of a symlink's target.

    :raises OSError: it is a symlink, or its mode cannot be changed
    """
    if os.chmod in os.supports_follow_symlinks:
        return os.chmod(name, mode, dir_fd=dir_fd, follow_symlinks=False)
    # As in libc: fchmodat(2) can't do it, and fchmod(2) does not accept such a descriptor.
    fd = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(name))
        os.chmod("/proc/self/fd/%d" % fd, mode)
    finally:
        os.close(fd)


def open_below(root: str, path: str) -> int:
    """
    Open a regular file below a directory for reading, and return the descriptor. No symlink is
    followed, even if the directories in between are changed meanwhile.

    :param str root: the directory, or the file itself if `path` is "."
    :param str path: relative path without `..`
    :raises Error: the path is not a regular file
    :raises OSError: the file cannot be opened
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


def read_chunks(fd: int, name: Any, before: os.stat_result, offset: int = 0) -> Iterator[bytes]:
    """Yield a file's content from `offset` to the end that it had according to `before`."""
    # Files in /proc and similar have size 0. They are read up to the end of file.
    left = before.st_size - offset if before.st_size else sys.maxsize
    position = offset
    while left > 0:
        chunk = os.pread(fd, min(CHUNK, left), position)
        if not chunk:
            break
        left -= len(chunk)
        position += len(chunk)
        yield chunk
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
    Return the metadata that a FileService sends for a file.

    :param found: result of os.fstat()
    :returns: dict of size (bytes), mode (including the file type), owner and group (names, None if
        the number has none), mtime and atime (seconds)
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


def send_chunks(fd: int, path: str, outlet: Outlet, size: int, mtime: float) -> None:
    """
    Send one file to receive_chunks().

    :param int fd: descriptor of the file
    :param str path: path of the file, for errors
    :param Outlet outlet: destination
    :param int size: size in bytes at the time of the request
    :param float mtime: modification time at the time of the request, in seconds
    :raises Error: the file has changed since the request, or changes while it is sent
    :raises ChannelError: the receiver has closed its mailbox
    """
    before = os.fstat(fd)
    if (before.st_size, before.st_mtime) != (size, mtime):
        raise Error("%r changed between the request and the transfer", path)
    check = Crc()
    sent = 0
    for chunk in read_chunks(fd, path, before):
        check.update(chunk)
        sent += len(chunk)
        outlet.send(chunk)
    outlet.record([sent, check.value()])


def write_all(write: Callable[[Any], Any], chunk: bytes) -> None:
    # A raw file may write only a part. Buffered files and others write all of it.
    taken = write(chunk)
    if type(taken) is int and 0 <= taken < len(chunk):
        write_all(write, chunk[taken:])


def receive_chunks(receiver: Any, write: Callable[[bytes], Any]) -> int:
    """
    Receive one file from send_chunks().

    :param Receiver receiver: mailbox that receives the file
    :param write: called with each chunk
    :returns: number of bytes received
    :raises Error: the received data differs from the data that was sent
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
        raise Error("the received data, %d bytes, differs from the data that was sent", size)
    return size
