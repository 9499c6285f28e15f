"""Contexts may talk to each other; forged messages are dropped and affect no other context.

Each hostile act is a function that writes frames directly to its parent's stream. The test then
calls its context and the others, which shows that all still work. The call follows the forged
frames on the same stream, so they have been handled before anything is asserted about them.
"""

import os
import struct

import pytest

import mitogen.core
import mitogen.master
from tests.integration.conftest import SOON
from tests.integration.far import hostile, work
from tests.integration.far.hostile import RAW, frame

ANSWERS = (3, (), {})
NUMBER = struct.Struct(">L").pack


class Family:
    """A tree: master - left - below, and master - right.

    `below` and `right` have only the master in common.
    """

    def __init__(self, router, **kwargs):
        self.router = router
        self.left = router.local(**kwargs)
        self.right = router.local(**kwargs)
        self.below = router.local(via=self.left, **kwargs)

    def all_answer(self, *but):
        for context in (self.left, self.right, self.below):
            if context not in but:
                assert context.call(work.add, 1) == ANSWERS


@pytest.fixture
def family(own_router):
    return Family(own_router)


class TestSiblings:
    def mailbox(self, router, context):
        """Make *context* read from a mailbox; return (a Sender for it, the call's Receiver)."""
        reply = mitogen.core.Receiver(router)
        call = context.call_async(work.sum_of_mailbox, reply.to_sender())
        return reply.get(timeout=SOON).unpickle(), call

    @pytest.mark.parametrize(("source", "target"), [("below", "right"), ("right", "below")])
    def test_contexts_below_different_parents_can_talk(self, family, source, target):
        sender, call = self.mailbox(family.router, getattr(family, target))
        getattr(family, source).call(work.send_all, sender, [1, 2, 4])
        assert call.get(timeout=SOON).unpickle() == 7

    def test_unidirectional_forbids_it(self, own_router):
        own_router.unidirectional = True
        family = Family(own_router)
        sender, call = self.mailbox(own_router, family.right)
        family.below.call(work.send_all, sender, [1, 2, 4])
        family.all_answer(family.right)
        assert call.empty()
        # The routes between the master and each of them stay open.
        work.send_all(sender, [8])
        assert call.get(timeout=SOON).unpickle() == 8

    def test_unidirectional_refuses_a_call_at_once(self, own_router):
        own_router.unidirectional = True
        family = Family(own_router)
        with pytest.raises(mitogen.core.CallError, match="routing mode prevents forward"):
            family.below.call(work.ask, family.right)

    def test_a_sibling_may_not_call_functions(self, family):
        with pytest.raises(mitogen.core.CallError, match="refused by policy"):
            family.below.call(work.call_in, family.right, "identity")

    def test_a_child_may_not_call_its_parent(self, family):
        with pytest.raises(mitogen.core.CallError, match="refused by policy"):
            family.below.call(work.call_in, family.left, "identity")
        with pytest.raises(mitogen.core.CallError):
            family.left.call(work.call_in, family.router.myself(), "identity")


def call_frame(family, **more):
    """Return a call of os._exit(9), as a parent would send it."""
    data = mitogen.core.encode((None, "os", None, "_exit", (9,), mitogen.core.Kwargs({})))
    return frame(mitogen.core.CALL_FUNCTION, data, **more)


def segment(family):
    """Return a LOAD_MODULE that would replace a module of the master or a sibling."""
    name = "tests.integration.far.parts"
    entry = [[name, "/hostile.py", None, 9]]
    import zlib

    return mitogen.core.encode([entry, zlib.compress(b"HOSTILE=1"), ["tests"]])


def id_of(name):
    return lambda family: getattr(family, name).context_id


RIGHT, LEFT, BELOW = id_of("right"), id_of("left"), id_of("below")
VALUE = mitogen.core.encode("forged")
C = mitogen.core

# name -> the frames, made from the family. The hostile context is `left` (in DEEPER also `below`).
DROPPED = {
    "src_id of a sibling": lambda f: [frame(f.box, VALUE, src=RIGHT(f))],
    "src_id and auth_id of a sibling": lambda f: [frame(f.box, VALUE, src=RIGHT(f), auth=RIGHT(f))],
    "src_id of the master": lambda f: [frame(f.box, VALUE, src=0, auth=0)],
    "auth_id of the master": lambda f: [frame(f.box, VALUE, auth=0)],
    "auth_id of a sibling": lambda f: [frame(f.box, VALUE, auth=RIGHT(f))],
    "unknown src_id": lambda f: [frame(f.box, VALUE, src=4000000000)],
    "unknown handle": lambda f: [frame(70000, VALUE)],
    "a reply to another's call": lambda f: [frame(f.question.handle, VALUE)],
    "a dead message for another's call": lambda f: [
        frame(f.question.handle, b"", reply_to=C.IS_DEAD)
    ],
    "a call of its parent": lambda f: [call_frame(f)],
    "a call of its parent as the master": lambda f: [call_frame(f, src=0, auth=0)],
    "a call of a sibling": lambda f: [call_frame(f, dst=RIGHT(f))],
    "a call of a sibling as the master": lambda f: [call_frame(f, dst=RIGHT(f), src=0, auth=0)],
    "a call of a sibling with a correct src_id": lambda f: [call_frame(f, dst=RIGHT(f), auth=0)],
    "shutdown of a sibling": lambda f: [frame(C.SHUTDOWN, dst=RIGHT(f))],
    "shutdown of a sibling as the master": lambda f: [
        frame(C.SHUTDOWN, dst=RIGHT(f), src=0, auth=0)
    ],
    "shutdown of its parent": lambda f: [frame(C.SHUTDOWN)],
    "a module for its parent": lambda f: [frame(C.LOAD_MODULE, segment(f))],
    "a module for a sibling": lambda f: [frame(C.LOAD_MODULE, segment(f), dst=RIGHT(f))],
    "modules to be passed to a sibling": lambda f: [
        frame(C.FORWARD_MODULE, C.encode([RIGHT(f), ["os"]]))
    ],
    "the route of a sibling": lambda f: [frame(C.ADD_ROUTE, NUMBER(RIGHT(f)) + b"x", flags=RAW)],
    "the route of the master": lambda f: [frame(C.ADD_ROUTE, NUMBER(0) + b"x", flags=RAW)],
    "a route of an id it was not allocated": lambda f: [
        frame(C.ADD_ROUTE, NUMBER(123456789) + b"x", flags=RAW),
        frame(f.box, VALUE, src=123456789, auth=123456789),
    ],
    "the end of a sibling": lambda f: [frame(C.DEL_ROUTE, NUMBER(RIGHT(f)), flags=RAW)],
    "the end of itself, reported by its child": lambda f: [
        frame(C.DEL_ROUTE, NUMBER(LEFT(f)), flags=RAW)
    ],
    "the end of the master": lambda f: [frame(C.DEL_ROUTE, NUMBER(0), flags=RAW)],
    "routes that are too short": lambda f: [
        frame(C.ADD_ROUTE, b"\0", flags=RAW),
        frame(C.DEL_ROUTE, b"", flags=RAW),
    ],
    "credit for a flow that does not exist": lambda f: [
        frame(C.CREDIT, struct.pack(">LLL", f.box, 0, 2**32 - 1), flags=RAW)
    ],
    "the end of one of the master's flows": lambda f: [
        frame(C.CREDIT, struct.pack(">LLL", C.CALL_FUNCTION, 0, 0), flags=RAW, src=RIGHT(f))
    ],
    "credit that is too short": lambda f: [frame(C.CREDIT, b"\1", flags=RAW)],
    "a continuation of nothing": lambda f: [
        (C.MAGIC, C.CONT, 0, None, None, f.box, 0, 2, struct.pack(">L", 7) + b"xx")
    ],
    "malformed log records": lambda f: [
        frame(C.FORWARD_LOG, b"\xff\xff\xff"),
        frame(C.FORWARD_LOG, C.encode([1, 2, 3])),
        frame(C.FORWARD_LOG, C.encode([[], {}, None, 3, "x", 4])),
    ],
    "a request for ids without a mailbox": lambda f: [frame(C.ALLOCATE_ID, flags=RAW)],
    "ids handed to its parent": lambda f: [
        frame(C.ALLOCATE_ID, struct.pack(">LLL", LEFT(f), 0, 2**32 - 1), flags=RAW),
        frame(C.ADD_ROUTE, NUMBER(77777) + b"x", flags=RAW),
    ],
    "requests for invalid module names": lambda f: [
        frame(C.GET_MODULE, b"\xff\xfe../../etc/passwd", flags=RAW),
        frame(C.GET_MODULE, b"/etc/passwd", flags=RAW),
        frame(C.GET_MODULE, b"", flags=RAW),
        frame(C.GET_MODULE, b"..os", flags=RAW),
    ],
}


def test_an_honest_frame_is_delivered(family):
    """Without this, the tests below would prove nothing."""
    box = C.Receiver(family.router)
    family.left.call(hostile.write, [frame(box.handle, VALUE)])
    msg = box.get(timeout=SOON)
    assert (msg.src_id, msg.unpickle()) == (LEFT(family), "forged")


@pytest.mark.parametrize("act", DROPPED)
def test_a_forged_frame_is_dropped(family, act):
    right = family.right.call(work.identity)
    reply = C.Receiver(family.router)
    reading = family.right.call_async(hostile.victim_mailbox, reply.to_sender())
    victim = reply.get(timeout=SOON).unpickle()
    box = C.Receiver(family.router)
    family.box = box.handle
    # This waits for a reply that only `right` may give; its own function does so in the end.
    family.question = reading
    family.left.call(hostile.write, DROPPED[act](family))
    family.all_answer(family.right)
    assert box.empty(), box.get().unpickle()
    assert reading.empty()
    work.send_all(victim, ["honest"])
    assert reading.get(timeout=SOON).unpickle() == [(0, "honest")]
    family.all_answer()
    assert family.right.call(work.identity) == right
    # Contexts that connect later are not affected either.
    assert family.router.local(via=family.left).call(work.origin)[2] == "far awayfar away"


def sibling_frames(family):
    """Return the frames that `below` tries on others: all of the above that have a target."""
    return [
        frame(C.SHUTDOWN, dst=LEFT(family)),
        frame(C.SHUTDOWN, dst=LEFT(family), src=0, auth=0),
        frame(C.SHUTDOWN, dst=RIGHT(family), src=LEFT(family), auth=LEFT(family)),
        call_frame(family, dst=LEFT(family)),
        call_frame(family, dst=LEFT(family), src=0, auth=0),
        call_frame(family, dst=RIGHT(family), src=LEFT(family), auth=0),
        frame(C.LOAD_MODULE, segment(family), dst=LEFT(family)),
        frame(C.LOAD_MODULE, segment(family), dst=LEFT(family), src=0, auth=0),
        frame(C.DEL_ROUTE, NUMBER(LEFT(family)), dst=0, flags=RAW),
        frame(C.DEL_ROUTE, NUMBER(RIGHT(family)), dst=LEFT(family), flags=RAW),
        frame(C.ADD_ROUTE, NUMBER(RIGHT(family)), dst=LEFT(family), flags=RAW),
        frame(C.ADD_ROUTE, NUMBER(RIGHT(family)), dst=0, flags=RAW),
    ]


def test_forged_frames_of_a_grandchild_are_dropped(family):
    pids = [context.call(work.identity) for context in (family.left, family.right)]
    family.below.call(hostile.write, sibling_frames(family))
    family.all_answer()
    assert [context.call(work.identity) for context in (family.left, family.right)] == pids


CLOSING = {
    "garbage": [os.urandom(100)],
    "zeros": [bytes(1000)],
    "a length that is too large": [frame(1000, b"", length=2**32 - 1)],
    "a length just too large": [frame(1000, b"", length=mitogen.core.FRAME_SIZE + 1)],
    "unknown flags": [frame(1000, b"", flags=0xF8)],
    "another magic": [b"MITO" * 20],
}


@pytest.mark.parametrize("act", CLOSING)
def test_invalid_frames_close_only_their_stream(family, act, records):
    mailbox = C.Receiver(family.router)
    below = family.below.call_async(work.hang, mailbox.to_sender())
    mailbox.get(timeout=SOON)
    with pytest.raises(C.ChannelError):
        family.left.call(hostile.write, CLOSING[act])
        family.left.call(work.add, 1)
    records.wait_for("not a frame")
    with pytest.raises(C.ChannelError):
        below.get(timeout=SOON).unpickle()
    family.all_answer(family.left, family.below)


def test_garbage_to_an_intermediate_closes_only_that_stream(family):
    with pytest.raises(C.ChannelError):
        family.below.call(hostile.write, [bytes(1000)])
        family.below.call(work.add, 1)
    family.all_answer(family.below)


def test_an_invalid_value_is_an_error_of_its_reader(family):
    box = C.Receiver(family.router)
    family.left.call(hostile.write, [frame(box.handle, b"\x9b" + b"\xff" * 8)])
    msg = box.get(timeout=SOON)
    with pytest.raises(C.StreamError, match="cannot unpickle"):
        msg.unpickle()
    family.all_answer()


def test_pieces_beyond_max_message_size_are_dropped(own_router):
    own_router.max_message_size = 1 << 20
    family = Family(own_router)
    box = C.Receiver(own_router)
    family.left.call(hostile.write_pieces, box.handle, 12)
    family.all_answer()
    assert box.empty()
    # The pieces kept so far were dropped: there is room for a complete message.
    value = bytes(range(256)) * 3000
    family.left.call(work.send_all, box.to_sender(), [value])
    assert box.get(timeout=SOON).unpickle() == value
