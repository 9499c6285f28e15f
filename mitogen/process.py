"""Public names for running programs in contexts: run(), Popen. See mitogen.programs."""

from __future__ import annotations

from mitogen.programs.client import (
    DEVNULL as DEVNULL,
    PIPE as PIPE,
    STDOUT as STDOUT,
    CalledProcessError as CalledProcessError,
    CompletedProcess as CompletedProcess,
    Connect as Connect,
    Conversation as Conversation,
    Custom as Custom,
    Popen as Popen,
    Pty as Pty,
    Refused as Refused,
    Subsystem as Subsystem,
    TimeoutExpired as TimeoutExpired,
    feed as feed,
    run as run,
)

__all__ = [
    "CalledProcessError",
    "CompletedProcess",
    "Connect",
    "Conversation",
    "Custom",
    "DEVNULL",
    "PIPE",
    "Popen",
    "Pty",
    "Refused",
    "STDOUT",
    "Subsystem",
    "TimeoutExpired",
    "feed",
    "run",
]
