"""file_records.py: copies equal their sources; incomplete or invalid transfers leave no files."""

import fcntl
import hashlib
import io
import os
import pathlib
import stat

import pytest

from mitogen.transfer import file_records
from mitogen.transfer.chunks import CHUNK, Error, Sha256
from mitogen.transfer.file_records import Attributes, ObjectSink, Sink, records_of

ROOT = os.geteuid() == 0


def copy(source, target, resume=False, part=None, **attributes):
    """Send a file or tree to a Sink; return its records, with lengths in place of chunks."""
    seen = []
    with Sink(os.fsencode(target), Attributes(**attributes), resume) as sink:
        for record in records_of(os.fsencode(source), part):
            seen.append(len(record) if type(record) is bytes else record)
            sink.feed(record)
        assert sink.complete
        sink.finish()
    return seen


def descriptors():
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_open():
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def where(tmp_path):
    """Return a directory that contains only files made by the test."""
    path = tmp_path / "where"
    path.mkdir()
    return path


@pytest.fixture
def tree(tmp_path):
    """Return a tree with one file of each kind that can be sent."""
    root = tmp_path / "tree"
    (root / "empty").mkdir(parents=True)
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "file").write_bytes(os.urandom(3 * CHUNK + 5))
    (root / "nothing").write_bytes(b"")
    os.symlink("nowhere at all", str(root / "dangling"))
    os.symlink("../tree", str(root / "deep" / "loop"))
    for name in (b"\xff\xfe", b"new\nline", b" ", b"-rf", "umläut".encode(), b"." * 3, b"x" * 255):
        with open(os.fsencode(root) + b"/" + name, "wb") as fp:
            fp.write(name)
    (root / "deep" / "er" / "file").chmod(0o640)
    (root / "empty").chmod(0o500)
    for path, when in ((root / "nothing", 1.5), (root / "deep", 2e9), (root / "empty", 1)):
        os.utime(str(path), ns=(int(when * 1e9), int(when * 1e9) + 7))
    return root


def listing(root):
    """Return {path below: (type and mode, mtime, content or target)}."""
    root = os.fsencode(root)
    found = {}
    for directory, names, files in os.walk(root):
        for name in [b"."] + names + files:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            content = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as fp:
                    content = fp.read()
            key = os.path.normpath(os.path.relpath(path, root))
            found[key] = (info.st_mode, info.st_mtime_ns, content)
    return found


# ---- copies equal their sources


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK])
def test_a_file(tmp_path, where, size):
    source = tmp_path / "f"
    source.write_bytes(os.urandom(size))
    source.chmod(0o604)
    os.utime(str(source), ns=(3, 5))
    copy(source, where / "g")
    assert (where / "g").read_bytes() == source.read_bytes()
    found = (where / "g").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_nlink) == (0o604, 5, 1)
    assert os.listdir(str(where)) == ["g"]


def test_a_tree(tree, where):
    copy(tree, where / "copy")
    assert listing(where / "copy") == listing(tree)
    assert os.listdir(str(where)) == ["copy"]
    (tree / "empty").chmod(0o700)
    (where / "copy" / "empty").chmod(0o700)


def test_a_symlink_as_the_path_is_followed(tree, where, tmp_path):
    (tmp_path / "link").symlink_to(tree)
    (tmp_path / "to file").symlink_to(tree / "nothing")
    copy(tmp_path / "link", where / "copy")
    copy(tmp_path / "to file", where / "file")
    assert listing(where / "copy") == listing(tree)
    assert stat.S_ISREG((where / "file").lstat().st_mode)


def test_a_relative_path(tmp_path, where, monkeypatch):
    (tmp_path / "f").write_bytes(b"x")
    monkeypatch.chdir(where)
    copy("../f", "g")
    assert (where / "g").read_bytes() == b"x"


def test_files_in_proc(where):
    copy("/proc/version", where / "v")
    assert (where / "v").read_bytes() == pathlib.Path("/proc/version").read_bytes()


def test_a_file_is_replaced_atomically(tmp_path, where):
    (tmp_path / "f").write_bytes(b"new")
    (where / "g").write_bytes(b"old")
    with (where / "g").open("rb") as fp:
        copy(tmp_path / "f", where / "g")
        assert fp.read() == b"old"
    assert (where / "g").read_bytes() == b"new"


def test_a_symlink_at_the_destination_is_replaced(tmp_path, where):
    (tmp_path / "f").write_bytes(b"new")
    (tmp_path / "victim").write_bytes(b"old")
    (where / "g").symlink_to(tmp_path / "victim")
    copy(tmp_path / "f", where / "g")
    assert (tmp_path / "victim").read_bytes() == b"old"
    assert not (where / "g").is_symlink()


def test_zeros_become_holes(tmp_path, where):
    with (tmp_path / "f").open("wb") as fp:
        fp.write(b"head")
        fp.truncate(64 * CHUNK)
    copy(tmp_path / "f", where / "g")
    assert (where / "g").read_bytes() == (tmp_path / "f").read_bytes()
    assert (where / "g").stat().st_blocks * 512 < 4 * CHUNK


def test_a_name_of_the_maximum_length(tmp_path, where):
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "d").mkdir()
    copy(tmp_path / "f", where / ("n" * 255))
    copy(tmp_path / "d", where / ("m" * 255))
    assert len(os.listdir(str(where))) == 2


def test_without_o_tmpfile(tmp_path, where, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE")
    (tmp_path / "f").write_bytes(b"x")
    copy(tmp_path / "f", where / "g")
    assert (where / "g").read_bytes() == b"x"
    assert os.listdir(str(where)) == ["g"]
    with pytest.raises(Error), Sink(os.fsencode(where / "h"), Attributes()) as sink:
        sink.feed(["file", b"", {}, 0])
        assert len(os.listdir(str(where))) == 2
        sink.finish()
    assert os.listdir(str(where)) == ["g"]


def test_without_proc(tmp_path, where, monkeypatch):
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    (tmp_path / "f").write_bytes(b"x")
    copy(tmp_path / "f", where / "g")
    assert os.listdir(str(where)) == ["g"]


def test_an_incomplete_file_has_no_name(where):
    with Sink(os.fsencode(where / "g"), Attributes()) as sink:
        sink.feed(["file", b"", {}, 0])
        sink.feed(b"abc")
        assert os.listdir(str(where)) == []


# ---- attributes


def test_setuid_setgid_and_sticky_are_not_sent(tmp_path, where):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"x")
    (tmp_path / "d" / "f").chmod(0o6755)
    (tmp_path / "d").chmod(0o3777)
    copy(tmp_path / "d", where / "d")
    assert stat.S_IMODE((where / "d").stat().st_mode) == 0o777
    assert stat.S_IMODE((where / "d" / "f").stat().st_mode) == 0o755


def test_setuid_from_a_malicious_sender_is_ignored(where):
    with Sink(os.fsencode(where / "g"), Attributes()) as sink:
        sink.feed(["file", b"", dict(META, mode=0o104755, size=0), 0])
        sink.feed(["end", 0, Sha256().value()])
        sink.finish()
    assert stat.S_IMODE((where / "g").stat().st_mode) == 0o755


def test_mode(tmp_path, where):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"x")
    copy(tmp_path / "d", where / "d", mode=0o640)
    assert stat.S_IMODE((where / "d").stat().st_mode) == 0o750
    assert stat.S_IMODE((where / "d" / "f").stat().st_mode) == 0o640
    copy(tmp_path / "d" / "f", where / "suid", mode=0o4755)
    assert stat.S_IMODE((where / "suid").stat().st_mode) == 0o4755


def test_without_preserve(tmp_path, where):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"x")
    (tmp_path / "d" / "l").symlink_to("f")
    (tmp_path / "d" / "f").chmod(0o777)
    os.utime(str(tmp_path / "d" / "f"), (1, 1))
    umask = os.umask(0o027)
    try:
        copy(tmp_path / "d", where / "d", preserve=False)
    finally:
        os.umask(umask)
    found = (where / "d" / "f").stat()
    assert stat.S_IMODE(found.st_mode) == 0o750
    assert found.st_mtime > 1


def test_the_umask_is_not_changed(monkeypatch):
    umask = os.umask(0o031)
    try:
        assert Attributes().umask == 0o031
        monkeypatch.setattr("builtins.open", lambda *_: io.StringIO("Name:\tx\n"))
        assert Attributes().umask == 0o031

        def fail(*_):
            raise OSError()

        monkeypatch.setattr("builtins.open", fail)
        assert Attributes().umask == 0o031
        monkeypatch.undo()
    finally:
        assert os.umask(umask) == 0o031


@pytest.mark.root
def test_owner_and_group(tree, where):
    (tree / "empty").chmod(0o755)
    copy(tree, where / "n", owner=1, group=2)
    copy(tree, where / "t", owner="daemon", group="bin")
    copy(tree / "nothing", where / "f", owner="65533", group="65532")
    for name in ("n", "t"):
        for path in [where / name, *sorted((where / name).rglob("*"))]:
            found = path.lstat()
            assert (found.st_uid, found.st_gid) == (1, 2), path
    assert ((where / "f").stat().st_uid, (where / "f").stat().st_gid) == (65533, 65532)


@pytest.mark.parametrize("name", ["owner", "group"])
def test_an_unknown_account(name):
    with pytest.raises(Error, match="no (account|group) 'no-such-one' in the receiving context"):
        Attributes(**{name: "no-such-one"})


# ---- files that are not sent


def test_errors_for_files_that_are_not_sent(tmp_path, where):
    (tmp_path / "d" / "in").mkdir(parents=True)
    os.mkfifo(str(tmp_path / "d" / "in" / "fifo"))
    seen = copy(tmp_path / "d", where / "d")
    assert ["skip", b"fifo"] in seen
    assert os.listdir(str(where / "d" / "in")) == []
    with pytest.raises(Error, match="is a fifo; only files"):
        list(records_of(os.fsencode(tmp_path / "d" / "in" / "fifo")))
    with pytest.raises(Error, match="is a device"):
        list(records_of(b"/dev/null"))
    with pytest.raises(FileNotFoundError):
        list(records_of(b"/no/such/file"))


def test_a_symlink_in_place_of_a_directory_is_not_followed(tree):
    """Another account replaces a directory by a symlink between stat() and open()."""
    sequence = records_of(os.fsencode(tree))
    real = os.stat

    def swap(path, **kwargs):
        found = real(path, **kwargs)
        if path == b"deep":
            (tree / "deep").rename(tree / "gone")
            (tree / "deep").symlink_to("/etc")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", swap)
        with pytest.raises(OSError, match="deep|symbolic"):
            list(sequence)


def test_a_file_in_place_of_a_directory(tree):
    sequence = records_of(os.fsencode(tree))
    real = os.stat

    def swap(path, **kwargs):
        found = real(path, **kwargs)
        if path == b"nothing":
            (tree / "nothing").unlink()
            (tree / "nothing").mkdir()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", swap)
        with pytest.raises(Error, match="tree/nothing' changed"):
            list(sequence)


def test_errors_contain_the_whole_path(tree, where, monkeypatch):
    sequence = records_of(os.fsencode(tree))
    for record in sequence:
        if record[:2] == ["dir", b"er"]:
            (tree / "deep" / "er" / "file").unlink()
            (tree / "deep" / "er" / "file").symlink_to("x")
            monkeypatch.setattr(os, "readlink", lambda *a, **k: os.stat("/no/such/file"))
            break
    with pytest.raises(FileNotFoundError, match="tree/deep/er/file"):
        list(sequence)

    def fail(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.undo()
    for function, path in (("write", "g/d/f"), ("fchmod", "g/d/f"), ("symlink", "g/d/l")):
        with pytest.raises(PermissionError, match=path):
            with Sink(os.fsencode(where / "g"), Attributes()) as sink:
                for record in (DIR, ["dir", b"d", {}]):
                    sink.feed(record)
                with monkeypatch.context() as patch:
                    patch.setattr(os, function, fail)
                    for record in (["file", b"f", {}, 0], b"x", ["end", 1, SHA_OF_X]):
                        sink.feed(record)
                    sink.feed(["link", b"l", b"t", {}])
    with pytest.raises(PermissionError, match="g/d'"):
        with Sink(os.fsencode(where / "g"), Attributes()) as sink:
            for record in (DIR, ["dir", b"d", {}]):
                sink.feed(record)
            with monkeypatch.context() as patch:
                patch.setattr(os, "fchmod", fail)
                sink.feed(["up"])
    assert os.listdir(str(where)) == []


@pytest.mark.parametrize("part", [7, "text", [], [1], [-1, b""], [True, b""], [1, "x"], [9, b"x"]])
def test_an_invalid_part(tmp_path, part):
    (tmp_path / "f").write_bytes(b"abc")
    assert next(iter(records_of(os.fsencode(tmp_path / "f"), part)))[3] == 0


def test_closing_the_sequence_closes_all_descriptors(tree):
    sequence = records_of(os.fsencode(tree))
    for record in sequence:
        if type(record) is bytes:
            break
    sequence.close()  # nothing_open checks the descriptors


# ---- invalid destinations


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        ("no/such/g", FileNotFoundError, "does not exist; create it first"),
        ("file/g", NotADirectoryError, "file"),
        ("dir", Error, "is a directory; add the name of the file or tree"),
        ("dir/", Error, "is a directory"),
        (".", Error, "is a directory"),
        ("dir/..", Error, "is a directory"),
        ("fifo", Error, "exists and is a fifo, which is not replaced"),
    ],
)
def test_invalid_destinations(where, target, error, text):
    (where / "file").write_bytes(b"")
    (where / "dir").mkdir()
    os.mkfifo(str(where / "fifo"))
    with pytest.raises(error, match=text):
        Sink(os.fsencode(str(where) + "/" + target), Attributes())
    assert sorted(os.listdir(str(where))) == ["dir", "fifo", "file"]


def test_a_tree_replaces_nothing(tree, where):
    (where / "file").write_bytes(b"")
    (where / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(Error, match="exists and is a .* not replaced"):
            copy(tree, where / name)
    assert sorted(os.listdir(str(where))) == ["file", "link"]


def test_a_directory_created_during_the_transfer(tree, where, tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    for source in (tree, tmp_path / "f"):
        with pytest.raises(Error, match="is a directory"):
            with Sink(os.fsencode(where / "g"), Attributes()) as sink:
                for record in records_of(os.fsencode(source)):
                    sink.feed(record)
                (where / "g").mkdir()
                sink.finish()
        (where / "g").rmdir()
        assert os.listdir(str(where)) == []


# ---- transfers that end early


def test_an_early_end_leaves_no_files(tree, where):
    (tree / "empty").chmod(0o500)
    total = sum(1 for _ in records_of(os.fsencode(tree)))
    for end in range(total + 1):
        with Sink(os.fsencode(where / "copy"), Attributes()) as sink:
            for _, record in zip(range(end), records_of(os.fsencode(tree))):
                sink.feed(record)
            if end < total:
                with pytest.raises(Error, match="ended early"):
                    sink.finish()
        assert os.listdir(str(where)) == [], end
        assert not sink.complete or end == total


def test_an_interrupt_leaves_no_files(tree, where):
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            with Sink(os.fsencode(where / "copy"), Attributes()) as sink:
                for record in records_of(os.fsencode(tree)):
                    sink.feed(record)
                    if type(record) is bytes:
                        raise error()
        assert os.listdir(str(where)) == []


def test_a_full_disk_leaves_no_files(tmp_path, where, monkeypatch):
    (tmp_path / "f").write_bytes(os.urandom(10))

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        copy(tmp_path / "f", where / "g")
    monkeypatch.undo()
    assert os.listdir(str(where)) == []


# ---- misbehaving senders


SHA_OF_X = hashlib.sha256(b"x").digest()
FILE = ["file", b"", {}, 0]
DIR = ["dir", b"", {}]
META = {"mode": 0o644, "size": 1, "mtime": 1, "atime": 1}
INVALID = [
    [None],
    [[]],
    ["file"],
    [b"bytes first"],
    [["file", b"", {}]],
    [["file", "text", {}, 0]],
    [["file", b"", {}, -1]],
    [["file", b"", {}, True]],
    [["file", b"", {"mode": "x"}, 0]],
    [["file", b"", {"other": 1}, 0]],
    [["file", b"", {"mtime": 1 << 64, "atime": 1, "mode": 1, "size": 1}, 0]],
    [["file", b"", {"mtime": 1}, 0], ["end", 0, 0]],
    [["what", b""]],
    [["up"]],
    [["end", 0, 0]],
    [["link", b"", b"target", {}]],
    [FILE, FILE],
    [FILE, ["up"]],
    [FILE, ["end", 1, b""]],
    [FILE, b"x", ["end", 1, b"\0" * 32]],
    [FILE, ["end", 0, Sha256().value()], FILE],
    [DIR, ["up"], ["up"]],
    [DIR, ["up"], DIR],
    [DIR, b"x"],
    [DIR, ["end", 0, 0]],
    [DIR, ["file", b"f", {}, 5]],
    [["file", b"", {}, 5]],
    [DIR, ["dir", b"d", {}], ["dir", b"..", {}]],
]
NAMES = [b"", b".", b"..", b"../x", b"/etc/passwd", b"a/b", b"nul\0", b"/"]
INVALID += [[DIR, ["file", name, {}, 0]] for name in NAMES]
INVALID += [[DIR, ["dir", name, {}]] for name in NAMES]
INVALID += [[DIR, ["link", name, b"t", {}]] for name in NAMES]


@pytest.mark.parametrize("records", INVALID, ids=repr)
def test_invalid_records_are_an_error_and_leave_no_files(where, records):
    with pytest.raises((Error, OSError)), Sink(os.fsencode(where / "g"), Attributes()) as sink:
        for record in records:
            sink.feed(record)
        sink.finish()
    assert os.listdir(str(where)) == []
    assert os.listdir(str(where.parent)) == ["where"]


@pytest.mark.parametrize("again", ["file", "dir", "link"])
def test_a_received_symlink_is_not_followed(where, tmp_path, again):
    """The classic attack: a symlink out of the tree, then a record for a file below its name."""
    (tmp_path / "victim").mkdir()
    rest = {
        "file": ["file", b"l", {}, 0],
        "dir": ["dir", b"l", {}],
        "link": ["link", b"l", b"x", {}],
    }
    with pytest.raises(OSError), Sink(os.fsencode(where / "g"), Attributes()) as sink:
        sink.feed(DIR)
        sink.feed(["link", b"l", os.fsencode(tmp_path / "victim"), {}])
        sink.feed(rest[again])
    assert os.listdir(str(tmp_path / "victim")) == []
    assert os.listdir(str(where)) == []


def test_removing_follows_no_symlinks(where, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_bytes(b"")
    with Sink(os.fsencode(where / "g"), Attributes()) as sink:
        sink.feed(DIR)
        sink.feed(["link", b"l", os.fsencode(tmp_path / "victim"), {}])
    assert (tmp_path / "victim" / "file").exists()
    assert os.listdir(str(where)) == []


# ---- resuming


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(5 * CHUNK + 3))
    return path


def interrupt(source, target, chunks):
    """Receive this many chunks, then stop; return the state of the partial file."""
    with Sink(os.fsencode(target), Attributes(), True) as sink:
        for record in records_of(os.fsencode(source), sink.part()):
            sink.feed(record)
            if type(record) is bytes:
                chunks -= 1
            if not chunks:
                break
    with Sink(os.fsencode(target), Attributes(), True) as sink:
        return sink.part()


def test_resume(large, where):
    part = interrupt(large, where / "g", 2)
    assert os.listdir(str(where)) == [".g.part"]
    assert stat.S_IMODE((where / ".g.part").stat().st_mode) == 0o600
    assert part[0] == 2 * CHUNK
    seen = copy(large, where / "g", True, part)
    assert seen[0][3] == 2 * CHUNK
    assert sum(each for each in seen if isinstance(each, int)) == 3 * CHUNK + 3
    assert (where / "g").read_bytes() == large.read_bytes()
    assert os.listdir(str(where)) == ["g"]


def test_resume_twice_and_at_the_end(large, where):
    interrupt(large, where / "g", 1)
    part = interrupt(large, where / "g", 1)
    assert part[0] == 2 * CHUNK
    part = interrupt(large, where / "g", 4)
    assert part[0] == large.stat().st_size
    seen = copy(large, where / "g", True, part)
    assert not [each for each in seen if isinstance(each, int)]
    assert (where / "g").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("other", [b"", b"short", bytes(6 * CHUNK)])
def test_resume_with_another_file_starts_again(large, where, tmp_path, other):
    part = interrupt(large, where / "g", 2)
    (tmp_path / "other").write_bytes(other)
    copy(tmp_path / "other", where / "g", True, part)
    assert (where / "g").read_bytes() == other
    assert os.listdir(str(where)) == ["g"]


def test_a_partial_file_of_another_size(large, where):
    part = interrupt(large, where / "g", 2)
    os.truncate(str(where / ".g.part"), 7)
    with pytest.raises(Error, match="not the one that the sender continues"):
        copy(large, where / "g", True, part)


def test_a_partial_file_with_a_wrong_checksum_is_removed(large, where):
    part = interrupt(large, where / "g", 2)
    with pytest.raises(Error, match="differs from the data that was sent"):
        with Sink(os.fsencode(where / "g"), Attributes(), True) as sink:
            sink.feed(["file", b"", {}, part[0]])
            sink.feed(b"x")
            sink.feed(["end", part[0] + 1, b"\0" * 32])
    assert os.listdir(str(where)) == []


def test_an_empty_partial_file_is_removed(where):
    with Sink(os.fsencode(where / "g"), Attributes(), True) as sink:
        sink.feed(FILE)
        assert sink.part() == (0, Sha256().value())
    assert os.listdir(str(where)) == []


def test_a_partial_file_of_another_account(where, tmp_path):
    def begin():
        with Sink(os.fsencode(where / "g"), Attributes(), True) as sink:
            sink.feed(FILE)

    (tmp_path / "victim").write_bytes(b"x")
    (where / ".g.part").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        begin()
    (where / ".g.part").unlink()
    os.link(str(tmp_path / "victim"), str(where / ".g.part"))
    with pytest.raises(Error, match="not a partial file of a transfer"):
        begin()
    (where / ".g.part").unlink()
    os.mkfifo(str(where / ".g.part"))
    with pytest.raises(Error, match="not a partial file of a transfer"):
        begin()
    assert (tmp_path / "victim").read_bytes() == b"x"
    if ROOT:
        (where / ".g.part").unlink()
        (where / ".g.part").write_bytes(b"")
        os.chown(str(where / ".g.part"), 1, 1)
        with pytest.raises(Error, match="belongs to another account"):
            begin()


def test_concurrent_transfers(where, large):
    interrupt(large, where / "g", 1)
    with (where / ".g.part").open("rb") as fp:
        fcntl.flock(fp, fcntl.LOCK_EX)
        with pytest.raises(Error, match="another transfer is in progress"):
            copy(large, where / "g", True)
    assert (where / ".g.part").exists()


def test_trees_cannot_be_resumed(tree, where):
    with pytest.raises(Error, match="single files, not for trees"):
        copy(tree, where / "copy", True)
    assert os.listdir(str(where)) == []


# ---- file objects


def test_file_objects(where):
    data = os.urandom(2 * CHUNK + 1)
    source, out = io.BytesIO(b"skipped" + data), io.BytesIO()
    source.seek(7)
    sink = ObjectSink(out)
    for record in file_records.records_of_object(source):
        sink.feed(record)
    sink.finish()
    assert out.getvalue() == data


def test_a_file_object_that_returns_more_than_requested():
    class Generous:
        given = [bytearray(3 * CHUNK), memoryview(b"abc"), b""]

        def read(self, size):
            return self.given.pop(0)

    chunks = [each for each in file_records.records_of_object(Generous()) if type(each) is bytes]
    assert [len(each) for each in chunks] == [CHUNK] * 3 + [3]


@pytest.mark.parametrize("fp", [io.StringIO("text"), type("N", (), {"read": lambda s, n: None})()])
def test_a_file_object_without_bytes(fp):
    with pytest.raises(TypeError, match="must return bytes"):
        list(file_records.records_of_object(fp))


@pytest.mark.parametrize(
    "records",
    [
        [DIR],
        [b"x"],
        [["end", 0, None]],
        [FILE, FILE],
        [FILE, ["end", 1, 0]],
        [FILE],
        [],
        [["file"]],
    ],
    ids=repr,
)
def test_a_file_object_receives_one_file(records):
    with pytest.raises(Error), ObjectSink(io.BytesIO()) as sink:
        for record in records:
            sink.feed(record)
        sink.finish()


# ---- names that another account exchanges


class Exchange:
    """Exchanges a directory for a symlink to `victim`, just before the nth system call."""

    CALLS = ("stat", "open", "chmod", "chown", "listdir", "unlink", "rmdir", "scandir", "mkdir")

    def __init__(self, monkeypatch, count, path, victim):
        self.left = count
        self.path = path
        self.victim = victim
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self.before(getattr(os, name)))

    def before(self, call):
        def wrapped(*args, **kwargs):
            self.left -= 1
            if self.left == 0 and self.path.is_dir():
                self.path.rename(self.path.with_name("moved"))
                self.path.symlink_to(self.victim)
            return call(*args, **kwargs)

        return wrapped


def state_of(path):
    return sorted((str(each), each.stat().st_mode) for each in [path, *path.rglob("*")])


@pytest.mark.parametrize("count", range(1, 20))
@pytest.mark.parametrize("closed", [False, True])
def test_the_removal_of_a_tree_touches_nothing_outside(tmp_path, monkeypatch, count, closed):
    victim = tmp_path / "victim"
    (victim / "dir").mkdir(parents=True)
    (victim / "dir" / "file").touch()
    victim.chmod(0o750)
    tree = tmp_path / "at" / "tree"
    (tree / "dir" / "below").mkdir(parents=True)
    (tree / "dir" / "file").touch()
    before = state_of(victim)
    with monkeypatch.context() as patched:
        if closed:
            # As for an account other than root.
            real = os.open
            refused = [PermissionError(13, "refused")]

            def refuse(name, *args, **kwargs):
                if name == b"dir" and refused:
                    raise refused.pop()
                return real(name, *args, **kwargs)

            patched.setattr(os, "open", refuse)
            # Only then may the mode be changed by anything but a descriptor.
            patched.setattr(os, "supports_follow_symlinks", set())
        Exchange(patched, count, tree / "dir", victim)
        fd = os.open(str(tmp_path / "at"), os.O_RDONLY)
        try:
            file_records._remove(b"tree", fd)
        finally:
            os.close(fd)
    assert state_of(victim) == before


def test_a_tree_with_another_directory_under_its_name_is_left_alone(tmp_path):
    sink = Sink(os.fsencode(tmp_path / "x"), Attributes())
    sink.feed(["dir", b"", {}])
    (found,) = tmp_path.iterdir()
    found.rename(tmp_path / "moved")
    found.mkdir()
    (found / "kept").touch()
    sink.close()
    assert (found / "kept").exists()


def test_a_root_that_is_exchanged_as_it_is_made_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    mkdir = os.mkdir

    def exchange(name, mode, dir_fd):
        mkdir(name, mode, dir_fd=dir_fd)
        os.rmdir(name, dir_fd=dir_fd)
        other.rename(tmp_path / os.fsdecode(name))

    with Sink(os.fsencode(tmp_path / "x"), Attributes()) as sink:
        monkeypatch.setattr(os, "mkdir", exchange)
        with pytest.raises(Error, match="another program exchanged"):
            sink.feed(["dir", b"", {}])
    (found,) = tmp_path.iterdir()
    assert (found / "kept").exists()


def test_a_temporary_name_that_became_a_directory_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    with Sink(os.fsencode(tmp_path / "x"), Attributes()) as sink:
        sink.feed(["file", b"", {}, 0])
        (found,) = tmp_path.iterdir()
        found.unlink()
        found.mkdir()
        (found / "kept").touch()
    assert (found / "kept").exists()
