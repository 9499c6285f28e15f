"""The main job: a script that opens ssh, sudo through it, and a third context below that.

It runs as a user would run it: with a separate Python, from another directory, without the tests'
files on its path.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import processes
from tests.checkout import ROOT

HERE = pathlib.Path(__file__).resolve().parent

OUTPUT = """\
user | runs as {user} uid {uid}
user | hello user from user
user | late 42
user | PermissionError True True
root | runs as root uid 0
root | hello root from root
root | late 42
root | reads True
below | runs as root uid 0
below | hello below from root
below | late 42
below | reads True
pids 3
"""


@pytest.mark.root
@pytest.mark.ssh
def test_the_main_job_prints_its_results(sshd, users, tmp_path):
    user = users.plain
    command = [sys.executable, str(HERE / "job" / "job.py")]
    command.append(json.dumps(sshd.kwargs(username=user.name)))
    environ = dict(os.environ, PYTHONPATH=str(ROOT))
    before = {each.pid for each in processes.marked_processes(str(os.getpid()))}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environ, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout == OUTPUT.format(user=user.name, uid=user.uid)
    processes.wait_until(
        lambda: {each.pid for each in processes.marked_processes(str(os.getpid()))} <= before,
        what="end of all processes of the job",
    )
