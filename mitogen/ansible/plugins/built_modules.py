"""
Cache of modules as built by ansible-core for hosts, kept between runs: building one takes 80 ms of
each run that uses it.

Rules
    1. Only core's own modules are cached, and only while its module_utils are not shadowed.
    2. The cache's key is a digest of the names, sizes and times of all possible source files.
    3. Core finds the modules in its own cache of the run, `ansiballz_cache`. After any error
       nothing more is done: core builds the modules itself.

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

from mitogen.ansible.broker.client import make_private_directories

__all__ = ["build_cache"]

#: Core's file names of its own modules, without an extension for debuggers.
NAME = re.compile(r"ansible\.modules\.\w+-ZIP_[A-Z]+(-none)?\Z")
CORE = os.path.dirname(os.path.abspath(ansible.__file__))
MODULE_UTILS = os.path.join(CORE, "module_utils")
#: Directories of the modules' sources, and of the code that builds them.
SOURCES = ("modules", "module_utils", "executor", "config", "_internal/_ansiballz")
#: Seconds after which an unused directory of the cache, as of another release, is removed.
MAX_AGE = 30 * 86400


class BuildCache:
    """
    Cache of built modules: loads those of earlier runs, and saves those of this process's task.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    @property
    def _run(self) -> str:
        return os.path.join(to_text(C.DEFAULT_LOCAL_TMP), "ansiballz_cache")

    def load(self) -> None:
        """Make cached modules available to core. Called before a module is built."""
        with contextlib.suppress(OSError, AttributeError, TypeError):
            if shadowed():
                self._remove_loaded()
            elif not os.path.isdir(self._run):
                self._link_all()
            self._known = set(os.listdir(self._run))

    def save(self) -> None:
        """Add newly built modules to the cache. Called after a module was built."""
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
        make_private_directories(self._run)
        for name in names or ():
            if NAME.match(name):
                _copy(os.path.join(store, name), os.path.join(self._run, name))

    def _remove_loaded(self) -> None:
        """Remove modules loaded for another task of this run: this task would build others."""
        for name in os.listdir(self._run):
            cached = os.path.join(_store(), name)
            if NAME.match(name) and os.path.exists(cached):
                os.unlink(os.path.join(self._run, name))


@functools.cache
def build_cache(pid: int) -> BuildCache:
    """
    Return the cache of this process, after loading.

    :param pid: os.getpid(): a worker needs a cache other than its parent's
    """
    found = BuildCache()
    found.load()
    return found


def shadowed() -> bool:
    """Return whether module_utils of a role, playbook or user have the name of one of core's."""
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
    """Return the directory of the modules built from the current sources."""
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
    """Create the directory, and remove those that have not been changed for MAX_AGE."""
    store = _store()
    if not os.path.isdir(store):
        make_private_directories(store)
        parent = os.path.dirname(store)
        for name in os.listdir(parent):
            path = os.path.join(parent, name)
            if os.stat(path).st_mtime < time.time() - MAX_AGE:
                shutil.rmtree(path, ignore_errors=True)
    if not _private(store):
        raise PermissionError(store)
    return store


def _copy(source: str, target: str) -> None:
    """Link or copy a file atomically."""
    if os.path.exists(target):
        return
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:
        # The target is on another file system, or links are not supported.
        draft = "%s.%d" % (target, os.getpid())
        shutil.copyfile(source, draft)
        os.rename(draft, target)
