"""
What a context needs once it has children: starting them, growing and withdrawing routes, handing
out ids, passing modules on.

Rules
    1. A router becomes a parent by getting a Branch; no object changes its class.
    2. A route is believed only from the stream that the id was given out on.

Threads: Branch runs on the broker; the Router's methods on any.
"""

import os
import sys
from itertools import chain

import mitogen
import mitogen.flow
from mitogen import core, handshake
from mitogen.calls import CallChain
from mitogen.connect import (  # noqa: F401
    Attempt,
    CancelledError,
    ChildStream,
    Connecting,
    Connection,
    LocalOptions,
    Logins,
    Options,
    get_default_remote_name,
    get_sys_executable,
)
from mitogen.core import (
    CALL_SERVICE,
    DEL_ROUTE,
    GET_MODULE,
    LOAD_MODULE,
    PING,
    RAW,
    SHUTDOWN,
    CallError,
    Kwargs,
    Message,
    is_neighbour,
    listen,
    takes_router,
)
from mitogen.handshake import EofError
from mitogen.mailbox import Latch, Receiver

__all__ = [
    "Branch",
    "CallChain",
    "CancelledError",
    "Connection",
    "Context",
    "EofError",
    "Options",
    "Router",
    "get_connection_class",
    "upgrade",
    "upgrade_router",
]

#: Connection methods: the name of the Router's method to the module that has it.
METHODS = {
    "local": "mitogen.connect",
    "ssh": "mitogen.ssh",
    "sudo": "mitogen.sudo",
    "su": "mitogen.su",
    "doas": "mitogen.doas",
    "fork": "mitogen.fork",
    "setns": "mitogen.setns",
    "command": "mitogen.containers",
    "docker": "mitogen.docker",
    "podman": "mitogen.podman",
    "buildah": "mitogen.buildah",
    "kubectl": "mitogen.kubectl",
    "lxc": "mitogen.lxc",
    "lxd": "mitogen.lxd",
    "incus": "mitogen.incus",
    "jail": "mitogen.jail",
}
# Handles of the protocol that only a context with children, or a master, has.
ADD_ROUTE = 103
ALLOCATE_ID = 105
FORWARD_MODULE = 108
DETACHING = 109
GET_RESOURCE = 112
LOAD_RESOURCE = 113
#: Answered once a child's process is reaped.
AWAIT_END = 117

DEBUG = 10
#: Blocks of ids that one child may ask for: what is below it, all in all.
MAX_BLOCKS = 1000
#: Contexts that a stream is known to have sent to; beyond, it is told of every context's end.
MAX_EGRESS = 65536
#: Ids in one block.
BLOCK_SIZE = 1000


def get_connection_class(name):
    """
    Return the Connection class of a connection method.

    :param str name: "ssh", "sudo", ...
    :raises ValueError: there is no such method
    """
    if name not in METHODS:
        raise ValueError(
            "no connection method %r; there are: %s" % (name, ", ".join(sorted(METHODS)))
        )
    return core.import_module(METHODS[name]).Connection


def defer_sync(broker, func):
    """
    Any thread: return what `func()` returned, or raise what it raised, on the broker thread.

    :raises Error: the broker has ended
    """
    if broker.on_thread():
        return func()
    box = []
    lock = core.new_lock()

    def run():
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
    return box[0]


def _shutdown_now(context_id):
    """Return the message that ends a context at once: nobody wants the results of its calls."""
    return Message(dst_id=context_id, handle=SHUTDOWN, data=b"!", flags=RAW)


class IdAllocator:
    """
    Hands out context ids at the root of a tree.

    :param Router router: router of the root
    :param int first: id to begin with
    """

    BLOCK_SIZE = BLOCK_SIZE

    def __init__(self, router, first=1):
        self.router = router
        self.next_id = first
        self.lock = core._thread.allocate_lock()

    def allocate(self):
        """Return a new id."""
        return self._advance(1)[0]

    def allocate_block(self):
        """Return (first, end) of BLOCK_SIZE new ids."""
        return self._advance(self.BLOCK_SIZE)

    def _advance(self, count):
        with self.lock:
            first = self.next_id
            self.next_id += count
            return first, self.next_id

    def request(self, done):
        """Broker thread: call `done((first, end))`."""
        done(self.allocate_block())

    def take(self, done):
        """Broker thread: call `done(context_id)`."""
        done(self.allocate())


class ChildIds:
    """Hands out context ids in a context that has a parent, who is asked for a block at a time."""

    def __init__(self, router):
        self.router = router
        self.free = iter(())

    def allocate(self):
        """Return a new context id; asks the parent where this context has none left."""
        latch = Latch()
        self.router.broker.defer(self.take, latch.put)
        context_id = latch.get(core.IMPORT_TIMEOUT)
        if context_id is None:
            raise core.ChannelError("the parent gave no ids")
        return context_id

    def take(self, done):
        """Broker thread: call `done(context_id)`, now or later; None if the parent gives none."""

        def on_block(block):
            if block is None:
                return done(None)
            self.free = chain(self.free, range(*block))
            self.take(done)

        for context_id in self.free:
            return done(context_id)
        self.request(on_block)

    def request(self, done):
        """Any thread: call `done((first, end))` on the broker once the parent has answered."""

        def on_answer(msg):
            done(None if msg.is_dead else core._HEADER_BLOCK.unpack(msg.data))

        router = self.router
        parent = router.context_by_id(router.node.parent_ids[0])
        handle = router.add_handler(
            on_answer, router.new_handle(False), persist=False, respondent=parent
        )
        msg = Message(dst_id=parent.context_id, handle=ALLOCATE_ID, reply_to=handle, flags=RAW)
        router.route(msg, False)


class RelayedModules:
    """Where a context that has a parent gets modules for its children: its own importer."""

    def __init__(self, router):
        self.router = router
        self.importer = router.importer

    def fetch(self, fullname, done, sent=()):
        """Broker thread: call `done(segment)` once the module's segment is here."""
        entry = self.importer.modules.get(fullname)
        if entry:
            return done(entry[2])
        self.importer.request(fullname, lambda: done(self.importer.modules[fullname][2]))

    def segments(self, fullnames):
        """Return the segments that hold those modules, as far as they are here; each once."""
        found = {}
        for fullname in fullnames:
            entry = self.importer.modules.get(fullname)
            if entry:
                found[id(entry[2])] = entry[2]
        return list(found.values())

    def push(self, context, module_names):
        """Any thread: send on what is here of those modules, ahead of a call."""
        target = context.context_id
        stream = self.router._stream_by_id.get(target)
        if (
            stream is None
            or target == stream.remote_id
            and stream.sent_modules.issuperset(module_names)
        ):
            return
        names = [n for n in module_names + ["mitogen.child"] if n in self.importer.modules]
        branch = self.router.branch
        segments = self.segments([n for n in names if n not in stream.sent_modules])
        branch.send_now(stream, target, segments, names)


class Branch:
    """
    What a router has once it has children. All on the broker thread.

    :param ids: ChildIds, or the master's allocator
    :param modules: RelayedModules, or the master's responder
    """

    unidirectional_msg = (
        "routing mode prevents forward of unidirectional message from context %d to context %d"
    )

    def __init__(self, router, ids, modules, core_source):
        self.router = router
        router.forward = self.forward
        self.ids = ids
        self.modules = modules
        self.preamble = handshake.preamble(core_source)
        self.logins = Logins()
        self.streams = set()
        #: How many blocks of ids each child has asked for.
        self.requests = {}
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

    def _from_parent(self, msg, stream):
        return stream is not None and stream is self.router.routes.parent

    # -- streams and routes

    def forward(self, msg, stream):
        """Pass a frame on: its payload is not looked at."""
        router = self.router
        dst = msg.dst_id
        out = router.routes.get(dst)
        if out is None or out is stream:
            why = router.no_route_msg % (dst, router.node.context_id)
        elif router.unidirectional and self._are_siblings(stream, out):
            why = self.unidirectional_msg % (msg.src_id, dst)
        else:
            if len(stream.egress_ids) < MAX_EGRESS:
                stream.egress_ids.add(dst)
            return out.send(msg._header(len(msg.data), msg.flags), msg.data)
        if not msg.flags & core.CONT:
            router._bounce(msg, why)

    def _are_siblings(self, one, other):
        """Whether neither stream leads to who may talk to all: the parent, or a joined process."""
        trusted = self.router.routes.parent
        return not any(s is trusted or s.auth_id is not None for s in (one, other))

    def add_stream(self, stream):
        """A child is ready, or a process has joined."""
        router = self.router
        self.streams.add(stream)
        router._stream_by_id[stream.remote_id] = stream
        self._tell_parent(ADD_ROUTE, stream.remote_id, stream.name)
        if stream.conn.keepalive_interval:
            self._keep_alive(stream, stream.received, 0)

    def add_connecting(self, connecting):
        """A child's process was started; the broker does not end before it is reaped."""
        stream = connecting.stream
        self.router.broker.holds.add(stream)
        stream.when_gone.append(lambda: self._on_gone(stream))
        if self.router.broker.closing:
            connecting.cancel("the broker ends")

    def _on_gone(self, stream):
        """A child's process is reaped."""
        self.streams.discard(stream)
        self.router.broker.holds.discard(stream)
        self.router.broker.stop()

    def _on_await_end(self, msg):
        """Answer once a child's process is reaped: after its route has gone."""
        (context_id,) = core._NUMBER.unpack(msg.data)
        for stream in self.router.broker.holds:
            if stream.remote_id == context_id:
                return stream.when_gone.append(lambda: msg.reply(None))
        msg.reply(None)

    def _on_detaching(self, msg):
        """A child is about to leave the tree, and to stay; or it has left: see detach.py."""
        stream = self.router._stream_by_id.get(msg.src_id)
        if stream and msg.reply_to:
            stream.detached = True
            msg.reply(None)
        elif stream and stream.detached:
            stream.disconnect("detached")

    def _keep_alive(self, stream, received, unanswered):
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

    def _tell_parent(self, handle, context_id, name=""):
        router = self.router
        if router.node.parent_ids and router.routes.parent:
            self._tell(router.node.parent_ids[0], handle, context_id, name)

    def _tell(self, dst_id, handle, context_id, name=""):
        data = core._NUMBER.pack(context_id) + (name or "").encode()
        self.router.route(Message(dst_id=dst_id, handle=handle, data=data, flags=RAW), False)

    def _on_add_route(self, msg):
        (context_id,) = core._NUMBER.unpack_from(msg.data)
        name = msg.data[4:].decode("utf-8", "replace")
        router = self.router
        stream = router._stream_by_id.get(msg.src_id)
        if stream is None or not stream.allows(context_id) or context_id in router._stream_by_id:
            return router._drop(msg, "context %d is not its to announce" % context_id)
        router._stream_by_id[context_id] = stream
        router.context_by_id(context_id, msg.src_id, name=name)
        self._tell_parent(ADD_ROUTE, context_id, name)

    def _on_routes_lost(self, ids, stream):
        """Tell the parent, and every neighbour that ever sent to one of those contexts."""
        forget = getattr(self.modules, "forget", None)
        for context_id in ids:
            if forget:
                forget(context_id)
            if stream is not self.router.routes.parent:
                self._tell_parent(DEL_ROUTE, context_id)
            for other in list(self.streams):
                if context_id in other.egress_ids or len(other.egress_ids) >= MAX_EGRESS:
                    other.egress_ids.discard(context_id)
                    self._tell(other.remote_id, DEL_ROUTE, context_id)

    def _on_parent_lost(self):
        """What the parent led to is in no table: end every wait for what is not below."""
        router = self.router
        econtext = getattr(router, "econtext", None)
        if not (econtext and econtext.detached):
            # Nobody is left to be polite to: the end runs down the tree at once.
            self.cut_off()
        lost = {handler[3] for handler in list(router._handlers.values())}
        for table in router._flows, router._longs, router._partials, router._meters:
            lost.update(key[0] for key in list(table))
        for context_id in lost - set(router._stream_by_id) - {None}:
            router.context_lost(context_id)

    def _on_shutdown(self):
        """Have the children end by themselves; what does not is cut off (spawn.Process.reap)."""
        for stream in list(self.router.broker.holds):
            if stream.connecting:
                stream.connecting.cancel("the broker ends")
            elif not stream.closed and not stream.detached:
                self.router.route(_shutdown_now(stream.remote_id), False)
        self.router.broker.after(self.router.broker.shutdown_timeout, self.cut_off)

    def cut_off(self):
        """End every stream."""
        for stream in list(self.streams):
            stream.disconnect("shutdown")

    # -- ids

    def _on_allocate_id(self, msg):
        """A neighbour wants a block of ids; or the parent says who has got one further down."""
        router = self.router
        if msg.data:
            target, first, end = core._CREDIT.unpack(msg.data)
            from_parent = router.routes.parent and msg.src_id == router.node.parent_ids[0]
            # Who joined has this context's own authority.
            if from_parent or msg.auth_id == router.context_id:
                self.grant(target, first, end)
            return
        stream = router._stream_by_id.get(msg.src_id)
        asked = self.requests[msg.src_id] = self.requests.get(msg.src_id, 0) + 1
        if asked > MAX_BLOCKS:
            return router._drop(msg, "it has had %d blocks of ids" % MAX_BLOCKS)

        def on_block(block):
            if block is None or stream is None or stream.closed:
                return
            stream.give(*block)
            msg.reply(Message(data=core._HEADER_BLOCK.pack(*block), flags=RAW))

        self.ids.request(on_block)

    def grant(self, target, first, end):
        """Record, on every hop towards `target`, that it may announce these ids."""
        router = self.router
        stream = router._stream_by_id.get(target)
        if stream:
            stream.give(first, end)
        else:
            stream = router.routes.parent
        if stream and stream.remote_id != target:
            data = core._CREDIT.pack(target, first, end)
            router.route(
                Message(dst_id=stream.remote_id, handle=ALLOCATE_ID, data=data, flags=RAW), False
            )

    # -- modules

    def _on_get_module(self, msg):
        fullname = msg.data.decode("utf-8", "replace")
        stream = self.router._stream_by_id.get(msg.src_id)
        if stream:
            sent = stream.sent_modules
            self.modules.fetch(fullname, lambda segment: self._send_segment(stream, segment), sent)

    def _send_segment(self, stream, segment):
        if stream.closed:
            return
        stream.sent_modules.update(entry[0] for entry in segment[0] if entry[1] is not None)
        self.router.route(
            Message(dst_id=stream.remote_id, handle=LOAD_MODULE, data=core.encode(segment)), False
        )

    def send_now(self, stream, target, segments, fullnames):
        """Any thread: send_segments(), done when this returns."""
        defer_sync(
            self.router.broker, lambda: self.send_segments(stream, target, segments, fullnames)
        )

    def send_segments(self, stream, target, segments, fullnames):
        """Queue modules for a context: to the next hop what it has not got, then the order to
        pass them on."""
        for segment in segments:
            self._send_segment(stream, segment)
        if stream.remote_id != target and fullnames:
            data = core.encode([target, fullnames])
            msg = Message(dst_id=stream.remote_id, handle=FORWARD_MODULE, data=data)
            self.router.route(msg, False)

    def _on_forward_module(self, msg):
        target, fullnames = core.decode(msg.data)
        stream = self.router._stream_by_id.get(target)
        if stream:
            missing = [n for n in fullnames if n not in stream.sent_modules]
            segments = self.modules.segments(missing)
            self.send_segments(stream, target, segments, fullnames)


class Context(core.Context):
    """A context as one that calls functions in it sees it."""

    call_chain_class = CallChain

    @property
    def default_call_chain(self):
        """The CallChain that call() and its like use."""
        chain = self.__dict__.get("_chain")
        if chain is None:
            chain = self.__dict__["_chain"] = Context.call_chain_class(self)
        return chain

    def call(self, fn, *args, **kwargs):
        """Call a function there and return its result: see CallChain.call()."""
        # From here on found on the instance: two calls less on the way of each.
        self.__dict__["call"] = call = Context.default_call_chain.fget(self).call
        return call(fn, *args, **kwargs)

    def call_async(self, fn, *args, **kwargs):
        """Call a function there; return a Receiver for its result."""
        return Context.default_call_chain.fget(self).call_async(fn, *args, **kwargs)

    def call_no_reply(self, fn, *args, **kwargs):
        """Call a function there and go on; an error is logged."""
        Context.default_call_chain.fget(self).call_no_reply(fn, *args, **kwargs)

    def submit(self, fn, *args, **kwargs):
        """Call a function there; return a concurrent.futures.Future: see futures.CallFuture."""
        from mitogen import futures

        return futures.submit(Context.default_call_chain.fget(self), fn, args, kwargs)

    def send_async(self, msg, persist=False):
        """Send `msg` there; return a Receiver for the answer."""
        receiver = Receiver(self.router, persist=persist, respondent=self)
        msg.reply_to = receiver.handle
        msg.receiver = receiver
        self.send(msg)
        return receiver

    def send_await(self, msg, deadline=None):
        """Send `msg` there; return the answer's value, waiting `deadline` seconds at most."""
        receiver = self.send_async(msg)
        try:
            return receiver.get(deadline).unpickle()
        finally:
            receiver.close()

    def call_service_async(self, service_name, method_name, **kwargs):
        """Call a method of a service there; return a Receiver for its result."""
        if not isinstance(service_name, str):
            service_name = service_name.name()
        msg = Message.pickled((service_name, method_name, Kwargs(kwargs)), handle=CALL_SERVICE)
        return self.send_async(msg)

    def call_service(self, service_name, method_name, **kwargs):
        """Call a method of a service there; return its result."""
        return self.call_service_async(service_name, method_name, **kwargs).get().unpickle()

    def put(self, path, remote_path, *args, **kwargs):
        """Send a file or a tree there: see mitogen.files.put()."""
        from mitogen import files

        files.put(self, path, remote_path, *args, **kwargs)

    def get(self, remote_path, path, *args, **kwargs):
        """Fetch a file or a tree from there: see mitogen.files.get()."""
        from mitogen import files

        files.get(self, remote_path, path, *args, **kwargs)

    def on_disconnect(self):
        """Tell those that listen for `disconnect`."""
        core.fire(self, "disconnect")

    def shutdown(self, wait=False):
        """
        End the context.

        :param bool wait: return only when it is gone, and its process reaped, as far as this
            context has made it, here or through another
        :returns: where `wait` is False, a Latch that gets an item then
        """
        latch = Latch()
        router = self.router
        if router.broker.alive:
            router.broker.defer(_when_gone, router, self, latch)
            self.send(Message(handle=SHUTDOWN))
        if not router.broker.alive and not latch.size():
            latch.put(None)
        if not wait:
            return latch
        latch.get()


core.ENCODERS[Context] = core.ENCODERS[core.Context]


def _when_gone(router, context, latch):
    def put():
        if not latch.size():
            latch.put(None)

    listen(router.broker, "exit", put)
    stream = router._stream_by_id.get(context.context_id)
    if stream is None:
        put()
    elif stream.remote_id == context.context_id:
        stream.when_gone.append(put)
    elif context.via is not None:
        handle = router.expect(lambda msg: put(), context.via.context_id)
        msg = Message(handle=AWAIT_END, reply_to=handle, flags=RAW)
        msg.data = core._NUMBER.pack(context.context_id)
        context.via.send(msg)
    else:
        listen(context, "disconnect", put)


class Router(core.Router):
    """The facade over a router that has a Branch; its functions serve a child's router too."""

    context_class = Context
    debug = False
    profiling = False
    unidirectional = False

    def push_modules(self, context, fn):
        """Any thread: send `fn`'s module and what that imports, as far as it has not gone there."""
        self.branch.modules.push(context, [fn.__module__])

    def preamble_for(self, connecting):
        """Return all that a child is sent before frames: bytes."""
        conn = connecting.conn
        options = conn.options
        log_level, log_levels = self.log_config()
        ids = [self.node.context_id] + self.node.parent_ids
        config = {
            # What the package `mitogen` has there.
            "module": {
                "__version__": mitogen.__version__,
                "is_master": False,
                "context_id": connecting.context_id,
                "parent_id": ids[0],
                "parent_ids": ids,
            },
            # What the router has there.
            "router": {
                "log_level": DEBUG if options.debug else log_level,
                "unidirectional": bool(options.unidirectional or self.unidirectional),
                "max_message_size": self.max_message_size,
            },
            "name": connecting.stream.name,
            "remote_name": options.remote_name,
            "log_levels": log_levels,
            "merged": not conn.err,
            "environ": {name: os.environ.get(name) for name in conn.environ},
            "keepalive": conn.keepalive_interval * (conn.keepalive_count + 1),
        }
        return self.branch.preamble(core.encode(config))

    def log_config(self):
        """Return (level of mitogen's own records, [[logger, level]]) for a child."""
        return self.log_level, self.econtext.config["log_levels"]

    def myself(self):
        """Return the Context that stands for this process."""
        return self.context_by_id(self.context_id, name="self")

    def allocate_id(self):
        """Return a new context id."""
        return self.branch.ids.allocate()

    def connect(self, method_name, name=None, via=None, **kwargs):
        """
        Start a child and return its Context.

        :param str method_name: "local", "ssh", "sudo", ...
        :param str name: name for people
        :param Context via: start it from there
        :raises StreamError: it could not be started; the text says why, with its last output
        :raises TimeoutError: it was not there within `connect_timeout` seconds
        """
        return self.connecting(method_name, name, via, **kwargs).run()

    def connecting(self, method_name, name=None, via=None, **kwargs):
        """Return what will do as connect() does when it is started: see connect.Connecting."""
        klass = get_connection_class(method_name)
        if via is not None:
            return ProxyConnecting(self, klass, via, method_name, dict(kwargs, name=name))
        if "debug" not in kwargs and getattr(self, "debug", False):
            kwargs["debug"] = True
        conn = klass(klass.options_class(name=name, **kwargs), self)
        return Connecting(self, conn, self.allocate_id())

    def proxy_connect(self, via_context, method_name, name=None, **kwargs):
        """Have `via_context` start a child of its own; return its Context."""
        return self.connect(method_name, name, via_context, **kwargs)

    def connect_many(self, specs, limit=100):
        """Connect to many at once: see many.connect_many()."""
        from mitogen import many

        return many.connect_many(self, specs, limit)

    def from_spec(self, text, **kwargs):
        """Connect hop by hop, as a text such as "ssh:host/sudo:root" says: see specs.connect()."""
        from mitogen import specs

        return specs.connect(self, text, **kwargs)

    def disconnect(self, context):
        """Close the stream to a child of this context; a context further down is told to end."""
        stream = self._stream_by_id.get(context.context_id)
        if stream and stream.remote_id == context.context_id:
            self.broker.defer(stream.disconnect, "Router.disconnect()")
        elif stream:
            self.route(_shutdown_now(context.context_id), False)

    def kill(self, context):
        """Kill a child of this context; a context further down ends itself, whatever runs there."""
        stream = self._stream_by_id.get(context.context_id)
        if stream and stream.remote_id == context.context_id:
            stream.kill()
        self.disconnect(context)

    def get_streams(self):
        """Return the streams to the children."""
        return set(self.branch.streams)

    def stream_by_id(self, dst_id):
        """Return the stream that leads to a context, or None."""
        return self.routes.get(dst_id)

    def _async_route(self, msg, in_stream=None):
        # Old programs call this on the broker thread.
        if in_stream:
            self.on_frame(msg, in_stream)
        else:
            self.route(msg, False)

    def add_route(self, target_id, stream):
        """Broker thread: record that `stream` leads to a context."""
        self._stream_by_id[target_id] = stream

    def del_route(self, target_id):
        """Broker thread: forget a context."""
        stream = self._stream_by_id.pop(target_id, None)
        if stream:
            self.context_lost(target_id)
            core.fire(self, "routes_lost", [target_id], stream)


class ProxyConnecting(Attempt):
    """
    A connection that another context makes.

    :param Router router: of this context
    :param klass: the method's Connection class
    :param Context via: who makes it
    :param str method_name: the method
    :param dict kwargs: its options
    """

    def __init__(self, router, klass, via, method_name, kwargs):
        self.kwargs = {
            k: os.fspath(v) if hasattr(v, "__fspath__") else v for k, v in kwargs.items()
        }
        destination = klass(klass.options_class(**self.kwargs), router).destination()
        if destination is not None:
            destination = (via.context_id, destination)
        Attempt.__init__(self, router, destination)
        self.via = via
        self.method_name = method_name
        self.given_up = False
        #: For many at once: have them made beside each other there.
        self.chain = CallChain(via)

    def _start(self):
        router = self.router
        target = self.via.context_id
        self.context_id = first = router.allocate_id()
        # Before the call: what it announces would not be believed.
        defer_sync(router.broker, lambda: router.branch.grant(target, first, first + 1))
        router.branch.modules.push(self.via, ["mitogen.parent", METHODS[self.method_name]])

    def _begin(self):
        args = (self.context_id, self.method_name, Kwargs(self.kwargs))
        self.handle = self.chain.start(self._on_answer, _proxy_connect, args, {})

    def _on_answer(self, msg):
        if self.given_up:
            self.router.route(_shutdown_now(self.context_id), False)
        self._settle(msg)

    def _finish(self, msg):
        try:
            name = msg.unpickle()
        except CallError as e:
            raise _local_error(e) from e
        name = "%s.%s" % (self.via.name, name)
        context = self.router.context_by_id(self.context_id, name=name)
        context.via = self.via
        return context

    def give_up(self):
        """Any thread: nobody will have the context."""
        self.given_up = True
        self.chain.cancel(self.handle)


def _connection_method(name):
    def method(self, **kwargs):
        return self.connect(name, **kwargs)

    method.__name__ = name
    method.__qualname__ = "Router.%s" % name
    method.__doc__ = "Start a child by the connection method `%s`: see its Options." % name
    return method


for _name in METHODS:
    setattr(Router, _name, _connection_method(_name))


def _local_error(error):
    """Return the exception that `error` was where it was raised, if it was one of ours."""
    module, _, name = (error.type_name or "").rpartition(".")
    if module.partition(".")[0] == "mitogen":
        # Only what is loaded: the far side does not decide what is imported here.
        cls = getattr(sys.modules.get(module), name, None)
        if isinstance(cls, type) and issubclass(cls, core.Error):
            local = cls("%s", error.message)
            local.__cause__ = error
            return local
    return error


@takes_router
def _proxy_connect(context_id, method_name, kwargs, router=None):
    upgrade(router)
    klass = get_connection_class(method_name)
    conn = klass(klass.options_class(**kwargs), router)
    return Connecting(router, conn, context_id).run().name


#: Held by the thread that upgrades a router.
_upgrading = core._thread.allocate_lock()


def upgrade(router):
    """Any thread: give a child's router what it needs to have children of its own; once."""
    with _upgrading:
        if "branch" not in router.__dict__:
            router.context_class = Context
            router.branch = Branch(
                router, ChildIds(router), RelayedModules(router), router.econtext.core_source
            )


@core.takes_econtext
def upgrade_router(econtext):
    """Have `econtext.router` able to connect to others (it is, at first use, anyway)."""
    upgrade(econtext.router)
