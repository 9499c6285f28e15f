"""core_names.py: names of mitogen.core that few programs use.

That all of API.md's names are there is test_compatibility.py's; here is what they do.
"""

import io
import os
import subprocess
import sys

import pytest

from mitogen import child, core, master
from mitogen.compat import core_names
from tests.checkout import ROOT

# What mitogen.child says that other modules add to core's classes, asked of a process that has
# imported none of them.
OLD_NAMES = """
import sys
from mitogen import child, core
rare = ("compat.core_names", "compat.parent_names", "compat.streams")
def there():
    return [c + "." + n for p in child.OLD_NAMES for c in child.OLD_NAMES[p]
            for n in child.OLD_NAMES[p][c].split() if hasattr(getattr(core, c), n)]
print(len(there()), any("mitogen." + name in sys.modules for name in rare))
child.find_old_names()
child.find_old_names()
before = {c: dict(vars(getattr(core, c))) for p in child.OLD_NAMES for c in child.OLD_NAMES[p]}
assert all(isinstance(before[c][n], child.Late) for p in child.OLD_NAMES
           for c in child.OLD_NAMES[p] for n in child.OLD_NAMES[p][c].split())
print(len(there()), all("mitogen." + name in sys.modules for name in rare))
assert not any(isinstance(v, child.Late) for c in before for v in vars(getattr(core, c)).values())
"""


def test_old_names_of_classes_are_imported_when_used():
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", OLD_NAMES], capture_output=True, text=True, cwd=root, timeout=30
    )
    count = sum(len(names.split()) for each in child.OLD_NAMES.values() for names in each.values())
    assert done.stdout.split() == ["0", "False", str(count), "True"], done.stderr


def test_all_that_is_added_to_classes_is_listed():
    """What child.OLD_NAMES leaves out would be there in the master, and not in children."""
    program = (
        "import mitogen.core as c, mitogen.mailbox, mitogen.flow, mitogen.child\n"
        "classes = [v for v in vars(c).values() if isinstance(v, type)]\n"
        "before = {v: set(vars(v)) for v in classes}\n"
        "import mitogen.compat.core_names, mitogen.compat.streams, mitogen.compat.parent_names\n"
        "print(*[v.__name__ + '.' + n for v in classes for n in set(vars(v)) - before[v]])"
    )
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, timeout=30
    )
    listed = {
        "%s.%s" % (owner, name)
        for classes in child.OLD_NAMES.values()
        for owner, names in classes.items()
        for name in names.split()
    }
    # Of no use to programs: repr() of a Sender, Stream() without arguments.
    assert set(done.stdout.split()) - listed == {"Sender.__repr__", "Stream.__new__"}, done.stderr


def test_an_unknown_name_is_an_attribute_error():
    for name in ("no_such_name", "_no_such_name"):
        with pytest.raises(AttributeError, match=name):
            getattr(core, name)
    with pytest.raises(AttributeError, match="mitogen.core"):
        core_names.no_such_name  # noqa: B018
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
            # What comes in: from context 5, for a handler here.
            latch = core.Latch()
            handle = router.add_handler(latch.put)
            back = core.Message(dst_id=0, src_id=5, auth_id=5, handle=handle, data=b"y")
            router.broker.defer(router._async_route, back, stream)
            assert latch.get(20).data == b"y"
