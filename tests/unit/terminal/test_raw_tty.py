"""The local terminal: escapes, raw mode and its restoration, and relay(), on ptys in this process.

Ways out that end the process are tested in tests/integration/test_terminal.py.
"""

import atexit
import contextlib
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import types

import pytest
from hypothesis import given, strategies as st

from mitogen.terminal import raw_tty
from mitogen.terminal.raw_tty import BREAK, DISCONNECT, HELP, LIST, SUSPEND, Escapes, RawTty
from tests import processes

SOON = 10.0


# ---- escapes


def parse(*chunks, char=b"~"):
    """Feed chunks to an Escapes; return its results, with adjacent data joined."""
    escapes = Escapes(char)
    found = []
    for chunk in chunks:
        for each in escapes.feed(chunk):
            if found and isinstance(each, bytes) and isinstance(found[-1], bytes):
                found[-1] += each
            else:
                found.append(each)
    return found


@pytest.mark.parametrize(
    "typed, expected",
    [
        (b"", []),
        (b"ls\r", [b"ls\r"]),
        (b"~.", [DISCONNECT]),  # at the start, as in OpenSSH
        (b"ls\r~.", [b"ls\r", DISCONNECT]),
        (b"ls\n~.", [b"ls\n", DISCONNECT]),
        (b"ls~.", [b"ls~."]),
        (b"ls \r~\x1apwd", [b"ls \r", SUSPEND, b"pwd"]),
        (b"~?", [HELP]),
        (b"~#", [LIST]),
        (b"~B", [BREAK]),
        (b"~b", [b"~b"]),
        (b"~~", [b"~"]),
        (b"~~.", [b"~."]),  # the second ~ is data, so a line has begun
        (b"~?~.", [HELP, DISCONNECT]),  # still after a newline
        (b"~x~.", [b"~x~."]),
        (b"~\r~.", [b"~\r", DISCONNECT]),
        (b"\r\n~~\r\n", [b"\r\n~\r\n"]),
        ("é~.\r".encode(), ["é~.\r".encode()]),
    ],
)
def test_escapes(typed, expected):
    assert parse(typed) == expected
    assert parse(*(typed[at : at + 1] for at in range(len(typed)))) == expected


def test_another_escape_character():
    assert parse(b"%.", char=b"%") == [DISCONNECT]
    assert parse(b"~.", char=b"%") == [b"~."]
    assert parse(b"%%", char=b"%") == [b"%"]


def test_no_escape_character():
    assert parse(b"\r~.", b"", char=None) == [b"\r~."]


def test_flush_returns_a_pending_escape_character():
    escapes = Escapes()
    assert escapes.feed(b"\r~") == [b"\r"]
    assert escapes.flush() == b"~"
    assert escapes.flush() == b""
    assert Escapes(None).flush() == b""


@given(st.lists(st.binary(max_size=8)))
def test_the_division_into_chunks_does_not_matter(chunks):
    assert parse(*chunks) == parse(b"".join(chunks))


@given(st.binary().filter(lambda data: b"~" not in data))
def test_data_is_unchanged(data):
    assert b"".join(parse(data)) == data


@pytest.mark.parametrize(
    "text, char",
    [("~", b"~"), ("^]", b"\x1d"), ("^a", b"\x01"), ("^", b"^"), ("none", None), ("%", b"%")],
)
def test_escape_char(text, char):
    assert raw_tty.escape_char(text) == char


@pytest.mark.parametrize("text", ["", "ab", "^1", "None", "é", "~~", "^é"])
def test_invalid_escape_char(text):
    with pytest.raises(ValueError, match="not an escape character: use one"):
        raw_tty.escape_char(text)


@pytest.mark.parametrize(
    "char, action, shown",
    [(b"~", DISCONNECT, b"~."), (b"~", SUSPEND, b"~^Z"), (b"\x1d", HELP, b"^]?")],
)
def test_show(char, action, shown):
    assert Escapes(char).show(action) == shown


def test_help_contains_the_escape_character():
    assert b" ~.   - end the connection\n" in Escapes().help()
    text = Escapes(b"%").help()
    assert b"~" not in text
    assert b" %%   - send the escape character" in text


# ---- the terminal


class Pty:
    """A terminal whose master side is the test's: it types keys and sees the screen."""

    def __init__(self):
        self.master, self.slave = os.openpty()
        os.set_blocking(self.master, False)
        self.seen = b""

    def close(self):
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)
        self.master = self.slave = -1

    def hang_up(self):
        os.close(self.master)
        self.master = -1

    def type(self, data):
        os.write(self.master, data)

    def wait_for(self, text):
        """Read the screen until it shows `text`."""
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], SOON)
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self.master, 65536)

    def resize(self, columns, lines):
        import fcntl

        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def attrs(self):
        return termios.tcgetattr(self.slave)


@pytest.fixture
def pty():
    pty = Pty()
    yield pty
    pty.close()


@pytest.fixture
def tty(pty):
    tty = RawTty(pty.slave, pty.slave)
    yield tty
    tty.leave()


@pytest.fixture
def handlers():
    """Signal handlers before the test. The test must have restored them."""
    numbers = [*raw_tty.END_SIGNALS, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH]
    before = {number: signal.getsignal(number) for number in numbers}
    yield before
    after = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def test_raw_mode_is_that_of_openssh(pty, tty):
    """Each flag that OpenSSH changes has the opposite value first."""
    t = termios
    attrs = pty.attrs()
    attrs[0] |= t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON | t.IXANY | t.IXOFF | 0o1000
    attrs[0] &= ~t.IGNPAR
    attrs[3] |= t.ISIG | t.ICANON | t.ECHO | t.ECHOE | t.ECHOK | t.ECHONL | t.IEXTEN
    t.tcsetattr(pty.slave, t.TCSANOW, attrs)
    before = pty.attrs()
    with tty:
        inside = pty.attrs()
        assert tty.is_raw
        assert tty.before == before
    assert pty.attrs() == before
    assert not tty.is_raw
    assert before[0] & ~inside[0] == (
        t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON | t.IXANY | t.IXOFF | 0o1000
    )
    assert inside[0] & ~before[0] == t.IGNPAR
    assert before[1] ^ inside[1] == t.OPOST
    assert before[2] == inside[2]
    assert before[3] & ~inside[3] == (
        t.ISIG | t.ICANON | t.ECHO | t.ECHOE | t.ECHOK | t.ECHONL | t.IEXTEN
    )
    assert inside[3] & ~before[3] == 0
    assert inside[6][t.VMIN] in (1, b"\1") and inside[6][t.VTIME] in (0, b"\0")


def test_enter_and_leave_twice(pty, tty, handlers):
    before = pty.attrs()
    for _ in range(2):
        tty.enter()
        tty.enter()
        assert pty.attrs() != before
        tty.leave()
        tty.leave()
        assert pty.attrs() == before


def test_type_ahead_is_kept(pty, tty):
    pty.type(b"typed ahead\n")
    with tty:
        assert os.read(pty.slave, 100) == b"typed ahead\n"


def test_an_exception_restores(pty, tty):
    before = pty.attrs()
    with pytest.raises(ZeroDivisionError), tty:
        1 / 0  # noqa: B018
    assert pty.attrs() == before


def test_without_a_terminal(tmp_path, handlers):
    with open(tmp_path / "file", "w+b") as fp:
        tty = RawTty(fp.fileno(), fp.fileno())
        assert tty.before is None
        assert tty.size() == (0, 0, 0, 0)
        with pytest.raises(termios.error):
            tty.enter()
        tty.leave()


def test_closed_descriptors():
    tty = RawTty(-1, -1)
    assert tty.before is None
    assert tty.size() == (0, 0, 0, 0)


def test_size(pty, tty):
    pty.resize(132, 50)
    assert tty.size() == (132, 50, 0, 0)


def test_size_of_the_screen_if_keys_come_from_a_file(pty, tmp_path):
    pty.resize(70, 20)
    with open(tmp_path / "file", "w+b") as fp:
        assert RawTty(fp.fileno(), pty.slave).size() == (70, 20, 0, 0)


def test_leave_at_exit(pty, tty, monkeypatch):
    registered = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", registered.remove)
    before = pty.attrs()
    tty.enter()
    (function,) = registered
    function()
    assert pty.attrs() == before
    assert registered == []


def test_a_failed_enter_is_undone(pty, tty, monkeypatch, handlers):
    before = pty.attrs()
    monkeypatch.setattr(tty, "_make_raw", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tty.enter()
    assert pty.attrs() == before
    assert tty.wake == ()


def test_a_forked_child_leaves_the_terminal_alone(pty, tty, monkeypatch):
    with tty:
        raw = pty.attrs()
        monkeypatch.setattr(raw_tty.os, "getpid", lambda: -1)
        tty.leave()
        tty._on_continue(signal.SIGCONT, None)
        tty._on_resize(signal.SIGWINCH, None)
        assert not tty.resized
        assert not tty._restore()
        monkeypatch.undo()
        assert pty.attrs() == raw


def test_a_lost_terminal(pty, tty, handlers):
    tty.enter()
    pty.hang_up()
    tty.leave()
    assert not tty.is_raw


def test_a_signal_ends_a_wait_for_output(pty, tty, monkeypatch):
    """TCSADRAIN may block forever. A signal interrupts it."""
    tried = []
    real = termios.tcsetattr

    def tcsetattr(fd, when, attrs):
        tried.append(when)
        if when == termios.TCSADRAIN:
            raise termios.error(errno.EINTR, "Interrupted system call")
        real(fd, when, attrs)

    before = pty.attrs()
    with tty:
        monkeypatch.setattr(termios, "tcsetattr", tcsetattr)
    assert tried == [termios.TCSADRAIN, termios.TCSANOW]
    assert pty.attrs() == before


@pytest.mark.parametrize("number", [signal.SIGCONT, signal.SIGTERM, signal.SIGTSTP])
def test_a_signal_during_leave(pty, tty, handlers, monkeypatch, number):
    """The terminal is not made raw again."""
    real = termios.tcsetattr

    def tcsetattr(fd, when, attrs):
        real(fd, when, attrs)
        if attrs == before and not seen:
            seen.append(number)
            os.kill(os.getpid(), number)

    before, seen = pty.attrs(), []
    signal.signal(number, lambda *args: seen.append("handled"))
    with tty:
        monkeypatch.setattr(termios, "tcsetattr", tcsetattr)
    assert seen == [number, "handled"]
    assert pty.attrs() == before
    signal.signal(number, handlers[number])


@pytest.mark.parametrize("group, restored", [(-7, False), (0, True)])
def test_the_terminal_is_not_changed_in_the_background(pty, tty, monkeypatch, group, restored):
    before = pty.attrs()
    with tty:
        raw = pty.attrs()
        monkeypatch.setattr(os, "tcgetpgrp", lambda fd: group)
    assert pty.attrs() == (before if restored else raw)


# ---- signals


def test_a_python_handler_is_called_with_the_terminal_restored(pty, tty, handlers):
    """If the handler returns, the terminal is made raw again."""
    before, seen = pty.attrs(), []
    signal.signal(signal.SIGTERM, lambda *args: seen.append((args[0], pty.attrs())))
    mine = signal.getsignal(signal.SIGTERM)
    with tty:
        raw = pty.attrs()
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [(signal.SIGTERM, before)]
        assert pty.attrs() == raw
    assert signal.getsignal(signal.SIGTERM) == mine
    signal.signal(signal.SIGTERM, handlers[signal.SIGTERM])


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT])
def test_a_handler_that_raises(pty, tty, handlers, number):
    def handler(*_args):
        raise SystemExit(255)

    before = pty.attrs()
    signal.signal(number, handler)
    with pytest.raises(SystemExit), tty:
        os.kill(os.getpid(), number)
        raise AssertionError("the handler was to raise")
    assert pty.attrs() == before
    signal.signal(number, handlers[number])


def test_keyboard_interrupt(pty, tty, handlers):
    before = pty.attrs()
    with pytest.raises(KeyboardInterrupt), tty:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("to be interrupted")
    assert pty.attrs() == before


@pytest.mark.parametrize("number", raw_tty.END_SIGNALS)
def test_ignored_signals_stay_ignored(pty, tty, handlers, number):
    signal.signal(number, signal.SIG_IGN)
    with tty:
        assert signal.getsignal(number) == signal.SIG_IGN
        os.kill(os.getpid(), number)
        assert tty.is_raw
    signal.signal(number, handlers[number])


def test_without_a_handler_the_process_dies_by_the_signal(pty, tty, handlers, monkeypatch):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = pty.attrs()
    killed = []
    with tty:
        monkeypatch.setattr(raw_tty.os, "kill", lambda *args: killed.append((args, pty.attrs())))
        tty._on_end(signal.SIGTERM, None)
        monkeypatch.undo()
        assert killed == [((os.getpid(), signal.SIGTERM), before)]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGTERM, handlers[signal.SIGTERM])


class FakeSignal(types.SimpleNamespace):
    """The module _signal, without the function that would stop this process."""

    def __init__(self, stop):
        super().__init__(**vars(raw_tty._signal))
        self.pthread_kill = stop


def test_stop_and_resume(pty, tty, handlers, monkeypatch):
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    before, seen = pty.attrs(), []

    def stop(_thread, number):
        seen.append((number, signal.getsignal(number), pty.attrs()))

    monkeypatch.setattr(raw_tty, "_signal", FakeSignal(stop))
    with tty:
        raw = pty.attrs()
        tty.suspend()
        assert seen == [(signal.SIGTSTP, signal.SIG_DFL, before)]
        assert pty.attrs() == raw
        assert tty.take_resized() and not tty.take_resized()
        assert signal.getsignal(signal.SIGTSTP) == tty._on_stop
    signal.signal(signal.SIGTSTP, handlers[signal.SIGTSTP])


def test_a_stop_with_a_handler(pty, tty, handlers):
    before, seen = pty.attrs(), []
    signal.signal(signal.SIGTSTP, lambda *args: seen.append(pty.attrs()))
    with tty:
        os.kill(os.getpid(), signal.SIGTSTP)
        assert seen == [before]
        assert tty.is_raw
    signal.signal(signal.SIGTSTP, handlers[signal.SIGTSTP])


def test_an_ignored_stop(pty, tty, handlers):
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    with tty:
        tty.suspend()
        assert tty.is_raw
        assert signal.getsignal(signal.SIGTSTP) == signal.SIG_IGN
    signal.signal(signal.SIGTSTP, handlers[signal.SIGTSTP])


def test_resume_after_sigstop(pty, tty, handlers):
    """The shell has changed the terminal meanwhile."""
    with tty:
        raw = pty.attrs()
        termios.tcsetattr(pty.slave, termios.TCSANOW, tty.before)
        os.kill(os.getpid(), signal.SIGCONT)
        assert pty.attrs() == raw
        assert tty.take_resized()


def test_resize_wakes_and_chains(tty, handlers):
    seen = []
    signal.signal(signal.SIGWINCH, lambda *args: seen.append(args))
    with tty:
        for _ in range(2):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGWINCH)
            assert select.select([tty.wake[0]], [], [], 0)[0]
            assert tty.take_resized()
            assert not tty.take_resized()
            assert not select.select([tty.wake[0]], [], [], 0)[0]
        assert len(seen) == 6
    signal.signal(signal.SIGWINCH, handlers[signal.SIGWINCH])


def test_any_signal_wakes(tty):
    """Another thread may receive the signal. The handler runs when this one is awake."""
    previous = signal.signal(signal.SIGUSR1, lambda *args: None)
    with tty:
        thread, _ = in_thread(lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
        thread.join(SOON)
        assert os.read(tty.wake[0], 10) == bytes((signal.SIGUSR1,))
    signal.signal(signal.SIGUSR1, previous)


@pytest.fixture
def wakeup():
    """Return (read, write): a pipe used as wakeup descriptor of signals, like asyncio's."""
    pair = os.pipe()
    for fd in pair:
        os.set_blocking(fd, False)
    before = signal.set_wakeup_fd(pair[1])
    yield pair
    signal.set_wakeup_fd(before)
    for fd in pair:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_a_previous_wakeup_descriptor_is_notified(tty, handlers, wakeup):
    with tty:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert tty.take_resized()
        assert os.read(wakeup[0], 10) == bytes((signal.SIGWINCH,))
    os.kill(os.getpid(), signal.SIGCONT)
    assert signal.set_wakeup_fd(wakeup[1]) == wakeup[1]


def test_a_previous_wakeup_descriptor_without_a_reader(tty, handlers, wakeup):
    with tty:
        for fd in wakeup:
            os.close(fd)
        os.kill(os.getpid(), signal.SIGWINCH)
        assert tty.take_resized()
    assert signal.set_wakeup_fd(-1) == -1


def test_a_wakeup_descriptor_set_meanwhile_stays(tty, wakeup):
    signal.set_wakeup_fd(-1)
    with tty:
        signal.set_wakeup_fd(wakeup[1])
    assert signal.set_wakeup_fd(-1) == wakeup[1]


def test_a_handler_installed_meanwhile_stays(tty, handlers):
    def handler(*_args):
        pass

    with tty:
        signal.signal(signal.SIGWINCH, handler)
    assert signal.getsignal(signal.SIGWINCH) == handler
    signal.signal(signal.SIGWINCH, handlers[signal.SIGWINCH])


def test_handlers_in_c_are_not_changed(tty, handlers, monkeypatch):
    fake = FakeSignal(None)
    fake.getsignal = lambda number: None
    monkeypatch.setattr(raw_tty, "_signal", fake)
    with tty:
        assert not tty.has_resize_signal
        assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]


def in_thread(function, *args):
    """Run a function on another thread; return (that thread, list for its result)."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function(*args)))
    thread.start()
    return thread, result


def test_no_handler_is_changed_on_another_thread(tty, handlers, pty):
    before = pty.attrs()

    def use():
        with tty:
            return tty.has_resize_signal, signal.getsignal(signal.SIGTERM), tty.is_raw

    thread, result = in_thread(use)
    thread.join(SOON)
    assert result == [(False, handlers[signal.SIGTERM], True)]
    assert pty.attrs() == before


def test_handlers_left_on_another_thread_pass_signals_on(tty, handlers):
    seen = []
    signal.signal(signal.SIGWINCH, lambda *args: seen.append(args))
    tty.enter()
    wake = tty.wake
    thread, _ = in_thread(tty.leave)
    thread.join(SOON)
    os.kill(os.getpid(), signal.SIGWINCH)
    assert len(seen) == 1
    # The handlers that this thread could not restore.
    assert signal.set_wakeup_fd(-1) == wake[1]
    for fd in wake:
        os.close(fd)
    for number, handler in handlers.items():
        signal.signal(number, handler)


# ---- the loop


class Session:
    """A relay() on a thread. The test is both the user and the far side."""

    def __init__(self, pty, tty, both_ways=True, **kwargs):
        self.pty, self.tty = pty, tty
        self.keys, keys_out = socket.socketpair()
        self.screen, screen_in = socket.socketpair()
        self.keys.settimeout(SOON)
        self.screen.settimeout(SOON)
        if not both_ways:
            screen_in.close()
        self.options = kwargs
        self.fds = (keys_out.detach(), screen_in.detach() if both_ways else None)
        self.error = None

    def __enter__(self):
        self.thread, self.result = in_thread(self.run)
        return self

    def run(self):
        try:
            return raw_tty.relay(self.tty, *self.fds, **self.options)
        except BaseException as e:
            self.error = e

    def __exit__(self, *_):
        for each in (self.keys, self.screen):
            each.close()
        self.thread.join(SOON)
        assert not self.thread.is_alive()

    def end(self):
        """Wait for relay() and return its result."""
        self.thread.join(SOON)
        assert not self.thread.is_alive()
        for fd in self.fds:
            if fd is not None:
                assert_not_open_by_us(fd)
        return self.result[0]

    def got(self, length):
        data = b""
        while len(data) < length:
            more = self.keys.recv(length - len(data))
            assert more
            data += more
        return data


def assert_not_open_by_us(fd):
    """Assert that no socket of the session has the number, which may be in use again."""
    with contextlib.suppress(OSError):
        os.fstat(fd)


@pytest.fixture
def session(pty, tty):
    """Return `session(**kwargs)`, which makes a Session on a raw terminal."""
    opened = []
    with tty, contextlib.ExitStack() as stack:

        def start(**kwargs):
            kwargs.setdefault("escapes", Escapes())
            opened.append(stack.enter_context(Session(pty, tty, **kwargs)))
            return opened[-1]

        yield start
        for each in opened:
            each.keys.close()
            each.screen.close()


def test_keys_and_screen(session, pty):
    relayed = session()
    pty.type(b"ls\r\x03")
    assert relayed.got(4) == b"ls\r\x03"
    relayed.screen.sendall("one\r\ntwo é".encode())
    pty.wait_for("one\r\ntwo é".encode())
    relayed.screen.close()
    assert relayed.end() == raw_tty.CLOSED


def test_every_byte_is_unchanged(session, pty):
    data = bytes(range(256))
    relayed = session(escapes=None)
    pty.type(data)
    assert relayed.got(256) == data
    relayed.screen.sendall(data)
    pty.wait_for(data)


def test_bytes_one_at_a_time(session, pty):
    """Characters in UTF-8 are divided anywhere."""
    text = "naïve ☃ 🐍\r".encode()
    relayed = session()
    for at in range(len(text)):
        pty.type(text[at : at + 1])
        assert relayed.got(1) == text[at : at + 1]
        relayed.screen.sendall(text[at : at + 1])
        pty.wait_for(text[: at + 1])


def test_all_output_is_shown_before_the_end(session, pty):
    relayed = session()
    data = os.urandom(1 << 20)

    def far_side():
        relayed.screen.sendall(data)
        relayed.screen.close()

    thread, _ = in_thread(far_side)
    pty.wait_for(data)
    thread.join(SOON)
    assert relayed.end() == raw_tty.CLOSED


def test_a_blocked_screen(session, pty):
    """Only a little is read from the far side, and `~.` still works."""
    relayed = session()
    relayed.screen.setblocking(False)
    sent, full = 0, 0
    while full < 3:
        try:
            sent += relayed.screen.send(bytes(65536))
            full = 0
        except BlockingIOError:
            # The terminal accepts data again while relay() is still reading.
            full += not select.select([], [relayed.screen], [], 0.05)[1]
    assert sent < 1 << 21
    pty.type(b"typed\r")
    assert relayed.got(6) == b"typed\r"
    pty.type(b"~.")
    assert relayed.end() == raw_tty.DISCONNECT


def test_blocked_keys(session, pty):
    """A text is pasted into a program that does not read: no data is lost, no queue grows."""
    relayed = session()
    text = b"x" * 79 + b"\r"
    sent = 0
    while select.select([], [pty.master], [], 0.1)[1]:
        sent += os.write(pty.master, text[sent % 80 :])
    assert sent < 1 << 21
    received = relayed.got(sent)
    assert received == (text * (sent // 80 + 1))[:sent]


def test_the_far_side_stops_reading(session, pty):
    """Keys are dropped. The screen and escapes still work."""
    relayed = session()
    relayed.keys.close()
    pty.type(b"a")
    pty.type(b"b\r")
    relayed.screen.sendall(b"still here")
    pty.wait_for(b"still here")
    pty.type(b"c\r")
    pty.type(b"~.")
    assert relayed.end() == raw_tty.DISCONNECT


def test_disconnect_is_shown(session, pty):
    relayed = session()
    pty.type(b"\r~.more")
    assert relayed.end() == raw_tty.DISCONNECT
    pty.wait_for(b"~.\r\n")
    assert relayed.keys.recv(10) == b""


def test_help(session, pty):
    session()
    pty.type(b"~?")
    pty.wait_for(b"typing it twice\r\n")
    pty.wait_for(b"immediately after newline.)\r\n")
    assert b"\n" not in pty.seen.replace(b"\r\n", b"")


def test_actions_call_the_callback(session, pty):
    seen = []

    def on_action(name):
        seen.append(name)
        return b"one connection\r\n" if name == LIST else None

    session(on_action=on_action)
    pty.type(b"~#~B")
    pty.wait_for(b"~#\r\none connection\r\n~B\r\n")
    assert seen == [LIST, BREAK]


def test_actions_without_a_callback(session, pty):
    session()
    pty.type(b"~#")
    pty.wait_for(b"~#\r\n")


def test_suspend(session, pty, tty, monkeypatch):
    suspended = threading.Event()
    monkeypatch.setattr(tty, "suspend", suspended.set)
    relayed = session()
    pty.type(b"~\x1a")
    assert suspended.wait(SOON)
    pty.wait_for(b"~^Z [suspended]\r\n")
    pty.type(b"on")
    assert relayed.got(2) == b"on"


def test_an_error_in_a_callback(session, pty):
    relayed = session(on_action=lambda name: 1 / 0)
    pty.type(b"~#")
    relayed.thread.join(SOON)
    assert isinstance(relayed.error, ZeroDivisionError)
    assert relayed.keys.recv(1) == b""


def test_the_terminal_hangs_up(session, pty):
    relayed = session()
    pty.hang_up()
    assert relayed.end() == raw_tty.HANGUP


def test_the_terminal_hangs_up_during_a_write(session, pty, tty, monkeypatch):
    relayed = session()
    monkeypatch.setattr(tty, "fd_in", relayed.keys.fileno())  # only the screen can report it
    pty.hang_up()
    relayed.screen.sendall(b"x")
    assert relayed.end() == raw_tty.HANGUP


def test_watch_ends_the_relay_after_pending_data(session, pty):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        relayed = session(watch={theirs.fileno(): lambda: True})
        relayed.screen.sendall(b"last words")
        ours.close()
        assert relayed.end() == raw_tty.WATCH
    pty.wait_for(b"last words")


def test_watch_continues_on_a_false_result(session, pty):
    ours, theirs = socket.socketpair()
    seen = []

    def callback():
        seen.append(theirs.recv(1))
        return seen[-1] == b"2"

    with ours, theirs:
        relayed = session(watch={theirs.fileno(): callback})
        ours.sendall(b"12")
        assert relayed.end() == raw_tty.WATCH
    assert seen == [b"1", b"2"]


def test_keys_only(session, pty):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        relayed = session(both_ways=False, watch={theirs.fileno(): lambda: True})
        pty.type(b"abc")
        assert relayed.got(3) == b"abc"
        ours.close()
        assert relayed.end() == raw_tty.WATCH


def test_the_initial_size_and_each_change_are_reported(pty, tty):
    """Without a signal, the size is checked once a second and at each key."""
    sizes, was_reported = [], threading.Semaphore(0)

    def on_size(*size):
        sizes.append(size)
        was_reported.release()

    pty.resize(80, 24)
    with Session(pty, tty, on_size=on_size) as relayed:
        assert was_reported.acquire(timeout=SOON)
        pty.resize(132, 50)
        assert was_reported.acquire(timeout=SOON)
        relayed.screen.close()
        assert relayed.end() == raw_tty.CLOSED
    assert sizes == [(80, 24, 0, 0), (132, 50, 0, 0)]


def test_an_unknown_size_is_not_reported(session, pty):
    sizes = []
    relayed = session(on_size=lambda *size: sizes.append(size))
    pty.type(b"x")
    relayed.got(1)
    assert sizes == []


def test_the_size_by_signal(pty, tty, handlers):
    """relay() runs on the main thread, and the user on another."""
    sizes, was_reported = [], threading.Semaphore(0)

    def on_size(*size):
        sizes.append(size)
        was_reported.release()

    def user():
        assert was_reported.acquire(timeout=SOON)
        pty.resize(132, 50)
        os.kill(os.getpid(), signal.SIGWINCH)
        assert was_reported.acquire(timeout=SOON)
        pty.type(b"~.")

    pty.resize(80, 24)
    with tty:
        thread, _ = in_thread(user)
        relayed = Session(pty, tty, on_size=on_size, escapes=Escapes())
        with relayed.keys, relayed.screen:
            assert relayed.run() == raw_tty.DISCONNECT
        thread.join(SOON)
    assert sizes == [(80, 24, 0, 0), (132, 50, 0, 0)]


def test_an_error_in_a_signal_handler_ends_the_relay(pty, tty, handlers):
    relayed = Session(pty, tty)
    with relayed.keys, relayed.screen, tty:

        def user():
            relayed.keys.recv(1)
            os.kill(os.getpid(), signal.SIGINT)

        thread, _ = in_thread(user)
        pty.type(b"x")
        relayed.run()
        thread.join(SOON)
    assert isinstance(relayed.error, KeyboardInterrupt)


# ---- not raw, and no terminal


def test_end_of_keys_in_canonical_mode(pty, tty):
    """^D is an end of file, which closes one direction."""
    with Session(pty, tty) as relayed:
        pty.type(b"line\n\x04")
        assert relayed.got(5) == b"line\n"
        assert relayed.keys.recv(1) == b""
        relayed.screen.sendall(b"answer\n")
        pty.wait_for(b"answer\r\n")
        relayed.screen.close()
        assert relayed.end() == raw_tty.CLOSED


def test_keys_from_a_pipe(tmp_path):
    read, write = os.pipe()
    with open(tmp_path / "screen", "wb") as fp:
        tty = RawTty(read, fp.fileno())
        with Session(None, tty, escapes=Escapes()) as relayed:
            os.write(write, b"~~x\n~")
            os.close(write)
            assert relayed.got(4) == b"~x\n~"
            assert relayed.keys.recv(1) == b""
            relayed.screen.sendall(b"to a file")
            relayed.screen.close()
            assert relayed.end() == raw_tty.CLOSED
    os.close(read)
    assert (tmp_path / "screen").read_bytes() == b"to a file"


def test_the_far_side_stops_reading_without_a_terminal(tmp_path):
    """The remaining input is not read: others may use it."""
    read, write = os.pipe()
    with open(tmp_path / "screen", "wb") as fp:
        tty = RawTty(read, fp.fileno())
        with Session(None, tty) as relayed:
            relayed.keys.close()
            os.write(write, b"a")
            processes.wait_until(lambda: not select.select([read], [], [], 0)[0])
            relayed.screen.close()
            assert relayed.end() == raw_tty.CLOSED
    os.close(read)
    os.close(write)


def test_a_pipe_as_the_screen(pty):
    """A pipe reported as writable accepts a limited number of bytes, so no more are written."""
    read, write = os.pipe()
    with Session(pty, RawTty(pty.slave, write)) as relayed:
        data = os.urandom(300000)
        thread, _ = in_thread(relayed.screen.sendall, data)
        found = b""
        while len(found) < len(data):
            found += os.read(read, 65536)
        thread.join(SOON)
        assert found == data
        os.close(read)
        relayed.screen.sendall(b"x")
        assert relayed.end() == raw_tty.HANGUP
    os.close(write)


def test_a_terminal_that_cannot_be_opened_again(session, pty, monkeypatch):
    monkeypatch.setattr(raw_tty, "_paths_of", lambda fd: ["/nonexistent"])
    relayed = session()
    data = os.urandom(100000)
    thread, _ = in_thread(relayed.screen.sendall, data)
    pty.wait_for(data)
    thread.join(SOON)


def test_a_closed_screen(pty):
    closed = 1000  # a number that is not used for another descriptor meanwhile
    with Session(pty, RawTty(pty.slave, closed)) as relayed:
        relayed.screen.sendall(b"x")
        assert relayed.end() == raw_tty.HANGUP


def test_another_process_reads_the_terminal(session, pty, tty):
    """Another process has read the data that poll() reported."""
    os.set_blocking(pty.slave, False)
    relayed = raw_tty._Relay(tty, -1, None, Escapes())
    relayed._read_keys()
    assert relayed._reason is None
    os.set_blocking(pty.slave, True)


def test_reading_as_an_orphaned_background_process(tty, monkeypatch):
    """Reading fails with EIO."""

    def read(*_args):
        raise OSError(errno.EIO, "Input/output error")

    relayed = raw_tty._Relay(tty, -1, None, Escapes())
    monkeypatch.setattr(os, "read", read)
    relayed._read_keys()
    assert relayed._reason == raw_tty.HANGUP


def test_outputs_filled_by_another_process(tty, pty):
    """Another process has used the room that poll() reported: no data is lost."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    while select.select([], [write], [], 0)[1]:
        os.write(write, bytes(4096))
    tty.fd_out = write
    relayed = raw_tty._Relay(tty, write, None, Escapes())
    relayed._keys += b"keys"
    relayed._screen += b"screen"
    relayed._write_keys()
    relayed._write_screen()
    assert (relayed._keys, relayed._screen, relayed._reason) == (b"keys", b"screen", None)
    os.close(read)
    os.close(write)


def test_no_event_is_handled_after_the_end(tty):
    relayed = raw_tty._Relay(tty, -1, None, Escapes())
    relayed._reason = raw_tty.DISCONNECT
    relayed._dispatch(tty.fd_in, select.POLLIN, select.POLLIN)


def test_a_size_change_before_the_wait(tty):
    relayed = raw_tty._Relay(tty, -1, None, Escapes())
    with tty:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert relayed._timeout() == 0
        assert tty.take_resized()
        assert relayed._timeout() is None


def test_a_full_wakeup_pipe_still_wakes(tty, handlers):
    with tty:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(tty.wake[1], bytes(4096))
        tty._on_resize(signal.SIGWINCH, None)
        assert tty.take_resized()


def test_the_terminal_is_lost_before_resuming(pty, tty, handlers):
    signal.signal(signal.SIGTSTP, lambda *args: None)
    with tty:
        pty.hang_up()
        os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handlers[signal.SIGTSTP])


def test_the_far_side_is_reset(session, pty):
    """A socket closed with keys unread: its data is shown, then the relay ends."""
    relayed = session()
    pty.type(b"unread")
    processes.wait_until(lambda: relayed.keys.recv(6, socket.MSG_PEEK) == b"unread")
    relayed.screen.sendall(b"bye")
    relayed.screen.close()
    pty.wait_for(b"bye")
    assert relayed.end() == raw_tty.CLOSED


def test_an_error_in_reading_the_screen_is_its_end(tty):
    relayed = raw_tty._Relay(tty, -1, os.open("/", os.O_RDONLY), Escapes())
    relayed._read_screen()
    assert relayed._screen_in is None


def test_paths_of_a_terminal(pty):
    assert raw_tty._paths_of(pty.slave)[0] == os.ttyname(pty.slave)


def test_paths_of_a_terminal_of_another_container(pty, monkeypatch):
    """The path exists, but it is another terminal."""
    monkeypatch.setattr(os, "ttyname", lambda fd: "/dev/null")
    assert "/dev/null" not in raw_tty._paths_of(pty.slave)
    monkeypatch.setattr(os, "ttyname", lambda fd: "/nonexistent")
    assert "/nonexistent" not in raw_tty._paths_of(pty.slave)


# ---- as a single file


def test_only_the_standard_library_is_needed():
    """It runs in an interpreter without site and mitogen, and imports few modules."""
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "source = open(sys.argv[1]).read()\n"
        "exec(compile(source, sys.argv[1], 'exec'), {'__name__': 'raw_tty'})\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, raw_tty.__file__],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert not {b"signal", b"socket", b"threading", b"enum", b"re", b"mitogen"} & {
        name.strip(b" '[]\n") for name in done.stdout.split(b",")
    }
