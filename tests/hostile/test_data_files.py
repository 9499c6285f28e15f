"""A child reads the data files of packages that it may import, and no other file."""

import os

import pytest

from mitogen import core
from mitogen.importing.resources import GET_RESOURCE


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Make an entry of sys.path with a package, a namespace package and secrets."""
    files = {
        "id_rsa": "secret",
        "home/.ssh/id_rsa": "secret",
        "home/notes.txt": "secret",
        "data_pkg/__init__.py": "",
        "data_pkg/text.txt": "text",
        "data_pkg/.env": "secret",
        "data_pkg/.git/config": "secret",
        "data_pkg/__pycache__/hidden.cpython-39.pyc": "secret",
        "data_pkg/sub/deeper/text.txt": "deep",
        "data_pkg/locked/__init__.py": "",
        "data_pkg/locked/text.txt": "secret",
        "data_pkg/locked_too.py": "secret",
        "data_pkg/open.py": "open",
        "no_package.py": "__path__ = []",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    package = tmp_path / "data_pkg"
    (package / "out.txt").symlink_to("../id_rsa")
    (package / "out").symlink_to("../home")
    (package / "hidden.txt").symlink_to(".env")
    (package / "to_locked").symlink_to("locked")
    (package / "inside.txt").symlink_to("sub/deeper/text.txt")
    os.mkfifo(str(package / "fifo"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def read(master, forged, places):
    """Return a function that returns what the forged child reads; None if that is refused."""
    master.responder.blacklist_prefix("data_pkg.locked")
    master.responder.blacklist_prefix("data_pkg.locked_too")

    def read(*request):
        return core.decode(forged.answer_to(GET_RESOURCE, core.encode(list(request))).data)

    return read


def test_files_of_a_package_can_be_read(read):
    assert read("data_pkg", "text.txt") == b"text"
    assert read("data_pkg", "sub/deeper/text.txt") == b"deep"
    assert read("data_pkg", "inside.txt") == b"deep"
    assert read("data_pkg", "open.py") == b"open"
    # A directory below a package can be imported as a namespace package.
    assert read("data_pkg.sub.deeper", "text.txt") == b"deep"
    names = [["__init__.py", False], ["inside.txt", False], ["open.py", False], ["sub", True]]
    assert read("data_pkg", "", True) == [*names, ["text.txt", False]]
    assert read("data_pkg", "sub", True) == [["deeper", True]]
    assert read("data_pkg", "text.txt", True) is None


REFUSED = [
    ("", "id_rsa"),
    ("home", "notes.txt"),
    ("home", ".ssh/id_rsa"),
    ("home..ssh", "id_rsa"),
    ("no_package", "id_rsa"),
    ("data_pkg", "out.txt"),
    ("data_pkg", "out/notes.txt"),
    ("data_pkg", "../id_rsa"),
    ("data_pkg", "sub/../../id_rsa"),
    ("data_pkg", "/etc/passwd"),
    ("data_pkg", ".env"),
    ("data_pkg", "hidden.txt"),
    ("data_pkg", ".git/config"),
    ("data_pkg", "__pycache__/hidden.cpython-39.pyc"),
    ("data_pkg", "locked/text.txt"),
    ("data_pkg", "to_locked/text.txt"),
    ("data_pkg", "locked_too.py"),
    ("data_pkg.locked", "text.txt"),
    ("data_pkg", "fifo"),
    ("data_pkg", "text.txt\0"),
    ("data_pkg", "text.txt/"),
    ("data_pkg", "a/" * 5000),
    ("data_pkg", ["text.txt"]),
    ("os", "__init__.py"),
    ("x." * 30000, "y"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_other_files_cannot_be_read(read, number):
    assert read(*REFUSED[number]) is None


@pytest.mark.parametrize("path", ["out", "locked", "to_locked", ".git", "..", "/", "__pycache__"])
def test_other_directories_cannot_be_listed(read, path):
    assert read("data_pkg", path, True) is None


def test_a_package_given_as_source_has_no_files(master, read, places):
    master.responder.add_source_override("made_up", str(places / "__init__.py"), b"", True)
    assert read("made_up", "id_rsa") is None


def test_a_whitelist_covers_data_files(master, read):
    master.responder.whitelist_prefix("data_pkg.sub")
    assert read("data_pkg", "text.txt") is None
    master.responder.whitelist_prefix("data_pkg")
    assert read("data_pkg", "text.txt") == b"text"


def test_a_file_larger_than_a_message_cannot_be_read(master, read, places):
    master.max_message_size = 1000
    (places / "data_pkg" / "big").write_bytes(bytes(2000))
    assert read("data_pkg", "big") is None
    assert read("data_pkg", "text.txt") == b"text"
