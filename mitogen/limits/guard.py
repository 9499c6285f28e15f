"""
Calls of foreign code on threads that must live: log handlers, policies, callbacks of a program.

An exception of any class, SystemExit included, ends that call alone. It is logged.

Threads: any.
"""

from __future__ import annotations

import sys

from mitogen.core import ERROR, CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["guarded", "report"]


def guarded(log: Any, name: str, func: Callable[..., object], *args: Any) -> None:
    """
    Call `func(*args)`, and report an exception of any class instead of raising it.

    :param log: `log(level, format, *arguments)`, as Router.log()
    :param str name: name of the thread or job, for the report
    """
    try:
        func(*args)
    except BaseException as error:
        report(log, name, error)


def report(log: Any, name: str, error: BaseException) -> None:
    """Log an error. If logging fails too, print it to standard error."""
    try:
        log(ERROR, "%s: %s", name, CallError(error))
    except BaseException:
        # The same log handler may have failed before.
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except BaseException:
            pass
