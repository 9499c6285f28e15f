"""Modules imported by a child, found by a master on each Python: namespace packages, lazy imports.

The programs are strings because older Pythons that run these tests cannot parse all of them.
"""

import json
import os
import subprocess

import pytest

from tests.checkout import ROOT
from tests.compat.versions import MASTERS, NEWEST, OLDEST, find

NAMESPACES = {
    "space/deep/er/module.py": "NAME = __name__\n",
    "program.py": """
import json, sys
import mitogen.master

def below():
    from space.deep.er import module
    return module.NAME

if __name__ == "__main__":
    with mitogen.master.Router() as router:
        print(router.local(python_path=json.loads(sys.argv[1])).call(below))
    assert "space" not in sys.modules
""",
}
LAZY = {
    "colors.py": "NAME = 'red'\n",
    "shapes.py": "def area(n): return n * n\n",
    "helper.py": """
lazy import colors
lazy from shapes import area

def paint(n):
    return colors.NAME, area(n)
""",
    "program.py": """
import json, sys
import mitogen.master
lazy import helper
lazy from helper import paint

def run(n):
    return helper.paint(n)

if __name__ == "__main__":
    with mitogen.master.Router() as router:
        child = router.local(python_path=json.loads(sys.argv[1]))
        below = router.local(via=child)
        print(child.call(run, 3), below.call(paint, 4))
""",
}


def run(python, files, child, directory):
    """Write *files*, run program.py with *python*; return its output and its error output."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = subprocess.run(
        [*python, str(directory / "program.py"), json.dumps(child)],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("master", MASTERS)
def test_a_namespace_package_not_imported_by_the_master_is_found(master, tmp_path):
    found = run(find(master), NAMESPACES, find(OLDEST), tmp_path)
    assert found == ("space.deep.er.module\n", "")


@pytest.mark.parametrize("options", [[], ["-X", "lazy_imports=all"]], ids=["as written", "all"])
def test_lazy_imports_are_found(options, tmp_path):
    python = [*find(NEWEST), *options]
    assert run(python, LAZY, python, tmp_path) == ("('red', 9) ('red', 16)\n", "")
