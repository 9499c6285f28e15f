"""resources.py: data files of packages, in children."""

import os

import pytest

from mitogen import core, master
from tests import hosts
from tests.unit import api_probe


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package of the program's own with data files, which nobody imports here."""
    root = tmp_path_factory.mktemp("resources")
    path = root / "resource_pkg"
    (path / "inner").mkdir(parents=True)
    (path / "__init__.py").write_text("")
    (path / "module.py").write_text("")
    (path / "data.bin").write_bytes(bytes(range(256)))
    (path / "text.txt").write_text("caf\u00e9\n", encoding="utf-8")
    (path / "empty").write_bytes(b"")
    (path / "inner" / "__init__.py").write_text("")
    (path / "inner" / "deep.txt").write_text("deep")
    (root / "secret.txt").write_text("not a package's")
    os.symlink(str(root / "secret.txt"), str(path / "link.txt"))
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(root))
    yield path
    patch.undo()


@pytest.fixture(params=["this", "oldest"])
def child(request, package):
    kwargs = {}
    if request.param == "oldest":
        found = hosts.find_pythons()
        if (3, 7) not in found:
            pytest.skip("needs a Python 3.7, the first with importlib.resources")
        kwargs["python_path"] = found[3, 7]
    with master.Router() as router:
        yield router.local(**kwargs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_importlib_resources(child):
    text, data, deep, names, is_file, is_directory = child.call(api_probe.use_resources)
    assert (text, data, deep) == ("caf\u00e9\n", bytes(range(256)), "deep")
    assert {"data.bin", "empty", "module.py", "text.txt"} <= set(names)
    assert is_file and not is_directory


@pytest.mark.parametrize(
    "fullname, resource",
    [
        ("resource_pkg", "missing"),
        ("resource_pkg", "../secret.txt"),
        ("resource_pkg", "inner/deep.txt"),
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
def test_what_is_not_to_be_had(world, fullname, resource):
    assert "No such resource" in world.call(api_probe.ask, fullname, resource)


@pytest.fixture(scope="module")
def world(package):
    with master.Router() as router:
        yield router.local(via=router.local())


def test_through_another_context_and_an_empty_file(world):
    assert world.call(api_probe.ask, "resource_pkg", "empty") == b""


def test_a_path_is_not_to_be_had(world):
    assert "controlling machine" in world.call(api_probe.path_of)


def test_the_blacklist_holds(package):
    with master.Router() as router:
        router.responder.blacklist_prefix("resource_pkg.inner")
        child = router.local()
        assert "No such resource" in child.call(api_probe.ask, "resource_pkg.inner", "deep.txt")


@pytest.mark.parametrize("data", [b"", b"\xff", core.encode([1, 2]), core.encode(["x", {}])])
def test_nonsense_is_answered(world, data):
    assert world.call(api_probe.ask_raw, data) is None
    assert world.call(api_probe.ask, "resource_pkg", "empty") == b""
