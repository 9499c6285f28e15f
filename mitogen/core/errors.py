"""
The errors of this library. They share one root; the class shows which side is at fault.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Threads: any.
"""

from __future__ import annotations

from mitogen.core.lazy import fetch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Error(Exception):
    """Root of all errors of this library; `fmt % args` is the text."""

    def __init__(self, fmt: Any = None, *args: object) -> None:
        Exception.__init__(self, fmt % args if args else fmt or "")


class StreamError(Error):
    """A connection could not be made, was lost, or carried data that is not the protocol."""


class ChannelError(Error):
    """The far end of a mailbox is gone, or it ended the flow."""

    if TYPE_CHECKING:
        remote_msg: str
        local_msg: str


class TimeoutError(Error):
    """A deadline passed."""


class EncodeError(Error, TypeError):
    """A value that cannot be sent; the text has the path to it. The sender is at fault."""


class CallError(Error):
    """
    A call that failed in the far context. If the remote error is a built-in Exception, this error
    is an instance of that type as well.

    :param fmt: text, or the exception
    """

    #: Remote error's type as `module.Name`, its text, and the remote traceback.
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
