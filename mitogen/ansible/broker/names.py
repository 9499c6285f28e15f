"""What the broker process and those who look for it agree on. Imports nothing."""

from __future__ import annotations

__all__ = ["LOCK", "SOCKET"]

#: Name of the socket in a run's directory.
SOCKET = "socket"
#: And of what is locked by who starts the broker process.
LOCK = "lock"
