"""
Whose process this is.
"""

from __future__ import annotations

import os
import pwd


def user_name() -> str:
    """Return the account's name, or its number where it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
