"""
Lazy names: the tables of names that programs written for mitogen 0.3 use and that other modules
define, and the mechanism that looks them up.

A name is imported when it is first used, so it costs nothing to programs that do not use it.
Importing the module that defines it changes nothing: the name was available before, as the same
object.

The tables are registered in two places: by mitogen/core/__init__.py on the controller, and by
calls/first_call.py in a child.

Threads: any; a child's broker thread only for modules that are already loaded.
"""

from __future__ import annotations

import sys

from mitogen.core.io import Stream
from mitogen.core.lazy import LAZY, fetch, import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CLASS_NAMES", "LazyAttribute", "find_lazy", "register"]

LAZY.update(streams="compat.streams")

#: Module to the module whose `__all__` lists its lazy names. Its `ELSEWHERE` names further modules.
MODULE_NAMES = {
    "mitogen.core": "mitogen.compat.core_names",
    "mitogen.master": "mitogen.compat.master_names",
    "mitogen.parent": "mitogen.compat.parent_names",
}

#: Module to class of mitogen.core to names. In the module the class has the same name, or
#: `<class>Names`.
CLASS_NAMES = {
    "mitogen.calls.first_call": {
        "Importer": "get_code get_filename get_resource_reader get_source is_package"
    },
    "mitogen.compat.core_names": {
        "ChannelError": "local_msg remote_msg",
        "Importer": "find_module load_module",
        "Message": "ENCS ENC_MGC HEADER_FMT HEADER_LEN HEADER_MAGIC pack unpickle_iter",
        "Router": "_async_route register",
        "Sender": "__repr__ explicit_close_msg put",
    },
    "mitogen.compat.parent_names": {"Broker": "defer_sync", "Router": "unidirectional_msg"},
    "mitogen.compat.streams": {
        "Broker": (
            "_start_transmit _stop_transmit keep_alive start_receive start_transmit stop_receive"
            " stop_transmit timers"
        ),
        "Stream": (
            "on_disconnect on_receive on_shutdown on_transmit pending_bytes protocol receive_side"
            " transmit_side"
        ),
    },
    "mitogen.tree.contexts": {
        "Context": "__reduce__ call_service call_service_async on_disconnect send_async send_await"
    },
    "mitogen.tree.router": {"Router": "myself stream_by_id"},
}


class LazyAttribute:
    """
    An attribute of a class that another module defines.

    :param str place: full name of that module
    :param str owner: name of the class
    :param str name: name of the attribute
    """

    def __init__(self, place: str, owner: str, name: str) -> None:
        self.place = place
        self.owner = owner
        self.name = name

    def __get__(self, obj: Any, cls: Any) -> Any:
        module = import_module(self.place)
        holder = getattr(module, self.owner + "Names", None) or getattr(module, self.owner)
        found = getattr(holder, self.name) if obj is None else holder.__dict__[self.name]
        return found.__get__(obj, cls) if obj is not None and hasattr(found, "__get__") else found


def _new_stream(cls: Any, *args: Any, **kwargs: Any) -> Any:
    if cls is Stream and not args and not kwargs:
        # Called by a program: a stream without a router.
        return fetch("streams").BasicStream()
    return object.__new__(cls)


def _with_activate_compat(create: Any) -> Any:
    def __init__(self: Any, poller_class: Any = None, activate_compat: bool = True) -> None:
        create(self, poller_class)

    return __init__


def register(core: Any) -> None:
    """
    Add the lazy names to a module `mitogen.core` and to its classes; idempotent.

    :param core: the module
    """
    for place, classes in CLASS_NAMES.items():
        for owner, names in classes.items():
            cls = getattr(core, owner)
            for name in names.split():
                if name not in cls.__dict__:
                    setattr(cls, name, LazyAttribute(place, owner, name))
    # An argument that old programs pass; it has no effect. In a fork this is done already.
    if core.Broker.__init__.__module__ != __name__:
        core.Broker.__init__ = _with_activate_compat(core.Broker.__init__)
    Stream.__new__ = _new_stream  # type: ignore[method-assign]
    # Defaults of the messages that programs make.
    core.Message.src_id = core.Message.auth_id = getattr(sys.modules["mitogen"], "context_id", 0)


def find_lazy(module: Any, name: str) -> Any:
    """
    Return the value of a module's late name, and store it in the module.

    :raises AttributeError: there is no such name
    """
    shown_as = module.__name__
    place = import_module(MODULE_NAMES[shown_as])
    other = getattr(place, "ELSEWHERE", {}).get(name)
    if not other and name not in place.__all__:
        raise AttributeError("module %r has no attribute %r" % (shown_as, name))
    value = module.__dict__[name] = getattr(import_module(other) if other else place, name)
    return value
