"""
What belongs to one run of Ansible, of whose processes each is another's copy: a directory of its
own, and what is said once.

Threads: any.
"""

from __future__ import annotations

import multiprocessing
import os

from ansible import constants as C
from ansible.module_utils.common.text.converters import to_text
from ansible.utils.display import Display

__all__ = ["directory", "main_pid", "say_once"]

display = Display()


def directory() -> str:
    """Return the directory of the run's broker process; it may not be there yet."""
    return os.path.join(to_text(C.DEFAULT_LOCAL_TMP), "mitogen")


def main_pid() -> int:
    """Return the process id of the run's main process, which may be gone: not that of its heir."""
    parent = multiprocessing.parent_process()
    return int(parent.pid) if parent is not None and parent.pid else os.getpid()


def say_once(text: str) -> None:
    """
    Say at -vvv that Ansible is not as we know it, unless it has been said in this run.

    :param text: what of it, and what is done then
    """
    try:
        path = os.path.join(to_text(C.DEFAULT_LOCAL_TMP), "mitogen-said")
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except (OSError, AttributeError, LookupError, TypeError):
        # Then each task says it.
        pass
    display.vvv("mitogen.ansible: %s" % text)
