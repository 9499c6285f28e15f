"""
The program `ssh` that tools run while fakessh is active. It passes its command line and descriptors
to the process that created it, waits, and exits as that process directs.

The file is in a private directory beside the socket `socket`, and is run by `python -I -S`. The
socket carries frames: a letter, a length (4 bytes, big-endian) and a payload:

    to fakessh    R  request: which of the descriptors 0, 1, 2 are terminals ("100"), the number of
                     arguments, the arguments, the environment, separated by NUL. The three
                     descriptors are attached (SCM_RIGHTS, unix(7)).
                  K  "columns lines x y", NUL, terminal modes (RFC 4254, 8): the answer to T, with
                     one or two descriptors attached: keys, screen
                  W  "columns lines x y": the terminal's new size
                  S  SIGUSR1 ends this program; remaining output of the remote one is expected
    from fakessh  T  "r" or "c": carry keys, with the terminal raw or unchanged; then the escape
                     character, if there is one
                  O  the remote program has started: "b": go to the background; "n": there is
                     none, so that SIGTERM counts as success
                  E  text for standard error
                  X  exit status (1 byte), text for standard error: the end

Rules
    1. Nothing of mitogen is imported, little of the standard library, and the modules for terminals
       only if there is one: this program is started for each connection of a tool.
    2. After O it holds neither standard input nor output open: readers wait for their end of file.
    3. It never dies by a signal, which tools would take for a crash. INT, TERM, HUP and QUIT give
       status 255. Signals that the parent process ignored stay ignored. The exception is SIGUSR1:
       rsync sends it to its ssh as soon as it has the server's status, and remaining output of the
       server may still arrive after that.

Threads: one.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not in typeshed
import _socket
import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["main"]

FAILED = 255
#: Signals that end this program, unless the parent process ignored them.
SIGNALS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)
GONE = b"ssh: mitogen.fakessh: the process that provides this ssh has ended\n"


def _print_error(text: bytes) -> None:
    """Write to standard error, even if it is non-blocking."""
    while text:
        try:
            text = text[os.write(2, text) :]
        except BlockingIOError:
            # Another process that shares it has set O_NONBLOCK.
            select.select([], [2], [])
        except OSError:
            return


def _exit(status: int, text: bytes = b"") -> NoReturn:
    _print_error(text)
    os._exit(status)


def _occupy_stdio() -> None:
    """Open /dev/null as those of 0, 1 and 2 that are closed, so that they are not reused."""
    fd = 0
    while fd < 3:
        fd = os.open("/dev/null", os.O_RDWR)
    os.close(fd)


def _redirect_to_null(*fds: int) -> None:
    """Replace descriptors with /dev/null."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in fds:
        os.dup2(null, fd)
    os.close(null)


def _connect() -> _socket.socket:
    # By its name in the working directory: its path may exceed unix(7)'s 108 bytes.
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        os.chdir(os.path.dirname(os.path.abspath(__file__)))
        sock.connect("socket")
    except OSError:
        sock.close()
        _exit(FAILED, GONE)
    return sock


def _rights(fds: list[int]) -> list[tuple[int, int, bytes]]:
    data = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, data)]


class StandIn:
    """A running `ssh`."""

    #: Exit status on SIGTERM.
    terminated = FAILED
    #: Exit status and final text, once they are known.
    end: tuple[int, bytes] | None = None

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.terminals = [os.isatty(fd) for fd in range(3)]
        self.buffer = b""
        self.catch_signals()
        self.sock = _connect()
        _signal.signal(_signal.SIGUSR1, self.on_usr1)

    # -- signals

    def catch_signals(self) -> None:
        # Without a wakeup descriptor, a signal just before poll() would be handled after it.
        rfd, wfd = os.pipe()
        os.set_blocking(wfd, False)
        _signal.set_wakeup_fd(wfd)
        self.wakeup = rfd
        for number in SIGNALS:
            if _signal.getsignal(number) != _signal.SIG_IGN:
                _signal.signal(number, self.on_signal)

    def on_usr1(self, number: int, frame: Any) -> None:
        self.send(b"S", b"")
        _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def on_signal(self, number: int, frame: Any) -> NoReturn:
        os._exit(self.terminated if number == _signal.SIGTERM else FAILED)

    # -- frames

    def send(self, kind: bytes, payload: bytes, fds: list[int] | None = None) -> None:
        frame = kind + len(payload).to_bytes(4, "big") + payload
        try:
            if fds:
                frame = frame[self.sock.sendmsg([frame], _rights(fds)) :]
            self.sock.sendall(frame)
        except OSError:
            # receive() will read the reason.
            pass

    def request(self) -> None:
        fields = [b"%d%d%d" % tuple(self.terminals), b"%d" % len(self.argv)]
        fields += map(os.fsencode, self.argv)
        fields += [name + b"=" + value for name, value in os.environb.items()]
        self.send(b"R", b"\0".join(fields), [0, 1, 2])

    def receive(self) -> bool:
        """Receive data from the socket and handle its frames; return whether it was the end."""
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        self.buffer += data
        while len(self.buffer) >= 5:
            size = 5 + int.from_bytes(self.buffer[1:5], "big")
            if len(self.buffer) < size:
                break
            kind, payload = self.buffer[:1], self.buffer[5:size]
            self.buffer = self.buffer[size:]
            HANDLERS.get(kind, StandIn.on_other)(self, payload)
        if not data and not self.end:
            self.end = FAILED, GONE
        return bool(self.end)

    def on_opened(self, how: bytes) -> None:
        if b"n" in how:
            self.terminated = 0
        # Terminals are kept: keys and screen may be carried still, and no program waits for their
        # end of file.
        _redirect_to_null(*[fd for fd in (0, 1) if not self.terminals[fd]])
        if b"b" in how:
            if os.fork():
                os._exit(0)
            os.setsid()
            _redirect_to_null(0, 1, 2)

    def on_other(self, payload: bytes) -> None:
        """Ignore an unknown frame type."""

    def on_end(self, payload: bytes) -> None:
        self.end = payload[0], payload[1:]

    # -- the loop

    def run(self) -> NoReturn:
        self.request()
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(self.wakeup, select.POLLIN)
        while not self.end:
            ready = [fd for fd, _ in poll.poll()]
            if self.wakeup in ready:
                os.read(self.wakeup, 64)
            if self.sock.fileno() in ready:
                self.receive()
        _exit(*self.end)

    def on_terminal(self, how: bytes) -> None:
        """Carry keys, and the screen if it is a terminal, until the end."""
        sys.path.insert(0, os.getcwd())
        # By name: they are files beside this one, which a type checker would not find.
        raw_tty: Any = __import__("raw_tty")
        tty_modes: Any = __import__("tty_modes")

        tty = raw_tty.RawTty(0, 1)
        keys, far_keys = _socket.socketpair()
        screen, fds = None, [far_keys.fileno()]
        if self.terminals[1]:
            screen, far_screen = _socket.socketpair()
            fds.append(far_screen.fileno())
        modes = tty_modes.encode(tty.before) if tty.before else b""
        self.send(b"K", b"%d %d %d %d\0" % tuple(tty.size()) + modes, fds)
        far_keys.close()
        if screen:
            far_screen.close()
        if how[:1] == b"r":
            tty.enter()
        try:
            reason = raw_tty.relay(
                tty,
                keys.detach(),
                screen and screen.detach(),
                escapes=raw_tty.Escapes(how[1:]) if how[1:] else None,
                on_size=self.on_size,
                on_action=lambda name: None,
                watch={self.sock.fileno(): self.receive},
            )
        finally:
            tty.leave()
        if reason in (raw_tty.DISCONNECT, raw_tty.HANGUP):
            _exit(FAILED)

    def on_size(self, *size: int) -> None:
        self.send(b"W", b"%d %d %d %d" % size)


HANDLERS: dict[bytes, Any] = {
    b"T": StandIn.on_terminal,
    b"O": StandIn.on_opened,
    b"E": lambda self, text: _print_error(text),
    b"X": StandIn.on_end,
}


def main() -> NoReturn:
    """Run `ssh` once."""
    _occupy_stdio()
    StandIn(sys.argv[1:]).run()


if __name__ == "__main__":
    main()
