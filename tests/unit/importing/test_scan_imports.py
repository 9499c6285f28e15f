"""mitogen.imports: the imports in bytecode, on every CPython found here."""

import json
import pathlib
import subprocess
import sys
import types

import pytest

from mitogen.importing import scan_imports
from mitogen.importing.scan_imports import all_imports, codeobj_imports
from tests import hosts

DIRECTORY = pathlib.Path(scan_imports.__file__).resolve().parent

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


def test_imports_are_listed_in_order():
    assert list(codeobj_imports(compiled(SOURCE))) == OWN


def test_imports_in_functions_are_flagged_in_nested_code():
    assert list(all_imports(compiled(SOURCE))) == [(*row, False) for row in OWN] + NESTED


def test_extended_arguments():
    names = "".join("v%d = %d.5\n" % (number, number) for number in range(300))
    source = names + "from late import x, y\nimport later.still\nfrom .. import up\n"
    assert list(codeobj_imports(compiled(source))) == [
        (0, "late", ("x", "y")),
        (0, "later.still", ()),
        (2, "", ("up",)),
    ]


def test_more_than_65536_constants():
    names = "x = [\n%s]\n" % "".join("%d.5,v%d,\n" % (n, n) for n in range(66000))
    assert list(codeobj_imports(compiled(names + "from .z import w"))) == [(1, "z", ("w",))]


def test_code_without_imports():
    assert list(all_imports(compiled("def f(a, b=1):\n  return a.b[1:2]\nf(3)"))) == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with Python 3.12")
def test_a_generic_class_body_is_not_a_function():
    assert list(all_imports(compiled("class A[T]:\n  import b"))) == [(0, "b", (), False)]


def test_a_generic_scope_is_not_a_function():
    code = compiled("def f(): import a").co_consts[0]
    assert scan_imports._is_function(code)
    assert not scan_imports._is_function(code.replace(co_name="<generic parameters of A>"))


def test_an_operand_without_its_loads_is_skipped():
    code = types.SimpleNamespace(
        co_code=bytes([scan_imports._IMPORT_NAME, 0]), co_consts=(), co_names=("a",)
    )
    assert list(codeobj_imports(code)) == []


def test_an_unknown_layout_is_left_to_dis(monkeypatch):
    monkeypatch.setattr(scan_imports, "_layout", lambda: None)
    test_imports_are_listed_in_order()
    test_imports_in_functions_are_flagged_in_nested_code()
    test_extended_arguments()


@pytest.mark.parametrize(
    "changed",
    [
        {"_PROBE": "import a"},  # An instruction occurs once only.
        {"_PROBE": "import a, b; a.c; b.d; a; b"},
        {"_PROBE": "import b, a, b; a.c; b.d; global e, f; e; f"},
        {"_LOADS": ("LOAD_NAME", "NO_SUCH_INSTRUCTION")},
        {"_JUMPS": ()},
        {"_JUMP_PROBE": "b"},
    ],
)
def test_a_layout_that_cannot_be_learned_is_unknown(changed, monkeypatch):
    for name, value in changed.items():
        monkeypatch.setattr(scan_imports, name, value)
    assert scan_imports._layout.__wrapped__() is None


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import scan_imports
code = compile(sys.argv[2], "<test>", "exec")
print(json.dumps([
    list(scan_imports.codeobj_imports(code)),
    list(scan_imports.all_imports(code)),
    list(scan_imports._imports_by_dis(code)),
    scan_imports._layout() is not None,
]))
"""
LAZY = """
lazy import x
lazy import x.y as z
lazy from .. import more
"""


@pytest.mark.parametrize("minor", range(9, 16))
def test_every_python_is_read(minor):
    python = hosts.find_pythons().get((3, minor))
    if python is None:
        pytest.skip("no Python 3.%d; see make_forky in scripts/_forky" % minor)
    source = SOURCE + "".join("v%d = %d.5\n" % (n, n) for n in range(300)) + "from z import w\n"
    expected = [*OWN, (0, "z", ("w",))]
    if minor >= 15:
        source += LAZY
        expected += [(0, "x", ()), (0, "x.y", ()), (2, "", ("more",))]
    arguments = [python, "-S", "-E", "-W", "error", "-c", SCRIPT, str(DIRECTORY), source]
    own, everything, by_dis, learned = json.loads(subprocess.check_output(arguments))
    assert own == by_dis == json.loads(json.dumps(expected))
    assert everything == json.loads(json.dumps([(*row, False) for row in expected] + NESTED))
    assert learned
