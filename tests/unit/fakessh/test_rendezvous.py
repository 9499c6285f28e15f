"""rendezvous.py: the directory, who may come, what comes. The tests play the stand-in."""

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
from mitogen.fakessh.rendezvous import Rendezvous, Visit, numbers

SOON = 20.0


class Log:
    """In the place of a router: what is logged."""

    def __init__(self):
        self.lines = []

    def log(self, level, fmt, *args):
        self.lines.append(fmt % args)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def make(log, tmp_path, monkeypatch):
    """`make(serve)`: a Rendezvous in tmp_path."""
    monkeypatch.setattr(rendezvous, "places", lambda: [str(tmp_path)])
    made = []

    def make(serve=lambda visit: visit.end(0)):
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
    """(the test's socket, a Visit)."""
    near, far = socket.socketpair()
    near.settimeout(SOON)
    visit = Visit(far)
    with near:
        yield near, visit
        visit.close()


@pytest.fixture
def pipe():
    rfd, wfd = os.pipe()
    yield rfd, wfd
    for fd in (rfd, wfd):
        try:
            os.close(fd)
        except OSError:
            pass


# ---- a Visit


def test_request(pair):
    near, visit = pair
    send(near, request([b"-p", b"", b"\xff"], [b"A=1=2", b"B="], b"101"), [0, 1, 2])
    assert visit.take_request()
    assert visit.argv == ["-p", "", "\udcff"]
    assert visit.environ == {"A": "1=2", "B": ""}
    assert visit.terminals == [True, False, True]
    for number, fd in enumerate(visit.fds):
        assert os.path.samestat(os.fstat(number), os.fstat(fd))
        assert not os.get_inheritable(fd)
    fds = list(visit.fds)
    visit.close_fds()
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)


def test_request_in_pieces(pair):
    near, visit = pair
    data = request([b"x"] * 1000)
    send(near, data[:1], [0, 1, 2])
    sending = threading.Thread(target=lambda: [near.sendall(bytes((each,))) for each in data[1:]])
    sending.start()
    assert visit.take_request()
    sending.join()
    assert visit.argv == ["x"] * 1000


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
def test_no_request(data, fds, pair):
    near, visit = pair
    send(near, data, fds)
    with pytest.raises(core.Error):
        visit.take_request()


@pytest.mark.parametrize("data", [b"", b"R", request()[:-1], b"R\xff\xff\xff\xff", b"\xff" * 99])
def test_no_whole_request(data, pair):
    near, visit = pair
    near.sendall(data)
    near.shutdown(socket.SHUT_WR)
    assert not visit.take_request()


@settings(deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_a_request_or_none(data, framed):
    near, far = socket.socketpair()
    with near:
        visit = Visit(far)
        near.sendall(frame(b"R", data) if framed else data)
        near.shutdown(socket.SHUT_WR)
        try:
            assert not visit.take_request()
        except core.Error:
            pass
        visit.close()


def test_end_is_said_once(pair):
    near, visit = pair
    visit.end(300, "bye ä\n")
    visit.end(1, "again")
    assert visit.read() is None
    visit.close()
    assert read_all(near) == frame(b"X", b"\x2c" + "bye ä\n".encode())


def test_words_of_any_length_do_not_block(pair):
    near, visit = pair
    visit.end(1, "x" * 1000000)
    visit.close()
    assert len(read_all(near)) == 5 + 1 + 4000


def test_sending_to_who_is_gone_or_does_not_read(pair):
    near, visit = pair
    for _ in range(10000):
        visit.send(b"E", b"x" * 1000)
    near.close()
    visit.send(b"E", b"x")
    visit.end(0)
    visit.let_down()


def test_let_down(pair):
    near, visit = pair
    visit.let_down()
    assert (visit.read(), near.recv(1)) == (None, b"")


def test_print(pair, pipe):
    _, visit = pair
    rfd, wfd = pipe
    visit.fds = [0, wfd, 2]
    visit.print("some text\n")
    assert os.read(rfd, 100) == b"some text\n"
    os.close(rfd)
    visit.print("nobody reads")
    visit.fds = []


def test_print_where_others_have_set_nonblock(pair, pipe):
    _, visit = pair
    rfd, wfd = pipe
    os.set_blocking(wfd, False)
    visit.fds = [0, wfd, 2]
    printing = threading.Thread(target=visit.print, args=("x" * 1000000,))
    printing.start()
    size = 0
    while size < 1000000:
        size += len(os.read(rfd, 65536))
    printing.join()
    assert size == 1000000
    visit.fds = []


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("raw, escape, asked", [(True, 126, b"r~"), (False, None, b"c")])
def test_pump(raw, escape, asked, count, pair, pipe):
    near, visit = pair
    send(near, request(), [0, 1, 2])
    assert visit.take_request()
    send(near, frame(b"K", b"80 24 1 2\0modes \0"), pipe[:count])
    assert visit.pump(raw, escape) == ([80, 24, 1, 2], b"modes \0")
    assert near.recv(100) == frame(b"T", asked)
    assert len(visit.fds) == 3
    for number in range(3):
        wanted = pipe[number] if number < count else number
        assert os.path.samestat(os.fstat(wanted), os.fstat(visit.fds[number]))


@pytest.mark.parametrize("data", [b"", frame(b"K", b"80 24 0 0\0"), frame(b"W", b"1 2 3 4")])
def test_pump_without_an_answer(data, pair):
    near, visit = pair
    near.sendall(data)
    near.shutdown(socket.SHUT_WR)
    assert visit.pump(True, None) is None


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


def come(found, data=None, fds=(0, 1, 2)):
    """Come to a Rendezvous; return what it says."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOON)
        sock.connect(os.path.join(found.directory, "socket"))
        # Who is refused may be so before it has said a word.
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


def test_served(make):
    seen = []

    def serve(visit):
        seen.append((visit.argv, visit.environ, len(visit.fds)))
        visit.end(7, "words\n")

    found = make(serve)
    assert come(found) == frame(b"X", b"\x07words\n")
    assert seen == [(["x"], {"A": "1"}, 3)]


def test_what_fails_is_logged_and_said(make, log):
    def serve(visit):
        raise ValueError("oops")

    found = make(serve)
    assert come(found) == frame(b"X", b"\xff" + rendezvous.FAILED_TEXT.encode())
    assert log.lines == ["fakessh: ValueError: oops"]
    assert come(found, frame(b"R"))[:1] == b"X"
    assert "not a stand-in's request" in log.lines[1]
    # Who only looks whether there is somebody is no reason for a line.
    come(found, b"", ())
    assert len(log.lines) == 2


def test_another_account_is_refused(make, log, monkeypatch):
    found = make()
    monkeypatch.setattr(unix, "peer_credentials", lambda sock: (1, os.geteuid() + 1))
    assert come(found, b"", ()) == b""
    assert "may not use" in log.lines[0]


def test_root_is_not_refused(make, monkeypatch):
    found = make()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(unix, "peer_credentials", lambda sock: (1, 0))
    assert come(found)[:1] == b"X"


def test_too_many_at_once(make, log, monkeypatch):
    monkeypatch.setattr(rendezvous, "MAX_VISITS", 1)
    entered, leave = threading.Event(), threading.Event()

    def serve(visit):
        entered.set()
        leave.wait(SOON)
        visit.end(0)

    found = make(serve)
    first = threading.Thread(target=come, args=(found,))
    first.start()
    assert entered.wait(SOON)
    assert come(found, b"", ()) == b""
    assert log.lines == ["fakessh: connection refused: more than 1 at once"]
    leave.set()
    first.join()


def test_accept_that_fails(make, log):
    found = make()
    real, tries = found._socket, []

    def accept():
        tries.append(1)
        if len(tries) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return real.accept()

    found._socket = types.SimpleNamespace(accept=accept, close=real.close)
    assert come(found)[:1] == b"X"
    assert "Too many open files" in log.lines[0]


def test_close_lets_down_who_is_there(make, log):
    entered, reads = threading.Event(), []

    def serve(visit):
        entered.set()
        reads.append(visit.read())

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
    assert not found._threads and not found._visits


def test_close_lets_down_who_has_not_said_what_he_wants(make):
    found = make()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOON)
        sock.connect(os.path.join(found.directory, "socket"))
        while not found._visits:
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


def test_wrappers_are_of_what_is_there(make, tmp_path, log):
    programs = tmp_path / "programs"
    programs.mkdir()
    scp = programs / "scp"
    scp.write_text("#!/bin/sh\n")
    scp.chmod(0o755)
    found = Rendezvous(lambda visit: None, log, str(programs))
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
def test_nothing_is_left_of_one_that_fails(broken, make, tmp_path, monkeypatch):
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


def test_places(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/me")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/temp")
    found = list(rendezvous.places())
    assert found[0] == "/temp"
    assert set(found) > {"/tmp", "/run/user/me", "/home/me/.cache", "/dev/shm", os.getcwd()}

    def fail():
        raise FileNotFoundError("none")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    monkeypatch.setattr(os, "getcwd", fail)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert list(rendezvous.places()) == ["/tmp", "/var/tmp", "/home/me/.cache", "/dev/shm"]


def test_noexec(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "places", lambda: [str(tmp_path)])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(core.Error) as caught:
        rendezvous.make_directory()
    assert "{}: mounted noexec".format(tmp_path) in str(caught.value)
    assert os.listdir(str(tmp_path)) == []


def test_others_may_write_there(tmp_path, monkeypatch):
    tmp_path.chmod(0o770)
    monkeypatch.setattr(rendezvous, "places", lambda: [str(tmp_path)])
    with pytest.raises(core.Error):
        rendezvous.make_directory()
    tmp_path.chmod(0o1777)
    rendezvous.remove(rendezvous.make_directory())
    # Its owner may rename all that is in it.
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert rendezvous.is_private(str(tmp_path)) == (os.getuid() == 0)


def test_a_place_without_spaces_is_better(tmp_path, monkeypatch):
    places = [str(tmp_path / name) for name in ("a:b", "a b", "ab")]
    for place in places:
        os.mkdir(place)
    monkeypatch.setattr(rendezvous, "places", lambda: places)
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


def test_what_killed_processes_left_is_removed(tmp_path):
    def place(name):
        directory = tmp_path / (rendezvous.PREFIX + name)
        directory.mkdir()
        return directory

    stale, live, fresh = place("stale"), place("live"), place("fresh")
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


def test_who_does_not_answer_is_not_dead(tmp_path, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind("socket")
        listener.listen(0)
        # Until there is no room for more: a connection that waited would wait for good.
        for _ in range(3):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect("socket")
        assert not rendezvous.is_dead("socket")
    assert rendezvous.is_dead("socket")
    assert not rendezvous.is_dead("nothing")


def test_anothers_are_left_alone(tmp_path, monkeypatch):
    stale = tmp_path / (rendezvous.PREFIX + "stale")
    stale.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        with rendezvous.short_path(str(stale)) as path:
            dead.bind(path + "/socket")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    rendezvous.remove_stale(str(tmp_path))
    assert stale.exists()
