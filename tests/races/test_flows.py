"""A flow, a long message or a mailbox ends while a sender or a reader is about to use it."""

from collections import deque

import pytest

from mitogen import core
from mitogen.core import ChannelError
from mitogen.core.mailbox import LatchError, Queue, Receiver
from tests.unit.calls.test_sender_waits import ASK, PIECE, fill, pair

UNWINDOWED = core.FIRST_UNWINDOWED + 5


class Ending(dict):
    """A table that runs `then()` right after the next look at an entry."""

    then = None

    def get(self, key, default=None):
        found = dict.get(self, key, default)
        then, self.then = self.then, None
        if then and found:
            then()
        return found


def test_a_sender_does_not_queue_in_a_flow_that_has_ended(net):
    master, one, receiver = pair(net)
    fill(master, one)
    net.pump()
    master.router.flows = flows = Ending(master.router.flows)
    flows.then = lambda: master.router.end_flow((1, ASK), "gone")
    ended = flows[(1, ASK)]
    master.send(one, ASK, b"x")
    net.pump()
    assert not flows.then and not ended.queue
    assert net.time == 1000


def test_a_flow_that_ends_twice_is_ended_once(net):
    master, one, receiver = pair(net)
    fill(master, one)
    net.pump()
    master.send(one, ASK, b"x", wait=False)
    (ticket, _) = master.router.flows[(1, ASK)].queue[0]
    ends = []
    ticket.then = lambda: ends.append(ticket.error)
    for _ in range(2):
        master.router.end_flow((1, ASK), "gone")
    assert ends == ["gone"]


def test_a_lost_context_ends_messages_that_end_meanwhile(net):
    """The table of long messages shrinks while context_lost() walks through its keys."""
    master, one, two = net.line(3)
    two.inbox(ASK)
    one.down[2].stalled = True
    master.send(two, ASK, bytes(3 * PIECE), wait=False)
    net.pump()

    class Shrinking(dict):
        def __iter__(self):
            keys = list(dict.keys(self))
            for key in keys:
                self[key].end()
            return iter(keys)

    master.router.longs = Shrinking(master.router.longs)
    lost = []
    core.listen(master.context(two), "disconnect", lambda: lost.append(2))
    with master.broker.thread():
        master.router.context_lost(2)
    assert lost == [2] and not dict.keys(master.router.longs)


@pytest.mark.parametrize("handle", [ASK, UNWINDOWED], ids=["windowed", "not windowed"])
@pytest.mark.parametrize("when", ["before the first frame", "in the middle"])
def test_a_long_message_without_a_route_ends(net, handle, when):
    """A relay lost the route, and its message about that is still on its way."""
    master, one, two = net.line(3)
    two.inbox(handle)
    link = master.down[1]
    link.stalled = True

    def lose_the_route():
        if when == "in the middle":
            link.deliver(2)
            one.down[2].deliver()
        del one.router.routes.streams[2]
        link.stalled = False

    master.broker.after(1, lose_the_route)
    with pytest.raises(ChannelError):
        master.send(two, handle, bytes(3 * PIECE))
    assert not master.router.longs and net.time < 1010


def test_a_long_message_to_a_stranger_ends(net):
    """The last hop has no children, so it forwards nothing."""
    master, one = net.line(2)
    master.router.routes.streams[9] = master.down[1]
    with pytest.raises(ChannelError):
        master.send(9, UNWINDOWED, bytes(3 * PIECE))
    assert not master.router.longs


def test_a_long_message_to_a_closed_mailbox_ends_at_once(net):
    master, one, two = net.line(3)
    Receiver(two.router, ASK).close()
    one.down[2].stalled = True
    master.broker.after(1, one.down[2].deliver)
    one.broker.after(1, one.down[2].deliver)
    with pytest.raises(ChannelError, match="invalid handle"):
        master.send(two, ASK, bytes(3 * PIECE))
    assert not master.router.longs


def test_a_sender_whose_broker_ends_meanwhile_gets_an_error(net):
    """The broker ends between the look at the route and the request to it."""
    master, one = net.line(2)
    real = master.broker.defer

    def defer(*args, **kwargs):
        master.broker.defer = real
        master.broker.end()
        real(*args, **kwargs)

    master.broker.defer = defer
    with pytest.raises(ChannelError, match="Broker has exitted"):
        master.send(one, UNWINDOWED, bytes(3 * PIECE))


def test_a_queue_that_an_interrupted_sender_left_is_drained(net):
    """A message is in the queue, has credit, and the broker has no request to send it."""
    master, one, receiver = pair(net)
    master.send(one, ASK, b"first")
    flow = master.router.flows[(1, ASK)]
    msg = core.Message(dst_id=1, src_id=0, auth_id=0, handle=ASK, data=b"left", flags=core.RAW)
    flow.push(core.Ticket(msg, None), 68)
    master.send(one, ASK, b"next")
    assert [receiver.get().data for _ in range(3)] == [b"first", b"left", b"next"]


# ---- mailboxes


class Late(deque):
    """A queue that is filled, and whose latch is closed, right after the first empty look."""

    latch = None

    def popleft(self):
        try:
            return deque.popleft(self)
        except IndexError:
            latch, self.latch = self.latch, None
            if latch:
                latch.put("last")
                latch.close()
            raise


def test_the_last_item_before_the_end_is_not_lost():
    latch = Queue()
    latch._items = items = Late()
    items.latch = latch
    assert latch.get(block=False) == "last"
    with pytest.raises(LatchError):
        latch.get(block=False)


def test_a_mailbox_can_be_closed_while_another_thread_reads(net):
    master, one, receiver = pair(net)
    master.send(one, ASK, b"x")
    net.pump()
    latch = receiver._latch
    real = latch.get

    def get(*args, **kwargs):
        del latch.get
        real()  # the other thread was faster
        return real(*args, **kwargs)

    latch.get = get
    receiver.close()
    assert receiver.handle is None
