"""run.py in an Ansible environment: objects that belong to a run, in all of its processes."""

import json
import os
import subprocess

import pytest

from tests import processes
from tests.ansible import environments, fresh

RELEASE = "2.21"
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(environments.why_not(RELEASE)), reason=environments.why_not(RELEASE)),
]

ORPHAN = """
import json, multiprocessing, os, select, sys
from mitogen.ansible.plugins import run
main = os.getpid()
ends = os.pidfd_open(main)
def work():
    select.select([ends], [], [])
    with open({path!r} + ".new", "w") as fp:
        json.dump([main, os.getpid(), os.getppid(), run.main_pid()], fp)
    os.rename({path!r} + ".new", {path!r})
assert run.main_pid() == main
multiprocessing.get_context("fork").Process(target=work).start()
os._exit(0)
"""


def test_an_orphan_knows_its_main_process(tmp_path):
    """Main is killed; the worker's new parent ends only with the machine."""
    site = fresh.make(RELEASE, tmp_path / "venv", True)
    path = tmp_path / "found"
    code = ORPHAN.format(path=str(path))
    # Killed by SIGKILL, it cannot remove Ansible's files.
    home = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([site.python, "-c", code], check=True, timeout=100, env=home)
    processes.wait_until(path.exists, 20)
    main, worker, parent, found = json.loads(path.read_text())
    assert found == main and parent not in (main, worker)
