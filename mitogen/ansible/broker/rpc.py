"""
Requests of Ansible's workers to the broker process: frames on a Unix socket, each a length (4
bytes, big-endian) and a CBOR value (core.encode()).

Rules
    1. A connection has one pending request at a time. A worker that ends or gives up closes it,
       which cancels the request.
    2. Of data sent by contexts, only bytes, text and numbers are passed on.

Threads: any, one at a time for each connection.
"""

from __future__ import annotations

import socket

from mitogen import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Connection", "Lost"]

#: Maximum bytes of a frame, which holds a module's input or output.
MAX_FRAME = 1 << 30


class Lost(core.Error):
    """The other end of a connection is gone."""


class Connection:
    """
    One end of a connection.

    :param sock: a connected socket
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def send(self, value: Any) -> None:
        """
        Send a value.

        :raises Lost: the other end is gone
        """
        data = core.encode(value)
        try:
            self.sock.sendall(len(data).to_bytes(4, "big") + data)
        except OSError as e:
            raise Lost("%s", e) from e

    def receive(self) -> Any:
        """
        Return the next value.

        :raises Lost: the other end is gone
        """
        size = int.from_bytes(self._read(4), "big")
        if size > MAX_FRAME:
            raise Lost("received a frame of %d bytes; the limit is %d bytes", size, MAX_FRAME)
        return core.decode(self._read(size))

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as e:
            raise Lost("%s", e) from e
        if len(data) < size:
            raise Lost("the other end has closed the connection")
        return data

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._file.close()
        self.sock.close()
