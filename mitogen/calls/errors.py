"""
What a remote error becomes here: a CallError, of the remote built-in type too where there is one,
so that it can be caught by that.

Imported by those who receive errors; registers its decoder. Any thread.
"""

from __future__ import annotations

import builtins

from mitogen import core
from mitogen.core import CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


__all__ = ["restore_call_error"]

_error_types: dict[str, Any] = {}


def _error_type(type_name: str | None) -> Any:
    """Return the class for a CallError: of the remote built-in type too, where there is one."""
    module, _, name = (type_name or "").rpartition(".")
    base = getattr(builtins, name, None) if module == "builtins" else None
    if not isinstance(base, type) or not issubclass(base, Exception):
        return CallError
    if base in (Exception, StopIteration, StopAsyncIteration):
        return CallError
    if name not in _error_types:
        try:
            cls = type("CallError", (CallError, base), {"__module__": "mitogen.core"})
        except TypeError:
            cls = CallError
        _error_types[name] = cls
        core.ENCODERS[cls] = core.ENCODERS[CallError]
    return _error_types[name]


def restore_call_error(fields: Any, router: Any = None) -> CallError:
    """Return the CallError that was sent."""
    type_name, message, traceback, text = (None if f is None else "%s" % (f,) for f in fields)
    cls = _error_type(type_name)
    try:
        error: CallError = cls.__new__(cls, text)
    except TypeError:
        # A type that wants more than a text: MemoryError, ExceptionGroup.
        error = CallError.__new__(CallError, text)
    error.args = (text or "",)
    error.type_name = type_name
    error.message = message
    error.traceback = traceback
    return error


core.TAG_DECODERS[core.TAG_CALL_ERROR] = restore_call_error
