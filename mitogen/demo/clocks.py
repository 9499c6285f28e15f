"""
What a process has used.
"""

from __future__ import annotations

import os


def cpu_seconds() -> float:
    """Return the seconds of CPU time, user and system, of this process: float."""
    times = os.times()
    return times[0] + times[1]
