"""
Who has a program started where: a context by those above it, and by others if one of those above
both has granted that.

A child has no right to call anything in its siblings or its parents. What it may get is that an
ancestor of both has one program started, whose pipes are then bound to the two of them: it asks its
ancestors, the nearest first, and the first that has granted it has the target start the program
(rule 2 of pipes.py: nobody else can use them).

Rules
    1. A grant names one asking context and one target. It is given by a call of a function that
       needs it, for as long as that call's answer is awaited; or by allow(); or by a policy.
    2. It is looked up by the source that routing has verified, never by what a message says.
    3. Without a grant nothing happens at the target, and the asker is told who can give one.

Threads: request() and allow() on any; questions are answered on the broker's thread, and what they
start on one of its own.
"""

from __future__ import annotations

import _thread

from mitogen import core
from mitogen.calls import CallChain
from mitogen.core import Message
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

#: Handle that takes [target's id, what to start, mailboxes] from a descendant.
START_PROGRAM = 118


def request(
    context: Any,
    spec: dict[str, Any],
    handles: list[int],
    on_answer: OnAnswer,
    peer_id: int | None = None,
) -> None:
    """
    Any thread: have a program started, and `on_answer(msg)` called on the broker's thread.

    :param Context context: where
    :param dict spec: what: see process.spec_of()
    :param list handles: the mailboxes of whom it is for: see programs.start()
    :param int peer_id: whom it is for; None for this context
    """
    router = context.router
    here = router.context_id
    args = [spec, here if peer_id is None else peer_id, handles]
    if context.context_id == here:
        _thread.start_new_thread(_start_here, (router, args, on_answer))
    elif router.__dict__.get("econtext") and context.context_id not in router.routes.streams:
        _Question(context, spec, handles, on_answer).ask()
    else:
        CallChain(context, worker=True).start(on_answer, server.start, args, {})


def _answer_of(router: Any, value: Any) -> Message:
    return Message(data=core.encode(value), router=router)


def _start_here(router: Any, args: Any, on_answer: OnAnswer) -> None:
    try:
        result: Any = server.start(*args, router=router)
    except Exception as e:
        result = core.CallError(e)
    router.broker.defer(on_answer, _answer_of(router, result))


class _Question:
    """Asks this context's ancestors, one after the other."""

    def __init__(
        self, context: Any, spec: dict[str, Any], handles: list[int], on_answer: OnAnswer
    ) -> None:
        self.context = context
        self.router = context.router
        self.data = core.encode([context.context_id, spec, handles])
        self.on_answer = on_answer
        self.left = list(self.router.node.parent_ids)

    def ask(self) -> None:
        if not self.left:
            return self.on_answer(_answer_of(self.router, ("refused", self._text())))  # type: ignore[return-value]
        ancestor = self.left.pop(0)
        handle = self.router.expect(self._on_answer, ancestor)
        msg = Message(dst_id=ancestor, handle=START_PROGRAM, reply_to=handle, data=self.data)
        self.router.route(msg, False)

    def _on_answer(self, msg: Message) -> None:
        if msg.is_dead:
            # It does not grant that, or has never granted anything, or is gone.
            self.ask()
        else:
            self.on_answer(msg)

    def _text(self) -> str:
        return (
            "context %d may not run programs in %r: no ancestor of both has granted it; there, "
            "call mitogen.fakessh.run itself in context %d, or whatever you call within "
            "`with mitogen.fakessh.allow(source, target):`"
            % (self.router.context_id, self.context, self.router.context_id)
        )


# -- an ancestor's side


class Grant:
    """
    Leave for one context to run programs in another; ends with close(), or the `with` block.

    :param Grants grants: where it is kept
    :param int source_id: who may
    :param int target_id: where
    """

    def __init__(self, grants: Grants, source_id: int, target_id: int) -> None:
        self.grants = grants
        self.source_id = source_id
        self.target_id = target_id

    def __enter__(self) -> Grant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_valid(self) -> bool:
        """Return whether it still holds."""
        return True

    def close(self) -> None:
        """Take it back; programs that run already go on. Idempotent."""
        self.grants.discard(self)


class _CallGrant(Grant):
    """One that holds while a call's answer is awaited."""

    def __init__(self, grants: Grants, source_id: int, target_id: int, call: Message) -> None:
        Grant.__init__(self, grants, source_id, target_id)
        self.call = call

    def is_valid(self) -> bool:
        # Until it is sent it has no such mailbox yet; then nobody asks for it either.
        return self.call.reply_to in self.grants.router._handlers


class Grants:
    """All that one context has granted."""

    def __init__(self, router: Any) -> None:
        self.router = router
        self.policy: Policy | None = None
        self._lock = _thread.allocate_lock()
        self._grants: list[Grant] = []
        router.add_handler(self._on_question, START_PROGRAM, True, None, None, True)

    def add(self, grant: Grant) -> Grant:
        with self._lock:
            self._grants.append(grant)
        return grant

    def discard(self, grant: Grant) -> None:
        with self._lock:
            self._grants = [other for other in self._grants if other is not grant]

    def forget_over(self) -> None:
        """Forget those of calls that are over."""
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

    def _on_question(self, msg: Message) -> None:
        target_id, spec, handles = core.decode(msg.data)
        _thread.start_new_thread(self._consider, (msg, target_id, spec, handles))

    def _consider(
        self, msg: Message, target_id: int, spec: dict[str, Any], handles: list[int]
    ) -> None:
        """A thread of its own: a policy is a program's."""
        try:
            if not self._allows(msg.src_id, target_id, spec):
                return msg.reply(Message.dead("not granted"))
            if self.router.unidirectional and target_id != self.router.context_id:
                raise Refused("in a unidirectional tree contexts do not talk to each other")
            target = self.router.context_by_id(target_id)
            # As it came, so that what only the target knows goes through.
            request(target, spec, handles, lambda answer: _pass_on(msg, answer), msg.src_id)
        except Refused as e:
            msg.reply(("refused", str(e)))
        except Exception as e:
            error: CallError = core.CallError(e)
            msg.reply(error)

    def _allows(self, source_id: int, target_id: int, spec: dict[str, Any]) -> bool:
        router = self.router
        # Of what is not below it, this context has no say.
        if target_id != router.context_id and target_id not in router.routes.streams:
            return False
        if self._is_granted(source_id, target_id):
            return True
        source, target = [router.context_by_id(i) for i in (source_id, target_id)]
        return bool(self.policy and self.policy(source, target, spec))


def _pass_on(question: Message, answer: Message) -> None:
    if answer.is_dead:
        question.reply(Message.dead(answer.data.decode("utf-8", "replace")))
    else:
        question.reply(Message(data=answer.data, flags=answer.flags))


def grants_of(router: Any) -> Grants:
    """Return what knows all that this context has granted."""
    found = router.__dict__.get("_grants")
    if found is None:
        found = router.__dict__["_grants"] = Grants(router)
    grants: Grants = found
    return grants


def allow(source: Any, target: Any) -> Grant:
    """
    Let one context run programs in another, until the Grant is closed.

    :param Context source: who may; a descendant of this context
    :param Context target: where; this context or a descendant of it
    :returns: Grant, to be used in a `with` statement or closed
    """
    grants = grants_of(source.router)
    return grants.add(Grant(grants, source.context_id, target.context_id))


def set_policy(router: Any, policy: Policy | None) -> None:
    """
    Have a function decide about what is not granted otherwise.

    :param Router router: this context's
    :param policy: `policy(source, target, spec)`, contexts and a dict (process.spec_of()), on a
        thread of its own: returns whether the program may run; None for no
    """
    grants_of(router).policy = policy


def grant_for_call(msg: Message, source: Any, target: Any) -> None:
    """Let `source` run programs in `target` while it runs the call that `msg` is."""
    grants = grants_of(source.router)
    grants.forget_over()
    grants.add(_CallGrant(grants, source.context_id, target.context_id, msg))
