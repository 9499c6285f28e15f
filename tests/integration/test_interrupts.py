"""An interruption at any line of connecting leaves no process and no descriptor; deadlines."""

import os
import sys

import pytest

import mitogen.core
import mitogen.master
from mitogen.bootstrap import spawn
from mitogen.methods import connection
from mitogen.tree import connecting, proxy, router as router_module
from tests import conftest, processes
from tests.integration.conftest import SOON, own_children

FILES = {module.__file__ for module in (spawn, connecting, connection, proxy, router_module)}


class Interruption:
    """Raises KeyboardInterrupt before the nth line of FILES that this thread runs."""

    def __init__(self, count):
        self.left = count

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.trace

    def __enter__(self):
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(None)


def interrupt_each_line(router, connect, step):
    """Connect with an interruption one line later each time, until none takes place."""
    before = conftest.open_descriptors()
    children = own_children()
    count = 1
    while True:
        try:
            with Interruption(count) as interruption:
                context = connect()
        except KeyboardInterrupt:
            pass
        else:
            assert interruption.left > 0
            context.shutdown(wait=True)
            return count
        processes.wait_until(lambda: own_children() == children, SOON)
        processes.wait_until(lambda: not conftest.open_descriptors() - before, SOON)
        assert not router.get_streams()
        count += step


@pytest.fixture
def warm(own_router):
    """Return a router that has imported and made everything that connections share."""
    own_router.local().shutdown(wait=True)
    return own_router


def test_local(warm):
    assert interrupt_each_line(warm, warm.local, 1) > 50


def test_a_program_with_a_terminal_and_standard_error(warm):
    def connect():
        return warm.command(argv=["env"], tty=True, python_path=sys.executable)

    connect().shutdown(wait=True)
    assert interrupt_each_line(warm, connect, 2) > 50


def running():
    """Return the pids of descendants, without those that wait for their parent's next program."""
    return {each.pid for each in processes.children() if each.state != "Z"}


def test_through_another_context(warm):
    via = warm.local()
    warm.local(via=via).shutdown(wait=True)
    before = running()

    def connect():
        processes.wait_until(lambda: running() == before, SOON)
        return warm.local(via=via)

    found = []
    count = 1
    while not found:
        try:
            with Interruption(count) as interruption:
                found.append(connect())
        except KeyboardInterrupt:
            pass
        count += 1
    assert interruption.left > 0 and count > 20
    found[0].shutdown(wait=True)
    via.shutdown(wait=True)


# ---- deadlines


def wait_for(path):
    with open(path) as fp:
        fp.read()


def test_connect_timeout_covers_a_busy_context(own_router, tmp_path, monkeypatch):
    monkeypatch.setattr(proxy, "ANSWER_TIME", 0.1)
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    via = own_router.local()
    call = via.call_async(wait_for, fifo)
    with pytest.raises(mitogen.core.TimeoutError, match="no answer from .*, which may be busy"):
        own_router.local(via=via, connect_timeout=0.5)
    open(fifo, "w").close()
    assert call.get().unpickle() is None
    # The attempt was withdrawn: nothing was started when the context was free again.
    assert via.call(os.getpid) and not [
        each for each in processes.children() if each.ppid == via.call(os.getpid)
    ]


def stop():
    os.kill(os.getpid(), 19)


def test_shutdown_does_not_wait_for_ever(own_router, monkeypatch, records):
    from mitogen.tree import contexts

    monkeypatch.setattr(contexts, "SHUTDOWN_TIME", 0.5)
    context = own_router.local()
    pid = context.call(os.getpid)
    context.call_no_reply(stop)
    processes.wait_until(lambda: processes.processes()[pid].state == "T", SOON)
    context.shutdown(wait=True)
    assert pid not in processes.processes()
    records.wait_for("did not end within")
