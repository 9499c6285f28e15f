"""
Permission to start programs in other contexts. A context's ancestors may always start programs
in it. Other contexts may if an ancestor of both has granted it.

A child has no right to make calls in its siblings or its parents. It may only ask its ancestors,
the nearest first, to start one program. The first ancestor that has granted it makes the target
start the program, with pipes that are bound to the target and the requester (rule 4 of pipes.py: no
other context can use them).

Rules
    1. A grant names one requester and one target. It is created by a call of a function that needs
       it, and lasts while that call's answer is pending; or by allow(); or by a policy.
    2. The requester is identified by the source that routing has verified, not by the content of
       the message.
    3. Without a grant nothing happens in the target, and the error names the contexts that can
       grant it.

Threads: request() and allow() run on any thread. Requests are received on the broker's thread and
handled on separate threads.
"""

from __future__ import annotations

import _thread

from mitogen import core
from mitogen.calls.chain import CallChain
from mitogen.core import Message
from mitogen.limits import turns
from mitogen.limits.guard import guarded
from mitogen.programs import server
from mitogen.programs.server import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mitogen.core import CallError

    OnAnswer = Callable[[Message], object]
    Policy = Callable[[Any, Any, dict[str, Any]], object]

__all__ = ["START_PROGRAM", "Grant", "allow", "grant_for_call", "request", "set_policy"]

#: Handle that accepts [target's id, spec, mailboxes] from a descendant.
START_PROGRAM = 118
#: Requests of one stream that are handled at once, each on a thread of its own, and that may wait.
MAX_AT_ONCE, MAX_WAITING = 4, 100
#: Bytes of a request: a program's arguments and environment may take two megabytes.
MAX_REQUEST = 4194304


def request(
    context: Any,
    spec: dict[str, Any],
    handles: list[int],
    on_answer: OnAnswer,
    peer_id: int | None = None,
) -> None:
    """
    Any thread: start a program, and call `on_answer(msg)` on the broker's thread.

    :param Context context: context to start it in
    :param dict spec: the program: see client.spec_of()
    :param list handles: mailboxes of the context that the program is for: see server.start()
    :param int peer_id: the context that the program is for; None for this context
    """
    router = context.router
    here = router.context_id
    args = [spec, here if peer_id is None else peer_id, handles]
    if context.context_id == here:
        _thread.start_new_thread(_start_here, (router, args, on_answer))
    elif router.__dict__.get("econtext") and context.context_id not in router.routes.streams:
        _GrantRequest(context, spec, handles, on_answer).send_next()
    else:
        CallChain(context, worker=True).start(on_answer, server.start, args, {})


def _answer_of(router: Any, value: Any) -> Message:
    return Message(data=core.encode(value), router=router)


def _start_here(router: Any, args: Any, on_answer: OnAnswer) -> None:
    try:
        result: Any = server.start(*args, router=router)
    except BaseException as e:
        result = core.CallError(e)
    router.broker.defer(on_answer, _answer_of(router, result))


class _GrantRequest:
    """A request to this context's ancestors, sent to one after the other."""

    def __init__(
        self, context: Any, spec: dict[str, Any], handles: list[int], on_answer: OnAnswer
    ) -> None:
        self.context = context
        self.router = context.router
        self.data = core.encode([context.context_id, spec, handles])
        self.on_answer = on_answer
        self.ancestors = list(self.router.node.parent_ids)

    def send_next(self) -> None:
        if not self.ancestors:
            return self.on_answer(_answer_of(self.router, ("refused", self._text())))  # type: ignore[return-value]
        ancestor = self.ancestors.pop(0)
        handle = self.router.expect(self._on_answer, ancestor)
        msg = Message(dst_id=ancestor, handle=START_PROGRAM, reply_to=handle, data=self.data)
        self.router.route(msg, False)

    def _on_answer(self, msg: Message) -> None:
        if msg.is_dead:
            # This ancestor does not grant it, has never granted anything, or is gone.
            self.send_next()
        else:
            self.on_answer(msg)

    def _text(self) -> str:
        return (
            "context %d may not run programs in %r: no ancestor of both has granted it. In such an "
            "ancestor, call mitogen.fakessh.run itself in context %d, or make the call within "
            "`with mitogen.fakessh.allow(source, target):`"
            % (self.router.context_id, self.context, self.router.context_id)
        )


# -- in an ancestor


class Grant:
    """
    Permission for one context to run programs in another, until close() or the end of its `with`
    block.

    :param Grants grants: registry that contains the grant
    :param int source_id: context that may run programs
    :param int target_id: context in which it may run them
    """

    __module__ = "mitogen.grants"

    def __init__(self, grants: Grants, source_id: int, target_id: int) -> None:
        self.grants = grants
        self.source_id = source_id
        self.target_id = target_id

    def __enter__(self) -> Grant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_valid(self) -> bool:
        """Return whether the grant is in force."""
        return True

    def close(self) -> None:
        """Revoke the grant. Programs that are running continue. Idempotent."""
        self.grants.discard(self)


class _CallGrant(Grant):
    """A grant that lasts while a call's answer is pending."""

    def __init__(self, grants: Grants, source_id: int, target_id: int, call: Message) -> None:
        Grant.__init__(self, grants, source_id, target_id)
        self.call = call

    def is_valid(self) -> bool:
        # Before the call is sent it has no such mailbox. No request can arrive then either.
        return self.call.reply_to in self.grants.router.handlers


class Grants:
    """Registry of the grants that one context has given."""

    def __init__(self, router: Any) -> None:
        self.router = router
        self.policy: Policy | None = None
        self._lock = _thread.allocate_lock()
        self._grants: list[Grant] = []
        self._turns = turns.Turns(self._start_thread, MAX_AT_ONCE, MAX_WAITING)
        router.add_handler(self._on_request, START_PROGRAM, True, None, None, True)

    def add(self, grant: Grant) -> Grant:
        with self._lock:
            self._grants.append(grant)
        return grant

    def discard(self, grant: Grant) -> None:
        with self._lock:
            self._grants = [other for other in self._grants if other is not grant]

    def discard_expired(self) -> None:
        """Remove the grants of calls that have ended."""
        with self._lock:
            over = [g for g in self._grants if isinstance(g, _CallGrant)]
            over = [g for g in over if g.call.reply_to and not g.is_valid()]
            self._grants = [g for g in self._grants if g not in over]

    def _is_granted(self, source_id: int, target_id: int) -> bool:
        with self._lock:
            return any(
                (g.source_id, g.target_id) == (source_id, target_id) and g.is_valid()
                for g in self._grants
            )

    def _start_thread(self, func: Callable[..., object], *args: Any) -> None:
        name = "a program for another context"
        _thread.start_new_thread(guarded, (self.router.log, name, func, *args))

    def _on_request(self, msg: Message) -> None:
        if msg.is_dead:
            return
        stream = self.router.routes.get(msg.src_id)
        if not self._may_be_granted(msg.src_id):
            why = "not granted"
        elif len(msg.data) > MAX_REQUEST:
            why = "a request of more than %d bytes" % MAX_REQUEST
        elif not self._turns.add(stream, self._answer_request, msg):
            why = "too many requests wait"
        else:
            return
        # Not even this is for a child that does not read its answers.
        if stream is None or stream.queued < core.HIGH_WATER:
            self.router.bounce(msg, why)

    def _may_be_granted(self, source_id: int) -> bool:
        with self._lock:
            return bool(self.policy) or any(g.source_id == source_id for g in self._grants)

    def _answer_request(self, msg: Message, release: Callable[[], object]) -> None:
        """Answer a request. Runs on its own thread, as a policy may block."""

        def reply(value: Any) -> None:
            turns.reply(self.router, msg, value, release)

        try:
            target_id, spec, handles = core.decode(msg.data)
            if not self._is_allowed(msg.src_id, target_id, spec):
                return reply(Message.dead("not granted"))
            if self.router.unidirectional and target_id != self.router.context_id:
                raise Refused("contexts of a unidirectional tree cannot run programs in each other")
            target = self.router.context_by_id(target_id)
            # The spec is passed on unchanged: it may contain fields that only the target knows.
            request(target, spec, handles, lambda answer: reply(_answer_like(answer)), msg.src_id)
        except Refused as e:
            reply(("refused", str(e)))
        except BaseException as e:
            # A policy may raise anything.
            error: CallError = core.CallError(e)
            reply(error)

    def _is_allowed(self, source_id: int, target_id: int, spec: dict[str, Any]) -> bool:
        router = self.router
        # This context decides only about itself and its descendants.
        if target_id != router.context_id and target_id not in router.routes.streams:
            return False
        if self._is_granted(source_id, target_id):
            return True
        if self.policy is None:
            return False
        # Not kept: a child has as many ids as it likes.
        source, target = [
            router.context_by_id(i, create=False) or router.context_class(router, i)
            for i in (source_id, target_id)
        ]
        return bool(self.policy(source, target, spec))


def _answer_like(answer: Message) -> Message:
    if answer.is_dead:
        return Message.dead(answer.data.decode("utf-8", "replace"))
    return Message(data=answer.data, flags=answer.flags)


def grants_of(router: Any) -> Grants:
    """Return this router's registry of grants."""
    grants: Grants = router.component(Grants)
    return grants


def allow(source: Any, target: Any) -> Grant:
    """
    Allow one context to run programs in another until the Grant is closed.

    :param Context source: context that may run programs: a descendant of this context
    :param Context target: context in which it may run them: this context or a descendant of it
    :returns: Grant, to be used in a `with` statement or closed
    """
    grants = grants_of(source.router)
    return grants.add(Grant(grants, source.context_id, target.context_id))


def set_policy(router: Any, policy: Policy | None) -> None:
    """
    Set a function that decides about requests for which there is no grant.

    :param Router router: this context's router
    :param policy: `policy(source, target, spec)`, called with two contexts and a dict
        (client.spec_of()) on a separate thread; it returns whether the program may run. None
        removes the policy
    """
    grants_of(router).policy = policy


def grant_for_call(msg: Message, source: Any, target: Any) -> None:
    """Allow `source` to run programs in `target` while it runs the call in `msg`."""
    grants = grants_of(source.router)
    grants.discard_expired()
    grants.add(_CallGrant(grants, source.context_id, target.context_id, msg))
