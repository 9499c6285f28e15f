"""
What a program does with a context: connect it, call functions in it, end it; here, or by way of
another context. What goes on between a context and its children is in branch.py.

Rules
    1. A router becomes a parent by getting a Branch; no object changes its class.

Threads: any.
"""

from __future__ import annotations

import _thread
import os
import sys

import mitogen
import mitogen.flow
from mitogen import core
from mitogen.bootstrap.handshake import EofError
from mitogen.branch import (
    ADD_ROUTE as ADD_ROUTE,
    ALLOCATE_ID as ALLOCATE_ID,
    AWAIT_END as AWAIT_END,
    BLOCK_SIZE as BLOCK_SIZE,
    DETACHING as DETACHING,
    FORWARD_MODULE as FORWARD_MODULE,
    GET_RESOURCE as GET_RESOURCE,
    LOAD_RESOURCE as LOAD_RESOURCE,
    Branch as Branch,
    ChildIds as ChildIds,
    IdAllocator as IdAllocator,
    RelayedModules as RelayedModules,
    defer_sync as defer_sync,
    shutdown_now as shutdown_now,
)
from mitogen.calls import CallChain
from mitogen.compat.lazy import find_elsewhere
from mitogen.connect import (
    Attempt as Attempt,
    CancelledError as CancelledError,
    ChildStream as ChildStream,
    Connecting as Connecting,
    Connection as Connection,
    LocalOptions as LocalOptions,
    Logins as Logins,
    Options as Options,
    get_default_remote_name as get_default_remote_name,
    get_sys_executable as get_sys_executable,
)
from mitogen.core import (
    CALL_SERVICE,
    RAW,
    SHUTDOWN,
    CallError,
    Kwargs,
    Message,
    listen,
    takes_router,
)
from mitogen.mailbox import Latch, Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from subprocess import CompletedProcess
    from typing import (
        Any,
        Literal,
        Union,
        overload,
    )

    # What find_elsewhere() finds.
    from mitogen.compat.parent_names import *  # noqa: F403
    from mitogen.core import ExternalContext, P, R, Stream
    from mitogen.programs.client import Args, Popen, Word
    from mitogen.tree.many import Result
    from mitogen.tree.signatures import Methods

    Path = Union[str, "os.PathLike[str]"]

    # Its connection methods are made at the end of this module.
    class _Base(core.Router, Methods["Context", "Context"]):
        branch: Branch
        econtext: Any
        importer: Any
        log_level: int

        def context_by_id(
            self,
            context_id: int,
            via_id: int | None = None,
            create: bool = True,
            name: str | None = None,
        ) -> Any: ...
else:
    _Base = core.Router


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

# Names of old programs, which cost the others nothing.
find_elsewhere(__name__, "mitogen.compat.parent_names")

DEBUG = 10

#: Connection methods: the name of the Router's method to the module that has it.
METHODS = {
    "local": "mitogen.connect",
    "ssh": "mitogen.ssh",
    "sudo": "mitogen.sudo",
    "su": "mitogen.su",
    "doas": "mitogen.doas",
    "fork": "mitogen.fork",
    "setns": "mitogen.setns",
    "command": "mitogen.methods.containers",
    "docker": "mitogen.docker",
    "podman": "mitogen.podman",
    "buildah": "mitogen.buildah",
    "kubectl": "mitogen.kubectl",
    "lxc": "mitogen.lxc",
    "lxd": "mitogen.lxd",
    "incus": "mitogen.incus",
    "jail": "mitogen.jail",
}


def get_connection_class(name: str) -> type[Connection]:
    """
    Return the Connection class of a connection method.

    :param str name: "ssh", "sudo", ...
    :raises ValueError: there is no such method
    """
    if name not in METHODS:
        raise ValueError(
            "no connection method %r; there are: %s" % (name, ", ".join(sorted(METHODS)))
        )
    found: type[Connection] = core.import_module(METHODS[name]).Connection
    return found


class Context(core.Context):
    """A context as one that calls functions in it sees it."""

    call_chain_class = CallChain

    if TYPE_CHECKING:
        # Or every misspelt name would be accepted, as in core.Context.
        __getattr__: Any

    @property
    def default_call_chain(self) -> CallChain:
        """The CallChain that call() and its like use."""
        chain = self.__dict__.get("_chain")
        if chain is None:
            chain = self.__dict__["_chain"] = Context.call_chain_class(self)
        return chain

    def call(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function there and return its result: see CallChain.call()."""
        # From here on found on the instance: two calls less on the way of each.
        self.__dict__["call"] = call = _chain_of(self).call
        return call(fn, *args, **kwargs)

    def call_async(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Receiver:
        """Call a function there; return a Receiver for its result."""
        return _chain_of(self).call_async(fn, *args, **kwargs)

    def call_no_reply(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function there and go on; an error is logged."""
        _chain_of(self).call_no_reply(fn, *args, **kwargs)

    def submit(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call a function there; return a concurrent.futures.Future: see futures.CallFuture."""
        from mitogen import futures

        return futures.submit(_chain_of(self), fn, args, kwargs)

    def send_async(self, msg: Message, persist: bool = False) -> Receiver:
        """Send `msg` there; return a Receiver for the answer."""
        receiver = Receiver(self.router, persist=persist, respondent=self)
        msg.reply_to = receiver.handle
        msg.receiver = receiver
        self.send(msg)
        return receiver

    def send_await(self, msg: Message, deadline: float | None = None) -> Any:
        """Send `msg` there; return the answer's value, waiting `deadline` seconds at most."""
        receiver = self.send_async(msg)
        try:
            return receiver.get(deadline).unpickle()
        finally:
            receiver.close()

    def call_service_async(self, service_name: Any, method_name: str, **kwargs: Any) -> Receiver:
        """Call a method of a service there; return a Receiver for its result."""
        if not isinstance(service_name, str):
            service_name = service_name.name()
        msg = Message.pickled((service_name, method_name, Kwargs(kwargs)), handle=CALL_SERVICE)
        return self.send_async(msg)

    def call_service(self, service_name: Any, method_name: str, **kwargs: Any) -> Any:
        """Call a method of a service there; return its result."""
        return self.call_service_async(service_name, method_name, **kwargs).get().unpickle()

    def put(self, path: Path, remote_path: Path, *args: Any, **kwargs: Any) -> None:
        """Send a file or a tree there: see mitogen.files.put()."""
        from mitogen.transfer import put_get

        put_get.put(self, path, remote_path, *args, **kwargs)

    def get(self, remote_path: Path, path: Path, *args: Any, **kwargs: Any) -> None:
        """Fetch a file or a tree from there: see mitogen.files.get()."""
        from mitogen.transfer import put_get

        put_get.get(self, remote_path, path, *args, **kwargs)

    def popen(self, args: Args, **options: Any) -> Popen:
        """Start a program there: see mitogen.process.Popen."""
        from mitogen.programs import client

        return client.Popen(self, args, **options)

    def run(self, args: Word | Sequence[Word], **options: Any) -> CompletedProcess[Any]:
        """Run a program there and return what it printed: see mitogen.process.run()."""
        from mitogen.programs import client

        return client.run(self, args, **options)

    def shell(self, argv: None | str | Sequence[Word] = None, **options: Any) -> int:
        """Put this process' terminal in front of a shell there: see mitogen.terminal.shell()."""
        from mitogen.terminal import interactive

        return interactive.shell(self, argv, **options)

    def on_disconnect(self) -> None:
        """Tell those that listen for `disconnect`."""
        core.fire(self, "disconnect")

    if TYPE_CHECKING:

        @overload
        def shutdown(self, wait: Literal[False] = False) -> Latch: ...
        @overload
        def shutdown(self, wait: Literal[True]) -> None: ...

    def shutdown(self, wait: bool = False) -> Any:
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
#: Returns what `default_call_chain` is, for a Context of core.py too.
_chain_of: Callable[[core.Context], CallChain] = Context.default_call_chain.fget  # type: ignore[attr-defined]  # a property, seen as a function


def _when_gone(router: Any, context: Context, latch: Latch) -> None:
    def put() -> None:
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


class Router(_Base):
    """The facade over a router that has a Branch; its functions serve a child's router too."""

    context_class = Context
    debug = False
    profiling = False
    unidirectional = False

    def push_modules(self, context: core.Context, fn: Any) -> None:
        """Any thread: send `fn`'s module and what that imports, as far as it has not gone there."""
        self.branch.modules.push(context, [fn.__module__])

    def preamble_for(self, connecting: Any) -> bytes:
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

    def log_config(self) -> tuple[int, list[Any]]:
        """Return (level of mitogen's own records, [[logger, level]]) for a child."""
        return self.log_level, self.econtext.config["log_levels"]

    def myself(self) -> Context:
        """Return the Context that stands for this process."""
        me: Context = self.context_by_id(self.context_id, name="self")
        return me

    def allocate_id(self) -> int:
        """Return a new context id."""
        return int(self.branch.ids.allocate())

    def connect(
        self,
        method_name: str,
        name: str | None = None,
        via: Context | None = None,
        **kwargs: Any,
    ) -> Context:
        """
        Start a child and return its Context.

        :param str method_name: "local", "ssh", "sudo", ...
        :param str name: name for people
        :param Context via: start it from there
        :raises StreamError: it could not be started; the text says why, with its last output
        :raises TimeoutError: it was not there within `connect_timeout` seconds
        """
        return self.connecting(method_name, name, via, **kwargs).run()

    def connecting(
        self,
        method_name: str,
        name: str | None = None,
        via: Context | None = None,
        **kwargs: Any,
    ) -> Attempt:
        """Return what will do as connect() does when it is started: see connect.Connecting."""
        klass = get_connection_class(method_name)
        if via is not None:
            return ProxyConnecting(self, klass, via, method_name, dict(kwargs, name=name))
        if "debug" not in kwargs and getattr(self, "debug", False):
            kwargs["debug"] = True
        conn = klass(_options(klass, method_name, dict(kwargs, name=name)), self)
        return Connecting(self, conn, self.allocate_id())

    def proxy_connect(
        self,
        via_context: Context,
        method_name: str,
        name: str | None = None,
        **kwargs: Any,
    ) -> Context:
        """Have `via_context` start a child of its own; return its Context."""
        return self.connect(method_name, name, via_context, **kwargs)

    def connect_many(self, specs: Iterable[Any], limit: int = 100) -> Iterator[Result]:
        """Connect to many at once: see many.connect_many()."""
        from mitogen.tree import many

        return many.connect_many(self, specs, limit)

    def from_spec(self, text: str, **kwargs: Any) -> Context:
        """Connect hop by hop, as a text such as "ssh:host/sudo:root" says: see specs.connect()."""
        from mitogen.tree import specs

        return specs.connect(self, text, **kwargs)

    def disconnect(self, context: core.Context) -> None:
        """Close the stream to a child of this context; a context further down is told to end."""
        stream = self._stream_by_id.get(context.context_id)
        if stream and stream.remote_id == context.context_id:
            self.broker.defer(stream.disconnect, "Router.disconnect()")
        elif stream:
            self.route(shutdown_now(context.context_id), False)

    def kill(self, context: core.Context) -> None:
        """Kill a child of this context; a context further down ends itself, whatever runs there."""
        stream: Any = self._stream_by_id.get(context.context_id)
        if stream and stream.remote_id == context.context_id:
            stream.kill()
        self.disconnect(context)

    def upgrade(self, importer: Any = None, parent: Any = None) -> None:
        """Do nothing (kept for old programs): a router is upgraded when it first connects."""

    def get_streams(self) -> set[ChildStream]:
        """Return the streams to the children."""
        return set(self.branch.streams)

    def stream_by_id(self, dst_id: int) -> Stream | None:
        """Return the stream that leads to a context, or None."""
        return self.routes.get(dst_id)

    def _async_route(self, msg: Message, in_stream: Stream | None = None) -> None:
        # Old programs call this on the broker thread.
        if in_stream:
            self.on_frame(msg, in_stream)
        else:
            self.route(msg, False)

    def add_route(self, target_id: int, stream: Stream) -> None:
        """Broker thread: record that `stream` leads to a context."""
        self._stream_by_id[target_id] = stream

    def del_route(self, target_id: int) -> None:
        """Broker thread: forget a context."""
        stream = self._stream_by_id.pop(target_id, None)
        if stream:
            self.context_lost(target_id)
            core.fire(self, "routes_lost", [target_id], stream)


def _options(klass: Any, method_name: str, kwargs: dict[str, Any]) -> Any:
    try:
        return klass.options_class(**kwargs)
    except TypeError as e:
        text = str(e).rpartition("__init__() ")[2]
        if text == str(e):
            raise
        # Python names a class that the caller has never heard of.
        raise TypeError("%s: %s" % (method_name, text)) from None


class ProxyConnecting(Attempt):
    """
    A connection that another context makes.

    :param Router router: of this context
    :param klass: the method's Connection class
    :param Context via: who makes it
    :param str method_name: the method
    :param dict kwargs: its options
    """

    def __init__(
        self,
        router: Router,
        klass: type[Connection],
        via: Context,
        method_name: str,
        kwargs: dict[str, Any],
    ) -> None:
        self.kwargs = {
            k: os.fspath(v) if hasattr(v, "__fspath__") else v for k, v in kwargs.items()
        }
        options = _options(klass, method_name, self.kwargs)
        destination = klass(options, router).destination()
        if destination is not None:
            destination = (via.context_id, destination)
        Attempt.__init__(self, router, destination)
        self.via = via
        self.method_name = method_name
        self.given_up = False
        #: For many at once: have them made beside each other there.
        self.chain = CallChain(via)

    def _start(self) -> None:
        router = self.router
        target = self.via.context_id
        self.context_id = first = router.allocate_id()
        # Before the call: what it announces would not be believed.
        defer_sync(router.broker, lambda: router.branch.grant(target, first, first + 1))
        router.branch.modules.push(self.via, ["mitogen.parent", METHODS[self.method_name]])

    def _begin(self) -> None:
        args = (self.context_id, self.method_name, Kwargs(self.kwargs))
        self.handle = self.chain.start(self._on_answer, _proxy_connect, args, {})

    def _on_answer(self, msg: Message) -> None:
        if self.given_up:
            self.router.route(shutdown_now(self.context_id), False)
        self._settle(msg)

    def _finish(self, msg: Message) -> Context:
        try:
            name = msg.unpickle()
        except CallError as e:
            raise _local_error(e) from e
        context: Context = self.router.context_by_id(self.context_id)
        context.name = "%s.%s" % (self.via.name, name)
        context.via = self.via
        return context

    def give_up(self) -> None:
        """Any thread: nobody will have the context."""
        self.given_up = True
        self.chain.cancel(self.handle)


def _connection_method(name: str) -> Callable[..., Context]:
    def method(self: Router, **kwargs: Any) -> Context:
        return self.connect(name, **kwargs)

    method.__name__ = name
    method.__qualname__ = "Router.%s" % name
    method.__doc__ = "Start a child by the connection method `%s`: see its Options." % name
    return method


for _name in METHODS:
    setattr(Router, _name, _connection_method(_name))


def _local_error(error: CallError) -> BaseException:
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
def _proxy_connect(
    context_id: int, method_name: str, kwargs: dict[str, Any], router: Any = None
) -> str:
    upgrade(router)
    klass = get_connection_class(method_name)
    conn = klass(klass.options_class(**kwargs), router)
    return str(Connecting(router, conn, context_id).run().name)


#: Held by the thread that upgrades a router.
_upgrading = _thread.allocate_lock()


def upgrade(router: Any) -> None:
    """Any thread: give a child's router what it needs to have children of its own; once."""
    with _upgrading:
        if "branch" not in router.__dict__:
            router.context_class = Context
            router.branch = Branch(
                router, ChildIds(router), RelayedModules(router), router.econtext.core_source
            )


@core.takes_econtext
def upgrade_router(econtext: ExternalContext) -> None:
    """Have `econtext.router` able to connect to others (it is, at first use, anyway)."""
    upgrade(econtext.router)
