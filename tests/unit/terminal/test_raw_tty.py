"""The local terminal: escapes, raw and back, and the loop, on ptys of our own, in this process.

Ways out that end a process are in tests/integration/test_terminal.py.
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


def fed(*chunks, char=b"~"):
    """What an Escapes makes of chunks; data that is next to data is joined."""
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
        (b"~~.", [b"~."]),  # the second one is data, so that line has begun
        (b"~?~.", [HELP, DISCONNECT]),  # still after a newline
        (b"~x~.", [b"~x~."]),
        (b"~\r~.", [b"~\r", DISCONNECT]),
        (b"\r\n~~\r\n", [b"\r\n~\r\n"]),
        ("é~.\r".encode(), ["é~.\r".encode()]),
    ],
)
def test_escapes(typed, expected):
    assert fed(typed) == expected
    assert fed(*(typed[at : at + 1] for at in range(len(typed)))) == expected


def test_another_escape_character():
    assert fed(b"%.", char=b"%") == [DISCONNECT]
    assert fed(b"~.", char=b"%") == [b"~."]
    assert fed(b"%%", char=b"%") == [b"%"]


def test_no_escape_character():
    assert fed(b"\r~.", b"", char=None) == [b"\r~."]


def test_flush_gives_back_what_was_held():
    escapes = Escapes()
    assert escapes.feed(b"\r~") == [b"\r"]
    assert escapes.flush() == b"~"
    assert escapes.flush() == b""
    assert Escapes(None).flush() == b""


@given(st.lists(st.binary(max_size=8)))
def test_chunks_make_no_difference(chunks):
    assert fed(*chunks) == fed(b"".join(chunks))


@given(st.binary().filter(lambda data: b"~" not in data))
def test_data_is_passed_on(data):
    assert b"".join(fed(data)) == data


@pytest.mark.parametrize(
    "text, char",
    [("~", b"~"), ("^]", b"\x1d"), ("^a", b"\x01"), ("^", b"^"), ("none", None), ("%", b"%")],
)
def test_escape_char(text, char):
    assert raw_tty.escape_char(text) == char


@pytest.mark.parametrize("text", ["", "ab", "^1", "None", "é", "~~", "^é"])
def test_escape_char_that_is_none(text):
    with pytest.raises(ValueError, match="no escape character: give one"):
        raw_tty.escape_char(text)


@pytest.mark.parametrize(
    "char, action, shown",
    [(b"~", DISCONNECT, b"~."), (b"~", SUSPEND, b"~^Z"), (b"\x1d", HELP, b"^]?")],
)
def test_show(char, action, shown):
    assert Escapes(char).show(action) == shown


def test_help_names_the_character():
    assert b" ~.   - end the connection\n" in Escapes().help()
    text = Escapes(b"%").help()
    assert b"~" not in text
    assert b" %%   - send the escape character" in text


# ---- the terminal


class Pty:
    """A terminal whose other end is the test's: `master` types and sees."""

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
    """Signal handlers as they are; put back after the test, which must have done it already."""
    numbers = [*raw_tty.ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH]
    before = {number: signal.getsignal(number) for number in numbers}
    yield before
    after = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def test_raw_as_openssh_makes_it(pty, tty):
    """Each flag of PROGRAMS.md is set in the opposite way first."""
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


def test_in_and_out_twice(pty, tty, handlers):
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


def test_no_terminal(tmp_path, handlers):
    with open(tmp_path / "file", "w+b") as fp:
        tty = RawTty(fp.fileno(), fp.fileno())
        assert tty.before is None
        assert tty.size() == (0, 0, 0, 0)
        with pytest.raises(termios.error):
            tty.enter()
        tty.leave()


def test_descriptors_that_are_closed():
    tty = RawTty(-1, -1)
    assert tty.before is None
    assert tty.size() == (0, 0, 0, 0)


def test_size(pty, tty):
    pty.resize(132, 50)
    assert tty.size() == (132, 50, 0, 0)


def test_size_of_the_screen_where_keys_come_from_elsewhere(pty, tmp_path):
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


def test_what_fails_on_the_way_in_is_undone(pty, tty, monkeypatch, handlers):
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
        assert not tty._put_back()
        monkeypatch.undo()
        assert pty.attrs() == raw


def test_the_terminal_is_gone(pty, tty, handlers):
    tty.enter()
    pty.hang_up()
    tty.leave()
    assert not tty.is_raw


def test_output_that_is_stuck_ends_with_a_signal(pty, tty, monkeypatch):
    """TCSADRAIN may wait for ever; a signal interrupts that."""
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
def test_a_signal_while_it_leaves(pty, tty, handlers, monkeypatch, number):
    """Nothing makes it raw again then."""
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
def test_in_the_background_the_terminal_is_the_shells(pty, tty, monkeypatch, group, restored):
    before = pty.attrs()
    with tty:
        raw = pty.attrs()
        monkeypatch.setattr(os, "tcgetpgrp", lambda fd: group)
    assert pty.attrs() == (before if restored else raw)


# ---- signals


def test_a_handler_of_python_is_called_with_the_terminal_put_back(pty, tty, handlers):
    """If it returns, all goes on."""
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


@pytest.mark.parametrize("number", raw_tty.ENDING)
def test_what_is_ignored_stays_ignored(pty, tty, handlers, number):
    signal.signal(number, signal.SIG_IGN)
    with tty:
        assert signal.getsignal(number) == signal.SIG_IGN
        os.kill(os.getpid(), number)
        assert tty.is_raw
    signal.signal(number, handlers[number])


def test_by_default_it_dies_by_the_signal(pty, tty, handlers, monkeypatch):
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
    """The module _signal, with what would stop us replaced."""

    def __init__(self, stop):
        super().__init__(**vars(raw_tty._signal))
        self.pthread_kill = stop


def test_stopped_and_resumed(pty, tty, handlers, monkeypatch):
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
        assert tty.noticed() and not tty.noticed()
        assert signal.getsignal(signal.SIGTSTP) == tty._on_stop
    signal.signal(signal.SIGTSTP, handlers[signal.SIGTSTP])


def test_a_stop_that_somebody_handles(pty, tty, handlers):
    before, seen = pty.attrs(), []
    signal.signal(signal.SIGTSTP, lambda *args: seen.append(pty.attrs()))
    with tty:
        os.kill(os.getpid(), signal.SIGTSTP)
        assert seen == [before]
        assert tty.is_raw
    signal.signal(signal.SIGTSTP, handlers[signal.SIGTSTP])


def test_a_stop_that_is_ignored(pty, tty, handlers):
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    with tty:
        tty.suspend()
        assert tty.is_raw
        assert signal.getsignal(signal.SIGTSTP) == signal.SIG_IGN
    signal.signal(signal.SIGTSTP, handlers[signal.SIGTSTP])


def test_continued_after_a_stop_that_nobody_can_handle(pty, tty, handlers):
    """The shell has set the terminal meanwhile."""
    with tty:
        raw = pty.attrs()
        termios.tcsetattr(pty.slave, termios.TCSANOW, tty.before)
        os.kill(os.getpid(), signal.SIGCONT)
        assert pty.attrs() == raw
        assert tty.noticed()


def test_resize_wakes_and_chains(tty, handlers):
    seen = []
    signal.signal(signal.SIGWINCH, lambda *args: seen.append(args))
    with tty:
        for _ in range(2):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGWINCH)
            assert select.select([tty.wake[0]], [], [], 0)[0]
            assert tty.noticed()
            assert not tty.noticed()
            assert not select.select([tty.wake[0]], [], [], 0)[0]
        assert len(seen) == 6
    signal.signal(signal.SIGWINCH, handlers[signal.SIGWINCH])


def test_any_signal_wakes(tty):
    """Another thread may be who gets it; its handler runs on this one, once that is awake."""
    previous = signal.signal(signal.SIGUSR1, lambda *args: None)
    with tty:
        thread, _ = in_thread(lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
        thread.join(SOON)
        assert os.read(tty.wake[0], 10) == bytes((signal.SIGUSR1,))
    signal.signal(signal.SIGUSR1, previous)


@pytest.fixture
def wakeup():
    """(read, write): a pipe that is told of signals, as asyncio has one."""
    pair = os.pipe()
    for fd in pair:
        os.set_blocking(fd, False)
    before = signal.set_wakeup_fd(pair[1])
    yield pair
    signal.set_wakeup_fd(before)
    for fd in pair:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_somebody_who_wants_to_know_of_signals_is_told(tty, handlers, wakeup):
    with tty:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert tty.noticed()
        assert os.read(wakeup[0], 10) == bytes((signal.SIGWINCH,))
    os.kill(os.getpid(), signal.SIGCONT)
    assert signal.set_wakeup_fd(wakeup[1]) == wakeup[1]


def test_somebody_who_wanted_to_know_of_signals_is_gone(tty, handlers, wakeup):
    with tty:
        for fd in wakeup:
            os.close(fd)
        os.kill(os.getpid(), signal.SIGWINCH)
        assert tty.noticed()
    assert signal.set_wakeup_fd(-1) == -1


def test_somebody_else_wants_to_know_of_signals_meanwhile(tty, wakeup):
    signal.set_wakeup_fd(-1)
    with tty:
        signal.set_wakeup_fd(wakeup[1])
    assert signal.set_wakeup_fd(-1) == wakeup[1]


def test_a_handler_that_was_put_over_ours_stays(tty, handlers):
    def handler(*_args):
        pass

    with tty:
        signal.signal(signal.SIGWINCH, handler)
    assert signal.getsignal(signal.SIGWINCH) == handler
    signal.signal(signal.SIGWINCH, handlers[signal.SIGWINCH])


def test_handlers_of_c_are_left_alone(tty, handlers, monkeypatch):
    fake = FakeSignal(None)
    fake.getsignal = lambda number: None
    monkeypatch.setattr(raw_tty, "_signal", fake)
    with tty:
        assert not tty.notified
        assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]


def in_thread(function, *args):
    """Run a function on another thread; return (that thread, list its result will be put into)."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function(*args)))
    thread.start()
    return thread, result


def test_on_another_thread_no_handler_is_touched(tty, handlers, pty):
    before = pty.attrs()

    def use():
        with tty:
            return tty.notified, signal.getsignal(signal.SIGTERM), tty.is_raw

    thread, result = in_thread(use)
    thread.join(SOON)
    assert result == [(False, handlers[signal.SIGTERM], True)]
    assert pty.attrs() == before


def test_left_on_another_thread_handlers_pass_on(tty, handlers):
    seen = []
    signal.signal(signal.SIGWINCH, lambda *args: seen.append(args))
    tty.enter()
    wake = tty.wake
    thread, _ = in_thread(tty.leave)
    thread.join(SOON)
    os.kill(os.getpid(), signal.SIGWINCH)
    assert len(seen) == 1
    # What it could not take back.
    assert signal.set_wakeup_fd(-1) == wake[1]
    for fd in wake:
        os.close(fd)
    for number, handler in handlers.items():
        signal.signal(number, handler)


# ---- the loop


class Session:
    """A relay() on a thread; the test is both the person and the far side."""

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
        """Wait for relay() and return what it does."""
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
    """The number may be in use again, but not for a socket of the session."""
    with contextlib.suppress(OSError):
        os.fstat(fd)


@pytest.fixture
def session(pty, tty):
    """`session(**kwargs)`: a Session on a raw terminal."""
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


def test_every_byte_as_it_is(session, pty):
    data = bytes(range(256))
    relayed = session(escapes=None)
    pty.type(data)
    assert relayed.got(256) == data
    relayed.screen.sendall(data)
    pty.wait_for(data)


def test_bytes_one_at_a_time(session, pty):
    """Characters in UTF-8 are split anywhere."""
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


def test_a_screen_that_is_not_read(session, pty):
    """Not more than a little is taken from the far side, and `~.` still works."""
    relayed = session()
    relayed.screen.setblocking(False)
    sent, full = 0, 0
    while full < 3:
        try:
            sent += relayed.screen.send(bytes(65536))
            full = 0
        except BlockingIOError:
            # Room comes back while relay() still reads.
            full += not select.select([], [relayed.screen], [], 0.05)[1]
    assert sent < 1 << 21
    pty.type(b"typed\r")
    assert relayed.got(6) == b"typed\r"
    pty.type(b"~.")
    assert relayed.end() == raw_tty.DISCONNECT


def test_keys_that_are_not_read(session, pty):
    """A text is pasted into a program that does not read: nothing is lost, nothing grows."""
    relayed = session()
    text = b"x" * 79 + b"\r"
    sent = 0
    while select.select([], [pty.master], [], 0.1)[1]:
        sent += os.write(pty.master, text[sent % 80 :])
    assert sent < 1 << 21
    received = relayed.got(sent)
    assert received == (text * (sent // 80 + 1))[:sent]


def test_the_far_side_reads_no_more(session, pty):
    """Keys are dropped, the screen goes on, and so do escapes."""
    relayed = session()
    relayed.keys.close()
    pty.type(b"a")
    pty.type(b"b\r")
    relayed.screen.sendall(b"still here")
    pty.wait_for(b"still here")
    pty.type(b"c\r")
    pty.type(b"~.")
    assert relayed.end() == raw_tty.DISCONNECT


def test_disconnect_says_so(session, pty):
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


def test_actions_are_the_callers(session, pty):
    seen = []

    def on_action(name):
        seen.append(name)
        return b"one connection\r\n" if name == LIST else None

    session(on_action=on_action)
    pty.type(b"~#~B")
    pty.wait_for(b"~#\r\none connection\r\n~B\r\n")
    assert seen == [LIST, BREAK]


def test_actions_that_nobody_does(session, pty):
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


def test_a_callback_that_raises(session, pty):
    relayed = session(on_action=lambda name: 1 / 0)
    pty.type(b"~#")
    relayed.thread.join(SOON)
    assert isinstance(relayed.error, ZeroDivisionError)
    assert relayed.keys.recv(1) == b""


def test_the_terminal_hangs_up(session, pty):
    relayed = session()
    pty.hang_up()
    assert relayed.end() == raw_tty.HANGUP


def test_the_terminal_hangs_up_while_it_is_written_to(session, pty, tty, monkeypatch):
    relayed = session()
    monkeypatch.setattr(tty, "fd_in", relayed.keys.fileno())  # so that only the screen tells
    pty.hang_up()
    relayed.screen.sendall(b"x")
    assert relayed.end() == raw_tty.HANGUP


def test_watch_ends_it_after_what_is_there(session, pty):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        relayed = session(watch={theirs.fileno(): lambda: True})
        relayed.screen.sendall(b"last words")
        ours.close()
        assert relayed.end() == raw_tty.WATCH
    pty.wait_for(b"last words")


def test_watch_that_goes_on(session, pty):
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


def test_the_size_is_told_and_then_each_change(pty, tty):
    """Where no signal tells, it is looked at, once a second and at each key."""
    sizes, told = [], threading.Semaphore(0)

    def on_size(*size):
        sizes.append(size)
        told.release()

    pty.resize(80, 24)
    with Session(pty, tty, on_size=on_size) as relayed:
        assert told.acquire(timeout=SOON)
        pty.resize(132, 50)
        assert told.acquire(timeout=SOON)
        relayed.screen.close()
        assert relayed.end() == raw_tty.CLOSED
    assert sizes == [(80, 24, 0, 0), (132, 50, 0, 0)]


def test_a_size_of_nothing_is_not_told(session, pty):
    sizes = []
    relayed = session(on_size=lambda *size: sizes.append(size))
    pty.type(b"x")
    relayed.got(1)
    assert sizes == []


def test_the_size_by_signal(pty, tty, handlers):
    """relay() on the main thread; another one is the person."""
    sizes, told = [], threading.Semaphore(0)

    def on_size(*size):
        sizes.append(size)
        told.release()

    def person():
        assert told.acquire(timeout=SOON)
        pty.resize(132, 50)
        os.kill(os.getpid(), signal.SIGWINCH)
        assert told.acquire(timeout=SOON)
        pty.type(b"~.")

    pty.resize(80, 24)
    with tty:
        thread, _ = in_thread(person)
        relayed = Session(pty, tty, on_size=on_size, escapes=Escapes())
        with relayed.keys, relayed.screen:
            assert relayed.run() == raw_tty.DISCONNECT
        thread.join(SOON)
    assert sizes == [(80, 24, 0, 0), (132, 50, 0, 0)]


def test_a_signal_that_raises_ends_it(pty, tty, handlers):
    relayed = Session(pty, tty)
    with relayed.keys, relayed.screen, tty:

        def person():
            relayed.keys.recv(1)
            os.kill(os.getpid(), signal.SIGINT)

        thread, _ = in_thread(person)
        pty.type(b"x")
        relayed.run()
        thread.join(SOON)
    assert isinstance(relayed.error, KeyboardInterrupt)


# ---- not raw, and no terminal


def test_end_of_keys_in_canonical_mode(pty, tty):
    """^D is an end of file: a half-close."""
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


def test_a_far_side_that_reads_no_more_and_no_terminal(tmp_path):
    """What is left is not ours to take."""
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


def test_a_screen_that_is_a_pipe(pty):
    """No more is written at once than a pipe that is said to be writable takes."""
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
    monkeypatch.setattr(raw_tty, "_names", lambda fd: ["/nonexistent"])
    relayed = session()
    data = os.urandom(100000)
    thread, _ = in_thread(relayed.screen.sendall, data)
    pty.wait_for(data)
    thread.join(SOON)


def test_a_screen_that_is_closed(pty):
    closed = 1000  # a number that nothing else gets meanwhile
    with Session(pty, RawTty(pty.slave, closed)) as relayed:
        relayed.screen.sendall(b"x")
        assert relayed.end() == raw_tty.HANGUP


def test_somebody_else_reads_the_terminal_too(session, pty, tty):
    """What poll() said was there is gone."""
    os.set_blocking(pty.slave, False)
    relayed = raw_tty._Relay(tty, -1, None, Escapes())
    relayed._read_keys()
    assert relayed._reason is None
    os.set_blocking(pty.slave, True)


def test_keys_of_a_background_process_without_a_parent(tty, monkeypatch):
    """Reading fails with EIO then."""

    def read(*_args):
        raise OSError(errno.EIO, "Input/output error")

    relayed = raw_tty._Relay(tty, -1, None, Escapes())
    monkeypatch.setattr(os, "read", read)
    relayed._read_keys()
    assert relayed._reason == raw_tty.HANGUP


def test_writers_that_somebody_else_has_filled(tty, pty):
    """What poll() said there was room for is gone: nothing is lost."""
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


def test_nothing_is_done_after_the_end(tty):
    relayed = raw_tty._Relay(tty, -1, None, Escapes())
    relayed._reason = raw_tty.DISCONNECT
    relayed._dispatch(tty.fd_in, select.POLLIN, select.POLLIN)


def test_a_size_that_changes_before_the_wait(tty):
    relayed = raw_tty._Relay(tty, -1, None, Escapes())
    with tty:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert relayed._timeout() == 0
        assert tty.noticed()
        assert relayed._timeout() is None


def test_a_wakeup_that_is_full_wakes_all_the_same(tty, handlers):
    with tty:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(tty.wake[1], bytes(4096))
        tty._on_resize(signal.SIGWINCH, None)
        assert tty.noticed()


def test_the_terminal_is_gone_when_resumed(pty, tty, handlers):
    signal.signal(signal.SIGTSTP, lambda *args: None)
    with tty:
        pty.hang_up()
        os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handlers[signal.SIGTSTP])


def test_the_far_side_is_reset(session, pty):
    """A socket closed with keys unread: what it sent is shown, then it is the end."""
    relayed = session()
    pty.type(b"unread")
    processes.wait_until(lambda: relayed.keys.recv(6, socket.MSG_PEEK) == b"unread")
    relayed.screen.sendall(b"bye")
    relayed.screen.close()
    pty.wait_for(b"bye")
    assert relayed.end() == raw_tty.CLOSED


def test_a_screen_that_fails_to_be_read_has_ended(tty):
    relayed = raw_tty._Relay(tty, -1, os.open("/", os.O_RDONLY), Escapes())
    relayed._read_screen()
    assert relayed._screen_in is None


def test_names_of_a_terminal(pty):
    assert raw_tty._names(pty.slave)[0] == os.ttyname(pty.slave)


def test_names_of_a_terminal_of_another_container(pty, monkeypatch):
    """The path is there, but it is another terminal's."""
    monkeypatch.setattr(os, "ttyname", lambda fd: "/dev/null")
    assert "/dev/null" not in raw_tty._names(pty.slave)
    monkeypatch.setattr(os, "ttyname", lambda fd: "/nonexistent")
    assert "/nonexistent" not in raw_tty._names(pty.slave)


# ---- as a file by itself


def test_it_needs_nothing_but_the_standard_library():
    """In an interpreter with neither site nor mitogen, and what it imports is little."""
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
