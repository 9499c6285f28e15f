"""
Services: the base class, policies and argument checks for their methods, and invokers. Pools and
their threads are in pool.py, which also exports all names of this module.

Rules
    1. Only methods with a policy can be called.
    2. A caller that waits for an answer gets one: the result or a CallError. Errors of methods
       without a waiting caller are logged.

Threads: a pool's. Invokers may be used on any number of threads at once.
"""

from __future__ import annotations

import _thread

from mitogen import core
from mitogen.core import ERROR, CallError
from mitogen.limits.guard import guarded
from mitogen.select import Select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mitogen.core import Message
    from mitogen.select import Event

    InvokerType = type["Invoker"]

__all__ = [
    "AllowAny",
    "AllowParents",
    "CurrentPool",
    "DeduplicatingInvoker",
    "Error",
    "Invoker",
    "Policy",
    "SerializedInvoker",
    "Service",
    "arg_spec",
    "expose",
    "fail",
    "no_reply",
    "validate_arg_spec",
]


#: Answers that a DeduplicatingInvoker keeps; the oldest is dropped for a new one.
MAX_RESPONSES = 10000


class CurrentPool:
    """Component of a router: its service pool, and the lock that is held while one is created."""

    def __init__(self, _router: Any) -> None:
        self.lock = _thread.allocate_lock()
        self.pool: Any = None


class Error(Exception):
    """A service call failed: no such service or method, not permitted, or wrong arguments."""

    #: Public name, by which the error is also known when it was raised in another context.
    __module__ = "mitogen.service"


# -- policies and argument checks


class Policy:
    """A rule that decides which contexts may call a method: see :func:`expose`."""

    __module__ = "mitogen.service"

    def is_authorized(self, service: Service, msg: Message) -> bool:
        """
        Return whether the sender of `msg` may call.

        :param Service service: service that is called
        :param Message msg: the call
        """
        raise NotImplementedError()


class AllowAny(Policy):
    """A policy that permits any context."""

    __module__ = "mitogen.service"

    def is_authorized(self, service: Service, msg: Message) -> bool:
        return True


class AllowParents(Policy):
    """A policy that permits this context and its ancestors."""

    __module__ = "mitogen.service"

    def is_authorized(self, service: Service, msg: Message) -> bool:
        return bool(core.has_parent_authority(msg))


def expose(policy: Policy) -> Callable[[Any], Any]:
    """
    Decorator: make a method callable from other contexts.

    If it is used more than once, all policies must permit the call.

    :param Policy policy: policy that decides which contexts may call the method
    """

    def decorate(func: Any) -> Any:
        func.mitogen_service__policies = (policy,) + _policies_of(func)
        return func

    return decorate


def _policies_of(func: Any) -> tuple[Policy, ...]:
    found = getattr(func, "mitogen_service__policies", ())
    # A mock, which has any attribute, is not exposed by that.
    return found if isinstance(found, tuple) else ()


def arg_spec(spec: dict[str, Any]) -> Callable[[Any], Any]:
    """
    Decorator: check a method's arguments before it is called.

    :param dict spec: name of each required argument to its type or tuple of types
    """

    def decorate(func: Any) -> Any:
        func.mitogen_service__arg_spec = spec
        return func

    return decorate


def no_reply() -> Callable[[Any], Any]:
    """Decorator: do not send a method's result, and log its errors."""

    def decorate(func: Any) -> Any:
        func.mitogen_service__no_reply = True
        return func

    return decorate


def validate_arg_spec(spec: dict[str, Any], args: dict[str, Any]) -> None:
    """
    Check arguments.

    :param dict spec: name to type, or tuple of types
    :param dict args: name to value
    :raises CallError: an argument is missing or has another type; the text names it
    """
    for name, kinds in spec.items():
        if name not in args:
            raise CallError("argument %r is missing" % (name,))
        if not isinstance(args[name], kinds):
            found = type(args[name]).__name__
            raise CallError("argument %r must be %s, not %s" % (name, _names_of(kinds), found))


def _names_of(kinds: Any) -> str:
    if isinstance(kinds, tuple):
        return " or ".join(_names_of(kind) for kind in kinds)
    return str(getattr(kinds, "__name__", kinds))


def _parameters_of(func: Any) -> tuple[str, ...]:
    """Return the names of a function's parameters, looking through decorators."""
    while hasattr(func, "__wrapped__"):
        func = func.__wrapped__
    code = getattr(func, "__code__", None)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()


# -- services


class Invoker:
    """
    Invoker of a service's methods, after checks of policies and arguments.

    :param Service service: the service
    """

    __module__ = "mitogen.service"

    #: Text of the error for a caller that a policy refuses; programs compare its beginning.
    unauthorized_msg = "Caller is not authorized to invoke %r of service %r"

    def __init__(self, service: Service) -> None:
        self.service = service

    def __repr__(self) -> str:
        return "%s(%r)" % (type(self).__name__, self.service)

    def _check(self, method_name: str, kwargs: dict[str, Any], msg: Message) -> None:
        service_name = self.service.name()
        # Looked up on the class: an unauthorized caller must not make a property run.
        policies = _policies_of(getattr(type(self.service), method_name, None))
        if not policies:
            raise Error("service %r has no exposed method %r" % (service_name, method_name))
        for policy in policies:
            if not policy.is_authorized(self.service, msg):
                text = self.unauthorized_msg % (method_name, service_name)
                who = msg.src_id or 0, type(policy).__name__
                raise Error(text + ": context %d is refused by %s" % who)
        spec = getattr(getattr(self.service, method_name), "mitogen_service__arg_spec", {})
        try:
            validate_arg_spec(spec, kwargs)
        except CallError as error:
            raise CallError("%s of service %r: %s" % (method_name, service_name, error)) from None

    def _call(self, method_name: str, kwargs: dict[str, Any], msg: Message) -> Any:
        method = getattr(self.service, method_name)
        if "msg" in _parameters_of(method):
            kwargs["msg"] = msg
        result = method(**kwargs)
        if result is not Service.NO_REPLY and getattr(method, "mitogen_service__no_reply", False):
            return None
        return result

    def _answer(self, method_name: str, kwargs: dict[str, Any], msg: Message) -> None:
        """Call a method and answer with its result or its error."""
        try:
            result = self._call(method_name, kwargs, msg)
            if result is not Service.NO_REPLY:
                msg.reply(result)
        except BaseException as error:
            method = getattr(self.service, method_name)
            silent = getattr(method, "mitogen_service__no_reply", False)
            fail(self.service.router, msg, error, silent)

    def invoke(self, method_name: str, kwargs: dict[str, Any], msg: Message) -> None:
        """
        Call a method and answer. To be called on a pool's thread.

        :param str method_name: name of the method
        :param dict kwargs: arguments of the method
        :param Message msg: the call, which is answered
        :raises Error: there is no such method, or the caller may not call it
        :raises CallError: an argument is missing or has a wrong type
        """
        self._check(method_name, kwargs, msg)
        self._answer(method_name, kwargs, msg)


class SerializedInvoker(Invoker):
    """An invoker that runs one method at a time, in the order in which the calls arrived."""

    __module__ = "mitogen.service"

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._lock = _thread.allocate_lock()
        self._queue: list[tuple[str, dict[str, Any], Message]] = []
        self._busy = False

    def invoke(self, method_name: str, kwargs: dict[str, Any], msg: Message) -> None:
        self._check(method_name, kwargs, msg)
        with self._lock:
            self._queue.append((method_name, kwargs, msg))
            if self._busy:
                return
            self._busy = True
        # The thread that found the invoker idle also runs the calls that arrive meanwhile.
        while True:
            with self._lock:
                if not self._queue:
                    self._busy = False
                    return
                request = self._queue.pop(0)
            # If an answer cannot be sent, the other calls in the queue are served all the same.
            guarded(self.service.router.log, repr(self), self._answer, *request)


class DeduplicatingInvoker(Invoker):
    """
    An invoker that runs a method once for all calls with the same arguments.

    The result is kept for later calls. Errors are sent to the calls waiting and are not kept.
    """

    __module__ = "mitogen.service"

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._lock = _thread.allocate_lock()
        self._responses: dict[Any, Any] = {}
        #: Key to the calls that wait, each with a function that ends its turn in the pool.
        self._waiters: dict[Any, list[tuple[Message, Callable[[], object]]]] = {}

    def key_from_request(self, method_name: str, kwargs: dict[str, Any]) -> Any:
        """
        Return the key of a call. Calls with equal keys get the same answer.

        :param str method_name: name of the method
        :param dict kwargs: arguments of the method
        :returns: any hashable object
        """
        return method_name, _frozen(kwargs)

    def invoke(self, method_name: str, kwargs: dict[str, Any], msg: Message) -> None:
        self._check(method_name, kwargs, msg)
        key = self.key_from_request(method_name, kwargs)
        with self._lock:
            known = key in self._responses
            if not known:
                waiters = self._waiters.setdefault(key, [])
                # A call that waits keeps its turn, so that few answers are sent at once.
                hold: Callable[[], Callable[[], object]] = getattr(msg, "hold_turn", _no_turn)
                waiters.append((msg, hold()))
                if len(waiters) > 1:
                    return
        if known:
            return msg.reply(self._responses[key])
        try:
            result = self._call(method_name, kwargs, msg)
            if result is Service.NO_REPLY:
                raise Error("%s: a deduplicated method must return its result" % (method_name,))
            core.encode(result, None, "result")
        except BaseException as error:
            # As a name of its own, because `error` does not outlive this clause.
            failure = CallError(error) if not isinstance(error, CallError) else error
            self._answer_waiters(key, lambda waiter: fail(self.service.router, waiter, failure))
            return
        with self._lock:
            if len(self._responses) >= MAX_RESPONSES:
                del self._responses[next(iter(self._responses))]
            self._responses[key] = result
        self._answer_waiters(key, lambda waiter: waiter.reply(result))

    def _answer_waiters(self, key: Any, answer: Callable[[Message], object]) -> None:
        with self._lock:
            waiters = self._waiters.pop(key)
        for waiter, release in waiters:
            guarded(self.service.router.log, repr(self), answer, waiter)
            release()


def _no_turn() -> Callable[[], object]:
    # The call did not come through a pool.
    return bool


def _frozen(value: Any) -> Any:
    """Return a hashable object that is equal for equal values."""
    if isinstance(value, dict):
        return frozenset((_frozen(key), _frozen(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(_frozen(each) for each in value)
    if isinstance(value, set):
        return frozenset(value)
    # The type is included: 1, 1.0 and True are equal, but their answers may differ.
    return type(value).__name__, value


def fail(router: Any, msg: Message, error: BaseException, log: bool = False) -> None:
    """Answer a call with an error. Log the error if no answer is expected."""
    if not isinstance(error, CallError):
        error = CallError(error)
    if log or not msg.reply_to:
        router.log(ERROR, "a service method called by context %d failed: %s", msg.src_id, error)
    msg.reply(error)


class Service:
    """
    Base class of services. Methods with :func:`expose` are called on a Pool's threads. A method
    with a parameter `msg` gets the Message that called it.

    :param Router router: router of this context
    """

    __module__ = "mitogen.service"

    #: Class that calls the methods.
    invoker_class: InvokerType = Invoker
    #: Result of a method that sends the answer itself, with `msg.reply()`.
    NO_REPLY = object()

    def __init__(self, router: Any) -> None:
        self.router = router
        #: A Select. When one of its receivers gets a message, on_message() is called.
        self.select = Select(oneshot=False)

    @classmethod
    def name(cls) -> str:
        """Return the service's name, `module.Class`."""
        return "%s.%s" % (cls.__module__, cls.__name__)

    def __repr__(self) -> str:
        return "%s()" % (type(self).__name__,)

    def on_message(self, event: Event) -> None:
        """Handle a message that arrived in `self.select`. Called on a pool's thread."""

    def on_shutdown(self) -> None:
        """Clean up when the pool ends. Called on a pool's thread, when no method runs any more."""
