"""environments.py: choice of the Python, outdated environments; nothing is downloaded here."""

import pathlib
import sys

import pytest

from tests import hosts
from tests.ansible import environments
from tests.checkout import ROOT


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Yield the list of environments made, in another HOME, by a `make` without downloads."""
    found = []

    def make(release, directory, python):
        found.append((release, python))
        (directory / "bin").mkdir(parents=True, exist_ok=True)
        program = directory / "bin" / "python"
        program.write_text("#!/bin/sh\necho {}.99\n".format(release))
        program.chmod(0o755)

    monkeypatch.setattr(environments, "HOME", tmp_path / "home")
    monkeypatch.setattr(environments, "make", make)
    monkeypatch.setattr(environments, "installable", lambda: False)
    environments.ready.cache_clear()
    yield found
    environments.ready.cache_clear()


@pytest.fixture
def any_python(monkeypatch):
    monkeypatch.setattr(environments, "python_for", lambda release: sys.executable)


def test_installed_files_are_in_the_checkout():
    assert all((ROOT / name).exists() for name in environments.INSTALLED)


def test_an_unknown_release_is_an_error():
    assert environments.why_not("1.0").startswith("no such release: 1.0; known are 2.16, ")


def test_a_missing_python_is_an_error(monkeypatch):
    monkeypatch.setattr(hosts, "find_pythons", lambda: {(3, 9): "/nowhere"})
    why = environments.why_not("2.21")
    assert why == "ansible-core 2.21 needs one of Python 3.12, 3.13, 3.14 (pyenv or PATH)"


def test_the_preferred_python_is_chosen(monkeypatch):
    monkeypatch.setattr(hosts, "find_pythons", lambda: {(3, n): str(n) for n in (9, 11, 12)})
    assert environments.python_for("2.16") == "11"
    assert environments.python_for("2.19") == "11"
    assert environments.python_for("2.21") == "12"


def test_an_environment_is_made_once(made, any_python):
    first = environments.ready("2.19")
    assert first.version == "2.19.99" and first.directory == environments.HOME / "2.19"
    environments.ready.cache_clear()
    assert environments.ready("2.19") == first
    assert len(made) == 1


def test_an_outdated_environment_is_made_again(made, any_python):
    """A stamp of another version, or none, as after an interruption."""
    directory = environments.ready("2.19").directory
    for stamp in ("2.19\n3.4.0\n2.19.1", ""):
        (directory / "stamp").write_text(stamp)
        environments.ready.cache_clear()
        environments.ready("2.19")
    assert len(made) == 3


def test_an_error_of_pip_is_reported(made, any_python, monkeypatch):
    """pip's output is in the error, and no stamp is written."""

    def make(release, directory, python):
        directory.mkdir(parents=True)
        environments.call("sh", "-c", "echo no such package; exit 1")

    monkeypatch.setattr(environments, "make", make)
    with pytest.raises(AssertionError, match="no such package"):
        environments.ready("2.19")
    assert not (environments.HOME / "2.19" / "stamp").exists()


def test_the_stamp_depends_on_contents_and_names(monkeypatch, tmp_path):
    """The stamp depends on contents and names of files, not on caches."""
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    package = pathlib.Path(tmp_path, "mitogen")
    (package / "__pycache__").mkdir(parents=True)
    (tmp_path / "setup.py").write_text("x")
    stamps = [environments.stamp_of_checkout()]
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2")):
        (package / name).write_text(text)
        stamps.append(environments.stamp_of_checkout())
    (package / "a.py").unlink()
    stamps.append(environments.stamp_of_checkout())
    assert len(set(stamps)) == 5
    (package / "__pycache__" / "b.pyc").write_text("x")
    assert environments.stamp_of_checkout() == stamps[-1]
