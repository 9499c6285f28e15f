"""
Context, the API of a context: call functions there, send messages, run programs, transfer files,
shut it down.

Threads: any.
"""

from __future__ import annotations

from mitogen import core
from mitogen.calls.chain import CallChain
from mitogen.core import CALL_SERVICE, RAW, SHUTDOWN, Kwargs, Message, listen
from mitogen.core.lazy import LAZY, fetch
from mitogen.core.mailbox import Latch, Receiver
from mitogen.tree.message_handles import AWAIT_END

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from subprocess import CompletedProcess
    from typing import Any, Literal, Union, overload

    from mitogen.core import P, R
    from mitogen.programs.client import Args, Popen, Word

    Path = Union[str, "os.PathLike[str]"]

__all__ = ["Context", "find_lazy"]

WARNING = 30
#: Seconds after which a context that is to end is killed. It ends by itself within shutdown_timeout
#: and the seconds that core/child.py grants its calls and its last output.
SHUTDOWN_TIME = 15.0

LAZY.update(
    files="transfer.put_get",
    futures="futures",
    programs="programs.client",
    terminal="terminal.interactive",
)


class Context(core.Context):
    """A context of the tree, with the methods that programs use."""

    __module__ = "mitogen.parent"

    call_chain_class = CallChain

    if TYPE_CHECKING:
        # Hides core.Context's, which would accept every misspelled name.
        __getattr__: Any

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the parts that pickle and copy keep: without the router, as in old releases."""
        return Context, (None, self.context_id, self.name)

    @property
    def default_call_chain(self) -> CallChain:
        """The CallChain used by call() and related methods."""
        chain = self.__dict__.get("_chain")
        if chain is None:
            chain = self.__dict__["_chain"] = Context.call_chain_class(self)
        return chain

    def call(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function there and return its result: see CallChain.call()."""
        # Cached on the instance: saves two function calls per call.
        self.__dict__["call"] = call = _chain_of(self).call
        return call(fn, *args, **kwargs)

    def call_async(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Receiver:
        """Call a function there; return a Receiver for its result."""
        return _chain_of(self).call_async(fn, *args, **kwargs)

    def call_no_reply(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function there without waiting for a result; an error is logged."""
        _chain_of(self).call_no_reply(fn, *args, **kwargs)

    def submit(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call a function there; return a concurrent.futures.Future: see futures.CallFuture."""
        future: Future[R] = fetch("futures").submit(_chain_of(self), fn, args, kwargs)
        return future

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
        fetch("files").put(self, path, remote_path, *args, **kwargs)

    def get(self, remote_path: Path, path: Path, *args: Any, **kwargs: Any) -> None:
        """Fetch a file or a tree from there: see mitogen.files.get()."""
        fetch("files").get(self, remote_path, path, *args, **kwargs)

    def popen(self, args: Args, **options: Any) -> Popen:
        """Start a program there: see mitogen.process.Popen."""
        popen: Popen = fetch("programs").Popen(self, args, **options)
        return popen

    def run(self, args: Word | Sequence[Word], **options: Any) -> CompletedProcess[Any]:
        """Run a program there and return its output and status: see mitogen.process.run()."""
        done: CompletedProcess[Any] = fetch("programs").run(self, args, **options)
        return done

    def shell(self, argv: None | str | Sequence[Word] = None, **options: Any) -> int:
        """Connect this process's terminal to a shell there: see mitogen.terminal.shell()."""
        status: int = fetch("terminal").shell(self, argv, **options)
        return status

    def on_disconnect(self) -> None:
        """Call the callbacks of the event `disconnect`."""
        core.fire(self, "disconnect")

    if TYPE_CHECKING:

        @overload
        def shutdown(self, wait: Literal[False] = False) -> Latch: ...
        @overload
        def shutdown(self, wait: Literal[True]) -> None: ...

    def shutdown(self, wait: bool = False) -> Any:
        """
        End the context.

        :param bool wait: return only once it is gone and, if this context started it directly or
            through another one, its process is reaped; a context that has not ended after
            15 seconds is killed
        :returns: if `wait` is False, a Latch that gets an item at that point
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


def find_lazy(context: Any, name: str) -> Any:
    """Return an attribute that core.Context does not define itself: see core/lazy.py."""
    return bound(Context, context, name)


def bound(cls: type, obj: Any, name: str) -> Any:
    """Return the attribute `name` of `cls` as one of `obj`, which is no instance of it."""
    found = getattr(cls, name)
    return found.__get__(obj) if hasattr(found, "__get__") else found


#: Getter of `default_call_chain`, which also accepts a core.Context.
_chain_of: Callable[[core.Context], CallChain] = Context.default_call_chain.fget  # type: ignore[attr-defined]  # a property, seen as a function


def _when_gone(router: Any, context: Context, latch: Latch) -> None:
    def put() -> None:
        deadline.clear()
        if not latch.size():
            latch.put(None)

    def late() -> None:
        router.log(WARNING, "%s: did not end within %d seconds", context, SHUTDOWN_TIME)
        router.kill(context)
        # A child is gone once its process is reaped; others can only be cut off.
        if not (stream and stream.remote_id == context.context_id):
            put()

    deadline = router.broker.after(SHUTDOWN_TIME, late)
    listen(router.broker, "exit", put)
    stream = router.routes.streams.get(context.context_id)
    if stream is None:
        put()
    elif stream.remote_id == context.context_id:
        stream.when_gone.append(put)
    elif context.via is not None:
        handle = router.expect(lambda msg: put(), context.via.context_id)
        msg = Message(handle=AWAIT_END, reply_to=handle, flags=RAW)
        msg.data = core.NUMBER.pack(context.context_id)
        context.via.send(msg)
    else:
        listen(context, "disconnect", put)
