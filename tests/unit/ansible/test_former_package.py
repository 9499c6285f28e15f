"""former_package.py: `ansible_mitogen`, found by configurations for 0.3, and old releases."""

import os
import subprocess
import sys

import pytest

from mitogen.ansible.setup import former_package, installation


@pytest.fixture
def package(tmp_path):
    """Write the package as a wheel has it, and return its directory."""
    directory = tmp_path / "ansible_mitogen"
    for path, text in former_package.FILES.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
    return directory


def run(directory, program):
    command = [sys.executable, "-c", program]
    environ = dict(os.environ, PYTHONPATH=str(directory))
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=30)


def test_the_package_has_a_file(package):
    """Public repositories find the strategies by it."""
    program = "import os, ansible_mitogen; print(os.path.dirname(ansible_mitogen.__file__))"
    assert run(package.parent, program).stdout == "%s\n" % package
    program = "import ansible_mitogen.plugins.strategy, ansible_mitogen.plugins.connection"
    assert run(package.parent, program).returncode == 0


@pytest.mark.parametrize("name", ["loaders", "strategy", "connection", "mixins"])
def test_plugins_of_an_old_release_are_refused_in_words(package, name):
    done = run(package.parent, "import ansible_mitogen." + name)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ansible_mitogen.%s is a module of mitogen 0.3" % name)
    assert "%s/plugins/strategy" % package in last and "mitogen.ansible enable" in last


def test_an_old_release_is_recognized(package, tmp_path):
    assert not former_package.is_former_release(str(package / "plugins" / "strategy"))
    assert not former_package.is_former_release(str(tmp_path))
    (package / "loaders.py").write_text("# of the old release\n")
    assert former_package.is_former_release(str(package / "plugins" / "strategy"))


def test_status_names_plugins_of_an_old_release(package):
    class Config:
        def get_config_value_and_origin(self, name):
            path = str(package / "plugins" / "strategy")
            return ([path] if "STRATEGY" in name else None), "ansible.cfg"

    class Constants:
        config = Config()

    assert installation._former_plugins(Constants) == []
    (package / "loaders.py").write_text("# of the old release\n")
    (line,) = installation._former_plugins(Constants)
    assert "plugins of mitogen 0.3" in line and "mitogen.ansible.mitogen" in line
