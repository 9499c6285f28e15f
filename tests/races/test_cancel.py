"""Cancelling a call at every stage ends that call and no other one."""

import signal
from collections import deque
from types import SimpleNamespace

import pytest

from mitogen import core
from mitogen.calls import first_call
from mitogen.calls.chain import CANCEL_GRACE, CallChain
from mitogen.core import CallError
from tests.unit.calls.test_chain import let_cancel

LONG = 3 << 20


@pytest.fixture
def pair(net):
    """A master and a child that can cancel calls."""
    before = signal.getsignal(signal.SIGINT)
    master, one = net.line(2)
    one.dispatcher(serve=True)
    let_cancel(one)
    RUNNING[:] = [master]
    yield master, one
    signal.signal(signal.SIGINT, before)


RUNNING = []
RAN = []


def wait_for_the_cancel(_=None):
    """Run in the child: let time pass, in which the cancel takes effect."""
    RAN.append(1)
    RUNNING[0].net.advance(1)
    raise AssertionError("the call was not interrupted")


@pytest.mark.parametrize("size", [10, LONG], ids=["short", "long"])
def test_a_cancel_does_not_overtake_its_call(pair, size):
    master, one = pair
    answers = []
    chain = CallChain(master.context(one))
    link = master.down[1]
    link.stalled = True
    handle = chain.start(answers.append, wait_for_the_cancel, (bytes(size),), {}, False)
    master.broker.run_deferred()
    chain.cancel(handle)
    master.broker.run_deferred()
    link.stalled = False
    master.net.pump()
    with pytest.raises(CallError, match="the call was cancelled"):
        answers[0].unpickle()


def test_a_cancel_does_not_overtake_a_call_without_credit(pair):
    master, one = pair
    one.serving = False
    chain = CallChain(master.context(one))
    for _ in range(5):
        chain.start(lambda msg: None, len, (bytes(1 << 20),), {}, False)
        master.net.pump()
    answers = []
    handle = chain.start(answers.append, wait_for_the_cancel, (), {}, False)
    chain.cancel(handle)
    master.net.pump()
    RAN.clear()
    one.serving = True
    master.net.pump()
    with pytest.raises(CallError, match="the call was cancelled"):
        answers[0].unpickle()


def test_a_timeout_bounds_a_call_that_cannot_be_sent(pair):
    """The child is stopped and the call is long: the timeout ends it, and the grace the child."""
    master, one = pair
    master.down[1].stalled = True
    with pytest.raises(core.TimeoutError, match="the call was cancelled"):
        CallChain(master.context(one), timeout=1, kill=True).call(len, bytes(LONG))
    assert master.net.time <= 1002
    master.net.advance(CANCEL_GRACE + 1)
    assert master.down[1].closed and master.down[1].process.signals == [signal.SIGKILL]
    assert not master.router.longs


def test_a_signal_that_arrives_late_does_not_hit_the_next_call(monkeypatch):
    sent = []
    monkeypatch.setattr(first_call._signal, "pthread_kill", lambda *args: sent.append(args))
    monkeypatch.setattr(first_call._signal, "signal", lambda *args: None)
    one, other = core.Message(src_id=0, reply_to=1), core.Message(src_id=0, reply_to=2)
    dispatcher = SimpleNamespace(queue=deque(), current=one, interruptible=True)
    diverter = SimpleNamespace(
        lock=core.new_lock(), chains={}, workers=set(), econtext=None, router=None
    )
    diverter.lock.release()
    canceller = first_call.Canceller(dispatcher, diverter)
    canceller.on_cancel(core.Message(src_id=0, data=core.NUMBER.pack(1)))
    assert len(sent) == 1
    dispatcher.current = other  # the first one returned before the signal arrived
    canceller._on_sigint(signal.SIGINT, None)
    assert dispatcher.interruptible
    canceller.on_cancel(core.Message(src_id=0, data=core.NUMBER.pack(2)))
    with pytest.raises(KeyboardInterrupt):
        canceller._on_sigint(signal.SIGINT, None)
    assert len(sent) == 2 and not dispatcher.interruptible


class Queue(deque):
    """A dispatcher's queue; `cancel()` runs at one point of taking a call."""

    cancel = None
    point = None

    def _at(self, point):
        if self.point == point and self.cancel:
            cancel, self.cancel = self.cancel, None
            cancel()

    def __bool__(self):
        found = len(self) > 0
        if found:
            self._at("seen")
        return found

    def __getitem__(self, at):
        found = deque.__getitem__(self, at)
        self._at("looked at")
        return found

    def popleft(self):
        found = deque.popleft(self)
        self._at("taken")
        return found


@pytest.mark.parametrize("point", ["seen", "looked at", "taken"])
def test_a_cancel_while_the_call_is_taken_is_not_lost(pair, point):
    master, one = pair
    dispatcher = one.router.econtext.dispatcher
    one.serving = False
    chain = CallChain(master.context(one))
    answers = []
    handle = chain.start(answers.append, wait_for_the_cancel, (), {}, False)
    master.net.pump()
    queue = dispatcher.queue = Queue(dispatcher.queue)
    queue.point = point

    def cancel():
        chain.cancel(handle)
        master.broker.run_deferred()
        master.down[1].deliver()

    queue.cancel = cancel
    one.run_calls()
    assert queue.cancel is None
    one.serving = True
    master.net.pump()
    with pytest.raises(CallError, match="the call was cancelled"):
        answers[0].unpickle()
    assert dispatcher.current is None
    assert master.context(one).call(abs, -3) == 3
