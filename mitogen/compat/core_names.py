"""
Rarely used names of `mitogen.core`, and its names of old releases: see lookup.py.

Threads: any.
"""

from __future__ import annotations

import os
from _struct import calcsize

from mitogen import core
from mitogen.core import RAW, Message
from mitogen.core.mailbox import Channel, Latch, LatchError, Receiver
from mitogen.tree.message_handles import (
    ADD_ROUTE,
    ALLOCATE_ID,
    AWAIT_END,
    DETACHING,
    FORWARD_MODULE,
    GET_RESOURCE,
    LOAD_RESOURCE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

__all__ = [
    "ADD_ROUTE",
    "ALLOCATE_ID",
    "AWAIT_END",
    "DETACHING",
    "FORWARD_MODULE",
    "GET_RESOURCE",
    "IS_WSL",
    "LOAD_RESOURCE",
    "STUB_CALL_SERVICE",
    "all",
    "any",
    "next",
    "range",
    "AnyTextType",
    "BytesType",
    "Channel",
    "FsPathTypes",
    "ImportPolicy",
    "Latch",
    "LatchError",
    "ModuleDeniedByBlocksError",
    "ModuleDeniedByOverridesError",
    "ModuleUnsuitableError",
    "PY24",
    "PY3",
    "Receiver",
    "SecurityError",
    "UnicodeType",
    "b",
    "bytes_partition",
    "enable_debug_logging",
    "enable_profiling",
    "get_blocking",
    "integer_types",
    "io_op",
    "iter_split",
    "iteritems",
    "iterkeys",
    "itervalues",
    "module_lineage",
    "pipe",
    "set_block",
    "set_blocking",
    "set_cloexec",
    "set_nonblock",
    "socketpair",
    "str_partition",
    "str_rpartition",
    "threading__current_thread",
    "threading__thread_name",
    "to_text",
    "unlisten",
]

#: Name to the module that defines it, which is imported when the name is first used.
ELSEWHERE = {
    "BytesIO": "io",
    **dict.fromkeys(
        ["IOLOG", "LOG", "LOGGERS", "LogHandler", "PidfulStreamHandler"], "mitogen.compat.logs"
    ),
    **dict.fromkeys(["ResourceReader", "ResourceRequester"], "mitogen.importing.resources"),
    **dict.fromkeys(
        ["BasicStream", "BufferedWriter", "DelimitedProtocol", "IoLogger", "IoLoggerProtocol"]
        + ["MitogenProtocol", "Protocol", "Side", "Waker"],
        "mitogen.compat.streams",
    ),
}

STUB_CALL_SERVICE = 111

BytesType = bytes
UnicodeType = str
AnyTextType = (bytes, str)
FsPathTypes = (str,)
integer_types = (int,)
PY24 = False
PY3 = True
IS_WSL = "microsoft" in os.uname().release.lower()
all, any, next, range = all, any, next, range  # built-in


# -- text, tables, threads


def threading__current_thread() -> Any:
    """Return the current thread."""
    import threading

    return threading.current_thread()


def threading__thread_name(thread: Any) -> str:
    """Return a thread's name."""
    return str(thread.name)


def b(text: str) -> bytes:
    """Return `text` as bytes."""
    return text.encode("latin-1")


def to_text(o: Any) -> str:
    """Return `o` as str; bytes are UTF-8."""
    return o.decode("utf-8") if isinstance(o, bytes) else str(o)


def iteritems(dct: dict[Any, Any]) -> Iterator[Any]:
    """Return an iterator over a dict's pairs."""
    return iter(dct.items())


def iterkeys(dct: dict[Any, Any]) -> Iterator[Any]:
    """Return an iterator over a dict's keys."""
    return iter(dct)


def itervalues(dct: dict[Any, Any]) -> Iterator[Any]:
    """Return an iterator over a dict's values."""
    return iter(dct.values())


def str_partition(text: Any, separator: Any) -> Any:
    """Return `text.partition(separator)`."""
    return text.partition(separator)


def str_rpartition(text: Any, separator: Any) -> Any:
    """Return `text.rpartition(separator)`."""
    return text.rpartition(separator)


bytes_partition = str_partition


def unlisten(obj: Any, name: str, func: Callable[..., Any]) -> None:
    """Undo `listen()`; raise ValueError if `func` is not registered."""
    obj.__dict__.get("_signals", {}).get(name, []).remove(func)


def module_lineage(fullname: str) -> list[str]:
    """Return a module's full name and those of its packages, the longest first."""
    names = []
    while fullname:
        names.append(fullname)
        fullname = fullname.rpartition(".")[0]
    return names


def iter_split(buf: bytes, delim: bytes, func: Callable[[bytes], Any]) -> tuple[bytes, bool]:
    """
    Call `func(line)` for each part of `buf` that ends in `delim`, until it returns False.

    :returns: the rest of `buf`, and False if `func` returned False
    """
    go_on = True
    while go_on:
        line, found, rest = buf.partition(delim)
        if not found:
            break
        go_on = func(line) is not False
        buf = rest
    return buf, go_on


# -- descriptors


def io_op(func: Callable[..., Any], *args: Any) -> tuple[Any, OSError | None]:
    """Return (`func(*args)`, None), or (None, OSError) if the descriptor was hung up."""
    while True:
        try:
            return func(*args), None
        except InterruptedError:
            continue
        except OSError as e:
            return None, e


def get_blocking(fd: int) -> bool:
    """Return whether a descriptor is in blocking mode."""
    return os.get_blocking(fd)


def set_blocking(fd: int, blocking: bool) -> None:
    """Set a descriptor to blocking or non-blocking mode."""
    os.set_blocking(fd, blocking)


def set_block(fd: int) -> None:
    """Set a descriptor to blocking mode."""
    os.set_blocking(fd, True)


def set_nonblock(fd: int) -> None:
    """Set a descriptor to non-blocking mode."""
    os.set_blocking(fd, False)


def set_cloexec(fd: int) -> None:
    """Set a descriptor to be closed at exec."""
    os.set_inheritable(fd, False)


def _modes(files: Any, blocking: bool | None) -> Any:
    if blocking is not None:
        for fp in files:
            os.set_blocking(fp.fileno(), blocking)
    return files


def pipe(blocking: bool | None = None) -> Any:
    """Return two file objects, for reading and for writing, of a new pipe."""
    rfd, wfd = os.pipe()
    return _modes((os.fdopen(rfd, "rb", 0), os.fdopen(wfd, "wb", 0)), blocking)


def socketpair(blocking: bool | None = None) -> Any:
    """Return two connected sockets."""
    import socket

    return _modes(socket.socketpair(), blocking)


# -- logs


def enable_debug_logging() -> None:
    """Set mitogen's loggers to log everything."""
    import logging

    logging.getLogger("mitogen").setLevel(logging.DEBUG)


def enable_profiling(econtext: Any = None) -> None:
    """Do nothing (kept for old programs); set `router.profiling` instead."""


# -- modules that are not served


class ModuleDeniedByOverridesError(ModuleNotFoundError):
    """ImportPolicy: a module for which the master's copy is not used."""


class ModuleDeniedByBlocksError(ModuleNotFoundError):
    """ImportPolicy: a blocked module."""


class ModuleUnsuitableError(ModuleNotFoundError):
    """A module that cannot be sent."""


class SecurityError(core.Error):
    """An error raised by a release of 2017; kept for `except` clauses."""


class ImportPolicy:
    """
    Filter of requested modules by prefixes of full names. (The modules that a master serves are set
    by `ModuleResponder.whitelist_prefix()` and `blacklist_prefix()`, which use their own policy.)

    :param overrides: modules for which the master's copy is used; all others come from the target
    :param blocks: modules that are never served
    """

    def __init__(self, overrides: Iterable[str] = (), blocks: Iterable[str] = ()) -> None:
        self.overrides = set(overrides)
        self.blocks = set(blocks)

    def __repr__(self) -> str:
        return "ImportPolicy(overrides=%r, blocks=%r)" % (
            sorted(self.overrides),
            sorted(self.blocks),
        )

    def denied(self, fullname: str) -> bool:
        """Return whether requests for a module are denied."""
        try:
            self.denied_raise(fullname)
        except ModuleNotFoundError:
            return True
        return False

    def denied_raise(self, fullname: str) -> None:
        """Raise ModuleNotFoundError, with the reason, if a module is denied."""
        if fullname == "mitogen" or fullname.startswith("mitogen."):
            return
        if self.overrides and not self.overriden(fullname):
            raise ModuleDeniedByOverridesError(
                "%s: not among the modules that are served" % fullname, name=fullname
            )
        if not self.blocks.isdisjoint(module_lineage(fullname)):
            raise ModuleDeniedByBlocksError("%s: blocked" % fullname, name=fullname)

    def overriden(self, fullname: str) -> bool:
        """Return whether a module or one of its packages is in `overrides`."""
        return not self.overrides.isdisjoint(module_lineage(fullname))


# -- attributes of core's classes: lazy.CLASS_NAMES lists them

_HEADER = ">HBLLLLLL"


class MessageNames:
    """Attributes of core.Message."""

    ENC_MGC = Message.ENC_PKL
    ENCS = (Message.ENC_PKL, RAW)
    HEADER_FMT = _HEADER
    HEADER_LEN = calcsize(_HEADER)
    HEADER_MAGIC = core.MAGIC

    def pack(self: Any) -> bytes:
        """Return the message as one frame."""
        return bytes(self.header(len(self.data), self.flags) + self.data)

    def unpickle_iter(
        self: Any, throw: bool = True, throw_dead: bool = True, find_class: Any = None
    ) -> Iterator[Any]:
        """Yield the values of a message that carries several."""
        if self.is_dead:
            self.unpickle(throw, throw_dead)
            return
        pos = 0
        while pos < len(self.data):
            value, pos = core.decode_next(self.data, pos, self.router)
            if throw and isinstance(value, core.CallError):
                raise value
            yield value


class SenderNames:
    """Attributes of core.Sender."""

    explicit_close_msg = ""

    def put(self: Any, data: Any) -> None:
        """Send a value."""
        self.send(data)

    def __repr__(self: Any) -> str:
        return "Sender(%r, %r)" % (self.context, self.dst_handle)


class ChannelErrorNames:
    """Attributes of core.ChannelError."""

    remote_msg = "Channel closed by remote end."
    local_msg = "Channel closed by local end."


class ImporterNames:
    """Attributes of core.Importer."""

    def find_module(self: Any, fullname: str, path: Any = None) -> Any:
        """Return the loader of a module that comes from the parent, or None (PEP 302)."""
        spec = self.find_spec(fullname, path)
        return spec and spec.loader

    def load_module(self: Any, fullname: str) -> Any:
        """Import a module from the parent (PEP 302)."""
        return core.import_module(fullname)


class RouterNames:
    """Attributes of core.Router."""

    def register(self: Any, context: core.Context, stream: Any) -> None:
        """Any thread: route `context` through `stream`, and start receiving from the stream."""
        self._stream_by_id[context.context_id] = stream
        stream.broker.defer(stream.start)

    def _async_route(self: Any, msg: Message, in_stream: Any = None) -> None:
        """Broker thread: route a message, which may have arrived on `in_stream`."""
        if in_stream:
            self.on_frame(msg, in_stream)
        else:
            self.route(msg, False)
