"""
A command by the program that would connect a step, and without a context there: for where there is
no Python.

Threads: any; setns asks the tool that knows a container.
"""

from __future__ import annotations

from shlex import quote

from mitogen.methods.registry import get_connection_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["command_line"]


def command_line(method: str, options: dict[str, Any], command: str) -> list[str]:
    """
    Return the argument list that runs a shell's command where a step leads to.

    :param str method: connection method
    :param dict options: its options
    :param str command: for `/bin/sh -c` there
    :raises TypeError, ValueError: the options are not those of the method
    :raises StreamError: setns does not find the container
    """
    cls: Any = get_connection_class(method)
    words = ["/bin/sh", "-c", command]
    if method == "ssh":
        words = [quote(word) for word in words]
    if method == "setns":
        username = options.get("username") or "root"
        options = dict(options, username=None)
        if username != "root":
            words = ["su", "-s", "/bin/sh", username, "-c", command]
    conn = cls(cls.options_class(**options), None)
    if method == "setns":
        conn.find()
    conn.get_boot_command = lambda: words
    argv: list[str] = conn.argv()
    return argv
