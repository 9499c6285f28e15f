"""
Shell commands that Ansible runs around most tasks, implemented in Python: a table.

Rules
    1. A command must match a pattern exactly. A leading `~` or `$HOME` in a path is the only thing
       that a shell would expand.
    2. A success has the command's effect and output. After an error the command itself is run, for
       its error message.

Threads: known() is pure, on any; do() on the thread of the context's calls.
"""

from __future__ import annotations

import os
import re
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["do", "known"]

#: A path without characters that a shell would expand; then with a prefix for the home directory.
_PATH = r"/[\w@%+=:,./-]*"
_FROM_HOME = r"(?:~|\$HOME|)" + _PATH
_MAKE_TEMPORARY = re.compile(
    r'\( umask 77 && mkdir -p "` echo (?P<base>%s) `"'
    r'&& mkdir "` echo (?P<path>(?P=base)/(?P<name>[\w.-]+)) `"'
    r' && echo (?P=name)="` echo (?P=path) `" \)\Z' % _FROM_HOME
)
_REMOVE = re.compile(r"rm -f -r (?P<path>%s) > /dev/null 2>&1\Z" % _PATH)
_OPEN = re.compile(r"chmod u\+rwx (?P<paths>%s(?: %s)*)\Z" % (_PATH, _PATH))
_HOME = re.compile(r"echo ~\Z")
#: Suffix that `sh` plugins add to a command that may have a terminal.
_PAUSE = " && sleep 0"


def known(command: str) -> tuple[str, list[str]] | None:
    """
    Return the name and the arguments of a command for do(), or None if it is not in the table.

    :param str command: the argument of `/bin/sh -c`
    """
    if command.endswith(_PAUSE):
        command = command[: -len(_PAUSE)]
    for name, (pattern, _) in _TABLE.items():
        found = pattern.match(command)
        if found:
            groups = found.groupdict()
            return name, groups["paths"].split() if "paths" in groups else list(groups.values())
    return None


def do(name: str, arguments: list[str], home: str | None = None) -> bytes | None:
    """
    Carry out a command and return its output; None if the command must be run instead.

    :param str name: name from known()
    :param list arguments: arguments from known(), as text
    :param str home: HOME, if different from this process's
    """
    home = os.environ.get("HOME", "") if home is None else home
    try:
        return _TABLE[name][1](home, *arguments).encode("utf-8", "surrogateescape")
    except OSError:
        return None


def _absolute(home: str, path: str) -> str:
    if path[0] == "/":
        return path
    if home[:1] != "/" or re.search(r"[\s*?\[\\]", home):
        # A shell would resolve the path elsewhere, or split it into several words.
        raise OSError("HOME is %r" % home)
    return home + path[path.index("/") :]


def _make_temporary(home: str, base: str, path: str, name: str) -> str:
    base, path = _absolute(home, base), _absolute(home, path)
    missing = []
    above = base
    while not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    for each in reversed(missing):
        try:
            os.mkdir(each, 0o700)
        except FileExistsError:
            # Created by a concurrent task.
            pass
    os.mkdir(path, 0o700)
    return "%s=%s\n" % (name, path)


def _remove(home: str, path: str) -> str:
    # Not at the top: importing it takes 5 ms, and the broker process does not need it.
    import shutil

    bare = path.rstrip("/")
    if not bare or (bare != path and os.path.islink(bare)):
        raise OSError("rm may treat %s differently" % path)
    try:
        if os.path.isdir(bare) and not os.path.islink(bare):
            shutil.rmtree(bare)
        else:
            os.unlink(path)
    except FileNotFoundError:
        if os.path.lexists(bare):
            raise
    return ""


def _open(home: str, *paths: str) -> str:
    for path in paths:
        # An error if it is a symlink or unreadable: the shell runs the command then.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | stat.S_IRWXU)
        finally:
            os.close(fd)
    return ""


def _home(home: str) -> str:
    return _absolute(home, "~/")[:-1] + "\n"


#: Commands: name to pattern and function.
_TABLE: dict[str, tuple[re.Pattern[str], Callable[..., str]]] = {
    "make_temporary": (_MAKE_TEMPORARY, _make_temporary),
    "remove": (_REMOVE, _remove),
    "open": (_OPEN, _open),
    "home": (_HOME, _home),
}
