"""
Files and trees between this context and others: put() and get().

The far half runs in the other context as a call. What it says, records and its answer, comes to one
mailbox, in order; what is small goes with the call, or its answer, in one round trip.

Threads: a program's; in the far context the main thread, as for all calls.
"""

from __future__ import annotations

import os

from mitogen import core
from mitogen.calls import CallChain
from mitogen.core import RAW, CallError, ChannelError, Message, takes_router
from mitogen.mailbox import Receiver
from mitogen.transfer.pieces import Error, Outlet, Packer, unpacked
from mitogen.transfer.trees import Attributes, ObjectSink, Sink, records_of, records_of_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Union

    Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
    Progress = Callable[[str, int, int | None], Any]
    Record = Any

__all__ = ["Error", "Skipped", "get", "put"]

#: Bytes of records that go with the call itself, or its answer: one round trip for what is small.
HEAD = 65536
#: Names that an error lists.
LISTED = 20
#: What Error is called where it is raised far away.
ERROR_NAME = "%s.%s" % (Error.__module__, Error.__name__)


class Skipped(Error):
    """
    A tree is in place but for what can't be sent: devices, fifos, sockets.

    :param names: what was left out, as paths below the tree's root
    """

    def __init__(self, names: str | list[str], *args: Any) -> None:
        #: Paths below the tree's root.
        self.names = [names] if isinstance(names, str) else list(names)
        more = len(self.names) - LISTED
        core.Error.__init__(
            self,
            "the tree is in place without what is neither file, directory nor symlink: %s%s",
            ", ".join(map(repr, self.names[:LISTED])),
            " and %d more" % more if more > 0 else "",
        )


class _Watch:
    """Follows the records: for the caller's `progress`, and for what is skipped."""

    def __init__(self, progress: Progress | None, path: str) -> None:
        self.progress = progress
        self.names = [path]
        self.path = path
        self.done = 0
        self.total: int | None = None
        self.skipped: list[str] = []

    def note(self, record: Record) -> None:
        """Take note of a record."""
        if type(record) is bytes:
            self.done += len(record)
            self._tell()
        elif record[0] == "file":
            self.path = self._join(record[1])
            self.done, self.total = record[3], record[2].get("size")
            self._tell()
        elif record[0] == "dir":
            self.names.append(os.fsdecode(record[1]))
        elif record[0] == "up":
            self.names.pop()
        elif record[0] == "skip":
            self.skipped.append(os.path.join(*self.names[2:], os.fsdecode(record[1])))

    def _join(self, name: bytes) -> str:
        names = [*self.names, os.fsdecode(name)]
        return os.path.join(*[each for each in names if each])

    def _tell(self) -> None:
        if self.progress:
            self.progress(self.path, self.done, self.total)


class _Call:
    """
    The call of the far half, whose answer comes to the same mailbox as what it sends before.

    :param Context context: where it runs
    :param float timeout: seconds for all of it; None for ever
    """

    def __init__(self, context: Any, timeout: float | None) -> None:
        router = context.router
        if context.context_id == router.context_id:
            raise Error("this is the context itself: use shutil")
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
        # A CallError is the far half's own end.
        if kind and not issubclass(kind, CallError):
            self._give_up()
        self.mailbox.close()
        if isinstance(error, CallError) and error.type_name == ERROR_NAME:
            raise Error("%s", error.message) from error
        if isinstance(error, (ChannelError, core.TimeoutError)) and self._is_late():
            raise self._late() from error

    def _give_up(self) -> None:
        # Both: a cancel is ignored by a call that is just about to begin.
        try:
            if self.outlet:
                self.outlet.abort()
            self.chain.cancel(self.mailbox.handle)
        except core.Error:
            pass

    def _is_late(self) -> bool:
        return self.deadline is not None and core.now() >= self.deadline

    def _late(self) -> core.TimeoutError:
        return core.TimeoutError(
            "%r: the transfer was not done within %s seconds", self.chain.context, self.timeout
        )

    def start(self, fn: Any, *args: Any) -> None:
        """Call `fn` there."""
        msg = self.chain.make_msg(fn, *args)
        msg.reply_to = self.mailbox.handle
        self.chain._send(fn, msg)

    def get(self) -> Message:
        """Return the next message from there."""
        if self.deadline is None:
            return self.mailbox.get()
        return self.mailbox.get(max(0, self.deadline - core.now()))

    def open_outlet(self) -> Outlet:
        """Return where the far half takes its records; it says so first."""
        msg = self.get()
        if msg.reply_to < core.FIRST_HANDLE:
            msg.unpickle()
            raise Error("%r: the far half ended too early", self.chain.context)
        self.outlet = Outlet(core.Sender(self.chain.context, msg.reply_to))
        if self.deadline is not None:
            # A send sleeps for credit, however long: this ends it.
            self.router.broker.defer(self._set_timer, self.outlet.key)
        return self.outlet

    def _set_timer(self, key: Any) -> None:
        left = max(0, (self.deadline or 0) - core.now())
        timer = self.router.broker.after(left, lambda: self.router._end_flow(key, "timeout"))
        self._timers.append(timer)


def _fits_head(records: Iterator[Record], head: list[Record]) -> bool:
    """Move records to `head`; return whether these were all."""
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
    """Far half of put(): `head` is all, or the rest comes to a mailbox that `reply` is told of."""
    with Sink(path, Attributes(**options), resume) as sink:
        for record in head:
            sink.feed(unpacked(record))
        if reply is not None:
            with Receiver(router, respondent=reply.context) as inlet:
                # With reply_to: should the caller be gone, a dead message comes back.
                hello = Message(handle=reply.dst_handle, reply_to=inlet.handle, data=b"\xf6")
                reply.context.send(hello)
                while not sink.complete:
                    sink.feed(_record_of(inlet.get()))
        sink.finish()


def _part_of(path: bytes) -> Any:
    """Far half of put(resume=True): return what is there already."""
    with Sink(path, Attributes(), True) as sink:
        return sink.part()


def _fetch(path: bytes, part: Any, sender: Any, compress: bool) -> dict[str, Any]:
    """Far half of get(): the records go to `sender`, or, if they are few, are the answer."""
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

    It gets its name there once all of it has arrived, and takes the place of a file or symlink of
    that name; a tree wants a name that is free. Symlinks in a tree are sent as such, `path` itself
    is followed. Whatever ends a transfer early, nothing of it is left, at either end.

    :param Context context: where to
    :param path: a file or directory here, or a file object to read bytes from
    :param remote_path: the name it gets there; that of a directory is an error, and what it is
        below must exist. Relative to the context's current directory; no `~`
    :param progress: called as `progress(path, done, total)`, bytes of the file under way; `total`
        is None where it is not known
    :param int mode: permissions of each file, instead of its own; directories can be searched
        where it lets them be read
    :param owner: account, by name or number, that all of it is to belong to there
    :param group: group, likewise
    :param bool preserve: permissions (never setuid, setgid or sticky) and times as here; otherwise
        permissions less the umask there, and new times
    :param bool resume: for one file: keep what was sent, as `.NAME.part`, should this be
        interrupted, and go on from there the next time, if it is as here
    :param float timeout: seconds for all of it; None for ever
    :param bool compress: compress what gets smaller by it (zlib, RFC 1950); for a connection that
        does not do so itself, as `router.ssh(compression=False)`
    :raises Skipped: the tree is in place but for devices, fifos and sockets
    :raises Error: it can't be put there; it has changed while it was sent
    :raises OSError: it can't be read here
    :raises CallError: it can't be written there; of the same built-in type
    :raises ChannelError: the context is gone
    :raises TimeoutError: it was not done in time
    """
    options = {"mode": mode, "owner": owner, "group": group, "preserve": preserve}
    target = os.fsencode(remote_path)
    with _Call(context, timeout) as call:
        if hasattr(path, "read"):
            records = records_of_object(path)
            watch = _Watch(progress, str(getattr(path, "name", "-")))
        else:
            part = None
            if resume:
                call.start(_part_of, target)
                part = call.get().unpickle()
            records = records_of(os.fsencode(path), part)
            watch = _Watch(progress, os.fsdecode(path))
        try:
            packed = map(Packer(compress).pack, _watched(records, watch))
            _put(call, packed, target, options, resume)
        finally:
            records.close()  # type: ignore[attr-defined]
    if watch.skipped:
        raise Skipped(watch.skipped)


def _watched(records: Iterator[Record], watch: _Watch) -> Iterator[Record]:
    for record in records:
        watch.note(record)
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
                # Only an error comes so early.
                if call.mailbox.size():
                    break
                outlet.record(record)
        except ChannelError:
            # The far half has ended, and says why.
            if call._is_late():
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
    Fetch a file or a tree from a context: put() the other way round, with the same arguments.

    The context is not trusted: nothing is written but at `path` and below it.

    :param Context context: where from
    :param remote_path: a file or directory there
    :param path: the name it gets here, or a file object to write bytes to. To that, what came
        before an error is written
    """
    sink: Any = None
    with _Call(context, timeout) as call:
        if hasattr(path, "write"):
            sink = ObjectSink(path)
            watch = _Watch(progress, str(getattr(path, "name", "-")))
        else:
            sink = Sink(os.fsencode(path), Attributes(mode, owner, group, preserve), resume)
            watch = _Watch(progress, os.fsdecode(path))
        with sink:
            part = sink.part() if resume and isinstance(sink, Sink) else None
            call.start(_fetch, os.fsencode(remote_path), part, call.mailbox.to_sender(), compress)
            _get(call, sink, watch)
            sink.finish()
    if watch.skipped:
        raise Skipped(watch.skipped)


def _get(call: _Call, sink: Any, watch: _Watch) -> None:
    while True:
        record = _record_of(call.get())
        head = record.get("records", ()) if isinstance(record, dict) else [record]
        for each in map(unpacked, head):
            sink.feed(each)
            # After the sink has seen that it is well formed.
            watch.note(each)
        if isinstance(record, dict):
            return
