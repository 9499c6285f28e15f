"""
Services: objects whose methods other contexts may call, by the service's name, as far as a policy
says so; and the threads that run these methods.

A call is a message to handle CALL_SERVICE: (service name, method name, Kwargs). What a service is
is in base.py, those that come with this library in file_services.py; all names are found here.

Rules
    1. Nothing of a service runs on the broker thread; a Pool's threads run everything.
    2. A pool that ends answers what waits with an error that says so.
    3. What a caller sends decides what is imported only if it is an ancestor.
    4. `threading` is not imported: a Pool may be started by any thread of a child, and the first
       to import that is taken for the main thread.

Threads: a Pool's own, `size` of them; its methods may be called on any.
"""

from __future__ import annotations

import _thread
import os
import sys

from mitogen import core
from mitogen.core import CALL_FUNCTION, CALL_SERVICE, ERROR, CallError, Message
from mitogen.core.mailbox import Latch, LatchError, Receiver
from mitogen.select import Error as SelectError
from mitogen.services.base import (
    AllowAny,
    AllowParents,
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

#: Threads of a pool that nobody gave a size.
DEFAULT_SIZE = 2
#: Seconds that a child's first call of a service waits for its main thread, where that is idle.
IMPORT_WAIT = 1.0

#: The pool that get_or_create_pool() made last, and the process that did: (pid, Pool).
_latest: dict[str, tuple[int, Pool]] = {}


class Activator:
    """Makes services that are called by an ancestor and are not in the pool yet."""

    def is_permitted(self, mod_name: str, class_name: str, msg: Message | None) -> bool:
        """
        Return whether a service may be imported.

        :param str mod_name: its module
        :param str class_name: its class
        :param Message msg: the call; None for one of this process' own
        """
        return msg is None or bool(core.has_parent_authority(msg))

    def activate(self, pool: Pool, service_name: str, msg: Message | None) -> Service:
        """
        Import a service, add it to `pool` and return it.

        :param Pool pool: where to
        :param str service_name: `module.Class`
        :param Message msg: the call that wants it; None for one of this process' own
        :raises Error: there is no such service, or this caller may not have it imported
        """
        mod_name, _, class_name = service_name.rpartition(".")
        if not mod_name or not self.is_permitted(mod_name, class_name, msg):
            raise Error(
                "context %d has no service %r" % (pool.router.node.context_id, service_name)
            )
        if mod_name == "__main__" and hasattr(pool.router, "econtext"):
            pool.router.econtext.import_main()
        module = core.import_module(mod_name)
        klass = getattr(module, class_name, None)
        if not (isinstance(klass, type) and issubclass(klass, Service)):
            raise Error("%r is no subclass of mitogen.service.Service" % (service_name,))
        if klass.name() in pool._invokers:
            # It is known under the name of the module that it comes from.
            return pool._invokers[klass.name()].service
        service = klass(pool.router)
        pool.add(service)
        return service


# -- pools


class _CallReceiver(Receiver):
    """Puts what arrives at CALL_SERVICE into a pool's queue; the broker's thread does."""

    handle: Any

    def __init__(self, pool: Pool, overwrite: bool) -> None:
        self.pool = pool
        super().__init__(pool.router, CALL_SERVICE, overwrite=overwrite)

    def _on_receive(self, msg: Any) -> None:
        msg.receiver = self
        self.pool._enqueue(msg)

    def close(self) -> None:
        handler = self.router._handlers.get(self.handle)
        if handler and handler[0] != self._on_receive:
            # Another pool has taken over.
            self.handle = None
        super().close()


class Pool:
    """
    Threads that serve calls of services.

    :param Router router: router of this context
    :param services: Service objects to begin with
    :param int size: number of threads
    :param bool overwrite: take over from another pool of this context
    :param Receiver recv: where the calls arrive; None for the mailbox CALL_SERVICE
    :param list kept: calls that have come already; it may grow until the pool takes over
    :raises Error: two services have the same name, or `size` is less than 1
    :raises mitogen.core.Error: this context has a pool already
    """

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
            raise Error("a pool needs a thread: size=%r" % (size,))
        self.router = router
        self.closed = False
        self._size = size
        self._activator = self.activator_class()
        self._lock = _thread.allocate_lock()
        # A service may ask for another when it is made.
        self._activating = _thread.RLock()
        self._latch = Latch()
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
            self._receiver = _CallReceiver(self, overwrite or _is_stub(router))
        else:
            self._on_broker(self._take_over, kept)
        if recv is None:
            router.__dict__["_service_pool"] = self
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
        """How many threads it has."""
        return self._size

    # -- what comes in

    def _on_broker(self, func: Callable[..., None], *args: Any) -> None:
        """Run `func` on the broker thread; return when it is done."""
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
        # On the broker thread: nothing comes between the last that was kept and our first.
        self.adopt(kept)
        self._receiver = _CallReceiver(self, True)

    def adopt(self, messages: list[Message]) -> None:
        """Broker thread: serve calls that have arrived elsewhere; the list is emptied."""
        while messages:
            self._enqueue(messages.pop(0))
        receiver = self._receiver
        if not self.closed and isinstance(receiver, _CallReceiver) and _is_stub(self.router):
            # What keeps calls until there is a pool came after this one.
            add = self.router.add_handler
            add(receiver._on_receive, CALL_SERVICE, overwrite=True, consumer=True)

    def _listen_to(self, recv: Any) -> None:
        recv.notify = lambda _: self._put(lambda: self._take(recv))
        for _ in range(recv.size()):
            recv.notify(recv)

    def _take(self, recv: Any) -> None:
        try:
            msg = recv.get(block=False, throw_dead=False)
        except (core.TimeoutError, core.ChannelError):
            return
        self._handle(msg)

    def _put(self, job: Any) -> bool:
        """Any thread: queue a Message or a function; return False if the pool has ended."""
        with self._lock:
            if self.closed:
                return False
            self._latch.put(job)
            return True

    def _enqueue(self, msg: Message) -> None:
        if not self._put(msg):
            self._refuse(msg)

    def _refuse(self, msg: Message) -> None:
        self.router.consumed(msg)
        text = self.closed_msg % (self.router.node.context_id,)
        reply = Message(data=core.encode(CallError(text)), dst_id=msg.src_id, handle=msg.reply_to)
        if msg.reply_to and not msg.is_dead:
            # On the broker's thread as well: it must not wait.
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
                job = None  # or the last message would be kept until the next
        finally:
            with self._lock:
                self._running -= 1
                last = not self._running
            if last:
                self._finish()

    def _do(self, job: Any) -> None:
        try:
            if not isinstance(job, Message):
                job()
            elif self.closed:
                self._refuse(job)
            else:
                self.router.consumed(job)
                self._handle(job)
        except BaseException as error:
            # Nothing of a service ends the thread; it ends with the pool.
            self.router.log(ERROR, "service pool: %s", CallError(error))

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
        self.router.broker.defer(self._let_broker_go)

    # -- what a program calls

    def add(self, service: Service) -> None:
        """
        Serve a service.

        :param Service service: the service
        :raises Error: there is one of that name
        """
        name = service.name()
        with self._lock:
            if name in self._invokers:
                raise Error("the pool has a service %r already" % (name,))
            self._invokers[name] = service.invoker_class(service=service)
        job = lambda: self._on_select(service)  # noqa: E731
        select: Any = service.select
        select.notify = lambda _: self._put(job)
        for _ in range(service.select.size()):
            self._put(job)

    def get_invoker(self, name: Any, msg: Message | None) -> Invoker:
        """
        Return a service's Invoker; the service is made if need be, and if the caller may do that.

        :param name: the service's name, or class
        :param Message msg: the call; None for one of this process' own
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
        Return a service, made if need be.

        :param name: its name, or class
        :raises Error: there is no such service
        """
        return self.get_invoker(name, None).service

    def defer(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """
        Have `func(*args, **kwargs)` called on one of the threads; what it raises is logged.

        :raises Error: the pool has ended
        """
        if not self._put(lambda: func(*args, **kwargs)):
            raise Error(self.closed_msg % (self.router.node.context_id,))

    def stop(self, join: bool = True) -> None:
        """
        End: calls that run come to their end, those that wait are answered with an error, then the
        services' on_shutdown() is called. May be called again.

        :param bool join: return when all that is done
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
        if join:
            self.join()

    def join(self) -> None:
        """Wait until the pool has ended; nothing, on one of its own threads."""
        if _thread.get_ident() not in self._idents:
            self._ended.acquire()
            self._ended.release()

    def _on_broker_shutdown(self) -> None:
        # on_shutdown() may want to send something; whoever hangs in a method is not waited for.
        broker = self.router.broker
        if not self.closed:
            broker.holds.add(self)
            broker.after(broker.shutdown_timeout, self._let_broker_go)
            self.stop(join=False)

    def _let_broker_go(self) -> None:
        broker = self.router.broker
        if self in broker.holds:
            broker.holds.discard(self)
            broker.stop()

    def _on_broker_exit(self) -> None:
        self.stop(join=False)


def _is_stub(router: Any) -> bool:
    """Whether what takes a child's calls is there only until there is a pool."""
    handler = router._handlers.get(CALL_SERVICE)
    owner = getattr(handler[0], "__self__", None) if handler else None
    return owner is not None and not isinstance(owner, Receiver)


def _request_of(msg: Message) -> tuple[str, str, dict[str, Any]]:
    request = msg.unpickle(throw=False)
    if isinstance(request, (list, tuple)) and len(request) == 3:
        service_name, method_name, kwargs = request
        named = isinstance(service_name, str) and isinstance(method_name, str)
        if named and isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs):
            return service_name, method_name, dict(kwargs)
    raise Error("a call of a service is (service name, method name, {argument: value})")


def _process_router() -> Any:
    """Return the router of this process, for programs that do not name it."""
    for finder in sys.meta_path:
        if isinstance(finder, core.Importer):
            return finder.router
    pid, pool = _latest.get("pool", (None, None))
    if pool is None or pid != os.getpid():
        raise Error("there is no pool yet: get_or_create_pool(router=...) makes one")
    return pool.router


def _pool_of(router: Any) -> Pool | None:
    pool: Pool | None = router.__dict__.get("_service_pool")
    return None if pool is None or pool.closed else pool


def get_or_create_pool(
    size: int | None = None,
    router: Any = None,
    context: Any = None,
    kept: list[Message] | None = None,
) -> Pool:
    """
    Return this context's pool; made, if it has none.

    :param int size: threads of one that is made; None for DEFAULT_SIZE
    :param Router router: router of this context; None for a child's, or that of the pool made last
    :param Context context: any Context of that router, instead of it
    :param list kept: see Pool
    :raises Error: no router is named, and none is known
    """
    if router is None:
        router = context.router if context is not None else _process_router()
    # setdefault() is one step: all threads get the same lock.
    with router.__dict__.setdefault("_service_lock", _thread.allocate_lock()):
        pool = _pool_of(router)
        if pool is None:
            pool = Pool(router, size=size or DEFAULT_SIZE, overwrite=True, kept=kept)
        _latest["pool"] = (os.getpid(), pool)
        return pool


def adopt(router: Any, messages: list[Message]) -> None:
    """
    Start a child's pool, as calls have come and it has none.

    :param Router router: the child's router
    :param list messages: those calls; it may grow until the pool takes over
    """
    _import_threading(router)
    pool = get_or_create_pool(router=router, kept=messages)
    # Where the program's own pool came first.
    pool._on_broker(pool.adopt, messages)


def _import_threading(router: Any) -> None:
    """
    Have a child's main thread import `threading`, unless it is busy: a service's module may do so,
    and before Python 3.13 the first that does is the main thread from then on.
    """
    current = router.econtext.dispatcher.current
    busy = current is not None and current.handle != CALL_SERVICE
    if "threading" in sys.modules or sys.version_info >= (3, 13) or busy:
        return
    # A call to itself: of three, the function's name and no arguments.
    data = b"\x83" + core.encode("threading\0\0active_count\0") + core.encode([]) + core.encode({})
    done = core.new_lock()
    answer = router.expect(lambda msg: done.release(), router.context_id)
    call = Message(data=data, handle=CALL_FUNCTION, dst_id=router.context_id, reply_to=answer)
    router.route(call, False)
    done.acquire(True, IMPORT_WAIT)


def call(service_name: Any, method_name: Any, call_context: Any = None, **kwargs: Any) -> Any:
    """
    Call a service and return its result.

    Without `call_context`: where this context's pool has the service, its method is called at
    once, on this thread; else, in a child, the parent's is called.

    The shape of old programs is understood too: `call(context, handle, value)` sends a value to a
    mailbox, `call(context, service, {"method": name, ...})` calls a service there.

    :param service_name: the service's name, or class
    :param str method_name: which method
    :param Context call_context: where the service is
    :param kwargs: the method's arguments
    :raises CallError: the method failed, or may not be called
    :raises Error: there is no such service
    """
    if isinstance(service_name, core.Context):
        return _call_old(service_name, method_name, call_context, kwargs)
    if call_context is not None:
        return ask(call_context, service_name, method_name, kwargs)
    router = _process_router()
    pool = _pool_of(router)
    here = pool is not None and name_of(service_name) in pool._invokers
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
        raise Error("call(context, service, {'method': name, ...}): no method is named")
    return ask(context, target, method_name, dict(kwargs.pop("kwargs", {}), **kwargs))
