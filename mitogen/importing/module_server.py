"""
Module sources for the program's contexts, pushed ahead of a call or served on request.

Rules
    1. Finding, minifying and compressing never happen on the broker thread: a push does it on the
       caller's thread, a request on the worker's.
    2. A segment, [[[fullname, path, submodules, size], ...], zlib stream, own names], is immutable:
       it is cached, and relays pass it on unopened. `submodules` is None unless the module is a
       package; for `__main__` it is the name of the package that contains it.
    3. A call can't overtake its modules: they are queued on the stream before it.

Threads: push() on any; fetch() and forget() on the broker's.
"""

from __future__ import annotations

import sys
import threading
import zlib
from collections import deque
from time import monotonic as now

from mitogen.calls.first_call import FIRST_CALL
from mitogen.core import PREAMBLE, Blob
from mitogen.importing import finder, scan_imports
from mitogen.importing.data_files import DataFiles
from mitogen.limits.guard import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["ImportPolicy", "ModuleDenied", "ModuleResponder", "Worker"]

#: Maximum bytes of compressed modules pushed with one call; the rest is sent on request.
PUSH_LIMIT = 262144
#: Maximum number of cached segments, which are reused for other children.
KEPT_SEGMENTS = 256
#: Maximum bytes of cached segments.
KEPT_BYTES = 16777216
#: Modules in the preamble.
ALWAYS_THERE = frozenset(["mitogen", "mitogen.core", *("mitogen.core." + n for n in PREAMBLE)])
#: Modules of other platforms that the standard library tries to import: not worth a round trip.
ABSENT_MODULES = ("_winapi", "msvcrt", "nt", "winreg", "_winreg")

if TYPE_CHECKING:
    Segment = list[Any]


#: Modules of mitogen's that no child uses, but that many programs import next to the functions they
#: call. A child gets a stub with the same names: the target may be too old for the real module.
CONTROLLER_ONLY = (
    "mitogen.aio",
    "mitogen.bootstrap.minify",
    "mitogen.bootstrap.preamble",
    "mitogen.bootstrap.renames",
    "mitogen.cli",
    "mitogen.compat.master_names",
    "mitogen.importing.data_files",
    "mitogen.importing.scan_imports",
    "mitogen.importing.finder",
    "mitogen.importing.graph",
    "mitogen.importing.paths",
    "mitogen.importing.module_server",
    "mitogen.imports",
    "mitogen.master",
    "mitogen.minify",
)

_STUB = """\
class _Absent:
    def __init__(self, *args, **kwargs):
        raise RuntimeError("%s can be used in the controlling program only; this is a child of it")
for _name in %r:
    globals()[_name] = _Absent
"""


def _stub(fullname: str) -> bytes:
    """Return the source that children get for a module in CONTROLLER_ONLY."""
    names = getattr(sys.modules.get(fullname), "__all__", ())
    return (_STUB % (fullname, tuple(names))).encode()


class ModuleDenied(ImportError):
    """A module is not served because of the whitelist or blacklist."""


class Worker:
    """
    A thread for blocking or slow jobs of the broker, started on first use.

    :param log: `log(level, format, *arguments)`, for a job that fails
    """

    def __init__(self, log: Any, name: str = "mitogen-worker") -> None:
        self.name = name
        self._log = log
        self._jobs: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._ready = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._stopped = False

    def put(self, func: Callable[..., Any], *args: Any) -> None:
        """Broker thread: queue `func(*args)`; jobs run in order."""
        if self._stopped:
            return
        self._jobs.append((func, args))
        self._ready.release()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._ready.acquire()
            if not self._jobs:
                return
            func, args = self._jobs.popleft()
            guarded(self._log, self.name, func, *args)
            del func, args  # a job's message is large; the next one may be far away

    def stop(self) -> None:
        """Broker thread: end the thread after the queued jobs."""
        self._stopped = True
        self._ready.release()

    def join(self) -> None:
        """Wait up to 5 seconds for the thread to end."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)


class ImportPolicy:
    """
    Rules on the modules that a child may request, by prefixes of full names.

    :param overrides: if not empty, only these are served
    :param blocks: never served
    """

    def __init__(self, overrides: Iterable[str] = (), blocks: Iterable[str] = ()) -> None:
        self.overrides = set(overrides)
        self.blocks = set(blocks)

    @staticmethod
    def _covers(prefixes: set[str], fullname: str) -> bool:
        while fullname:
            if fullname in prefixes:
                return True
            fullname = fullname.rpartition(".")[0]
        return False

    def denied(self, fullname: str) -> str | None:
        """Return the reason why `fullname` is not served, or None."""
        if fullname.partition(".")[0] == "mitogen":
            return None
        if self.overrides and not self._covers(self.overrides, fullname):
            return f"{fullname}: not in the whitelist of the controlling program's router"
        if self._covers(self.blocks, fullname):
            return f"{fullname}: in the blacklist of the controlling program's router"
        return None


class ModuleResponder:
    """
    Server of modules in the master.

    :param router: the master's router
    """

    __module__ = "mitogen.master"

    def __init__(self, router: Any, worker: Worker, policy: ImportPolicy | None = None) -> None:
        self.router = router
        self.policy = policy or ImportPolicy()
        self.finder = finder.ModuleFinder(scan_imports.all_imports)
        for name in CONTROLLER_ONLY:
            self.finder.add_source_override(name, name + " (stand-in)", _stub(name), False)
        self.data_files = DataFiles(self)
        self._worker = worker
        self._lock = threading.Lock()
        self.known: dict[int, set[str]] = {}
        self._segments: dict[tuple[str, ...], Segment] = {}
        self._kept = 0
        self.get_module_count = 0
        self.get_module_secs = 0.0
        self.minify_secs = 0.0
        self.good_load_module_count = 0
        self.good_load_module_size = 0
        self.bad_load_module_count = 0

    # -- settings

    def add_source_override(self, fullname: str, path: str, source: bytes, is_pkg: bool) -> None:
        """Serve `source` as the module `fullname`, instead of any module found here."""
        self.finder.add_source_override(fullname, path, source, is_pkg)

    def add_source_modifier(self, fullname: str, modifier: Callable[[bytes], bytes]) -> None:
        """Serve the module `fullname` as changed by `modifier(source)`."""
        self.finder.add_source_modifier(fullname, modifier)

    def whitelist_prefix(self, fullname: str) -> None:
        """Serve `fullname` and the modules below it; the first call excludes all other modules."""
        self.policy.overrides.add(fullname)

    def blacklist_prefix(self, fullname: str) -> None:
        """Never serve `fullname` or the modules below it."""
        self.policy.blocks.add(fullname)

    def neutralize_main(self, path: str, src: Any) -> Any:
        """Return the source of a `__main__` up to its guard: see finder.neutralize_main()."""
        return finder.neutralize_main(path, src)

    # -- pushing

    def push(self, context: Any, module_names: Iterable[str]) -> None:
        """
        Any thread: send modules and their imports ahead of a call.

        :raises ModuleUnservable: one of them is the program's own and can't be sent
        """
        target = context.context_id
        known = self.known.get(target)
        if known is not None and known.issuperset(module_names):
            return
        branch = self.router.branch
        stream = self.router.routes.streams.get(target)
        if stream is None:
            return self._check_main_callable(context, module_names)
        with self._lock:
            for name in module_names:
                if self.finder.kind(name) in ("own", None):
                    # Fail here with the reason; the child would only report a missing module.
                    self.finder.find(name)
            known = self.known.setdefault(target, set(ALWAYS_THERE))
            names = [n for n in module_names if n not in known] + list(FIRST_CALL)
            closure = self._closure(names, known)
            segments = self._push_segments([n for n in closure if n not in stream.sent_modules])
            branch.send_now(stream, target, segments, closure)
            known.update(names, closure)

    def prepare(self, module_names: Iterable[str]) -> None:
        """Any thread: cache the segments that push() would send to a new context."""
        with self._lock:
            known = set(ALWAYS_THERE)
            closure = self._closure(
                [n for n in module_names if n not in known] + list(FIRST_CALL), known
            )
            self._push_segments(closure)

    def forward_modules(self, context: Any, fullnames: Iterable[str]) -> None:
        """Any thread: send modules, and their imports, to a context before any call."""
        self.push(context, list(fullnames))

    def _check_main_callable(self, context: Any, module_names: Iterable[str]) -> None:
        """Raise TypeError if `__main__` is to be called in a context of another master's tree.

        Nothing is sent to contexts that are gone, or that another process of the tree serves.
        """
        joined = self.router.node.parent_ids and not self.router.shares_main
        if joined and "__main__" in module_names:
            raise TypeError(
                f"cannot call a function of __main__ in {context!r}: another process started that "
                "context, so its __main__ is that process's. Put the function into a module that "
                "can be imported there"
            )

    def _closure(self, names: list[str], known: set[str]) -> list[str]:
        def want(name: str) -> bool:
            return name not in known and self._is_pushed(name)

        return self.finder.closure([n for n in names if want(n)], want)

    def _is_pushed(self, name: str) -> bool:
        return self.finder.kind(name) in ("own", "mitogen") and not self.policy.denied(name)

    def _push_segments(self, names: list[str]) -> list[Segment]:
        segment = self.segment(names) if names else None
        while segment and len(segment[1]) > PUSH_LIMIT and len(names) > 1:
            names = names[: len(names) // 2]
            segment = self.segment(names)
        return [segment] if segment else []

    def forget(self, context_id: int) -> None:
        """Broker thread: drop the state of a context that is gone."""
        self.known.pop(context_id, None)

    # -- segments

    def segment(self, names: Iterable[str]) -> Segment:
        """Return the segment of these modules, in that order; each must be servable."""
        key = tuple(names)
        found = self._segments.get(key)
        if found is None:
            found = self._make_segment(key)
            self._kept += len(found[1])
            if len(self._segments) >= KEPT_SEGMENTS or self._kept > KEPT_BYTES:
                self._segments.clear()
                self._kept = len(found[1])
            self._segments[key] = found
        return found

    def _make_segment(self, names: tuple[str, ...]) -> Segment:
        entries = []
        own = set()
        compressor = zlib.compressobj(9)
        chunks = []
        for name in names:
            module = self.finder.find(name)
            source = self._source(module)
            size = None if module.source is None else len(source)
            submodules: Any = [n.rpartition(".")[2] for n in module.submodules]
            if name == "__main__":
                submodules = module.package
            elif not module.is_pkg:
                submodules = None
            entries.append([name, module.path, submodules, size])
            chunks.append(compressor.compress(source))
            if module.kind == "own":
                top = name.partition(".")[0]
                own.add(top if self.finder.kind(top) == "own" else name)
        if FIRST_CALL[-1] in names:
            own.update(self.finder.own_names())
            entries += [[name, None, None, ""] for name in ABSENT_MODULES]
        chunks.append(compressor.flush())
        data = b"".join(chunks)
        self.good_load_module_count += len(names)
        self.good_load_module_size += len(data)
        return [entries, Blob(data), sorted(own)]

    def _source(self, module: finder.Module) -> bytes:
        if module.source is None:
            return b""
        if module.kind == "mitogen":
            # Takes 4 ms to import, and programs that only call local functions don't need it.
            from importlib.util import decode_source

            from mitogen.bootstrap import minify

            started = now()
            smaller = minify.minimize_source(decode_source(module.source), True).encode()
            self.minify_secs += now() - started
            return smaller
        return module.source

    # -- requests

    def fetch(
        self, fullname: str, done: Callable[[Segment], None], sent: Iterable[str] = ()
    ) -> None:
        """
        Broker thread: find a module, and call `done(segment)` there later.

        The segment holds the module, or the reason of its absence.

        :param sent: names of modules already sent to the requesting child
        """
        self.get_module_count += 1
        self._worker.put(self._fetch, fullname, done, frozenset(sent))

    def _fetch(self, fullname: str, done: Callable[[Segment], None], sent: frozenset[str]) -> None:
        started = now()
        try:
            segment = self._answer(fullname, sent)
        except Exception as e:
            self.bad_load_module_count += 1
            reason = "" if isinstance(e, _ModuleMissing) else str(e)
            segment = [[[fullname, None, None, reason]], b"", []]
        self.get_module_secs += now() - started
        self.router.broker.defer(done, segment)

    def _answer(self, fullname: str, sent: frozenset[str]) -> Segment:
        denied = self.policy.denied(fullname)
        if denied:
            raise ModuleDenied(denied)
        kind = self.finder.kind(fullname)
        if kind is None or kind == "stdlib":
            raise _ModuleMissing(fullname)
        top = fullname.partition(".")[0]

        def want(name: str) -> bool:
            if name == fullname:
                return True
            return (
                name not in sent
                and name not in ALWAYS_THERE
                and (self._is_pushed(name) or name.partition(".")[0] == top)
                and not self.policy.denied(name)
            )

        self.finder.find(fullname)
        names = self.finder.closure([fullname], want)
        if kind == "own":
            names += self._unloaded_imports(sent.union(names))
        segments = self._push_segments(names)
        if segments and any(entry[0] == fullname for entry in segments[0][0]):
            return segments[0]
        return self.segment([fullname])

    def _unloaded_imports(self, sent: frozenset[str]) -> list[str]:
        """
        Return the program's own modules that `sent` modules import, though they are not loaded
        here: a child that requests one of them will soon request the others.
        """
        seen = set(sent)
        queue = deque(sorted(name for name in sent if self.finder.kind(name) == "own"))
        found = []
        while queue:
            for name in self._possible_imports(queue.popleft()):
                if name not in seen and self._is_pushed(name):
                    seen.add(name)
                    if self._possible_imports(name, name):
                        found.append(name)
                        queue.append(name)
        return found

    def _possible_imports(self, fullname: str, *self_too: str) -> list[str]:
        """Return the possible imports of a module, or nothing if it can't be served."""
        try:
            return [*self_too, *self.finder.possible_imports(fullname)]
        except finder.ModuleUnservable:
            return []


class _ModuleMissing(Exception):
    """The module isn't found here either: the child raises its own error, which is clearer."""
