"""Many threads on one object, switched after almost every bytecode."""

import os
import sys
import threading
from types import SimpleNamespace

import pytest

from mitogen import core
from mitogen.bootstrap import spawn
from mitogen.core import Message, Stream
from mitogen.core.mailbox import LatchError, Queue, Receiver
from tests.unit import live, nodes
from tests.unit.core.test_stream import Router

pytestmark = pytest.mark.slow

SOON = 60
THREADS = 4
ROUNDS = 20000


@pytest.fixture(autouse=True)
def fast_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*functions):
    """Run functions in threads of their own; raise the first error."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(each,), daemon=True) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.fixture
def broker():
    found = core.Broker()
    yield found
    found.shutdown()
    found.join()


def test_every_deferred_function_runs_once_and_in_order(broker):
    ran = []

    def defer(number):
        for at in range(ROUNDS):
            broker.defer(ran.append, (number, at))

    together(*(lambda number=number: defer(number) for number in range(THREADS)))
    done = threading.Event()
    broker.defer(done.set)
    assert done.wait(SOON)
    for number in range(THREADS):
        assert [at for which, at in ran if which == number] == list(range(ROUNDS))


def test_a_broker_that_sleeps_is_always_woken(broker):
    """Each function is awaited, so the broker falls asleep before most of them."""

    def defer():
        for _ in range(ROUNDS // 20):
            lock = core.new_lock()
            broker.defer(lock.release)
            assert lock.acquire(True, SOON), "the broker sleeps"

    together(*[defer] * THREADS)


def test_frames_of_several_threads_are_whole_and_in_order(broker):
    ours, theirs = spawn.create_socketpair(4096)
    stream = Stream(Router(broker), 7, ours, ours, "name")
    broker.defer(stream.start)
    got, framer = [], core.Framer()

    def send(number):
        for at in range(ROUNDS // 20):
            data = b"%d %d " % (number, at) + bytes(at % 3000)
            if at % 7:
                stream.send(nodes.frame(data=data)[:27], data, cork=at % 3 == 0)
            else:
                other = nodes.frame(data=b"- -"), b""
                stream.send(nodes.frame(data=data)[:27], data, more=other)
            if at % 11 == 0:
                stream.flush()

    def read():
        while len(got) < THREADS * (ROUNDS // 20):
            data = os.read(theirs, 100000)
            assert data
            got.extend(msg.data for msg in framer.feed(data) if msg.data != b"- -")

    try:
        together(read, *(lambda number=number: send(number) for number in range(THREADS)))
    finally:
        broker.defer(stream.disconnect)
        done = threading.Event()
        broker.defer(done.set)
        assert done.wait(SOON)
        os.close(theirs)
    for number in range(THREADS):
        found = [int(each.split()[1]) for each in got if int(each.split()[0]) == number]
        assert found == list(range(ROUNDS // 20))


def test_every_item_of_a_latch_is_taken_once_until_it_ends():
    latch = Queue()
    taken = [[] for _ in range(THREADS)]
    left = [THREADS]

    def put(number):
        for at in range(ROUNDS):
            latch.put((number, at))
        left[0] -= 1
        if not left[0]:
            latch.close()

    def get(number):
        try:
            while True:
                taken[number].append(latch.get(SOON))
        except LatchError:
            pass

    puts = [lambda number=number: put(number) for number in range(THREADS)]
    together(*puts, *(lambda number=number: get(number) for number in range(THREADS)))
    found = [item for each in taken for item in each]
    assert len(found) == len(set(found)) == THREADS * ROUNDS


def test_a_flow_keeps_the_order_of_each_thread():
    """Short and long messages to one mailbox, whose reader is slower than the window."""
    with live.pair() as pair:
        receiver = Receiver(pair.child)
        count = 60
        got = []

        def send(number):
            for at in range(count):
                size = core.LONG_SIZE + 1 if at % 5 == 0 else 50000 * (at % 3)
                data = b"%d %d " % (number, at) + bytes(size)
                pair.context.send(Message(data=data, handle=receiver.handle, flags=core.RAW))

        def read():
            while len(got) < THREADS * count:
                data = receiver.get(SOON).data
                got.append(SimpleNamespace(number=int(data.split()[0]), at=int(data.split()[1])))

        together(read, *(lambda number=number: send(number) for number in range(THREADS)))
        for number in range(THREADS):
            assert [each.at for each in got if each.number == number] == list(range(count))
        receiver.close()


def test_calls_of_several_threads_on_one_chain():
    with live.pair() as pair:

        def call(number):
            for at in range(200):
                assert pair.context.call(abs, -at) == at

        together(*(lambda number=number: call(number) for number in range(THREADS)))
