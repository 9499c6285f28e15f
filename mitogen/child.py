"""
What a child needs from its first call on, sent with that: where its output and its log records go,
its name in ps, how a call is cancelled, what inspect and tracebacks want to know of its modules.

Until then nothing of the program's runs there. `logging` itself is imported only where the program
does so.

Threads: install() on the main thread; StdioLogger reads, and a cancel arrives, on the broker's.
"""

import _signal
import _thread
import os
import sys

from mitogen import core
from mitogen.core import read_fd

#: Handle: interrupt a call. (116: see calls.py)
CANCEL = 116
INFO = 20

__all__ = ["ModuleText", "StdioLogger", "install", "set_process_name"]


def install(econtext):
    """
    Main thread, before the first call.

    :param ExternalContext econtext: the context's state; gets `stdout_log` and `stderr_log`
    """
    config = econtext.config
    for name, value in config["environ"].items():
        # What the program that started this one needed.
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if config["remote_name"]:
        set_process_name("mitogen:" + config["remote_name"])
    econtext.broker.defer(let_writers_finish)
    Canceller(econtext.dispatcher)
    logs = LogSender(econtext.router)
    econtext.stdout_log = StdioLogger(logs, "stdout", 1)
    econtext.stderr_log = StdioLogger(logs, "stderr", 2)
    # Line by line, so that a record appears when its line is printed.
    sys.stdout = open(1, "w", 1, "utf-8", "backslashreplace", closefd=False)
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    econtext.flush = lambda: flush(econtext)
    if "logging" in sys.modules:
        install_log_handler(logs, config["log_levels"])
    else:
        sys.meta_path.insert(0, _LoggingFinder(logs, config["log_levels"]))


def set_process_name(name):
    """Show `name` in ps: on Linux the process overwrites its own arguments (proc(5))."""
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


def flush(econtext):
    """Main thread: send what was printed, before the context ends."""
    for fp in (sys.stdout, sys.stderr):
        try:
            fp.flush()
        except Exception:
            # The program may have closed it, or put anything in its place.
            pass
    econtext.broker.defer(econtext.stdout_log.finish)
    econtext.broker.defer(econtext.stderr_log.finish)


def describe(error, cause):
    """Fill a CallError from the exception that it stands for; return its text."""
    kind = type(cause)
    error.type_name = "%s.%s" % (kind.__module__, kind.__qualname__)
    try:
        # Exactly str, whatever it returns.
        error.message = "%s" % (cause,)
    except Exception as e:
        error.message = "<its text cannot be had: %s>" % type(e).__name__
    if cause.__traceback__:
        import traceback

        error.traceback = "".join(traceback.format_tb(cause.__traceback__))
    return "%s: %s\n%s" % (error.type_name, error.message, error.traceback or "")


def let_writers_finish():
    """
    Broker thread: be woken without interrupting whoever wakes it (sched(7), SCHED_BATCH).

    A thread that writes a message, or wakes another, is about to sleep. Where the broker is put in
    its place at once, both are switched to and fro for nothing: eight switches a call instead of
    four. What the thread starts is not affected.
    """
    try:
        policy = os.SCHED_BATCH | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(0))
    except (AttributeError, OSError):
        # Not Linux, or not allowed here.
        pass


class Canceller:
    """
    Interrupts the current call with SIGINT: a KeyboardInterrupt, which also ends a system call that
    it waits in.
    """

    def __init__(self, dispatcher):
        self.dispatcher = dispatcher
        self.thread = _thread.get_ident()
        dispatcher.interrupt = self.interrupt
        _signal.signal(_signal.SIGINT, self._on_sigint)
        dispatcher.router.add_handler(self._on_cancel, CANCEL, policy=core.has_parent_authority)

    def interrupt(self):
        """Any thread: interrupt the current call, if there is one."""
        if self.dispatcher.current:
            _signal.pthread_kill(self.thread, _signal.SIGINT)

    def _on_sigint(self, _signum, _frame):
        if self.dispatcher.interruptible:
            self.dispatcher.interruptible = False
            raise KeyboardInterrupt("the call was cancelled")

    def _on_cancel(self, msg):
        """A cancel names its call by its answer's handle; it is ignored when that is over."""
        (handle,) = core._NUMBER.unpack(msg.data)
        key = (msg.src_id, handle)
        dispatcher = self.dispatcher
        current = dispatcher.current
        if current and (current.src_id, current.reply_to) == key:
            return self.interrupt()
        for call in list(dispatcher.queue):
            if (call.src_id, call.reply_to) == key:
                try:
                    dispatcher.queue.remove(call)
                except ValueError:
                    continue
                dispatcher.router.consumed(call)
                call.reply(core.CallError("the call was cancelled before it began"))


class ModuleText:
    """What a loader may be asked for: core.Importer has these methods through its __getattr__."""

    def is_package(self, fullname):
        return self.get(fullname)[1] is not None

    def get_filename(self, fullname):
        return "master:%s" % self.get(fullname)[0]

    def get_source(self, fullname):
        if fullname == "mitogen.core":
            return self.core_source.decode()
        if fullname in self.modules:
            from importlib.util import decode_source

            return decode_source(self.source(fullname))

    def get_code(self, fullname):
        filename = ModuleText.get_filename(self, fullname)
        return compile(self.source(fullname), filename, "exec", 0, 1)


class LogSender:
    """Sends log records to the master; those that their flow has no credit for are counted."""

    def __init__(self, router):
        self.router = router
        self.key = (router.node.parent_ids[-1], core.FORWARD_LOG)
        self.lost = 0

    def is_full(self):
        """Whether the flow has no credit now."""
        flow = self.router._flows.get(self.key)
        return bool(flow and flow.credit <= 0)

    def send(self, fields):
        """Any thread: send [logger, level, text, file, line, function]."""
        if self.is_full():
            self.lost += 1
            return
        if self.lost:
            fields[2] += " (%d records before this were lost)" % self.lost
            self.lost = 0
        self.router.send_log(fields)


class _LoggingFinder:
    """Lets logging be imported as ever, then has its records go to the master."""

    def __init__(self, logs, levels):
        self.logs = logs
        self.levels = levels

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "logging":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path)
            if spec:
                self._wrap(spec.loader)
                return spec

    def _wrap(self, loader):
        inner = loader.exec_module

        def exec_module(module):
            inner(module)
            install_log_handler(self.logs, self.levels)

        loader.exec_module = exec_module


def install_log_handler(logs, levels):
    """Have this process' log records go to the master, at the levels that it asked for."""
    import logging

    class LogHandler(logging.Handler):
        def emit(self, record):
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
    Turns what is printed to a descriptor into log records.

    While the log's flow has no credit the pipe is not read, so a program that prints waits, as it
    would at a terminal.
    """

    def __init__(self, logs, name, fd):
        self.logs = logs
        self.broker = logs.router.broker
        self.name = name
        self.rest = b""
        self.rfd, wfd = os.pipe()
        os.dup2(wfd, fd)
        os.close(wfd)
        os.set_blocking(self.rfd, False)
        self.broker.defer(self.watch)

    def watch(self):
        self.broker.poller.watch(self.rfd, self.on_readable)

    def on_readable(self):
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

    def _log(self, lines):
        for line in lines:
            text = line.decode("utf-8", "replace")
            self.logs.router.send_log([self.name, INFO, text, None, 0, None])
        if self.logs.is_full():
            self.broker.poller.watch(self.rfd)
            self.broker.after(0.05, self._resume)

    def _resume(self):
        if self.logs.is_full():
            self.broker.after(0.05, self._resume)
        else:
            self.watch()

    def finish(self):
        """Broker thread: log what is left."""
        while self.on_readable():
            pass
        if self.rest:
            self._log([self.rest])
            self.rest = b""
