"""
The account of the current process.
"""

from __future__ import annotations

import os
import pwd


def user_name() -> str:
    """Return the account's name, or its numeric id if it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
