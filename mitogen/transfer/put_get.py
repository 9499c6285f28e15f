"""
Transfer of files and trees between this context and others: put() and get().

The far half of a transfer runs in the other context as a call. Its records and its answer arrive at
one mailbox, in order. Small transfers are part of the call or of its answer, in one round trip.

Threads: a program's thread. In the other context the main thread, as for all calls.
"""

from __future__ import annotations

import os

from mitogen import core
from mitogen.calls.chain import CallChain
from mitogen.core import RAW, CallError, ChannelError, Message, takes_router
from mitogen.core.mailbox import Receiver
from mitogen.transfer.chunks import Error, Outlet, Packer, unpacked
from mitogen.transfer.file_records import (
    Attributes,
    ObjectSink,
    Sink,
    records_of,
    records_of_object,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Union

    Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
    Progress = Callable[[str, int, int | None], Any]
    Record = Any

__all__ = ["Error", "Skipped", "get", "put"]

#: Bytes of records sent with the call itself or its answer, in one round trip.
HEAD = 65536
#: Number of names listed in an error.
LISTED = 20
#: Type name of an Error that was raised in another context.
ERROR_NAME = "%s.%s" % (Error.__module__, Error.__name__)


class Skipped(Error):
    """
    A tree was transferred except for its devices, fifos and sockets.

    :param names: paths of the skipped files, relative to the tree's root
    """

    __module__ = "mitogen.files"

    def __init__(self, names: str | list[str], *args: Any) -> None:
        #: Paths of the skipped files, relative to the tree's root.
        self.names = [names] if isinstance(names, str) else list(names)
        more = len(self.names) - LISTED
        core.Error.__init__(
            self,
            "the tree was transferred except for devices, fifos and sockets: %s%s",
            ", ".join(map(repr, self.names[:LISTED])),
            " and %d more" % more if more > 0 else "",
        )


class _Observer:
    """Observer of the records: calls `progress`, and collects the names of skipped files."""

    def __init__(self, progress: Progress | None, path: str) -> None:
        self.progress = progress
        self.names = [path]
        self.path = path
        self.done = 0
        self.total: int | None = None
        self.skipped: list[str] = []

    def observe(self, record: Record) -> None:
        """Evaluate one record."""
        if type(record) is bytes:
            self.done += len(record)
            self._report()
        elif record[0] == "file":
            self.path = self._join(record[1])
            self.done, self.total = record[3], record[2].get("size")
            self._report()
        elif record[0] == "dir":
            self.names.append(os.fsdecode(record[1]))
        elif record[0] == "up":
            self.names.pop()
        elif record[0] == "skip":
            self.skipped.append(os.path.join(*self.names[2:], os.fsdecode(record[1])))

    def _join(self, name: bytes) -> str:
        names = [*self.names, os.fsdecode(name)]
        return os.path.join(*[each for each in names if each])

    def _report(self) -> None:
        if self.progress:
            self.progress(self.path, self.done, self.total)


class _Call:
    """
    The call of the far half. Its answer arrives at the same mailbox as the records before it.

    :param Context context: context in which it runs
    :param float timeout: seconds for the whole transfer; None for no limit
    """

    def __init__(self, context: Any, timeout: float | None) -> None:
        router = context.router
        if context.context_id == router.context_id:
            raise Error("cannot transfer to or from the context itself: use shutil")
        self.router = router
        self.chain = CallChain(context)
        self.timeout = timeout
        self.deadline = None if timeout is None else core.now() + timeout
        self.mailbox = Receiver(router, respondent=context)
        self.outlet: Outlet | None = None
        self._timers: list[Any] = []

    def __enter__(self) -> _Call:
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        self.router.broker.defer(lambda: [timer.clear() for timer in self._timers])
        # With a CallError the far half has ended itself.
        if kind and not issubclass(kind, CallError):
            self._abandon()
        self.mailbox.close()
        if isinstance(error, CallError) and error.type_name == ERROR_NAME:
            raise Error("%s", error.message) from error
        if isinstance(error, (ChannelError, core.TimeoutError)) and self.is_late():
            raise self._timeout_error() from error

    def _abandon(self) -> None:
        # Both are needed: a call that is about to begin ignores a cancel.
        try:
            if self.outlet:
                self.outlet.abort()
            self.chain.cancel(self.mailbox.handle)
        except core.Error:
            pass

    def is_late(self) -> bool:
        return self.deadline is not None and core.now() >= self.deadline

    def _timeout_error(self) -> core.TimeoutError:
        return core.TimeoutError(
            "%r: the transfer did not finish within %s seconds", self.chain.context, self.timeout
        )

    def start(self, fn: Any, *args: Any) -> None:
        """Call `fn` in the other context."""
        msg = self.chain.make_msg(fn, *args)
        msg.reply_to = self.mailbox.handle
        self.chain.send(fn, msg)

    def get(self) -> Message:
        """Return the next message from the far half."""
        if self.deadline is None:
            return self.mailbox.get()
        return self.mailbox.get(max(0, self.deadline - core.now()))

    def open_outlet(self) -> Outlet:
        """Return an Outlet to the mailbox that the far half announces in its first message."""
        msg = self.get()
        if msg.reply_to < core.FIRST_HANDLE:
            msg.unpickle()
            raise Error("%r: the far half ended early", self.chain.context)
        self.outlet = Outlet(core.Sender(self.chain.context, msg.reply_to))
        if self.deadline is not None:
            # A send may wait for credit without a limit. This timer ends it.
            self.router.broker.defer(self._set_timer, self.outlet.key)
        return self.outlet

    def _set_timer(self, key: Any) -> None:
        left = max(0, (self.deadline or 0) - core.now())
        timer = self.router.broker.after(left, lambda: self.router.end_flow(key, "timeout"))
        self._timers.append(timer)


def _fits_head(records: Iterator[Record], head: list[Record]) -> bool:
    """Move records to `head` up to HEAD bytes; return whether all fit."""
    size = 0
    for record in records:
        head.append(record)
        size += len(record) if type(record) is bytes else 64 + sum(map(_length, record))
        if size > HEAD:
            return False
    return True


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (bytes, str)) else 8


def _record_of(msg: Message) -> Record:
    return msg.data if msg.flags & RAW else unpacked(msg.unpickle())


@takes_router
def _store(
    path: bytes,
    options: dict[str, Any],
    resume: bool,
    head: list[Record],
    reply: Any,
    router: Any = None,
) -> None:
    """Run the far half of put(). Records that are not in `head` arrive at an announced mailbox."""
    with Sink(path, Attributes(**options), resume) as sink:
        for record in head:
            sink.feed(unpacked(record))
        if reply is not None:
            with Receiver(router, respondent=reply.context) as inlet:
                # With reply_to, so that a dead message comes back if the caller is gone.
                hello = Message(handle=reply.dst_handle, reply_to=inlet.handle, data=b"\xf6")
                reply.context.send(hello)
                while not sink.complete:
                    sink.feed(_record_of(inlet.get()))
        sink.finish()


def _part_of(path: bytes) -> Any:
    """Run the far half of put(resume=True): return the state of the partial file."""
    with Sink(path, Attributes(), True) as sink:
        return sink.part()


def _fetch(path: bytes, part: Any, sender: Any, compress: bool) -> dict[str, Any]:
    """Run the far half of get(): send the records to `sender`, or return them if they are few."""
    found = records_of(path, part)
    records = map(Packer(compress).pack, found)
    head: list[Record] = []
    try:
        if _fits_head(records, head):
            return {"records": head}
        outlet = Outlet(sender)
        while head:
            outlet.record(head.pop(0))
        for record in records:
            outlet.record(record)
        return {"records": []}
    finally:
        found.close()  # type: ignore[attr-defined]


def put(
    context: Any,
    path: Any,
    remote_path: Path,
    progress: Progress | None = None,
    mode: int | None = None,
    owner: str | int | None = None,
    group: str | int | None = None,
    preserve: bool = True,
    resume: bool = False,
    timeout: float | None = None,
    compress: bool = False,
) -> None:
    """
    Send a file or a tree to a context.

    The destination gets its name when all data has arrived, and replaces a file or symlink of that
    name. A tree requires a free name. Symlinks in a tree are sent as symlinks; `path` itself is
    followed. If a transfer ends early for any reason, nothing of it is left at either end.

    :param Context context: destination
    :param path: file or directory here, or a file object to read bytes from
    :param remote_path: name at the destination. The name of an existing directory is an error, and
        the parent directory must exist. Relative to the context's current directory; `~` is not
        expanded
    :param progress: called as `progress(path, done, total)`, with bytes of the current file;
        `total` is None if it is not known
    :param int mode: permissions of all files, instead of their own; directories are made
        searchable wherever it makes them readable
    :param owner: owner of all files at the destination, name or number
    :param group: group of all files at the destination, name or number
    :param bool preserve: keep permissions (never setuid, setgid or sticky) and times; otherwise use
        permissions less the destination's umask, and new times
    :param bool resume: for a single file: if the transfer is interrupted, keep the partial file as
        `.NAME.part`, and continue from there the next time if its content matches
    :param float timeout: seconds for the whole transfer; None for no limit
    :param bool compress: compress chunks that shrink (zlib, RFC 1950); useful on a connection
        without compression of its own, such as `router.ssh(compression=False)`
    :raises Skipped: the tree was transferred except for devices, fifos and sockets
    :raises Error: the destination is not possible, or a file changed while it was sent
    :raises OSError: a file cannot be read here
    :raises CallError: a file cannot be written there; the error has the same built-in type
    :raises ChannelError: the context is gone
    :raises TimeoutError: the transfer did not finish in time
    """
    options = {"mode": mode, "owner": owner, "group": group, "preserve": preserve}
    target = os.fsencode(remote_path)
    with _Call(context, timeout) as call:
        if hasattr(path, "read"):
            records = records_of_object(path)
            observer = _Observer(progress, str(getattr(path, "name", "-")))
        else:
            part = None
            if resume:
                call.start(_part_of, target)
                part = call.get().unpickle()
            records = records_of(os.fsencode(path), part)
            observer = _Observer(progress, os.fsdecode(path))
        try:
            packed = map(Packer(compress).pack, _observed(records, observer))
            _put(call, packed, target, options, resume)
        finally:
            records.close()  # type: ignore[attr-defined]
    if observer.skipped:
        raise Skipped(observer.skipped)


def _observed(records: Iterator[Record], observer: _Observer) -> Iterator[Record]:
    for record in records:
        observer.observe(record)
        yield record


def _put(
    call: _Call,
    records: Iterator[Record],
    target: bytes,
    options: dict[str, Any],
    resume: bool,
) -> None:
    head: list[Record] = []
    if _fits_head(records, head):
        call.start(_store, target, options, resume, head, None)
    else:
        call.start(_store, target, options, resume, head, call.mailbox.to_sender())
        outlet = call.open_outlet()
        try:
            for record in records:
                # Only an error can arrive this early.
                if call.mailbox.size():
                    break
                outlet.record(record)
        except ChannelError:
            # The far half has ended. Its answer contains the reason.
            if call.is_late():
                raise
    call.get().unpickle()


def get(
    context: Any,
    remote_path: Path,
    path: Any,
    progress: Progress | None = None,
    mode: int | None = None,
    owner: str | int | None = None,
    group: str | int | None = None,
    preserve: bool = True,
    resume: bool = False,
    timeout: float | None = None,
    compress: bool = False,
) -> None:
    """
    Fetch a file or a tree from a context: put() in the other direction, with the same arguments.

    The context is not trusted: nothing is written except at `path` and below it.

    :param Context context: source
    :param remote_path: file or directory there
    :param path: name of the destination here, or a file object to write bytes to. Data that
        arrives before an error is written to the file object
    """
    sink: Any = None
    with _Call(context, timeout) as call:
        if hasattr(path, "write"):
            sink = ObjectSink(path)
            observer = _Observer(progress, str(getattr(path, "name", "-")))
        else:
            sink = Sink(os.fsencode(path), Attributes(mode, owner, group, preserve), resume)
            observer = _Observer(progress, os.fsdecode(path))
        with sink:
            part = sink.part() if resume and isinstance(sink, Sink) else None
            call.start(_fetch, os.fsencode(remote_path), part, call.mailbox.to_sender(), compress)
            _get(call, sink, observer)
            sink.finish()
    if observer.skipped:
        raise Skipped(observer.skipped)


def _get(call: _Call, sink: Any, observer: _Observer) -> None:
    while True:
        record = _record_of(call.get())
        head = record.get("records", ()) if isinstance(record, dict) else [record]
        for each in map(unpacked, head):
            sink.feed(each)
            # Only now has the sink checked that the record is well formed.
            observer.observe(each)
        if isinstance(record, dict):
            return
