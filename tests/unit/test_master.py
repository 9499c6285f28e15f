"""mitogen.master: ids, logs of the tree, ThreadWatcher, and small properties of the Router."""

import logging
import threading

import pytest

from mitogen import core, master
from mitogen.importing import module_server
from mitogen.master import IdAllocator, LogForwarder, ThreadWatcher
from tests.unit import nodes


class Records(logging.Handler):
    def __init__(self):
        super().__init__(logging.DEBUG)
        self.found = []

    def emit(self, record):
        self.found.append(record)


@pytest.fixture
def records():
    """Yield all records logged in this process, by any logger."""
    handler, root = Records(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler.found
    root.setLevel(level)
    root.removeHandler(handler)


class Now:
    """A Worker that runs each job at once."""

    def put(self, func, *args):
        func(*args)


# ---- ids


def test_ids():
    ids = IdAllocator(None)
    assert [ids.allocate(), ids.allocate()] == [1, 2]
    assert ids.allocate_block() == (3, 1003)
    assert ids.allocate() == 1003
    got = []
    ids.request(got.append)
    assert got == [(1004, 2004)]


def test_ids_from_many_threads():
    ids, found = IdAllocator(None), []
    threads = [
        threading.Thread(target=lambda: found.extend(ids.allocate() for _ in range(200)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 801))


# ---- logs


@pytest.fixture
def tree(net):
    root, one, two = net.line(3)
    root.context(one).name = "web1"
    LogForwarder(root.router, Now())
    return root, one, two


def log(node, *fields):
    core.ChildRouter.send_log(node.router, list(fields))
    node.net.pump()


def test_a_record_names_its_context_and_source(tree, records):
    root, one, two = tree
    log(one, "app.db", logging.WARNING, "50% done", "/app/db.py", 12, "query")
    (record,) = records
    assert record.name == "app.db.[web1]" and record.levelno == logging.WARNING
    assert record.getMessage() == "app.db: 50% done"
    assert (record.pathname, record.lineno, record.funcName) == ("/app/db.py", 12, "query")
    assert record.mitogen_message == "50% done" and record.mitogen_name == "app.db"
    assert record.mitogen_context is root.context(one)
    log(two, "stdout", logging.INFO, "hello", None, 0, None)
    assert records[1].name.startswith("stdout.[") and records[1].getMessage() == "stdout: hello"


def test_records_of_unknown_contexts_have_its_id(net, records):
    root, one = net.line(2)
    root.router._contexts.clear()
    LogForwarder(root.router, Now())
    log(one, "app", logging.INFO, "x", None, 0, None)
    assert records[0].name == "app.[1]" and records[0].mitogen_context is None


def test_logger_levels_filter_records(tree, records):
    _, one, _ = tree
    log(one, "app", logging.DEBUG, "x", None, 0, None)
    logging.getLogger("loud.[web1]").setLevel(logging.DEBUG)
    log(one, "loud", logging.DEBUG, "y", None, 0, None)
    assert [record.mitogen_message for record in records] == ["y"]
    logging.getLogger("loud.[web1]").setLevel(logging.NOTSET)


@pytest.mark.parametrize("data", [b"\xff", core.encode([]), core.encode(["a", 20]), core.encode(7),
                                  core.encode(["a", "b", "c", "d", "e", "f"])])  # fmt: skip
def test_malformed_records_are_logged_as_one_line(tree, records, data):
    _, one, _ = tree
    one.send(0, core.FORWARD_LOG, data, flags=0)
    one.net.pump()
    (record,) = records
    assert "cannot decode a log record from context 1" in record.getMessage()


def test_dead_messages_log_nothing(tree, records):
    _, one, _ = tree
    one.router.route(core.Message.dead("x", dst_id=0, handle=core.FORWARD_LOG), False)
    one.net.pump()
    assert not records


def test_records_return_their_credit(tree, records):
    _, one, _ = tree
    for _ in range(20):
        log(one, "app", logging.INFO, "x" * 10000, None, 0, None)
    assert one.router.flows[(0, core.FORWARD_LOG)].credit > 0 and len(records) == 20


# ---- ThreadWatcher


def test_a_watcher_calls_back_when_the_thread_ends():
    go, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    watcher = ThreadWatcher.watch(thread, done.set)
    assert isinstance(watcher, ThreadWatcher) and not done.is_set()
    go.set()
    assert done.wait(5)


def test_a_removed_watcher_does_not_call_back(monkeypatch):
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda self: started.append(self))
    called = []
    watcher = ThreadWatcher(threading.current_thread(), called.append)
    watcher.install()
    watcher.remove()
    watcher.target = type("Ended", (), {"join": staticmethod(lambda: None)})
    started[0].run()
    assert not called
    watcher.on_join = lambda: called.append(True)
    watcher._active = True
    watcher._run()
    assert called == [True]


# ---- Router


@pytest.fixture(autouse=True)
def small_core(monkeypatch):
    """Skip building the core source: it takes 100 ms when its result can't be cached."""
    monkeypatch.setattr(master, "_core_source", lambda: b"")


@pytest.fixture
def router(net):
    """Yield a master's Router on a broker of the network."""
    broker = nodes.Broker(net)
    found = master.Router(broker, max_message_size=12345)
    net.nodes.append(type("Node", (), {"broker": broker, "serving": False}))
    yield found
    broker.end()
    found.worker.join()


def test_a_router_has_its_parts(router):
    assert router.max_message_size == 12345
    assert isinstance(router.responder, module_server.ModuleResponder)
    assert router.id_allocator.allocate() == router.allocate_id() - 1
    assert router.route_monitor is router.branch
    assert router.myself().context_id == 0
    assert set(router.get_stats()) == {
        "get_module_count", "get_module_secs", "good_load_module_count",
        "good_load_module_size", "bad_load_module_count", "minify_secs",
    }  # fmt: skip
    assert router.get_streams() == set()


def test_log_config_contains_the_levels(router):
    logging.getLogger("test_master.quiet").setLevel(logging.ERROR)
    logging.getLogger("mitogen.io").setLevel(logging.NOTSET)
    level, levels = router.log_config()
    assert level == logging.getLogger("mitogen").getEffectiveLevel()
    assert levels[0] == ["", logging.getLogger().getEffectiveLevel()]
    assert ["test_master.quiet", logging.ERROR] in levels
    logging.getLogger("test_master.quiet").setLevel(logging.NOTSET)


def test_the_router_logs_to_the_mitogen_logger(router, records):
    router.log(logging.ERROR, "%s: 50%%", "x")
    assert records[0].name == "mitogen" and records[0].getMessage() == "x: 50%"


def test_modules_are_pushed_once(router, monkeypatch):
    pushed = []
    monkeypatch.setattr(router.responder, "push", lambda context, names: pushed.append(names))
    context = router.context_by_id(7)
    router.push_modules(context, test_ids)
    router.responder.known[7] = {__name__}
    router.push_modules(context, test_ids)
    assert pushed == [[__name__]]


def test_a_router_with_a_real_broker_leaves_no_thread():
    """Create, use and end a router: no thread stays."""
    before = set(threading.enumerate())
    with master.Router() as router:
        done = threading.Event()
        router.broker.defer(done.set)
        assert done.wait(5) and not router.broker.on_thread()
        router.disconnect_all()
    assert not router.broker.alive and set(threading.enumerate()) <= before
    router.broker.shutdown()
    router.broker.join()
