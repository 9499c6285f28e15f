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


def test_a_future_has_the_result(contexts):
    assert contexts[0].submit(work.add, 1, b=3).result(SOON) == (4, (), {})


def test_an_error_keeps_its_type_and_is_raised_each_time(contexts):
    future = contexts[0].submit(work.fail, "as expected")
    for _ in range(2):
        with pytest.raises(ValueError, match="as expected"):
            future.result(SOON)
    assert isinstance(future.exception(), mitogen.core.CallError)
    assert contexts[0].submit(work.echo, 1).exception(SOON) is None


def test_unsendable_arguments_raise_at_once(contexts):
    with pytest.raises(TypeError):
        contexts[0].submit(work.echo, object())


def test_a_lost_context_fails_its_futures(router):
    context = router.local()
    future = context.submit(work.hang)
    router.kill(context)
    with pytest.raises(mitogen.core.ChannelError):
        future.result(SOON)


def test_running_and_queued_calls_can_be_cancelled(router):
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
    # The context has ended both too.
    assert context.call(threads.noted) == []
    context.shutdown(wait=True)


def test_cancel_is_too_late_after_the_answer(contexts):
    future = contexts[0].submit(work.echo, 1)
    future.result(SOON)
    assert future.cancel() is False and future.result() == 1


def test_a_timeout_of_result_does_not_end_the_call(contexts, router):
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

    def test_as_completed_yields_all_results(self, contexts):
        with Executor(contexts) as executor:
            futures = [executor.submit(work.echo, n) for n in range(20)]
            done = concurrent.futures.as_completed(futures, SOON)
            assert sorted(future.result() for future in done) == list(range(20))

    def test_workers_run_concurrently(self, router):
        context = router.local()
        with Executor([context], workers=3) as executor:
            futures = [executor.submit(threads.meet) for _ in range(3)]
            assert len({future.result(SOON) for future in futures}) == 3
        context.shutdown(wait=True)

    def test_the_least_busy_context_is_used(self, contexts, router):
        started = Receiver(router)
        with Executor(contexts) as executor:
            stuck = [executor.submit(work.hang, started.to_sender()) for _ in range(2)]
            for _ in stuck:
                started.get(SOON)
            assert [executor.submit(work.echo, n).result(SOON) for n in range(9)] == list(range(9))
            for future in stuck:
                future.cancel()

    def test_submit_after_shutdown_raises(self, contexts):
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

    def test_a_lost_context_is_not_used_again(self, router):
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

    def test_submit_raises_if_all_contexts_are_lost(self, router):
        context = router.local()
        executor = Executor([context])
        future = executor.submit(work.hang)
        router.kill(context)
        assert isinstance(future.exception(SOON), mitogen.core.ChannelError)
        with pytest.raises(RuntimeError, match="every context of the executor is gone"):
            executor.submit(work.echo, 1)

    @pytest.mark.parametrize("count, workers", [(0, 1), (1, 0)])
    def test_an_executor_needs_a_context_and_a_worker(self, contexts, count, workers):
        with pytest.raises(ValueError, match="at least one"):
            Executor(contexts[:count], workers=workers)

    def test_a_refused_call_occupies_no_worker(self, contexts):
        with Executor(contexts[:1]) as executor:
            with pytest.raises(TypeError):
                executor.submit(lambda: 1)
            assert set(executor._load.values()) == {0}
