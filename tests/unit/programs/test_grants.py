"""Permission to start programs in other contexts: a tree in memory, whose targets log requests."""

import pytest

from mitogen import core
from mitogen.programs import grants, server
from tests.unit import nodes

SPEC = {"kind": "argv", "args": ["true"], "window": 100}
HANDLES = [1 << 31, (1 << 31) + 1, (1 << 31) + 2, (1 << 31) + 3]


class Tree:
    """A master with two children that do not trust each other; the left one has a child too."""

    def __init__(self, net, monkeypatch):
        self.net = net
        self.master = net.node(0)
        self.left = net.node(1, self.master)
        self.right = net.node(2, self.master)
        self.below = net.node(3, self.left)
        net.pump()
        self.started = []

        def start(target, spec, handles, on_answer, peer_id=None):
            self.started.append((target.router.context_id, target.context_id, peer_id, spec))
            on_answer(grants._answer_of(target.router, ("started", 7, handles)))

        self.real = grants.request
        monkeypatch.setattr(grants, "request", start)
        # No threads: answers are sent at once, where the test can see them.
        monkeypatch.setattr(grants._thread, "start_new_thread", lambda f, args: f(*args))

    def request(self, source, target):
        """Return the answer to a request of `source` to run a program in `target`."""
        answers = []
        self.real(source.context(target), SPEC, HANDLES, answers.append)
        self.net.pump()
        (answer,) = answers
        return answer.unpickle()


@pytest.fixture
def tree(monkeypatch):
    with nodes.network() as net:
        yield Tree(net, monkeypatch)


def allow(tree, source, target):
    return grants.allow(tree.master.context(source), tree.master.context(target))


def test_no_program_starts_without_a_grant(tree):
    verdict, why = tree.request(tree.left, tree.right)
    assert verdict == "refused"
    for part in ("context 1", "no ancestor of both has granted it", "mitogen.fakessh.allow"):
        assert part in why
    assert not tree.started


def test_a_grant_is_for_one_source_and_one_target(tree):
    with allow(tree, tree.left, tree.right):
        assert tree.request(tree.left, tree.right) == ("started", 7, HANDLES)
        assert tree.started == [(0, 2, 1, SPEC)]
        for source, target in ((tree.right, tree.left), (tree.below, tree.right)):
            assert tree.request(source, target)[0] == "refused"
        assert tree.request(tree.left, tree.master)[0] == "refused"
    assert len(tree.started) == 1


def test_a_grant_ends_with_the_block_and_close_is_idempotent(tree):
    grant = allow(tree, tree.left, tree.right)
    with grant:
        pass
    grant.close()
    assert tree.request(tree.left, tree.right)[0] == "refused"


def test_equal_grants_end_separately(tree):
    with allow(tree, tree.left, tree.right):
        with allow(tree, tree.left, tree.right):
            pass
        assert tree.request(tree.left, tree.right)[0] == "started"


def test_a_grant_of_a_distant_ancestor(tree):
    with allow(tree, tree.below, tree.right):
        assert tree.request(tree.below, tree.right)[0] == "started"
        assert tree.started == [(0, 2, 3, SPEC)]


def test_a_grant_of_one_of_two_ancestors(tree):
    left = tree.left
    grants.allow(left.context(tree.below), left.router.myself())
    with allow(tree, tree.below, tree.right):
        assert tree.request(tree.below, tree.right)[0] == "started"


def test_a_grant_for_the_granting_context_itself(tree):
    with allow(tree, tree.left, tree.master):
        assert tree.request(tree.left, tree.master)[0] == "started"
        assert tree.started == [(0, 0, 1, SPEC)]


def test_a_call_grant_lasts_while_the_answer_is_pending(tree):
    master = tree.master.router
    call = core.Message()
    grants.grant_for_call(call, tree.master.context(tree.left), tree.master.context(tree.right))
    assert tree.request(tree.left, tree.right)[0] == "refused", "the call is not sent yet"
    call.reply_to = master.expect(lambda msg: None, 1)
    assert tree.request(tree.left, tree.right)[0] == "started"
    del master.handlers[call.reply_to]
    assert tree.request(tree.left, tree.right)[0] == "refused"


def test_grants_of_ended_calls_are_removed(tree):
    master = tree.master
    for _ in range(10):
        call = core.Message(reply_to=1 << 31)
        grants.grant_for_call(call, master.context(tree.left), master.context(tree.right))
    assert len(grants.grants_of(master.router)._grants) == 1


def test_a_policy_decides_without_a_grant(tree):
    asked = []

    def policy(source, target, spec):
        asked.append((source.context_id, target.context_id, spec))
        return source.context_id == 1

    grants.set_policy(tree.master.router, policy)
    assert tree.request(tree.left, tree.right)[0] == "started"
    assert tree.request(tree.right, tree.left)[0] == "refused"
    assert asked == [(1, 2, SPEC), (2, 1, SPEC)]
    grants.set_policy(tree.master.router, None)
    assert tree.request(tree.left, tree.right)[0] == "refused"


def test_an_error_in_a_policy_refuses(tree):
    grants.set_policy(tree.master.router, lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tree.request(tree.left, tree.right)
    assert not tree.started


def test_contexts_that_a_policy_is_asked_about_are_not_kept(tree):
    grants.set_policy(tree.master.router, lambda *args: False)
    tree.master.router._contexts.clear()
    assert tree.request(tree.left, tree.right)[0] == "refused"
    assert tree.master.router._contexts == {}


def test_a_policy_is_not_called_for_unknown_contexts(tree):
    grants.set_policy(tree.master.router, lambda *args: True)
    answers = []
    tree.real(tree.left.context(4711), SPEC, HANDLES, answers.append)
    tree.net.pump()
    assert answers[0].unpickle()[0] == "refused"


def test_a_unidirectional_tree_refuses(tree):
    tree.master.router.unidirectional = True
    with allow(tree, tree.left, tree.right):
        verdict, why = tree.request(tree.left, tree.right)
    assert (verdict, "unidirectional" in why) == ("refused", True)
    assert not tree.started


def test_the_requester_is_the_verified_source(tree):
    """A message with a forged source is dropped before it arrives."""
    with allow(tree, tree.left, tree.right):
        msg = core.Message(dst_id=0, src_id=1, auth_id=1, handle=grants.START_PROGRAM, reply_to=9)
        msg.data = core.encode([2, SPEC, HANDLES])
        with tree.right.broker.thread():
            stream = tree.right.router.routes.parent
            stream.send(msg.header(len(msg.data), 0), msg.data)
        tree.net.pump()
    assert not tree.started


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9, core.encode([1, 2]), core.encode(7)])
def test_malformed_requests(data, tree):
    with allow(tree, tree.left, tree.right):
        answers = tree.left.ask(tree.master, grants.START_PROGRAM, data, flags=0)
        tree.net.pump()
    assert not tree.started
    assert isinstance(answers[0].unpickle(throw=False), core.CallError)


def test_start_refuses_an_invalid_window():
    for window in (0, -1, server.MAX_WINDOW + 1):
        with pytest.raises(ValueError, match="window must be"):
            server.start(dict(SPEC, window=window), 0, HANDLES)
