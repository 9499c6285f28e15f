"""debug.py: diagnostics of a running process."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mitogen import core, debug, master
from mitogen.calls.chain import CallChain
from tests.checkout import ROOT

SOON = 20.0


@pytest.fixture
def router():
    with master.Router() as router:
        yield router


def waits_here(event):
    event.wait(SOON)


def test_stacks_of_all_threads(router):
    event = threading.Event()
    thread = threading.Thread(target=waits_here, args=(event,), name="the waiting one")
    thread.start()
    text = debug.format_stacks()
    event.set()
    thread.join()
    assert "(broker)" in text and "(MainThread)" in text
    assert "the waiting one" in text and "in waits_here" in text
    assert text.rindex("# Thread") == text.index("# Thread %d " % threading.get_ident())


def test_routers_and_streams(router):
    child = router.local(name="one")
    child.call(eval, "1")
    key = "%x" % id(router)
    assert debug.get_routers()[key] is router
    info = debug.get_router_info()[key]
    assert info["context_id"] == 0 and info["contexts"] == {child.context_id: "one"}
    (stream,) = debug.get_stream_info(key)["streams"].values()
    assert stream["name"] == "one" and stream["pid"] == child.call(os.getpid)
    assert not stream["closed"] and "mitogen.calls.first_call" in stream["sent_modules"]
    assert core.decode(core.encode(info)) == info, "plain values"
    with pytest.raises(KeyError):
        debug.get_stream_info("0")


class Proxy:
    """An object whose class is looked up elsewhere, which may take long or fail."""

    @property
    def __class__(self):
        LOOKED_UP.append(self)
        raise RuntimeError("not now")


LOOKED_UP = []


def test_a_search_for_routers_runs_no_code_of_other_objects(router):
    proxy = Proxy()
    proxy.itself = proxy  # so that the garbage collector lists it
    assert "%x" % id(router) in debug.get_routers()
    assert not LOOKED_UP
    del proxy.itself


def test_a_snapshot_in_a_child(router):
    child = router.local(name="one")
    grandchild = router.local(via=child, name="two")
    text = child.call(debug.get_snapshot)
    assert "# Router" in text and "'two'" in text and "(broker)" in text
    assert "Stream parent" in grandchild.call(debug.get_snapshot)


# Signal handlers belong to a process, so this test gets its own.
HANDLER = """
import os, signal, mitogen.debug
mitogen.debug.install_handler()
def some_function():
    os.kill(os.getpid(), signal.SIGUSR2)
some_function()
print("goes on")
"""


def test_a_signal_shows_the_stacks():
    done = subprocess.run(
        [sys.executable, "-c", HANDLER],
        capture_output=True,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # no terminal
        timeout=SOON,
    )
    assert "in some_function" in done.stderr and done.stdout == "goes on\n"


TTY = HANDLER + "import sys; sys.stdout.flush()"


def test_a_signal_shows_the_stacks_on_the_terminal():
    from mitogen import parent

    process = parent.tty_create_child(
        [sys.executable, "-c", "import os; os.chdir(%r)" % str(ROOT) + TTY]
    )
    text = b""
    try:
        while True:
            text += process.stdout.read(4096)
    except OSError:
        pass
    process.proc.wait()
    process.stdin.close()
    process.stdout.close()
    assert b"in some_function" in text and text.endswith(b"goes on\n")


def test_dump_to_logger_repeats_until_stopped():
    records = core.Latch()

    class Handler(logging.Handler):
        def emit(self, record):
            records.put(record)

    handler = Handler()
    debug.LOG.addHandler(handler)
    try:
        thread = debug.dump_to_logger(secs=0.01)
        assert thread.daemon
        for _ in range(2):
            assert "format_stacks" in records.get(SOON).getMessage()
    finally:
        debug.LOG.removeHandler(handler)
        debug.LOG.disabled = True
        thread.stop()
        thread.join(SOON)
        debug.LOG.disabled = False
    assert not thread.is_alive()


def test_calls_survive_evil_interrupts(router):
    child = router.local()
    interrupted = []
    debug.enable_evil_interrupts()
    try:
        signal.signal(signal.SIGALRM, lambda *_: interrupted.append(1))
        end = time.monotonic() + SOON
        # The timer of pytest's timeout is the one used here, so each call has a limit of its own.
        chain = CallChain(child, timeout=SOON)
        while len(interrupted) < 20 and time.monotonic() < end:
            assert chain.call(eval, "7") == 7
    finally:
        debug.disable_evil_interrupts()
    assert len(interrupted) >= 20
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_debugger_inspects_a_busy_context(router):
    busy = router.local(name="busy")
    idle = router.local(name="idle")
    answer = busy.call_async(time.sleep, 1000)
    debugger = debug.ContextDebugger(router)
    assert "(broker)" in debugger.snapshot(busy)
    found = debugger.snapshots()
    assert sorted(found) == ["busy", "idle"] and "# Router" in found["idle"]
    idle.shutdown(wait=True)
    router.kill(busy)
    with pytest.raises(core.ChannelError):
        answer.get(SOON)
    assert debugger.snapshots() == {}
