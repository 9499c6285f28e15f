"""Readers and writers over each kind of descriptor, on a real broker."""

import fcntl
import os
import pty
import socket
import threading
import tty

import pytest

from mitogen import core
from mitogen.programs import endpoints
from tests import processes

SOON = 20.0
DATA = bytes(range(256)) * 4096  # a megabyte: more than any pipe or socket takes at once


@pytest.fixture
def broker():
    broker = core.Broker()
    yield broker
    broker.shutdown()
    broker.join()


@pytest.fixture(autouse=True)
def no_descriptor_left():
    before = set(os.listdir("/proc/self/fd"))
    yield
    processes.wait_until(lambda: len(os.listdir("/proc/self/fd")) <= len(before), SOON)


def make_pair(kind, tmp_path):
    """Return (descriptor to read from, descriptor to write to)."""
    if kind == "pipe":
        return os.pipe()
    if kind == "socket":
        return tuple(each.detach() for each in socket.socketpair())
    if kind == "tty":
        master, slave = pty.openpty()
        tty.setraw(slave)
        return master, slave
    path = tmp_path / "file"
    path.write_bytes(b"")
    return os.open(str(path), os.O_RDONLY), os.open(str(path), os.O_WRONLY)


def is_blocking(fd):
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


class Collector:
    """Callback of a reader that collects its data."""

    def __init__(self, broker, reader):
        self.reader, self.broker = reader, broker
        self.data = []
        self.done = threading.Event()
        self.some = threading.Event()
        broker.defer(reader.start, self.take)

    def take(self, piece):
        self.data.append(piece)
        self.some.set()
        if not piece:
            self.done.set()

    def resume(self):
        self.broker.defer(self.reader.resume)
        return self


class Watcher:
    """Callbacks of a writer that count the bytes written."""

    def __init__(self, writer):
        self.writer = writer
        self.written = 0
        self.closed = []
        self.done = threading.Event()
        writer.start(self.on_written, self.on_closed)

    def on_written(self, size):
        self.written += size

    def on_closed(self, broken):
        self.closed.append(broken)
        self.done.set()


def read_all(fd, size=None):
    """Return all data up to the end, or `size` bytes."""
    found = b""
    while size is None or len(found) < size:
        try:
            piece = os.read(fd, 65536)
        except OSError:
            break
        if not piece:
            break
        found += piece
    return found


@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "tty"])
def test_reading_to_the_end_of_file(kind, broker, tmp_path):
    rfd, wfd = make_pair(kind, tmp_path)
    copy = os.dup(rfd)
    data = DATA[:3000] if kind == "tty" else DATA
    if kind == "file":
        os.write(wfd, data)
    else:
        thread = threading.Thread(target=lambda: write_all(wfd, data))
        thread.start()
    if kind == "file":
        os.close(wfd)
    collector = Collector(broker, endpoints.open_reader(broker, rfd)).resume()
    if kind != "file":
        thread.join(SOON)
        os.close(wfd)
    assert collector.done.wait(SOON)
    assert b"".join(collector.data) == data
    assert max(map(len, collector.data)) <= endpoints.LIMIT
    assert is_blocking(copy), "the description may be shared with other processes"
    os.close(copy)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "tty"])
def test_writing_and_closing(kind, broker, tmp_path):
    rfd, wfd = make_pair(kind, tmp_path)
    copy = os.dup(wfd)
    watcher = Watcher(endpoints.open_writer(broker, wfd))
    for start in range(0, len(DATA), 65536):
        broker.defer(watcher.writer.write, DATA[start : start + 65536])
    broker.defer(watcher.writer.end)
    if kind == "file":
        assert watcher.done.wait(SOON)
    assert read_all(rfd, len(DATA)) == DATA
    assert watcher.done.wait(SOON)
    assert (watcher.written, watcher.closed) == (len(DATA), [False])
    assert is_blocking(copy)
    os.close(copy)
    os.close(rfd)


def test_writing_to_a_non_blocking_descriptor(broker, tmp_path):
    """rsync sets O_NONBLOCK on its sockets and pipes. A terminal is used here: it gets a thread."""
    rfd, wfd = make_pair("tty", tmp_path)
    os.set_blocking(wfd, False)
    watcher = Watcher(endpoints.ThreadWriter(broker, wfd))
    broker.defer(watcher.writer.write, DATA)
    broker.defer(watcher.writer.end)
    assert read_all(rfd, len(DATA)) == DATA
    assert watcher.done.wait(SOON) and watcher.closed == [False]
    os.close(rfd)


@pytest.mark.parametrize("kind", ["pipe", "socket", "tty"])
def test_writing_without_a_reader(kind, broker, tmp_path):
    rfd, wfd = make_pair(kind, tmp_path)
    os.close(rfd)
    watcher = Watcher(endpoints.open_writer(broker, wfd))
    broker.defer(watcher.writer.write, b"x")
    assert watcher.done.wait(SOON) and watcher.closed == [True]


@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "tty"])
def test_closing_unused_endpoints_leaves_no_descriptors(kind, broker, tmp_path):
    """A program that cannot be started has such endpoints. The fixture checks the descriptors."""
    rfd, wfd = make_pair(kind, tmp_path)
    reader, writer = endpoints.open_reader(broker, rfd), endpoints.open_writer(broker, wfd)
    for endpoint in (reader, writer, reader, writer):
        endpoint.close()


@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "tty"])
def test_end_of_file_without_data(kind, broker, tmp_path):
    rfd, wfd = make_pair(kind, tmp_path)
    watcher = Watcher(endpoints.open_writer(broker, wfd))
    broker.defer(watcher.writer.end)
    assert watcher.done.wait(SOON) and watcher.closed == [False]
    os.close(rfd)


@pytest.mark.parametrize("kind", ["pipe", "socket", "tty"])
def test_closing_a_writer_that_waits(kind, broker, tmp_path):
    rfd, wfd = make_pair(kind, tmp_path)
    watcher = Watcher(endpoints.open_writer(broker, wfd))
    broker.defer(watcher.writer.write, DATA)
    broker.defer(watcher.writer.close)
    # A thread in the middle of a write ends when that write returns.
    os.close(rfd)


@pytest.mark.parametrize("kind", ["pipe", "socket", "tty"])
def test_closing_a_reader_that_waits(kind, broker, tmp_path):
    rfd, wfd = make_pair(kind, tmp_path)
    collector = Collector(broker, endpoints.open_reader(broker, rfd)).resume()
    broker.defer(collector.reader.close)
    broker.defer(collector.some.set)
    assert collector.some.wait(SOON) and not collector.data
    os.close(wfd)


@pytest.mark.parametrize("kind", ["pipe", "socket", "tty"])
def test_a_paused_reader_delivers_nothing(kind, broker, tmp_path):
    rfd, wfd = make_pair(kind, tmp_path)
    reader = endpoints.open_reader(broker, rfd)
    collector = Collector(broker, reader).resume()
    os.write(wfd, b"one")
    assert collector.some.wait(SOON)
    turned = threading.Event()
    broker.defer(reader.pause)
    broker.defer(turned.set)
    assert turned.wait(SOON)
    os.write(wfd, b"two")
    turned.clear()
    broker.defer(broker.defer, turned.set)
    assert turned.wait(SOON) and b"".join(collector.data) == b"one"
    collector.some.clear()
    broker.defer(reader.resume)
    assert collector.some.wait(SOON) and b"".join(collector.data) == b"onetwo"
    broker.defer(reader.close)
    os.close(wfd)


def test_a_reader_keeps_to_its_limit(broker):
    rfd, wfd = os.pipe()
    os.write(wfd, b"0123456789")
    os.close(wfd)
    reader = endpoints.open_reader(broker, rfd)
    reader.limit = 4
    collector = Collector(broker, reader).resume()
    assert collector.done.wait(SOON)
    assert collector.data == [b"0123", b"4567", b"89", b""]


def test_finish_reads_available_data_then_ends(broker):
    rfd, wfd = os.pipe()
    os.set_blocking(rfd, False)
    os.write(wfd, b"remaining")
    reader = endpoints.PolledReader(broker, rfd)
    collector = Collector(broker, reader).resume()
    broker.defer(reader.finish)
    assert collector.done.wait(SOON)
    assert b"".join(collector.data) == b"remaining"
    os.close(wfd)


# -- memory


def test_writing_to_a_full_feed_sleeps(broker):
    feed = endpoints.Feed(broker, 100)
    assert feed.offer(b"x" * 150) and not feed.offer(b"y")
    thread = threading.Thread(target=feed.write, args=(b"z" * 10,))
    thread.start()
    collector = Collector(broker, feed).resume()
    thread.join(SOON)
    assert not thread.is_alive()
    feed.end()
    assert collector.done.wait(SOON)
    assert b"".join(collector.data) == b"x" * 150 + b"z" * 10


def test_closing_a_feed_wakes_its_writer(broker):
    feed = endpoints.Feed(broker, 100)
    feed.offer(b"x" * 150)
    failed = []

    def write():
        try:
            feed.write(b"z")
        except BrokenPipeError as e:
            failed.append(e)

    thread = threading.Thread(target=write)
    thread.start()
    broker.defer(feed.close)
    thread.join(SOON)
    assert failed


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_a_feed_copies_mutable_data(data, broker):
    feed = endpoints.Feed(broker, 100)
    feed.write(data)
    if isinstance(data, bytearray):
        data[:] = b"xyz"
    feed.end()
    collector = Collector(broker, feed).resume()
    assert collector.done.wait(SOON) and b"".join(collector.data) == b"abc"


def test_a_buffer_reports_taken_bytes_as_written(broker):
    buffer = endpoints.Buffer(broker)
    watcher = Watcher(buffer)
    assert buffer.take(10) is None
    broker.defer(buffer.write, b"abcdef")
    assert buffer.read(4) == b"abcd"
    assert bytes(buffer.read(100)) == b"ef"
    broker.defer(buffer.end)
    assert buffer.read(1) == b"" and buffer.take(1) == b""
    assert watcher.done.wait(SOON) and watcher.closed == [False]
    processes.wait_until(lambda: watcher.written == 6, SOON)


def test_the_end_of_a_buffer_wakes_all_readers(broker):
    buffer = endpoints.Buffer(broker)
    Watcher(buffer)
    found = []
    threads = [threading.Thread(target=lambda: found.append(buffer.read(1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    broker.defer(buffer.end)
    for thread in threads:
        thread.join(SOON)
    assert found == [b""] * 4


def test_abandoning_a_buffer(broker):
    buffer = endpoints.Buffer(broker)
    watcher = Watcher(buffer)
    buffer.abandon()
    assert watcher.done.wait(SOON) and watcher.closed == [True]


def test_discard_reports_all_bytes_as_written():
    watcher = Watcher(endpoints.Discard())
    watcher.writer.write(b"abc")
    watcher.writer.end()
    assert (watcher.written, watcher.closed) == (3, [False])
