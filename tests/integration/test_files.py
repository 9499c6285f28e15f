"""put() and get() through real connections: any account, any end, and no leftovers."""

import io
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys

import pytest

import mitogen.core
import mitogen.files
from tests import hosts, processes
from tests.checkout import ROOT
from tests.integration.far import files, work

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1 << 20
LARGE = 48 * MIB


@pytest.fixture
def source(tmp_path):
    """Return a file as large as several windows."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(LARGE))
    path.chmod(0o640)
    os.utime(str(path), ns=(10**18, 10**18 + 1))
    return path


@pytest.fixture
def where(tmp_path):
    path = tmp_path / "where"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def deep(router):
    """Yield a context three hops away."""
    context = None
    for _ in range(3):
        context = router.local(via=context)
    yield context


class TestEveryWay:
    """Transfers to and from each kind of context, as its account."""

    @pytest.fixture
    def there(self, context):
        """Yield a directory owned by the account."""
        path = context.call(files.make_directory)
        yield path
        context.call(files.remove, path)

    def test_a_file_makes_the_round_trip(self, context, there, tmp_path):
        data = os.urandom(700000)
        (tmp_path / "f").write_bytes(data)
        (tmp_path / "f").chmod(0o604)
        os.utime(str(tmp_path / "f"), ns=(5, 10**18 + 7))
        remote = there + "/g \xe9"
        context.put(tmp_path / "f", remote)
        assert context.call(files.listing, there) == ["g \xe9"]
        mode, mtime, uid, found = context.call(files.describe, remote)
        assert (mode, mtime, found) == (0o604, 10**18 + 7, data)
        assert uid == context.call(os.geteuid)
        context.get(remote, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
        assert (tmp_path / "back").stat().st_mtime_ns == 10**18 + 7
        out = io.BytesIO()
        context.get(remote, out)
        assert out.getvalue() == data

    def test_a_tree_makes_the_round_trip(self, context, there, tmp_path):
        files.make_tree(str(tmp_path / "tree"))
        context.put(tmp_path / "tree", there + "/t")
        assert context.call(files.tree, there + "/t") == files.tree(str(tmp_path / "tree"))
        context.get(there + "/t", tmp_path / "back")
        assert files.tree(str(tmp_path / "back")) == files.tree(str(tmp_path / "tree"))

    def test_errors_are_raised_and_leave_no_file(self, context, there, tmp_path):
        with pytest.raises(FileNotFoundError, match="create it first"):
            context.put("/etc/passwd", there + "/no/such/g")
        with pytest.raises(FileNotFoundError):
            context.get(there + "/nothing", tmp_path / "g")
        with pytest.raises(mitogen.files.Error, match="is a directory"):
            context.put("/etc/passwd", there)
        if context.call(os.geteuid):
            with pytest.raises(PermissionError):
                context.put("/etc/passwd", "/etc/mitogen-test")
            with pytest.raises(PermissionError):
                context.put("/etc/passwd", there + "/g", owner="root")
        else:
            context.put("/etc/passwd", there + "/g", owner="daemon", group="daemon")
            assert context.call(files.describe, there + "/g")[2] == 1
            context.call(os.unlink, there + "/g")
        assert context.call(files.listing, there) == []


def test_a_remote_name_may_have_any_bytes(deep, where):
    name = os.fsdecode(os.fsencode(where) + b"/\xff\xfe\n")
    deep.put("/etc/passwd", name)
    deep.get(name, where / "back")
    assert (where / "back").read_bytes() == pathlib.Path("/etc/passwd").read_bytes()


def test_a_context_transfers_files_to_and_from_its_child(router, deep, source, where):
    """The caller is a child and the other context is its child."""
    top = router.local()
    target, _ = top.call(work.open_local)
    top.call(files.put, target, str(source), str(where / "g"))
    top.call(files.get, target, str(where / "g"), str(where / "h"))
    assert (where / "h").read_bytes() == source.read_bytes()
    with pytest.raises(mitogen.core.CallError, match="refused by policy"):
        target.call(files.put, top, str(source), str(where / "i"))
    assert sorted(os.listdir(str(where))) == ["g", "h"]
    with pytest.raises(mitogen.core.CallError, match="the context itself"):
        top.call(files.put, top, str(source), str(where / "i"))
    top.shutdown(wait=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["put", "get", "service"])
def test_memory_is_bounded_three_hops_away(way, tmp_path):
    """Each of the four processes transfers 64 MB and grows by no more than some windows."""
    done = subprocess.run(
        [sys.executable, str(HERE / "drivers" / "files.py"), way, "64", str(tmp_path)],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["right"]
    assert len(result["grown"]) == 4
    assert max(result["grown"]) < 32 * MIB, result


# ---- interruptions


def by_signal(signum=signal.SIGINT, after=8 * MIB):
    """Return a `progress` callback that sends this process a signal, once."""
    sent = []

    def progress(path, done, total):
        if done > after and not sent:
            sent.append(True)
            os.kill(os.getpid(), signum)

    return progress


@pytest.mark.parametrize("way", ["put", "get"])
@pytest.mark.parametrize("tree", [False, True])
def test_an_interrupted_transfer_leaves_no_file(deep, way, tree, source, where):
    target = where / "g"
    (where.parent / "tree").mkdir()
    source.rename(where.parent / "tree" / "source")
    path = where.parent / "tree" if tree else where.parent / "tree" / "source"
    with pytest.raises(KeyboardInterrupt):
        getattr(deep, way)(path, target, progress=by_signal())
    # The remote call has ended, so its partial file is removed.
    deep.call(work.noop)
    assert os.listdir(str(where)) == []
    getattr(deep, way)(path, target)
    assert os.listdir(str(where)) == ["g"]


@pytest.mark.parametrize("way", ["put", "get"])
@pytest.mark.parametrize("tree", [False, True])
def test_a_killed_context_ends_the_transfer(own_router, way, tree, source, where):
    hop = own_router.local()
    context = own_router.local(via=hop)
    pid = context.call(os.getpid)
    killed = []

    def progress(path, done, total):
        if done > 8 * MIB and not killed:
            killed.append(True)
            os.kill(pid, signal.SIGKILL)

    path = source.parent / "tree" if tree else source
    if tree:
        path.mkdir()
        source.rename(path / "source")
    with pytest.raises(mitogen.core.ChannelError):
        getattr(context, way)(path, where / "g", progress=progress)
    left = os.listdir(str(where))
    if way == "put" and tree:
        # The partial tree stays, because the killed process can't remove it. It has its own name.
        assert len(left) == 1 and left[0].startswith(".g.") and left[0].endswith(".part")
    else:
        assert left == []
    assert hop.call(work.add, 1)[0] == 3


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_killed_hop_ends_the_transfer(own_router, way, source, where):
    """The far context loses its parent and removes its partial file."""
    hop = own_router.local()
    context = own_router.local(via=hop)
    pid, far = hop.call(os.getpid), context.call(os.getpid)
    killed = []

    def progress(path, done, total):
        if done > 8 * MIB and not killed:
            killed.append(True)
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(mitogen.core.ChannelError):
        getattr(context, way)(source, where / "g", progress=progress)
    processes.wait_until(lambda: not processes.alive(far))
    assert os.listdir(str(where)) == []


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("tree", [False, True])
def test_a_killed_master_leaves_no_file(signum, tree, where, tmp_path):
    path = tmp_path / "tree"
    path.mkdir()
    with (path / "source").open("wb") as fp:
        for _ in range(32):
            fp.write(os.urandom(16 * MIB))
    command = [sys.executable, str(HERE / "drivers" / "put.py")]
    command += [str(path if tree else path / "source"), str(where / "g")]
    environ = dict(os.environ, PYTHONPATH=str(ROOT))
    before = {each.pid for each in processes.marked_processes(str(os.getpid()))}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ, text=True
    ) as master:
        assert master.stdout.readline() == "under way\n"
        master.send_signal(signum)
        rest = master.stdout.read()
    assert "done" not in rest
    run = str(os.getpid())
    processes.wait_until(
        lambda: not [p for p in processes.marked_processes(run) if p.pid not in before], 10
    )
    assert os.listdir(str(where)) == []


def test_a_transfer_can_be_resumed(deep, source, where):
    for way in ("put", "get"):
        target = where / way
        with pytest.raises(KeyboardInterrupt):
            getattr(deep, way)(source, target, progress=by_signal(), resume=True)
        deep.call(work.noop)
        part = where / (".%s.part" % way)
        have = part.stat().st_size
        assert have >= 4 * MIB
        calls = []
        getattr(deep, way)(source, target, lambda *a: calls.append(a), resume=True)  # noqa: B023
        assert calls[0][1] == have
        assert target.read_bytes() == source.read_bytes()
    assert sorted(os.listdir(str(where))) == ["get", "put"]


def test_a_transfer_to_a_busy_context_times_out(own_router, where):
    context = own_router.local()
    started = mitogen.core.Receiver(own_router)
    busy = context.call_async(work.hang, started.to_sender())
    started.get()
    for way in ("put", "get"):
        with pytest.raises(mitogen.core.TimeoutError, match="did not finish within 0.2 seconds"):
            getattr(context, way)("/etc/passwd", where / "g", timeout=0.2)
    assert os.listdir(str(where)) == []
    assert busy.empty()


# ---- other Pythons


def test_a_python_3_6_target_transfers_files_and_trees(own_router, python36, source, where):
    context = own_router.local(python_path=python36)
    context.put(source, where / "g")
    context.get(where / "g", where / "h")
    assert (where / "h").read_bytes() == source.read_bytes()
    files.make_tree(str(where / "tree"))
    context.put(where / "tree", where / "t")
    context.get(where / "t", where / "u")
    assert files.tree(str(where / "u")) == files.tree(str(where / "tree"))
    with pytest.raises(KeyboardInterrupt):
        context.put(source, where / "i", progress=by_signal(), resume=True)
    context.call(work.noop)
    context.put(source, where / "i", resume=True)
    assert (where / "i").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("version", sorted(v for v in hosts.find_pythons() if v >= (3, 6)))
def test_every_python_names_a_file_atomically(own_router, version, where):
    """Each Python uses linkat(2) by way of /proc, like os.link()."""
    context = own_router.local(python_path=hosts.find_pythons()[version])
    context.put("/etc/passwd", where / "g")
    assert os.listdir(str(where)) == ["g"]
    assert stat.S_ISREG((where / "g").lstat().st_mode)
