"""
What a process has used.
"""

import os


def cpu_seconds() -> "float":
    """Return the seconds of CPU time, user and system, of this process: float."""
    times = os.times()
    return times[0] + times[1]
