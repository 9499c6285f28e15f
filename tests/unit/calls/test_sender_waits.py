"""sender_waits.py and the Router's part of it: waiting senders, long messages, ends of flows."""

import sys

import pytest

from mitogen import core
from mitogen.core import ChannelError, Message
from mitogen.core.mailbox import Receiver
from tests.unit import nodes

ASK = 1000
PIECE = 1 << 20


def pair(net):
    """Return a master, a child, and a Receiver of the child."""
    master, one = net.line(2)
    return master, one, Receiver(one.router, ASK)


def fill(master, one, handle=ASK):
    """Use up the window of a flow: four messages of 1 MiB."""
    for _ in range(4):
        master.send(one, handle, bytes(PIECE), wait=False)


# ---- waiting for credit


def test_sender_within_the_window_does_not_wait(net):
    master, one, receiver = pair(net)
    for number in range(100):
        master.send(one, ASK, b"%d" % number)
    assert len(master.down[1].out) == 100  # written to the pipe; nothing was pumped
    net.pump()
    assert [int(receiver.get().data) for _ in range(100)] == list(range(100))


def test_sender_over_the_window_waits_for_the_reader(net):
    master, one, receiver = pair(net)
    fill(master, one)
    reader = []

    def read():
        reader.append(receiver.get().data)

    # The clock advances only when nothing else can happen, so the sender waits 3 seconds.
    for _ in range(3):
        one.broker.after(3, read)
    master.send(one, ASK, b"last")
    assert net.time == 1003 and len(reader) >= 2
    net.pump()
    assert not master.logs


def test_wait_for_credit_warns_once_and_times_out(net):
    master, one, receiver = pair(net)
    fill(master, one)
    with pytest.raises(core.TimeoutError) as info:
        master.send(one, ASK, b"last")
    assert net.time == 1000 + core.CREDIT_TIMEOUT
    text = "context 0 waits for context 1 to read from handle 1000"
    assert master.logs == [text + ": nothing was read for 5 s"]
    assert text in str(info.value) and "Receiver(window=None)" in str(info.value)
    # An abandoned message is not sent later, and does not delay later messages.
    for _ in range(4):
        receiver.get()
    master.send(one, ASK, b"next")
    net.pump()
    assert receiver.get().data == b"next" and receiver.empty()


def test_credit_just_before_the_deadline_is_in_time(net):
    master, one, receiver = pair(net)
    fill(master, one)
    one.broker.after(29, lambda: [receiver.get() for _ in range(4)])
    master.send(one, ASK, b"last")
    net.pump()
    assert receiver.get().data == b"last"


def test_the_broker_never_waits(net):
    master, one, receiver = pair(net)
    fill(master, one)
    master.broker.defer(master.send, one, ASK, b"from the broker")
    net.pump()
    master.send(one, ASK, b"not waited for", wait=False)
    assert net.time == 1000
    for _ in range(4):
        receiver.get()
    net.pump()
    assert [receiver.get().data for _ in range(2)] == [b"from the broker", b"not waited for"]


def test_one_message_may_be_larger_than_the_window(net):
    master, one, receiver = pair(net)
    master.send(one, ASK, bytes(9 * PIECE))
    net.pump()
    assert len(receiver.get().data) == 9 * PIECE


def test_receiver_without_window_queues_everything(net):
    master, one = net.line(2)
    receiver = Receiver(one.router, window=None)
    for _ in range(20):
        master.send(one, receiver.handle, bytes(PIECE))
    net.pump()
    assert receiver.size() == 20 and net.time == 1000


def test_return_of_a_handler_returns_credit(net):
    master, one = net.line(2)
    one.inbox(ASK)
    for _ in range(20):
        master.send(one, ASK, bytes(PIECE))
    net.pump()
    assert net.time == 1000 and not master.router.flows[(1, ASK)].queue


def test_credit_is_per_receiver(net):
    master, one, receiver = pair(net)
    other = Receiver(one.router, ASK + 1)
    fill(master, one)
    master.send(one, other.handle, b"x")
    net.pump()
    assert other.get().data == b"x"


def test_close_needs_no_credit_but_keeps_order(net):
    master, one, receiver = pair(net)
    sender = core.Sender(master.context(one), ASK)
    sender.send([1])
    fill(master, one)
    master.send(one, ASK, b"queued", wait=False)
    master.router.route(Message.dead("end", dst_id=1, handle=ASK), False)
    net.pump()
    got = list(receiver)
    assert got[0].unpickle() == [1] and got[-1].data == b"queued" and len(got) == 6


# ---- calls


@pytest.mark.parametrize("size", [100000, PIECE])
def test_calls_queue_at_the_caller(net, size):
    master, one = net.line(2)
    one.dispatcher()
    count = core.WINDOW // size + 10
    for _ in range(count):
        master.send(one, core.CALL_FUNCTION, bytes(size))
        net.pump()
    arrived = len(one.router.econtext.dispatcher.queue)
    assert net.time == 1000 and 4 <= arrived <= core.WINDOW // size + 1
    assert len(master.router.flows[(1, core.CALL_FUNCTION)].queue) == count - arrived


def test_too_many_calls_are_refused(net):
    master, one = net.line(2)
    one.dispatcher()
    fill(master, one, core.CALL_FUNCTION)
    net.pump()
    master.router.max_message_size = 2 * PIECE
    for _ in range(2):
        master.send(one, core.CALL_FUNCTION, bytes(PIECE), wait=False)
    with pytest.raises(core.Error, match="context 1: too many calls wait"):
        master.send(one, core.CALL_FUNCTION, bytes(PIECE))


# ---- ends


def test_closing_the_receiver_ends_the_wait(net):
    master, one, receiver = pair(net)
    fill(master, one)
    one.broker.after(1, receiver.close)
    master.send(one, ASK, b"credit is given back")
    master.send(one, ASK, b"x")
    net.pump()
    assert (1, ASK) not in master.router.flows  # ended: the handle is gone
    assert net.time == 1001


def test_end_of_the_flow_is_an_error_for_the_waiting_sender(net):
    master, one, receiver = pair(net)
    fill(master, one)
    one.broker.after(1, lambda: one.router.send_credit(0, ASK, 0, 0))
    with pytest.raises(ChannelError, match="^invalid handle$"):
        master.send(one, ASK, b"x")


def test_lost_context_is_an_error_for_the_waiting_sender(net):
    master, one, receiver = pair(net)
    fill(master, one)
    one.broker.after(1, one.up.disconnect)
    with pytest.raises(ChannelError, match="the respondent Context has disconnected"):
        master.send(one, ASK, b"x")


def test_end_of_the_broker_is_an_error_for_the_waiting_sender(net):
    master, one, receiver = pair(net)
    fill(master, one)
    one.broker.after(1, master.broker.end)
    with pytest.raises(ChannelError, match="Broker has exitted"):
        master.send(one, ASK, b"x")


def test_end_of_the_flow_ends_the_wait_for_an_answer(net):
    master, one, receiver = pair(net)
    fill(master, one)
    answers = []
    handle = master.router.expect(answers.append, 1)
    master.send(one, ASK, b"x", wait=False, reply_to=handle)
    one.up.disconnect()
    net.pump()
    assert [msg.is_dead for msg in answers] == [True]


# ---- slow links


def test_sender_sleeps_above_the_high_water_mark(net):
    master, one, receiver = pair(net)
    link = master.down[1]
    link.stalled = True
    for _ in range(2):
        master.send(one, ASK, bytes(100000))
    assert net.time == 1000
    drained = []

    def drain():
        drained.append(link.queued)
        link.deliver()

    master.broker.after(2, drain)
    master.send(one, ASK, bytes(100000))
    assert drained and net.time == 1002
    assert not master.logs


def test_lost_stream_wakes_the_sleeping_sender(net):
    master, one, receiver = pair(net)
    link = master.down[1]
    link.stalled = True
    master.broker.after(2, lambda: link.disconnect("lost"))
    for _ in range(3):
        master.send(one, ASK, bytes(100000))
    assert net.time == 1002


# ---- long messages


def long_pair(net, size):
    master, one, two = net.line(3)
    got = two.inbox(ASK)
    return master, one, two, got, bytes(range(256)) * (size // 256)


def test_a_long_message_waits_for_the_far_ends_broker(net):
    master, one, two, got, data = long_pair(net, 3 * PIECE)
    one.down[2].stalled = True
    master.send(two, ASK, data, wait=False)
    net.pump()
    queued = one.down[2].queued
    assert core.LONG_WINDOW <= queued <= core.LONG_WINDOW + core.FRAME_SIZE + 1000
    one.down[2].stalled = False
    net.pump()
    assert got[0].data == data
    assert not master.router.longs and not two.router.partials


def test_sender_of_a_long_message_returns_once_it_is_sent(net):
    master, one, two, got, data = long_pair(net, 3 * PIECE)
    master.send(two, ASK, data)
    sent = sum(len(each) for each, _ in master.down[1].sent)
    assert sent > len(data)
    net.pump()
    assert got[0].data == data


def test_other_messages_overtake_a_long_message(net):
    master, one, two, got, data = long_pair(net, 3 * PIECE)
    other = two.inbox(ASK + 1)
    one.down[2].stalled = True
    master.send(two, ASK, data, wait=False)
    master.send(two, ASK + 1, b"short")
    one.down[2].stalled = False
    net.step()
    net.step()
    assert other and not got


def test_order_is_kept_behind_a_long_message(net):
    master, one, two, got, data = long_pair(net, 2 * PIECE)
    master.send(two, ASK, b"before")
    master.send(two, ASK, data, wait=False)
    for number in range(10):
        master.send(two, ASK, b"%d" % number, wait=False)
    master.send(two, ASK, data, wait=False)
    master.send(two, ASK, b"end", wait=False)
    net.pump()
    assert [msg.data[:6] for msg in got] == [
        b"before",
        data[:6],
        *(b"%d" % n for n in range(10)),
        data[:6],
        b"end",
    ]


def test_a_long_reply_is_not_windowed_but_paced(net):
    master, one, two, _, data = long_pair(net, 3 * PIECE)
    two.router.add_handler(lambda msg: msg.reply(Message(data=data, flags=core.RAW)), 1001)
    answers = master.ask(two, 1001)
    one.up.stalled = True
    net.pump()
    assert one.up.queued <= core.LONG_WINDOW + core.FRAME_SIZE + 1000
    one.up.stalled = False
    net.pump()
    assert answers[0].data == data


def test_two_long_messages_at_once(net):
    master, one, two, got, data = long_pair(net, 2 * PIECE)
    other = two.inbox(ASK + 1)
    master.send(two, ASK, data, wait=False)
    master.send(two, ASK + 1, data[::-1], wait=False)
    net.pump()
    assert got[0].data == data and other[0].data == data[::-1]


def test_a_lost_receiver_ends_a_long_message(net):
    master, one, two, got, data = long_pair(net, 3 * PIECE)
    one.down[2].stalled = True
    two.broker.after(1, two.up.disconnect)
    with pytest.raises(ChannelError, match="the respondent Context has disconnected"):
        master.send(two, ASK, data)
    assert not master.router.longs


def test_a_lost_link_ends_a_long_message(net):
    master, one, two, got, data = long_pair(net, 3 * PIECE)
    one.down[2].stalled = True
    master.broker.after(1, lambda: master.down[1].disconnect("lost"))
    with pytest.raises(ChannelError):
        master.send(two, ASK, data)
    assert not master.router.longs and not master.down[1].waiters


def test_the_end_of_the_broker_ends_a_long_message(net):
    master, one, two, got, data = long_pair(net, 3 * PIECE)
    one.down[2].stalled = True
    one.broker.after(1, master.broker.end)
    with pytest.raises(ChannelError, match="Broker has exitted"):
        master.send(two, ASK, data)


def test_a_long_message_yields_to_a_slow_link(net):
    master, one = net.line(2)
    got = one.inbox(ASK)
    link = master.down[1]
    link.stalled = True
    master.send(one, ASK, bytes(8 * core.FRAME_SIZE), wait=False)
    most = []
    while not got:
        most.append(link.queued)
        link.deliver(1)
        master.broker.run_deferred()
        one.broker.run_deferred()
        one.up.deliver()
    assert max(most) < core.HIGH_WATER + core.FRAME_SIZE + 100


def test_room_that_appears_during_the_check_is_not_missed(net, monkeypatch):
    """The link drains between the last check in the loop and the call of when_drained()."""
    master, one = net.line(2)
    got = one.inbox(ASK)
    link = master.down[1]

    class Draining(nodes.End):
        looks = 0

        @property
        def queued(self):
            Draining.looks += 1
            return core.HIGH_WATER if Draining.looks % 3 == 2 else 0

    link.__class__ = Draining
    master.send(one, ASK, bytes(8 * core.FRAME_SIZE), wait=False)
    net.pump()
    assert len(got) == 1


def test_credit_for_a_finished_message_is_ignored(net):
    master, one = net.line(2)
    one.send(0, core.CREDIT, core.TRIPLE.pack(0, 12345, 1000))
    one.send(0, core.CREDIT, core.TRIPLE.pack(4711, 0, 1000))
    one.send(0, core.CREDIT, core.TRIPLE.pack(4711, 0, 0))
    net.pump()
    assert not master.logs and not master.router.flows


def test_credit_applies_only_to_flows_to_its_sender(net):
    """Another context can neither end a flow nor widen it."""
    master, one, receiver = pair(net)
    other = net.node(2, master)
    fill(master, one)
    master.send(one, ASK, b"last", wait=False)
    for amount in (0, 1 << 30):
        other.send(0, core.CREDIT, core.TRIPLE.pack(ASK, 0, amount))
    net.pump()
    assert len(master.router.flows[(1, ASK)].queue) == 1


def test_long_messages_without_a_pacer_are_not_paced(net, monkeypatch):
    """In a child that never imported mitogen.calls.sender_waits, a long message is sent at once."""
    master, one = net.line(2)
    got = master.inbox(ASK)
    monkeypatch.delitem(sys.modules, "mitogen.calls.sender_waits")
    with one.broker.thread():
        one.send(0, ASK, bytes(3 * PIECE), wait=False)
    one.broker.run_deferred()
    assert len(one.up.sent) >= 24
    net.pump()
    assert len(got) == 1


def test_receiver_with_respondent_gives_no_credit_to_others(net):
    master, one = net.line(2)
    other = net.node(2, master)
    net.pump()
    Receiver(master.router, ASK, respondent=master.context(one))
    for _ in range(4):
        other.send(0, ASK, bytes(PIECE), wait=False)
    net.pump()
    with pytest.raises(core.TimeoutError):
        other.send(0, ASK, b"x")
