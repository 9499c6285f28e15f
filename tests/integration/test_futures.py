"""context.submit() and mitogen.futures.Executor."""

import concurrent.futures
import os

import pytest

import mitogen.core
from mitogen.core.mailbox import Receiver
from mitogen.futures import Executor
from tests.integration.conftest import SOON
from tests.integration.far import threads, work


@pytest.fixture(scope="module")
def contexts(router):
    found = [router.local() for _ in range(3)]
    yield found
    for context in found:
        context.shutdown(wait=True)


def test_a_result(contexts):
    assert contexts[0].submit(work.add, 1, b=3).result(SOON) == (4, (), {})


def test_an_error_is_of_its_type_and_raised_each_time(contexts):
    future = contexts[0].submit(work.fail, "told you")
    for _ in range(2):
        with pytest.raises(ValueError, match="told you"):
            future.result(SOON)
    assert isinstance(future.exception(), mitogen.core.CallError)
    assert contexts[0].submit(work.echo, 1).exception(SOON) is None


def test_what_cannot_be_sent_is_an_error_at_once(contexts):
    with pytest.raises(TypeError):
        contexts[0].submit(work.echo, object())


def test_a_lost_context(router):
    context = router.local()
    future = context.submit(work.hang)
    router.kill(context)
    with pytest.raises(mitogen.core.ChannelError):
        future.result(SOON)


def test_cancel_reaches_what_runs_and_what_waits(router):
    context = router.local()
    started = Receiver(router)
    running = context.submit(work.hang, started.to_sender())
    waiting = context.submit(threads.note, 1)
    started.get(SOON)
    assert waiting.cancel() and running.cancel() and running.cancel()
    for future in running, waiting:
        assert future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(SOON)
    # Both are over at the far side too.
    assert context.call(threads.noted) == []
    context.shutdown(wait=True)


def test_cancel_is_too_late_after_the_answer(contexts):
    future = contexts[0].submit(work.echo, 1)
    future.result(SOON)
    assert future.cancel() is False and future.result() == 1


def test_a_timeout_is_the_waiters_only(contexts, router):
    started = Receiver(router)
    future = contexts[0].submit(work.hang, started.to_sender())
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.01)
    started.get(SOON)
    future.cancel()


class TestExecutor:
    def test_map_keeps_order_and_uses_all(self, contexts):
        with Executor(contexts) as executor:
            assert list(executor.map(work.echo, range(50))) == list(range(50))
            pids = set(executor.map(work.identity_of, range(30)))
        assert len(pids) == 3 and os.getpid() not in pids

    def test_as_completed(self, contexts):
        with Executor(contexts) as executor:
            futures = [executor.submit(work.echo, n) for n in range(20)]
            done = concurrent.futures.as_completed(futures, SOON)
            assert sorted(future.result() for future in done) == list(range(20))

    def test_workers_run_at_once(self, router):
        context = router.local()
        with Executor([context], workers=3) as executor:
            futures = [executor.submit(threads.meet) for _ in range(3)]
            assert len({future.result(SOON) for future in futures}) == 3
        context.shutdown(wait=True)

    def test_the_least_busy_one_is_used(self, contexts, router):
        started = Receiver(router)
        with Executor(contexts) as executor:
            stuck = [executor.submit(work.hang, started.to_sender()) for _ in range(2)]
            for _ in stuck:
                started.get(SOON)
            assert [executor.submit(work.echo, n).result(SOON) for n in range(9)] == list(range(9))
            for future in stuck:
                future.cancel()

    def test_after_shutdown(self, contexts):
        executor = Executor(contexts)
        future = executor.submit(work.echo, 1)
        executor.shutdown()
        assert future.done()
        with pytest.raises(RuntimeError, match="was shut down"):
            executor.submit(work.echo, 1)
        assert contexts[0].call(work.echo, 2) == 2

    def test_shutdown_can_cancel(self, router):
        context = router.local()
        executor = Executor([context])
        futures = [executor.submit(work.hang) for _ in range(3)]
        executor.shutdown(cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        assert context.call(work.echo, 1) == 1
        context.shutdown(wait=True)

    def test_a_lost_context_is_used_no_more(self, router):
        lost, kept = router.local(), router.local()
        executor = Executor([lost, kept])
        hanging = [executor.submit(work.hang), executor.submit(work.hang)]
        router.kill(lost)
        (done,), _ = concurrent.futures.wait(
            hanging, SOON, return_when=concurrent.futures.FIRST_COMPLETED
        )
        assert isinstance(done.exception(), mitogen.core.ChannelError)
        next(f for f in hanging if f is not done).cancel()
        assert [executor.submit(work.echo, n).result(SOON) for n in range(5)] == list(range(5))
        router.kill(kept)
        executor.shutdown()

    def test_when_all_are_lost(self, router):
        context = router.local()
        executor = Executor([context])
        future = executor.submit(work.hang)
        router.kill(context)
        assert isinstance(future.exception(SOON), mitogen.core.ChannelError)
        with pytest.raises(RuntimeError, match="every context of the executor is gone"):
            executor.submit(work.echo, 1)

    @pytest.mark.parametrize("count, workers", [(0, 1), (1, 0)])
    def test_nothing_to_run_on(self, contexts, count, workers):
        with pytest.raises(ValueError, match="at least one"):
            Executor(contexts[:count], workers=workers)

    def test_a_wrong_call_costs_no_place(self, contexts):
        with Executor(contexts[:1]) as executor:
            with pytest.raises(TypeError):
                executor.submit(lambda: 1)
            assert set(executor._load.values()) == {0}
