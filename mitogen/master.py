"""
The root of the tree: its broker, router, ids and logs.

Threads: a broker thread and a worker thread, besides the program's own.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import weakref

from mitogen import core, parent
from mitogen.bootstrap import preamble
from mitogen.calls import first_call
from mitogen.calls.chain import module_of
from mitogen.calls.errors import with_own_lines
from mitogen.core.child import names_are_lazy
from mitogen.importing import module_server
from mitogen.importing.finder import (
    FinderMethod,
    ModuleFinder,
    ParentImpEnumerationMethod,
    ParentSpecEnumerationMethod,
    PkgutilMethod,
    SysModulesMethod,
    get_child_modules,
    is_stdlib_name,
    is_stdlib_path,
)
from mitogen.importing.module_server import ModuleResponder
from mitogen.importing.resources import ResourceResponder
from mitogen.limits.display import shown, shown_name
from mitogen.limits.turns import Turns
from mitogen.parent import Context, IdAllocator
from mitogen.tree import pollers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "Broker",
    "Context",
    "FinderMethod",
    "IdAllocator",
    "LogForwarder",
    "ModuleFinder",
    "ModuleResponder",
    "ParentImpEnumerationMethod",
    "ParentSpecEnumerationMethod",
    "PkgutilMethod",
    "Router",
    "SysModulesMethod",
    "ThreadWatcher",
    "get_child_modules",
    "is_stdlib_name",
    "is_stdlib_path",
]

# Names used by old programs, imported at first use.
names_are_lazy(sys.modules[__name__])

WARNING = 30


def logger(name: str = "mitogen") -> Any:
    """Return a logger; `logging` is imported at first use since it takes 5 ms."""
    import logging

    return logging.getLogger(name)


#: Characters and dots of a logger's name, and characters of text, in a record from a child.
MAX_LOGGER_NAME, MAX_LOGGER_DOTS, MAX_RECORD = 200, 32, 65536
#: Records of one stream that may wait.
MAX_RECORDS = 4096
#: Characters of a path in a record.
MAX_PATH = 4096
#: Name of records whose logger has a name that is too long or has odd characters.
UNNAMED = "unnamed"
#: Lowest and highest level of a child's records: `logging` caches each level it is asked about.
LEVELS = (0, 100)


class LogForwarder:
    """
    Receiver of the tree's log records, which are handled here by the logger `<name>.[<context>]`.

    A name from a child is looked up among the loggers of this program, never added to them: a
    record is handled by the nearest one that exists. What is shown is escaped: limits/display.py.

    A record has the attributes `mitogen_message`, `mitogen_context` and `mitogen_name`; the text as
    it was sent is in `mitogen_raw`.
    """

    def __init__(self, router: Any, worker: module_server.Worker) -> None:
        self._router = router
        self._worker = worker
        self._turns = Turns(worker.put, 1, MAX_RECORDS)
        router.add_handler(self._on_forward_log, core.FORWARD_LOG, consumer=True)

    def _on_forward_log(self, msg: Any) -> None:
        if not self._turns.add(self._router.routes.get(msg.src_id), self._handle, msg):
            self._router.drop(msg, "too many of its log records wait")
            self._router.consumed(msg)

    def flush(self) -> None:
        """Broker thread, at its end: let the worker handle all records that wait."""
        for func, args in self._turns.drain():
            self._worker.put(func, *args, bool)

    def _handle(self, msg: Any, release: Callable[[], object]) -> None:
        try:
            if not msg.is_dead:
                fields = self._decoded(msg)
                if fields:
                    self._emit(msg.src_id, *fields)
        finally:
            self._router.consumed(msg)
            release()

    def _decoded(self, msg: Any) -> Any:
        try:
            name, level, text, path, line, func = core.decode(msg.data)
            if [type(value) for value in (name, level, text)] != [str, int, str]:
                raise TypeError("a name, level or text of another type")
            line = line if type(line) is int else 0
            return name, min(max(level, LEVELS[0]), LEVELS[1]), text, path, line, func
        except Exception as e:
            reason = shown_name(e)
            logger().error("cannot decode a log record from context %d: %s", msg.src_id, reason)

    def _emit(
        self, src_id: int, name: str, level: int, text: str, path: Any, line: int, func: Any
    ) -> None:
        context = self._router.context_by_id(src_id, create=False)
        where = shown_name(context.name if context is not None else src_id)
        if not _is_logger_name(name):
            name = UNNAMED
        full_name = f"{name}.[{where}]"
        target = _nearest_logger(full_name)
        if not target.isEnabledFor(level):
            return
        readable = shown(with_own_lines(text), MAX_RECORD)
        record = target.makeRecord(
            full_name,
            level,
            shown_name(path or "", MAX_PATH),
            line,
            f"{name}: {readable}",
            (),
            None,
            func and shown_name(func),
        )
        record.mitogen_message = readable
        record.mitogen_context = context
        record.mitogen_name = name
        record.mitogen_raw = text
        target.handle(record)


def _is_logger_name(name: str) -> bool:
    fits = len(name) <= MAX_LOGGER_NAME and name.count(".") <= MAX_LOGGER_DOTS
    return fits and name == shown_name(name)


def _nearest_logger(name: str) -> Any:
    """Return the logger of that name, or the nearest above it that this program has."""
    import logging

    loggers = logging.root.manager.loggerDict
    while name:
        found = loggers.get(name)
        if isinstance(found, logging.Logger):
            return found
        name = name.rpartition(".")[0]
    return logging.root


class ThreadWatcher:
    """
    A callback for the end of a thread.

    :param target: thread to wait for
    :param on_join: callback without arguments
    """

    def __init__(self, target: threading.Thread, on_join: Callable[[], Any]) -> None:
        self.target = target
        self.on_join = on_join

    @classmethod
    def watch(cls, target: threading.Thread, on_join: Callable[[], Any]) -> ThreadWatcher:
        """Return a watcher that has started."""
        watcher = cls(target, on_join)
        watcher.install()
        return watcher

    def install(self) -> None:
        """Start to watch."""
        self._active = True
        threading.Thread(target=self._run, name="mitogen-watcher", daemon=True).start()

    def remove(self) -> None:
        """Stop watching."""
        self._active = False

    def _run(self) -> None:
        self.target.join()
        if self._active:
            self.on_join()


@functools.lru_cache(None)
def _core_source() -> bytes:
    # Built once per process, even if the cached copy cannot be written.
    return preamble.core_source()


class Broker(core.Broker):
    """The broker of a master. It ends with the program at the latest."""

    poller_class = pollers.best()
    shutdown_timeout = 5.0

    def __init__(self, install_watcher: bool = True, **kwargs: Any) -> None:
        core.Broker.__init__(self, **kwargs)
        core.listen(self, "exit", getattr(self.poller, "close", int))
        self.defer(first_call.let_writers_finish)
        if install_watcher:
            _end_at_exit(self)

    def defer_sync(self, func: Callable[[], Any]) -> Any:
        """Any thread: call `func()` on the broker thread; return its result or raise its error."""
        return parent.defer_sync(self, func)


def _end_at_exit(broker: Broker) -> None:
    reference = weakref.ref(broker)

    def end() -> None:
        found = reference()
        if found is not None and found.alive:
            found.shutdown()
            found.join()

    atexit.register(end)
    core.listen(broker, "exit", lambda: atexit.unregister(end))


class Router(parent.Router):
    """
    The router of the root of the tree.

    :param broker: broker to use; None to start one
    :param max_message_size: largest message in the whole tree, in bytes
    :param node: identity of this router in the tree of another process: see unix.connect()
    """

    broker_class = Broker
    #: True after unix.connect() if the listening process runs the same main program.
    shares_main = False

    def __init__(
        self,
        broker: core.Broker | None = None,
        max_message_size: int | None = None,
        *,
        node: core.Node | None = None,
    ) -> None:
        parent.Router.__init__(self, broker or self.broker_class(), node or core.Node())
        if max_message_size:
            self.max_message_size = max_message_size
        self.profiling = os.environ.get("MITOGEN_PROFILING", "0") not in ("", "0")
        self.worker = module_server.Worker(self.log)
        ids = parent.ChildIds if self.node.parent_ids else IdAllocator
        self.id_allocator = ids(self)
        self.responder = ModuleResponder(self, self.worker)
        self.resource_responder = ResourceResponder(self)
        self.log_forwarder = LogForwarder(self, self.worker)
        self.branch = parent.Branch(self, self.id_allocator, self.responder, _core_source())
        self.route_monitor = self.branch
        core.listen(self.broker, "exit", self._end_worker)

    def _end_worker(self) -> None:
        self.log_forwarder.flush()
        self.worker.stop()

    def log(self, level: int, fmt: str, *args: Any) -> None:
        """Any thread: log a record with the logger "mitogen"."""
        if level >= WARNING or "logging" in sys.modules:
            found = logger()
            if found.isEnabledFor(level):
                # Names and texts of children are part of many records.
                found.log(level, "%s", shown(fmt % args if args else fmt, MAX_RECORD))

    def log_config(self) -> tuple[int, list[list[Any]]]:
        """Return a child's log levels: (level of mitogen's own records, [[logger, level]])."""
        if "logging" not in sys.modules:
            return WARNING, [["", WARNING]]
        root = logger("")
        levels: list[list[Any]] = [["", root.getEffectiveLevel()]]
        for name, found in sorted(root.manager.loggerDict.items()):
            level = getattr(found, "level", 0)
            if level and not name.startswith("mitogen") and "[" not in name:
                levels.append([name, level])
        return logger().getEffectiveLevel(), levels

    def push_modules(self, context: core.Context, fn: Any) -> None:
        """Any thread: send the module of `fn` and its imports, except those already sent there."""
        known = self.responder.known.get(context.context_id)
        module = module_of(fn)
        if known is None or module not in known:
            if module == "__main__":
                self.responder.finder.note_main(getattr(fn, "__globals__", {}))
            self.responder.push(context, [module])

    def connecting(
        self, method_name: str, name: str | None = None, via: Any = None, **kwargs: Any
    ) -> Any:
        """Return a connection attempt, not yet started: see parent.Router.connecting()."""
        attempt = parent.Router.connecting(self, method_name, name, via, **kwargs)
        if self.profiling or kwargs.get("profiling"):
            from mitogen import profiler

            profiler.follow(self, attempt)
        return attempt

    def enable_debug(self) -> None:
        """Enable debug logs in contexts that are started from now on."""
        self.debug = True

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.shutdown()
        self.broker.join()
        self.worker.join()

    def disconnect_stream(self, stream: Any) -> None:
        """Close a stream."""
        self.broker.defer(stream.disconnect, "Router.disconnect_stream()")

    def disconnect_all(self) -> None:
        """Close every stream to a child."""
        for stream in self.get_streams():
            self.disconnect_stream(stream)

    def get_stats(self) -> dict[str, float]:
        """Return statistics of requested and served modules."""
        names = (
            "get_module_count",
            "get_module_secs",
            "good_load_module_count",
            "good_load_module_size",
            "bad_load_module_count",
            "minify_secs",
        )
        return {name: getattr(self.responder, name) for name in names}
