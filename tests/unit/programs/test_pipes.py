"""A pipe between two contexts, over in-memory streams. The reader and the writer are fakes."""

import pytest
from hypothesis import given, settings, strategies as st

from mitogen import core
from mitogen.programs import pipes
from tests.unit import nodes

WINDOW = 1000


class Source:
    """A reader that delivers the test's data within its limit."""

    limit = 0

    def __init__(self, data=b"", end=True):
        self.data = data
        self.end = end
        self.running = self.closed = False

    def start(self, deliver):
        self.deliver = deliver

    def resume(self):
        self.running = True
        self.deliver_some()

    def pause(self):
        self.running = False

    def deliver_some(self):
        while self.running and not self.closed and (self.data or self.end):
            piece, self.data = self.data[: self.limit], self.data[self.limit :]
            if not piece:
                self.closed = True
            self.deliver(piece)

    def close(self):
        self.closed = True


class Sink:
    """A writer that holds all data until the test releases it."""

    def __init__(self):
        self.held = b""
        self.done = b""
        self.ended = self.closed = False

    def start(self, on_written, on_closed):
        self.on_written = on_written
        self.on_closed = on_closed

    def write(self, data):
        self.held += data

    def release(self, size=1 << 30):
        part, self.held = self.held[:size], self.held[size:]
        self.done += part
        if part:
            self.on_written(len(part))
        if self.ended and not self.held:
            self.on_closed(False)

    def end(self):
        self.ended = True
        if not self.held:
            self.on_closed(False)

    def close(self):
        self.closed = True


class Pipe:
    """A pipe from the first node of a line to the last."""

    def __init__(self, net, data=b"", end=True, window=WINDOW, hops=1):
        line = net.line(hops + 1)
        self.net, self.near, self.far = net, line[0], line[-1]
        self.source, self.sink = Source(data, end), Sink()
        self.ends = []
        self.sending = pipes.SendingEnd(
            self.near.router,
            self.near.context(self.far),
            window,
            self.source,
            lambda lost: self.ends.append(("sending", lost)),
        )
        self.receiving = pipes.ReceivingEnd(
            self.far.router,
            self.far.context(self.near),
            window,
            self.sink,
            lambda lost: self.ends.append(("receiving", lost)),
        )

    def start(self):
        self.receiving.start(self.sending.handle)
        self.sending.start(self.receiving.handle)
        self.net.pump()
        return self

    def release(self, size=1 << 30):
        self.sink.release(size)
        self.net.pump()

    def handlers(self):
        ends = ((self.near, self.sending), (self.far, self.receiving))
        return [end for node, end in ends if end.handle in node.router.handlers]


@pytest.fixture
def net():
    with nodes.network() as net:
        yield net


@pytest.mark.parametrize("hops", [1, 3])
def test_a_window_of_data_is_held(net, hops):
    data = bytes(range(256)) * 20
    pipe = Pipe(net, data, hops=hops).start()
    assert len(pipe.sink.held) == WINDOW
    while pipe.sink.held:
        pipe.release(100)
        assert len(pipe.sink.held) <= WINDOW
    assert pipe.sink.done == data
    assert pipe.ends == [("sending", False), ("receiving", False)]
    assert not pipe.handlers()


def test_credit_is_sent_for_half_a_window_of_written_bytes(net):
    pipe = Pipe(net, b"x" * 5000, end=False).start()
    pipe.release(WINDOW // 2 - 1)
    assert pipe.sending.credit == 0
    pipe.release(1)
    assert len(pipe.sink.held) == WINDOW


def test_the_reader_is_limited_by_the_credit(net):
    pipe = Pipe(net, b"x" * 990, end=False).start()
    assert pipe.source.limit == 10


def test_the_end_of_file_needs_no_credit(net):
    pipe = Pipe(net, b"x" * WINDOW, end=False).start()
    assert pipe.sending.credit == 0
    pipe.release()
    pipe.source.end = True
    pipe.source.deliver_some()
    net.pump()
    assert pipe.ends == [("sending", False), ("receiving", False)]


def test_an_empty_source(net):
    pipe = Pipe(net, b"").start()
    assert (pipe.sink.done, pipe.ends) == (b"", [("sending", False), ("receiving", False)])


def test_data_that_arrives_before_start(net):
    pipe = Pipe(net, b"x" * 3000)
    pipe.sending.start(pipe.receiving.handle)
    net.pump()
    pipe.release()
    assert pipe.sending.credit == 0
    pipe.receiving.start(pipe.sending.handle)
    net.pump()
    assert pipe.sending.credit == 0 and len(pipe.sink.held) == WINDOW


def test_closing_the_receiving_end(net):
    pipe = Pipe(net, b"x" * 5000, end=False).start()
    pipe.receiving.close()
    net.pump()
    assert pipe.source.closed and pipe.sink.closed
    assert sorted(pipe.ends) == [("receiving", False), ("sending", False)]
    assert not pipe.handlers()


def test_a_broken_writer_stops_the_reader(net):
    pipe = Pipe(net, b"x" * 5000, end=False).start()
    pipe.sink.on_closed(True)
    net.pump()
    assert pipe.source.closed


def test_a_sender_without_a_receiver_is_stopped(net):
    """After an interrupted start, for example, the receiving mailbox is gone."""
    pipe = Pipe(net, b"x" * 5000, end=False)
    pipe.receiving.close()
    pipe.sending.start(pipe.receiving.handle)
    net.pump()
    assert pipe.source.closed and ("sending", True) in pipe.ends


@pytest.mark.parametrize("hops", [1, 2])
def test_a_lost_context_ends_both_ends(net, hops):
    pipe = Pipe(net, b"x" * 5000, end=False, hops=hops).start()
    end = pipe.far.up
    with end.node.broker.thread():
        end.disconnect("gone")
    net.pump()
    assert pipe.source.closed and ("sending", True) in pipe.ends
    # A context that has lost its parent ends. Its broker then ends pending waits.
    pipe.far.broker.end()
    assert pipe.sink.ended
    pipe.sink.release()
    assert len(pipe.sink.done) == WINDOW, "data that has arrived is still written"
    assert ("receiving", True) in pipe.ends
    assert not pipe.handlers()


def test_data_beyond_the_window_ends_the_pipe(net):
    pipe = Pipe(net, b"", end=False).start()
    pipe.sending.credit = 10 * WINDOW
    pipe.source.data = b"x" * (WINDOW + 1)
    pipe.sending.flowing = False
    pipe.sending._resume()
    net.pump()
    assert ("receiving", True) in pipe.ends and pipe.sink.closed
    assert "pipe overrun" in " ".join(pipe.far.logs)
    assert pipe.source.closed, "the sender is notified"


def test_messages_from_other_contexts_are_dropped(net):
    master = net.node(0)
    left, right = net.node(1, master), net.node(2, master)
    sink, ends = Sink(), []
    receiving = pipes.ReceivingEnd(
        left.router, left.context(master), WINDOW, sink, lambda lost: ends.append(lost)
    )
    right.send(left, receiving.handle, b"forged")
    net.pump()
    assert sink.held == b"" and not ends
    master.send(left, receiving.handle, b"true")
    net.pump()
    assert sink.held == b"true"


def test_nothing_is_read_while_the_link_is_full(net):
    size = 4 * core.HIGH_WATER
    pipe = Pipe(net, b"x" * 2 * size, end=False, window=size)
    stream = pipe.near.down[pipe.far.id]
    stream.stalled = True
    pipe.start()
    assert core.HIGH_WATER <= stream.queued < core.HIGH_WATER + 2 * pipes.CHUNK
    assert pipe.sending.credit > 0
    stream.stalled = False
    stream.deliver()
    net.pump()
    assert len(pipe.sink.held) == size


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=4000),
    st.integers(1, 700),
    st.lists(st.integers(1, 900), max_size=30),
    st.integers(1, 3),
)
def test_all_data_arrives_in_order(data, window, steps, hops):
    with nodes.network() as net:
        pipe = Pipe(net, data, window=window, hops=hops).start()
        for size in steps:
            assert len(pipe.sink.held) <= window
            pipe.release(size)
        while pipe.sink.held:
            assert len(pipe.sink.held) <= window
            pipe.release()
        assert pipe.sink.done == data
        assert pipe.ends == [("sending", False), ("receiving", False)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=12), max_size=8))
def test_malformed_credit(messages):
    with nodes.network() as net:
        pipe = Pipe(net, b"x" * 5000, end=False).start()
        for data in messages:
            pipe.far.send(pipe.near, pipe.sending.handle, data)
        net.pump()
        assert len(pipe.ends) <= 2
