"""
Connections made by another context, for `via=`: the requesting end and the connecting end.

Threads: as for connecting.Attempt.
"""

from __future__ import annotations

import os
import sys

from mitogen import core
from mitogen.calls.chain import CallChain
from mitogen.core import CallError, Kwargs, Message, takes_router
from mitogen.limits.display import shown_name
from mitogen.methods.registry import METHODS
from mitogen.tree.connecting import Attempt
from mitogen.tree.routes import defer_sync, shutdown_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mitogen.methods.connection import Connection
    from mitogen.tree.contexts import Context
    from mitogen.tree.router import Router

__all__ = ["ProxyConnecting", "options_of"]

#: Seconds for the other context to begin and to answer, besides `connect_timeout`, which it applies
#: itself: its error has the program's last output.
ANSWER_TIME = 3.0


def options_of(klass: Any, method_name: str, kwargs: dict[str, Any]) -> Any:
    try:
        return klass.options_class(**kwargs)
    except TypeError as e:
        text = str(e).rpartition("__init__() ")[2]
        if text == str(e):
            raise
        # Python's text names a class that the caller does not know.
        raise TypeError("%s: %s" % (method_name, text)) from None


class ProxyConnecting(Attempt):
    """
    A connection attempt that another context makes.

    :param Router router: router of this context
    :param klass: Connection class of the method
    :param Context via: context that makes the connection
    :param str method_name: name of the connection method
    :param dict kwargs: options of the method
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
        options = options_of(klass, method_name, self.kwargs)
        destination = klass(options, router).destination()
        if destination is not None:
            destination = (via.context_id, destination)
        Attempt.__init__(self, router, destination)
        self.via = via
        self.method_name = method_name
        self.given_up = False
        self.handle: int | None = None
        self.timeout = options.connect_timeout + ANSWER_TIME
        self._deadline: Any = None
        #: Chain of the call; connect_many() sets one with a worker, for concurrent connections.
        self.chain = CallChain(via)

    def _start(self) -> None:
        router = self.router
        target = self.via.context_id
        self.context_id = first = router.allocate_id()
        # Granted before the call; otherwise the new route would be rejected.
        defer_sync(router.broker, lambda: self._prepare(target, first))
        router.branch.modules.push(self.via, ["mitogen.tree.router", METHODS[self.method_name]])

    def _prepare(self, target: int, first: int) -> None:
        self.router.branch.grant(target, first, first + 1)
        self._deadline = self.broker.after(self.timeout, self._on_deadline)

    def _on_deadline(self) -> None:
        """Broker thread: fail. The other context's own deadline starts with its own attempt."""
        if not self._unsettled:
            return
        text = "Failed to setup connection after %.2f seconds: no answer from %s, which may be busy"
        self._settle(core.TimeoutError(text, self.timeout, self.via))
        self.give_up()

    def _begin(self) -> None:
        args = (self.context_id, self.method_name, Kwargs(self.kwargs))
        self.handle = self.chain.start(self._on_answer, _proxy_connect, args, {})
        # They may hold passwords, which must not be kept.
        self.kwargs = {}

    def _on_answer(self, msg: Message) -> None:
        self._deadline.clear()
        if self.given_up:
            # It may have been connected all the same.
            self.router.route(shutdown_now(self.context_id), False)
        self._settle(msg)

    def _finish(self, msg: Message) -> Context:
        try:
            name = msg.unpickle()
        except CallError as e:
            self.failed = True
            raise _local_error(e) from e
        context: Context = self.router.context_by_id(self.context_id)
        context.name = shown_name("%s.%s" % (self.via.name, name))
        context.via = self.via
        return context

    def give_up(self) -> None:
        """Any thread: abandon the attempt; its context is no longer wanted."""
        self.given_up = True
        if self.handle is not None:
            self.chain.cancel(self.handle)
            if not self._unsettled:
                self.router.route(shutdown_now(self.context_id), False)


def _local_error(error: CallError) -> BaseException:
    """Convert `error` to the original type of exception, if that is one of this library's."""
    module, _, name = (error.type_name or "").rpartition(".")
    if module.partition(".")[0] == "mitogen":
        # Only loaded modules: the far side must not trigger imports here.
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
    return str(router.connect_as(context_id, method_name, kwargs).name)
