"""
The types of the public API, as seen by a program's author.

One strict run of mypy checks programs/: files named good_* have no errors; in files named bad_*
each line that ends in `# E: code` has exactly that error, and no other line has any.

There is no __init__.py here: scripts of tests/ that run as programs would import this directory
instead of the standard library's typing.
"""

import pathlib
import re
import subprocess
import sys

import pytest

from tests.checkout import ROOT

PROGRAMS = ROOT / "tests" / "typing" / "programs"
NAMES = sorted(path.name for path in PROGRAMS.glob("*.py"))
_ERROR = re.compile(r"^(.*?):(\d+): error: .*\[([a-z-]+)\]$")


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Return [(file name, line, code)] of mypy's errors, without this checkout's settings."""
    work = tmp_path_factory.mktemp("mypy")
    argv = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    argv += ["--show-error-codes", "--no-pretty", "--cache-dir", str(work / "cache")]
    done = subprocess.run(
        argv + [str(PROGRAMS / name) for name in NAMES],
        cwd=str(work),
        env={"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode in (0, 1) and done.stderr == "", done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if ": note: " not in line]
    matches = [_ERROR.match(line) for line in lines]
    assert all(matches), done.stdout
    return [(pathlib.Path(m[1]).name, int(m[2]), m[3]) for m in matches]


def expected(name):
    """Return [(line, code)] from a program's comments."""
    lines = (PROGRAMS / name).read_text(encoding="utf-8").splitlines()
    found = [(number, re.search(r"# E: ([a-z-]+)$", line)) for number, line in enumerate(lines, 1)]
    return [(number, match[1]) for number, match in found if match]


def test_the_library_itself_has_no_errors(errors):
    assert [error for error in errors if error[0] not in NAMES] == []


@pytest.mark.parametrize("name", NAMES)
def test_mypy_reports_the_expected_errors(errors, name):
    wanted = expected(name)
    assert bool(wanted) == name.startswith("bad_")
    assert sorted({(line, code) for file, line, code in errors if file == name}) == wanted


def test_the_package_is_marked_as_typed():
    assert (ROOT / "mitogen" / "py.typed").read_bytes() == b""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert 'package_data={"mitogen": ["py.typed"]}' in setup
    assert "recursive-include mitogen py.typed" in (ROOT / "MANIFEST.in").read_text()
