"""
Values to bytes and back: CBOR (RFC 8949), definite lengths only.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Rules
    1. For any input, decode() returns a value or raises StreamError, in time and memory
       proportional to the input's length. So no claimed length allocates memory, depth is
       limited, tags refuse content of the wrong type, and keys of a map or set are refused if
       they are costly to compare or were made to collide: see value_types.check_keys().
    2. A value accepted by encode() is decoded as an equal value of the same type. All other
       values are refused; the error names the path to the value. Maps and sets with keys as in
       rule 1 are accepted by encode() all the same: to look at each key would cost every call.
    3. Exact types only: a subclass that is not in ENCODERS is refused, because it would be decoded
       as its base class.
    4. Types and tags that are not in the tables here are in value_types.py, imported at first use.
    5. The tables change by whole entries only.

Simple value 23, "undefined", is Python's Ellipsis, in both directions.

Threads: any. A value is encoded on the thread that produced it, decoded on the one that uses it.
"""

from __future__ import annotations

from _struct import Struct
from itertools import chain, repeat

from mitogen.core.errors import EncodeError, StreamError
from mitogen.core.lazy import fetch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Union

    Bytes = Union[bytes, memoryview]
    Encoder = tuple[int, Callable[[Any], Any]]

#: Depth of nested containers that encode() accepts. On the wire a level may be two: a tag and its
#: content. Each takes one stack frame, so half of the usual limit of 1,000 is left for callers.
MAX_DEPTH = 200
#: Keys of one map that are not looked at if they are text and ints of 64 bits: at worst n of them
#: cost n * n / 2 cheap comparisons. (The hashes of texts cannot be predicted.)
MAX_COLLISIONS = 500
#: Length from which a list of only ints or only floats is sent as an RFC 8746 typed array.
#: Shorter lists are not worth importing mitogen.core.value_types, a round trip in a child.
MIN_ARRAY = 1000
# Private tags. 6 and 7 are unassigned and take one byte: each call has two tuples and a Kwargs.
# The others are in the first-come-first-served space; value_types.py continues from 60016.
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
    """Bytes whose :func:`repr` shows only their number."""

    def __repr__(self) -> str:
        return "[blob: %d bytes]" % len(self)


class Secret(str):
    """Text hidden from its :func:`repr`, to keep it out of logs."""

    def __repr__(self) -> str:
        return "[secret]"


class Kwargs(dict):  # type: ignore[type-arg]  # it takes them since 3.9
    """The keyword arguments of a call: a dict whose keys are :class:`str`."""


#: `{type: (tag, convert)}`: an instance is sent as `tag` with the content `convert(instance)`,
#: which may be any sendable value. The basic types (int, dict, Kwargs ...) are not listed here;
#: _put_item() handles them inline.
ENCODERS: dict[type, Encoder] = {
    Blob: (TAG_BLOB, bytes),
    Secret: (TAG_SECRET, lambda value: value.encode("utf-8", "surrogatepass")),
}
#: `{tag: restore}`: `restore(content, router)` returns the value. Bytes are passed as a memoryview.
#: Content of a wrong type must raise or be harmless; `Blob(2 ** 40)`, for one, would not be.
TAG_DECODERS: dict[int, Callable[[Any, Any], Any]] = {
    2: lambda content, router: int.from_bytes(content, "big"),
    3: lambda content, router: ~int.from_bytes(content, "big"),
    TAG_TUPLE: lambda content, router: tuple(content),
    TAG_KWARGS: lambda content, router: Kwargs(content),
    TAG_SURROGATES: lambda content, router: str(content, "utf-8", "surrogatepass"),
    TAG_BLOB: lambda content, router: Blob(memoryview(content)),
    TAG_SECRET: lambda content, router: Secret(content, "utf-8", "surrogatepass"),
}


def head(major: int, number: int) -> bytes:
    # The initial byte, and the shortest argument (RFC 8949 section 3).
    if number < 24:
        return _BYTES[major + number]
    width = (number > 0xFF) + (number > 0xFFFF) + (number > 0xFFFFFFFF)
    return _HEADS[width](major + 24 + width, number)


def _put_head(major: int, data: Bytes, out: list[Bytes], budget: list[int]) -> None:
    _put_item((), len(data), out, budget, 0)
    out += head(major, len(data)), data


def _put_item(
    items: Iterable[Any], size: int, out: list[Bytes], budget: list[int], depth: int
) -> None:
    # Append the encoding of each item; together they take at least `size` bytes.
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
                append(head(0xC0, TAG_SURROGATES))
                major = 0x40
            size = len(data)
            if size < 24:
                append(_BYTES[major + size])
                append(data)
            else:
                _put_head(major, data, out, budget)
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
                _put_head(0x40, number.to_bytes(number.bit_length() + 7 >> 3, "big"), out, budget)
            else:
                append(head(major, number))
        elif item is None:
            append(b"\xf6")
        elif kind is bool:
            append(b"\xf5" if item else b"\xf4")
        elif kind is dict or kind is Kwargs:
            if kind is Kwargs:
                append(b"\xc7")
            pairs = iter(item.items())  # from here on a change by another thread raises
            size = len(item)
            append(_BYTES[0xA0 + size] if size < 24 else head(0xA0, size))
            _put_item(_flatten(pairs), 2 * size, out, budget, depth - 1)
        elif kind is list or kind is tuple:
            if kind is tuple:
                append(b"\xc6")
            size = len(item)
            array = size >= MIN_ARRAY and fetch("values").typed_array(item)
            if array:
                append(head(0xC0, array[0]))
                _put_head(0x40, array[1], out, budget)
            else:
                if kind is list:
                    item = item[:]  # another thread may change it meanwhile
                    size = len(item)
                append(_BYTES[0x80 + size] if size < 24 else head(0x80, size))
                _put_item(item, size, out, budget, depth - 1)
        elif kind is float:
            append(_pack_double(0xFB, item))
        elif kind is bytes:
            _put_head(0x40, item, out, budget)
        elif item is Ellipsis:
            append(b"\xf7")
        else:
            tag, convert = ENCODERS.get(kind) or fetch("values").find_encoder(item)
            append(head(0xC0, tag))
            _put_item((convert(item),), 1, out, budget, depth - 1)


def encode(value: Any, limit: int | None = None, name: str = "value") -> bytes:
    """Return `value` as CBOR.

    :param value: value to send; see :data:`ENCODERS` and :mod:`mitogen.core.value_types` for types.
    :param int limit: maximum size in bytes; None for no limit. Checked throughout, and
        exactly at the end.
    :param str name: name of the value in an error text.
    :rtype: bytes
    :raises EncodeError: it contains something unsendable, or itself, or it is too large.
    """
    out: list[Bytes] = []
    limit = limit or 1 << 62
    try:
        _put_item((value,), 1, out, [limit], MAX_DEPTH)
        data = b"".join(out)
        if len(data) > limit:
            raise OverflowError("too large")
        return data
    except Exception as failure:
        raise EncodeError(fetch("values").explain(value, name, failure)) from failure


def check_hashes(keys: list[Any]) -> None:
    """Raise ValueError for `keys` of a map that are costly to compare or were made to collide."""
    kinds = {*map(type, keys)} - {str}
    if kinds and (
        len(keys) > MAX_COLLISIONS
        or kinds - {int}
        or any(type(key) is int and key.bit_length() > 64 for key in keys)
    ):
        fetch("values").check_keys(keys)


def decode_next(data: Bytes, position: int = 0, router: Any = None) -> tuple[Any, int]:
    """Decode one item of a CBOR sequence (RFC 8742).

    :param data: :class:`bytes`, or a :class:`memoryview` of bytes.
    :param int position: offset of the item's first byte.
    :param router: passed to the functions in :data:`TAG_DECODERS`.
    :returns: the value, and the position after it.
    :raises StreamError: for every failure; its `__context__` is the cause.
    """
    size = len(data)
    text: Any = bytes.decode if type(data) is bytes else lambda view: str(view, "utf-8")

    def take(count: int, depth: int) -> list[Any]:
        # Return a list of the next `count` items, nested at most `depth` levels deep.
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
                restore = TAG_DECODERS.get(number) or fetch("values").find_decoder(number)
                byte = data[position]
                if byte >> 5 not in (2, 4, 5):
                    break
                position += 1  # decode the content inline: saves a call, and a copy of bytes
            if major == 6:
                value = take(1, depth - 1)[0]
            elif major == 5:
                value = take(2 * number, depth - 1) if number else []
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
        if position > size:  # a short text; all other items were checked
            raise IndexError
        return value, position
    except Exception as failure:
        reason = _REASONS.get(type(failure)) or failure
        raise StreamError(
            "cannot unpickle message: %s at byte %d" % (reason, position)
        ) from failure
    finally:
        # The closure refers to itself; free the data without the garbage collector.
        take = None  # type: ignore[assignment]  # it is not called again


def decode(data: Bytes, router: Any = None) -> Any:
    """Decode `data`, which must be exactly one CBOR item, and return its value.

    Arguments and errors are those of :func:`decode_next`.
    """
    value, position = decode_next(data, 0, router)
    if position < len(data):
        raise StreamError("cannot unpickle message: more than one item at byte %d" % position)
    return value
