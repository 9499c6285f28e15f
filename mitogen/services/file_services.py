"""
The services that come with this library: files of this machine for those who ask, and small files
pushed ahead of the calls that need them. Their names are `mitogen.service.FileService` and
`mitogen.service.PushFileService`, and there they are found.

Rules
    1. What a caller sends decides what is opened only within what was registered.
    2. What is sent has this context's authority: it goes to the caller's own mailboxes only.
    3. A transfer has a thread, so that a reader that is slow holds up no other. (A scheduler would
       have to know when a flow gets credit; a thread that sleeps in send() costs little.)

Threads: a pool's, and one for each transfer. PushFileService.get() is for any.
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
    Error,
    SerializedInvoker,
    Service,
    arg_spec,
    expose,
    no_reply,
)
from mitogen.transfer import pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Metadata = dict[str, Any]
    Transfer = tuple[str, Any, Metadata]

__all__ = ["FileService", "PushFileService", "ask", "await_answer", "name_of", "request_for"]

#: Seconds that PushFileService.get() waits for a file that is said to be on its way.
PUSH_TIMEOUT = 120.0
#: File transfers under way to one context at once; further ones wait, without a descriptor.
MAX_TRANSFERS = 64
#: File transfers of one context that may wait.
MAX_WAITING = 10000

_PATH = (str, bytes)


# -- calling a service, without mitogen.parent, which few children have


def name_of(service: Any) -> str:
    return service if isinstance(service, str) else service.name()


def await_answer(context: Any, msg: Message) -> Any:
    """Send `msg`; return the answer. As Context.sendawait_answer(), but without mitogen.parent."""
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
    Sends files of this machine to contexts that ask for them: those that were registered, and those
    below a directory that was. See docs/design/files.rst.

    Each transfer has a thread, so a reader that is slow, or reads nothing, holds up no other; at
    most MAX_TRANSFERS are under way to one context.

    :param Router router: router of this context
    """

    #: By this the service is called.
    __module__ = "mitogen.service"
    #: For information: the flow's own window counts, see mitogen.core.WINDOW.
    window_size_bytes = 1048576
    #: Bytes per message.
    IO_SIZE = core.FRAME_SIZE

    unregistered_msg = "path %r is not registered with the file service"
    context_mismatch_msg = "the sender is not one of the calling context's own mailboxes"

    def __init__(self, router: Any) -> None:
        super().__init__(router)
        self._lock = _thread.allocate_lock()
        self._paths: set[str] = set()
        self._prefixes: set[str] = set()
        #: Context id to [threads, what waits for one].
        self._transfers: dict[int, list[Any]] = {}

    @expose(policy=AllowParents())
    @arg_spec({"path": _PATH})
    def register(self, path: str | bytes) -> None:
        """
        Have a file sent to whoever asks for it; it need not exist yet.

        :param str path: the file; a symlink is followed when it is sent
        """
        self._paths.add(os.path.abspath(os.fsdecode(path)))

    @expose(policy=AllowParents())
    @arg_spec({"path": _PATH})
    def register_prefix(self, path: str | bytes) -> None:
        """
        Have whatever is below a directory sent to whoever asks for it. A symlink that leads out
        of it does not count.

        :param str path: the directory
        """
        self._prefixes.add(os.path.realpath(os.fsdecode(path)))

    def _open(self, path: str) -> int:
        """Return a descriptor of a file that may be sent."""
        path = os.path.abspath(path)
        if path in self._paths:
            return pieces.open_regular(path)
        real = os.path.realpath(path)
        for prefix in list(self._prefixes):
            if real == prefix or real.startswith(prefix.rstrip(os.sep) + os.sep):
                return pieces.open_below(prefix, os.path.relpath(real, prefix))
        raise Error(self.unregistered_msg % (path,))

    @expose(policy=AllowAny())
    @arg_spec({"path": _PATH, "sender": core.Sender})
    def fetch(self, path: str | bytes, sender: Any, msg: Message | None = None) -> Metadata:
        """
        Begin to send a file; see get(), which calls this.

        :param str path: the file
        :param Sender sender: a mailbox of the caller's
        :param Message msg: the call
        :returns: dict of size (bytes), mode, owner, group, mtime and atime (seconds)
        :raises Error: the path is not registered, or the mailbox is somebody else's
        :raises OSError: the file cannot be opened
        """
        # What is sent to a mailbox has the authority of this context: it must be the caller's.
        caller = self.router.context_id if msg is None else msg.src_id
        windowed = core.FIRST_HANDLE <= sender.dst_handle < core.FIRST_UNWINDOWED
        if sender.context.context_id != caller or not windowed:
            raise Error(self.context_mismatch_msg)
        path = os.fsdecode(path)
        fd = self._open(path)
        try:
            metadata = pieces.describe(os.fstat(fd))
        finally:
            os.close(fd)
        self._start(caller, (path, sender, metadata))
        return metadata

    def _start(self, context_id: int, transfer: Transfer) -> None:
        with self._lock:
            entry = self._transfers.setdefault(context_id, [0, []])
            if entry[0] >= MAX_TRANSFERS:
                if len(entry[1]) >= MAX_WAITING:
                    raise Error("%d file transfers to this context wait already" % MAX_WAITING)
                entry[1].append(transfer)
                return
            entry[0] += 1
        try:
            _thread.start_new_thread(self._run, (context_id, transfer))
        except RuntimeError:
            self._next(context_id)
            raise

    def _next(self, context_id: int) -> Transfer | None:
        """Return what waits for a thread of this context's; None if that ends."""
        with self._lock:
            entry = self._transfers[context_id]
            waiting: list[Transfer] = entry[1]
            if waiting:
                return waiting.pop(0)
            entry[0] -= 1
            if not entry[0]:
                del self._transfers[context_id]
        return None

    def _run(self, context_id: int, transfer: Transfer | None) -> None:
        """A transfer's thread: send, then what waits for one."""
        while transfer:
            try:
                self._transfer(*transfer)
            except BaseException as error:
                self.router.log(ERROR, "file service: %s", CallError(error))
            transfer = self._next(context_id)

    def _transfer(self, path: str, sender: Any, metadata: Metadata) -> None:
        outlet = pieces.Outlet(sender)
        try:
            fd = self._open(path)
            try:
                pieces.send_pieces(fd, path, outlet, metadata["size"], metadata["mtime"])
            finally:
                os.close(fd)
        except core.ChannelError:
            # The reader has gone, or wants no more.
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
        Do nothing (kept for old programs): a reader's flow gives credit by itself.

        :param int size: bytes that were read
        :param Message msg: the call
        """

    def on_shutdown(self) -> None:
        with self._lock:
            given_up = [each for entry in self._transfers.values() for each in entry[1]]
            for entry in self._transfers.values():
                entry[1].clear()
        for _, sender, _ in given_up:
            # Those that are under way go on; whoever waits for one of these would wait for ever.
            pieces.Outlet(sender).abort()

    @classmethod
    def get(cls, context: Any, path: Any, out_fp: Any) -> tuple[bool, Metadata]:
        """
        Fetch a file from a context's FileService.

        :param Context context: where the service is
        :param str path: the file, as registered there
        :param out_fp: file object, open for writing bytes
        :returns: (ok, metadata): whether the file came whole and unchanged - if not, why is
            logged, and what came before is written - and a dict of size (bytes), mode, owner,
            group, mtime and atime (seconds)
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
                pieces.receive_pieces(receiver, out_fp.write)
            except (pieces.Error, core.ChannelError, CallError) as error:
                router.log(ERROR, "%s from context %d: %s", path, context.context_id, error)
                return False, metadata
        return True, metadata

    @classmethod
    def _get_here(cls, router: Any, path: str, out_fp: Any) -> tuple[bool, Metadata]:
        # A context's messages to itself have no window: the whole file would wait in memory.
        pool = router.__dict__.get("_service_pool")
        if pool is None or pool.closed:
            raise Error("context %d has no service pool" % (router.context_id,))
        service = pool.get_service(cls)
        fd = service._open(os.fsdecode(path))
        try:
            found = os.fstat(fd)
            metadata = pieces.describe(found)
            for piece in pieces.read_pieces(fd, path, found):
                pieces.write_all(out_fp.write, piece)
        except pieces.Error as error:
            router.log(ERROR, "%s", error)
            return False, metadata
        finally:
            os.close(fd)
        return True, metadata


class PushFileService(Service):
    """
    Sends small files ahead of the calls that need them, hop by hop: each crosses each link once,
    and each context on the way keeps what it was sent.

    :param Router router: router of this context
    """

    __module__ = "mitogen.service"
    invoker_class = SerializedInvoker

    def __init__(self, router: Any) -> None:
        super().__init__(router)
        self._lock = _thread.allocate_lock()
        self._cache: dict[str, bytes] = {}
        self._waiters: dict[str, list[Latch]] = {}
        #: Contexts that a file is to be passed on to once it is here: another thread has it.
        self._pending: dict[str, list[Any]] = {}
        #: Stream to the paths that were sent on it.
        self._sent: dict[Any, set[str]] = {}
        self._closed = False

    def get(self, path: Any) -> bytes:
        """
        Return a file that was pushed to this context; wait for it, if it is still on its way.

        :param str path: the file, as it is named where it came from
        :raises Error: it did not come within PUSH_TIMEOUT seconds, or the context ends
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
            raise Error("%r was not pushed to this context, which ends" % (path,)) from None
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
        """Send a file, or the order to pass it on, to the next hop towards `context`."""
        target = context.context_id
        if target == self.router.context_id:
            return
        stream = self.router._stream_by_id.get(target)
        if stream is None:
            raise Error("context %d is not below context %d" % (target, self.router.context_id))
        # The lock is held while it is sent: the order to pass a file on must not overtake it.
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
        Have a file in a context's cache, and in those on the way there.

        :param Context context: where to
        :param str path: a file of this machine; it is read once, however often this is called
        :param overridden_source: what to send instead of the file's content: bytes, or str (UTF-8)
        :raises OSError: it cannot be read
        :raises Error: `context` is not below this one
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
        Have several files in a context's cache: propagate_to() of each.

        :param Context context: where to
        :param paths: files of this machine, Python modules among them
        :param dict overridden_sources: path to what to send instead of its content
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
        Keep a file that an ancestor sent, and pass it on.

        :param str path: its name
        :param bytes data: its content
        :param Context context: for whom it is in the end
        """
        self._store(path, data)
        self._forward(path, context)

    @expose(policy=AllowParents())
    @no_reply()
    @arg_spec({"path": _PATH, "context": core.Context})
    def forward(self, path: str, context: Any) -> None:
        """
        Pass on a file that this context keeps.

        :param str path: its name
        :param Context context: for whom it is in the end
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
