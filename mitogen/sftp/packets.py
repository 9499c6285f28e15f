"""
Packets of the SFTP protocol, version 3: splitting a stream into packets, parsing, and building.
server.py serves them.

The protocol is draft-ietf-secsh-filexfer-02. OpenSSH's additions and deviations are in section 4 of
its PROTOCOL file, and the maximum length of a packet is that of its sftp-server. Names are those of
the draft without their SSH_FX... prefixes.

Rules
    1. Pure: no descriptors, threads or clocks.
    2. A length in a packet is checked against the data available before it is used.
    3. A name is bytes without NUL. Encodings are not interpreted.
    4. Data of WRITE and READ is not copied, and no memory is allocated for it: it is a view of
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

#: Version of the protocol.
VERSION = 3
#: Bytes in a packet without its length, in either direction: SFTP_MAX_MSG_LENGTH of OpenSSH.
MAX_PACKET = 256 * 1024
#: Bytes of a file in one packet. It leaves 1 KiB for the other fields, as in OpenSSH.
MAX_DATA = MAX_PACKET - 1024

_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">IBI")  # length, type, request id
_DATA = struct.Struct(">IBII")  # and the length of the data
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
    """Flags of the attributes in a packet: section 5 of the draft."""

    SIZE = 0x1
    UIDGID = 0x2
    PERMISSIONS = 0x4
    ACMODTIME = 0x8
    EXTENDED = 0x80000000
    #: Attributes of a file: all but EXTENDED.
    OF_FILE = SIZE | UIDGID | PERMISSIONS | ACMODTIME


class OpenFlags:
    """The pflags of an OPEN: section 6.3 of the draft."""

    READ = 0x1
    WRITE = 0x2
    APPEND = 0x4
    CREAT = 0x8
    TRUNC = 0x10
    EXCL = 0x20


# Texts of OpenSSH's server. Clients show them.
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
    """The end of a packet is unknown, so the session cannot continue."""


class BadMessage(Exception):
    """A packet is malformed. The next one may be valid."""


# -- received data


class Buffer:
    """
    Splitter of a stream into packets. Its memory is allocated once and never grows.

    :param int limit: maximum length of a packet, in bytes, without the length field
    """

    def __init__(self, limit: int = MAX_PACKET) -> None:
        self._limit = limit
        # Room for two packets: then fewer bytes are moved than were read.
        self._bytes = bytearray(2 * (limit + _LENGTH.size))
        self._view = memoryview(self._bytes)
        self._start = self._end = 0

    def space(self) -> memoryview:
        """
        Return the memory for the next bytes. This invalidates the result of take(). The memory is
        never empty after take() returned None.
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
        Record that bytes were read into space().

        :param int count: number of bytes
        """
        self._end += count

    def take(self) -> memoryview | None:
        """
        Return the next packet, starting with its type, or None while it is incomplete.

        :raises FramingError: the length is zero or above the limit; all later calls raise it too
        """
        have = self._end - self._start
        if have < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._bytes, self._start)
        if not 1 <= length <= self._limit:
            raise FramingError("invalid packet length %d: not 1 to %d" % (length, self._limit))
        if have < _LENGTH.size + length:
            return None
        first = self._start + _LENGTH.size
        self._start = first + length
        return self._view[first : self._start]


class Attributes:
    """
    Attributes that a client sets. Those not in `flags` are None.

    :param int flags: flags of Attrs
    """

    def __init__(self, flags: int) -> None:
        self.flags = flags
        #: Size in bytes.
        self.size: int | None = None
        #: (uid, gid); -1 leaves an id unchanged, as in chown(2).
        self.owner: tuple[int, int] | None = None
        #: Mode, as in st_mode.
        self.permissions: int | None = None
        #: (access time, modification time), in seconds since 1970.
        self.times: tuple[int, int] | None = None

    def mode(self, otherwise: int) -> int:
        """
        Return the permission bits for a new file.

        :param int otherwise: bits to use if the client sent none
        """
        return otherwise if self.permissions is None else self.permissions & 0o7777


def _identity(number: int) -> int:
    # (uid_t) -1, which os.chown() expects as -1.
    return -1 if number == _MASK else number


class Fields:
    """
    Parser of a packet's fields, in order. Data after the last field is ignored.

    Each method raises BadMessage if the packet is too short for the field.

    :param packet: the packet, starting with its type
    """

    def __init__(self, packet: memoryview) -> None:
        self._packet = packet
        self._at = 0

    def _step(self, size: int) -> int:
        at = self._at
        if size > len(self._packet) - at:
            raise BadMessage("a field of %d bytes, with %d left" % (size, len(self._packet) - at))
        self._at = at + size
        return at

    def u8(self) -> int:
        """Parse an unsigned one-byte number."""
        return self._packet[self._step(1)]

    def u32(self) -> int:
        """Parse an unsigned four-byte number."""
        number: int = _LENGTH.unpack_from(self._packet, self._step(4))[0]
        return number

    def u64(self) -> int:
        """Parse an unsigned eight-byte number."""
        number: int = _U64.unpack_from(self._packet, self._step(8))[0]
        return number

    def data(self) -> memoryview:
        """Parse a string without copying it: rule 4."""
        size = self.u32()
        at = self._step(size)
        return self._packet[at : at + size]

    def string(self) -> bytes:
        """Parse a string of any bytes."""
        return bytes(self.data())

    def name(self) -> bytes:
        """Parse a string that can be a path: without NUL."""
        name = self.string()
        if b"\0" in name:
            raise BadMessage("a name with a NUL")
        return name

    def attrs(self) -> Attributes:
        """Parse attributes: section 5 of the draft."""
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


# -- replies


class Replies:
    """
    Queue of replies to be sent. Its memory is allocated once and never grows.

    Call has_room() before adding a reply. All replies built in this module fit then.
    """

    def __init__(self) -> None:
        # Room for two packets: one is filled while the other waits.
        self._bytes = bytearray(2 * (MAX_PACKET + _LENGTH.size))
        self._view = memoryview(self._bytes)
        self._start = self._end = 0

    def has_room(self) -> bool:
        """Return whether a packet of the maximum length fits."""
        return len(self._view) - self._end >= MAX_PACKET + _LENGTH.size

    def add(self, reply: bytes) -> None:
        """Add a packet."""
        end = self._end + len(reply)
        self._view[self._end : end] = reply
        self._end = end

    def data_space(self, size: int) -> memoryview:
        """
        Return the memory for the bytes of a DATA.

        :param int size: number of bytes requested; the result has MAX_DATA at most
        """
        first = self._end + _DATA.size
        return self._view[first : first + min(size, MAX_DATA)]

    def add_data(self, request: int, size: int) -> None:
        """
        Add a DATA whose bytes are in data_space() already.

        :param int request: id of the request
        :param int size: number of bytes
        """
        head = (size + _DATA.size - _LENGTH.size, Packet.DATA, request, size)
        _DATA.pack_into(self._bytes, self._end, *head)
        self._end += _DATA.size + size

    def pending(self) -> memoryview:
        """Return the bytes to be sent."""
        return self._view[self._start : self._end]

    def sent(self, count: int) -> None:
        """
        Remove bytes of pending() that were sent.

        :param int count: number of bytes
        """
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0


def string(value: bytes) -> bytes:
    """Return bytes preceded by their length."""
    return _LENGTH.pack(len(value)) + value


def _reply(kind: int, request: int, body: bytes) -> bytes:
    if len(body) + 5 > MAX_PACKET:
        return status_reply(request, Status.FAILURE, b"Reply too long")
    return _HEAD.pack(len(body) + 5, kind, request) + body


def version_reply(extensions: Sequence[tuple[bytes, bytes]]) -> bytes:
    """
    Return the VERSION that answers an INIT.

    :param extensions: (name, version) of each extension
    """
    body = b"".join(string(part) for pair in extensions for part in pair)
    return _HEAD.pack(len(body) + 5, Packet.VERSION, VERSION) + body


def status_reply(request: int, code: int, message: bytes | None = None) -> bytes:
    """
    Return a STATUS.

    :param int request: id of the request
    :param int code: one of Status
    :param bytes message: text for users, UTF-8; None for OpenSSH's text
    """
    text = _MESSAGES[code] if message is None else message
    return _reply(Packet.STATUS, request, _LENGTH.pack(code) + string(text) + string(b""))


def handle_reply(request: int, handle: bytes) -> bytes:
    """Return a HANDLE."""
    return _reply(Packet.HANDLE, request, string(handle))


def _attrs(found: os.stat_result) -> bytes:
    # By index: whole seconds, rounded by the kernel. The named attributes are floats.
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
    Return a NAME for the entries of a directory.

    :param entries: (name, line of `ls -l`, status) of each entry
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
