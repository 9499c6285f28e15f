"""
Turn mitogen on and off in an ansible.cfg, and print shell commands with the same effect.

Rules
    1. A file is replaced atomically, with its permissions and owner, or left unchanged.
    2. An editor holds a lock on the file's directory: concurrent edits are serialized.
    3. Lists are extended, never replaced.

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

#: Commands that set an environment variable, by shell.
SHELLS = {"sh": "export %s=%s", "fish": "set -gx %s %s", "csh": "setenv %s %s"}


def target(current: str | None) -> str:
    """
    Return the path of the ansible.cfg to edit: the one in use, else one that Ansible would read.

    :param current: path of the file that Ansible reads now, if any
    :raises Error: Ansible would not read a file in this directory
    """
    if current:
        return current
    named = os.path.expanduser(os.environ.get("ANSIBLE_CONFIG", ""))
    if named:
        return os.path.join(named, "ansible.cfg") if os.path.isdir(named) else named
    if os.stat(".").st_mode & stat.S_IWOTH:
        text = "%s is world-writable, so Ansible would not read an ansible.cfg in it: run this in "
        raise Error((text + "another directory, or with '--config ~/.ansible.cfg'") % os.getcwd())
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
    """Return the contents of a file with its line ends; None if it doesn't exist."""
    try:
        with open(path, encoding="utf-8", newline="") as fp:
            return fp.read()
    except FileNotFoundError:
        return None


def _write(path: str, text: str, like: os.stat_result | None) -> None:
    """Create or replace a file atomically."""
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
    """Change the contents of a file; return whether they differ afterwards."""
    # A link stays one: its target is edited.
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
                # Nothing else was in it: enable() had created it.
                os.unlink(path)
            return True
    except ini.Refused as e:
        raise Error("%s: %s" % (path, e)) from None
    except UnicodeDecodeError as e:
        raise Error("%s: Ansible can't read it, because it is not UTF-8: %s" % (path, e)) from None
    except OSError as e:
        text = "%s: can't be changed: %s: edit it by hand, or name another file with --config"
        raise Error(text % (path, e.strerror or e)) from None


def enable(path: str, settings: list[Setting]) -> bool:
    """
    Add the callback's settings to a file; return whether it was changed.

    :param path: path of an ansible.cfg, which is created if needed
    :param settings: settings required by the callback
    :raises Error: the file can't be read, parsed or written
    """

    def change(text: str) -> str:
        for each in settings:
            text = ini.add(text, each.key, each.entry, each.separator, each.first)
        return text

    return _edit(path, change)


def disable(path: str, settings: list[Setting]) -> bool:
    """
    Remove the entries added by enable() from a file; return whether it was changed.

    A file without other contents is removed.

    :param path: path of an ansible.cfg
    :param settings: settings required by the callback
    :raises Error: the file can't be read, parsed or written
    """

    def change(text: str) -> str:
        # In reverse order, because enable() adds each one before the others.
        for each in reversed(settings):
            text = ini.remove(text, each.key, each.entry, each.separator, each.first)
        return text

    return _edit(path, change)


def environment(values: dict[str, list[str]], settings: list[Setting], shell: str) -> list[str]:
    """
    Return shell commands that turn mitogen on. Variables *replace* the lists in a file.

    :param values: name of a setting to its current entries, from any source
    :param settings: settings required by the callback
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
