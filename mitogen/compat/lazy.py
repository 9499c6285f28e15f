"""
Has a module find names in others, which are imported when one of those is first asked for.

So names that only old programs use cost nothing to those that do not use them. From Python 3.7 on a
module's own `__getattr__` does the same (PEP 562); a target may have 3.6.

Threads: any. What is imported is imported on the thread that asks.
"""

from __future__ import annotations

import sys

from mitogen.core import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["find_elsewhere"]


def find_elsewhere(module: str, places: str | dict[str, str], shown_as: str | None = None) -> None:
    """
    Have names that a module does not define found in the `__all__` of other modules.

    :param module: full name of the module, which is being imported
    :param places: full name of one other module; or of several, each with the names to ask it for,
        with blanks between
    :param shown_as: what an AttributeError calls the module
    """
    where: dict[str, str] = {}
    if not isinstance(places, str):
        where = {name: place for place, names in places.items() for name in names.split()}

    class Module(type(sys)):  # type: ignore[misc]  # as in core.py
        def __getattr__(self, name: str) -> Any:
            place: Any = where.get(name) if where else places
            # Private names are asked for by the import system, all the time.
            if place and name[0] != "_":
                found = import_module(place)
                if name in found.__all__:
                    value = self.__dict__[name] = getattr(found, name)
                    return value
            raise AttributeError(
                "module %r has no attribute %r" % (shown_as or self.__name__, name)
            )

    sys.modules[module].__class__ = Module
