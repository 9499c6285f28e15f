"""
Modules as ansible-core has built them for hosts, kept from one run to the next: to build one takes
80 ms of each run that uses it.

Rules
    1. Only core's own modules are kept, and only while nothing takes the place of its module_utils.
    2. They are kept by a digest of the names, sizes and times of all that they could be made of.
    3. Core finds them where it keeps those of the run itself, its `ansiballz_cache`. Whatever fails
       is left undone: then core builds them.

Threads: a worker's only one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator

import ansible
from ansible import constants as C
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.loader import module_utils_loader

__all__ = ["keeper"]

#: What core calls those of its own modules, without an extension for debuggers.
NAME = re.compile(r"ansible\.modules\.\w+-ZIP_[A-Z]+(-none)?\Z")
CORE = os.path.dirname(os.path.abspath(ansible.__file__))
MODULE_UTILS = os.path.join(CORE, "module_utils")
#: What a module is made of, and by.
SOURCES = ("modules", "module_utils", "executor", "config", "_internal/_ansiballz")
#: Seconds after which those of another release, say, are removed.
MAX_AGE = 30 * 86400


class Keeper:
    """
    Gives core what earlier runs have built, and keeps what this process has, which is of one task.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    @property
    def _run(self) -> str:
        return os.path.join(to_text(C.DEFAULT_LOCAL_TMP), "ansiballz_cache")

    def offer(self) -> None:
        """Before a module is built: have core find what is kept."""
        with contextlib.suppress(OSError, AttributeError, TypeError):
            if shadowed():
                self._withdraw()
            elif not os.path.isdir(self._run):
                self._link_all()
            self._known = set(os.listdir(self._run))

    def keep(self) -> None:
        """After one has been: keep it."""
        with contextlib.suppress(OSError, AttributeError, TypeError):
            fresh = {name for name in os.listdir(self._run) if NAME.match(name)} - self._known
            if fresh and not shadowed():
                store = _make_store()
                for name in fresh:
                    _copy(os.path.join(self._run, name), os.path.join(store, name))
                self._known |= fresh

    def _link_all(self) -> None:
        store = _store()
        names = _private(store) and os.listdir(store)
        os.makedirs(self._run, exist_ok=True)
        for name in names or ():
            if NAME.match(name):
                _copy(os.path.join(store, name), os.path.join(self._run, name))

    def _withdraw(self) -> None:
        """Take back what another task of this run was given: here it would be another."""
        for name in os.listdir(self._run):
            kept = os.path.join(_store(), name)
            if NAME.match(name) and os.path.exists(kept):
                os.unlink(os.path.join(self._run, name))


@functools.cache
def keeper(pid: int) -> Keeper:
    """
    Return the keeper of this process, which has offered what there is.

    :param pid: os.getpid(): a worker's is not that of the process it was split off
    """
    found = Keeper()
    found.offer()
    return found


def shadowed() -> bool:
    """Return whether a role's, a playbook's or a user's module_utils has a name of core's."""
    paths = {os.path.abspath(path) for path in module_utils_loader._get_paths(subdirs=False)}
    others = [path for path in paths - {MODULE_UTILS} if os.path.isdir(path)]
    if not others:
        return False
    core = set(os.listdir(MODULE_UTILS)) - {"__init__.py", "__pycache__"}
    return any(core.intersection(os.listdir(path)) for path in others)


def _private(path: str) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _store() -> str:
    """Return the directory of what is made of the sources as they are now."""
    digest = hashlib.sha256(repr((ansible.__version__, sys.version, CORE)).encode())
    for source in SOURCES:
        for entry in _files(os.path.join(CORE, *source.split("/"))):
            found = entry.stat()
            digest.update(repr((entry.path, found.st_size, found.st_mtime_ns)).encode())
    return os.path.join(to_text(C.ANSIBLE_HOME), "mitogen", "modules", digest.hexdigest()[:32])


def _files(directory: str) -> Iterator[os.DirEntry[str]]:
    if not os.path.isdir(directory):
        return
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name != "__pycache__":
                yield from _files(entry.path)
        elif entry.is_file():
            yield entry


def _make_store() -> str:
    """Make the directory, and remove those that nothing was kept in for long."""
    store = _store()
    if not os.path.isdir(store):
        os.makedirs(store, 0o700, exist_ok=True)
        parent = os.path.dirname(store)
        for name in os.listdir(parent):
            path = os.path.join(parent, name)
            if os.stat(path).st_mtime < time.time() - MAX_AGE:
                shutil.rmtree(path, ignore_errors=True)
    if not _private(store):
        raise PermissionError(store)
    return store


def _copy(source: str, target: str) -> None:
    """Have the file under another name, whole from the first moment."""
    if os.path.exists(target):
        return
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:
        # Another file system, or one without links.
        draft = "%s.%d" % (target, os.getpid())
        shutil.copyfile(source, draft)
        os.rename(draft, target)
