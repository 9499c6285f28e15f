"""
Turns mitogen on and off in an ansible.cfg, and prints what does the same in a shell.

Rules
    1. A file is replaced by a whole one, which has its permissions and owner, or stays as it is.
    2. Who edits a file holds a lock on its directory: two at once are one after the other.
    3. Lists are added to, never replaced.

Threads: one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterator

from mitogen.ansible.setup import ini
from mitogen.ansible.setup.installation import Error, Setting

__all__ = ["SHELLS", "disable", "enable", "environment", "target"]

#: What a shell calls a variable for the programs that it starts.
SHELLS = {"sh": "export %s=%s", "fish": "set -gx %s %s", "csh": "setenv %s %s"}


def target(in_force: str | None) -> str:
    """
    Return the path of the ansible.cfg to edit: the one in force, else one that would be.

    :param in_force: path of the file that Ansible reads now, if any
    :raises Error: Ansible would not read one in this directory
    """
    if in_force:
        return in_force
    named = os.path.expanduser(os.environ.get("ANSIBLE_CONFIG", ""))
    if named:
        return os.path.join(named, "ansible.cfg") if os.path.isdir(named) else named
    if os.stat(".").st_mode & stat.S_IWOTH:
        text = "everyone may write to %s, so Ansible would not read an ansible.cfg in it: run this "
        raise Error((text + "elsewhere, or with '--config ~/.ansible.cfg'") % os.getcwd())
    return os.path.abspath("ansible.cfg")


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: str) -> str | None:
    """Return the contents of a file, line ends as they are; None without one."""
    try:
        with open(path, encoding="utf-8", newline="") as fp:
            return fp.read()
    except FileNotFoundError:
        return None


def _write(path: str, text: str, like: os.stat_result | None) -> None:
    """Put a file in the place of another, or of none."""
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".ansible.cfg.")
    try:
        with open(fd, "w", encoding="utf-8", newline="") as fp:
            fp.write(text)
            fp.flush()
            if like is None:
                umask = os.umask(0)
                os.umask(umask)
                os.fchmod(fd, 0o666 & ~umask)
            else:
                if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(fd, like.st_uid, like.st_gid)
                os.fchmod(fd, stat.S_IMODE(like.st_mode))
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _edit(path: str, change: Callable[[str], str]) -> bool:
    """Change the contents of a file; return whether they are others now."""
    # Where it is a link, what it points to is the file.
    path = os.path.realpath(path)
    try:
        with _locked(os.path.dirname(path)):
            old = _read(path)
            new = change(old or "")
            if new == (old or ""):
                return False
            if new:
                _write(path, new, os.stat(path) if old is not None else None)
            else:
                # All that was in it was ours: enable() had made it.
                os.unlink(path)
            return True
    except ini.Refused as e:
        raise Error("%s: %s" % (path, e)) from None
    except UnicodeDecodeError as e:
        raise Error("%s: Ansible can't read it: it is not UTF-8: %s" % (path, e)) from None
    except OSError as e:
        text = "%s: can't be changed: %s: edit it by hand, or name another by --config"
        raise Error(text % (path, e.strerror or e)) from None


def enable(path: str, settings: list[Setting]) -> bool:
    """
    Put what the callback needs into a file; return whether anything had to be done.

    :param path: of an ansible.cfg, which is made if need be
    :param settings: what the callback needs
    :raises Error: the file can't be read or written, or is none
    """

    def change(text: str) -> str:
        for each in settings:
            text = ini.add(text, each.key, each.entry, each.separator, each.first)
        return text

    return _edit(path, change)


def disable(path: str, settings: list[Setting]) -> bool:
    """
    Take what enable() has put in out of a file again; return whether anything had to be done.

    A file that had nothing else in it is removed.

    :param path: of an ansible.cfg
    :param settings: what the callback needs
    :raises Error: the file can't be read or written, or is none
    """

    def change(text: str) -> str:
        # The last that came is the first in the file.
        for each in reversed(settings):
            text = ini.remove(text, each.key, each.entry, each.separator, each.first)
        return text

    return _edit(path, change)


def environment(values: dict[str, list[str]], settings: list[Setting], shell: str) -> list[str]:
    """
    Return commands that have a shell's programs use mitogen: variables *replace* what a file has.

    :param values: name of a setting to its entries now, from wherever they are
    :param settings: what the callback needs
    :param shell: one of SHELLS
    """
    lines = []
    for each in settings:
        entries = [value for value in values[each.key] if value != each.entry]
        text = each.separator.join([*entries, each.entry])
        quoted = shlex.quote(text)
        if shell == "fish" and quoted != text:
            quoted = "'%s'" % text.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(SHELLS[shell] % (each.variable, quoted))
    return lines
