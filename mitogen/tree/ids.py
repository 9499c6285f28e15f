"""
Context ids. The root of a tree allocates them; every other context gets blocks of ids from its
parent.

Threads: allocate() runs on any thread; functions with a callback run on the broker thread.
"""

from __future__ import annotations

import _thread

from mitogen import core
from mitogen.core import RAW, Message
from mitogen.core.mailbox import Latch
from mitogen.tree.message_handles import ALLOCATE_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["BLOCK_SIZE", "ChildIds", "IdAllocator"]

#: Number of ids in one block.
BLOCK_SIZE = 1000


class IdAllocator:
    """
    Allocator of context ids at the root of a tree.

    :param Router router: router of the root
    :param int first: first id to allocate
    """

    __module__ = "mitogen.master"

    BLOCK_SIZE = BLOCK_SIZE

    def __init__(self, router: Any, first: int = 1) -> None:
        self.router = router
        self.next_id = first
        self.lock = _thread.allocate_lock()

    def allocate(self) -> int:
        """Return a new id."""
        return self._advance(1)[0]

    def allocate_block(self) -> tuple[int, int]:
        """Return (first, end) of BLOCK_SIZE new ids."""
        return self._advance(self.BLOCK_SIZE)

    def _advance(self, count: int) -> tuple[int, int]:
        with self.lock:
            first = self.next_id
            self.next_id += count
            return first, self.next_id

    def request(self, done: Callable[[Any], object]) -> None:
        """Broker thread: call `done((first, end))`."""
        done(self.allocate_block())

    def take(self, done: Callable[[Any], object]) -> None:
        """Broker thread: call `done(context_id)`."""
        done(self.allocate())


class ChildIds:
    """Allocator of context ids in a context with a parent; requests one block at a time."""

    def __init__(self, router: Any) -> None:
        self.router = router
        self.free: Iterator[int] = iter(())
        #: Callbacks that wait for an id from the next block.
        self.waiting: list[Callable[[Any], object]] = []

    def allocate(self) -> int:
        """Return a new context id, requesting a block from the parent if none is left."""
        latch = Latch()
        self.router.broker.defer(self.take, latch.put)
        context_id: int | None = latch.get(core.IMPORT_TIMEOUT)
        if context_id is None:
            raise core.ChannelError("the parent granted no ids")
        return context_id

    def take(self, done: Callable[[Any], object]) -> None:
        """Broker thread: call `done(context_id)`, now or later; None if the parent refuses."""
        context_id = next(self.free, None)
        if context_id is not None:
            done(context_id)
            return
        self.waiting.append(done)
        if len(self.waiting) == 1:
            self.request(self._on_block)

    def _on_block(self, block: tuple[int, int] | None) -> None:
        waiting, self.waiting = self.waiting, []
        if block is not None:
            self.free = iter(range(*block))
        for done in waiting:
            if block is None:
                done(None)
            else:
                self.take(done)

    def request(self, done: Callable[[Any], object]) -> None:
        """Any thread: call `done((first, end))` on the broker thread when the parent answers."""

        def on_answer(msg: Message) -> None:
            done(None if msg.is_dead else core.PAIR.unpack(msg.data))

        router = self.router
        parent = router.context_by_id(router.node.parent_ids[0])
        handle = router.add_handler(
            on_answer, router.new_handle(False), persist=False, respondent=parent
        )
        msg = Message(dst_id=parent.context_id, handle=ALLOCATE_ID, reply_to=handle, flags=RAW)
        router.route(msg, False)
