"""
Modules for the children of a context with a parent, taken from or fetched by its own importer.

Threads: the broker thread, unless a docstring names another.
"""

from __future__ import annotations

from mitogen.calls.first_call import FIRST_CALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mitogen.core import Context, Segment

__all__ = ["RelayedModules"]


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
