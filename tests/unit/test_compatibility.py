"""Programs written for PyPI's mitogen 0.3.x find their names: every row of api_names.py.

A name that is not an attribute of a class is looked up on a real object: in a master, or in a child
if only children have it.
"""

import os
import threading
from types import SimpleNamespace

import pytest

import mitogen
from mitogen import core, master, parent, select as mitogen_select
from tests import hosts
from tests.unit import api_check, api_names, api_probe

#: Streams that a program makes, in addition to mitogen's own.
OWN_STREAM = "mitogen.core.Stream()"
#: Methods set by a child's own code, so looked up only in a child.
SET_BY_CHILD = ("ExternalContext.detach",)
#: Seconds a test waits for an event that should be immediate; only a failure takes this long.
SOON = 20.0
CHILD_SIDE = ("Importer", "Dispatcher", "ExternalContext")
#: Classes of core that a child has too, from the first call on.
ALSO_IN_CHILDREN = (
    *CHILD_SIDE,
    *("Message", "Sender", "Context", "Router", "Broker", "Stream", "ChannelError"),
)


def ids(rows):
    return pytest.mark.parametrize("row", rows, ids=[row.dotted for row in rows])


def present(*kinds):
    return [row for row in api_names.ROWS if row.kind in kinds and not row.why_not]


@pytest.fixture(scope="module")
def world():
    """Yield a master with a child, and an object of each class whose instances have attributes."""
    with master.Router() as router:
        child = router.local()
        stream = router.stream_by_id(child.context_id)
        world = SimpleNamespace(router=router, child=child, stream=stream)
        world.objects = dict(objects(world))
        yield world
        for obj in world.objects.values():
            getattr(obj, "undo", int)()


def objects(world):
    router, stream = world.router, world.stream
    receiver = core.Receiver(router)
    yield "mitogen.core.Message", core.Message(router=router, dst_id=0)
    yield "mitogen.core.Receiver", receiver
    yield "mitogen.core.Sender", receiver.to_sender()
    yield "mitogen.core.Latch", core.Latch()
    yield "mitogen.core.Context", core.Context(router, world.child.context_id)
    yield "mitogen.core.Stream", stream
    yield OWN_STREAM, core.Stream()
    yield "mitogen.core.Side", stream.receive_side
    # An attribute that the importer asks loaders for exists only on instances.
    yield "mitogen.core.Importer", object.__new__(core.Importer)
    yield "mitogen.core.Protocol", core.DelimitedProtocol.build_stream().protocol
    yield "mitogen.core.MitogenProtocol", stream.protocol
    yield "mitogen.core.Waker", core.Waker.build_stream(router.broker).protocol
    yield "mitogen.parent.Context", world.child
    yield "mitogen.parent.CallChain", world.child.default_call_chain
    yield "mitogen.parent.Connection", stream.conn
    yield "mitogen.parent.Timer", parent.Timer(0, int)
    yield "mitogen.select.Event", mitogen_select.Event()
    yield "mitogen.select.Select", mitogen_select.Select()
    yield "mitogen.master.ModuleResponder", router.responder
    yield "mitogen.master.ModuleFinder", router.responder.finder
    for module in "core", "parent", "master":
        yield "mitogen.%s.Router" % module, router
        yield "mitogen.%s.Broker" % module, router.broker


def service_object(world, name):
    """Return an object of a class of mitogen.service, created when first needed."""
    from mitogen.services import pool as service

    if name == "Pool":
        pool = service.Pool(world.router, size=1, overwrite=True)
        pool.undo = pool.stop
        return pool
    return getattr(service, name)(world.router)


def sample(world, row):
    """Return an object of the class that a row's attribute belongs to, or None."""
    key = "%s.%s" % (row.module, row.owner)
    if row.module == "mitogen.service" and row.kind == "attr" and key not in world.objects:
        world.objects[key] = service_object(world, row.owner)
    return world.objects.get(key)


def look_up(world, row):
    """Return the object that a row names, found on its class or on an instance, or MISSING."""
    found = api_check.find(row)
    for obj in (sample(world, row), world.objects.get(OWN_STREAM)):
        if found is api_check.MISSING and row.owner:
            found = getattr(obj, row.name.rpartition(".")[2], api_check.MISSING)
    return found


# ---- the table itself


def test_the_table_is_well_formed():
    names = [(row.dotted, row.kind) for row in api_names.ROWS]
    assert len(names) == len(set(names)) > 600
    dotted = {name for name, _ in names}
    for reasons in (api_names.NOT_PROVIDED, api_names.WITHOUT, api_names.NOTES):
        assert {name.rstrip("()") for name in reasons} <= dotted, set(reasons) - dotted
    assert all(row.mark in (None, "17", "18") for row in api_names.ROWS)
    for row in api_names.ROWS:
        assert row.parameters is None or api_check.expected(row) is not None


def test_reasons_are_few_and_true():
    """A name with a reason for its absence is absent: it was not added since."""
    refused = [row for row in api_names.ROWS if row.why_not]
    assert len(refused) < len(api_names.ROWS) / 10
    for row in refused:
        if row.kind != "signal":
            found = api_check.find(row)
            assert found is api_check.MISSING or api_check.differences(row, found), row.dotted


def test_a_row_of_a_missing_module_is_an_error(world):
    with pytest.raises(ModuleNotFoundError):
        look_up(world, api_names.ROWS[0]._replace(module="mitogen.nowhere"))


# ---- names


@ids(
    [
        row
        for row in present("def", "class", "error", "method", "classmethod")
        if row.name not in SET_BY_CHILD
    ]
)
def test_functions_classes_and_methods_exist(world, row):
    found = look_up(world, row)
    assert found is not api_check.MISSING, "there is no %s" % row.dotted
    assert callable(found)
    if not row.why_other_signature:
        assert api_check.differences(row, found) == []
    if row.kind in ("class", "error"):
        assert isinstance(found, type)
    if row.base:
        assert issubclass(found, named(row.base))


def named(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(__import__(module or "builtins", fromlist=["x"]), name)


@ids(present("const", "name"))
def test_constants_exist_with_their_values(world, row):
    found = api_check.find(row)
    assert found is not api_check.MISSING, "there is no %s" % row.dotted
    if row.value is not None:
        assert found == eval(row.value)


@ids([row for row in present("attr") if row.owner not in CHILD_SIDE])
def test_instances_have_their_attributes(world, row):
    obj = sample(world, row)
    assert obj is not None, "no object of %s.%s to inspect" % (row.module, row.owner)
    found = getattr(obj, row.name.rpartition(".")[2], api_check.MISSING)
    assert found is not api_check.MISSING, "%r has no %s" % (obj, row.name)
    if row.value is not None:
        assert found == eval(row.value)


# ---- connection methods


def options_of(row):
    """Return (options class, the required options, the row's parameters)."""
    method = row.name.rpartition(".")[2]
    cls = parent.get_connection_class(method).options_class
    wanted = api_check.expected(row)
    must = [p.name for p in wanted if p.default is p.empty or p.name == "container"]
    return cls, {name: "pid" if name == "kind" else "1" for name in must}, wanted


@ids(present("connect"))
def test_connection_methods_have_the_same_options_and_defaults(world, row):
    method = row.name.rpartition(".")[2]
    cls, needed, wanted = options_of(row)
    assert callable(getattr(world.router, method))
    made = cls(**needed)
    for parameter in wanted:
        if parameter.name in needed or parameter.default is ...:
            continue
        default = getattr(made, parameter.name, None)
        if isinstance(default, str) and isinstance(parameter.default, str):
            # Prompts are compared without regard to case.
            assert default.lower() == parameter.default.lower(), parameter
        else:
            assert (default or None) == (parameter.default or None), parameter
    given = {p.name: p.default for p in wanted if p.default not in (p.empty, ...)}
    cls(**dict(given, **needed))


@ids(present("connect"))
def test_all_connection_methods_have_the_common_options(row):
    cls, needed, _ = options_of(row)
    common = {"debug": True, "profiling": True, "unidirectional": True, "name": "n"}
    if not row.name.endswith(".fork"):
        common.update(remote_name="r", python_path=["python3"], connect_timeout=1)
    options = cls(**dict(common, **needed))
    assert {name: getattr(options, name) for name in common} == common


@pytest.mark.parametrize("given", [True, False, "enforce", "accept", "ignore"])
def test_check_host_keys_accepts_the_values_of_2017(given):
    from mitogen import ssh

    meant = {True: "enforce", False: "ignore"}.get(given, given)
    assert ssh.Options(hostname="h", check_host_keys=given).check_host_keys == meant


def test_connect_timeout_none_is_the_default():
    assert parent.Options(connect_timeout=None).connect_timeout == 30.0


# ---- signals


@pytest.fixture(scope="module")
def fired():
    """Return the signals fired during the life of a router, a child and a program's own streams."""
    found = set()

    def note(name):
        return lambda *args, **kwargs: found.add(name)

    with master.Router() as router:
        child = router.local()
        stream = core.DelimitedProtocol.build_stream()
        stream.accept(*core.pipe())
        router.broker.start_receive(stream)
        process = parent.create_child(["true"])
        ended = threading.Event()
        for obj, owner, names in (
            (child, "core.Context", "disconnect"),
            (router.broker, "core.Broker", "before_shutdown shutdown exit"),
            (stream, "core.Stream", "shutdown disconnect"),
            (process, "parent.Process", "exit"),
        ):
            for name in names.split():
                core.listen(obj, name, note("mitogen.%s.%s" % (owner, name)))
        core.listen(process, "exit", ended.set)
        parent.Reaper(router.broker, process, True, True).reap()
        assert ended.wait(SOON)
        child.shutdown(wait=True)
    process.stdin.close()
    process.stdout.close()
    return found


@ids(present("signal"))
def test_signals_are_fired(fired, row):
    assert row.dotted in fired


# ---- the child's side

#: Methods of BasicStream that mitogen's own streams do not need.
OF_OWN_STREAMS = ("Stream.set_protocol", "Stream.accept")


def child_rows():
    return [
        row.name
        for row in present("attr", "method", "const", "classmethod")
        if row.module == "mitogen.core" and row.owner in ALSO_IN_CHILDREN
    ]


@pytest.fixture(params=["this", "oldest"])
def fresh_child(request):
    """Yield a child in which nothing was called yet."""
    kwargs = {}
    if request.param == "oldest":
        found = hosts.find_pythons()
        if (3, 6) not in found:
            pytest.skip("needs a Python 3.6 (pyenv or PATH)")
        kwargs["python_path"] = found[3, 6]
    with master.Router() as router:
        yield router.local(**kwargs)


def test_a_child_has_the_names(fresh_child):
    names = [name for name in child_rows() if name not in OF_OWN_STREAMS]
    assert len(names) > 80
    assert fresh_child.call(api_probe.missing, names) == []
    assert fresh_child.call(api_probe.defer_sync) is True


def test_old_names_of_classes_need_no_import_in_a_child(fresh_child):
    before, values, size_fits, text = fresh_child.call(api_probe.use_old_names)
    assert not before, "core_names.py was sent although no name in it was used"
    assert values == [1, "two"] and size_fits and text
    assert fresh_child.call(api_probe.use_old_names)[0]


# ---- old forms (of 2017 and 2018) that work


def test_handlers_take_respondent_and_policy_in_either_order(world):
    router, child = world.router, world.child
    seen = []
    for order in ((seen.append, None, True, lambda msg, stream: True, child),
                  (seen.append, None, True, child, lambda msg, stream: True)):  # fmt: skip
        handle = router.add_handler(*order)
        assert router.handlers[handle].policy is not child
        assert router.handlers[handle].source == child.context_id
        router.del_handler(handle)


def test_a_sender_puts_and_a_receiver_gets_data(world):
    receiver = core.Receiver(world.router)
    receiver.to_sender().put({"a": 1})
    assert receiver.get_data(timeout=SOON) == {"a": 1}
    receiver.close()


def test_master_has_the_names_of_2017():
    assert master.Select is mitogen_select.Select and master.Context is parent.Context
    assert "x" in master.minimize_source("x = 1  # why\n")


def test_log_to_file_takes_io(tmp_path):
    import logging

    from mitogen import utils

    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        utils.log_to_file(str(tmp_path / "log"), io=True, level="INFO")
    finally:
        for handler in [each for each in root.handlers if each not in before]:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
    assert os.path.exists(str(tmp_path / "log"))


def test_a_loaded_package_has_the_parents_version(world):
    assert world.child.call(eval, "__import__('mitogen').__version__") == mitogen.__version__
