"""An SFTP server, version 3, for targets that have none."""

from __future__ import annotations

from mitogen.sftp.server import (
    MAX_HANDLES as MAX_HANDLES,
    main as main,
    serve as serve,
)

__all__ = [
    "MAX_HANDLES",
    "main",
    "serve",
]
