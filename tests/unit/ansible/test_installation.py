"""installation.py, as far as it needs no Ansible; the rest is in tests/ansible."""

import json
import os
import re
import sys

import pytest

from mitogen.ansible.setup import installation


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Make a directory, and put only that on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def script(directory, name, text):
    path = directory / name
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def python(directory, **found):
    """Make a Python that has the packages in *found*, and return its path."""
    answer = {"ansible": "2.21.5", "mitogen": None, "ours": False, **found}
    (directory / "bin").mkdir()
    return script(directory / "bin", "python3", "#!/bin/sh\necho '%s'\n" % json.dumps(answer))


@pytest.mark.parametrize(
    "head",
    ["#!{}\n", "#! {} -I\n", "#!/bin/sh\n'''exec' \"{}\" \"$0\" \"$@\"\n' '''\n"]
    + ["#!/bin/sh\n'''exec' {} \"$0\" \"$@\"\n' '''\n"],
)
def test_the_python_of_ansible_is_found(programs, head):
    there = python(programs)
    script(programs, "ansible-playbook", head.format(there) + "import ansible\n")
    assert installation.ansible_python() == there


def test_the_python_of_ansible_is_found_through_env(programs):
    there = script(programs, "python3", "#!/bin/sh\n")
    script(programs, "ansible-playbook", "#!/usr/bin/env python3\n")
    assert installation.ansible_python() == there


@pytest.mark.parametrize("text", ["", "\x7fELF\xff", "#!/bin/sh\nexec docker run ansible\n"])
def test_other_programs_have_no_python(programs, text):
    assert installation.ansible_python() is None
    script(programs, "ansible-playbook", text)
    assert installation.ansible_python() is None


@pytest.fixture
def no_ansible(monkeypatch):
    def release():
        raise ImportError

    monkeypatch.setattr(installation, "_release", release)


def test_missing_ansible_is_an_error(programs, no_ansible):
    with pytest.raises(installation.Error, match="has no ansible-core: install it"):
        installation.examine()


def test_ansible_in_another_python_is_an_error(programs, no_ansible):
    """The message contains the command to run."""
    there = python(programs)
    script(programs, "ansible-playbook", "#!%s\n" % there)
    command = "run '{0} -m pip install mitogen && {0} -m mitogen.ansible'".format(there)
    with pytest.raises(installation.Error) as caught:
        installation.examine()
    assert command in str(caught.value) and sys.executable in str(caught.value)


def test_ansible_and_mitogen_in_another_python_are_an_error(programs, no_ansible):
    there = python(programs, mitogen="0.4.0", ours=True)
    script(programs, "ansible-playbook", "#!%s\n" % there)
    with pytest.raises(installation.Error, match="run '%s -m mitogen.ansible'" % there):
        installation.examine()


@pytest.mark.parametrize(
    "found, why",
    [
        ({"mitogen": "0.4.0", "ours": True}, None),
        ({"mitogen": "0.3.54"}, "an older package, mitogen 0.3.54"),
        ({}, "has no mitogen: run '.*/bin/python3 -m pip install --upgrade mitogen'"),
    ],
)
def test_another_python_is_examined(programs, monkeypatch, found, why):
    monkeypatch.setattr(installation, "_is_checkout", lambda: False)
    script(programs, "ansible-playbook", "#!%s\n" % python(programs, **found))
    lines = installation._other_python()
    assert (lines == []) if why is None else (len(lines) == 1)
    if why:
        assert re.search(why, lines[0])


def test_a_broken_python_has_no_packages(programs):
    path = script(programs, "python3", "#!/nowhere\n")
    assert installation._probe(path) == {}
    assert installation._probe(script(programs, "python4", "#!/bin/sh\necho no json\n")) == {}
    assert installation._probe(os.path.join(str(programs), "missing")) == {}


def test_overriding_variables_are_found(monkeypatch):
    settings = [installation.Setting("callbacks_enabled", "ANSIBLE_CALLBACKS_ENABLED", "a.b")]
    monkeypatch.delenv("ANSIBLE_CALLBACKS_ENABLED", raising=False)
    assert installation.overridden(settings) == []
    for value, count in (("", 1), ("x", 1), ("x, a.b", 0), ("a.bc", 1)):
        monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", value)
        assert len(installation.overridden(settings)) == count
