"""mitogen.minify: smaller source, the same code on the same lines."""

import ast
import dis
import importlib.util
import pathlib
import sys
import types
import warnings
import zlib

import pytest

import mitogen
from mitogen.minify import minimize_source
from tests.checkout import ROOT

STDLIB = pathlib.Path(ast.__file__).parent
SAMPLE = 150  # Files of the standard library; all of it takes a minute.


def is_text(statement):
    """Return whether a statement is a string without brackets."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
        return False
    value = statement.value
    return isinstance(value.value, str) and statement.col_offset == value.col_offset


def without_docstrings(tree):
    """Drop docstrings from a syntax tree as the minifier does from the source."""
    for node in ast.walk(tree):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds):
            rest = list(node.body)
            while rest and is_text(rest[0]):
                last = rest.pop(0)
            if not rest and node.body and not isinstance(node, ast.Module):
                zero = ast.copy_location(ast.Constant(0), last)
                zero.end_lineno = last.lineno
                rest = [ast.copy_location(ast.Expr(zero), zero)]
            node.body = rest
    return tree


def without_annotations(tree):
    """Drop annotations from a syntax tree as the minifier does from the source."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [bare(statement) for statement in statements])
    return tree


def bare(statement):
    if not isinstance(statement, ast.AnnAssign) or statement.value is None:
        return statement
    return ast.copy_location(ast.Assign([statement.target], statement.value), statement)


def constant_key(constant):
    """Return a key that distinguishes constants: 1 from 1.0, frozensets in any order."""
    if isinstance(constant, types.CodeType):
        return code_key(constant)
    if isinstance(constant, tuple):
        return [constant_key(item) for item in constant]
    if isinstance(constant, frozenset):
        return sorted(map(repr, constant))
    return repr(constant)


def code_key(code):
    """Return everything in a code object except columns."""
    lines = code.co_lines() if hasattr(code, "co_lines") else dis.findlinestarts(code)
    return [
        code.co_code,
        code.co_name,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_flags,
        code.co_firstlineno,
        list(lines),
        getattr(code, "co_exceptiontable", None),
        [constant_key(constant) for constant in code.co_consts],
    ]


def compiled(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return code_key(compile(source, "<test>", "exec", dont_inherit=True))


def parsed(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def assert_same_code(source, **options):
    """Minify a source, check the result and return it."""
    small = minimize_source(source, **options)
    tree = parsed(source)
    if options.get("strip_annotations"):
        tree = without_annotations(tree)
    if "__doc__" not in source:
        tree = without_docstrings(tree)
    assert compiled(small) == compiled(tree)
    assert minimize_source(small, **options) == small
    return small


def sample():
    paths = sorted([*STDLIB.glob("*.py"), *STDLIB.glob("[a-su-z]*/*.py")])  # No tests.
    paths = [path for path in paths if path.exists()]  # Debian's links may lead outside a chroot.
    paths = [path for path in paths if path.stat().st_size < 20000]  # Large ones take too long.
    return paths[:: max(1, len(paths) // SAMPLE)]


def test_the_standard_library_stays_the_same_code():
    before = after = 0
    assert len(sample()) > 100
    for path in sample():
        try:
            source = importlib.util.decode_source(path.read_bytes())
            tree = parsed(source)
            if "__doc__" not in source:
                tree = without_docstrings(tree)
            expected = compiled(tree)
        except (SyntaxError, UnicodeDecodeError):  # Files with deliberate errors.
            continue
        small = minimize_source(source)
        assert compiled(small) == expected, path
        before += len(zlib.compress(source.encode("utf-8", "replace"), 9))
        after += len(zlib.compress(small.encode("utf-8", "replace"), 9))
    assert after < 0.75 * before


EXACT = {
    "empty": ("", ""),
    "comment only": ("# a\n\n# b\n", ""),
    "no line end": ("x = 1", "x=1\n"),
    "comments and blanks": ("x = 1  # one\n\n   \n# two\ny = 2", "x=1\n\n\n\ny=2\n"),
    "module docstring": ('"""Doc\nmore."""\nx = 1\n', "\n\nx=1\n"),
    "only a docstring": ('"""Doc."""\n', ""),
    "raw docstring": ("def f():\n    r'''d'''\n    return 1", "def f():\n\n return 1\n"),
    "joined docstring": (
        "def f():\n    'a' \\\n    'b'\n    return 1",
        "def f():\n\n\n return 1\n",
    ),
    "bytes are no docstring": ("def f():\n    b'a'\n    return 1", "def f():\n b'a'\n return 1\n"),
    "f-strings are none": ("def f():\n    f'a'\n    return 1", "def f():\n f'a'\n return 1\n"),
    "part of an expression": ("def f():\n    'a'.b()\n", "def f():\n 'a'.b()\n"),
    "docstring only, def": ("def f():\n    '''a\n    b'''\n\nx = 1", "def f():\n 0\n\n\nx=1\n"),
    "docstring only, class": ("class A:\n  'a'\n  # end\n", "class A:\n 0\n"),
    "docstring only, one line": ("class A: 'a'\ndef f(): 'b'", "class A:0\ndef f():0\n"),
    "docstring, one line": ("def f(): 'a'; return 1", "def f():return 1\n"),
    "docstring and semicolon": ("def f():\n 'a';\n return 1", "def f():\n\n return 1\n"),
    "two strings at the head": ("'a'\n'b'\nfrom __future__ import annotations", None),
    "string in the middle": ("x = 1\n'''about\nx'''\ny = 1", "x=1\n0\n\ny=1\n"),
    "strings between semicolons": ("x = 1; 'a'; y = 1", "x=1;0;y=1\n"),
    "string in a block": ("if x:\n    'a'\nelse:\n    'b'", "if x:\n 0\nelse:\n 0\n"),
    "docstring is read": ("'''a'''\nprint(__doc__)", "'''a'''\nprint(__doc__)\n"),
    "lambda in a header": ("def f() -> lambda: 0: 'a'", "def f()->lambda:0:0\n"),
    "async": ("async def f():\n    'a'\n    await g()", "async def f():\n\n await g()\n"),
    "indentation": ("if a:\n\tif b:\n\t\tc\n\td\n", "if a:\n if b:\n  c\n d\n"),
    "tabs and spaces": ("if a:\n\tb\n        c\n", "if a:\n b\n c\n"),
    "form feeds": ("\fx = 1\n \f\ny\f=\f2\n  \fz = 3\n", "x=1\n\ny=2\nz=3\n"),
    "CRLF": ("if a:\r\n    b\r\n    c = '''1\r\n2'''\r\n", "if a:\n b\n c='''1\n2'''\n"),
    "CR": ("a\rb\r", "a\nb\n"),
    "byte order mark": ("\ufeffx = 1\n", "x=1\n"),
    "encoding cookie": ("# -*- coding: latin-1 -*-\nx = '\xe9'\n", "\nx='\xe9'\n"),
    "continuation": ("x = 1 + \\\n    2\n", "x=1+\\\n2\n"),
    "continuation of a word": ("def f():\n return\\\n  x", "def f():\n return\\\nx\n"),
    "in brackets": ("f(1,  # one\n\n  2 \\\n  , 3)", "f(1,\n\n2\n,3)\n"),
    "string, then brackets": ("f('''a\nb''', [\n1])", "f('''a\nb''',[\n1])\n"),
    "one-line suites": ("if a: b; c\nelse : d", "if a:b;c\nelse:d\n"),
    "trailing semicolon": ("a; b;", "a;b\n"),
    "names": ("not  a  in  b", "not a in b\n"),
    "strings and words": ("x = 'a' if not 'b' else b'c'", "x='a'if not'b'else b'c'\n"),
    "strings in a row": ("x = '' 'a' \"b\" \"\" 'c'", None),
    "numbers": ("x = 1 if 2.5 else 0x1f or .5", "x=1 if 2.5 else 0x1f or.5\n"),
    "attribute of a number": ("x = 1 .real + 1..real + 1.5 .real", "x=1 .real+1..real+1.5 .real\n"),
    "glued keyword": ("x = 0x1for y in z", None),
    "signs": ("x = -1 ** - y - - z", "x=-1**-y--z\n"),
    "dots": ("from . import a\nfrom .. b import c\n", "from.import a\nfrom..b import c\n"),
    "ellipsis": ("x [ ... , : , : : 2]", "x[...,:,::2]\n"),
    "unicode": ("\xe4rger = \u5b57 = 'stra\xdfe'  # \xfc", "\xe4rger=\u5b57='stra\xdfe'\n"),
    "decorator": ("@ a . b ( 1 )\ndef f ( ) : pass", "@a.b(1)\ndef f():pass\n"),
    "walrus": ("f((x := 1), y=2)", "f((x:=1),y=2)\n"),
    "f-string": ("x = f'{a  +  b!r:>{w}}  #  {{ }}' 'c'", "x=f'{a  +  b!r:>{w}}  #  {{ }}' 'c'\n"),
    "f-string, raw": ("x = rf'\\{a}\\N{b  }' + rf'{a:\\d{b}}'", None),
    "f-string, names": ("x = f'\\N{DIGIT ONE}{a:\\N{DIGIT TWO}}\\''  +  1", None),
    "f-string, triple": ('x = f"""{\na  }" ""{{  # \n"""  +  1\ny = 1', None),
    "f-string, quotes": ('x = f\'{a["b  c"]}{f"{d  }"!r}"""\'  +  1', None),
    "f-string, equals": ("x = f'{a = }{ {1: 2}[1] }{(lambda: 1)()}{x:=5}'  +  1", None),
}


@pytest.mark.parametrize("name", EXACT)
def test_minified_text_is_exact(name):
    source, expected = EXACT[name]
    if "\r" in source or "\ufeff" in source:
        assert minimize_source(source) == expected
    elif "0x1for" in source:
        assert minimize_source("x = [%s]" % source[4:]) == "x=[0x1for y in z]\n"
    else:
        try:
            small = assert_same_code(source)
        except SyntaxError as error:
            small = minimize_source(source)
            assert expected is not None, error
        if expected is not None:
            assert small == expected


@pytest.mark.skipif(sys.version_info < (3, 12), reason="quotes may nest since Python 3.12")
@pytest.mark.parametrize(
    "source",
    [
        "x = f'{a['b  c']}'  +  1",
        "x = f'{a  # }\n}'  +  1",
        "x = f'{f'{f'{1}'}'}'  +  1",
        "x = f'''{a:{b\n}}''' + 1",
        "x = f'{'}'}  {'\\n'}'  +  1",
    ],
)
def test_nested_f_strings(source):
    assert_same_code(source)


UNREADABLE = [
    "\u2118  =  1  # A letter, but not for regular expressions.",
    "x = $",
    "x = 'abc\n",
    "x = '''abc\n",
    "f(1\n",
    "x = 1 + \\\n",
    "f)\n",
    "\\\n  x = 1\n",
    "if a:\n        b\n    c\n",
    "def f(\n",
    "def f()\n  1",
    "x = f'abc\n",
    "x = f'{abc'",
    "x = f'{a'",
    "x = f'{a $}'",
    "x = f'{a:b",
    "x = f'{\n",
]


@pytest.mark.parametrize("source", UNREADABLE)
def test_unreadable_source_is_returned_unchanged(source):
    assert minimize_source(source) == source


ANNOTATED = '''
from __future__ import annotations
from typing import List
MYPY = False
if MYPY:
    import a
x: int = 3
y: "List[int]"
def f(a: int, b: "List[int]" = [1, 2], *c: int, d: {1: 2} = {3: 4}, **e: int) -> "List[int]":
    """Doc."""
    local: int = {1: 2}[1]
    other: int
    a.b: int = 3
    if MYPY:
        import b
    return lambda x: x
class A:
    z: int = 3
    def g(
        self: "A",  # me
        a: "int"
        = 3,
    ) -> None: q: int = 1
    async def h(self, /, *, a: int) -> int:
        for i in a: j: int = 1
        if i: k = {1: 2}
        with i as j: pass
    class B:
        w: int = 2
    def k(self, a=lambda x, y: 1, b: int = 2): pass
    x: int = 4
    m = lambda a: 1
'''


def test_annotations_are_stripped():
    small = minimize_source(ANNOTATED, strip_annotations=True)
    tree = without_docstrings(without_annotations(parsed(ANNOTATED)))
    for body in (tree.body, tree.body[6].body):  # if MYPY
        body[:] = [n for n in body if not (isinstance(n, ast.If) and n.test.id == "MYPY")]
    wanted = {line for line in ast.unparse(tree).splitlines() if "for i" not in line}
    wanted -= {"MYPY = False", "from __future__ import annotations", "y: 'List[int]'"}
    got = set(ast.unparse(parsed(small)).splitlines())
    assert {line for line in wanted - got if "def k" not in line and "j" not in line} == set()
    assert "def f(a,b=[1,2],*c,d={3:4},**e):\n\n local={1:2}[1]\n other:int\n a.b=3\n\n" in small
    assert "def g(\nself,\na\n=3,\n):q=1\n" in small
    assert "z=3" in small and "w=2" in small and "\n x=4" in small
    assert "\nx=3\n" in small and "\ny" not in small and "__future__" not in small
    for line in ("class A:", " def g(", " m=lambda a:1"):
        indented = line.replace(" ", "    ", 1) if line[0] == " " else line
        spaced = indented.replace("m=lambda a:1", "m = lambda a: 1")
        assert small.split("\n").index(line) == ANNOTATED.split("\n").index(spaced)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n  if MYPY:\n    a\n",
        "if MYPY:\n  a\nelse: b\n",
        "if TYPE_CHECKING:\n  a\nelif c:\n  b\n",
    ],
)
def test_guarded_blocks_with_other_branches_stay(source):
    small = minimize_source(source, strip_annotations=True)
    assert compiled(small) == compiled(source)


def test_typing_only_blocks_are_removed():
    assert minimize_source("a\nif TYPE_CHECKING:\n  b\n", strip_annotations=True) == "a\n"
    assert minimize_source("if MYPY: a\nif not MYPY:\n  c\n", strip_annotations=True) == (
        "\nif not MYPY:\n c\n"
    )


@pytest.mark.parametrize(
    "source, expected",
    [
        ("MYPY = False\nif MYPY:\n  a\nb\n", "\n\n\nb\n"),
        ("TYPE_CHECKING = False\nb\n", "\nb\n"),
        ("MYPY = False\nif MYPY:\n  a\nelse:\n  b\n  if c:\n   d\n", "\n\n\n\nb\nif c:\n d\n"),
        ("if c:\n  b\n  if MYPY:\n   a\n  else:\n    b\n  c\n", "if c:\n b\n\n\n\n b\n c\n"),
        ("MYPY = False\nif MYPY:\n  a\nelse: b\n", None),
        ("if MYPY:\n a\nelse:\n if MYPY:\n  b\n c\n", "\n\n\n\n\nc\n"),
        ("MYPY = False\nclass A:\n  c\n  if MYPY:\n    a\n  b\n", "\nclass A:\n c\n\n\n b\n"),
        ("MYPY = False\ndef f():\n  if MYPY:\n    a\n", None),
        ("MYPY = True\n", None),
        ("MYPY = False; b\n", None),
        ("class A:\n  MYPY = False\n", None),
    ],
)
def test_unused_guards_are_removed(source, expected):
    small = minimize_source(source, strip_annotations=True)
    assert small == expected or expected is None and compiled(small) == compiled(source)
    assert minimize_source(small, strip_annotations=True) == small


def test_a_header_without_annotations_is_on_its_first_line():
    source = "def f(\n  a: int,\n  b: str = 'x',\n) -> None:\n  return a\nf(\n1)\n"
    small = minimize_source(source, strip_annotations=True)
    assert small == "def f(a,b='x'):\n\n\n\n return a\nf(\n1)\n"
    before, after = (
        [c for c in compile(text, "x.py", "exec").co_consts if isinstance(c, types.CodeType)]
        for text in (source, small)
    )
    assert code_key(before[-1]) == code_key(after[-1])
    for untouched in ('def f(\na="""b\nc"""):\n d\n', "def f(\na):b\n"):
        assert minimize_source(untouched, strip_annotations=True) == untouched


@pytest.mark.parametrize(
    "source, expected",
    [
        ("from __future__ import annotations\nx: int\ny\n", "\n\ny\n"),
        ("from __future__ import annotations, generator_stop\n", None),
        ("class A:\n  x: int\n  y: int = 1\n", "class A:\n\n y=1\n"),
        ("class A:\n  y = 1\n  x: int\nz\n", "class A:\n y=1\n\nz\n"),
        ("class A:\n  x: int\n  y: int\nb\n", "class A:\n\n 0\nb\n"),
        ("class A:\n  x: int\n", "class A:\n 0\n"),
        ("x: int; y\n", None),
        ("class A:\n  x: lambda: 1 = 2\n", None),
        ("class A(typing.NamedTuple):\n  x: int\n", "class A(typing.NamedTuple):\n x:int\n"),
        ("@dataclass\nclass A:\n  x: int = 2\n", "@dataclass\nclass A:\n x:int=2\n"),
        ("def f():\n  x: int\n  x[0]: int = 1\n", "def f():\n x:int\n x[0]=1\n"),
        ("if a:\n  x: int\nelse:\n  y: int\n", "if a:\n 0\nelse:\n 0\n"),
    ],
)
def test_annotations_of_variables_are_stripped(source, expected):
    small = minimize_source(source, strip_annotations=True)
    assert small == expected or expected is None and compiled(small) == compiled(source)
    assert minimize_source(small, strip_annotations=True) == small


@pytest.mark.parametrize("name", ["dataclasses.py", "asyncio/events.py", "typing.py", "enum.py"])
def test_annotations_of_the_standard_library_are_stripped(name):
    source = (STDLIB / name).read_text(encoding="utf-8")
    compile(minimize_source(source, strip_annotations=True), name, "exec", dont_inherit=True)


OWN = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "mitogen").rglob("*.py"))}
#: Files that keep the names of the guards, to search for them. None is sent.
NAME_THE_GUARDS = {
    "mitogen/bootstrap/minify.py",
    "mitogen/importing/scan_imports.py",
    "mitogen/importing/graph.py",
}


@pytest.mark.parametrize("name", OWN)
def test_our_own_modules_are_sent_without_annotations(name):
    path = OWN[name]
    source = path.read_text(encoding="utf-8")
    small = minimize_source(source, strip_annotations=True)
    trees = [parsed(source), parsed(small)]
    assert ("MYPY" in small or "TYPE_CHECKING" in small) == (name in NAME_THE_GUARDS)
    for node in ast.walk(trees[1]):
        assert getattr(node, "annotation", None) is None or isinstance(node, ast.AnnAssign)
        assert getattr(node, "returns", None) is None
    guarded = [
        set(range(node.lineno, (node.orelse[0].lineno if node.orelse else node.end_lineno + 1)))
        for node in ast.walk(trees[0])
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    before, after = (
        [
            (n.name, n.lineno)
            for n in ast.walk(tree)
            if isinstance(n, (ast.FunctionDef, ast.ClassDef))
        ]
        for tree in trees
    )
    hidden = set().union(*guarded)
    assert sorted(after) == sorted(item for item in before if item[1] not in hidden)


def test_given_names_are_replaced():
    source = "self.first = first['first']  # first\n\nx.first.other(first=1)"
    small = minimize_source(source, rename={"first": "a", "other": "b"})
    assert small == "self.a=a['first']\n\nx.a.b(a=1)\n"


def test_public_names():
    assert mitogen.minify.__all__ == ["minimize_source"]
