"""
Setup of a child at its first call, sent with that call: forwarding of output and log records, the
name in ps, cancellation, the loader methods for inspect and tracebacks, and the diversion of calls
that do not run on the main thread: calls of chains with a thread of their own (workers.py), and
calls of services while there is no pool (services/pool.py).

Before the first call none of the program's code runs in the child. `logging` is imported only if
the program imports it.

Threads: install() on the main thread; StdioLogger, Canceller.on_cancel() and Diverter.put() on the
broker thread.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it
import _thread
import os
import sys
from _frozen_importlib import ModuleSpec
from collections import deque

from mitogen import core
from mitogen.compat.lookup import register
from mitogen.core import read_fd
from mitogen.core.lazy import LAZY, fetch

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable
    from typing import Any

    from mitogen.core import Dispatcher, ExternalContext, Message


#: Modules that every child gets with its first call. Each import statement that runs when they are
#: imported names one of these modules or one of the preamble.
FIRST_CALL = (
    "mitogen.calls",
    "mitogen.compat",
    "mitogen.compat.lookup",
    "mitogen.calls.first_call",
)

LAZY.update(
    detach="tree.detach",
    resources="importing.resources",
    services="services.pool",
    workers="calls.workers",
)

INFO = 20
#: Seconds between checks of a call that is to be cancelled but has not entered its function yet.
CANCEL_LOOK = 0.01

__all__ = ["ImporterNames", "find_lazy", "StdioLogger", "install", "set_process_name"]

# The C library's malloc() maps each block of 128 KiB or more, until one is freed: then it keeps
# blocks of that size. Without this block each read costs a mapping, 20 us, on a master as well.
bytes(1 << 20)


def install(econtext: ExternalContext, msg: Message) -> bool:
    """
    Main thread: set up the child before its first call.

    :param ExternalContext econtext: the context's state; `stdout_log` and `stderr_log` are set
    :param Message msg: the first call
    :returns: whether the call was diverted from the main thread
    """
    config = econtext.config
    for name, value in config["environ"].items():
        # Restore variables that were set only for the program that started this one.
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if config["remote_name"]:
        set_process_name("mitogen:" + config["remote_name"])
    register(sys.modules["mitogen.core"])
    econtext.broker.defer(let_writers_finish)
    core.listen(econtext.broker, "exit", econtext.dispatcher.end)
    econtext.import_main = lambda: import_main(econtext)
    econtext.detach = lambda: detach(econtext)
    diverter = Diverter(econtext)
    diverter.on_cancel = Canceller(econtext.dispatcher, diverter).on_cancel
    logs = LogSender(econtext.router)
    econtext.stdout_log = StdioLogger(logs, "stdout", 1)
    econtext.stderr_log = StdioLogger(logs, "stderr", 2)
    # Line-buffered, so that a record appears as soon as its line is printed.
    sys.stdout = open(1, "w", 1, "utf-8", "backslashreplace", closefd=False)
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    econtext.flush = lambda: flush(econtext)
    # First: others look for such a path on the disk.
    sys.path_hooks.insert(0, lambda path: PackagePath(econtext.router.importer, path))
    if "logging" in sys.modules:
        install_log_handler(logs, config["log_levels"])
    else:
        sys.meta_path.insert(0, _LoggingFinder(logs, config["log_levels"]))
    return diverter.start(msg)


def import_main(econtext: ExternalContext) -> None:
    """Replace the bootstrap's `__main__` with the program's; idempotent."""
    importer = econtext.importer
    main: Any = sys.modules.pop("__main__", None)
    try:
        spec = importer.find("__main__", True)
        entry = importer.modules["__main__"]
        # Set for `python -m pkg.main`: the base of its relative imports.
        package = entry.submodules
        if package:
            spec = ModuleSpec(package + ".__main__", importer, origin=spec.origin)
            importer.modules[spec.name] = entry
        spec.submodule_search_locations = None
        module = sys.modules["__main__"] = type(sys)("__main__")
        module.__spec__ = spec
        module.__loader__ = importer
        module.__package__ = package
        importer.exec_module(module)
    except BaseException:
        sys.modules["__main__"] = main
        raise
    econtext.import_main = bool


def detach(econtext: ExternalContext) -> None:
    """Leave the tree and keep running: see tree/detach.py."""
    fetch("detach").detach(econtext)


def set_process_name(name: str) -> None:
    """Show `name` in ps. Linux only: overwrite the process's own arguments (proc(5))."""
    try:
        with open("/proc/self/stat", "rb") as fp:
            fields = fp.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        data = name.encode()[: end - start - 1]
        with open("/proc/self/mem", "r+b", 0) as fp:
            fp.seek(start)
            fp.write(data + b"\0" * (end - start - len(data)))
        with open("/proc/self/comm", "wb", 0) as fp:
            fp.write(data[:15])
    except (OSError, IndexError, ValueError):
        pass


def flush(econtext: ExternalContext) -> None:
    """Main thread: send the remaining output before the context ends."""
    for fp in (sys.stdout, sys.stderr):
        try:
            fp.flush()
        except Exception:
            # The program may have closed it or replaced it by an arbitrary object.
            pass
    econtext.broker.defer(econtext.stdout_log.finish)
    econtext.broker.defer(econtext.stderr_log.finish)


def describe(error: Any, cause: BaseException) -> str:
    """Set a CallError's attributes from the exception that caused it; return its text."""
    kind = type(cause)
    error.type_name = "%s.%s" % (kind.__module__, kind.__qualname__)
    try:
        # Forces exactly str, even if __str__() returns a subclass.
        error.message = "%s" % (cause,)
    except Exception as e:
        error.message = "<its text cannot be had: %s>" % type(e).__name__
    if cause.__traceback__:
        import traceback

        error.traceback = "".join(traceback.format_tb(cause.__traceback__))
    return "%s: %s\n%s" % (error.type_name, error.message, error.traceback or "")


def let_writers_finish() -> None:
    """
    Broker thread: do not preempt the thread that wakes this one (sched(7), SCHED_BATCH).

    A thread that writes a message or wakes another thread is about to sleep. If the broker preempts
    it, both threads are switched needlessly: eight switches per call instead of four. Programs
    started by the thread are not affected.
    """
    try:
        policy = os.SCHED_BATCH | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(0))
    except (AttributeError, OSError):
        # Not Linux, or not permitted.
        pass


class Canceller:
    """
    Cancellation of calls. SIGINT raises KeyboardInterrupt in the current call, and also ends a
    blocking system call.
    """

    def __init__(self, dispatcher: Dispatcher, diverter: Diverter) -> None:
        self.dispatcher = dispatcher
        self.diverter = diverter
        self.thread = _thread.get_ident()
        #: The call that a signal was last sent for. The signal may arrive when the next one runs.
        self.target: Message | None = None
        dispatcher.interrupt = self.interrupt
        _signal.signal(_signal.SIGINT, self._on_sigint)

    def interrupt(self) -> None:
        """Broker thread: interrupt the current call, if any, once it has entered its function."""
        call = self.dispatcher.current
        if call:
            self._interrupt_call(self.dispatcher, call)

    def _on_sigint(self, _signum: int, _frame: Any) -> None:
        target = self.target
        ours = target is None or target is self.dispatcher.current
        if ours and self.dispatcher.interruptible:
            self.dispatcher.interruptible = False
            raise KeyboardInterrupt("the call was cancelled")

    def on_cancel(self, msg: Message) -> Any:
        """Cancel the call with the given answer's handle; ignored if that call is over."""
        (handle,) = core.NUMBER.unpack(msg.data)
        runner, call = self._find((msg.src_id, handle))
        if runner:
            self._interrupt_call(runner, call)
        elif call:
            self.dispatcher.router.consumed(call)
            call.reply(core.CallError("the call was cancelled before it began"))

    def _find(self, key: tuple[int, int]) -> tuple[Any, Any]:
        """
        Return (runner, call) for a running call, (None, call) for one removed from its queue.

        The queues come first: a call is the current one before it leaves its queue.
        """
        dispatcher = self.dispatcher
        # Under the lock, workers do not take calls.
        with self.diverter.lock:
            for queue in [dispatcher.queue, *self.diverter.chains.values()]:
                for call in list(queue):
                    if (call.src_id, call.reply_to) == key:
                        try:
                            queue.remove(call)
                            return None, call
                        except ValueError:
                            # It has just begun.
                            pass
            for runner in [dispatcher, *list(self.diverter.workers)]:
                call = runner.current
                if call and (call.src_id, call.reply_to) == key:
                    return runner, call
        return None, None

    def _interrupt_call(self, runner: Any, call: Message) -> None:
        if runner.current is not call:
            return
        if runner.interruptible:
            try:
                if runner is self.dispatcher:
                    self.target = call
                    _signal.pthread_kill(self.thread, _signal.SIGINT)
                else:
                    _thread.start_new_thread(runner.interrupt_call, (call,))
                return
            except RuntimeError:
                # No thread can be started now.
                pass
        # Or it is still importing its module, or already returning.
        look = self.dispatcher.router.broker.after
        look(CANCEL_LOOK, lambda: self._interrupt_call(runner, call))


class Diverter:
    """
    Dispatch of calls that do not run on the main thread.

    A call of a chain with a thread of its own is an array of four that starts with the chain's id.
    Each such chain has a queue; its thread lives while the queue is not empty.
    """

    def __init__(self, econtext: ExternalContext) -> None:
        self.econtext = econtext
        self.router = econtext.router
        if TYPE_CHECKING:
            self.on_cancel = Canceller(econtext.dispatcher, self).on_cancel
        #: Chain id to the calls queued for its thread.
        self.chains: dict[Any, deque[Message]] = {}
        #: Running workers: see workers.Worker.
        self.workers: set[Any] = set()
        #: Calls of services that arrived before the pool was created.
        self.service_calls: list[Message] = []
        self.lock = _thread.allocate_lock()

    def start(self, first: Message) -> bool:
        """Main thread: divert queued calls, in order; return whether `first` was diverted."""
        done = core.new_lock()
        taken = []

        def take_over() -> None:
            queue = self.econtext.dispatcher.queue
            taken.append(self.put(first))
            for msg in list(queue):
                if self.put(msg):
                    queue.remove(msg)
            add = self.router.add_handler
            policy = core.has_parent_authority
            add(self.on_call, core.CALL_FUNCTION, True, policy, None, True, True)
            # A forked child may have created a pool before it served calls.
            if self.router.handlers[core.CALL_SERVICE].fn == self.econtext.dispatcher.on_call:
                add(self.on_call, core.CALL_SERVICE, True, None, None, True, True)
            add(self.on_cancel, core.CANCEL, True, policy, None, True)
            # The rest of a long message may still arrive.
            for part in self.router.partials.values():
                part.handler = self.router.handlers.get(part.first.handle, part.handler)
            done.release()

        broker = self.router.broker
        broker.defer(take_over)
        while not done.acquire(True, 1):
            if not broker.alive:
                break
        return bool(taken and taken[0])

    def on_call(self, msg: Message) -> None:
        if not self.put(msg):
            self.econtext.dispatcher.on_call(msg)

    def put(self, msg: Message) -> bool:
        """Broker thread: take `msg` and return True; False if it is for the main thread."""
        if msg.handle == core.CANCEL:
            self.on_cancel(msg)
            return True
        if msg.handle == core.CALL_SERVICE:
            self.service_calls.append(msg)
            if len(self.service_calls) == 1:
                self._start(self.start_services)
            return True
        if msg.data[:1] != b"\x84":
            return False
        chain_id = core.decode_next(msg.data, 1)[0]
        with self.lock:
            calls = self.chains.get(chain_id)
            if calls is not None:
                calls.append(msg)
                return True
            self.chains[chain_id] = deque([msg])
        self._start(self.run_chain, chain_id)
        return True

    def _start(self, run: Any, *args: Any) -> None:
        try:
            _thread.start_new_thread(run, args)
        except RuntimeError as e:
            run(*args, e)

    def run_chain(self, chain_id: Any, error: BaseException | None = None) -> None:
        """
        Chain's thread: run its calls.

        :param error: the reason why there is no thread: end the calls
        """
        try:
            if error:
                raise error
            fetch("workers").Worker(self, chain_id).run()
        except BaseException as e:
            with self.lock:
                calls = self.chains.pop(chain_id, ())
            self._refuse(calls, e)

    def start_services(self, error: BaseException | None = None) -> None:
        """Thread of its own: create the pool; see run_chain()."""
        try:
            if error:
                raise error
            fetch("services").adopt(self.router, self.service_calls)
        except BaseException as e:
            # The next call tries again.
            calls = self.service_calls[:]
            del self.service_calls[: len(calls)]
            self._refuse(calls, e)

    def _refuse(self, calls: Iterable[Message], error: BaseException) -> None:
        for msg in calls:
            self.router.consumed(msg)
            msg.reply(core.CallError(error))


class ImporterNames:
    """Rarely used methods of a loader: attributes of core.Importer, found late."""

    def is_package(self: Any, fullname: str) -> bool:
        return self.get(fullname).submodules is not None

    def get_filename(self: Any, fullname: str) -> str:
        return "master:%s" % self.get(fullname).path

    def get_source(self: Any, fullname: str) -> Any:
        if fullname in self.modules:
            from importlib.util import decode_source

            return decode_source(self.source(fullname))

    def get_resource_reader(self: Any, fullname: str) -> Any:
        resources = fetch("resources")
        requester = resources.ResourceRequester(self.router, self.router.econtext.master)
        return resources.ResourceReader(requester, fullname)

    def get_data(self: Any, path: str) -> bytes:
        data: bytes = fetch("resources").get_data(self, path)
        return data

    def get_code(self: Any, fullname: str) -> Any:
        filename = ImporterNames.get_filename(self, fullname)
        return compile(self.source(fullname), filename, "exec", 0, 1)  # type: ignore[call-overload]


class PackagePath:
    """Finder for an item of a package's `__path__`, with which pkgutil lists the modules there."""

    def __init__(self, importer: Any, path: str) -> None:
        if path[:7] != "master:":
            raise ImportError(path)
        self.importer = importer
        self.path = path

    def find_spec(self, fullname: str, target: Any = None) -> None:
        """Return None: the importer itself is on sys.meta_path."""

    def invalidate_caches(self) -> None:
        """Do nothing: there is no cache."""

    def iter_modules(self, prefix: str = "") -> Any:
        return fetch("resources").iter_modules(self.importer, self.path, prefix)


def find_lazy(importer: Any, name: str) -> Any:
    """Return an attribute that core.Importer does not define itself: see core/lazy.py."""
    if name[:4] != "get_" and name != "is_package" or not hasattr(ImporterNames, name):
        raise AttributeError(name)
    return getattr(ImporterNames, name).__get__(importer)


class LogSender:
    """Sender of log records to the master. Records without credit are dropped and counted."""

    def __init__(self, router: Any) -> None:
        self.router = router
        self.key = (router.node.parent_ids[-1], core.FORWARD_LOG)
        self.lost = 0

    def is_full(self) -> bool:
        """Return whether the flow has no credit now."""
        flow = self.router.flows.get(self.key)
        return bool(flow and flow.credit <= 0)

    def send(self, fields: list[Any]) -> None:
        """Any thread: send [logger, level, text, file, line, function]."""
        if self.is_full():
            self.lost += 1
            return
        if self.lost:
            fields[2] += " (%d records before this were lost)" % self.lost
            self.lost = 0
        self.router.send_log(fields)


class _LoggingFinder:
    """Finder that installs the log handler once `logging` has been imported."""

    def __init__(self, logs: LogSender, levels: list[Any]) -> None:
        self.logs = logs
        self.levels = levels

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "logging":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path)
            if spec:
                self._wrap(spec.loader)
                return spec

    def _wrap(self, loader: Any) -> None:
        inner = loader.exec_module

        def exec_module(module: Any) -> None:
            inner(module)
            install_log_handler(self.logs, self.levels)

        loader.exec_module = exec_module


def install_log_handler(logs: LogSender, levels: list[Any]) -> None:
    """Send this process's log records to the master, at the levels that the master requested."""
    import logging

    class LogHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                logs.send(
                    [
                        record.name,
                        record.levelno,
                        self.format(record),
                        record.pathname,
                        record.lineno,
                        record.funcName,
                    ]
                )
            except Exception:
                self.handleError(record)

    logging.getLogger().addHandler(LogHandler())
    for name, level in levels:
        logging.getLogger(name).setLevel(level)


class StdioLogger:
    """
    Converter of output on a descriptor to log records.

    While the log's flow has no credit the pipe is not read, so a program that prints blocks, as on
    a slow terminal.
    """

    def __init__(self, logs: LogSender, name: str, fd: int) -> None:
        self.logs = logs
        self.broker = logs.router.broker
        self.name = name
        self.rest = b""
        self.rfd, wfd = os.pipe()
        os.dup2(wfd, fd)
        os.close(wfd)
        os.set_blocking(self.rfd, False)
        self.broker.defer(self.watch)

    def watch(self) -> None:
        self.broker.poller.watch(self.rfd, self.on_readable)

    def on_readable(self) -> bytes | None:
        data = read_fd(self.rfd, 16384)
        if data:
            lines = (self.rest + data).split(b"\n")
            self.rest = lines.pop()
            if len(self.rest) > 65536:
                lines.append(self.rest)
                self.rest = b""
            self._log(lines)
        elif data is not None:
            self.broker.poller.watch(self.rfd)
        return data

    def _log(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode("utf-8", "replace")
            self.logs.router.send_log([self.name, INFO, text, None, 0, None])
        if self.logs.is_full():
            self.broker.poller.watch(self.rfd)
            self.broker.after(0.05, self._resume)

    def _resume(self) -> None:
        if self.logs.is_full():
            self.broker.after(0.05, self._resume)
        else:
            self.watch()

    def finish(self) -> None:
        """Broker thread: log the remaining output."""
        while self.on_readable():
            pass
        if self.rest:
            self._log([self.rest])
            self.rest = b""
