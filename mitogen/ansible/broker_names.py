"""What the broker process and those who look for it agree on. Imports nothing."""

__all__ = ["SOCKET"]

#: Name of the socket in a run's directory.
SOCKET = "socket"
