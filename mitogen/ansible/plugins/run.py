"""
State of one run of Ansible, shared by its processes, which are forks of one: its directory, and
messages logged once.

Threads: any.
"""

from __future__ import annotations

import multiprocessing
import os

from ansible import constants as C
from ansible.module_utils.common.text.converters import to_text
from ansible.utils.display import Display

__all__ = ["directory", "log_once", "main_pid"]

display = Display()


def directory() -> str:
    """Return the directory of the run's broker process; it may not exist yet."""
    return os.path.join(to_text(C.DEFAULT_LOCAL_TMP), "mitogen")


def main_pid() -> int:
    """Return the pid of the run's main process, even if that has exited."""
    parent = multiprocessing.parent_process()
    return int(parent.pid) if parent is not None and parent.pid else os.getpid()


def log_once(text: str) -> None:
    """
    Log an incompatibility of Ansible at -vvv, unless it was logged before in this run.

    :param text: the incompatibility, and its consequence
    """
    try:
        path = os.path.join(to_text(C.DEFAULT_LOCAL_TMP), "mitogen-said")
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except (OSError, AttributeError, LookupError, TypeError):
        # Each task logs it then.
        pass
    display.vvv("mitogen.ansible: %s" % text)
