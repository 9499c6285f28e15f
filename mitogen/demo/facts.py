"""
Facts about the current process. This module is sent to each context, with the modules it imports.
"""

from __future__ import annotations

import os
import platform

from mitogen.demo import accounts, clocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


def collect() -> dict[str, object]:
    """Return a dict: pid, parent, user, Python version, CPU time used so far in seconds."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "user": accounts.user_name(),
        "python": platform.python_version(),
        "cpu": clocks.cpu_seconds(),
    }
