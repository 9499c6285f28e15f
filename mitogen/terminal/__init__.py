"""Interactive programs: this process' terminal connected to a program in a context. See shell()."""

from __future__ import annotations

from mitogen.terminal.interactive import (
    shell as shell,
)

__all__ = [
    "shell",
]
