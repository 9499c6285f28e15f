"""os_fork.py: threads are paused while a program forks."""

import os
import threading

import pytest

from mitogen import core, master, os_fork

SOON = 20.0


@pytest.fixture
def router():
    with master.Router() as router:
        yield router


def fork_and_wait(fork):
    """Fork; return the child's exit status."""
    pid = fork()
    if not pid:
        os._exit(7)
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])


def test_a_broker_is_paused_between_cork_and_uncork(router):
    child = router.local()
    child.call(eval, "1")  # the first call's modules need the broker
    corker = os_fork.Corker(brokers=(router.broker,))
    corker.cork()
    try:
        answer = child.call_async(eval, "6 * 7")
        with pytest.raises(core.TimeoutError):
            answer.get(timeout=0.1)
        assert fork_and_wait(os.fork) == 7
    finally:
        corker.uncork()
    assert answer.get(SOON).unpickle() == 42
    corker.uncork()


def test_corking_can_be_repeated(router):
    corker = os_fork.Corker(brokers=[router.broker])
    for _ in range(3):
        corker.cork()
        corker.uncork()
    assert router.broker.defer_sync(lambda: 1) == 1


def test_cork_works_on_the_broker_thread_and_after_its_end(router):
    corker = os_fork.Corker((router.broker,))
    router.broker.defer_sync(corker.cork)
    router.broker.shutdown()
    router.broker.join()
    corker.cork()
    corker.uncork()


class Pool:
    """A fake service pool: `size` threads that run deferred functions."""

    closed = False

    def __init__(self, size):
        self.size = size
        self.jobs = core.Latch()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(size)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while True:
            try:
                self.jobs.get()()
            except core.LatchError:
                return

    def defer(self, func, *args):
        self.jobs.put(lambda: func(*args))

    def stop(self):
        self.closed = True
        self.jobs.close()
        for thread in self.threads:
            thread.join()


def test_every_thread_of_a_pool_is_paused(router):
    pool = Pool(3)
    corker = os_fork.Corker(brokers=(router.broker,), pools=(pool,))
    corker.cork()
    done = core.Latch()
    pool.defer(done.put, 1)
    with pytest.raises(core.TimeoutError):
        done.get(timeout=0.05)
    corker.uncork()
    assert done.get(timeout=SOON) == 1
    pool.stop()
    corker.cork()
    corker.uncork()


class EndsMeanwhile(Pool):
    """A pool that is closed when it is checked for the third time."""

    looks = 0

    @property
    def closed(self):
        self.looks += 1
        return self.looks > 2

    @closed.setter
    def closed(self, value):
        pass


def test_cork_returns_when_the_pool_is_closed_meanwhile(monkeypatch):
    monkeypatch.setattr(os_fork, "POLL_INTERVAL", 0.01)
    pool = EndsMeanwhile(1)
    busy = core.new_lock()
    pool.defer(busy.acquire)
    corker = os_fork.Corker(pools=(pool,))
    corker.cork()
    assert pool.looks == 3
    corker.uncork()
    busy.release()
    pool.stop()


def test_wrap_os__fork_pauses_brokers(router, monkeypatch):
    child = router.local()
    monkeypatch.setattr(os, "fork", os_fork.real_fork)
    os_fork.wrap_os__fork()
    wrapped = os.fork
    os_fork.wrap_os__fork()
    assert os.fork is wrapped is not os_fork.real_fork
    held = []
    cork = os_fork.Corker.cork

    def spy(corker):
        held.extend(corker.brokers)
        cork(corker)

    monkeypatch.setattr(os_fork.Corker, "cork", spy)
    assert fork_and_wait(os.fork) == 7 and router.broker in held
    assert child.call(eval, "1") == 1
    # mitogen's own fork still pauses the broker by itself.
    forked = router.fork()
    assert forked.call(os.getppid) == os.getpid()
