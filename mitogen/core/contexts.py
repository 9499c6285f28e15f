"""
Context and Sender: objects that represent a context of the tree and a mailbox in it, and their
encoding on the wire.

Part of the preamble (mitogen/core/__init__.py): every byte of it goes to every child.

Threads: any.
"""

from __future__ import annotations

from mitogen.core.codec import (
    ENCODERS,
    TAG_CALL_ERROR,
    TAG_CONTEXT,
    TAG_DECODERS,
    TAG_SENDER,
)
from mitogen.core.errors import CallError
from mitogen.core.frames import NUMBER, Message
from mitogen.core.lazy import Lazy, fetch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any, TypeVar

    from typing_extensions import ParamSpec

    from mitogen.core.mailbox import Receiver
    from mitogen.core.routing import Router

    P = ParamSpec("P")
    R = TypeVar("R")


class Context(Lazy):
    """
    A context of the tree, as seen from this one.

    :param Router router: router of this context
    :param int context_id: id of the represented context
    :param str name: name for display
    """

    more = "contexts"
    #: Name of the process, such as `user@host:pid`, if known.
    remote_name: str | None = None
    #: The context that this one was connected through, if any.
    via: Any = None

    def __init__(self, router: Router, context_id: int, name: str | None = None) -> None:
        self.router = router
        self.context_id = context_id
        self.name = name

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Context)
            and other.context_id == self.context_id
            and other.router is self.router
        )

    def __hash__(self) -> int:
        return hash((id(self.router), self.context_id))

    def __repr__(self) -> str:
        return "Context(%s, %r)" % (self.context_id, self.name)

    if TYPE_CHECKING:
        # As in tree/contexts.py; for the other late attributes only the name is checked.
        def call(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
        def call_async(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Receiver: ...  # noqa: F405
        def call_no_reply(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> None: ...
        def submit(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...

    def send(self, msg: Message) -> None:
        """Send `msg` to the mailbox `msg.handle` of this context."""
        msg.dst_id = self.context_id
        self.router.route(msg)


class Sender:
    """
    The sending end of a mailbox. It can be passed to other contexts.

    :param Context context: context that owns the mailbox
    :param int dst_handle: handle of the mailbox
    """

    if TYPE_CHECKING:
        explicit_close_msg: str

        def put(self, data: Any) -> None: ...

    def __init__(self, context: Context, dst_handle: int) -> None:
        self.context = context
        self.dst_handle = dst_handle

    def send(self, data: Any, enc: int = 0) -> None:
        """
        Send a value; with `Message.ENC_BIN`, send bytes unchanged.

        :raises EncodeError: the value cannot be sent
        :raises TimeoutError: the receiver did not read for CREDIT_TIMEOUT seconds
        """
        self.context.send(Message.encoded(data, enc, handle=self.dst_handle))

    def close(self) -> None:
        """End the receiver's iteration once it has read all earlier values."""
        self.context.send(Message.dead(handle=self.dst_handle))


ENCODERS[Context] = (TAG_CONTEXT, lambda c: [c.context_id, c.name])
ENCODERS[Sender] = (TAG_SENDER, lambda s: [s.context.context_id, s.dst_handle])


def _encode_call_error(error: CallError) -> list[str | None]:
    return [error.type_name, error.message, error.traceback, str(error)]


ENCODERS[CallError] = (TAG_CALL_ERROR, _encode_call_error)
# Contexts decoded from peers are not cached: memory would be unbounded.
TAG_DECODERS[TAG_CONTEXT] = lambda v, router: (
    NUMBER.pack(v[0])
    and router.context_by_id(v[0], None, False)
    or router.context_class(router, *v)
)
TAG_DECODERS[TAG_SENDER] = lambda v, router: Sender(TAG_DECODERS[TAG_CONTEXT](v[:1], router), v[1])
TAG_DECODERS[TAG_CALL_ERROR] = lambda v, router: fetch("errors").restore_call_error(v, router)
