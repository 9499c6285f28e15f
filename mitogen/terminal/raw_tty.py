"""
The local terminal: raw mode and its restoration, escapes among the keys, and the relay of keys and
screen between the terminal and two descriptors.

Rules
    1. Only cheap modules of the standard library are imported: the stand-in of fakessh loads this
       file by its path, in a bare `python -I -S`.
    2. The terminal is restored on every way out. Restoring it may be interrupted anywhere and
       repeated. Only the process that made it raw restores it, and only in the foreground.
    3. The flags of open files that others share are not changed: the terminal is opened again to
       write to it without blocking. relay() waits only in poll(), so that `~.` always works.
    4. Signal handlers are installed and removed on the main thread only. On other threads only a
       new size is noticed, within a second.

Threads: a RawTty and its relay() belong to one thread. Signal handlers run on the main thread.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not in typeshed
import _thread
import atexit
import errno
import fcntl
import os
import select
import stat
import struct
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Size = tuple[int, int, int, int]

__all__ = ["Escapes", "RawTty", "escape_char", "relay"]

#: Reasons for the end of relay().
CLOSED, DISCONNECT, HANGUP, WATCH = "closed", "disconnect", "hangup", "watch"
#: Actions of escapes, besides DISCONNECT.
SUSPEND, HELP, LIST, BREAK = "suspend", "help", "list", "break"

#: The key after the escape character to (action, text shown for the key).
KEYS = {
    b".": (DISCONNECT, b"."),
    b"\x1a": (SUSPEND, b"^Z"),
    b"?": (HELP, b"?"),
    b"#": (LIST, b"#"),
    b"B": (BREAK, b"B"),
}
HELP_TEXT = b"""\
Supported escape sequences:
 ~.   - end the connection
 ~B   - send a BREAK to the remote system
 ~^Z  - suspend this program
 ~#   - list connections
 ~?   - this message
 ~~   - send the escape character by typing it twice
(Note that escapes are only recognized immediately after newline.)
"""

#: Bytes read at once, and the most that are queued per direction before reading stops.
LIMIT = 65536
#: Bytes written at once to a terminal that could not be opened again. poll() does not promise a
#: number; the Linux line discipline has always had room for more than this when it was writable.
TERMINAL_PIECE = 256
#: Milliseconds between checks of the size where no signal reports changes.
SIZE_INTERVAL = 1000

#: Signals that end a program.
END_SIGNALS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)
#: Signals that stay ignored if they are ignored on entry.
KEPT_IGNORED = (_signal.SIGTSTP,) + END_SIGNALS


def _bits(names: str) -> int:
    """Return flags of termios that this system has."""
    found = 0
    for name in names.split():
        found |= getattr(termios, name, 0)
    return found


def raw_attrs(attrs: list[Any]) -> list[Any]:
    """Return attributes with the changes that OpenSSH makes for raw mode, and no others."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, cc = attrs
    iflag |= termios.IGNPAR
    iflag &= ~_bits("ISTRIP INLCR IGNCR ICRNL IXON IXANY IXOFF IUCLC")
    lflag &= ~_bits("ISIG ICANON ECHO ECHOE ECHOK ECHONL IEXTEN")
    oflag &= ~termios.OPOST
    cc = list(cc)
    cc[termios.VMIN], cc[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, cc]


def escape_char(text: str) -> bytes | None:
    """
    Return the escape character for a text, None for "none", as in ssh_config(5), EscapeChar.

    :param str text: a character, `^` and a character for a control character, or `none`
    :raises ValueError: the text is none of these
    """
    if text == "none":
        return None
    code = ord(text) if len(text) == 1 else -1
    if len(text) == 2 and text[0] == "^" and 64 <= ord(text[1]) < 128:
        code = ord(text[1]) & 31
    if not 0 <= code < 128:
        raise ValueError("%r is not an escape character: use one like ~ or ^], or none" % (text,))
    return bytes((code,))


class Escapes:
    """
    Parser that separates data from escapes. An escape is recognized only after a newline and at
    the start.

    :param bytes char: the escape character; None: treat everything as data
    """

    def __init__(self, char: bytes | None = b"~") -> None:
        self._char = char
        self._at_start = True
        self._pending = False

    def feed(self, data: bytes) -> list[bytes | str]:
        """
        Parse typed bytes. Return a list of bytes, which are data to send, and str, which are the
        actions of escapes: DISCONNECT, SUSPEND, HELP, LIST or BREAK.

        :param bytes data: typed bytes; an escape may be divided between calls
        """
        char = self._char
        if char is None:
            return [data] if data else []
        found: list[bytes | str] = []
        plain = bytearray()
        for code in data:
            byte = bytes((code,))
            if self._pending:
                self._pending = False
                if byte in KEYS:
                    found += [bytes(plain)] if plain else []
                    found.append(KEYS[byte][0])
                    plain = bytearray()
                    continue
                plain += b"" if byte == char else char
            elif self._at_start and byte == char:
                self._pending = True
                continue
            plain += byte
            self._at_start = code in b"\r\n"
        return found + ([bytes(plain)] if plain else [])

    def flush(self) -> bytes:
        """Return the data held back at the end of input: the escape character, or nothing."""
        pending, self._pending = self._pending, False
        return self._char if pending and self._char else b""

    def show(self, action: str) -> bytes:
        """Return the text that shows an escape, such as `~?`."""
        return self._caret() + [key for name, key in KEYS.values() if name == action][0]

    def help(self) -> bytes:
        """Return the text for `~?`, with plain newlines at line ends."""
        return HELP_TEXT.replace(b" ~~ ", b" " + self._caret() * 2 + b" ").replace(
            b" ~", b" " + self._caret()
        )

    def _caret(self) -> bytes:
        code = ord(self._char or b"~")
        return b"^" + bytes((code ^ 64,)) if code < 32 or code == 127 else bytes((code,))


class RawTty:
    """
    The local terminal, which is raw from enter() to leave(), or within a `with` block.

    While it is raw, on the main thread, SIGINT, SIGTERM, SIGHUP and SIGQUIT restore the terminal
    and then have their previous effect: a Python handler is called (if it returns, the terminal is
    made raw again), otherwise the process dies by the signal. SIGTSTP restores the terminal, stops
    the process, and makes the terminal raw again on SIGCONT. Ignored signals (SIG_IGN) stay
    ignored. leave() restores the handlers.

    :param int fd_in: the terminal, for reading and settings; not closed
    :param int fd_out: the screen; not closed
    """

    #: True while the terminal is raw; False while the process is suspended.
    is_raw = False
    #: True if a signal has reported a possible new size.
    resized = False

    def __init__(self, fd_in: int = 0, fd_out: int = 1) -> None:
        self.fd_in = fd_in
        self.fd_out = fd_out
        #: The original attributes, from tcgetattr(); None if `fd_in` is not a terminal.
        self.before: Any = termios.tcgetattr(fd_in) if os.isatty(fd_in) else None
        #: Descriptors of a pipe. Each signal makes the first one readable: another thread may
        #: receive the signal, and then this thread's poll() would not be interrupted. (Observed
        #: after SIGCONT.)
        self.wake: tuple[int, ...] = ()
        self._wakeup_before: int | None = None
        self._pid = 0
        self._previous: dict[int, Any] = {}

    def size(self) -> Size:
        """Return columns, lines, width and height in pixels; 0 for unknown values."""
        for fd in (self.fd_in, self.fd_out):
            try:
                packed = fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8)
            except (OSError, ValueError):
                continue
            lines, columns, x, y = struct.unpack("HHHH", packed)
            return columns, lines, x, y
        return 0, 0, 0, 0

    @property
    def has_resize_signal(self) -> bool:
        """Whether a signal reports new sizes."""
        return _signal.SIGWINCH in self._previous

    # ---- entering and leaving

    def enter(self) -> None:
        """
        Make the terminal raw. Input that was typed ahead is kept.

        :raises termios.error: `fd_in` is not a terminal, or the terminal is gone
        """
        if self._pid:
            return
        self.before = termios.tcgetattr(self.fd_in)
        try:
            self._pid = os.getpid()
            atexit.register(self.leave)
            self.wake = os.pipe()
            for fd in self.wake:
                os.set_blocking(fd, False)
            self._install()
            self._make_raw()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Restore the terminal and the signal handlers."""
        if self._pid != os.getpid():
            return
        self._restore()
        self._uninstall()
        atexit.unregister(self.leave)
        can_close = self._restore_wakeup_fd()
        wake, self.wake = self.wake, ()
        for fd in wake if can_close else ():
            os.close(fd)
        self._pid = 0

    def __enter__(self) -> RawTty:
        self.enter()
        return self

    def __exit__(self, *_exc_info: Any) -> None:
        self.leave()

    def suspend(self) -> None:
        """Restore the terminal and stop this process. When it is resumed, make the terminal raw."""
        self._on_stop(_signal.SIGTSTP, None)

    def _make_raw(self) -> None:
        self.is_raw = True
        self._set(raw_attrs(self.before))

    def _make_raw_again(self) -> None:
        if self._pid != os.getpid():  # left meanwhile, or a forked process
            return
        try:
            self._make_raw()
        except termios.error:
            pass  # the terminal is gone, which relay() will detect

    def _restore(self) -> bool:
        """Restore the terminal, even if it is restored already; return whether it was raw."""
        if self._pid != os.getpid():
            return False
        # First of all, so that no signal handled meanwhile makes it raw again.
        was_raw, self.is_raw = self.is_raw, False
        # In the background the terminal is the shell's, and changing it would stop us (SIGTTOU).
        if self._in_foreground():
            try:
                self._set(self.before)
            except termios.error:
                pass  # the terminal is gone
        return was_raw

    def _set(self, attrs: list[Any]) -> None:
        """Set attributes after all output is written, or at once if a signal interrupts that."""
        when = termios.TCSADRAIN
        while True:
            try:
                return termios.tcsetattr(self.fd_in, when, attrs)
            except termios.error as e:
                if e.args[0] != errno.EINTR:
                    raise
                when = termios.TCSANOW

    def _in_foreground(self) -> bool:
        try:
            # 0 is a group outside of this process' pid namespace.
            return os.tcgetpgrp(self.fd_in) in (os.getpgrp(), 0)
        except OSError:  # not our controlling terminal: any process may change it
            return True

    # ---- signals

    def _install(self) -> None:
        try:
            self._wakeup_before = _signal.set_wakeup_fd(self.wake[1])
        except ValueError:  # not the main thread
            return
        handlers = dict.fromkeys(END_SIGNALS, self._on_end)
        handlers[_signal.SIGTSTP] = self._on_stop
        handlers[_signal.SIGCONT] = self._on_continue
        handlers[_signal.SIGWINCH] = self._on_resize
        for number, handler in handlers.items():
            previous = _signal.getsignal(number)
            ignored = previous == _signal.SIG_IGN and number in KEPT_IGNORED
            if previous is not None and not ignored:  # None: a handler in C
                self._previous[number] = previous
                _signal.signal(number, handler)

    def _uninstall(self) -> None:
        for number, previous in list(self._previous.items()):
            handler = _signal.getsignal(number)
            if getattr(handler, "__self__", None) is self:
                try:
                    _signal.signal(number, previous)
                except ValueError:  # not the thread that entered; the handlers then pass signals on
                    continue
            del self._previous[number]

    def _restore_wakeup_fd(self) -> bool:
        """Detach our pipe from signals; return whether it can be closed."""
        before, self._wakeup_before = self._wakeup_before, None
        for fd in () if before is None else (before, -1):
            try:
                current = _signal.set_wakeup_fd(fd)
            except (OSError, ValueError):  # closed meanwhile, or not the thread that entered
                continue
            if current not in self.wake:  # another component has set its own
                _signal.set_wakeup_fd(current)
            return True
        return before is None

    def _chain(self, number: int, frame: Any) -> bool:
        """Call the previous handler; return whether there was one."""
        previous = self._previous.get(number)
        if not callable(previous):
            return False
        previous(number, frame)
        return True

    def _on_end(self, number: int, frame: Any) -> None:
        was_raw = self._restore()
        if not self._chain(number, frame):
            _signal.signal(number, _signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif was_raw:
            self._make_raw_again()

    def _on_stop(self, number: int, frame: Any) -> None:
        was_raw = self._restore()
        if not self._chain(number, frame):
            handled = number in self._previous
            if handled:
                _signal.signal(number, _signal.SIG_DFL)
            # To this thread, so that it is stopped before the call returns.
            _signal.pthread_kill(_thread.get_ident(), number)
            if handled:
                _signal.signal(number, self._on_stop)
        if was_raw:
            self._make_raw_again()
        self._notify()

    def _on_continue(self, number: int, frame: Any) -> None:
        self._chain(number, frame)
        if self.is_raw:  # after a SIGSTOP, which cannot be handled
            self._make_raw_again()
            self._notify()

    def _on_resize(self, number: int, frame: Any) -> None:
        self._chain(number, frame)
        self._notify()

    def _notify(self) -> None:
        """Wake relay(), at most once until it checks."""
        if not self.resized and self.wake and self._pid == os.getpid():
            self.resized = True
            try:
                os.write(self.wake[1], b"\0")
            except OSError:
                pass  # the pipe is full, and therefore readable

    def take_resized(self) -> bool:
        """Return whether the size may have changed since the last call, and empty the pipe."""
        resized = self.resized
        if resized:
            # Reset before the size is read; a later signal counts for the next call.
            self.resized = False
        try:
            numbers = os.read(self.wake[0], LIMIT) if self.wake else b""
            if self._wakeup_before not in (None, -1):
                os.write(self._wakeup_before, numbers.strip(b"\0"))
        except OSError:
            pass  # the pipe is empty, or the reader of the previous wakeup descriptor is gone
        return resized


# ---- the loop


def relay(
    tty: RawTty,
    keys_out: int,
    screen_in: int | None,
    *,
    escapes: Escapes | None = None,
    on_size: Callable[[int, int, int, int], object] | None = None,
    on_action: Callable[[str], bytes | None] | None = None,
    watch: dict[int, Callable[[], object]] | None = None,
) -> str:
    """
    Carry keys and screen until one side ends, and return the reason: CLOSED, `screen_in` has ended
    and all of it is written; DISCONNECT, `~.` was typed; HANGUP, the local terminal is gone; WATCH.

    :param RawTty tty: the terminal; if it is not entered, the end of the keys closes `keys_out`
    :param int keys_out: pipe or socket for the keys; relay() makes it non-blocking and closes it
    :param int screen_in: pipe or socket for the screen, treated likewise; None: carry only keys,
        until `watch` ends the relay
    :param Escapes escapes: parser of escapes; None: no escapes
    :param on_size: called with columns, lines, width and height in pixels: at the start, after each
        change, and when the process is resumed after a stop
    :param on_action: called with LIST or BREAK; returns the text to show, or None
    :param watch: {descriptor: function}. The function is called when the descriptor is readable. If
        it returns a true value, the relay ends after the data in `screen_in` is written

    Exceptions from callbacks and signal handlers are passed on.
    """
    loop = _Relay(tty, keys_out, screen_in, escapes or Escapes(None))
    loop.on_size = on_size
    loop.on_action = on_action
    loop.watch = watch or {}
    try:
        return loop.run()
    finally:
        loop.close()


class _Relay:
    """The state of relay()."""

    on_size: Any
    on_action: Any
    on_size = on_action = None
    watch: dict[int, Callable[[], object]] = {}
    _reason: str | None = None
    _keys_ended = _watch_ended = False
    _last_size: Size | None = None

    def __init__(self, tty: RawTty, keys_out: int, screen_in: int | None, escapes: Escapes) -> None:
        self._tty = tty
        self._keys_out: int | None = keys_out
        self._screen_in = screen_in
        self._both_ways = screen_in is not None
        self._escapes = escapes
        self._keys = bytearray()
        self._screen = bytearray()
        self._own_out: int | None = None
        self._out = tty.fd_out
        self._piece = LIMIT

    def run(self) -> str:
        for fd in (self._keys_out, self._screen_in):
            if fd is not None:
                os.set_blocking(fd, False)
        if self._both_ways:
            self._own_out, self._piece = _open_again(self._tty.fd_out)
        if self._own_out is not None:
            self._out = self._own_out
        self._check_size(True)
        while self._reason is None:
            self._run_once()
        if self._screen:
            self._flush_screen()
        return self._reason

    def close(self) -> None:
        for fd in (self._keys_out, self._screen_in, self._own_out):
            if fd is not None:
                os.close(fd)
        self._keys_out = self._screen_in = self._own_out = None

    def _run_once(self) -> None:
        """Wait for events and handle them."""
        wanted = self._wanted()
        poll = select.poll()
        for fd, events in wanted.items():
            poll.register(fd, events)
        ready = poll.poll(self._timeout())
        self._check_size(self._tty.take_resized())
        for fd, events in ready:
            self._dispatch(fd, events, wanted[fd])
        self._update_state()

    def _timeout(self) -> int | None:
        """Return the time to wait, in milliseconds; None for no limit."""
        if self._tty.resized:
            return 0
        return SIZE_INTERVAL if self.on_size and not self._tty.has_resize_signal else None

    def _wanted(self) -> dict[int, int]:
        """Return {descriptor: events to wait for}."""
        wanted = dict.fromkeys(self._tty.wake[:1], select.POLLIN)
        if not self._watch_ended:
            wanted.update(dict.fromkeys(self.watch, select.POLLIN))

        def want(fd: int | None, event: int, condition: object) -> None:
            if condition and fd is not None:
                wanted[fd] = wanted.get(fd, 0) | event

        want(self._tty.fd_in, select.POLLIN, not self._keys_ended and len(self._keys) < LIMIT)
        want(self._keys_out, select.POLLOUT, self._keys)
        want(self._screen_in, select.POLLIN, not self._screen)
        want(self._out, select.POLLOUT, self._screen)
        return wanted

    def _dispatch(self, fd: int, events: int, wanted: int) -> None:
        """Handle the events of a descriptor. Errors and hangups are found by trying."""
        readable = wanted & select.POLLIN and events & ~select.POLLOUT
        writable = wanted & select.POLLOUT and events & ~select.POLLIN
        if self._reason is not None:
            return
        if readable and fd in self.watch and self.watch[fd]():
            self._watch_ended = True
        if readable and fd == self._tty.fd_in:
            self._read_keys()
        if writable and fd == self._keys_out:
            self._write_keys()
        if readable and fd == self._screen_in:
            self._read_screen()
        if writable and fd == self._out:
            self._write_screen()

    def _update_state(self) -> None:
        """Close finished descriptors, and end the relay if nothing is left to do."""
        if self._keys_ended and not self._keys:
            self._close_keys()
        if self._watch_ended and self._screen_in is not None and not self._screen:
            self._read_screen()
        if self._screen or self._reason is not None:
            return
        if self._both_ways and self._screen_in is None:
            self._reason = CLOSED
        elif self._watch_ended:
            self._reason = WATCH

    # ---- keys

    def _read_keys(self) -> None:
        try:
            data = os.read(self._tty.fd_in, LIMIT)
        except BlockingIOError:  # another process has read it
            return
        except OSError:
            self._reason = HANGUP
            return
        if not data:
            self._end_of_keys()
        for each in self._escapes.feed(data):
            if isinstance(each, bytes):
                self._keys += each if self._keys_out is not None else b""
            elif self._reason is None:
                self._run_action(each)

    def _end_of_keys(self) -> None:
        """Handle the end of the keys: a hangup if raw, else ^D, or the end of a pipe or file."""
        if self._tty.is_raw:
            self._reason = HANGUP
        self._keys_ended = True
        self._keys += self._escapes.flush()

    def _write_keys(self) -> None:
        assert self._keys_out is not None
        try:
            del self._keys[: os.write(self._keys_out, self._keys)]
        except BlockingIOError:
            pass
        except OSError:  # the far side reads no more; escapes still work
            self._close_keys()
            self._keys_ended = not self._tty.is_raw

    def _close_keys(self) -> None:
        fd, self._keys_out = self._keys_out, None
        del self._keys[:]
        if fd is not None:
            os.close(fd)

    def _run_action(self, action: str) -> None:
        """Run the action of an escape."""
        shown = self._escapes.show(action)
        if action == SUSPEND:
            self._screen += shown + b" [suspended]\r\n"
            self._flush_screen()
            self._tty.suspend()
            return
        self._screen += shown + b"\r\n"
        if action == DISCONNECT:
            self._reason = DISCONNECT
        elif action == HELP:
            self._screen += self._escapes.help().replace(b"\n", b"\r\n")
        elif self.on_action is not None:
            self._screen += self.on_action(action) or b""

    # ---- screen

    def _read_screen(self) -> None:
        assert self._screen_in is not None
        try:
            data = os.read(self._screen_in, LIMIT)
        except BlockingIOError:
            return
        except OSError:  # the other side was closed with keys unread
            data = b""
        self._screen += data
        if not data:
            os.close(self._screen_in)
            self._screen_in = None

    def _write_screen(self) -> None:
        try:
            # Both views are released before the buffer is cut: PyPy keeps a forgotten one for long.
            with memoryview(self._screen) as view, view[: self._piece] as piece:
                written = os.write(self._out, piece)
        except BlockingIOError:
            return
        except OSError:
            self._reason = HANGUP
            return
        del self._screen[:written]

    def _flush_screen(self) -> None:
        """Write as much of the queued screen as the terminal accepts at once."""
        poll = select.poll()
        poll.register(self._out, select.POLLOUT)
        left = len(self._screen) + 1
        while 0 < len(self._screen) < left and poll.poll(0):
            left = len(self._screen)
            self._write_screen()

    # ---- size

    def _check_size(self, force: bool) -> None:
        if self.on_size is None or not (force or not self._tty.has_resize_signal):
            return
        size = self._tty.size()
        if any(size[:2]) and (force or size != self._last_size):
            self.on_size(*size)
        self._last_size = size


def _open_again(fd: int) -> tuple[int | None, int]:
    """
    Open the terminal of a descriptor again. Return a descriptor that writes without blocking, or
    None if that is not possible; and the number of bytes to write at once.
    """
    if not os.isatty(fd):
        return None, LIMIT if _is_regular(fd) else select.PIPE_BUF
    flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    for path in _paths_of(fd):
        try:
            return os.open(path, flags), LIMIT
        except OSError:  # the terminal is another account's
            pass
    return None, TERMINAL_PIECE


def _is_regular(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:  # closed; writing will fail
        return False


def _paths_of(fd: int) -> list[str]:
    """Return the paths of a terminal, as seen from this process."""
    names = []
    try:
        path = os.ttyname(fd)
        there, here = os.stat(path), os.fstat(fd)
        if (there.st_dev, there.st_rdev) == (here.st_dev, here.st_rdev):
            names.append(path)
    except OSError:  # the terminal was created outside of this container
        pass
    try:
        os.tcgetpgrp(fd)
        names.append("/dev/tty")
    except OSError:  # not our controlling terminal
        pass
    return names
