"""
The child's importer (PEP 451): fetches modules from the parent, for this context and for its
children.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Threads: an import waits on the importing thread; the broker thread stores arriving modules.
"""

from __future__ import annotations

import sys
import zlib
from _frozen_importlib import ModuleSpec

from mitogen.core.codec import decode
from mitogen.core.frames import GET_MODULE, LOAD_MODULE, RAW, Message
from mitogen.core.io import new_lock
from mitogen.core.lazy import Lazy
from mitogen.core.routing import has_parent_authority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mitogen.core.io import Action
    from mitogen.core.routing import Router

    # Entries, zlib stream of all sources, own names: see Importer.load().
    Segment = list[Any]

#: Seconds that an import waits for its module.
IMPORT_TIMEOUT = 120.0


class Entry:
    """A module sent or refused by the parent: see Importer.load()."""

    path: str | None
    submodules: Any
    segment: Segment
    offset: int
    size: Any  # bytes of source; None for a namespace package; a refusal's reason if path is None

    def __init__(self, *fields: Any) -> None:
        self.path, self.submodules, self.segment, self.offset, self.size = fields


class Importer(Lazy):
    """
    A finder and loader (PEP 451) of modules that come from the parent.

    The program's own top-level names always come from the master, even if the target has them. All
    other modules are looked up on the target first. Segments are kept unchanged, for the children.

    `own` holds the program's own top-level names, or portions of a namespace package; they arrive
    with the modules.

    :param Router router: router that requests to the parent are sent through
    """

    more = "first_call"
    if TYPE_CHECKING:

        def find_module(self, fullname: str, path: Any = None) -> Any: ...
        def load_module(self, fullname: str) -> Any: ...

    def __init__(self, router: Router, own: Iterable[str] = ()) -> None:
        self.router = router
        self.own = {"mitogen", *own}
        if TYPE_CHECKING:
            self.core_source = b""
        self.modules: dict[str, Entry] = {}
        self.pending: dict[str, list[Action]] = {}
        self._sources: dict[int, bytes] = {}
        router.add_handler(self._on_load_module, LOAD_MODULE, policy=has_parent_authority)

    # sys.meta_path holds the importer twice: first for the program's own modules, last for modules
    # that the target does not have.
    def install(self) -> None:
        sys.meta_path.insert(0, self)
        sys.meta_path.append(_LastFinder(self))

    def is_own(self, fullname: str) -> bool:
        while fullname:
            if fullname in self.own:
                return True
            fullname = fullname.rpartition(".")[0]
        return False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if self.is_own(fullname):
            return self.find(fullname)

    def find(self, fullname: str, last: bool = False) -> ModuleSpec | None:
        parent = fullname.rpartition(".")[0]
        known = self.modules.get(parent)
        if known and known.path and fullname not in self.modules:
            if fullname.rpartition(".")[2] not in (known.submodules or ()):
                return None
        entry = self.get(fullname)
        if entry.path is None:
            if last and entry.size:
                raise ModuleNotFoundError(entry.size, name=fullname)
            return None
        # A namespace package has a path and no source.
        loader: Any = None if entry.size is None else self
        package = entry.submodules is not None
        spec = ModuleSpec(fullname, loader, origin="master:" + entry.path, is_package=package)
        spec.has_location = bool(loader)
        return spec

    def get(self, fullname: str) -> Entry:
        """Return the entry of a module; if it was not pushed, request it from the parent."""
        entry = self.modules.get(fullname)
        if entry:
            return entry
        if self.router.broker.on_thread():
            raise ImportError("%s: not on the broker thread" % fullname)
        lock = new_lock()
        self.request(fullname, lock.release)
        if not lock.acquire(True, IMPORT_TIMEOUT):
            raise ImportError("%s: no answer from the parent" % fullname)
        return self.modules[fullname]

    def request(self, fullname: str, done: Action) -> None:
        """Any thread: request a module from the parent; `done()` is called when it has arrived."""
        self.router.broker.defer(self._request, fullname, done)

    def _request(self, fullname: str, done: Action) -> Any:
        if fullname in self.modules:
            return done()
        waiting = self.pending.setdefault(fullname, [])
        waiting.append(done)
        if len(waiting) == 1:
            router = self.router
            msg = Message(dst_id=router.node.parent_ids[0], handle=GET_MODULE, flags=RAW)
            msg.data = fullname.encode()
            router.route(msg, False)

    def _on_load_module(self, msg: Message) -> None:
        self.load(decode(msg.data))

    def load(self, segment: Segment) -> None:
        """
        Broker thread: store a segment [entries, zlib stream of all sources, own names]. An entry is
        [fullname, path, submodules or None, size]; path None: not found, and size is the reason.
        """
        offset = 0
        self.own.update(segment[2])
        for fullname, path, submodules, size in segment[0]:
            if path is not None or fullname not in self.modules:
                self.modules[fullname] = Entry(path, submodules, segment, offset, size)
            if path is not None:
                offset += size or 0
            for done in self.pending.pop(fullname, ()):
                done()

    def source(self, fullname: str) -> bytes:
        """Return the source of a module as bytes."""
        entry = self.get(fullname)
        key = id(entry.segment)
        data = self._sources.get(key)
        if data is None:
            data = self._sources[key] = zlib.decompress(entry.segment[1])
        return data[entry.offset : entry.offset + entry.size]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        spec = module.__spec__
        fullname = spec.name
        # Modules of one segment are imported in quick succession; afterwards its text can go.
        if len(self._sources) > 4:
            self._sources.clear()
        module.__file__ = spec.origin
        if spec.submodule_search_locations is not None:
            module.__path__ = [spec.origin.rpartition("/")[0]]
        exec(compile(self.source(fullname), spec.origin, "exec", 0, 1), module.__dict__)  # type: ignore[call-overload]


class _LastFinder:
    def __init__(self, importer: Importer) -> None:
        self.importer = importer

    def find_spec(self, fullname: str, *args: Any) -> Any:
        finders = sys.meta_path
        # Programs append finders too: six.moves has one.
        for finder in finders[finders.index(self) + 1 :]:
            spec = finder.find_spec(fullname, *args)
            if spec:
                return spec
        return self.importer.find(fullname, True)
