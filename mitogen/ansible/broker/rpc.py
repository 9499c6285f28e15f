"""
Requests from Ansible's workers to the broker process: frames on a UNIX socket, each a length (4
bytes, big-endian) and a CBOR value (core.encode()).

Rules
    1. One request at a time on a connection; a worker that ends, or gives up, closes it, and what
       it has asked for is ended.
    2. Nothing that a context sent is passed on but bytes, text and numbers.

Threads: any, one at a time for each connection.
"""

from __future__ import annotations

import socket

from mitogen import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Connection", "Lost"]

#: Bytes of a frame at most: a module's output, or its input.
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

        :raises Lost: nobody is there
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
            raise Lost("a frame of %d bytes", size)
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
        """Close it; idempotent."""
        self._file.close()
        self.sock.close()
