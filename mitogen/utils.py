"""
Conveniences for programs: running a function with a router, logging, plain values.
"""

from __future__ import annotations

import logging
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Concatenate

    from mitogen.core import P, R
    from mitogen.master import Router


__all__ = [
    "cast",
    "disable_site_packages",
    "log_get_formatter",
    "log_levels_configure",
    "log_to_file",
    "run_with_router",
    "setup_gil",
    "with_router",
]

#: Level of log records about each read and write.
IO = 5


def setup_gil() -> None:
    """Do nothing. Kept for compatibility."""


def disable_site_packages() -> None:
    """Remove site-packages and dist-packages from `sys.path`."""
    for path in sys.path[:]:
        if "site-packages" in path or "dist-packages" in path:
            sys.path.remove(path)


def log_get_formatter() -> logging.Formatter:
    """Return the formatter used by log_to_file()."""
    return logging.Formatter(
        "%(asctime)s.%(msecs)03d %(process)d %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"
    )


def _level(name: str) -> int:
    name = os.environ.get("MITOGEN_LOG_LEVEL", name).upper()
    level = IO if name == "IO" else getattr(logging, name, None)
    if not isinstance(level, int):
        raise ValueError("%r is not a log level; use IO, DEBUG, INFO, WARNING or ERROR" % name)
    return level


def log_levels_configure(default: str = "INFO") -> None:
    """Set the root logger's level to `default`, unless MITOGEN_LOG_LEVEL is in the environment."""
    logging.getLogger().setLevel(_level(default))


class _LogFile:
    """The handler that log_to_file() added last."""

    handler: logging.Handler | None = None


_log_file = _LogFile()


def log_to_file(path: str | None = None, level: str = "INFO", io: Any = None) -> None:
    """
    Write log records to a file, in place of the one of an earlier call.

    :param str path: path of the file; None for standard error
    :param str level: level by name; MITOGEN_LOG_LEVEL in the environment overrides it
    :param io: accepted for compatibility
    """
    if path:
        handler: logging.Handler = logging.FileHandler(path, encoding="utf-8")
    else:
        handler = logging.StreamHandler()
    number = _level(level)
    handler.setFormatter(log_get_formatter())
    handler.setLevel(number)
    root = logging.getLogger()
    root.setLevel(min(number, root.level or number))
    if _log_file.handler is not None:
        root.removeHandler(_log_file.handler)
        _log_file.handler.close()
    root.addHandler(handler)
    _log_file.handler = handler


def run_with_router(
    func: Callable[Concatenate[Router, P], R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """
    Call `func(router, *args, **kwargs)` with a new master's Router, and return its result. The
    router and all its contexts are shut down afterwards in any case.
    """
    import mitogen.master

    with mitogen.master.Router() as router:
        return func(router, *args, **kwargs)


def with_router(func: Callable[Concatenate[Router, P], R]) -> Callable[P, R]:
    """Decorate a function so that it is called by run_with_router()."""

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return run_with_router(func, *args, **kwargs)

    wrapper.__name__ = func.__name__
    wrapper.__doc__ = func.__doc__
    wrapper.__module__ = func.__module__
    wrapper.__qualname__ = func.__qualname__
    return wrapper


def cast(obj: Any) -> Any:
    """
    Return `obj` with subclasses of dict, list, str, bytes, int and float replaced by those. A tuple
    becomes a list, as in old releases.

    :raises TypeError: it contains a value of another type
    """
    kind = type(obj)
    if isinstance(obj, PASSTHROUGH):
        return obj
    if isinstance(obj, dict):
        return {cast(key): cast(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [cast(item) for item in obj]
    bases: Any = (bool, int, float, str, bytes)
    for base in bases:
        if isinstance(obj, base):
            return obj if kind is base else base(obj)
    if obj is None:
        return obj
    raise TypeError("cannot cast %r: %r" % (kind, obj))


def _passthrough() -> tuple[type, ...]:
    from mitogen import core

    return (core.Blob, core.Kwargs, core.Secret, core.Context, core.Sender, core.CallError)


PASSTHROUGH = _passthrough()
