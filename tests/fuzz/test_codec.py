"""The codec with arbitrary bytes: it decodes or raises StreamError; results can be encoded again.

The strategies are from tests/unit/core/test_codec.py, which has the named cases.
"""

import cbor2
from hypothesis import HealthCheck, given, settings, strategies as st

from mitogen import core
from mitogen.core import value_types
from tests.unit.core.test_codec import COMMON, COMMON_KEYS, VALUES, alike, spoilt


def decodes_or_raises(data):
    try:
        value = core.decode(data)
    except core.StreamError as error:
        assert str(error).startswith("cannot unpickle message: ")
        assert error.__context__ is not None or "more than one" in str(error)
        return
    try:
        again = core.decode(core.encode(value))
    except core.EncodeError as error:
        # A decoded value may be one level deeper than permitted, or a type that only a subclass can
        # send.
        assert "nested" in str(error) or "cannot be sent" in str(error)
        return
    assert type(again) is type(value)


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise(data):
    decodes_or_raises(data)


TAGGED = st.recursive(
    st.one_of(COMMON_KEYS, st.floats()),
    lambda part: st.one_of(
        st.lists(part, max_size=4),
        st.builds(cbor2.CBORTag, st.sampled_from([row[0] for row in value_types.TAGS]), part),
    ),
    max_leaves=8,
)


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(TAGGED)
def test_any_content_of_any_tag_decodes_or_raises(value):
    if core.TAG_CONTEXT in core.TAG_DECODERS:
        pass  # it gets router=None, and so raises
    decodes_or_raises(cbor2.dumps(value))


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutations_decode_or_raise(data):
    encoded = bytearray(core.encode(data.draw(VALUES)))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(encoded)))
        how = data.draw(st.sampled_from("set insert delete cut".split()))
        if how == "insert" or not encoded[position:]:
            encoded[position:position] = data.draw(st.binary(min_size=1, max_size=4))
        elif how == "set":
            encoded[position] = data.draw(st.integers(0, 255))
        elif how == "delete":
            del encoded[position]
        else:
            del encoded[position:]
    decodes_or_raises(bytes(encoded))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES)
def test_truncated_or_extended_values_are_refused(value):
    encoded = core.encode(value)
    for length in {0, 1, len(encoded) // 2, len(encoded) - 2, len(encoded) - 1}:
        if 0 <= length < len(encoded):
            spoilt(encoded[:length])
    assert "more than one item at byte %d" % len(encoded) in spoilt(encoded + b"\x00")


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES)
def test_values_make_the_round_trip(value):
    encoded = core.encode(value)
    assert alike(core.decode(encoded), value)
    assert alike(core.decode(memoryview(encoded)), value)


@settings(max_examples=300, deadline=None)
@given(COMMON)
def test_cbor2_encodes_and_decodes_the_same(value):
    assert cbor2.loads(core.encode(value)) == value
    assert alike(core.decode(cbor2.dumps(value)), value)
