"""pool.py: each call is answered even if the pool ends, and services are created on demand."""

import os
import threading
from types import SimpleNamespace

import pytest

from mitogen import core
from mitogen.core import mailbox
from mitogen.core.mailbox import Receiver
from mitogen.services import pool as service
from mitogen.services.base import CurrentPool
from tests.unit import live

SOON = live.SOON


class Echo(service.Service):
    """A service with methods that answer, block and count."""

    def __init__(self, router):
        super().__init__(router)
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.events = []
        self.got = threading.Semaphore(0)
        self.ended = threading.Event()

    @service.expose(service.AllowAny())
    def echo(self, value, msg):
        return value, msg.src_id

    @service.expose(service.AllowAny())
    def thread(self):
        return threading.get_ident()

    @service.expose(service.AllowAny())
    def block(self):
        self.entered.release()
        assert self.go.wait(SOON)
        return "went on"

    @service.expose(service.AllowAny())
    def fail(self):
        raise ValueError("it failed")

    @service.expose(service.AllowAny())
    def stop(self):
        self.pool.stop()
        return "stopped"

    @service.expose(service.AllowParents())
    def parents(self):
        return "parents"

    def on_message(self, event):
        self.events.append((event.source, event.data.unpickle()))
        self.got.release()
        if event.data.unpickle() == "fail":
            raise ValueError("on_message")

    def on_shutdown(self):
        self.ended.set()


class Other(service.Service):
    @service.expose(service.AllowAny())
    def hello(self):
        return "hello"

    def on_shutdown(self):
        raise ValueError("on_shutdown")


class Bad:
    """A class that is not a service."""


@pytest.fixture
def node():
    with live.pair() as found:
        found.up_context = found.child.context_by_id(0)
        found.pools = []
        yield found
        for pool in found.pools:
            pool.stop()


@pytest.fixture
def make(node):
    """Make a pool with an Echo at the master. The child calls it with `ask`."""

    def make(*args, **kwargs):
        echo = Echo(node.master)
        pool = service.Pool(node.master, [echo, *args], **kwargs)
        echo.pool = pool
        node.pools.append(pool)
        return pool, echo

    return make


def send(node, name, method, kwargs=None, context=None):
    """Send a call from the child; return the Receiver for its answer."""
    context = context or node.up_context
    receiver = Receiver(context.router, persist=False, respondent=context)
    msg = core.Message.pickled((name, method, core.Kwargs(kwargs or {})), handle=core.CALL_SERVICE)
    msg.reply_to = receiver.handle
    context.send(msg)
    return receiver


def ask(node, method, **kwargs):
    return service.call(Echo, method, call_context=node.up_context, **kwargs)


# ---- calls


def test_a_call(node, make):
    pool, _ = make()
    assert (pool.size, pool.closed) == (1, False)
    assert repr(pool) == "Pool(context 0, size=1)"
    assert ask(node, "echo", value=[1]) == ([1], 1)
    assert service.call(Echo.name(), "echo", node.up_context, value=None) == (None, 1)
    with pytest.raises(ValueError, match="it failed"):
        ask(node, "fail")


def test_call_methods_of_a_context(node, make):
    make()
    service.get_or_create_pool(router=node.child)
    node.pools.append(service.get_or_create_pool(router=node.child))
    assert node.context.call_service(Other, "hello") == "hello"
    assert node.context.call_service_async(Other, "hello").get(SOON).unpickle() == "hello"


@pytest.mark.parametrize(
    ("name", "method", "text"),
    [
        ("no.such.Service", "echo", "Service 'no.such.Service' is not yet activated"),
        ("NoModule", "echo", "context 0 has no service 'NoModule'"),
        ("", "", "context 0 has no service ''"),
        ("os.path.join", "x", "Service 'os.path.join' is not yet activated"),
        (Echo.name(), "nothing", "has no exposed method 'nothing'"),
        (
            Echo.name(),
            "parents",
            "not authorized to invoke 'parents'.*context 1 is refused by AllowParents",
        ),
        (Echo.name(), "echo", "argument|missing"),
    ],
)
def test_wrong_calls_are_answered(node, make, name, method, text):
    make()
    with pytest.raises(core.CallError, match=text):
        send(node, name, method).get(SOON).unpickle()


@pytest.mark.parametrize(
    "request_",
    [
        None,
        7,
        "text",
        [],
        ["name", "method"],
        ["name", "method", None],
        [1, 2, {}],
        ["name", "method", {1: 2}],
        ["a", "b", {}, "c"],
    ],
    ids=repr,
)
def test_malformed_calls_are_answered(node, make, request_):
    make()
    receiver = Receiver(node.child, persist=False, respondent=node.up_context)
    data = core.encode(request_)
    msg = core.Message(data=data, handle=core.CALL_SERVICE, reply_to=receiver.handle)
    node.up_context.send(msg)
    with pytest.raises(core.CallError, match="invalid service call"):
        receiver.get(SOON).unpickle()


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x83"])
def test_undecodable_calls_are_answered(node, make, data):
    make()
    receiver = Receiver(node.child, persist=False, respondent=node.up_context)
    msg = core.Message(data=data, handle=core.CALL_SERVICE, reply_to=receiver.handle)
    node.up_context.send(msg)
    with pytest.raises(core.CallError, match="cannot unpickle"):
        receiver.get(SOON).unpickle()


def test_a_dead_message_is_ignored(node, make):
    make()
    node.up_context.send(core.Message.dead("bye", handle=core.CALL_SERVICE))
    assert ask(node, "echo", value=1) == (1, 1)
    assert node.logs == []


def test_many_calls_keep_their_order(node, make):
    """Send more bytes than a window, so that credit must be given for each call."""
    make()
    big = bytes(1 << 20)
    waiting = [send(node, Echo.name(), "echo", {"value": big}) for _ in range(12)]
    assert all(each.get(SOON).unpickle() == (big, 1) for each in waiting)
    meter = node.master.meters[1, core.CALL_SERVICE]
    assert meter.received - meter.credited <= core.WINDOW


def test_methods_run_on_pool_threads(node, make):
    pool, echo = make(size=3)
    blocked = [send(node, Echo.name(), "block") for _ in range(2)]
    for _ in blocked:
        assert echo.entered.acquire(timeout=SOON)
    assert ask(node, "thread") in pool._idents
    echo.go.set()
    assert [each.get(SOON).unpickle() for each in blocked] == ["went on"] * 2
    assert len(pool._idents) == pool.size == 3


def test_a_message_that_the_program_made_may_want_no_answer(node, make):
    """Its reply handle was never set."""
    pool, _ = make()
    data = core.encode((Echo.name(), "echo", core.Kwargs({"value": 1})))
    node.master.route(core.Message(data=data, handle=core.CALL_SERVICE, dst_id=0))
    node.master.broker.defer_sync(int)
    pool.stop()
    assert node.logs == []


def test_errors_of_the_program(node, make):
    for size in (0, -1):
        with pytest.raises(service.Error, match="pool size must be at least 1"):
            service.Pool(node.master, size=size)
    pool, _ = make()
    with pytest.raises(core.Error, match="already exists"):
        service.Pool(node.master)
    with pytest.raises(service.Error, match="already has a service .*Echo'"):
        pool.add(Echo(node.master))
    for name in ("no.such.Thing", "nothing"):
        with pytest.raises((service.Error, ImportError)):
            pool.get_service(name)


# ---- activation


def test_an_ancestors_call_creates_a_service(node):
    pool = service.get_or_create_pool(router=node.child)
    node.pools.append(pool)
    assert pool._invokers == {}
    assert service.call(Other, "hello", node.context) == "hello"
    assert isinstance(pool.get_service(Other), Other)
    assert pool.get_service(Other.name()) is pool.get_service(Other)
    assert isinstance(pool.get_invoker(Other, None), service.Invoker)


class Outer(service.Service):
    """A service whose constructor looks up another service."""

    def __init__(self, router):
        super().__init__(router)
        self.other = router.component(CurrentPool).pool.get_service(Other)

    @service.expose(service.AllowAny())
    def hello(self):
        return "outer " + self.other.hello()


def test_a_constructor_may_look_up_another_service(node):
    node.pools.append(service.get_or_create_pool(router=node.child))
    assert service.call(Outer, "hello", node.context) == "outer hello"


def test_a_service_by_the_name_of_another_module(node):
    pool = service.get_or_create_pool(router=node.child)
    node.pools.append(pool)
    name = "mitogen.services.file_services.FileService"
    found = pool.get_service(name)
    assert pool.get_service(name) is found is pool.get_service(service.FileService)
    assert list(pool._invokers) == ["mitogen.service.FileService"]


@pytest.mark.parametrize("name", ["Bad", "SOON", "nothing"])
def test_a_name_that_is_not_a_service(node, name):
    node.pools.append(service.get_or_create_pool(router=node.child))
    with pytest.raises(core.CallError, match="is not a subclass of mitogen.service.Service"):
        send(node, __name__ + "." + name, "x", context=node.context).get(SOON).unpickle()


def test_other_contexts_cannot_cause_imports(node, make, monkeypatch):
    make()
    imported = []
    monkeypatch.setattr(core, "import_module", imported.append)
    with pytest.raises(core.CallError, match="'antigravity.Service' is not yet activated"):
        send(node, "antigravity.Service", "x").get(SOON).unpickle()
    assert imported == []


def test_a_service_in_main(node):
    imported = []
    node.child.econtext.import_main = lambda: imported.append(True)
    node.pools.append(service.get_or_create_pool(router=node.child))
    with pytest.raises(core.CallError, match="not a subclass"):
        send(node, "__main__.Nothing", "x", context=node.context).get(SOON).unpickle()
    assert imported == [True]


def test_a_custom_activator(node):
    class Never(service.Activator):
        def is_permitted(self, mod_name, class_name, msg):
            return False

    class Pool(service.Pool):
        activator_class = Never

    pool = Pool(node.child)
    node.pools.append(pool)
    assert service.get_or_create_pool(router=node.child) is pool
    with pytest.raises(core.CallError, match="not yet activated"):
        send(node, Other.name(), "hello", context=node.context).get(SOON).unpickle()


# ---- select, defer, recv


def test_select(node, make):
    pool, echo = make()
    receiver = Receiver(node.master)
    echo.select.add(receiver)
    sender = core.Sender(node.up_context, receiver.handle)
    for value in (1, "fail", 2):
        sender.send(value)
    for _ in range(3):
        assert echo.got.acquire(timeout=SOON)
    assert echo.events == [(receiver, 1), (receiver, "fail"), (receiver, 2)]
    assert ask(node, "echo", value=1) == (1, 1)
    assert any("on_message" in line for line in node.logs)
    pool.stop()
    # Messages that arrive after the end are not handled.
    sender.send(3)
    node.context.call(os.getpid)


def test_a_select_with_messages_when_it_is_added(node):
    echo = Echo(node.master)
    receiver = Receiver(node.master)
    arrived = threading.Event()
    receiver.notify = lambda _: arrived.set()
    core.Sender(node.up_context, receiver.handle).send(1)
    assert arrived.wait(SOON)
    receiver.notify = None
    echo.select.add(receiver)
    node.pools.append(service.Pool(node.master, [echo]))
    assert echo.got.acquire(timeout=SOON)
    # The last notification finds the Select empty.
    node.pools[0]._on_select(echo)
    assert echo.events == [(receiver, 1)]


def test_defer(node, make):
    pool, _ = make()
    latch = mailbox.Latch()
    pool.defer(lambda *a, **k: latch.put((a, k, threading.get_ident())), 1, b=2)
    args, kwargs, ident = latch.get(SOON)
    assert (args, kwargs) == ((1,), {"b": 2}) and ident in pool._idents
    pool.defer(int, "no number")
    pool.defer(latch.put, "after")
    assert latch.get(SOON) == "after"
    assert any("no number" in line for line in node.logs)
    pool.stop()
    with pytest.raises(service.Error, match="pool of context 0 has ended"):
        pool.defer(int)


def test_a_custom_receiver(node, make):
    receiver = Receiver(node.master)
    data = (Echo.name(), "echo", core.Kwargs(value=1))
    answers = [Receiver(node.child, persist=False) for _ in range(3)]

    def call(answer):
        sender = core.Message.pickled(data, handle=receiver.handle, reply_to=answer.handle)
        node.up_context.send(sender)

    call(answers[0])
    pool, _ = make(recv=receiver)
    assert answers[0].get(SOON).unpickle() == (1, 1)
    call(answers[1])
    assert answers[1].get(SOON).unpickle() == (1, 1)
    # This pool exists in addition to the context's own.
    assert service._pool_of(node.master) is None
    pool._take(receiver)
    pool.stop()
    assert receiver.handle is None


# ---- the end


def test_stop_answers_queued_calls(node, make):
    pool, echo = make()
    blocked = send(node, Echo.name(), "block")
    assert echo.entered.acquire(timeout=SOON)
    waiting = [send(node, Echo.name(), "echo", {"value": 1}) for _ in range(3)]
    node.wait_for(lambda: pool._turns.size(node.master.routes.get(1)) == 3)
    pool.stop(join=False)
    assert not echo.ended.is_set()
    echo.go.set()
    pool.join()
    assert echo.ended.is_set()
    assert blocked.get(SOON).unpickle() == "went on"
    for each in waiting:
        with pytest.raises(core.CallError, match="the service pool of context 0 has ended"):
            each.get(SOON).unpickle()
    with pytest.raises(core.ChannelError, match="invalid handle"):
        ask(node, "echo", value=1)
    pool.stop()
    pool.stop(join=False)


def test_a_call_that_arrives_during_stop_is_answered(node, make):
    """The broker handles the call while stop() runs."""
    pool, _ = make()
    receiver = pool._receiver
    pool.stop()
    answer = Receiver(node.child, persist=False)
    data = core.encode((Echo.name(), "echo", {}))
    msg = core.Message(data=data, src_id=1, auth_id=1, reply_to=answer.handle, handle=110)
    msg.router = node.master
    node.master.broker.defer(receiver.on_message, msg)
    with pytest.raises(core.CallError, match="has ended"):
        answer.get(SOON).unpickle()
    assert pool._put(int) is False


def test_stop_on_a_pool_thread(node, make):
    pool, echo = make(size=2)
    assert ask(node, "stop") == "stopped"
    pool.join()
    assert echo.ended.is_set()


def test_an_error_in_on_shutdown_does_not_stop_the_others(node, make):
    pool, echo = make()
    pool.add(Other(node.master))
    pool.stop()
    assert echo.ended.is_set()
    assert any("on_shutdown" in line for line in node.logs)


def test_on_shutdown_may_send_messages(node):
    class Sending(service.Service):
        def on_shutdown(self):
            sender.send("parting")

    receiver = Receiver(node.child)
    sender = core.Sender(node.context, receiver.handle)
    pool = service.Pool(node.master, [Sending(node.master)])
    node.master.broker.shutdown()
    pool.join()
    node.master.broker.join()
    assert receiver.get(SOON).unpickle() == "parting"


@pytest.mark.parametrize("size", [1, 3])
def test_the_pool_ends_with_the_broker(node, make, size):
    pool, echo = make(size=size)
    node.master.broker.shutdown()
    assert echo.ended.wait(SOON)
    pool.join()
    assert pool.closed


def test_a_pool_created_after_the_end_of_the_broker(node):
    node.master.broker.shutdown()
    node.master.broker.join()
    echo = Echo(node.master)
    for kwargs in ({}, {"kept": []}):
        pool = service.Pool(node.master, [echo], overwrite=True, **kwargs)
        pool.join()
        assert pool.closed and echo.ended.is_set()


def test_another_pool_takes_over(node, make):
    first, echo = make()
    second, other = make(overwrite=True)
    assert service.get_or_create_pool(router=node.master) is second
    first.stop()
    other.go.set()
    assert ask(node, "block") == "went on"
    assert not other.ended.is_set()


def test_the_broker_ends_while_a_method_waits(node, make):
    """When the broker ends, a dead message ends the wait for a context that never answers."""
    pool, echo = make()
    node.master.broker.shutdown_timeout = 0.05
    receiver = Receiver(node.master)
    pool.defer(lambda: (echo.entered.release(), receiver.get()))
    assert echo.entered.acquire(timeout=SOON)
    node.master.broker.shutdown()
    pool.join()


# ---- get_or_create_pool, adopt, call


def test_get_or_create_pool(node):
    pool = service.get_or_create_pool(size=3, router=node.master)
    node.pools.append(pool)
    assert pool.size == 3
    assert service.get_or_create_pool(router=node.master) is pool
    assert service.get_or_create_pool(size=1, context=node.context) is pool
    # The pool last created is used by programs that pass no router.
    assert service.get_or_create_pool() is pool
    pool.stop()
    again = service.get_or_create_pool(router=node.master)
    node.pools.append(again)
    assert again is not pool and again.size == service.DEFAULT_SIZE


def test_no_known_router(monkeypatch):
    monkeypatch.setattr(service, "_latest", {})
    with pytest.raises(service.Error, match="get_or_create_pool"):
        service.get_or_create_pool()
    # A forked process needs a pool with threads of its own.
    monkeypatch.setattr(service, "_latest", {"pool": (os.getpid() + 1, None)})
    with pytest.raises(service.Error, match="get_or_create_pool"):
        service.get_or_create_pool()


def test_a_childs_router_is_used(node, monkeypatch):
    importer = core.Importer.__new__(core.Importer)
    importer.router = node.child
    monkeypatch.setattr("sys.meta_path", [importer])
    pool = service.get_or_create_pool()
    node.pools.append(pool)
    assert pool.router is node.child


def test_all_threads_get_the_same_pool(node):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(service.get_or_create_pool(router=node.child)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert len(set(map(id, found))) == 1
    node.pools.append(found[0])


class Stub:
    """A stub like child.Diverter, which keeps calls until there is a pool."""

    def __init__(self, router):
        self.kept = []
        router.add_handler(self.keep, core.CALL_SERVICE, overwrite=True, consumer=True)

    def keep(self, msg):
        self.kept.append(msg)


@pytest.mark.parametrize("busy", [False, True])
def test_adopt_imports_threading_on_the_main_thread(node, monkeypatch, busy):
    """A busy main thread does not import it: it may be waiting for the service."""
    calls = []
    run = node.dispatcher._run_one
    node.dispatcher._run_one = lambda msg: (calls.append(msg.handle), run(msg))
    if busy:
        monkeypatch.setattr(node.dispatcher, "current", core.Message(handle=core.CALL_FUNCTION))
    # A fake module is imported: importing `threading` again would disturb the test's threads.
    seen = SimpleNamespace(modules={}, version_info=(3, 12), meta_path=[])
    monkeypatch.setattr(service, "sys", seen)
    monkeypatch.setattr(service, "IMPORT_WAIT", SOON)
    service.adopt(node.child, [])
    node.pools.append(service.get_or_create_pool(router=node.child))
    assert calls == ([] if busy else [core.CALL_FUNCTION])


@pytest.mark.parametrize("own_pool", [False, True])
def test_adopt(node, own_pool):
    stub = Stub(node.child)
    early = [send(node, Other.name(), "hello", context=node.context) for _ in range(5)]
    node.wait_for(lambda: len(stub.kept) == 5)
    if own_pool:
        node.pools.append(service.Pool(node.child))
    service.adopt(node.child, stub.kept)
    node.pools.append(service.get_or_create_pool(router=node.child))
    late = send(node, Other.name(), "hello", context=node.context)
    assert [each.get(SOON).unpickle() for each in [*early, late]] == ["hello"] * 6
    assert stub.kept == []
    assert node.pools[0] is node.pools[-1]


def test_adopt_with_a_stub_added_after_the_pool(node):
    pool = service.Pool(node.child)
    node.pools.append(pool)
    stub = Stub(node.child)
    early = send(node, Other.name(), "hello", context=node.context)
    node.wait_for(lambda: stub.kept)
    service.adopt(node.child, stub.kept)
    assert early.get(SOON).unpickle() == "hello"
    assert send(node, Other.name(), "hello", context=node.context).get(SOON).unpickle() == "hello"
    assert stub.kept == []
    pool.stop()
    assert core.CALL_SERVICE not in node.child.handlers


def test_adopt_loses_no_calls(node):
    stub = Stub(node.child)
    answers = []

    def send_many():
        for _ in range(50):
            answers.append(send(node, Other.name(), "hello", context=node.context))

    thread = threading.Thread(target=send_many)
    thread.start()
    node.wait_for(lambda: stub.kept)
    service.adopt(node.child, stub.kept)
    node.pools.append(service.get_or_create_pool(router=node.child))
    thread.join(SOON)
    assert all(each.get(SOON).unpickle() == "hello" for each in answers)


def test_call_a_local_service(node, make):
    make()
    service.get_or_create_pool(router=node.master)
    assert service.call(Echo, "echo", value=1, msg=core.Message(src_id=9)) == (1, 9)
    assert service.call(Other, "hello") == "hello"
    with pytest.raises(ValueError, match="it failed"):
        service.call(Echo, "fail")


def test_call_the_parents_service(node, make, monkeypatch):
    make()
    importer = core.Importer.__new__(core.Importer)
    importer.router = node.child
    monkeypatch.setattr("sys.meta_path", [importer])
    assert service.call(Echo, "echo", value=1) == (1, 1)
    node.pools.append(service.Pool(node.child, [Echo(node.child)]))
    assert service.call(Echo, "thread") == threading.get_ident()


def test_call_in_the_form_of_old_programs(node, make):
    make()
    up = node.up_context
    assert service.call(up, Echo, {"method": "echo", "value": 1}) == (1, 1)
    assert service.call(up, Echo.name(), {"method": "echo", "kwargs": {"value": 1}}) == (1, 1)
    handle = node.master.add_handler(lambda m: m.is_dead or m.reply(m.unpickle() + 1))
    assert service.call(up, handle, 3) == 4
    assert service.call(up, handle, 0) == 1
    with pytest.raises(service.Error, match="the dict has no 'method'"):
        service.call(up, Echo, {"value": 1})


def test_all_documented_names_are_exported():
    for name in service.__all__:
        assert getattr(service, name)
    assert service.FileService.name() == "mitogen.service.FileService"
    assert service.PushFileService.name() == "mitogen.service.PushFileService"
    assert service.Error.__module__ == "mitogen.service"
    assert issubclass(service.Error, Exception)
