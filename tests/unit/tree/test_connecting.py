"""connecting.py: a connection in progress, step by step; no outcome leaks anything.

There is no real process: the test holds the other ends of the descriptors of spawn.start().
"""

import _thread
import contextlib
import os
import signal
from types import SimpleNamespace

import pytest

from mitogen import core
from mitogen.bootstrap import spawn
from mitogen.bootstrap.handshake import EofError, Rule, UnsupportedPythonError
from mitogen.core import StreamError
from mitogen.methods import connection
from mitogen.tree import connecting
from mitogen.tree.connecting import MAX_LOGINS, CancelledError, Connecting, Logins
from tests import conftest
from tests.unit import nodes
from tests.unit.nodes import frame

HELLO = b"MITO:HELLO 3.9.2 /usr/bin/python3\n"
READY = b"MITO:READY\n"


class PasswordError(StreamError):
    pass


class Poller(core.Poller):
    found = 0

    def _wait(self, seconds):
        ready = core.Poller._wait(self, seconds)
        self.found += len(ready)
        return ready


class Broker(nodes.Broker):
    """A fake broker that also polls real descriptors."""

    def __init__(self, net):
        nodes.Broker.__init__(self, net)
        self.poller = Poller()

    def run_deferred(self):
        moved = nodes.Broker.run_deferred(self)
        before = self.poller.found
        with self.thread():
            self.poller.poll(0)
        return moved or self.poller.found > before


class Far:
    """The far ends of the pipe, the terminal and standard error."""

    pid = 0x7FFFFFF1

    def __init__(self, tty, err):
        pipe, self.pipe = spawn.create_socketpair()
        self.fds = [self.pipe]
        self.status = None
        self.signals = []
        self.slave = None
        ours = []
        for wanted in (tty, err):
            one, two = spawn.create_socketpair() if wanted else (None, None)
            ours.append(one)
            self.fds.append(two)
        self.tty, self.err = self.fds[1:]
        self.fds = [fd for fd in self.fds if fd is not None]
        self.process = spawn.Process(self, pipe, *ours)
        for fd in self.fds:
            os.set_blocking(fd, False)

    def poll(self):
        return self.status

    def say(self, data, fd=None):
        os.write(self.pipe if fd is None else fd, data)

    def heard(self, fd=None):
        try:
            return os.read(self.pipe if fd is None else fd, 1 << 20)
        except BlockingIOError:
            return b""

    def end(self, status=0):
        self.status = status
        while self.fds:
            os.close(self.fds.pop())


class Method(connection.Connection):
    options_class = connection.Options
    tty = err = True
    failure = None

    def __init__(self, options, router):
        connection.Connection.__init__(self, options, router)
        self.started = []

    def argv(self):
        return ["program"]

    def rules(self):
        missing = (PasswordError, "password is required")
        again = (PasswordError, "password is incorrect")
        return {
            "tty": [Rule(b"password: ", "password", missing, again)],
            "err": [Rule(b"denied", error=again)],
            "pipe": [Rule(b"on the pipe: ", "password", missing, again)],
        }

    def answers(self):
        return {"password": self.secret}

    secret = "secret"

    def default_name(self):
        return "method"

    def start(self):
        if self.failure and self.started:
            raise self.failure
        self.started.append(Far(self.tty, self.err))
        return self.started[-1].process


@pytest.fixture
def begin(net, monkeypatch):
    """A function that starts a connection and returns it and its far end."""
    before = conftest.open_descriptors()
    broker = Broker(net)
    root = nodes.Node(net, 0, broker=broker)
    root.router.__dict__["log_config"] = lambda: (20, [])
    net.nodes.append(root)
    conns = []

    def kill(pid, number):
        far = conns[-1].started[-1]
        far.signals.append(number)
        far.end(-number)

    monkeypatch.setattr(os, "kill", kill)

    def run(**attributes):
        timeout = attributes.pop("timeout", 30)
        conn = Method(
            connection.Options(name=attributes.pop("name", None), connect_timeout=timeout), None
        )
        conn.__dict__.update(attributes)
        conns.append(conn)
        connecting = Connecting(root.router, conn, 7)
        connecting.root = root
        connecting.start()
        net.pump()
        return connecting, conn.started[0]

    yield run
    monkeypatch.undo()
    for conn in conns:
        for far in conn.started:
            far.end()
    net.advance(10)
    assert not broker.holds and not broker.poller.table
    assert not conftest.open_descriptors() - before, "a descriptor is left open"


def test_eager(net, begin):
    connecting, far = begin()
    assert far.heard().startswith(b"exit 78 #MITO\n")  # before the child has sent anything
    far.say(b"motd\n" + HELLO + READY + frame(0, 1000, b"first", 7))
    got = connecting.root.inbox(1000)
    context = connecting.wait()
    assert (context.context_id, context.name, context.via) == (7, "method", None)
    assert context is connecting.root.context(7)
    assert connecting.root.router.routes.streams[7] is connecting.stream
    assert connecting.root.router.get_streams() == {connecting.stream}
    assert [msg.data for msg in got] == [b"first"]
    connecting.root.send(7, 1000, b"there")
    assert far.heard() == frame(7, 1000, b"there", flags=core.RAW)
    stream = connecting.stream
    assert stream.protocol.remote_id == 7 and stream.conn is connecting.conn


def test_not_eager(net, begin):
    connecting, far = begin(eager=False, name="given")
    assert far.heard() == b""
    far.say(HELLO)
    net.pump()
    assert far.heard().startswith(b"exit 78 #MITO\n")
    far.say(READY)
    assert connecting.wait().name == "given"
    net.advance(60)
    assert not far.signals  # the deadline is cancelled


def test_later_output_is_logged(net, begin):
    connecting, far = begin()
    far.say(HELLO + READY)
    connecting.wait()
    far.say(b"a warning\n", far.err)
    net.pump()
    assert connecting.root.logs == ["method: a warning"]


def test_a_password(net, begin):
    connecting, far = begin()
    far.heard()
    far.say(b"password: ", far.tty)
    net.pump()
    assert far.heard(far.tty) == b"secret\n" and far.heard() == b""
    far.say(b"on the pipe: ")
    net.pump()
    with pytest.raises(PasswordError, match="incorrect"):
        connecting.wait()


def test_a_password_on_the_pipe(net, begin):
    connecting, far = begin(eager=False)
    far.say(b"on the pipe: ")
    net.pump()
    assert far.heard() == b"secret\n"
    far.say(HELLO + READY)
    connecting.wait()


def test_a_report_on_the_pipe_is_read_before_a_prompt_on_the_terminal_is_answered(net, begin):
    connecting, far = begin()
    far.heard()
    # Both have arrived when the terminal is read; the answer would be found by the program there.
    far.say(b"MITO:PASSED\n")
    far.say(b"password: ", far.tty)
    with connecting.broker.thread():
        connecting._on_side(connecting.stream.process.tty, "tty")
    net.pump()
    assert far.heard(far.tty) == b"" and "not answered" in connecting.root.logs[-1]
    far.say(HELLO + READY)
    assert connecting.wait()


@pytest.mark.parametrize(
    "verdict, sent", [(True, b"secret\n"), (False, b""), (lambda: None, b"secret\n")]
)
def test_the_method_judges_a_prompt(net, begin, monkeypatch, verdict, sent):
    monkeypatch.setattr(_thread, "start_new_thread", lambda f, args: f(*args))
    connecting, far = begin(judge=lambda prompt: verdict)
    far.say(b"text\npassword: ", far.tty)
    net.pump()
    assert far.heard(far.tty) == sent
    far.say(HELLO + READY)
    assert connecting.wait()


def test_no_answer_goes_to_the_number_of_a_terminal_that_was_closed_meanwhile(
    net, begin, monkeypatch
):
    judged = []
    monkeypatch.setattr(_thread, "start_new_thread", lambda f, args: judged.append((f, args)))
    connecting, far = begin(judge=lambda prompt: lambda: None)
    far.say(b"password: ", far.tty)
    net.pump()
    tty = connecting.stream.process.tty
    os.close(far.tty)
    far.fds.remove(far.tty)
    net.pump()
    read, write = os.pipe()
    if read == tty:
        read = os.dup(read)
    try:
        os.dup2(write, tty)
        ((func, args),) = judged
        func(*args)
        net.pump()
        os.set_blocking(read, False)
        with pytest.raises(BlockingIOError):
            os.read(read, 100)
    finally:
        for fd in {read, write, tty}:
            os.close(fd)


@pytest.mark.parametrize("error", [StreamError("another host"), ValueError("no")])
def test_a_judgement_that_fails_ends_the_attempt(net, begin, monkeypatch, error):
    def verdict():
        raise error

    monkeypatch.setattr(_thread, "start_new_thread", lambda f, args: f(*args))
    connecting, far = begin(judge=lambda prompt: verdict)
    far.say(b"password: ", far.tty)
    with pytest.raises(type(error), match=str(error)):
        connecting.wait()


@pytest.mark.parametrize("good", [True, False])
def test_secrets_are_dropped_at_the_end_of_the_attempt(net, begin, good):
    connecting, far = begin()
    connecting.conn.options.password = "secret"
    far.say(HELLO + READY if good else b"denied", far.pipe if good else far.err)
    with contextlib.nullcontext() if good else pytest.raises(PasswordError):
        connecting.wait()
    assert connecting.conn.options.password is None and not connecting.shake.answers


@pytest.mark.parametrize(
    "channel, text, attributes, why",
    [
        ("tty", b"password: ", {"secret": None}, "password is required"),
        ("err", b"permission denied\n", {}, "password is incorrect"),
        ("pipe", b"on the pipe: ", {"secret": None}, "password is required"),
    ],
)
def test_refusal_ends_the_attempt(net, begin, channel, text, attributes, why):
    connecting, far = begin(**attributes)
    far.say(text, getattr(far, channel))
    with pytest.raises(PasswordError, match=why):
        connecting.wait()
    assert far.signals == [signal.SIGKILL] and connecting.stream.gone
    assert 7 not in connecting.root.router.routes.streams


def test_error_at_the_end_has_the_last_output_and_the_status(net, begin):
    connecting, far = begin()
    far.say(b"Connection refused\r\n", far.err)
    far.end(255)
    with pytest.raises(EofError) as info:
        connecting.wait()
    assert str(info.value).split("\n") == [
        "EOF on stream; last 100 lines received:",
        "Connection refused",
        "process exited with status 255",
    ]
    assert far.signals == []


def test_error_output_read_after_the_end(net, begin):
    connecting, far = begin()
    far.say(b"denied", far.err)
    far.end(255)
    with pytest.raises(PasswordError):
        connecting.wait()


@pytest.mark.parametrize("status", [127])
def test_no_interpreter(net, begin, status):
    connecting, far = begin()
    far.say(b"sh: python3: not found\n")
    far.end(status)
    with pytest.raises(UnsupportedPythonError, match="found none\nsh: python3: not found"):
        connecting.wait()


def test_too_old(net, begin):
    connecting, far = begin()
    far.say(b"MITO:HELLO 2.7.18 /usr/bin/python\n")
    with pytest.raises(UnsupportedPythonError, match="which is 2.7.18"):
        connecting.wait()


def test_a_deadline(net, begin):
    connecting, far = begin(timeout=12)
    far.say(b"waiting for entropy\n")
    with pytest.raises(core.TimeoutError, match="after 12.00 seconds.*\nwaiting for entropy"):
        connecting.wait()
    assert 1012 <= net.time < 1013 and far.signals == [signal.SIGKILL]


def test_eaten_input_is_retried_once(net, begin):
    connecting, far = begin()
    far.say(HELLO + b"MITO:EATEN\n")
    net.advance(1)
    assert len(connecting.conn.started) == 2 and far.signals == [signal.SIGKILL]
    second = connecting.conn.started[1]
    assert second.heard() == b""
    second.say(HELLO)
    net.pump()
    assert second.heard().startswith(b"exit 78")
    second.say(READY)
    assert connecting.wait().context_id == 7


def test_input_eaten_twice_is_an_error(net, begin):
    connecting, far = begin()
    far.say(HELLO + b"MITO:EATEN\n")
    net.advance(1)
    connecting.conn.started[1].say(HELLO + b"MITO:EATEN\n")
    with pytest.raises(
        StreamError, match="a program on the target reads the input meant for Python"
    ):
        connecting.wait()


def test_eaten_input_and_failed_restart(net, begin):
    connecting, far = begin(failure=StreamError("cannot start"))
    far.say(HELLO + b"MITO:EATEN\n")
    with pytest.raises(StreamError, match="cannot start"):
        connecting.wait()


def test_end_of_the_broker_cancels_the_attempt(net, begin):
    connecting, far = begin()
    broker = connecting.broker
    broker.shutdown()
    net.pump()
    assert far.signals == [signal.SIGKILL]
    with pytest.raises(CancelledError, match="method: the broker ends"):
        connecting.wait()
    net.advance(5)
    assert broker.stopping


def test_the_broker_has_ended(net, begin):
    connecting, far = begin()
    actions = connecting.broker.exit_actions
    for func in list(actions):
        func()
    with pytest.raises(CancelledError, match="associated Broker began to shut down"):
        connecting.wait()
    assert connecting._on_broker_exit not in actions
    far.end()


class TestLogins:
    """At most MAX_LOGINS per destination; every queued login starts eventually."""

    def test_logins_over_the_limit_wait_in_order(self):
        logins, begun = Logins(), []
        for number in range(MAX_LOGINS + 3):
            logins.enter("host", lambda number=number: begun.append(number))
        assert begun == list(range(MAX_LOGINS))
        logins.leave("host")
        assert begun == list(range(MAX_LOGINS + 1))
        for _ in range(MAX_LOGINS + 2):
            logins.leave("host")
        assert begun == list(range(MAX_LOGINS + 3)) and not logins._entered

    def test_limits_are_per_destination_and_none_is_unlimited(self):
        logins, begun = Logins(), []
        for destination in ["a", "b", None]:
            for _ in range(MAX_LOGINS):
                logins.enter(destination, lambda d=destination: begun.append(d))
        logins.enter(None, lambda: begun.append("more"))
        assert len(begun) == 3 * MAX_LOGINS + 1
        logins.leave(None)

    def test_failed_start_releases_its_slot(self, net, begin):
        connecting, far = begin()
        logins = connecting.router.branch.logins
        connecting.destination = "host"
        connecting.when_allowed(lambda: None)
        connecting._start = lambda: {}["missing"]
        with pytest.raises(KeyError):
            connecting.start()
        assert not logins._entered
        connecting.destination = None
        far.end()


def test_interrupt_abandons_the_attempt(net, begin, monkeypatch):
    connecting, far = begin()

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(connecting.latch, "get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            connecting.wait()
    net.advance(1)
    assert far.signals == [signal.SIGKILL] and not connecting.root.router.routes.streams


def test_a_child_that_ends_later(net, begin):
    connecting, far = begin()
    far.say(HELLO + READY)
    context = connecting.wait()
    gone = []
    core.listen(context, "disconnect", lambda: gone.append(True))
    far.end()
    net.advance(1)
    assert gone == [True] and connecting.stream.gone
    assert connecting.root.router.get_streams() == set()


def test_terminal_is_held_until_the_program_opens_it(net, begin):
    connecting, far = begin(stdio="tty")
    reader, writer = os.pipe()
    connecting.stream.process.slave = writer
    os.close(reader)
    with connecting.broker.thread():
        connecting._hold_slave(connecting.stream)
    net.advance(0.1)
    assert connecting.stream.process.slave == writer
    far.say(b"x")
    net.advance(0.1)
    assert connecting.stream.process.slave is None


def test_granted_ids():
    stream = SimpleNamespace(blocks=[(5, 6), (100, 200)])
    allowed = [i for i in (4, 5, 6, 99, 100, 199, 200) if connecting.ChildStream.allows(stream, i)]
    assert allowed == [5, 100, 199]
