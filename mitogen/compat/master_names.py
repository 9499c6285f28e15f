"""
Names of `mitogen.master` in old releases, still available there.

Threads: any. Controlling machine only.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from time import monotonic as now

from mitogen import core
from mitogen.compat.core_names import ImportPolicy
from mitogen.compat.logs import LOG
from mitogen.importing.finder import DefectivePython3xMainMethod, ParentSpecEnumerationMethod
from mitogen.minify import minimize_source
from mitogen.select import Select

__all__ = [
    "LOG",
    "DefectivePython3xMainMethod",
    "ImportPolicy",
    "ParentEnumerationMethod",
    "Select",
    "iter_read",
    "minimize_source",
    "write_all",
]

ParentEnumerationMethod = ParentSpecEnumerationMethod


def _wait(fd: int, mask: int, deadline: float | None) -> None:
    """Wait until `fd` is ready, for `mask` of poll(2)."""
    poll = select.poll()
    poll.register(fd, mask)
    while True:
        left = None if deadline is None else deadline - now()
        if left is not None and left <= 0:
            raise core.TimeoutError("descriptor %d: the deadline has passed", fd)
        if poll.poll(None if left is None else left * 1000):
            return


def write_all(fd: int, s: bytes, deadline: float | None = None) -> None:
    """
    Write all of `s` to a descriptor in non-blocking mode.

    :param deadline: in seconds of the monotonic clock; None for no limit
    :raises mitogen.core.TimeoutError: the deadline has passed
    :raises OSError: the reading end is closed
    """
    view = memoryview(s)
    while view:
        _wait(fd, select.POLLOUT, deadline)
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            continue


def iter_read(fd: int, deadline: float | None = None) -> Iterator[bytes]:
    """
    Yield data read from a descriptor until its end.

    :param deadline: in seconds of the monotonic clock; None for no limit
    :raises mitogen.core.TimeoutError: the deadline has passed
    """
    while True:
        _wait(fd, select.POLLIN, deadline)
        data = core.read_fd(fd)
        if data:
            yield data
        elif data is not None:
            return
