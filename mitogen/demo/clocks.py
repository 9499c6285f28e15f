"""
Resources used by the current process.
"""

from __future__ import annotations

import os


def cpu_seconds() -> float:
    """Return the CPU time of this process, user and system, in seconds."""
    times = os.times()
    return times[0] + times[1]
