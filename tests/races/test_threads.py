"""Threads that cannot be started, and state that several threads share."""

import threading
from types import SimpleNamespace

import pytest

from mitogen import core
from mitogen.calls import chain as chain_file, first_call
from mitogen.calls.chain import CallChain
from mitogen.calls.workers import Worker
from mitogen.core import CallError
from tests.unit import live

SOON = live.SOON


@pytest.fixture
def child():
    """A context with a Diverter, as after its first call; its calls run in this process."""
    with live.pair() as pair:
        diverter = first_call.Diverter(pair.child.econtext)
        diverter.on_cancel = lambda msg: None
        assert not diverter.start(core.Message(handle=core.CALL_FUNCTION))
        yield SimpleNamespace(context=pair.context, diverter=diverter, pair=pair)


def fail_once(monkeypatch, owner, name, error):
    """Make the next call of a function raise `error`."""
    real = getattr(owner, name)

    def function(*args, **kwargs):
        monkeypatch.setattr(owner, name, real)
        raise error

    monkeypatch.setattr(owner, name, function)


@pytest.fixture
def no_thread(monkeypatch):
    """The next thread that first_call.py starts cannot be started."""
    fake = SimpleNamespace(**vars(first_call._thread))
    monkeypatch.setattr(first_call, "_thread", fake)
    fail_once(monkeypatch, fake, "start_new_thread", RuntimeError("can't start new thread"))


def test_a_chain_whose_thread_cannot_be_started_works_later(child, no_thread):
    chain = CallChain(child.context, worker=True, timeout=SOON)
    with pytest.raises(CallError, match="can't start new thread"):
        chain.call(abs, -1)
    assert not child.diverter.chains
    assert chain.call(abs, -2) == 2


def test_a_chain_whose_thread_fails_works_later(child, monkeypatch):
    chain = CallChain(child.context, worker=True, timeout=SOON)
    fail_once(monkeypatch, first_call, "fetch", ImportError("calls.workers"))
    with pytest.raises(CallError, match="calls.workers"):
        chain.call(abs, -1)
    assert chain.call(abs, -2) == 2


@pytest.mark.parametrize("failure", ["no thread", "no pool"])
def test_calls_of_services_are_tried_again(child, monkeypatch, failure, request):
    if failure == "no thread":
        request.getfixturevalue("no_thread")
    else:
        fail_once(monkeypatch, first_call, "fetch", ImportError("no pool"))
    with pytest.raises(CallError, match="can't start new thread|no pool"):
        child.context.call_service_async("any", "method").get(SOON).unpickle()
    assert not child.diverter.service_calls
    started = threading.Event()
    child.diverter.start_services = lambda error=None: started.set()
    child.context.call_service_async("any", "method")
    assert started.wait(SOON)


def test_an_interruption_without_a_thread_is_tried_again(no_thread, monkeypatch):
    monkeypatch.setattr(first_call._signal, "signal", lambda *args: None)
    later, done = [], threading.Event()
    call = core.Message(src_id=0, reply_to=1)
    runner = SimpleNamespace(current=call, interruptible=True, interrupt_call=lambda _: done.set())
    broker = SimpleNamespace(after=lambda seconds, func: later.append(func))
    dispatcher = SimpleNamespace(
        queue=(), current=None, router=SimpleNamespace(broker=broker), interruptible=False
    )
    lock = threading.Lock()
    diverter = SimpleNamespace(lock=lock, chains={}, workers=[runner])
    canceller = first_call.Canceller(dispatcher, diverter)
    canceller.on_cancel(core.Message(src_id=0, data=core.NUMBER.pack(1)))
    assert not done.is_set()
    later.pop()()
    assert done.wait(SOON)


class Watched:
    """A lock that sets an event when a thread asks for it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.asked = threading.Event()

    def __enter__(self):
        self.asked.set()
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()


def test_a_cancel_finds_a_call_that_a_worker_is_taking(child, monkeypatch):
    """The cancel looks after the worker has taken the call from the queue."""
    call = core.Message(src_id=0, reply_to=1, data=core.NUMBER.pack(1))
    found = []

    class Queue(first_call.deque):
        def popleft(self):
            taken = first_call.deque.popleft(self)
            thread.start()
            assert lock.asked.wait(SOON)
            return taken

    def cancel():
        canceller.on_cancel(call)
        lock.asked.set()

    monkeypatch.setattr(first_call._signal, "signal", lambda *args: None)
    diverter = child.diverter
    diverter.chains["x"] = Queue([call])
    canceller = first_call.Canceller(child.pair.dispatcher, diverter)
    canceller._interrupt_call = lambda runner, call: found.append((runner, call))
    worker = Worker(diverter, "x")
    diverter.workers.add(worker)
    lock = diverter.lock = Watched()
    thread = threading.Thread(target=cancel)
    with lock:
        lock.asked.clear()
        worker.current = worker.queue.popleft()
    thread.join(SOON)
    assert found == [(worker, call)]
    diverter.workers.clear()


def before_call(msg, context, args, kwargs):
    SEEN.append(msg)


SEEN = []


def marked():
    """A function with a callback before each call."""


marked.mitogen_before_call = before_call


def test_two_threads_share_a_chain(monkeypatch):
    """A second thread makes the same message while the first one is between its steps."""
    with live.pair() as pair:
        chain = CallChain(pair.context)
        real = chain_file.core.encode
        nested = []

        def encode(*args):
            if not nested and isinstance(args[0], list):
                nested.append(1)
                chain.make_msg(marked, 2)
            return real(*args)

        monkeypatch.setattr(chain_file.core, "encode", encode)
        SEEN.clear()
        chain.make_msg(marked, 1)
        nested[:] = []
        chain.make_msg(marked, 1)
        assert len(SEEN) == 4 and marked not in chain._heads
