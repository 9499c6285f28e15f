"""
A pipe between two contexts: bytes from a reader here to a writer there, through a window; what a
program's standard input, output and error are carried by (RFC 4254 section 5.2).

The sending end and the receiving end have a mailbox each, without core's windows: this one counts
what is in the final descriptor, not what was received. Towards the receiver go raw bytes, an empty
message is the end of file; towards the sender goes credit, an empty message says that no more will
be read (eow@openssh.com).

Rules
    1. A reader is asked for no more than there is credit for; credit is given for bytes that the
       writer has written, in halves of the window. More than the window is a protocol error.
    2. Nothing is read while the link holds HIGH_WATER of whatever: calls that share it stay quick.
    3. The end of file costs no credit and comes last. Each end ends once, and says so once.
    4. Only the context at the other end is listened to.

Threads: the broker's, but for what is said of a method.
"""

from __future__ import annotations

from mitogen import core
from mitogen.core import HIGH_WATER, RAW, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mitogen.core import Router
    from mitogen.programs.endpoints import Reader, Writer

    OnEnd = Callable[[bool], object]

__all__ = ["CHUNK", "PTY_WINDOW", "WINDOW", "ReceivingEnd", "SendingEnd"]

#: Bytes of one message: half a frame measured as well as a whole one, and holds the link half as
#: long.
CHUNK = 65536
#: Bytes that may be under way: 500 MB took a tenth less with it than with 256 KiB, and no more with
#: 4 MiB.
WINDOW = 1048576
#: The same for terminals: what was printed before ^C is still shown after it.
PTY_WINDOW = 65536


class _End:
    def __init__(self, router: Router, peer: Any, window: int, on_end: OnEnd) -> None:
        self.router = router
        self.peer_id: int = peer.context_id
        self.window = window
        self.on_end = on_end
        self.ended = False
        #: The other end's mailbox: 0 until it is known.
        self.remote = 0
        self.handle = router.add_handler(
            self._on_message, router.new_handle(False), True, None, peer, False, True
        )

    def _on_message(self, msg: Message) -> None:
        raise NotImplementedError

    def _send(self, data: bytes, reply_to: int = 0) -> None:
        msg = Message(dst_id=self.peer_id, handle=self.remote, flags=RAW, reply_to=reply_to)
        msg.data = data
        self.router.route(msg, False)

    def _end(self, lost: bool) -> None:
        self.ended = True
        self.router._handlers.pop(self.handle, None)
        self.on_end(lost)


class SendingEnd(_End):
    """
    Where the bytes come from.

    :param Router router: this context's
    :param Context peer: the other end's
    :param int window: bytes that may be under way
    :param endpoints.Reader reader: what has the bytes
    :param on_end: `on_end(lost)`, called once, after the end of file was sent, or because nobody
        reads any more; `lost`: because the other end is gone
    """

    def __init__(
        self, router: Router, peer: Any, window: int, reader: Reader, on_end: OnEnd
    ) -> None:
        _End.__init__(self, router, peer, window, on_end)
        self.reader = reader
        self.credit = window
        self.flowing = False

    def start(self, remote: int) -> None:
        """Begin to send to the mailbox `remote`."""
        self.remote = remote
        if not self.ended:
            self.reader.start(self._deliver)
            self._go_on()

    def _deliver(self, data: bytes) -> None:
        if self.ended:
            return
        # Should the receiver be gone, that comes as a dead message to our own mailbox.
        self._send(data, self.handle)
        if not data:
            return self._end(False)
        self.credit -= len(data)
        if self.credit <= 0 or self._is_link_full():
            self.flowing = False
            self.reader.pause()
            self._go_on()
        else:
            self.reader.limit = min(CHUNK, self.credit)

    def _is_link_full(self) -> bool:
        stream = self.router.routes.get(self.peer_id)
        return stream is not None and stream.queued >= HIGH_WATER

    def _go_on(self) -> None:
        if self.ended or self.flowing or self.credit <= 0:
            return
        stream = self.router.routes.get(self.peer_id)
        if stream is not None and stream.queued >= HIGH_WATER:
            return stream.when_drained(self._go_on)
        self.flowing = True
        self.reader.limit = min(CHUNK, self.credit)
        self.reader.resume()

    def _on_message(self, msg: Message) -> None:
        if msg.is_dead or not msg.data:
            self.close(msg.is_dead)
        else:
            (amount,) = core._NUMBER.unpack(msg.data)
            self.credit += amount
            self._go_on()

    def close(self, lost: bool = False) -> None:
        """Read no more; whoever writes to what we read from gets SIGPIPE."""
        if not self.ended:
            self.reader.close()
            self._end(lost)


class ReceivingEnd(_End):
    """
    Where the bytes go.

    :param Router router: this context's
    :param Context peer: the other end's
    :param int window: bytes that may be under way
    :param endpoints.Writer writer: what takes the bytes
    :param on_end: `on_end(lost)`, called once, after all is written, or cannot be; `lost`: the
        other end is gone, or sent what it may not
    """

    def __init__(
        self, router: Router, peer: Any, window: int, writer: Writer, on_end: OnEnd
    ) -> None:
        _End.__init__(self, router, peer, window, on_end)
        self.writer = writer
        #: Bytes received for which no credit was given yet; and those of them that are written.
        self.held = 0
        self.owed = 0
        self.lost = False
        writer.start(self._on_written, self._on_closed)

    def start(self, remote: int) -> None:
        """Give credit to the mailbox `remote`; bytes may have come before."""
        self.remote = remote
        if not self.ended:
            self._give()

    def _on_message(self, msg: Message) -> None:
        if msg.is_dead:
            self.lost = True
            self.writer.end()
        elif not msg.data:
            self.writer.end()
        else:
            self.held += len(msg.data)
            if self.held > self.window:
                self.router.log(core.ERROR, "%r: pipe overrun", msg)
                self.remote = self.remote or msg.reply_to
                return self.close(True)
            self.writer.write(msg.data)

    def _on_written(self, size: int) -> None:
        """`size` bytes are where they belong."""
        self.owed += size
        self._give()

    def _give(self) -> None:
        if self.remote and self.owed * 2 >= self.window:
            owed, self.owed = self.owed, 0
            self.held -= owed
            self._send(core._NUMBER.pack(owed))

    def _on_closed(self, broken: bool) -> None:
        """The writer is done: all is written, or (`broken`) nobody is there to write to."""
        if not self.ended:
            if broken and self.remote:
                self._send(b"")
            self._end(self.lost)

    def close(self, lost: bool = False) -> None:
        """Write no more; the other end stops sending."""
        if not self.ended:
            self.lost = lost
            self.writer.close()
            self._on_closed(True)
