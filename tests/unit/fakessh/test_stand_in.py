"""stand_in.py: its messages to fakessh, and its actions. No program is started: the functions that
exit, handle signals or fork are replaced."""

import _socket
import ast
import os
import pathlib
import signal
import socket
import sys
import types

import pytest

from mitogen.fakessh import stand_in
from mitogen.fakessh.stand_in import GONE, StandIn

IMPORTS = {"_signal", "_socket", "os", "select", "sys"}


class Exited(Exception):
    """The stand-in would have exited, with this status and final text."""


def frame(kind, payload=b""):
    return kind + len(payload).to_bytes(4, "big") + payload


@pytest.fixture
def far(monkeypatch):
    """Return the far end of the stand-in's socket."""
    near, far = _socket.socketpair()
    monkeypatch.setattr(stand_in, "_connect", lambda: near)
    monkeypatch.setattr(StandIn, "catch_signals", lambda self: None)

    def exit(status, text=b""):
        raise Exited(status, text)

    monkeypatch.setattr(stand_in, "_exit", exit)
    monkeypatch.setattr(os, "_exit", exit)
    far = socket.socket(fileno=far.detach())
    far.settimeout(5)
    with far:
        yield far
    near.close()


@pytest.fixture
def standin(far):
    standin = StandIn(["x", "id"])
    standin.terminals = [False, False, False]
    return standin


def receive(far):
    """Return (kind, payload, descriptors) of the next frame."""
    data, messages, _, _ = far.recvmsg(5, socket.CMSG_SPACE(12))
    fds = []
    for _, _, payload in messages:
        fds += [
            int.from_bytes(payload[at : at + 4], sys.byteorder) for at in range(0, len(payload), 4)
        ]
    size = 5 + int.from_bytes(data[1:5], "big")
    while len(data) < size:
        data += far.recv(size - len(data))
    return data[:1], data[5:], fds


def test_few_modules_are_imported():
    tree = ast.parse(pathlib.Path(stand_in.__file__).read_text())
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert ast.unparse(top.pop(0)) == "from __future__ import annotations"
    names = {alias.name for node in top for alias in node.names}
    assert names == IMPORTS and all(isinstance(node, ast.Import) for node in top)


def test_request(standin, far, monkeypatch):
    monkeypatch.setattr(os, "environb", {b"A": b"1=2", b"B": b"\xff"})
    standin.argv = ["-p", "22", "u@x", "", "\udcff ä"]
    standin.terminals = [True, False, True]
    standin.request()
    kind, payload, fds = receive(far)
    assert kind == b"R"
    assert payload.split(b"\0") == [b"101", b"5", b"-p", b"22", b"u@x", b""] + [
        b"\xff \xc3\xa4",
        b"A=1=2",
        b"B=\xff",
    ]
    assert len(fds) == 3
    for number, fd in enumerate(fds):
        assert os.path.samestat(os.fstat(number), os.fstat(fd))
        os.close(fd)


def test_a_request_of_any_size(standin, far, monkeypatch):
    import threading

    monkeypatch.setattr(os, "environb", {b"A": b"x" * 3000000})
    sending = threading.Thread(target=standin.request)
    sending.start()
    kind, payload, fds = receive(far)
    sending.join()
    assert (kind, len(payload), len(fds)) == (b"R", 3000000 + len(b"000\x002\0x\0id\0A="), 3)
    for fd in fds:
        os.close(fd)


def test_end(standin, far):
    far.sendall(frame(b"X", b"\x07that was standin\n"))
    assert standin.receive()
    assert standin.end == (7, b"that was standin\n")
    # Frames after it are ignored.
    far.close()
    assert standin.receive()
    assert standin.end == (7, b"that was standin\n")


def test_frames_in_any_pieces(standin, far, monkeypatch):
    printed = []
    monkeypatch.setattr(stand_in, "_print_error", printed.append)
    data = frame(b"E", b"one") + frame(b"?", b"unknown") + frame(b"E") + frame(b"X", b"\0")
    for byte in data[:-1]:
        far.sendall(bytes((byte,)))
        assert not standin.receive()
    far.sendall(data[-1:])
    assert standin.receive()
    assert (printed, standin.end) == ([b"one", b""], (0, b""))


def test_all_frames_at_once(standin, far, monkeypatch):
    printed = []
    monkeypatch.setattr(stand_in, "_print_error", printed.append)
    far.sendall(frame(b"E", b"one") + frame(b"E", b"two") + frame(b"X", b"\xff"))
    assert standin.receive()
    assert (printed, standin.end) == ([b"one", b"two"], (255, b""))


@pytest.mark.parametrize("data", [b"", b"X", frame(b"E", b"long")[:-1]])
def test_the_connection_is_cut(data, standin, far, monkeypatch):
    monkeypatch.setattr(stand_in, "_print_error", lambda text: None)
    far.sendall(data)
    far.close()
    while not standin.receive():
        pass
    assert standin.end == (255, GONE)


def test_a_broken_connection(standin, far):
    standin.sock.close()
    standin.send(b"W", b"1 2 3 4")
    assert standin.receive()
    assert standin.end == (255, GONE)


@pytest.mark.parametrize(
    "terminals, redirected",
    [("000", (0, 1)), ("100", (1,)), ("010", (0,)), ("111", ()), ("001", (0, 1))],
)
def test_opened(terminals, redirected, standin, far, monkeypatch):
    found = []
    monkeypatch.setattr(stand_in, "_redirect_to_null", lambda *fds: found.append(fds))
    standin.terminals = [digit == "1" for digit in terminals]
    far.sendall(frame(b"O"))
    assert not standin.receive()
    assert (found, standin.terminated) == ([redirected], 255)


def test_going_to_the_background(standin, far, monkeypatch):
    done = []
    monkeypatch.setattr(stand_in, "_redirect_to_null", lambda *fds: done.append(fds))
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "setsid", lambda: done.append("setsid"))
    far.sendall(frame(b"O", b"bn"))
    assert not standin.receive()
    assert done == [(0, 1), "setsid", (0, 1, 2)]
    assert standin.terminated == 0
    monkeypatch.setattr(os, "fork", lambda: 123)
    far.sendall(frame(b"O", b"b"))
    with pytest.raises(Exited) as caught:
        standin.receive()
    assert caught.value.args[0] == 0


def test_signals(standin):
    for number, terminated, status in (
        (signal.SIGINT, 255, 255),
        (signal.SIGTERM, 255, 255),
        (signal.SIGTERM, 0, 0),
        (signal.SIGHUP, 0, 255),
    ):
        standin.terminated = terminated
        with pytest.raises(Exited) as caught:
            standin.on_signal(number, None)
        assert caught.value.args[0] == status


def test_signals_are_handled_unless_ignored(monkeypatch):
    caught, wakeups = [], []
    ignored = {signal.SIGHUP}
    get = lambda number: signal.SIG_IGN if number in ignored else signal.SIG_DFL  # noqa: E731
    monkeypatch.setattr(stand_in._signal, "getsignal", get)
    monkeypatch.setattr(stand_in._signal, "signal", lambda number, _: caught.append(number))
    monkeypatch.setattr(stand_in._signal, "set_wakeup_fd", wakeups.append)
    monkeypatch.setattr(stand_in, "_connect", lambda: None)
    standin = StandIn([])
    assert caught == [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1]
    assert not os.get_blocking(wakeups[0])
    os.close(standin.wakeup)
    os.close(wakeups[0])


def test_run(standin, far, monkeypatch):
    rfd, wfd = os.pipe()
    standin.wakeup = rfd
    os.write(wfd, b"\x1c")  # a signal that another handler has handled
    far.sendall(frame(b"O") + frame(b"X", b"\x05bye\n"))
    monkeypatch.setattr(stand_in, "_redirect_to_null", lambda *fds: None)
    with pytest.raises(Exited) as caught:
        standin.run()
    assert caught.value.args == (5, b"bye\n")
    kind, _, fds = receive(far)
    assert kind == b"R"
    for fd in [rfd, wfd, *fds]:
        os.close(fd)


# ---- terminals


class Terminal:
    """A fake module raw_tty, which records its calls."""

    DISCONNECT, HANGUP = "disconnect", "hangup"

    def __init__(self, reason):
        self.reason = reason
        self.log = []
        self.before = ["attributes"]

    def RawTty(self, *fds):
        self.log.append(("RawTty", *fds))
        return self

    def Escapes(self, char):
        return "escapes with %r" % char

    def size(self):
        return (80, 24, 0, 0)

    def enter(self):
        self.log.append("enter")

    def leave(self):
        self.log.append("leave")

    def relay(self, tty, keys, screen, escapes, on_size, on_action, watch):
        self.log.append(("relay", screen is not None, escapes, on_action("break")))
        on_size(132, 50, 1, 2)
        for fd in {keys, screen} - {None}:
            os.close(fd)
        assert list(watch) == [self.sock.fileno()]
        return self.reason


@pytest.fixture
def terminal(standin, monkeypatch):
    def terminal(reason="closed"):
        found = Terminal(reason)
        found.sock = standin.sock
        modes = types.SimpleNamespace(encode=lambda attrs: b"modes of " + attrs[0].encode())
        monkeypatch.setitem(sys.modules, "raw_tty", found)
        monkeypatch.setitem(sys.modules, "tty_modes", modes)
        monkeypatch.setattr(sys, "path", sys.path[:])
        return found

    return terminal


@pytest.mark.parametrize("screen", [True, False])
def test_a_terminal(screen, standin, far, terminal):
    found = terminal()
    standin.terminals = [True, screen, True]
    far.sendall(frame(b"T", b"r~"))
    assert not standin.receive()
    escapes = "escapes with b'~'"
    calls = ["enter", ("relay", screen, escapes, None), "leave"]
    assert found.log == [("RawTty", 0, 1), *calls]
    kind, payload, fds = receive(far)
    assert (kind, payload) == (b"K", b"80 24 0 0\0modes of attributes")
    assert receive(far) == (b"W", b"132 50 1 2", [])
    assert len(fds) == 1 + screen
    for fd in fds:
        os.close(fd)


def test_a_terminal_that_is_not_raw(standin, far, terminal):
    found = terminal("watch")
    found.before = None
    standin.terminals = [True, True, True]
    far.sendall(frame(b"T", b"c"))
    assert not standin.receive()
    assert found.log[1:] == [("relay", True, None, None), "leave"]
    _, payload, fds = receive(far)
    assert payload == b"80 24 0 0\0"
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("reason", ["disconnect", "hangup"])
def test_a_lost_terminal(reason, standin, far, terminal):
    found = terminal(reason)
    standin.terminals = [True, True, True]
    far.sendall(frame(b"T", b"r"))
    with pytest.raises(Exited) as caught:
        standin.receive()
    assert caught.value.args == (255, b"")
    assert found.log[-1] == "leave"
    for fd in receive(far)[2]:
        os.close(fd)


# ---- functions


def test_print_error(monkeypatch):
    written, waited = [], []

    def write(fd, data):
        assert fd == 2
        if len(written) == 1 and not waited:
            raise BlockingIOError
        if data == b"e":
            raise BrokenPipeError
        written.append(data[:2])
        return 2

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(stand_in.select, "select", lambda *args: waited.append(args[1]))
    stand_in._print_error(b"abcde")
    assert (written, waited) == ([b"ab", b"cd"], [[2]])


def test_exit(monkeypatch):
    printed = []

    def exit(status):
        raise Exited(status)

    monkeypatch.setattr(os, "_exit", exit)
    monkeypatch.setattr(stand_in, "_print_error", printed.append)
    with pytest.raises(Exited) as caught:
        stand_in._exit(3, b"text")
    assert (caught.value.args, printed) == ((3,), [b"text"])


def test_occupy_stdio(monkeypatch):
    opened, closed = iter([1, 2, 3]), []
    monkeypatch.setattr(os, "open", lambda path, flags: next(opened))
    monkeypatch.setattr(os, "close", closed.append)
    stand_in._occupy_stdio()
    assert closed == [3]


def test_redirect_to_null():
    rfd, wfd = os.pipe()
    stand_in._redirect_to_null(wfd)
    assert os.read(rfd, 1) == b""
    os.close(rfd)
    os.close(wfd)


def test_connect(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_in, "__file__", str(tmp_path / "stand_in.py"))
    monkeypatch.chdir(str(tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen(1)
        sock = stand_in._connect()
        listener.accept()[0].close()
        assert sock.recv(1) == b""
        sock.close()


def test_connect_without_a_listener(tmp_path, monkeypatch):
    def exit(status, text):
        raise Exited(status, text)

    monkeypatch.setattr(stand_in, "_exit", exit)
    monkeypatch.setattr(stand_in, "__file__", str(tmp_path / "stand_in.py"))
    monkeypatch.chdir(str(tmp_path))
    with pytest.raises(Exited) as caught:
        stand_in._connect()
    assert caught.value.args == (255, GONE)


def test_main(monkeypatch):
    done = []
    monkeypatch.setattr(stand_in, "_occupy_stdio", lambda: done.append("stdio"))
    monkeypatch.setattr(sys, "argv", ["ssh", "x"])
    monkeypatch.setattr(
        stand_in, "StandIn", lambda argv: done.append(argv) or types.SimpleNamespace(run=int)
    )
    stand_in.main()
    assert done == ["stdio", ["x"]]
