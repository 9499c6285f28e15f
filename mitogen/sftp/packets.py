"""
Packets of the SFTP protocol, version 3: cut from a stream of bytes, parsed, built. Who serves them:
server.py.

The protocol is draft-ietf-secsh-filexfer-02; what OpenSSH adds and does otherwise is section 4 of
its PROTOCOL file, and the length of a packet is that of its sftp-server. Names are those of the
draft without their SSH_FX... prefixes.

Rules
    1. Pure: no descriptor, no thread, no clock.
    2. A length that a packet claims is compared with what is there before anything is taken by it.
    3. A name is bytes and holds no NUL; nothing here knows an encoding.
    4. What a WRITE or a READ moves is never copied, and no memory is taken for it: it is a view of
       Buffer or of Replies.

Threads: any, one at a time per object.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MAX_DATA",
    "MAX_PACKET",
    "VERSION",
    "Attributes",
    "Attrs",
    "BadMessage",
    "Buffer",
    "Fields",
    "FramingError",
    "OpenFlags",
    "Packet",
    "Replies",
    "Status",
    "attrs_reply",
    "extended_reply",
    "handle_reply",
    "names_reply",
    "path_reply",
    "status_reply",
    "string",
    "version_reply",
]

#: The version of the protocol that is spoken.
VERSION = 3
#: Bytes of a packet without its length, in either direction: SFTP_MAX_MSG_LENGTH of OpenSSH.
MAX_PACKET = 256 * 1024
#: Bytes of file that one packet carries: what leaves 1 KiB for the rest, as in OpenSSH.
MAX_DATA = MAX_PACKET - 1024

_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">IBI")  # length, type, request id
_DATA = struct.Struct(">IBII")  # and the length of its bytes
_U64 = struct.Struct(">Q")
_ATTRS = struct.Struct(">IQIIIII")
_MASK = 0xFFFFFFFF


class Packet:
    """Types of packets: section 3 of the draft."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status:
    """Codes of a STATUS reply: section 7 of the draft."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    OP_UNSUPPORTED = 8


class Attrs:
    """Which attributes a packet has: section 5 of the draft."""

    SIZE = 0x1
    UIDGID = 0x2
    PERMISSIONS = 0x4
    ACMODTIME = 0x8
    EXTENDED = 0x80000000
    #: What a file has: all but EXTENDED.
    OF_FILE = SIZE | UIDGID | PERMISSIONS | ACMODTIME


class OpenFlags:
    """The pflags of an OPEN: section 6.3 of the draft."""

    READ = 0x1
    WRITE = 0x2
    APPEND = 0x4
    CREAT = 0x8
    TRUNC = 0x10
    EXCL = 0x20


# Texts of OpenSSH's server: clients show them.
_MESSAGES = {
    Status.OK: b"Success",
    Status.EOF: b"End of file",
    Status.NO_SUCH_FILE: b"No such file",
    Status.PERMISSION_DENIED: b"Permission denied",
    Status.FAILURE: b"Failure",
    Status.BAD_MESSAGE: b"Bad message",
    Status.OP_UNSUPPORTED: b"Operation unsupported",
}


class FramingError(Exception):
    """Where a packet ends is unknown: the session can't go on."""


class BadMessage(Exception):
    """A packet is not what its type says; the next one may be."""


# -- in


class Buffer:
    """
    Cuts a stream of bytes into packets; its memory is taken once and never grows.

    :param int limit: bytes of a packet, without its length, that are taken
    """

    def __init__(self, limit: int = MAX_PACKET) -> None:
        self._limit = limit
        # Two packets: what is moved to make room is then less than what was read.
        self._bytes = bytearray(2 * (limit + _LENGTH.size))
        self._view = memoryview(self._bytes)
        self._start = self._end = 0

    def space(self) -> memoryview:
        """
        Return where the next bytes belong. It invalidates what take() returned, and is never empty
        after that returned None.
        """
        have = self._end - self._start
        if not have:
            self._start = self._end = 0
        elif len(self._view) - self._start < self._limit + _LENGTH.size:
            self._view[:have] = self._view[self._start : self._end]
            self._start, self._end = 0, have
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """
        Take note that space() got bytes.

        :param int count: how many
        """
        self._end += count

    def take(self) -> memoryview | None:
        """
        Return the next packet from its type on, None while it is incomplete.

        :raises FramingError: its length is zero or over the limit; it is the same ever after
        """
        have = self._end - self._start
        if have < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._bytes, self._start)
        if not 1 <= length <= self._limit:
            raise FramingError("a packet of %d bytes; 1 to %d are taken" % (length, self._limit))
        if have < _LENGTH.size + length:
            return None
        first = self._start + _LENGTH.size
        self._start = first + length
        return self._view[first : self._start]


class Attributes:
    """
    What a client wants a file to be like; what `flags` does not name is None.

    :param int flags: of Attrs
    """

    def __init__(self, flags: int) -> None:
        self.flags = flags
        #: Bytes.
        self.size: int | None = None
        #: (uid, gid); -1 stands for leaving it alone, as in chown(2).
        self.owner: tuple[int, int] | None = None
        #: Mode, as in st_mode.
        self.permissions: int | None = None
        #: (access, modification), seconds since 1970.
        self.times: tuple[int, int] | None = None

    def mode(self, otherwise: int) -> int:
        """
        Return permission bits for something new.

        :param int otherwise: what they are if the client gave none
        """
        return otherwise if self.permissions is None else self.permissions & 0o7777


def _identity(number: int) -> int:
    # (uid_t) -1: os.chown() wants it written so.
    return -1 if number == _MASK else number


class Fields:
    """
    Takes the fields of a packet, in order; whatever follows them is of no interest.

    Each method raises BadMessage where less is left than the field needs.

    :param packet: from its type on
    """

    def __init__(self, packet: memoryview) -> None:
        self._packet = packet
        self._at = 0

    def _step(self, size: int) -> int:
        at = self._at
        if size > len(self._packet) - at:
            raise BadMessage("%d bytes of %d are left" % (len(self._packet) - at, size))
        self._at = at + size
        return at

    def u8(self) -> int:
        """Return an unsigned number of one byte."""
        return self._packet[self._step(1)]

    def u32(self) -> int:
        """Return an unsigned number of four bytes."""
        number: int = _LENGTH.unpack_from(self._packet, self._step(4))[0]
        return number

    def u64(self) -> int:
        """Return an unsigned number of eight bytes."""
        number: int = _U64.unpack_from(self._packet, self._step(8))[0]
        return number

    def data(self) -> memoryview:
        """Return a string without copying it: rule 4."""
        size = self.u32()
        at = self._step(size)
        return self._packet[at : at + size]

    def string(self) -> bytes:
        """Return a string of any bytes."""
        return bytes(self.data())

    def name(self) -> bytes:
        """Return a string that can be a path: without NUL."""
        name = self.string()
        if b"\0" in name:
            raise BadMessage("a name with a NUL")
        return name

    def attrs(self) -> Attributes:
        """Return attributes: section 5 of the draft."""
        found = Attributes(self.u32())
        if found.flags & Attrs.SIZE:
            found.size = self.u64()
        if found.flags & Attrs.UIDGID:
            found.owner = (_identity(self.u32()), _identity(self.u32()))
        if found.flags & Attrs.PERMISSIONS:
            found.permissions = self.u32()
        if found.flags & Attrs.ACMODTIME:
            found.times = (self.u32(), self.u32())
        if found.flags & Attrs.EXTENDED:
            for _ in range(self.u32()):
                self.data()
                self.data()
        return found


# -- out


class Replies:
    """
    Replies that were not sent yet; its memory is taken once and never grows.

    What is added must fit: ask has_room() first. All that is built here does fit then.
    """

    def __init__(self) -> None:
        # Two packets: one may be read while the other waits.
        self._bytes = bytearray(2 * (MAX_PACKET + _LENGTH.size))
        self._view = memoryview(self._bytes)
        self._start = self._end = 0

    def has_room(self) -> bool:
        """Return whether the longest packet still fits."""
        return len(self._view) - self._end >= MAX_PACKET + _LENGTH.size

    def add(self, reply: bytes) -> None:
        """Add a packet."""
        end = self._end + len(reply)
        self._view[self._end : end] = reply
        self._end = end

    def data_space(self, size: int) -> memoryview:
        """
        Return where the bytes of a DATA belong.

        :param int size: bytes that are wanted; it has MAX_DATA at most
        """
        first = self._end + _DATA.size
        return self._view[first : first + min(size, MAX_DATA)]

    def add_data(self, request: int, size: int) -> None:
        """
        Add a DATA, whose bytes are in data_space() already.

        :param int request: id of the request
        :param int size: how many these are
        """
        head = (size + _DATA.size - _LENGTH.size, Packet.DATA, request, size)
        _DATA.pack_into(self._bytes, self._end, *head)
        self._end += _DATA.size + size

    def pending(self) -> memoryview:
        """Return the bytes to be sent."""
        return self._view[self._start : self._end]

    def sent(self, count: int) -> None:
        """
        Take note that some of pending() was sent.

        :param int count: bytes
        """
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0


def string(value: bytes) -> bytes:
    """Return bytes with their length before them."""
    return _LENGTH.pack(len(value)) + value


def _reply(kind: int, request: int, body: bytes) -> bytes:
    if len(body) + 5 > MAX_PACKET:
        return status_reply(request, Status.FAILURE, b"Reply too long")
    return _HEAD.pack(len(body) + 5, kind, request) + body


def version_reply(extensions: Sequence[tuple[bytes, bytes]]) -> bytes:
    """
    Return the answer to INIT.

    :param extensions: (name, version) of each
    """
    body = b"".join(string(part) for pair in extensions for part in pair)
    return _HEAD.pack(len(body) + 5, Packet.VERSION, VERSION) + body


def status_reply(request: int, code: int, message: bytes | None = None) -> bytes:
    """
    Return a STATUS.

    :param int request: id of the request
    :param int code: of Status
    :param bytes message: for people, UTF-8; None: what OpenSSH says
    """
    text = _MESSAGES[code] if message is None else message
    return _reply(Packet.STATUS, request, _LENGTH.pack(code) + string(text) + string(b""))


def handle_reply(request: int, handle: bytes) -> bytes:
    """Return a HANDLE."""
    return _reply(Packet.HANDLE, request, string(handle))


def _attrs(found: os.stat_result) -> bytes:
    # By index: whole seconds, rounded as the kernel does; the attributes are floats.
    return _ATTRS.pack(
        Attrs.OF_FILE,
        found.st_size,
        found.st_uid & _MASK,
        found.st_gid & _MASK,
        found.st_mode,
        int(found[7]) & _MASK,
        int(found[8]) & _MASK,
    )


def attrs_reply(request: int, found: os.stat_result) -> bytes:
    """Return an ATTRS."""
    return _reply(Packet.ATTRS, request, _attrs(found))


def names_reply(request: int, entries: Sequence[tuple[bytes, bytes, os.stat_result]]) -> bytes:
    """
    Return a NAME for what a directory has.

    :param entries: (name, line as of `ls -l`, status) of each
    """
    parts = [_LENGTH.pack(len(entries))]
    for name, line, found in entries:
        parts += (string(name), string(line), _attrs(found))
    return _reply(Packet.NAME, request, b"".join(parts))


def path_reply(request: int, path: bytes) -> bytes:
    """Return a NAME for one path, without attributes."""
    body = _LENGTH.pack(1) + 2 * string(path) + _LENGTH.pack(0)
    return _reply(Packet.NAME, request, body)


def extended_reply(request: int, body: bytes) -> bytes:
    """Return an EXTENDED_REPLY."""
    return _reply(Packet.EXTENDED_REPLY, request, body)
