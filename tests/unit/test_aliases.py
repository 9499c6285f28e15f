"""Names of mitogen.core that programs use (API.md 1.2), wherever they are defined."""

import io
import os
import subprocess
import sys

import pytest

from mitogen import aliases, core

# API.md 1.2, but for what is marked there as not needed (the stream layer, Pickler, ...).
NAMES = """
takes_econtext takes_router Blob Secret Kwargs to_text now has_parent_authority listen unlisten
fire io_op pipe socketpair set_cloexec get_blocking set_blocking set_block set_nonblock
import_module iter_split module_lineage enable_debug_logging enable_profiling
b str_partition str_rpartition bytes_partition iteritems iterkeys itervalues range next all any
BytesIO threading__current_thread threading__thread_name
BytesType UnicodeType AnyTextType FsPathTypes integer_types PY24 PY3 IS_WSL LOG IOLOG LOGGERS
CHUNK_SIZE IS_DEAD
GET_MODULE CALL_FUNCTION FORWARD_LOG ADD_ROUTE DEL_ROUTE ALLOCATE_ID SHUTDOWN LOAD_MODULE
FORWARD_MODULE DETACHING CALL_SERVICE STUB_CALL_SERVICE GET_RESOURCE LOAD_RESOURCE
Error CallError ChannelError LatchError StreamError TimeoutError
Message Sender Receiver Channel Latch Context Router Broker Importer Dispatcher ExternalContext
""".split()
ATTRIBUTES = {
    "ChannelError": "remote_msg local_msg",
    "Message": """
        dst_id src_id auth_id handle reply_to data enc router receiver is_dead ENC_MGC ENC_PKL
        ENC_BIN ENCS HEADER_FMT HEADER_LEN HEADER_MAGIC dead pickled encoded pack reply decode
        unpickle""",
    "Sender": "send put close explicit_close_msg",
    "Receiver": """
        notify to_sender close size empty get get_data raise_channelerror closed_msg __iter__
        __enter__ __exit__""",
    "Channel": "send get close __iter__",
    "Latch": "put get close size empty notify",
    "Context": "send remote_name via",
    "Router": """
        context_class max_message_size unidirectional refused_msg invalid_handle_msg too_large_msg
        respondent_disconnect_msg broker_exit_msg no_route_msg duplicate_handle_msg add_handler
        del_handler route context_by_id""",
    "Broker": "shutdown_timeout defer shutdown join",
    "Dispatcher": "forget_chain run",
}
HANDLES = {
    "GET_MODULE": 100, "CALL_FUNCTION": 101, "FORWARD_LOG": 102, "ADD_ROUTE": 103,
    "DEL_ROUTE": 104, "ALLOCATE_ID": 105, "SHUTDOWN": 106, "LOAD_MODULE": 107,
    "FORWARD_MODULE": 108, "DETACHING": 109, "CALL_SERVICE": 110, "STUB_CALL_SERVICE": 111,
    "GET_RESOURCE": 112, "LOAD_RESOURCE": 113, "IS_DEAD": 999,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_there(name):
    assert getattr(core, name) is not None


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_there(name):
    kind = getattr(core, name)
    instance = kind() if name in ("Message", "Latch") else kind
    missing = [each for each in ATTRIBUTES[name].split() if not hasattr(instance, each)]
    assert missing == []


@pytest.mark.parametrize("name", ["defer_sync", "timers"])
def test_more_of_the_broker(name):
    broker = core.Broker.__new__(core.Broker)
    if not hasattr(broker, name):
        pytest.xfail("U26: Broker.{} of API.md 1.2 is not there".format(name))


@pytest.mark.parametrize("name", ["unpickle_iter", "send_async", "send_await", "call_service"])
def test_more_of_messages_and_contexts(name):
    target = core.Message() if name == "unpickle_iter" else core.Context(None, 1)
    if not hasattr(target, name):
        pytest.xfail("U26: {} of API.md 1.2 is not there".format(name))


def test_handles():
    assert {name: getattr(core, name) for name in HANDLES} == HANDLES


def test_an_unknown_name_is_an_attribute_error():
    for name in ("no_such_name", "_no_such_name"):
        with pytest.raises(AttributeError, match=name):
            getattr(core, name)
    with pytest.raises(AttributeError, match="mitogen.core"):
        aliases.no_such_name  # noqa: B018
    assert all(hasattr(aliases, name) for name in aliases.__all__)


def test_star_and_from_imports():
    from mitogen.core import Latch, Receiver, b  # noqa: F401

    assert Latch is aliases.Latch


def test_text_and_bytes():
    assert core.b("x") == b"x" and core.b("\xff") == b"\xff"
    assert [core.to_text(each) for each in (b"a", "b", 3, "é".encode())] == ["a", "b", "3", "é"]
    assert core.str_partition("a=b=c", "=") == ("a", "=", "b=c")
    assert core.str_rpartition("a=b=c", "=") == ("a=b", "=", "c")
    assert core.bytes_partition(b"a=b", b"=") == (b"a", b"=", b"b")
    assert isinstance(core.BytesIO(b"x"), io.BytesIO)
    assert isinstance(b"", core.BytesType) and isinstance("", core.UnicodeType)
    assert (core.PY3, core.PY24) == (True, False)


def test_dicts_and_threads():
    table = {"a": 1}
    assert list(core.iteritems(table)) == [("a", 1)]
    assert list(core.iterkeys(table)) == ["a"] and list(core.itervalues(table)) == [1]
    thread = core.threading__current_thread()
    assert core.threading__thread_name(thread) == thread.name


def test_unlisten():
    class Thing:
        pass

    thing, called = Thing(), []
    core.listen(thing, "x", called.append)
    core.fire(thing, "x", 1)
    core.unlisten(thing, "x", called.append)
    core.fire(thing, "x", 2)
    assert called == [1]
    with pytest.raises(ValueError):
        core.unlisten(thing, "x", called.append)
    with pytest.raises(ValueError):
        core.unlisten(Thing(), "x", called.append)


def test_module_lineage():
    assert core.module_lineage("a.b.c") == ["a.b.c", "a.b", "a"]
    assert core.module_lineage("") == []
    assert core.import_module("os.path") is os.path


@pytest.mark.parametrize(
    "buf, stop_at, rest, go_on, lines",
    [
        (b"a\nb\nc", None, b"c", True, [b"a", b"b"]),
        (b"a\nb\nc", b"a", b"b\nc", False, [b"a"]),
        (b"abc", None, b"abc", True, []),
        (b"", None, b"", True, []),
        (b"a\n", None, b"", True, [b"a"]),
    ],
)
def test_iter_split(buf, stop_at, rest, go_on, lines):
    found = []

    def take(line):
        found.append(line)
        return line != stop_at

    assert core.iter_split(buf, b"\n", take) == (rest, go_on) and found == lines


def test_io_op():
    assert core.io_op(lambda a: a + 1, 2) == (3, None)
    result, error = core.io_op(os.read, -1, 1)
    assert result is None and isinstance(error, OSError)
    calls = []

    def interrupted():
        calls.append(1)
        if len(calls) < 3:
            raise InterruptedError
        return "done"

    assert core.io_op(interrupted) == ("done", None)


@pytest.mark.parametrize("make", ["pipe", "socketpair"])
@pytest.mark.parametrize("blocking", [None, True, False])
def test_pairs(make, blocking):
    one, two = getattr(core, make)(blocking)
    with one, two:
        assert core.get_blocking(one.fileno()) is (blocking is not False)
        for func, state in ((core.set_nonblock, False), (core.set_block, True)):
            func(two.fileno())
            assert core.get_blocking(two.fileno()) is state
        core.set_blocking(two.fileno(), False)
        assert not core.get_blocking(two.fileno())
        os.set_inheritable(one.fileno(), True)
        core.set_cloexec(one.fileno())
        assert not os.get_inheritable(one.fileno())


def test_loggers():
    import logging

    assert core.LOG is logging.getLogger("mitogen") and core.IOLOG.name == "mitogen.io"
    assert core.LOGGERS == [core.LOG, core.IOLOG]
    level = core.LOG.level
    core.enable_debug_logging()
    assert core.LOG.level == logging.DEBUG
    core.LOG.setLevel(level)
    assert core.enable_profiling() is None


def test_message_as_it_was():
    msg = core.Message(dst_id=1, src_id=2, auth_id=3, handle=4, data=b"x")
    (again,) = core.Framer().feed(msg.pack())
    assert again.data == b"x" and len(msg.pack()) == core.Message.HEADER_LEN + 1
    assert msg.enc in core.Message.ENCS


def test_several_values_in_a_message():
    msg = core.Message.pickled(1, ["a"], None, handle=5)
    assert list(msg.unpickle_iter()) == [1, ["a"], None] and msg.handle == 5
    assert list(core.Message().unpickle_iter()) == []
    failed = core.Message.pickled("first", core.CallError("no"))
    values = failed.unpickle_iter()
    assert next(values) == "first"
    with pytest.raises(core.CallError, match="no"):
        next(values)
    assert len(list(failed.unpickle_iter(throw=False))) == 2
    dead = core.Message.dead("gone")
    with pytest.raises(core.ChannelError, match="gone"):
        list(dead.unpickle_iter())
    assert list(dead.unpickle_iter(throw_dead=False)) == []


def test_myself_and_repr(net):
    master, one = net.line(2)
    assert one.router.myself().context_id == 1
    assert "Sender(" in repr(core.Sender(master.context(one), 5))


def test_logging_is_imported_by_those_who_log_only():
    program = (
        "import sys; import mitogen.core as c; c.Latch, c.Receiver, c.pipe; "
        "print('logging' in sys.modules); c.LOG; print('logging' in sys.modules)"
    )
    env = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(core.__file__)))
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, env=env, timeout=30
    )
    assert done.stdout.split() == ["False", "True"], done.stderr
