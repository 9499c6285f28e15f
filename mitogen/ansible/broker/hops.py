"""
Command lines that run a command on a step's target without a context, for targets without Python.

Threads: any; setns runs the container's tool.
"""

from __future__ import annotations

import contextlib
import os
from shlex import quote

from mitogen.methods import connection
from mitogen.methods.registry import get_connection_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["command_line", "secrets_in_environment"]


def command_line(method: str, options: dict[str, Any], command: str) -> list[str]:
    """
    Return the argument list that runs a shell command on the target of a step.

    :param str method: connection method
    :param dict options: options of the method
    :param str command: argument of `/bin/sh -c` on the target
    :raises TypeError, ValueError: the options are not valid for the method
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
    # There is no handshake that would read the report.
    conn.is_guarded = False
    argv: list[str] = conn.argv()
    return argv


@contextlib.contextmanager
def secrets_in_environment(argv: list[str]) -> Iterator[str]:
    """
    Yield the shell's command line for `argv`, without its secrets: they are variables meanwhile.

    The stock plugin shows the command line at -vvv.
    """
    words = []
    names: list[str] = []
    for number, word in enumerate(argv):
        secret = connection.secret_part(argv, number)
        prefix = word[: len(word) - len(secret)]
        quoted = quote(prefix) if prefix or not secret else ""
        if secret:
            names.append("MITOGEN_CENSORED_%d" % len(names))
            os.environ[names[-1]] = secret
            quoted += '"$%s"' % names[-1]
        words.append(quoted)
    try:
        yield " ".join(words)
    finally:
        for name in names:
            del os.environ[name]
