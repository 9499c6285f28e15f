"""
Text from another context, made safe to show: on a terminal, in a log, in an error.

Rules
    1. A shown text has no control characters but newlines and tabs, and nothing that reorders it.
    2. No line of it but the first begins at the margin, so it cannot look like a log record.
    3. It is bounded; the number of characters left out is part of it.

Threads: pure functions, callable from any thread.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MAX_NAME", "MAX_TEXT", "shown", "shown_name"]

#: Characters of a shown name.
MAX_NAME = 200
#: Characters of a shown text.
MAX_TEXT = 1 << 20

#: Code points that a terminal obeys: control characters of ASCII and Latin-1, line and paragraph
#: separators, and the controls of writing direction.
_OBEYED = (
    *range(32),
    *range(127, 160),
    *(0x61C, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
_TABLE = {n: "\\x%02x" % n if n < 256 else "\\u%04x" % n for n in _OBEYED}
_TABLE.update({9: "\\t", 10: "\\n", 13: "\\r"})
_LINES = {n: text for n, text in _TABLE.items() if n not in (9, 10)}


def _escaped(text: Any, table: dict[int, str], limit: int) -> str:
    text = "%s" % (text,)
    left = len(text) - limit
    if left > 0:
        text = "%s... (%d more characters)" % (text[:limit], left)
    # A lone surrogate cannot be written.
    escaped: str = text.translate(table).encode("utf-8", "backslashreplace").decode("utf-8")
    return escaped


def shown(text: object, limit: int = MAX_TEXT) -> str:
    """
    Return a text of several lines, such as a traceback, with control characters escaped.

    Its later lines are indented, as those of tracebacks are.

    :param int limit: number of characters to keep
    """
    lines = _escaped(text, _LINES, limit).split("\n")
    later = [line if line[:1] in ("", " ", "\t") else "  " + line for line in lines[1:]]
    return "\n".join(lines[:1] + later)


def shown_name(text: object, limit: int = MAX_NAME) -> str:
    """Return a name as one line with control characters escaped.

    :param int limit: number of characters to keep
    """
    return _escaped(text, _TABLE, limit)
