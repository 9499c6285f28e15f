"""core_names.py: rarely used names of mitogen.core.

test_compatibility.py checks that all documented names exist; these tests check their behavior.
"""

import inspect
import io
import os
import pydoc
import subprocess
import sys

import pytest

from mitogen import core, master, parent
from mitogen.compat import core_names, lookup
from tests.checkout import ROOT

# Run in a process that has not imported any module that adds names to core's classes.
CLASS_NAMES = """
import sys
from mitogen import core
from mitogen.compat import lookup
rows = [(core.__dict__[c], n) for place in lookup.CLASS_NAMES.values()
        for c in place for n in place[c].split()]
listed = [name in dir(cls) for cls, name in rows]
print(len(rows), all(listed), any(place in sys.modules for place in lookup.CLASS_NAMES))
late = [vars(cls)[name] for cls, name in rows]
found = [getattr(cls, name) for cls, name in rows]
print(sum(isinstance(value, lookup.LazyAttribute) for value in found))
print(late == [vars(cls)[name] for cls, name in rows])
print(all(place in sys.modules for place in lookup.CLASS_NAMES))
"""


def test_late_names_of_classes_are_on_the_class():
    """getattr() and dir() find them; importing the defining modules changes no class."""
    done = subprocess.run(
        [sys.executable, "-c", CLASS_NAMES], capture_output=True, text=True, cwd=ROOT, timeout=30
    )
    count = sum(
        len(names.split()) for place in lookup.CLASS_NAMES.values() for names in place.values()
    )
    assert done.stdout.split() == [str(count), "True", "False", "0", "True", "True"], done.stderr


@pytest.mark.parametrize("module", sorted(set(lookup.CLASS_NAMES) - {"mitogen.calls.first_call"}))
def test_importing_the_modules_of_late_names_changes_nothing(module):
    program = (
        "import sys, mitogen.core as c\n"
        "classes = [v for v in vars(c).values() if isinstance(v, type)]\n"
        "before = [dict(vars(v)) for v in classes]\n"
        "__import__(sys.argv[1])\n"
        "print(*[v.__name__ for v, was in zip(classes, before) if dict(vars(v)) != was])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, module],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
    )
    assert done.stdout == "\n", done.stderr


def test_the_documented_names_of_a_context_are_on_its_class():
    """help() and inspect look there, not only on instances."""
    for name in ("send_async", "send_await", "call_service", "call_service_async"):
        assert name in dir(core.Context) and inspect.signature(getattr(core.Context, name))
        assert getattr(core.Context, name) is getattr(parent.Context, name)
    assert "send_async" in pydoc.plain(pydoc.render_doc(core.Context))


def test_an_unknown_name_is_an_attribute_error():
    for name in ("no_such_name", "_no_such_name"):
        with pytest.raises(AttributeError, match=name):
            getattr(core, name)
        with pytest.raises(AttributeError):
            getattr(core_names, name)
    assert all(hasattr(core_names, name) for name in core_names.__all__)


def test_star_and_from_imports():
    from mitogen.core import Latch, Receiver, b  # noqa: F401

    assert Latch is core_names.Latch


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


def test_old_attributes_of_message():
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


# ---- modules


def test_import_policy():
    policy = core.ImportPolicy(overrides=["a", "b.c"], blocks=["a.secret"])
    assert policy.overriden("a.x") and policy.overriden("b.c") and not policy.overriden("b")
    assert not policy.denied("a.x") and policy.denied("b") and policy.denied("a.secret.deep")
    assert not policy.denied("mitogen.core"), "what makes a child work"
    with pytest.raises(core.ModuleDeniedByOverridesError, match="^z:") as caught:
        policy.denied_raise("z")
    assert caught.value.name == "z"
    with pytest.raises(core.ModuleDeniedByBlocksError):
        policy.denied_raise("a.secret")
    assert "a.secret" in repr(policy) and not core.ImportPolicy().denied("anything")


@core.takes_econtext
def by_pep_302(econtext=None):
    importer = econtext.importer
    loader = importer.find_module("mitogen.minify")
    module = loader.load_module("mitogen.minify")
    return loader is importer, module.__name__, importer.find_module("no_such_module") is None


def test_the_importer_by_pep_302():
    with master.Router() as router:
        assert router.local().call(by_pep_302) == (True, "mitogen.minify", True)


# ---- routers and streams


def test_register_and_async_route():
    with master.Router() as router:
        ours, theirs = core.socketpair()
        stream = core.Stream(router, 5, ours.fileno(), os.dup(ours.fileno()), "other")
        ours.detach()
        context = router.context_by_id(5)
        router.register(context, stream)
        assert router.stream_by_id(5) is stream
        router._async_route(core.Message(dst_id=5, handle=1, data=b"x"))
        with theirs:
            theirs.settimeout(20)
            (msg,) = core.Framer().feed(theirs.recv(1000))
            assert (msg.handle, msg.data) == (1, b"x")
            # An incoming message from context 5 for a local handler.
            latch = core.Latch()
            handle = router.add_handler(latch.put)
            back = core.Message(dst_id=0, src_id=5, auth_id=5, handle=handle, data=b"y")
            router.broker.defer(router._async_route, back, stream)
            assert latch.get(20).data == b"y"
