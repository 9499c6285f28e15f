"""RouteTable, Router and parent.Branch: permissions, routes and replies.

Nodes: 0 is the master, 1 its child, 2 a child of 1, 3 another child of 1 in some tests.
"""

import zlib

import pytest

from mitogen import core, parent
from mitogen.core import CONT, MORE, RAW, Message, RouteTable
from tests.unit import nodes
from tests.unit.nodes import frame

ASK = 1000


def tree(net):
    """Return nodes 0 to 4: 1 below 0; 2 and 3 below 1; 4 below 2."""
    master, one, two = net.line(3)
    three = net.node(3, one)
    four = net.node(4, two)
    net.pump()
    return master, one, two, three, four


def reason(answers):
    (msg,) = answers
    assert msg.is_dead
    return msg.data.decode()


# ---- RouteTable


class Way:
    def __init__(self, auth_id=None):
        self.auth_id = auth_id


def table():
    """Return the route table of node 1 of tree()."""
    routes = RouteTable()
    routes.parent = up = Way()
    two, three = Way(), Way()
    routes.streams.update({2: two, 4: two, 3: three})
    return routes, {"up": up, "two": two, "three": three}


@pytest.mark.parametrize(
    "way, may",
    [
        ("two", {2, 4}),
        ("three", {3}),
        ("up", {0, 1, 99}),  # all ids without another route; a parent is trusted
    ],
)
def test_admitted_sources(way, may):
    routes, ways = table()
    for src in (0, 1, 2, 3, 4, 99):
        for auth in (0, 1, 2, 3, 4, 99):
            msg = Message(src_id=src, auth_id=auth)
            assert routes.admits(msg, ways[way]) is (src in may and auth in may), (src, auth)


def test_at_the_root_nothing_unknown_is_admitted():
    routes = RouteTable()
    routes.streams[1] = way = Way()
    for claimed, right in ((1, True), (0, False), (2, False)):
        assert routes.admits(Message(src_id=claimed, auth_id=claimed), way) is right
    assert not routes.admits(Message(src_id=1, auth_id=1), Way())


def test_get_returns_the_stream_of_a_context():
    routes, ways = table()
    assert [routes.get(i) for i in (2, 4, 3, 0, 99)] == [
        ways[name] for name in ("two", "two", "three", "up", "up")
    ]


def test_remove():
    routes, ways = table()
    assert sorted(routes.remove(ways["two"])) == [2, 4]
    assert routes.get(4) is ways["up"]
    assert routes.remove(ways["up"]) == []
    assert routes.get(0) is None and routes.get(3) is ways["three"]


# ---- messages and replies


def test_message_and_reply_along_a_line(net):
    master, one, two = net.line(3)
    two.router.add_handler(lambda msg: msg.reply(msg.data[::-1]), ASK)
    answers = master.ask(two, ASK, b"abc")
    assert not answers
    net.pump()
    assert answers[0].unpickle() == b"cba" and answers[0].src_id == 2
    assert not two.router.handlers.keys() & {answers[0].handle}


def test_between_siblings(net):
    _, _, two, three, four = tree(net)
    got = three.inbox(ASK)
    four.send(three, ASK, b"x")
    net.pump()
    assert [(m.src_id, m.auth_id, m.data) for m in got] == [(4, 4, b"x")]


def test_to_oneself(net):
    master, _ = net.line(2)
    got = master.inbox(ASK)
    master.send(master, ASK, b"x" * (core.LONG_SIZE + 1))
    net.pump()
    assert len(got) == 1 and got[0].src_id == 0 and not net.ends[0].sent


def test_payload_is_forwarded_undecoded(net):
    master, one, two = net.line(3)
    got = two.inbox(ASK)
    master.send(two, ASK, b"\xff\xff no value", flags=0)
    net.pump()
    (msg,) = got
    assert msg.data == b"\xff\xff no value"
    with pytest.raises(core.StreamError):
        msg.unpickle()


def test_one_handler_per_handle(net):
    (master,) = net.line(1)
    master.inbox(ASK)
    with pytest.raises(core.Error, match=master.router.duplicate_handle_msg):
        master.inbox(ASK)
    second = master.inbox(ASK, overwrite=True)
    master.send(master, ASK)
    net.pump()
    assert len(second) == 1
    master.router.del_handler(ASK)
    with pytest.raises(KeyError):
        master.router.del_handler(ASK)


def test_handle_numbers_determine_windowing(net):
    (master,) = net.line(1)
    add = master.router.add_handler
    handles = [add(print), add(print), add(print, persist=False)]
    assert [core.is_windowed(handle) for handle in handles] == [True, True, False]
    assert len(set(handles)) == 3


def test_new_handles_are_unused(net):
    (master,) = net.line(1)
    master.inbox(core.FIRST_HANDLE)
    assert master.router.add_handler(print) != core.FIRST_HANDLE


def test_policy_and_respondent_in_either_order(net):
    master, one = net.line(2)
    respondent = master.context(one)
    master.router.add_handler(print, 1001, True, core.is_neighbour, respondent)
    master.router.add_handler(print, 1002, True, respondent, core.is_neighbour)
    assert vars(master.router.handlers[1001]) == vars(master.router.handlers[1002])


def test_handler_without_persist_runs_once(net):
    master, one = net.line(2)
    got = master.inbox(ASK, persist=False)
    for _ in range(3):
        one.send(master, ASK)
    net.pump()
    assert len(got) == 1


def test_the_trace_hook(net):
    master, one = net.line(2)
    seen = []
    for node in (master, one):
        node.router.trace = lambda what, msg, node=node: seen.append((node.id, what, msg.handle))
    one.inbox(ASK)
    master.send(one, ASK)
    net.pump()
    assert seen == [(0, "send", ASK), (1, "receive", ASK)]


def test_contexts_are_the_same_objects(net):
    master, one = net.line(2)
    context = master.context(one)
    assert context is master.router.context_by_id(1)
    assert master.router.context_by_id(77, create=False) is None
    assert master.router.context_by_id(78, via_id=1).via is context
    assert context == core.Context(master.router, 1) and hash(context) == hash(
        core.Context(master.router, 1)
    )
    assert context != one.context(one) and context != 1


def test_a_handler_that_raises_is_logged(net):
    master, one = net.line(2)
    master.router.add_handler(lambda msg: 1 // 0, ASK)
    one.send(master, ASK)
    one.send(master, ASK)
    net.pump()
    # At most once per second.
    assert len(master.logs) == 1 and "ZeroDivisionError" in master.logs[0]


# ---- replies to undeliverable messages


def test_unknown_handle(net):
    master, _, two = net.line(3)
    answers = master.ask(two, 4711)
    net.pump()
    assert reason(answers) == "invalid handle" and answers[0].src_id == 2


def test_unknown_context(net):
    master, _, two = net.line(3)
    answers = two.ask(4711, ASK)
    net.pump()
    assert reason(answers) == "no route to 4711, my ID is 0"
    answers = master.ask(4711, ASK)
    net.pump()
    assert reason(answers) == "no route to 4711, my ID is 0"


def test_without_children_nothing_is_forwarded(net):
    master, one = net.line(2)
    with master.broker.thread():
        master.router.add_route(99, master.down[1])
    answers = master.ask(99, ASK)
    net.pump()
    assert reason(answers) == "no route to 99, my ID is 1"


def test_refused_by_policy(net):
    master, one = net.line(2)
    one.inbox(ASK, policy=lambda msg, stream: False)
    answers = master.ask(one, ASK)
    net.pump()
    assert reason(answers) == "refused by policy" and "refused by policy" in one.logs[0]


def test_too_large_to_send(net):
    master, one = net.line(2)
    master.router.max_message_size = 1000
    answers = master.ask(one, ASK, b"x" * 1001)
    net.pump()
    assert reason(answers) == "message too large (max 1000 bytes)"
    assert not net.ends[0].sent


def test_a_dead_message_is_not_answered(net):
    master, one = net.line(2)
    master.router.route(Message.dead("x", dst_id=one.id, handle=4711))
    net.pump()
    assert not net.ends[1].sent[1:] and not master.logs + one.logs


def test_no_route_at_all(net):
    child = net.node(5, net.line(1)[0])
    child.up.disconnect()
    answers = child.ask(77, ASK)
    net.pump()
    assert reason(answers) == "no route to 77, my ID is 5"


# ---- permissions


def test_a_forged_source_is_dropped_and_logged_once_a_second(net):
    master, one, two, three, _ = tree(net)
    got = master.inbox(ASK)
    end = two.up
    for src, auth in ((0, 0), (1, 1), (3, 3), (2, 0), (0, 2), (99, 99)):
        end.write(frame(0, ASK, b"evil", src, auth))
        end.write(frame(1, ASK, b"evil", src, auth))
    net.pump()
    assert got == [] and one.router.dropped == 12
    assert len(one.logs) == 1 and "forged source" in one.logs[0]
    net.time += 2
    end.write(frame(0, ASK, b"evil", 0))
    net.pump()
    assert "(no. 13)" in one.logs[1]


def test_the_respondent_alone_may_answer(net):
    master, one, two, three, _ = tree(net)
    two.up.stalled = True
    answers = master.ask(two, 4711)
    three.send(0, net.ends[0].frames()[-1].reply_to, b"evil")
    net.pump()
    assert answers == [] and "refused by policy" in master.logs[0]
    two.up.stalled = False
    net.pump()
    assert [msg.src_id for msg in answers] == [2]


@pytest.mark.parametrize("sender, accepted", [(0, True), (1, True), (3, False), (4, False)])
def test_has_parent_authority(net, sender, accepted):
    everyone = tree(net)
    two = everyone[2]
    got = two.inbox(ASK, policy=core.has_parent_authority)
    everyone[sender].send(two, ASK)
    net.pump()
    assert bool(got) is accepted


@pytest.mark.parametrize("sender, accepted", [(0, False), (1, True), (2, False), (4, True)])
def test_is_neighbour(net, sender, accepted):
    everyone = tree(net)
    two = everyone[2]
    got = two.inbox(ASK, policy=core.is_neighbour)
    everyone[sender].send(two, ASK)
    net.pump()
    assert bool(got) is accepted


@pytest.mark.parametrize("where", [0, 1], ids=["at the root", "on the way"])
def test_unidirectional(net, where):
    everyone = tree(net)
    other = net.node(9, everyone[0])
    net.pump()
    everyone[where].router.unidirectional = True
    sender, target = (everyone[2], other) if where == 0 else (everyone[2], everyone[3])
    got = target.inbox(ASK)
    answers = sender.ask(target, ASK)
    net.pump()
    assert not got
    assert reason(answers) == (
        "routing mode prevents forward of message from context 2 to context %d via context %d"
        % (target.id, where)
    )
    up, down = everyone[0].inbox(1001), everyone[2].inbox(1001)
    everyone[2].send(0, 1001)
    everyone[0].send(2, 1001)
    net.pump()
    assert len(up) == len(down) == 1


def test_ping(net):
    master, _, two = net.line(3)
    answers = master.ask(two, core.PING)
    net.pump()
    assert answers[0].unpickle() == b""


# ---- added and removed routes


def test_routes_are_announced_up_to_the_root(net):
    master, one, two, three, four = tree(net)
    assert master.router.routes.streams == {i: master.down[1] for i in (1, 2, 3, 4)}
    assert one.router.routes.streams == {2: one.down[2], 3: one.down[3], 4: one.down[2]}
    assert not master.logs + one.logs + two.logs


def add_route(context_id, name=b"x"):
    return core.NUMBER.pack(context_id) + name


@pytest.mark.parametrize("context_id", [0, 1, 3, 2, 77])
def test_route_for_an_id_not_granted_there_is_rejected(net, context_id):
    master, one, two, three, _ = tree(net)
    before = dict(one.router.routes.streams)
    two.send(1, parent.ADD_ROUTE, add_route(context_id))
    net.pump()
    assert one.router.routes.streams == before
    assert "it may not announce context" in one.logs[-1]


def test_only_a_neighbour_announces(net):
    master, one, two, three, four = tree(net)
    two.down[4].blocks.append((50, 60))
    master.down[1].blocks.append((50, 60))
    four.send(0, parent.ADD_ROUTE, add_route(50))
    net.pump()
    assert 50 not in master.router.routes.streams


def test_blocks_are_requested_hop_by_hop_and_recorded(net):
    _, one, two, three, four = tree(net)
    first = four.router.allocate_id()
    assert four.router.allocate_id() == first + 1
    for end in (two.down[4], one.down[2], net.nodes[0].down[1]):
        assert end.allows(first) and end.allows(first + 999) and not end.allows(first + 1000)
    assert not one.down[3].allows(first)


def test_a_grant_reaches_each_hop(net):
    master, one, two, three, four = tree(net)
    with master.broker.thread():
        master.router.branch.grant(4, 500, 501)
    net.pump()
    ends = (master.down[1], one.down[2], two.down[4])
    assert all(end.allows(500) for end in ends) and not one.down[3].allows(500)
    four.node_five = net.node(500, four)
    net.pump()
    assert master.router.routes.streams[500] is master.down[1]


def test_only_the_parent_grants(net):
    master, one, two, three, four = tree(net)
    two.send(1, parent.ALLOCATE_ID, core.TRIPLE.pack(2, 0, 2**32 - 1))
    net.pump()
    assert not one.down[2].allows(77)


def test_lost_stream_ends_every_wait_for_its_contexts(net):
    master, one, two, three, four = tree(net)
    for node in (two, four):
        node.inbox(ASK)
    waits = [master.ask(node, ASK) for node in (two, four)] + [three.ask(four, ASK)]
    gone = []
    core.listen(master.context(four), "disconnect", lambda: gone.append(4))
    net.pump()
    assert waits == [[], [], []]
    two.up.disconnect("test")
    net.pump()
    assert [reason(wait) for wait in waits] == ["the respondent Context has disconnected"] * 3
    assert gone == [4]
    assert set(master.router.routes.streams) == {1, 3}


def test_record_of_modules_pushed_to_a_lost_context_is_removed(net):
    master, one, two, three, four = tree(net)
    two.up.disconnect("test")
    net.pump()
    assert sorted(master.router.branch.modules.forgotten) == [2, 4]


def test_neighbours_that_never_sent_there_are_not_notified(net):
    master, one, two, three, four = tree(net)
    sent = len(one.down[3].sent)
    two.up.disconnect("test")
    net.pump()
    assert len(one.down[3].sent) == sent


def test_a_lost_parent(net):
    master, one, two = net.line(3)
    lost = []
    core.listen(two.router, "parent_lost", lambda: lost.append(True))
    one.down[2].disconnect("test")
    assert not lost
    net.pump()
    assert lost == [True]


def test_lost_parent_ends_every_wait_for_its_contexts(net):
    """This applies to contexts that outlive their parent: detached or joined ones have a Branch."""
    master, one, two = net.line(3)
    parent.upgrade(two.router)
    for node in (master, one):
        node.inbox(ASK)
    answers = two.ask(0, ASK), two.ask(1, ASK)
    net.pump()
    one.down[2].disconnect("test")
    net.pump()
    assert [reason(each) for each in answers] == ["the respondent Context has disconnected"] * 2


@pytest.mark.parametrize("context_id, believed", [(4, True), (2, False), (3, False), (0, False)])
def test_del_route_is_accepted_only_from_the_stream_of_the_route(net, context_id, believed):
    master, one, two, three, four = tree(net)
    two.send(1, core.DEL_ROUTE, core.NUMBER.pack(context_id))
    net.pump()
    assert (context_id not in one.router.routes.streams) is (believed or context_id == 0)
    assert (context_id not in master.router.routes.streams) is (believed or context_id == 0)


def test_add_and_del_route_by_hand(net):
    master, one = net.line(2)
    answers = master.ask(one, ASK)
    with master.broker.thread():
        master.router.add_route(40, master.down[1])
        assert master.router.stream_by_id(40) is master.down[1]
        master.router.del_route(40)
        master.router.del_route(40)
    assert 40 not in master.router.routes.streams and not answers


def test_keepalives(net):
    master, one = net.line(2)
    end, other = master.down[1], one.up
    end.conn.keepalive_interval, end.conn.keepalive_count = 10, 2
    with master.broker.thread():
        master.router.branch._keep_alive(end, end.received, 0)
    net.advance(100)
    assert not end.closed and len(end.sent) >= 10
    other.stalled = True
    net.advance(40)
    assert end.closed and end.reason == "no answer to 2 keepalives"
    assert len(master.router.handlers) < 20, "each keepalive leaves a handler behind"


def test_shutdown_asks_the_children_then_disconnects_them(net):
    master, one = net.line(2)
    asked = one.inbox(core.SHUTDOWN)
    master.broker.shutdown()
    net.pump()
    assert len(asked) == 1 and not master.broker.stopping and not one.up.closed
    net.advance(master.broker.shutdown_timeout)
    assert master.down[1].reason == "shutdown" and master.broker.stopping


def test_the_end_of_the_broker_ends_every_wait(net):
    master, one = net.line(2)
    one.inbox(ASK)
    answers = master.ask(one, ASK)
    master.broker.end()
    assert reason(answers) == "Broker has exitted"
    late = master.inbox(1234, persist=False)
    assert reason(late) == "Broker has exitted"
    assert reason([m for m in master.inbox(1235)] or late) == "Broker has exitted"
    assert core.PING in master.router.handlers


# ---- reassembly


def partial(number, data, flags=MORE, handle=ASK, dst=0, src=1, **kwargs):
    return frame(dst, handle, data, src, flags=flags | RAW, number=number, **kwargs)


FULL = b"x" * core.FRAME_SIZE


def test_interleaved_messages_are_reassembled(net):
    master, one = net.line(2)
    got = master.inbox(ASK)
    for data in (
        partial(1, FULL),
        partial(2, FULL),
        partial(1, FULL, MORE | CONT),
        partial(2, b"b", CONT),
        partial(1, b"a", CONT),
    ):
        net.ends[1].write(data)
    net.pump()
    assert [msg.data[-1:] for msg in got] == [b"b", b"a"]
    assert [len(msg.data) for msg in got] == [len(FULL) + 1, 2 * len(FULL) + 1]
    assert not master.router.partials


@pytest.mark.parametrize("size", [131071, 131072, 131073, 262144, 262145, 1300000])
def test_messages_of_any_size_arrive_complete(net, size):
    master, one, two = net.line(3)
    got = two.inbox(ASK)
    data = bytes(range(256)) * (size // 256) + b"!" * (size % 256)
    master.send(two, ASK, data)
    net.pump()
    assert got[0].data == data and not master.router.longs
    assert max(len(sent) for sent, _ in master.down[1].sent) <= core.FRAME_SIZE + 31


def test_first_frame_determines_the_message(net):
    master, one = net.line(2)
    master.inbox(ASK, policy=lambda msg, stream: False)
    for handle in (ASK, 4711):
        net.ends[1].write(partial(1, FULL, handle=handle, reply_to=2000))
        net.ends[1].write(partial(1, b"", CONT, handle=handle, reply_to=2000))
    net.pump()
    assert not master.router.partials
    dead = [msg.data for msg in net.ends[0].frames() if msg.is_dead]
    assert dead == [b"refused by policy", b"invalid handle"]


def test_continuation_without_start_is_ignored(net):
    master, one = net.line(2)
    got = master.inbox(ASK)
    net.ends[1].write(partial(1, b"x", CONT))
    net.ends[1].write(partial(1, b"x", CONT | MORE))
    net.pump()
    assert got == [] and not master.router.partials


def test_unfinished_messages_are_bounded_per_source(net):
    master, one = net.line(2)
    other = net.node(5, master)
    net.pump()
    got = master.inbox(ASK)
    master.router.max_message_size = 4 * len(FULL)
    other.up.write(partial(1, FULL, src=5))
    for number in (1, 2, 3):
        net.ends[1].write(partial(number, FULL, reply_to=2000))
    net.pump()
    assert len(master.router.partials) == 4
    net.ends[1].write(partial(4, FULL, reply_to=2000))  # one too many: only that one is refused
    net.ends[1].write(partial(1, b"end", CONT))
    other.up.write(partial(1, b"end", CONT, src=5))
    net.pump()
    assert [(msg.src_id, len(msg.data)) for msg in got] == [(1, len(FULL) + 3), (5, len(FULL) + 3)]
    dead = [msg for msg in net.ends[0].frames() if msg.is_dead]
    assert [msg.data for msg in dead] == [b"message too large (max 524288 bytes)"]


def test_an_answer_that_is_too_large_ends_the_wait(net):
    master, one = net.line(2)
    master.router.max_message_size = 2 * len(FULL)
    one.router.add_handler(lambda msg: msg.reply(bytes(3 * len(FULL))), ASK)
    answers = master.ask(one, ASK)
    net.pump()
    assert reason(answers) == "message too large (max 262144 bytes)"
    assert not master.router.partials


def test_unfinished_messages_are_removed_with_their_source(net):
    master, one = net.line(2)
    master.inbox(ASK)
    net.ends[1].write(partial(1, FULL))
    net.pump()
    assert master.router.partials
    one.up.disconnect("test")
    net.pump()
    assert not master.router.partials


def test_all_frames_but_the_last_must_be_full(net):
    master, one = net.line(2)
    master.inbox(ASK)
    for number in range(1200):
        net.ends[1].write(partial(number, b""))
    for _ in range(1200):
        net.ends[1].write(partial(0, b"", MORE | CONT))
    net.pump()
    pieces = sum(len(part.chunks) for part in master.router.partials.values())
    assert len(master.router.partials) < 1100 and pieces < 1100


# ---- overrun


def test_an_overrun_is_dropped_and_ends_the_flow(net):
    master, one = net.line(2)
    got = master.inbox(ASK, consumer=True)  # nothing is ever consumed
    count = core.WINDOW // 65064 + 1
    for _ in range(count + 1):
        net.ends[1].write(frame(0, ASK, b"x" * 65000, 1))
    net.pump()
    assert len(got) == count
    assert "window overrun" in master.logs[0]
    credits = [msg for msg in net.ends[0].frames() if msg.handle == core.CREDIT]
    assert core.TRIPLE.unpack(credits[0].data) == (ASK, 0, 0)


def test_overrun_gives_no_credit(net):
    master, one = net.line(2)
    got = master.inbox(ASK, consumer=True)
    for _ in range(300):
        net.ends[1].write(frame(0, ASK, b"x" * 65000, 1))
    net.pump()
    assert sum(len(msg.data) for msg in got) <= core.WINDOW + 65000


def test_an_overrun_in_several_frames(net):
    master, one = net.line(2)
    got = master.inbox(ASK, consumer=True)
    for number in range(50):
        net.ends[1].write(partial(number, FULL))
        net.ends[1].write(partial(number, FULL, CONT))
    net.pump()
    assert sum(len(msg.data) for msg in got) <= core.WINDOW + 2 * len(FULL)


# ---- bad bytes


def test_invalid_frame_ends_the_stream_and_is_logged(net):
    master, one = net.line(2)
    net.ends[1].write(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3")
    net.pump()
    assert master.down[1].closed and "SSH-2.0" in master.down[1].reason
    assert "the stream is dropped" in master.logs[0]
    assert 1 not in master.router.routes.streams and one.up.closed


@pytest.mark.parametrize("handle", [core.CREDIT, core.DEL_ROUTE, parent.ADD_ROUTE])
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 3])
def test_short_payloads_of_the_protocol_change_nothing(net, handle, data):
    master, one = net.line(2)
    before = dict(master.router.routes.streams)
    one.send(0, handle, data)
    net.pump()
    assert master.router.routes.streams == before and not master.down[1].closed


# ---- relayed modules


def test_get_module_is_answered_from_the_parent(net):
    master, one, two = net.line(3)
    master.router.branch.modules.sources["app"] = b"x = 1\n"
    assert two.router.importer.source("app") == b"x = 1\n"
    assert one.router.importer.source("app") == b"x = 1\n"  # cached on the way
    assert master.router.branch.modules.fetched == [("app", [])]
    assert master.down[1].sent_modules == one.down[2].sent_modules == {"app"}


def test_module_requests_are_accepted_only_from_neighbours(net):
    master, one, two = net.line(3)
    master.router.branch.modules.sources["app"] = b"x = 1\n"
    two.send(0, core.GET_MODULE, b"app")
    net.pump()
    assert master.router.branch.modules.fetched == []


def test_forwarded_modules_go_to_each_hop_once(net):
    master, one, two = net.line(3)
    modules = master.router.branch.modules
    modules.sources.update(app=b"x = 1\n", b=b"y = 2\n")
    master.router.branch.send_now(master.down[1], 2, modules.segments(["app", "b"]), ["app", "b"])
    net.pump()
    assert two.router.importer.source("app") == b"x = 1\n"
    assert one.down[2].sent_modules == {"app", "b"}
    sent = len(one.down[2].sent)
    with one.broker.thread():
        one.router.branch.send_segments(one.down[2], 2, [], [])
    master.router.branch.send_now(master.down[1], 2, [], ["app"])
    net.pump()
    assert len(one.down[2].sent) == sent


@pytest.mark.parametrize("sender", [2, 3])
def test_modules_are_forwarded_or_loaded_only_for_the_parent(net, sender):
    everyone = tree(net)
    one, four = everyone[1], everyone[4]
    segment = core.encode([[["app", "app.py", None, 0]], zlib.compress(b""), []])
    for target in (1, 4):
        everyone[sender].send(target, core.LOAD_MODULE, segment, flags=0)
        data = core.encode([4, ["app"]])
        everyone[sender].send(target, parent.FORWARD_MODULE, data, flags=0)
    net.pump()
    assert "app" not in one.router.importer.modules
    # Node 2 is an ancestor of 4 and may send it any module.
    assert ("app" in four.router.importer.modules) is (sender == 2)


def test_child_forwards_its_modules_ahead_of_a_call(net):
    master, one, two = net.line(3)
    master.router.branch.modules.sources["app"] = b"x = 1\n"
    one.router.importer.source("app")
    one.router.branch.modules.push(one.context(two), ["app"])
    net.pump()
    assert two.router.importer.modules["app"].path == "app.py"
    one.router.branch.modules.push(one.context(two), ["app"])
    one.router.branch.modules.push(one.context(99), ["app"])


def test_statistics_of_a_network(net):
    """Test of the fake: a wait that cannot end raises Deadlock at once."""
    master, _ = net.line(2)
    lock = core.new_lock()
    with pytest.raises(nodes.Deadlock):
        lock.acquire()
    assert lock.acquire(True, 5) is False and not lock.acquire(False)
    lock.release()
    assert lock.acquire()
