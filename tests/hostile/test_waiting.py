"""A child that does not read, or asks for too much, delays no other child. Costs are counted."""

import os
import threading

import pytest

from mitogen import core, master as master_module, service
from mitogen.importing.resources import GET_RESOURCE
from mitogen.programs import grants
from tests import processes
from tests.hostile.forged import SOON, Forged

REPLY = 2**31 + 9


def queued(master, forged):
    """Return the bytes that the master holds for a child: queued, and in long messages."""
    longs = [each.msg for each in list(master.longs.values())]
    return forged.stream.queued + sum(len(msg.data) for msg in longs if msg.dst_id == forged.id)


def threads():
    return len(os.listdir("/proc/self/task"))


# ---- modules


def ask_module(forged, name):
    return forged.frame(core.GET_MODULE, name.encode(), flags=core.RAW)


def test_a_module_is_sent_once(master, honest, forged):
    name = "mitogen.programs.client"
    before = master.responder.get_module_count
    forged.write(ask_module(forged, name) * 1000)
    assert forged.receive(lambda frame: frame.handle == core.LOAD_MODULE)
    forged.write(ask_module(forged, name) * 1000)
    forged.ping()
    assert not [frame for frame in forged.frames if frame.handle == core.LOAD_MODULE]
    assert master.responder.get_module_count - before == 1


def test_modules_that_do_not_exist_are_looked_for_once(master, forged):
    before = master.responder.get_module_count
    forged.write(ask_module(forged, "no_such_module") * 1000)
    assert forged.receive(lambda frame: frame.handle == core.LOAD_MODULE)
    forged.ping()
    assert master.responder.get_module_count - before == 1


@pytest.mark.parametrize("name", ["a." * 5000, "a" * 100000, "a\nb", ""])
def test_odd_names_of_modules_are_not_looked_for(master, forged, name):
    before = master.responder.get_module_count
    forged.write(ask_module(forged, name))
    assert forged.receive(lambda frame: frame.handle == core.LOAD_MODULE)
    assert master.responder.get_module_count - before == (0 if name else 1)


def test_the_number_of_modules_is_bounded(master, forged, monkeypatch):
    from mitogen.tree import relayed_modules

    monkeypatch.setattr(relayed_modules, "MAX_REQUESTS", 50)
    for number in range(200):
        forged.write(ask_module(forged, "no_such_module_%d" % number))
    forged.ping()
    (requests,) = [r for s, r in master.branch.module_requests.items() if s is forged.stream]
    assert len(requests.known) == 50
    processes.wait_until(lambda: not requests.queue, timeout=SOON)


def test_modules_wait_for_a_child_that_does_not_read(master, honest, forged):
    names = [
        "mitogen." + os.path.relpath(os.path.join(folder, name), package)[:-3].replace("/", ".")
        for package in [os.path.dirname(core.__path__[0])]
        for folder, _, names in os.walk(package)
        for name in names
        if name.endswith(".py") and "ansible" not in folder
    ]
    for name in names:
        forged.write_some(ask_module(forged, name))
    # The honest child's module comes, though the forged one reads nothing.
    assert honest.call(import_something) == "mitogen.sftp.packets"
    assert queued(master, forged) < 4 * core.HIGH_WATER


def import_something():
    import mitogen.sftp.packets

    return mitogen.sftp.packets.__name__


def test_a_relay_sends_a_module_once(master, honest):
    with Forged(master, via=honest) as forged:
        for name in ("mitogen.programs.client", "no_such_module"):
            forged.write(ask_module(forged, name) * 1000)
            assert forged.receive(lambda frame: frame.handle == core.LOAD_MODULE)
            forged.write(ask_module(forged, name) * 1000)
            forged.ping()
            assert not [frame for frame in forged.frames if frame.handle == core.LOAD_MODULE]
    assert honest.call(import_something) == "mitogen.sftp.packets"


def test_a_relay_keeps_few_names(master, honest):
    with Forged(master, via=honest) as forged:
        for name in ["a." * 5000, "a" * 100000, "a\nb"]:
            forged.write(ask_module(forged, name))
            assert forged.receive(lambda frame: frame.handle == core.LOAD_MODULE)
        forged.ping()
    assert max(honest.call(lengths_of_names)) < 100


def lengths_of_names():
    import sys

    (importer,) = {id(each): each for each in sys.meta_path if hasattr(each, "pending")}.values()
    return [len(name) for name in importer.modules]


def test_the_requests_end_with_their_stream(master, forged):
    forged.write(ask_module(forged, "os"))
    forged.ping()
    assert forged.stream in master.branch.module_requests
    forged.close()
    processes.wait_until(lambda: forged.stream not in master.branch.module_requests, timeout=SOON)


# ---- log records


def test_records_of_a_child_take_turns_with_other_work(master, honest, forged):
    go, entered = threading.Event(), threading.Event()

    def block():
        entered.set()
        assert go.wait(SOON)

    try:
        master.broker.defer(master.worker.put, block)
        assert entered.wait(SOON)
        record = core.encode(["x", 10, "x", None, 0, None])
        forged.write(forged.frame(core.FORWARD_LOG, record) * 500)
        forged.ping()
        assert len(master.worker._jobs) <= 2
    finally:
        go.set()
    assert honest.call(import_something) == "mitogen.sftp.packets"


def test_records_of_a_stream_are_bounded(master, forged, records, monkeypatch):
    monkeypatch.setattr(master.log_forwarder._turns, "_limit", 10)
    go = threading.Event()
    try:
        master.broker.defer(master.worker.put, go.wait)
        forged.write(forged.frame(core.FORWARD_LOG, b"\xf6") * 100)
        records.wait_for("too many of its log records")
    finally:
        go.set()


def test_records_that_wait_are_logged_at_the_end(records):
    with master_module.Router() as router, Forged(router) as forged:
        go = threading.Event()
        router.broker.defer(router.worker.put, go.wait)
        for number in range(50):
            forged.send(core.FORWARD_LOG, ["x", 20, "record %d." % number, None, 0, None])
        forged.ping()
        forged.close()
        router.broker.shutdown()
        router.broker.join()
        go.set()
    for number in range(50):
        records.wait_for("record %d." % number)


# ---- data files


@pytest.fixture
def package(tmp_path, monkeypatch):
    path = tmp_path / "hostile_pkg"
    path.mkdir()
    (path / "__init__.py").write_text("")
    (path / "data").write_bytes(bytes(3 << 20))
    monkeypatch.syspath_prepend(str(tmp_path))
    return path


@pytest.mark.parametrize("credit", [False, True])
def test_data_files_wait_for_a_child_that_does_not_read(master, honest, forged, package, credit):
    request = core.encode(["hostile_pkg", "data"])
    frame = forged.frame(GET_RESOURCE, request, reply_to=REPLY)
    forged.write(frame * 500)
    if credit:
        # It reads, but never says that it has.
        forged.receive(lambda frame: frame.handle == REPLY)
        forged.ping()
    assert honest.call(import_something) == "mitogen.sftp.packets"
    processes.wait_until(lambda: queued(master, forged) > 0, timeout=SOON)
    assert queued(master, forged) < 3 * (3 << 20)


def test_requests_for_data_files_are_bounded(master, forged, package, records):
    request = core.encode(["hostile_pkg", "data"])
    forged.write(forged.frame(GET_RESOURCE, request, reply_to=REPLY) * 3000)
    records.wait_for("too many of its requests")
    assert master.resource_responder._turns.size(forged.stream) <= 1000


def test_no_answer_goes_to_a_windowed_mailbox(master, forged, package):
    request = core.encode(["hostile_pkg", "data"])
    for handle in range(1000, 1050):
        forged.send(GET_RESOURCE, request, reply_to=handle)
    forged.send(GET_RESOURCE, request, reply_to=REPLY)
    forged.receive(lambda frame: frame.handle == REPLY)
    assert not [key for key in master.flows if key[0] == forged.id]


# ---- services


class Large(service.Service):
    @service.expose(service.AllowAny())
    def large(self):
        return bytes(1 << 20)

    @service.expose(service.AllowAny())
    def small(self):
        return 5


class LargeOnce(service.Service):
    invoker_class = service.DeduplicatingInvoker
    go = threading.Event()

    @service.expose(service.AllowAny())
    def large(self):
        assert self.go.wait(SOON)
        return bytes(1 << 20)

    @service.expose(service.AllowAny())
    def small(self):
        return 5


@pytest.fixture
def pool(master):
    found = service.Pool(master, [Large(master), LargeOnce(master)], size=4)
    yield found
    found.stop()


def call_of(forged, method, reply_to=REPLY, cls=Large):
    request = core.encode((cls.name(), method, core.Kwargs({})))
    return forged.frame(core.CALL_SERVICE, request, reply_to=reply_to)


def test_a_pool_does_not_wait_for_a_child_that_does_not_read(master, honest, forged, pool):
    forged.write(call_of(forged, "large") * 200)
    name = Large.name()
    assert honest.call(ask_service, name) == 5
    # At most one answer for each thread of the pool.
    assert queued(master, forged) < 8 << 20


def test_calls_that_wait_for_one_result_are_not_all_answered_at_once(master, honest, forged, pool):
    forged.write(call_of(forged, "large", cls=LargeOnce) * 200)
    forged.ping()
    LargeOnce.go.set()
    try:
        assert honest.call(ask_service, LargeOnce.name()) == 5
        processes.wait_until(lambda: queued(master, forged) > 0, timeout=SOON)
        assert queued(master, forged) < 8 << 20
    finally:
        LargeOnce.go.clear()


def ask_service(name):
    return service.call(name, "small")


def test_a_pool_ends_while_a_child_does_not_read(master, forged, pool):
    forged.write(call_of(forged, "large") * 200)
    forged.write(call_of(forged, "small", REPLY + 1))
    processes.wait_until(lambda: queued(master, forged) > 0, timeout=SOON)
    ended = threading.Thread(target=pool.stop)
    ended.start()
    ended.join(SOON)
    assert not ended.is_alive()


# ---- programs


def start_request(forged, size=10):
    spec = {"kind": "argv", "args": ["true", "x" * size], "window": 1000}
    return [0, spec, [REPLY, REPLY, REPLY, REPLY]]


def test_requests_without_a_grant_start_no_thread_and_decode_nothing(master, forged, monkeypatch):
    grants.grants_of(master)
    before = threads()
    monkeypatch.setattr(core, "decode", lambda *_: pytest.fail("decoded"))
    forged.send(grants.START_PROGRAM, start_request(forged, 8 << 20), reply_to=REPLY)
    assert forged.receive(lambda frame: frame.handle == REPLY).is_dead
    forged.write(forged.frame(grants.START_PROGRAM, b"\0", reply_to=REPLY) * 2000)
    forged.ping()
    assert threads() <= before


def test_requests_with_a_grant_are_bounded(master, honest, forged):
    go, most = threading.Event(), []

    def policy(source, target, spec):
        most.append(threads())
        assert go.wait(SOON)
        return False

    before = threads()
    grants.set_policy(master, policy)
    data = core.encode(start_request(forged))
    try:
        forged.write(forged.frame(grants.START_PROGRAM, data, reply_to=REPLY) * 1000)
        forged.ping()
        assert threads() <= before + grants.MAX_AT_ONCE
        assert grants.grants_of(master)._turns.size(forged.stream) == grants.MAX_WAITING
        assert honest.call(os.getpid)
    finally:
        go.set()
    processes.wait_until(lambda: threads() <= before, timeout=SOON)


def test_a_request_that_is_too_large_is_refused(master, forged):
    grants.set_policy(master, lambda source, target, spec: pytest.fail("asked"))
    forged.send(grants.START_PROGRAM, start_request(forged, 8 << 20), reply_to=REPLY)
    assert forged.receive(lambda frame: frame.handle == REPLY).is_dead


def test_a_large_request_is_not_decoded_by_the_broker(
    large_values_decoded_by_brokers,
    master,
    forged,
):
    asked = threading.Event()
    grants.set_policy(master, lambda source, target, spec: asked.set())
    forged.send(grants.START_PROGRAM, start_request(forged, 1 << 20), reply_to=REPLY)
    assert forged.receive(lambda frame: frame.handle == REPLY).is_dead
    assert asked.is_set() and not large_values_decoded_by_brokers
