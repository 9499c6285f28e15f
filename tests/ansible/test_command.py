"""`python -m mitogen.ansible` with a real Ansible: its output matches Ansible's behavior."""

import os

import pytest

from tests.ansible import environments, fresh
from tests.checkout import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]

ON = "[defaults]\ncallbacks_enabled = timer, mitogen.ansible.mitogen\n"


@pytest.fixture
def place(sites, tmp_path):
    """Return a user who has run `pip install mitogen`, with a playbook that needs no host."""
    found = fresh.Place(sites("2.21", True), tmp_path)
    found.write("site.yml", "- {hosts: localhost, gather_facts: false, tasks: [{debug: }]}\n")
    return found


def status(place, **variables):
    """Return the exit status and the output."""
    done = place.mitogen("status", **variables)
    return done.returncode, done.stdout + done.stderr


def test_status_without_a_configuration_is_off(place):
    code, output = status(place)
    assert (
        code == 1 and "configuration: no ansible.cfg" in output and "mitogen:       off" in output
    )
    assert "ansible-core:  {}, run by".format(environments.ready("2.21").version) in output
    assert "ansible_collections/mitogen/ansible" in output and "!" not in output


def test_enable_edits_the_file_that_ansible_reads(place):
    """The file is the one that Ansible reads, in Ansible's order."""
    (place.directory / "sub").mkdir()
    files = [".ansible.cfg", "ansible.cfg", "sub/ansible.cfg"]
    for name, variables in zip(files, [{}, {}, {"ANSIBLE_CONFIG": "sub"}]):
        path = place.write(name, "[defaults]\n")
        assert place.mitogen("enable", **variables).returncode == 0
        assert "mitogen.ansible.mitogen" in path.read_text()
        code, output = status(place, **variables)
        assert code == 0 and "configuration: {}\n".format(path) in output


def test_status_reports_a_variable_that_replaces_the_file(place):
    place.write("ansible.cfg", ON)
    code, output = status(place, ANSIBLE_CALLBACKS_ENABLED="timer")
    assert code == 1 and "! the variable ANSIBLE_CALLBACKS_ENABLED replaces" in output
    assert status(place, ANSIBLE_CALLBACKS_ENABLED="mitogen.ansible.mitogen")[0] == 0


def test_env_prints_the_list_of_the_file(place):
    place.write("ansible.cfg", "[defaults]\ncallbacks_enabled = timer, profile\n")
    done = place.mitogen("env")
    expected = "timer,profile,mitogen.ansible.mitogen"
    assert done.stdout == "export ANSIBLE_CALLBACKS_ENABLED={}\n".format(expected)
    done = place.mitogen("env", ANSIBLE_CALLBACKS_ENABLED="a, b")
    assert done.stdout == "export ANSIBLE_CALLBACKS_ENABLED=a,b,mitogen.ansible.mitogen\n"


def test_status_reports_a_world_writable_directory(place):
    place.write("ansible.cfg", ON)
    place.directory.chmod(0o777)
    code, output = status(place)
    assert code == 1 and "so Ansible does not read {}".format(place.config) in output


def test_disabled_collections_are_reported(place):
    """Each command reports that Ansible does not look for collections beside packages."""
    place.write("ansible.cfg", "[defaults]\ncollections_scan_sys_path = false\n")
    for command in ("status", "enable", "env", "disable"):
        done = place.mitogen(command)
        assert done.returncode == 2 and "collections_scan_sys_path is off" in done.stderr
    # The suggested setting helps.
    place.write(
        "ansible.cfg",
        place.config.read_text() + "collections_path = {}\n".format(place.site.packages),
    )
    assert place.mitogen("enable").returncode == 0 and status(place)[0] == 0


def test_status_reports_each_way(place):
    for variable, value, expected in (
        ("ANSIBLE_STRATEGY", "mitogen.ansible.mitogen_free", "strategy: strategy = mitogen.ans"),
        ("ANSIBLE_TRANSPORT", "mitogen.ansible.ssh", "connection: transport = mitogen.ansible.ssh"),
    ):
        code, output = status(place, **{variable: value})
        assert code == 0 and expected in output
    code, output = status(place, ANSIBLE_STRATEGY="mitogen_linear")
    assert code == 1 and "strategy = mitogen_linear is not found" in output
    plugins = str(ROOT / "ansible_plugins" / "strategy")
    code, _ = status(place, ANSIBLE_STRATEGY="mitogen_linear", ANSIBLE_STRATEGY_PLUGINS=plugins)
    assert code == 0


def test_unknown_names_are_reported(place):
    """The name of a checkout's plugin and the old name of the list are reported with the remedy."""
    text = "[defaults]\ncallbacks_enabled = mitogen\ncallback_whitelist = timer\n"
    place.write("ansible.cfg", text)
    code, output = status(place)
    assert code == 1 and "callbacks_enabled has mitogen, which Ansible does not find" in output
    assert "Ansible reads callbacks_enabled, not callback_whitelist" in output


def test_a_broken_file_is_an_error(place):
    place.write("ansible.cfg", "[defaults\n")
    for command in ("status", "enable", "disable"):
        done = place.mitogen(command)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "Error reading config file ({})".format(place.config) in done.stderr


def test_missing_write_permission_is_an_error(place):
    """A user without write permission gets an error, and no file is left."""
    place.write("ansible.cfg", "[defaults]\n")
    before = sorted(os.listdir(str(place.directory)))
    script = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    script += "sys.path.insert(0, {!r})\n".format(str(ROOT))
    script += "from mitogen.ansible.setup import enabling, installation\n"
    script += "s = [installation.Setting('callbacks_enabled', 'X', 'mitogen')]\n"
    script += "os.environ['PYTHONDONTWRITEBYTECODE'] = '1'\n"
    script += "try: enabling.enable('/etc/ansible.cfg', s)\n"
    script += "except installation.Error as e: print(e)\n"
    done = place.run("/usr/bin/python3", "-c", script)
    assert "/etc/ansible.cfg: can't be changed: Permission denied" in done.stdout, done.stderr
    assert sorted(os.listdir(str(place.directory))) == before


def test_a_python_without_ansible_is_an_error(place):
    """A Python without Ansible names the Python that has it, and the command to use."""
    done = place.run("/usr/bin/python3", "-m", "mitogen.ansible", "status", PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    expected = "the ansible-playbook on PATH is run by {0}: run '{0} -m mitogen.ansible'"
    assert expected.format(place.site.python) in done.stderr


def test_an_older_package_is_reported(place, tmp_path):
    """It reports the package that Ansible would import, not its own."""
    older = tmp_path / "older" / "mitogen"
    older.mkdir(parents=True)
    (older / "__init__.py").write_text("__version__ = '0.3.1'\n")
    place.write("ansible.cfg", ON)
    script = "import sys; sys.path.insert(0, {!r}); sys.argv[1:] = ['status']\n"
    script += "from mitogen.ansible.__main__ import main; sys.exit(main())\n"
    done = place.run(
        place.site.python, "-c", script.format(str(ROOT)), PYTHONPATH=str(tmp_path / "older")
    )
    assert done.returncode == 1 and "has an older package, mitogen 0.3.1: run" in done.stderr


TWICE = """
from ansible.plugins import loader
loader.init_plugin_loader()
from ansible.plugins.loader import connection_loader as connections
from ansible.playbook.play import Play
from mitogen.ansible.plugins import callback, redirect
play, empty = Play(), Play()
empty.gather_facts = False
stock = connections.get("ssh", class_only=True)
for who in ("callback", "strategy", "strategy"):
    callback.enable(who, ["ssh"], play)
once = connections.get_with_context
assert not isinstance(once._original, redirect.Redirection)
assert callback.preload.cache_info().misses == 1
for name in ("ssh", "ansible.builtin.ssh", "ansible.legacy.ssh", "mitogen_ssh"):
    ours = connections.get(name, class_only=True)
    assert ours is not stock and issubclass(ours, stock), name
assert connections.get("local", class_only=True).__module__ == "ansible.plugins.connection.local"
assert connections.get("mitogen_nothing", class_only=True) is None
callback.disable("strategy"), callback.disable("strategy")
assert connections.get("ssh", class_only=True) is ours
callback.disable("callback")
assert connections.get("ssh", class_only=True) is stock
callback.enable("strategy", [""], play), callback.enable("strategy", ["ssh"], play)
assert connections.get_with_context is once
assert connections.get("ssh", class_only=True) is ours
callback.enable("strategy", ["ssh"], empty)
assert connections.get("ssh", class_only=True) is stock
print("done")
"""


def test_callback_and_strategy_together_set_up_once(place):
    """The callback and a strategy are used together, in successive plays."""
    done = place.run(place.site.python, "-c", TWICE)
    assert done.stdout == "done\n", done.stderr
