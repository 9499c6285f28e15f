"""
The dispatcher: runs calls one at a time on a child's main thread.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Threads: run() on the main thread; messages and wake-ups come from the broker thread.
"""

from __future__ import annotations

from collections import deque

from mitogen.core.codec import decode, encode
from mitogen.core.errors import CallError
from mitogen.core.frames import CALL_FUNCTION, CALL_SERVICE, CANCEL, IS_DEAD, Message
from mitogen.core.io import ERROR, new_lock
from mitogen.core.lazy import fetch, import_module
from mitogen.core.routing import has_parent_authority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mitogen.core.child import ExternalContext
    from mitogen.core.contexts import R


def takes_econtext(func: Callable[..., R]) -> Callable[..., R]:
    """
    Mark `func` to be called with `econtext=`, an ExternalContext, by calls from other contexts.

    Callers do not pass that argument. Types cannot express this, so any arguments type-check.
    """
    func.mitogen_takes_econtext = True  # type: ignore[attr-defined]
    return func


def takes_router(func: Callable[..., R]) -> Callable[..., R]:
    """Mark `func` to be called with `router=` by other contexts; see takes_econtext()."""
    func.mitogen_takes_router = True  # type: ignore[attr-defined]
    return func


class Dispatcher:
    """Queue of calls, run one at a time on the thread that calls run(): the main thread."""

    def __init__(self, econtext: ExternalContext) -> None:
        self.econtext = econtext
        self.router = econtext.router
        self.queue: deque[Message] = deque()
        self.lock = new_lock()
        self.asleep = False
        self.ended = False
        self.current: Message | None = None
        self.interruptible = False
        self.errors: dict[str, CallError] = {}
        # Services check authority themselves; first_call.py diverts calls for other threads.
        for handle in CALL_FUNCTION, CALL_SERVICE, CANCEL:
            policy: Any = handle != CALL_SERVICE and has_parent_authority
            self.router.add_handler(self.on_call, handle, policy=policy, consumer=True)

    @staticmethod
    @takes_econtext
    def forget_chain(chain_id: str, econtext: ExternalContext) -> None:
        econtext.dispatcher.errors.pop(chain_id, None)

    def on_call(self, msg: Message) -> None:
        if msg.reply_to != IS_DEAD:
            self.queue.append(msg)
            self.wake()

    def wake(self) -> None:
        """Any thread: wake run() to check its queue."""
        if self.asleep:
            self.asleep = False
            try:
                self.lock.release()
            except RuntimeError:
                # run() is already awake.
                pass

    def end(self) -> None:
        """Any thread: make run() return after the current call."""
        self.ended = True
        self.wake()

    #: Broker thread: raise KeyboardInterrupt in the current call; set by first_call.py.
    interrupt: Any = int

    def run(self) -> None:
        queue = self.queue
        while not self.ended:
            if queue:
                try:
                    # A cancel finds a call in the queue and may remove it, or it finds it here.
                    self.current = queue[0]
                    msg = self.current = queue.popleft()
                except IndexError:
                    self.current = None
                    continue
                self._run_one(msg)
                self.current = None
                self.router.consumed(msg)
                # Answers to calls that are already queued are written together, at the first flush.
                continue
            stream = self.router.routes.parent
            if stream and stream.queued:
                stream.flush()
            self.asleep = True
            if queue or self.ended:
                self.asleep = False
                continue
            self.lock.acquire()

    def _run_one(self, msg: Message) -> None:
        chain_id = reply = None
        try:
            # Runs once, before the first call; that call may belong to another thread.
            if not self.econtext.stdout_log and fetch("first_call").install(self.econtext, msg):
                return
            name, args, kwargs = decode(msg.data, self.router)
            module_name, class_name, name, chain_id = name.split("\0")
            reply = self.errors.get(chain_id)
            if not reply:
                func = self._find(module_name, class_name, name, kwargs)
                self.interruptible = True
                result = func(*args, **kwargs)
                self.interruptible = False
                limit = self.router.max_message_size
                data = b"\xf6" if result is None else encode(result, limit, "result")
        except BaseException as e:
            self.interruptible = False
            reply = CallError(e)
            if chain_id:
                self.errors[chain_id] = reply
            # Calls interrupted by shutdown are not logged.
            if not (msg.reply_to or self.ended):
                self.router.log(ERROR, "call without answer: %s", reply)
        if msg.reply_to:
            if reply:
                data = encode(reply)
            answer = Message(data=data, dst_id=msg.src_id, handle=msg.reply_to)
            self.router.route(answer, True, bool(self.queue))

    def _find(self, module_name: str, class_name: str, name: str, kwargs: dict[str, Any]) -> Any:
        if module_name == "__main__":
            self.econtext.import_main()
        # Waits if another thread is importing the module.
        owner = import_module(module_name)
        for part in class_name.split(".") if class_name else ():
            owner = getattr(owner, part)
        func = getattr(owner, name)
        if hasattr(func, "mitogen_takes_econtext"):
            kwargs["econtext"] = self.econtext
        if hasattr(func, "mitogen_takes_router"):
            kwargs["router"] = self.router
        return func
