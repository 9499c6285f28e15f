"""
Data files of packages, served to `importlib.resources` in children.

A child sends its request to the master; contexts between them route it like any message. importlib
starts at Importer.get_resource_reader().

Rules
    1. A child requests a package that the import policy allows, and a file name without slashes in
       it: a child can't make the master read arbitrary paths.
    2. The master reads files on its worker's thread, never on the broker's.

Threads: ResourceRequester and ResourceReader on any except the broker's.
"""

from __future__ import annotations

import os
from io import BytesIO, TextIOWrapper

from mitogen import core
from mitogen.core import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["ResourcePath", "ResourceReader", "ResourceRequester", "ResourceResponder"]

#: Handle of requests for a data file of a package, or for the list of their names.
GET_RESOURCE = 112
#: Seconds that a child waits for a reply.
TIMEOUT = 120.0


class ResourceRequester:
    """
    Child: client for data files.

    :param router: the child's router
    :param context: the context that serves them: the master
    """

    def __init__(self, router: core.Router, context: core.Context) -> None:
        self.router = router
        self.context = context

    def get(self, fullname: str, resource: str | None) -> Any:
        """
        Return a data file's bytes; if `resource` is None, the names of all data files.

        :param fullname: full name of the package
        :param resource: name of the file in it
        :raises FileNotFoundError: the file does not exist, or the master does not serve it
        """
        data = core.encode([fullname, resource])
        msg = Message(handle=GET_RESOURCE, data=data)
        found = self.context.send_await(msg, TIMEOUT)
        if found is None:
            raise FileNotFoundError(2, "No such resource in package %s" % fullname, resource)
        return found


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
        return name in self.requester.get(self.fullname, None)

    def contents(self) -> Iterator[str]:
        """Return the names of the data files."""
        names: list[str] = self.requester.get(self.fullname, None)
        return iter(names)


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

    def is_dir(self) -> bool:
        """Return whether this is the package itself."""
        return not self._parts

    def is_file(self) -> bool:
        """Return whether this data file exists."""
        return len(self._parts) == 1 and self._reader.is_resource(self.name)

    def iterdir(self) -> Iterator[ResourcePath]:
        """Yield the package's data files; nothing for a file."""
        if not self._parts:
            for name in self._reader.contents():
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

    :param router: the master's router, whose `responder` holds the import policy
    """

    def __init__(self, router: Any) -> None:
        self._router = router
        router.add_handler(self._on_get_resource, GET_RESOURCE)

    def _on_get_resource(self, msg: Message) -> None:
        if not msg.is_dead:
            self._router.worker.put(self._answer, msg)

    def _answer(self, msg: Message) -> None:
        try:
            fullname, resource = core.decode(msg.data)
            found = self._find(fullname, resource)
        except Exception:
            # A child can't distinguish a refused or failed request from a missing file.
            found = None
        msg.reply(found)

    def _find(self, fullname: str, resource: str | None) -> Any:
        responder = self._router.responder
        module = responder.finder.find(fullname)
        if responder.policy.denied(fullname) or not module.is_pkg or module.path is None:
            return None
        directory = module.path if module.is_namespace else os.path.dirname(module.path)
        if resource is None:
            return sorted(n for n in os.listdir(directory) if _is_data(directory, n))
        if os.path.basename(resource) != resource or not _is_data(directory, resource):
            return None
        with open(os.path.join(directory, resource), "rb") as fp:
            return fp.read()


def _is_data(directory: str, name: str) -> bool:
    # A package's modules are resources too, as importlib counts them.
    return name not in ("", ".", "..") and os.path.isfile(os.path.join(directory, name))
