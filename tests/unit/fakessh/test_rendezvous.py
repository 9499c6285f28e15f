"""rendezvous.py: the directory, the socket and the connections. The tests act as the stand-in."""

import contextlib
import errno
import os
import shlex
import socket
import stat
import sys
import tempfile
import threading
import types

import pytest
from hypothesis import given, settings, strategies as st

from mitogen import core, unix
from mitogen.fakessh import rendezvous, stand_in
from mitogen.fakessh.rendezvous import Connection, Rendezvous, numbers

SOON = 20.0


class Log:
    """A replacement for a router, which records log lines."""

    def __init__(self):
        self.lines = []

    def log(self, level, fmt, *args):
        self.lines.append(fmt % args)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def make(log, tmp_path, monkeypatch):
    """Return `make(serve)`, which creates a Rendezvous in tmp_path."""
    monkeypatch.setattr(rendezvous, "parent_candidates", lambda: [str(tmp_path)])
    made = []

    def make(serve=lambda connection: connection.end(0)):
        made.append(Rendezvous(serve, log, os.environ["PATH"]))
        return made[-1]

    yield make
    for each in made:
        each.close()
        each.join()
    assert os.listdir(str(tmp_path)) == []


def frame(kind, payload=b""):
    return kind + len(payload).to_bytes(4, "big") + payload


def request(argv=(b"x",), environ=(b"A=1",), terminals=b"000"):
    return frame(b"R", b"\0".join([terminals, b"%d" % len(argv), *argv, *environ]))


def send(sock, data, fds):
    rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else [])


def read_all(sock):
    data = b""
    while True:
        more = sock.recv(65536)
        if not more:
            return data
        data += more


@pytest.fixture
def pair():
    """Return (the test's socket, a Connection)."""
    near, far = socket.socketpair()
    near.settimeout(SOON)
    connection = Connection(far)
    with near:
        yield near, connection
        connection.close()


@pytest.fixture
def pipe():
    rfd, wfd = os.pipe()
    yield rfd, wfd
    for fd in (rfd, wfd):
        try:
            os.close(fd)
        except OSError:
            pass


# ---- connections


def test_request(pair):
    near, connection = pair
    send(near, request([b"-p", b"", b"\xff"], [b"A=1=2", b"B="], b"101"), [0, 1, 2])
    assert connection.take_request()
    assert connection.argv == ["-p", "", "\udcff"]
    assert connection.environ == {"A": "1=2", "B": ""}
    assert connection.terminals == [True, False, True]
    for number, fd in enumerate(connection.fds):
        assert os.path.samestat(os.fstat(number), os.fstat(fd))
        assert not os.get_inheritable(fd)
    fds = list(connection.fds)
    connection.close_fds()
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)


def test_request_in_pieces(pair):
    near, connection = pair
    data = request([b"x"] * 1000)
    send(near, data[:1], [0, 1, 2])
    sending = threading.Thread(target=lambda: [near.sendall(bytes((each,))) for each in data[1:]])
    sending.start()
    assert connection.take_request()
    sending.join()
    assert connection.argv == ["x"] * 1000


@pytest.mark.parametrize(
    "data, fds",
    [
        (request(), []),
        (request(), [0]),
        (frame(b"W", b"1 2 3 4"), [0, 1, 2]),
        (frame(b"R"), [0, 1, 2]),
        (frame(b"R", b"000"), [0, 1, 2]),
        (frame(b"R", b"000\0many"), [0, 1, 2]),
    ],
)
def test_malformed_requests(data, fds, pair):
    near, connection = pair
    send(near, data, fds)
    with pytest.raises(core.Error):
        connection.take_request()


@pytest.mark.parametrize("data", [b"", b"R", request()[:-1], b"R\xff\xff\xff\xff", b"\xff" * 99])
def test_incomplete_requests(data, pair):
    near, connection = pair
    near.sendall(data)
    near.shutdown(socket.SHUT_WR)
    assert not connection.take_request()


@settings(deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_a_request_or_an_error(data, framed):
    near, far = socket.socketpair()
    with near:
        connection = Connection(far)
        near.sendall(frame(b"R", data) if framed else data)
        near.shutdown(socket.SHUT_WR)
        try:
            assert not connection.take_request()
        except core.Error:
            pass
        connection.close()


def test_end_is_sent_once(pair):
    near, connection = pair
    connection.end(300, "bye ä\n")
    connection.end(1, "again")
    assert connection.read() is None
    connection.close()
    assert read_all(near) == frame(b"X", b"\x2c" + "bye ä\n".encode())


def test_long_texts_do_not_block(pair):
    near, connection = pair
    connection.end(1, "x" * 1000000)
    connection.close()
    assert len(read_all(near)) == 5 + 1 + 4000


def test_sending_without_a_reader(pair):
    near, connection = pair
    for _ in range(10000):
        connection.send(b"E", b"x" * 1000)
    near.close()
    connection.send(b"E", b"x")
    connection.end(0)
    connection.disconnect()


def test_disconnect(pair):
    near, connection = pair
    connection.disconnect()
    assert (connection.read(), near.recv(1)) == (None, b"")


def test_print(pair, pipe):
    _, connection = pair
    rfd, wfd = pipe
    connection.fds = [0, wfd, 2]
    connection.print("some text\n")
    assert os.read(rfd, 100) == b"some text\n"
    os.close(rfd)
    connection.print("nobody reads")
    connection.fds = []


def test_print_to_a_non_blocking_descriptor(pair, pipe):
    _, connection = pair
    rfd, wfd = pipe
    os.set_blocking(wfd, False)
    connection.fds = [0, wfd, 2]
    printing = threading.Thread(target=connection.print, args=("x" * 1000000,))
    printing.start()
    size = 0
    while size < 1000000:
        size += len(os.read(rfd, 65536))
    printing.join()
    assert size == 1000000
    connection.fds = []


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("raw, escape, asked", [(True, 126, b"r~"), (False, None, b"c")])
def test_relay_terminal(raw, escape, asked, count, pair, pipe):
    near, connection = pair
    send(near, request(), [0, 1, 2])
    assert connection.take_request()
    send(near, frame(b"K", b"80 24 1 2\0modes \0"), pipe[:count])
    assert connection.relay_terminal(raw, escape) == ([80, 24, 1, 2], b"modes \0")
    assert near.recv(100) == frame(b"T", asked)
    assert len(connection.fds) == 3
    for number in range(3):
        wanted = pipe[number] if number < count else number
        assert os.path.samestat(os.fstat(wanted), os.fstat(connection.fds[number]))


@pytest.mark.parametrize("data", [b"", frame(b"K", b"80 24 0 0\0"), frame(b"W", b"1 2 3 4")])
def test_relay_terminal_without_an_answer(data, pair):
    near, connection = pair
    near.sendall(data)
    near.shutdown(socket.SHUT_WR)
    assert connection.relay_terminal(True, None) is None


@pytest.mark.parametrize(
    "text, found",
    [
        (b"80 24 1 2", [80, 24, 1, 2]),
        (b"", [0, 0, 0, 0]),
        (b"80 -1", [80, 0, 0, 0]),
        (b"a b c d e", [0, 0, 0, 0]),
    ],
)
def test_numbers(text, found):
    assert numbers(text) == found


# ---- a Rendezvous


def connect(found, data=None, fds=(0, 1, 2)):
    """Connect to a Rendezvous as a stand-in; return the data received."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOON)
        sock.connect(os.path.join(found.directory, "socket"))
        # A refused connection may be closed before the request is sent.
        with contextlib.suppress(BrokenPipeError):
            send(sock, request() if data is None else data, fds)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def test_files(make, tmp_path):
    found = make()
    names = {}
    for top, _, files in os.walk(found.directory):
        for name in files:
            path = os.path.join(top, name)
            names[os.path.relpath(path, found.directory)] = stat.S_IMODE(os.stat(path).st_mode)
    wrapped = {"bin/" + name: 0o700 for name in ("scp", "sftp") if names.get("bin/" + name)}
    names.pop("socket")
    assert names == {
        "bin/ssh": 0o700,
        "stand_in.py": 0o600,
        "raw_tty.py": 0o600,
        "tty_modes.py": 0o600,
        **wrapped,
    }
    assert os.path.dirname(found.directory) == str(tmp_path)
    assert stat.S_IMODE(os.stat(found.directory).st_mode) == 0o700
    with open(found.ssh) as fp:
        words = shlex.split(fp.readlines()[1])
    assert words == ["exec", sys.executable, "-I", "-S", found.directory + "/stand_in.py", "$@"]
    found.close()
    assert not os.path.exists(found.directory)


def test_serve(make):
    seen = []

    def serve(connection):
        seen.append((connection.argv, connection.environ, len(connection.fds)))
        connection.end(7, "words\n")

    found = make(serve)
    assert connect(found) == frame(b"X", b"\x07words\n")
    assert seen == [(["x"], {"A": "1"}, 3)]


def test_errors_are_logged_and_shown(make, log):
    def serve(connection):
        raise ValueError("oops")

    found = make(serve)
    assert connect(found) == frame(b"X", b"\xff" + rendezvous.FAILED_TEXT.encode())
    assert log.lines == ["fakessh: ValueError: oops"]
    assert connect(found, frame(b"R"))[:1] == b"X"
    assert "malformed request of an ssh stand-in" in log.lines[1]
    # A connection without data is not logged: another process may check whether the socket is live.
    connect(found, b"", ())
    assert len(log.lines) == 2


def test_another_account_is_refused(make, log, monkeypatch):
    found = make()
    monkeypatch.setattr(unix, "peer_credentials", lambda sock: (1, os.geteuid() + 1))
    assert connect(found, b"", ()) == b""
    assert "may not use" in log.lines[0]


def test_root_is_accepted(make, monkeypatch):
    found = make()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(unix, "peer_credentials", lambda sock: (1, 0))
    assert connect(found)[:1] == b"X"


def test_too_many_stand_ins(make, log, monkeypatch):
    monkeypatch.setattr(rendezvous, "MAX_CONNECTIONS", 1)
    entered, leave = threading.Event(), threading.Event()

    def serve(connection):
        entered.set()
        leave.wait(SOON)
        connection.end(0)

    found = make(serve)
    first = threading.Thread(target=connect, args=(found,))
    first.start()
    assert entered.wait(SOON)
    assert connect(found, b"", ()) == b""
    assert log.lines == ["fakessh: connection refused: more than 1 stand-ins at once"]
    leave.set()
    first.join()


def test_an_error_in_accept(make, log):
    found = make()
    real, tries = found._socket, []

    def accept():
        tries.append(1)
        if len(tries) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return real.accept()

    found._socket = types.SimpleNamespace(accept=accept, close=real.close)
    assert connect(found)[:1] == b"X"
    assert "Too many open files" in log.lines[0]


def test_close_cuts_connections(make, log):
    entered, reads = threading.Event(), []

    def serve(connection):
        entered.set()
        reads.append(connection.read())

    found = make(serve)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOON)
        sock.connect(os.path.join(found.directory, "socket"))
        send(sock, request(), (0, 1, 2))
        assert entered.wait(SOON)
        found.close()
        found.close()
        assert sock.recv(1) == b""
    found.join()
    assert (reads, log.lines) == ([None], [])
    assert not found._threads and not found._connections


def test_close_cuts_connections_without_a_request(make):
    found = make()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOON)
        sock.connect(os.path.join(found.directory, "socket"))
        while not found._connections:
            threading.Event().wait(0.001)
        found.close()
        assert sock.recv(1) == b""
    found.join()
    assert not found._threads


def test_environment(make):
    found = make()
    before = {"PATH": "/bin", "GIT_SSH": "other", "GIT_SSH_COMMAND": "other", "A": "b"}
    environ = found.environment(before)
    assert environ["PATH"] == found.directory + "/bin:/bin"
    assert "GIT_SSH" not in environ and environ["A"] == "b"
    assert environ["GIT_SSH_VARIANT"] == "ssh"
    for name in ("GIT_SSH_COMMAND", "RSYNC_RSH", "SVN_SSH", "BORG_RSH"):
        assert shlex.split(environ[name]) == [found.ssh]
    for name in ("CVS_RSH", "AUTOSSH_PATH", "ANSIBLE_SSH_EXECUTABLE"):
        assert environ[name] == found.ssh
    assert before["GIT_SSH"] == "other"
    assert found.environment({})["PATH"] == found.directory + "/bin:" + os.defpath


def test_wrappers_of_installed_programs(make, tmp_path, log):
    programs = tmp_path / "programs"
    programs.mkdir()
    scp = programs / "scp"
    scp.write_text("#!/bin/sh\n")
    scp.chmod(0o755)
    found = Rendezvous(lambda connection: None, log, str(programs))
    try:
        assert sorted(os.listdir(found.directory + "/bin")) == ["scp", "ssh"]
        with open(found.directory + "/bin/scp") as fp:
            assert shlex.split(fp.readlines()[1]) == ["exec", str(scp), "-S", found.ssh, "$@"]
    finally:
        found.close()
        found.join()
        scp.unlink()
        programs.rmdir()


@pytest.mark.parametrize("broken", ["_write_programs", "_listen", "_start"])
def test_a_failed_rendezvous_leaves_no_files(broken, make, tmp_path, monkeypatch):
    def fail(self, *args):
        raise OSError("no")

    monkeypatch.setattr(Rendezvous, broken, fail)
    with pytest.raises(OSError):
        make()
    assert os.listdir(str(tmp_path)) == []


def test_script():
    text = rendezvous.script("/a b/p'y", "-I", "$x")
    assert text.startswith("#!/bin/sh\nexec ")
    assert shlex.split(text.splitlines()[1]) == ["exec", "/a b/p'y", "-I", "$x", "$@"]


def test_source_of():
    assert "class StandIn" in rendezvous.source_of(stand_in)
    module = types.ModuleType("nothing")
    with pytest.raises(core.Error):
        rendezvous.source_of(module)
    loader = types.SimpleNamespace(get_source=lambda name: None)
    module.__spec__ = types.SimpleNamespace(loader=loader)
    with pytest.raises(core.Error):
        rendezvous.source_of(module)


# ---- directories


def test_parent_candidates(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/me")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/temp")
    found = list(rendezvous.parent_candidates())
    assert found[0] == "/temp"
    assert set(found) > {"/tmp", "/run/user/me", "/home/me/.cache", "/dev/shm", os.getcwd()}

    def fail():
        raise FileNotFoundError("none")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    monkeypatch.setattr(os, "getcwd", fail)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert list(rendezvous.parent_candidates()) == [
        "/tmp",
        "/var/tmp",
        "/home/me/.cache",
        "/dev/shm",
    ]


def test_noexec(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "parent_candidates", lambda: [str(tmp_path)])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(core.Error) as caught:
        rendezvous.make_directory()
    assert "{}: mounted noexec".format(tmp_path) in str(caught.value)
    assert os.listdir(str(tmp_path)) == []


def test_a_directory_writable_by_others_is_not_used(tmp_path, monkeypatch):
    tmp_path.chmod(0o770)
    monkeypatch.setattr(rendezvous, "parent_candidates", lambda: [str(tmp_path)])
    with pytest.raises(core.Error):
        rendezvous.make_directory()
    tmp_path.chmod(0o1777)
    rendezvous.remove(rendezvous.make_directory())
    # The owner of a directory may rename all files in it.
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert rendezvous.is_private(str(tmp_path)) == (os.getuid() == 0)


def test_a_path_without_spaces_is_preferred(tmp_path, monkeypatch):
    parent_candidates = [str(tmp_path / name) for name in ("a:b", "a b", "ab")]
    for parent in parent_candidates:
        os.mkdir(parent)
    monkeypatch.setattr(rendezvous, "parent_candidates", lambda: parent_candidates)
    for best in ("ab", "a b"):
        directory = rendezvous.make_directory()
        assert os.path.dirname(directory) == str(tmp_path / best)
        rendezvous.remove(directory)
        os.rmdir(str(tmp_path / best))
    with pytest.raises(core.Error):
        rendezvous.make_directory()


def test_short_path(tmp_path):
    with rendezvous.short_path("/tmp") as path:
        assert path == "/tmp"
    long = str(tmp_path / ("d" * 120))
    os.mkdir(long)
    with rendezvous.short_path(long) as path:
        assert len(path) < 30 and os.path.samefile(path, long)
    with pytest.raises(OSError):
        with rendezvous.short_path("/nonexistent" * 20):
            pass


def test_directories_of_killed_processes_are_removed(tmp_path):
    def parent(name):
        directory = tmp_path / (rendezvous.PREFIX + name)
        directory.mkdir()
        return directory

    stale, live, fresh = parent("stale"), parent("live"), parent("fresh")
    other = tmp_path / "mitogen-other"
    other.mkdir()
    (tmp_path / (rendezvous.PREFIX + "file")).write_text("")
    with socket.socket(socket.AF_UNIX) as dead:
        with rendezvous.short_path(str(stale)) as path:
            dead.bind(path + "/socket")
    with socket.socket(socket.AF_UNIX) as listener:
        with rendezvous.short_path(str(live)) as path:
            listener.bind(path + "/socket")
        listener.listen(1)
        rendezvous.remove_stale(str(tmp_path))
    assert not stale.exists()
    assert live.exists() and fresh.exists() and other.exists()


def test_a_socket_with_a_full_backlog_is_not_dead(tmp_path, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind("socket")
        listener.listen(0)
        # Fill the backlog: a further connection that waited would wait forever.
        for _ in range(3):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect("socket")
        assert not rendezvous.is_dead("socket")
    assert rendezvous.is_dead("socket")
    assert not rendezvous.is_dead("nothing")


def test_directories_of_other_accounts_are_not_removed(tmp_path, monkeypatch):
    stale = tmp_path / (rendezvous.PREFIX + "stale")
    stale.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        with rendezvous.short_path(str(stale)) as path:
            dead.bind(path + "/socket")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    rendezvous.remove_stale(str(tmp_path))
    assert stale.exists()
