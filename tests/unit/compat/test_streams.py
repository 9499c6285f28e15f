"""streams.py: a program's own descriptors on a broker, which these tests run step by step."""

import logging
import os
import re
import socket
import sys
import threading

import pytest
from hypothesis import given, strategies as st

from mitogen import core, master, parent
from mitogen.compat import streams

#: Seconds that a test waits for an immediate event; reached only on failure.
SOON = 20.0


class Broker(core.Broker):
    """A broker that runs on the test's thread."""

    def start(self):
        self.run_as_us()

    def run_as_us(self):
        self.ident = threading.get_ident()

    def step(self):
        """Process all ready events."""
        self.defer(int)
        self._once()

    def finish(self):
        """Shut down and run until the end."""
        self.shutdown()
        while not self.stopping:
            self._once()
        self._end()


@pytest.fixture
def broker():
    broker = Broker()
    yield broker
    if broker.alive:
        broker.finish()


class Lines(core.DelimitedProtocol):
    def __init__(self):
        self.lines = []
        self.partial = []
        self.events = []

    def on_line_received(self, line):
        self.lines.append(line)

    def on_partial_line_received(self, line):
        self.partial.append(line)

    def on_shutdown(self, broker):
        self.events.append("shutdown")
        core.DelimitedProtocol.on_shutdown(self, broker)

    def on_disconnect(self, broker):
        self.events.append("disconnect")
        core.DelimitedProtocol.on_disconnect(self, broker)


class Writing(core.Protocol):
    """A protocol that writes through a BufferedWriter."""

    def __init__(self, broker):
        self.writer = core.BufferedWriter(broker, self)
        self.ended = 0

    def on_transmit(self, broker):
        self.writer.on_transmit(broker)

    def on_disconnect(self, broker):
        self.ended += 1
        core.Protocol.on_disconnect(self, broker)


def reading(broker, cls=Lines, *args):
    """Return (stream that reads from a pipe, other end of the pipe)."""
    rfp, wfp = core.pipe()
    stream = cls.build_stream(*args)
    stream.name = "test"
    stream.accept(rfp, os.open(os.devnull, os.O_WRONLY))
    broker.start_receive(stream)
    return stream, wfp


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# ---- receiving


def test_lines_arrive(broker):
    stream, wfp = reading(broker)
    wfp.write(b"one\ntwo\nthr")
    broker.step()
    assert stream.protocol.lines == [b"one", b"two"] and stream.protocol.partial == [b"thr"]
    wfp.write(b"ee\n")
    broker.step()
    assert stream.protocol.lines[2:] == [b"three"]
    wfp.close()


def test_the_end_of_the_file_ends_the_stream_once(broker):
    stream, wfp = reading(broker)
    fds = [side.fd for side in stream.sides()]
    told = []
    core.listen(stream, "disconnect", lambda: told.append(1))
    wfp.write(b"last")
    wfp.close()
    broker.step()
    broker.step()
    assert stream.protocol.lines == [b"last"] and stream.protocol.events == ["disconnect"]
    assert told == [1] and not any(map(is_open, fds)) and not broker.keep_alive()
    stream.receive_side.close()
    assert stream.receive_side.read() == b"" and stream.transmit_side.write(b"x") is None


def test_nothing_to_read_is_not_the_end(broker):
    stream, wfp = reading(broker)
    stream.on_receive(broker)
    assert stream.protocol.events == [] and stream.receive_side.read() is None
    wfp.close()


def test_stop_receive(broker):
    stream, wfp = reading(broker)
    broker.stop_receive(stream)
    wfp.write(b"x\n")
    broker.step()
    assert stream.protocol.lines == [] and not broker.keep_alive()
    broker.start_receive(stream)
    broker.step()
    assert stream.protocol.lines == [b"x"] and broker.keep_alive()
    wfp.close()


def test_a_closed_stream_is_not_watched(broker):
    stream, wfp = reading(broker)
    stream.on_disconnect(broker)
    broker.start_receive(stream)
    assert not broker.keep_alive()
    wfp.close()


def cut(data, places):
    at = 0
    for place in sorted(places):
        place = min(place, len(data))
        yield data[at:place]
        at = place
    yield data[at:]


@given(
    st.lists(st.binary(max_size=6).filter(lambda b: b"\n" not in b)), st.lists(st.integers(0, 60))
)
def test_any_chunking_gives_the_same_lines(lines, places):
    protocol = Lines.build_stream().protocol
    for chunk in cut(b"".join(line + b"\n" for line in lines), places):
        protocol.on_receive(None, chunk)
    assert protocol.lines == lines


def test_another_delimiter():
    protocol = Lines.build_stream().protocol
    protocol.delimiter = b"\r\n"
    for byte in b"a\nb\r\nc\r\n":
        protocol.on_receive(None, bytes([byte]))
    assert protocol.lines == [b"a\nb", b"c"]


def test_buffer_for_an_unterminated_line_is_bounded(monkeypatch):
    monkeypatch.setattr(streams, "LINE_LIMIT", 10)
    protocol = Lines.build_stream().protocol
    protocol.on_receive(None, b"x" * 11)
    protocol.on_receive(None, b"y\n")
    assert protocol.partial == [b"x" * 11] and protocol.lines == [b"y"]


def test_a_protocol_hands_over_to_another(broker):
    class Greeting(Lines):
        def on_line_received(self, line):
            self.lines.append(line)
            self.stream.set_protocol(Lines())

    stream, wfp = reading(broker, Greeting)
    first = stream.protocol
    wfp.write(b"hello\nrest\nmore")
    broker.step()
    assert first.lines == [b"hello"] and first.stream is None
    assert stream.protocol.lines == [b"rest"] and stream.protocol.partial == [b"more"]
    wfp.close()


def test_patterns():
    class Prompts(streams.RegexProtocol):
        seen = ()

        def on_name(self, line, match):
            self.seen += (match.group(1),)

        def on_ask(self, line, match):
            self.seen += ("asked",)

        def on_unrecognized_line_received(self, line):
            self.seen += (line,)

        def on_unrecognized_partial_line_received(self, line):
            self.seen += ("?",)

        PATTERNS = [(re.compile(b"name=(.*)"), on_name)]
        PARTIAL_PATTERNS = [(re.compile(b"password: "), on_ask)]

    protocol = Prompts.build_stream().protocol
    for chunk in (b"name=x\nother\npass", b"word: "):
        protocol.on_receive(None, chunk)
    assert protocol.seen == (b"x", b"other", "?", "asked")
    streams.RegexProtocol.build_stream().protocol.on_receive(None, b"ignored\nby default")


def test_lines_are_logged_and_remembered(broker, caplog):
    stream, wfp = reading(broker, streams.LogProtocol)
    with caplog.at_level(logging.DEBUG, "mitogen"):
        wfp.write(b"one\nt\xffo\n")
        broker.step()
    assert [record.getMessage() for record in caplog.records] == ["test: one", "test: t\ufffdo"]
    assert stream.protocol.get_history() == b"one\nt\xffo"
    wfp.close()


# ---- faults


def test_a_callback_that_raises_ends_its_stream_only(broker, monkeypatch):
    class Broken(Lines):
        def on_line_received(self, line):
            raise ValueError("in a callback")

    raised = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: raised.append(args[0]))
    broken, one = reading(broker, Broken)
    other, two = reading(broker)
    one.write(b"x\n")
    two.write(b"x\n")
    broker.step()
    broker.step()
    assert raised == [ValueError] and broken.protocol.events == ["disconnect"]
    assert broken.receive_side.closed and other.protocol.lines == [b"x"]
    one.close()
    two.close()


def test_an_on_disconnect_that_raises_is_not_called_again(broker, monkeypatch):
    class Broken(Lines):
        def on_disconnect(self, broker):
            self.events.append("disconnect")
            raise ValueError("in on_disconnect")

    monkeypatch.setattr(sys, "excepthook", lambda *args: None)
    stream, wfp = reading(broker, Broken)
    wfp.close()
    broker.step()
    broker.step()
    assert stream.protocol.events == ["disconnect"] and not broker.keep_alive()
    broker.finish()
    assert all(side.closed for side in stream.sides()), "rule 1: both files are closed"


def test_a_stream_of_2017_has_no_protocol(broker):
    class Old(core.BasicStream):
        got = b""

        def on_receive(self, broker):
            data = self.receive_side.read()
            if not data:
                return self.on_disconnect(broker)
            self.got += data

    streams_made = []
    for last in (b"", b"x"):
        rfp, wfp = core.pipe()
        stream = Old()
        stream.accept(rfp, os.open(os.devnull, os.O_WRONLY))
        broker.start_receive(stream)
        wfp.write(b"abc")
        broker.step()
        assert stream.got == b"abc"
        if last:
            broker.finish()
        wfp.close()
        streams_made.append(stream)
        broker.step() if not last else None
    assert all(side.closed for stream in streams_made for side in stream.sides())


# ---- transmitting


def writing(broker):
    rfp, wfp = core.pipe()
    stream = Writing.build_stream(broker)
    stream.accept(os.open(os.devnull, os.O_RDONLY), wfp)
    return stream, rfp


def test_writer_adapts_to_the_reader(broker):
    stream, rfp = writing(broker)
    os.set_blocking(rfp.fileno(), False)
    sent = [os.urandom(300000), b"", b"end"]
    for data in sent:
        stream.protocol.writer.write(data)
    got = b""
    while len(got) < sum(map(len, sent)):
        broker.step()
        got += rfp.read(100000) or b""
    assert got == b"".join(sent)
    broker.step()
    assert stream.transmit_side.fd not in broker.poller.table, "it is still watched"
    stream.on_disconnect(broker)
    rfp.close()


@pytest.mark.parametrize("size", [1, 300000])
def test_loss_of_the_reader_ends_the_writer(broker, size):
    stream, rfp = writing(broker)
    stream.protocol.writer.write(b"x" * size)
    rfp.close()
    stream.protocol.writer.write(b"y")
    broker.step()
    assert stream.protocol.ended == 1 and stream.transmit_side.closed


def test_both_directions_of_a_socket(broker):
    class Echo(Writing):
        def on_receive(self, broker, buf):
            self.writer.write(buf)

    ours, theirs = socket.socketpair()
    stream = Echo.build_stream(broker)
    stream.accept(theirs, theirs)
    broker.start_receive(stream)
    with ours:
        ours.sendall(b"x" * 100000)
        got = b""
        while len(got) < 100000:
            broker.step()
            try:
                got += ours.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
        assert got == b"x" * 100000
    broker.step()
    assert stream.protocol.ended == 1 and stream.sides()[0].closed


def test_idle_protocol_is_called_once(broker):
    stream, rfp = writing(broker)
    asked = []
    stream.protocol.on_transmit = lambda broker: (
        asked.append(1),
        core.Protocol.on_transmit(stream.protocol, broker),
    )
    broker.start_transmit(stream)
    broker.step()
    broker.step()
    assert asked == [1]
    broker._start_transmit(stream)
    broker._stop_transmit(stream)
    broker.step()
    assert asked == [1]
    stream.on_disconnect(broker)
    rfp.close()


# ---- sides


def test_a_side_takes_a_file_or_a_descriptor():
    rfd, wfd = os.pipe()
    reader, writer = core.Side(None, rfd), core.Side(None, os.fdopen(wfd, "wb", 0), cloexec=False)
    assert reader.fileno() == reader.fd == rfd and not os.get_blocking(rfd)
    assert not os.get_inheritable(rfd) and os.get_inheritable(wfd)
    assert writer.write(b"abc") == 3 and reader.read(2) == b"ab" and reader.read() == b"c"
    while writer.write(b"x" * 65536):
        pass
    assert writer.write(b"x") == 0
    reader.close()
    assert writer.write(b"x") is None
    assert "closed" in repr(reader) and "closed" not in repr(writer)
    writer.close()
    writer.close()
    assert not is_open(rfd) and not is_open(wfd)


# ---- the broker's end


def test_shutdown_fires_its_event_and_ends_the_stream(broker):
    stream, wfp = reading(broker)
    told = []
    core.listen(stream, "shutdown", lambda: told.append("shutdown"))
    core.listen(stream, "disconnect", lambda: told.append("disconnect"))
    broker.finish()
    assert told == stream.protocol.events == ["shutdown", "disconnect"]
    assert all(side.closed for side in stream.sides())
    wfp.close()


class Lingering(Lines):
    """A protocol that reads to the end before it disconnects."""

    def on_shutdown(self, broker):
        self.events.append("shutdown")


def test_shutdown_waits_for_a_lingering_stream(broker):
    stream, wfp = reading(broker, Lingering)
    broker.shutdown()
    broker.step()
    assert broker.keep_alive() and not broker.stopping
    wfp.write(b"the last word\n")
    wfp.close()
    broker.step()
    broker.step()
    assert stream.protocol.lines == [b"the last word"] and broker.stopping
    assert not broker.keep_alive()
    broker._end()


def test_shutdown_does_not_wait_forever(broker):
    broker.shutdown_timeout = 0.01
    stream, wfp = reading(broker, Lingering)
    broker.finish()
    assert stream.protocol.events == ["shutdown", "disconnect"]
    wfp.close()


def test_shutdown_does_not_wait_without_keep_alive(broker):
    stream, wfp = reading(broker, Lingering)
    stream.receive_side.keep_alive = False
    broker.finish()
    assert stream.protocol.events == ["shutdown", "disconnect"]
    wfp.close()


def test_broker_on_its_own_thread_called_from_another():
    with master.Router() as router:
        got = threading.Event()

        class Once(core.DelimitedProtocol):
            def on_line_received(self, line):
                assert router.broker.on_thread()
                got.set()

        stream = Once.build_stream()
        rfp, wfp = core.pipe()
        stream.accept(rfp, os.open(os.devnull, os.O_WRONLY))
        router.broker.start_receive(stream)
        wfp.write(b"x\n")
        assert got.wait(SOON)
    assert stream.receive_side.closed
    wfp.close()


# ---- Waker, IoLogger


def test_a_waker_defers_and_then_refuses(broker):
    stream = core.Waker.build_stream(broker)
    done = []
    stream.protocol.defer(done.append, 1)
    broker.step()
    assert done == [1] and stream.protocol.keep_alive is False and stream.sides() == []
    broker.finish()
    with pytest.raises(core.Error, match="the broker has ended"):
        stream.protocol.defer(done.append, 2)


def test_output_on_a_descriptor_is_logged(broker, caplog):
    dest = os.open(os.devnull, os.O_WRONLY)
    with caplog.at_level(logging.INFO, "some.program"):
        stream = core.IoLogger(broker, "some.program", dest)
        os.write(dest, b"one\ntwo\n")
        broker.step()
        assert [r.getMessage() for r in caplog.records] == ["one", "two"]
        # Output before the end is logged too, although the writing end stays open.
        os.write(dest, b"three")
        broker.finish()
    assert [r.getMessage() for r in caplog.records][2:] == ["three"]
    assert stream.receive_side.closed and is_open(dest)
    os.close(dest)


# ---- timers


def test_timers_in_order():
    clock, called = [10.0], []
    timers = streams.TimerList()
    timers._now = lambda: clock[0]
    assert timers.get_timeout() is None
    late = timers.schedule(30, lambda: called.append("late"))
    timers.schedule(20, lambda: called.append("early"))
    gone = timers.schedule(15, lambda: called.append("gone"))
    gone.cancel()
    assert timers.get_timeout() == 10 and not gone.active and "Timer(15" in repr(gone)
    clock[0] = 25
    timers.expire()
    timers.expire()
    assert called == ["early"] and late.active and timers.get_timeout() == 5
    clock[0] = 31
    assert timers.get_timeout() == 0
    timers.expire()
    assert called == ["early", "late"] and not late.active and timers.get_timeout() is None


def test_the_brokers_timers(broker):
    called = []
    timers = broker.timers
    assert timers is broker.timers
    timers.schedule(core.now() + 1000, lambda: called.append("later"))
    gone = timers.schedule(core.now(), lambda: called.append("gone"))
    timers.schedule(core.now() - 1, lambda: called.append("due"))
    gone.cancel()
    broker.step()
    assert called == ["due"]


def test_the_brokers_timers_from_another_thread():
    called, due, cancelled = [], threading.Event(), threading.Event()
    with master.Router() as router:
        # The broker waits here, so it calls neither timer before one of them is cancelled.
        router.broker.defer(cancelled.wait, SOON)
        gone = router.broker.timers.schedule(core.now(), lambda: called.append("gone"))
        gone.cancel()
        router.broker.timers.schedule(core.now(), due.set)
        cancelled.set()
        assert due.wait(SOON)
    assert called == []


# ---- the same names on mitogen's own streams


def test_a_stream_without_arguments_is_the_programs_own():
    stream = core.Stream()
    assert isinstance(stream, core.BasicStream) and repr(stream) == "BasicStream(None)"
    with pytest.raises(TypeError):
        core.Stream(1)


def test_the_names_of_core_stream():
    with master.Router() as router:
        stream = router.stream_by_id(router.local().context_id)
        assert stream.protocol is stream and stream.protocol.pending_bytes() == 0
        assert (stream.receive_side.fd, stream.transmit_side.fd) == (stream.rfd, stream.wfd)
        assert not stream.receive_side.closed
        told = threading.Event()
        core.listen(stream, "disconnect", told.set)
        stream.receive_side.close()
        assert told.wait(SOON) and stream.transmit_side.closed


@pytest.mark.parametrize("name", ["on_receive", "on_transmit", "on_shutdown", "on_disconnect"])
def test_the_callbacks_of_core_stream(name):
    with master.Router() as router:
        child = router.local()
        stream = router.stream_by_id(child.context_id)
        router.broker.defer_sync(lambda: getattr(stream, name)(router.broker))
        assert stream.closed == (name in ("on_shutdown", "on_disconnect"))
        if not stream.closed:
            router.broker.defer_sync(lambda: stream.on_receive(router.broker, b""))
            assert child.call(eval, "7") == 7


# ---- in a child


@core.takes_econtext
def lines_through_a_pipe(sender, econtext=None):
    """Attach a pipe to the child's broker; its lines go to `sender`."""

    class ToSender(core.DelimitedProtocol):
        def on_line_received(self, line):
            sender.send(line)

    stream = ToSender.build_stream()
    rfp, wfp = core.pipe()
    stream.accept(rfp, os.open(os.devnull, os.O_WRONLY))
    econtext.broker.start_receive(stream)
    wfp.write(b"from\nafar\n")
    wfp.close()


def test_in_a_child():
    with master.Router() as router:
        receiver = core.Receiver(router)
        router.local().call(lines_through_a_pipe, receiver.to_sender())
        assert [receiver.get(SOON).unpickle() for _ in range(2)] == [b"from", b"afar"]


def test_holders_of_the_broker_are_not_taken_for_children(broker):
    """Branch ignores them when it looks for streams to children among the broker's holders."""
    stream, wfp = reading(broker, Lingering)
    router = master.Router(broker)
    process = parent.create_child(["cat"])
    reaper = parent.Reaper(broker, process, False, True)
    reaper._look()
    broker.shutdown()
    broker.step()
    assert len(broker.holds) == 2 and broker.closing and not broker.stopping
    answers = []
    ask = core.Message(data=core.NUMBER.pack(5), src_id=0, reply_to=1, router=router)
    ask.reply = answers.append
    router.branch._on_await_end(ask)
    assert answers == [None]
    for fp in (wfp, process.stdin, process.stdout):
        fp.close()
    process.proc.wait(SOON)
    while not broker.stopping:
        broker.step()
    assert stream.protocol.events == ["shutdown", "disconnect"] and process.returncode == 0
    router.worker.join()
