"""
Services and pools. A service is an object whose methods other contexts may call, subject to
policies. A pool is a set of threads that run these methods.

A call is a message to handle CALL_SERVICE: (service name, method name, Kwargs). The base class of
services is in base.py, and mitogen's own services are in file_services.py. This module exports all
names of both.

Rules
    1. Service code never runs on the broker thread, only on a Pool's threads.
    2. A pool that ends answers queued calls with an error.
    3. Only an ancestor's call can cause an import.
    4. `threading` is not imported here: a Pool may be started by any thread of a child, and the
       first thread to import that module is taken for the main thread.
    5. No thread of a pool waits for a caller to read its answer. Calls that arrive on one stream
       take turns with those of others: see limits/turns.py.

Threads: a Pool has `size` threads of its own. Its methods may be called on any thread.
"""

from __future__ import annotations

import _thread
import os
import sys

from mitogen import core
from mitogen.core import CALL_FUNCTION, CALL_SERVICE, ERROR, CallError, Message
from mitogen.core.mailbox import LatchError, Queue, Receiver
from mitogen.limits import turns
from mitogen.limits.guard import report
from mitogen.select import Error as SelectError
from mitogen.services.base import (
    AllowAny,
    AllowParents,
    CurrentPool,
    DeduplicatingInvoker,
    Error,
    Invoker,
    Policy,
    SerializedInvoker,
    Service,
    arg_spec,
    expose,
    fail,
    no_reply,
    validate_arg_spec,
)
from mitogen.services.file_services import FileService, PushFileService, ask, await_answer, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = [
    "Activator",
    "AllowAny",
    "AllowParents",
    "DeduplicatingInvoker",
    "Error",
    "FileService",
    "Invoker",
    "Policy",
    "Pool",
    "PushFileService",
    "SerializedInvoker",
    "Service",
    "adopt",
    "arg_spec",
    "call",
    "expose",
    "get_or_create_pool",
    "no_reply",
    "validate_arg_spec",
]

#: Default number of threads of a pool.
DEFAULT_SIZE = 2
#: Seconds that a child's first service call waits for the main thread, if that is idle.
IMPORT_WAIT = 1.0

#: Calls of one stream that may wait: as many as one context's window allows.
MAX_WAITING = core.WINDOW // core.MESSAGE_COST

#: The pool last returned by get_or_create_pool(), with the process it belongs to: (pid, Pool).
_latest: dict[str, tuple[int, Pool]] = {}


class Activator:
    """Creation of services on their first call, if an ancestor calls."""

    __module__ = "mitogen.service"

    #: Text of the error for a caller that may not have a service imported.
    not_active_msg = (
        "Service %r is not yet activated in this context, and the caller is not privileged, "
        "therefore autoactivation is disabled."
    )

    def is_permitted(self, mod_name: str, class_name: str, msg: Message | None) -> bool:
        """
        Return whether a service may be imported.

        :param str mod_name: name of its module
        :param str class_name: name of its class
        :param Message msg: the call; None for a call from this process
        """
        return msg is None or bool(core.has_parent_authority(msg))

    def activate(self, pool: Pool, service_name: str, msg: Message | None) -> Service:
        """
        Import a service, add it to `pool` and return it.

        :param Pool pool: the pool
        :param str service_name: `module.Class`
        :param Message msg: the call of the service; None for a call from this process
        :raises Error: there is no such service, or the caller may not have it imported
        """
        mod_name, _, class_name = service_name.rpartition(".")
        if not mod_name:
            raise Error(
                "context %d has no service %r" % (pool.router.node.context_id, service_name)
            )
        if not self.is_permitted(mod_name, class_name, msg):
            raise Error(self.not_active_msg % (service_name,))
        if mod_name == "__main__" and hasattr(pool.router, "econtext"):
            pool.router.econtext.import_main()
        module = core.import_module(mod_name)
        klass = getattr(module, class_name, None)
        if not (isinstance(klass, type) and issubclass(klass, Service)):
            raise Error("%r is not a subclass of mitogen.service.Service" % (service_name,))
        # The pool may have it under the name of the module that defines it.
        service = pool.find_service(klass.name())
        if service is not None:
            return service
        service = klass(pool.router)
        pool.add(service)
        return service


# -- pools


class _CallReceiver(Receiver):
    """The mailbox CALL_SERVICE. It passes messages to a pool's queue, on the broker's thread."""

    handle: Any

    def __init__(self, router: Any, enqueue: Callable[[Message], None], overwrite: bool) -> None:
        self.enqueue = enqueue
        super().__init__(router, CALL_SERVICE, overwrite=overwrite)

    def on_message(self, msg: Any) -> None:
        msg.receiver = self
        self.enqueue(msg)

    def close(self) -> None:
        handler = self.router.handlers.get(self.handle)
        if handler and handler.fn != self.on_message:
            # Another pool has replaced this one.
            self.handle = None
        super().close()


class _Pending:
    """A counter of a call's remaining steps: to return, and to send each answer."""

    def __init__(self, release: Callable[[], object]) -> None:
        self._release = release
        self._lock = _thread.allocate_lock()
        self._count = 1

    def hold(self) -> Callable[[], None]:
        with self._lock:
            self._count += 1
        return self.drop

    def drop(self) -> None:
        with self._lock:
            self._count -= 1
            over = not self._count
        if over:
            self._release()


class Pool:
    """
    A set of threads that serve calls of services.

    :param Router router: router of this context
    :param services: initial Service objects
    :param int size: number of threads
    :param bool overwrite: replace another pool of this context
    :param Receiver recv: mailbox in which the calls arrive; None for CALL_SERVICE
    :param list kept: calls that have arrived already; it may grow until the pool takes over
    :raises Error: two services have the same name, or `size` is less than 1
    :raises mitogen.core.Error: this context has a pool already
    """

    __module__ = "mitogen.service"

    activator_class = Activator
    closed_msg = "the service pool of context %d has ended"

    def __init__(
        self,
        router: Any,
        services: Iterable[Service] = (),
        size: int = 1,
        overwrite: bool = False,
        recv: Any = None,
        kept: list[Message] | None = None,
    ) -> None:
        if size < 1:
            raise Error("pool size must be at least 1, not %r" % (size,))
        self.router = router
        self.closed = False
        self._size = size
        self._activator = self.activator_class()
        self._lock = _thread.allocate_lock()
        # Reentrant: a service's constructor may look up another service.
        self._activating = _thread.RLock()
        self._latch = Queue()
        self._turns = turns.Turns(self._put_call, size, MAX_WAITING)
        self._invokers: dict[str, Invoker] = {}
        self._idents: set[int] = set()
        self._running = size
        self._ended = core.new_lock()
        for service in services:
            self.add(service)
        self._receiver: Any = recv
        if recv is not None:
            self._listen_to(recv)
        elif kept is None:
            self._receiver = _CallReceiver(router, self._enqueue, overwrite or _is_stub(router))
        else:
            self._on_broker(self._take_over, kept)
        if recv is None:
            router.component(CurrentPool).pool = self
        core.listen(router.broker, "shutdown", self._on_broker_shutdown)
        core.listen(router.broker, "exit", self._on_broker_exit)
        for _ in range(size):
            _thread.start_new_thread(self._run, ())
        if not router.broker.alive:
            self._on_broker_exit()

    def __repr__(self) -> str:
        return "Pool(context %r, size=%d)" % (self.router.node.context_id, self._size)

    @property
    def size(self) -> int:
        """The number of threads."""
        return self._size

    # -- incoming calls

    def _on_broker(self, func: Callable[..., None], *args: Any) -> None:
        """Run `func` on the broker thread, and return when it has finished."""
        if self.router.broker.on_thread():
            return func(*args)
        done = core.new_lock()

        def run() -> None:
            try:
                func(*args)
            finally:
                done.release()

        self.router.broker.defer(run)
        while not done.acquire(True, 1) and self.router.broker.alive:
            pass

    def _take_over(self, kept: list[Message]) -> None:
        # On the broker thread, so that no call arrives between the last one kept and the first
        # one received here.
        self._adopt(kept)
        self._receiver = _CallReceiver(self.router, self._enqueue, True)

    def adopt(self, messages: list[Message]) -> None:
        """Any thread: serve calls that have arrived elsewhere, and empty the list."""
        self._on_broker(self._adopt, messages)

    def _adopt(self, messages: list[Message]) -> None:
        while messages:
            self._enqueue(messages.pop(0))
        receiver = self._receiver
        if not self.closed and isinstance(receiver, _CallReceiver) and _is_stub(self.router):
            # The child's handler that keeps calls until there is a pool was added later.
            add = self.router.add_handler
            add(receiver.on_message, CALL_SERVICE, overwrite=True, consumer=True)

    def _listen_to(self, recv: Any) -> None:
        recv.notify = lambda _: self._put(lambda: self._take(recv))
        for _ in range(recv.size()):
            recv.notify(recv)

    def _take(self, recv: Any) -> None:
        try:
            msg = recv.get(block=False, throw_dead=False)
        except (core.TimeoutError, core.ChannelError):
            return
        self._serve(msg, bool)

    def _put(self, job: Any) -> bool:
        """Any thread: queue a Message or a function; return False if the pool has ended."""
        with self._lock:
            if self.closed:
                return False
            self._latch.put(job)
            return True

    def _put_call(self, func: Callable[..., object], *args: Any) -> None:
        if not self._put(lambda: func(*args)):
            # The pool has ended: refuse the call on this thread.
            func(*args)

    def _enqueue(self, msg: Message) -> None:
        me = self.router.context_id
        stream = None if msg.src_id == me else self.router.routes.get(msg.src_id)
        if not self._turns.add(stream, self._serve, msg):
            self._refuse(msg, "too many calls of services wait: %d" % MAX_WAITING)

    def _refuse(self, msg: Message, text: str = "") -> None:
        self.router.consumed(msg)
        text = text or self.closed_msg % (self.router.node.context_id,)
        reply = Message(data=core.encode(CallError(text)), dst_id=msg.src_id, handle=msg.reply_to)
        if msg.reply_to and not msg.is_dead:
            # This may run on the broker's thread, which must not sleep.
            self.router.route(reply, False)

    # -- the threads

    def _run(self) -> None:
        self._idents.add(_thread.get_ident())
        try:
            while True:
                try:
                    job = self._latch.get()
                except LatchError:
                    break
                self._do(job)
                job = None  # releases the message, which would be kept until the next one
        finally:
            with self._lock:
                self._running -= 1
                last = not self._running
            if last:
                self._finish()

    def _do(self, job: Any) -> None:
        try:
            job()
        except BaseException as error:
            # An error in a service must not end the thread.
            report(self.router.log, "service pool", error)

    def _serve(self, msg: Message, release: Callable[[], object]) -> None:
        """Handle a call. The stream's next one may begin once the answer has left."""
        if self.closed:
            self._refuse(msg)
            return release()  # type: ignore[return-value]
        self.router.consumed(msg)
        owner = _Pending(release)

        def reply(value: Any, router: Any = None, **kwargs: Any) -> None:
            turns.reply(self.router, msg, value, owner.hold(), **kwargs)

        # Services answer by themselves too, on any thread.
        msg.__dict__.update(reply=reply, hold_turn=owner.hold)
        try:
            self._handle(msg)
        finally:
            owner.drop()

    def _handle(self, msg: Message) -> None:
        if msg.is_dead:
            return
        try:
            service_name, method_name, kwargs = _request_of(msg)
            self.get_invoker(service_name, msg).invoke(method_name, kwargs, msg)
        except BaseException as error:
            fail(self.router, msg, error)

    def _on_select(self, service: Service) -> None:
        try:
            event = service.select.get_event(block=False)
        except (core.TimeoutError, SelectError):
            return
        service.on_message(event)

    def _finish(self) -> None:
        for invoker in list(self._invokers.values()):
            try:
                invoker.service.on_shutdown()
            except BaseException as error:
                self.router.log(ERROR, "%r.on_shutdown(): %s", invoker.service, CallError(error))
        self._ended.release()
        self.router.broker.defer(self._release_broker)

    # -- for programs

    def add(self, service: Service) -> None:
        """
        Serve a service.

        :param Service service: the service
        :raises Error: the pool already has a service of that name
        """
        name = service.name()
        with self._lock:
            if name in self._invokers:
                raise Error("the pool already has a service %r" % (name,))
            self._invokers[name] = service.invoker_class(service=service)
        job = lambda: self._on_select(service)  # noqa: E731
        select: Any = service.select
        select.notify = lambda _: self._put(job)
        for _ in range(service.select.size()):
            self._put(job)

    def find_service(self, name: Any) -> Service | None:
        """
        Return a service of this pool, or None if the pool does not have it.

        :param name: name or class of the service
        """
        invoker = self._invokers.get(name_of(name))
        return invoker.service if invoker else None

    def get_invoker(self, name: Any, msg: Message | None) -> Invoker:
        """
        Return a service's Invoker. Create the service if necessary and permitted.

        :param name: name or class of the service
        :param Message msg: the call; None for a call from this process
        :raises Error: there is no such service
        """
        name = name_of(name)
        if name not in self._invokers:
            with self._activating:
                if name not in self._invokers:
                    name = self._activator.activate(self, name, msg).name()
        return self._invokers[name]

    def get_service(self, name: Any) -> Service:
        """
        Return a service. Create it if necessary.

        :param name: name or class of the service
        :raises Error: there is no such service
        """
        return self.get_invoker(name, None).service

    def defer(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """
        Call `func(*args, **kwargs)` on one of the threads. Errors are logged.

        :raises Error: the pool has ended
        """
        if not self._put(lambda: func(*args, **kwargs)):
            raise Error(self.closed_msg % (self.router.node.context_id,))

    def stop(self, join: bool = True) -> None:
        """
        End the pool. Running calls finish, queued calls are answered with an error, then the
        services' on_shutdown() is called. Idempotent.

        :param bool join: return only when the pool has ended
        """
        with self._lock:
            closed, self.closed = self.closed, True
            self._latch.close()
        if not closed:
            for invoker in list(self._invokers.values()):
                invoker.service.select.notify = None
            if self._receiver is not None:
                self._receiver.notify = None
                self._receiver.close()
            for _, (msg,) in self._turns.drain():
                self._refuse(msg)
        if join:
            self.join()

    def join(self) -> None:
        """Sleep until the pool has ended. No-op on the pool's own threads."""
        if _thread.get_ident() not in self._idents:
            self._ended.acquire()
            self._ended.release()

    def _on_broker_shutdown(self) -> None:
        # on_shutdown() may send messages. A method that hangs delays the broker no longer than its
        # shutdown timeout.
        broker = self.router.broker
        if not self.closed:
            broker.holds.add(self)
            broker.after(broker.shutdown_timeout, self._release_broker)
            self.stop(join=False)

    def _release_broker(self) -> None:
        broker = self.router.broker
        if self in broker.holds:
            broker.holds.discard(self)
            broker.stop()

    def _on_broker_exit(self) -> None:
        self.stop(join=False)


def _is_stub(router: Any) -> bool:
    """Return whether a child's calls are handled by the stub that waits for a pool."""
    handler = router.handlers.get(CALL_SERVICE)
    owner = getattr(handler.fn, "__self__", None) if handler else None
    return owner is not None and not isinstance(owner, Receiver)


def _request_of(msg: Message) -> tuple[str, str, dict[str, Any]]:
    request = msg.unpickle(throw=False)
    if isinstance(request, (list, tuple)) and len(request) == 3:
        service_name, method_name, kwargs = request
        named = isinstance(service_name, str) and isinstance(method_name, str)
        if named and isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs):
            return service_name, method_name, dict(kwargs)
    raise Error("invalid service call: expected (service name, method name, {argument: value})")


def _process_router() -> Any:
    """Return this process' router, for programs that do not pass one."""
    for finder in sys.meta_path:
        if isinstance(finder, core.Importer):
            return finder.router
    pid, pool = _latest.get("pool", (None, None))
    if pool is None or pid != os.getpid():
        raise Error("there is no service pool yet: create one with get_or_create_pool(router=...)")
    return pool.router


def _pool_of(router: Any) -> Pool | None:
    pool: Pool | None = router.component(CurrentPool).pool
    return None if pool is None or pool.closed else pool


def get_or_create_pool(
    size: int | None = None,
    router: Any = None,
    context: Any = None,
    kept: list[Message] | None = None,
) -> Pool:
    """
    Return this context's pool. Create it if there is none.

    :param int size: number of threads of a new pool; None for DEFAULT_SIZE
    :param Router router: router of this context; None for a child's own, or for that of the pool
        last returned
    :param Context context: any Context of that router, instead of `router`
    :param list kept: see Pool
    :raises Error: no router was passed and none is known
    """
    if router is None:
        router = context.router if context is not None else _process_router()
    with router.component(CurrentPool).lock:
        pool = _pool_of(router)
        if pool is None:
            pool = Pool(router, size=size or DEFAULT_SIZE, overwrite=True, kept=kept)
        _latest["pool"] = (os.getpid(), pool)
        return pool


def adopt(router: Any, messages: list[Message]) -> None:
    """
    Start a child's pool when calls have arrived and there is none.

    :param Router router: the child's router
    :param list messages: the calls; it may grow until the pool takes over
    """
    _import_threading(router)
    pool = get_or_create_pool(router=router, kept=messages)
    # The program may have created a pool meanwhile.
    pool.adopt(messages)


def _import_threading(router: Any) -> None:
    """
    Import `threading` on a child's main thread, unless that is busy. A service's module may import
    it, and before Python 3.13 the first thread that does is the main thread from then on.
    """
    current = router.econtext.dispatcher.current
    busy = current is not None and current.handle != CALL_SERVICE
    if "threading" in sys.modules or sys.version_info >= (3, 13) or busy:
        return
    # A call to this context itself: 3 values, the function's name and no arguments.
    data = b"\x83" + core.encode("threading\0\0active_count\0") + core.encode([]) + core.encode({})
    done = core.new_lock()
    answer = router.expect(lambda msg: done.release(), router.context_id)
    call = Message(data=data, handle=CALL_FUNCTION, dst_id=router.context_id, reply_to=answer)
    router.route(call, False)
    done.acquire(True, IMPORT_WAIT)


def call(service_name: Any, method_name: Any, call_context: Any = None, **kwargs: Any) -> Any:
    """
    Call a service and return its result.

    Without `call_context`: if this context's pool has the service, its method is called directly,
    on this thread. Otherwise, in a child, the parent's service is called.

    The form of old programs is supported as well: `call(context, handle, value)` sends a value to a
    mailbox, and `call(context, service, {"method": name, ...})` calls a service in that context.

    :param service_name: name or class of the service
    :param str method_name: name of the method
    :param Context call_context: context that has the service
    :param kwargs: arguments of the method
    :raises CallError: the method failed, or may not be called
    :raises Error: there is no such service
    """
    if isinstance(service_name, core.Context):
        return _call_old(service_name, method_name, call_context, kwargs)
    if call_context is not None:
        return ask(call_context, service_name, method_name, kwargs)
    router = _process_router()
    pool = _pool_of(router)
    here = pool is not None and pool.find_service(service_name) is not None
    if router.node.parent_ids and not here:
        parent = router.context_by_id(router.node.parent_ids[0])
        return ask(parent, service_name, method_name, kwargs)
    service = get_or_create_pool(router=router).get_service(service_name)
    return getattr(service, method_name)(**kwargs)


def _call_old(context: Any, target: Any, value: Any, kwargs: dict[str, Any]) -> Any:
    if isinstance(target, int):
        return await_answer(context, Message(data=core.encode(value), handle=target))
    kwargs = dict(value or {}, **kwargs)
    method_name = kwargs.pop("method", None)
    if not isinstance(method_name, str):
        raise Error("call(context, service, {...}): the dict has no 'method'")
    return ask(context, target, method_name, dict(kwargs.pop("kwargs", {}), **kwargs))
