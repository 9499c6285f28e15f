"""lazy.py: a module finds names in others, which are imported at the first use."""

import subprocess
import sys
import types

import pytest

from mitogen.compat import lazy
from tests.checkout import ROOT


@pytest.fixture
def module():
    made = types.ModuleType("lazy_example")
    made.own = 1
    sys.modules["lazy_example"] = made
    yield made
    del sys.modules["lazy_example"]


def test_names_are_found_and_kept(module):
    lazy.find_elsewhere("lazy_example", {"string": "digits capwords", "colorsys": "rgb_to_hls"})
    import colorsys

    assert module.digits == "0123456789" and module.own == 1
    assert module.rgb_to_hls is colorsys.rgb_to_hls
    assert "digits" in vars(module) and "capwords" not in vars(module)


def test_one_other_module_is_asked_for_all_that_it_lists(module):
    lazy.find_elsewhere("lazy_example", "string")
    assert module.digits == "0123456789" and module.own == 1
    for name in ("_re", "_string", "nothing", "__path__"):
        assert not hasattr(module, name), name


def test_a_module_is_imported_for_its_names_only(module):
    before = sys.modules.pop("this_is_not_there", None)
    assert before is None
    lazy.find_elsewhere("lazy_example", {"this_is_not_there": "a", "string": "digits"})
    assert module.digits
    with pytest.raises(ModuleNotFoundError, match="this_is_not_there"):
        module.a  # noqa: B018


@pytest.mark.parametrize("shown, text", [(None, "lazy_example"), ("mitogen.x", "mitogen.x")])
def test_an_unknown_name_is_an_attribute_error(module, shown, text):
    lazy.find_elsewhere("lazy_example", {"string": "digits"}, shown)
    with pytest.raises(AttributeError, match="module '%s' has no attribute 'nothing'" % text):
        module.nothing  # noqa: B018
    assert not hasattr(module, "_private") and getattr(module, "x", 5) == 5


# The modules that nobody pays for who does not use their names.
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


def test_old_names_cost_nothing_to_those_who_do_not_use_them():
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=root, timeout=30
    )
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.splitlines()
    assert before == "", done.stderr
    wanted = "compat.parent_names compat.master_names compat.logs compat.streams"
    assert after == wanted, done.stderr
