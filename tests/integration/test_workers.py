"""CallChain(worker=True): calls in their own threads."""

import pytest

import mitogen.core
from mitogen.calls.chain import CallChain
from mitogen.core.mailbox import Receiver
from tests.integration.far import threads, work


@pytest.fixture
def child(router):
    context = router.local()
    yield context
    context.shutdown(wait=True)


def chain(context, **kwargs):
    return CallChain(context, worker=True, **kwargs)


def test_chains_run_concurrently_with_the_main_thread(child):
    # These are the very first calls: the child dispatches them while it is being set up.
    answers = [chain(child).call_async(threads.meet) for _ in range(2)]
    answers.append(child.call_async(threads.meet))
    assert len({answer.get().unpickle() for answer in answers}) == 3


def test_a_first_call_to_a_chain_leaves_the_main_thread_free(child, router):
    started = Receiver(router)
    busy = chain(child)
    receiver = busy.call_async(threads.spin, started.to_sender())
    started.get()
    assert child.call(work.echo, 1) == 1
    busy.cancel(receiver.handle)
    with pytest.raises(mitogen.core.CallError, match="KeyboardInterrupt"):
        receiver.get().unpickle()


def test_order_is_kept_within_a_chain(child):
    one = chain(child)
    answers = [one.call_async(threads.note, number) for number in range(200)]
    for answer in answers:
        answer.get().unpickle()
    assert child.call(threads.noted) == list(range(200))


def test_an_error_is_raised_and_the_chain_continues(child):
    one = chain(child)
    with pytest.raises(ValueError, match="in a worker"):
        one.call(threads.fail)
    assert one.call(work.echo, 2) == 2


def test_a_pipelined_chain_remembers_its_error(child):
    with chain(child, pipelined=True) as one:
        answers = [one.call_async(threads.fail), one.call_async(threads.note, 1)]
        for answer in answers:
            with pytest.raises(ValueError, match="in a worker"):
                answer.get().unpickle()
    assert child.call(threads.noted) == []


def test_a_timeout_ends_the_call_and_the_thread_continues(child, router):
    started = Receiver(router)
    one = chain(child, timeout=0.5)
    child.call(work.echo, None)
    with pytest.raises(mitogen.core.TimeoutError, match="the call was cancelled"):
        one.call(threads.spin, started.to_sender())
    assert one.call(work.echo, 3) == 3


def test_a_queued_call_can_be_cancelled(child, router):
    started = Receiver(router)
    one = chain(child)
    busy = one.call_async(threads.spin, started.to_sender())
    waiting = one.call_async(threads.note, 1)
    started.get()
    one.cancel(waiting.handle)
    with pytest.raises(mitogen.core.CallError, match="cancelled before it began"):
        waiting.get().unpickle()
    one.cancel(busy.handle)
    with pytest.raises(mitogen.core.CallError, match="KeyboardInterrupt"):
        busy.get().unpickle()
    assert child.call(threads.noted) == []


def test_the_context_ends_despite_a_busy_worker(router):
    context = router.local()
    started = Receiver(router)
    receiver = chain(context).call_async(threads.spin, started.to_sender())
    started.get()
    context.shutdown(wait=True)
    with pytest.raises(mitogen.core.ChannelError):
        receiver.get()


def test_kill_ends_a_context_with_a_stuck_worker(router, monkeypatch):
    monkeypatch.setattr("mitogen.calls.chain.CANCEL_GRACE", 0.2)
    context = router.local()
    context.call(work.echo, None)
    with pytest.raises(mitogen.core.TimeoutError):
        # The thread is blocked in a system call, where an exception of a thread does not arrive.
        chain(context, timeout=0.2, kill=True).call(work.hang)
    with pytest.raises(mitogen.core.ChannelError):
        context.call(work.hang)


def test_a_long_call_to_a_chain_may_overlap_the_first_call(child, monkeypatch):
    """The first frame arrived before the chains had threads; the rest arrives afterwards."""
    stream = child.router.routes.get(child.context_id)
    send, held = stream.send, []

    def hold(head, body=b"", cork=False, more=()):
        held.extend(more)
        send(head, body, cork)

    monkeypatch.setattr(stream, "send", hold)
    answer = chain(child).call_async(len, "x" * (mitogen.core.FRAME_SIZE + 1))
    assert held
    child.call(len, "")
    send(*held)
    assert answer.get().unpickle() == mitogen.core.FRAME_SIZE + 1
