"""mitogen.bootstrap.preamble: core.py as children get it."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys
import zlib

import pytest

from mitogen import core
from mitogen.bootstrap import minify, preamble, renames
from tests import hosts
from tests.checkout import ROOT
from tests.unit import api_names

FILES = {name: pathlib.Path(core.__file__).with_name(name + ".py") for name in core.PREAMBLE}


def files_of(source):
    """Return {file of the preamble: its text in `source`}."""
    names, *files = source.decode().split("\0")
    assert names.split() == list(core.PREAMBLE)
    return dict(zip(names.split(), files))


@pytest.fixture(scope="module")
def small():
    return files_of(preamble.aligned_source())


@pytest.fixture(scope="module")
def sources():
    return {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}


def named(tree):
    """Return {(class or None, name): line} of the definitions in a module."""
    found = {}
    for node in tree.body:
        for each in [node, *getattr(node, "body", [])]:
            if isinstance(each, (ast.FunctionDef, ast.ClassDef)):
                owner = None if each is node else getattr(node, "name", None)
                found[owner, each.name] = each.lineno
    return {key: line for key, line in found.items() if not any(map(private_name, key))}


def private_name(name):
    return bool(name) and (name[0] == "_" and name[:2] != "__" or name in renames.INTERNAL)


def test_the_preamble_is_smaller(small, sources):
    minified = "".join(map(minify.minimize_source, sources.values()))
    text = "".join(small.values())
    assert len(text) < len(minified)
    assert len(zlib.compress(text.encode(), 9)) < 0.94 * len(zlib.compress(minified.encode(), 9))


@pytest.mark.parametrize("name", core.PREAMBLE)
def test_line_numbers_are_kept(small, sources, name):
    assert named(ast.parse(small[name])) == named(ast.parse(sources[name]))


@pytest.mark.parametrize("name", core.PREAMBLE)
def test_lines_of_the_sent_copy_are_found_in_the_file(small, name):
    sent = files_of(preamble.core_source())[name].split("\n")[:-1]
    assert all(sent[1:])
    aligned = small[name].split("\n")
    numbers = [preamble.line_number(name, n) for n in range(1, len(sent) + 1)]
    assert [aligned[n - 1] for n in numbers] == sent


@pytest.mark.parametrize("name", core.PREAMBLE)
def test_public_names_and_their_parameters_are_kept(small, sources, name):
    def parameters(text):
        return [
            [arg.arg for arg in node.args.args if arg.arg not in ("self", "S")]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef)
            and not is_internal(node.name)
            and node.name not in INNER
        ]

    assert parameters(small[name]) == parameters(minify.minimize_source(sources[name], True))


#: Functions within functions: nothing outside names their parameters.
INNER = ("take",)


def test_names_used_in_other_modules_are_kept(small, sources):
    used = preamble._names_in_other_files()
    defined = set(re.findall(r"\w+", "".join(sources.values())))
    private = {n for n in used & defined if re.match("_[a-z]", n)}
    kept = set(re.findall(r"\w+", "".join(small.values())))
    assert "_stream_by_id" in private
    assert sorted(private - kept) == []


def is_internal(name):
    return private_name(name) or name in renames.INTERNAL


def test_internal_functions_are_in_no_reference():
    """Programs may pass the arguments of those that are by name."""
    rows = {row.name.rpartition(".")[2] for row in api_names.ROWS if "core" in row.module}
    assert sorted(rows & renames.INTERNAL) == []
    text = (ROOT / "docs" / "reference" / "index.rst").read_text(encoding="utf-8")
    assert not [name for name in renames.INTERNAL if "mitogen.core." + name in text]


def test_no_call_elsewhere_names_a_parameter_of_an_internal_function():
    """Such a parameter has another name in a child."""
    private = {
        node.name: {arg.arg for arg in node.args.args}
        for path in FILES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and is_internal(node.name)
    }
    wrong = []
    for path in (ROOT / "mitogen").rglob("*.py"):
        if path in FILES.values():
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in private:
                names = {each.arg for each in node.keywords} & private[node.func.attr]
                wrong += ["{}:{} {}".format(path, node.lineno, name) for name in names]
    assert wrong == []


# ---- the files in one namespace, as a child has them


def test_one_namespace_has_the_same_objects_as_the_imports():
    """Each name that a file imports is, in a child, the object that an earlier file has bound."""
    for name in core.PREAMBLE:
        module = importlib.import_module("mitogen.core." + name)
        for node in ast.parse(FILES[name].read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)) and "__future__" not in ast.unparse(
                node
            ):
                for bound, origin in preamble._bindings(node).items():
                    source = importlib.import_module(origin[0])
                    there = getattr(source, origin[1]) if origin[1] else source
                    assert getattr(module, bound) is there, (name, bound)
                    before = core.PREAMBLE[: core.PREAMBLE.index(name)]
                    assert origin[0].rpartition(".")[0] != "mitogen.core" or (
                        origin[0].rpartition(".")[2] in before
                    ), (name, origin)


def test_no_two_files_bind_a_name_to_different_things():
    """In a child the later one would be the earlier one's, too."""
    owners = {}
    for name in core.PREAMBLE:
        module = importlib.import_module("mitogen.core." + name)
        for bound, value in vars(module).items():
            if bound[:2] != "__" and bound != "annotations":
                assert owners.setdefault(bound, (name, value))[1] is value, (name, bound)


@pytest.mark.parametrize("version", [(3, 6), (3, 13), (3, 15)])
def test_the_preamble_works_on_other_pythons(small, version):
    python = hosts.find_pythons().get(version)
    if python is None:
        pytest.skip("needs Python {}.{}".format(*version))
    program = (
        "import sys; m = sys.modules['mitogen.core'] = type(sys)('mitogen.core')\n"
        "for text in sys.stdin.read().split('\\0'):\n"
        "    exec(compile(text, 'core.py', 'exec'), m.__dict__)\n"
        "data = m.encode({'a': [1, (2, None), b'x' * 30, 1.5]})\n"
        "msg = m.Message(dst_id=1, src_id=2, auth_id=3, handle=4, data=data)\n"
        "framer = m.Framer(); frames = framer.feed(msg.header(len(data), 0) + data)\n"
        "print(m.decode(frames[0].data), frames[0].src_id)\n"
    )
    done = subprocess.run(
        [python, "-c", program],
        input="\0".join(small.values()),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert eval(done.stdout.rpartition(" ")[0]) == {"a": [1, (2, None), b"x" * 30, 1.5]}


# ---- shrink()


def run(text):
    namespace = {}
    exec(compile(text, "x.py", "exec"), namespace)
    return namespace


SAMPLE = '''\
"""doc"""
LIMIT = 3
def total(numbers, first=0):
    result = first
    for number in numbers:
        result += number
    def inner(extra):
        nonlocal result
        return result + extra
    return [inner(number) for number in range(LIMIT)]
class Thing:
    def __init__(self, value):
        self._private_value = value
        self._shared_value = value
    def _double_it(self):
        doubled = self._private_value * 2
        return doubled
    def get(self, factor=1):
        try:
            return self._double_it() * factor
        except TypeError as failure:
            return failure
'''


def test_shrunk_code_works_the_same():
    text = preamble.shrink([SAMPLE], {"_shared_value"})[0]
    before, after = run(SAMPLE), run(text)
    assert before["total"]([1, 2], first=3) == after["total"]([1, 2], first=3) == [6, 7, 8]
    assert before["Thing"](4).get(factor=2) == after["Thing"](4).get(factor=2) == 16
    assert after["Thing"](4)._shared_value == 4
    for gone in ("_private_value", "_double_it", "doubled", "doc"):
        assert gone not in text
    assert text.count("\n") <= SAMPLE.count("\n")


def test_a_reserved_name_is_refused():
    with pytest.raises(ValueError, match="must not use the name S"):
        preamble.shrink(["S = 1\n"], set())


# ---- the kept copy


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a separate package with a small core of two files."""
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "one.py").write_text(
        "import os\ndef f():\n    value = 1  # why\n    return value\n"
    )
    (tmp_path / "core" / "two.py").write_text("import os\nfrom mitogen.core.%s import f\n" % "one")
    (tmp_path / "other.py").write_text("x = 1\n")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "core.py").write_text("x = 1\n")
    (tmp_path / "folder" / "deep" / "other.py").write_text("x = 1\n")
    monkeypatch.setattr(preamble, "_HERE", str(tmp_path))
    monkeypatch.setattr(preamble, "PREAMBLE", ("one", "two"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return tmp_path


def counted(monkeypatch):
    calls = []
    real = preamble.shrink
    monkeypatch.setattr(preamble, "shrink", lambda *args: calls.append(1) or real(*args))
    return calls


def test_the_copy_is_made_once(package, monkeypatch):
    calls = counted(monkeypatch)
    first = preamble.core_source()
    assert b"# why" not in first and preamble.core_source() == first and len(calls) == 1
    assert [path.name for path in (package / "__pycache__").iterdir()] == ["core.shrunk"]


def test_repeated_imports_are_not_sent(package):
    assert preamble.make() == b"one two\0import os\ndef f():\n e=1\n return e\n\0"


def test_new_names_of_an_import_are_kept():
    known = {}
    first = preamble.without_known_imports("import os\nfrom a import b, c as d\n", known)
    assert first == "import os\nfrom a import b, c as d\n"
    second = "import os, sys as s\nfrom a import (\n    b,\n    e,\n)\nx = 1\n"
    left = "import sys as s\nfrom a import e\n\n\n\nx = 1\n"
    assert preamble.without_known_imports(second, known) == left
    assert preamble.without_known_imports("from b import b\n", known) == "from b import b\n"


PLACES = ["core/two.py", "other.py", "folder/core.py", "folder/deep/other.py"]


@pytest.mark.parametrize("name", PLACES)
def test_a_changed_package_makes_a_new_copy(package, monkeypatch, name):
    calls = counted(monkeypatch)
    preamble.core_source()
    path = package / name
    path.write_text(path.read_text() + "y = _unheard_of = 2\n")
    assert (b"y" in preamble.core_source()) is (name == "core/two.py") and len(calls) == 2
    os.utime(str(path), ns=(1, 1))
    preamble.core_source()
    assert len(calls) == 3
    (path.parent / "new.py").write_text("")
    preamble.core_source()
    assert len(calls) == 4
    (path.parent / "new.py").rename(path.parent / "newer.py")
    preamble.core_source()
    assert len(calls) == 5


def test_a_moved_file_makes_a_new_copy(package, monkeypatch):
    """A move changes neither size nor time of a file."""
    calls = counted(monkeypatch)
    preamble.core_source()
    (package / "other.py").rename(package / "folder" / "other.py")
    preamble.core_source()
    assert len(calls) == 2


@pytest.mark.parametrize("name", PLACES)
def test_a_shipped_copy_is_used_while_no_file_differs(package, monkeypatch, name):
    """An installed package brings its copy along; times of files differ from those at the build."""
    calls = counted(monkeypatch)
    made = preamble.make()
    (package / preamble.SHIPPED).write_bytes(preamble.stamp_of_contents() + b"\n" + made)
    os.utime(str(package / name), ns=(1, 1))
    assert preamble.core_source() == made and len(calls) == 1
    path = package / name
    path.write_text(path.read_text() + "y = 2\n")
    preamble.core_source()
    assert len(calls) == 2


@pytest.mark.parametrize("name", PLACES[1:])
def test_names_used_in_any_other_file_are_kept(package, name):
    (package / "core" / "two.py").write_text("_unheard_of = _known = 1\n")
    (package / name).write_text("from mitogen.core import _known\n")
    source = preamble.core_source()
    assert b"_known" in source and b"_unheard_of" not in source


@pytest.mark.parametrize("content", [b"", b"\n", b"no stamp\nx = 1\n", b"\xff" * 100])
def test_a_damaged_copy_is_replaced(package, content):
    good = preamble.core_source()
    (package / "__pycache__" / "core.shrunk").write_bytes(content)
    assert preamble.core_source() == good


def test_an_unwritable_directory_is_no_error(package, monkeypatch):
    calls = counted(monkeypatch)
    monkeypatch.setattr(os, "replace", lambda *args: exec("raise OSError(13, 'denied')"))
    preamble.core_source()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    preamble.core_source()
    assert len(calls) == 2 and not list((package / "__pycache__").iterdir())


# ---- who may write the kept copy


@pytest.fixture
def umask():
    old = os.umask(0)
    yield
    os.umask(old)


def test_the_kept_copy_has_the_mode_of_the_source_whatever_the_umask_is(package, umask):
    preamble.core_source()
    (kept,) = (package / "__pycache__").glob(preamble.SHIPPED + "*")
    assert kept.stat().st_mode & 0o777 == (package / "core/one.py").stat().st_mode & 0o644


@pytest.mark.parametrize("change", ["others", "group", "owner", "link", "fifo"])
@pytest.mark.parametrize("place", ["__pycache__", "."])
def test_a_copy_that_others_may_have_written_is_not_used(package, monkeypatch, change, place):
    calls = counted(monkeypatch)
    good = preamble.core_source()
    (kept,) = (package / "__pycache__").glob(preamble.SHIPPED)
    shipped = place == "."
    stamp = preamble.stamp_of_contents() if shipped else kept.read_bytes().partition(b"\n")[0]
    path = package / place / preamble.SHIPPED
    kept.unlink()
    path.write_bytes(stamp + b"\nbad\0bad = 1\n")
    (package / "core/one.py").chmod(0o644)
    path.chmod(0o644)
    assert preamble.aligned_source() == b"bad\0bad = 1\n" and len(calls) == 1
    if change in ("others", "group"):
        path.chmod(0o646 if change == "others" else 0o664)
    elif change == "owner":
        found = os.stat(path)
        monkeypatch.setattr(os, "geteuid", lambda: 1234567)
        real = os.fstat
        fields = list(found)
        fields[4] = 7654321
        monkeypatch.setattr(os, "fstat", lambda fd: (real(fd), os.stat_result(fields))[1])
    else:
        moved = path.rename(package / "moved")
        path.symlink_to(moved) if change == "link" else os.mkfifo(path)
    assert preamble.core_source() == good and len(calls) == 2


def test_a_foreign_temporary_name_is_not_followed(package, monkeypatch):
    victim = package / "victim"
    monkeypatch.setattr(os, "urandom", lambda n: b"\0" * n)
    (package / "__pycache__").mkdir(exist_ok=True)
    name = "%s.%d.00000000" % (preamble.SHIPPED, os.getpid())
    (package / "__pycache__" / name).symlink_to(victim)
    preamble.core_source()
    assert not victim.exists()
