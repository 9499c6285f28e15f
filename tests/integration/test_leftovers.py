"""The `leftovers` fixture finds what it is for: a run that leaves things fails and says what."""

import pathlib
import subprocess
import sys

from tests import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]

CLEAN = """
def test_clean(tmp_path):
    (tmp_path / "file").touch()
"""

BAD = """
import os, subprocess, tempfile, time
OPEN = []

def test_orphan():
    # Its parent is gone and its name is nobody's: only the mark in its environment tells.
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
