"""
The codec's larger set of types, and error texts for values that it refuses.

:mod:`mitogen.core` has the types that calls are made of. It imports this module on a type or a tag
that is not in its tables, on a long list of numbers, or on a value that it cannot send.

Rules

    1. No module is imported for a type before a value of that type is sent or received. Types are
       found by name in `sys.modules`: a program that has such a value has loaded its module.
    2. Only types named here are restored. No class of a program is ever looked up by a name from
       the wire, so built-in exceptions are the only ones accepted.
    3. Time and memory are proportional to the length of the content. Conversions between binary
       and decimal, and greatest common divisors, are not, so these have limits.
    4. Standard tags (RFC 8949, RFC 8746, IANA's registry) are used wherever they keep value and
       type; private tags otherwise.

Threads: any.
"""

from __future__ import annotations

import builtins
import sys
from _struct import (  # type: ignore[attr-defined]  # typeshed has no error there
    Struct,
    error as struct_error,
)
from itertools import groupby

from mitogen import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date, datetime, time, timedelta, timezone
    from decimal import Decimal
    from fractions import Fraction
    from pathlib import PurePath
    from subprocess import CompletedProcess
    from typing import Any
    from uuid import UUID

    from mitogen.core.codec import Encoder

    Decoder = Callable[[Any, Any], Any]


__all__ = ["TAGS", "explain", "find_decoder", "find_encoder", "typed_array"]

TAG_FROZENSET = 60016
TAG_TIMEDELTA = 60017
TAG_DATETIME = 60018
TAG_TIME = 60019
TAG_DECIMAL = 60020
TAG_PATH = 60021
TAG_COMPLETED_PROCESS = 60022
TAG_EXCEPTION = 60023

#: All tags that are sent or understood: number, name, content, Python type. Tags marked "decoded
#: only" are never sent. docs/design/wire.rst has this table; a test compares it to the decoders.
TAGS = (
    (0, "date and time", "text, RFC 3339", "datetime with an offset of whole minutes"),
    (1, "epoch time", "int or float, seconds", "datetime in UTC; decoded only"),
    (2, "unsigned bignum", "bytes, big-endian", "int over 64 bits"),
    (3, "negative bignum", "bytes, big-endian, of -1 - n", "int below -2**64"),
    (4, "decimal fraction", "[exponent, mantissa]", "Decimal, finite"),
    (core.TAG_TUPLE, "tuple", "array", "tuple"),
    (core.TAG_KWARGS, "keyword arguments", "map", "mitogen.core.Kwargs"),
    (23, "to be shown in base 16", "any", "the content; decoded only"),
    (24, "encoded CBOR", "bytes", "bytes, left encoded; decoded only"),
    (30, "rational number", "[numerator, denominator]", "Fraction"),
    (32, "URI", "text", "str; decoded only"),
    (37, "UUID", "bytes, 16", "UUID"),
    (64, "typed array of uint8", "bytes", "bytearray"),
    (65, "typed array of uint16, big-endian", "bytes", "list of int; decoded only"),
    (66, "typed array of uint32, big-endian", "bytes", "list of int; decoded only"),
    (67, "typed array of uint64, big-endian", "bytes", "list of int; decoded only"),
    (68, "typed array of uint8, clamped", "bytes", "list of int; decoded only"),
    (69, "typed array of uint16, little-endian", "bytes", "list of int; decoded only"),
    (70, "typed array of uint32, little-endian", "bytes", "list of int; decoded only"),
    (71, "typed array of uint64, little-endian", "bytes", "list of int; decoded only"),
    (72, "typed array of int8", "bytes", "list of int, long"),
    (73, "typed array of int16, big-endian", "bytes", "list of int; decoded only"),
    (74, "typed array of int32, big-endian", "bytes", "list of int; decoded only"),
    (75, "typed array of int64, big-endian", "bytes", "list of int; decoded only"),
    (77, "typed array of int16, little-endian", "bytes", "list of int, long"),
    (78, "typed array of int32, little-endian", "bytes", "list of int, long"),
    (79, "typed array of int64, little-endian", "bytes", "list of int, long"),
    (80, "typed array of float16, big-endian", "bytes", "list of float; decoded only"),
    (81, "typed array of float32, big-endian", "bytes", "list of float; decoded only"),
    (82, "typed array of float64, big-endian", "bytes", "list of float; decoded only"),
    (84, "typed array of float16, little-endian", "bytes", "list of float; decoded only"),
    (85, "typed array of float32, little-endian", "bytes", "list of float; decoded only"),
    (86, "typed array of float64, little-endian", "bytes", "list of float, long"),
    (100, "days since 1970-01-01", "int", "date"),
    (258, "set", "array", "set"),
    (1004, "full date", "text, RFC 3339", "date; decoded only"),
    (43000, "complex number", "[real, imaginary]", "complex"),
    (55799, "this is CBOR", "any", "the content; decoded only"),
    (core.TAG_SURROGATES, "text with lone surrogates", "bytes, surrogatepass", "str"),
    (core.TAG_BLOB, "blob", "bytes", "mitogen.core.Blob"),
    (core.TAG_SECRET, "secret", "bytes, surrogatepass", "mitogen.core.Secret"),
    (core.TAG_CONTEXT, "context", "[context id, name]", "mitogen.core.Context"),
    (core.TAG_SENDER, "sender", "[context id, handle]", "mitogen.core.Sender"),
    (
        core.TAG_CALL_ERROR,
        "call error",
        "[type, message, traceback, text]",
        "mitogen.core.CallError",
    ),
    (TAG_FROZENSET, "frozen set", "array", "frozenset"),
    (TAG_TIMEDELTA, "duration", "[days, seconds, microseconds]", "timedelta"),
    (
        TAG_DATETIME,
        "date and time that tag 0 cannot hold",
        "[year, month, day, hour, minute, second, microsecond, fold, offset in microseconds "
        "or null, name of the zone or null]",
        "datetime: naive, folded, or with a named or odd offset",
    ),
    (
        TAG_TIME,
        "time of day",
        "[hour, minute, second, microsecond, fold, offset in microseconds "
        "or null, name of the zone or null]",
        "time",
    ),
    (TAG_DECIMAL, "decimal that tag 4 cannot hold", "text", "Decimal: -0, not finite, or long"),
    (TAG_PATH, "path", "[class, text]", "PurePosixPath, PureWindowsPath, PosixPath, WindowsPath"),
    (
        TAG_COMPLETED_PROCESS,
        "completed process",
        "[args, returncode, stdout, stderr]",
        "subprocess.CompletedProcess",
    ),
    (
        TAG_EXCEPTION,
        "exception",
        "[class, arguments, attributes or null]",
        "built-in exceptions, without cause, context and traceback",
    ),
)

#: Concrete path classes. PurePath and Path themselves have no instances.
PATHS = ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath")

#: Digits of a Decimal up to which it is sent as a binary mantissa (tag 4) rather than as text. The
#: conversion takes quadratic time; 640 is the lowest limit that sys.set_int_max_str_digits()
#: accepts.
MAX_DIGITS = 600

#: Largest size of each part of a Fraction, in bits: reducing it takes quadratic time.
MAX_FRACTION_BITS = 16384

#: The proleptic Gregorian ordinal of 1970-01-01.
EPOCH_DAY = 719163


# Sending: each function returns the content of its tag.


def _choose_datetime(value: Any) -> Encoder:
    offset, name = _zone(value.tzinfo)
    if offset is None or offset % 60000000 or name is not None or value.fold:
        return TAG_DATETIME, _from_datetime
    return 0, lambda value: value.isoformat().replace("+00:00", "Z")


def _from_datetime(value: Any) -> list[Any]:
    return [value.year, value.month, value.day] + _clock(value) + _zone(value.tzinfo)


def _from_time(value: Any) -> list[Any]:
    return _clock(value) + _zone(value.tzinfo)


def _clock(value: Any) -> list[int]:
    return [value.hour, value.minute, value.second, value.microsecond, value.fold]


def _zone(zone: Any) -> list[Any]:
    # Return [offset in microseconds, name]; each may be None.
    from datetime import timedelta, timezone

    if zone is None:
        return [None, None]
    if type(zone) is not timezone:
        raise TypeError(
            "%r as a time zone cannot be sent; convert with .astimezone(datetime.timezone.utc)"
            % (type(zone),)
        )
    # The only way to distinguish a given name from a generated one.
    arguments = zone.__getinitargs__() + (None,)  # type: ignore[attr-defined]  # not in typeshed
    return [arguments[0] // timedelta(microseconds=1), arguments[1]]


def _choose_decimal(value: Any) -> Encoder:
    sign, digits, exponent = value.as_tuple()
    if not value.is_finite() or len(digits) > MAX_DIGITS or (sign and not any(digits)):
        return TAG_DECIMAL, str
    return 4, _from_decimal


def _from_decimal(value: Any) -> list[int]:
    sign, digits, exponent = value.as_tuple()
    mantissa = int("".join(map(str, digits)))
    return [exponent, -mantissa if sign else mantissa]


def _from_fraction(value: Any) -> list[int]:
    content = [value.numerator, value.denominator]
    if max(part.bit_length() for part in content) > MAX_FRACTION_BITS:
        raise ValueError("a Fraction of more than %d bits cannot be sent" % MAX_FRACTION_BITS)
    return content


def _from_path(value: Any) -> list[str]:
    return [type(value).__name__, str(value)]


def _from_exception(value: Any) -> list[Any]:
    reduced = value.__reduce__()
    attributes = reduced[2] if len(reduced) > 2 and reduced[2] else None
    return [type(value).__name__, list(reduced[1]), attributes]


#: `{name of a class: (name of its module, tag, convert)}`.
_TYPES: dict[str, tuple[str, Any, Any]] = {
    "set": ("builtins", 258, list),
    "frozenset": ("builtins", TAG_FROZENSET, list),
    "complex": ("builtins", 43000, lambda value: [value.real, value.imag]),
    "bytearray": ("builtins", 64, bytes),
    "datetime": ("datetime", None, _choose_datetime),
    "date": ("datetime", 100, lambda value: value.toordinal() - EPOCH_DAY),
    "time": ("datetime", TAG_TIME, _from_time),
    "timedelta": (
        "datetime",
        TAG_TIMEDELTA,
        lambda value: [value.days, value.seconds, value.microseconds],
    ),
    "Decimal": ("decimal", None, _choose_decimal),
    "Fraction": ("fractions", 30, _from_fraction),
    "UUID": ("uuid", 37, lambda value: value.bytes),
    "CompletedProcess": (
        "subprocess",
        TAG_COMPLETED_PROCESS,
        lambda value: [value.args, value.returncode, value.stdout, value.stderr],
    ),
}
_TYPES.update((name, ("pathlib", TAG_PATH, _from_path)) for name in PATHS)


def find_encoder(value: Any) -> Encoder:
    """
    Return the entry of :data:`mitogen.core.ENCODERS` for a value. It is stored there unless the tag
    depends on the value.

    :returns: the tag, and the function that converts the value to its content.
    :raises TypeError: the value cannot be sent; the text suggests a fix.
    """
    kind = type(value)
    exception: Any = ("builtins", TAG_EXCEPTION, _from_exception)
    module, tag, convert = _TYPES.get(kind.__name__, exception)
    if getattr(sys.modules.get(module), kind.__name__, None) is not kind or (
        tag == TAG_EXCEPTION and not issubclass(kind, BaseException)
    ):
        raise TypeError("%r cannot be sent; %s" % (kind, _hint(kind)))
    if tag is None:
        chosen: Encoder = convert(value)
        return chosen
    core.ENCODERS[kind] = tag, convert
    return tag, convert


def _hint(kind: type) -> str:
    for plain in (dict, list, tuple, str, bytes, int, float):
        if issubclass(kind, plain):
            return "mitogen.utils.cast() makes it a plain %s" % plain.__name__
    if kind is memoryview:
        return "bytes() makes it what can be"
    if issubclass(kind, BaseException):
        return "of the exceptions, only the built-in ones can"
    return "see mitogen.core.value_types.TAGS for what can"


#: Element type to the (tag, format) pairs that typed_array() tries, in order.
_ARRAYS = {int: ((72, "b"), (77, "h"), (78, "i"), (79, "q")), float: ((86, "d"),)}


def typed_array(value: Any) -> tuple[int, bytes] | None:
    """Convert a list or tuple of numbers to an RFC 8746 typed array, `(tag, bytes)`.

    :param value: not empty.
    :returns: None unless the elements are all int of up to 64 bits, or all float.
    """
    groups = groupby(value, type)  # half the time of set(map(type, value))
    kind = next(groups)[0]
    if next(groups, None) is None:
        for tag, code in _ARRAYS.get(kind, ()):
            try:
                return tag, Struct("<%d%s" % (len(value), code)).pack(*value)
            except struct_error:  # an int that does not fit: try the next width
                pass
    return None


def explain(value: Any, name: str, failure: Exception) -> str:
    """
    Return the error text for a value that could not be encoded: the path to the offending part, and
    the reason.

    :param value: the argument of :func:`mitogen.core.encode`.
    :param str name: its name in the text.
    :param Exception failure: the exception that encoding raised.
    """
    path, reason = "", str(failure) or type(failure).__name__
    if isinstance(failure, RecursionError):
        reason = "nested deeper than %d levels" % core.MAX_DEPTH
    if not isinstance(failure, OverflowError):  # too large: no single part is at fault
        try:
            path, reason = _find(value, set(), {}, 0) or (path, reason)
        except RecursionError:  # little of the stack is left
            pass
    return "%s%.400s: %s" % (name, path, reason)


def _find(value: Any, done: set[int], above: dict[int, Any], depth: int) -> tuple[str, Any] | None:
    # Return (path, reason) of the first part that cannot be sent. `done` has the ids of parts known
    # to be sendable; `above` maps the id of each container around `value` to that container.
    if id(value) in above:
        return "", "contains itself"
    if id(value) in done or depth > core.MAX_DEPTH:
        return None
    above = dict(above)
    above[id(value)] = value
    try:
        for step, part in _parts(value):
            found = _find(part, done, above, depth + 1)
            if found:
                return step + found[0], found[1]
    except RecursionError:
        raise
    except Exception as failure:
        return "", failure
    done.add(id(value))
    return None


_PLAIN = (str, bytes, int, float, bool, type(None), type(Ellipsis))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    # Yield (step of the path, part) for each part of a value, in the order of encoding.
    kind = type(value)
    if kind in (dict, core.Kwargs):
        for key, part in value.items():
            yield ".keys()", key
            yield "[%.80r]" % (key,), part
    elif kind in (list, tuple):
        for index, part in enumerate(value):
            yield "[%d]" % index, part
    elif kind not in _PLAIN:
        content = (core.ENCODERS.get(kind) or find_encoder(value))[1](value)
        # Positions within the content are internal and would not help the user.
        for part in content if type(content) is list else [content]:
            yield "", part


# Keys of maps and sets. Equal numbers of different types have equal hashes, which anyone can
# predict, and a table's probes follow from the hash. The hashes of text and bytes cannot be
# predicted.

#: Bits of an int, digits of a Decimal, characters of a path, and parts of a tuple or frozenset,
#: nested ones included, in a key.
MAX_KEY_BITS, MAX_KEY_DIGITS, MAX_KEY_TEXT, MAX_KEY_PARTS = 4096, 1000, 4096, 1000
#: Probes and comparisons that building a map or set may take: so many, and so many for each key.
#: Patterns such as the multiples of 2**44 take 22 for each key.
MAX_PROBES, PROBES_PER_KEY = 250000, 25
#: Neighbours that a set looks at before each jump; a dict looks at none.
SET_PROBES = 9


def check_keys(keys: list[Any], neighbours: int = 0) -> None:
    """
    Raise ValueError for keys that are costly to compare or were made to collide.

    :param list keys: keys of a map, or elements of a set
    :param int neighbours: 0 for a map, SET_PROBES for a set
    """
    if not {*map(type, keys)} - {str, bytes}:
        return
    cost = max(map(_cost, keys))
    hashes = [hash(key) & 0xFFFFFFFFFFFFFFFF for key in keys]
    limit = MAX_PROBES + PROBES_PER_KEY * len(keys)
    counts: dict[int, int] = {}
    for number in hashes:
        counts[number] = counts.get(number, 0) + 1
    if sum(n * (n - 1) // 2 for n in counts.values() if n > 1) * cost > limit:
        raise ValueError("too many equal hashes")
    if len(keys) > core.MAX_COLLISIONS:
        _check_probes(hashes, neighbours, limit)


def _check_probes(hashes: list[int], neighbours: int, limit: int) -> None:
    # While it is built a table has each of these sizes. It is replaced once two thirds are in use;
    # that of a set may be up to four times as large.
    size = 512
    last = len(hashes) * (6 if neighbours else 3)
    while size < last:
        part = hashes[: size * 2 // 3]
        direct = len(set(map((size - 1).__and__, part))) == len(part)
        if not direct and _probes(part, size - 1, neighbours, limit) > limit:
            raise ValueError("the keys were made to collide")
        size *= 2


def _probes(hashes: list[int], mask: int, neighbours: int, limit: int) -> int:
    # Return the number of used entries that are met when a table of mask + 1 entries is built.
    used = bytearray(mask + 1 + neighbours)
    met = 0
    for perturb in hashes:
        at = perturb & mask
        while used[at]:
            met += 1
            free = used.find(0, at, at + neighbours + 1) if at + neighbours <= mask else -1
            if free >= 0:
                at = free
                break
            if met > limit:
                return met
            perturb >>= 5
            at = (at * 5 + 1 + perturb) & mask
        used[at] = 1
    return met


def _cost(key: Any) -> int:
    # Return the number of parts that a comparison may look at; raise ValueError for too many.
    parts = [key]
    seen = 0
    while parts:
        part = parts.pop()
        seen += 1
        kind = type(part)
        if kind is tuple or kind is frozenset:
            seen += len(part)
            if seen <= MAX_KEY_PARTS:
                parts += part
        elif kind is str or kind is bytes:
            # Equal texts in different keys are compared too, though not if the key is one text.
            seen += len(part) // 64 if part is not key else 0
        elif (
            (kind is int and part.bit_length() > MAX_KEY_BITS)
            or (
                kind.__name__ == "Fraction" and max(map(_bits, _from_fraction(part))) > MAX_KEY_BITS
            )
            or (kind.__name__ == "Decimal" and len(part.as_tuple().digits) > MAX_KEY_DIGITS)
            or (kind.__name__ in PATHS and len(str(part)) > MAX_KEY_TEXT)
        ):
            raise ValueError("a %s as a key is too long" % kind.__name__)
        if seen > MAX_KEY_PARTS:
            raise ValueError("a key has more than %d parts" % MAX_KEY_PARTS)
    return seen


# Receiving: each function takes the content, checked for its type only, and the router.


def _to_datetime(content: Any, router: Any) -> datetime:
    import re
    from datetime import datetime

    match = re.match(
        r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6})\d*)?(?:[Zz]|([+-]\d\d):(\d\d))\Z",
        content,
        re.ASCII,
    )
    if match is None:
        raise ValueError("not an RFC 3339 date and time")
    fields: list[Any] = [int(field) for field in match.groups()[:6]]
    offset = 0
    if match.group(8):
        minutes = int(match.group(8)[1:]) * 60 + int(match.group(9))
        offset = minutes * (-60000000 if match.group(8)[0] == "-" else 60000000)
    fraction = (match.group(7) or "").ljust(6, "0")
    return datetime(*fields + [int(fraction), _to_zone(offset, None)])


def _to_zone(offset: int | None, name: str | None) -> timezone | None:
    from datetime import timedelta, timezone

    if offset is None:
        return None
    if name is None:
        return timezone(timedelta(microseconds=offset)) if offset else timezone.utc
    return timezone(timedelta(microseconds=offset), name)


def _to_epoch_datetime(content: Any, router: Any) -> datetime:
    from datetime import datetime, timedelta, timezone

    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=content)


def _to_private_datetime(content: Any, router: Any) -> datetime:
    from datetime import datetime

    *fields, fold, offset, name = content
    zone: dict[str, Any] = {"tzinfo": _to_zone(offset, name), "fold": fold}
    return datetime(*fields, **zone)


def _to_time(content: Any, router: Any) -> time:
    from datetime import time

    *fields, fold, offset, name = content
    zone: dict[str, Any] = {"tzinfo": _to_zone(offset, name), "fold": fold}
    return time(*fields, **zone)


def _to_timedelta(content: Any, router: Any) -> timedelta:
    from datetime import timedelta

    days, seconds, microseconds = content
    return timedelta(days, seconds, microseconds)


def _to_date(content: Any, router: Any) -> date:
    from datetime import date

    return date.fromordinal(EPOCH_DAY + content)


def _to_full_date(content: Any, router: Any) -> date:
    return _to_datetime(content + "T00:00:00Z", router).date()


def _to_decimal(content: Any, router: Any) -> Decimal:
    from decimal import Decimal

    # Converted from text, which is exact at any precision of the decimal context.
    exponent, mantissa = content
    if max(_bits(exponent), _bits(mantissa)) > 10 * MAX_DIGITS // 3:
        raise ValueError("the decimal fraction is too long")
    return _finite(Decimal("%dE%d" % (mantissa, exponent)))


def _finite(value: Decimal) -> Decimal:
    # An exponent out of range gives NaN if the program's decimal context does not trap it.
    if not value.is_finite():
        raise ValueError("the exponent is out of range")
    return value


def _bits(number: int) -> int:
    if type(number) is not int:
        raise TypeError("not an int")
    return number.bit_length()


def _to_private_decimal(content: Any, router: Any) -> Decimal:
    from decimal import Decimal

    value = Decimal(content)
    return value if "n" in content.lower() else _finite(value)


def _to_fraction(content: Any, router: Any) -> Fraction:
    from fractions import Fraction

    numerator, denominator = content
    if max(_bits(numerator), _bits(denominator)) > MAX_FRACTION_BITS:
        raise ValueError("the fraction is too long")
    return Fraction(numerator, denominator)


def _to_uuid(content: Any, router: Any) -> UUID:
    from uuid import UUID

    return UUID(bytes=bytes(content))


def _to_path(content: Any, router: Any) -> PurePath:
    import pathlib

    name, text = content
    if name not in PATHS:
        raise ValueError("not a class of path")
    path: PurePath = getattr(pathlib, name)(text)
    return path


def _to_completed_process(content: Any, router: Any) -> CompletedProcess[Any]:
    from subprocess import CompletedProcess

    args, returncode, stdout, stderr = content
    return CompletedProcess(args, returncode, stdout, stderr)


def _to_exception(content: Any, router: Any) -> BaseException:
    name, arguments, attributes = content
    kind = getattr(builtins, name, None)
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        raise ValueError("not a built-in exception")
    value = kind(*arguments)
    for attribute, part in (attributes or {}).items():
        if attribute.startswith("_") and attribute != "__notes__":
            raise ValueError("not an attribute of an exception")
        setattr(value, attribute, part)
    return value


def _to_complex(content: Any, router: Any) -> complex:
    real, imaginary = content
    if type(real) is complex or type(imaginary) is complex:
        raise TypeError("complex in complex")
    return complex(real, imaginary)


def _to_set(kind: Any) -> Decoder:
    def restore(content: Any, router: Any) -> Any:
        check_keys(content, SET_PROBES)
        value = kind(content)
        if len(value) < len(content):
            raise ValueError("duplicate element")
        return value

    return restore


def _to_list(order: str, code: str) -> Decoder:
    # Decode a typed array. memoryview converts in one step, but only from the native byte order.
    native = {"little": "<", "big": ">"}[sys.byteorder]
    width = Struct("<" + code).size

    def restore(content: Any, router: Any) -> Any:
        if code != "e" and (order == native or width == 1):
            return content.cast(code).tolist()
        return list(Struct("%s%d%s" % (order, len(content) // width, code)).unpack(content))

    return restore


def _same(content: Any, router: Any) -> Any:
    return bytes(content) if type(content) is memoryview else content


#: `{tag: (type of content, restore)}`.
_DECODERS: dict[int, tuple[Any, Decoder]] = {
    0: (str, _to_datetime),
    1: ((int, float), _to_epoch_datetime),
    4: (list, _to_decimal),
    23: (object, _same),
    24: (memoryview, _same),
    30: (list, _to_fraction),
    32: (str, _same),
    37: (memoryview, _to_uuid),
    64: (memoryview, lambda content, router: bytearray(content)),
    68: (memoryview, _to_list("<", "B")),
    72: (memoryview, _to_list("<", "b")),
    100: (int, _to_date),
    258: (list, _to_set(set)),
    1004: (str, _to_full_date),
    43000: (list, _to_complex),
    55799: (object, _same),
    TAG_FROZENSET: (list, _to_set(frozenset)),
    TAG_TIMEDELTA: (list, _to_timedelta),
    TAG_DATETIME: (list, _to_private_datetime),
    TAG_TIME: (list, _to_time),
    TAG_DECIMAL: (str, _to_private_decimal),
    TAG_PATH: (list, _to_path),
    TAG_COMPLETED_PROCESS: (list, _to_completed_process),
    TAG_EXCEPTION: (list, _to_exception),
}
# RFC 8746 section 2: 010f sell, f float, s signed, e little-endian, ll width.
for _first, _order, _codes in (
    (65, ">", "HIQ"),
    (69, "<", "HIQ"),
    (73, ">", "hiq"),
    (77, "<", "hiq"),
    (80, ">", "efd"),
    (84, "<", "efd"),
):
    for _step, _code in enumerate(_codes):
        _DECODERS[_first + _step] = (memoryview, _to_list(_order, _code))


def _checked(kind: Any, restore: Decoder) -> Decoder:
    def check(content: Any, router: Any) -> Any:
        if not isinstance(content, kind):
            raise TypeError("wrong content of a tag")
        return restore(content, router)

    return check


def find_decoder(tag: int) -> Decoder:
    """
    Return the entry of :data:`mitogen.core.TAG_DECODERS` for a tag, and store it there.

    :param int tag: a tag without an entry.
    :raises ValueError: the tag is unknown.
    """
    entry = _DECODERS.get(tag)
    if entry is None:
        raise ValueError("unknown tag %d" % tag)
    core.TAG_DECODERS[tag] = restore = _checked(*entry)
    return restore
