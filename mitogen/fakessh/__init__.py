"""A program `ssh` for rsync, scp, sftp, git and others, whose connections lead into contexts."""

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
