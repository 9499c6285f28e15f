"""
The services of this library: FileService sends files of this machine on request, and
PushFileService sends small files ahead of the calls that need them. Their public names are
`mitogen.service.FileService` and `mitogen.service.PushFileService`.

Rules
    1. A caller can open only files that were registered, or that are below a registered directory.
    2. Messages sent here have this context's authority, so they go to the caller's own mailboxes
       only.
    3. Each transfer has a thread, so that a slow reader does not delay others. (A scheduler would
       have to know when a flow gets credit; a thread that sleeps in send() costs little.)

Threads: a pool's, and one for each transfer. PushFileService.get() may be called on any thread.
"""

from __future__ import annotations

import _thread
import os
import sys

from mitogen import core
from mitogen.core import CALL_SERVICE, ERROR, CallError, Kwargs, Message
from mitogen.core.mailbox import Latch, LatchError, Receiver
from mitogen.services.base import (
    AllowAny,
    AllowParents,
    CurrentPool,
    Error,
    SerializedInvoker,
    Service,
    arg_spec,
    expose,
    no_reply,
)
from mitogen.transfer import chunks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Metadata = dict[str, Any]
    Transfer = tuple[str, Any, Metadata]

__all__ = ["FileService", "PushFileService", "ask", "await_answer", "name_of", "request_for"]

#: Seconds that PushFileService.get() waits for a file.
PUSH_TIMEOUT = 120.0
#: Concurrent file transfers on one stream. Further transfers wait, without a descriptor.
MAX_TRANSFERS = 64
#: File transfers that may wait for one stream.
MAX_WAITING = 10000

_PATH = (str, bytes)


# -- calling a service without mitogen.parent, which few children have


def name_of(service: Any) -> str:
    return service if isinstance(service, str) else service.name()


def await_answer(context: Any, msg: Message) -> Any:
    """Send `msg` and return the answer, as Context.send_await() does, without mitogen.parent."""
    with Receiver(context.router, persist=False, respondent=context) as receiver:
        msg.reply_to = receiver.handle
        context.send(msg)
        return receiver.get().unpickle()


def request_for(service: Any, method_name: str, kwargs: dict[str, Any]) -> Message:
    data = core.encode((name_of(service), method_name, Kwargs(kwargs)), None, "arguments")
    return Message(data=data, handle=CALL_SERVICE)


def ask(context: Any, service: Any, method_name: str, kwargs: dict[str, Any]) -> Any:
    return await_answer(context, request_for(service, method_name, kwargs))


class FileService(Service):
    """
    A service that sends files of this machine on request: registered files, and files below a
    registered directory. See docs/design/files.rst.

    Each transfer has a thread, so a reader that is slow or has stopped does not delay others. At
    most MAX_TRANSFERS run at once for each child and the contexts below it.

    :param Router router: router of this context
    """

    #: Part of the service's name.
    __module__ = "mitogen.service"
    #: For information only: transfers use the flow's own window, mitogen.core.WINDOW.
    window_size_bytes = 1048576
    #: Bytes in a message.
    IO_SIZE = core.FRAME_SIZE

    unregistered_msg = "path %r is not registered with the file service"
    context_mismatch_msg = "the sender is not one of the calling context's own mailboxes"

    def __init__(self, router: Any) -> None:
        super().__init__(router)
        self._lock = _thread.allocate_lock()
        self._paths: set[str] = set()
        self._prefixes: set[str] = set()
        #: Stream to [number of threads, waiting transfers].
        self._transfers: dict[Any, list[Any]] = {}

    @expose(policy=AllowParents())
    @arg_spec({"path": _PATH})
    def register(self, path: str | bytes) -> None:
        """
        Permit any context to fetch a file. It need not exist yet.

        :param str path: the file; a symlink is followed when the file is sent
        """
        self._paths.add(os.path.abspath(os.fsdecode(path)))

    @expose(policy=AllowParents())
    @arg_spec({"path": _PATH})
    def register_prefix(self, path: str | bytes) -> None:
        """
        Permit any context to fetch the files below a directory. Symlinks that lead out of it are
        not permitted.

        :param str path: the directory
        """
        self._prefixes.add(os.path.realpath(os.fsdecode(path)))

    def open_registered(self, path: str) -> int:
        """
        Open a file that may be fetched, and return the descriptor.

        :param str path: the file
        :raises Error: the path is not registered
        """
        path = os.path.abspath(path)
        if path in self._paths:
            return chunks.open_regular(path)
        real = os.path.realpath(path)
        for prefix in list(self._prefixes):
            if real == prefix or real.startswith(prefix.rstrip(os.sep) + os.sep):
                return chunks.open_below(prefix, os.path.relpath(real, prefix))
        raise Error(self.unregistered_msg % (path,))

    @expose(policy=AllowAny())
    @arg_spec({"path": _PATH, "sender": core.Sender})
    def fetch(self, path: str | bytes, sender: Any, msg: Message | None = None) -> Metadata:
        """
        Start sending a file. Called by get().

        :param str path: the file
        :param Sender sender: a mailbox of the caller
        :param Message msg: the call
        :returns: dict of size (bytes), mode, owner, group, mtime and atime (seconds)
        :raises Error: the path is not registered, or the mailbox is not the caller's
        :raises OSError: the file cannot be opened
        """
        # Messages to the mailbox have this context's authority, so it must be the caller's.
        caller = self.router.context_id if msg is None else msg.src_id
        windowed = core.FIRST_HANDLE <= sender.dst_handle < core.FIRST_UNWINDOWED
        if sender.context.context_id != caller or not windowed:
            raise Error(self.context_mismatch_msg)
        path = os.fsdecode(path)
        fd = self.open_registered(path)
        try:
            metadata = chunks.describe(os.fstat(fd))
        finally:
            os.close(fd)
        # Limits are for each stream: a child has as many ids as it likes.
        self._start(self.router.routes.get(caller), (path, sender, metadata))
        return metadata

    def _start(self, stream: Any, transfer: Transfer) -> None:
        with self._lock:
            entry = self._transfers.setdefault(stream, [0, []])
            if entry[0] >= MAX_TRANSFERS:
                if len(entry[1]) >= MAX_WAITING:
                    raise Error(
                        "too many file transfers to this child: %d are waiting" % MAX_WAITING
                    )
                entry[1].append(transfer)
                return
            entry[0] += 1
        try:
            _thread.start_new_thread(self._run, (stream, transfer))
        except RuntimeError:
            self._next(stream)
            raise

    def _next(self, stream: Any) -> Transfer | None:
        """Return a stream's next waiting transfer, or None if the thread is to end."""
        with self._lock:
            entry = self._transfers[stream]
            waiting: list[Transfer] = entry[1]
            if waiting:
                return waiting.pop(0)
            entry[0] -= 1
            if not entry[0]:
                del self._transfers[stream]
        return None

    def _run(self, stream: Any, transfer: Transfer | None) -> None:
        """Run transfers until none is waiting. A transfer thread."""
        while transfer:
            try:
                self._transfer(*transfer)
            except BaseException as error:
                self.router.log(ERROR, "file service: %s", CallError(error))
            transfer = self._next(stream)

    def _transfer(self, path: str, sender: Any, metadata: Metadata) -> None:
        outlet = chunks.Outlet(sender)
        try:
            fd = self.open_registered(path)
            try:
                chunks.send_chunks(fd, path, outlet, metadata["size"], metadata["mtime"])
            finally:
                os.close(fd)
        except core.ChannelError:
            # The reader is gone, or has closed its mailbox.
            pass
        except core.TimeoutError:
            outlet.abort()
            raise
        except Exception as error:
            outlet.fail(error)

    @expose(policy=AllowAny())
    @no_reply()
    @arg_spec({"size": int})
    def acknowledge(self, size: int, msg: Message | None = None) -> None:
        """
        Do nothing (kept for old programs): a flow sends its own credit.

        :param int size: number of bytes read
        :param Message msg: the call
        """

    def on_shutdown(self) -> None:
        with self._lock:
            dropped = [each for entry in self._transfers.values() for each in entry[1]]
            for entry in self._transfers.values():
                entry[1].clear()
        for _, sender, _ in dropped:
            # Running transfers continue. Readers of waiting transfers would wait forever.
            chunks.Outlet(sender).abort()

    @classmethod
    def get(cls, context: Any, path: Any, out_fp: Any) -> tuple[bool, Metadata]:
        """
        Fetch a file from a context's FileService.

        :param Context context: context that has the service
        :param str path: the file, as registered there
        :param out_fp: file object, open for writing bytes
        :returns: (ok, metadata). `ok` is whether the whole file arrived unchanged; otherwise the
            error is logged, and the data that arrived before it has been written. `metadata` is a
            dict of size (bytes), mode, owner, group, mtime and atime (seconds)
        :raises CallError: the path is not registered, or the file cannot be opened
        :raises ChannelError: the context is gone
        """
        path = os.fspath(path)
        router = context.router
        if context.context_id == router.context_id:
            return cls._get_here(router, path, out_fp)
        with Receiver(router, respondent=context) as receiver:
            arguments = {"path": path, "sender": receiver.to_sender()}
            metadata = ask(context, cls, "fetch", arguments)
            try:
                chunks.receive_chunks(receiver, out_fp.write)
            except (chunks.Error, core.ChannelError, CallError) as error:
                router.log(ERROR, "%s from context %d: %s", path, context.context_id, error)
                return False, metadata
        return True, metadata

    @classmethod
    def _get_here(cls, router: Any, path: str, out_fp: Any) -> tuple[bool, Metadata]:
        # Messages within a context have no window, so the whole file would be queued in memory.
        pool = router.component(CurrentPool).pool
        if pool is None or pool.closed:
            raise Error("context %d has no service pool" % (router.context_id,))
        service = pool.get_service(cls)
        fd = service.open_registered(os.fsdecode(path))
        try:
            found = os.fstat(fd)
            metadata = chunks.describe(found)
            for chunk in chunks.read_chunks(fd, path, found):
                chunks.write_all(out_fp.write, chunk)
        except chunks.Error as error:
            router.log(ERROR, "%s", error)
            return False, metadata
        finally:
            os.close(fd)
        return True, metadata


class PushFileService(Service):
    """
    A service that sends small files ahead of the calls that need them, hop by hop. Each file
    crosses each link once, and each context on the way caches it.

    :param Router router: router of this context
    """

    __module__ = "mitogen.service"
    invoker_class = SerializedInvoker

    def __init__(self, router: Any) -> None:
        super().__init__(router)
        self._lock = _thread.allocate_lock()
        self._cache: dict[str, bytes] = {}
        self._waiters: dict[str, list[Latch]] = {}
        #: Path to contexts that the file is to be forwarded to as soon as another thread stores it.
        self._pending: dict[str, list[Any]] = {}
        #: Stream to the paths sent on it.
        self._sent: dict[Any, set[str]] = {}
        self._closed = False

    def get(self, path: Any) -> bytes:
        """
        Return a file that was pushed to this context. Sleep until it arrives.

        :param str path: the file, by its name at the origin
        :raises Error: it did not arrive within PUSH_TIMEOUT seconds, or this context is ending
        """
        path = os.fsdecode(path)
        with self._lock:
            if path in self._cache:
                return self._cache[path]
            latch = Latch()
            self._waiters.setdefault(path, []).append(latch)
            if self._closed:
                latch.close()
        try:
            return bytes(latch.get(PUSH_TIMEOUT))
        except core.TimeoutError:
            text = "%r was not pushed to this context within %g s" % (path, PUSH_TIMEOUT)
            raise Error(text) from None
        except LatchError:
            text = "%r was not pushed to this context before the service ended" % (path,)
            raise Error(text) from None
        finally:
            with self._lock:
                if latch in self._waiters.get(path, ()):
                    self._waiters[path].remove(latch)

    def _store(self, path: str, data: bytes) -> None:
        with self._lock:
            self._cache.setdefault(path, data)
            waiters = self._waiters.pop(path, [])
            contexts = self._pending.pop(path, [])
        for latch in waiters:
            latch.put(data)
        for context in contexts:
            self._forward(path, context)

    def _forward(self, path: str, context: Any) -> None:
        """Send a file, or the request to forward it, to the next hop towards `context`."""
        target = context.context_id
        if target == self.router.context_id:
            return
        stream = self.router.routes.streams.get(target)
        if stream is None:
            raise Error("context %d is not below context %d" % (target, self.router.context_id))
        # Sent with the lock held: the request to forward a file must not overtake the file.
        with self._lock:
            sent = self._sent_on(stream)
            if path not in sent:
                request = self._request("store_and_forward", path, context)
            elif stream.remote_id != target:
                request = self._request("forward", path, context)
            else:
                return
            request.dst_id = stream.remote_id
            self.router.route(request, False)
            sent.add(path)

    def _sent_on(self, stream: Any) -> set[str]:
        if stream not in self._sent:
            self._sent[stream] = set()
            core.listen(stream, "disconnect", lambda: self._sent.pop(stream, None))
        return self._sent[stream]

    def _request(self, method_name: str, path: str, context: Any) -> Message:
        arguments = {"path": path, "context": context}
        if method_name == "store_and_forward":
            arguments["data"] = self._cache[path]
        return request_for(type(self), method_name, arguments)

    @expose(policy=AllowParents())
    @arg_spec({"context": core.Context, "path": _PATH})
    def propagate_to(
        self, context: Any, path: Any, overridden_source: str | bytes | None = None
    ) -> None:
        """
        Send a file to a context's cache, and to the caches on the way there.

        :param Context context: destination
        :param str path: a file of this machine; it is read only once
        :param overridden_source: content to send instead of the file's: bytes, or str (UTF-8)
        :raises OSError: the file cannot be read
        :raises Error: `context` is not a descendant of this one
        """
        path = os.fsdecode(path)
        if path not in self._cache:
            if overridden_source is None:
                with open(path, "rb") as fp:
                    data = fp.read()
            elif isinstance(overridden_source, str):
                data = overridden_source.encode()
            else:
                data = bytes(overridden_source)
            self._store(path, data)
        self._forward(path, context)

    @expose(policy=AllowParents())
    @arg_spec({"context": core.Context, "paths": (list, tuple)})
    def propagate_paths_and_modules(
        self,
        context: Any,
        paths: Iterable[Any],
        overridden_sources: dict[str, Any] | None = None,
        extra_sys_paths: Iterable[str] | None = None,
    ) -> None:
        """
        Send several files to a context's cache: call propagate_to() for each.

        :param Context context: destination
        :param paths: files of this machine, including Python modules
        :param dict overridden_sources: path to the content to send instead of the file's
        :param extra_sys_paths: directories to add to `sys.path`, so that modules in them are found
        """
        for entry in extra_sys_paths or ():
            if entry not in sys.path:
                sys.path.append(entry)
        for path in paths:
            path = os.fsdecode(path)
            self.propagate_to(context, path, (overridden_sources or {}).get(path))

    @expose(policy=AllowParents())
    @no_reply()
    @arg_spec({"path": _PATH, "data": bytes, "context": core.Context})
    def store_and_forward(self, path: str, data: bytes, context: Any) -> None:
        """
        Cache a file sent by an ancestor, and forward it.

        :param str path: the file's name
        :param bytes data: the file's content
        :param Context context: final destination
        """
        self._store(path, data)
        self._forward(path, context)

    @expose(policy=AllowParents())
    @no_reply()
    @arg_spec({"path": _PATH, "context": core.Context})
    def forward(self, path: str, context: Any) -> None:
        """
        Forward a cached file.

        :param str path: the file's name
        :param Context context: final destination
        """
        with self._lock:
            if path not in self._cache:
                self._pending.setdefault(path, []).append(context)
                return
        self._forward(path, context)

    def on_shutdown(self) -> None:
        with self._lock:
            self._closed = True
            waiters = [latch for latches in self._waiters.values() for latch in latches]
        for latch in waiters:
            latch.close()
