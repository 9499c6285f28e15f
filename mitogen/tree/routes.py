"""
The component of a router whose context has children: their streams, routes to their descendants and
the withdrawal of routes, grants of ids, relayed modules.

Rules
    1. A route is accepted only from the stream on which the id was granted.
    2. A child that does not end on its own is disconnected and killed.

Threads: Branch runs on the broker, except where a docstring names another thread.
"""

from __future__ import annotations

import _thread

from mitogen import core
from mitogen.bootstrap import handshake
from mitogen.core import (
    DEL_ROUTE,
    GET_MODULE,
    PING,
    RAW,
    SHUTDOWN,
    Message,
    is_neighbour,
    listen,
)
from mitogen.limits.display import shown_name
from mitogen.tree.connecting import Logins
from mitogen.tree.contexts import Context
from mitogen.tree.ids import ChildIds
from mitogen.tree.message_handles import (
    ADD_ROUTE,
    ALLOCATE_ID,
    AWAIT_END,
    DETACHING,
    FORWARD_MODULE,
)
from mitogen.tree.relayed_modules import ModuleRequests, RelayedModules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mitogen.core import Broker, ExternalContext, R, Segment
    from mitogen.tree.connecting import ChildStream, Connecting

__all__ = ["Branch", "defer_sync", "shutdown_now", "upgrade", "upgrade_router"]

#: Blocks of ids that one child may request, including requests of all its descendants.
MAX_BLOCKS = 1000
#: Maximum number of destinations recorded per stream; above it, every lost context is reported to
#: the stream.
MAX_EGRESS = 65536


def defer_sync(broker: Broker, func: Callable[[], R]) -> R:
    """
    Any thread: call `func()` on the broker thread and return its result or raise its error.

    :raises Error: the broker has ended
    """
    if broker.on_thread():
        return func()
    box: list[Any] = []
    lock = core.new_lock()

    def run() -> None:
        try:
            box.extend((func(), None))
        except BaseException as e:
            box.extend((None, e))
        lock.release()

    broker.defer(run)
    while not lock.acquire(True, 1):
        if not broker.alive and not box:
            raise core.Error("the broker has ended")
    if box[1]:
        raise box[1]
    result: R = box[0]
    return result


def shutdown_now(context_id: int) -> Message:
    """Return the message that ends a context at once, without waiting for its calls."""
    return Message(dst_id=context_id, handle=SHUTDOWN, data=b"!", flags=RAW)


class Branch:
    """
    The children of a router. Runs on the broker thread.

    :param ids: ChildIds, or the master's IdAllocator
    :param modules: RelayedModules, or the master's ModuleResponder
    """

    unidirectional_msg = (
        "routing mode prevents forward of message from context %d to context %d via context %d"
    )

    def __init__(self, router: Any, ids: Any, modules: Any, core_source: bytes) -> None:
        self.router = router
        router.forward = self.forward
        self.ids = ids
        self.modules = modules
        self.preamble = handshake.preamble(core_source)
        self.logins = Logins()
        #: Streams to processes started by this context, from their start until they are reaped.
        self.processes: set[Any] = set()
        self.streams: set[Any] = set()
        self.module_requests: dict[Any, ModuleRequests] = {}
        #: Number of blocks of ids that each child has requested.
        self.requests: dict[int, int] = {}
        add = router.add_handler
        add(self._on_add_route, ADD_ROUTE, policy=is_neighbour)
        add(self._on_allocate_id, ALLOCATE_ID, policy=is_neighbour)
        add(self._on_get_module, GET_MODULE, policy=is_neighbour)
        add(self._on_forward_module, FORWARD_MODULE, policy=self._from_parent)
        add(self._on_detaching, DETACHING, policy=is_neighbour)
        add(self._on_await_end, AWAIT_END, policy=core.has_parent_authority)
        listen(router, "routes_lost", self._on_routes_lost)
        listen(router, "parent_lost", self._on_parent_lost)
        listen(router.broker, "shutdown", self._on_shutdown)

    def _from_parent(self, msg: Message, stream: Any) -> bool:
        return stream is not None and stream is self.router.routes.parent

    # -- streams and routes

    def forward(self, msg: Message, stream: Any) -> Any:
        """Forward a frame without decoding its payload."""
        router = self.router
        dst = msg.dst_id
        out = router.routes.get(dst)
        if out is None or out is stream:
            why = router.no_route_msg % (dst, router.node.context_id)
        elif router.unidirectional and self._are_siblings(stream, out):
            why = self.unidirectional_msg % (msg.src_id, dst, self.router.context_id)
        else:
            if len(stream.egress_ids) < MAX_EGRESS:
                stream.egress_ids.add(dst)
            return out.send(msg.header(len(msg.data), msg.flags), msg.data)
        router.bounce(msg, why)

    def _are_siblings(self, one: Any, other: Any) -> bool:
        """Return False if either stream leads to the parent or to a joined process."""
        trusted = self.router.routes.parent
        return not any(s is trusted or s.auth_id is not None for s in (one, other))

    def add_stream(self, stream: ChildStream) -> None:
        """Add the stream to a ready child or to a joined process."""
        router = self.router
        self.streams.add(stream)
        router.routes.streams[stream.remote_id] = stream
        self._tell_parent(ADD_ROUTE, stream.remote_id, stream.name)
        if stream.conn.keepalive_interval:
            self._keep_alive(stream, stream.received, 0)

    def add_connecting(self, connecting: Connecting) -> None:
        """Hold the broker until the started process of a child is reaped."""
        stream = connecting.stream
        self.processes.add(stream)
        self.router.broker.holds.add(stream)
        stream.when_gone.append(lambda: self._on_gone(stream))
        if self.router.broker.closing:
            connecting.cancel("the broker ends")

    def _on_gone(self, stream: ChildStream) -> None:
        """Clean up after a child's process was reaped."""
        self.streams.discard(stream)
        self.processes.discard(stream)
        self.router.broker.holds.discard(stream)
        self.router.broker.stop()

    def _on_await_end(self, msg: Message) -> Any:
        """Answer once a child's process is reaped, which is after its route was removed."""
        (context_id,) = core.NUMBER.unpack(msg.data)
        for stream in self.processes:
            if stream.remote_id == context_id:
                return stream.when_gone.append(lambda: msg.reply(None))
        msg.reply(None)

    def _on_detaching(self, msg: Message) -> None:
        """Handle a child that asks to detach, or has detached: see detach.py."""
        stream = self.router.routes.streams.get(msg.src_id)
        if stream and msg.reply_to:
            stream.detached = True
            msg.reply(None)
        elif stream and stream.detached:
            stream.disconnect("detached")

    def _keep_alive(self, stream: ChildStream, received: int, unanswered: int) -> None:
        if stream.closed:
            return
        unanswered = unanswered + 1 if received == stream.received else 0
        if unanswered > stream.conn.keepalive_count:
            return stream.disconnect("no answer to %d keepalives" % (unanswered - 1))
        received = stream.received
        router = self.router
        handle = router.add_handler(lambda msg: None, router.new_handle(False), persist=False)
        router.route(
            Message(dst_id=stream.remote_id, handle=PING, reply_to=handle, flags=RAW), False
        )
        router.broker.after(
            stream.conn.keepalive_interval,
            lambda: self._keep_alive(stream, received, unanswered),
        )

    def _tell_parent(self, handle: int, context_id: int, name: str | None = "") -> None:
        router = self.router
        if router.node.parent_ids and router.routes.parent:
            self._send_route(router.node.parent_ids[0], handle, context_id, name)

    def _send_route(self, dst_id: int, handle: int, context_id: int, name: str | None = "") -> None:
        data = core.NUMBER.pack(context_id) + (name or "").encode()
        self.router.route(Message(dst_id=dst_id, handle=handle, data=data, flags=RAW), False)

    def _on_add_route(self, msg: Message) -> Any:
        (context_id,) = core.NUMBER.unpack_from(msg.data)
        name = shown_name(msg.data[4:].decode("utf-8", "replace"))
        router = self.router
        stream = router.routes.streams.get(msg.src_id)
        if stream is None or not stream.allows(context_id) or context_id in router.routes.streams:
            return router.drop(msg, "it may not announce context %d" % context_id)
        router.routes.streams[context_id] = stream
        router.context_by_id(context_id, msg.src_id, name=name)
        self._tell_parent(ADD_ROUTE, context_id, name)

    def _on_routes_lost(self, ids: Iterable[int], stream: Any) -> None:
        """Notify the parent, and every neighbour that ever sent to one of those contexts."""
        forget = getattr(self.modules, "forget", None)
        for context_id in ids:
            if forget:
                forget(context_id)
            if stream is not self.router.routes.parent:
                self._tell_parent(DEL_ROUTE, context_id)
            for other in list(self.streams):
                if context_id in other.egress_ids or len(other.egress_ids) >= MAX_EGRESS:
                    other.egress_ids.discard(context_id)
                    self._send_route(other.remote_id, DEL_ROUTE, context_id)

    def _on_parent_lost(self) -> None:
        """End every wait for contexts reached through the parent, which no table lists."""
        router = self.router
        econtext = getattr(router, "econtext", None)
        if not (econtext and econtext.detached):
            # No result can be delivered any more: end the subtree at once.
            self.cut_off()
        lost = {handler.source for handler in list(router.handlers.values())}
        for table in router.flows, router.longs, router.partials, router.meters:
            lost.update(key[0] for key in list(table))
        for context_id in lost - set(router.routes.streams) - {None}:
            router.context_lost(context_id)

    def _on_shutdown(self) -> None:
        """Ask the children to end; those that do not are killed (spawn.Process.reap)."""
        for stream in list(self.processes):
            if stream.connecting:
                stream.connecting.cancel("the broker ends")
            elif not stream.closed and not stream.detached:
                self.router.route(shutdown_now(stream.remote_id), False)
        self.router.broker.after(self.router.broker.shutdown_timeout, self.cut_off)

    def cut_off(self) -> None:
        """Disconnect every stream."""
        for stream in list(self.streams):
            stream.disconnect("shutdown")

    # -- ids

    def _on_allocate_id(self, msg: Message) -> Any:
        """Answer a neighbour's request for a block of ids, or record a grant from the parent."""
        router = self.router
        if msg.data:
            target, first, end = core.TRIPLE.unpack(msg.data)
            from_parent = router.routes.parent and msg.src_id == router.node.parent_ids[0]
            # A joined process has this context's own authority.
            if from_parent or msg.auth_id == router.context_id:
                self.grant(target, first, end)
            return
        stream = router.routes.streams.get(msg.src_id)
        asked = self.requests[msg.src_id] = self.requests.get(msg.src_id, 0) + 1
        if asked > MAX_BLOCKS:
            return router.drop(msg, "it has requested more than %d blocks of ids" % MAX_BLOCKS)

        def on_block(block: tuple[int, int] | None) -> None:
            if block is None or stream is None or stream.closed:
                return
            stream.give(*block)
            msg.reply(Message(data=core.PAIR.pack(*block), flags=RAW))

        self.ids.request(on_block)

    def grant(self, target: int, first: int, end: int) -> None:
        """Record on every hop towards `target` that it may announce these ids."""
        router = self.router
        stream = router.routes.streams.get(target)
        if stream:
            stream.give(first, end)
        else:
            stream = router.routes.parent
        if stream and stream.remote_id != target:
            data = core.TRIPLE.pack(target, first, end)
            router.route(
                Message(dst_id=stream.remote_id, handle=ALLOCATE_ID, data=data, flags=RAW), False
            )

    # -- modules

    def _on_get_module(self, msg: Message) -> None:
        stream = self.router.routes.streams.get(msg.src_id)
        if stream:
            self._requests_of(stream).add(msg.data.decode("utf-8", "replace"))

    def _requests_of(self, stream: Any) -> ModuleRequests:
        found = self.module_requests.get(stream)
        if found is None:
            found = self.module_requests[stream] = ModuleRequests(self.router, stream, self.modules)
            listen(stream, "disconnect", lambda: self.module_requests.pop(stream, None))
        return found

    def send_now(
        self,
        stream: ChildStream,
        target: int,
        segments: Iterable[Segment],
        fullnames: list[str],
    ) -> None:
        """Any thread: call send_segments() and wait until it is done."""
        defer_sync(
            self.router.broker, lambda: self.send_segments(stream, target, segments, fullnames)
        )

    def send_segments(
        self,
        stream: ChildStream,
        target: int,
        segments: Iterable[Segment],
        fullnames: list[str],
    ) -> None:
        """Queue modules for a context: send the next hop the missing ones, then the request to
        forward them."""
        for segment in segments:
            self._requests_of(stream).send(segment)
        if stream.remote_id != target and fullnames:
            data = core.encode([target, fullnames])
            msg = Message(dst_id=stream.remote_id, handle=FORWARD_MODULE, data=data)
            self.router.route(msg, False)

    def _on_forward_module(self, msg: Message) -> None:
        target, fullnames = core.decode(msg.data)
        stream = self.router.routes.streams.get(target)
        if stream:
            missing = [n for n in fullnames if n not in stream.sent_modules]
            segments = self.modules.segments(missing)
            self.send_segments(stream, target, segments, fullnames)


#: Lock held by the thread that upgrades a router.
_upgrading = _thread.allocate_lock()


def upgrade(router: Any) -> None:
    """Any thread: add a Branch to a child's router, so that it can have children; idempotent."""
    with _upgrading:
        if "branch" not in router.__dict__:
            router.context_class = Context
            router.branch = Branch(
                router, ChildIds(router), RelayedModules(router), router.econtext.core_source
            )


@core.takes_econtext
def upgrade_router(econtext: ExternalContext) -> None:
    """Upgrade `econtext.router`. Optional: the first connection does so anyway."""
    upgrade(econtext.router)
