"""Services across real processes: files fetched and pushed, pools made on demand, shutdown."""

import os
import threading

import pytest

import mitogen.core
import mitogen.service
from tests.integration.conftest import SOON
from tests.integration.far import files, work

MIB = 1 << 20


@pytest.fixture
def pool(own_router):
    """Yield a master's pool with the two file services."""
    pool = mitogen.service.Pool(
        own_router,
        [
            mitogen.service.FileService(own_router),
            mitogen.service.PushFileService(own_router),
        ],
        size=2,
    )
    pool.files = pool.get_service(mitogen.service.FileService)
    pool.push = pool.get_service(mitogen.service.PushFileService)
    yield pool
    pool.stop()


@pytest.fixture
def line(own_router):
    """Yield three contexts, each below the previous one."""
    contexts = [own_router.local()]
    for _ in range(2):
        contexts.append(own_router.local(via=contexts[-1]))
    return contexts


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(os.urandom(9 * MIB + 1))
    return path


# ---- FileService


def test_every_kind_of_context_fetches(reached, tmp_path):
    router = reached.router
    path = tmp_path / "f"
    path.write_bytes(os.urandom(300000))
    service = mitogen.service.FileService(router)
    pool = mitogen.service.Pool(router, [service])
    try:
        service.register(str(path))
        ok, metadata, size, digest = reached.context.call(files.fetch, str(path))
        assert ok and (size, digest) == files.digest(str(path))
        assert metadata["size"] == size and metadata["owner"] == path.owner()
        with pytest.raises(mitogen.core.CallError, match="is not registered"):
            reached.context.call(files.fetch, "/etc/shadow")
    finally:
        pool.stop()


def test_many_contexts_fetch_concurrently(own_router, pool, line, source):
    """The transfers share a link with a reader that reads nothing."""
    pool.files.register_prefix(str(source.parent))
    stopped = own_router.local()
    receiver = stopped.call(_begin_fetch, str(source))
    assert receiver["size"] == source.stat().st_size
    contexts = [*line, *(own_router.local(via=line[0]) for _ in range(3))]
    wanted = files.digest(str(source))
    calls = [context.call_async(files.fetch, str(source)) for context in contexts]
    for call in calls:
        ok, _, size, digest = call.get(timeout=60).unpickle()
        assert ok and (size, digest) == wanted


@mitogen.core.takes_router
def _begin_fetch(path, router):
    """Request a file and read nothing of it. Runs in a child."""
    receiver = mitogen.core.Receiver(router)
    return mitogen.service.call(
        mitogen.service.FileService,
        "fetch",
        router.context_by_id(0),
        path=path,
        sender=receiver.to_sender(),
    )


def test_a_childs_file_is_fetched_by_a_sibling(own_router, line, source):
    """The child's service is made when an ancestor calls it; afterwards a sibling can fetch."""
    service = mitogen.service.FileService
    with pytest.raises(mitogen.core.CallError, match="is not yet activated"):
        line[1].call(files.fetch, str(source), line[0].context_id)
    line[0].call_service(service, "register", path=str(source))
    ok, _, size, digest = line[1].call(files.fetch, str(source), line[0].context_id)
    assert ok and (size, digest) == files.digest(str(source))
    out = files.Null()
    assert service.get(line[0], str(source), out)[0]
    assert (out.size, out.hash.hexdigest()) == (size, digest)


# ---- PushFileService


def test_pushed_files_are_sent_once_per_hop(pool, line, tmp_path):
    paths = []
    for number in range(5):
        path = tmp_path / str(number)
        path.write_bytes(os.urandom(number * 40000))
        paths.append(str(path))
    for context in (line[2], line[1], line[0]):
        pool.push.propagate_paths_and_modules(context, paths)
    for context in line:
        for path in paths:
            with open(path, "rb") as fp:
                assert context.call(files.pushed, path) == fp.read()
            assert context.call(files.pushed_unnamed, path) == context.call(files.pushed, path)
    # Each hop passed each file on once, although it was requested three times.
    assert [context.call(files.pushed_here) for context in line] == [
        (paths, 5),
        (paths, 5),
        (paths, 0),
    ]
    assert sum(len(sent) for sent in pool.push._sent.values()) == 5


def test_a_call_waits_for_a_pushed_file(pool, line):
    waiting = line[2].call_async(files.pushed, "/not/yet")
    line[1].call(work.noop)
    pool.push.propagate_to(line[2], "/not/yet", b"here it is")
    assert waiting.get(timeout=SOON).unpickle() == b"here it is"


# ---- pools in children


@pytest.mark.parametrize("warm", [False, True])
def test_the_first_call_of_a_service_makes_a_childs_pool(own_router, warm):
    context = own_router.local()
    if warm:
        context.call(work.noop)
    first = context.call_service_async(files.Counter, "add", by=1)
    second = context.call_service_async(files.Counter.name(), "add", by=2)
    assert first.get(timeout=SOON).unpickle()[:2] == (1, 0)
    count, _, pid = second.get(timeout=SOON).unpickle()
    assert (count, pid) == (3, context.call(os.getpid))
    assert context.call(files.main_thread_is_right)
    assert context.call(files.pool_size) == mitogen.services.pool.DEFAULT_SIZE


def test_a_service_answers_while_the_main_thread_is_busy(own_router):
    context = own_router.local()
    started = mitogen.core.Receiver(own_router)
    busy = context.call_async(work.hang, started.to_sender())
    started.get(timeout=SOON)
    assert context.call_service(files.Counter, "add", by=1)[0] == 1
    assert busy.empty()


def test_errors_of_services_reach_the_caller(own_router, records):
    context = own_router.local()
    assert context.call(files.pool_size, 3) == 3
    with pytest.raises(KeyError, match="counter"):
        context.call_service(files.Counter, "fail")
    with pytest.raises(mitogen.core.CallError, match="argument 'by' must be int, not str"):
        context.call_service(files.Counter, "add", by="1")
    with pytest.raises(mitogen.core.CallError, match="has no exposed method 'nothing'"):
        context.call_service(files.Counter, "nothing")
    with pytest.raises(mitogen.core.CallError, match="has no service 'Nothing'"):
        context.call_service("Nothing", "nothing")
    with pytest.raises(ModuleNotFoundError):
        context.call_service("no_such_module.Service", "nothing")
    context.call_service_async(files.Counter, "fail_quietly")
    assert records.wait_for("quiet counter").levelname == "ERROR"


def test_a_child_cannot_make_its_parent_import_a_service(own_router, pool):
    context = own_router.local()
    name = files.Counter.name()
    for context_id in (None, 0):
        with pytest.raises(mitogen.core.CallError, match="is not yet activated"):
            context.call(files.ask, name, "add", {"by": 1}, context_id)
    pool.add(files.Counter(own_router))
    with pytest.raises(mitogen.core.CallError, match="refused by AllowParents"):
        context.call(files.ask, name, "add", {"by": 1})


def test_a_child_calls_its_parents_service(own_router, pool, source):
    context = own_router.local()
    assert (
        context.call(files.ask, "mitogen.service.FileService", "acknowledge", {"size": 1}) is None
    )


# ---- shutdown


def test_on_shutdown_runs_in_a_child(own_router):
    context = own_router.local()
    receiver = mitogen.core.Receiver(own_router)
    context.call_service(files.Counter, "say_goodbye_to", sender=receiver.to_sender())
    context.shutdown(wait=True)
    assert receiver.get(timeout=SOON).unpickle() == "good-bye"


def test_a_hanging_service_does_not_block_shutdown(own_router):
    context = own_router.local()
    receiver = mitogen.core.Receiver(own_router)
    waiting = context.call_service_async(files.Counter, "block", sender=receiver.to_sender())
    receiver.get(timeout=SOON)
    context.shutdown(wait=True)
    with pytest.raises(mitogen.core.ChannelError):
        waiting.get(timeout=SOON)


def test_broker_shutdown_ends_fetches(own_router, pool, line, source):
    """The broker is shut down while files are in transit."""
    pool.files.register(str(source))
    line[0].call(_begin_fetch, str(source))
    ended = threading.Event()
    pool.files.on_shutdown = ended.set
    own_router.broker.shutdown()
    own_router.broker.join()
    assert ended.wait(SOON)
    pool.join()
