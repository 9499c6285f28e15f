"""
Data files of packages, served to `importlib.resources` in children.

A child sends its request to the master; contexts between them route it like any message. importlib
starts at Importer.get_resource_reader().

Rules
    1. Which files a child may read is decided in data_files.py.
    2. The master reads files on its worker's thread, never on the broker's. It never waits for a
       child to read an answer: see limits/turns.py.

Threads: ResourceRequester and ResourceReader on any except the broker's.
"""

from __future__ import annotations

import os
from io import BytesIO, TextIOWrapper

from mitogen import core
from mitogen.core import Message
from mitogen.limits import turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = [
    "ResourcePath",
    "ResourceReader",
    "ResourceRequester",
    "ResourceResponder",
]

#: Handle of requests for a data file of a package, or for the list of their names.
GET_RESOURCE = 112
#: Seconds that a child waits for a reply.
TIMEOUT = 120.0
#: Requests of one stream that may wait.
MAX_WAITING = 1000


class ResourceRequester:
    """
    Child: client for data files.

    :param router: the child's router
    :param context: the context that serves them: the master
    """

    def __init__(self, router: core.Router, context: core.Context) -> None:
        self.router = router
        self.context = context

    def get(self, fullname: str, resource: str) -> bytes:
        """
        Return a data file's bytes.

        :param fullname: full name of the package
        :param resource: path of the file below the package's directory, with slashes
        :raises FileNotFoundError: the file does not exist, or the master does not serve it
        """
        found: bytes | None = self._ask([fullname, resource])
        if found is None:
            raise FileNotFoundError(2, "No such resource in package %s" % fullname, resource)
        return found

    def names(self, fullname: str, path: str = "") -> dict[str, bool] | None:
        """
        Return each name in a directory and whether it is a directory; None if there is none.

        :param path: path below the package's directory, with slashes
        """
        found = self._ask([fullname, path, True])
        return None if found is None else dict(found)

    def _ask(self, request: list[Any]) -> Any:
        msg = Message(handle=GET_RESOURCE, data=core.encode(request))
        return self.context.send_await(msg, TIMEOUT)


def _packages(importer: Any) -> dict[str, str]:
    """Return {directory, as it begins a package's `__file__`: full name of the package}."""
    return {
        os.path.dirname("master:" + entry.path): fullname
        for fullname, entry in list(importer.modules.items())
        if entry.path and entry.submodules is not None and entry.size is not None
    }


def iter_modules(importer: Any, path: str, prefix: str) -> Iterator[tuple[str, bool]]:
    """
    Child: yield (name after `prefix`, whether it is a package) of each module in a package.

    :param importer: the child's importer
    :param str path: item of the package's `__path__`
    """
    fullname = _packages(importer).get(path)
    if fullname is not None:
        requester = ResourceRequester(importer.router, importer.router.econtext.master)
        names = requester.names(fullname) or {}
        for name in sorted(importer.modules[fullname].submodules):
            inner = requester.names(fullname, name) if names.get(name) else None
            package = inner is not None and "__init__.py" in inner
            # As on the master, other directories are not listed.
            if package or not names.get(name):
                yield prefix + name, package


def get_data(importer: Any, path: str) -> bytes:
    """
    Child: return the bytes of a data file, for pkgutil.get_data().

    :param importer: the child's importer
    :param path: path that begins with the directory of a package's `__file__`
    :raises FileNotFoundError: the file does not exist, or the master does not serve it
    """
    requester = ResourceRequester(importer.router, importer.router.econtext.master)
    packages = _packages(importer)
    # The innermost package.
    directory = max((each for each in packages if path.startswith(each + "/")), default=None)
    if directory is None:
        raise FileNotFoundError(2, "Not a file of a package", path)
    return requester.get(packages[directory], path[len(directory) + 1 :])


class ResourceReader:
    """
    Child: reader of one package's data files for importlib (importlib.abc.ResourceReader).

    :param requester: a ResourceRequester
    :param fullname: full name of the package
    """

    def __init__(self, requester: ResourceRequester, fullname: str) -> None:
        self.requester = requester
        self.fullname = fullname

    def files(self) -> ResourcePath:
        """Return the package as a path (importlib.resources.abc.TraversableResources)."""
        return ResourcePath(self)

    def open_resource(self, resource: str) -> BytesIO:
        """Return a file object with the bytes of a data file."""
        return BytesIO(self.requester.get(self.fullname, os.fspath(resource)))

    def resource_path(self, resource: str) -> str:
        """Raise FileNotFoundError: the file doesn't exist on this machine."""
        raise FileNotFoundError(2, "The file exists on the controlling machine only", resource)

    def is_resource(self, name: str) -> bool:
        """Return whether a data file of that name exists."""
        return (self.requester.names(self.fullname) or {}).get(name) is False

    def contents(self) -> Iterator[str]:
        """Return the names of the data files and of the directories."""
        return iter(self.requester.names(self.fullname) or {})


class ResourcePath:
    """
    A package in a child, or a data file in it: a Traversable of importlib.resources.

    For a reader without files(), importlib makes a Traversable itself, whose read_text() and
    contents() fail since Python 3.13.

    :param reader: the package's ResourceReader
    :param parts: path below the package; empty for the package itself
    """

    def __init__(self, reader: ResourceReader, parts: tuple[str, ...] = ()) -> None:
        self._reader = reader
        self._parts = parts

    @property
    def name(self) -> str:
        """Last part of the path; for the package, the last part of its name."""
        return self._parts[-1] if self._parts else self._reader.fullname.rpartition(".")[2]

    def _names(self, parts: tuple[str, ...]) -> dict[str, bool] | None:
        return self._reader.requester.names(self._reader.fullname, "/".join(parts))

    def is_dir(self) -> bool:
        """Return whether this is a directory; the package itself is one."""
        return not self._parts or (self._names(self._parts[:-1]) or {}).get(self.name) is True

    def is_file(self) -> bool:
        """Return whether this data file exists."""
        return bool(self._parts) and (self._names(self._parts[:-1]) or {}).get(self.name) is False

    def iterdir(self) -> Iterator[ResourcePath]:
        """Yield the files and directories in this one; nothing for a file."""
        for name in self._names(self._parts) or ():
            yield self.joinpath(name)

    def joinpath(self, *names: Any) -> ResourcePath:
        """Return the path with `names` appended, each of which may contain slashes."""
        parts = [part for name in names for part in os.fspath(name).split("/") if part]
        return ResourcePath(self._reader, (*self._parts, *parts))

    __truediv__ = joinpath

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """Open for reading, as pathlib.Path.open() does; text takes TextIOWrapper's arguments."""
        if mode not in ("r", "rb"):
            raise ValueError("Mode %r is not supported: open a resource with 'r' or 'rb'" % (mode,))
        found = self._reader.open_resource("/".join(self._parts))
        return found if mode == "rb" else TextIOWrapper(found, *args, **kwargs)

    def read_bytes(self) -> bytes:
        """Return the contents."""
        data: bytes = self.open("rb").read()
        return data

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Return the contents as text."""
        text: str = self.open("r", encoding, errors).read()
        return text


class ResourceResponder:
    """
    Master: server of data files.

    :param router: the master's router, whose `responder` holds the data files a child may read
    """

    def __init__(self, router: Any) -> None:
        self._router = router
        self._turns = turns.Turns(router.worker.put, 1, MAX_WAITING)
        router.add_handler(self._on_get_resource, GET_RESOURCE)

    def _on_get_resource(self, msg: Message) -> None:
        if not msg.is_dead:
            stream = self._router.routes.get(msg.src_id)
            if not self._turns.add(stream, self._answer, msg):
                self._router.drop(msg, "too many of its requests for data files wait")

    def _answer(self, msg: Message, release: Callable[[], object]) -> None:
        try:
            found = self._find(*core.decode(msg.data))
        except Exception:
            # A child can't distinguish a refused or failed request from a missing file.
            found = None
        turns.reply(self._router, msg, found, release)

    def _find(self, fullname: str, path: str, as_names: bool = False) -> Any:
        files = self._router.responder.data_files
        if as_names:
            return files.names(fullname, path)
        # An answer has a few bytes more than the file.
        return files.read(fullname, path, self._router.max_message_size - 16)
