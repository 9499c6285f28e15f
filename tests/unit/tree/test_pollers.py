"""All pollers of this platform, with the same tests."""

import os
import select
import sys
import types

import pytest

from mitogen import core
from mitogen.bootstrap import spawn
from mitogen.tree import pollers

HERE = [core.Poller]
if hasattr(select, "epoll"):
    HERE.append(pollers.EpollPoller)
if hasattr(select, "kqueue"):
    HERE.append(pollers.KqueuePoller)


@pytest.fixture(params=HERE, ids=lambda kind: kind.__name__)
def poller(request):
    found = request.param()
    yield found
    if hasattr(found, "close"):
        found.close()


@pytest.fixture
def pair():
    """Two connected non-blocking descriptors."""
    fds = list(spawn.create_socketpair())
    for fd in fds:
        os.set_blocking(fd, False)
    yield fds
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture
def seen(pair, poller):
    """Callbacks in the order of their calls; seen.watch("r", "w") watches the first descriptor."""

    class Seen(list):
        def watch(self, *kinds):
            read, write = [(lambda k=k: self.append(k)) if k in kinds else None for k in "rw"]
            poller.watch(pair[0], read, write)

        def poll(self):
            del self[:]
            poller.poll(0)
            return "".join(self)

    return Seen()


def test_idle_descriptors_call_nothing(poller, seen):
    assert seen.poll() == ""
    seen.watch("r")
    assert seen.poll() == ""


def test_read(pair, seen):
    seen.watch("r")
    os.write(pair[1], b"x")
    assert seen.poll() == "r"
    assert seen.poll() == "r"  # level-triggered: until it is read
    os.read(pair[0], 9)
    assert seen.poll() == ""


def test_write(pair, seen):
    seen.watch("w")
    assert seen.poll() == "w"
    with pytest.raises(BlockingIOError):
        while True:
            os.write(pair[0], bytes(65536))
    assert seen.poll() == ""
    with pytest.raises(BlockingIOError):
        while True:
            os.read(pair[1], 1 << 20)
    assert seen.poll() == "w"


def test_watching_both_directions_then_one_then_none(pair, poller, seen):
    os.write(pair[1], b"x")
    seen.watch("r", "w")
    assert seen.poll() in ("r", "w", "rw")  # at least one event
    seen.watch("w")
    assert seen.poll() == "w"
    seen.watch("r")
    assert seen.poll() == "r"
    seen.watch()
    assert seen.poll() == "" and poller.table == {}
    seen.watch()
    seen.watch("r")
    assert seen.poll() == "r"


def test_an_end_is_readable(pair, seen):
    seen.watch("r")
    os.close(pair[1])
    assert seen.poll() == "r"


def test_an_end_is_writable_where_only_that_is_watched(pair, seen):
    seen.watch("w")
    os.close(pair[1])
    assert seen.poll() == "w"


def test_the_read_end_of_a_pipe(poller):
    rfd, wfd = os.pipe()
    called = []
    poller.watch(rfd, lambda: called.append("r"))
    poller.watch(wfd, None, lambda: called.append("w"))
    poller.poll(0)
    assert called == ["w"]
    poller.watch(rfd)
    os.close(rfd)
    poller.poll(0)  # a broken pipe
    assert called == ["w", "w"]
    poller.watch(wfd)
    os.close(wfd)


def test_unwatched_descriptor_is_not_called(pair, poller):
    """Both are ready; the first callback unwatches the other descriptor."""
    called = []

    def first(own, other):
        called.append(own)
        poller.watch(other)

    for own, other in (pair, pair[::-1]):
        os.write(own, b"x")
        poller.watch(own, lambda own=own, other=other: first(own, other))
    poller.poll(0)
    assert len(called) == 1


def test_reused_descriptor_number(poller):
    called = []
    for turn in range(3):
        rfd, wfd = os.pipe()
        poller.watch(rfd, lambda turn=turn: called.append(turn))
        os.write(wfd, b"x")
        poller.poll(0)
        poller.watch(rfd)
        os.close(rfd)
        os.close(wfd)
    assert called == [0, 1, 2]


def test_waiting_ends_in_time(poller):
    before = core.now()
    poller.poll(0.002)
    assert core.now() - before < 5


def test_many(poller):
    pipes = [os.pipe() for _ in range(100)]
    called = set()
    for rfd, _ in pipes:
        poller.watch(rfd, lambda rfd=rfd: called.add(rfd))
    for _, wfd in pipes[::2]:
        os.write(wfd, b"x")
    for _ in range(3):
        poller.poll(0)
    assert called == {rfd for rfd, _ in pipes[::2]}
    for rfd, wfd in pipes:
        poller.watch(rfd)
        os.close(rfd)
        os.close(wfd)


@pytest.mark.parametrize(
    "has, best",
    [
        ({"epoll", "kqueue"}, pollers.EpollPoller),
        ({"kqueue"}, pollers.KqueuePoller),
        (set(), core.Poller),
    ],
)
def test_best(monkeypatch, has, best):
    monkeypatch.setattr(pollers, "select", type("select", (), dict.fromkeys(has)))
    assert pollers.best() is best


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="epoll is Linux's")
def test_epoll_whose_poll_takes_no_none(monkeypatch, pair):
    monkeypatch.setattr(sys, "implementation", types.SimpleNamespace(name="pypy"))
    poller = pollers.EpollPoller()
    try:
        assert poller._wait.__func__ is pollers.EpollPoller._wait
        called = []
        poller.watch(pair[0], lambda: called.append("r"))
        poller.poll(0)
        assert not called
        os.write(pair[1], b"x")
        poller.poll(None)
        poller.poll(1)
        assert called == ["r", "r"]
    finally:
        poller.close()


class Kqueue:
    """A fake of the parts of select.kqueue that KqueuePoller uses."""

    def __init__(self):
        self.filters = set()
        self.ready = []

    def control(self, changes, count, timeout):
        for fd, kind, flag in changes or ():
            if flag == "add":
                self.filters.add((fd, kind))
            elif (fd, kind) not in self.filters:
                raise OSError(2, "No such file or directory")
            else:
                self.filters.discard((fd, kind))
        return [type("kevent", (), {"ident": fd, "filter": kind}) for fd, kind in self.ready]

    def close(self):
        self.closed = True


def test_kqueue(monkeypatch):
    names = {
        "kqueue": Kqueue,
        "kevent": lambda *args: args,
        "KQ_FILTER_READ": -1,
        "KQ_FILTER_WRITE": -2,
        "KQ_EV_ADD": "add",
        "KQ_EV_DELETE": "delete",
    }
    names = {k: staticmethod(v) if callable(v) else v for k, v in names.items()}
    monkeypatch.setattr(pollers, "select", type("select", (), names))
    poller = pollers.KqueuePoller()
    queue, called = poller._kqueue, []
    read, write = (lambda: called.append("r")), (lambda: called.append("w"))
    for functions, filters in (
        ((read,), {(5, -1)}),
        ((read, write), {(5, -1), (5, -2)}),
        ((read, write), {(5, -1), (5, -2)}),
        ((None, write), {(5, -2)}),
        ((), set()),
        ((None, write), {(5, -2)}),
    ):
        poller.watch(5, *functions)
        assert queue.filters == filters
    queue.ready = [(5, -1), (5, -2), (6, -1)]
    poller.poll(0)
    assert called == ["w"]
    poller.close()
