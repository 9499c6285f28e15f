"""put_get.py between two nodes: single round trips for small transfers, and all early endings."""

import io
import os
import threading

import pytest

from mitogen import core
from mitogen.transfer import chunks, file_records, put_get
from mitogen.transfer.chunks import CHUNK, Error
from tests.unit import live

MIB = 1 << 20


@pytest.fixture
def node():
    with live.pair() as found:
        yield found


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(os.urandom(9 * MIB + 3))
    os.utime(str(path), ns=(10**9, 10**9))
    return path


@pytest.fixture
def where(tmp_path):
    path = tmp_path / "where"
    path.mkdir()
    return path


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    for number in range(20):
        (root / "a" / "b" / str(number)).write_bytes(bytes((number,)) * 1000 * number)
    (root / "link").symlink_to("a/b/3")
    return root


EVENTS = []


def wait_for_event():
    """Work that keeps the child busy."""
    EVENTS.pop().wait(live.SOON)


def both(test):
    return pytest.mark.parametrize("way", ["put", "get"])(test)


def send(node, way, source, target, **kwargs):
    """Call put() or get(). Both ends are on the same machine here."""
    context = kwargs.pop("context", node.context)
    return getattr(put_get, way)(context, source, target, **kwargs)


@both
@pytest.mark.parametrize("size", [0, 1, put_get.HEAD, CHUNK, CHUNK + 1, 9 * MIB + 3])
def test_a_file(node, way, source, where, size):
    os.truncate(str(source), size)
    send(node, way, source, where / "g")
    assert (where / "g").read_bytes() == source.read_bytes()
    assert (where / "g").stat().st_mtime_ns == source.stat().st_mtime_ns
    assert os.listdir(str(where)) == ["g"]


@both
def test_small_transfers_take_one_round_trip(node, way, source, where, tree):
    os.truncate(str(source), 50000)
    frames, real = [], node.up.send
    node.up.send = lambda *parts, **kwargs: (frames.append(parts), real(*parts, **kwargs))[1]
    send(node, way, source, where / "g")
    assert len(frames) == 1


@both
def test_a_tree(node, way, tree, where):
    send(node, way, tree, where / "copy")
    assert sorted(os.listdir(str(where / "copy" / "a" / "b"))) == sorted(map(str, range(20)))
    assert os.readlink(str(where / "copy" / "link")) == "a/b/3"
    assert (where / "copy" / "a" / "b" / "19").read_bytes() == bytes((19,)) * 19000


@both
def test_compressed(node, way, source, where, tree):
    """Compressed chunks need fewer bytes on the link. Reported progress does not change."""
    (tree / "text").write_bytes(b"a line of text\n" * 200000)
    (tree / "noise").write_bytes(source.read_bytes())
    sent, progress_calls = [0], []

    def count(real):
        def counted(*parts, **kwargs):
            sent[0] += sum(map(len, parts[:2]))
            return real(*parts, **kwargs)

        return counted

    for stream in (node.up, node.down):
        stream.send = count(stream.send)
    send(
        node,
        way,
        tree / "text",
        where / "g",
        compress=True,
        progress=lambda *a: progress_calls.append(a),
    )
    assert sent[0] < 100000
    assert [each[1:] for each in progress_calls][-1] == (3000000, 3000000)
    send(node, way, tree, where / "tree", compress=True)
    assert sent[0] < 10 * MIB
    for name in ("text", "noise", "a/b/19"):
        assert (where / "tree" / name).read_bytes() == (tree / name).read_bytes()


@both
def test_names_as_bytes_and_str(node, way, source, where):
    os.truncate(str(source), 1)
    send(node, way, os.fsencode(source), os.fsencode(where) + b"/\xff")
    send(node, way, str(source), str(where / "g"))
    assert sorted(os.listdir(os.fsencode(where))) == [b"g", b"\xff"]


@both
def test_at_most_a_window_is_in_flight(node, way, source, where, monkeypatch):
    """A reader that waits for the sender stops it after a window of data."""
    receiving, sending = (node.child, node.master) if way == "put" else (node.master, node.child)
    standing, stopped, arrived = [], [], []
    feed = file_records.Sink.feed

    def slow(self, record):
        arrived.append(type(record))
        # The first message went with the call.
        if arrived.count(bytes) == 3 and not stopped:
            node.wait_for(lambda: [f for f in sending.flows.values() if f.queue])
            stopped.append(True)
            meters = [m for (_, h), m in receiving.meters.items() if h >= core.FIRST_HANDLE]
            standing.append(sum(m.received - m.credited for m in meters))
        feed(self, record)

    monkeypatch.setattr(file_records.Sink, "feed", slow)
    send(node, way, source, where / "g")
    assert core.WINDOW - 3 * CHUNK <= standing[0] < core.WINDOW + 2 * CHUNK
    assert (where / "g").read_bytes() == source.read_bytes()


@both
def test_attributes(node, way, source, where):
    os.truncate(str(source), 1)
    send(node, way, source, where / "g", mode=0o604, preserve=False)
    assert (where / "g").stat().st_mode & 0o7777 == 0o604
    assert (where / "g").stat().st_mtime > 10
    with pytest.raises(Error, match="no account 'no-such-one' in the receiving context"):
        send(node, way, source, where / "h", owner="no-such-one")
    with pytest.raises(Error, match="no group 'no-such-one'"):
        send(node, way, source, where / "h", group="no-such-one")
    assert os.listdir(str(where)) == ["g"]


@both
def test_progress(node, way, source, where, tree):
    calls = []
    send(node, way, source, where / "g", progress=lambda *a: calls.append(a))
    size = source.stat().st_size
    near = str(source if way == "put" else where / "g")
    assert {(path, total) for path, _, total in calls} == {(near, size)}
    done = [each[1] for each in calls]
    assert done[0] == 0 and done[-1] == size and done == sorted(done)
    calls.clear()
    send(node, way, tree, where / "t", progress=lambda *a: calls.append(a))
    near = tree if way == "put" else where / "t"
    assert (str(near / "a" / "b" / "0"), 0, 0) in calls
    assert (str(near / "a" / "b" / "19"), 19000, 19000) in calls


@both
def test_an_error_in_progress_ends_the_transfer(node, way, source, where):
    def progress(path, done, total):
        if done > 5 * MIB:
            raise ZeroDivisionError("progress")

    with pytest.raises(ZeroDivisionError, match="^progress$"):
        send(node, way, source, where / "g", progress=progress)
    node.settle()
    assert os.listdir(str(where)) == []
    # The child still works.
    send(node, way, source, where / "g")
    assert os.listdir(str(where)) == ["g"]


@both
def test_skipped_files_are_listed(node, way, tree, where):
    os.mkfifo(str(tree / "a" / "fifo"))
    os.mkfifo(str(tree / "fifo"))
    with pytest.raises(put_get.Skipped, match="'a/fifo', 'fifo'") as caught:
        send(node, way, tree, where / "copy")
    assert caught.value.names == ["a/fifo", "fifo"]
    assert sorted(os.listdir(str(where / "copy"))) == ["a", "link"]
    with pytest.raises(Error, match="is a fifo"):
        send(node, way, tree / "fifo", where / "g")


def test_the_list_of_skipped_files_is_limited():
    error = put_get.Skipped([str(number) for number in range(100)])
    assert "'19' and 80 more" in str(error) and "'20'" not in str(error)
    assert len(error.names) == 100
    assert put_get.Skipped("one").names == ["one"]


@both
def test_errors_at_both_ends(node, way, source, where, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        send(node, way, tmp_path / "nothing", where / "g")
    with pytest.raises(FileNotFoundError, match="create it first"):
        send(node, way, source, where / "no" / "g")
    with pytest.raises(Error, match="is a directory; add"):
        send(node, way, source, where)
    with pytest.raises(Error, match="is a directory; add"):
        send(node, way, where, tmp_path)
    assert os.listdir(str(where)) == []


@both
def test_a_file_that_changes(node, way, source, where):
    """Change the file after a few chunks."""
    real, calls = os.pread, []

    def pread(fd, count, at):
        calls.append(at)
        if len(calls) == 20:
            os.utime(str(source), (5, 5))
        return real(fd, count, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", pread)
        with pytest.raises(Error, match="changed while it was sent"):
            send(node, way, source, where / "g")
    node.settle()
    assert os.listdir(str(where)) == []


@both
def test_a_full_disk_at_the_receiving_end(node, way, source, where):
    def write(self, data):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_records.Sink, "_write", write)
        with pytest.raises(OSError, match="No space left"):
            send(node, way, source, where / "g")
    node.settle()
    assert os.listdir(str(where)) == []
    assert not any(flow.queue for flow in node.master.flows.values())


@both
def test_no_mailboxes_and_flows_are_left(node, way, source, where):
    send(node, way, source, where / "g")
    node.settle()
    for router in (node.master, node.child):
        assert not [h for h in router.handlers if h >= core.FIRST_HANDLE]
        flows = [key for key in router.flows if key[1] >= core.FIRST_HANDLE]
        node.wait_for(lambda: not [k for k in flows if k in router.flows])  # noqa: B023


@both
def test_losing_the_context(node, way, source, where):
    def progress(path, done, total):
        if done > 5 * MIB:
            node.master.broker.defer(node.down.disconnect, "it died")
            node.wait_for(lambda: node.down.closed)

    with pytest.raises(core.ChannelError):
        send(node, way, source, where / "g", progress=progress)
    assert os.listdir(str(where)) == []


@both
def test_timeout(node, way, source, where, monkeypatch):
    """Block the receiver or the sender until the deadline."""
    go = threading.Event()
    feed, send_chunk = file_records.Sink.feed, chunks.Outlet.send

    def slow(self, chunk):
        if type(chunk) is bytes:
            go.wait(live.SOON)
        (feed if way == "put" else send_chunk)(self, chunk)

    if way == "put":
        monkeypatch.setattr(file_records.Sink, "feed", slow)
    else:
        monkeypatch.setattr(chunks.Outlet, "send", slow)
    with pytest.raises(core.TimeoutError, match="did not finish within 0.3 seconds"):
        send(node, way, source, where / "g", timeout=0.3)
    go.set()
    node.settle()
    assert os.listdir(str(where)) == []


@both
def test_finishing_within_the_timeout(node, way, source, where):
    send(node, way, source, where / "g", timeout=10 * live.SOON)
    assert (where / "g").read_bytes() == source.read_bytes()
    # The broker clears it, a little after the answer.
    node.wait_for(lambda: not any(cell for _, _, cell in list(node.master.broker._timers)))


@both
def test_timeout_before_the_call_begins(node, way, source, where):
    go = threading.Event()
    EVENTS.append(go)
    busy = node.context.call_async(wait_for_event)
    with pytest.raises(core.TimeoutError, match="did not finish within 0.2 seconds"):
        send(node, way, source, where / "g", timeout=0.2)
    go.set()
    busy.get(live.SOON)
    # The call is still queued and is not canceled. It finds that its caller is gone.
    node.settle()
    assert os.listdir(str(where)) == []


@both
def test_transfer_to_the_context_itself_is_an_error(node, way, source, where):
    myself = node.master.myself()
    with pytest.raises(Error, match="the context itself"):
        send(node, way, source, where / "g", context=myself)


def test_a_mailbox_closed_before_the_last_record(node, source, where, monkeypatch):
    """The far half closes its mailbox early because it has all records. That is not an error."""
    record = chunks.Outlet.record

    def send_and_fail(self, value):
        record(self, value)
        if value[0] == "end":
            raise core.ChannelError("mailbox closed")

    monkeypatch.setattr(chunks.Outlet, "record", send_and_fail)
    put_get.put(node.context, source, where / "g")
    assert (where / "g").read_bytes() == source.read_bytes()


# ---- file objects


def test_file_objects(node, source, where):
    with source.open("rb") as fp:
        put_get.put(node.context, fp, where / "g")
    assert (where / "g").read_bytes() == source.read_bytes()
    out = io.BytesIO()
    put_get.get(node.context, source, out)
    assert out.getvalue() == source.read_bytes()
    calls = []
    put_get.put(node.context, io.BytesIO(b"abc"), where / "h", lambda *a: calls.append(a))
    assert calls[-1] == ("-", 3, None)
    with pytest.raises(TypeError, match="must return bytes"):
        put_get.put(node.context, io.StringIO("abc"), where / "i")
    with pytest.raises(Error, match="is not a file"):
        put_get.get(node.context, where, io.BytesIO())
    assert sorted(os.listdir(str(where))) == ["g", "h"]


# ---- resuming


@both
def test_resume(node, way, source, where):
    def stop(path, done, total):
        if done > 5 * MIB:
            raise KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        send(node, way, source, where / "g", progress=stop, resume=True)
    node.settle()
    assert os.listdir(str(where)) == [".g.part"]
    have = (where / ".g.part").stat().st_size
    assert have > 3 * MIB
    calls = []
    send(node, way, source, where / "g", progress=lambda *a: calls.append(a), resume=True)
    assert calls[0][1] == have
    assert (where / "g").read_bytes() == source.read_bytes()
    assert os.listdir(str(where)) == ["g"]
    # The second time there is nothing left to resume.
    send(node, way, source, where / "g", resume=True)
    assert os.listdir(str(where)) == ["g"]


@both
def test_resume_of_a_changed_file_starts_again(node, way, source, where):
    (where / ".g.part").write_bytes(b"something else")
    (where / ".g.part").chmod(0o600)
    send(node, way, source, where / "g", resume=True)
    assert (where / "g").read_bytes() == source.read_bytes()


@both
def test_resume_is_not_for_trees(node, way, tree, where):
    with pytest.raises(Error, match="single files, not for trees"):
        send(node, way, tree, where / "copy", resume=True)
    with pytest.raises(FileNotFoundError):
        send(node, way, tree / "link", where / "no" / "g", resume=True)


# ---- misbehaving far halves


def answer_with(node, *values):
    """Make the child answer the next call with these values, whichever function it calls."""

    def on_call(msg):
        target = core.Sender(node.child.context_by_id(0), msg.reply_to)
        for value in values:
            target.send(*value) if isinstance(value, tuple) else target.send(value)

    node.child.add_handler(on_call, core.CALL_FUNCTION, overwrite=True)


@pytest.mark.parametrize(
    "values",
    [
        [None],
        [{"records": "abc"}],
        [{}],
        ["text"],
        [7],
        [(b"raw", core.RAW)],
        [["file", b"", {}, 0], {"records": []}],
        [{"records": [["dir", b"", {}], ["dir", b"..", {}]]}],
    ],
    ids=repr,
)
def test_a_far_half_that_sends_malformed_records(node, where, values):
    answer_with(node, *values)
    with pytest.raises(Error):
        put_get.get(node.context, "/x", where / "g")
    assert os.listdir(str(where)) == []


def test_a_far_half_that_ends_early(node, source, where):
    answer_with(node, None)
    with pytest.raises(Error, match="ended early"):
        put_get.put(node.context, source, where / "g")
    answer_with(node, core.CallError("no"))
    with pytest.raises(core.CallError, match="^no$"):
        put_get.put(node.context, source, where / "g")


def test_a_caller_lost_before_the_call_begins(node, source, where):
    """The mailbox for its hello is closed: the call ends and leaves no files."""
    reply = core.Sender(node.master.myself(), 5000)
    head = [["file", b"", {}, 0], b"x"]
    options = {"mode": None, "owner": None, "group": None, "preserve": True}
    with pytest.raises(core.CallError, match="ChannelError: invalid handle"):
        node.context.call(put_get._store, os.fsencode(where / "g"), options, False, head, reply)
    assert os.listdir(str(where)) == []


def test_messages_from_other_contexts_are_dropped(node, where, source):
    """Another context guesses the number of the mailbox."""
    mailbox = []

    def progress(path, done, total):
        if not mailbox:
            mailbox.extend(h for h in node.master.handlers if h >= core.FIRST_HANDLE)
            message = core.Message(dst_id=0, src_id=7, auth_id=7, handle=mailbox[0], data=b"evil")
            message.flags = core.RAW
            node.master.broker.defer(node.master._local, message)

    put_get.get(node.context, source, where / "g", progress=progress)
    assert (where / "g").read_bytes() == source.read_bytes()
