"""
Names of `mitogen.core` that few programs use, and those of old releases.

They are found there all the same (core's module class looks here), so they cost no child anything
that does not use them.
"""

import os
import sys
import threading
from io import BytesIO

from mitogen import core
from mitogen.core import RAW, Message, Sender
from mitogen.mailbox import Channel, Latch, LatchError, Receiver

__all__ = [
    "AnyTextType",
    "BytesIO",
    "BytesType",
    "Channel",
    "FsPathTypes",
    "IOLOG",
    "Latch",
    "LatchError",
    "LOG",
    "LOGGERS",
    "PY24",
    "PY3",
    "Receiver",
    "UnicodeType",
    "b",
    "get_blocking",
    "integer_types",
    "io_op",
    "iter_split",
    "module_lineage",
    "pipe",
    "set_block",
    "set_blocking",
    "set_cloexec",
    "set_nonblock",
    "socketpair",
    "to_text",
    "unlisten",
]

ADD_ROUTE = 103
ALLOCATE_ID = 105
FORWARD_MODULE = 108
DETACHING = 109
STUB_CALL_SERVICE = 111
GET_RESOURCE = 112
LOAD_RESOURCE = 113
CANCEL = 116

Message.ENC_MGC = Message.ENC_PKL
Message.ENCS = (Message.ENC_PKL, RAW)
Message.HEADER_FMT = ">HBLLLLLL"
Message.HEADER_LEN = core._HEADER.size
Message.HEADER_MAGIC = core.MAGIC
Message.pack = lambda self: self._header(len(self.data), self.flags) + self.data
Sender.put = Sender.send
Sender.__repr__ = lambda self: "Sender(%r, %r)" % (self.context, self.dst_handle)
Sender.explicit_close_msg = ""
core.ChannelError.remote_msg = "Channel closed by remote end."
core.ChannelError.local_msg = "Channel closed by local end."


def _unpickle_iter(self, throw=True, throw_dead=True, find_class=None):
    """Yield the values of a message that was made with several."""
    if self.is_dead:
        self.unpickle(throw, throw_dead)
        return
    pos = 0
    while pos < len(self.data):
        value, pos = core.decode_next(self.data, pos, self.router)
        if throw and isinstance(value, core.CallError):
            raise value
        yield value


def _pickled(cls, *objs, **kwargs):
    """Return a message that carries `objs` as values, one after the other."""
    return cls(data=b"".join(core.encode(obj) for obj in objs), **kwargs)


Message.unpickle_iter = _unpickle_iter
Message.pickled = classmethod(_pickled)

BytesType = bytes
UnicodeType = str
AnyTextType = (bytes, str)
FsPathTypes = (str,)
integer_types = (int,)
PY24 = False
PY3 = True
IS_WSL = False
all, any, next, range = all, any, next, range

threading__current_thread = threading.current_thread


def threading__thread_name(thread):
    """Return a thread's name."""
    return thread.name


def b(text):
    """Return `text` as bytes."""
    return text.encode("latin-1")


def to_text(obj):
    """Return `obj` as str; bytes are UTF-8."""
    return obj.decode("utf-8") if isinstance(obj, bytes) else str(obj)


def iteritems(dct):
    """Return an iterator over a dict's pairs."""
    return iter(dct.items())


def iterkeys(dct):
    """Return an iterator over a dict's keys."""
    return iter(dct)


def itervalues(dct):
    """Return an iterator over a dict's values."""
    return iter(dct.values())


def str_partition(text, separator):
    """Return `text.partition(separator)`."""
    return text.partition(separator)


def str_rpartition(text, separator):
    """Return `text.rpartition(separator)`."""
    return text.rpartition(separator)


bytes_partition = str_partition


def unlisten(obj, name, func):
    """Undo `listen()`; ValueError if there was none."""
    obj.__dict__.get("_signals", {}).get(name, []).remove(func)


def module_lineage(fullname):
    """Return a module's full name and those of its packages, the longest first."""
    names = []
    while fullname:
        names.append(fullname)
        fullname = fullname.rpartition(".")[0]
    return names


def iter_split(buf, delim, func):
    """
    Call `func(line)` for each part of `buf` that ends in `delim`, until it returns False.

    :returns: what is left of `buf`, and whether to go on
    """
    go_on = True
    while go_on:
        line, found, rest = buf.partition(delim)
        if not found:
            break
        go_on = func(line) is not False
        buf = rest
    return buf, go_on


def io_op(func, *args):
    """Return (`func(*args)`, None), or (None, the OSError) of a descriptor that was hung up."""
    while True:
        try:
            return func(*args), None
        except InterruptedError:
            continue
        except OSError as e:
            return None, e


def get_blocking(fd):
    """Return whether a descriptor is in blocking mode."""
    return os.get_blocking(fd)


def set_blocking(fd, blocking):
    """Put a descriptor into blocking mode, or out of it."""
    os.set_blocking(fd, blocking)


def set_block(fd):
    """Put a descriptor into blocking mode."""
    os.set_blocking(fd, True)


def set_nonblock(fd):
    """Put a descriptor into non-blocking mode."""
    os.set_blocking(fd, False)


def set_cloexec(fd):
    """Have a descriptor closed at exec."""
    os.set_inheritable(fd, False)


def _modes(files, blocking):
    if blocking is not None:
        for fp in files:
            os.set_blocking(fp.fileno(), blocking)
    return files


def pipe(blocking=None):
    """Return two file objects, for reading and for writing, of a new pipe."""
    rfd, wfd = os.pipe()
    return _modes((os.fdopen(rfd, "rb", 0), os.fdopen(wfd, "wb", 0)), blocking)


def socketpair(blocking=None):
    """Return two connected sockets."""
    import socket

    return _modes(socket.socketpair(), blocking)


def enable_debug_logging():
    """Have the loggers of mitogen log everything."""
    import logging

    logging.getLogger("mitogen").setLevel(logging.DEBUG)


def enable_profiling(econtext=None):
    """Do nothing (kept for old programs): use py-spy."""


def __getattr__(name):
    # logging is imported by those who log only.
    if name in ("LOG", "IOLOG", "LOGGERS"):
        import logging

        loggers = logging.getLogger("mitogen"), logging.getLogger("mitogen.io")
        return {"LOG": loggers[0], "IOLOG": loggers[1], "LOGGERS": list(loggers)}[name]
    raise AttributeError("module 'mitogen.core' has no attribute %r" % name)


if sys.version_info < (3, 7):  # pragma: no cover (no PEP 562 there)
    LOG = __getattr__("LOG")
    IOLOG = __getattr__("IOLOG")
    LOGGERS = [LOG, IOLOG]
