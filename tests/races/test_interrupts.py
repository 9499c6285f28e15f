"""A signal of the program interrupts sending at any opcode: the context works afterwards."""

import os
import threading
import time

import pytest

from mitogen import core
from mitogen.bootstrap import spawn
from mitogen.calls.chain import CallChain
from mitogen.core import Message, Stream
from mitogen.core.mailbox import Latch, Receiver
from tests.races.opcodes import interrupt_everywhere
from tests.unit import live, nodes
from tests.unit.core.test_stream import Router, read_all, turn

SOON = live.SOON


@pytest.fixture
def stream(net):
    """A Stream to a socket, the other end, and a broker that is run step by step."""
    broker = nodes.Broker(net)
    broker.poller = core.Poller()
    ours, theirs = spawn.create_socketpair(4096)
    os.set_blocking(theirs, False)
    found = Stream(Router(broker), 7, ours, ours, "name")
    found.start()
    yield found, theirs, broker
    found.lock = threading.Lock()  # in case a failed test holds it
    with broker.thread():
        found.disconnect()
    os.close(theirs)


def read_frames(theirs, broker, framer):
    """Return the payloads of all frames that arrive until nothing more is owed."""
    found = []
    for _ in range(1000):
        turn(broker)
        data = read_all(theirs)
        found += [msg.data for msg in framer.feed(data)]
        if not data:
            return found
    raise AssertionError("the stream never ends")


@pytest.mark.parametrize("size", [10, 100000], ids=["short", "longer than the socket's buffer"])
@pytest.mark.parametrize("cork", [False, True])
def test_each_frame_is_sent_whole_or_not_at_all(stream, size, cork):
    found, theirs, broker = stream
    framer = core.Framer()
    body = bytes(range(250)) * (size // 10 // 25 + 1)

    def send():
        found.send(nodes.frame(data=b"1" + body), cork=cork)
        found.send(nodes.frame(data=b"2" + body)[:27], b"2" + body)

    def check(where, interrupted):
        assert not found.lock.locked(), where
        found.send(nodes.frame(data=b"next"))
        got = read_frames(theirs, broker, framer)
        assert got and got.pop() == b"next", where
        assert got in ([], [b"1" + body], [b"1" + body, b"2" + body]), where
        assert interrupted or len(got) == 2
        assert not found.queued and not framer.rest and not found.closed, where

    assert interrupt_everywhere(send, check) > 50


def test_a_flush_loses_nothing_and_repeats_nothing(stream):
    found, theirs, broker = stream
    body = bytes(range(250)) * 400
    taken = []

    def take():
        try:
            taken.append(os.read(theirs, 5000))
        except BlockingIOError:
            pass

    found.send(nodes.frame(data=body)[:27], body)
    while found.queued:
        interrupt_everywhere(found.flush, lambda where, interrupted: take())
    framer = core.Framer()
    assert [msg.data for msg in framer.feed(b"".join(taken) + read_all(theirs))] == [body]


@pytest.fixture
def broker():
    found = core.Broker()
    yield found
    found.shutdown()
    found.join()


def test_an_interrupted_defer_leaves_the_broker_wakeable(broker):
    def check(where, interrupted):
        done = threading.Event()
        broker.defer(done.set)
        assert done.wait(SOON), where

    assert interrupt_everywhere(lambda: broker.defer(int), check) > 20


def test_calls_work_after_an_interruption_anywhere_in_a_call():
    with live.pair() as pair:
        chain = CallChain(pair.context, timeout=SOON)
        chain.call(time.monotonic)

        def check(where, interrupted):
            assert chain.call(abs, -7) == 7, where
            waiting = [h for h in pair.master.handlers.values() if h.source == 1]
            # At most the slot of the interrupted call, whose answer nothing awaits.
            assert len(waiting) <= 1, where
            for handle, handler in list(pair.master.handlers.items()):
                if handler.source == 1:
                    del pair.master.handlers[handle]

        assert interrupt_everywhere(lambda: chain.call(abs, -1), check) > 200


def test_mailboxes_work_after_an_interruption_anywhere_in_a_send():
    """Short messages, and long ones, which leave in frames."""
    with live.pair() as pair:
        for size in (10, core.LONG_SIZE + 1):
            receiver = Receiver(pair.child)
            body = bytes(size)

            def check(where, interrupted, receiver=receiver, body=body):
                pair.context.send(Message(data=b"next", handle=receiver.handle, flags=core.RAW))
                got = receiver.get(SOON).data
                if got != b"next":
                    assert got == body, where
                    assert receiver.get(SOON).data == b"next", where

            def send(receiver=receiver, body=body):
                pair.context.send(Message(data=body, handle=receiver.handle, flags=core.RAW))

            assert interrupt_everywhere(send, check) > 100
            receiver.close()


def test_a_latch_works_after_an_interruption_anywhere_in_it():
    """An interrupted reader takes no other reader's wake-up with it."""
    latch = Latch()

    def use():
        latch.put("one")
        latch.get(SOON)
        with pytest.raises(core.TimeoutError):
            latch.get(0.0001)

    def check(where, interrupted):
        while not latch.empty():
            latch.get(block=False)
        assert not latch._waiters and not latch._lock.locked(), where
        got = []
        reader = threading.Thread(target=lambda: got.append(latch.get(SOON)))
        reader.start()
        latch.put("next")
        reader.join(SOON)
        assert got == ["next"], where

    assert interrupt_everywhere(use, check, strict=False) > 20


def test_answers_arrive_after_an_interruption_anywhere_in_a_wait_for_one():
    with live.pair() as pair:
        assert pair.context.call_async(abs, -1).get(SOON).unpickle() == 1

        def check(where, interrupted):
            assert pair.context.call_async(abs, -7).get(SOON).unpickle() == 7, where

        def ask():
            pair.context.call_async(abs, -1).get(SOON).unpickle()

        assert interrupt_everywhere(ask, check) > 200
