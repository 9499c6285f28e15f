"""
Router, the API for connecting contexts, directly or through another context.

Rules
    1. A router gains children by getting a Branch; no object changes its class.

Threads: any, unless a docstring names one.
"""

from __future__ import annotations

import os

from mitogen import core, identity
from mitogen.calls.chain import module_of
from mitogen.core.lazy import LAZY, fetch
from mitogen.methods.registry import METHODS, get_connection_class
from mitogen.tree.connecting import Connecting
from mitogen.tree.contexts import Context, bound
from mitogen.tree.proxy import ProxyConnecting, options_of
from mitogen.tree.routes import shutdown_now, upgrade

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from mitogen.core import Message, Stream
    from mitogen.tree.connecting import Attempt, ChildStream
    from mitogen.tree.many import Result
    from mitogen.tree.routes import Branch
    from mitogen.tree.signatures import Methods

    # The connection methods are added at the end of this module.
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

__all__ = ["Router", "find_lazy"]

LAZY.update(many="tree.many", specs="tree.specs")

DEBUG = 10


class Router(_Base):
    """The API of a router that has a Branch; its functions also serve a child's router."""

    context_class = Context
    debug = False
    profiling = False
    unidirectional = False

    def push_modules(self, context: core.Context, fn: Any) -> None:
        """Any thread: send the module of `fn` and its imports, except those already sent there."""
        self.branch.modules.push(context, [module_of(fn)])

    def preamble_for(self, connecting: Any) -> bytes:
        """Return the bytes sent to a child before any frames."""
        conn = connecting.conn
        options = conn.options
        log_level, log_levels = self.log_config()
        ids = [self.node.context_id] + self.node.parent_ids
        config = {
            # Attributes of the package `mitogen` in the child.
            "module": identity.attributes(connecting.context_id, ids),
            # Attributes of the child's router.
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
        """Return a child's log levels: (level of mitogen's own records, [[logger, level]])."""
        return self.log_level, self.econtext.config["log_levels"]

    def myself(self) -> Context:
        """Return the Context that represents this process."""
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
        :param str name: name for display
        :param Context via: context to start it from
        :raises StreamError: the child could not be started; the text has the reason and its last
            output
        :raises TimeoutError: the child was not ready within `connect_timeout` seconds
        """
        return self.connecting(method_name, name, via, **kwargs).run()

    def connecting(
        self,
        method_name: str,
        name: str | None = None,
        via: Context | None = None,
        **kwargs: Any,
    ) -> Attempt:
        """Return an attempt, not yet started, that connects as connect() does; see Attempt."""
        klass = get_connection_class(method_name)
        if via is not None:
            return ProxyConnecting(self, klass, via, method_name, dict(kwargs, name=name))
        if "debug" not in kwargs and getattr(self, "debug", False):
            kwargs["debug"] = True
        conn = klass(options_of(klass, method_name, dict(kwargs, name=name)), self)
        return Connecting(self, conn, self.allocate_id())

    def connect_as(self, context_id: int, method_name: str, kwargs: dict[str, Any]) -> Context:
        """
        Start a child with an id chosen by another context; return its Context.

        :param int context_id: id, granted to this context by the one that chose it
        :param str method_name: name of the connection method
        :param dict kwargs: options of the method, already checked
        """
        klass = get_connection_class(method_name)
        return Connecting(self, klass(klass.options_class(**kwargs), self), context_id).run()

    def proxy_connect(
        self,
        via_context: Context,
        method_name: str,
        name: str | None = None,
        **kwargs: Any,
    ) -> Context:
        """Start a child of `via_context`; return its Context."""
        return self.connect(method_name, name, via_context, **kwargs)

    def connect_many(self, specs: Iterable[Any], limit: int = 100) -> Iterator[Result]:
        """Connect to many contexts concurrently: see many.connect_many()."""
        results: Iterator[Result] = fetch("many").connect_many(self, specs, limit)
        return results

    def from_spec(self, text: str, **kwargs: Any) -> Context:
        """Connect hop by hop along a spec such as "ssh:host/sudo:root": see specs.connect()."""
        context: Context = fetch("specs").connect(self, text, **kwargs)
        return context

    def disconnect(self, context: core.Context) -> None:
        """Close the stream to a child of this context; shut down a context further down."""
        stream = self.routes.streams.get(context.context_id)
        if stream and stream.remote_id == context.context_id:
            self.broker.defer(stream.disconnect, "Router.disconnect()")
        elif stream:
            self.route(shutdown_now(context.context_id), False)

    def kill(self, context: core.Context) -> None:
        """Kill a child of this context; a context further down ends at once, even if busy."""
        stream: Any = self.routes.streams.get(context.context_id)
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
        # Called by old programs on the broker thread.
        if in_stream:
            self.on_frame(msg, in_stream)
        else:
            self.route(msg, False)

    def add_route(self, target_id: int, stream: Stream) -> None:
        """Broker thread: record that `stream` leads to a context."""
        self.routes.streams[target_id] = stream

    def del_route(self, target_id: int) -> None:
        """Broker thread: remove the route to a context."""
        stream = self.routes.streams.pop(target_id, None)
        if stream:
            self.context_lost(target_id)
            core.fire(self, "routes_lost", [target_id], stream)


def _connection_method(name: str) -> Callable[..., Context]:
    def method(self: Router, **kwargs: Any) -> Context:
        return self.connect(name, **kwargs)

    method.__name__ = name
    method.__qualname__ = "Router.%s" % name
    method.__doc__ = "Start a child by the connection method `%s`: see its Options." % name
    return method


for _name in METHODS:
    setattr(Router, _name, _connection_method(_name))


def find_lazy(router: Any, name: str) -> Any:
    """Return an attribute that a child's router does not define; upgrade the router first."""
    if not router.econtext:
        raise AttributeError(name)
    upgrade(router)
    return bound(Router, router, name)
