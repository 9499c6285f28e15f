"""Every Python supported as master, with every one as child and as intermediate.

The master is a separate process. Its child (over ssh to this machine if there is an sshd) is also
the intermediate in a chain of three; the third context runs the oldest or newest version, so that
each child serves a different one. Warnings are errors in all of them.
"""

import json
import os
import pathlib
import subprocess

import pytest

from tests import hosts
from tests.checkout import ROOT
from tests.compat.versions import CHILDREN, MASTERS, NEWEST, OLDEST, find

HERE = pathlib.Path(__file__).resolve().parent
#: Bytes for a child with the master's version; other pairs and the ends of chains get a tenth.
SIZE = 100 * 1000 * 1000
ALL_TRUE = [True] * 6


@pytest.fixture(scope="module")
def login(request):
    """Return keyword arguments of ssh(), or None to use local()."""
    if not hosts.program("sshd"):
        return None
    return request.getfixturevalue("sshd").kwargs(compression=False)


@pytest.mark.parametrize("child", CHILDREN)
@pytest.mark.parametrize("master", MASTERS)
def test_master_and_child_work_together(master, child, login, tmp_path):
    last = NEWEST if child == OLDEST else OLDEST
    job = {
        "ssh": login,
        "child": find(child),
        "last": find(last),
        "size": SIZE if master == child else SIZE // 10,
    }
    done = subprocess.run(
        [*find(master), str(HERE / "program" / "driver.py"), json.dumps(job)],
        env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert json.loads(done.stdout) == {
        "master": master,
        "versions": [child, child, last, last],
        "errors": [ALL_TRUE] * 3,
        "large": True,
        "through": True,
        "after shutdown": [[], child],
        "left": [],
    }
