"""
Calls to other contexts: naming the function, sending the call, waiting for its result.

Threads: a CallChain is for one thread at a time; its answers arrive on the broker thread.
"""

from __future__ import annotations

import sys

from mitogen import core
from mitogen.calls import errors  # noqa: F401 (sent along: answers may need it)
from mitogen.core.mailbox import Queue, Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mitogen.core import Message, P, R, Router


__all__ = ["CallChain", "module_of"]

#: Seconds that a child has to end a cancelled call before kill=True ends the child.
CANCEL_GRACE = 5.0


#: Maximum number of functions whose encoded names a CallChain caches.
KEPT_HEADS = 1000
#: CBOR of an empty list and an empty map.
_NO_ARGUMENTS = b"\x80\xa0"
_NO_KEYWORDS = core.encode({})


class _Answer:
    """A one-shot reply slot: a lock and a message."""

    __slots__ = ("lock", "msg")

    def __init__(self) -> None:
        self.lock = core.new_lock()
        self.msg: Any = None

    def __call__(self, msg: Message) -> None:
        self.msg = msg
        self.lock.release()


class _AnswerReceiver(Receiver):
    """A Receiver for the one answer of a call."""

    answered = False

    def __init__(self, router: Router, context: Any) -> None:
        self.router = router
        self.context = context
        self._latch = Queue()
        self.handle = router.expect(self.on_message, context.context_id)

    def on_message(self, msg: Message) -> None:
        self.answered = True
        outstanding = self.context.__dict__.get("_outstanding")
        if outstanding:
            outstanding.discard(self.handle)
        Receiver.on_message(self, msg)


class CallChain:
    """
    A sequence of calls to one context.

    :param Context context: context to call functions in
    :param bool pipelined: after a failed call, all later calls fail with its error, until
        reset(). So many calls can be sent without waiting for each
    :param float timeout: seconds after which a call is cancelled; None for never
    :param bool kill: end the context if it does not react to a cancel within CANCEL_GRACE
    :param bool worker: run this chain's calls there on a thread of their own, in order,
        concurrently with the calls of the main thread and of other chains
    """

    __module__ = "mitogen.parent"

    lambda_msg = "lambda functions cannot be called in another context: it has no name for them"
    closures_msg = (
        "%s cannot be called in another context: it is defined inside a function; "
        "define it at the top level of a module"
    )
    method_msg = (
        "%r is a method of an instance, which another context does not have; "
        "call a function or a class method"
    )

    def __init__(
        self,
        context: Any,
        pipelined: bool = False,
        timeout: float | None = None,
        kill: bool = False,
        worker: bool = False,
    ) -> None:
        self.context = context
        self.timeout = timeout
        self.kill = kill
        self.worker = worker
        self.chain_id = self.make_chain_id() if pipelined else None
        #: Start of a call's payload: head of a list of three, or of four with the worker's name.
        self._opening = b"\x84" + core.encode(self.make_chain_id()) if worker else b"\x83"
        #: Function to the encoded start of its payload; only functions without
        #: `mitogen_before_call`, which a thread that finds the function here does not look for.
        self._heads: dict[Any, bytes] = {}

    def __repr__(self) -> str:
        return "CallChain(%r)" % (self.context,)

    def __enter__(self) -> CallChain:
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()

    def make_chain_id(self) -> str:
        """Return a unique name for this chain."""
        return "%d-%d-%x" % (
            self.context.router.node.context_id,
            self.context.router.new_handle(),
            id(self),
        )

    def reset(self) -> None:
        """Clear this chain's error in the far context."""
        if self.chain_id:
            CallChain(self.context).call_no_reply(core.Dispatcher.forget_chain, self.chain_id)

    def make_msg(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Message:
        """
        Return the Message that calls `fn(*args, **kwargs)`.

        :raises TypeError: `fn` has no name by which another context could find it
        :raises EncodeError: an argument cannot be sent
        """
        before = None
        try:
            data = self._heads[fn]
        except KeyError:
            before = getattr(fn, "mitogen_before_call", None)
            data = self._head(fn, not before)
        if args or kwargs:
            limit = self.context.router.max_message_size
            data += core.encode(list(args), limit, "args")
            data += core.encode(kwargs, limit, "kwargs") if kwargs else _NO_KEYWORDS
        else:
            data += _NO_ARGUMENTS
        msg = core.Message()
        # A dict literal: faster than keyword arguments.
        msg.__dict__ = {
            "data": data,
            "handle": core.CALL_FUNCTION,
            "dst_id": self.context.context_id,
        }
        if before:
            before(msg, self.context, args, kwargs)
        return msg

    def _head(self, fn: Any, keep: bool) -> bytes:
        """Return the payload of a call of `fn`, up to its arguments; cache it if `keep`."""
        name = "\0".join(name_function(fn) + (self.chain_id or "",))
        head = self._opening + core.encode(name)
        if keep:
            if len(self._heads) > KEPT_HEADS:
                self._heads.clear()
            self._heads[fn] = head
        return head

    def send(self, fn: Any, msg: Message) -> None:
        """Send a message from make_msg(), after the modules that `fn` needs."""
        router = self.context.router
        router.push_modules(self.context, fn)
        router.route(msg)

    def call_no_reply(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call `fn` without waiting for a result; an error is logged."""
        self.send(fn, self.make_msg(fn, *args, **kwargs))

    def call_async(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Receiver:
        """Call `fn`; return a Receiver for its result."""
        msg = self.make_msg(fn, *args, **kwargs)
        context = self.context
        router = context.router
        receiver = _AnswerReceiver(router, context)
        msg.reply_to = receiver.handle
        # The context runs one call at a time. While it has an outstanding call, the next one can be
        # corked and written together with later ones.
        outstanding = context.__dict__.setdefault("_outstanding", set())
        router.push_modules(context, fn)
        router.route(msg, True, bool(outstanding))
        outstanding.add(receiver.handle)
        if receiver.answered:
            outstanding.discard(receiver.handle)
        return receiver

    def call(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """
        Call `fn(*args, **kwargs)` in the context and return its result.

        :raises CallError: it raised an exception; if that is of a built-in type, so is this error
        :raises ChannelError: the context is gone
        :raises TimeoutError: the chain's timeout has passed; the call was cancelled
        """
        answer = _Answer()
        # The wait for the answer includes that for the call to be sent, and the timeout bounds it.
        handle = self.start(answer, fn, args, kwargs, False)
        router = self.context.router
        try:
            in_time = answer.lock.acquire(True, -1 if self.timeout is None else self.timeout)
        except BaseException:
            # Interrupted: the answer is no longer wanted.
            router.handlers.pop(handle, None)
            raise
        if not in_time:
            self.cancel(handle)
            if not self.kill:
                router.handlers.pop(handle, None)
            raise core.TimeoutError(
                "%s in %r: no result within %s seconds; the call was cancelled",
                "%s.%s" % (fn.__module__, fn.__qualname__),
                self.context,
                self.timeout,
            )
        result: R = answer.msg.unpickle()
        return result

    def start(
        self,
        on_answer: Callable[[Message], object],
        fn: Callable[..., Any],
        args: Any,
        kwargs: Any,
        wait: bool = True,
    ) -> int:
        """
        Call `fn(*args, **kwargs)`. The answer is passed to the callback `on_answer(msg)` on the
        broker thread.

        :param bool wait: False: never sleep, even on a slow link
        :returns: the answer's handle, for cancel()
        """
        msg = self.make_msg(fn, *args, **kwargs)
        router = self.context.router
        handle: int = router.expect(on_answer, self.context.context_id)
        msg.reply_to = handle
        try:
            router.push_modules(self.context, fn)
            ticket = router.route(msg, wait)
        except BaseException:
            router.handlers.pop(handle, None)
            raise
        handler = ticket and router.handlers.get(handle)
        if handler:
            handler.ticket = ticket
        return handle

    def cancel(self, handle: int) -> None:
        """
        Interrupt the call whose answer goes to `handle`, or drop it if it has not begun. A no-op if
        it is over.

        With `kill`, the context is ended if no answer of any kind arrives within CANCEL_GRACE.
        """
        router = self.context.router
        ticket = getattr(router.handlers.get(handle), "ticket", None)
        router.broker.defer(self._cancel, handle, ticket)

    def _cancel(self, handle: int, ticket: core.Ticket | None) -> None:
        """Broker thread: send the cancel message, but never before its call."""
        router = self.context.router
        msg = core.Message(dst_id=self.context.context_id, handle=core.CANCEL, flags=core.RAW)
        msg.data = core.NUMBER.pack(handle)
        if ticket and ticket.then:
            then = ticket.then
            ticket.then = lambda: (then(), router.route(msg, False))
        else:
            router.route(msg, False)
        if self.kill:
            router.broker.after(CANCEL_GRACE, lambda: self._kill(handle))

    def _kill(self, handle: int) -> None:
        # An answer removes the handler.
        if handle in self.context.router.handlers:
            self.context.router.kill(self.context)


def module_of(fn: Any) -> str:
    """Return the name of the module that a function is imported from."""
    return getattr(fn, "__module__", None) or name_function(fn)[0]


def name_function(fn: Any) -> tuple[str, str, str]:
    """
    Return (module, class or "", name), by which another context finds `fn`.

    :raises TypeError: there is no such name; the text has the reason
    """
    # Methods of built-in classes: __self__ is the class of `dict.fromkeys`, and __objclass__ is
    # that of `str.upper`, which has no __module__.
    owner = getattr(fn, "__self__", getattr(fn, "__objclass__", None))
    try:
        name, qualname = fn.__name__, fn.__qualname__
        module = owner.__module__ if isinstance(owner, type) else fn.__module__
    except AttributeError:
        raise TypeError("%r is not a function" % (fn,)) from None
    if isinstance(owner, type):
        return owner.__module__, owner.__qualname__, name
    if owner is not None and not isinstance(owner, type(sys)):
        raise TypeError(CallChain.method_msg % (fn,))
    if name == "<lambda>":
        raise TypeError(CallChain.lambda_msg)
    if "<locals>" in qualname:
        raise TypeError(CallChain.closures_msg % (qualname,))
    return module, qualname.rpartition(".")[0], name
