"""
The codec: mitogen.core's part of it, and mitogen.core.value_types.

RFC 8949 appendix A and cbor2 are the reference. hypothesis searches for values that do not
round-trip, and for bytes that neither decode nor raise StreamError. Memory is measured with
tracemalloc; non-linear code would exceed the time limit of tests by orders of magnitude.
"""

import collections
import datetime
import decimal
import enum
import fractions
import math
import pathlib
import struct
import subprocess
import sys
import threading
import tracemalloc

import cbor2
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from mitogen import core
from mitogen.core import value_types
from tests.checkout import ROOT

MIB = 1 << 20


def kind_of(value):
    return value if isinstance(value, str) and value.isprintable() else type(value).__name__


def unhex(text):
    return bytes.fromhex(text)


def alike(one, other):
    """Return whether values and types are equal at every level; NaN equals NaN, 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return alike(list(one.items()), list(other.items()))
    if isinstance(one, (set, frozenset)):
        others = list(other)
        for part in one:
            index = next((i for i, each in enumerate(others) if alike(part, each)), None)
            if index is None:
                return False
            del others[index]
        return not others
    if isinstance(one, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, complex):
        return alike((one.real, one.imag), (other.real, other.imag))
    if isinstance(one, decimal.Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, (datetime.datetime, datetime.time)):
        return (
            one.replace(tzinfo=None) == other.replace(tzinfo=None)
            and one.fold == other.fold
            and type(one.tzinfo) is type(other.tzinfo)
            and repr(one.tzinfo) == repr(other.tzinfo)
        )
    if isinstance(one, subprocess.CompletedProcess):
        return alike(vars(one), vars(other))
    if isinstance(one, BaseException):
        return alike(one.args, other.args) and alike(one.__reduce__()[1], other.__reduce__()[1])
    return one == other


def round_trip(value):
    return core.decode(core.encode(value))


def refused(value, **kwargs):
    with pytest.raises(core.EncodeError) as caught:
        core.encode(value, **kwargs)
    return str(caught.value)


def spoilt(data):
    with pytest.raises(core.StreamError) as caught:
        core.decode(data)
    assert str(caught.value).startswith("cannot unpickle message: ")
    return str(caught.value)


def peak(function, *args):
    """Return the peak of allocated bytes while `function` ran, and its result or exception."""
    tracemalloc.start()
    try:
        try:
            result = function(*args)
        except core.StreamError as error:
            result = error.with_traceback(None)
            result.__context__ = result.__cause__ = None
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


# ---- RFC 8949 ----

# Appendix A, definite lengths: hex, value, and whether encode() produces the same bytes.
RFC_8949_APPENDIX_A = [
    ("00", 0, True),
    ("01", 1, True),
    ("0a", 10, True),
    ("17", 23, True),
    ("1818", 24, True),
    ("1819", 25, True),
    ("1864", 100, True),
    ("1903e8", 1000, True),
    ("1a000f4240", 1000000, True),
    ("1b000000e8d4a51000", 1000000000000, True),
    ("1bffffffffffffffff", 18446744073709551615, True),
    ("c249010000000000000000", 18446744073709551616, True),
    ("3bffffffffffffffff", -18446744073709551616, True),
    ("c349010000000000000000", -18446744073709551617, True),
    ("20", -1, True),
    ("29", -10, True),
    ("3863", -100, True),
    ("3903e7", -1000, True),
    ("f90000", 0.0, False),
    ("f98000", -0.0, False),
    ("f93c00", 1.0, False),
    ("fb3ff199999999999a", 1.1, True),
    ("f93e00", 1.5, False),
    ("f97bff", 65504.0, False),
    ("fa47c35000", 100000.0, False),
    ("fa7f7fffff", 3.4028234663852886e38, False),
    ("fb7e37e43c8800759c", 1.0e300, True),
    ("f90001", 5.960464477539063e-8, False),
    ("f90400", 0.00006103515625, False),
    ("f9c400", -4.0, False),
    ("fbc010666666666666", -4.1, True),
    ("f97c00", math.inf, False),
    ("f97e00", math.nan, False),
    ("f9fc00", -math.inf, False),
    ("fa7f800000", math.inf, False),
    ("fa7fc00000", math.nan, False),
    ("faff800000", -math.inf, False),
    ("fb7ff0000000000000", math.inf, True),
    ("fb7ff8000000000000", math.nan, True),
    ("fbfff0000000000000", -math.inf, True),
    ("f4", False, True),
    ("f5", True, True),
    ("f6", None, True),
    ("f7", Ellipsis, True),  # undefined
    (
        "c074323031332d30332d32315432303a30343a30305a",
        datetime.datetime(2013, 3, 21, 20, 4, tzinfo=datetime.timezone.utc),
        True,
    ),
    (
        "c11a514b67b0",
        datetime.datetime(2013, 3, 21, 20, 4, tzinfo=datetime.timezone.utc),
        False,
    ),
    (
        "c1fb41d452d9ec200000",
        datetime.datetime(2013, 3, 21, 20, 4, 0, 500000, tzinfo=datetime.timezone.utc),
        False,
    ),
    ("d74401020304", unhex("01020304"), False),
    ("d818456449455446", unhex("6449455446"), False),
    (
        "d82076687474703a2f2f7777772e6578616d706c652e636f6d",
        "http://www.example.com",
        False,
    ),
    ("40", b"", True),
    ("4401020304", unhex("01020304"), True),
    ("60", "", True),
    ("6161", "a", True),
    ("6449455446", "IETF", True),
    ("62225c", '"\\', True),
    ("62c3bc", "\u00fc", True),
    ("63e6b0b4", "\u6c34", True),
    ("64f0908591", "\U00010151", True),
    ("80", [], True),
    ("83010203", [1, 2, 3], True),
    ("8301820203820405", [1, [2, 3], [4, 5]], True),
    ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", list(range(1, 26)), True),
    ("a0", {}, True),
    ("a201020304", {1: 2, 3: 4}, True),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}, True),
    ("826161a161626163", ["a", {"b": "c"}], True),
    (
        "a56161614161626142616361436164614461656145",
        {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"},
        True,
    ),
]


@pytest.mark.parametrize(
    "encoded, value, sent", RFC_8949_APPENDIX_A, ids=[row[0][:24] for row in RFC_8949_APPENDIX_A]
)
def test_rfc_8949_appendix_a(encoded, value, sent):
    assert alike(core.decode(unhex(encoded)), value)
    if sent:
        assert core.encode(value).hex() == encoded
    assert alike(round_trip(value), value)


@pytest.mark.parametrize(
    "encoded",
    [
        "f0 f8ff f800 f818 f8",  # unassigned simple values
        "5f42010243030405ff 7f657374726561646d696e67ff 9fff 9f018202039f0405ffff",  # indefinite
        "bf61610161629f0203ffff bfff ff 5fff 1f 3f df",
        "1c 1d 1e 3c 5c 7c 9c bc dc fc fd fe",  # reserved
        "18 19 1a 1b 1900 1b00000000000000 f9 f93c fa000000 fb00000000000000",  # truncated
        "41 6161616161 61 62c3 4201 8201 a1 a101 c2 c6 c681 d8 d86481 5a00 78 7818",
        "61ff 62c328 63eda080 64f8808080",  # not UTF-8; a surrogate
        "a10100a1 0000 80f6",  # more than one item
        "a201000100 a20100f500 a2f90000010001",  # equal keys
        "a18000 a1a000 a1c60000 a1d9010280f6",  # unhashable keys
        "c000 c06161 c1f97e00 c1fb7fefffffffffffff c1f97c00 c11bffffffffffffffff",
        "c200 c26100 c4f6 c480 c48101 c4820061 c48261610a",
        "d81e820100 d81e8101 d81e820161 d8254100 d8258100 d864f6 d8641bffffffffffffffff",
        "d903ec6161 d9010200 d9010282f9000000 d901028201 d9a7f881fb d9a7f8820161 d9a7f88261610a",
        "d84e430102 d84f47 d85243 d85201 d843f6 d84c40 d85340 d85740",  # typed arrays
        "c600 c6f6 c700 c70a d9ea6000 d9ea6100 d9ea611b0000010000000000 d9ea6201",  # private tags
        "d9ea7000 d9ea7081800a d9ea7100 d9ea71821bffffffffffffffff00 d9ea7183f6f6f6",
        "d9ea71831a3b9aca000000 d9ea7280 d9ea738100 d9ea7461 d9ea746161 d9ea758161 d9ea7580",
        "d9ea758263666f6f6178 d9ea75826b5075726550617468 d9ea7680 d9ea768100",
        "d9ea778360f6f6 d9ea7783646576616c80f6 d9ea7783636f626a80f6 d9ea7783676f626a65637480f6",
        "d9ea7783694578636570746980f6",
        "d9ffff00 db0123456789abcdef00 d86500",  # unknown tags
    ],
)
def test_malformed_bytes_are_refused(encoded):
    for item in encoded.split():
        spoilt(unhex(item) if len(item) % 2 == 0 else unhex(item + "0"))


def test_non_minimal_encodings_are_accepted():
    assert core.decode(unhex("1800")) == 0
    assert core.decode(unhex("1b0000000000000000")) == 0
    assert core.decode(unhex("7b000000000000000161")) == "a"
    assert core.decode(unhex("9a0000000101")) == [1]
    assert core.decode(unhex("c240")) == 0


def test_standard_tags_of_other_encoders():
    assert core.decode(unhex("d9d9f783010203")) == [1, 2, 3]
    assert core.decode(unhex("d7a10102")) == {1: 2}
    date = datetime.date(2013, 3, 21)
    assert core.decode(cbor2.dumps(cbor2.CBORTag(1004, "2013-03-21"))) == date
    zone = datetime.timezone(-datetime.timedelta(hours=3, minutes=30))
    for text in ("2013-03-21t20:04:00.1234567-03:30", "2013-03-21T20:04:00.123456-03:30"):
        assert core.decode(cbor2.dumps(cbor2.CBORTag(0, text))) == datetime.datetime(
            2013, 3, 21, 20, 4, 0, 123456, zone
        )
    before = datetime.datetime(1969, 12, 31, 23, 59, 59, 500000, datetime.timezone.utc)
    assert core.decode(unhex("c1f9b800")) == before


@pytest.mark.parametrize("text", ["2013-03-21", "2013-03-21T20:04:00", "2013-13-21T20:04:00Z"])
@pytest.mark.parametrize("tag", [0, 1004])
def test_invalid_dates_are_refused(tag, text):
    if (tag, text) != (1004, "2013-03-21"):
        spoilt(cbor2.dumps(cbor2.CBORTag(tag, text)))


@pytest.mark.parametrize(
    "tag, form",
    [
        (tag, order + code)
        for first, order, codes in (
            (65, ">", "HIQ"),
            (68, "<", "B"),
            (69, "<", "HIQ"),
            (72, "<", "b"),
            (73, ">", "hiq"),
            (77, "<", "hiq"),
            (80, ">", "efd"),
            (84, "<", "efd"),
        )
        for tag, code in enumerate(codes, first)
    ],
)
def test_rfc_8746_typed_arrays(tag, form):
    wanted = [1.5, 0.0, 2.0] if form[1] in "efd" else [1, 0, 100]
    if form[1] in "bhiq":
        wanted.append(-1)
    data = struct.pack("%s%d%s" % (form[0], len(wanted), form[1]), *wanted)
    assert alike(core.decode(cbor2.dumps(cbor2.CBORTag(tag, data))), wanted)
    # The general function, bypassing the tables of core that take precedence.
    assert alike(value_types._DECODERS[tag][1](memoryview(data), None), wanted)
    if struct.calcsize(form) > 1:
        spoilt(cbor2.dumps(cbor2.CBORTag(tag, data + b"x")))


# ---- round trips ----

UTC = datetime.timezone.utc


class Number(int):
    pass


def zones():
    offsets = st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23))
    minutes = st.integers(-1439, 1439).map(lambda count: datetime.timedelta(minutes=count))
    unnamed = st.one_of(offsets, minutes).map(datetime.timezone)
    return st.one_of(
        st.none(), st.just(UTC), unnamed, st.builds(datetime.timezone, minutes, st.text())
    )


TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
INTS = st.one_of(
    st.integers(),
    st.integers(-300, 300),
    st.integers(-70000, 70000),
    st.integers(-(2**66), 2**66),
    st.sampled_from(
        [
            sign * 2**bits + by
            for sign in (1, -1)
            for bits in (8, 16, 32, 64, 900)
            for by in (-1, 0, 1)
        ]
    ),
)
SAFE_PATH_TEXTS = st.text(st.characters(codec=None, exclude_characters="\0"), max_size=20)
KEYS = st.one_of(
    st.none(),
    st.just(Ellipsis),
    st.booleans(),
    INTS,
    FLOATS,
    TEXTS,
    TEXTS.map(core.Secret),
    st.binary(max_size=40),
    st.binary(max_size=40).map(core.Blob),
    st.complex_numbers(),
    st.decimals().filter(lambda number: not number.is_snan()),  # has no hash
    st.fractions(),
    st.uuids(),
    st.dates(),
    st.timedeltas(),
    st.datetimes(timezones=zones(), allow_imaginary=True),
    st.times(timezones=zones()),
    SAFE_PATH_TEXTS.map(pathlib.PurePosixPath),
    SAFE_PATH_TEXTS.map(pathlib.PureWindowsPath),
    SAFE_PATH_TEXTS.map(pathlib.Path),
)
HASHABLE = st.recursive(
    KEYS,
    lambda part: st.one_of(st.lists(part, max_size=4).map(tuple), st.frozensets(part, max_size=4)),
    max_leaves=6,
)
LEAVES = st.one_of(
    KEYS,
    st.binary().map(bytearray),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3).map(
        lambda part: part * 1000
    ),
    st.lists(FLOATS, min_size=1, max_size=3).map(lambda part: part * 1000),
    st.lists(INTS, min_size=1, max_size=2).map(lambda part: tuple(part * 1000)),
)


def exceptions(part):
    kinds = [ValueError, Exception, KeyError, OSError, StopIteration, KeyboardInterrupt]
    return st.builds(
        lambda kind, args: kind(*args), st.sampled_from(kinds), st.lists(part, max_size=1)
    )


VALUES = st.recursive(
    LEAVES,
    lambda part: st.one_of(
        st.lists(part, max_size=5),
        st.lists(part, max_size=5).map(tuple),
        st.dictionaries(HASHABLE, part, max_size=5),
        st.dictionaries(TEXTS, part, max_size=5).map(core.Kwargs),
        st.sets(HASHABLE, max_size=5),
        st.frozensets(HASHABLE, max_size=5),
        st.builds(subprocess.CompletedProcess, part, st.integers(), part, part),
        exceptions(part),
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES)
@example({math.nan: [math.nan], (1, "\udc80"): {b"": -0.0}})
@example([0.5] * 5000)
@example([True] * 5000)
@example([1.0] * 1000 + [1])
@example([1] * 1000 + [True])
@example([Ellipsis, None, True, False, 1, 0, 1.0])
def test_every_value_round_trips(value):
    encoded = core.encode(value)
    assert alike(core.decode(encoded), value)
    assert alike(core.decode(memoryview(encoded)), value)
    assert alike(core.decode(memoryview(bytearray(encoded))), value)


@pytest.mark.parametrize(
    "value",
    [
        decimal.Decimal("-0"),
        decimal.Decimal("0E+5"),
        decimal.Decimal("sNaN12"),
        decimal.Decimal("1.20"),
        decimal.Decimal("-1E+999999"),
        decimal.Decimal("-0.000E-20"),
        decimal.Decimal("7" * 3000 + ".5"),
        datetime.timedelta.min,
        datetime.timedelta.max,
        datetime.datetime.min,
        datetime.datetime.max.replace(tzinfo=UTC),
        datetime.datetime(2024, 1, 1, fold=1, tzinfo=UTC),
        datetime.datetime(1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=14))),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(0), "UTC")),
        fractions.Fraction(-1, 3),
        1 << 100000,
        -(1 << 100000),
        "a" * 23,
        "a" * 24,
        "\u00fc" * 12,
        "\ud800" * 300,
        b"x" * 70000,
        {None: 1, True: 2, 2: 3, "2": 4, b"2": 5, (2,): 6, 2.5: 7},
        {str(i): i for i in range(1000)},
        {2**i: i for i in range(400)},
        ImportError("x", name="y", path="z"),
        FileNotFoundError(2, "No such file", "/x"),
        OSError(2, "x", "y", None, "z"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SystemExit(3),
        list(range(-5, 2000)),
        [2**40] * 1000,
        [2**63] * 1000,
        (1.5,) * 1000,
    ],
    ids=kind_of,
)
def test_edge_cases_round_trip(value):
    assert alike(round_trip(value), value)
    assert alike(round_trip({"a": [value]}), {"a": [value]})


def test_exceptions_keep_their_attributes():
    error = ImportError("x", name="y")
    error.detail = [1]
    back = round_trip(error)
    assert (back.name, back.path, back.detail) == ("y", None, [1])
    assert round_trip(FileNotFoundError(2, "No such", "f")).filename == "f"


def test_private_exception_attributes_are_refused():
    for attribute in ("__class__", "__dict__", "_x", ""):
        content = ["ValueError", [], {attribute: {}}]
        if attribute:
            spoilt(cbor2.dumps(cbor2.CBORTag(value_types.TAG_EXCEPTION, content)))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are of 3.11")
def test_exception_groups():
    group = ExceptionGroup("x", [ValueError(1), KeyError(2)])  # noqa: F821
    group.add_note("a note")
    back = round_trip(group)
    assert [type(part) for part in back.exceptions] == [ValueError, KeyError]
    assert back.__notes__ == ["a note"]


def test_order_of_keys_is_kept():
    value = {key: None for key in ("z", 1, "a", 0, (), b"")}
    assert list(round_trip(value)) == list(value)


def test_long_lists_of_numbers_are_packed():
    assert len(core.encode([1] * 10000)) < 10020
    assert len(core.encode([-300] * 10000)) < 20020
    assert len(core.encode([1 << 40] * 10000)) < 80020
    assert len(core.encode([0.1] * 10000)) < 80020


def test_encoded_call_is_small():
    call = (None, "bench.target", None, "noop", (1, "two"), core.Kwargs())
    assert len(core.encode(call)) == 31


def test_repr_hides_secret_and_blob():
    assert "hunter2" not in repr([core.Secret("hunter2")])
    assert repr(core.Blob(b"xyz")) == "[blob: 3 bytes]"
    assert repr(core.Kwargs(a=1)) == "{'a': 1}"
    assert str(round_trip(core.Secret("hunter2"))) == "hunter2"


def test_text_is_encoded_as_utf_8():
    assert cbor2.loads(core.encode("\u20ac")) == "\u20ac"
    encoded = core.encode("\udc80")
    assert cbor2.loads(encoded) == cbor2.CBORTag(core.TAG_SURROGATES, b"\xed\xb2\x80")


# ---- against cbor2 ----

COMMON_KEYS = st.one_of(
    st.none(),
    st.booleans(),
    INTS,
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.uuids(),
    st.decimals(allow_nan=False, allow_infinity=False).filter(
        lambda d: not (d.is_signed() and not d)
    ),
)
COMMON = st.recursive(
    st.one_of(COMMON_KEYS, st.complex_numbers(allow_nan=False)),
    lambda part: st.one_of(
        st.lists(part, max_size=6), st.dictionaries(COMMON_KEYS, part, max_size=6)
    ),
    max_leaves=20,
)


@settings(max_examples=40, deadline=None)
@given(COMMON)
def test_cbor2_agrees(value):
    assert cbor2.loads(core.encode(value)) == value
    assert alike(core.decode(cbor2.dumps(value)), value)


MOMENTS = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(fold=0))


@given(MOMENTS, st.sets(st.integers()), st.dates())
def test_cbor2_agrees_on_tags(moment, numbers, date):
    value = [moment, numbers, date]
    assert cbor2.loads(core.encode(value)) == value
    assert core.decode(cbor2.dumps([moment, numbers])) == [moment, numbers]


@given(st.fractions())
def test_cbor2_agrees_on_fractions(value):
    assert cbor2.loads(core.encode(value)) == value
    assert core.decode(cbor2.dumps(value)) == value


# ---- refused at the sender ----


class Foo:
    pass


class Text(str):
    pass


Point = collections.namedtuple("Point", "x y")
Colour = enum.IntEnum("Colour", "RED")


class Decimal:  # only its name is that of a sendable type
    pass


class Bad(ValueError):
    pass


@pytest.mark.parametrize(
    "value, where",
    [
        (Foo(), "result"),
        ({"a": [1, 2, 3, Foo()]}, "result['a'][3]"),
        ((1, [Foo]), "result[1][0]"),
        ({Foo(): 1}, "result.keys()"),
        ({(1, Foo()): 1}, "result.keys()[1]"),
        ({1: {"x": {Foo()}}}, "result[1]['x']"),
        (core.Kwargs(a=Foo()), "result['a']"),
        (ValueError([Foo()]), "result[0]"),
        ([1, "x", Text("x")], "result[2]"),
        ([1, "x", [core.Secret("x"), Number(1)]], "result[2][1]"),
        ([Number(1)] * 2000, "result[0]"),
        ([1, Point(1, 2)], "result[1]"),
        ([Colour.RED], "result[0]"),
        (collections.OrderedDict(), "result"),
        (collections.defaultdict(list), "result"),
        ([memoryview(b"")], "result[0]"),
        ([Decimal()], "result[0]"),
        (Bad(), "result"),
        (lambda: None, "result"),
        ((x for x in ()), "result"),
        (ValueError, "result"),
        ({"x" * 500: Foo()}, "result['xxxx"),
        (fractions.Fraction(1, 1 << 20000), "result"),
    ],
    ids=kind_of,
)
def test_refusal_names_the_path(value, where):
    text = refused(value, name="result")
    assert text.startswith(where)
    assert "cannot be sent" in text
    assert len(text) < 400


def test_refusal_names_the_type_and_suggests_a_fix():
    assert refused(Foo(), name="x").startswith("x: <class '%s.Foo'> cannot be sent; " % __name__)
    assert "mitogen.utils.cast() makes it a plain str" in refused(Text())
    assert "bytes()" in refused(memoryview(b""))
    assert "built-in" in refused(Bad())


def test_refusal_is_a_type_error():
    with pytest.raises(TypeError):
        core.encode(Foo())
    assert issubclass(core.EncodeError, core.Error)


def test_other_time_zones_are_refused():
    zoneinfo = pytest.importorskip("zoneinfo")
    try:
        zone = zoneinfo.ZoneInfo("Europe/Paris")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no time zone data here")
    assert refused([datetime.datetime(2024, 1, 1, tzinfo=zone)]).startswith("value[0]: ")


def test_cycles_are_refused():
    value = [1, {}]
    value[1]["x"] = value
    assert refused(value, name="result") == "result[1]['x']: contains itself"
    value = core.Kwargs()
    value["x"] = (value,)
    assert refused(value) == "value['x'][0]: contains itself"
    error = ValueError()
    error.args = (error,)
    assert "contains itself" in refused(error)


def test_shared_objects_are_copied():
    part = [1]
    back = round_trip([part, part])
    assert back == [[1], [1]] and back[0] is not back[1]


def nested(levels, kind, inner=()):
    value = kind(inner)
    for _ in range(levels - 1):
        value = kind([value])
    return value


def from_below(frames, function, *args):
    return from_below(frames - 1, function, *args) if frames else function(*args)


@pytest.mark.parametrize("kind", [list, tuple, lambda part: {1: part[0] if part else None}])
@pytest.mark.parametrize("inner", [["\ud800"], [1 << 70], [core.Blob(b"")], [1] * 1000, ()])
def test_depth(kind, inner):
    deep = nested(core.MAX_DEPTH - 2, kind, inner)
    assert round_trip(deep) == deep
    assert from_below(300, round_trip, deep) == deep
    assert "nested deeper than %d levels" % core.MAX_DEPTH in refused(
        nested(core.MAX_DEPTH + 2, kind, inner)
    )


def test_maximum_depth_round_trips():
    for kind in (list, tuple):
        value = nested(core.MAX_DEPTH, kind)
        assert from_below(300, round_trip, value) == value
        refused(nested(core.MAX_DEPTH + 1, kind))
    value = nested(core.MAX_DEPTH // 2, frozenset)
    assert from_below(300, round_trip, value) == value


@pytest.mark.parametrize("depth", [1000, 1000000])
@pytest.mark.parametrize("head", ["81", "a100", "c6", "c681", "d9010281", "d9d9f7", "c7a100"])
def test_excessive_depth_is_refused(head, depth):
    used, error = peak(core.decode, unhex(head) * depth + b"\x00")
    assert "nested too deep" in str(error)
    assert used < MIB


def test_stack_overflow_is_refused():
    refused(nested(100000, list))
    room = sys.getrecursionlimit() - stack_depth() - 60
    text = from_below(room, refused, nested(core.MAX_DEPTH, list))
    assert "nested deeper" in text


def stack_depth():
    frame, count = sys._getframe(), 0
    while frame:
        frame, count = frame.f_back, count + 1
    return count


# ---- limits ----


@pytest.mark.parametrize(
    "value",
    [
        0,
        24,
        1 << 64,
        0.5,
        None,
        True,
        "",
        "a" * 23,
        "a" * 24,
        b"",
        b"xy",
        [],
        [1] * 5,
        (),
        {},
        {1: 2},
    ]
    + [core.Blob(b"x"), core.Secret("x"), {1, 2}, [[], {}, ()], [0.5] * 1000, core.Kwargs(a=1)],
    ids=kind_of,
)
def test_limit_is_exact(value):
    size = len(core.encode(value))
    assert len(core.encode(value, size)) == size
    assert refused(value, limit=size - 1, name="x") == "x: too large" if size > 1 else True


@given(VALUES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_limit_is_exact_for_all(value):
    size = len(core.encode(value))
    assert len(core.encode(value, size)) == size
    if size > 1:
        refused(value, limit=size - 1)


@pytest.mark.parametrize("part", ["x" * 1000, b"x" * 1000, 1 << 8000, [1] * 1000, bytearray(1000)])
def test_limit_is_checked_while_encoding(part):
    def attempt():
        refused([part] * 100000, limit=100000)

    used, _ = peak(attempt)
    assert used < 4 * MIB


def test_limit_stops_expansion_of_shared_objects():
    value = []
    for _ in range(60):
        value = [value, value]
    refused(value, limit=100000)
    assert "x" in refused([value, Foo()], limit=100000, name="x")


def test_dict_changed_while_encoding_is_refused():
    class Hostile:
        def __init__(self):
            self.value = {}

    # A converter changes the dict, as another thread could.
    value = {1: Hostile(), 2: 3}

    def convert(item):
        value[len(value) + 1] = 0
        return 0

    core.ENCODERS[Hostile] = (core.TAG_BLOB, convert)
    try:
        assert "changed" in refused(value)
    finally:
        del core.ENCODERS[Hostile]


def test_list_changed_while_encoding_is_sent_unchanged():
    value = [0] * 10
    stop = threading.Event()

    def change():
        while not stop.is_set():
            value.append(0)
            value.pop()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            assert len(round_trip(value)) in (10, 11)
    finally:
        stop.set()
        thread.join()


# ---- hostile bytes ----


@pytest.mark.parametrize(
    "encoded",
    [
        "9affffffff 9bffffffffffffffff 9b1000000000000000 819affffffff00",
        "baffffffff bb7fffffffffffffff bbffffffffffffffff00",
        "5b1000000000000000 5bffffffffffffffff 7affffffff 7b1000000000000000",
        "c25b1000000000000000 c35affffffff c69affffffff d9ea615affffffff d84f5b1000000000000000",
        "d9ea611b1000000000000000 d8401b0000010000000000 d8401a40000000",  # Blob(n), bytearray(n)
        "c4821b7fffffffffffffff01 c4821a3b9ac9ff01 c4823b7fffffffffffffff01",  # 1E+999999999
        "d9ea7470314539393939393939393939393939 d9ea746b3145393939393939393939",
        "d9ea71831bffffffffffffffff0000 d8641b7fffffffffffffff c1fb7fefffffffffffff",
    ],
)
def test_claimed_lengths_allocate_nothing(encoded):
    core.decode(core.encode([{1}, decimal.Decimal(1), datetime.timedelta(1)]))  # warm: imports
    for item in encoded.split():
        used, result = peak(core.decode, unhex(item))
        assert isinstance(result, (core.StreamError, decimal.Decimal))
        assert used < 100000, item


@pytest.mark.parametrize(
    "head", ["80", "a0", "c680", "60", "40", "f90000", "d9010280", "c7a0", "d840 40"]
)
def test_memory_is_proportional(head):
    part = unhex(head)
    count = 4000
    data = b"\x9a" + struct.pack(">L", count) + part * count
    core.decode(data)
    used, result = peak(core.decode, data)
    assert len(result) == count
    assert used < 400 * len(data)


def colliding(count):
    return [(i + 1) * sys.hash_info.modulus for i in range(count)]


@pytest.mark.parametrize("as_set", [False, True])
def test_keys_made_to_collide_are_refused(as_set):
    def message(count):
        keys = colliding(count)
        if as_set:
            return cbor2.dumps(cbor2.CBORTag(258, keys))
        return (
            b"\xb9" + struct.pack(">H", count) + b"".join(cbor2.dumps(key) + b"\0" for key in keys)
        )

    assert len(core.decode(message(100))) == 100
    assert "equal hashes" in spoilt(message(2000))


def test_bignums_take_linear_time():
    # A quadratic conversion of 4 MB would exceed the test's time limit.
    data = b"\xc2\x5a" + struct.pack(">L", 4 * MIB) + b"\xff" * 4 * MIB
    assert core.decode(data).bit_length() == 32 * MIB
    assert core.decode(core.encode(1 << 32 * MIB)) == 1 << 32 * MIB


@pytest.mark.parametrize("head", ["c48200", "c482", "d81e8201", "d81e82"])
def test_quadratic_conversions_are_refused(head):
    big = b"\xc2\x5a" + struct.pack(">L", MIB) + b"\xff" * MIB
    data = unhex(head) + big
    if head.endswith("82"):
        data += b"\x01"
    assert "too long" in spoilt(data)


def test_long_bytes_are_copied_once():
    data = core.encode(bytes(8 * MIB))
    for source in (data, memoryview(data)):
        used, _ = peak(core.decode, source)
        assert used < 9 * MIB
    for value in (bytes(8 * MIB), core.Blob(8 * MIB)):
        used, _ = peak(core.encode, value)
        assert used < (9 if type(value) is bytes else 17) * MIB  # CPython copies for a subclass


def test_errors_have_the_position():
    assert spoilt(b"") == "cannot unpickle message: truncated at byte 0"
    assert spoilt(b"\x82\x01") == "cannot unpickle message: truncated at byte 1"
    assert spoilt(b"\x81\xff").endswith("unassigned or indefinite item at byte 2")
    assert spoilt(b"\x80\x80") == "cannot unpickle message: more than one item at byte 1"


# ---- hooks ----


def test_sequences():
    data = core.encode("a") + core.encode([1]) + core.encode(None)
    position, found = 0, []
    while position < len(data):
        value, position = core.decode_next(data, position)
        found.append(value)
    assert found == ["a", [1], None]


def test_registering_a_type_takes_one_line_each_way():
    router = object()
    core.ENCODERS[Foo] = (65000, lambda value: [1, "x"])
    core.TAG_DECODERS[65000] = lambda content, router: (router, content)
    try:
        assert core.decode(core.encode([Foo()]), router) == [(router, [1, "x"])]
    finally:
        del core.ENCODERS[Foo], core.TAG_DECODERS[65000]


def test_exception_in_a_hook_is_a_stream_error():
    def fail(content, router):
        raise MemoryError

    core.TAG_DECODERS[65000] = fail
    try:
        spoilt(unhex("d9fde800"))
    finally:
        del core.TAG_DECODERS[65000]


def test_the_table_of_tags_is_complete():
    numbers = [row[0] for row in value_types.TAGS]
    assert numbers == sorted(set(numbers), key=numbers.index)
    assert {*value_types._DECODERS, *core.TAG_DECODERS} <= set(numbers)
    ours = {
        getattr(core, name)
        for name in dir(core)
        if name.startswith("TAG_") and name != "TAG_DECODERS"
    }
    ours |= {getattr(value_types, name) for name in dir(value_types) if name.startswith("TAG_")}
    assert ours <= set(numbers)
    assert all(len(row) == 4 and all(map(str, row)) for row in value_types.TAGS)


def test_types_are_found_without_importing_their_modules():
    code = (
        "import sys; before = set(sys.modules); from mitogen.core import value_types\n"
        "heavy = 'datetime decimal fractions pathlib subprocess uuid pickle struct re'.split()\n"
        "print(sorted(set(heavy) & (set(sys.modules) - before)))"
    )
    root = str(ROOT)
    output = subprocess.check_output([sys.executable, "-c", code], cwd=root)
    assert output.strip() == b"[]"
