"""
Jobs that peers ask for, on threads that serve all peers.

Rules
    1. Each stream has a queue of its own. It is bounded, and the streams take turns.
    2. A job ends when its answer has left this process. So a peer that does not read delays its own
       jobs alone, and no more answers wait for it than jobs may run at once.
    3. No thread waits for a peer here.

Threads: any, unless a docstring names one.
"""

from __future__ import annotations

import _thread
from collections import deque

from mitogen import core
from mitogen.core import HIGH_WATER, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Action = Callable[[], object]

__all__ = ["Turns", "reply", "send", "when_room"]


class _Lane:
    """The jobs of one stream."""

    def __init__(self) -> None:
        self.queue: deque[Any] = deque()
        self.running = 0


class Turns:
    """
    A queue of jobs for each stream.

    :param put: `put(func, *args)` queues a call on the shared threads
    :param int at_once: jobs of one stream that are passed to `put` before the first has ended
    :param int limit: jobs of one stream that may wait
    """

    def __init__(self, put: Callable[..., object], at_once: int, limit: int) -> None:
        self._put = put
        self._at_once = at_once
        self._limit = limit
        self._lock = _thread.allocate_lock()
        self._lanes: dict[Any, _Lane] = {}

    def add(self, stream: Any, func: Callable[..., object], *args: Any) -> bool:
        """
        Queue `func(*args, release)`, which calls `release()` once its answer has left.

        :param stream: the stream that the request came from; None for this process
        :returns: False if too many jobs of that stream wait
        """
        with self._lock:
            lane = self._lanes.setdefault(stream, _Lane())
            if len(lane.queue) >= self._limit:
                return False
            lane.queue.append((func, args))
        self._start(stream)
        return True

    def size(self, stream: Any) -> int:
        """Return the number of a stream's jobs that wait."""
        lane = self._lanes.get(stream)
        return len(lane.queue) if lane else 0

    def drain(self) -> list[tuple[Callable[..., object], Any]]:
        """Remove all waiting jobs, and return each as (func, args)."""
        with self._lock:
            lanes = list(self._lanes.values())
            waiting = [job for lane in lanes for job in lane.queue]
            for lane in lanes:
                lane.queue.clear()
        return waiting

    def _start(self, stream: Any) -> None:
        with self._lock:
            lane = self._lanes.get(stream)
            if lane is None or lane.running >= self._at_once:
                return
            if not lane.queue:
                if not lane.running:
                    del self._lanes[stream]
                return
            lane.running += 1
            func, args = lane.queue.popleft()
        self._put(self._run, stream, func, args)

    def _run(self, stream: Any, func: Callable[..., object], args: Any) -> None:
        open_jobs = [stream]

        def release() -> None:
            if open_jobs:
                open_jobs.pop()
                self._release(stream)

        try:
            func(*args, release)
        except BaseException:
            release()
            raise

    def _release(self, stream: Any) -> None:
        with self._lock:
            lane = self._lanes.get(stream)
            if lane is not None:
                lane.running -= 1
        self._start(stream)


def when_room(stream: Any, func: Action) -> None:
    """Call `func()` once little is queued on `stream`: now, or on the broker thread."""
    if stream is not None and stream.queued * 2 >= HIGH_WATER:
        stream.when_drained(func)
    else:
        func()


def send(router: Any, msg: Message, sent: Action) -> None:
    """Send a message without waiting, and call `sent()` once it has left or is given up."""
    stream = None if msg.dst_id == router.context_id else router.routes.get(msg.dst_id)
    ticket = router.route(msg, False)
    if ticket:
        # The ticket belongs to the broker.
        router.broker.defer(_when_done, ticket, stream, sent)
    else:
        when_room(stream, sent)


def _when_done(ticket: core.Ticket, stream: Any, func: Action) -> None:
    if ticket.then:
        ticket.then = lambda: when_room(stream, func)
    else:
        when_room(stream, func)


def reply(router: Any, msg: Message, value: Any, sent: Action, **kwargs: Any) -> None:
    """
    Answer `msg` as Message.reply() does, without waiting, and call `sent()` once that has left.

    There is no answer to a windowed mailbox: it would wait here for the peer's credit.

    :raises EncodeError: the value cannot be sent
    """
    answer = value if isinstance(value, Message) else None
    if msg.is_dead or msg.reply_to < core.FIRST_UNWINDOWED:
        return sent()  # type: ignore[return-value]
    if answer is None:
        answer = Message(data=core.encode(value, None, "result"))
    answer.__dict__.update(kwargs, dst_id=msg.src_id, handle=msg.reply_to)
    send(router, answer, sent)
