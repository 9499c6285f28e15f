"""file_services.py: permitted files, slow and failing readers, and pushed files."""

import io
import os
import threading

import pytest

from mitogen import core
from mitogen.core.mailbox import Receiver
from mitogen.services import file_services, pool
from mitogen.transfer import chunks
from tests.unit import live

MIB = 1 << 20
SOON = live.SOON
FileService = pool.FileService
PushFileService = pool.PushFileService


@pytest.fixture
def node(tmp_path):
    """Return a pair whose master has a FileService. The child requests files."""
    with live.pair() as found:
        found.up_context = found.child.context_by_id(0)
        found.files = FileService(found.master)
        found.pool = pool.Pool(found.master, [found.files], size=2)
        yield found
        found.pool.stop()


def get(node, path):
    """Fetch in the child; return (ok, metadata, bytes)."""
    out = io.BytesIO()
    ok, metadata = FileService.get(node.up_context, path, out)
    return ok, metadata, out.getvalue()


def write(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path


# ---- which files


@pytest.mark.parametrize("size", [0, 1, chunks.CHUNK, 9 * MIB + 1])
def test_a_registered_file(node, tmp_path, size):
    path = write(tmp_path / "f", size)
    node.files.register(str(path))
    ok, metadata, data = get(node, path)
    found = path.stat()
    assert ok is True and data == path.read_bytes()
    assert metadata == {
        "size": size,
        "mode": found.st_mode,
        "owner": path.owner(),
        "group": path.group(),
        "mtime": found.st_mtime,
        "atime": pytest.approx(found.st_atime, abs=60),
    }


def test_only_parents_may_register_files(node, tmp_path):
    path = str(write(tmp_path / "f", 3))
    for method in ("register", "register_prefix"):
        with pytest.raises(core.CallError, match="refused by AllowParents"):
            pool.call(FileService, method, node.up_context, path=path)
    with pytest.raises(core.CallError, match="is not registered"):
        get(node, path)


@pytest.mark.parametrize("kind", [str, os.fsencode])
def test_bytes_and_unusual_names(node, tmp_path, kind):
    name = os.fsencode(tmp_path) + b"/\xff\n"
    with open(name, "wb") as fp:
        fp.write(b"odd")
    node.files.register(kind(os.fsdecode(name)))
    assert get(node, kind(os.fsdecode(name)))[2] == b"odd"


def test_paths_are_normalised(node, tmp_path, monkeypatch):
    write(tmp_path / "a" / "f", 3)
    monkeypatch.chdir(tmp_path)
    node.files.register("a/../a/./f")
    for path in ("a/f", str(tmp_path / "a" / "f"), "{}/a//b/../f".format(tmp_path)):
        assert get(node, path)[0]


def test_a_registered_symlink_is_followed(node, tmp_path):
    write(tmp_path / "f", 3)
    (tmp_path / "link").symlink_to("f")
    node.files.register(str(tmp_path / "link"))
    assert get(node, tmp_path / "link")[0]
    with pytest.raises(core.CallError, match="is not registered"):
        get(node, tmp_path / "f")


def test_files_below_a_prefix(node, tmp_path):
    root = tmp_path / "root"
    inside = [write(root / "f", 3), write(root / "a" / "b" / "f", 3)]
    (root / "good").symlink_to("a/b/f")
    (root / "a" / "up").symlink_to("../f")
    node.files.register_prefix(str(root) + "/")
    for path in [*inside, root / "good", root / "a" / "up", root / "a" / ".." / "f"]:
        assert get(node, path)[0], path


def test_a_prefix_that_is_a_symlink(node, tmp_path):
    write(tmp_path / "real" / "f", 3)
    (tmp_path / "root").symlink_to("real")
    node.files.register_prefix(str(tmp_path / "root"))
    assert get(node, tmp_path / "root" / "f")[0]
    assert get(node, tmp_path / "real" / "f")[0]


def test_a_prefix_that_is_a_file_and_the_root(node, tmp_path):
    path = write(tmp_path / "f", 3)
    node.files.register_prefix(str(path))
    assert get(node, path)[0]
    node.files.register_prefix("/")
    assert get(node, write(tmp_path / "g", 3))[0]


def test_files_outside_of_a_prefix(node, tmp_path):
    root = tmp_path / "root"
    write(root / "f", 3)
    outside = write(tmp_path / "secret", 3)
    beside = write(tmp_path / "rootkit" / "f", 3)
    (root / "out").symlink_to("../secret")
    (root / "dir").symlink_to("..")
    node.files.register_prefix(str(root))
    refused = [outside, beside, root / "out", root / "dir" / "secret", root / ".." / "secret"]
    refused += [str(root) + "kit/f", "/etc/shadow", "", ".", "/no/such/file"]
    for path in refused:
        with pytest.raises(core.CallError, match="is not registered with the file service"):
            get(node, path)


def test_a_symlink_created_between_check_and_open(node, tmp_path, monkeypatch):
    root = tmp_path / "root"
    write(root / "a" / "f", 3)
    write(tmp_path / "other" / "f", 3)
    node.files.register_prefix(str(root))
    real = os.path.realpath

    def realpath(path, **kwargs):
        found = real(path, **kwargs)
        if path.endswith("a/f"):
            (root / "a").rename(root / "gone")
            (root / "a").symlink_to(tmp_path / "other")
        return found

    monkeypatch.setattr(os.path, "realpath", realpath)
    with pytest.raises(core.CallError, match="NotADirectoryError|Too many levels"):
        get(node, root / "a" / "f")


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_files_that_cannot_be_opened(node, tmp_path, kind):
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(str(path))
    node.files.register(str(path))
    errors = {"missing": "No such file", "directory": "is a directory", "fifo": "is a fifo"}
    with pytest.raises(core.CallError, match=errors[kind]):
        get(node, path)


def test_a_mailbox_of_another_context(node, tmp_path):
    """Messages of the service have its own context's authority."""
    path = str(write(tmp_path / "f", 3))
    node.files.register(path)
    for context_id, handle in (
        (1, core.CALL_FUNCTION),
        (1, core.SHUTDOWN),
        (1, core.FIRST_UNWINDOWED + 5),
        (0, 5000),
        (7, 5000),
    ):
        sender = core.Sender(core.Context(node.child, context_id), handle)
        with pytest.raises(core.CallError, match="not one of the calling context's own mailboxes"):
            pool.call(FileService, "fetch", node.up_context, path=path, sender=sender)


@pytest.mark.parametrize(
    "kwargs", [{}, {"path": 1, "sender": 2}, {"path": "x"}, {"path": "x", "sender": None}], ids=repr
)
def test_invalid_arguments(node, kwargs):
    with pytest.raises(core.CallError, match="argument '(path|sender)' (is missing|must be)"):
        pool.call(FileService, "fetch", node.up_context, **kwargs)


def test_acknowledge_does_nothing(node):
    assert pool.call(FileService, "acknowledge", node.up_context, size=5) is None
    assert FileService.window_size_bytes == MIB and FileService.IO_SIZE == chunks.CHUNK


def test_get_from_the_context_itself(node, tmp_path):
    """Messages within a context have no window, so none are sent."""
    path = write(tmp_path / "f", 9 * MIB)
    node.files.register(str(path))
    out = io.BytesIO()
    ok, metadata = FileService.get(node.master.myself(), path, out)
    assert ok and metadata["size"] == 9 * MIB and out.getvalue() == path.read_bytes()
    with pytest.raises(pool.Error, match="is not registered"):
        FileService.get(node.master.myself(), "/etc/shadow", out)
    touch = Reader(lambda: os.utime(str(path), (1, 1)))
    assert not FileService.get(node.master.myself(), path, touch)[0]
    with pytest.raises(pool.Error, match="context 1 has no service pool"):
        FileService.get(node.child.context_by_id(1), path, out)
    assert node.files.fetch(str(path), Receiver(node.master).to_sender())["size"] == 9 * MIB


# ---- failures during a transfer


class Reader:
    """A file object whose write() calls a function after the first chunk."""

    def __init__(self, then):
        self.then = then
        self.count = 0

    def write(self, data):
        self.count += 1
        if self.count == 1:
            self.then()


def fetch_with(node, path, then):
    node.files.register(str(path))
    return FileService.get(node.up_context, path, Reader(then))


def test_a_file_that_changes(node, tmp_path):
    path = write(tmp_path / "f", 20 * MIB)

    def grow():
        with path.open("ab") as fp:
            fp.write(b"more")

    ok, metadata = fetch_with(node, path, grow)
    assert (ok, metadata["size"]) == (False, 20 * MIB)
    assert any("changed while it was sent" in line for line in node.logs), node.logs


def test_a_file_removed_before_the_transfer(node, tmp_path, monkeypatch):
    path = write(tmp_path / "f", 3)
    node.files.register(str(path))
    start = node.files._start
    monkeypatch.setattr(node.files, "_start", lambda *a: (path.unlink(), start(*a)))
    ok, _, _ = get(node, path)
    assert not ok and any("No such file" in line for line in node.logs)


def test_damaged_data(node, tmp_path, monkeypatch):
    path = write(tmp_path / "f", 3)
    node.files.register(str(path))
    send = chunks.Outlet.send
    monkeypatch.setattr(chunks.Outlet, "send", lambda self, chunk: send(self, b"abc"))
    ok, _, data = get(node, path)
    assert not ok and data == b"abc"
    assert any("differs from the data that was sent" in line for line in node.logs)


def test_a_reader_that_times_out(node, tmp_path, monkeypatch):
    """Its flow is ended, so that the reader does not wait for the rest."""
    path = write(tmp_path / "f", 9 * MIB)
    node.files.register(str(path))

    def send(self, chunk):
        raise core.TimeoutError("nothing was read")

    monkeypatch.setattr(chunks.Outlet, "send", send)
    ok, _, data = get(node, path)
    assert (ok, data) == (False, b"")
    node.wait_for(lambda: any("file service: " in line for line in node.logs))


def test_losing_the_master(node, tmp_path):
    path = write(tmp_path / "f", 20 * MIB)
    lose = lambda: node.child.broker.defer(node.child.context_lost, 0)  # noqa: E731
    ok, _ = fetch_with(node, path, lose)
    assert not ok


def test_an_error_in_write_is_raised_and_ends_the_transfer(node, tmp_path):
    def fail():
        raise OSError(28, "No space left on device")

    path = write(tmp_path / "f", 20 * MIB)
    with pytest.raises(OSError, match="No space"):
        fetch_with(node, path, fail)
    node.wait_for(lambda: not node.files._transfers)
    assert not [h for h in node.child.handlers if h >= core.FIRST_HANDLE]
    assert not [key for key in node.master.flows if key[1] >= core.FIRST_HANDLE]


# ---- concurrent transfers


def begin(node, path):
    """Request a file and read none of it; return the mailbox."""
    receiver = Receiver(node.child, respondent=node.up_context)
    sender = receiver.to_sender()
    pool.call(FileService, "fetch", node.up_context, path=str(path), sender=sender)
    return receiver


def test_stopped_readers_do_not_delay_others(node, tmp_path):
    path = write(tmp_path / "f", 6 * MIB)
    node.files.register(str(path))
    stopped = [begin(node, path) for _ in range(5)]
    node.wait_for(lambda: len([f for f in node.master.flows.values() if f.queue]) == 5)
    for _ in range(3):
        ok, _, data = get(node, path)
        assert ok and data == path.read_bytes()
    for receiver in stopped:
        out = io.BytesIO()
        chunks.receive_chunks(receiver, out.write)
        assert out.getvalue() == path.read_bytes()
        receiver.close()


def test_concurrent_transfers(node, tmp_path):
    paths = [write(tmp_path / str(number), number * 50000) for number in range(30)]
    node.files.register_prefix(str(tmp_path))
    results = {}

    def fetch(path):
        results[path] = get(node, path)

    threads = [threading.Thread(target=fetch, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert all(results[path][0] and results[path][2] == path.read_bytes() for path in paths)
    node.wait_for(lambda: not node.files._transfers)


def test_transfers_beyond_the_limit_wait(node, tmp_path, monkeypatch):
    monkeypatch.setattr(file_services, "MAX_TRANSFERS", 2)
    monkeypatch.setattr(file_services, "MAX_WAITING", 3)
    path = write(tmp_path / "f", 6 * MIB)
    node.files.register(str(path))
    mailboxes = [begin(node, path) for _ in range(5)]
    with pytest.raises(
        core.CallError, match="too many file transfers to this child: 3 are waiting"
    ):
        begin(node, path)
    # Waiting transfers have no descriptor and no thread.
    assert node.files._transfers[node.master.routes.get(1)][0] == 2
    for receiver in mailboxes:
        assert chunks.receive_chunks(receiver, len) == 6 * MIB
    node.wait_for(lambda: not node.files._transfers)


def test_no_thread_can_be_started(node, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("can't start new thread")

    path = write(tmp_path / "f", 3)
    node.files.register(str(path))
    monkeypatch.setattr(file_services._thread, "start_new_thread", fail)
    with pytest.raises(core.CallError, match="can't start new thread"):
        get(node, path)
    assert node.files._transfers == {}


def test_the_pool_ends_while_transfers_wait(node, tmp_path, monkeypatch):
    monkeypatch.setattr(file_services, "MAX_TRANSFERS", 1)
    path = write(tmp_path / "f", 6 * MIB)
    node.files.register(str(path))
    mailboxes = [begin(node, path) for _ in range(2)]
    node.pool.stop()
    with pytest.raises(core.ChannelError, match="transfer aborted"):
        chunks.receive_chunks(mailboxes[1], len)
    assert chunks.receive_chunks(mailboxes[0], len) == 6 * MIB
    node.wait_for(lambda: not node.files._transfers)


# ---- pushed


@pytest.fixture
def push(node):
    """Return the PushFileService of the master, and arguments for calls to the child's."""
    found = PushFileService(node.master)
    node.pool.add(found)
    node.child_pool = pool.Pool(node.child, size=2)
    yield found
    node.child_pool.stop()


def there(node):
    return node.child_pool.get_service(PushFileService)


def counted(node, monkeypatch):
    """Count the requests of the master to its child."""
    sent, route = [], node.master.route

    def watch(msg, *rest, **kwargs):
        if msg.handle == core.CALL_SERVICE:
            sent.append(core.decode(msg.data, node.master)[1])
        return route(msg, *rest, **kwargs)

    monkeypatch.setattr(node.master, "route", watch)
    return sent


def test_push(node, push, tmp_path, monkeypatch):
    sent = counted(node, monkeypatch)
    path = write(tmp_path / "f", 1000)
    for _ in range(3):
        push.propagate_to(node.context, path)
    assert there(node).get(path) == push.get(str(path)) == path.read_bytes()
    assert sent == ["store_and_forward"]


def test_push_sends_the_cached_content(node, push, tmp_path):
    path = write(tmp_path / "f", 1000)
    push.propagate_to(node.context, path)
    before = path.read_bytes()
    path.write_bytes(b"later")
    push.propagate_to(node.context, path)
    assert there(node).get(path) == before


@pytest.mark.parametrize("source", [b"bytes", "text \xfc", bytearray(b"array")])
def test_push_other_content(node, push, source):
    push.propagate_to(node.context, "/no/such/file", source)
    wanted = source.encode() if isinstance(source, str) else bytes(source)
    assert there(node).get("/no/such/file") == wanted


def test_push_several_files(node, push, tmp_path, monkeypatch):
    paths = [write(tmp_path / str(number), 10) for number in range(5)]
    monkeypatch.setattr("sys.path", ["/first"])
    push.propagate_paths_and_modules(
        node.context, paths, {str(paths[1]): "other"}, ["/first", "/second"]
    )
    assert [there(node).get(path) for path in paths[:1]] == [paths[0].read_bytes()]
    assert there(node).get(paths[1]) == b"other"
    assert file_services.sys.path == ["/first", "/second"]
    push.propagate_paths_and_modules(node.context, [])


def test_get_waits_for_a_pushed_file(node, push, tmp_path):
    path = write(tmp_path / "f", 10)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(there(node).get(path))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    node.wait_for(lambda: len(there(node)._waiters.get(str(path), ())) == 2)
    push.propagate_to(node.context, path)
    for thread in threads:
        thread.join(SOON)
    assert found == [path.read_bytes()] * 2
    assert there(node)._waiters == {}


def test_get_times_out(node, push, monkeypatch):
    monkeypatch.setattr(file_services, "PUSH_TIMEOUT", 0.05)
    with pytest.raises(pool.Error, match="'/x' was not pushed to this context within 0.05 s"):
        push.get("/x")
    assert push._waiters == {"/x": []}


def test_get_while_the_pool_ends(node, push):
    errors = []

    def wait():
        try:
            there(node).get("/x")
        except pool.Error as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    found = there(node)
    node.wait_for(lambda: found._waiters.get("/x"))
    node.child_pool.stop()
    thread.join(SOON)
    with pytest.raises(pool.Error, match="before the service ended"):
        found.get("/y")
    assert errors == ["'/x' was not pushed to this context before the service ended"]


def test_push_to_the_context_itself_and_to_an_unknown_one(node, push, tmp_path):
    path = write(tmp_path / "f", 10)
    push.propagate_to(node.master.myself(), path)
    assert push.get(path) == path.read_bytes()
    with pytest.raises(pool.Error, match="context 9 is not below context 0"):
        push.propagate_to(node.master.context_by_id(9), path)
    with pytest.raises(FileNotFoundError):
        push.propagate_to(node.context, tmp_path / "missing")
    assert push._sent == {}


def test_only_parents_may_push(node, push):
    for method in ("propagate_to", "store_and_forward", "forward", "propagate_paths_and_modules"):
        with pytest.raises(core.CallError, match="refused by AllowParents"):
            pool.call(PushFileService, method, node.up_context, path="x")
    with pytest.raises(core.CallError, match="no exposed method 'get'"):
        pool.call(PushFileService, "get", node.up_context, path="x")


def test_files_are_sent_again_on_a_new_link(node, push, tmp_path):
    path = write(tmp_path / "f", 10)
    push.propagate_to(node.context, path)
    there(node).get(path)
    assert list(push._sent) == [node.down]
    node.master.broker.defer(node.down.disconnect)
    node.wait_for(lambda: not push._sent)


@pytest.fixture
def relay(net):
    """Three nodes in a line with a service each, and the stream of the middle one."""
    nodes = net.line(3)
    services = [PushFileService(each.router) for each in nodes]
    return net, nodes, services


def requests(end):
    """Return (method, path) of the requests sent on a stream, oldest first."""
    frames = [msg for msg in end.frames() if msg.handle == core.CALL_SERVICE]
    found = [core.decode(msg.data, end.node.router) for msg in frames]
    return [(method, kwargs["path"]) for _, method, kwargs in found]


def test_each_file_crosses_each_link_once(relay, tmp_path):
    net, (master, middle, far), (top, hop, _) = relay
    path = str(write(tmp_path / "f", 10))
    far_context = master.context(far)
    top.propagate_to(master.context(middle), path)
    top.propagate_to(far_context, path)
    top.propagate_to(far_context, path)
    down = master.down[middle.id]
    assert requests(down) == [("store_and_forward", path), ("forward", path), ("forward", path)]
    hop.store_and_forward(path, b"content", middle.router.context_by_id(middle.id))
    for _ in range(2):
        hop.forward(path, middle.context(far))
    assert requests(middle.down[far.id]) == [("store_and_forward", path)]


def test_a_request_that_overtakes_its_file(relay):
    """Two threads of a pool may handle them in either order."""
    net, (master, middle, far), (_, hop, end) = relay
    hop.forward("/f", middle.context(far))
    assert requests(middle.down[far.id]) == []
    hop.store_and_forward("/f", b"content", middle.router.context_by_id(middle.id))
    assert requests(middle.down[far.id]) == [("store_and_forward", "/f")]
    assert hop._pending == {}
