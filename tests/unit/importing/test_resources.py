"""resources.py: data files of packages, in children."""

import os

import pytest

from mitogen import core, master
from tests import hosts
from tests.unit import api_probe


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Create one of the program's own packages, with data files, not imported here."""
    root = tmp_path_factory.mktemp("resources")
    path = root / "resource_pkg"
    (path / "inner").mkdir(parents=True)
    (path / "__init__.py").write_text("")
    (path / "module.py").write_text("")
    (path / "data.bin").write_bytes(bytes(range(256)))
    (path / "text.txt").write_text("caf\u00e9\n", encoding="utf-8")
    (path / "empty").write_bytes(b"")
    (path / "inner" / "__init__.py").write_text("")
    (path / "plain" / "deeper").mkdir(parents=True)
    (path / "plain" / "one.txt").write_text("one")
    (path / "plain" / "deeper" / "two.txt").write_text("two")
    (path / ".hidden").write_text("hidden")
    (path / "inner" / "deep.txt").write_text("deep")
    (root / "secret.txt").write_text("not a package's")
    os.symlink(str(root / "secret.txt"), str(path / "link.txt"))
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(root))
    yield path
    patch.undo()


@pytest.fixture
def child(request, package):
    """Start a child on the Python 3 whose minor version is the parameter."""
    python = hosts.find_pythons().get((3, request.param))
    if python is None:
        pytest.skip("no Python 3.%d; see make_forky in scripts/_forky" % request.param)
    with master.Router() as router:
        yield router.local(python_path=python)


@pytest.mark.parametrize("child", range(7, 16), indirect=True)  # Available since 3.7.
def test_importlib_resources(child):
    text, data, deep, names, is_file, is_directory = child.call(api_probe.use_resources)
    assert (text, data, deep) == ("caf\u00e9\n", bytes(range(256)), "deep")
    assert {"data.bin", "empty", "module.py", "text.txt"} <= set(names)
    assert is_file and not is_directory


@pytest.mark.parametrize("child", range(10, 16), indirect=True)  # In 3.9 it uses no reader.
def test_files(child):
    assert child.call(api_probe.use_files) == {
        "name": "resource_pkg",
        "text": "caf\u00e9\n",
        "latin": "caf\u00c3\u00a9\n",
        "bytes": bytes(range(256)),
        "inner": "deep",
        "as_file": b"caf\xc3\xa9\n",
        "kinds": [[True, False], [False, True], [False, False]],
        "missing": ["FileNotFoundError"] * 3,
        "modes": ["ValueError"],
        "names": ["__init__.py", "data.bin", "empty", "inner", "module.py", "plain", "text.txt"],
        "below a file": [],
    }


@pytest.mark.parametrize(
    "fullname, resource",
    [
        ("resource_pkg", "missing"),
        ("resource_pkg", "../secret.txt"),
        ("resource_pkg", "link.txt"),
        ("resource_pkg", "inner/../text.txt"),
        ("resource_pkg", "inner//deep.txt"),
        ("resource_pkg", "/etc/passwd"),
        ("resource_pkg", ".."),
        ("resource_pkg", "inner"),
        ("resource_pkg", ""),
        ("resource_pkg.module", "text.txt"),
        ("no_such_package", "text.txt"),
        ("", "text.txt"),
        ("os", "text.txt"),
        ("json", "__init__.py"),
    ],
)
def test_an_unavailable_resource_is_an_error(world, fullname, resource):
    assert "No such resource" in world.call(api_probe.ask, fullname, resource)


@pytest.fixture(scope="module")
def world(package):
    with master.Router() as router:
        yield router.local(via=router.local())


def test_an_empty_file_through_another_context(world):
    assert world.call(api_probe.ask, "resource_pkg", "empty") == b""


def test_files_below_a_directory_of_a_package(world):
    assert world.call(api_probe.read_below) == {
        "data": b"two",
        "get_data": b"two",
        "bad": ["FileNotFoundError", "FileNotFoundError"],
        "inner": b"deep",
        "modules": [("x.inner", True), ("x.module", False)],
        "walk": ["resource_pkg.inner", "resource_pkg.module"],
        "below": [],
        "text": "two",
        "names": ["deeper", "one.txt"],
        "kinds": [[True, False], [False, True], [False, False]],
    }


def test_a_resource_has_no_path(world):
    assert "controlling machine" in world.call(api_probe.path_of)


def test_the_blacklist_applies_to_resources(package):
    with master.Router() as router:
        router.responder.blacklist_prefix("resource_pkg.inner")
        child = router.local()
        assert "No such resource" in child.call(api_probe.ask, "resource_pkg.inner", "deep.txt")


@pytest.mark.parametrize("data", [b"", b"\xff", core.encode([1, 2]), core.encode(["x", {}])])
def test_a_malformed_request_gets_a_reply(world, data):
    assert world.call(api_probe.ask_raw, data) is None
    assert world.call(api_probe.ask, "resource_pkg", "empty") == b""
