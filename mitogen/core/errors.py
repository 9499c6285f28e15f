"""
The errors of this library. One class is the root of all; the class shows who is at fault.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Threads: any.
"""

from __future__ import annotations

from mitogen.core.late import fetch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Error(Exception):
    """Root of all errors raised here; `fmt % args` is the text."""

    def __init__(self, fmt: Any = None, *args: object) -> None:
        Exception.__init__(self, fmt % args if args else fmt or "")


class StreamError(Error):
    """A connection could not be made, was lost, or carried what is not the protocol."""


class ChannelError(Error):
    """The far end of a mailbox has gone, or ended the flow."""

    if TYPE_CHECKING:
        remote_msg: str
        local_msg: str


class TimeoutError(Error):
    """A deadline passed."""


class EncodeError(Error, TypeError):
    """The sender's fault: a value cannot be sent; the text has the path to it."""


class CallError(Error):
    """
    A call failed in the far context. Where the remote error is a built-in Exception, this is one
    of that type too.

    :param fmt: text, or the exception
    """

    #: Remote type `module.Name`, its text, and the remote traceback.
    type_name: str | None
    message: str | None
    traceback: str | None
    type_name = message = traceback = None

    def __init__(self, fmt: None | str | BaseException = None, *args: object) -> None:
        if isinstance(fmt, BaseException):
            fmt = fetch("first_call").describe(self, fmt)
        Error.__init__(self, fmt, *args)

    def __str__(self) -> Any:
        return self.args[0]
