"""
Pipes between two contexts. A pipe carries bytes from a reader here to a writer there, through a
window. It is used for a program's standard input, output and error (RFC 4254 section 5.2).

Each end has a mailbox, without core's windows: a pipe's window counts bytes written to the final
descriptor, not bytes received. Messages to the receiving end are raw bytes, and an empty message is
the end of file. Messages to the sending end are credit, and an empty message is a request to stop
(eow@openssh.com).

Rules
    1. A reader is asked for no more bytes than the credit allows. Credit is given for bytes that
       the writer has written, in halves of the window. Data beyond the window is a protocol error.
    2. Nothing is read while the link holds HIGH_WATER bytes of any data, so that calls on the same
       link stay fast.
    3. The end of file costs no credit and comes last. Each end ends once, and reports it once.
    4. Messages are accepted only from the context at the other end.

Threads: the broker's, unless a docstring states another.
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

#: Bytes in one message. Half a frame measured as fast as a whole one, and blocks the link for half
#: the time.
CHUNK = 65536
#: Bytes in flight. 500 MB took a tenth less time than with 256 KiB, and no less with 4 MiB.
WINDOW = 1048576
#: Bytes in flight from a terminal: small, since output printed before ^C is still shown after it.
PTY_WINDOW = 65536


class _End:
    def __init__(self, router: Router, peer: Any, window: int, on_end: OnEnd) -> None:
        self.router = router
        self.peer_id: int = peer.context_id
        self.window = window
        self.on_end = on_end
        self.ended = False
        #: Mailbox of the other end; 0 until it is known.
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
        self.router.handlers.pop(self.handle, None)
        self.on_end(lost)


class SendingEnd(_End):
    """
    The sending end of a pipe.

    :param Router router: this context's router
    :param Context peer: context at the other end
    :param int window: bytes that may be in flight
    :param endpoints.Reader reader: source of the bytes
    :param on_end: `on_end(lost)`, called once, when the end of file was sent or the other end
        stopped reading; `lost` means that the other end is gone
    """

    def __init__(
        self, router: Router, peer: Any, window: int, reader: Reader, on_end: OnEnd
    ) -> None:
        _End.__init__(self, router, peer, window, on_end)
        self.reader = reader
        self.credit = window
        self.flowing = False

    def start(self, remote: int) -> None:
        """Start sending to the mailbox `remote`."""
        self.remote = remote
        if not self.ended:
            self.reader.start(self._deliver)
            self._resume()

    def _deliver(self, data: bytes) -> None:
        if self.ended:
            return
        # If the receiver is gone, a dead message to our own mailbox reports it.
        self._send(data, self.handle)
        if not data:
            return self._end(False)
        self.credit -= len(data)
        if self.credit <= 0 or self._is_link_full():
            self.flowing = False
            self.reader.pause()
            self._resume()
        else:
            self.reader.limit = min(CHUNK, self.credit)

    def _is_link_full(self) -> bool:
        stream = self.router.routes.get(self.peer_id)
        return stream is not None and stream.queued >= HIGH_WATER

    def _resume(self) -> None:
        if self.ended or self.flowing or self.credit <= 0:
            return
        stream = self.router.routes.get(self.peer_id)
        if stream is not None and stream.queued >= HIGH_WATER:
            return stream.when_drained(self._resume)
        self.flowing = True
        self.reader.limit = min(CHUNK, self.credit)
        self.reader.resume()

    def _on_message(self, msg: Message) -> None:
        if msg.is_dead or not msg.data:
            self.close(msg.is_dead)
        else:
            (amount,) = core.NUMBER.unpack(msg.data)
            self.credit += amount
            self._resume()

    def close(self, lost: bool = False) -> None:
        """Stop reading. The program that writes to the reader's descriptor gets SIGPIPE."""
        if not self.ended:
            self.reader.close()
            self._end(lost)


class ReceivingEnd(_End):
    """
    The receiving end of a pipe.

    :param Router router: this context's router
    :param Context peer: context at the other end
    :param int window: bytes that may be in flight
    :param endpoints.Writer writer: destination of the bytes
    :param on_end: `on_end(lost)`, called once, when all data was written or the writer failed;
        `lost` means that the other end is gone or violated the protocol
    """

    def __init__(
        self, router: Router, peer: Any, window: int, writer: Writer, on_end: OnEnd
    ) -> None:
        _End.__init__(self, router, peer, window, on_end)
        self.writer = writer
        #: Bytes received without credit given for them yet, and the part of them that is written.
        self.held = 0
        self.owed = 0
        self.lost = False
        writer.start(self._on_written, self._on_closed)

    def start(self, remote: int) -> None:
        """Start giving credit to the mailbox `remote`. Data may have arrived before."""
        self.remote = remote
        if not self.ended:
            self._send_credit()

    def _on_message(self, msg: Message) -> None:
        if msg.is_dead:
            self.lost = True
            self.writer.end()
        elif not msg.data:
            self.writer.end()
        else:
            self.held += len(msg.data)
            if self.held > self.window:
                self.router.log(core.ERROR, "%r: pipe overrun: data beyond the window", msg)
                self.remote = self.remote or msg.reply_to
                return self.close(True)
            self.writer.write(msg.data)

    def _on_written(self, size: int) -> None:
        """Count `size` bytes as written to the final descriptor."""
        self.owed += size
        self._send_credit()

    def _send_credit(self) -> None:
        if self.remote and self.owed * 2 >= self.window:
            owed, self.owed = self.owed, 0
            self.held -= owed
            self._send(core.NUMBER.pack(owed))

    def _on_closed(self, broken: bool) -> None:
        """End the pipe: all data was written, or (`broken`) nothing more can be written."""
        if not self.ended:
            if broken and self.remote:
                self._send(b"")
            self._end(self.lost)

    def close(self, lost: bool = False) -> None:
        """Stop writing, and make the other end stop sending."""
        if not self.ended:
            self.lost = lost
            self.writer.close()
            self._on_closed(True)
