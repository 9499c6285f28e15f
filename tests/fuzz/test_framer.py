"""The Framer with arbitrary bytes.

Valid frames are the same messages however they are split; other bytes raise StreamError or wait for
more.
"""

from hypothesis import given, settings, strategies as st

from mitogen import core
from mitogen.core import Framer, StreamError
from tests.unit.nodes import frame

IDS = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1))
FRAMES = st.builds(
    frame,
    dst=IDS,
    handle=IDS,
    data=st.binary(max_size=60),
    src=IDS,
    auth=IDS,
    reply_to=IDS,
    flags=st.integers(0, 7),
    number=IDS,
)
ENVELOPE = ("dst_id", "src_id", "auth_id", "handle", "reply_to", "flags", "number")


def fields(msg):
    return tuple(getattr(msg, name) for name in ENVELOPE), bytes(msg.data)


def pieces(data, cuts):
    points = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[one:two] for one, two in zip(points, points[1:])]


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_frames_in_any_pieces_are_the_same_messages(frames, cuts):
    data = b"".join(frames)
    whole, cut = Framer(), Framer()
    wanted = [fields(msg) for msg in whole.feed(data)]
    assert [fields(msg) for piece in pieces(data, cuts) for msg in cut.feed(piece)] == wanted
    assert len(wanted) == len(frames)
    assert bytes(whole.rest) == bytes(cut.rest) == b""
    again = b"".join(
        frame(
            msg.dst_id, msg.handle, bytes(msg.data), msg.src_id, msg.auth_id, msg.reply_to,
            msg.flags, msg.number,
        )
        for msg in Framer().feed(data)
    )  # fmt: skip
    assert again == data


@settings(max_examples=500, deadline=None)
@given(
    st.lists(FRAMES, max_size=3),
    st.binary(max_size=200),
    st.lists(st.integers(0, 400), max_size=6),
    st.sampled_from([0, 10, core.FRAME_SIZE]),
)
def test_garbage_raises_only_stream_error(frames, garbage, cuts, limit):
    framer = Framer(limit)
    try:
        for piece in pieces(b"".join(frames) + garbage, cuts):
            for msg in framer.feed(piece):
                assert len(msg.data) <= limit and 0 <= msg.flags <= 7
    except StreamError as e:
        assert len(str(e)) < 300
        return
    assert len(framer.rest) <= limit + 31


@settings(max_examples=300, deadline=None)
@given(FRAMES, st.integers(0, 1000), st.integers(0, 255))
def test_a_changed_byte_gives_one_frame_or_an_error(data, at, byte):
    spoilt = bytearray(data)
    spoilt[at % len(spoilt)] = byte
    framer = Framer()
    try:
        found = framer.feed(bytes(spoilt))
    except StreamError:
        return
    assert len(found) <= 1 or len(data) > 54  # a shortened length can leave a second frame
