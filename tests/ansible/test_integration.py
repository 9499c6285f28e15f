"""integration.py: the command of a target, and the table; nothing is downloaded here."""

import json
import types

import pytest

from tests.ansible import environments, integration, ways
from tests.ansible.integration import Result


@pytest.fixture
def tree(tmp_path):
    for name in ("role", "script", "factless", "controlling"):
        (tmp_path / "targets" / name).mkdir(parents=True)
    (tmp_path / "targets" / "script" / "runme.sh").write_text("#!/bin/sh\n")
    (tmp_path / "targets" / "factless" / "aliases").write_text("a\ngather_facts/no  # why\n")
    (tmp_path / "targets" / "controlling" / "aliases").write_text("context/controller\n")
    return tmp_path


def test_a_target_with_a_script_runs_it(tree):
    assert integration.command(tree, "script", tree / "out", {}) == ["./runme.sh"]


ENV = {"PATH": "/there", "ANSIBLE_CONFIG": "/cfg", "HOME": "/root"}


@pytest.mark.parametrize(
    ("name", "facts", "env"),
    [
        ("role", True, None),
        ("factless", False, None),
        ("controlling", True, {"PATH": "/there", "ANSIBLE_CONFIG": "/cfg"}),
    ],
)
def test_a_target_with_a_role_runs_a_play(name, facts, env, tree):
    argv = integration.command(tree, name, tree / "out", ENV)
    assert argv[0] == "ansible-playbook" and argv[2:] == ["-i", "inventory"]
    (play,) = json.loads((tree / argv[1]).read_text())
    assert play["roles"] == [name] and play["gather_facts"] is facts
    assert play["vars"] == {"output_dir": str(tree / "out")}
    assert play.get("environment") == env


def test_the_environment_has_the_ways_settings(tmp_path):
    """A way's settings are set by variables too, for targets with a configuration of their own."""
    (tmp_path / "lib" / "python3.13").mkdir(parents=True)
    installed = environments.Environment("2.21", tmp_path, "2.21.5")
    given = {"PATH": "/there", "ANSIBLE_CALLBACK_PLUGINS": "/bed", "BED_RESULTS": "/results"}
    here = types.SimpleNamespace(environment=lambda *_: dict(given))
    env = integration.environment(here, installed, ways.WAYS["callback"], tmp_path / "run")
    assert env["ANSIBLE_CALLBACKS_ENABLED"] == "mitogen.ansible.mitogen"
    assert env["PATH"] == "/there:{}/run/injector".format(tmp_path)
    assert env["ANSIBLE_TEST_PYTHON_VERSION"] == "3.13"
    assert not {"ANSIBLE_CALLBACK_PLUGINS", "BED_RESULTS"} & set(env)
    plain = integration.environment(here, installed, ways.WAYS["plain"], tmp_path / "run")
    assert "ANSIBLE_CALLBACKS_ENABLED" not in plain


def test_leftovers_of_a_target_are_removed(tmp_path):
    """Files from before the target, or not made by it, stay."""
    kept, directory, other, *_ = integration.LEAVES
    (tmp_path / kept).mkdir()
    with pytest.raises(OSError), integration.home_as_it_was(tmp_path):
        for name in (directory, "mine"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").touch()
        (tmp_path / other).touch()
        raise OSError("interrupted")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([kept, "mine"])


def test_the_reason_of_a_failure_is_found():
    """It is the last unexpected failure, else the last line; '' for a target that passed."""
    printed = "fatal: [a]: first\nfatal: [a]: second\nPLAY RECAP\na : failed=1\n\n"
    assert Result("t", "plain", 2, 1.0, printed).reason() == "fatal: [a]: second"
    assert Result("t", "plain", 1, 1.0, "ERROR! no\n").reason() == "ERROR! no"
    assert Result("t", "plain", 1, 1.0, "").reason() == "no output"
    assert Result("t", "plain", 0, 1.0, printed).reason() == ""
    assert "took more than" in Result("t", "plain", None, 1.0, printed).reason()


def test_the_table_has_a_row_for_each_target():
    found = [
        Result("copy", "plain", 0, 12.34, ""),
        Result("copy", "callback", 1, 3.0, ""),
        Result("stat", "plain", 0, 1.0, ""),
    ]
    rows = integration.table(found).splitlines()
    assert rows[0] == rows[2] == rows[-1] and set(rows[0]) == {"=", " "}
    assert rows[1].split() == ["target", "plain", "callback"]
    assert rows[3].split("  ")[0] == "``copy``" and "failed, 3.0 s" in rows[3]
    assert rows[4].rstrip().endswith("passed, 1.0 s")
