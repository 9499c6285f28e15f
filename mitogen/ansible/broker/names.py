"""Names shared by the broker process and its clients. Imports nothing."""

from __future__ import annotations

__all__ = ["LOCK", "SOCKET"]

#: Name of the socket in a run's directory.
SOCKET = "socket"
#: Name of the file locked by the process that starts the broker process.
LOCK = "lock"
