"""
What a child needs from its first call on, sent with that: where its output and its log records go,
its name in ps, how a call is cancelled, what inspect and tracebacks want to know of its modules;
and where calls go that are not the main thread's: those of chains with a thread of their own
(workers.py), and those of services while there is no pool (service.py).

Until then nothing of the program's runs there. `logging` itself is imported only where the program
does so.

Threads: install() on the main thread; StdioLogger reads, a cancel arrives, and Diverter sorts, on
the broker's.
"""

import _signal
import _thread
import os
import sys
from collections import deque

from mitogen import core
from mitogen.core import read_fd

INFO = 20
#: Seconds between looks at a call that is to be cancelled, but is not at its function yet.
CANCEL_LOOK = 0.01

#: What some modules add to core's classes; they are imported when it is first used.
OLD_NAMES = {
    "mitogen.aliases": {
        "ChannelError": "local_msg remote_msg",
        "Importer": "find_module load_module",
        "Message": "ENCS ENC_MGC HEADER_FMT HEADER_LEN HEADER_MAGIC pack unpickle_iter",
        "Router": "_async_route register",
        "Sender": "explicit_close_msg put",
    },
    "mitogen.old_parent": {"Broker": "defer_sync", "Router": "unidirectional_msg"},
    "mitogen.streams": {
        "Broker": (
            "_start_transmit _stop_transmit keep_alive start_receive start_transmit stop_receive"
            " stop_transmit timers"
        ),
        "Stream": (
            "on_disconnect on_receive on_shutdown on_transmit pending_bytes protocol receive_side"
            " transmit_side"
        ),
    },
}

__all__ = ["ModuleText", "StdioLogger", "install", "set_process_name"]


def install(econtext, msg):
    """
    Main thread, before the first call.

    :param ExternalContext econtext: the context's state; gets `stdout_log` and `stderr_log`
    :param Message msg: that call
    :returns: whether it is not for the main thread, and went where it belongs
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
    core.Message.pickled = classmethod(message_of)
    find_old_names()
    econtext.broker.defer(let_writers_finish)
    core.listen(econtext.broker, "exit", econtext.dispatcher.end)
    econtext.import_main = lambda: import_main(econtext)
    econtext.detach = lambda: detach(econtext)
    diverter = Diverter(econtext)
    diverter.on_cancel = Canceller(econtext.dispatcher, diverter).on_cancel
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
    return diverter.start(msg)


def import_main(econtext):
    """Have `__main__` be the program's, not the bootstrap's; once."""
    main = sys.modules.pop("__main__", None)
    try:
        core.import_module("__main__")
    except BaseException:
        sys.modules["__main__"] = main
        raise
    econtext.import_main = bool


class Late:
    """A name of one of core's classes; a module puts it there, which is imported at first use."""

    def __init__(self, name, module):
        self.name = name
        self.module = module

    def __get__(self, obj, cls):
        core.import_module(self.module)
        return getattr(cls if obj is None else obj, self.name)


def find_old_names():
    """Have OLD_NAMES found on core's classes."""
    for module, owners in OLD_NAMES.items():
        for owner, names in owners.items() if module not in sys.modules else ():
            for name in names.split():
                setattr(getattr(core, owner), name, Late(name, module))


def message_of(cls, *objs, **kwargs):
    """Return a message that carries `objs` as values, one after the other."""
    return cls(data=b"".join(map(core.encode, objs)), **kwargs)


def detach(econtext):
    """Leave the tree and go on: see detach.py."""
    from mitogen import detach

    detach.detach(econtext)


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

    def __init__(self, dispatcher, diverter):
        self.dispatcher = dispatcher
        self.diverter = diverter
        self.thread = _thread.get_ident()
        dispatcher.interrupt = self.interrupt
        _signal.signal(_signal.SIGINT, self._on_sigint)

    def interrupt(self):
        """Any thread: interrupt the current call, if there is one."""
        if self.dispatcher.current:
            _signal.pthread_kill(self.thread, _signal.SIGINT)

    def _on_sigint(self, _signum, _frame):
        if self.dispatcher.interruptible:
            self.dispatcher.interruptible = False
            raise KeyboardInterrupt("the call was cancelled")

    def on_cancel(self, msg):
        """A cancel names its call by its answer's handle; it is ignored when that is over."""
        (handle,) = core._NUMBER.unpack(msg.data)
        key = (msg.src_id, handle)
        dispatcher = self.dispatcher
        for runner in [dispatcher, *list(self.diverter.workers)]:
            call = runner.current
            if call and (call.src_id, call.reply_to) == key:
                return self._interrupt_call(runner, call)
        for queue in [dispatcher.queue, *list(self.diverter.chains.values())]:
            self._drop(queue, key)

    def _interrupt_call(self, runner, call):
        if runner.current is not call:
            return
        if not runner.interruptible:
            # Still importing its module, or on its way out.
            look = self.dispatcher.router.broker.after
            look(CANCEL_LOOK, lambda: self._interrupt_call(runner, call))
        elif runner is self.dispatcher:
            self.interrupt()
        else:
            _thread.start_new_thread(runner.interrupt_call, (call,))

    def _drop(self, queue, key):
        for call in list(queue):
            if (call.src_id, call.reply_to) == key:
                try:
                    queue.remove(call)
                except ValueError:
                    continue
                self.dispatcher.router.consumed(call)
                call.reply(core.CallError("the call was cancelled before it began"))


class Diverter:
    """
    Takes the calls that are not the main thread's.

    A call of a chain with a thread of its own is an array of four, its chain's id in front. It is
    queued by that; the thread lives while there is something in the queue.
    """

    def __init__(self, econtext):
        self.econtext = econtext
        self.router = econtext.router
        #: Chain id to the calls that wait for its thread.
        self.chains = {}
        #: What runs now: see workers.Worker.
        self.workers = set()
        #: Calls of services that came before there was a pool.
        self.service_calls = []
        self.lock = _thread.allocate_lock()

    def start(self, first):
        """Main thread: take over, in order, what has come; return whether `first` was taken."""
        done = core.new_lock()
        taken = []

        def take_over():
            queue = self.econtext.dispatcher.queue
            taken.append(self.put(first))
            for msg in list(queue):
                if self.put(msg):
                    queue.remove(msg)
            add = self.router.add_handler
            policy = core.has_parent_authority
            add(self.on_call, core.CALL_FUNCTION, True, policy, None, True, True)
            add(self.on_call, core.CALL_SERVICE, True, None, None, True, True)
            add(self.on_cancel, core.CANCEL, True, policy, None, True)
            done.release()

        self.econtext.broker.defer(take_over)
        while not done.acquire(True, 1):
            if not self.econtext.broker.alive:
                break
        return bool(taken and taken[0])

    def on_call(self, msg):
        if not self.put(msg):
            self.econtext.dispatcher._on_call(msg)

    def put(self, msg):
        """Broker thread: return whether `msg` is not for the main thread; then it was taken."""
        if msg.handle == core.CANCEL:
            self.on_cancel(msg)
            return True
        if msg.handle == core.CALL_SERVICE:
            self.service_calls.append(msg)
            if len(self.service_calls) == 1:
                _thread.start_new_thread(self.start_services, ())
            return True
        if msg.data[:1] != b"\x84":
            return False
        chain_id = core.decode_next(msg.data, 1)[0]
        with self.lock:
            if chain_id in self.chains:
                self.chains[chain_id].append(msg)
            else:
                self.chains[chain_id] = deque([msg])
                _thread.start_new_thread(self.run_chain, (chain_id,))
        return True

    def run_chain(self, chain_id):
        from mitogen.workers import Worker

        Worker(self, chain_id).run()

    def start_services(self):
        from mitogen import service

        service.adopt(self.router, self.service_calls)


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

    def get_resource_reader(self, fullname):
        from mitogen.resources import ResourceReader, ResourceRequester

        return ResourceReader(ResourceRequester(self.router, self.router.econtext.master), fullname)

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
