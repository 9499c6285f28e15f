"""
Modules for the children of a context: their requests, and where a context with a parent takes the
modules from, which is its own importer.

Threads: the broker thread, unless a docstring names another.
"""

from __future__ import annotations

from collections import deque

from mitogen import core
from mitogen.calls.first_call import FIRST_CALL
from mitogen.limits.turns import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mitogen.core import Context, Segment

__all__ = ["ModuleRequests", "RelayedModules"]

#: Modules that a child may request, those for its descendants included.
MAX_REQUESTS = 20000
#: Characters and dots of a module's name.
MAX_NAME, MAX_DOTS = 512, 32


class ModuleRequests:
    """
    The requests for modules that arrive on one stream.

    One is served at a time, and the next once the answer has left. None is served twice: the first
    answer is final, and it is on its way.
    """

    def __init__(self, router: Any, stream: Any, modules: Any) -> None:
        self.router = router
        self.stream = stream
        self.modules = modules
        self.known: set[str] = set()
        self.queue: deque[str] = deque()
        self.busy = False

    def add(self, fullname: str) -> None:
        """Broker thread: serve a request, later unless there is no other."""
        if fullname in self.known or fullname in self.stream.sent_modules:
            return
        odd = len(fullname) > MAX_NAME or fullname.count(".") > MAX_DOTS
        if odd or not fullname.isprintable() or len(self.known) >= MAX_REQUESTS:
            return self._refuse(fullname)
        self.known.add(fullname)
        self.queue.append(fullname)
        self._next()

    def _refuse(self, fullname: str) -> None:
        if self.stream.queued < core.HIGH_WATER and len(fullname) <= core.FRAME_SIZE:
            reason = "not a name of a module, or too many modules were requested"
            self._send([[[fullname, None, None, reason]], b"", []], bool)

    def _next(self) -> None:
        while self.queue and not self.busy and not self.stream.closed:
            fullname = self.queue.popleft()
            if fullname not in self.stream.sent_modules:
                self.busy = True
                self.modules.fetch(fullname, self._answer, self.stream.sent_modules)

    def _answer(self, segment: Segment) -> None:
        self.send(segment, lambda: self.router.broker.defer(self._done))

    def _done(self) -> None:
        self.busy = False
        self._next()

    def send(self, segment: Segment, sent: Callable[[], object] = bool) -> None:
        """Broker thread: send a segment, and call `sent()` once it has left."""
        if not self.stream.closed:
            names = [entry[0] for entry in segment[0] if entry[1] is not None]
            self.stream.sent_modules.update(names)
            self._send(segment, sent)

    def _send(self, segment: Segment, sent: Callable[[], object]) -> None:
        msg = core.Message(dst_id=self.stream.remote_id, handle=core.LOAD_MODULE)
        msg.data = core.encode(segment)
        send(self.router, msg, sent)


class RelayedModules:
    """Source of modules for the children of a context with a parent: its own importer."""

    def __init__(self, router: Any) -> None:
        self.router = router
        self.importer = router.importer

    def fetch(self, fullname: str, done: Callable[[Any], object], sent: Iterable[str] = ()) -> Any:
        """Broker thread: call `done(segment)` once the module's segment has arrived."""
        entry = self.importer.modules.get(fullname)
        if entry:
            return done(entry.segment)
        self.importer.request(fullname, lambda: done(self.importer.modules[fullname].segment))

    def segments(self, fullnames: Iterable[str]) -> list[Segment]:
        """Return the segments with those of the modules that are here, each segment once."""
        found = {}
        for fullname in fullnames:
            entry = self.importer.modules.get(fullname)
            if entry:
                found[id(entry.segment)] = entry.segment
        return list(found.values())

    def push(self, context: Context, module_names: list[str]) -> None:
        """Any thread: forward those of the modules that are here, ahead of a call."""
        target = context.context_id
        stream = self.router.routes.streams.get(target)
        if (
            stream is None
            or target == stream.remote_id
            and stream.sent_modules.issuperset(module_names)
        ):
            return
        names = [n for n in [*module_names, *FIRST_CALL] if n in self.importer.modules]
        branch = self.router.branch
        segments = self.segments([n for n in names if n not in stream.sent_modules])
        branch.send_now(stream, target, segments, names)
