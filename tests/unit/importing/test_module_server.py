"""mitogen.importing.module_server: modules pushed, requested and refused; the worker."""

import importlib.util
import sys
import textwrap
import threading
import zlib
from types import SimpleNamespace

import pytest

from mitogen import core
from mitogen.bootstrap import minify
from mitogen.calls.first_call import FIRST_CALL
from mitogen.importing import module_server
from mitogen.importing.finder import ModuleUnservable
from mitogen.importing.module_server import ImportPolicy, ModuleResponder, Worker

FILES = {
    "prog_main.py": "import prog_a\nimport json\ndef f():\n    import prog_later\n",
    "prog_a.py": "from prog_pkg import inner\n",
    "prog_later.py": "x = 'later'\n",
    "prog_alone.py": "import prog_c  # not loaded here\n",
    "prog_c.py": "y = 1\n",
    "prog_pkg/__init__.py": "",
    "prog_pkg/inner.py": "z = 1\n",
    "prog_pkg/other.py": "z = 2\n",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Create some of the program's own modules, and load them in this process."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    for name in ("prog_main", "prog_later", "prog_alone"):
        __import__(name)
    del sys.modules["prog_c"]
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


class Branch:
    def __init__(self):
        self.sent = []

    def send_now(self, stream, target, segments, fullnames):
        self.sent.append((target, list(map(names, segments)), list(fullnames)))
        for segment in segments:
            stream.sent_modules.update(names(segment))


class Now:
    def put(self, func, *args):
        func(*args)


@pytest.fixture
def router():
    stream = SimpleNamespace(sent_modules=set(), remote_id=1)
    broker = SimpleNamespace(defer=lambda func, *args: func(*args))
    return SimpleNamespace(
        branch=Branch(),
        broker=broker,
        stream=stream,
        node=core.Node(),
        shares_main=False,
        routes=SimpleNamespace(streams={1: stream, 2: stream}),
    )


@pytest.fixture
def server(files, router):
    return ModuleResponder(router, Now())


def context(number=1):
    return SimpleNamespace(context_id=number)


def names(segment):
    """Return the names of the modules in a segment, without those it marks as absent."""
    return [entry[0] for entry in segment[0] if entry[1] is not None]


def sources(segment):
    """Return the sources in a segment by name, split as core.Importer does."""
    text, at, found = zlib.decompress(segment[1]), 0, {}
    for name, path, _, size in segment[0]:
        if path is not None:
            found[name] = text[at : at + (size or 0)]
            at += size or 0
    assert at == len(text)
    return found


def ask(server, name, sent=()):
    answers = []
    server.fetch(name, answers.append, sent)
    (segment,) = answers
    return segment


# ---- segments


def test_a_segment_is_one_stream_of_all_sources(server, files):
    segment = server.segment(["prog_pkg", "prog_pkg.inner", "prog_later"])
    assert names(segment) == ["prog_pkg", "prog_pkg.inner", "prog_later"]
    assert sources(segment) == {
        "prog_pkg": b"", "prog_pkg.inner": b"z = 1\n", "prog_later": b"x = 'later'\n",
    }  # fmt: skip
    entries = {entry[0]: entry for entry in segment[0]}
    assert entries["prog_pkg"][1:3] == [str(files / "prog_pkg/__init__.py"), ["inner", "other"]]
    assert entries["prog_later"][1:3] == [str(files / "prog_later.py"), None]
    assert segment[2] == ["prog_later", "prog_pkg"]
    assert core.decode(core.encode(segment)) == segment


def test_a_segment_is_made_once(server):
    assert server.segment(["prog_a"]) is server.segment(("prog_a",))
    count = server.good_load_module_count
    server.segment(["prog_a"])
    assert server.good_load_module_count == count == 1


def test_mitogen_s_own_modules_are_minified(server):
    found = sources(server.segment(["mitogen.utils"]))["mitogen.utils"]
    with open(importlib.util.find_spec("mitogen.utils").origin) as fp:
        assert found.decode() == minify.minimize_source(fp.read(), strip_annotations=True)
    assert server.segment(["mitogen.utils"])[2] == []


def test_the_program_s_modules_are_sent_as_they_are(server, files):
    (files / "prog_latin.py").write_bytes("# coding: latin-1\nx = 'é'\n".encode("latin-1"))
    __import__("prog_latin")
    assert b"\xe9" in sources(server.segment(["prog_latin"]))["prog_latin"]


def test_a_namespace_package_has_no_source(server, files):
    (files / "prog_ns").mkdir()
    (files / "prog_ns" / "m.py").write_text("x = 1\n")
    __import__("prog_ns.m")
    segment = server.segment(["prog_ns", "prog_ns.m"])
    assert segment[0][0][2:] == [["m"], None] and sources(segment)["prog_ns.m"] == b"x = 1\n"


# ---- pushed


def test_a_push_is_the_module_and_what_it_imports(server, router):
    server.push(context(), ["prog_main"])
    ((target, segments, order),) = router.branch.sent
    assert target == 1 and segments == [order]
    wanted = ["prog_pkg", "prog_pkg.inner", "prog_a", "prog_main", *FIRST_CALL]
    assert [n for n in order if n in wanted] == wanted
    assert "prog_later" in order  # imported inside a function
    assert "json" not in order and "prog_pkg.other" not in order and "mitogen.core" not in order
    server.push(context(), ["prog_main"])
    server.push(context(), ["prog_a", "prog_later"])
    assert len(router.branch.sent) == 1


def test_a_module_that_is_not_loaded_is_not_pushed(server, router):
    server.push(context(), ["prog_alone"])
    assert "prog_c" not in router.branch.sent[0][2]


def test_modules_that_the_next_hop_has_are_not_sent_again(server, router):
    server.push(context(1), ["prog_main"])
    server.push(context(2), ["prog_main"])
    target, segments, order = router.branch.sent[1]
    assert target == 2 and segments == [] and "prog_main" in order


def test_only_new_modules_are_sent(server, router):
    server.push(context(), ["prog_a"])
    server.push(context(), ["prog_main"])
    assert "prog_a" not in router.branch.sent[1][2]
    server.forget(1)
    server.forget(1)
    server.push(context(), ["prog_a"])
    assert "prog_a" in router.branch.sent[2][2]


def test_nothing_is_pushed_to_an_unknown_context(server, router):
    server.push(context(77), ["prog_a"])
    assert not router.branch.sent and 77 not in server.known


def test_a_joined_process_cannot_call_its_main_in_the_tree(server, router):
    server.push(context(77), ["__main__"])
    router.node.parent_ids.append(5)
    server.push(context(77), ["prog_a"])
    with pytest.raises(TypeError, match="its __main__ is that process's"):
        server.push(context(77), ["__main__"])
    router.shares_main = True
    server.push(context(77), ["__main__"])


def test_installed_packages_and_the_library_are_not_pushed(server, router):
    server.push(context(), ["json"])
    server.push(context(), ["pytest"])
    assert all(set(order) <= set(FIRST_CALL) for _, _, order in router.branch.sent)


def test_a_push_is_bounded(server, router, files, monkeypatch):
    monkeypatch.setattr(module_server, "PUSH_LIMIT", 3000)
    lines = []
    for number in range(16):
        name = "prog_big%d" % number
        text = "".join("x%d_%d = %d\n" % (number, n, hash((number, n))) for n in range(40))
        (files / (name + ".py")).write_text(text)
        __import__(name)
        lines.append("import " + name)
    (files / "prog_all.py").write_text("\n".join(lines))
    __import__("prog_all")
    server.push(context(), ["prog_all"])
    _, ((*sent,),), order = router.branch.sent[0]
    assert 0 < len(sent) < len(order)
    assert len(server.segment(sent)[1]) <= 3000


def test_an_unservable_module_is_an_error_of_the_push(server, router, files):
    (files / "prog_gone.py").write_text("x = 1\n")
    __import__("prog_gone")
    (files / "prog_gone.py").unlink()
    with pytest.raises(ModuleUnservable, match="prog_gone"):
        server.push(context(), ["prog_gone"])
    assert not router.branch.sent


def test_a_module_made_at_run_time_is_an_error_of_the_push(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "prog_made", type(sys)("prog_made"))
    with pytest.raises(ModuleUnservable, match="made at run time"):
        server.push(context(), ["prog_made"])


def test_the_program_s_own_names_come_with_the_first_call(server, files):
    segment = server.segment(["prog_a", *FIRST_CALL])
    assert {"prog_a", "prog_main", "prog_alone", "prog_c", "prog_pkg"} <= set(segment[2])
    assert server.segment(["prog_a"])[2] == ["prog_a"]


# ---- requests


def test_an_own_module_comes_with_what_it_needs(server):
    segment = ask(server, "prog_main")
    assert {"prog_main", "prog_a", "prog_pkg.inner"} <= set(names(segment))
    assert server.get_module_count == 1


def test_an_answer_leaves_out_modules_already_sent(server):
    sent = ["prog_a", "prog_later", "prog_pkg", "prog_pkg.inner"]
    assert names(ask(server, "prog_main", sent)) == ["prog_main"]


def test_a_module_is_answered_even_if_it_was_sent(server):
    assert "prog_a" in names(ask(server, "prog_a", ["prog_a"]))


def test_an_installed_package_comes_with_its_parts(server):
    __import__("iniconfig")
    found = names(ask(server, "iniconfig"))
    assert found[0].startswith("iniconfig") and all(n.startswith("iniconfig") for n in found)


@pytest.mark.parametrize("name", ["no_such_module", "json", "os.path", "prog_pkg.no", "sys", ""])
def test_other_modules_are_refused(server, name):
    segment = ask(server, name)
    assert segment[0][0][:3] == [name, None, None] and len(segment[0]) == 1
    assert server.bad_load_module_count == 1
    if not name.startswith("prog_pkg"):
        assert segment[0][0][3] == ""  # the child raises its own error


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "a/b", "prog_pkg.", "..", "a\0b"])
def test_names_are_not_used_as_paths(server, name):
    assert ask(server, name)[0][0][1] is None


def test_a_c_extension_is_refused_with_the_reason(server, monkeypatch):
    spec = SimpleNamespace(name="prog_ext", loader=None, has_location=True, origin="/x/prog_ext.so")
    module = type(sys)("prog_ext")
    module.__file__, module.__spec__ = "/x/prog_ext.cpython-311-x86_64-linux-gnu.so", spec
    monkeypatch.setitem(sys.modules, "prog_ext", module)
    reason = ask(server, "prog_ext")[0][0][3]
    assert "C extension" in reason or "can't be read" in reason


def test_large_answers_are_cut_but_hold_the_requested_module(server, files, monkeypatch):
    monkeypatch.setattr(module_server, "PUSH_LIMIT", 10)
    assert names(ask(server, "prog_main")) == ["prog_main"]


# ---- settings


def test_lists_match_prefixes():
    policy = ImportPolicy()
    assert policy.denied("a.b") is None
    policy = ImportPolicy(overrides=["a", "b.c"])
    assert policy.denied("a") is policy.denied("a.x.y") is policy.denied("b.c.d") is None
    assert "not in the whitelist" in policy.denied("b") and policy.denied("ab")
    policy = ImportPolicy(blocks=["a", "b.c"])
    assert "a.x: in the blacklist" in policy.denied("a.x")
    assert policy.denied("b") is policy.denied("ab") is policy.denied("b.cd") is None
    both = ImportPolicy(["a"], ["a.b", "mitogen"])
    assert both.denied("a.c") is None and both.denied("a.b.c")
    assert both.denied("mitogen.parent") is None  # always served


def test_denied_modules_are_neither_pushed_nor_served(server, router):
    server.blacklist_prefix("prog_a")
    server.push(context(), ["prog_main"])
    order = router.branch.sent[0][2]
    assert "prog_main" in order and "prog_a" not in order
    assert "in the blacklist" in ask(server, "prog_a")[0][0][3]
    assert "prog_a" not in names(ask(server, "prog_main"))
    server.whitelist_prefix("prog_pkg")
    assert "not in the whitelist" in ask(server, "prog_main")[0][0][3]
    assert ask(server, "prog_pkg.inner")[0][0][1] is not None


def test_overrides_and_modifiers(server):
    server.add_source_override("prog_new", "/x/prog_new.py", b"n = 1\n", False)
    server.add_source_modifier("prog_a", lambda source: b"# changed\n" + source)
    assert sources(ask(server, "prog_new"))["prog_new"] == b"n = 1\n"
    assert sources(ask(server, "prog_a"))["prog_a"].startswith(b"# changed\n")
    assert "prog_new" in server.finder.own_names()


def test_neutralize_main(server):
    text = "def f():\n    pass\nif __name__ == '__main__':\n    f()\n"
    assert server.neutralize_main("a.py", text) == "def f():\n    pass\n"


def test_kept_segments_are_bounded(server, files, monkeypatch):
    size = len(server.segment(["prog_a"])[1])
    monkeypatch.setattr(module_server, "KEPT_BYTES", 3 * size)
    for name in ("prog_later", "prog_c", "prog_pkg", "prog_pkg.inner", "prog_pkg.other"):
        server.segment([name])
        assert sum(len(segment[1]) for segment in server._segments.values()) <= 3 * size


# ---- the worker


def test_a_worker_works_in_order_on_a_thread_of_its_own():
    worker, seen, done = Worker(print), [], threading.Event()
    assert worker._thread is None
    for number in range(5):
        worker.put(seen.append, number)
    worker.put(lambda: seen.append(threading.current_thread().name))
    worker.put(done.set)
    assert done.wait(5) and seen == [0, 1, 2, 3, 4, "mitogen-worker"]
    worker.stop()
    worker.put(seen.append, "late")
    worker.join()
    assert not worker._thread.is_alive() and seen[-1] == "mitogen-worker"


def test_a_worker_without_work_has_no_thread():
    worker = Worker(print)
    worker.stop()
    worker.join()
    assert worker._thread is None


def test_a_worker_finishes_queued_jobs_before_it_stops():
    worker, seen = Worker(print), []
    gate = threading.Event()
    worker.put(gate.wait)
    worker.put(seen.append, 1)
    worker.stop()
    gate.set()
    worker.join()
    assert seen == [1]


def test_children_get_no_controller_only_modules():
    from tests.unit import test_layering

    wanted = {"mitogen." + name for name in test_layering.CONTROLLER_ONLY}
    assert wanted == set(module_server.CONTROLLER_ONLY)


def test_a_worker_outlives_jobs_that_raise_anything():
    errors, done = [], threading.Event()
    worker = Worker(lambda level, fmt, *args: errors.append(fmt % args))

    def raise_it(error):
        raise error

    kinds = (ValueError("a"), SystemExit(3), KeyboardInterrupt("b"), GeneratorExit())
    for error in kinds:
        worker.put(raise_it, error)
    worker.put(done.set)
    assert done.wait(5) and len(errors) == len(kinds)
    worker.stop()
    worker.join()


def test_a_worker_outlives_its_log(capsys):
    done = threading.Event()

    def log(*_):
        raise SystemExit

    worker = Worker(log)
    worker.put(lambda: 1 / 0)
    worker.put(done.set)
    assert done.wait(5)
    worker.stop()
    worker.join()
    assert "ZeroDivisionError" in capsys.readouterr().err
