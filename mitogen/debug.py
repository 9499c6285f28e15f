"""
Diagnostics of a running process: stacks, routers and streams, for debugging.

This module is imported only if a program does so. It works in a master and in a child, whose log
records, including those of dump_to_logger(), are sent to the master.

Threads: any. The handler of install_handler() runs on the main thread, like all signal handlers.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback

from mitogen import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "ContextDebugger",
    "disable_evil_interrupts",
    "dump_to_logger",
    "enable_evil_interrupts",
    "format_stacks",
    "get_router_info",
    "get_routers",
    "get_snapshot",
    "get_stream_info",
    "install_handler",
]

LOG = logging.getLogger("mitogen.debug")

#: Seconds between the interruptions of enable_evil_interrupts().
EVIL_SECONDS = 0.01


def _brokers() -> dict[int, core.Broker]:
    """Return the brokers of this process, by their thread's ident."""
    # The ident of an ended thread may be reused, so only live brokers count.
    brokers = [router.broker for router in get_routers().values() if router.broker.alive]
    return {getattr(broker, "ident", 0): broker for broker in brokers}


def format_stacks() -> str:
    """Return the stack of every thread in the format of tracebacks, the current thread's last."""
    brokers = _brokers()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = threading.get_ident()
    parts = []
    for ident, frame in sorted(sys._current_frames().items(), key=lambda item: item[0] == here):
        name = "broker" if ident in brokers else names.get(ident, "not a threading.Thread")
        stack = "".join(traceback.format_stack(frame))
        parts.append("# Thread %d (%s)\n%s" % (ident, name, stack))
    return "\n".join(parts)


def get_routers() -> dict[str, core.Router]:
    """Return the routers of this process, by hexadecimal id."""
    # isinstance() would look up `__class__` and so run code of arbitrary objects.
    found = [each for each in gc.get_objects() if issubclass(type(each), core.Router)]
    # A Router's __init__ sets `dropped` near its end: a router without it is being constructed.
    return {"%x" % id(each): each for each in found if "dropped" in each.__dict__}


def _contexts_of(router: core.Router) -> list[core.Context]:
    """Return the contexts that a router has a route to, by id."""
    found = [router.context_by_id(i, create=False) for i in sorted(router.routes.streams)]
    return [context for context in found if context is not None]


def _stream_info(stream: Any) -> dict[str, Any]:
    # The stream may be incomplete or closing.
    conn = getattr(stream, "conn", None)
    names = "name remote_id rfd wfd queued received closed".split()
    found = {name: getattr(stream, name, None) for name in names}
    found["method"] = type(conn).__module__ if conn else None
    found["pid"] = getattr(getattr(stream, "process", None), "pid", None)
    for name in ("sent_modules", "egress_ids"):
        found[name] = sorted(getattr(stream, name, ()))
    return found


def get_router_info() -> dict[str, Any]:
    """
    Return information on each router, as a tree of plain values.

    Keys are as in get_routers(); the values are for display and may change.
    """
    return {
        key: {
            "context_id": router.node.context_id,
            "parent_ids": list(router.node.parent_ids),
            "contexts": {c.context_id: c.name for c in _contexts_of(router)},
            "routes": {i: s.name for i, s in list(router.routes.streams.items())},
            "handles": sorted(router.handlers),
            "dropped": router.dropped,
            "broker_alive": router.broker.alive,
        }
        for key, router in get_routers().items()
    }


def get_stream_info(router_id: str) -> dict[str, Any]:
    """
    Return information on the streams of a router.

    :param router_id: a key of get_routers()
    :raises KeyError: the router does not exist, or not any longer
    """
    router = get_routers()[router_id]
    streams = set(router.routes.streams.values())
    if router.routes.parent:
        streams.add(router.routes.parent)
    return {"streams": {"%x" % id(stream): _stream_info(stream) for stream in streams}}


def get_snapshot() -> str:
    """Return a report as text: the process, its threads' stacks, its routers and streams."""
    lines = ["# pid %d, %s, %s" % (os.getpid(), time.ctime(), " ".join(sys.argv[:1]))]
    for key, info in get_router_info().items():
        lines.append("# Router %s" % key)
        lines += ["    %s: %r" % item for item in sorted(info.items())]
        for each in get_stream_info(key)["streams"].values():
            lines.append("  # Stream %s" % each["name"])
            lines += ["    %s: %r" % item for item in sorted(each.items())]
    return "\n".join(lines) + "\n\n" + format_stacks()


def _to_terminal(text: str) -> None:
    """Write to the terminal, or to standard error if there is none."""
    try:
        fd = os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY)
    except OSError:
        fd = os.dup(2)
    with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as fp:
        fp.write(text)


def _on_signal(_signum: int, _frame: Any) -> None:
    _to_terminal(get_snapshot())


def install_handler() -> None:
    """
    Main thread: make SIGUSR2 write get_snapshot() to the terminal, or to standard error if there is
    none. A child's standard error becomes log records of the master.
    """
    signal.signal(signal.SIGUSR2, _on_signal)


class _Dumper(threading.Thread):
    """A thread that logs a snapshot periodically."""

    def __init__(self, secs: float) -> None:
        threading.Thread.__init__(self, name="mitogen-dump", daemon=True)
        self._secs = secs
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            LOG.error("%s", get_snapshot())
            self._stopped.wait(self._secs)

    def stop(self) -> None:
        """Any thread: stop logging."""
        self._stopped.set()


def dump_to_logger(secs: float = 5) -> _Dumper:
    """
    Log get_snapshot() periodically, at level ERROR, until the process ends.

    :param secs: interval in seconds
    :returns: the daemon thread that logs; call its stop() to end it
    """
    thread = _Dumper(secs)
    thread.start()
    return thread


# -- interruptions


def enable_evil_interrupts() -> None:
    """
    Main thread: interrupt system calls with SIGALRM a hundred times a second, to find code that
    does not handle this.
    """
    signal.signal(signal.SIGALRM, lambda _signum, _frame: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, EVIL_SECONDS, EVIL_SECONDS)


def disable_evil_interrupts() -> None:
    """Main thread: undo enable_evil_interrupts()."""
    signal.setitimer(signal.ITIMER_REAL, 0, 0)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


# -- in other contexts


class ContextDebugger:
    """
    Master: inspector of a router's contexts, which does not wait for calls running there.

    :param router: the master's router
    """

    def __init__(self, router: Any) -> None:
        self.router = router

    def snapshot(self, context: Any, timeout: float = 10.0) -> str:
        """
        Return get_snapshot() of a context.

        :param timeout: seconds to wait for the answer
        :raises mitogen.core.TimeoutError: the context did not answer in time
        """
        chain = context.call_chain_class(context, timeout=timeout, worker=True)
        text: str = chain.call(get_snapshot)
        return text

    def snapshots(self, timeout: float = 10.0) -> dict[str, str]:
        """Return the snapshots of all contexts, by name; for an error its text."""
        found: dict[str, str] = {}
        for context in _contexts_of(self.router):
            name = str(context.name)
            try:
                found[name] = self.snapshot(context, timeout)
            except core.Error as e:
                found[name] = "%s: %s" % (type(e).__name__, e)
        return found
