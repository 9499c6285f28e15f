"""Latch, Receiver and Channel: objects that threads wait on."""

import threading

import pytest

from mitogen import core
from mitogen.core import ChannelError, Message, Sender
from mitogen.core.mailbox import Channel, Latch, LatchError, Queue, Receiver
from tests import processes
from tests.unit import nodes

ASK = 1000


class Thread:
    """A thread, and the result or exception of its function."""

    def __init__(self, func, *args):
        self.result = self.error = None
        self.func, self.args = func, args
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.result = self.func(*self.args)
        except Exception as e:
            self.error = e

    def join(self):
        self.thread.join(5)
        assert not self.thread.is_alive(), "the thread hangs"
        return self


def waiting(latch, count):
    processes.wait_until(lambda: len(latch._waiters) == count)


# ---- Latch, one thread


def test_a_latch_is_a_queue():
    latch = Latch()
    assert latch.empty() and latch.size() == 0
    for item in (1, None, "x"):
        latch.put(item)
    assert latch.size() == 3 and not latch.empty()
    assert [latch.get(), latch.get(0), latch.get(block=False)] == [1, None, "x"]


@pytest.mark.parametrize("kwargs", [{"timeout": 0}, {"timeout": -1}, {"block": False}])
def test_get_from_an_empty_latch(kwargs):
    with pytest.raises(core.TimeoutError):
        Latch().get(**kwargs)


def test_get_times_out_at_the_deadline(net):
    with pytest.raises(core.TimeoutError, match="nothing came within 7 seconds"):
        Latch().get(7)
    assert net.time == 1007


def test_get_without_a_deadline_waits_forever(net):
    with pytest.raises(nodes.Deadlock):
        Latch().get()


def test_a_put_ends_the_wait(net):
    (master,) = net.line(1)
    latch = Latch()
    master.broker.after(3, lambda: latch.put("x"))
    assert latch.get(10) == "x" and net.time == 1003


def test_a_closed_latch_has_no_items():
    latch = Latch()
    latch.put(1)
    latch.close()
    latch.close()
    for use in (latch.get, latch.empty, lambda: latch.put(2)):
        with pytest.raises(LatchError):
            use()


def test_items_of_a_queue_survive_a_close():
    queue = Queue()
    queue.put(1)
    queue.close()
    queue.close()
    assert queue.get() == 1 and queue.empty()
    with pytest.raises(LatchError):
        queue.get()
    with pytest.raises(LatchError):
        queue.put(2)


def test_message_defaults():
    msg = core.Message(dst_id=1, handle=2, data=b"abc")
    assert (msg.src_id, msg.auth_id, msg.reply_to) == (0, 0, 0)
    assert core.Message().dst_id is None and len(msg.pack()) > 3


def test_notify():
    latch, seen = Latch(), []
    latch.notify = lambda source: seen.append((source, source.size()))
    latch.put(1)
    assert seen == [(latch, 1)]


# ---- Latch, several threads


def test_each_item_goes_to_one_thread():
    latch = Latch()
    threads = [Thread(latch.get) for _ in range(5)]
    waiting(latch, 5)
    for number in range(5):
        latch.put(number)
    assert sorted(each.join().result for each in threads) == list(range(5))


def test_a_close_ends_every_wait():
    latch = Latch()
    threads = [Thread(latch.get) for _ in range(3)] + [Thread(latch.get, 60)]
    waiting(latch, 4)
    latch.close()
    assert all(type(each.join().error) is LatchError for each in threads)


def test_woken_thread_may_lose_the_race_but_no_item_is_lost():
    """A third thread takes the item before the woken one, which keeps waiting."""
    latch = Latch()
    thread = Thread(latch.get)
    waiting(latch, 1)
    lock = latch._waiters.popleft()  # popped as by _wake(), for a missing item
    lock.release()
    waiting(latch, 1)
    latch.put("x")
    assert thread.join().result == "x"


def test_many_putters_many_getters():
    latch, count = Latch(), 300
    getters = [Thread(lambda: [latch.get() for _ in range(count)]) for _ in range(4)]
    putters = [Thread(lambda: [latch.put(n) for n in range(count)]) for _ in range(4)]
    got = sorted(item for each in getters for item in each.join().result)
    assert got == sorted(list(range(count)) * 4)
    assert all(each.join().error is None for each in putters)
    assert latch.empty() and not latch._waiters


# ---- Receiver


def test_messages_in_order(net):
    master, one = net.line(2)
    receiver = Receiver(one.router, ASK)
    for number in range(3):
        master.router.route(Message.pickled(number, dst_id=1, handle=ASK))
    net.pump()
    assert receiver.size() == 3 and not receiver.empty()
    msg = receiver.get()
    assert (msg.unpickle(), msg.src_id, msg.receiver) == (0, 0, receiver)
    assert receiver.get_data() == 1
    assert receiver.get(block=False).unpickle() == 2
    with pytest.raises(core.TimeoutError):
        receiver.get(0)


def test_a_sender_reaches_its_receiver(net):
    master, one = net.line(2)
    receiver = Receiver(one.router)
    data = core.encode(receiver.to_sender())
    sender = core.decode(data, master.router)
    assert sender.context == master.context(one) and sender.dst_handle == receiver.handle
    sender.send({"a": (1,)})
    sender.send(b"raw", Message.ENC_BIN)
    sender.close()
    assert [msg.unpickle() for msg in receiver] == [{"a": (1,)}, b"raw"]
    with pytest.raises(nodes.Deadlock):
        receiver.get()


def test_a_dead_message_is_raised_or_returned(net):
    master, one = net.line(2)
    receiver = Receiver(one.router, ASK)
    for _ in range(2):
        master.router.route(Message.dead("reason", dst_id=1, handle=ASK))
    net.pump()
    with pytest.raises(ChannelError, match="^reason$"):
        receiver.get()
    assert receiver.get(throw_dead=False).is_dead


def test_a_lost_respondent_is_a_dead_message(net):
    master, one = net.line(2)
    receiver = Receiver(master.router, respondent=master.context(one))
    one.up.disconnect()
    with pytest.raises(ChannelError, match="the respondent Context has disconnected"):
        receiver.get()


def test_messages_from_others_than_the_respondent_are_dropped(net):
    master, one = net.line(2)
    other = net.node(2, master)
    receiver = Receiver(master.router, respondent=master.context(one))
    for node in (other, one):
        node.send(0, receiver.handle, b"%d" % node.id)
    net.pump()
    assert receiver.get().data == b"1" and receiver.empty()


def test_a_closed_receiver(net):
    master, one = net.line(2)
    receiver = Receiver(one.router, ASK)
    master.send(one, ASK, b"x")
    net.pump()
    with receiver as same:
        assert same is receiver
    receiver.close()
    assert receiver.handle is None and ASK not in one.router.handlers
    with pytest.raises(ChannelError, match="the Receiver has been closed"):
        receiver.get()
    assert list(receiver) == []
    answers = master.ask(one, ASK)
    net.pump()
    assert answers[0].is_dead


def test_close_returns_credit_of_unread_messages(net):
    master, one = net.line(2)
    receiver = Receiver(one.router, ASK)
    for _ in range(3):
        master.send(one, ASK, bytes(1 << 20))
    net.pump()
    before = master.router.flows[(1, ASK)].credit
    receiver.close()
    net.pump()
    flow = master.router.flows.get((1, ASK))
    assert flow is None or flow.credit > before


def test_message_that_arrives_during_close_is_consumed(net):
    master, one = net.line(2)
    receiver = Receiver(one.router, ASK)
    receiver._latch.close()
    for _ in range(8):
        master.send(one, ASK, bytes(1 << 20))
    net.pump()
    assert net.time == 1000 and receiver.empty()


def test_receiver_for_one_message(net):
    master, one = net.line(2)
    receiver = Receiver(one.router, persist=False)
    for data in (b"1", b"2"):
        master.send(one, receiver.handle, data)
    net.pump()
    assert receiver.size() == 1
    receiver.close()  # its handler is already gone


def test_policy_handle_and_overwrite(net):
    master, one = net.line(2)
    Receiver(one.router, ASK)
    with pytest.raises(core.Error):
        Receiver(one.router, ASK)
    receiver = Receiver(one.router, ASK, overwrite=True, policy=lambda msg, stream: False)
    master.send(one, ASK)
    net.pump()
    assert receiver.empty() and receiver.handle == ASK
    assert repr(receiver) == "Receiver(1, 1000)"


def test_a_receiver_takes_attributes_and_notifies(net):
    master, one = net.line(2)
    receiver = Receiver(one.router, ASK)
    receiver.host = "web1"
    seen = []
    receiver.notify = seen.append
    master.send(one, ASK)
    net.pump()
    assert seen == [receiver]


def test_a_program_waits_for_a_message(net):
    master, one = net.line(2)
    receiver = Receiver(one.router, ASK)
    master.broker.after(4, lambda: master.send(one, ASK, b"x"))
    assert receiver.get(10).data == b"x" and net.time == 1004
    with pytest.raises(core.TimeoutError):
        receiver.get_data(3)
    assert net.time == 1007


def test_handle_of_a_receiver_without_window_is_unwindowed(net):
    master, one = net.line(2)
    assert core.is_windowed(Receiver(one.router).handle)
    assert not core.is_windowed(Receiver(one.router, window=None).handle)
    assert not core.is_windowed(Receiver(one.router, persist=False).handle)


# ---- Channel


def test_a_channel_goes_both_ways(net):
    master, one = net.line(2)
    here = Channel(master.router, master.context(one), ASK, ASK + 1)
    there = Channel(one.router, one.context(master), ASK + 1, ASK)
    here.send("ping")
    assert there.get().unpickle() == "ping"
    there.send("pong")
    assert here.get().unpickle() == "pong"
    assert isinstance(here, Sender) and isinstance(here, Receiver)
    assert repr(here).startswith("Channel(") and "Receiver(0, 1001)" in repr(here)
    here.close()
    assert [msg.unpickle() for msg in there] == []
    with pytest.raises(ChannelError):
        here.get()


@pytest.mark.parametrize("distance", [0, 1, 2])
def test_a_message_that_is_too_large_is_refused_to_its_sender(net, distance):
    """Its reader would wait for ever; small messages still arrive."""
    nodes = net.line(3)
    for node in nodes:
        node.router.max_message_size = 10000
    receiver = Receiver(nodes[0].router)
    sender = Sender(nodes[distance].context(nodes[0]), receiver.handle)
    with pytest.raises(core.EncodeError, match=r"message too large \(max 10000 bytes\)"):
        sender.send(bytes(20000))
    sender.send("small")
    net.pump()
    assert receiver.get(block=False).unpickle() == "small"
