"""mitogen.imports: what code imports, read from its bytecode, on every CPython found here."""

import json
import pathlib
import subprocess
import sys
import types

import pytest

from mitogen import imports

ROOT = pathlib.Path(__file__).resolve().parents[2]

SOURCE = """
import a
import a.b as ab, c
from d import e, f as g
from . import h
from ..i.j import k
from l import *
x = 1234567
def function():
    import m
    class Inner:
        from n import o
    return lambda: [__import__("unseen") for _ in x]
class Outer:
    import p
    def method(self):
        from .. import q
try:
    import r
except ImportError:
    r = None
MYPY = False
if MYPY:
    import unseen
    from unseen import those
    if x:
        import unseen
if typing.TYPE_CHECKING:
    import unseen
else:
    import s
def later():
    if TYPE_CHECKING:
        import unseen
    import t
    if MYPY or x:
        import u
if not MYPY:
    import v
"""

OWN = [
    (0, "a", ()),
    (0, "a.b", ()),
    (0, "c", ()),
    (0, "d", ("e", "f")),
    (1, "", ("h",)),
    (2, "i.j", ("k",)),
    (0, "l", ("*",)),
    (0, "r", ()),
    (0, "s", ()),
    (0, "v", ()),
]
NESTED = [
    (0, "m", (), True),
    (0, "n", ("o",), True),
    (0, "p", (), False),
    (2, "", ("q",), True),
    (0, "t", (), True),
    (0, "u", (), True),
]


def compiled(source):
    return compile(source, "<test>", "exec")


def test_the_code_itself_in_order():
    assert list(imports.codeobj_imports(compiled(SOURCE))) == OWN


def test_nested_code_tells_what_is_in_functions():
    assert list(imports.all_imports(compiled(SOURCE))) == [(*row, False) for row in OWN] + NESTED


def test_extended_arguments():
    names = "".join("v%d = %d.5\n" % (number, number) for number in range(300))
    source = names + "from late import x, y\nimport later.still\nfrom .. import up\n"
    assert list(imports.codeobj_imports(compiled(source))) == [
        (0, "late", ("x", "y")),
        (0, "later.still", ()),
        (2, "", ("up",)),
    ]


def test_more_than_65536_constants():
    names = "x = [\n%s]\n" % "".join("%d.5,v%d,\n" % (n, n) for n in range(66000))
    assert list(imports.codeobj_imports(compiled(names + "from .z import w"))) == [(1, "z", ("w",))]


def test_nothing_is_imported():
    assert list(imports.all_imports(compiled("def f(a, b=1):\n  return a.b[1:2]\nf(3)"))) == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with Python 3.12")
def test_a_generic_class_runs_at_once():
    assert list(imports.all_imports(compiled("class A[T]:\n  import b"))) == [(0, "b", (), False)]


def test_a_generic_scope_is_not_a_function():
    code = compiled("def f(): import a").co_consts[0]
    assert imports._is_function(code)
    assert not imports._is_function(code.replace(co_name="<generic parameters of A>"))


def test_small_integers_have_an_instruction_of_their_own_in_3_14(monkeypatch):
    small, const, name = 250, imports._LOAD_CONST, imports._IMPORT_NAME
    monkeypatch.setattr(imports, "_LOAD_SMALL_INT", small)
    code = types.SimpleNamespace(
        co_code=bytes([small, 2, const, 0, name, 0, name, 0]),
        co_consts=(("b",),),
        co_names=("a",),
    )
    assert list(imports.codeobj_imports(code))[0] == (2, "a", ("b",))


def test_what_does_not_look_like_an_import_is_passed_over():
    code = types.SimpleNamespace(
        co_code=bytes([imports._IMPORT_NAME, 0]), co_consts=(), co_names=("a",)
    )
    assert list(imports.codeobj_imports(code)) == []


def other_pythons():
    """Return {version: path} of the Pythons that pyenv has."""
    try:
        root = subprocess.check_output(["pyenv", "root"], universal_newlines=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return {}
    found = {}
    for path in sorted(pathlib.Path(root, "versions").glob("3.*/bin/python")):
        version = tuple(int(part) for part in path.parts[-3].split(".")[:2] if part.isdigit())
        if version >= (3, 9):
            found["%d.%d" % version] = path
    return found


PYTHONS = other_pythons()
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import imports
code = compile(sys.argv[2], "<test>", "exec")
print(json.dumps([list(imports.codeobj_imports(code)), list(imports.all_imports(code))]))
"""


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_on_python(version):
    if version not in PYTHONS:
        pytest.skip("pyenv has no Python %s" % version)
    long_source = (
        SOURCE + "".join("v%d = %d.5\n" % (n, n) for n in range(300)) + "from z import w\n"
    )
    arguments = [
        str(PYTHONS[version]),
        "-S",
        "-E",
        "-c",
        SCRIPT,
        str(ROOT / "mitogen"),
        long_source,
    ]
    own, everything = json.loads(subprocess.check_output(arguments))
    expected = [*OWN, (0, "z", ("w",))]
    assert own == json.loads(json.dumps(expected))
    assert everything == json.loads(json.dumps([(*row, False) for row in expected] + NESTED))
