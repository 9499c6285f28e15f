"""
Contexts for asyncio programs: awaitable connections, calls and mailboxes.

    async with mitogen.aio.Router() as router:
        web = await router.ssh(hostname="web1")
        print(await web.call(os.getpid))

Rules
    1. The event loop is never blocked: functions that may block (starting a process, finding
       modules, sending on a slow link) run on helper threads of the Router.
    2. Cancelling a task that awaits a connection or a call cancels it at the far side too.
    3. Answers are decoded on the loop's thread, by the awaiting task.

Threads: everything here runs on the loop's; events from the broker are passed by
call_soon_threadsafe(), one call for several messages.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque

from mitogen import core, master
from mitogen.calls.chain import CallChain
from mitogen.core import mailbox
from mitogen.methods.registry import METHODS
from mitogen.programs import client
from mitogen.programs.output import Capture
from mitogen.tree import specs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from subprocess import CompletedProcess
    from typing import Any

    from mitogen.core import P, R
    from mitogen.tree.signatures import Methods

    class _Base(Methods["Context", Awaitable["Context"]]):
        """Signatures of the connection methods, which are set on Router below."""
else:
    _Base = object

__all__ = ["Context", "Receiver", "Router", "Sender"]

#: Number of threads for functions that may block.
HELPERS = 32


class Helpers:
    """Threads for functions that may block."""

    def __init__(self) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(HELPERS, "mitogen-aio")

    def run(self, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Call `func(*args)` on a helper thread."""
        return asyncio.get_running_loop().run_in_executor(self._threads, func, *args)

    def shutdown(self) -> None:
        """Take no more calls; don't wait for those that run."""
        self._threads.shutdown(wait=False)


class Router(_Base):
    """
    A master's router with awaitable connection methods. As an asynchronous context manager it shuts
    down the whole tree.

    Every connection method of :class:`mitogen.master.Router` exists here under its name, takes the
    same arguments and returns a :class:`Context` when awaited.

    :param router: a mitogen.master.Router to use; None for a new one, which is shut down with this
    :param int limit: maximum number of simultaneous connection attempts
    """

    def __init__(self, router: master.Router | None = None, limit: int = 100) -> None:
        self._own = router is None
        #: The underlying Router.
        self.router = router or master.Router()
        self._limit = asyncio.Semaphore(limit)
        self.helpers = Helpers()

    async def __aenter__(self) -> Router:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Shut down the tree, unless the router was given; return once it is gone."""
        if self._own:
            await self.helpers.run(self.router.__exit__)
        self.helpers.shutdown()

    async def connect(
        self, method_name: str, name: str | None = None, via: Context | None = None, **kwargs: Any
    ) -> Context:
        """
        Start a child; see :meth:`mitogen.parent.Router.connect` for arguments and errors.

        Cancelling this terminates a process that it has started.
        """
        async with self._limit:
            inner = via.context if isinstance(via, Context) else via
            make = self.router.connecting
            attempt = await self.helpers.run(lambda: make(method_name, name, inner, **kwargs))
            if inner is not None:
                # Concurrent with other connections through the same context.
                attempt.chain = CallChain(inner, worker=True)
            return Context(self, await self._run(attempt))

    async def _run(self, attempt: Any) -> core.Context:
        allowed, done = _Event(), _Event()
        attempt.when_done(done.set)
        attempt.when_allowed(allowed.set)
        try:
            await allowed.wait()
        except BaseException:
            # If its turn comes later, pass it on.
            allowed.then(lambda: self.router.branch.logins.leave(attempt.destination))
            raise
        starting = self.helpers.run(attempt.start)
        try:
            await asyncio.shield(starting)
            await done.wait()
        except asyncio.CancelledError:
            starting.add_done_callback(lambda future: future.exception() or attempt.give_up())
            raise
        context: core.Context = attempt.wait()
        return context

    async def from_spec(self, text: str, **kwargs: Any) -> Context:
        """Connect hop by hop, given a text such as "ssh:host/sudo:root"; see specs.parse()."""
        hops = specs.parse(text)
        made: list[Context] = []
        try:
            for number, (method, options) in enumerate(hops, 1):
                options = {**options, **kwargs} if number == len(hops) else options
                via = made[-1] if made else None
                made.append(await self.connect(method, via=via, **options))
        except BaseException:
            for context in made:
                context.context.shutdown()
            raise
        return made[-1]


def _connection_method(name: str) -> Callable[..., Any]:
    def method(self: Router, **kwargs: Any) -> Any:
        return self.connect(name, **kwargs)

    method.__name__ = name
    method.__qualname__ = "Router.%s" % name
    method.__doc__ = "Start a child by the connection method `%s`; see its Options." % name
    return method


for _name in METHODS:
    setattr(Router, _name, _connection_method(_name))


class _Event:
    """An asyncio.Event that any thread may set, and that may call a function instead."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._func: Callable[[], Any] | None = None
        self.wait = self._event.wait

    def set(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            # The loop is closed: no task waits.
            if self._func:
                self._func()

    def _set(self) -> None:
        if self._func:
            self._func()
        self._event.set()

    def then(self, func: Callable[[], Any]) -> None:
        """Loop's thread: call `func()` once the event is set, or now."""
        if self._event.is_set():
            func()
        else:
            self._func = func


class Context:
    """
    A context with awaitable calls.

    :param router: the Router of this context
    :param context: the underlying mitogen.parent.Context
    """

    def __init__(self, router: Router, context: core.Context) -> None:
        self.router = router
        self.context = context
        self._chain = CallChain(context)
        self._known: set[str] = set()

    @property
    def context_id(self) -> int:
        """Id of the context."""
        number: int = self.context.context_id
        return number

    @property
    def name(self) -> str | None:
        """Name of the context, for display."""
        name: str | None = self.context.name
        return name

    def __repr__(self) -> str:
        return f"mitogen.aio.{self.context!r}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and other.context == self.context

    def __hash__(self) -> int:
        return hash(self.context)

    async def call(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """
        Call `fn(*args, **kwargs)` there and return its result. Cancelling this interrupts the call.

        :raises CallError: the call raised an exception; its type is the same if that is a built-in
        :raises ChannelError: the context is gone
        """
        return await self.call_in(self._chain, fn, *args, **kwargs)

    async def call_in(
        self, chain: CallChain, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call with a CallChain of this context: pipelined, or on a thread of its own there."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[core.Message] = loop.create_future()

        def deliver(msg: Any) -> None:
            if not future.done():
                future.set_result(msg)

        def on_answer(msg: Any) -> None:
            try:
                loop.call_soon_threadsafe(deliver, msg)
            except RuntimeError:
                # The loop is closed: no task waits.
                pass

        handle = await self._start(chain, on_answer, fn, args, kwargs)
        try:
            msg = await future
        except asyncio.CancelledError:
            chain.cancel(handle)
            raise
        result: R = msg.unpickle()
        return result

    async def _start(
        self, chain: CallChain, on_answer: Any, fn: Any, args: Any, kwargs: Any
    ) -> Any:
        module = getattr(fn, "__module__", None)
        if module in self._known:
            return chain.start(on_answer, fn, args, kwargs, False)
        # Modules must be found and sent, which may take a while.
        starting = self.router.helpers.run(chain.start, on_answer, fn, args, kwargs)
        try:
            handle = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(
                lambda f: None if f.exception() else chain.cancel(f.result())
            )
            raise
        self._known.add(str(module))
        return handle

    def call_no_reply(
        self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[Any]:
        """Call `fn` without a reply; an error there is logged. Awaiting the result is optional."""
        return self.router.helpers.run(lambda: self._chain.call_no_reply(fn, *args, **kwargs))

    async def shutdown(self) -> None:
        """Shut down the context; return once it is gone, and a child of this one is reaped."""
        done = _Event()
        latch = await self.router.helpers.run(self.context.shutdown)
        latch.notify = lambda latch: done.set()
        if latch.empty():
            await done.wait()

    async def put(self, path: Any, remote_path: Any, **kwargs: Any) -> Any:
        """Send a file or a tree there; see :meth:`mitogen.parent.Context.put`."""
        return await self.router.helpers.run(lambda: self.context.put(path, remote_path, **kwargs))

    async def get(self, remote_path: Any, path: Any, **kwargs: Any) -> Any:
        """Fetch a file or a tree; see :meth:`mitogen.parent.Context.get`."""
        return await self.router.helpers.run(lambda: self.context.get(remote_path, path, **kwargs))

    async def run(
        self,
        args: Any,
        *,
        timeout: float | None = None,
        env: Any = None,
        cwd: Any = None,
        pty: Any = False,
        **kwargs: Any,
    ) -> CompletedProcess[Any]:
        """
        Run a program there and return its output; see :func:`mitogen.process.run`.

        Cancelling this kills the program. Callbacks are called in the event loop.
        """
        capture = Capture(**kwargs)
        where = capture.options
        starting = self.router.helpers.run(
            lambda: self.context.popen(args, env=env, cwd=cwd, pty=pty, **where)
        )
        try:
            popen = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_end)
            raise
        try:
            await asyncio.wait_for(_converse(popen, capture), timeout)
        except asyncio.TimeoutError:
            raise capture.timeout_error(popen, timeout or 0) from None
        finally:
            _end(starting)
        return capture.result(popen)


def _end(starting: asyncio.Future[Any]) -> None:
    if not starting.cancelled() and not starting.exception():
        starting.result().kill()
        starting.result().close()


async def _converse(popen: client.Popen, capture: Capture) -> None:
    ready = _Event()
    conversation = client.Conversation(popen, capture.input, capture.sinks, lambda: ready.set())
    while not conversation.advance():
        await ready.wait()
        ready = _Event()
    done = _Event()
    popen.when_done(lambda popen: done.set())
    await done.wait()
    popen.wait()


class Receiver:
    """
    An asynchronous mailbox: `async for msg in receiver`, until its sender closes it.

    :param router: Router
    :param kwargs: arguments of :class:`mitogen.core.Receiver`
    """

    def __init__(self, router: Router, **kwargs: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[asyncio.Future[None]] = deque()
        #: True while a call of _wake() is pending.
        self._waking = False
        #: The underlying Receiver.
        self.receiver: Any = mailbox.Receiver(router.router, **kwargs)
        self.receiver.notify = self._on_message

    def _on_message(self, _: Any) -> None:
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                # The loop is closed: no task waits.
                pass

    def _wake(self) -> None:
        self._waking = False
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    @property
    def handle(self) -> int | None:
        """Handle of the mailbox; None once it is closed."""
        handle: int | None = self.receiver.handle
        return handle

    def to_sender(self) -> core.Sender:
        """Return a Sender for this mailbox, to pass to another context."""
        sender: core.Sender = self.receiver.to_sender()
        return sender

    async def get(self) -> core.Message:
        """
        Return the oldest message.

        :raises ChannelError: the sender closed it, its context is gone, or close() was called
        """
        while True:
            try:
                message: core.Message = self.receiver.get(block=False)
            except core.TimeoutError:
                waiter = self._loop.create_future()
                self._waiters.append(waiter)
                if self.receiver.empty() and self.receiver.handle is not None:
                    await waiter
            else:
                return message

    def close(self) -> None:
        """Close the mailbox; tasks waiting in get() get ChannelError."""
        self.receiver.close()
        self._wake()

    async def __aenter__(self) -> Receiver:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[core.Message]:
        while True:
            try:
                yield await self.get()
            except core.ChannelError:
                return


class Sender:
    """
    Sender of values to a mailbox, which does not block the loop while the receiver is slow.

    :param router: Router
    :param sender: the underlying mitogen.core.Sender, received with a call or a message
    """

    def __init__(self, router: Router, sender: core.Sender) -> None:
        self.router = router
        self.sender = sender

    async def send(self, value: Any) -> None:
        """
        Send a value.

        :raises EncodeError: the value cannot be sent
        :raises TimeoutError: the receiver did not read for CREDIT_TIMEOUT seconds
        """
        await self.router.helpers.run(self.sender.send, value)

    async def close(self) -> None:
        """End the receiver's iteration after it has read all values."""
        await self.router.helpers.run(self.sender.close)
