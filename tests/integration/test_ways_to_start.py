"""A program works however it is started, and from wherever the library is loaded."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

from tests.checkout import ROOT

PROGRAM = """
import os
import mitogen
import mitogen.utils

def double(x):
    return x * 2, __name__

@mitogen.main()
def main(router):
    child = router.local()
    assert child.call(double, 4) == (8, "__main__")
    assert child.run(["cat"], input=b"data").stdout == b"data"
    assert router.local(via=child).call(os.getppid) == child.call(os.getpid)
    print("works", flush=True)
"""
RUN_PATH = "import runpy; runpy.run_path('program.py', run_name='__main__')"
RUN_MODULE = "import runpy; runpy.run_module('program', run_name='__main__', alter_sys=True)"
MANY_FILES = "import os; [os.dup(0) for _ in range(1000)]; "

#: Name to a shell command; $P is the interpreter. Each runs program.py.
WAYS = {
    "a file": "$P program.py",
    "an absolute path from elsewhere": 'd=$PWD; cd / && $P "$d/program.py"',
    "-m": "$P -m program",
    "runpy.run_path": '$P -c "%s"' % RUN_PATH,
    "runpy.run_module": '$P -c "%s"' % RUN_MODULE,
    "cProfile": "$P -m cProfile -o /dev/null program.py",
    "trace": "$P -m trace --count -C . program.py",
    "pdb": "$P -m pdb -c continue -c quit program.py </dev/null",
    "-S": "$P -S program.py",
    "-s": "$P -s program.py",
    "-OO": "$P -OO program.py",
    "development mode and warnings as errors": "$P -X dev -W error program.py",
    "LANG=C": 'env -i LANG=C PATH="$PATH" PYTHONPATH="$PYTHONPATH" $P program.py',
    "neither HOME nor PATH": "env -u HOME -u PATH $P program.py",
    "standard input closed": "$P program.py <&-",
    "standard error closed": "$P program.py 2>&-",
    "only standard output": "$P program.py <&- 2>&- | cat",
    "64 descriptors": "ulimit -n 64; $P program.py",
    "descriptors above 1,000": '$P -c "%s"' % (MANY_FILES + RUN_PATH),
    "4,096 descriptors": "ulimit -n 4096; $P program.py",
    "a new session": "setsid -w $P program.py",
    "nice": "nice $P program.py",
    "a read-only directory": "chmod a-w . && $P program.py; s=$?; chmod u+w .; exit $s",
}


@pytest.fixture
def there(tmp_path):
    """Return a directory with the program."""
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def run(there, command, path=ROOT):
    environ = dict(os.environ, P=sys.executable, PYTHONPATH=str(path))
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        ["sh", "-c", command], cwd=str(there), env=environ, capture_output=True, timeout=60
    )
    return done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("way", WAYS)
def test_a_program_works_however_it_is_started(there, way):
    output, errors = run(there, WAYS[way])
    assert "works" in output.splitlines(), errors


def test_a_program_that_is_piped_in_is_refused_in_words(there):
    """Its functions have no source that could be sent."""
    _, errors = run(there, "$P - < program.py")
    assert "has no file. Put the functions to call into a module" in errors


# ---- from zip archives


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return a zip archive with the library."""
    path = tmp_path_factory.mktemp("zip") / "library.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(pathlib.Path(ROOT, "mitogen").rglob("*.py")):
            archive.write(each, str(each.relative_to(ROOT)))
    return path


def test_the_library_works_from_a_zip_archive(there, library):
    output, errors = run(there, "$P program.py", library)
    assert output == "works\n", errors


def test_a_whole_program_works_from_a_zip_archive(there, library):
    """zipapp, pex and shiv make such files."""
    path = there / "app.pyz"
    path.write_bytes(library.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("tools/__init__.py", "from tools.numbers import triple\n")
        archive.writestr("tools/numbers.py", "def triple(x):\n    return 3 * x\n")
        text = PROGRAM.replace("\ndef double", "\nimport tools\n\ndef double")
        text = text.replace(
            '(8, "__main__")', '(8, "__main__") and child.call(tools.triple, 2) == 6'
        )
        archive.writestr("__main__.py", text)
    output, errors = run(there, "$P app.pyz", there / "nothing")
    assert output == "works\n", errors


SSH = """
import mitogen
import mitogen.fakessh

@mitogen.main()
def main(router):
    script = "ssh there echo via ssh; echo data > one; sftp -q there:$PWD/one two; cat two"
    mitogen.fakessh.run(router.local(), ["sh", "-c", script])
"""


def test_fakessh_works_from_a_zip_archive(there, library):
    (there / "program.py").write_text(SSH)
    output, errors = run(there, "$P program.py", library)
    assert "via ssh" in output and "data" in output.splitlines(), errors
