"""A Router with a hostile neighbor that sends arbitrary frames and bytes.

The router raises nothing, delivers nothing that it should refuse, and its memory is bounded. Node 0
is the master, 1 and 5 its children, 2 is below 1. The neighbor is 1, as seen by the master, or 2,
as seen by 1.
"""

import itertools
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mitogen import core, parent
from mitogen.core import CONT, MORE, RAW
from tests.unit import nodes
from tests.unit.nodes import frame

ASK, PRIVATE, REPLY, POLICED, SEVERAL = 1000, 1001, 2**31, 1003, 1004
KNOWN = [
    core.GET_MODULE, core.CALL_FUNCTION, core.FORWARD_LOG, parent.ADD_ROUTE, core.DEL_ROUTE,
    parent.ALLOCATE_ID, core.SHUTDOWN, core.LOAD_MODULE, parent.FORWARD_MODULE, parent.DETACHING,
    core.CALL_SERVICE, parent.GET_RESOURCE, core.CREDIT, core.PING, 116, core.IS_DEAD, 0,
    ASK, PRIVATE, REPLY, POLICED, SEVERAL, 4711, 2**32 - 1,
]  # fmt: skip
# Most ids and handles exist: numbers drawn from the whole range would all take one path.
IDS = st.one_of(st.sampled_from([0, 1, 2, 5, 6, 77, 100, 1100] * 3), st.integers(0, 2**32 - 1))
NUMBERS = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1))
PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.builds(core.NUMBER.pack, IDS),
    st.builds(core.TRIPLE.pack, st.one_of(IDS, st.sampled_from(KNOWN)), NUMBERS, NUMBERS),
    st.builds(core.PAIR.pack, IDS, IDS),
    st.sampled_from([b"os", b"../../etc/passwd", b"\xff\xfe", b"mitogen.core", b"app"]),
    st.builds(lambda names: core.encode(names), st.lists(st.one_of(st.text(max_size=5), IDS))),
    st.just(core.encode([[["os", "/evil.py", None, 1]], core.Blob(b"x"), ["os"]])),
    st.just(bytes(core.FRAME_SIZE)),
)
FRAMES = st.builds(
    frame,
    dst=st.sampled_from([0, 1, 0, 1, 0, 1, 2, 5, 77]),
    handle=st.sampled_from(KNOWN),
    data=PAYLOADS,
    src=IDS,
    auth=IDS,
    reply_to=st.sampled_from([0, core.IS_DEAD, REPLY, ASK, 5]),
    flags=st.sampled_from([0, RAW] * 4 + list(range(8))),
    number=st.integers(0, 3),
)


def frames_of(where):
    """Return a strategy for frames from the neighbor of node `where`, half with its own id."""
    own = st.builds(
        frame,
        dst=st.sampled_from([where, where, 0]),
        handle=st.sampled_from(KNOWN + [parent.ADD_ROUTE, core.DEL_ROUTE, parent.ALLOCATE_ID] * 4),
        data=st.one_of(PAYLOADS, st.builds(core.NUMBER.pack, IDS)),
        src=st.sampled_from([where + 1] * 4 + [2]),
        auth=st.just(where + 1),
        reply_to=st.sampled_from([0, REPLY, 5]),
    )
    return st.one_of(own, FRAMES)


ATTACKS = st.sampled_from([0, 1]).flatmap(
    lambda where: st.tuples(st.just(where), st.lists(frames_of(where), max_size=25))
)


class Watched:
    """A node, the messages it received, and checks of them."""

    def __init__(self, node):
        self.node = node
        self.got = []
        router = node.router
        add = router.add_handler
        add(self.note, ASK)
        add(self.note, PRIVATE, respondent=node.context(5))
        add(self.note, POLICED, policy=core.has_parent_authority)
        add(self.note, REPLY, persist=False, respondent=node.context(5))
        router.handlers.pop(core.SHUTDOWN, None)
        add(self.note, core.SHUTDOWN, policy=core.has_parent_authority)
        if core.CALL_FUNCTION not in router.handlers:
            add(self.note, core.CALL_FUNCTION, policy=core.has_parent_authority)
        add(self.note, core.FORWARD_LOG)

    def note(self, msg):
        self.got.append((msg.handle, msg.src_id, msg.auth_id))

    def check(self, hostile):
        """Check the messages; `hostile` are the ids that the neighbor may use as source."""
        trusted = {self.node.id, *self.node.router.node.parent_ids}
        for handle, src, auth in self.got:
            assert src in hostile and auth in hostile, "a forged source was accepted"
            if handle in (PRIVATE, REPLY):
                assert src == 5, "a message not from the respondent was accepted"
            if handle in (POLICED, core.SHUTDOWN, core.CALL_FUNCTION):
                assert auth in trusted, "a child's command was accepted by its parent"


def tree(net):
    """Return the nodes 0, 1, 2 and 5."""
    master, one, two = net.line(3)
    other = net.node(5, master)
    net.pump()
    return master, one, two, other


def routes(node):
    return {i: end.remote_id for i, end in node.router.routes.streams.items()}


def state(node):
    """Return the number of entries in each table of a router."""
    router = node.router
    tables = (
        router.handlers, router.flows, router.meters, router.longs, router._contexts,
        router.routes.streams,
    )  # fmt: skip
    return [len(table) for table in tables]


def attack(where, frames):
    """Let one neighbor of a tree send `frames`; check the effects."""
    with nodes.network() as net:
        master, one, two, other = tree(net)
        attacker, victim = (one, master) if where == 0 else (two, one)
        hostile = {1, 2} if where == 0 else {2}
        watched = [Watched(node) for node in (victim, other)]
        before = routes(victim)
        for data in frames:
            attacker.up.write(data)
        net.pump()
        for each in watched:
            each.check(hostile)
        # It may leave the tree, by the two-step detach.
        assert not victim.down[attacker.id].closed or victim.down[attacker.id].detached
        after = routes(victim)
        # It may withdraw its own routes; it gets routes only to ids allocated to it.
        blocks = victim.down[attacker.id].blocks
        for context_id, way in after.items():
            if before.get(context_id) != way:
                assert way == attacker.id and any(a <= context_id < b for a, b in blocks)
        for context_id in set(before) - set(after):
            assert before[context_id] == attacker.id and context_id != attacker.id
        if where:
            # Modules that it requested and that do not exist may be cached as missing.
            assert all(e.path is None for e in victim.router.importer.modules.values())
            assert not victim.router.importer.is_own("os")
        assert max(state(victim)) <= 60 + len(frames)
        return victim


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(ATTACKS)
def test_frames_of_a_hostile_child_are_harmless(sent):
    attack(*sent)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(FRAMES, max_size=4), st.binary(max_size=80), st.integers(1, 40))
def test_bytes_of_a_hostile_child_are_harmless(frames, garbage, piece):
    with nodes.network() as net:
        master, one, two, other = tree(net)
        watched = Watched(other)
        one.up.piece = piece
        one.up.write(b"".join(frames)[:3000] + garbage)
        net.pump()
        watched.check({1, 2})
        if master.down[1].closed:
            assert routes(master) == {5: 5}
        else:
            assert len(master.down[1].framer.rest) <= core.FRAME_SIZE + 31


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(FRAMES, max_size=25))
def test_frames_of_a_parent_raise_nothing(frames):
    """A parent is trusted, but its frames may be anything."""
    with nodes.network() as net:
        master, one, two, other = tree(net)
        one.dispatcher()
        for data in frames:
            master.down[1].write(data)
        net.pump()
        assert not one.up.closed and max(state(one)) <= 60 + len(frames)


# ---- limits on repeatable hostile actions

# Frames from node 1 to the master, or from node 2 to 1: {name: frame number n, from `src`}.
FLOODS = {
    "first pieces": lambda n, src: frame(0, ASK, b"", src, flags=MORE, number=n),
    "pieces": lambda n, src: frame(0, ASK, b"", src, flags=MORE | (CONT if n else 0), number=1),
    "unknown handles": lambda n, src: frame(0, 2000 + n, b"x", src, reply_to=5),
    "unknown contexts": lambda n, src: frame(5000 + n, ASK, b"x", src, reply_to=5),
    "unknown sources": lambda n, src: frame(0, ASK, b"x", 5000 + n),
    "credits": lambda n, src: frame(src - 1, core.CREDIT, core.TRIPLE.pack(2000 + n, 0, 5), src),
    "refused": lambda n, src: frame(src - 1, POLICED, b"x", src, reply_to=5),
    "routes": lambda n, src: frame(src - 1, parent.ADD_ROUTE, core.NUMBER.pack(n), src),
    "withdrawn": lambda n, src: frame(src - 1, core.DEL_ROUTE, core.NUMBER.pack(n), src),
    "granted": lambda n, src: frame(
        src - 1, parent.ALLOCATE_ID, core.TRIPLE.pack(src, n, n + 9), src
    ),
    "blocks": lambda n, src: frame(src - 1, parent.ALLOCATE_ID, b"", src, reply_to=5),
    "short payloads": lambda n, src: frame(src - 1, core.CREDIT, b"", src),
    "modules": lambda n, src: frame(src - 1, core.GET_MODULE, b"no%d" % n, src),
}
KNOWN_BUGS = {
    ("unknown contexts", 2): "egress_ids keeps every id that a message was ever sent to",
    ("modules", 1): "every name without a module is kept in sent_modules",
    ("modules", 2): "a relay keeps every name without a module",
}
COUNT = 1200


def flood(make, attacker_id):
    """Return (bytes that COUNT such frames leave in the victim, number of its log records)."""
    with nodes.network() as net:
        everyone = tree(net)
        victim, attacker = everyone[attacker_id - 1], everyone[attacker_id]
        Watched(victim)
        modules = everyone[0].router.branch.modules

        def send(numbers):
            for n in numbers:
                attacker.up.write(make(n, attacker_id))
                net.pump()
                for end in net.ends:
                    end.sent.clear()
                # The fakes keep these.
            modules.fetched.clear()

        send(range(50))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        send(range(50, 50 + COUNT))
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return used, len(victim.logs)


@pytest.mark.parametrize(
    "what, attacker_id",
    [
        pytest.param(
            *key,
            marks=[pytest.mark.xfail(strict=True, reason=KNOWN_BUGS[key])]
            if key in KNOWN_BUGS
            else [],
        )
        for key in itertools.product(FLOODS, [1, 2])
    ],
)
def test_a_flood_leaves_nothing_behind(what, attacker_id):
    used, logged = flood(FLOODS[what], attacker_id)
    assert used < 40 * COUNT, "%d bytes of %d frames" % (used, COUNT)
    assert logged < 20


def test_contexts_in_values_are_not_kept():
    with nodes.network() as net:
        master = tree(net)[0]
        tag = core.head(0xC0, core.TAG_CONTEXT)
        for number in range(1000):
            core.decode(tag + core.encode([5000 + number, "evil"]), master.router)
        assert len(master.router._contexts) < 100


def test_contexts_in_values_need_a_valid_id():
    with nodes.network() as net:
        master = tree(net)[0]
        tag = core.head(0xC0, core.TAG_CONTEXT)
        for wrong in ("evil", -1, 1 << 40, None, 1.5):
            try:
                found = core.decode(tag + core.encode([wrong, "evil"]), master.router)
            except core.StreamError:
                continue
            raise AssertionError(found)
