"""Each wait of the core and of calls has an end that docs/design/threads.rst names."""

import ast

import pytest

from tests.checkout import ROOT

PAGE = (ROOT / "docs" / "design" / "threads.rst").read_text()
#: Calls that look like waits, and the reason why they are none.
NO_WAITS = {
    "new_lock": "the lock is new, so nothing holds it",
    "Receiver.close": "the mailbox is closed, so it answers at once",
    "Receiver.__iter__": "see Receiver.get()",
}


def waits(path):
    """Yield the function of each acquire(), get(), join() or wait() without a limit."""

    def walk(node, names):
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = [*names, child.name]
            if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
                if child.func.attr in ("acquire", "get", "join", "wait") and not child.args:
                    yield ".".join(names)
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text()), [])


@pytest.mark.parametrize("folder", ["core", "calls"])
def test_each_wait_without_a_limit_is_in_the_table(folder):
    found = {name for path in (ROOT / "mitogen" / folder).glob("*.py") for name in waits(path)}
    unknown = {n for n in found - set(NO_WAITS) if "``%s()``" % n not in PAGE}
    assert unknown == set()


def test_waits_are_found(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text("class A:\n    def f(self):\n        self.lock.acquire()\n        x.get(1)\n")
    assert list(waits(path)) == ["A.f"]


def test_each_lock_is_in_the_table():
    missing = []
    for folder in ("core", "calls"):
        for path in (ROOT / "mitogen" / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    for each in ast.walk(node):
                        if isinstance(each, ast.Assign) and "allocate_lock()" in ast.unparse(each):
                            name = "%s.%s" % (node.name, each.targets[0].attr)
                            if "``%s``" % name not in PAGE:
                                missing.append(name)
    assert missing == []
