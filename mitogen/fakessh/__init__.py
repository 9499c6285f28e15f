"""A replacement for `ssh`, used by rsync, scp, sftp, git and others, that connects to contexts."""

from __future__ import annotations

from mitogen.fakessh.runner import (
    allow as allow,
    main as main,
    run as run,
    session as session,
)

__all__ = [
    "allow",
    "main",
    "run",
    "session",
]
