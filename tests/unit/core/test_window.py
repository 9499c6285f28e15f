"""core.Window and Meter: the two sides of a flow, pure."""

import pytest
from hypothesis import given, settings, strategies as st

from mitogen import core
from mitogen.core import Meter, Window


@pytest.mark.parametrize(
    "credit, waiting, busy, passes",
    [
        (10, 0, False, True),
        (1, 0, False, True),
        (0, 0, False, False),
        (-5, 0, False, False),
        (10, 1, False, False),  # order
        (10, 0, True, False),  # a long message is in progress
        (0, 1, True, False),
    ],
)
def test_take(credit, waiting, busy, passes):
    window = Window(credit)
    window.busy = busy
    for number in range(waiting):
        window.push(number, 1)
    assert window.take(3) is passes
    assert window.credit == (credit - 3 if passes else credit)


def test_one_message_may_overdraw():
    window = Window(10)
    assert window.take(1000) and window.credit == -990
    assert not window.take(1)


@pytest.mark.parametrize(
    "credit, busy, goes", [(1, False, True), (0, False, False), (1, True, False)]
)
def test_pop(credit, busy, goes):
    window = Window(credit)
    window.push("a", 7)
    window.push("b", 2)
    window.busy = busy
    assert window.pop() == ("a" if goes else None)
    assert (window.credit, window.queued) == ((credit - 7, 2) if goes else (credit, 9))


def test_pop_from_an_empty_queue():
    assert Window(1).pop() is None


def test_withdraw():
    window = Window(0)
    one, two = object(), object()
    window.push(one, 5)
    window.push(two, 6)
    assert window.withdraw(one) and window.queued == 6
    assert not window.withdraw(one)
    window.credit = 1
    assert window.pop() is two


def test_credit_is_returned_in_halves():
    meter = Meter(100)
    assert meter.receive(30) and meter.receive(30)
    assert meter.consume(30) == 0
    assert meter.consume(30) == 60
    assert meter.receive(100) and not meter.receive(1)  # the whole window is available again


def test_one_more_than_the_window_is_an_overrun():
    meter = Meter(100)
    assert meter.receive(99)
    assert meter.receive(1000)  # overdrawn, as allowed once
    assert not meter.receive(1)


def test_windows_by_handle():
    windowed = [core.CALL_FUNCTION, core.CALL_SERVICE, core.FORWARD_LOG, 1000, 2**31 - 1]
    not_windowed = [0, core.CREDIT, core.SHUTDOWN, core.LOAD_MODULE, 999, 2**31, 2**32 - 1]
    assert all(map(core.is_windowed, windowed))
    assert not any(map(core.is_windowed, not_windowed))
    assert core.window_size(core.FORWARD_LOG) == core.LOG_WINDOW == 65536
    assert core.window_size(1000) == core.WINDOW == 4 << 20


class Flow:
    """A sender, a receiver, and the messages and credit in flight between them."""

    def __init__(self, size):
        self.size = size
        self.window = Window(size)
        self.meter = Meter(size)
        self.messages = []  # in flight to the receiver
        self.credits = []  # in flight to the sender
        self.read = []  # received, not consumed
        self.done = []
        self.sent = 0

    def send(self, cost):
        entry = (self.sent, cost)
        self.sent += 1
        if self.window.take(cost):
            self.messages.append(entry)
        else:
            self.window.push(entry, cost)

    def deliver(self):
        if self.messages:
            entry = self.messages.pop(0)
            assert self.meter.receive(entry[1]), "an honest sender overran the window"
            self.read.append(entry)

    def consume(self):
        if self.read:
            entry = self.read.pop(0)
            self.done.append(entry[0])
            amount = self.meter.consume(entry[1])
            if amount:
                self.credits.append(amount)

    def credit(self):
        if self.credits:
            self.window.credit += self.credits.pop(0)
            entry = self.window.pop()
            while entry:
                self.messages.append(entry)
                entry = self.window.pop()

    def check(self):
        held = sum(cost for _, cost in self.messages + self.read)
        largest = max([cost for _, cost in self.messages + self.read], default=0)
        assert held < self.size + largest  # bounded by the window and one message
        # Nothing is lost: missing credit is in flight, held, owed, or being returned.
        assert self.size - self.window.credit == held + self.meter.owed + sum(self.credits)
        assert self.window.queued == sum(cost for _, cost in self.window.queue)

    def settle(self):
        """Deliver everything; all messages must arrive, in order."""
        for _ in range(4 * self.sent + 4):
            self.deliver()
            self.consume()
            self.credit()
        assert self.done == list(range(self.sent)), "a flow has stopped for good"
        assert not self.window.queue


STEPS = st.lists(
    st.one_of(st.integers(1, 300), st.sampled_from(["deliver", "consume", "credit"])), max_size=60
)


@settings(max_examples=120, deadline=None)
@given(size=st.sampled_from([1, 2, 3, 64, 100]), steps=STEPS)
def test_no_interleaving_loses_overruns_or_deadlocks(size, steps):
    flow = Flow(size)
    for step in steps:
        if isinstance(step, int):
            flow.send(step)
        else:
            getattr(flow, step)()
        flow.check()
    flow.settle()
