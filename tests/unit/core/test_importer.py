"""core.Importer: modules that come from the parent."""

import contextlib
import importlib
import importlib.util
import inspect
import linecache
import sys
import traceback
import zlib

import pytest

from mitogen import core
from mitogen.calls import first_call  # noqa: F401 (child: or the importer under test is asked for it)
from mitogen.core import Blob, Importer, importer as importer_file

APP = b'"""doc"""\nimport os\n\n\ndef f():\n    return 1 // 0\n'
SOURCES = {
    "app": ("/src/app/__init__.py", ["a", "b", "sub"], b"NAME = __name__\n"),
    "app.a": ("/src/app/a.py", None, APP),
    "app.b": ("/src/app/b.py", None, b"from app.a import f\nfrom . import a\n"),
    "app.sub": ("/src/app/sub/__init__.py", [], b""),
}


def segment(names=SOURCES, sources=SOURCES, own=()):
    """Return a segment as built by a responder."""
    entries, chunks = [], []
    for name in names:
        path, submodules, source = sources[name]
        entries.append([name, path, submodules, None if source is None else len(source)])
        chunks.append(source or b"")
    return [entries, Blob(zlib.compress(b"".join(chunks))), list(own)]


def refusal(name, why=""):
    return [[[name, None, None, why]], b"", []]


@pytest.fixture
def pair(net):
    return net.line(2)


@pytest.fixture
def importer(pair):
    return pair[1].router.importer


@contextlib.contextmanager
def installed(importer):
    """Context manager: install the importer in this interpreter."""
    before = list(sys.meta_path), set(sys.modules)
    importer.install()
    try:
        yield importer
    finally:
        sys.meta_path[:] = before[0]
        for name in set(sys.modules) - before[1]:
            del sys.modules[name]
        linecache.clearcache()


@pytest.fixture
def program(importer):
    """An interpreter that has the program's modules in one segment."""
    importer.own.add("app")
    importer.load(segment())
    with installed(importer):
        yield importer


# ---- imported modules


def test_a_package(program):
    app = importlib.import_module("app")
    assert (app.NAME, app.__file__, app.__package__) == (
        "app",
        "master:/src/app/__init__.py",
        "app",
    )
    assert app.__path__ == ["master:/src/app"] and app.__spec__.loader is app.__loader__ is program


def test_a_module_and_what_it_imports(program):
    b = importlib.import_module("app.b")
    assert b.a is sys.modules["app.a"] and b.f is b.a.f
    assert (b.__package__, b.__file__) == ("app", "master:/src/app/b.py")
    assert not hasattr(b, "__path__") and b.a.__doc__ == "doc"


def test_an_error_shows_its_source_line(program):
    a = importlib.import_module("app.a")
    with pytest.raises(ZeroDivisionError) as info:
        a.f()
    text = "".join(traceback.format_tb(info.tb))
    assert 'File "master:/src/app/a.py", line 6, in f\n    return 1 // 0' in text
    assert inspect.getsource(a.f) == "def f():\n    return 1 // 0\n"
    assert linecache.getline(a.__file__, 2, a.__dict__) == "import os\n"


def test_loader_methods(program):
    assert program.get_source("app.a") == APP.decode()
    assert program.get_filename("app.a") == "master:/src/app/a.py"
    assert program.is_package("app") and not program.is_package("app.a")
    namespace = {}
    exec(program.get_code("app.a"), namespace)
    assert "f" in namespace
    assert program.get_source("unknown") is None
    with pytest.raises(AttributeError):
        program.other  # noqa: B018


def test_core_s_own_source(program):
    """It is not sent: the caller inserts the lines of its own files into tracebacks."""
    assert program.get_source("mitogen.core") is None


def test_a_source_in_its_own_encoding(importer):
    source = "# coding: latin-1\nx = 'é'\n".encode("latin-1")
    importer.own.add("enc")
    importer.load(segment(["enc"], {"enc": ("/enc.py", None, source)}))
    with installed(importer):
        module = importlib.import_module("enc")
    assert module.x == "é" and importer.get_source("enc").endswith("x = 'é'\n")


def test_a_namespace_package(importer):
    sources = {
        "ns": ("/src/ns", ["portion"], None),
        "ns.portion": ("/src/ns/portion.py", None, b"x = 1\n"),
    }
    importer.own.add("ns")
    importer.load(segment(sources, sources))
    with installed(importer):
        module = importlib.import_module("ns.portion")
        package = sys.modules["ns"]
        assert module.x == 1
        assert package.__path__ is not None and getattr(package, "__file__", None) is None


def test_an_import_error_inside_a_module(importer):
    importer.own.add("bad")
    importer.load(segment(["bad"], {"bad": ("/bad.py", None, b"import no_such_thing_at_all\n")}))
    with installed(importer), pytest.raises(ModuleNotFoundError, match="no_such_thing_at_all"):
        importer.router.broker.defer(lambda: importer.load(refusal("no_such_thing_at_all")))
        importlib.import_module("bad")
    assert "bad" not in sys.modules


def test_a_syntax_error_names_the_file(importer):
    importer.own.add("bad")
    importer.load(segment(["bad"], {"bad": ("/bad.py", None, b"x = = 1\n")}))
    with installed(importer), pytest.raises(SyntaxError) as info:
        importlib.import_module("bad")
    assert info.value.filename == "master:/bad.py" and info.value.lineno == 1


# ---- own names


def test_own_names_come_from_the_master_despite_local_copies(program):
    assert program.find_spec("app").origin == "master:/src/app/__init__.py"
    assert program.find_spec("json") is None and program.find_spec("os.path") is None
    assert program.is_own("app.a.b") and program.is_own("mitogen") and not program.is_own("apple")


def test_own_portions_of_a_namespace(pair):
    importer = Importer(pair[0].router, ["ns.mine"])
    assert importer.is_own("ns.mine") and importer.is_own("ns.mine.sub")
    assert not importer.is_own("ns") and not importer.is_own("ns.other")


def test_segments_add_own_names(importer):
    assert not importer.is_own("late")
    importer.load(segment(["app.a"], own=["late"]))
    assert importer.is_own("late")


def test_modules_missing_on_the_target_are_requested_last(importer):
    importer.load(segment(["found"], {"found": ("/found.py", None, b"x = 1\n")}))
    importer.load(refusal("not_found"))
    with installed(importer):
        assert importlib.import_module("found").x == 1
        assert importlib.util.find_spec("not_found") is None
        assert importlib.import_module("json").__file__.find("master:") == -1
        assert sys.meta_path[0] is importer


# ---- negative answers


def test_missing_submodule_needs_no_request(pair, program):
    master, _ = pair
    importlib.import_module("app")
    for name in ("app.nothing", "app.a.deeper", "app.sub.nothing"):
        assert program.find(name) is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    master.net.pump()
    assert master.router.branch.modules.fetched == []


def test_refusal_keeps_its_reason(importer):
    importer.load(refusal("app", "app: in the blacklist"))
    with installed(importer), pytest.raises(ModuleNotFoundError, match="in the blacklist") as info:
        importlib.import_module("app")
    assert info.value.name == "app"


def test_missing_own_module(importer):
    importer.own.add("app")
    importer.load(refusal("app"))
    with installed(importer), pytest.raises(ModuleNotFoundError, match="No module named 'app'"):
        importlib.import_module("app")


def test_refusal_does_not_replace_a_loaded_module(importer):
    importer.load(segment())
    importer.load(refusal("app", "gone"))
    assert importer.source("app") == b"NAME = __name__\n"
    importer.load(refusal("new", "no"))
    importer.load(segment(["new"], {"new": ("/new.py", None, b"x\n")}))
    assert importer.source("new") == b"x\n"


# ---- requests


def test_module_is_requested_from_the_parent_once(pair, importer):
    master, _ = pair
    master.router.branch.modules.sources["app"] = b"x = 1\n"
    assert importer.source("app") == b"x = 1\n"
    assert importer.source("app") == b"x = 1\n"
    assert master.router.branch.modules.fetched == [("app", [])]


def test_several_threads_send_one_request(pair, importer):
    master, one = pair
    here = []
    for number in range(3):
        importer.request("app", lambda number=number: here.append(number))
    master.net.pump()
    importer.request("app", lambda: here.append(3))
    master.net.pump()
    assert here == [0, 1, 2, 3] and len(master.router.branch.modules.fetched) == 1


def test_import_on_the_broker_thread_is_refused(pair, importer):
    with pair[1].broker.thread(), pytest.raises(ImportError, match="not on the broker thread"):
        importer.get("app")


def test_request_without_answer_times_out(pair, importer):
    master, one = pair
    one.up.stalled = True
    with pytest.raises(ImportError, match="app: no answer from the parent"):
        importer.get("app")
    assert master.net.time == 1000 + core.IMPORT_TIMEOUT


def test_modules_are_accepted_only_from_a_parent(net):
    master, one, two = net.line(3)
    data = core.encode(segment())
    two.send(1, core.LOAD_MODULE, data, flags=0)
    net.pump()
    assert not one.router.importer.modules
    master.send(1, core.LOAD_MODULE, data, flags=0)
    net.pump()
    assert set(one.router.importer.modules) == set(SOURCES)


# ---- segments


def test_sources_of_a_segment_are_separate(importer):
    importer.load(segment())
    for name, (_, _, source) in SOURCES.items():
        assert importer.source(name) == source


def test_segment_is_inflated_once_and_evicted(importer, monkeypatch):
    inflated = []

    def decompress(data):
        inflated.append(len(data))
        return zlib.decompress(data)

    monkeypatch.setattr(
        importer_file, "zlib", type("zlib", (), {"decompress": staticmethod(decompress)})
    )
    importer.load(segment())
    for _ in range(3):
        importer.source("app.a")
        importer.source("app.b")
    assert len(inflated) == 1
    for number in range(8):
        name = "m%d" % number
        importer.own.add(name)
        importer.load(segment([name], {name: ("/m.py", None, b"x = 1\n")}))
    with installed(importer):
        for number in range(8):
            importlib.import_module("m%d" % number)
    assert len(importer._sources) <= 6


def test_importer_is_twice_in_meta_path(importer):
    with installed(importer):
        assert sys.meta_path[0] is importer
        assert sys.meta_path[-1].importer is importer
        assert importer.create_module(None) is None
