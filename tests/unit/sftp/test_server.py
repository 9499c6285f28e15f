"""sftp/server.py, files.py, packets.py: each request and its errors, hostile bytes, lost peers.

The client is in this file, over a socketpair; the server is a thread of this process.
tests/integration/test_sftp_server.py uses OpenSSH's programs.
"""

import errno
import io
import logging
import os
import pathlib
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from hypothesis import given, settings, strategies as st

from mitogen.sftp import packets as sftp_packets, requests as sftp_files, server
from mitogen.sftp.packets import (
    MAX_DATA,
    MAX_PACKET,
    Attrs,
    BadMessage,
    Buffer,
    Fields,
    FramingError,
    OpenFlags,
    Packet,
    Replies,
    Status,
)
from tests.checkout import ROOT

SOON = 20.0
NEW = OpenFlags.WRITE | OpenFlags.CREAT
#: A number beyond off_t.
HUGE = 1 << 63


def u32(number):
    return struct.pack(">I", number)


def u64(number):
    return struct.pack(">Q", number)


def s(value):
    return u32(len(value)) + value


def attrs(size=None, owner=None, mode=None, times=None):
    """Return attributes in a client's encoding."""
    flags, body = 0, b""
    for flag, value, pack in (
        (Attrs.SIZE, size, u64),
        (Attrs.UIDGID, owner, lambda pair: u32(pair[0]) + u32(pair[1])),
        (Attrs.PERMISSIONS, mode, u32),
        (Attrs.ACMODTIME, times, lambda pair: u32(pair[0]) + u32(pair[1])),
    ):
        if value is not None:
            flags |= flag
            body += pack(value)
    return u32(flags) + body


NO_ATTRS = attrs()


def fields_of(data):
    return Fields(memoryview(data))


class Client:
    """A client: one end of a session, `home`, and the thread that serves it."""

    def __init__(self, home, **kwargs):
        self.sock, self.far = socket.socketpair()
        self.sock.settimeout(SOON)
        self.home = pathlib.Path(os.fsdecode(home))
        self.kwargs = dict(kwargs, home=home)
        self.results = []
        self.errors = []
        self.number = 0
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        try:
            fd = self.far.fileno()
            self.results.append(server.serve(fd, fd, **self.kwargs))
        except BaseException as error:  # shown by join()
            self.errors.append(error)
        finally:
            # As the owner of the descriptors does: the client sees the end of file.
            self.far.close()

    def packet(self):
        """Return the next packet, or b'' at the end of the session."""
        head = self._exactly(4)
        return head and self._exactly(struct.unpack(">I", head)[0])

    def _exactly(self, count):
        parts = io.BytesIO()
        while parts.tell() < count:
            piece = self.sock.recv(count - parts.tell())
            if not piece:
                assert not parts.tell(), "the session ended within a packet"
                return b""
            parts.write(piece)
        return parts.getvalue()

    def send(self, kind, *fields):
        """Send a request without waiting; return its id."""
        self.number += 1
        self.sock.sendall(s(bytes([kind]) + u32(self.number) + b"".join(fields)))
        return self.number

    def answer(self, number):
        """Return (type, its fields) of the next packet, and check its id."""
        fields = fields_of(self.packet())
        kind = fields.u8()
        assert fields.u32() == number
        return kind, fields

    def ask(self, kind, *fields):
        return self.answer(self.send(kind, *fields))

    def extended(self, name, *fields):
        return self.ask(Packet.EXTENDED, s(name), *fields)

    def begin(self):
        self.sock.sendall(s(bytes([Packet.INIT]) + u32(3)))
        return self.packet()

    def end(self):
        """Close this end; return the result of serve()."""
        self.sock.close()
        return self.join()

    def join(self):
        self.thread.join(SOON)
        assert not self.thread.is_alive(), "serve() did not return"
        assert self.errors == [], self.errors
        return self.results[0]

    # -- for the tests

    def handle(self, kind, *fields):
        kind, reply = self.ask(kind, *fields)
        assert kind == Packet.HANDLE, kind
        return reply.string()

    def open(self, name, flags=OpenFlags.READ, given=NO_ATTRS):
        return self.handle(Packet.OPEN, s(name), u32(flags), given)

    def read(self, handle, offset=0, size=MAX_DATA):
        kind, reply = self.ask(Packet.READ, s(handle), u64(offset), u32(size))
        assert kind == Packet.DATA, kind
        return reply.string()

    def write(self, handle, data, offset=0):
        return status(self.ask(Packet.WRITE, s(handle), u64(offset), s(data)))

    def close(self, handle):
        return status(self.ask(Packet.CLOSE, s(handle)))


def status(answer):
    """Return the code of a STATUS."""
    kind, reply = answer
    assert kind == Packet.STATUS, "type {}".format(kind)
    code = reply.u32()
    assert reply.string().decode()
    assert reply.string() == b""
    return code


def names(answer):
    """Return [(name, long name)] of a NAME. Fields after the last are left unread."""
    kind, reply = answer
    assert kind == Packet.NAME, "type {}".format(kind)
    return [(reply.string(), reply.string(), reply.attrs()) for _ in range(reply.u32())]


def path(answer):
    ((name, long_name, given),) = names(answer)
    assert name == long_name and given.flags == 0
    return name


def found(answer):
    kind, reply = answer
    assert kind == Packet.ATTRS, "type {}".format(kind)
    return reply.attrs()


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


@pytest.fixture
def start(tmp_path):
    """Yield `start(**kwargs)`, which starts a Client with home in tmp_path; end all sessions."""
    clients = []

    def make(begin=True, home=None, **kwargs):
        clients.append(Client(os.fsencode(tmp_path) if home is None else home, **kwargs))
        if begin:
            assert clients[-1].begin()
        return clients[-1]

    before = descriptors()
    yield make
    for client in clients:
        client.end()
    assert descriptors() == before


@pytest.fixture
def client(start):
    return start()


# ---- framing


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_packets_divided_anywhere(step):
    buffer = Buffer(limit=16)
    sent = [bytes([65 + n % 20]) * (n % 16 + 1) for n in range(200)]
    stream, got = io.BytesIO(b"".join(map(s, sent))), []
    while True:
        space = buffer.space()
        count = stream.readinto(space[: min(step, len(space))])
        if not count:
            break
        buffer.filled(count)
        while True:
            packet = buffer.take()
            if packet is None:
                break
            got.append(bytes(packet))
    assert got == sent


@pytest.mark.parametrize("length", [0, 17, 1 << 31, (1 << 32) - 1])
def test_an_invalid_length_is_an_error_at_once(length):
    buffer = Buffer(limit=16)
    buffer.space()[:4] = u32(length)
    buffer.filled(4)
    for _ in range(2):
        with pytest.raises(FramingError, match="1 to 16"):
            buffer.take()


def test_replies_are_sent_in_any_pieces():
    replies = Replies()
    expected = b""
    while replies.has_room():
        space = replies.data_space(MAX_PACKET)
        assert len(space) == MAX_DATA
        space[:3] = b"abc"
        replies.add_data(7, 3)
        replies.add(b"more")
        expected += s(bytes([Packet.DATA]) + u32(7) + s(b"abc")) + b"more"
        if len(expected) > MAX_PACKET:
            break
    got = b""
    while replies.pending():
        piece = bytes(replies.pending()[:1000])
        replies.sent(len(piece))
        got += piece
    assert got == expected
    assert replies.has_room()


def test_room_for_a_second_data_of_the_maximum_length():
    replies = Replies()
    replies.add_data(1, MAX_DATA)
    assert replies.has_room()
    replies.add_data(2, MAX_DATA)
    assert not replies.has_room()


def test_a_reply_above_the_limit_is_a_failure():
    reply = fields_of(sftp_packets.extended_reply(9, bytes(MAX_PACKET))[4:])
    assert (reply.u8(), reply.u32(), reply.u32()) == (Packet.STATUS, 9, Status.FAILURE)


@pytest.mark.parametrize(
    "take, data",
    [
        (Fields.u8, b""),
        (Fields.u32, b"abc"),
        (Fields.u64, b"abcdefg"),
        (Fields.string, u32(1)),
        (Fields.string, u32((1 << 32) - 1) + b"x"),
        (Fields.name, s(b"a\0b")),
        (Fields.attrs, u32(Attrs.SIZE)),
        (Fields.attrs, u32(Attrs.EXTENDED) + u32((1 << 32) - 1)),
        (Fields.attrs, u32(Attrs.EXTENDED) + u32(1) + s(b"name")),
    ],
)
def test_missing_fields(take, data):
    with pytest.raises(BadMessage):
        take(fields_of(data))


def test_attributes_of_a_client():
    given = fields_of(attrs(1 << 40, (1, 2), 0o100644, (3, 4))).attrs()
    assert (given.size, given.owner, given.permissions, given.times) == (
        1 << 40,
        (1, 2),
        0o100644,
        (3, 4),
    )
    extended = u32(Attrs.EXTENDED | Attrs.SIZE) + u64(5) + u32(1) + s(b"a") + s(b"b") + u32(8)
    fields = fields_of(extended)
    assert fields.attrs().size == 5
    assert fields.u32() == 8
    # -1, as in chown(2), for an id that stays unchanged.
    assert fields_of(attrs(owner=(0xFFFFFFFF, 5))).attrs().owner == (-1, 5)


# ---- the session


def test_init_returns_the_version_and_the_extensions(start):
    client = start(begin=False)
    reply = fields_of(client.begin())
    assert (reply.u8(), reply.u32()) == (Packet.VERSION, 3)
    found = {}
    with pytest.raises(BadMessage):  # at the end
        while True:
            name = reply.string()
            found[name] = reply.string()
    assert found[b"statvfs@openssh.com"] == b"2"
    assert set(found) == set(sftp_files.EXTENSIONS)
    # A second INIT is harmless.
    assert client.begin()


@pytest.mark.parametrize(
    "sent, result",
    [
        (b"", 0),
        (b"\0\0\0", 0),
        (u32(9) + b"\1", 0),
        (u32(0), 255),
        (u32(MAX_PACKET + 1), 255),
        (b"SSH-2.0-OpenSSH\r\n", 255),
        (s(b"\1"), 255),  # INIT without a version
        (s(bytes([Packet.STAT]) + u32(1) + s(b".")), 255),  # before INIT
        (s(b"\1\0\0\0\3") + s(bytes([Packet.STAT])), 255),  # no id, so no reply is possible
    ],
)
def test_packets_that_end_a_session(start, sent, result):
    client = start(begin=False)
    client.sock.sendall(sent)
    client.sock.shutdown(socket.SHUT_WR)
    assert client.join() == result


def test_a_truncated_request_is_a_bad_message(client):
    (client.home / "file").write_bytes(b"kept")
    full = {
        "name": s(b"missing"),
        "string": s(b"handle"),
        "data": s(b"data"),
        "u32": u32(0),
        "u64": u64(0),
        "attrs": attrs(mode=0o600),
    }
    rows = [(bytes([kind]), row) for kind, row in sftp_files.REQUESTS.items()]
    rows += [
        (bytes([Packet.EXTENDED]) + s(name), row)
        for name, (_, row) in sftp_files.EXTENSIONS.items()
    ]
    for begin, (_, parsers) in rows:
        body = b"".join(full[parser.__name__] for parser in parsers)
        for end in range(len(body)):
            extra = (begin[1:], body[:end])
            assert status(client.ask(begin[0], *extra)) == Status.BAD_MESSAGE, (begin, end)
    assert os.listdir(client.home) == ["file"]
    assert (client.home / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("kind", [0, 2, 21, 100, 101, 105, 199, 202, 255])
def test_an_unknown_request_is_unsupported(client, kind):
    assert status(client.ask(kind, b"anything")) == Status.OP_UNSUPPORTED


def test_an_unknown_extension_is_unsupported(client):
    assert status(client.extended(b"nonsense@example.com", s(b"x"))) == Status.OP_UNSUPPORTED
    assert status(client.extended(b"")) == Status.OP_UNSUPPORTED


def test_data_after_the_fields_is_ignored(client):
    assert found(client.ask(Packet.STAT, s(b"."), b"more")).flags == Attrs.OF_FILE


def test_queued_requests_are_answered_by_few_writes(start, monkeypatch):
    writes, client = [], start()
    real = server._Writer.write
    count = lambda self, data: writes.append(1) or real(self, data)  # noqa: E731
    monkeypatch.setattr(server._Writer, "write", count)
    body = bytes([Packet.STAT]) + u32(0) + s(b".")
    many = b"".join(s(body[:1] + u32(n) + body[5:]) for n in range(1000, 3000))
    client.sock.sendall(many)
    client.number = 999
    for n in range(1000, 3000):
        assert client.answer(n)[0] == Packet.ATTRS
    assert len(writes) < 200


def test_many_big_replies_use_little_memory(client):
    """Replies are not queued for a client that does not read: its requests wait."""
    (client.home / "big").write_bytes(bytes(4 * MAX_DATA))
    handle = client.open(b"big")
    sent = [
        client.send(Packet.READ, s(handle), u64(n % 4 * MAX_DATA), u32(MAX_DATA)) for n in range(64)
    ]
    for number in sent:
        kind, reply = client.answer(number)
        assert (kind, len(reply.data())) == (Packet.DATA, MAX_DATA)


def test_non_blocking_descriptors(start):
    client = start()
    client.far.setblocking(False)
    data = os.urandom(MAX_DATA)
    handle = client.open(b"f", NEW | OpenFlags.READ)
    assert client.write(handle, data) == Status.OK
    sent = [client.send(Packet.READ, s(handle), u64(0), u32(MAX_DATA)) for _ in range(32)]
    # Nothing is read until the server's replies exceed the socket's buffer.
    select.select([client.sock], [], [], SOON)
    for number in sent:
        assert client.answer(number)[1].string() == data
    assert not os.get_blocking(client.far.fileno())


def test_a_session_over_pipes(tmp_path):
    requests, replies = os.pipe(), os.pipe()
    results = []
    thread = threading.Thread(
        target=lambda: results.append(server.serve(requests[0], replies[1], str(tmp_path)))
    )
    thread.start()
    os.write(requests[1], s(b"\1" + u32(3)))
    assert os.read(replies[0], 5)[4] == Packet.VERSION
    os.close(requests[1])
    thread.join(SOON)
    assert results == [0]
    # The descriptors belong to the caller.
    for fd in (requests[0], replies[0], replies[1]):
        os.close(fd)


def test_a_client_lost_during_a_reply(start):
    client = start()
    (client.home / "big").write_bytes(bytes(MAX_DATA))
    handle = client.open(b"big")
    client.open(b"new", NEW)
    client.handle(Packet.OPENDIR, s(b"."))
    for _ in range(8):
        client.send(Packet.READ, s(handle), u64(0), u32(MAX_DATA))
    # The first bytes have arrived, so the server is writing; start() counts descriptors.
    client.sock.recv(1)
    assert client.end() == 1


def test_a_client_that_resets_the_connection(start):
    client = start()
    client.open(b"new", NEW)
    client.sock.send(b"\0")
    client.far.shutdown(socket.SHUT_RD)
    assert client.join() == 0


@pytest.fixture(params=["socket", "pipe", "another account's pipe"])
def channel(request, tmp_path, monkeypatch):
    """Return (write requests, read replies): the descriptors of a running session."""
    if request.param == "socket":
        near, far = socket.socketpair()
        ends = [near.detach(), far.detach()]
        near_ends, far_ends = (ends[0], ends[0]), (ends[1], ends[1])
    else:
        (rfd, to), (back, wfd) = os.pipe(), os.pipe()
        ends, near_ends, far_ends = [rfd, to, back, wfd], (to, back), (rfd, wfd)
    if request.param.startswith("another"):
        real = os.open

        def refuse(path, *args, **kwargs):
            if str(path).startswith("/proc/self/fd/"):
                raise PermissionError(errno.EACCES, "not yours")
            return real(path, *args, **kwargs)

        monkeypatch.setattr(server.os, "open", refuse)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(server.serve(far_ends[0], far_ends[1], str(tmp_path)))
    )
    thread.start()
    yield near_ends
    for fd in set(near_ends):
        os.close(fd)
    thread.join(SOON)
    assert results == [0] and all(map(os.get_blocking, far_ends))
    for fd in set(far_ends):
        os.close(fd)


def replies_after_all_is_sent(channel, requests):
    """Return [(type, id)] of the replies, read only after all requests were sent."""
    to, back = channel
    # One at a time, which uses the most room in a socket.
    for packet in requests:
        assert os.write(to, packet) == len(packet)
    found = []
    with os.fdopen(os.dup(back), "rb") as replies:
        for _ in requests:
            body = replies.read(struct.unpack(">I", replies.read(4))[0])
            found.append((body[0], struct.unpack(">I", body[1:5])[0]))
    return found


BEGIN = [s(b"\1" + u32(3)), s(bytes([Packet.OPEN]) + u32(0) + s(b"f") + u32(11) + NO_ATTRS)]


def test_a_client_that_sends_all_reads_first(channel, tmp_path):
    """The replies exceed the kernel's buffers: `sftp -R 1000 -B 1000` blocked forever."""
    (tmp_path / "f").write_bytes(bytes(1000))
    read = bytes([Packet.READ])
    sent = [s(read + u32(n) + s(b"0") + u64(0) + u32(1000)) for n in range(1, 5000)]
    found = replies_after_all_is_sent(channel, BEGIN + sent)
    assert found[1:] == [(Packet.HANDLE, 0)] + [(Packet.DATA, n) for n in range(1, 5000)]


def test_a_client_that_sends_all_writes_first(channel, tmp_path):
    """The requests exceed the server's buffer, and the replies the kernel's."""
    write = bytes([Packet.WRITE])
    sent = [s(write + u32(n) + s(b"0") + u64(n) + s(bytes(1000))) for n in range(1, 5000)]
    found = replies_after_all_is_sent(channel, BEGIN + sent)
    assert found[2:] == [(Packet.STATUS, n) for n in range(1, 5000)]
    assert (tmp_path / "f").stat().st_size == 5999


def test_a_reply_is_not_held_long(start, monkeypatch):
    """Of two slow requests, the first is answered while the second runs."""
    going_on = threading.Event()

    def slow(files, request, name):
        if name == b"second":
            assert going_on.wait(SOON)
        return Status.OK

    monkeypatch.setitem(sftp_files.REQUESTS, Packet.STAT, (slow, (Fields.name,)))
    monkeypatch.setattr(server, "HOLD", -1)
    client = start()
    body = [bytes([Packet.STAT]) + u32(n) + s(name) for n, name in ((8, b"first"), (9, b"second"))]
    client.sock.sendall(b"".join(map(s, body)))
    assert status(client.answer(8)) == Status.OK
    going_on.set()
    assert status(client.answer(9)) == Status.OK


def test_a_bug_is_a_failure_and_is_logged(client, monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("broken")

    monkeypatch.setitem(sftp_files.REQUESTS, Packet.STAT, (broken, (Fields.name,)))
    assert status(client.ask(Packet.STAT, s(b"."))) == Status.FAILURE
    assert "bug" in caplog.text and "RuntimeError: broken" in caplog.text
    assert found(client.ask(Packet.LSTAT, s(b".")))


def test_a_protocol_error_is_logged(start, caplog):
    client = start()
    client.sock.sendall(u32(1 << 30))
    assert client.join() == 255
    assert "invalid packet length 1073741824" in caplog.text


def test_requests_before_a_protocol_error_are_answered(start):
    client = start()
    (client.home / "f").write_bytes(bytes(MAX_DATA))
    handle = client.open(b"f")
    read = bytes([Packet.READ]) + u32(7) + s(handle) + u64(0) + u32(MAX_DATA)
    client.sock.sendall(s(read) * 7 + u32(0))
    for _ in range(7):
        assert client.answer(7)[0] == Packet.DATA
    assert client.packet() == b""
    assert client.join() == 255


def test_an_invalid_home_leaves_the_socket_open():
    near, far = socket.socketpair()
    with near, far:
        with pytest.raises(ValueError):
            server.serve(far.fileno(), far.fileno(), b"/a\0b")
        near.sendall(b"x")
        assert far.recv(1) == b"x"


def test_closing_handles_continues_after_an_error(start, monkeypatch, caplog):
    client = start()
    client.open(b"a", NEW)
    client.open(b"b", NEW)
    real = os.close

    def close(fd):
        real(fd)
        raise OSError(errno.EIO, "disk gone")

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(sftp_files.os, "close", close)
    client.sock.shutdown(socket.SHUT_WR)
    client.thread.join(SOON)
    monkeypatch.undo()
    assert client.join() == 0
    assert caplog.text.count("disk gone") == 2


def test_the_process_is_not_changed(client):
    directory, mask = os.getcwd(), os.umask(0o022)
    os.umask(mask)
    status(client.ask(Packet.MKDIR, s(b"d"), attrs(mode=0o777)))
    client.open(b"d/f", NEW, attrs(mode=0o666))
    assert stat.S_IMODE((client.home / "d").stat().st_mode) == 0o777 & ~mask
    assert stat.S_IMODE((client.home / "d/f").stat().st_mode) == 0o666 & ~mask
    assert os.getcwd() == directory
    assert os.umask(mask) == mask


def test_sessions_are_independent(start):
    one, two = start(), start()
    handle = one.open(b"f", NEW)
    assert two.close(handle) == Status.NO_SUCH_FILE
    assert one.write(handle, b"x") == Status.OK
    assert one.end() == 0
    assert found(two.ask(Packet.STAT, s(b"f"))).size == 1


# ---- serve() and main()


@pytest.mark.parametrize(
    "kwargs", [{"home": "relative"}, {"home": ""}, {"home": "/", "max_handles": 0}]
)
def test_invalid_arguments(kwargs):
    with open(os.devnull, "rb") as null, pytest.raises(ValueError):
        server.serve(null.fileno(), null.fileno(), **kwargs)


def test_a_closed_descriptor(tmp_path):
    fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)
    with pytest.raises(OSError):
        server.serve(fd, fd, str(tmp_path))


@pytest.mark.parametrize("variable, expected", [("{}", "{}"), ("/no/such", "/"), ("x", "/")])
def test_home_from_the_environment(monkeypatch, tmp_path, variable, expected):
    monkeypatch.setenv("HOME", variable.format(tmp_path))
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    assert server._default_home() == os.fsencode(expected.format(tmp_path))


def test_home_from_passwd(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    near, far = socket.socketpair()
    with near, far:
        near.sendall(s(b"\1" + u32(3)) + s(bytes([Packet.REALPATH]) + u32(7) + s(b".")))
        near.shutdown(socket.SHUT_WR)
        assert server.serve(far.fileno(), far.fileno()) == 0
        assert os.fsencode(tmp_path.resolve()) in near.recv(65536)


def test_home_as_a_str_a_symlink_or_the_root(start, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    client = start(home=str(tmp_path / "link"))
    assert path(client.ask(Packet.REALPATH, s(b""))) == os.fsencode(tmp_path / "real")
    client = start(home=b"/")
    assert path(client.ask(Packet.REALPATH, s(b"tmp/.."))) == b"/"
    assert found(client.ask(Packet.STAT, s(b"dev"))).permissions == os.stat("/dev").st_mode


def run_main(tmp_path, *args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "mitogen.sftp", *args],
        cwd=str(tmp_path),
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        timeout=SOON,
        **kwargs,
    )


def test_main(tmp_path):
    (tmp_path / "here").touch()
    request = s(b"\1" + u32(3)) + s(bytes([Packet.LSTAT]) + u32(7) + s(b"here"))
    done = run_main(tmp_path, input=request)
    assert done.returncode == 0 and done.stderr == b""
    first = struct.unpack(">I", done.stdout[:4])[0] + 4
    assert done.stdout[first + 4] == Packet.ATTRS


def test_main_with_arguments(tmp_path):
    done = run_main(tmp_path, "-e", stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and b"usage" in done.stderr


def test_main_without_stdin(tmp_path):
    done = run_main(tmp_path, preexec_fn=lambda: os.close(0))
    assert done.returncode == 1 and b"Bad file descriptor" in done.stderr


def test_main_is_interrupted(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-m", "mitogen.sftp"],
        cwd=str(tmp_path),
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with child:
        child.stdin.write(s(b"\1" + u32(3)))
        child.stdin.flush()
        assert child.stdout.read(5)
        child.send_signal(signal.SIGINT)
        assert child.wait(SOON) == -signal.SIGINT
        assert child.stderr.read() == b""


def test_main_without_a_working_directory(monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.setattr(sys, "argv", ["mitogen.sftp", "-h"])
    assert server.main() == 2
    assert "no arguments" in capsys.readouterr().err

    def getcwdb():
        raise FileNotFoundError(errno.ENOENT, "it was removed")

    monkeypatch.setattr(sys, "argv", ["mitogen.sftp"])
    monkeypatch.setattr(server.os, "getcwdb", getcwdb)
    assert server.main() == 1
    assert "it was removed" in capsys.readouterr().err


def test_an_unsuitable_descriptor(tmp_path):
    rfd, wfd = os.pipe()
    assert server.serve(wfd, wfd, str(tmp_path)) == 1
    os.close(rfd)
    os.close(wfd)


def test_replies_to_a_file(tmp_path):
    rfd, wfd = os.pipe()
    os.write(wfd, s(b"\1" + u32(3)))
    os.close(wfd)
    with open(str(tmp_path / "replies"), "w+b") as fp:
        assert server.serve(rfd, fp.fileno(), str(tmp_path)) == 0
        fp.seek(0)
        assert fp.read()[4] == Packet.VERSION
    os.close(rfd)


@pytest.mark.parametrize(
    "soft, expected", [(1024, 512), (3, 1), (1 << 20, 1024), (resource.RLIM_INFINITY, 1024)]
)
def test_the_handle_limit_is_half_of_the_descriptors(monkeypatch, soft, expected):
    monkeypatch.setattr(server.resource, "getrlimit", lambda which: (soft, soft))
    assert server._default_handles() == expected


# ---- files


def test_write_and_read(client):
    handle = client.open(b"f", NEW | OpenFlags.READ)
    assert client.write(handle, b"hello") == Status.OK
    assert client.write(handle, b"J") == Status.OK
    assert client.read(handle) == b"Jello"
    assert client.read(handle, 1, 3) == b"ell"
    assert client.close(handle) == Status.OK
    assert (client.home / "f").read_bytes() == b"Jello"


def test_names_that_are_not_utf8(client):
    name = b"\xff\xfe \n\x01"
    client.close(client.open(name, NEW))
    assert name in os.listdir(os.fsencode(client.home))
    handle = client.handle(Packet.OPENDIR, s(b"."))
    assert name in [each[0] for each in names(client.ask(Packet.READDIR, s(handle)))]
    assert path(client.ask(Packet.REALPATH, s(name))).endswith(b"/" + name)


def test_absolute_paths(client, tmp_path):
    client.close(client.open(os.fsencode(tmp_path / "f"), NEW))
    assert (tmp_path / "f").exists()


def test_reading_at_the_end(client):
    (client.home / "f").write_bytes(b"abc")
    handle = client.open(b"f")
    for offset in (3, 4, 1 << 40):
        answer = client.ask(Packet.READ, s(handle), u64(offset), u32(10))
        assert status(answer) == Status.EOF
    assert client.read(handle, 0, 0) == b""
    assert client.read(handle, 2, 10) == b"c"


def test_a_read_returns_at_most_255_KiB(client):
    (client.home / "f").write_bytes(bytes(MAX_PACKET))
    assert len(client.read(client.open(b"f"), 0, (1 << 32) - 1)) == MAX_DATA


def test_an_offset_beyond_off_t(client):
    handle = client.open(b"f", NEW | OpenFlags.READ)
    for offset in (HUGE, (1 << 64) - 1):
        answer = client.ask(Packet.READ, s(handle), u64(offset), u32(10))
        assert status(answer) == Status.BAD_MESSAGE
        assert client.write(handle, b"x", offset) == Status.BAD_MESSAGE
    assert (client.home / "f").read_bytes() == b""


def test_writing_past_the_end_leaves_a_hole(client):
    handle = client.open(b"f", NEW)
    assert client.write(handle, b"x", 1 << 30) == Status.OK
    made = (client.home / "f").stat()
    assert made.st_size == (1 << 30) + 1
    assert made.st_blocks < 1000


@pytest.mark.parametrize(
    "flags, content",
    [
        (NEW, b"XYcd"),
        (NEW | OpenFlags.TRUNC, b"XY"),
        (NEW | OpenFlags.APPEND, b"abcdXY"),
        (OpenFlags.WRITE | OpenFlags.READ, b"XYcd"),
        (OpenFlags.WRITE | OpenFlags.APPEND, b"abcdXY"),
    ],
)
def test_open_flags(client, flags, content):
    (client.home / "f").write_bytes(b"abcd")
    assert client.write(client.open(b"f", flags), b"XY") == Status.OK
    assert (client.home / "f").read_bytes() == content


@pytest.mark.parametrize(
    "name, flags, code",
    [
        (b"missing", OpenFlags.READ, Status.NO_SUCH_FILE),
        (b"missing/f", NEW, Status.NO_SUCH_FILE),
        (b"f/f", NEW, Status.NO_SUCH_FILE),
        (b"", NEW, Status.NO_SUCH_FILE),
        (b"f", NEW | OpenFlags.EXCL, Status.FAILURE),
        (b"loop", OpenFlags.READ, Status.NO_SUCH_FILE),
        (b".", NEW, Status.FAILURE),
        (b"x" * 256, NEW, Status.BAD_MESSAGE),
        (b"x" * 100000, NEW, Status.BAD_MESSAGE),
        (b"f\0", NEW, Status.BAD_MESSAGE),
    ],
)
def test_errors_of_open(client, name, flags, code):
    (client.home / "f").touch()
    (client.home / "loop").symlink_to("loop")
    assert status(client.ask(Packet.OPEN, s(name), u32(flags), NO_ATTRS)) == code


def test_exclusive_open(client):
    client.close(client.open(b"f", NEW | OpenFlags.EXCL))
    answer = client.ask(Packet.OPEN, s(b"f"), u32(NEW | OpenFlags.EXCL), NO_ATTRS)
    assert status(answer) == Status.FAILURE


@pytest.mark.parametrize("mode, expected", [(0o100600, 0o600), (0o7700, 0o7700)])
def test_the_mode_of_a_new_file(client, mode, expected):
    client.close(client.open(b"f", NEW, attrs(mode=mode)))
    assert stat.S_IMODE((client.home / "f").stat().st_mode) == expected


def test_handles_for_reading_or_writing_only(client):
    (client.home / "f").write_bytes(b"abc")
    assert client.write(client.open(b"f"), b"x") == Status.NO_SUCH_FILE  # EBADF
    handle = client.open(b"f", OpenFlags.WRITE)
    answer = client.ask(Packet.READ, s(handle), u64(0), u32(1))
    assert status(answer) == Status.NO_SUCH_FILE
    assert (client.home / "f").read_bytes() == b"abc"


def test_a_full_disk_is_a_failure(client):
    handle = client.open(b"/dev/full", OpenFlags.WRITE)
    assert client.write(handle, b"x") == Status.FAILURE


def test_a_short_write_is_a_failure(client, monkeypatch):
    handle = client.open(b"f", NEW)
    monkeypatch.setattr(sftp_files.os, "pwrite", lambda fd, data, offset: 1)
    assert client.write(handle, b"xy") == Status.FAILURE


@pytest.mark.parametrize("flags", [OpenFlags.READ, OpenFlags.WRITE, NEW | OpenFlags.READ])
def test_opening_a_fifo_does_not_block(client, flags):
    os.mkfifo(str(client.home / "fifo"))
    kind, reply = client.ask(Packet.OPEN, s(b"fifo"), u32(flags), NO_ATTRS)
    if flags == OpenFlags.WRITE:
        assert kind == Packet.STATUS  # ENXIO: the FIFO has no reader
        return
    handle = reply.string()
    assert status(client.ask(Packet.READ, s(handle), u64(0), u32(1))) == Status.FAILURE


def test_writing_to_a_full_fifo_does_not_block(client):
    os.mkfifo(str(client.home / "fifo"))
    flags = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.APPEND
    handle = client.open(b"fifo", flags)
    codes = [client.write(handle, bytes(65536)) for _ in range(3)]
    assert codes[-1] == Status.FAILURE


def test_a_directory_can_be_opened_but_not_read(client):
    answer = client.ask(Packet.READ, s(client.open(b".")), u64(0), u32(1))
    assert status(answer) == Status.FAILURE


# ---- handles


@pytest.mark.parametrize("handle", [b"", b"9", b"\0\0\0\0", b"x" * 1000])
def test_an_unknown_handle(client, handle):
    h = s(handle)
    assert client.close(handle) == Status.NO_SUCH_FILE
    assert client.write(handle, b"x") == Status.FAILURE
    for kind, fields in (
        (Packet.READ, (h, u64(0), u32(1))),
        (Packet.READDIR, (h,)),
        (Packet.FSTAT, (h,)),
        (Packet.FSETSTAT, (h, attrs(mode=0))),
    ):
        assert status(client.ask(kind, *fields)) == Status.FAILURE
    assert status(client.extended(b"fstatvfs@openssh.com", h)) == Status.FAILURE
    assert status(client.extended(b"fsync@openssh.com", h)) == Status.NO_SUCH_FILE


def test_handles_are_not_reused(client):
    (client.home / "f").touch()
    seen = set()
    for _ in range(20):
        handle = client.open(b"f")
        assert client.close(handle) == Status.OK
        assert client.close(handle) == Status.NO_SUCH_FILE
        seen.add(handle)
    assert len(seen) == 20


def test_handles_of_the_other_kind(client):
    (client.home / "f").touch()
    of_file, of_directory = client.open(b"f"), client.handle(Packet.OPENDIR, s(b"."))
    assert status(client.ask(Packet.READDIR, s(of_file))) == Status.FAILURE
    assert status(client.ask(Packet.FSTAT, s(of_directory))) == Status.FAILURE
    answer = client.ask(Packet.READ, s(of_directory), u64(0), u32(1))
    assert status(answer) == Status.FAILURE


def test_handles_are_limited(start):
    client = start(max_handles=3)
    first = client.open(b"f", NEW)
    client.open(b"f", NEW)
    client.handle(Packet.OPENDIR, s(b"."))
    for _ in range(3):
        assert status(client.ask(Packet.OPEN, s(b"g"), u32(NEW), NO_ATTRS)) == Status.FAILURE
        assert status(client.ask(Packet.OPENDIR, s(b"."))) == Status.FAILURE
    assert not (client.home / "g").exists()
    client.close(first)
    client.open(b"g", NEW)
    kind, reply = client.extended(b"limits@openssh.com")
    assert kind == Packet.EXTENDED_REPLY
    assert [reply.u64() for _ in range(4)] == [MAX_PACKET, MAX_DATA, MAX_DATA, 3]


# ---- directories


def listing(client, name):
    """Return ([name, long name, attributes], [number of entries in each reply])."""
    handle = client.handle(Packet.OPENDIR, s(name))
    entries, counts = [], []
    while True:
        answer = client.ask(Packet.READDIR, s(handle))
        if answer[0] == Packet.STATUS:
            assert status(answer) == Status.EOF
            assert status(client.ask(Packet.READDIR, s(handle))) == Status.EOF
            assert client.close(handle) == Status.OK
            return entries, counts
        some = names(answer)
        entries += some
        counts.append(len(some))


def test_a_directory_is_listed_in_batches(client):
    (client.home / "d").mkdir()
    expected = {b".", b".."} | {b"%d" % n for n in range(250)}
    for n in range(250):
        (client.home / "d" / str(n)).touch()
    entries, counts = listing(client, b"d")
    assert sorted(entry[0] for entry in entries) == sorted(expected)
    assert counts == [100, 100, 52]


def test_the_format_of_a_listing(client):
    f = client.home / "f"
    f.write_bytes(b"12345")
    os.utime(str(f), (0, 86400 * 366))
    f.chmod(0o4751)
    now = time.time()
    os.utime(str(client.home), (now, now))
    entries = {entry[0]: entry for entry in listing(client, b".")[0]}
    line = entries[b"f"][1].split()
    assert line[0] == b"-rwsr-x--x" and line[1] == b"1" and line[4] == b"5"
    assert line[5:] in ([b"Jan", b"2", b"1971", b"f"], [b"Jan", b"1", b"1971", b"f"])
    assert entries[b"f"][2].permissions == 0o104751
    assert entries[b"f"][2].times == (0, 86400 * 366)
    assert entries[b"."][1].startswith(b"d")
    assert b":" in entries[b"."][1]


def test_times_outside_of_the_calendar():
    assert sftp_files._when(1 << 62, 0) == b""
    assert sftp_files._when(1000, 900).endswith(b"1970")  # in the future


def test_accounts_without_a_name_are_numbers(client):
    accounts = sftp_files._Accounts()
    assert accounts.user(0) == b"root"
    assert accounts.user(4294967000) is None
    assert accounts.group(-1) is None
    found = os.stat_result((0o100644, 0, 0, 1, 4294967000, 4294967001, 5, 0, 0, 0))
    assert b" 4294967000 4294967001 " in sftp_files._line(b"f", found, accounts, 0)


def test_the_cache_of_names_is_bounded(monkeypatch):
    monkeypatch.setattr(sftp_files, "MAX_NAMES", 3)
    accounts = sftp_files._Accounts()
    for n in range(10):
        accounts.user(n)
    assert len(accounts._names) <= 3


def test_entries_removed_meanwhile_are_omitted(client):
    for n in range(150):
        (client.home / str(n)).touch()
    handle = client.handle(Packet.OPENDIR, s(b"."))
    first = names(client.ask(Packet.READDIR, s(handle)))
    for n in range(150):
        (client.home / str(n)).unlink()
    rest = client.ask(Packet.READDIR, s(handle))
    assert len(first) == 100
    assert status(rest) == Status.EOF


def test_a_directory_removed_meanwhile(client):
    (client.home / "d").mkdir()
    handle = client.handle(Packet.OPENDIR, s(b"d"))
    (client.home / "d").rmdir()
    assert status(client.ask(Packet.READDIR, s(handle))) == Status.EOF


def test_a_disk_error_in_readdir_is_a_failure(client, monkeypatch):
    class Broken:
        def __iter__(self):
            raise OSError(errno.EIO, "disk gone")

        def close(self):
            pass

    monkeypatch.setattr(sftp_files.os, "scandir", lambda path: Broken())
    handle = client.handle(Packet.OPENDIR, s(b"."))
    assert status(client.ask(Packet.READDIR, s(handle))) == Status.FAILURE
    assert client.close(handle) == Status.OK


@pytest.mark.parametrize("name", [b"missing", b"f", b""])
def test_opendir_of_other_files(client, name):
    (client.home / "f").touch()
    assert status(client.ask(Packet.OPENDIR, s(name))) == Status.NO_SUCH_FILE


# ---- attributes


def test_attributes_of_a_file_a_symlink_and_a_handle(client):
    f = client.home / "f"
    f.write_bytes(b"abc")
    os.utime(str(f), (1000, 2000))
    (client.home / "link").symlink_to("f")
    for answer in (
        client.ask(Packet.STAT, s(b"f")),
        client.ask(Packet.STAT, s(b"link")),
        client.ask(Packet.LSTAT, s(b"f")),
        client.ask(Packet.FSTAT, s(client.open(b"f"))),
    ):
        got = found(answer)
        assert got.flags == Attrs.OF_FILE
        assert (got.size, got.permissions, got.times) == (3, f.stat().st_mode, (1000, 2000))
        assert got.owner == (os.getuid(), os.getgid())
    assert stat.S_ISLNK(found(client.ask(Packet.LSTAT, s(b"link"))).permissions)


def test_attributes_of_missing_files(client):
    (client.home / "f").touch()
    (client.home / "dangling").symlink_to("nothing")
    for kind in (Packet.STAT, Packet.LSTAT):
        for name in (b"missing", b"f/x", b""):
            assert status(client.ask(kind, s(name))) == Status.NO_SUCH_FILE
    assert status(client.ask(Packet.STAT, s(b"dangling"))) == Status.NO_SUCH_FILE


def test_times_before_1970_wrap_as_in_c(client):
    (client.home / "f").touch()
    os.utime(str(client.home / "f"), ns=(-1, -1500000000))
    assert found(client.ask(Packet.STAT, s(b"f"))).times == (0xFFFFFFFF, 0xFFFFFFFE)


@pytest.fixture(params=["path", "handle", "link"])
def change(request, client):
    """Return `change(attrs)` of home/f by one of the three requests; it returns the status."""
    (client.home / "f").write_bytes(b"abcdef")

    def change(given):
        if request.param == "path":
            return status(client.ask(Packet.SETSTAT, s(b"f"), given))
        if request.param == "link":
            return status(client.extended(b"lsetstat@openssh.com", s(b"f"), given))
        return status(client.ask(Packet.FSETSTAT, s(client.open(b"f", OpenFlags.WRITE)), given))

    change.file = client.home / "f"
    change.of_link = request.param == "link"
    return change


def test_setting_the_size(change):
    if change.of_link:
        assert change(attrs(size=3)) == Status.BAD_MESSAGE
        return
    assert change(attrs(size=3)) == Status.OK
    assert change.file.read_bytes() == b"abc"
    assert change(attrs(size=5)) == Status.OK
    assert change.file.read_bytes() == b"abc\0\0"
    assert change(attrs(size=HUGE)) == Status.BAD_MESSAGE


def test_setting_permissions_ignores_other_mode_bits(change):
    assert change(attrs(mode=0o170000 | 0o2714)) == Status.OK
    assert change.file.stat().st_mode == stat.S_IFREG | 0o2714


def test_setting_times(change):
    assert change(attrs(times=(5, (1 << 32) - 1))) == Status.OK
    assert (change.file.stat().st_atime, change.file.stat().st_mtime) == (5, (1 << 32) - 1)


@pytest.mark.root
def test_setting_the_owner(change):
    assert change(attrs(owner=(12, 34))) == Status.OK
    assert (change.file.stat().st_uid, change.file.stat().st_gid) == (12, 34)
    assert change(attrs(owner=(0xFFFFFFFF, 35))) == Status.OK
    assert (change.file.stat().st_uid, change.file.stat().st_gid) == (12, 35)


def test_setting_nothing(change):
    assert change(NO_ATTRS) == Status.OK


def test_setting_continues_after_an_error(client):
    (client.home / "f").write_bytes(b"abc")
    given = attrs(size=HUGE, mode=0o600, times=(7, 8))
    assert status(client.ask(Packet.SETSTAT, s(b"f"), given)) == Status.BAD_MESSAGE
    made = (client.home / "f").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_mtime) == (0o600, 8)


@pytest.mark.parametrize("change", [{"mode": 1}, {"times": (1, 1)}, {"owner": (1, 1)}])
def test_setting_attributes_of_missing_files(client, change):
    fields = (s(b"x"), attrs(**change))
    assert status(client.ask(Packet.SETSTAT, *fields)) == Status.NO_SUCH_FILE
    assert status(client.extended(b"lsetstat@openssh.com", *fields)) == Status.NO_SUCH_FILE


def test_setting_attributes_of_a_symlink(client):
    (client.home / "f").touch(mode=0o640)
    link = client.home / "link"
    link.symlink_to("f")
    os.utime(str(client.home / "f"), (1, 1))
    answer = client.extended(b"lsetstat@openssh.com", s(b"link"), attrs(times=(8, 9)))
    assert status(answer) == Status.OK
    assert link.lstat().st_mtime == 9 and link.stat().st_mtime == 1
    # On Linux symlinks have no mode. The mode of the target must not change instead.
    answer = client.extended(b"lsetstat@openssh.com", s(b"link"), attrs(mode=0o777))
    assert status(answer) == Status.FAILURE
    assert stat.S_IMODE(link.stat().st_mode) == 0o640


def test_a_system_that_can_change_the_mode_of_a_symlink(monkeypatch):
    calls = []

    def chmod(path, mode, **kwargs):
        calls.append((path, mode, kwargs))

    monkeypatch.setattr(sftp_files.os, "chmod", chmod)
    monkeypatch.setattr(sftp_files.os, "supports_follow_symlinks", {chmod})
    sftp_files._chmod_link(b"link", 0o600)
    assert calls == [(b"link", 0o600, {"follow_symlinks": False})]


# ---- names


def test_mkdir_and_rmdir(client):
    assert status(client.ask(Packet.MKDIR, s(b"d"), attrs(mode=0o40700))) == Status.OK
    assert stat.S_IMODE((client.home / "d").stat().st_mode) == 0o700
    assert status(client.ask(Packet.MKDIR, s(b"d"), NO_ATTRS)) == Status.FAILURE
    assert status(client.ask(Packet.MKDIR, s(b"x/y"), NO_ATTRS)) == Status.NO_SUCH_FILE
    (client.home / "d/f").touch()
    assert status(client.ask(Packet.RMDIR, s(b"d"))) == Status.FAILURE
    assert status(client.ask(Packet.RMDIR, s(b"d/f"))) == Status.NO_SUCH_FILE
    assert status(client.ask(Packet.REMOVE, s(b"d/f"))) == Status.OK
    assert status(client.ask(Packet.RMDIR, s(b"d"))) == Status.OK
    assert os.listdir(client.home) == []


def test_remove(client):
    (client.home / "d").mkdir()
    assert status(client.ask(Packet.REMOVE, s(b"x"))) == Status.NO_SUCH_FILE
    assert status(client.ask(Packet.REMOVE, s(b""))) == Status.NO_SUCH_FILE
    assert status(client.ask(Packet.REMOVE, s(b"d"))) != Status.OK
    assert status(client.ask(Packet.RMDIR, s(b""))) == Status.NO_SUCH_FILE
    assert (client.home / "d").is_dir()


def rename(client, old, new):
    return status(client.ask(Packet.RENAME, s(old), s(new)))


def test_rename_does_not_replace(client):
    for name in ("a", "b"):
        (client.home / name).write_text(name)
    (client.home / "d").mkdir()
    (client.home / "e").mkdir()
    (client.home / "link").symlink_to("a")
    for old, new in ((b"a", b"b"), (b"a", b"d"), (b"d", b"e"), (b"link", b"b"), (b"a", b"a")):
        assert rename(client, old, new) == Status.FAILURE, (old, new)
    assert rename(client, b"x", b"y") == Status.NO_SUCH_FILE
    assert rename(client, b"a", b"x/y") == Status.NO_SUCH_FILE
    assert rename(client, b"d", b"d/d") == Status.BAD_MESSAGE  # EINVAL
    assert (client.home / "a").read_text() + (client.home / "b").read_text() == "ab"


def test_rename(client):
    (client.home / "a").write_text("a")
    (client.home / "d").mkdir()
    (client.home / "link").symlink_to("missing")
    for old in (b"a", b"d", b"link"):
        assert rename(client, old, b"new-" + old) == Status.OK
    assert sorted(os.listdir(client.home)) == ["new-a", "new-d", "new-link"]
    assert (client.home / "new-a").stat().st_nlink == 1
    assert os.readlink(client.home / "new-link") == "missing"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV])
def test_rename_without_hard_links(client, monkeypatch, number):
    def link(*args, **kwargs):
        raise OSError(number, "no links here")

    monkeypatch.setattr(sftp_files.os, "link", link)
    (client.home / "a").write_text("a")
    (client.home / "b").write_text("b")
    assert rename(client, b"a", b"b") == Status.FAILURE
    assert rename(client, b"a", b"c") == Status.OK
    assert sorted(os.listdir(client.home)) == ["b", "c"]


def test_a_failed_rename_is_not_retried(client, monkeypatch):
    def link(*args, **kwargs):
        raise OSError(errno.EACCES, "not yours")

    monkeypatch.setattr(sftp_files.os, "link", link)
    (client.home / "a").write_text("a")
    assert rename(client, b"a", b"b") == Status.PERMISSION_DENIED
    assert os.listdir(client.home) == ["a"]


def test_rename_is_undone_if_the_old_name_cannot_be_removed(client, monkeypatch):
    real = os.unlink

    def unlink(path):
        if path.endswith(b"/a"):
            raise OSError(errno.EACCES, "not yours")
        real(path)

    monkeypatch.setattr(sftp_files.os, "unlink", unlink)
    (client.home / "a").write_text("a")
    assert rename(client, b"a", b"b") == Status.PERMISSION_DENIED
    assert os.listdir(client.home) == ["a"]


def test_posix_rename_replaces(client):
    for name in ("a", "b"):
        (client.home / name).write_text(name)
    assert status(client.extended(b"posix-rename@openssh.com", s(b"a"), s(b"b"))) == Status.OK
    assert os.listdir(client.home) == ["b"]
    assert (client.home / "b").read_text() == "a"
    answer = client.extended(b"posix-rename@openssh.com", s(b"a"), s(b"b"))
    assert status(answer) == Status.NO_SUCH_FILE


def test_hard_links(client):
    (client.home / "a").write_text("a")
    (client.home / "link").symlink_to("a")
    assert status(client.extended(b"hardlink@openssh.com", s(b"a"), s(b"b"))) == Status.OK
    assert (client.home / "a").stat().st_nlink == 2
    assert status(client.extended(b"hardlink@openssh.com", s(b"a"), s(b"b"))) == Status.FAILURE
    assert status(client.extended(b"hardlink@openssh.com", s(b"link"), s(b"c"))) == Status.OK
    assert (client.home / "c").is_symlink()


def test_symlinks_use_the_argument_order_of_openssh(client):
    assert status(client.ask(Packet.SYMLINK, s(b"the target"), s(b"link"))) == Status.OK
    assert os.readlink(client.home / "link") == "the target"
    assert path(client.ask(Packet.READLINK, s(b"link"))) == b"the target"
    assert status(client.ask(Packet.SYMLINK, s(b"x"), s(b"link"))) == Status.FAILURE
    assert status(client.ask(Packet.SYMLINK, s(b""), s(b"new"))) == Status.NO_SUCH_FILE


def test_readlink_of_other_files(client):
    (client.home / "f").touch()
    assert status(client.ask(Packet.READLINK, s(b"f"))) == Status.BAD_MESSAGE  # EINVAL
    assert status(client.ask(Packet.READLINK, s(b"x"))) == Status.NO_SUCH_FILE


@pytest.mark.parametrize(
    "name, expected",
    [
        (b"", b""),
        (b".", b""),
        (b"./d/../d//e/", b"/d/e"),
        (b"missing", b"/missing"),
        (b"d/missing", b"/d/missing"),
        (b"to-d", b"/d"),
        (b"to-d/e", b"/d/e"),
        (b"d/up", b""),
        (b"d/up/d/e", b"/d/e"),
        (b"to-missing", b"/missing"),
        (b"absolute/e", b"/d/e"),
        (b"d/e/../..", b""),
        (b"missing/x", Status.NO_SUCH_FILE),
        (b"missing/", Status.NO_SUCH_FILE),
        (b"missing/..", Status.NO_SUCH_FILE),
        (b"f/x", Status.NO_SUCH_FILE),
        (b"loop", Status.NO_SUCH_FILE),
        (b"a" * 300, Status.BAD_MESSAGE),
        (b"./" * 3000, Status.BAD_MESSAGE),
        (b"d/../" * 100000, Status.BAD_MESSAGE),
    ],
)
def test_realpath(client, tmp_path, name, expected):
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "f").touch()
    (tmp_path / "to-d").symlink_to("d")
    (tmp_path / "d/up").symlink_to("..")
    (tmp_path / "to-missing").symlink_to("missing")
    (tmp_path / "absolute").symlink_to(tmp_path / "d")
    (tmp_path / "loop").symlink_to("loop")
    name = name[: MAX_PACKET - 100]
    for base in (b"", os.fsencode(tmp_path) + b"/"):
        answer = client.ask(Packet.REALPATH, s(base + name))
        if isinstance(expected, int):
            assert status(answer) == expected
        else:
            assert path(answer) == os.fsencode(tmp_path) + expected


def test_realpath_too_long_after_following_symlinks(client, tmp_path):
    part = "y" * 250
    fd = os.open(str(tmp_path), os.O_RDONLY)
    for _ in range(18):
        os.mkdir(part, dir_fd=fd)
        below = os.open(part, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    (tmp_path / "half").symlink_to("/".join([part] * 9))
    for rest, fits in ((1, True), (9, False)):
        answer = client.ask(Packet.REALPATH, s(os.fsencode("/".join(["half"] + [part] * rest))))
        assert (answer[0] == Packet.NAME) == fits
    assert status(answer) == Status.BAD_MESSAGE


# ---- OpenSSH's extensions


def test_statvfs(client):
    (client.home / "f").touch()
    handle = client.open(b"f")
    expected = os.statvfs(str(client.home))
    for name, field in ((b"statvfs@openssh.com", s(b".")), (b"fstatvfs@openssh.com", s(handle))):
        kind, reply = client.extended(name, field)
        assert kind == Packet.EXTENDED_REPLY
        got = [reply.u64() for _ in range(11)]
        assert got[:3] == [expected.f_bsize, expected.f_frsize, expected.f_blocks]
        assert got[5] == expected.f_files and got[10] == expected.f_namemax
        assert got[8] == expected.f_fsid & ((1 << 64) - 1)
    assert status(client.extended(b"statvfs@openssh.com", s(b"x"))) == Status.NO_SUCH_FILE


@pytest.mark.parametrize(
    "flag, expected",
    [
        (sftp_files.ST_RDONLY, 1),
        (sftp_files.ST_NOSUID, 2),
        (sftp_files.ST_RDONLY | sftp_files.ST_NOSUID, 3),
        (1 << 10, 0),
    ],
)
def test_statvfs_flags(client, monkeypatch, flag, expected):
    class Found:
        f_bsize = f_frsize = f_blocks = f_bfree = f_bavail = f_files = f_ffree = f_favail = 1
        f_namemax = 255
        f_flag = flag

    monkeypatch.setattr(sftp_files.os, "statvfs", lambda path: Found)
    reply = client.extended(b"statvfs@openssh.com", s(b"."))[1]
    # Python 3.6 has no f_fsid.
    assert [reply.u64() for _ in range(11)][8:] == [0, expected, 255]


def test_fsync(client, monkeypatch):
    handle = client.open(b"f", NEW)
    called = []
    monkeypatch.setattr(sftp_files.os, "fsync", called.append)
    assert status(client.extended(b"fsync@openssh.com", s(handle))) == Status.OK
    assert len(called) == 1


def test_expand_path(client, tmp_path):
    (tmp_path / "d").mkdir()
    home = os.fsencode(tmp_path)
    for name, expected in (
        (b"~", home),
        (b"~/d", home + b"/d"),
        (b"~/", home),
        (b"", home),
        (b"d", home + b"/d"),
        (b"~root", os.path.realpath(os.path.expanduser(b"~root"))),
        (b"d/~", home + b"/d/~"),
    ):
        assert path(client.extended(b"expand-path@openssh.com", s(name))) == expected
    for name in (b"~no_such_user", b"~\xff/x", b"~/x/y"):
        answer = client.extended(b"expand-path@openssh.com", s(name))
        assert status(answer) == Status.NO_SUCH_FILE


def test_home_directory(client, tmp_path):
    ask = b"home-directory"
    assert path(client.extended(ask, s(b"root"))) == os.path.expanduser(b"~root")
    assert path(client.extended(ask, s(b""))) == os.fsencode(tmp_path)
    assert status(client.extended(ask, s(b"no_such_user"))) == Status.NO_SUCH_FILE


def test_users_groups_by_id(client):
    ask = b"users-groups-by-id@openssh.com"
    kind, reply = client.extended(ask, s(u32(0) + u32(4294967000)), s(u32(0)))
    assert kind == Packet.EXTENDED_REPLY
    assert reply.string() == s(b"root") + s(b"")
    assert reply.string() == s(b"root")
    assert status(client.extended(ask, s(b"abc"), s(b""))) == Status.BAD_MESSAGE
    kind, reply = client.extended(ask, s(b""), s(b""))
    assert (reply.string(), reply.string()) == (b"", b"")
    # The reply exceeds a packet.
    assert status(client.extended(ask, s(u32(0) * 40000), s(b""))) == Status.FAILURE


@pytest.fixture
def copy(client):
    """Return `copy(offset, size, offset)`, which copies from home/a, 600,000 bytes, to home/b."""
    (client.home / "a").write_bytes(b"0123456789" * 60000)
    source = client.open(b"a")
    target = client.open(b"b", NEW | OpenFlags.READ)

    def copy(offset=0, size=0, to=0, source=source, target=target):
        fields = (s(source), u64(offset), u64(size), s(target), u64(to))
        return status(client.extended(b"copy-data", *fields))

    copy.client = client
    copy.source = source
    copy.target = client.home / "b"
    return copy


def test_copy_data(copy):
    assert copy() == Status.OK
    assert copy.target.read_bytes() == b"0123456789" * 60000
    assert copy(5, 3, 600000) == Status.OK
    assert copy.target.read_bytes()[600000:] == b"567"
    assert copy(600000) == Status.OK  # nothing is left to copy
    assert copy(599999, 2) == Status.EOF


def test_errors_of_copy_data(copy):
    assert copy(HUGE) == Status.BAD_MESSAGE
    assert copy(0, 0, HUGE) == Status.BAD_MESSAGE
    assert copy(source=b"none") == Status.FAILURE
    # A file copied to its own end would grow forever.
    assert copy(target=copy.source) == Status.FAILURE
    same = copy.client.open(b"a", OpenFlags.WRITE | OpenFlags.APPEND)
    assert copy(target=same) == Status.FAILURE
    assert copy.target.read_bytes() == b""


def test_an_endless_copy_ends_with_its_client(start):
    client = start()
    source, target = client.open(b"/dev/zero"), client.open(b"/dev/null", OpenFlags.WRITE)
    client.send(Packet.EXTENDED, s(b"copy-data"), s(source), u64(0), u64(0), s(target), u64(0))
    assert client.end() in (0, 1)


# ---- hostile bytes, in a jail: the session runs as root, and the bytes may name any path

JAIL = textwrap.dedent(
    """
    import os, resource, socket, sys
    from mitogen import sftp

    def is_open(fd):
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True

    def descriptors():
        return [fd for fd in range(64) if is_open(fd)]

    listener = socket.socket(fileno=int(sys.argv[1]))
    os.chroot(sys.argv[2])
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    for name in ("a", "b", "d", "d/e"):
        os.mkdir(name) if name[0] == "d" else open(name, "w").close()
    os.mkfifo("fifo")
    before = descriptors()
    while True:
        sock = listener.accept()[0]
        try:
            result = str(sftp.serve(sock.fileno(), sock.fileno(), "/"))
        except BaseException as error:
            result = repr(error)
        sock.close()
        if descriptors() != before:
            result = "descriptors %s, before %s" % (descriptors(), before)
        # Whatever it did to the directory, the next session finds one it can use.
        for directory in ("/", "d"):
            try:
                os.chmod(directory, 0o755)
            except OSError:
                pass
        print(result, flush=True)
    """
)


@pytest.fixture(scope="module")
def jail(tmp_path_factory):
    """Return `jail(bytes)`, which returns (replies of a session, result of serve() as text)."""
    directory = tmp_path_factory.mktemp("jail")
    os.chown(str(directory), 65534, 65534)
    listener = socket.socket(socket.AF_UNIX)
    address = str(tmp_path_factory.mktemp("listener") / "socket")
    listener.bind(address)
    listener.listen(5)
    child = subprocess.Popen(
        [sys.executable, "-c", JAIL, str(listener.fileno()), str(directory)],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        pass_fds=[listener.fileno()],
        stdout=subprocess.PIPE,
    )
    listener.close()

    def send(data):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SOON)
            sock.connect(address)
            sender = threading.Thread(target=push, args=(sock, data))
            sender.start()
            parts = list(iter(lambda: receive(sock), b""))
            sender.join(SOON)
        assert select.select([child.stdout], [], [], SOON)[0], "serve() hangs"
        return b"".join(parts), child.stdout.readline().decode().strip()

    with child:
        yield send
        child.kill()


def push(sock, data):
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:  # the session ended before it had read all requests
        pass


def receive(sock):
    try:
        return sock.recv(1 << 20)
    except ConnectionResetError:
        return b""


NAMES = st.sampled_from(
    [b"", b".", b"..", b"/", b"a", b"b", b"d", b"d/e", b"d/new", b"new", b"fifo", b"~", b"~x"]
    + [b"\xff", b"a\0", b"x" * 256, b"/" * 5000, b"../../etc/passwd", b"a/b"]
)
NUMBERS = st.sampled_from([0, 1, 2, 255, 4096, MAX_PACKET, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
SMALL = NUMBERS.map(lambda number: number & 0xFFFFFFFF)
HANDLES = st.sampled_from([b"0", b"1", b"2", b"3", b"", b"\0\0\0\0"])
ATTRS = st.builds(
    lambda flags, body: u32(flags) + body,
    st.sampled_from([0, 1, 2, 4, 8, 15, 0x80000000, 0xFFFFFFFF]),
    st.binary(max_size=40),
)
FIELDS = {
    "name": NAMES.map(s),
    "string": HANDLES.map(s),
    "data": st.binary(max_size=50).map(s),
    "u32": SMALL.map(u32),
    "u64": NUMBERS.map(u64),
    "attrs": ATTRS,
}


def bodies(begin, row):
    return st.tuples(*[FIELDS[parser.__name__] for parser in row[1]]).map(
        lambda parts: begin + b"".join(parts)
    )


REQUESTS = st.one_of(
    [bodies(bytes([kind]), row) for kind, row in sftp_files.REQUESTS.items()]
    + [
        bodies(bytes([Packet.EXTENDED]) + s(name), row)
        for name, (_, row) in sftp_files.EXTENSIONS.items()
    ]
)
#: (type, the rest): complete, truncated, with altered bytes, or random.
PACKETS = st.one_of(
    REQUESTS,
    REQUESTS,
    st.builds(lambda body, end: body[: 1 + end], REQUESTS, st.integers(0, 60)),
    st.builds(
        lambda body, at, new: body[:at] + new + body[at + len(new) :],
        REQUESTS,
        st.integers(1, 30),
        st.binary(min_size=1, max_size=4),
    ),
    st.binary(min_size=1, max_size=60),
)


def replies_in(stream):
    """Return the ids of the replies, and check that the stream contains nothing else."""
    ids, at = [], 0
    while at < len(stream):
        (length,) = struct.unpack_from(">I", stream, at)
        assert 5 <= length <= MAX_PACKET and at + 4 + length <= len(stream)
        assert stream[at + 4] in (2, 101, 102, 103, 104, 105, 201)
        ids.append(struct.unpack_from(">I", stream, at + 5)[0])
        at += 4 + length
    return ids


@pytest.mark.root
@settings(max_examples=300, deadline=None)
@given(packets=st.lists(PACKETS, max_size=30))
def test_hostile_packets_get_one_reply_or_end_the_session(jail, packets):
    sent, expected = [s(bytes([Packet.INIT]) + u32(3))], [3]
    for number, packet in enumerate(packets):
        if packet[0] == Packet.INIT:
            continue
        sent.append(s(packet[:1] + u32(number) + packet[1:]))
        expected.append(number)
    stream, result = jail(b"".join(sent))
    assert result == "0"
    assert replies_in(stream) == expected


@pytest.mark.root
@settings(max_examples=150, deadline=None)
@given(
    packets=st.lists(PACKETS, max_size=5),
    garbage=st.binary(max_size=200),
    begin=st.booleans(),
)
def test_hostile_bytes_are_answered_or_end_the_session(jail, packets, garbage, begin):
    good = [s(bytes([Packet.INIT]) + u32(3))] if begin else []
    good += [s(packet[:1] + u32(7) + packet[1:]) for packet in packets]
    stream, result = jail(b"".join(good) + garbage)
    assert result in ("0", "1", "255")
    # The end of the session may have truncated the last reply.
    if result == "0" and begin and not garbage:
        assert replies_in(stream)[1:] == [7] * len(packets)
