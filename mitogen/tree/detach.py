"""
Detaching: a context leaves its tree and keeps running as the root of its own subtree.

Rules
    1. Nothing changes before the parent has agreed; after that detaching cannot be undone.
    2. New ids come from one last block granted by the parent. All ids known here are smaller, so no
       Context or Sender of the old tree can refer to a new context.
    3. Operations that need the parent fail at once: imports of modules that are not here, log
       records.

Threads: detach() on a program's thread, the cut on the broker thread.
"""

from __future__ import annotations

import os

from mitogen import core, identity
from mitogen.core.mailbox import Latch
from mitogen.tree.contexts import Context
from mitogen.tree.ids import IdAllocator
from mitogen.tree.message_handles import DETACHING
from mitogen.tree.routes import upgrade

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["detach"]

#: Seconds to wait for the parent's agreement.
AGREE_TIMEOUT = 30.0


def detach(econtext: core.ExternalContext) -> None:
    """
    Detach this context, so that it survives its parent: `econtext.detach()`.

    The process runs until `econtext.broker.shutdown()` or until it exits. The call that detaches
    has no result: its caller sees the context disconnect.

    :raises core.Error: the context is already detached
    :raises core.ChannelError: the parent is gone
    :raises core.TimeoutError: the parent did not agree within AGREE_TIMEOUT seconds
    """
    router = econtext.router
    if econtext.detached:
        raise core.Error("context %d is already detached", router.context_id)
    upgrade(router)
    latch = Latch()
    router.broker.defer(router.branch.ids.request, latch.put)
    block = latch.get(AGREE_TIMEOUT)
    if block is None:
        raise core.ChannelError("the parent granted no ids")
    above = router.context_by_id(router.node.parent_ids[0])
    Context.send_await(above, core.Message(handle=DETACHING), AGREE_TIMEOUT)
    econtext.detached = True
    # The last frame marks the end: an ssh client does not report that its far end was closed.
    above.send(core.Message(handle=DETACHING))
    done = core.new_lock()
    router.broker.defer(_cut_when_sent, econtext, block[0], done)
    while not done.acquire(True, 1):
        if not router.broker.alive:
            raise core.Error("the broker has ended")


def _cut_when_sent(econtext: core.ExternalContext, first_id: int, done: Any) -> None:
    stream = econtext.stream
    stream.flush()
    if stream.queued and not stream.closed:
        delay = econtext.router.broker.after
        delay(0.01, lambda: _cut_when_sent(econtext, first_id, done))
    else:
        _cut(econtext, first_id)
        done.release()


def _cut(econtext: core.ExternalContext, first_id: int) -> None:
    router: Any = econtext.router
    router.branch.ids = IdAllocator(router, first_id)
    router.importer.request = _refuse_imports(router)
    router.send_log = lambda fields: None
    econtext.stream.disconnect("detached")
    del router.node.parent_ids[:]
    identity.set_parents([])
    econtext.parent = econtext.master = None
    null = os.open(os.devnull, os.O_RDWR)
    for fd in 1, 2:
        os.dup2(null, fd)
    os.close(null)


def _refuse_imports(router: Any) -> Callable[..., None]:
    importer = router.importer

    def refuse(fullname: str, done: Callable[[], Any]) -> None:
        reason = ""
        if importer.is_own(fullname):
            reason = "No module named %r: its source is where this context was detached from"
            reason %= (fullname,)

        def answer() -> None:
            if fullname not in importer.modules:
                importer.load([[[fullname, None, None, reason]], b"", []])
            done()

        router.broker.defer(answer)

    for fullname in list(importer.pending):
        refuse(fullname, int)
    return refuse
