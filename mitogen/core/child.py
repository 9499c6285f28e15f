"""
A child's main program: takes over the pipe that the preamble came through, becomes a context and
runs calls until shutdown.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Threads: main() on the main thread, which starts the broker thread.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it
import os
import sys
from _frozen_importlib import ModuleSpec

from mitogen.core.codec import decode, encode
from mitogen.core.dispatcher import Dispatcher
from mitogen.core.frames import FORWARD_LOG, SHUTDOWN, Message
from mitogen.core.importer import Importer
from mitogen.core.io import Broker, Stream, listen
from mitogen.core.lazy import Lazy
from mitogen.core.routing import Node, Router, has_parent_authority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


class ChildRouter(Router, Lazy):
    """The router of a context that has a parent."""

    more = "router"
    econtext: Any = None
    if TYPE_CHECKING:
        importer: Importer

    def log(self, level: int, fmt: str, *args: object) -> None:
        if level >= self.log_level:
            self.send_log(["mitogen", level, fmt % args if args else fmt, None, 0, None])

    def send_log(self, fields: list[Any]) -> None:
        """Any thread: send [logger, level, text, file, line, function] to the master."""
        msg = Message(dst_id=self.node.parent_ids[-1], handle=FORWARD_LOG, data=encode(fields))
        self.route(msg, False)


class ExternalContext:
    """
    The state of a child; passed as `econtext` to functions marked with takes_econtext().

    :param dict config: configuration sent with the source; see tree.router.Router.preamble_for()
    """

    detached = False
    stdout_log: Any
    stderr_log: Any
    stdout_log = stderr_log = None
    if TYPE_CHECKING:
        #: The first two are set by first_call.install().
        import_main: Callable[[], object]
        detach: Callable[[], object]
        importer: Any

    def __init__(self, config: dict[str, Any], core_source: bytes = b"", rest: bytes = b"") -> None:
        self.config = config
        self.core_source = core_source
        self.rest = rest

    def main(self) -> None:
        """Run as a context; return at shutdown."""
        config = self.config
        rfd, wfd = self._take_stdio()
        os.write(wfd, b"MITO:READY\n")
        self.broker = Broker()
        node = Node(config["module"]["context_id"], config["module"]["parent_ids"])
        ids = node.parent_ids
        self.router = router = ChildRouter(self.broker, node)
        router.econtext = self
        router.__dict__.update(config["router"])
        self.master = router.context_by_id(ids[-1], name="master")
        self.parent = router.context_by_id(ids[0], name="parent")
        self.stream = router.routes.parent = Stream(router, ids[0], rfd, wfd, "parent")
        self.context = router.context_by_id(node.context_id, name=config["name"])
        listen(router, "parent_lost", self._on_parent_lost)
        router.add_handler(self._on_shutdown, SHUTDOWN, policy=has_parent_authority)
        self.dispatcher = Dispatcher(self)
        self.importer = router.importer = Importer(router)
        self.importer.core_source = self.core_source
        self._set_up_modules()
        self.broker.defer(self.stream.start, self.rest)
        if config["keepalive"]:
            self._received: int | None = None
            self.broker.defer(self._check_parent)
        self.dispatcher.run()
        self._end()

    def _take_stdio(self) -> tuple[int, int]:
        """Move the pipe to the parent off descriptors 0 and 1, where programs would use it."""
        rfd = os.dup(0)
        wfd = os.dup(1)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        if self.config["merged"]:
            os.dup2(null, 2)
        os.close(null)
        try:
            # A process group of its own: programs started by calls are ended with the context.
            os.setsid()
        except OSError:
            pass
        return rfd, wfd

    def _set_up_modules(self) -> None:
        core = sys.modules["mitogen.core"]
        module: Any = sys.modules.get("mitogen")
        if not module:
            module = sys.modules["mitogen"] = type(sys)("mitogen")
            names_are_lazy(core)
            for package in module, core:
                package.__path__ = []
                package.__loader__ = self.importer
                package.__spec__ = ModuleSpec(package.__name__, self.importer)
        module.__dict__.update(self.config["module"])
        module.core = core
        # `@mitogen.main()` does nothing in a child.
        module.main = lambda *a, **k: lambda func: None
        self.importer.install()

    def _check_parent(self) -> None:
        """Disconnect if the parent sent nothing for the keepalive period, even on a live link."""
        if self._received == self.stream.received:
            return self.stream.disconnect("the parent is silent")
        self._received = self.stream.received
        self.broker.after(self.config["keepalive"], self._check_parent)

    def _on_shutdown(self, msg: Message) -> None:
        """Shut down; the current call may finish, unless its result is no longer wanted."""
        self.dispatcher.end()
        self.broker.after(0 if msg.data else self.broker.shutdown_timeout, self._hurry)

    def _on_parent_lost(self) -> None:
        if not self.detached:
            self._hurry()

    def _hurry(self) -> None:
        self.dispatcher.end()
        self.dispatcher.interrupt()
        self.broker.after(1, lambda: end_process(1))

    #: Main thread: send the printed output; set by first_call.py.
    flush: Any = int

    def _end(self) -> None:
        # The alarm ends the process even if a step below hangs.
        _signal.signal(_signal.SIGALRM, lambda *_: end_process(1))
        _signal.alarm(5)
        self.flush()
        self.broker.defer(self.stream.flush)
        self.broker.shutdown()
        self.broker.join()


class _Package(Lazy, type(sys)):  # type: ignore[misc]  # types.ModuleType, without that import
    more = "names"


def names_are_lazy(module: Any) -> None:
    """
    Look up names that `module` does not define by its table of lazy names: see compat/lookup.py.

    A module-level `__getattr__` (PEP 562) would do the same, but Python 3.6 lacks it.
    """
    module.__class__ = _Package


def end_process(status: int) -> NoReturn:
    """End the process at once, and with it the programs that calls have started."""
    if os.getpgrp() == os.getpid():
        # Blocks the signal in this thread only; another thread may be the one that receives it.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGTERM])
        os.kill(0, _signal.SIGTERM)
    os._exit(status)


def child_main(config: bytes, core_source: bytes, rest: bytes) -> NoReturn:
    """Run a context until its parent ends it or is lost; called by the first stage."""
    ExternalContext(decode(config), core_source, rest).main()
    try:
        import atexit

        atexit._run_exitfuncs()
    finally:
        end_process(0)
