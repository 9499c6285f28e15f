"""chunks.py: opening and reading files, detecting changes, and senders whose receiver stops."""

import io
import os
import pathlib
import stat
import zlib

import pytest

from mitogen import core
from mitogen.core.mailbox import Receiver
from mitogen.transfer import chunks

CHUNK = chunks.CHUNK


@pytest.fixture
def pair(net):
    """Return (sending node, receiving node, Receiver there, Outlet here)."""
    master, child = net.line(2)
    receiver = Receiver(child.router)
    outlet = chunks.Outlet(core.Sender(master.context(child), receiver.handle))
    return master, child, receiver, outlet


def make_file(path, data):
    path.write_bytes(data)
    return os.open(str(path), os.O_RDONLY), path.stat()


# ---- checks


@pytest.mark.parametrize("kind", [chunks.Crc, chunks.Sha256])
def test_checks_detect_differences(kind):
    def value(*given):
        check = kind()
        for chunk in given:
            check.update(chunk)
        return check.value()

    right = value(b"one", b"two", b"")
    assert value(b"one", b"two", b"") == right
    wrong = [(b"two", b"one", b""), (b"one", b"twp", b""), (b"one", b"two", b"two"), (b"one",)]
    assert all(value(*each) != right for each in wrong)


def test_crc_counts_empty_chunks():
    one, two = chunks.Crc(), chunks.Crc()
    one.update(b"")
    assert one.value() != two.value()


def test_small_files_are_checked_without_hashlib():
    assert isinstance(chunks.check_for(CHUNK), chunks.Crc)
    assert isinstance(chunks.check_for(CHUNK + 1), chunks.Sha256)
    assert isinstance(chunks.check_for(None), chunks.Sha256)


# ---- opening


def test_opening_regular_files(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(str(tmp_path / "fifo"))
    for name in ("file", "link"):
        os.close(chunks.open_regular(str(tmp_path / name)))
    with pytest.raises(chunks.Error, match="is a directory"):
        chunks.open_regular(str(tmp_path))
    with pytest.raises(chunks.Error, match="is a fifo, not a regular file"):  # does not block
        chunks.open_regular(str(tmp_path / "fifo"))
    with pytest.raises(OSError, match="link"):
        chunks.open_regular(str(tmp_path / "link"), None, False)


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (stat.S_IFREG, "file"),
        (stat.S_IFSOCK, "socket"),
        (stat.S_IFLNK, "symlink"),
        (stat.S_IFBLK, "device"),
    ],
)
def test_kinds(mode, text):
    assert chunks.kind_of(mode) == text


def test_open_below_follows_no_symlinks(tmp_path):
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"inside")
    (tmp_path / "file").write_bytes(b"outside")
    (root / "out").symlink_to(tmp_path)
    (root / "file").symlink_to(tmp_path / "file")
    fd = chunks.open_below(str(root), "a/./b/file")
    assert os.read(fd, 10) == b"inside"
    os.close(fd)
    os.close(chunks.open_below(str(tmp_path / "file"), "."))
    for path in ("out/file", "file", "a/nothing", "nothing/file"):
        with pytest.raises(OSError):
            chunks.open_below(str(root), path)
    with pytest.raises(chunks.Error, match="is a directory"):
        chunks.open_below(str(root), "a")


# ---- reading


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_piece_is_one_frame(tmp_path, size):
    fd, before = make_file(tmp_path / "f", os.urandom(size))
    found = list(chunks.read_chunks(fd, "f", before))
    assert b"".join(found) == (tmp_path / "f").read_bytes()
    assert [len(each) for each in found[:-1]] == [CHUNK] * (len(found) - 1)
    tail = b"".join(chunks.read_chunks(fd, "f", before, size // 2))
    assert tail == (tmp_path / "f").read_bytes()[size // 2 :]
    os.close(fd)


def test_reading_files_in_proc(tmp_path):
    fd = chunks.open_regular("/proc/version")
    before = os.fstat(fd)
    assert before.st_size == 0
    assert (
        b"".join(chunks.read_chunks(fd, "v", before)) == pathlib.Path("/proc/version").read_bytes()
    )
    os.close(fd)


def test_a_growing_file_is_an_error_after_its_initial_size(tmp_path):
    fd, before = make_file(tmp_path / "f", b"x" * 10)
    found = []
    with pytest.raises(chunks.Error, match="'f' changed while it was sent: from 10 bytes to 11"):
        for chunk in chunks.read_chunks(fd, b"f", before):
            found.append(chunk)
            with (tmp_path / "f").open("ab") as fp:
                fp.write(b"y")
    assert found == [b"x" * 10]
    os.close(fd)


def test_a_shrinking_or_touched_file_is_an_error(tmp_path):
    path = tmp_path / "f"
    for change in (lambda: os.truncate(str(path), CHUNK), lambda: os.utime(str(path), (1, 1))):
        fd, before = make_file(path, bytes(2 * CHUNK))
        with pytest.raises(chunks.Error, match="changed while"):
            for _ in chunks.read_chunks(fd, "f", before):
                change()
        os.close(fd)


def test_describe(tmp_path):
    fd, found = make_file(tmp_path / "f", b"abc")
    os.close(fd)
    got = chunks.describe(found)
    assert set(got) == {"size", "mode", "owner", "group", "mtime", "atime"}
    assert (got["size"], got["mode"], got["mtime"]) == (3, found.st_mode, found.st_mtime)
    unknown = os.stat_result([0, 0, 0, 0, 0xFFFFFF0, 0xFFFFFF0, 0, 0, 0, 0])
    assert chunks.describe(unknown)["owner"] is chunks.describe(unknown)["group"] is None


# ---- outlets


def test_sending_to_a_closed_mailbox(net, pair):
    master, child, receiver, outlet = pair
    outlet.send(b"1")
    net.pump()
    receiver.close()
    net.pump()
    with pytest.raises(core.ChannelError, match="context 1 has closed the mailbox"):
        outlet.send(b"2")
    outlet.fail(ValueError("dropped"))
    assert (1, outlet.handle) not in master.router.flows


def test_sending_to_a_lost_context(net, pair):
    """Without a route there is no flow. All data sent would be dropped."""
    master, child, _, outlet = pair
    master.down[child.id].disconnect("gone")
    with pytest.raises(core.ChannelError, match="context 1 is gone"):
        outlet.send(b"1")


def test_at_most_a_window_is_in_flight(net, pair):
    master, child, receiver, outlet = pair
    sent = []

    def read_one():
        sent.append(outlet_sent[0])
        receiver.get()
        child.broker.after(1, read_one)

    outlet_sent = [0]
    child.broker.after(1, read_one)
    for _ in range(100):
        outlet.send(bytes(CHUNK))
        outlet_sent[0] += 1
    assert receiver.size() * CHUNK <= core.WINDOW
    assert sent[0] * CHUNK <= core.WINDOW + CHUNK


def test_waiting_for_a_slow_reader(net, pair, monkeypatch):
    """Wait longer than a plain Sender, which fails after CREDIT_TIMEOUT."""
    master, child, receiver, outlet = pair
    child.broker.after(4 * core.CREDIT_TIMEOUT, lambda: [receiver.get() for _ in range(32)])
    for _ in range(40):
        outlet.send(bytes(CHUNK))
    assert any("nothing was read" in line for line in master.logs)


def test_sending_to_a_stopped_reader_times_out(net, pair):
    _, _, _, outlet = pair
    begin = net.time
    with pytest.raises(core.TimeoutError, match="waits for context 1"):
        for _ in range(40):
            outlet.send(bytes(CHUNK))
    assert chunks.STALL_TIMEOUT <= net.time - begin <= chunks.STALL_TIMEOUT + core.CREDIT_TIMEOUT


def test_abort_does_not_sleep(net, pair):
    _, _, receiver, outlet = pair
    for _ in range(32):
        outlet.send(bytes(CHUNK))
    begin = net.time
    outlet.abort()
    assert net.time == begin
    with pytest.raises(core.ChannelError, match="transfer aborted"):
        for _ in range(40):
            receiver.get(timeout=1)


def test_errors_and_records(net, pair):
    _, _, receiver, outlet = pair
    outlet.record(["a", 1])
    outlet.record(b"raw")
    outlet.fail(FileNotFoundError(2, "No such file", "x"))
    net.pump()
    assert receiver.get().unpickle() == ["a", 1]
    msg = receiver.get()
    assert msg.flags & core.RAW and msg.data == b"raw"
    with pytest.raises(FileNotFoundError):
        receiver.get().unpickle()
    # A CallError from another context is passed on unchanged.
    outlet.fail(core.CallError("as it was"))
    net.pump()
    with pytest.raises(core.CallError, match="^as it was$"):
        receiver.get().unpickle()


# ---- one file


def transfer(net, pair, tmp_path, data, write):
    _, _, receiver, outlet = pair
    fd, found = make_file(tmp_path / "f", data)
    chunks.send_chunks(fd, "f", outlet, found.st_size, found.st_mtime)
    os.close(fd)
    return chunks.receive_chunks(receiver, write)


@pytest.mark.parametrize("size", [0, 1, CHUNK, 5 * CHUNK + 7])
def test_one_file(net, pair, tmp_path, size):
    data, out = os.urandom(size), io.BytesIO()
    assert transfer(net, pair, tmp_path, data, out.write) == size
    assert out.getvalue() == data


def test_a_raw_file_with_partial_writes(net, pair, tmp_path):
    got = bytearray()

    def write(chunk):
        got.extend(chunk[:1000])
        return min(1000, len(chunk))

    data = os.urandom(CHUNK)
    transfer(net, pair, tmp_path, data, write)
    assert bytes(got) == data


def test_a_file_changed_since_the_request(tmp_path, pair):
    fd, found = make_file(tmp_path / "f", b"abc")
    for size, mtime in ((2, found.st_mtime), (3, found.st_mtime + 1)):
        with pytest.raises(chunks.Error, match="between the request and the transfer"):
            chunks.send_chunks(fd, "f", pair[3], size, mtime)
    os.close(fd)


@pytest.mark.parametrize("end", [[3, 1], [2, 99], [2, None], "malformed packed chunk", None, [3]])
def test_a_wrong_size_or_checksum(net, pair, end):
    _, _, receiver, outlet = pair
    outlet.send(b"abc")
    outlet.record(end)
    with pytest.raises(chunks.Error, match="3 bytes, differs from the data that was sent"):
        chunks.receive_chunks(receiver, io.BytesIO().write)


def test_a_failing_or_lost_sender(net, pair):
    _, child, receiver, outlet = pair
    outlet.send(b"abc")
    outlet.fail(chunks.Error("it changed"))
    with pytest.raises(core.CallError, match="mitogen.files.Error: it changed"):
        chunks.receive_chunks(receiver, io.BytesIO().write)
    outlet.send(b"abc")
    outlet.abort()
    with pytest.raises(core.ChannelError):
        chunks.receive_chunks(receiver, io.BytesIO().write)


def test_sending_within_a_context_has_no_window(net):
    (master,) = net.line(1)
    receiver = Receiver(master.router)
    outlet = chunks.Outlet(receiver.to_sender())
    outlet.send(b"1")
    outlet.send(b"2")
    net.pump()
    assert [receiver.get().data for _ in range(2)] == [b"1", b"2"]


# ---- packed chunks


def test_a_piece_that_shrinks_is_packed():
    chunk = b"text " * 20000
    packed = chunks.Packer(True).pack(chunk)
    assert packed[0] == "packed"
    assert len(packed[1]) < len(chunk) / 10
    assert chunks.unpacked(packed) == chunk


def test_pieces_that_do_not_shrink_are_tried_at_intervals():
    packer = chunks.Packer(True)
    noise, text = os.urandom(CHUNK), bytes(CHUNK)
    assert packer.pack(noise) is noise
    found = [type(packer.pack(text)) for _ in range(9)]
    assert found == [bytes] * chunks.Packer.PASSED + [list] * 2


@pytest.mark.parametrize("record", [["file", b"x", {}, 0], ["end", 3, 4], ["up"], b""])
def test_other_records_are_not_packed(record):
    assert chunks.Packer(True).pack(record) is record
    assert chunks.unpacked(record) is record


def test_a_disabled_packer():
    chunk = bytes(CHUNK)
    assert chunks.Packer(False).pack(chunk) is chunk


@pytest.mark.parametrize(
    "record",
    [
        ["packed"],
        ["packed", "text"],
        ["packed", b""],
        ["packed", b"no zlib"],
        ["packed", zlib.compress(b"x")[:-1]],
        ["packed", zlib.compress(b"x") + b"y"],
        ["packed", zlib.compress(b"x"), b"y"],
        # More than a chunk: the sender must not decide how much memory is used.
        ["packed", zlib.compress(bytes(CHUNK + 1))],
    ],
)
def test_malformed_packed_chunks(record):
    with pytest.raises(chunks.Error, match="malformed packed chunk"):
        chunks.unpacked(record)
