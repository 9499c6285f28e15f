"""The shape of mitogen/: allowed imports, order within core, sizes, Python 3.6, `__all__`.

The checks read the source; of mitogen, only minify and core are imported.

The tables name modules by their dotted name below mitogen: "core", "ansible.broker"; the package
itself is "__init__". A file in a folder that no table knows fails, and so does a table entry that
no file matches.
"""

import ast
import functools
import io
import json
import pathlib
import re
import subprocess
import tokenize

import pytest

from mitogen import core
from mitogen.bootstrap import minify
from tests import hosts
from tests.checkout import ROOT

HERE = pathlib.Path(__file__).resolve()
PACKAGE = ROOT / "mitogen"


def name_of(path):
    """Return the dotted name of a file of mitogen/ or ansible_plugins/."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def below_mitogen(path):
    """Return a file's name in the tables, "" for a file of ansible_plugins/."""
    top, _, name = name_of(path).partition(".")
    return (name or "__init__") if top == "mitogen" else ""


OWN_FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {below_mitogen(path): path for path in OWN_FILES}
EVERY_FILE = OWN_FILES + sorted((ROOT / "ansible_plugins").rglob("*.py"))
# Without the files that playbooks bring along: their relative imports are Ansible's.
OTHER_FILES = [
    path
    for top in ("bench", "docs", "examples", "tests")
    for path in sorted((ROOT / top).rglob("*.py"))
    if ROOT / "tests" / "ansible" / "playbooks" not in path.parents
]

# Folder -> the folders that its files may import. Within a folder any file may import any other, as
# long as there is no circle. The order is bottom-up: no folder imports one further down here.
ROOMS = {
    "core": set(),
    "limits": {"core"},
    "calls": {"core", "limits"},
    "sftp": set(),
    "bootstrap": {"core"},
    "methods": {"core", "bootstrap"},
    "tree": {"core", "limits", "calls", "bootstrap", "methods"},
    "importing": {"core", "limits", "calls", "bootstrap"},
    "programs": {"core", "limits", "calls", "bootstrap"},
    "transfer": {"core", "calls"},
    "services": {"core", "limits", "transfer"},
    "terminal": {"core", "bootstrap", "programs"},
    "fakessh": {"core", "methods", "programs", "terminal"},
    "compat": {"core", "bootstrap", "tree", "importing"},
}
# Files at the top are the ones programs import. They may import each other and every folder except
# PRIVATE ones; a folder imports none of them except these, each with its reason.
PRIVATE = {"ansible"}
PUBLIC_FOR_ROOMS = {
    ("bootstrap", "identity"): "the package's directory",
    ("fakessh", "master"): "`python -m mitogen.fakessh` is a program of its own",
    ("tree", "identity"): "the version and the position in the tree",
    ("services", "select"): "a pool waits on many receivers",
    ("fakessh", "unix"): "stand-ins join by a UNIX domain socket",
    ("compat", "select"): "mitogen.master has its names for compatibility",
    ("compat", "minify"): "the same",
}
# Folders that may import anything.
ABOVE_ALL = {"ansible", "demo"}
# (module, its import against the order): the reason.
UPWARD = {
    ("core", "compat.lookup"): "registers old names on the controller",
    ("calls.first_call", "compat.lookup"): "registers old names in a child",
}
# Never sent to a child: importing/module_server.py sends a stand-in.
CONTROLLER_ONLY = {
    *("aio", "cli", "imports", "master", "minify"),
    *("bootstrap.minify", "bootstrap.preamble", "bootstrap.renames"),
    *("importing.scan_imports", "importing.finder", "importing.graph", "importing.paths"),
    *("importing.module_server", "importing.data_files", "compat.master_names"),
}

FILE_LIMIT, FUNCTION_LIMIT = 600, 60  # code lines

# Files over the limit, with their permitted number of code lines, which never grows.
LARGE_FILES = {}
# Functions over the limit, each with its reason.
LONG_FUNCTIONS = {
    ("core.codec", "_put_item"): "the encoder's loop: a function per type costs a call per value",
    ("core.codec", "decode_next"): "the decoder's state is in its closure",
    ("core.codec", "take"): "the decoder's loop: likewise",
}
# Modules without `__all__`, each with its reason.
WITHOUT_ALL = {
    **dict.fromkeys(
        ["core.%s" % name for name in core.PREAMBLE],
        "every byte goes to every child; core lists the names",
    ),
    "core": "its names come from its files",
    "demo.accounts": "a demo, read together with its caller",
    "demo.clocks": "the same",
    "demo.facts": "the same",
}


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_typing_only(node):
    """Return whether a node is `if MYPY:` or `if TYPE_CHECKING:`, whose imports never run."""
    return isinstance(node, ast.If) and any(
        isinstance(each, (ast.Name, ast.Attribute))
        and getattr(each, "id", getattr(each, "attr", "")) in ("MYPY", "TYPE_CHECKING")
        for each in ast.walk(node.test)
    )


def by_name(node):
    """Return the mitogen module that a call imports by name, given as a literal, or None."""
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if function in ("import_module", "__import__"):
            return str(node.args[0].value)
    return None


def imports(path, tree):
    """Yield (dotted module, name taken from it, line, whether inside a function) of each import.

    Imports that never run are left out. The name is None for `import module`.
    """
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]

    def visit(node, inside):
        if is_typing_only(node):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, node.lineno, inside
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + ([node.module] if node.module else [])
            for alias in node.names:
                yield ".".join(base), alias.name, node.lineno, inside
        elif by_name(node):
            yield by_name(node), None, node.lineno, inside
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(tree, False)


def own_modules(path, tree=None):
    """Yield (module as in the tables, line, whether inside a function) of each import of our own.

    A folder is its `__init__`. The bare package is left out, for the names that it defines. A
    module that does not exist is yielded under its name: no table knows it.
    """
    for module, name, line, inside in imports(path, tree or parse(path)):
        top, _, below = module.partition(".")
        if top == "ansible_plugins":
            yield top, line, inside
        elif top == "mitogen":
            taken = ".".join(part for part in (below, name) if part)
            found = taken if taken in MODULES else below
            if not found and name and name not in definitions(parse(MODULES["__init__"])):
                found = name
            if found:
                yield found, line, inside


def room_of(module):
    """Return the folder that a module is in, "" for a file at the top."""
    top = module.partition(".")[0]
    if MODULES.get(top, PACKAGE).name == "__init__.py" and top != "__init__":
        return top
    return ""


def may_import(importer, imported):
    """Return whether module *importer* may import *imported*, both as in the tables."""
    here, there = room_of(importer), room_of(imported)
    if here == there or here in ABOVE_ALL or not here:
        return there not in PRIVATE or here == there or here in PRIVATE
    if not there:
        return (here, imported) in PUBLIC_FOR_ROOMS
    return there in ROOMS[here]


def test_imports_point_one_way():
    found = {
        (module, imported)
        for module, path in MODULES.items()
        for imported, _, _ in own_modules(path)
        if imported != module and not may_import(module, imported)
    }
    assert found - set(UPWARD) == set() and set(UPWARD) - found == set()


def test_the_table_lists_each_folder():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ROOMS) | ABOVE_ALL
    order = list(ROOMS)
    for room, below in ROOMS.items():
        assert all(order.index(each) < order.index(room) for each in below), room


def test_only_ansible_imports_ansible():
    wrong = []
    for path in EVERY_FILE:
        importer = below_mitogen(path) or "ansible_plugins"
        allowed = {"ansible": {"ansible", "ansible_plugins"}, "ansible_plugins": set()}
        for imported, line, _ in own_modules(path):
            there = imported.partition(".")[0]
            bad = importer.partition(".")[0] not in allowed.get(there, {importer.partition(".")[0]})
            bad = bad or (importer == "ansible_plugins" and there != "ansible")
            if bad:
                wrong.append("{}:{} imports {}".format(path.relative_to(ROOT), line, imported))
    assert not wrong, "\n".join(wrong)


def test_every_folder_is_a_package():
    without = {path.parent for path in OWN_FILES if not (path.parent / "__init__.py").exists()}
    assert sorted(str(path.relative_to(ROOT)) for path in without) == []


def test_table_entries_name_existing_files():
    tables = {
        "UPWARD": {name for pair in UPWARD for name in pair},
        "PUBLIC_FOR_ROOMS": {name for _, name in PUBLIC_FOR_ROOMS},
        "CONTROLLER_ONLY": CONTROLLER_ONLY,
        "LARGE_FILES": LARGE_FILES,
        "LONG_FUNCTIONS": {module for module, _ in LONG_FUNCTIONS},
        "WITHOUT_ALL": WITHOUT_ALL,
    }
    unknown = {table: sorted(set(names) - set(MODULES)) for table, names in tables.items()}
    assert {table: names for table, names in unknown.items() if names} == {}


def test_allowed_imports_are_in_use():
    """An entry that no import needs any longer would silently permit a new import."""
    there = {
        pair
        for name, path in MODULES.items()
        for other, _, _ in own_modules(path)
        for pair in ((room_of(name), room_of(other)), (room_of(name), other))
    }
    allowed = {(room, below) for room, rooms in ROOMS.items() for below in rooms}
    allowed |= set(PUBLIC_FOR_ROOMS)
    assert sorted(allowed - there) == []


@pytest.mark.parametrize(
    "statement, found",
    [
        ("from mitogen import core", ["core"]),
        ("from mitogen.ansible import broker, Error", ["ansible.broker", "ansible"]),
        ("from mitogen.ansible.broker.server import main", ["ansible.broker.server"]),
        ("import mitogen.ansible.broker.server", ["ansible.broker.server"]),
        ("import mitogen.nowhere.at_all", ["nowhere.at_all"]),
        ("from mitogen.nowhere import x", ["nowhere"]),
        ("from mitogen import nowhere", ["nowhere"]),
        ("import mitogen; from mitogen import is_master", []),
        ("from . import core", ["ansible"]),
        ("from .. import core", ["core"]),
        ("from .broker import main", ["ansible.broker"]),
        ("import_module('mitogen.calls.sender_waits')", ["calls.sender_waits"]),
        ("if MYPY:\n    from mitogen import core", []),
        ("import ansible_plugins", ["ansible_plugins"]),
        ("import os, ansible.core", []),
    ],
)
def test_imports_are_found(statement, found):
    path = PACKAGE / "ansible" / "sample.py"
    assert [module for module, _, _ in own_modules(path, ast.parse(statement))] == found


# ---- names in strings

# Strings that look like a module's name but are not, each with its meaning.
NO_MODULES = {
    "mitogen.ansible.doas": "Ansible's name of a plugin",
    "mitogen.ansible.local": "likewise",
    "mitogen.ansible.mitogen": "likewise",
    "mitogen.ansible.mitogen_": "the prefix of one",
    "mitogen.ansible.mitogen_free": "likewise",
    "mitogen.ansible.ssh": "likewise",
    "mitogen.bench": "a logger",
    "mitogen.core.Latch": "an attribute loaded from another module on first use",
    "mitogen.core.Receiver": "likewise",
    "mitogen.extra": "a module that test_finder.py makes",
    "mitogen.io": "a logger",
    "mitogen.nowhere": "a module that does not exist",
    "mitogen.parent.Timer": "an attribute loaded from another module on first use",
    "mitogen.profile": "a directory",
    "mitogen.py": "a file of ansible_plugins/",
    "mitogen.test.one": "a logger",
    "mitogen.test.two": "a logger",
    "mitogen.zygote": "a process's title",
}
# test_compatibility.py looks up its rows.
ROWS_OF_NAMES = ROOT / "tests" / "unit" / "api_names.py"


def dotted_texts(tree):
    """Yield (text, line) of each literal that looks like the name of something in mitogen."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"mitogen(\.\w+)+", node.value):
                yield node.value, node.lineno


def is_defined(dotted):
    """Return whether a dotted name below mitogen is a module or a name at the top of one."""
    module, _, name = dotted.rpartition(".")
    if module == "core" and hasattr(core, name):
        return True  # some are loaded late
    return dotted in MODULES or module in MODULES and name in definitions(parse(MODULES[module]))


def test_modules_named_in_strings_exist():
    """A name that is looked up only when first needed is checked by no other test."""
    assert ROWS_OF_NAMES in OTHER_FILES
    paths = [path for path in EVERY_FILE + OTHER_FILES if path not in (ROWS_OF_NAMES, HERE)]
    texts = [(text, path, line) for path in paths for text, line in dotted_texts(parse(path))]
    unknown = [
        "{}:{} names {}".format(path.relative_to(ROOT), line, text)
        for text, path, line in texts
        if text not in NO_MODULES and not is_defined(text.partition(".")[2])
    ]
    assert not unknown, "\n".join(unknown)
    assert sorted(set(NO_MODULES) - {text for text, _, _ in texts}) == []


# An import in the text of a program.
IMPORT = re.compile(r"(?:^|(?<=[\s;'\"]))(?:from|import) mitogen\.([\w.]*\w)", re.M)
NAMES = re.compile(r"(?:^|(?<=[\s;'\"]))from mitogen\.([\w.]*\w) import ([\w, ]+)", re.M)


def test_imports_in_strings_name_existing_modules():
    """Check the programs inside tests and documentation pages."""
    programs = [path for path in EVERY_FILE + OTHER_FILES if path != HERE]
    texts = [
        (path, node.value)
        for path in programs
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    pages = [*(ROOT / "docs").rglob("*.rst"), *ROOT.glob("*.rst")]
    texts += [(page, page.read_text(encoding="utf-8")) for page in pages]
    found = [(path, name) for path, text in texts for name in IMPORT.findall(text)]
    found += [
        (path, "{}.{}".format(module, name.split()[0]))
        for path, text in texts
        for module, names in NAMES.findall(text)
        for name in names.split(",")
        if name.strip() and not name.strip().startswith("_")
    ]
    assert len(found) > 20
    unknown = ["{} names {}".format(path, name) for path, name in found if not is_defined(name)]
    assert not unknown, "\n".join(unknown)


def test_imports_of_tests_programs_and_examples_exist():
    """Most of these files are not imported by the unit tests."""
    tests = {name_of(path) for path in OTHER_FILES}
    wrong = []
    for path in OTHER_FILES:
        here = path.relative_to(ROOT)
        wrong += [
            "{}:{} imports mitogen.{}".format(here, line, module)
            for module, line, _ in own_modules(path)
            if module not in MODULES
        ]
        wrong += [
            "{}:{} imports {}".format(here, line, module)
            for module, _, line, _ in imports(path, parse(path))
            if module.startswith("tests.") and module not in tests
        ]
    assert not wrong, "\n".join(wrong)


# ---- paths


def counted_folders(tree):
    """Yield (number of folders up, line) of each `dirname(dirname(... __file__ ...))`."""

    def depth(node):
        if isinstance(node, ast.Call) and node.args:
            up = getattr(node.func, "attr", getattr(node.func, "id", "")) == "dirname"
            below = depth(node.args[0])
            return below + up if below is not None else None
        return 0 if isinstance(node, ast.Name) and node.id == "__file__" else None

    inner = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node not in inner and depth(node):
            inner.update(ast.walk(node))
            yield depth(node), node.lineno


def test_nested_dirname_calls_are_found():
    source = "a = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))\nb = dirname(a)\n"
    assert list(counted_folders(ast.parse(source))) == [(2, 1)]


def test_paths_relative_to_a_file_lead_to_the_checkout():
    """A file that moved deeper would look for files in the wrong place."""
    found = []
    for path in EVERY_FILE:
        for depth, line in counted_folders(parse(path)):
            if depth > 1 and path.parents[depth - 1] != ROOT:
                found.append("{}:{}".format(path.relative_to(ROOT), line))
    assert found == []


# ---- names of modules


def definitions(tree):
    """Return {module-level name: line of its first definition}, also of those inside if and try."""
    found = {}

    def note(name, node):
        found.setdefault(name, node.lineno)

    def visit(node):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            note(node.name, node)
            return
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                note((alias.asname or alias.name).split(".")[0], node)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            note(node.id, node)
        if isinstance(node, ast.ExceptHandler) and node.name:
            note(node.name, node)
        if isinstance(
            node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
        ):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    for node in tree.body:
        visit(node)
    return found


# ---- sizes


def docstring_lines(tree):
    """Return the numbers of the lines occupied by docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    taken = set()
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            taken.update(range(text.lineno, text.end_lineno + 1))
    return taken


def code_lines(source):
    """Return the numbers of the lines with code: not blank, comment or docstring."""
    skip = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    taken = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip and token.type != tokenize.ENDMARKER:
            taken.update(range(token.start[0], token.end[0] + 1))
    return taken - docstring_lines(ast.parse(source))


def test_code_lines_leaves_out_comments_blanks_and_docstrings():
    source = '"""doc\nmore"""\n\n# why\nx = [\n\n  1]  # y\n'
    source += 'def f():\n    "d"\n    return """a\nb"""\n'
    assert code_lines(source) == {5, 7, 8, 10, 11}


@pytest.mark.parametrize("path", EVERY_FILE, ids=name_of)
def test_files_are_short(path):
    source, module = path.read_text(encoding="utf-8"), below_mitogen(path)
    lines = code_lines(source)
    limit = LARGE_FILES.get(module, FILE_LIMIT)
    assert len(lines) <= limit, "{} code lines, limit {}".format(len(lines), limit)
    if module in LARGE_FILES:
        assert len(lines) > FILE_LIMIT, "no longer a large file: delete its entry"


@pytest.mark.parametrize("path", EVERY_FILE, ids=name_of)
def test_functions_are_short(path):
    source, module = path.read_text(encoding="utf-8"), below_mitogen(path)
    lines = code_lines(source)
    sizes = {
        node.name: "line {}: {} code lines, limit {}".format(node.lineno, size, FUNCTION_LIMIT)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for size in [len(lines & set(range(node.lineno, node.end_lineno + 1)))]
        if size > FUNCTION_LIMIT
    }
    excused = {name for where, name in LONG_FUNCTIONS if where == module}
    assert {name: text for name, text in sizes.items() if name not in excused} == {}
    assert excused <= set(sizes), "no longer a long function: delete its entry"


# ---- Python 3.6

COMPILE = """
import json, sys
for path, source in json.load(sys.stdin).items():
    try:
        compile(source, path, 'exec', 0, True)
    except SyntaxError as error:
        print('%s:%s: %s: %s' % (path, error.lineno, error.msg, (error.text or '').strip()))
"""


def test_code_for_targets_compiles_on_python_3_6():
    """The source is compiled as sent: without annotations and the future import of annotations."""
    python = hosts.find_pythons().get((3, 6))
    if python is None:
        pytest.skip("needs a Python 3.6 (pyenv or PATH)")
    sent = {
        str(path): minify.minimize_source(path.read_text(encoding="utf-8"), True)
        for name, path in MODULES.items()
        if name not in CONTROLLER_ONLY
    }
    done = subprocess.run(
        [python, "-c", COMPILE], input=json.dumps(sent), capture_output=True, text=True, check=True
    )
    assert done.stdout == ""


def test_annotations_are_not_quoted():
    """With the future import, types are never evaluated; minify drops it for Python 3.6."""
    wrong = []
    for path in EVERY_FILE:
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            found = (getattr(node, "annotation", None), getattr(node, "returns", None))
            wrong += [
                "{}:{}".format(path.relative_to(ROOT), node.lineno)
                for each in found
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
        for number, line in enumerate(source.splitlines(), 1):
            if re.search(r"# type: (?!ignore\[)", line):
                wrong.append("{}:{}".format(path.relative_to(ROOT), number))
    assert not wrong, "\n".join(wrong)


# ---- public names


def declared_all(tree):
    """Return the names listed in `__all__`, None if there is none."""
    found = None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if "__all__" in [getattr(target, "id", None) for target in targets]:
            found = (found or []) + list(ast.literal_eval(node.value))
    return found


def star_imported(tree):
    return any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in tree.body)


@pytest.mark.parametrize("path", EVERY_FILE, ids=name_of)
def test_public_names_are_listed(path):
    tree = parse(path)
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    public = {n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")}
    listed = declared_all(tree)
    if path.name == "__main__.py":
        return
    if below_mitogen(path) in WITHOUT_ALL:
        assert listed is None, "has `__all__`: delete its entry in WITHOUT_ALL"
        return
    assert listed is not None or not public, "public names but no `__all__`"
    listed = listed or []
    assert len(listed) == len(set(listed)), "a name is listed twice"
    if not star_imported(tree):
        assert set(listed) <= set(definitions(tree)), "listed, but not defined"


# ---- tests that can fail


def imperative_xfails(source):
    """Return the lines that call xfail(); a mark, being strict, announces a failure beforehand."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        for function in [node.func]
        if getattr(function, "id", "") == "xfail"
        or getattr(function, "attr", "") == "xfail"
        and getattr(function.value, "attr", "") != "mark"
    ]


@pytest.mark.parametrize(
    "source, lines",
    [
        ("import pytest\npytest.xfail('x')", [2]),
        ("from pytest import xfail\n\nxfail('x')", [3]),
        ("import pytest as p\np.xfail(reason='x')", [2]),
        ("@pytest.mark.xfail(strict=True)\ndef test(): pass", []),
    ],
)
def test_imperative_xfails_are_found(source, lines):
    assert imperative_xfails(source) == lines


def test_no_test_calls_xfail():
    paths = sorted((ROOT / "tests").rglob("*.py"))
    assert HERE in paths
    found = [
        "{}:{}".format(path.relative_to(ROOT), line)
        for path in paths
        for line in imperative_xfails(path.read_text(encoding="utf-8"))
    ]
    assert found == []
