"""
The router: routes messages, delivers those for this context to its handlers, and ends every wait
whose answer can no longer arrive.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Rules
    1. The broker thread routes incoming messages and runs handlers. A handler never blocks, never
       imports and never runs a program's code. Only fixed-size payloads of the protocol itself are
       decoded on that thread.
    2. Every wait has an end: a reply, a dead message, a deadline or the broker's exit.

Threads: any thread may route() a message of its own; other methods name their thread.
"""

from __future__ import annotations

import _thread
from itertools import count

from mitogen.core.contexts import Context
from mitogen.core.errors import EncodeError, Error
from mitogen.core.frames import (
    CONT,
    CREDIT,
    DEL_ROUTE,
    FIRST_HANDLE,
    FIRST_UNWINDOWED,
    FRAME_SIZE,
    HIGH_WATER,
    IS_DEAD,
    LONG_SIZE,
    MAX_MESSAGE_SIZE,
    MORE,
    NUMBER,
    PING,
    RAW,
    TRIPLE,
    Message,
)
from mitogen.core.io import ERROR, fire, new_lock, now
from mitogen.core.lazy import fetch, loaded
from mitogen.core.windows import (
    LONG_WINDOW,
    MESSAGE_COST,
    Meter,
    Window,
    is_windowed,
    window_size,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from mitogen.calls.sender_waits import LongSend
    from mitogen.core.io import Broker, Lock, Stream

    MessageHandler = Callable[[Message], object]
    Policy = Callable[[Message, Stream | None], object]
    T = TypeVar("T")


class RouteTable:
    """Pure: context id to the stream that leads there. Unknown ids lead to the parent."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.parent: Stream | None = None

    def get(self, context_id: int) -> Stream | None:
        return self.streams.get(context_id, self.parent)

    def admits(self, msg: Message, stream: Stream) -> bool:
        """Return whether a reply to `msg` would take the stream that it arrived on."""
        auth = msg.auth_id
        src = msg.src_id
        get = self.streams.get
        parent = self.parent
        return get(auth, parent) is stream and (src == auth or get(src, parent) is stream)

    def remove(self, stream: Stream) -> list[int]:
        """Remove a stream; return the ids that it led to."""
        ids = [i for i, s in list(self.streams.items()) if s is stream]
        for i in ids:
            del self.streams[i]
        if self.parent is stream:
            self.parent = None
        return ids


class Node:
    """Identity of a router: its context id and its ancestors' ids, nearest first."""

    def __init__(self, context_id: int = 0, parent_ids: Iterable[int] = ()) -> None:
        self.context_id = context_id
        self.parent_ids = list(parent_ids)


def has_parent_authority(msg: Message, _stream: Stream | None = None) -> bool:
    """Accept messages with the authority of this context or of one of its ancestors (a policy)."""
    node = msg.router.node
    return msg.auth_id == node.context_id or msg.auth_id in node.parent_ids


def is_neighbour(msg: Message, stream: Any) -> bool:
    """Accept only messages sent by the context at the other end of `stream` (a policy)."""
    return bool(stream) and msg.src_id == stream.remote_id


class Ticket:
    """
    A message on its way: it is queued, or being sent in frames. Only the broker sends it and ends
    its way.
    """

    error: str | None = None

    def __init__(self, msg: Message, lock: Lock | None) -> None:
        self.msg = msg
        #: The lock of the waiting thread, if any.
        self.lock = lock
        #: Called at the end of its way; None afterwards.
        self.then: Any = lock.release if lock else int

    def done(self, error: str | None = None) -> None:
        """End its way: it is written or, with `error`, lost."""
        self.error = error
        then, self.then = self.then, None
        then()


class Handler:
    """The callback of a mailbox and its filters: see Router.add_handler()."""

    fn: MessageHandler
    persist: bool
    policy: Policy | None
    source: Any  # id of the only context that may send to it, or None
    consumer: bool
    ticket: Ticket  # of the message that it is to receive the answer to, if that had to wait

    def __init__(self, *fields: Any) -> None:
        self.fn, self.persist, self.policy, self.source, self.consumer = fields


class Partial:
    """An incomplete message: some of its frames have not arrived."""

    def __init__(self, handler: Handler, first: Message) -> None:
        self.handler = handler
        self.first = first
        self.chunks: list[bytes] = []
        self.size = MESSAGE_COST
        self.owed = 0  # bytes not yet credited to the sender


class Router:
    """
    Router of a context: routes its messages and holds its handlers.

    :param Broker broker: broker that does the I/O
    :param Node node: identity of this context
    """

    if TYPE_CHECKING:

        def register(self, context: Context, stream: Any) -> None: ...

    context_class: Any = Context
    max_message_size = MAX_MESSAGE_SIZE
    unidirectional = False
    #: `trace("send" or "receive", msg)`, or None.
    trace: Callable[[str, Message], object] | None = None
    refused_msg = "refused by policy"
    invalid_handle_msg = "invalid handle"
    too_large_msg = "message too large (max %d bytes)"
    respondent_disconnect_msg = "the respondent Context has disconnected"
    broker_exit_msg = "Broker has exitted"
    no_route_msg = "no route to %r, my ID is %r"
    duplicate_handle_msg = "cannot register a handle that already exists"

    def __init__(self, broker: Broker, node: Node | None = None) -> None:
        self.broker = broker
        self.node = node or Node()
        self.context_id = self.node.context_id
        self.routes = RouteTable()
        self._stream_by_id = self.routes.streams
        self._contexts: dict[int, Any] = {}
        self.handlers: dict[int, Any] = {}
        self._components: dict[Any, Any] = {}
        self.flows: dict[tuple[int, int], Window] = {}
        self.meters: dict[tuple[int, int], Meter] = {}
        self.longs: dict[tuple[int, int], LongSend] = {}
        self.partials: dict[tuple[int, int], Partial] = {}
        self._lock = _thread.allocate_lock()
        self._handle_numbers = count(FIRST_HANDLE)
        self._reply_numbers = count(FIRST_UNWINDOWED)
        self._message_numbers = count(1)
        self.dropped = 0
        self._drop_logged: float = 0
        self.add_handler(self._on_credit, CREDIT)
        self.add_handler(self._on_del_route, DEL_ROUTE, policy=is_neighbour)
        self.add_handler(lambda msg: msg.reply(Message(flags=RAW)), PING)
        broker.exit_actions.append(self._on_broker_exit)

    def log(self, level: int, fmt: str, *args: object) -> None:
        """Any thread: log a record; a child sends it to the master, a master uses `logging`."""

    def component(self, cls: Callable[[Router], T]) -> T:
        """Any thread: return this router's instance of `cls`, created at first use."""
        return self._components.get(cls) or self._components.setdefault(cls, cls(self))  # type: ignore[no-any-return]

    # -- contexts and handlers

    def context_by_id(
        self,
        context_id: int,
        via_id: int | None = None,
        create: bool = True,
        name: str | None = None,
    ) -> Any:
        """Return the Context with that id: always the same object, created if `create`."""
        context = self._contexts.get(context_id)
        if context is None and create:
            context = self.context_class(self, context_id, name)
            context = self._contexts.setdefault(context_id, context)
            if via_id is not None:
                context.via = self._contexts.get(via_id)
        return context

    def add_handler(
        self,
        fn: MessageHandler,
        handle: int | None = None,
        persist: bool = True,
        policy: Policy | None = None,
        respondent: Context | None = None,
        overwrite: bool = False,
        consumer: bool = False,
    ) -> int:
        """
        Register `fn(msg)` as the broker's callback for messages to `handle`; return the handle.

        :param int handle: None for a new handle
        :param bool persist: False: remove the handler after one message
        :param policy: `policy(msg, stream)` returns whether a message is accepted
        :param Context respondent: accept only its messages; its loss is delivered as a dead message
        :param bool overwrite: replace an existing handler
        :param bool consumer: `fn` calls Router.consumed() itself
        :raises Error: the handle already has a handler
        """
        if hasattr(policy, "context_id") or callable(respondent):
            policy, respondent = respondent, policy  # type: ignore[assignment]  # old order
        if handle is None:
            handle = self.new_handle(persist)
        elif handle in self.handlers and not overwrite:
            raise Error(self.duplicate_handle_msg)
        source: Any = respondent and respondent.context_id
        self.handlers[handle] = Handler(fn, persist, policy, source, consumer)
        if not self.broker.alive:
            self._on_broker_exit()
        return handle

    def expect(self, fn: MessageHandler, context_id: int) -> int:
        """Register `fn(msg)` for one answer from that context; return the handle."""
        handle = next(self._reply_numbers)
        self.handlers[handle] = Handler(fn, False, None, context_id, True)
        if not self.broker.alive:
            self._on_broker_exit()
        return handle

    def new_handle(self, windowed: bool = True) -> int:  # type: ignore[return]  # never at its end
        """Return an unused handle; its number determines whether it is a windowed flow."""
        for handle in self._handle_numbers if windowed else self._reply_numbers:
            if handle not in self.handlers:
                return handle

    def del_handler(self, handle: int) -> None:
        """Remove the handler of `handle`; raise KeyError if there is none."""
        del self.handlers[handle]

    def _on_broker_exit(self) -> None:
        why = self.broker_exit_msg
        for key in list(self.flows):
            self.end_flow(key, why)
        for key in list(self.longs):
            self.end_long(key, why)
        for handle, handler in list(self.handlers.items()):
            # Handlers of the protocol itself have no waiting side.
            if handle >= FIRST_HANDLE and self.handlers.pop(handle, None):
                handler.fn(self._dead(handle, handler.source, why))

    def _dead(self, handle: int, src_id: int, reason: str) -> Message:
        me = self.context_id
        msg = Message.dead(reason, dst_id=me, src_id=src_id, auth_id=me, handle=handle)
        msg.router = self
        return msg

    # -- out

    def route(self, msg: Message, wait: bool = True, cork: bool = False) -> Any:
        """
        Any thread: send a message of this context's own.

        A short message that has credit is written at once. All others get a Ticket, and the broker
        sends them. On a program's thread this may sleep: until that is done, or until a slow link
        has accepted the queued data.

        :param bool wait: False: never sleep
        :param bool cork: another message will follow at once
        :returns: the Ticket, or None
        :raises TimeoutError: no credit came within CREDIT_TIMEOUT
        """
        me = msg.src_id = msg.auth_id = self.context_id
        dst = msg.dst_id
        handle = msg.handle
        size = len(msg.data)
        stream = self._stream_by_id.get(dst) or self.routes.parent
        if size > self.max_message_size or stream is None or dst == me:
            if size > self.max_message_size and FIRST_HANDLE <= handle < FIRST_UNWINDOWED:
                if not msg.reply_to:
                    # To a mailbox, and no error comes back: its reader would wait for ever.
                    raise EncodeError(self.too_large_msg, self.max_message_size)
            return self.broker.defer(self._route_home, msg)
        if self.trace:
            self.trace("send", msg)
        ticket = None
        key = dst, handle
        flow = self.flows.get(key)
        if flow is None and handle < FIRST_UNWINDOWED and is_windowed(handle):
            flow = self.flows.setdefault(key, Window(window_size(handle)))
        if flow:
            cost = 0 if msg.reply_to == IS_DEAD else size + MESSAGE_COST
            with flow.lock:
                if size <= LONG_SIZE and flow.take(cost):
                    self._emit_frames(msg, stream, cork)
                elif flow.ended:
                    # It ended after the look into the table: a new one begins.
                    return self.route(msg, wait, cork)
                else:
                    ticket = self._leave_to_broker(msg, wait, flow, cost)
        elif size > LONG_SIZE:
            ticket = self._leave_to_broker(msg, wait)
        else:
            self._emit_frames(msg, stream, cork)
        if wait and (ticket or stream.queued > HIGH_WATER) and not self.broker.on_thread():
            fetch("waiting").wait(self, ticket, stream)
        return ticket

    def _leave_to_broker(self, msg: Message, wait: bool, flow: Any = None, cost: int = 0) -> Ticket:
        """Any thread: leave a message to the broker, which is never interrupted by a signal."""
        own = not self.broker.on_thread()
        if own and len(msg.data) > LONG_SIZE:
            fetch("waiting")
        soon = not flow or flow.credit > 0 and not flow.busy
        # A call without credit waits; its caller does not.
        wait = wait and own and (soon or msg.handle >= FIRST_HANDLE)
        ticket = Ticket(msg, new_lock() if wait else None)
        if flow:
            if flow.queued > self.max_message_size:
                raise Error("context %d: too many calls wait", msg.dst_id)
            flow.push(ticket, cost)
            if soon:
                self.broker.defer(self.drain, flow)
        else:
            self.broker.defer(lambda: self._start(ticket)())
        return ticket

    def _route_home(self, msg: Message) -> None:
        """Broker thread: handle a message that is local, too large or has no route."""
        if len(msg.data) > self.max_message_size:
            why = self.too_large_msg % self.max_message_size
            self.bounce(msg, why)
            if msg.handle >= FIRST_UNWINDOWED:
                # An answer: send the reason to the waiting context instead.
                msg.__dict__.update(data=why.encode(), reply_to=IS_DEAD)
                self.route(msg, False)
        elif msg.dst_id == self.context_id:
            self._local(msg)
        else:
            self.bounce(msg, self.no_route_msg % (msg.dst_id, self.context_id))

    def _emit_frames(self, msg: Message, stream: Stream, cork: bool = False) -> None:
        """Any thread: pass all frames of a message to its stream, in one step."""
        data = msg.data
        size = len(data)
        if size <= FRAME_SIZE:
            return stream.send(msg.header(size, msg.flags), data, cork)
        msg.number = next(self._message_numbers) & 0xFFFFFFFF
        view = memoryview(data)
        frames: list[Any] = []
        for pos in range(0, size, FRAME_SIZE):
            part = view[pos : pos + FRAME_SIZE]
            more = MORE if pos + FRAME_SIZE < size else 0
            frames += msg.header(len(part), msg.flags | more | (CONT if pos else 0)), part
        stream.send(frames[0], frames[1], cork, frames[2:])

    def _start(self, ticket: Ticket, flow: Any = None) -> Any:
        """Broker thread: begin to send; return the function that goes on."""
        msg = ticket.msg
        stream = self.routes.get(msg.dst_id)
        if not stream:
            return lambda: ticket.done(self.respondent_disconnect_msg)
        if len(msg.data) > LONG_SIZE and loaded("waiting"):
            msg.number = next(self._message_numbers) & 0xFFFFFFFF
            return loaded("waiting").LongSend(self, ticket, stream, flow).pump
        self._emit_frames(msg, stream)
        return ticket.done

    def drain(self, flow: Window) -> None:
        """Broker thread: send queued messages as far as credit allows."""
        while 1:
            with flow.lock:
                ticket = flow.pop()
                if not ticket:
                    return
                go_on = self._start(ticket, flow)
            go_on()

    def end_flow(self, key: tuple[int, int], reason: str) -> None:
        flow = self.flows.pop(key, None)
        if flow:
            with flow.lock:
                flow.ended = True
                tickets = [entry for entry, _ in flow.queue]
                flow.queue.clear()
            if flow.busy:
                flow.busy.end(reason)
            for ticket in tickets:
                ticket.done(reason)
                self.bounce(ticket.msg, reason)

    def end_long(self, key: tuple[int, int], reason: str) -> None:
        long_send = self.longs.get(key)
        if long_send:
            long_send.end(reason)

    def bounce(self, msg: Message, reason: str) -> None:
        """
        Broker thread: end the waits of the sender of a message or of a frame of it, for credit and
        for an answer, on behalf of its destination.
        """
        src = msg.src_id
        me = self.context_id
        if msg.is_dead:
            return
        if src != me:
            if is_windowed(msg.handle) and not msg.flags & CONT:
                self.send_credit(src, msg.handle, 0, 0, msg.dst_id)
            if msg.flags & 3:
                self.send_credit(src, 0, msg.number, 0, msg.dst_id)
        if msg.flags & CONT:
            return
        if msg.reply_to:
            dead = self._dead(msg.reply_to, msg.dst_id, reason)
            dead.dst_id = src
            stream = self.routes.get(src)
            if src == me:
                self._local(dead)
            elif stream:
                self._emit_frames(dead, stream)

    def send_credit(
        self,
        dst_id: int,
        handle: int,
        number: int,
        amount: int,
        src_id: int | None = None,
    ) -> None:
        me = self.context_id
        stream = self.routes.get(dst_id)
        if stream:
            msg = Message(dst_id=dst_id, auth_id=me, handle=CREDIT, flags=RAW)
            msg.src_id = me if src_id is None else src_id
            msg.data = TRIPLE.pack(handle, number, amount)
            self._emit_frames(msg, stream)

    def consumed(self, msg: Message) -> None:
        """Any thread: return the credit of `msg`, which was used or dropped, to its sender."""
        cost, msg.cost = msg.cost, 0
        if cost:
            with self._lock:
                meter = self.meters.get((msg.src_id, msg.handle))
                amount = meter and meter.consume(cost)
            if amount:
                self.send_credit(msg.src_id, msg.handle, 0, amount)

    # -- in

    def on_frame(self, msg: Message, stream: Stream) -> None:
        """Broker thread: check the source of a frame, then accept it."""
        if self.routes.admits(msg, stream):
            self.accept(msg, stream)
        else:
            self.drop(msg, "forged source")

    def accept(self, msg: Message, stream: Stream) -> None:
        """Broker thread: forward or deliver a frame whose source was verified."""
        if msg.dst_id != self.context_id:
            self.forward(msg, stream)
        elif msg.flags & 3:
            self._assemble(msg, stream)
        else:
            self._local(msg, stream)

    def forward(self, msg: Message, stream: Stream) -> None:
        """Broker thread: forward a frame. A context without children bounces it instead."""
        self.bounce(msg, self.no_route_msg % (msg.dst_id, self.context_id))

    def drop(self, msg: Message, why: str) -> None:
        self.dropped += 1
        if now() > self._drop_logged + 1:
            self._drop_logged = now()
            self.log(ERROR, "dropped %r: %s (no. %d)", msg, why, self.dropped)

    def _assemble(self, msg: Message, stream: Stream) -> None:
        src = msg.src_id
        key = (src, msg.number)
        # All frames but the last must be full; otherwise their number would be unbounded.
        if msg.flags & MORE and len(msg.data) != FRAME_SIZE:
            return
        if not msg.flags & CONT:
            handler = self._admit(msg, stream)
            if handler:
                self.partials[key] = Partial(handler, msg)
        part = self.partials.get(key)
        if not part:
            # The message was dropped: grant the credit, so that its sender does not wait.
            return self.send_credit(src, 0, msg.number, len(msg.data))
        first = part.first
        size = len(msg.data)
        part.chunks.append(msg.data)
        part.size += size
        part.owed += size
        if sum(p.size for k, p in self.partials.items() if k[0] == src) > self.max_message_size:
            del self.partials[key]
            why = self.too_large_msg % self.max_message_size
            if part.handler.source is None:
                return self.bounce(first, why)
            return self._local(self._dead(first.handle, src, why))
        if not msg.flags & MORE:
            del self.partials[key]
            first.data = b"".join(part.chunks)
            if self._charge(first):
                self._hand_to_handler(part.handler, first)
            else:
                self._refuse(first, "window overrun")
        elif part.owed * 2 >= LONG_WINDOW:
            self.send_credit(src, 0, msg.number, part.owed)
            part.owed = 0

    def _charge(self, msg: Message) -> Any:
        """Charge a message to its window, if it has one; return False on an overrun."""
        if msg.is_dead or not is_windowed(msg.handle):
            return True
        msg.cost = len(msg.data) + MESSAGE_COST
        key = (msg.src_id, msg.handle)
        with self._lock:
            meter = self.meters.get(key)
            if meter is None:
                meter = self.meters[key] = Meter(window_size(msg.handle))
            return meter.receive(msg.cost)

    def _admit(self, msg: Message, stream: Stream | None) -> Any:
        """Return the handler for `msg`; if there is none, bounce or drop the message."""
        msg.router = self
        handle = msg.handle
        handler = self.handlers.get(handle)
        # A message of several frames is charged once it is complete.
        if stream and not msg.flags & MORE and not self._charge(msg):
            why = "window overrun"
        elif handler is None:
            # If the handle is used again, a new flow begins.
            self.meters.pop((msg.src_id, handle), None)
            return self.bounce(msg, self.invalid_handle_msg)
        elif handler.source is not None and handler.source != msg.src_id:
            return self.drop(msg, self.refused_msg)
        elif handler.policy and not handler.policy(msg, stream):
            why = self.refused_msg
        else:
            return handler
        self._refuse(msg, why)

    def _refuse(self, msg: Message, why: str) -> None:
        self.drop(msg, why)
        self.bounce(msg, why)

    def _hand_to_handler(self, handler: Handler, msg: Message) -> None:
        # Another answer, or the respondent's end, may have arrived first.
        if handler.persist or self.handlers.pop(msg.handle, None):
            if self.trace:
                self.trace("receive", msg)
            try:
                handler.fn(msg)
            except Exception as e:
                self.drop(msg, repr(e))
            if not handler.consumer:
                self.consumed(msg)

    def _local(self, msg: Message, stream: Stream | None = None) -> None:
        """Broker thread: deliver a message to this context."""
        handler = self._admit(msg, stream)
        if handler:
            self._hand_to_handler(handler, msg)

    def _on_credit(self, msg: Message) -> None:
        handle, number, amount = TRIPLE.unpack(msg.data)
        key = (msg.src_id, number or handle)
        if number and amount:
            if key in self.longs:
                self.longs[key].give(amount)
        elif number:
            self.end_long(key, self.respondent_disconnect_msg)
        elif not amount:
            self.end_flow(key, self.invalid_handle_msg)
        elif key in self.flows:
            flow = self.flows[key]
            with flow.lock:
                flow.credit += amount
            self.drain(flow)

    # -- ends

    def on_stream_lost(self, stream: Stream) -> None:
        """Broker thread: remove every context that was reached through `stream`."""
        parent = stream is self.routes.parent
        ids = self.routes.remove(stream)
        for context_id in ids:
            self.context_lost(context_id)
        if parent:
            fire(self, "parent_lost")
        fire(self, "routes_lost", ids, stream)

    def _on_del_route(self, msg: Message) -> None:
        """Remove a context that a neighbour reports as gone, if the route leads through it."""
        (context_id,) = NUMBER.unpack(msg.data)
        stream = self.routes.get(context_id)
        if stream is self.routes.get(msg.src_id) and context_id != msg.src_id:
            self._stream_by_id.pop(context_id, None)
            self.context_lost(context_id)
            fire(self, "routes_lost", [context_id], stream)

    def context_lost(self, context_id: int) -> None:
        """Broker thread: end every wait for a lost context."""
        why = self.respondent_disconnect_msg
        for handle, handler in list(self.handlers.items()):
            if handler.source == context_id:
                self._local(self._dead(handle, context_id, why))
        for table, end in (
            (self.flows, self.end_flow),
            (self.longs, self.end_long),
            (self.partials, self.partials.pop),
            (self.meters, self.meters.pop),
        ):
            for key in list(table):
                if key[0] == context_id:
                    end(key, why)
        context = self._contexts.pop(context_id, None)
        if context:
            fire(context, "disconnect")
