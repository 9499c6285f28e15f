"""The `leftovers` fixture: leftovers fail the run, and other programs' processes are left alone."""

import os
import signal
import subprocess
import sys

from tests import processes
from tests.checkout import ROOT

CLEAN = """
def test_clean(tmp_path):
    (tmp_path / "file").touch()
"""

BAD = """
import os, subprocess, tempfile, time
OPEN = []

def test_orphan():
    # Its parent is gone and its name is unknown: only the mark in its environment identifies it.
    subprocess.run(["sh", "-c", "sleep 8765 >/dev/null 2>&1 &"], check=True)

def test_zombie():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

def test_descriptor():
    OPEN.append(os.open(__file__, os.O_RDONLY))

def test_file():
    os.close(tempfile.mkstemp(prefix="forgotten")[0])
"""

# An orphan named like a context, with the given environment. Its pid is written to the file `pid`.
NAMED = """
import os, pathlib, subprocess, sys

def test_orphan():
    code = (
        "import subprocess\\n"
        "args = ['mitogen:unknown', '8766']\\n"
        "print(subprocess.Popen(args, executable='/bin/sleep', stdout=2).pid)\\n"
    )
    env = {name: value for name, value in os.environ.items() if KEPT(name)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    pathlib.Path(__file__).with_name("pid").write_bytes(done.stdout)
"""


def run_tests(directory, text):
    """Run *text* as a test file under tests/conftest.py; return (exit status, output)."""
    path = directory / "test_it.py"
    path.write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--rootdir", str(directory), "--basetemp", str(directory / "tmp"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    return done.returncode, done.stdout


def test_a_clean_run_passes(tmp_path):
    status, output = run_tests(tmp_path, CLEAN)
    assert status == 0, output


def test_each_kind_of_leftover_fails_the_run_and_is_named(tmp_path):
    status, output = run_tests(tmp_path, BAD)
    assert status == 1
    assert "4 passed, 1 error" in output
    for what in (": sleep 8765", ", Z, ", "test_it.py (x1)", "forgotten"):
        assert what in output, output
    assert "sleep 8765" not in [each.cmdline for each in processes.processes().values()]


def test_an_orphan_without_the_mark_is_reported_and_left_alone(tmp_path):
    status, output = run_tests(
        tmp_path, NAMED.replace("KEPT(name)", "name != {!r}".format(processes.RUN_VARIABLE))
    )
    pid = int((tmp_path / "pid").read_text())
    try:
        assert processes.process(pid).ppid != os.getpid(), "it is not an orphan"
        assert processes.alive(pid)
        assert status == 0, output
        assert "without the mark of this run, left alone" in output
        assert "mitogen:unknown 8766" in output
    finally:
        os.kill(pid, signal.SIGKILL)
    processes.wait_until(lambda: not processes.alive(pid))


def test_an_orphan_with_the_mark_fails_the_run_and_is_ended(tmp_path):
    status, output = run_tests(tmp_path, NAMED.replace("KEPT(name)", "True"))
    pid = (tmp_path / "pid").read_text().strip()
    assert not processes.alive(int(pid))
    assert status == 1, output
    assert "left behind by this run" in output and "mitogen:unknown 8766" in output
    # Another run on this machine may have left a process.
    assert pid not in output.partition("left alone")[2]
