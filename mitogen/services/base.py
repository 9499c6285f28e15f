"""
What a service is: the base class, who may call its methods and with what, and how they are called.
Pools, which have the threads, are in pool.py, where all these names are found as well.

Rules
    1. Only methods with a policy can be called.
    2. Whoever waits for an answer gets one: the result or a CallError. What a method raises where
       nobody waits is logged.

Threads: a pool's; the invokers take any number at once.
"""

from __future__ import annotations

import _thread

from mitogen import core
from mitogen.core import ERROR, CallError
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


class Error(Exception):
    """A service can't be called so: there is none, it may not be, or the arguments are wrong."""

    #: The name that programs know, also where it was raised far away.
    __module__ = "mitogen.service"


# -- who may call, and with what


class Policy:
    """Decides who may call a method: see :func:`expose`."""

    def is_authorized(self, service: Service, msg: Message) -> bool:
        """
        Return whether `msg` may call.

        :param Service service: the service that it is for
        :param Message msg: the call
        """
        raise NotImplementedError()


class AllowAny(Policy):
    """Any context may call."""

    def is_authorized(self, service: Service, msg: Message) -> bool:
        return True


class AllowParents(Policy):
    """This context and its ancestors may call."""

    def is_authorized(self, service: Service, msg: Message) -> bool:
        return bool(core.has_parent_authority(msg))


def expose(policy: Policy) -> Callable[[Any], Any]:
    """
    Decorator: have a method callable from other contexts.

    Where it is used more than once all policies must agree.

    :param Policy policy: who may call it
    """

    def decorate(func: Any) -> Any:
        func.mitogen_service__policies = (policy,) + _policies_of(func)
        return func

    return decorate


def _policies_of(func: Any) -> tuple[Policy, ...]:
    found = getattr(func, "mitogen_service__policies", ())
    # A mock, or whatever else has any attribute, is not thereby exposed.
    return found if isinstance(found, tuple) else ()


def arg_spec(spec: dict[str, Any]) -> Callable[[Any], Any]:
    """
    Decorator: have a method's arguments checked before it is called.

    :param dict spec: name to type, or tuple of types, of each argument that must be there
    """

    def decorate(func: Any) -> Any:
        func.mitogen_service__arg_spec = spec
        return func

    return decorate


def no_reply() -> Callable[[Any], Any]:
    """Decorator: a method's result is not sent, and what it raises is logged."""

    def decorate(func: Any) -> Any:
        func.mitogen_service__no_reply = True
        return func

    return decorate


def validate_arg_spec(spec: dict[str, Any], args: dict[str, Any]) -> None:
    """
    Check arguments.

    :param dict spec: name to type, or tuple of types
    :param dict args: name to value
    :raises CallError: one is missing, or of another type; the text says which
    """
    for name, kinds in spec.items():
        if name not in args:
            raise CallError("argument %r is missing" % (name,))
        if not isinstance(args[name], kinds):
            found = type(args[name]).__name__
            raise CallError("argument %r is a %s; wanted: %s" % (name, found, _names_of(kinds)))


def _names_of(kinds: Any) -> str:
    if isinstance(kinds, tuple):
        return " or ".join(_names_of(kind) for kind in kinds)
    return str(getattr(kinds, "__name__", kinds))


def _parameters_of(func: Any) -> tuple[str, ...]:
    """Return the names of a function's parameters, seen through decorators."""
    while hasattr(func, "__wrapped__"):
        func = func.__wrapped__
    code = getattr(func, "__code__", None)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()


# -- services


class Invoker:
    """
    Calls a service's methods, after having checked that it may.

    :param Service service: the service
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    def __repr__(self) -> str:
        return "%s(%r)" % (type(self).__name__, self.service)

    def _check(self, method_name: str, kwargs: dict[str, Any], msg: Message) -> None:
        service_name = self.service.name()
        # Looked up on the class: a property must not run for somebody who may call nothing.
        policies = _policies_of(getattr(type(self.service), method_name, None))
        if not policies:
            raise Error("service %r has no method %r to call" % (service_name, method_name))
        for policy in policies:
            if not policy.is_authorized(self.service, msg):
                raise Error(
                    "context %d may not call %r of service %r: %s refuses it"
                    % (msg.src_id or 0, method_name, service_name, type(policy).__name__)
                )
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
        """Call, and answer whatever comes of it."""
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
        A pool's thread: call a method and answer.

        :param str method_name: which
        :param dict kwargs: its arguments
        :param Message msg: the call, which is answered
        :raises Error: there is no such method, or this caller may not call it
        :raises CallError: an argument is missing or of a wrong type
        """
        self._check(method_name, kwargs, msg)
        self._answer(method_name, kwargs, msg)


class SerializedInvoker(Invoker):
    """Calls a service's methods one after the other, in the order that they came."""

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
        # The thread that found it idle serves those that come meanwhile.
        while True:
            with self._lock:
                if not self._queue:
                    self._busy = False
                    return
                request = self._queue.pop(0)
            try:
                self._answer(*request)
            except core.Error as error:
                # The answer could not be sent; those that wait are not to wait for ever.
                self.service.router.log(ERROR, "%r: %s", self, error)


class DeduplicatingInvoker(Invoker):
    """
    Calls a method once for all calls with the same arguments, those that come while it runs and
    those that come later; errors go to those that wait, and are not kept.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._lock = _thread.allocate_lock()
        self._responses: dict[Any, Any] = {}
        self._waiters: dict[Any, list[Message]] = {}

    def key_from_request(self, method_name: str, kwargs: dict[str, Any]) -> Any:
        """
        Return what calls that are to have the same answer have in common.

        :param str method_name: the method
        :param dict kwargs: its arguments
        :returns: something hashable
        """
        return method_name, _frozen(kwargs)

    def invoke(self, method_name: str, kwargs: dict[str, Any], msg: Message) -> None:
        self._check(method_name, kwargs, msg)
        key = self.key_from_request(method_name, kwargs)
        with self._lock:
            known = key in self._responses
            if not known:
                waiters = self._waiters.setdefault(key, [])
                waiters.append(msg)
                if len(waiters) > 1:
                    return
        if known:
            return msg.reply(self._responses[key])
        try:
            result = self._call(method_name, kwargs, msg)
            if result is Service.NO_REPLY:
                raise Error("%s: what is deduplicated must return its answer" % (method_name,))
            core.encode(result, None, "result")
        except BaseException as error:
            for waiter in self._take_waiters(key):
                fail(self.service.router, waiter, error)
            return
        with self._lock:
            self._responses[key] = result
        for waiter in self._take_waiters(key):
            waiter.reply(result)

    def _take_waiters(self, key: Any) -> list[Message]:
        with self._lock:
            return self._waiters.pop(key)


def _frozen(value: Any) -> Any:
    """Return something hashable that is equal for equal values."""
    if isinstance(value, dict):
        return frozenset((_frozen(key), _frozen(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(_frozen(each) for each in value)
    if isinstance(value, set):
        return frozenset(value)
    # 1, 1.0 and True are equal, and may be answered differently.
    return type(value).__name__, value


def fail(router: Any, msg: Message, error: BaseException, log: bool = False) -> None:
    """Answer a call with an error; log that if nobody waits for it."""
    if not isinstance(error, CallError):
        error = CallError(error)
    if log or not msg.reply_to:
        router.log(ERROR, "a service's method failed, called by context %d: %s", msg.src_id, error)
    msg.reply(error)


class Service:
    """
    Base of services. Its methods are called on a Pool's threads, if :func:`expose` says so; one
    with a parameter `msg` gets the Message that called it.

    :param Router router: router of this context
    """

    #: How its methods are called.
    invoker_class: InvokerType = Invoker
    #: What a method returns that sees to the answer itself, by `msg.reply()`.
    NO_REPLY = object()

    def __init__(self, router: Any) -> None:
        self.router = router
        #: Receivers added to it have on_message() called.
        self.select = Select(oneshot=False)

    @classmethod
    def name(cls) -> str:
        """Return the name that the service is called by: `module.Class`."""
        return "%s.%s" % (cls.__module__, cls.__name__)

    def __repr__(self) -> str:
        return "%s()" % (type(self).__name__,)

    def on_message(self, event: Event) -> None:
        """A pool's thread: something arrived in `self.select`."""

    def on_shutdown(self) -> None:
        """A pool's thread: the pool ends; no method runs any more."""
