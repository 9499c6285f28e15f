"""
The one module that is sent to every child: codec, framing, windows, router, broker, importer,
dispatcher and the child's main program.

It is minified, compressed and fed to a bare interpreter's standard input, so its size is counted
in bytes (tests/unit/test_budget.py) and it imports nothing that an interpreter does not already
hold at start: no pickle, logging, threading, socket, struct or re.

Rules
    1. Any thread may send. Only the broker thread reads, routes what came in and runs handlers.
    2. A handler never blocks, never imports and never runs a program's code.
    3. Values are encoded and decoded on the thread of whoever made or wants them. Only the
       fixed-size payloads of the protocol itself are read on the broker thread.
    4. The broker thread never waits for credit; a program's thread may.
    5. Every wait has an end: a reply, a dead message, a deadline or the broker's exit.
    6. A section names only itself and earlier ones (tests/unit/test_layering.py).
    7. Protocol decisions live in the pure classes (Framer, Window, Meter); they touch no
       descriptor, thread or clock.

Threads: the broker's, and whichever the program has. In a child the main thread runs calls.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it
import _thread
import os
import select
import sys
import time
import zlib
from _frozen_importlib import ModuleSpec
from _struct import Struct
from collections import deque
from itertools import chain, count, repeat

try:
    from _heapq import heappop, heappush  # heapq itself would cost each child half a millisecond.
except Exception:  # PyPy has no _heapq. A longer name costs bytes of the preamble.
    from heapq import heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from types import ModuleType
    from typing import (
        Any,
        NoReturn,
        TypeVar,
        Union,
    )

    from typing_extensions import ParamSpec

    # What _Module finds.
    from mitogen.compat.core_names import *  # noqa: F403
    from mitogen.compat.core_names import (
        ADD_ROUTE as ADD_ROUTE,
        ALLOCATE_ID as ALLOCATE_ID,
        DETACHING as DETACHING,
        FORWARD_MODULE as FORWARD_MODULE,
        GET_RESOURCE as GET_RESOURCE,
        IS_WSL as IS_WSL,
        LOAD_RESOURCE as LOAD_RESOURCE,
        STUB_CALL_SERVICE as STUB_CALL_SERVICE,
    )
    from mitogen.compat.logs import (
        IOLOG as IOLOG,
        LOG as LOG,
        LOGGERS as LOGGERS,
        LogHandler as LogHandler,
        PidfulStreamHandler as PidfulStreamHandler,
    )
    from mitogen.compat.streams import (
        BasicStream as BasicStream,
        BufferedWriter as BufferedWriter,
        DelimitedProtocol as DelimitedProtocol,
        IoLogger as IoLogger,
        IoLoggerProtocol as IoLoggerProtocol,
        MitogenProtocol as MitogenProtocol,
        Protocol as Protocol,
        Side as Side,
        Waker as Waker,
    )
    from mitogen.flow import LongSend
    from mitogen.importing.resources import (
        ResourceReader as ResourceReader,
        ResourceRequester as ResourceRequester,
    )

    P = ParamSpec("P")
    R = TypeVar("R")
    Bytes = Union[bytes, memoryview]
    Lock = _thread.LockType
    Action = Callable[[], Any]
    Watched = tuple[Action | None, Action | None]
    MessageHandler = Callable[["Message"], object]
    Policy = Callable[["Message", "Stream" | None], object]
    # Function, whether it persists, policy, respondent's id, whether it sees to consumed().
    Handler = tuple[MessageHandler, bool, Policy | None, int | None, bool]
    Encoder = tuple[int, Callable[[Any], Any]]
    # Entries, zlib stream of all sources, own names; and a module's: see Importer.
    Segment = list[Any]
    Entry = tuple[str | None, Any, Segment, int, Any]

# ---- section: constants and errors ----

now = time.monotonic

# Handles of the protocol. Those that a context without children has no use for are in parent.py.
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
#: First handle given out for a windowed mailbox.
FIRST_HANDLE = 1000
#: Handles from here up are not windowed: one-shot replies and unbounded receivers. The number
#: itself tells both ends, so no handshake is needed.
FIRST_UNWINDOWED = 1 << 31

#: Bytes of one frame's payload at most, so that a long message never holds a link.
FRAME_SIZE = 131072
#: Bytes read from a descriptor at once: one full frame and its header.
CHUNK_SIZE = FRAME_SIZE + 64
#: Bytes of a message above which its frames wait for the far end's broker (LongSend).
LONG_SIZE = 262144
#: Bytes of a long message that may be under way.
LONG_WINDOW = 1048576
#: Bytes queued on a stream at which a program's thread sleeps until half of them are gone.
HIGH_WATER = 262144
#: Bytes of a flow's first credit.
WINDOW = 4194304
#: The same for log records, and for what a child's programs print.
LOG_WINDOW = 65536
#: Bytes that a message costs in a window besides its data, so that empty ones are not free.
MESSAGE_COST = 64
#: Seconds without credit after which a waiting sender says so, and after which it fails.
CREDIT_WARNING = 5.0
CREDIT_TIMEOUT = 30.0
#: Seconds that an import waits for its module.
IMPORT_TIMEOUT = 120.0
#: Bytes of a message at most, unless the master says otherwise.
MAX_MESSAGE_SIZE = 134217728

ERROR = 40


class Error(Exception):
    """Root of all errors raised here; `fmt % args` is the text."""

    def __init__(self, fmt: Any = None, *args: object) -> None:
        Exception.__init__(self, fmt % args if args else fmt or "")


class StreamError(Error):
    """A connection could not be made, was lost, or carried what is not the protocol."""


class ChannelError(Error):
    """The far end of a mailbox has gone, or ended the flow."""

    if TYPE_CHECKING:
        remote_msg: str
        local_msg: str


class TimeoutError(Error):
    """A deadline passed."""


class EncodeError(Error, TypeError):
    """The sender's fault: a value cannot be sent; the text has the path to it."""


class CallError(Error):
    """
    A call failed in the far context. Where the remote error is a built-in Exception, this is one
    of that type too.

    :param fmt: text, or the exception
    """

    #: Remote type `module.Name`, its text, and the remote traceback.
    type_name: str | None
    message: str | None
    traceback: str | None
    type_name = message = traceback = None

    def __init__(self, fmt: None | str | BaseException = None, *args: object) -> None:
        if isinstance(fmt, BaseException):
            from mitogen import child

            fmt = child.describe(self, fmt)
        Error.__init__(self, fmt, *args)

    def __str__(self) -> Any:
        return self.args[0]


# ---- section: codec ----

# ---------------------------------------------------------------------------------------------
# Codec: CBOR (RFC 8949), definite lengths only.
#
# Rules:
# 1. Whatever bytes decode() is given, it returns a value or raises StreamError, in time and memory
#    proportional to their number. So nothing is allocated by a claimed length, depth is limited,
#    tags refuse content that is not theirs, and keys made to collide are refused.
# 2. What encode() accepts comes back equal and of the same type; all else it refuses, with the
#    path.
# 3. Exact types only: a subclass that is not in ENCODERS is refused, as it would come back as its
#    base.
# 4. A type or tag that is not in the tables here is looked for in mitogen.values, imported when
#    first needed. In a child that import may wait for the parent: the importer must refuse it to
#    the broker.
# 5. Any thread. The tables change by whole entries only.
#
# Simple value 23, "undefined", is Python's Ellipsis, in both directions.
# ---------------------------------------------------------------------------------------------

#: Containers within containers that encode() accepts. On the wire a level may be two, a tag and its
#: content. Each takes one stack frame, so that half of the usual limit of 1,000 stays for others.
MAX_DEPTH = 200

#: Keys of one map (or elements of one set) that may share their hash with others before it is taken
#: for an attack: numbers that differ by 2**61 - 1 hash alike, and n of them cost n * n / 2
#: comparisons.
MAX_COLLISIONS = 500

#: Elements from which on a list of only ints or only floats goes as an RFC 8746 typed array.
#: Shorter ones are not worth the import of mitogen.values (a round trip, in a child).
MIN_ARRAY = 1000

# Tags of our own. 6 and 7 are unassigned and take one byte: each call has two tuples and a Kwargs.
# The others are in the first-come-first-served space; mitogen.values goes on from 60016.
TAG_TUPLE = 6  # array
TAG_KWARGS = 7  # map
TAG_SURROGATES = 60000  # bytes: text with lone surrogates (surrogatepass), which text may not hold
TAG_BLOB = 60001  # bytes
TAG_SECRET = 60002  # bytes, as TAG_SURROGATES
TAG_CONTEXT = 60003
TAG_SENDER = 60004
TAG_CALL_ERROR = 60005

_BYTES = [bytes((byte,)) for byte in range(256)]
_HEADS = [Struct(">B" + code).pack for code in "BHLQ"]
_SIMPLE = {0xF4: False, 0xF5: True, 0xF6: None, 0xF7: Ellipsis}
_REASONS: dict[Any, str] = {IndexError: "truncated", KeyError: "unassigned or indefinite item"}
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}
_FLOATS = {0xF9: Struct(">e"), 0xFA: Struct(">f"), 0xFB: Struct(">d")}
_flatten = chain.from_iterable
_pack_double = Struct(">Bd").pack


class Blob(bytes):
    """Bytes whose :func:`repr` shows only how many."""

    def __repr__(self) -> str:
        return "[blob: %d bytes]" % len(self)


class Secret(str):
    """Text whose :func:`repr` does not show it, to keep it out of logs."""

    def __repr__(self) -> str:
        return "[secret]"


class Kwargs(dict):  # type: ignore[type-arg]  # it takes them since 3.9
    """The keyword arguments of a call: a dict whose keys are :class:`str`."""


#: `{type: (tag, convert)}`: an instance goes as `tag` over `convert(instance)`, which may be
#: anything sendable. What is always at hand (int, dict, Kwargs ...) is not here but written out in
#: _put().
ENCODERS: dict[type, Encoder] = {
    Blob: (TAG_BLOB, bytes),
    Secret: (TAG_SECRET, lambda value: value.encode("utf-8", "surrogatepass")),
}

#: `{tag: restore}`: `restore(content, router)` is the value. Bytes are a memoryview there. Content
#: of a wrong type must end in an exception or do no harm, as `Blob(2 ** 40)` would.
TAG_DECODERS: dict[int, Callable[[Any, Any], Any]] = {
    2: lambda content, router: int.from_bytes(content, "big"),
    3: lambda content, router: ~int.from_bytes(content, "big"),
    TAG_TUPLE: lambda content, router: tuple(content),
    TAG_KWARGS: lambda content, router: Kwargs(content),
    TAG_SURROGATES: lambda content, router: str(content, "utf-8", "surrogatepass"),
    TAG_BLOB: lambda content, router: Blob(memoryview(content)),
    TAG_SECRET: lambda content, router: Secret(content, "utf-8", "surrogatepass"),
}


def _values() -> ModuleType:
    from mitogen import values

    return values


def _head(major: int, number: int) -> bytes:
    # The initial byte, and the shortest argument (RFC 8949 section 3).
    if number < 24:
        return _BYTES[major + number]
    width = (number > 0xFF) + (number > 0xFFFF) + (number > 0xFFFFFFFF)
    return _HEADS[width](major + 24 + width, number)


def _write(major: int, data: Bytes, out: list[Bytes], budget: list[int]) -> None:
    _put((), len(data), out, budget, 0)
    out += _head(major, len(data)), data


def _put(items: Iterable[Any], size: int, out: list[Bytes], budget: list[int], depth: int) -> None:
    # Append the encoding of each of `items`, of at least `size` bytes in all.
    if depth < 0:
        raise RecursionError("nested too deep")
    budget[0] -= size
    if budget[0] < 0:
        raise OverflowError("too large")
    append = out.append
    for item in items:
        kind = type(item)
        if kind is str:
            major = 0x60
            try:
                data = item.encode()
            except UnicodeEncodeError:
                data = item.encode("utf-8", "surrogatepass")
                append(_head(0xC0, TAG_SURROGATES))
                major = 0x40
            size = len(data)
            if size < 24:
                append(_BYTES[major + size])
                append(data)
            else:
                _write(major, data, out, budget)
        elif kind is int:
            if item < 0:
                major = 0x20
                number = ~item
            else:
                major = 0
                number = item
            if number < 24:
                append(_BYTES[major + number])
            elif number >> 64:
                append(b"\xc3" if major else b"\xc2")
                _write(0x40, number.to_bytes(number.bit_length() + 7 >> 3, "big"), out, budget)
            else:
                append(_head(major, number))
        elif item is None:
            append(b"\xf6")
        elif kind is bool:
            append(b"\xf5" if item else b"\xf4")
        elif kind is dict or kind is Kwargs:
            if kind is Kwargs:
                append(b"\xc7")
            pairs = iter(item.items())  # from here on any change by another thread raises
            size = len(item)
            append(_BYTES[0xA0 + size] if size < 24 else _head(0xA0, size))
            _put(_flatten(pairs), 2 * size, out, budget, depth - 1)
        elif kind is list or kind is tuple:
            if kind is tuple:
                append(b"\xc6")
            size = len(item)
            array = size >= MIN_ARRAY and _values().typed_array(item)
            if array:
                append(_head(0xC0, array[0]))
                _write(0x40, array[1], out, budget)
            else:
                if kind is list:
                    item = item[:]  # as another thread may change it meanwhile
                    size = len(item)
                append(_BYTES[0x80 + size] if size < 24 else _head(0x80, size))
                _put(item, size, out, budget, depth - 1)
        elif kind is float:
            append(_pack_double(0xFB, item))
        elif kind is bytes:
            _write(0x40, item, out, budget)
        elif item is Ellipsis:
            append(b"\xf7")
        else:
            tag, convert = ENCODERS.get(kind) or _values().find_encoder(item)
            append(_head(0xC0, tag))
            _put((convert(item),), 1, out, budget, depth - 1)


def encode(value: Any, limit: int | None = None, name: str = "value") -> bytes:
    """Return `value` as CBOR.

    :param value: what to send; see :data:`ENCODERS` and :mod:`mitogen.values` for its types.
    :param int limit: the most bytes it may take; None for no limit. Checked all along, and exactly
        at the end.
    :param str name: what the value is called in an error.
    :rtype: bytes
    :raises EncodeError: it holds something that cannot be sent, or itself, or it is too large.
    """
    out: list[Bytes] = []
    limit = limit or 1 << 62
    try:
        _put((value,), 1, out, [limit], MAX_DEPTH)
        _put((), sum(map(len, out)), out, [limit], MAX_DEPTH)
    except Exception as failure:
        raise EncodeError(_values().explain(value, name, failure)) from failure
    return b"".join(out)


def check_hashes(keys: list[Any]) -> None:
    """Refuse `keys` that were made to collide; see :data:`MAX_COLLISIONS`."""
    if len(keys) - len(set(map(hash, keys))) > MAX_COLLISIONS:
        raise ValueError("too many keys that hash alike")


def decode_next(data: Bytes, position: int = 0, router: Any = None) -> tuple[Any, int]:
    """Decode one item of a CBOR sequence (RFC 8742).

    :param data: :class:`bytes`, or a :class:`memoryview` of bytes.
    :param int position: the byte that the item begins at.
    :param router: handed to the functions in :data:`TAG_DECODERS`.
    :returns: the value, and the position after it.
    :raises StreamError: whatever is wrong; its `__context__` is the cause.
    """
    size = len(data)
    text: Any = bytes.decode if type(data) is bytes else lambda view: str(view, "utf-8")

    def take(count: int, depth: int) -> list[Any]:
        # A list of the next `count` items, with at most `depth` levels below.
        nonlocal position
        if count > size - position:
            raise IndexError
        if depth < 0:
            raise RecursionError("nested too deep")
        items: list[Any] = []
        append = items.append
        for _ in repeat(None, count):
            byte = data[position]
            position += 1
            if 0x60 <= byte < 0x78:
                start = position
                position += byte - 0x60
                append(text(data[start:position]))
                continue
            if byte < 24:
                append(byte)
                continue
            if byte > 0xDF:
                if byte in _SIMPLE:
                    append(_SIMPLE[byte])
                else:
                    append(_FLOATS[byte].unpack_from(data, position)[0])
                    position += _FLOATS[byte].size
                continue
            restore = None
            while True:
                major = byte >> 5
                number = byte & 31
                if number > 23:
                    start = position
                    position += _WIDTHS[number]
                    number = int.from_bytes(data[start:position], "big")
                if major != 6:
                    break
                restore = TAG_DECODERS.get(number) or _values().find_decoder(number)
                byte = data[position]
                if byte >> 5 not in (2, 4, 5):
                    break
                position += 1  # the content at hand: spares a call, and the bytes a copy
            if major == 6:
                value = take(1, depth - 1)[0]
            elif major == 5:
                value = take(2 * number, depth - 1) if number else []
                if number > MAX_COLLISIONS:
                    check_hashes(value[::2])
                pairs = iter(value)
                value = dict(zip(pairs, pairs))
                if len(value) < number:
                    raise ValueError("duplicate key")
            elif major == 4:
                value = take(number, depth - 1) if number else []
            elif major > 1:
                if number > size - position:
                    raise IndexError
                value = (memoryview(data) if restore else data)[position : position + number]
                position += number
                if major == 3:
                    value = text(value)
                elif not restore:
                    value = bytes(value)
            else:
                value = ~number if major else number
            if restore:
                value = restore(value, router)
            append(value)
        return items

    try:
        value = take(1, 2 * MAX_DEPTH + 2)[0]
        if position > size:  # a short text, all others are checked
            raise IndexError
        return value, position
    except Exception as failure:
        reason = _REASONS.get(type(failure)) or failure
        raise StreamError(
            "cannot unpickle message: %s at byte %d" % (reason, position)
        ) from failure
    finally:
        # It refers to itself; the data must not wait for the garbage collector.
        take = None  # type: ignore[assignment]  # it is not called again


def decode(data: Bytes, router: Any = None) -> Any:
    """Return the value of which `data` is the CBOR, and the whole of it.

    Arguments and errors are those of :func:`decode_next`.
    """
    value, position = decode_next(data, 0, router)
    if position < len(data):
        raise StreamError("cannot unpickle message: more than one item at byte %d" % position)
    return value


# ---- section: Message and Framer ----

_HEADER = Struct(">HBLLLLLL")
_NUMBER = Struct(">L")
_CREDIT = Struct(">LLL")
_HEADER_BLOCK = Struct(">LL")
MAGIC = 0x4D47
MORE, CONT, RAW = 1, 2, 4


class Message:
    """
    One message: an envelope and its data.

    :param int dst_id: context that it goes to
    :param int src_id: context that it comes from; set when it is sent
    :param int auth_id: context with whose authority it was sent; set when it is sent
    :param int handle: mailbox in `dst_id`
    :param int reply_to: mailbox in `src_id` for the answer; 0 for none, IS_DEAD in a dead message
    :param bytes data: encoded value, or raw bytes where `enc` is ENC_BIN
    """

    if TYPE_CHECKING:
        # What core_names.py adds; likewise below.
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
        """Return a dead message; `reason` is text for the one who waits."""
        return cls(reply_to=IS_DEAD, data=(reason or "").encode(), **kwargs)

    @classmethod
    def pickled(cls, *objs: Any, **kwargs: Any) -> Message:
        """Return a message that carries values (CBOR, whatever the old name says)."""
        return cls(data=b"".join(map(encode, objs)), **kwargs)

    @classmethod
    def encoded(cls, obj: Any, enc: int = 0, **kwargs: Any) -> Message:
        """Return a message that carries `obj`: as a value, or with ENC_BIN the bytes themselves."""
        return cls(data=obj if enc else encode(obj), flags=enc, **kwargs)

    def _header(self, size: int, flags: int) -> bytes:
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
        return head + _NUMBER.pack(self.number) if flags & 3 else head

    def reply(self, msg: Any, router: Any = None, **kwargs: Any) -> None:
        """Answer this message with `msg`, a Message or a value; nothing if no answer is awaited."""
        if self.reply_to and self.reply_to != IS_DEAD:
            if not isinstance(msg, Message):
                msg = Message(data=encode(msg, None, "result"))
            msg.__dict__.update(kwargs, dst_id=self.src_id, handle=self.reply_to)
            (self.router or router).route(msg)

    def unpickle(self, throw: bool = True, throw_dead: bool = True) -> Any:
        """
        Return the value.

        :param bool throw: raise it, if it is a CallError
        :param bool throw_dead: raise ChannelError, if this is a dead message
        """
        if self.reply_to == IS_DEAD:
            if throw_dead:
                raise ChannelError("%s", str(self.data, "utf-8", "replace") or "closed")
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
    Pure: bytes in, frames out (each a Message, not yet put together).

    :param int limit: bytes of one frame's payload at most
    """

    def __init__(self, limit: int = FRAME_SIZE) -> None:
        self.limit = limit
        self.rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the frames that `data` completes; StreamError if this is not the protocol."""
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
                msg.number = _NUMBER.unpack_from(data, pos + 27)[0]
            frames.append(msg)
            pos = end
        self.rest = data[pos:] if pos else data
        return frames


# ---- section: Window ----


def is_windowed(handle: int) -> bool:
    """Whether messages to `handle` are a flow with credit: both ends tell by the number alone."""
    return FIRST_HANDLE <= handle < FIRST_UNWINDOWED or handle in (
        CALL_FUNCTION,
        CALL_SERVICE,
        FORWARD_LOG,
    )


def window_size(handle: int) -> int:
    """Return the bytes of credit that a flow to `handle` starts with."""
    return LOG_WINDOW if handle == FORWARD_LOG else WINDOW


class Window:
    """
    Pure: the sender's side of a flow. Its user holds `lock` around every method.

    Invariant: nothing passes while `queue` holds something, so order is kept. One message may
    overdraw, so any size fits.
    """

    def __init__(self, size: int) -> None:
        self.credit = size
        self.queue: deque[tuple[Any, int]] = deque()
        self.queued = 0
        self.busy = False
        self.lock = _thread.allocate_lock()

    def take(self, cost: int) -> bool:
        """Return True if a message of `cost` may go now."""
        if self.credit > 0 and not self.queue and not self.busy:
            self.credit -= cost
            return True
        return False

    def push(self, entry: Ticket, cost: int) -> None:
        """Queue `entry` until there is credit."""
        self.queue.append((entry, cost))
        self.queued += cost

    def withdraw(self, entry: Ticket) -> Any:
        """Take `entry` out of the queue; return whether it was there."""
        for item in self.queue:
            if item[0] is entry:
                self.queue.remove(item)
                self.queued -= item[1]
                return True

    def pop(self) -> Any:
        """Return the next entry that may go, or None."""
        if self.queue and self.credit > 0 and not self.busy:
            entry, cost = self.queue.popleft()
            self.queued -= cost
            self.credit -= cost
            return entry


class Meter:
    """
    Pure: the receiver's side of a flow. Credit goes back in halves of the window.

    The broker alone counts in; who counts out holds the router's lock.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.received = 0
        self.credited = 0
        self.owed = 0

    def receive(self, cost: int) -> Any:
        """Count a message in; return False if its sender had no credit left to send it."""
        if self.received - self.credited < self.size:
            self.received += cost
            return True

    def consume(self, cost: int) -> int:
        """Count a message out; return the credit to give now, or 0."""
        self.owed += cost
        if self.owed * 2 < self.size:
            return 0
        owed, self.owed = self.owed, 0
        self.credited += owed
        return owed


# ---- section: waiters ----


def listen(obj: object, name: str, func: Callable[..., Any]) -> None:
    """Have `func(*args)` called when `fire(obj, name, *args)` is."""
    obj.__dict__.setdefault("_signals", {}).setdefault(name, []).append(func)


def fire(obj: object, name: str, *args: Any, **kwargs: Any) -> None:
    """Call what listens for `name` on `obj`, in the order of listening."""
    for func in list(obj.__dict__.get("_signals", {}).get(name, ())):
        func(*args, **kwargs)


def import_module(name: str) -> Any:
    """Import and return the module of that dotted name."""
    __import__(name)
    return sys.modules[name]


def borrow(cls: type, name: str, obj: object) -> Any:
    """Return the attribute of `cls` as if `obj` were one of its instances."""
    found = getattr(cls, name)
    return found.__get__(obj) if hasattr(found, "__get__") else found


def new_lock() -> Lock:
    """Return a lock that is held: the cheapest thing that one thread can wait for another with."""
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


# ---- section: poller ----


class Poller:
    """Which function to call when a descriptor is ready. pollers.py has faster ones."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.table: dict[int, Watched] = {}

    def watch(self, fd: int, read: Action | None = None, write: Action | None = None) -> None:
        """Call `read()` or `write()` when `fd` is ready for it; neither: forget `fd`."""
        old = self.table.get(fd)
        if read or write:
            self.table[fd] = (read, write)
            self._set(fd, (1 if read else 0) | (4 if write else 0), old)
        elif old:
            del self.table[fd]
            self._unset(fd)

    def _set(self, fd: int, mask: int, old: Watched | None) -> None:
        self._poll.register(fd, mask)

    def _unset(self, fd: int) -> None:
        self._poll.unregister(fd)

    def _wait(self, seconds: float | None) -> Iterable[tuple[int, int]]:
        return self._poll.poll(seconds and seconds * 1000)

    def poll(self, seconds: float | None = None) -> None:
        """Wait, then call what is ready."""
        for fd, mask in self._wait(seconds):
            # Looked up late: a function before this one may have closed the descriptor.
            read, write = self.table.get(fd, (None, None))
            if read and mask & ~4:
                read()
            elif write and mask & ~1:
                write()


# ---- section: Stream ----


def read_fd(fd: int, size: int = CHUNK_SIZE) -> bytes | None:
    """Return what can be read now: None if nothing, b'' at the end (a pty's EIO as well)."""
    try:
        return os.read(fd, size)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


class Stream:
    """
    The framed byte pipe to a neighbour.

    Any thread sends: what the descriptor takes is written at once, the rest by the broker.
    Only the broker reads.

    :param Router router: router of this end
    :param int remote_id: context at the other end
    :param int rfd: descriptor to read from
    :param int wfd: descriptor to write to; may be `rfd`
    """

    conn: Any = None
    closed = False
    reason: str | None = None

    def __init__(
        self,
        router: Router,
        remote_id: int,
        rfd: int,
        wfd: int,
        name: str | None = None,
    ) -> None:
        self.router = router
        #: Called with each frame and this stream.
        self.on_frame = router.on_frame
        self.broker = router.broker
        self.remote_id = remote_id
        self.name = name
        self.rfd = rfd
        self.wfd = wfd
        self.framer = Framer()
        self.lock = _thread.allocate_lock()
        self.backlog: deque[Bytes] = deque()
        self.queued = 0
        self.waiters: list[Action] = []
        #: Contexts to which this neighbour sent something: they learn of the end of those.
        self.egress_ids: set[int] = set()
        self.received = 0
        os.set_blocking(rfd, False)
        os.set_blocking(wfd, False)

    def start(self, data: bytes = b"") -> None:
        """Broker thread: begin to receive; `data` was read already."""
        self._watch()
        if data:
            self.receive(data)

    def _watch(self) -> None:
        poller = self.broker.poller
        write = self.on_writable if self.backlog else None
        if self.rfd == self.wfd:
            poller.watch(self.rfd, self.on_readable, write)
        else:
            poller.watch(self.rfd, self.on_readable)
            poller.watch(self.wfd, None, write)

    def on_readable(self) -> None:
        data = read_fd(self.rfd)
        if data:
            self.receive(data)
        elif data is not None:
            self.disconnect("EOF")

    def receive(self, data: bytes) -> None:
        """Broker thread: take in bytes."""
        self.received += len(data)
        try:
            for msg in self.framer.feed(data):
                self.on_frame(msg, self)
                if self.closed:
                    break
        except StreamError as e:
            self.router.log(ERROR, "%s: %s", self.name, e)
            self.disconnect(str(e))

    def send(self, head: bytes, body: Bytes = b"", cork: bool = False) -> None:
        """
        Any thread: send a frame.

        :param bool cork: more will follow soon: write it together with that
        """
        with self.lock:
            if self.closed:
                return
            sent = 0
            if not self.backlog and not cork:
                try:
                    sent = os.writev(self.wfd, (head, body))
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as e:
                    return self.broker.defer(self.disconnect, str(e))
            rest = sent - len(head)
            if rest < 0:
                self._queue(head[sent:] + body)
            elif rest < len(body):
                self._queue(memoryview(body)[rest:])

    def _queue(self, data: Bytes) -> None:
        self.backlog.append(data)
        self.queued += len(data)
        # After the append: the broker may be quicker than this thread.
        if len(self.backlog) == 1:
            self.broker.defer(self._watch_if_open)

    def _watch_if_open(self) -> None:
        if self.backlog and not self.closed:
            self.on_writable()
            if not self.closed:
                self._watch()

    def flush(self) -> None:
        """Any thread: write what is queued, as far as the descriptor takes it."""
        with self.lock:
            try:
                while self.backlog and not self.closed:
                    self._write_some()
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as e:
                self.broker.defer(self.disconnect, str(e))

    def _write_some(self) -> None:
        backlog = self.backlog
        chunk = backlog[0]
        if len(backlog) > 1 and len(chunk) < 4096:
            # Many small frames: one write.
            chunk = b"".join(backlog)
            backlog.clear()
            backlog.append(chunk)
        sent = os.write(self.wfd, chunk)
        self.queued -= sent
        if sent == len(chunk):
            backlog.popleft()
        else:
            backlog[0] = memoryview(chunk)[sent:]

    def on_writable(self) -> None:
        self.flush()
        if self.waiters and self.queued * 2 < HIGH_WATER:
            waiters, self.waiters = self.waiters, []
            for func in waiters:
                func()
        if not self.backlog and not self.closed:
            self._watch()

    def when_drained(self, func: Action) -> None:
        """Any thread: have the broker call `func()` when the backlog is small, or at the end."""
        self.broker.defer(self._when_drained, func)

    def _when_drained(self, func: Action) -> None:
        if self.closed or self.queued * 2 < HIGH_WATER:
            func()
        else:
            self.waiters.append(func)

    def disconnect(self, reason: str = "closed") -> None:
        """Broker thread: close the descriptors and tell the router; once."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
        self.reason = reason
        self.backlog.clear()
        self.queued = 0
        for fd in {self.rfd, self.wfd}:
            self.broker.poller.watch(fd)
            os.close(fd)
        for func in self.waiters:
            func()
        self.router.on_stream_lost(self)
        fire(self, "disconnect")


# ---- section: Broker ----


class Broker:
    """
    The thread that does the I/O.

    :param poller_class: Poller, or one of pollers.py's
    :param bool activate_compat: accepted for old programs; nothing to do
    """

    #: Seconds that a shutdown waits for streams to end by themselves.
    shutdown_timeout = 3.0
    poller_class = Poller

    def __init__(
        self, poller_class: type[Poller] | None = None, activate_compat: bool = True
    ) -> None:
        self.poller = (poller_class or self.poller_class)()
        self._deferred: deque[tuple[Callable[..., Any], Any, Any]] = deque()
        self._timers: list[tuple[float, int, list[Action]]] = []
        self._sequence = 0
        self._awake = False
        self._ended = new_lock()
        self.alive = True
        self.stopping = self.closing = False
        #: Who has something to finish before the thread ends, and calls stop() then.
        self.holds: set[Any] = set()
        self.ident: int | None = None
        self.exit_actions: list[Action] = []
        self._wake_r, self._wake_w = os.pipe()
        self._wake_lock = _thread.allocate_lock()
        self.poller.watch(self._wake_r, self._on_wake)
        self.start()

    def start(self) -> None:
        _thread.start_new_thread(self.run, ())

    def on_thread(self) -> bool:
        """Return True on the broker's own thread."""
        return _thread.get_ident() == self.ident

    def defer(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Any thread: have `func` called on the broker thread. N of them cost one byte."""
        self._deferred.append((func, args, kwargs))
        if not self._awake and _thread.get_ident() != self.ident:
            self._awake = True
            with self._wake_lock:
                if self.alive:
                    os.write(self._wake_w, b"!")

    def after(self, seconds: float, func: Action) -> list[Action]:
        """Broker thread: have `func()` called later; return a list whose clear() cancels that."""
        self._sequence += 1
        cell = [func]
        heappush(self._timers, (now() + seconds, self._sequence, cell))
        return cell

    def _on_wake(self) -> None:
        os.read(self._wake_r, 64)
        self._awake = False

    def run(self) -> None:
        self.ident = _thread.get_ident()
        try:
            while not self.stopping:
                self._once()
        finally:
            self._end()

    def _once(self) -> None:
        timers = self._timers
        wait: float | None = None
        if self._deferred:
            wait = 0
        elif timers:
            wait = max(0, timers[0][0] - now())
        self._guard(self.poller.poll, wait)
        # As many as there are: those that they defer wait for the next turn.
        for _ in range(len(self._deferred)):
            func, args, kwargs = self._deferred.popleft()
            self._guard(func, *args, **kwargs)
        while timers and timers[0][0] <= now():
            for func in heappop(timers)[2]:
                self._guard(func)

    def _guard(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """A program's callback that raises must not end the thread that all I/O hangs on."""
        try:
            func(*args, **kwargs)
        except Exception:
            sys.excepthook(*sys.exc_info())

    def _end(self) -> None:
        with self._wake_lock:
            self.alive = False
            os.close(self._wake_w)
        while self._deferred:
            func, args, kwargs = self._deferred.popleft()
            self._guard(func, *args, **kwargs)
        for func in list(self.exit_actions):
            self._guard(func)
        fire(self, "exit")
        os.close(self._wake_r)
        self._ended.release()

    def shutdown(self) -> None:
        """Any thread: end the children, then the thread."""
        self.defer(self._shutdown)

    def _shutdown(self) -> None:
        if not self.closing:
            self.closing = True
            fire(self, "before_shutdown")
            fire(self, "shutdown")
            self.stop()

    def stop(self) -> None:
        """Broker thread: end, once nobody holds the broker any more (`holds`)."""
        self.stopping = self.closing and not self.holds

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._ended.acquire():
            self._ended.release()


# ---- section: RouteTable and Router ----


class RouteTable:
    """Pure: which stream leads to which context. What is not known leads to the parent."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.parent: Stream | None = None

    def get(self, context_id: int) -> Stream | None:
        return self.streams.get(context_id, self.parent)

    def admits(self, msg: Message, stream: Stream) -> bool:
        """Whether a reply to `msg` would take the stream it came in on."""
        auth = msg.auth_id
        src = msg.src_id
        get = self.streams.get
        parent = self.parent
        return get(auth, parent) is stream and (src == auth or get(src, parent) is stream)

    def remove(self, stream: Stream) -> list[int]:
        """Forget a stream; return the ids that it led to."""
        ids = [i for i, s in list(self.streams.items()) if s is stream]
        for i in ids:
            del self.streams[i]
        if self.parent is stream:
            self.parent = None
        return ids


class Node:
    """Who a router is: its context id and its ancestors' ids, nearest first."""

    def __init__(self, context_id: int = 0, parent_ids: Iterable[int] = ()) -> None:
        self.context_id = context_id
        self.parent_ids = list(parent_ids)


def has_parent_authority(msg: Message, _stream: Stream | None = None) -> bool:
    """Policy: accept what carries the authority of this context or of one of its ancestors."""
    node = msg.router.node
    return msg.auth_id == node.context_id or msg.auth_id in node.parent_ids


def is_neighbour(msg: Message, stream: Any) -> bool:
    """Policy: accept only what the context at the other end of `stream` sent itself."""
    return bool(stream) and msg.src_id == stream.remote_id


class Ticket:
    """A message that is queued or under way in frames, and the thread that waits for it."""

    error: str | None = None

    def __init__(self, msg: Message, lock: Lock | None) -> None:
        self.msg = msg
        self.lock = lock

    def done(self, error: str | None = None) -> None:
        self.error = error
        lock, self.lock = self.lock, None
        if lock:
            lock.release()


class Router:
    """
    Decides where a message goes; knows the handlers of this context.

    :param Broker broker: does the I/O
    :param Node node: who this context is
    """

    if TYPE_CHECKING:

        def register(self, context: Context, stream: Any) -> None: ...

    context_class: Any = None
    max_message_size = MAX_MESSAGE_SIZE
    unidirectional = False
    #: `trace("send" or "receive", msg)`, or None.
    trace: Callable[[str, Message], object] | None = None
    #: flow.LongSend, once that is imported; until then long messages go without pause.
    pacer: type[LongSend] | None = None
    refused_msg = "refused by policy"
    invalid_handle_msg = "invalid handle"
    too_large_msg = "message too large (max %d bytes)"
    respondent_disconnect_msg = "respondent Context has disconnected"
    broker_exit_msg = "Broker has exitted"
    no_route_msg = "no route to %r, my ID is %r"
    duplicate_handle_msg = "the handle is taken"

    def __init__(self, broker: Broker, node: Node | None = None) -> None:
        self.broker = broker
        self.node = node or Node()
        self.context_id = self.node.context_id
        self.routes = RouteTable()
        self._stream_by_id = self.routes.streams
        self._contexts: dict[int, Any] = {}
        self._handlers: dict[int, Any] = {}  # a Handler each
        self._flows: dict[tuple[int, int], Window] = {}
        self._meters: dict[tuple[int, int], Meter] = {}
        self._longs: dict[tuple[int, int], LongSend] = {}
        self._partials: dict[tuple[int, int], list[Any]] = {}
        self._lock = _thread.allocate_lock()
        self._handle_numbers = count(FIRST_HANDLE)
        self._reply_numbers = count(FIRST_UNWINDOWED)
        self._message_numbers = count(1)
        self.dropped = 0
        self._drop_logged: float = 0
        self.add_handler(self._on_credit, CREDIT)
        self.add_handler(self._on_del_route, DEL_ROUTE, policy=is_neighbour)
        self.add_handler(lambda msg: msg.reply(Message(flags=RAW)), PING)
        broker.exit_actions.append(self._on_broker_exit)

    def log(self, level: int, fmt: str, *args: object) -> None:
        """Any thread: record something; a child sends it up, a master hands it to logging."""

    # -- contexts and handlers

    def context_by_id(
        self,
        context_id: int,
        via_id: int | None = None,
        create: bool = True,
        name: str | None = None,
    ) -> Any:
        """Return the Context with that id: always the same object, made if `create`."""
        context = self._contexts.get(context_id)
        if context is None and create:
            context = self.context_class(self, context_id, name)
            context = self._contexts.setdefault(context_id, context)
            if via_id is not None:
                context.via = self._contexts.get(via_id)
        return context

    def add_handler(
        self,
        fn: MessageHandler,
        handle: int | None = None,
        persist: bool = True,
        policy: Policy | None = None,
        respondent: Context | None = None,
        overwrite: bool = False,
        consumer: bool = False,
    ) -> int:
        """
        Have the broker call `fn(msg)` for each message to `handle`; return the handle.

        :param int handle: None for a new one
        :param bool persist: False: for one message only
        :param policy: `policy(msg, stream)` returns whether a message is accepted
        :param Context respondent: accept only what comes from there; its loss is a dead message
        :param bool overwrite: replace an existing handler
        :param bool consumer: `fn` sees to Router.consumed() itself
        :raises Error: there is a handler for that handle
        """
        if hasattr(policy, "context_id") or callable(respondent):
            policy, respondent = respondent, policy  # type: ignore[assignment]  # old order
        if handle is None:
            handle = self.new_handle(persist)
        elif handle in self._handlers and not overwrite:
            raise Error(self.duplicate_handle_msg)
        source: Any = respondent and respondent.context_id
        self._handlers[handle] = (fn, persist, policy, source, consumer)
        if not self.broker.alive:
            self._on_broker_exit()
        return handle

    def expect(self, fn: MessageHandler, context_id: int) -> int:
        """Have `fn(msg)` called with one answer, from that context; return its handle."""
        handle = next(self._reply_numbers)
        self._handlers[handle] = (fn, False, None, context_id, True)
        if not self.broker.alive:
            self._on_broker_exit()
        return handle

    def new_handle(self, windowed: bool = True) -> int:  # type: ignore[return]  # never at its end
        """Return an unused handle; its number tells both ends whether it is a windowed flow."""
        for handle in self._handle_numbers if windowed else self._reply_numbers:
            if handle not in self._handlers:
                return handle

    def del_handler(self, handle: int) -> None:
        """Forget the handler of `handle`; KeyError if there is none."""
        del self._handlers[handle]

    def _on_broker_exit(self) -> None:
        why = self.broker_exit_msg
        for key in list(self._flows):
            self._end_flow(key, why)
        for long_send in list(self._longs.values()):
            long_send.end(why)
        for handle, handler in list(self._handlers.items()):
            # Those of the protocol itself wait for nothing.
            if handle >= FIRST_HANDLE and self._handlers.pop(handle, None):
                handler[0](self._dead(handle, handler[3], why))

    def _dead(self, handle: int, src_id: int, reason: str) -> Message:
        me = self.context_id
        msg = Message.dead(reason, dst_id=me, src_id=src_id, auth_id=me, handle=handle)
        msg.router = self
        return msg

    # -- out

    def route(self, msg: Message, wait: bool = True, cork: bool = False) -> None:
        """
        Any thread: send a message of this context's own.

        Called on a program's thread it may sleep: for credit, or until a slow link has taken
        what is queued.

        :param bool wait: False: never sleep
        :param bool cork: more will follow at once
        :raises TimeoutError: no credit came within CREDIT_TIMEOUT
        """
        me = msg.src_id = msg.auth_id = self.context_id
        dst = msg.dst_id
        size = len(msg.data)
        stream = self._stream_by_id.get(dst) or self.routes.parent
        if size > self.max_message_size or stream is None or dst == me:
            return self.broker.defer(self._route_home, msg)
        if self.trace:
            self.trace("send", msg)
        ticket = None
        if size > LONG_SIZE:
            wait = wait and not self.broker.on_thread()
            if wait and not self.pacer:
                import_module("mitogen.flow")
            ticket = Ticket(msg, new_lock() if wait else None)
        if is_windowed(msg.handle):
            ticket = self._send_in_flow(msg, stream, wait, cork, ticket)
        elif size > FRAME_SIZE:
            self._emit(msg, stream, cork, ticket)
        else:
            stream.send(msg._header(size, msg.flags), msg.data, cork)
        if wait and (ticket or stream.queued > HIGH_WATER) and not self.broker.on_thread():
            import_module("mitogen.flow").wait(self, ticket, stream)

    def _route_home(self, msg: Message) -> None:
        """Broker thread: what does not leave this context: its own, too large, or lost."""
        if len(msg.data) > self.max_message_size:
            why = self.too_large_msg % self.max_message_size
            self._bounce(msg, why)
            if msg.handle >= FIRST_UNWINDOWED:
                # An answer: who waits for it gets the reason.
                msg.__dict__.update(data=why.encode(), reply_to=IS_DEAD)
                self.route(msg, False)
        elif msg.dst_id == self.context_id:
            self._local(msg)
        else:
            self._bounce(msg, self.no_route_msg % (msg.dst_id, self.context_id))

    def _send_in_flow(
        self,
        msg: Message,
        stream: Stream,
        wait: bool,
        cork: bool,
        ticket: Ticket | None,
    ) -> Ticket | None:
        key = (msg.dst_id, msg.handle)
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows.setdefault(key, Window(window_size(msg.handle)))
        cost = 0 if msg.reply_to == IS_DEAD else len(msg.data) + MESSAGE_COST
        with flow.lock:
            if flow.take(cost):
                long_send = self._emit(msg, stream, cork, ticket, flow)
            else:
                if flow.queued > self.max_message_size:
                    raise Error("context %d: too many calls wait", msg.dst_id)
                # A call waits here, its caller does not.
                wait = wait and msg.handle >= FIRST_HANDLE and not self.broker.on_thread()
                ticket = Ticket(msg, new_lock() if wait else None)
                flow.push(ticket, cost)
                return ticket
        if long_send:
            long_send.pump()
        return ticket

    def _emit(
        self,
        msg: Message,
        stream: Stream,
        cork: bool = False,
        ticket: Any = None,
        flow: Any = None,
    ) -> Any:
        """Send a message's frames; one that goes bit by bit is returned if its flow is locked."""
        data = msg.data
        size = len(data)
        if size <= FRAME_SIZE:
            return stream.send(msg._header(size, msg.flags), data, cork)
        msg.number = next(self._message_numbers) & 0xFFFFFFFF
        if ticket and self.pacer:
            long_send = self.pacer(self, ticket, stream, flow)
            return long_send if flow else long_send.pump()
        view = memoryview(data)
        for pos in range(0, size, FRAME_SIZE):
            part = view[pos : pos + FRAME_SIZE]
            more = MORE if pos + FRAME_SIZE < size else 0
            stream.send(msg._header(len(part), msg.flags | more | (CONT if pos else 0)), part)
        if ticket:
            ticket.done()

    def _drain(self, flow: Window) -> None:
        """Broker thread: send what waited, as far as there is credit."""
        while 1:
            with flow.lock:
                ticket = flow.pop()
                if not ticket:
                    return
                msg = ticket.msg
                stream = self.routes.get(msg.dst_id)
                is_long = len(msg.data) > LONG_SIZE
                long_send = stream and self._emit(
                    msg, stream, False, is_long and ticket, is_long and flow
                )
            if long_send:
                long_send.pump()
            else:
                ticket.done()

    def _end_flow(self, key: tuple[int, int], reason: str) -> None:
        flow = self._flows.pop(key, None)
        if flow:
            with flow.lock:
                tickets = [entry for entry, _ in flow.queue]
                flow.queue.clear()
            for ticket in tickets:
                ticket.done(reason)
                self._bounce(ticket.msg, reason)

    def _bounce(self, msg: Message, reason: str) -> None:
        """Broker thread: end the wait for an answer to `msg`, in the name of its destination."""
        src = msg.src_id
        me = self.context_id
        if msg.is_dead:
            return
        if is_windowed(msg.handle) and src != me:
            self._send_credit(src, msg.handle, 0, 0, msg.dst_id)
        if msg.reply_to:
            dead = self._dead(msg.reply_to, msg.dst_id, reason)
            dead.dst_id = src
            stream = self.routes.get(src)
            if src == me:
                self._local(dead)
            elif stream:
                self._emit(dead, stream)

    def _send_credit(
        self,
        dst_id: int,
        handle: int,
        number: int,
        amount: int,
        src_id: int | None = None,
    ) -> None:
        me = self.context_id
        stream = self.routes.get(dst_id)
        if stream:
            msg = Message(dst_id=dst_id, auth_id=me, handle=CREDIT, flags=RAW)
            msg.src_id = me if src_id is None else src_id
            msg.data = _CREDIT.pack(handle, number, amount)
            self._emit(msg, stream)

    def consumed(self, msg: Message) -> None:
        """Any thread: `msg` was used or dropped: its sender gets its credit back."""
        cost, msg.cost = msg.cost, 0
        if cost:
            with self._lock:
                meter = self._meters.get((msg.src_id, msg.handle))
                amount = meter and meter.consume(cost)
            if amount:
                self._send_credit(msg.src_id, msg.handle, 0, amount)

    # -- in

    def on_frame(self, msg: Message, stream: Stream) -> None:
        """Broker thread: check a frame's source, then forward it or take it in."""
        if self.routes.admits(msg, stream):
            self.accept(msg, stream)
        else:
            self._drop(msg, "forged source")

    def accept(self, msg: Message, stream: Stream) -> None:
        """Broker thread: forward a frame whose source is known to be true, or take it in."""
        if msg.dst_id != self.context_id:
            self.forward(msg, stream)
        elif msg.flags & 3:
            self._assemble(msg, stream)
        else:
            self._local(msg, stream)

    def forward(self, msg: Message, stream: Stream) -> None:
        """Broker thread: pass a frame on. Here, in a context without children, nothing is."""
        if not msg.flags & CONT:
            self._bounce(msg, self.no_route_msg % (msg.dst_id, self.context_id))

    def _drop(self, msg: Message, why: str) -> None:
        self.dropped += 1
        if now() > self._drop_logged + 1:
            self._drop_logged = now()
            self.log(ERROR, "dropped %r: %s (no. %d)", msg, why, self.dropped)

    def _assemble(self, msg: Message, stream: Stream) -> None:
        src = msg.src_id
        key = (src, msg.number)
        # Senders fill all pieces but the last: otherwise there could be any number of them.
        if msg.flags & MORE and len(msg.data) != FRAME_SIZE:
            return
        if not msg.flags & CONT:
            handler = self._admit(msg, stream)
            if handler:
                self._partials[key] = [handler, msg, [], MESSAGE_COST, 0]
        part = self._partials.get(key)
        if not part:
            # Dropped: whoever sends it must not wait for the credit.
            return self._send_credit(src, 0, msg.number, len(msg.data))
        handler, first, chunks = part[:3]
        size = len(msg.data)
        chunks.append(msg.data)
        part[3] += size
        part[4] += size
        if sum(p[3] for k, p in self._partials.items() if k[0] == src) > self.max_message_size:
            del self._partials[key]
            why = self.too_large_msg % self.max_message_size
            if handler[3] is None:
                return self._bounce(first, why)
            return self._local(self._dead(first.handle, src, why))
        if not msg.flags & MORE:
            del self._partials[key]
            first.data = b"".join(chunks)
            if self._charge(first):
                self._hand_over(handler, first)
            else:
                self._refuse(first, "window overrun")
        elif part[4] * 2 >= LONG_WINDOW:
            self._send_credit(src, 0, msg.number, part[4])
            part[4] = 0

    def _charge(self, msg: Message) -> Any:
        """Count a message that is charged to a window; return False on an overrun."""
        if msg.is_dead or not is_windowed(msg.handle):
            return True
        msg.cost = len(msg.data) + MESSAGE_COST
        key = (msg.src_id, msg.handle)
        with self._lock:
            meter = self._meters.get(key)
            if meter is None:
                meter = self._meters[key] = Meter(window_size(msg.handle))
            return meter.receive(msg.cost)

    def _admit(self, msg: Message, stream: Stream | None) -> Any:
        """Return the handler that takes `msg`, after having answered for it if there is none."""
        msg.router = self
        handle = msg.handle
        handler = self._handlers.get(handle)
        # What comes in several frames is charged when it is whole.
        if stream and not msg.flags & MORE and not self._charge(msg):
            why = "window overrun"
        elif handler is None:
            # The flow begins anew, should the handle be used again.
            self._meters.pop((msg.src_id, handle), None)
            return self._bounce(msg, self.invalid_handle_msg)
        elif handler[3] is not None and handler[3] != msg.src_id:
            return self._drop(msg, self.refused_msg)
        elif handler[2] and not handler[2](msg, stream):
            why = self.refused_msg
        else:
            return handler
        self._refuse(msg, why)

    def _refuse(self, msg: Message, why: str) -> None:
        self._drop(msg, why)
        self._bounce(msg, why)

    def _hand_over(self, handler: Handler, msg: Message) -> None:
        # Another answer, or the respondent's end, may have come first.
        if handler[1] or self._handlers.pop(msg.handle, None):
            if self.trace:
                self.trace("receive", msg)
            try:
                handler[0](msg)
            except Exception as e:
                self._drop(msg, repr(e))
            if not handler[4]:
                self.consumed(msg)

    def _local(self, msg: Message, stream: Stream | None = None) -> None:
        """Broker thread: deliver a message to this context."""
        handler = self._admit(msg, stream)
        if handler:
            self._hand_over(handler, msg)

    def _on_credit(self, msg: Message) -> None:
        handle, number, amount = _CREDIT.unpack(msg.data)
        key = (msg.src_id, number or handle)
        if number:
            long_send = self._longs.get(key)
            if long_send:
                long_send.give(amount)
        elif not amount:
            self._end_flow(key, self.invalid_handle_msg)
        elif key in self._flows:
            flow = self._flows[key]
            with flow.lock:
                flow.credit += amount
            self._drain(flow)

    # -- ends

    def on_stream_lost(self, stream: Stream) -> None:
        """Broker thread: every context that was reached through `stream` is gone."""
        parent = stream is self.routes.parent
        ids = self.routes.remove(stream)
        for context_id in ids:
            self.context_lost(context_id)
        if parent:
            fire(self, "parent_lost")
        fire(self, "routes_lost", ids, stream)

    def _on_del_route(self, msg: Message) -> None:
        """A neighbour says that a context is gone: believed of those that it leads to."""
        (context_id,) = _NUMBER.unpack(msg.data)
        stream = self.routes.get(context_id)
        if stream is self.routes.get(msg.src_id) and context_id != msg.src_id:
            self._stream_by_id.pop(context_id, None)
            self.context_lost(context_id)
            fire(self, "routes_lost", [context_id], stream)

    def context_lost(self, context_id: int) -> None:
        """Broker thread: end every wait for a context."""
        why = self.respondent_disconnect_msg
        for handle, handler in list(self._handlers.items()):
            if handler[3] == context_id:
                self._local(self._dead(handle, context_id, why))
        for table, end in (
            (self._flows, self._end_flow),
            (self._longs, lambda key, why: self._longs[key].end(why)),
            (self._partials, self._partials.pop),
            (self._meters, self._meters.pop),
        ):
            for key in list(table):
                if key[0] == context_id:
                    end(key, why)
        context = self._contexts.pop(context_id, None)
        if context:
            fire(context, "disconnect")


# ---- section: Context, Sender, Receiver ----


class Context:
    """
    A context of the tree, as seen from here.

    :param Router router: router of this context
    :param int context_id: which one
    :param str name: for people
    """

    #: `user@host:pid`-like name of the process, where known.
    remote_name: str | None = None
    #: The context that it was connected through, if any.
    via: Any = None

    def __init__(self, router: Router, context_id: int, name: str | None = None) -> None:
        self.router = router
        self.context_id = context_id
        self.name = name

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Context)
            and other.context_id == self.context_id
            and other.router is self.router
        )

    def __hash__(self) -> int:
        return hash((id(self.router), self.context_id))

    def __repr__(self) -> str:
        return "Context(%s, %r)" % (self.context_id, self.name)

    if TYPE_CHECKING:
        # The same as in parent.py; of what else is found there only the name is looked at.
        def call(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
        def call_async(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Receiver: ...  # noqa: F405
        def call_no_reply(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> None: ...
        def submit(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...

    def __getattr__(self, name: str) -> Any:
        # What a context can do for one that calls is in parent.py; it is imported at first use.
        if name[0] == "_" or name == "on_start":
            raise AttributeError(name)
        from mitogen.tree import contexts

        return borrow(contexts.Context, name, self)

    def send(self, msg: Message) -> None:
        """Send `msg` there; its `handle` says which mailbox."""
        msg.dst_id = self.context_id
        self.router.route(msg)


Router.context_class = Context


class Sender:
    """
    Sends values to a mailbox. It can be passed to other contexts.

    :param Context context: where the mailbox is
    :param int dst_handle: which one
    """

    if TYPE_CHECKING:
        explicit_close_msg: str

        def put(self, data: Any) -> None: ...

    def __init__(self, context: Context, dst_handle: int) -> None:
        self.context = context
        self.dst_handle = dst_handle

    def send(self, data: Any, enc: int = 0) -> None:
        """
        Send a value; with `Message.ENC_BIN`, bytes as they are.

        :raises EncodeError: it cannot be sent
        :raises TimeoutError: the receiver did not read for CREDIT_TIMEOUT seconds
        """
        self.context.send(Message.encoded(data, enc, handle=self.dst_handle))

    def close(self) -> None:
        """End the receiver's iteration once it has read what was sent."""
        self.context.send(Message.dead(handle=self.dst_handle))


ENCODERS[Context] = (TAG_CONTEXT, lambda c: [c.context_id, c.name])
ENCODERS[Sender] = (TAG_SENDER, lambda s: [s.context.context_id, s.dst_handle])


def _encode_call_error(error: CallError) -> list[str | None]:
    return [error.type_name, error.message, error.traceback, str(error)]


ENCODERS[CallError] = (TAG_CALL_ERROR, _encode_call_error)
# Whatever a peer names is no reason to keep it.
TAG_DECODERS[TAG_CONTEXT] = lambda v, router: (
    _NUMBER.pack(v[0])
    and router.context_by_id(v[0], None, False)
    or router.context_class(router, *v)
)
TAG_DECODERS[TAG_SENDER] = lambda v, router: Sender(TAG_DECODERS[TAG_CONTEXT](v[:1], router), v[1])


# ---- section: Importer ----


class Importer:
    """
    Finds and loads modules that come from the parent (PEP 451).

    The program's own top-level names are the master's whatever the target has; everything else is
    looked for on the target first. `segments` are kept as they came, for children of this context.

    `own` has the program's own top-level names, or portions of a namespace package; they come with
    the modules.

    :param Router router: asks the parent through it
    """

    if TYPE_CHECKING:

        def find_module(self, fullname: str, path: Any = None) -> Any: ...
        def load_module(self, fullname: str) -> Any: ...

    def __init__(self, router: Router, own: Iterable[str] = ()) -> None:
        self.router = router
        self.own = {"mitogen", *own}
        if TYPE_CHECKING:
            self.core_source = b""
        #: fullname -> [path, submodules or None, segment, offset, size]; path None: size is why.
        self.modules: dict[str, Entry] = {}
        self._waiting: dict[str, list[Action]] = {}
        self._sources: dict[int, bytes] = {}
        router.add_handler(self._on_load_module, LOAD_MODULE, policy=has_parent_authority)

    # sys.meta_path holds the importer twice: in front for what is own, at the end for what the
    # target does not have.
    def install(self) -> None:
        sys.meta_path.insert(0, self)
        sys.meta_path.append(_LastFinder(self))

    def is_own(self, fullname: str) -> bool:
        while fullname:
            if fullname in self.own:
                return True
            fullname = fullname.rpartition(".")[0]
        return False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if self.is_own(fullname):
            return self.find(fullname, True)

    def find(self, fullname: str, own: bool = False) -> ModuleSpec | None:
        parent = fullname.rpartition(".")[0]
        known = self.modules.get(parent)
        if known and known[0] and fullname not in self.modules:
            if fullname.rpartition(".")[2] not in (known[1] or ()):
                return None
        entry = self.get(fullname)
        if entry[0] is None:
            if own or entry[4]:
                raise ModuleNotFoundError(
                    entry[4] or "No module named %r" % fullname, name=fullname
                )
            return None
        # A namespace package has a path and no source.
        loader: Any = None if entry[4] is None else self
        package = entry[1] is not None
        spec = ModuleSpec(fullname, loader, origin="master:" + entry[0], is_package=package)
        spec.has_location = bool(loader)
        return spec

    def get(self, fullname: str) -> Entry:
        """Return the entry of a module, asking the parent for one that was not pushed."""
        entry = self.modules.get(fullname)
        if entry:
            return entry
        if self.router.broker.on_thread():
            raise ImportError("%s: not on the broker thread" % fullname)
        lock = new_lock()
        self.request(fullname, lock.release)
        if not lock.acquire(True, IMPORT_TIMEOUT):
            raise ImportError("%s: no answer from the parent" % fullname)
        return self.modules[fullname]

    def request(self, fullname: str, done: Action) -> None:
        """Any thread: ask the parent for a module; `done()` is called when it is here."""
        self.router.broker.defer(self._request, fullname, done)

    def _request(self, fullname: str, done: Action) -> Any:
        if fullname in self.modules:
            return done()
        waiting = self._waiting.setdefault(fullname, [])
        waiting.append(done)
        if len(waiting) == 1:
            router = self.router
            msg = Message(dst_id=router.node.parent_ids[0], handle=GET_MODULE, flags=RAW)
            msg.data = fullname.encode()
            router.route(msg, False)

    def _on_load_module(self, msg: Message) -> None:
        self.load(decode(msg.data))

    def load(self, segment: Segment) -> None:
        """
        Broker thread: take in a segment: [entries, zlib stream of all sources, own names], each
        entry [fullname, path, submodules or None, size]; path None: size is why there is none.
        """
        offset = 0
        self.own.update(segment[2])
        for fullname, path, submodules, size in segment[0]:
            if path is not None or fullname not in self.modules:
                self.modules[fullname] = (path, submodules, segment, offset, size)
            if path is not None:
                offset += size or 0
            for done in self._waiting.pop(fullname, ()):
                done()

    def source(self, fullname: str) -> bytes:
        """Return a module's source as bytes."""
        path, submodules, segment, offset, size = self.get(fullname)
        data = self._sources.get(id(segment))
        if data is None:
            data = self._sources[id(segment)] = zlib.decompress(segment[1])
        return data[offset : offset + size]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        spec = module.__spec__
        fullname = spec.name
        # Modules of one segment are imported soon after each other; then its text can go.
        if len(self._sources) > 4:
            self._sources.clear()
        module.__file__ = spec.origin
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        exec(compile(self.source(fullname), spec.origin, "exec", 0, 1), module.__dict__)  # type: ignore[call-overload]

    def __getattr__(self, name: str) -> Any:
        # What only inspect, linecache and the like ask a loader for.
        if name[:4] != "get_" and name != "is_package":
            raise AttributeError(name)
        from mitogen import child

        return borrow(child.ModuleText, name, self)


class _LastFinder:
    def __init__(self, importer: Importer) -> None:
        self.importer = importer

    def find_spec(self, fullname: str, *_: Any) -> Any:
        return self.importer.find(fullname)


# ---- section: logging and stdio ----


class ChildRouter(Router):
    """The router of a context that has a parent."""

    econtext: Any = None
    if TYPE_CHECKING:
        importer: Importer

    def log(self, level: int, fmt: str, *args: object) -> None:
        if level >= self.log_level:
            self.send_log(["mitogen", level, fmt % args if args else fmt, None, 0, None])

    def send_log(self, fields: list[Any]) -> None:
        """Any thread: send [logger, level, text, file, line, function] to the master."""
        msg = Message(dst_id=self.node.parent_ids[-1], handle=FORWARD_LOG, data=encode(fields))
        self.route(msg, False)

    def __getattr__(self, name: str) -> Any:
        # A child that connects to others gets what it needs for that at first use.
        if name[0] == "_" or not self.econtext:
            raise AttributeError(name)
        from mitogen.tree import router

        router.upgrade(self)
        return borrow(router.Router, name, self)


# ---- section: Dispatcher ----


def takes_econtext(func: Callable[..., R]) -> Callable[..., R]:
    """
    Have `func` called with `econtext=` (an ExternalContext) when it is called from afar.

    Its callers do not pass that, which types cannot say: to a type checker they may pass anything.
    """
    func.mitogen_takes_econtext = True  # type: ignore[attr-defined]
    return func


def takes_router(func: Callable[..., R]) -> Callable[..., R]:
    """Have `func` called with `router=` when it is called from afar; see takes_econtext()."""
    func.mitogen_takes_router = True  # type: ignore[attr-defined]
    return func


class Dispatcher:
    """Runs calls, one after the other, on the thread that calls run(): the main thread."""

    def __init__(self, econtext: ExternalContext) -> None:
        self.econtext = econtext
        self.router = econtext.router
        self.queue: deque[Message] = deque()
        self.lock = new_lock()
        self.asleep = False
        self.ended = False
        self.current: Message | None = None
        self.interruptible = False
        self.errors: dict[str, CallError] = {}
        # Services answer for themselves; child.py sees to what is not for the main thread.
        for handle in CALL_FUNCTION, CALL_SERVICE, CANCEL:
            policy: Any = handle != CALL_SERVICE and has_parent_authority
            self.router.add_handler(self._on_call, handle, policy=policy, consumer=True)

    @staticmethod
    @takes_econtext
    def forget_chain(chain_id: str, econtext: ExternalContext) -> None:
        econtext.dispatcher.errors.pop(chain_id, None)

    def _on_call(self, msg: Message) -> None:
        if msg.reply_to != IS_DEAD:
            self.queue.append(msg)
            self.wake()

    def wake(self) -> None:
        """Any thread: have run() look at its queue."""
        if self.asleep:
            self.asleep = False
            try:
                self.lock.release()
            except RuntimeError:
                # It was about to, anyway.
                pass

    def end(self) -> None:
        """Any thread: have run() return after the current call."""
        self.ended = True
        self.wake()

    #: Broker thread: raise KeyboardInterrupt in the current call; set by child.py.
    interrupt: Any = int

    def run(self) -> None:
        queue = self.queue
        while not self.ended:
            if queue:
                msg = self.current = queue.popleft()
                self._run_one(msg)
                self.current = None
                self.router.consumed(msg)
                # Answers to calls that wait already go out together, by whichever thread is first.
                continue
            stream = self.router.routes.parent
            if stream and stream.backlog:
                stream.flush()
            self.asleep = True
            if queue or self.ended:
                self.asleep = False
                continue
            self.lock.acquire()

    def _run_one(self, msg: Message) -> None:
        chain_id = reply = None
        try:
            if not self.econtext.stdout_log and self.econtext.prepare(msg):
                return
            name, args, kwargs = decode(msg.data, self.router)
            module_name, class_name, name, chain_id = name.split("\0")
            reply = self.errors.get(chain_id)
            if not reply:
                func = self._find(module_name, class_name, name, kwargs)
                self.interruptible = True
                result = func(*args, **kwargs)
                self.interruptible = False
                limit = self.router.max_message_size
                data = b"\xf6" if result is None else encode(result, limit, "result")
        except BaseException as e:
            self.interruptible = False
            reply = CallError(e)
            if chain_id:
                self.errors[chain_id] = reply
            # What the end interrupts is nobody's error.
            if not (msg.reply_to or self.ended):
                self.router.log(ERROR, "call without answer: %s", reply)
        if msg.reply_to:
            if reply:
                data = encode(reply)
            answer = Message(data=data, dst_id=msg.src_id, handle=msg.reply_to)
            self.router.route(answer, True, bool(self.queue))

    def _find(self, module_name: str, class_name: str, name: str, kwargs: dict[str, Any]) -> Any:
        if module_name == "__main__":
            self.econtext.import_main()
        # Waits, should another thread be importing it.
        owner = import_module(module_name)
        for part in class_name.split(".") if class_name else ():
            owner = getattr(owner, part)
        func = getattr(owner, name)
        if hasattr(func, "mitogen_takes_econtext"):
            kwargs["econtext"] = self.econtext
        if hasattr(func, "mitogen_takes_router"):
            kwargs["router"] = self.router
        return func


# ---- section: child main ----


class ExternalContext:
    """
    A child's state: what `econtext` is in a function that takes_econtext().

    :param dict config: what the parent sent with the source; see parent.child_config()
    """

    detached = False
    stdout_log: Any
    stderr_log: Any
    stdout_log = stderr_log = None
    if TYPE_CHECKING:
        #: child.install() sets them.
        import_main: Callable[[], object]
        detach: Callable[[], object]
        importer: Any

    def __init__(self, config: dict[str, Any], core_source: bytes = b"", rest: bytes = b"") -> None:
        self.config = config
        self.core_source = core_source
        self.rest = rest

    def main(self) -> None:
        """Become the context; return when it is to end."""
        config = self.config
        rfd, wfd = self._take_stdio()
        os.write(wfd, b"MITO:READY\n")
        self.broker = Broker()
        node = Node(config["module"]["context_id"], config["module"]["parent_ids"])
        ids = node.parent_ids
        self.router = router = ChildRouter(self.broker, node)
        router.econtext = self
        router.__dict__.update(config["router"])
        self.master = router.context_by_id(ids[-1], name="master")
        self.parent = router.context_by_id(ids[0], name="parent")
        self.stream = router.routes.parent = Stream(router, ids[0], rfd, wfd, "parent")
        self.context = router.context_by_id(node.context_id, name=config["name"])
        listen(router, "parent_lost", self._on_parent_lost)
        router.add_handler(self._on_shutdown, SHUTDOWN, policy=has_parent_authority)
        self.dispatcher = Dispatcher(self)
        self.importer = router.importer = Importer(router)
        self.importer.core_source = self.core_source
        self._set_up_modules()
        self.broker.defer(self.stream.start, self.rest)
        if config["keepalive"]:
            self._received: int | None = None
            self.broker.defer(self._check_parent)
        self.dispatcher.run()
        self._end()

    def prepare(self, msg: Message) -> Any:
        """Before the first call: see child.py; return whether it is not for this thread."""
        from mitogen import child

        return child.install(self, msg)

    def _take_stdio(self) -> tuple[int, int]:
        """Move the pipe to the parent off descriptors 0 and 1, out of the programs' way."""
        rfd = os.dup(0)
        wfd = os.dup(1)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        if self.config["merged"]:
            os.dup2(null, 2)
        os.close(null)
        try:
            # A group of its own, so that what calls have started can be ended with the context.
            os.setsid()
        except OSError:
            pass
        return rfd, wfd

    def _set_up_modules(self) -> None:
        module: Any = sys.modules.get("mitogen")
        if not module:
            module = sys.modules["mitogen"] = type(sys)("mitogen")
            module.__path__ = []
            module.__loader__ = self.importer
            module.__spec__ = ModuleSpec("mitogen", self.importer, is_package=True)
        module.__dict__.update(self.config["module"])
        # `@mitogen.main()` does nothing in a child.
        module.main = lambda *a, **k: lambda func: None
        core = sys.modules[__name__]
        core.__loader__ = self.importer
        core.__spec__ = ModuleSpec(__name__, self.importer)
        module.core = core
        self.importer.install()

    def _check_parent(self) -> None:
        """A parent that has sent nothing for so long is gone, whatever the link says."""
        if self._received == self.stream.received:
            return self.stream.disconnect("the parent is silent")
        self._received = self.stream.received
        self.broker.after(self.config["keepalive"], self._check_parent)

    def _on_shutdown(self, msg: Message) -> None:
        """The current call may come to its end, unless nobody is there for its result."""
        self.dispatcher.end()
        self.broker.after(0 if msg.data else self.broker.shutdown_timeout, self._hurry)

    def _on_parent_lost(self) -> None:
        if not self.detached:
            self._hurry()

    def _hurry(self) -> None:
        self.dispatcher.end()
        self.dispatcher.interrupt()
        self.broker.after(1, lambda: end_process(1))

    #: Main thread: send what was printed; set by child.py.
    flush: Any = int

    def _end(self) -> None:
        # Whatever hangs from here on, the process ends.
        _signal.signal(_signal.SIGALRM, lambda *_: end_process(1))
        _signal.alarm(5)
        self.flush()
        self.broker.defer(self.stream.flush)
        self.broker.shutdown()
        self.broker.join()


def end_process(status: int) -> NoReturn:
    """End at once, with the programs that calls have started."""
    if os.getpgrp() == os.getpid():
        # Of this thread only, which need not be the main one: another may well be ended by it.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGTERM])
        os.kill(0, _signal.SIGTERM)
    os._exit(status)


class _Module(type(sys)):  # type: ignore[misc]  # types.ModuleType, without that import
    """Finds what only some programs need, and old names, in mailbox.py and core_names.py."""

    def __getattr__(self, name: str) -> Any:
        if name[0] == "_":
            raise AttributeError(name)
        return getattr(import_module("mitogen.compat.core_names"), name)


# As a module's own __getattr__ (PEP 562), which Python 3.6 does not have.
sys.modules[__name__].__class__ = _Module


def child_main(config: bytes, core_source: bytes, rest: bytes) -> NoReturn:
    """Run by the first stage: become a context until the parent ends it or is lost."""
    ExternalContext(decode(config), core_source, rest).main()
    try:
        import atexit

        atexit._run_exitfuncs()
    finally:
        end_process(0)
