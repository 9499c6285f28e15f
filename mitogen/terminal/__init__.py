"""A person's terminal in front of a program in a context: shell()."""

from __future__ import annotations

from mitogen.terminal.interactive import (
    shell as shell,
)

__all__ = [
    "shell",
]
