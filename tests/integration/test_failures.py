"""Whichever process is killed, every wait ends within a second and all processes within five."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

import mitogen.core
import mitogen.master
import mitogen.parent
from mitogen.calls import chain as chain_file
from tests import processes
from tests.checkout import ROOT
from tests.integration.conftest import PYTHON, SOON
from tests.integration.far import work

HERE = pathlib.Path(__file__).resolve().parent
#: Seconds until each wait raises, and until the processes are gone.
WAITERS, PROCESSES = 1.0, 5.0
LOST = (mitogen.core.ChannelError, mitogen.core.CallError)
LOCAL = [("local", {})] * 4


def steps_of(kind, request):
    """Return the connections of a tree four levels deep: all local, or with ssh and sudo."""
    if kind == "local":
        return LOCAL
    if os.geteuid() != 0:
        pytest.skip("needs root: makes accounts")
    sshd, users = request.getfixturevalue("sshd"), request.getfixturevalue("users")
    return [("ssh", sshd.kwargs(username=users.plain.name)), ("sudo", {}), *LOCAL[:2]]


def marked():
    """Return {pid: Process} of this run, without processes from before the test (sshd)."""
    return {each.pid: each for each in processes.marked_processes(str(os.getpid()))}


def ended(pids, what):
    """Assert that the processes end in time."""
    try:
        processes.wait_until(lambda: not any(map(processes.alive, pids)), PROCESSES)
    except AssertionError:
        left = [str(processes.process(pid)) for pid in pids if processes.alive(pid)]
        raise AssertionError("left of {}: {} of {}".format(what, left, pids)) from None


class Tree:
    """A line of contexts, with a pending call in each, and from each to the next.

    `calls[i]` is the master's call in context i, which waits for a call in context i+1.
    """

    def __init__(self, router, steps):
        self.before = marked()
        self.router = router
        self.contexts = []
        for method, kwargs in steps:
            via = self.contexts[-1] if self.contexts else None
            self.contexts.append(router.connect(method, via=via, **kwargs))
        self.pids = [context.call(work.identity)[0] for context in self.contexts]
        self.programs = [context.call(work.sleeper) for context in self.contexts]
        self.started = mitogen.core.Receiver(router)
        # Start at the bottom: a context runs one call at a time, and it must be the master's.
        levels = reversed(range(len(self.contexts)))
        self.calls = [self.start_call(level) for level in levels][::-1]

    def start_call(self, level):
        sender = self.started.to_sender()
        if level == len(self.contexts) - 1:
            call = self.contexts[level].call_async(work.hang, sender)
        else:
            below = self.contexts[level + 1]
            call = self.contexts[level].call_async(work.hang_below, below, sender)
        self.started.get(timeout=SOON)
        return call

    def all_pids(self):
        """Return every process of the tree, including ssh, sudo and programs."""
        return [pid for pid in marked() if pid not in self.before]

    def find(self, role):
        """Return (pid of the process with a role, level of the context that ends with it)."""
        if isinstance(role, int):
            return self.pids[role], role
        name, level = role
        table = processes.processes()
        above, path = self.pids[level], []
        while above in table and above > 1:
            above = table[above].ppid
            path.append(above)
        found = [pid for pid in path if pid in table and table[pid].comm.startswith(name)]
        if name == "ssh":
            found = [each.pid for each in processes.children() if each.comm == "ssh"]
        assert found, (role, [str(table[pid]) for pid in path if pid in table])
        return found[0], level


ROLES = {
    "local": [0, 1, 2, 3],
    "ssh": [0, 1, 2, 3, ("ssh", 0), ("sshd", 0), ("sudo", 1)],
}
CASES = [(kind, role) for kind, roles in ROLES.items() for role in roles]


@pytest.mark.parametrize(
    ("kind", "role"), CASES, ids=lambda v: str(v) if not isinstance(v, tuple) else v[0]
)
def test_killing_one_process_of_a_tree_ends_its_subtree(kind, role, own_router, request):
    tree = Tree(own_router, steps_of(kind, request))
    pid, level = tree.find(role)
    below = tree.pids[level:] + tree.programs[level:]
    if pid in tree.pids and (kind, role) in (("ssh", 0), ("ssh", 1)):
        # A process that a killed context had started is ended by its parent, where permitted: not
        # as another user or on another host.
        below.remove(tree.programs[level])
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    for call in tree.calls[max(0, level - 1) :]:
        with pytest.raises(LOST):
            call.get(timeout=max(0, begin + WAITERS - time.monotonic())).unpickle()
    ended(below, "the contexts below")
    # The contexts above continue.
    assert all(call.empty() for call in tree.calls[: max(0, level - 1)])
    assert all(processes.alive(pid) for pid in tree.pids[:level])
    assert own_router.local().call(work.add, 1) == (3, (), {})
    everything = tree.all_pids()
    if tree.programs[level] not in below:
        os.kill(tree.programs[level], signal.SIGKILL)
    own_router.broker.shutdown()
    own_router.broker.join()
    ended(everything, "the tree")


@pytest.mark.parametrize("kind", ROLES)
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_master_ends_the_tree(kind, signum, request):
    """The whole tree ends, including programs started by calls."""
    before = marked()
    command = [sys.executable, str(HERE / "drivers" / "tree.py")]
    command.append(json.dumps(steps_of(kind, request)))
    environ = dict(os.environ, PYTHONPATH=str(ROOT))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True
    ) as master:
        line = master.stdout.readline()
        assert line, master.stderr.read()
        pids = json.loads(line)
        assert len(pids) == 8
        everything = [pid for pid in marked() if pid not in before]
        assert set(pids) <= set(everything)
        master.send_signal(signum)
        assert master.wait(SOON) == -signum
        ended(everything, "the tree")
        errors = master.stderr.read()
        assert errors == "" or "KeyboardInterrupt" in errors, errors


def connecting(router, errors, **kwargs):
    """Connect in a new thread; return the thread."""

    def run():
        try:
            router.local(**kwargs)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


#: A replacement for a Python: reads all input, prints nothing, ends with its standard input.
MUTE = ["sh", "-c", "exec cat >/dev/null"]


def mute_child(before):
    """Wait until the MUTE program runs; return its pid."""

    def look():
        return [pid for pid, each in marked().items() if pid not in before and each.comm == "cat"]

    return processes.wait_until(look)[0]


@pytest.mark.parametrize("victim", ["child", "via"])
def test_kill_during_connect_fails_the_connection(victim, own_router):
    via = own_router.local() if victim == "via" else None
    via_pid = via and via.call(work.identity)[0]
    before, errors = marked(), []
    thread = connecting(own_router, errors, python_path=MUTE, via=via)
    pid = mute_child(before)
    os.kill(via_pid or pid, signal.SIGKILL)
    thread.join(WAITERS)
    assert not thread.is_alive()
    assert isinstance(errors[0], (mitogen.core.StreamError, mitogen.core.ChannelError)), errors
    ended([pid], "the program that was started")


def test_router_shutdown_during_connect_fails_the_connection(own_router):
    before, errors = marked(), []
    thread = connecting(own_router, errors, python_path=MUTE)
    pid = mute_child(before)
    own_router.broker.shutdown()
    thread.join(PROCESSES)
    assert not thread.is_alive()
    assert isinstance(errors[0], mitogen.core.StreamError), errors
    ended([pid], "the program that was started")


def test_broker_shutdown_ends_every_wait(own_router):
    context = own_router.local()
    mailbox = mitogen.core.Receiver(own_router)
    call = context.call_async(work.hang, mailbox.to_sender())
    mailbox.get(timeout=SOON)
    own_router.broker.shutdown()
    for receiver in (call, mailbox):
        with pytest.raises(LOST):
            receiver.get(timeout=SOON).unpickle()
    own_router.broker.join()
    with pytest.raises(mitogen.core.Error):
        context.call(work.identity)


def test_shutdown_ends_pending_calls(own_router):
    context = own_router.local()
    mailbox = mitogen.core.Receiver(own_router)
    call = context.call_async(work.hang, mailbox.to_sender())
    pid = mailbox.get(timeout=SOON).unpickle()
    context.shutdown(wait=True)
    assert processes.process(pid) is None
    with pytest.raises(LOST):
        call.get(timeout=SOON).unpickle()


def test_shutdown_returns_when_another_contexts_child_is_reaped(own_router):
    near = own_router.local()
    for _ in range(10):
        far = own_router.local(via=near)
        pid = far.call(work.identity)[0]
        far.shutdown(wait=True)
        assert processes.process(pid) is None
    # A second call is not an error, nor is one after the end of the parent.
    far.shutdown(wait=True)
    last = own_router.local(via=near)
    near.shutdown(wait=True)
    last.shutdown(wait=True)


@pytest.fixture(scope="module")
def chain(router):
    context = router.local()
    yield context.default_call_chain
    context.shutdown(wait=True)


class TestCalls:
    """Timeout, cancel, exit: errors of one call, after which the context works as before."""

    @pytest.fixture(autouse=True)
    def usable_afterwards(self, chain):
        before = chain.call(work.identity)
        yield
        assert chain.call(work.identity) == before

    def start(self, chain, function):
        """Start a call that does not end; return (its Receiver, the value it sent at its start)."""
        started = mitogen.core.Receiver(chain.context.router)
        call = chain.call_async(function, started.to_sender())
        return call, started.get(timeout=SOON).unpickle()

    @pytest.mark.parametrize("function", [work.hang, work.spin, work.wait_for_program])
    def test_a_timeout_interrupts_the_call(self, chain, function, router):
        started = mitogen.core.Receiver(router)
        limited = mitogen.parent.CallChain(chain.context, timeout=0.2)
        with pytest.raises(mitogen.core.TimeoutError, match=function.__name__):
            limited.call(function, started.to_sender())
        assert chain.call(work.add, 1)[0] == 3
        if function is work.wait_for_program:
            assert not processes.alive(started.get(timeout=SOON).unpickle())

    @pytest.mark.parametrize("function", [work.hang, work.spin, work.wait_for_program])
    def test_cancel_interrupts_the_call(self, chain, function):
        call, _ = self.start(chain, function)
        chain.cancel(call.handle)
        with pytest.raises(mitogen.core.CallError, match="cancelled"):
            call.get(timeout=SOON).unpickle()

    def test_cancel_of_a_queued_call_leaves_the_running_one(self, chain):
        running, _ = self.start(chain, work.hang)
        queued = chain.call_async(work.echo, 1)
        after = chain.call_async(work.echo, 2)
        chain.cancel(queued.handle)
        with pytest.raises(mitogen.core.CallError, match="cancelled before it began"):
            queued.get(timeout=SOON).unpickle()
        assert running.empty()
        chain.cancel(running.handle)
        with pytest.raises(mitogen.core.CallError):
            running.get(timeout=SOON).unpickle()
        assert after.get(timeout=SOON).unpickle() == 2

    def test_cancel_of_a_finished_call_is_ignored(self, chain):
        call = chain.call_async(work.echo, 1)
        assert call.get(timeout=SOON).unpickle() == 1
        other, _ = self.start(chain, work.hang)
        chain.cancel(call.handle)
        # It follows the cancel on the same stream, so an effect of that would be visible by now.
        chain.cancel(chain.call_async(work.echo, 2).handle)
        assert other.empty()
        chain.cancel(other.handle)
        with pytest.raises(mitogen.core.CallError):
            other.get(timeout=SOON).unpickle()

    @pytest.mark.parametrize(
        ("function", "args", "type_name"),
        [(work.leave, [3], "SystemExit"), (work.interrupt, [], "KeyboardInterrupt")],
    )
    def test_an_exit_is_an_error_of_the_call(self, chain, function, args, type_name):
        with pytest.raises(mitogen.core.CallError) as caught:
            chain.call(function, *args)
        assert caught.value.type_name == "builtins." + type_name

    def test_kill_ends_a_context_that_ignores_a_cancel(self, own_router, monkeypatch):
        monkeypatch.setattr("mitogen.calls.chain.CANCEL_GRACE", 0.2)
        context = own_router.local()
        pid = context.call(work.identity)[0]
        chain = mitogen.parent.CallChain(context, timeout=0.1, kill=True)
        with pytest.raises(mitogen.core.TimeoutError):
            chain.call(work.ignore_interrupts)
        ended([pid], "the context that ignores a cancel")
        with pytest.raises(mitogen.core.ChannelError):
            context.call(work.identity)


@pytest.mark.slow
def test_both_ends_detect_a_silent_link(own_router, sshd):
    """Nothing is closed and nothing arrives: both ends detect it by themselves."""
    settings = sshd.kwargs(python_path=PYTHON, keepalive_interval=1, keepalive_count=1)
    context = own_router.ssh(**settings)
    pid = context.call(work.identity)[0]
    client = own_router.stream_by_id(context.context_id).process.pid
    os.kill(client, signal.SIGSTOP)
    with pytest.raises(mitogen.core.ChannelError):
        context.call(work.hang)
    processes.wait_until(lambda: not processes.alive(pid), SOON)
    processes.wait_until(lambda: not processes.alive(client), SOON)


def test_a_call_interrupted_by_shutdown_is_not_logged(own_router, records):
    started = mitogen.core.Receiver(own_router)
    context = own_router.local()
    context.call_no_reply(work.hang, started.to_sender())
    started.get(SOON)
    context.shutdown(wait=True)
    logged = []
    while not records.queue.empty():
        logged.append(records.queue.get().getMessage())
    assert not [text for text in logged if "call without answer" in text]


def deaf(own_router, **kwargs):
    """Return a context whose call only a kill can end, and its pid."""
    started = mitogen.core.Receiver(own_router)
    context = own_router.local(**kwargs)
    context.call_no_reply(work.deaf, started.to_sender())
    return context, started.get(SOON).unpickle()


def test_a_blocked_child_ends_on_disconnect_without_a_traceback(own_router, records):
    near = own_router.local()
    context, pid = deaf(own_router, via=near)
    own_router.disconnect(context)
    processes.wait_until(lambda: not processes.alive(pid), SOON)
    logged = []
    while not records.queue.empty():
        logged.append(records.queue.get().getMessage())
    assert not [text for text in logged if "Traceback" in text or "ValueError" in text]


def test_a_timeout_ends_a_long_call_to_a_stopped_child(own_router, monkeypatch):
    """The call is longer than what fits on the way, so most of it is never sent."""
    monkeypatch.setattr(chain_file, "CANCEL_GRACE", 0.1)
    child = own_router.local()
    os.kill(child.call(os.getpid), signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(mitogen.core.TimeoutError, match="the call was cancelled"):
        chain_file.CallChain(child, timeout=0.5, kill=True).call(len, bytes(3 << 20))
    assert time.monotonic() - start < SOON
    with pytest.raises(mitogen.core.ChannelError):
        child.call(os.getpid)
