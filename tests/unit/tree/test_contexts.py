"""mitogen.parent: the API of Context and Router. (Branch: unit/core/test_routing.py.)"""

import copy
import pathlib
import pickle
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from mitogen import core, parent, sudo
from mitogen.calls import chain
from mitogen.core import CallError, ChannelError, Message, takes_router
from mitogen.core.mailbox import Receiver
from mitogen.methods import connection
from mitogen.tree import proxy, router as router_file

ASK = 1000


def add(one, two=0):
    return one + two


@pytest.fixture
def pair(net):
    master, one = net.line(2)
    one.dispatcher(serve=True)
    return master, one, master.context(one)


# ---- Context


@pytest.mark.parametrize("kind", [parent.Context, core.Context])
def test_a_context_can_be_pickled_and_copied_without_its_router(kind):
    context = kind(SimpleNamespace(broker=threading.Lock()), 7, "web1")
    for found in (pickle.loads(pickle.dumps(context)), copy.copy(context), copy.deepcopy(context)):
        assert (found.context_id, found.name, found.router) == (7, "web1", None)
        assert isinstance(found, parent.Context)


def test_send_async_and_send_await(pair):
    master, one, there = pair
    one.router.add_handler(lambda msg: msg.reply([msg.unpickle()]), ASK)
    assert there.send_await(Message.pickled("a", handle=ASK)) == ["a"]
    msg = Message.pickled("b", handle=ASK)
    receiver = there.send_async(msg)
    assert isinstance(receiver, Receiver) and msg.receiver is receiver
    assert receiver.get().unpickle() == ["b"]
    handlers = len(master.router.handlers)
    one.inbox(ASK + 1)
    with pytest.raises(core.TimeoutError):
        there.send_await(Message(handle=ASK + 1), 5)
    assert master.net.time == 1005 and len(master.router.handlers) == handlers


def test_calling_a_service(pair):
    master, one, there = pair
    asked = []

    class Service:
        @classmethod
        def name(cls):
            return "module.Service"

    one.router.add_handler(
        lambda msg: (asked.append(msg.unpickle()), msg.reply(7)), core.CALL_SERVICE, overwrite=True
    )
    assert there.call_service("module.Service", "method", a=1) == 7
    assert there.call_service_async(Service, "method").get().unpickle() == 7
    assert asked == [("module.Service", "method", {"a": 1}), ("module.Service", "method", {})]


def test_one_chain_per_context(pair):
    _, _, there = pair
    assert there.default_call_chain is there.default_call_chain
    assert type(there.default_call_chain) is chain.CallChain is parent.Context.call_chain_class


def test_disconnect_calls_its_callbacks(pair):
    _, _, there = pair
    told = []
    core.listen(there, "disconnect", lambda: told.append(1))
    there.on_disconnect()
    assert told == [1]


def test_shutdown(pair):
    master, one, there = pair
    asked = one.inbox(core.SHUTDOWN)
    latch = there.shutdown()
    master.net.pump()
    assert len(asked) == 1 and latch.empty()
    one.broker.after(2, lambda: one.up.disconnect("end"))
    there.shutdown(wait=True)
    assert master.net.time == 1002 and latch.get(0) is None
    there.shutdown(wait=True)  # already gone


def test_shutdown_of_an_indirect_child(net):
    master, one, two = net.line(3)
    two.inbox(core.SHUTDOWN)
    two.broker.after(2, lambda: two.up.disconnect("end"))
    master.context(two).shutdown(wait=True)
    assert net.time == 1002


def test_shutdown_after_the_end_of_the_broker(pair):
    master, one, there = pair
    master.broker.end()
    there.shutdown(wait=True)


def test_core_context_has_the_late_attributes(pair):
    """Attributes missing on core.Context come from parent.Context."""
    master, one, _ = pair
    plain = core.Context(master.router, 1, "x")
    assert plain.call(add, 1, 2) == 3
    assert isinstance(plain.default_call_chain, chain.CallChain)
    for name in ("_private", "on_start", "no_such"):
        assert not hasattr(plain, name)


# ---- Router


def test_streams(pair):
    master, one, there = pair
    router, end = master.router, master.down[1]
    assert router.get_streams() == {end} and router.stream_by_id(1) is end
    assert router.stream_by_id(77) is None
    router.disconnect(there)
    router.disconnect(master.context(77))
    master.net.pump()
    assert end.closed and end.reason == "Router.disconnect()" and router.get_streams() == set()


def test_kill(pair):
    master, one, there = pair
    master.router.kill(there)
    master.net.pump()
    assert master.down[1].process.signals == [signal.SIGKILL] and master.down[1].closed


@pytest.mark.parametrize("method", ["kill", "disconnect"])
def test_kill_of_an_indirect_child(net, method):
    master, one, two = net.line(3)
    asked = two.inbox(core.SHUTDOWN)
    getattr(master.router, method)(master.context(two))
    net.pump()
    assert not master.down[1].closed and not master.down[1].process.signals
    assert len(asked) == 1 or two.up.closed


def test_old_names(pair):
    master, one, _ = pair
    got = one.inbox(ASK)
    with master.broker.thread():
        master.router._async_route(Message(dst_id=1, handle=ASK, data=b"x"))
    master.net.pump()
    assert got[0].data == b"x" and master.router.myself().context_id == 0


def test_unknown_connection_method(pair):
    master, _, there = pair
    for via in (None, there):
        with pytest.raises(ValueError, match="unknown connection method 'telnet'"):
            master.router.connect("telnet", via=via)


# ---- via=


@pytest.fixture
def connected(monkeypatch):
    """Replace a child's connections with a record; return the list of requests."""
    seen = []

    class Result:
        name = "local.77"

    class Connecting:
        def __init__(self, router, conn, context_id):
            self.options = conn.options
            seen.append((router, conn, context_id))

        def run(self):
            if self.options.name == "bad":
                raise sudo.PasswordError("sudo password is %s", "50% wrong")
            if self.options.name == "odd":
                raise KeyError("odd")
            return Result

    monkeypatch.setattr(router_file, "Connecting", Connecting)
    return seen


def test_via(pair, connected):
    master, one, there = pair
    there.name = "web"
    context = master.router.local(via=there, python_path=pathlib.Path("/p"))
    ((router, conn, context_id),) = connected
    assert router is one.router and context.context_id == context_id
    assert (context.name, context.via) == ("web.local.77", there)
    assert (conn.options.name, conn.options.python_path) == (None, "/p")
    assert master.down[1].allows(context_id) and one.router.branch
    pushed = master.router.branch.modules.pushed
    assert pushed[0][0] == 1 and pushed[0][1][0] == "mitogen.tree.router"


@pytest.mark.parametrize("via", [False, True])
def test_error_for_a_wrong_option_names_the_method(pair, via):
    master, _, there = pair
    with pytest.raises(TypeError, match="^ssh: .*'hostnam'|^ssh: missing .*'hostname'"):
        master.router.ssh(via=there if via else None, hostnam="x")


def test_options_are_checked_before_anything_is_sent(pair, connected):
    master, _, there = pair
    with pytest.raises(TypeError, match="^local: got an unexpected .*'no_such_option'"):
        master.router.local(via=there, no_such_option=1)
    assert connected == [] and master.router.branch.modules.pushed == []


def test_an_error_keeps_its_type_through_via(pair, connected):
    master, _, there = pair
    with pytest.raises(sudo.PasswordError, match="^sudo password is 50% wrong$") as info:
        master.router.sudo(via=there, name="bad")
    assert isinstance(info.value.__cause__, CallError)
    with pytest.raises(KeyError):
        master.router.sudo(via=there, name="odd")


@pytest.mark.parametrize("module", ["mitogen.demo.clocks", "mitogenx"])
def test_remote_error_imports_nothing(monkeypatch, module):
    imported = []
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(core, "import_module", lambda name: imported.append(name))
    error = CallError("x")
    error.type_name = module + ".Evil"
    assert proxy._local_error(error) is error and imported == []


def test_id_of_a_failed_connection_is_not_reused(pair, connected):
    master, _, there = pair
    ids = []
    for name in ("bad", "good"):
        try:
            ids.append(master.router.local(via=there, name=name).context_id)
        except core.StreamError:
            ids.append(connected[-1][2])
    assert ids[0] != ids[1]


# ---- a child that becomes a parent


@takes_router
def has_branch(router):
    return "branch" in router.__dict__


def test_child_gets_a_branch_on_demand(pair):
    master, one, there = pair
    assert there.call(has_branch) is False
    assert one.router.get_streams() == set()
    assert there.call(has_branch) is True
    branch = one.router.branch
    parent.upgrade(one.router)
    parent.upgrade_router(one.router.econtext)
    assert one.router.branch is branch
    assert one.router.context_class is parent.Context
    with pytest.raises(AttributeError):
        one.router.no_such_name  # noqa: B018
    with pytest.raises(AttributeError):
        one.router._no_such_name  # noqa: B018


def test_ids_of_a_child(pair):
    master, one, _ = pair
    first = [one.router.allocate_id() for _ in range(3)]
    assert first == list(range(first[0], first[0] + 3))
    one.router.branch.ids.free = iter(())
    assert one.router.allocate_id() not in first


def test_no_ids_without_a_parent(pair):
    master, one, _ = pair
    parent.upgrade(one.router)
    one.up.disconnect("lost")
    with pytest.raises((ChannelError, core.Error)):
        one.router.allocate_id()


# ---- defer_sync


def test_defer_sync(pair):
    master, _, _ = pair
    broker = master.broker
    assert parent.defer_sync(broker, broker.on_thread) is True
    with broker.thread():
        assert parent.defer_sync(broker, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        parent.defer_sync(broker, lambda: 1 // 0)
    broker.alive = False
    broker.run_deferred = lambda: False
    with pytest.raises(core.Error, match="the broker has ended"):
        parent.defer_sync(broker, int)


def test_a_child_s_preamble(net):
    master, one, _ = net.line(3)
    conn = connection.Connection(connection.LocalOptions(remote_name="n", debug=True), one.router)
    sent = []
    one.router.branch.preamble = lambda config: sent.append(core.decode(config))
    connecting = SimpleNamespace(conn=conn, context_id=9, stream=SimpleNamespace(name="x"))
    parent.Router.preamble_for(one.router, connecting)
    (config,) = sent
    assert config["module"]["parent_ids"] == [1, 0] and config["module"]["context_id"] == 9
    assert config["module"]["is_master"] is False and config["remote_name"] == "n"
    assert config["router"]["log_level"] == 10 and config["merged"] is True
