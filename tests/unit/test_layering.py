"""The shape of mitogen/: who may import whom, order within core.py, sizes, Python 3.6, `__all__`.

Read from the source alone; of mitogen only minify is imported. A module that the table does not
know is a fault: put it where it belongs.
"""

import ast
import io
import json
import pathlib
import re
import subprocess
import symtable
import tokenize

import pytest

from mitogen import minify
from tests import hosts

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mitogen"
MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}
EVERY_FILE = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "ansible_plugins").rglob("*.py"))

# Lowest first. A module may import from lower layers, and from its own those in SIDEWAYS.
LAYERS = [
    ("core", ["core"]),
    # Parts of core that not every child needs: core imports them when it first does.
    ("errors", ["errors"]),
    ("late", ["values", "flow", "child", "mailbox", "lazy", "workers"]),
    (
        "parts",
        [
            "aliases",
            "spawn",
            "handshake",
            "pollers",
            "calls",
            "select",
            "os_fork",
            "streams",
            "old_logs",
            "resources",
            "signatures",
            "sftp_packets",
            "sftp_files",
            "sftp",
            "ttymodes",
            "rawtty",
            "ssh_options",
            "stand_in",
        ],
    ),
    ("connect", ["connect"]),
    ("branch", ["branch"]),
    ("parent", ["parent"]),
    (
        "methods",
        # The last row are names of PyPI's modules (API.md 1.5), one line each over containers.
        ["ssh", "sudo", "su", "doas", "setns", "fork", "containers", "local", "specs", "old_parent"]
        + ["docker", "podman", "buildah", "kubectl", "jail", "lxc", "lxd", "incus"],
    ),
    (
        "services",
        [
            "pieces",
            "trees",
            "files",
            "invokers",
            "fileservice",
            "service",
            "pipes",
            "endpoints",
            "programs",
            "grants",
            "capture",
            "process",
            "futures",
            "many",
        ],
    ),
    ("faces", ["fakessh", "rendezvous", "terminal", "unix", "detach"]),
    ("server", ["responder", "shrink"]),
    ("master", ["master", "old_master"]),
    ("programs", ["aio", "utils", "debug", "profiler", "cli", "demo", "__main__"]),
    ("ansible", ["ansible"]),
]
# These import nothing of mitogen, but for finder its own parts; only who PURE_USERS names them.
PURE = ["finder", "modgraph", "modpaths", "imports", "minify", "renames"]
PURE_PARTS = {"finder": {"modgraph", "modpaths"}, "modgraph": {"modpaths"}}
PURE_USERS = {"responder", "master", "old_master", "shrink", "utils", "cli", "profiler"}
# Within a layer: who may import whom. No cycles: a test proves that.
SIDEWAYS = {
    "docker": {"containers"},
    "podman": {"containers"},
    "buildah": {"containers"},
    "kubectl": {"containers"},
    "jail": {"containers"},
    "lxc": {"containers"},
    "lxd": {"containers"},
    "incus": {"containers"},
    "setns": {"containers"},
    "trees": {"pieces"},
    "sftp_files": {"sftp_packets"},
    "sftp": {"sftp_files", "sftp_packets"},
    "files": {"pieces", "trees"},
    "fileservice": {"invokers", "pieces"},
    "service": {"invokers", "fileservice"},
    "pipes": {"endpoints"},
    "programs": {"endpoints", "pipes"},
    "grants": {"programs"},
    "process": {"capture", "endpoints", "grants", "pipes", "programs"},
    "rendezvous": {"unix"},
    "fakessh": {"rendezvous"},
    "terminal": {"fakessh"},
    "utils": {"debug"},
    "cli": {"aio", "utils", "debug", "profiler", "demo"},
    "demo": {"utils"},
    "__main__": {"cli"},
}
# (module, what it imports against the order): only inside functions, each with its reason.
UPWARD_INSIDE_FUNCTIONS = {
    ("__init__", "master"): "mitogen.main() runs a program, which needs the master; children don't",
    ("__init__", "utils"): "the same",
    ("unix", "master"): "connect() makes a router of the kind that programs have",
    ("fakessh", "master"): "`python -m mitogen.fakessh` is a program of its own",
    ("core", "values"): "types that few calls have; not in the preamble",
    ("core", "child"): "nothing is called, printed or inspected before the first call",
    ("core", "aliases"): "names that few programs use",
    ("parent", "specs"): "few programs name their contexts by a text",
    ("parent", "files"): "few programs send files",
    ("parent", "many"): "few programs connect to many at once",
    ("parent", "futures"): "few programs want futures",
    ("parent", "process"): "few programs run others",
    ("parent", "terminal"): "few programs are at a terminal",
    ("master", "profiler"): "few programs are profiled",
    ("aliases", "streams"): "few programs put descriptors of their own on the broker",
    ("core", "parent"): "a child becomes a parent when first asked to connect something",
}
CONTROLLER_ONLY = {"shrink", "responder", "master", "old_master", "cli", "aio", *PURE}
RANK = {name: rank for rank, (_, names) in enumerate(LAYERS) for name in names}

FILE_LIMIT, CORE_LIMIT, FUNCTION_LIMIT = 600, 1350, 60  # code lines: DESIGN.md 3, STYLE.md habit 10

# Functions over the limit, each with its reason.
LONG_FUNCTIONS = {
    ("core", "_put"): "the encoder's loop: a function per type costs a call per value",
    ("core", "decode_next"): "the decoder's state is in its closure",
    ("core", "take"): "the decoder's loop: likewise",
}
# Modules without `__all__`, each with its reason.
WITHOUT_ALL = {
    "core": "each byte goes to each child; test_aliases.py lists its names",
    "demo": "programs, to be read and run",
}


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path):
    """Return the dotted name of a file of mitogen/ or ansible_plugins/."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def is_typing_only(node):
    """Tell `if MYPY:` and `if TYPE_CHECKING:`, whose imports never run."""
    return isinstance(node, ast.If) and any(
        isinstance(each, (ast.Name, ast.Attribute))
        and getattr(each, "id", getattr(each, "attr", "")) in ("MYPY", "TYPE_CHECKING")
        for each in ast.walk(node.test)
    )


def imported_names(path):
    """Yield (dotted name, line, whether inside a function) of each import that can run."""
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]

    def visit(node, inside):
        if is_typing_only(node):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, inside
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + ([node.module] if node.module else [])
            for alias in node.names:
                yield ".".join([*base, alias.name]), node.lineno, inside
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(parse(path), False)


def own_modules(path):
    """Yield (module below mitogen, line, inside a function); the bare package is free."""
    for dotted, line, inside in imported_names(path):
        parts = dotted.split(".")
        if parts[0] == "ansible_plugins":
            yield "ansible_plugins", line, inside
        elif parts[0] == "mitogen" and len(parts) > 1:
            known = parts[1] in MODULES or parts[1] in RANK or parts[1] in PURE
            if known or (PACKAGE / parts[1]).is_dir():
                yield parts[1], line, inside


def may_import(importer, imported):
    """Return whether module *importer* may import *imported*, both names below mitogen."""
    if importer in PURE:
        return imported in PURE_PARTS.get(importer, ())
    if imported in PURE:
        return importer in PURE_USERS
    if importer == "__init__" or imported not in RANK:
        return False
    lower = RANK[imported] < RANK[importer] and imported != "__main__"
    return lower or imported in SIDEWAYS.get(importer, ())


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    if module != "__init__":
        assert module in RANK or module in PURE, "put mitogen/{}.py into LAYERS".format(module)
    wrong = []
    for imported, line, inside in own_modules(MODULES[module]):
        excused = inside and (module, imported) in UPWARD_INSIDE_FUNCTIONS
        if imported != module and not may_import(module, imported) and not excused:
            wrong.append("mitogen/{}.py:{} imports {}".format(module, line, imported))
    assert not wrong, "\n".join(wrong)


def test_ansible_may_import_all_and_nothing_else_may_import_it():
    wrong = []
    for path in EVERY_FILE:
        where = name_of(path).split(".")
        for imported, line, _ in own_modules(path):
            top = where[1] if where[0] == "mitogen" and len(where) > 1 else where[0]
            allowed = {"ansible": {"ansible", "ansible_plugins"}, "ansible_plugins": {top}}
            if top in ("ansible", "ansible_plugins"):
                bad = imported == "ansible_plugins" and top == "ansible"
                bad = bad or (top == "ansible_plugins" and imported not in ("ansible", top))
            else:
                bad = imported in allowed
            if bad:
                wrong.append("{}:{} imports {}".format(path.relative_to(ROOT), line, imported))
    assert not wrong, "\n".join(wrong)


def test_the_table_has_no_cycles_and_no_doubles():
    names = [name for _, row in LAYERS for name in row] + PURE
    assert len(names) == len(set(names))
    for name, others in SIDEWAYS.items():
        for other in others:
            assert RANK[name] == RANK[other], "{} -> {} is not sideways".format(name, other)

    def reaches(start, goal):
        return any(n == goal or reaches(n, goal) for n in SIDEWAYS.get(start, ()))

    assert [name for name in SIDEWAYS if reaches(name, name)] == []


# ---- sections of core.py

SECTION = re.compile(r"# ---- section: (.+?) -*$")


def sections(source):
    """Return [(first line, name)] of the section headings, in order."""
    lines = enumerate(source.splitlines(), 1)
    return [
        (number, match.group(1))
        for number, line in lines
        for match in [SECTION.match(line)]
        if match
    ]


def section_at(headings, line):
    """Return the index of the section that *line* is in; what precedes the first is in it."""
    return max(0, sum(1 for first, _ in headings if first <= line) - 1)


def definitions(tree):
    """Return {module-level name: line of its first definition}, also those inside if and try."""
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


def global_references(source, path):
    """Yield (line of the scope or statement, name) for each reference to a module-level name."""

    def scopes(table):
        for child in table.get_children():
            for symbol in child.get_symbols():
                if symbol.is_global():
                    yield child.get_lineno(), symbol.get_name()
            yield from scopes(child)

    yield from scopes(symtable.symtable(source, str(path), "exec"))

    def at_definition(node):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.lineno, node.id
        # Bodies have a scope of their own, above; decorators, defaults and bases have not.
        body = getattr(node, "body", []) if isinstance(node, (ast.FunctionDef, ast.Lambda)) else []
        for child in ast.iter_child_nodes(node):
            if child is not body and not (isinstance(body, list) and child in body):
                yield from at_definition(child)

    for node in ast.parse(source).body:
        yield from at_definition(node)


def forward_references(source, path="core.py"):
    """Return the references to names of a later section, as text; annotations are none."""
    headings = sections(source)
    source = minify.minimize_source(source, True)
    where = {
        name: section_at(headings, line) for name, line in definitions(ast.parse(source)).items()
    }
    return sorted(
        {
            "{}:{} (section {}) names {} of the later section {}".format(
                path, line, headings[here][1], name, headings[where[name]][1]
            )
            for line, name in global_references(source, path)
            for here in [section_at(headings, line)]
            if name in where and where[name] > here
        }
    )


def test_sections_of_core_name_only_earlier_ones():
    if "core" not in MODULES:
        pytest.skip("mitogen/core.py is not written yet")
    source = MODULES["core"].read_text(encoding="utf-8")
    headings = sections(source)
    assert headings, "core.py has no heading of the form `# ---- section: NAME ----`"
    assert len({name for _, name in headings}) == len(headings)
    found = forward_references(source, "mitogen/core.py")
    assert not found, "\n".join(found)


SAMPLE = """\
# ---- section: one ----
import os
LIMIT = 3
def first(later_argument, second=LIMIT):
    later = second
    return {}
# ---- section: two ----
def second():
    return first(LIMIT)
class Later:
    first = second
"""


@pytest.mark.parametrize(
    "expression, found",
    [
        ("later", []),
        ("second", []),  # the argument hides the function
        ("LIMIT", []),
        ("Later()", ["Later"]),
        ("[Later for _ in os.environ]", ["Later"]),
        ("(lambda: Later)", ["Later"]),
        ("[Later for Later in ()]", []),
    ],
)
def test_forward_references_are_found(expression, found):
    names = [
        text.split(" names ")[1].split()[0]
        for text in forward_references(SAMPLE.format(expression))
    ]
    assert names == found


def test_forward_references_in_decorators_defaults_and_bases_are_found():
    source = "# ---- section: a ----\n@z\ndef f(x=z): pass\nclass C(z):\n    y = z\n"
    source += "# ---- section: b ----\nz = 1\n"
    assert {text.split()[0] for text in forward_references(source)} == {
        "core.py:{}".format(line) for line in (2, 3, 4, 5)
    }


# ---- sizes


def docstring_lines(tree):
    """Return the numbers of the lines that docstrings take."""
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
def test_sizes(path):
    source = path.read_text(encoding="utf-8")
    lines = code_lines(source)
    core = path == PACKAGE / "core.py"
    limit = CORE_LIMIT if core else FILE_LIMIT
    long = [
        "{}:{} {}() has {} code lines, limit {}".format(
            name_of(path), node.lineno, node.name, size, FUNCTION_LIMIT
        )
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for size in [len(lines & set(range(node.lineno, node.end_lineno + 1)))]
        if size > FUNCTION_LIMIT and (path.stem, node.name) not in LONG_FUNCTIONS
    ]
    assert not long, "\n".join(long)
    if core and len(lines) > limit:
        pytest.xfail("L3: core.py has {} code lines, limit {}".format(len(lines), limit))
    assert len(lines) <= limit, "{} has {} code lines, limit {}".format(
        name_of(path), len(lines), limit
    )


# ---- Python 3.6

COMPILE = """
import json, sys
for path, source in json.load(sys.stdin).items():
    try:
        compile(source, path, 'exec', 0, True)
    except SyntaxError as error:
        print('%s:%s: %s: %s' % (path, error.lineno, error.msg, (error.text or '').strip()))
"""


def test_what_targets_run_compiles_on_python_3_6():
    """As it is sent: without annotations, and without `from __future__ import annotations`."""
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


def test_no_annotation_is_in_quotes():
    """With the future import, types are never evaluated; minify drops that for Python 3.6."""
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
    """Return what `__all__` lists, None if there is none."""
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
    excused = name_of(path).split(".")[1:2]
    if (
        path.name == "__main__.py"
        or excused
        and excused[0] in WITHOUT_ALL
        or (listed is None and not public)
    ):
        return
    assert listed is not None, "{} has public names and no __all__".format(name_of(path))
    assert len(listed) == len(set(listed)), "a name is listed twice"
    if not star_imported(tree):
        assert set(listed) <= set(definitions(tree)), "listed, but not defined"
