"""The built-in SFTP server with the usual programs: sftp, scp, sshfs.

Rules: OpenSSH's own sftp-server is the reference. Each test runs against both, in two equal trees,
and compares replies and resulting files. Unavoidable differences are removed by `without_accidents`
or `normalized`.
"""

import contextlib
import filecmp
import os
import pathlib
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Union

import pytest

import mitogen.master
from mitogen import sftp
from mitogen.sftp import requests
from mitogen.sftp.packets import Attrs, Fields, OpenFlags, Packet, Status
from tests import checkout, hosts, processes
from tests.checkout import ROOT

SOON = 60.0
NATIVE = next(
    (
        path
        for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
        if os.path.exists(path)
    ),
    None,
)
#: Seconds since 1970 for every file of a tree, long enough ago that listings show the year.
LONG_AGO = 1000000000
DATA = bytes(range(256)) * 5000

pytestmark = pytest.mark.skipif(
    not (NATIVE and hosts.program("sftp")), reason="needs OpenSSH's sftp and sftp-server"
)


def make_tree(base: pathlib.Path) -> pathlib.Path:
    """Make base/local and base/remote, the programs' directories; return *base*."""
    remote, local = base / "remote", base / "local"
    for directory in (remote / "d/e", remote / "empty", local / "tree/sub/deep", local / "none"):
        directory.mkdir(parents=True)
    (remote / "f").write_bytes(DATA)
    (remote / "d/small").write_text("small")
    (remote / "d/e/mode").write_text("mode")
    (remote / "d/e/mode").chmod(0o640)
    (remote / "name with space").write_text("space")
    (remote / "half").write_bytes(DATA[:70000])
    (remote / "link").symlink_to("f")
    (remote / "to-d").symlink_to("d")
    (remote / "dangling").symlink_to("nothing")
    (remote / "loop").symlink_to("loop")
    (local / "half").write_bytes(DATA[:70000])
    (local / "whole").write_bytes(DATA)
    (local / "tree/one").write_bytes(DATA[:1000])
    (local / "tree/sub/deep/two").write_bytes(DATA[:99999])
    (local / "tree/sub/deep/two").chmod(0o755)
    (local / "tree/link").symlink_to("one")
    for n in range(120):
        (local / "tree/sub/{:03d}".format(n)).write_text(str(n))
    for path in sorted(base.rglob("*"), reverse=True):
        os.utime(str(path), (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return base


def what_is_there(base: pathlib.Path) -> dict[str, tuple[Any, ...]]:
    """Return everything below *base*, by path; times only if they are not of this run."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(base.rglob("*")):
        status = path.lstat()
        content: Union[str, bytes, None] = None
        if path.is_symlink():
            content = os.readlink(str(path))
        elif path.is_file() and os.access(str(path), os.R_OK):
            content = path.read_bytes()
        recent = status.st_mtime > time.time() - 1000
        found[str(path.relative_to(base))] = (
            status.st_mode,
            (status.st_uid, status.st_gid),
            0 if recent else int(status.st_mtime),
            status.st_nlink,
            content,
        )
    return found


class Server:
    """An SFTP server; *path* is a program that ignores its arguments."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Server]:
    """Return {"native", "ours", "3.6"}; the last, if possible, has a child's sources."""
    directory = tmp_path_factory.mktemp("servers")
    pythons = {"ours": (sys.executable, ROOT)}
    if (3, 6) in hosts.find_pythons():
        pythons["3.6"] = hosts.find_pythons()[3, 6], checkout.write_as_sent(directory / "sent")
    found = {"native": "exec {}".format(NATIVE)}
    for name, (python, path) in pythons.items():
        found[name] = "PYTHONPATH={} exec {} -m mitogen.sftp".format(path, python)
    for name, command in found.items():
        (directory / name).write_text("#!/bin/sh\n{}\n".format(command))
        (directory / name).chmod(0o755)
    return {name: Server(name, str(directory / name)) for name in found}


@pytest.fixture(params=["ours", "3.6"])
def pair(
    request: pytest.FixtureRequest, servers: dict[str, Server], tmp_path: pathlib.Path
) -> list[tuple[Server, pathlib.Path]]:
    """Return [(the native server, its tree), (ours, its tree)]."""
    if request.param not in servers:
        pytest.skip("needs a Python 3.6 (pyenv or PATH)")
    names = {"native": "native", request.param: "opened"}  # names of equal length
    return [(servers[name], make_tree(tmp_path / where)) for name, where in names.items()]


# ---- requests, byte for byte


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def s(value: bytes) -> bytes:
    return u32(len(value)) + value


class Raw:
    """A client of one session; it keeps the handles that it receives."""

    def __init__(self, server: Server, tree: pathlib.Path, user: Optional[int] = None) -> None:
        who: dict[str, Any] = (
            {} if user is None else {"user": user, "group": user, "extra_groups": []}
        )
        self.child = subprocess.Popen(
            [server.path],
            cwd=str(tree / "remote"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **who,
        )
        self.tree = os.fsencode(tree)
        self.handles: list[bytes] = []
        self.send(bytes([Packet.INIT]) + u32(3))
        assert self.reply()[0] == Packet.VERSION

    def send(self, packet: bytes) -> None:
        assert self.child.stdin
        self.child.stdin.write(s(packet))
        self.child.stdin.flush()

    def reply(self) -> bytes:
        assert self.child.stdout
        return self.child.stdout.read(struct.unpack(">I", self.child.stdout.read(4))[0])

    def ask(self, kind: int, *fields: Union[bytes, int]) -> Any:
        """Return the normalized reply; an integer field stands for the handle with that index."""
        # A refused open yields an invalid handle.
        known = dict(enumerate(self.handles))
        parts = [s(known.get(each, b"")) if isinstance(each, int) else each for each in fields]
        self.send(bytes([kind]) + u32(77) + b"".join(parts))
        reply = self.reply()
        assert reply[1:5] == u32(77)
        if reply[0] == Packet.HANDLE:
            self.handles.append(Fields(memoryview(reply)[5:]).string())
        return normalized(reply, self.tree)

    def end(self) -> int:
        assert self.child.stdin and self.child.stdout
        self.child.stdin.close()
        assert self.child.stdout.read() == b""
        self.child.stdout.close()
        return self.child.wait(SOON)


def attributes(fields: Fields) -> tuple[Any, ...]:
    given = fields.attrs()
    if given.flags != Attrs.OF_FILE:
        return (given.flags,)
    assert given.times and given.permissions
    times = [0 if each > time.time() - 1000 else each for each in given.times]
    size = 0 if stat.S_ISDIR(given.permissions) else given.size
    # The access time depends on who read the file first: tests, kernel (for a symlink) or server.
    read = 0 if times[0] == LONG_AGO or stat.S_ISLNK(given.permissions) else times[0]
    return (size, given.owner, given.permissions, read, times[1])


RECENT = re.compile(rb"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d")


def normalized(reply: bytes, tree: bytes) -> Any:
    """Return a reply without differences between two trees or between two moments."""
    fields = Fields(memoryview(reply))
    kind = fields.u8()
    fields.u32()
    if kind == Packet.HANDLE:
        return (kind,)
    if kind == Packet.ATTRS:
        return (kind, attributes(fields))
    if kind == Packet.NAME:
        entries = []
        for _ in range(fields.u32()):
            name, line, given = fields.string(), fields.string(), attributes(fields)
            if given[-1:] and line.startswith(b"d"):
                line = re.sub(rb" +\d+ (\w{3} )", rb" SIZE \1", line)  # of a directory
            entries.append((name, RECENT.sub(b"NOW", line), given))
        return (
            kind,
            sorted((a.replace(tree, b"T"), b.replace(tree, b"T"), c) for a, b, c in entries),
        )
    return (kind, bytes(reply[5:]))


def attrs(flags: int, *parts: bytes) -> bytes:
    return u32(flags) + b"".join(parts)


def all_requests() -> Iterator[tuple[Union[int, bytes], ...]]:
    """Yield (type, fields) of every request of the protocol, valid and invalid."""
    none = attrs(0)
    yield Packet.OPEN, s(b"f"), u32(OpenFlags.READ), none
    yield Packet.OPENDIR, s(b".")
    names = [b".", b"", b"..", b"f", b"d", b"link", b"to-d", b"dangling", b"loop", b"missing"]
    names += [b"f/x", b"missing/x", b"d/", b"f/", b"missing/", b"d/../f", b"./d//e", b"to-d/e"]
    names += [b"x" * 256, b"y" * 5000, b"\xff", b"/", b"/etc/../tmp", b"link/..", b"to-d/.."]
    for name in names:
        for kind in (Packet.STAT, Packet.LSTAT, Packet.REALPATH, Packet.READLINK, Packet.REMOVE):
            if kind != Packet.REMOVE or name in (b"", b"missing", b"f/x", b"d", b"x" * 256):
                yield kind, s(name)
        for flags in (OpenFlags.READ, OpenFlags.WRITE, 0):
            if name != b"/":
                yield Packet.OPEN, s(name), u32(flags), none
    yield from openings(none)
    yield from on_handles(none)
    yield from changes()
    yield from naming(none)
    yield from extensions()


def openings(none: bytes) -> Iterator[tuple[Union[int, bytes], ...]]:
    new = OpenFlags.WRITE | OpenFlags.CREAT
    for flags in (new | OpenFlags.EXCL, new | OpenFlags.TRUNC, new | OpenFlags.APPEND):
        for name in (b"f", b"fresh%d" % flags, b"dangling", b"missing/x", b""):
            yield Packet.OPEN, s(name), u32(flags), none
    for mode in (0, 0o600, 0o4777, 0o100644):
        yield Packet.OPEN, s(b"mode%o" % mode), u32(new), attrs(Attrs.PERMISSIONS, u32(mode))
        yield Packet.STAT, s(b"mode%o" % mode)


def on_handles(none: bytes) -> Iterator[tuple[Union[int, bytes], ...]]:
    """Yield requests on Raw's first two handles, and on handles that do not exist."""
    yield Packet.READ, 1, u64(0), u32(10)
    yield Packet.FSTAT, 1
    yield Packet.FSETSTAT, 1, none
    yield Packet.EXTENDED, s(b"fstatvfs@openssh.com"), 1
    for offset in (0, 5, 100, len(DATA) - 3, len(DATA), 1 << 40, 1 << 63, (1 << 64) - 1):
        for size in (0, 1, 100, 1 << 18, (1 << 32) - 1):
            yield Packet.READ, 0, u64(offset), u32(size)
    yield Packet.WRITE, 0, u64(0), s(b"read only")
    yield Packet.FSTAT, 0
    yield Packet.FSETSTAT, 0, attrs(Attrs.PERMISSIONS, u32(0o170601))
    yield Packet.FSETSTAT, 0, attrs(Attrs.SIZE, u64(3))
    yield Packet.READDIR, 0
    for handle in (s(b""), s(b"nonsense"), s(u32(4000))):
        yield Packet.READ, handle, u64(0), u32(1)
        yield Packet.WRITE, handle, u64(0), s(b"x")
        yield Packet.CLOSE, handle
        yield Packet.FSTAT, handle
        yield Packet.FSETSTAT, handle, none
        yield Packet.READDIR, handle
        for name in (b"fstatvfs@openssh.com", b"fsync@openssh.com"):
            yield Packet.EXTENDED, s(name), handle
    yield Packet.EXTENDED, s(b"fsync@openssh.com"), 0
    yield Packet.CLOSE, 0
    yield Packet.CLOSE, 0
    yield Packet.READ, 0, u64(0), u32(1)


def changes() -> Iterator[tuple[Union[int, bytes], ...]]:
    some = [
        attrs(0),
        attrs(Attrs.SIZE, u64(5)),
        attrs(Attrs.SIZE, u64(1 << 63)),
        attrs(Attrs.PERMISSIONS, u32(0o177751)),
        attrs(Attrs.ACMODTIME, u32(5), u32(1000000)),
        attrs(Attrs.UIDGID, u32(12), u32(34)),
        attrs(Attrs.UIDGID, u32((1 << 32) - 1), u32((1 << 32) - 1)),
        attrs(Attrs.SIZE | Attrs.PERMISSIONS, u64(1 << 63), u32(0o600)),
        attrs(Attrs.EXTENDED | Attrs.PERMISSIONS, u32(0o640), u32(1), s(b"a"), s(b"b")),
        attrs(0x40, b"more"),
    ]
    for given in some:
        for name in (b"f", b"d", b"link", b"dangling", b"missing", b""):
            yield Packet.SETSTAT, s(name), given
            yield Packet.EXTENDED, s(b"lsetstat@openssh.com"), s(name), given
            yield Packet.LSTAT, s(name)
    # Without search permission on the directory its entries cannot be compared.
    yield Packet.SETSTAT, s(b"d"), attrs(Attrs.PERMISSIONS, u32(0o755))


def naming(none: bytes) -> Iterator[tuple[Union[int, bytes], ...]]:
    for name in (b"new", b"new", b"f", b"missing/x", b"", b"x" * 256):
        yield Packet.MKDIR, s(name), attrs(Attrs.PERMISSIONS, u32(0o41750))
        yield Packet.STAT, s(name)
    for name in (b"new", b"new", b"f", b"d", b"to-d", b"", b"."):
        yield Packet.RMDIR, s(name)
    pairs = [(b"f", b"link"), (b"f", b"f"), (b"f", b"d"), (b"f", b"f2"), (b"d", b"empty")]
    pairs += [(b"d", b"d/x"), (b"missing", b"x"), (b"", b"x"), (b"f2", b""), (b"link", b"link2")]
    pairs += [(b"d", b"d2"), (b"empty", b"dangling"), (b"dangling", b"dangling2"), (b"d2", b"f2")]
    for old, new in pairs:
        yield Packet.RENAME, s(old), s(new)
        yield Packet.SYMLINK, s(old), s(b"to-" + new)
        yield Packet.READLINK, s(b"to-" + new)
        yield Packet.EXTENDED, s(b"hardlink@openssh.com"), s(old), s(b"hard-" + new)
    for old, new in pairs:
        yield Packet.EXTENDED, s(b"posix-rename@openssh.com"), s(new), s(old)
    yield Packet.SYMLINK, s(b""), s(b"x")
    yield Packet.SYMLINK, s(b"x"), s(b"")
    yield Packet.OPENDIR, s(b"missing")
    yield Packet.OPENDIR, s(b"f")
    yield Packet.OPENDIR, s(b"")


def extensions() -> Iterator[tuple[Union[int, bytes], ...]]:
    for name in (b"", b".", b"~", b"~/", b"~/d", b"~root", b"~no_such_user", b"~root/x/y", b"d/~"):
        yield Packet.EXTENDED, s(b"expand-path@openssh.com"), s(name)
    yield Packet.EXTENDED, s(b"statvfs@openssh.com"), s(b"missing")
    yield Packet.EXTENDED, s(b"nonsense@example.com")


def compare(native: Raw, ours: Raw) -> None:
    different = []
    for row in all_requests():
        kind, fields = row[0], row[1:]
        assert isinstance(kind, int)
        expected, got = native.ask(kind, *fields), ours.ask(kind, *fields)
        if expected != got:
            different.append("{}: {} and not {}".format(row, got, expected))
    assert (native.end(), ours.end()) == (0, 0)
    assert not different, "\n".join(different)


def test_the_same_replies_as_sftp_server(pair: list[tuple[Server, pathlib.Path]]) -> None:
    compare(*[Raw(server, tree) for server, tree in pair])
    assert what_is_there(pair[0][1]) == what_is_there(pair[1][1])


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o755, 0o700, 0o1777])
def test_the_same_refusals_as_sftp_server(hosts_directory: pathlib.Path, mode: int) -> None:
    """Use root's files as an unprivileged account."""
    base = hosts_directory / "sftp{:o}".format(mode)
    base.mkdir()
    bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(str(ROOT / "mitogen"), str(base / "mitogen"), ignore=bytecode)
    program = base / "ours"
    program.write_text(
        "#!/bin/sh\nPYTHONPATH={} exec /usr/bin/python3 -B -m mitogen.sftp".format(base)
    )
    program.chmod(0o755)
    assert NATIVE
    servers = {"native": Server("native", NATIVE), "opened": Server("ours", str(program))}
    sessions = []
    for name, server in servers.items():
        tree = make_tree(base / name)
        sessions.append(Raw(server, tree, 65534))
        (tree / "remote").chmod(mode)
    compare(*sessions)
    assert what_is_there(base / "native") == what_is_there(base / "opened")
    shutil.rmtree(str(base))


def list_all(raw: Raw, name: bytes) -> list[Any]:
    assert raw.ask(Packet.OPENDIR, s(name)) == (Packet.HANDLE,)
    found = []
    while True:
        kind, answer = raw.ask(Packet.READDIR, len(raw.handles) - 1)
        if kind == Packet.STATUS:
            assert answer[:4] == u32(Status.EOF)
            return sorted(found)
        found += answer


def test_the_same_listings_as_sftp_server(pair: list[tuple[Server, pathlib.Path]]) -> None:
    for _, tree in pair:
        os.mkfifo(str(tree / "remote/fifo"))
        (tree / "remote/big").touch()
        os.truncate(str(tree / "remote/big"), 1 << 40)
        for n in range(0o1000, 0o10000, 0o777):
            path = tree / "remote/mode{:o}".format(n)
            path.touch()
            path.chmod(n)
            if not os.geteuid():
                os.chown(str(path), n, 4294900000 + n)
        # Years ago, half a year ago, in the future, before 1970.
        now = int(time.time())
        for n, when in enumerate((0, -5, now - 15700000, now - 15800000, now + 5000, 1 << 31)):
            path = tree / "remote/when{}".format(n)
            path.touch()
            os.utime(str(path), (when, when))
        for device in ("null", "zero") if not os.geteuid() else ():
            info = os.stat("/dev/" + device)
            os.mknod(str(tree / "remote" / device), info.st_mode, info.st_rdev)
        for path in tree.rglob("*"):
            if not path.name.startswith("when"):
                os.utime(str(path), (LONG_AGO, LONG_AGO), follow_symlinks=False)
    native, ours = [Raw(server, tree) for server, tree in pair]
    for name in (b".", b"d", b"to-d", b"empty", b"../local/tree/sub"):
        assert list_all(ours, name) == list_all(native, name), name
    assert (native.end(), ours.end()) == (0, 0)


def test_the_same_space_and_copies_as_sftp_server(pair: list[tuple[Server, pathlib.Path]]) -> None:
    """Varying values are left out; copy-data past the end is described in sftp.rst."""
    answers = []
    for server, tree in pair:
        raw = Raw(server, tree)
        body = raw.ask(Packet.EXTENDED, s(b"statvfs@openssh.com"), s(b"."))[1]
        numbers = struct.unpack(">11Q", body)
        fsid = numbers[8] if server.name != "3.6" else None  # Python has it since 3.7
        limits = raw.ask(Packet.EXTENDED, s(b"limits@openssh.com"))[1]
        replies = [numbers[:3], numbers[5], numbers[9:], struct.unpack(">4Q", limits)[:3]]
        for name, flags in ((b"f", OpenFlags.READ), (b"copy", OpenFlags.WRITE | OpenFlags.CREAT)):
            raw.ask(Packet.OPEN, s(name), u32(flags), attrs(0))
        for offset, size, to in ((0, 0, 0), (7, 5, 3), (9, 1 << 40, 0), (1 << 40, 0, 0)):
            fields = (s(b"copy-data"), 0, u64(offset), u64(size), 1, u64(to))
            replies.append(raw.ask(Packet.EXTENDED, *fields))
        replies.append(raw.ask(Packet.EXTENDED, s(b"copy-data"), 0, u64(0), u64(0), 0, u64(0)))
        answers.append((replies, fsid))
        assert raw.end() == 0
    assert answers[0][0] == answers[1][0]
    assert answers[1][1] in (None, answers[0][1])
    assert what_is_there(pair[0][1]) == what_is_there(pair[1][1])


# ---- sftp

#: Lines for sftp -b; each is tried even if one before it failed.
BATCHES = {
    "look": "pwd\nls\nls -la\nls -1 d\nls -ln d\nls -lh f\nls -lt\nls nothing*\ncd d\nls -la e\n"
    "pwd\ncd missing\nls missing\ncd ..\nls -l 'name with space'\nls -lS\nls -f\nversion",
    "put": "put ../local/whole\nput ../local/whole d/again\nput -p ../local/tree/sub/deep/two\n"
    "put -f ../local/half synced\nput ../local/tree/sub/00* empty\nput ../local/missing\n"
    "put ../local/whole missing/x\nput ../local/whole f\nls -l",
    "get": "lcd ../local\nget f\nget -p d/e/mode kept\nget 'name with space'\nget -f link linked\n"
    "get missing\nget d\nget d/small none\nget dangling\nget d/* none\nls -l",
    "trees": "lcd ../local\nput -rp tree\nls -la tree/sub\nls -la tree/sub/deep\n"
    "get -rp tree back\nget -r d none\nput -r none\nget -r empty\nls -la none\nget -r missing",
    "resume": "lcd ../local\nreput whole half\nreget f half\nput -a whole fresh\n"
    "put whole third\nreput half f\nget -a f third\nreget half whole",
    "names": "rename f g\nrename d dir\nrename g half\nrename missing x\nrename link other\n"
    "rename -l g h\nrename -l h half\nrename dir empty\nmkdir one\nmkdir one/two\nmkdir one\n"
    "mkdir a/b\nrmdir one\nrmdir one/two\nrmdir one\nrm h\nrm h\nrm dir\nrm 'name with space'\n"
    "rm empty/e/*\nrmdir empty/e\nls -la",
    "links": "ln f hard\nln -s f soft\nsymlink d/small soft2\nln missing x\nln -s x soft\n"
    "ls -la\nln -s /absolute soft3\nget soft2 ../local/through",
    "modes": "chmod 600 f\nchmod 4711 half\nchmod 1777 d\nchmod 600 missing\nchmod 400 link\n"
    "chmod -h 400 link\nchmod -h 604 half\nchmod 640 d/e/*\nls -la\nls -la d/e",
    "owners": "chown 12 f\nchgrp 34 half\nchown -h 56 link\nchgrp -h 78 link\nchown 1 missing\n"
    "chown 99 d/*\nls -lan\nls -la",
    "copy": "cp f f2\ncp f d/f\ncp missing x\ncp d e\ncp d/small f\ncp f f\nls -l",
}


def without_accidents(text: bytes, tree: pathlib.Path) -> bytes:
    """Return a program's output without the tree's name and without times of this run."""
    return RECENT.sub(b"NOW", text.replace(os.fsencode(tree), b"TREE"))


def run(argv: Sequence[str], tree: pathlib.Path, batch: str = "") -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        argv,
        cwd=str(tree / "remote"),
        input=batch.encode(),
        capture_output=True,
        timeout=SOON,
        env=dict(os.environ, LC_ALL="C"),
    )
    return (
        done.returncode,
        without_accidents(done.stdout, tree),
        without_accidents(done.stderr, tree),
    )


@pytest.mark.parametrize("batch", list(BATCHES))
def test_sftp_prints_and_does_the_same(pair: list[tuple[Server, pathlib.Path]], batch: str) -> None:
    if batch == "owners" and os.geteuid():
        pytest.skip("needs root: gives files away")
    results = []
    for server, tree in pair:
        for path in tree.rglob("*"):  # read while the other program worked
            os.utime(str(path), (LONG_AGO, LONG_AGO), follow_symlinks=False)
        lines = "".join("-{}\n".format(line) for line in BATCHES[batch].splitlines())
        results.append(run(["sftp", "-D", server.path, "-b", "-"], tree, lines))
    print(*(text.decode("utf-8", "replace") for result in results for text in result[1:]))
    assert results[0] == results[1]
    assert results[1][0] == 0, results[1]
    assert what_is_there(pair[0][1]) == what_is_there(pair[1][1])


def test_sftp_shows_the_space_left(pair: list[tuple[Server, pathlib.Path]]) -> None:
    """Only the sizes are compared, as the free space varies."""
    replies = []
    for server, tree in pair:
        code, out, err = run(["sftp", "-D", server.path, "-b", "-"], tree, "df\ndf -i\n")
        assert (code, err) == (0, b"")
        lines = [line.split() for line in out.splitlines()]
        replies.append([line[0] for line in lines])
    assert replies[0] == replies[1] and len(replies[0]) == 6


@pytest.mark.parametrize("size", ["1", "1000", "65536", "261120"])
@pytest.mark.parametrize("requests", ["1", "64", "1000"])
def test_sftp_may_use_other_buffer_sizes(
    servers: dict[str, Server], tmp_path: pathlib.Path, size: str, requests: str
) -> None:
    tree = make_tree(tmp_path / "tree")
    data = os.urandom(3000 if size == "1" else 3000001)
    (tree / "local/random").write_bytes(data)
    argv = ["sftp", "-B", size, "-R", requests, "-D", servers["ours"].path, "-b", "-"]
    batch = "put ../local/random there\nget there ../local/back\n"
    code, _, err = run(argv, tree, batch)
    assert (code, err) == (0, b"")
    assert (tree / "remote/there").read_bytes() == data
    assert (tree / "local/back").read_bytes() == data


# ---- scp


@pytest.mark.parametrize("options", [[], ["-p"], ["-r"], ["-rp"]])
def test_scp_copies_the_same(pair: list[tuple[Server, pathlib.Path]], options: list[str]) -> None:
    if b"-D" not in subprocess.run(["scp"], capture_output=True).stderr:
        pytest.skip("this scp has no -D")
    results = []
    for server, tree in pair:
        argv = ["scp", *options, "-D", server.path]
        up = ["../local/whole", "../local/tree"] if "r" in "".join(options) else ["../local/whole"]
        results.append(
            [
                run([*argv, *up, "host:empty"], tree),
                run([*argv, "host:f", "host:d/e", "../local/none"], tree),
                run([*argv, "host:missing", "../local"], tree),
                run([*argv, "../local/whole", "host:missing/x"], tree),
            ]
        )
    assert results[0] == results[1]
    assert what_is_there(pair[0][1]) == what_is_there(pair[1][1])
    assert (pair[1][1] / "remote/empty/whole").read_bytes() == DATA


# ---- sshfs


@contextlib.contextmanager
def mounted(server: Server, tree: pathlib.Path) -> Iterator[pathlib.Path]:
    """Mount tree/remote by sshfs and yield the mount point."""
    point = tree / "mounted"
    point.mkdir()
    near, far = socket.socketpair()
    with near, far:
        child = subprocess.Popen([server.path], stdin=far, stdout=far, cwd=str(tree / "remote"))
        argv = ["sshfs", "-f", "-o", "passive", ":", str(point)]
        mount = subprocess.Popen(argv, stdin=near, stdout=near)
    with child, mount:
        try:
            processes.wait_until(lambda: point.is_mount() or mount.poll() is not None, SOON)
            assert point.is_mount(), "sshfs ended with {}".format(mount.returncode)
            yield point
        finally:
            subprocess.run(["fusermount3", "-u", str(point)], check=False)
            mount.wait(SOON)
    assert child.returncode == 0


def test_sshfs_is_a_file_system(servers: dict[str, Server], tmp_path: pathlib.Path) -> None:
    if not hosts.program("sshfs") or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs sshfs and /dev/fuse")
    tree = make_tree(tmp_path / "tree")
    with mounted(servers["ours"], tree) as point:
        use(point, tree)
    remote = tree / "remote"
    assert filecmp.dircmp(str(remote / "copy"), str(tree / "local/tree")).diff_files == []
    assert (remote / "new").read_bytes() == b"JelloTHERE" + bytes(90)
    assert stat.S_IMODE((remote / "new").stat().st_mode) == 0o604
    assert (remote / "new").stat().st_mtime == 12345
    assert os.readlink(str(remote / "soft")) == "new"
    assert (remote / "hard").stat().st_nlink == 2


def use(point: pathlib.Path, tree: pathlib.Path) -> None:
    """Use a file system at *point* as programs do."""
    assert sorted(os.listdir(str(point))) == sorted(os.listdir(str(tree / "remote")))
    assert (point / "f").read_bytes() == DATA
    subprocess.run(["cp", "-a", str(tree / "local/tree"), str(point / "copy")], check=True)
    subprocess.run(["diff", "-r", str(tree / "local/tree"), str(point / "copy")], check=True)
    with open(str(point / "new"), "wb") as fp:
        fp.write(b"hello")
    with open(str(point / "new"), "ab") as fp:
        fp.write(b"THERE")
    with open(str(point / "new"), "r+b") as fp:
        fp.write(b"J")
        os.fsync(fp.fileno())
    os.truncate(str(point / "new"), 100)
    os.chmod(str(point / "new"), 0o604)
    os.utime(str(point / "new"), (12345, 12345))
    os.symlink("new", str(point / "soft"))
    os.link(str(point / "f"), str(point / "hard"))
    os.rename(str(point / "half"), str(point / "link"))  # over an existing file: posix-rename
    assert not (point / "link").is_symlink()
    assert os.statvfs(str(point)).f_blocks == os.statvfs(str(tree)).f_blocks
    shutil.rmtree(str(point / "d"))
    with pytest.raises(FileNotFoundError):
        (point / "missing").read_bytes()
    with pytest.raises(OSError):
        (point / "copy").rmdir()


# ---- in a context; size


def test_the_server_runs_in_a_python_3_6_context(
    own_router: mitogen.master.Router, python36: Any, tmp_path: pathlib.Path
) -> None:
    """Nothing is installed on the target: the server is imported through the connection."""
    tree = make_tree(tmp_path / "tree")
    requests, replies = str(tmp_path / "requests"), str(tmp_path / "replies")
    os.mkfifo(requests)
    os.mkfifo(replies)
    script = tmp_path / "client"
    script.write_text("#!/bin/sh\ncat {} & exec cat > {}\n".format(replies, requests))
    script.chmod(0o755)
    context = own_router.local(python_path=python36)
    # Both ends are opened for reading and writing, so that open() does not wait for the other end.
    ends = [os.open(path, os.O_RDWR) for path in (requests, replies)]
    rfd = context.call(os.open, requests, os.O_RDONLY)
    wfd = context.call(os.open, replies, os.O_WRONLY)
    result = context.call_async(sftp.serve, rfd, wfd, str(tree / "remote"))
    argv = ["sftp", "-D", str(script), "-b", "-"]
    client = subprocess.Popen(
        argv, cwd=str(tree / "local"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with client:
        assert client.stdin
        client.stdin.write(b"put whole\nget f\nput -r tree\nbye\n")
        client.stdin.close()
        processes.wait_until(lambda: (tree / "remote/tree/sub/119").exists(), SOON)
        for fd in ends:
            os.close(fd)
        assert client.wait(SOON) == 0
    assert result.get().unpickle() == 0
    assert (tree / "remote/whole").read_bytes() == (tree / "local/f").read_bytes() == DATA


@pytest.mark.slow
def test_a_directory_of_100_000_entries_is_streamed(
    servers: dict[str, Server], tmp_path: pathlib.Path
) -> None:
    many = tmp_path / "remote"
    many.mkdir()
    for n in range(100000):
        os.mknod(str(many / "entry-{:06d}".format(n)))
    raw = Raw(servers["ours"], tmp_path)
    assert raw.ask(Packet.OPENDIR, s(b".")) == (Packet.HANDLE,)
    seen = set()
    memory = 0
    while True:
        kind, answer = raw.ask(Packet.READDIR, 0)
        if kind == Packet.STATUS:
            break
        assert len(answer) <= requests.BATCH_ENTRIES
        seen.update(entry[0] for entry in answer)
        memory = memory or resident(raw.child.pid)
    assert len(seen) == 100002
    assert resident(raw.child.pid) < memory + 4096
    assert raw.end() == 0


def resident(pid: int) -> int:
    """Return the memory of a process, in KiB."""
    text = pathlib.Path("/proc", str(pid), "status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found
    return int(found.group(1))


def test_a_client_killed_in_a_transfer_ends_the_server(
    servers: dict[str, Server], tmp_path: pathlib.Path
) -> None:
    """The server ends too and closes the file it was writing."""
    tree = make_tree(tmp_path / "tree")
    with open(str(tree / "local/huge"), "wb") as fp:
        fp.truncate(1 << 34)
    client = subprocess.Popen(
        ["sftp", "-q", "-D", servers["ours"].path, "-b", "-"],
        cwd=str(tree / "remote"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    with client:
        assert client.stdin
        client.stdin.write(b"put ../local/huge /dev/null\n")
        client.stdin.flush()
        server = processes.wait_until(lambda: reader_of(client.pid), SOON)
        client.kill()
    processes.wait_until(lambda: not processes.alive(server), SOON, "end of the server")


def reader_of(client: int) -> Optional[int]:
    """Return the pid of *client*'s server, once it has more than stdio open."""
    for each in processes.process_tree(client):
        try:
            if "/dev/null" in [os.readlink(str(link)) for link in fds(each.pid) if link.name > "2"]:
                return each.pid
        except OSError:
            continue
    return None


def fds(pid: int) -> list[pathlib.Path]:
    return list(pathlib.Path("/proc", str(pid), "fd").iterdir())
