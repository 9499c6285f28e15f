"""
The data files that a child may read: files below regular packages that it may import.

Rules
    1. The package is one that the import policy allows, and has an `__init__` in a directory. A
       namespace package counts as a part of the regular package above it, and has no files if
       there is none: its directories are any that happen to lie on `sys.path`.
    2. The policy also covers each directory and file below a package, under the name that it would
       have as a module.
    3. A path is resolved without leaving the package's directory, and opened by descriptors that
       follow no symlink. Hidden files and `__pycache__` do not exist.

Threads: any except a broker's. Controlling machine only.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["DataFiles"]

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: Characters of a path, and names in a directory, that a child may ask for.
MAX_PATH, MAX_NAMES = 4096, 100000


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in ("", "__pycache__") and "\0" not in name


class DataFiles:
    """
    Reader of the data files of packages.

    :param responder: the master's ModuleResponder, which has the import policy and the finder
    """

    def __init__(self, responder: Any) -> None:
        self._responder = responder

    def read(self, fullname: str, path: str, limit: int) -> bytes | None:
        """
        Return the bytes of a file, or None if there is none that may be read.

        :param str path: path below the package's directory, with slashes
        :param int limit: largest size in bytes
        """
        fd = self._open(fullname, path.split("/"))
        if fd is None:
            return None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            os.close(fd)
            return None
        with open(fd, "rb") as fp:
            return fp.read(limit)

    def names(self, fullname: str, path: str) -> list[list[Any]] | None:
        """
        Return [name, whether it is a directory] of each file in a directory, sorted, or None.

        :param str path: path below the package's directory; empty for that itself
        """
        parts = path.split("/") if path else []
        fd = self._open(fullname, parts)
        if fd is None:
            return None
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                return None
            names = sorted(os.listdir(fd))[:MAX_NAMES]
        finally:
            os.close(fd)
        return [
            [name, kind == stat.S_IFDIR]
            for name in names
            for kind in [self._kind(fullname, [*parts, name])]
            if kind in (stat.S_IFDIR, stat.S_IFREG)
        ]

    def _kind(self, fullname: str, parts: list[str]) -> int | None:
        fd = self._open(fullname, parts)
        if fd is None:
            return None
        try:
            return stat.S_IFMT(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def _open(self, fullname: str, parts: list[str]) -> int | None:
        # Return a descriptor of a file or directory, or None.
        if len(fullname) + sum(map(len, parts)) > MAX_PATH or not all(map(_is_visible, parts)):
            return None
        if self._denied(fullname, parts):
            return None
        found = self._directory(fullname)
        if found is None:
            return None
        root, above = found
        # Symlinks that stay below the directory are followed here, and none is when it is opened.
        real = os.path.realpath(os.path.join(root, *above, *parts))
        if real == root:
            return _open_below(root, ())
        if not real.startswith(root.rstrip(os.sep) + os.sep):
            return None
        below = os.path.relpath(real, root).split(os.sep)
        if not all(map(_is_visible, below)) or self._denied(
            fullname.rsplit(".", len(above))[0] if above else fullname, below
        ):
            return None
        return _open_below(root, below)

    def _denied(self, fullname: str, parts: list[str]) -> bool:
        name = ".".join([fullname, *parts[:-1], *(part.partition(".")[0] for part in parts[-1:])])
        return bool(self._responder.policy.denied(name))

    def _directory(self, fullname: str) -> tuple[str, list[str]] | None:
        """Return the real directory of the regular package, and the path below it."""
        above: list[str] = []
        finder = self._responder.finder
        while True:
            module = finder.find(fullname)
            if not module.is_namespace:
                break
            fullname, _, name = fullname.rpartition(".")
            above.insert(0, name)
            if not fullname or self._responder.policy.denied(fullname):
                return None
        directory, name = os.path.split(module.path or "")
        if not module.is_pkg or not directory or name.partition(".")[0] != "__init__":
            # A module with a __path__, such as six, is beside other modules.
            return None
        if finder.is_overridden(fullname):
            return None
        return os.path.realpath(directory), above


def _open_below(root: str, parts: Iterable[str]) -> int | None:
    try:
        fd = os.open(root, _OPEN | os.O_DIRECTORY)
    except OSError:
        return None
    for part in parts:
        try:
            inner = os.open(part, _OPEN, dir_fd=fd)
        except OSError:
            return None
        finally:
            os.close(fd)
        fd = inner
    return fd
