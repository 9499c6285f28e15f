"""lookup.py: a module finds names in other modules, which are imported at first use."""

import importlib
import subprocess
import sys
import types

import pytest

from mitogen import core
from mitogen.compat import lookup
from mitogen.core.child import names_are_lazy
from tests.checkout import ROOT


@pytest.fixture
def module(monkeypatch):
    """A module whose late names come from another module and from two modules named there."""
    place = types.ModuleType("lazy_place")
    place.__all__ = ["digits"]
    place.digits, place.hidden = "0123456789", 1
    place.ELSEWHERE = {"rgb_to_hls": "colorsys", "gone": "this_is_not_there"}
    made = types.ModuleType("lazy_example")
    made.own = 1
    monkeypatch.setitem(sys.modules, "lazy_place", place)
    monkeypatch.setitem(lookup.MODULE_NAMES, "lazy_example", "lazy_place")
    names_are_lazy(made)
    return made


def test_late_names_are_found_and_stored(module):
    import colorsys

    assert module.digits == "0123456789" and module.own == 1
    assert module.rgb_to_hls is colorsys.rgb_to_hls
    assert "digits" in vars(module) and "hidden" not in vars(module)


def test_only_names_that_are_listed_are_found(module):
    for name in ("hidden", "_re", "nothing", "__path__"):
        assert not hasattr(module, name), name


def test_a_module_is_imported_for_its_names_only(module):
    assert module.digits
    with pytest.raises(ModuleNotFoundError, match="this_is_not_there"):
        module.gone  # noqa: B018


def test_an_unknown_name_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="module 'lazy_example' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    assert not hasattr(module, "_private") and getattr(module, "x", 5) == 5


def test_every_place_of_the_tables_has_its_names():
    for module, place in lookup.MODULE_NAMES.items():
        found = importlib.import_module(place)
        for name in [*found.__all__, *getattr(found, "ELSEWHERE", ())]:
            assert hasattr(importlib.import_module(module), name), (module, name)


def test_registration_is_idempotent():
    """A forked child registers again."""
    classes = [value for value in vars(core).values() if isinstance(value, type)]
    before = [dict(vars(each)) for each in classes]
    lookup.register(core)
    assert [dict(vars(each)) for each in classes] == before


# Modules that cost nothing unless their names are used.
PROGRAM = """
import importlib, sys
import mitogen.master, mitogen.parent
rare = ["compat." + n for n in ("parent_names", "master_names", "logs", "streams")]
rare += ["debug", "profiler", "os_fork"]
print(*[name for name in rare if "mitogen." + name in sys.modules])
mitogen.parent.create_child, mitogen.master.Select, mitogen.core.Side, mitogen.core.LOG
print(*[name for name in rare if "mitogen." + name in sys.modules])
for name in rare:
    importlib.import_module("mitogen." + name)
"""


def test_unused_old_names_cost_nothing():
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=root, timeout=30
    )
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.splitlines()
    assert before == "", done.stderr
    wanted = "compat.parent_names compat.master_names compat.logs compat.streams"
    assert after == wanted, done.stderr
