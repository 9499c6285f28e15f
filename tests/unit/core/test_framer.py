"""core.Framer and Message: bytes to frames and back, with input split at any point."""

import pytest

from mitogen import core
from mitogen.core import CONT, MORE, RAW, Framer, Message, StreamError
from tests.unit.nodes import frame

HEADER = 27
ENVELOPE = ("dst_id", "src_id", "auth_id", "handle", "reply_to", "flags", "number", "data")


def fields(msg):
    return tuple(getattr(msg, name) for name in ENVELOPE)


def expected(**kwargs):
    """Return the result of fields() for frame(**kwargs)."""
    src = kwargs.get("src", 0)
    values = [kwargs.get("dst", 0), src, kwargs.get("auth", src)]
    return (
        *values,
        *(kwargs.get(name, 0) for name in ("handle", "reply_to", "flags", "number")),
        kwargs.get("data", b""),
    )


FRAMES = [
    {},
    {"dst": 1, "src": 2, "auth": 3, "handle": 4, "reply_to": 5, "data": b"six"},
    {"data": b"x" * 1000, "flags": RAW},
    {"flags": MORE, "number": 7, "data": b"first"},
    {"flags": MORE | CONT, "number": 7, "data": b""},
    {"flags": CONT | RAW, "number": 0xFFFFFFFF, "data": b"last"},
    {name: 0xFFFFFFFF for name in ("dst", "src", "auth", "handle", "reply_to")},
]
STREAM = b"".join(frame(**each) for each in FRAMES)


def feed(framer, pieces):
    return [fields(msg) for piece in pieces for msg in framer.feed(piece)]


def cut(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("each", FRAMES)
def test_one_frame(each):
    framer = Framer()
    (msg,) = framer.feed(frame(**each))
    assert fields(msg) == expected(**each)
    assert framer.rest == b""


@pytest.mark.parametrize("size", [1, 2, 26, 27, 28, 31, 100, len(STREAM)])
def test_frames_in_pieces(size):
    framer = Framer()
    assert feed(framer, cut(STREAM, size)) == [expected(**each) for each in FRAMES]
    assert framer.rest == b""


def test_incomplete_frame_is_buffered():
    for extra in range(1, len(frame(data=b"abc"))):
        framer = Framer()
        assert len(framer.feed(STREAM + frame(data=b"abc")[:extra])) == len(FRAMES)
        (msg,) = framer.feed(frame(data=b"abc")[extra:])
        assert msg.data == b"abc"


def test_empty_input_gives_no_frames():
    assert Framer().feed(b"") == []


@pytest.mark.parametrize(
    "data",
    [
        frame(magic=0x4D48),
        frame(magic=0),
        frame(flags=8),
        frame(flags=0xFF),
        b"\0" * HEADER,
        b"SSH-2.0-OpenSSH_9.2p1 Debian",
        frame(data=b"x" * (core.FRAME_SIZE + 1)),
        frame(data=b"x" * (core.FRAME_SIZE + 1))[:HEADER],  # known by the header alone
    ],
    ids=lambda data: repr(data[:8]),
)
def test_invalid_frames_are_refused(data):
    with pytest.raises(StreamError, match="not a frame: b") as info:
        Framer().feed(data)
    assert len(str(info.value)) < 200


def test_the_limit_is_exact():
    framer = Framer(limit=10)
    assert framer.feed(frame(data=b"x" * 10))[0].data == b"x" * 10
    with pytest.raises(StreamError):
        framer.feed(frame(data=b"x" * 11))
    assert len(Framer().feed(frame(data=bytes(core.FRAME_SIZE)))) == 1


@pytest.mark.parametrize("flags, size", [(0, 27), (RAW, 27), (MORE, 31), (CONT, 31), (7, 31)])
def test_header_sizes(flags, size):
    msg = Message(dst_id=1, src_id=2, auth_id=3, handle=4, reply_to=5, flags=flags, number=6)
    assert msg.header(0, flags) == frame(1, 4, b"", 2, 3, 5, flags, 6)
    assert len(msg.header(0, flags)) == size


def test_memoryview_of_a_part():
    (msg,) = Framer().feed(bytes(memoryview(b"--" + frame(data=b"x"))[2:]))
    assert msg.data == b"x"


# ---- Message


def test_message_values():
    msg = Message.pickled({"a": 1}, handle=5)
    assert (msg.unpickle(), msg.decode(), msg.handle) == ({"a": 1}, {"a": 1}, 5)
    assert msg.enc == Message.ENC_PKL and not msg.is_dead
    raw = Message.encoded(b"raw", Message.ENC_BIN)
    assert raw.unpickle() == b"raw" and raw.enc == Message.ENC_BIN
    assert Message.encoded([1]).unpickle() == [1]


def test_dead_messages():
    dead = Message.dead("gone", handle=3)
    assert dead.is_dead and dead.data == b"gone"
    with pytest.raises(core.ChannelError, match="^gone$"):
        dead.unpickle()
    assert dead.unpickle(throw_dead=False) is None
    with pytest.raises(core.ChannelError, match="closed"):
        Message.dead().unpickle()
    with pytest.raises(core.ChannelError, match="\ufffd"):
        Message(reply_to=core.IS_DEAD, data=b"\xff").unpickle()


def test_a_call_error_is_raised_or_returned():
    msg = Message.pickled(core.CallError("no"))
    with pytest.raises(core.CallError, match="^no$"):
        msg.unpickle()
    assert str(msg.unpickle(throw=False)) == "no"


def test_undecodable_data_is_a_stream_error():
    with pytest.raises(StreamError, match="cannot unpickle"):
        Message(data=b"\xff").unpickle()


def test_reply():
    class Router:
        def __init__(self):
            self.sent = []
            self.route = self.sent.append

    router = Router()
    asked = Message(src_id=9, reply_to=77)
    asked.reply("yes", router)
    asked.router = router
    asked.reply(Message(data=b"raw", flags=RAW), handle=1)
    asked.reply(3, number=4)
    assert [(m.dst_id, m.handle, m.unpickle()) for m in router.sent] == [
        (9, 77, "yes"),
        (9, 77, b"raw"),
        (9, 77, 3),
    ]
    Message(src_id=9).reply(1)
    Message.dead(src_id=9).reply(1)
    assert len(router.sent) == 3


def test_repr_shows_the_route_and_little_data():
    text = repr(Message(dst_id=1, handle=2, src_id=3, auth_id=4, reply_to=5, data=b"x" * 1000))
    assert "to 1:2 from 3 by 4" in text and "b'xx" in text and len(text) < 100
