"""
Remote errors as received: a CallError that is also an instance of the remote built-in type, if it
has one, so that `except` clauses for that type catch it.

Threads: any.
"""

from __future__ import annotations

import builtins
import os
import sys

from mitogen import core
from mitogen.core import CallError
from mitogen.core.lazy import LAZY, fetch
from mitogen.limits.display import shown, shown_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from typing import Any


__all__ = ["restore_call_error", "with_own_lines"]

LAZY.update(preamble="bootstrap.preamble")

#: One traceback frame in a file that came from the master. The lines after its first, indented by
#: four spaces, are the source text and the markers below it.
_FRAME = r'(  File "master:([^"\n]+)", line (\d{1,9}), (in [^\n]*)\n)(?:    [^\n]*\n)*'
#: Frames of one text whose source lines are replaced: each costs a look at a file.
MAX_FRAMES = 1000
#: Beginning of the names of the preamble's files in tracebacks.
_CORE = "mitogen/core/"

_error_types: dict[str, Any] = {}


def _error_type(type_name: str | None) -> Any:
    """Return the class for a CallError: a subclass of the remote built-in type too, if any."""
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


def with_own_lines(text: str) -> str:
    """
    Return a traceback with the original source lines of this library's files.

    A child has minified copies of these files. The controller has the originals on disk. The copies
    have the same line numbers, except those of the preamble, which have no blank lines. Lines of
    other files are unchanged.

    :param str text: one or several tracebacks in the format of traceback.format_tb()
    """
    # In a child the package has no file.
    package = os.path.dirname(getattr(sys.modules["mitogen"], "__file__", ""))
    if '"master:' not in text or not package:
        return text
    import linecache
    import re

    def replace(match: re.Match[str]) -> str:
        # The preamble's files are named mitogen/core/..., regardless of the package's location.
        path = os.path.normpath(os.path.join(os.path.dirname(package), match.group(2)))
        if not path.startswith(package + os.sep):
            return match.group(0)
        number = int(match.group(3))
        name = match.group(2)[len(_CORE) : -3]
        if match.group(2).startswith(_CORE) and name in core.PREAMBLE:
            number = fetch("preamble").line_number(name, number)
        line = linecache.getline(path, number).strip()
        head = '  File "master:%s", line %d, %s\n' % (match.group(2), number, match.group(4))
        return head + ("    %s\n" % line if line else "")

    return re.sub(_FRAME, replace, text, count=MAX_FRAMES)


def restore_call_error(fields: Any, router: Any = None) -> CallError:
    """
    Return the CallError that the decoded `fields` describe.

    Its text, type_name and traceback are escaped (limits/display.py); `message` is as it was sent.
    """
    type_name, message, traceback, text = (None if f is None else "%s" % (f,) for f in fields)
    type_name = type_name and shown_name(type_name)
    cls = _error_type(type_name)
    text = shown(with_own_lines(text or ""))
    try:
        error: CallError = cls.__new__(cls, text)
    except TypeError:
        # Types that cannot be made from a text alone: MemoryError, ExceptionGroup.
        error = CallError.__new__(CallError, text)
    error.args = (text,)
    error.type_name = type_name
    error.message = message
    error.traceback = traceback and shown(with_own_lines(traceback))
    return error
