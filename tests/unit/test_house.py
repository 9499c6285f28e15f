"""The figures of the package's structure and language, held so that they stay.

Each limit is a named constant. docs/design/index.rst has the map.
"""

import ast
import importlib
import sys
from collections import Counter, defaultdict

import pytest

from tests import prose
from tests.checkout import ROOT
from tests.unit import test_layering as layering

#: Imports of own modules inside functions: each is a module that is late without LAZY.
IMPORTS_IN_FUNCTIONS = 10
#: Python files in the package's own folder: what programs import, and in every other folder.
FILES_AT_THE_TOP, FILES_IN_A_FOLDER = 36, 14
#: Ways to find an attribute, or to become another class, that no reader sees.
GETATTR_METHODS, CLASS_CHANGES = 3, 1
#: Uses of other objects' private attributes; most are Ansible's or the standard library's.
PRIVATE_USES = 30
#: Stumbling blocks per 1,000 words: see tests/prose.py.
PROSE = {"mitogen": 2, "tests": 4}


def edges():
    """Return {module: the modules that it imports, inside functions too}."""
    found = defaultdict(set)
    for module, path in layering.MODULES.items():
        for imported, _, _ in layering.own_modules(path):
            if imported != module and imported in layering.MODULES:
                found[module].add(imported)
    return found


def test_no_module_imports_itself_through_others():
    graph = edges()

    def reachable(start):
        seen, queue = set(), [start]
        while queue:
            for each in graph[queue.pop()]:
                if each not in seen:
                    seen.add(each)
                    queue.append(each)
        return seen

    assert sorted(module for module in layering.MODULES if module in reachable(module)) == []


def test_imports_inside_functions_are_few():
    inside = [
        "{}:{} -> {}".format(module, line, imported)
        for module, path in layering.MODULES.items()
        for imported, line, in_function in layering.own_modules(path)
        if in_function
    ]
    assert len(inside) <= IMPORTS_IN_FUNCTIONS, "\n".join(inside)


def test_folders_are_small():
    counts = Counter(path.parent for path in layering.OWN_FILES)
    assert counts.pop(layering.PACKAGE) <= FILES_AT_THE_TOP
    large = {str(folder): n for folder, n in counts.items() if n > FILES_IN_A_FOLDER}
    assert large == {}


def test_attributes_are_where_a_reader_looks():
    getattrs, classes, private = [], [], []
    for module, path in layering.MODULES.items():
        for node in ast.walk(layering.parse(path)):
            where = "{}:{}".format(module, getattr(node, "lineno", 0))
            if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
                getattrs.append(where)
            if isinstance(node, ast.Assign):
                classes += [where for t in node.targets if getattr(t, "attr", "") == "__class__"]
            if isinstance(node, ast.Attribute) and node.attr[0] == "_" and node.attr[:2] != "__":
                if getattr(node.value, "id", None) not in ("self", "cls"):
                    private.append("{} {}".format(where, ast.unparse(node)))
    assert len(getattrs) <= GETATTR_METHODS, getattrs
    assert len(classes) <= CLASS_CHANGES, classes
    assert len(private) <= PRIVATE_USES, "\n".join(private)


@pytest.mark.parametrize("folder", PROSE)
def test_prose_is_plain(folder):
    paths = sorted(path for path in (ROOT / folder).rglob("*.py") if path.name != "prose.py")
    words, found = prose.stumbling_blocks(paths)
    assert words > 10000 and len(found) * 1000 <= PROSE[folder] * words, "\n".join(found)


def test_stumbling_blocks_are_found(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        '"""What is not known."""\n# nobody says what it is\n# plain\nx = "what is this"\n'
    )
    words, found = prose.stumbling_blocks([path])
    assert words == 10 and len(found) == 4


def lazy_rows():
    """Return (rows of LAZY as (key, module), keys passed to fetch(), all texts but the rows')."""
    rows, fetched, texts = [], set(), Counter()
    for path in layering.MODULES.values():
        for node in ast.walk(layering.parse(path)):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAZY":
                pairs = zip(node.value.keys, node.value.values)
                rows += [(key.value, value.value) for key, value in pairs]
                texts.subtract(key.value for key in node.value.keys)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "LAZY.update":
                rows += [(each.arg, each.value.value) for each in node.keywords]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "fetch":
                fetched.update(a.value for a in node.args if isinstance(a, ast.Constant))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts[node.value] += 1
    return rows, fetched, texts


def test_each_row_of_lazy_names_a_module_and_is_used():
    rows, fetched, texts = lazy_rows()
    table = dict(rows)
    assert len(table) == len(rows) > 15, "two rows have the same key"
    assert [row for row in rows if row[1] not in layering.MODULES] == []
    # Most keys are passed to fetch(), some by a variable or as Lazy.more.
    assert [key for key in table if texts[key] < 1] == []
    assert fetched <= set(table)


#: Classes that programs do not make or catch by name.
OWN_CLASSES = {"Attempt", "Branch", "ChildIds", "ChildStream", "Connecting", "RelayedModules"}
OWN_CLASSES |= {"ResourceResponder", "Router", "LocalOptions", "Rule", "Custom"}


def test_public_classes_name_a_public_module():
    """An error's text and repr() show a name that a program can import."""
    wrong = set()
    for name, path in layering.MODULES.items():
        if "." in name or path.name == "__init__.py" or name in ("__main__", "cli"):
            continue
        module = importlib.import_module("mitogen." + name)
        for each in getattr(module, "__all__", ()):
            found = getattr(module, each)
            if isinstance(found, type) and found.__module__.startswith("mitogen"):
                room = found.__module__.count(".") > 1
                if each not in OWN_CLASSES and (
                    room or not hasattr(sys.modules[found.__module__], each)
                ):
                    wrong.add("mitogen.{}.{} is {}".format(name, each, found.__module__))
    assert sorted(wrong) == []
