"""core.Stream over a real socketpair, and core.Broker: the parts with descriptors and threads."""

import os
import socket
import sys
import threading

import pytest

from mitogen import core
from mitogen.bootstrap import spawn
from mitogen.core import Stream, io as io_file
from mitogen.tree import pollers
from tests import conftest
from tests.unit import nodes
from tests.unit.nodes import frame


class Router:
    """The parts of a Router that a Stream uses."""

    def __init__(self, broker):
        self.broker = broker
        self.got = []
        self.lost = []
        self.logs = []

    def on_frame(self, msg, stream):
        self.got.append(msg)

    def on_stream_lost(self, stream):
        self.lost.append(stream)

    def log(self, level, fmt, *args):
        self.logs.append(fmt % args)


@pytest.fixture
def pair(net):
    """A Stream, the other descriptor, and a broker with a real poller, run step by step."""
    before = conftest.open_descriptors()
    broker = nodes.Broker(net)
    broker.poller = core.Poller()
    ours, theirs = spawn.create_socketpair()
    os.set_blocking(theirs, False)
    stream = Stream(Router(broker), 7, ours, ours, "name")
    yield stream, theirs, broker
    with broker.thread():
        stream.disconnect()
    os.close(theirs)
    assert not conftest.open_descriptors() - before


def turn(broker):
    """Run one iteration of the broker."""
    broker.run_deferred()
    with broker.thread():
        broker.poller.poll(0)


def read_all(fd):
    data = b""
    while True:
        try:
            piece = os.read(fd, 1 << 20)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def test_a_send_is_written_at_once(pair):
    stream, theirs, broker = pair
    stream.send(b"head", b"body")
    stream.send(b"only")
    assert os.read(theirs, 99) == b"headbodyonly" and not stream.queued


def test_corked_frame_is_written_with_the_next(pair):
    stream, theirs, broker = pair
    stream.start()
    stream.send(b"1", b"a", cork=True)
    stream.send(b"2", b"b", cork=True)
    assert read_all(theirs) == b"" and stream.queued == 4
    stream.send(b"3", b"c")
    stream.flush()
    assert read_all(theirs) == b"1a2b3c" and stream.queued == 0


def test_corked_frame_is_soon_written_alone(pair):
    stream, theirs, broker = pair
    stream.start()
    stream.send(b"1", cork=True)
    turn(broker)
    turn(broker)
    assert read_all(theirs) == b"1"


def test_broker_writes_the_rest(pair):
    stream, theirs, broker = pair
    stream.start()
    data = bytes(range(256)) * 8192  # 2 MiB
    stream.send(b"head", data)
    stream.send(b"next", data)
    assert stream.queued > len(data)
    found = b""
    for _ in range(500):
        turn(broker)
        found += read_all(theirs)
        if not stream.queued:
            break
    assert found == b"head" + data + b"next" + data
    assert stream.queued == 0
    turn(broker)
    assert broker.poller.table[stream.rfd][1] is None  # no longer watched for writing


def test_when_drained_calls_back(pair):
    stream, theirs, broker = pair
    stream.start()
    called = []
    stream.when_drained(lambda: called.append("at once"))
    turn(broker)
    assert called == ["at once"]
    stream.send(bytes(4 << 20))
    stream.when_drained(lambda: called.append("drained"))
    turn(broker)
    assert called == ["at once"]
    for _ in range(500):
        read_all(theirs)
        turn(broker)
        if len(called) > 1:
            break
    assert called == ["at once", "drained"] and stream.queued * 2 < core.HIGH_WATER
    stream.send(bytes(4 << 20))
    stream.when_drained(lambda: called.append("lost"))
    turn(broker)
    with broker.thread():
        stream.disconnect()
    assert called[-1] == "lost" and stream.queued == 0


def test_frames_are_received(pair):
    stream, theirs, broker = pair
    rest = frame(data=b"second")
    os.write(theirs, rest[10:] + frame(data=b"third")[:5])
    stream.start(frame(data=b"first") + rest[:10])
    turn(broker)
    assert [msg.data for msg in stream.router.got] == [b"first", b"second"]
    assert stream.received == 3 * 27 - 22 + len(b"firstsecond")
    turn(broker)
    assert not stream.closed


def test_invalid_frame_ends_the_stream(pair):
    stream, theirs, broker = pair
    stream.start()
    os.write(theirs, b"SSH-2.0-OpenSSH_9.2 and some more bytes")
    turn(broker)
    assert stream.closed and "not a frame" in stream.reason
    assert "name" in stream.router.logs[0] and stream.router.lost == [stream]


def test_end_of_file_disconnects(pair):
    stream, theirs, broker = pair
    fired = []
    core.listen(stream, "disconnect", lambda: fired.append(stream.closed))
    stream.start()
    sock = socket.socket(fileno=os.dup(theirs))
    sock.shutdown(socket.SHUT_WR)
    sock.close()
    turn(broker)
    assert stream.closed and stream.reason == "EOF" and fired == [True]
    stream.disconnect()
    stream.send(b"ignored")
    assert stream.router.lost == [stream] and not broker.poller.table


def test_failed_send_ends_the_stream(pair):
    stream, theirs, broker = pair
    other = os.open("/dev/null", os.O_RDONLY)
    wfd, stream.wfd = stream.wfd, other
    stream.send(b"x")
    stream.wfd = wfd
    os.close(other)
    assert not stream.closed
    turn(broker)
    assert stream.closed and "Bad file descriptor" in stream.reason


def test_two_descriptors(net):
    broker = nodes.Broker(net)
    broker.poller = core.Poller()
    (r1, w1), (r2, w2) = os.pipe(), os.pipe()
    stream = Stream(Router(broker), 7, r1, w2)
    stream.start()
    os.write(w1, frame(data=b"in"))
    stream.send(frame(data=b"out"), cork=True)
    turn(broker)
    turn(broker)
    assert stream.router.got[0].data == b"in" and os.read(r2, 99) == frame(data=b"out")
    os.close(r2)
    stream.send(b"broken")
    turn(broker)
    assert stream.closed
    os.close(w1)


def test_descriptors_are_not_blocking(pair):
    assert not os.get_blocking(pair[0].rfd)


@pytest.mark.parametrize("make", [os.pipe, os.openpty])
def test_read_fd(make):
    rfd, wfd = make()
    os.set_blocking(rfd, False)
    assert core.read_fd(rfd) is None
    os.write(wfd, b"abc\n")
    assert core.read_fd(rfd).strip() in (b"abc", b"") or make is os.openpty
    os.close(wfd)
    while core.read_fd(rfd):
        pass
    assert core.read_fd(rfd) == b""  # a pty's master gives EIO
    os.close(rfd)


# ---- Broker


@pytest.fixture(params=[core.Poller, pollers.best()], ids=lambda kind: kind.__name__)
def broker(request):
    before = conftest.open_descriptors()
    found = core.Broker(request.param)
    core.listen(found, "exit", getattr(found.poller, "close", int))
    yield found
    found.shutdown()
    found.join()
    assert not conftest.open_descriptors() - before


def on_broker(broker, func=lambda: None):
    """Call `func()` on the broker thread and return its result."""
    box, done = [], threading.Event()

    def run():
        try:
            box.append(func())
        finally:
            done.set()

    broker.defer(run)
    assert done.wait(5), "the broker hangs"
    return box[0] if box else None


def test_deferred_functions_run_in_order_on_its_thread(broker):
    seen = []
    for number in range(100):
        broker.defer(seen.append, number)
    assert on_broker(broker, broker.on_thread) is True and not broker.on_thread()
    assert seen == list(range(100))
    broker.defer(lambda a, b: seen.append((a, b)), 1, b=2)
    on_broker(broker)
    assert seen[-1] == (1, 2)


def test_nested_deferred_functions_run_later(broker):
    seen = []
    broker.defer(lambda: (broker.defer(seen.append, "later"), seen.append("now")))
    on_broker(broker)
    on_broker(broker)
    assert seen == ["now", "later"]


def test_many_wake_ups_cost_one_byte(broker, monkeypatch):
    gate, inside = threading.Event(), threading.Event()
    written = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(fd) or real(fd, data))
    broker.defer(lambda: (inside.set(), gate.wait(5)))
    assert inside.wait(5)
    for _ in range(50):
        broker.defer(int)
    gate.set()
    on_broker(broker)
    assert 1 <= written.count(broker.wake_w) <= 3


def test_timers(broker, monkeypatch):
    seen, done = [], threading.Event()
    start = core.now()

    def set_up():
        # A pause between these calls must not change the order of the timers.
        with monkeypatch.context() as patch:
            patch.setattr(io_file, "now", lambda: start)
            cancelled = broker.after(0.001, lambda: seen.append("cancelled"))
            broker.after(0.004, lambda: (seen.append(2), done.set()))
            broker.after(0.002, lambda: seen.append(1))
        assert [when for when, _, _ in sorted(broker._timers)] == [
            start + 0.001,
            start + 0.002,
            start + 0.004,
        ]
        cancelled.clear()

    on_broker(broker, set_up)
    assert done.wait(5) and seen == [1, 2]


def test_exception_does_not_end_the_broker(broker, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: shown.append(args[0]))
    broker.defer(lambda: 1 // 0)
    broker.defer(lambda: broker.after(0, lambda: {}["x"]))
    on_broker(broker)
    on_broker(broker)
    on_broker(broker)
    assert shown == [ZeroDivisionError, KeyError]


def test_deferred_functions_run_before_the_end(broker):
    seen = []
    for name in ("before_shutdown", "shutdown", "exit"):
        core.listen(broker, name, lambda name=name: seen.append(name))
    broker.exit_actions.append(lambda: seen.append("exit action"))
    broker.shutdown()
    broker.join()
    assert seen == ["before_shutdown", "shutdown", "exit action", "exit"] and not broker.alive
    broker.defer(seen.append, "never")
    broker.join()
    broker.shutdown()
    assert seen[-1] == "exit"


def test_broker_waits_for_its_holders(broker):
    broker.holds.add("x")
    broker.shutdown()
    on_broker(broker)
    assert broker.alive

    def let_go():
        broker.holds.discard("x")
        broker.stop()

    broker.defer(let_go)
    broker.join()
    assert not broker.alive
