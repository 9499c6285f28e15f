"""
The protocol's pure part: its numbers, messages and frames. Windows are in windows.py.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Rules
    1. Nothing here touches a descriptor, a thread or a clock.

Threads: any; there is no shared state.
"""

from __future__ import annotations

from _struct import Struct

from mitogen.core.codec import decode, encode
from mitogen.core.errors import CallError, ChannelError, StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# Handles of the protocol; those used only by contexts with children: tree/message_handles.py.
GET_MODULE = 100
CALL_FUNCTION = 101
FORWARD_LOG = 102
DEL_ROUTE = 104
SHUTDOWN = 106
LOAD_MODULE = 107
CALL_SERVICE = 110
CREDIT = 114
PING = 115
CANCEL = 116
#: Value of `reply_to` that marks a dead message; its data is the reason, UTF-8.
IS_DEAD = 999
#: First handle allocated for a windowed mailbox.
FIRST_HANDLE = 1000
#: First of the handles that are not windowed: one-shot replies and unbounded receivers. Both
#: ends derive this from the number alone, so no handshake is needed.
FIRST_UNWINDOWED = 1 << 31
#: Largest payload of one frame, in bytes, so that a long message never blocks a link.
FRAME_SIZE = 131072
#: Bytes read from a descriptor in one call: one full frame and its header.
CHUNK_SIZE = FRAME_SIZE + 64
#: Size of a message, in bytes, above which its frames wait for the far end's broker (LongSend).
LONG_SIZE = 262144
#: Bytes queued on a stream at which a program's thread sleeps until half of them are gone.
HIGH_WATER = 262144
#: Largest message, in bytes, unless the master configures another limit.
MAX_MESSAGE_SIZE = 134217728

_HEADER = Struct(">HBLLLLLL")
NUMBER = Struct(">L")
TRIPLE = Struct(">LLL")
PAIR = Struct(">LL")
MAGIC = 0x4D47
MORE, CONT, RAW = 1, 2, 4


class Message:
    """
    A message: an envelope and its data.

    :param int dst_id: context that it goes to
    :param int src_id: context that it comes from; set when it is sent
    :param int auth_id: context with whose authority it was sent; set when it is sent
    :param int handle: mailbox in `dst_id`
    :param int reply_to: mailbox in `src_id` for the answer; 0 for none, IS_DEAD in a dead message
    :param bytes data: encoded value, or raw bytes where `enc` is ENC_BIN
    """

    if TYPE_CHECKING:
        # Added by compat/core_names.py; likewise below.
        ENC_MGC: int
        ENCS: tuple[int, ...]
        HEADER_FMT: str
        HEADER_LEN: int
        HEADER_MAGIC: int

        def pack(self) -> bytes: ...
        def unpickle_iter(self, throw: bool = True, throw_dead: bool = True) -> Iterator[Any]: ...

    dst_id: int
    src_id: int
    auth_id: int
    handle: int
    dst_id = src_id = auth_id = handle = None  # type: ignore[assignment]  # set later
    reply_to = number = flags = cost = 0
    data = b""
    router: Any
    receiver: Any
    router = receiver = None

    ENC_PKL = 0
    ENC_BIN = RAW

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)

    @property
    def enc(self) -> int:
        return self.flags & RAW

    @property
    def is_dead(self) -> bool:
        return self.reply_to == IS_DEAD

    @classmethod
    def dead(cls, reason: str | None = None, **kwargs: Any) -> Message:
        """Return a dead message; `reason` is the text of the waiting side's error."""
        return cls(reply_to=IS_DEAD, data=(reason or "").encode(), **kwargs)

    @classmethod
    def pickled(cls, *objs: Any, **kwargs: Any) -> Message:
        """Return a message that carries values, as CBOR despite the old name."""
        return cls(data=b"".join(map(encode, objs)), **kwargs)

    @classmethod
    def encoded(cls, obj: Any, enc: int = 0, **kwargs: Any) -> Message:
        """Return a message that carries `obj` as a value, or, with ENC_BIN, as raw bytes."""
        return cls(data=obj if enc else encode(obj), flags=enc, **kwargs)

    def header(self, size: int, flags: int) -> bytes:
        head = _HEADER.pack(
            MAGIC,
            flags,
            self.dst_id,
            self.src_id,
            self.auth_id,
            self.handle,
            self.reply_to or 0,
            size,
        )
        return head + NUMBER.pack(self.number) if flags & 3 else head

    def reply(self, msg: Any, router: Any = None, **kwargs: Any) -> None:
        """Answer this message with `msg`, a Message or a value; no-op if no answer is expected."""
        if self.reply_to and self.reply_to != IS_DEAD:
            if not isinstance(msg, Message):
                msg = Message(data=encode(msg, None, "result"))
            msg.__dict__.update(kwargs, dst_id=self.src_id, handle=self.reply_to)
            (self.router or router).route(msg)

    def unpickle(self, throw: bool = True, throw_dead: bool = True) -> Any:
        """
        Return the decoded value.

        :param bool throw: raise the value if it is a CallError
        :param bool throw_dead: raise ChannelError if this is a dead message
        """
        if self.reply_to == IS_DEAD:
            if throw_dead:
                # Escaped: it may come from any context.
                why = repr(str(self.data, "utf-8", "replace"))[1:-1]
                raise ChannelError("%s", why or "closed")
            return None
        if self.flags & RAW:
            return self.data
        if self.data == b"\xf6":
            return None
        value = decode(self.data, self.router)
        if throw and isinstance(value, CallError):
            raise value
        return value

    decode = unpickle

    def __repr__(self) -> str:
        fields = (self.dst_id, self.handle, self.src_id, self.auth_id, bytes(self.data[:32]))
        return "Message(to %r:%r from %r by %r: %r)" % fields


class Framer:
    """
    Pure: bytes in, frames out. Each frame is a Message, not yet reassembled.

    :param int limit: largest payload of one frame, in bytes
    """

    def __init__(self, limit: int = FRAME_SIZE) -> None:
        self.limit = limit
        self.rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the frames completed by `data`; raise StreamError if it is not the protocol."""
        if self.rest:
            data = self.rest + data
        size = len(data)
        pos = 0
        frames = []
        while size - pos >= 27:
            magic, flags, dst, src, auth, handle, reply_to, length = _HEADER.unpack_from(data, pos)
            if magic != MAGIC or flags > 7 or length > self.limit:
                raise StreamError("not a frame: %r", data[pos : pos + 27])
            start = pos + (31 if flags & 3 else 27)
            end = start + length
            if end > size:
                break
            msg = Message()
            # A dict literal: several times faster than keyword arguments.
            msg.__dict__ = {
                "dst_id": dst,
                "src_id": src,
                "auth_id": auth,
                "handle": handle,
                "reply_to": reply_to,
                "flags": flags,
                "data": data[start:end],
            }
            if flags & 3:
                msg.number = NUMBER.unpack_from(data, pos + 27)[0]
            frames.append(msg)
            pos = end
        self.rest = data[pos:] if pos else data
        return frames
