"""Every Python of this machine as master, with every one as child and as intermediate.

The master is a process of its own. Its child (over ssh to this machine where there is an sshd) is
also the intermediate of a chain of three; the third one runs the oldest or newest there is, so
that each child passes on to one that is unlike it.
"""

import json
import os
import pathlib
import subprocess

import pytest

from tests import hosts
from tests.checkout import ROOT

HERE = pathlib.Path(__file__).resolve().parent
FOUND = {version: path for version, path in hosts.find_pythons().items() if version >= (3, 6)}
MASTERS = [version for version in FOUND if version >= (3, 9)]
SIZE = 100 * 1000 * 1000  # bytes; the far ends of a chain get a tenth
ALL_TRUE = [True] * 6


def name(version):
    return "{}.{}".format(*version)


@pytest.fixture(scope="module")
def login(request):
    """Keyword arguments of ssh(), or None where local() must do."""
    if not hosts.program("sshd"):
        return None
    return request.getfixturevalue("sshd").kwargs(compression=False)


@pytest.mark.parametrize("child", FOUND, ids=name)
@pytest.mark.parametrize("master", MASTERS, ids=name)
def test_pair(master, child, login, tmp_path):
    last = max(FOUND) if child == min(FOUND) else min(FOUND)
    job = {"ssh": login, "child": FOUND[child], "last": FOUND[last], "size": SIZE}
    done = subprocess.run(
        [FOUND[master], str(HERE / "program" / "driver.py"), json.dumps(job)],
        env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert json.loads(done.stdout) == {
        "master": list(master),
        "versions": [list(child), list(child), list(last), list(last)],
        "errors": [ALL_TRUE] * 3,
        "large": True,
        "through": True,
        "after shutdown": [[], list(child)],
        "left": [],
    }
