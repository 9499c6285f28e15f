"""The ways to enable mitogen as users have them: installed by pip without a path, or a checkout.

Each test runs an ordinary playbook, whose task prints the process that runs it.
"""

import json
import re
from typing import Any

import pytest

from tests.ansible import environments, fresh
from tests.checkout import ROOT

pytestmark = [pytest.mark.root, pytest.mark.ssh, pytest.mark.timeout(300)]

#: The releases for a run without --all, and those where tests check differences.
RELEASES, EACH = ["2.21"], ["2.16", "2.21"]
#: The command line of a module's process, in a task's result.
WHO = "sh -c 'tr \\\\0 _ < /proc/$PPID/cmdline'"
TASKS = """
  gather_facts: false
  tasks:
    - command: "{}"
      changed_when: false
""".format(WHO)
PLAYBOOK = "- hosts: all" + TASKS
OURS = re.compile(r'"stdout": "[^"]*mitogen\.zygote')


def ours(output: str) -> int:
    """Return the number of results whose module ran in a context."""
    return len(OURS.findall(output))


def pytest_generate_tests(metafunc: Any) -> None:
    if "release" not in metafunc.fixturenames:
        return
    everything = metafunc.config.getoption("--all")
    chosen = EACH if metafunc.definition.get_closest_marker("each_release") else RELEASES
    releases = environments.ALL if everything else chosen
    marked = [
        pytest.param(each, marks=pytest.mark.skip(reason=environments.why_not(each)))
        if environments.why_not(each)
        else each
        for each in releases
    ]
    metafunc.parametrize("release", marked, scope="module")


@pytest.fixture
def place(sites, release, tmp_path, inventory):
    """Return a user who has run `pip install mitogen`."""
    found = fresh.Place(sites(release, True), tmp_path)
    inventory(found)
    found.write("site.yml", PLAYBOOK)
    return found


@pytest.fixture
def beside(sites, release, tmp_path, inventory):
    """Return a user who has a checkout and only Ansible installed."""
    found = fresh.Place(sites(release, False), tmp_path)
    inventory(found)
    found.write("site.yml", PLAYBOOK)
    return found


def play(place, name="site.yml", *more, **variables):
    """Run a playbook and return its output; it must succeed."""
    done = place.run("ansible-playbook", "-v", "-i", "hosts", name, *more, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- installed by pip


@pytest.mark.each_release
def test_enable_and_disable(place, release):
    """Off, on by one command, the same playbook, off again."""
    assert ours(play(place)) == 0
    assert place.mitogen("status").returncode == 1
    assert place.mitogen("enable").returncode == 0
    output = play(place)
    assert ours(output) == 2
    assert "WARNING" not in output and "mitogen.ansible" not in output
    done = place.mitogen("status")
    assert done.returncode == 0 and "callbacks_enabled has mitogen.ansible.mitogen" in done.stdout
    assert done.stderr == ""
    assert place.mitogen("disable").returncode == 0
    assert not place.config.exists() and ours(play(place)) == 0


@pytest.mark.each_release
def test_a_loop_has_one_connection(place):
    """ansible-core compares a name before each item: it is the stock plugin's."""
    assert place.mitogen("enable").returncode == 0
    head, loaded = "- hosts: web\n  gather_facts: false\n  tasks:\n", set()
    for items in ("[1]", "[1, 2, 3]"):
        place.write("loop.yml", head + "    - {raw: ':', loop: %s}\n" % items)
        output = play(place, "loop.yml", ANSIBLE_DEBUG="1")
        loaded.add(len(re.findall(r"Loading Connection '[\w.]*ssh' .*class_only=False", output)))
    assert len(loaded) == 1 and 0 not in loaded, loaded


def test_a_play_without_connections_has_stock_plugins(place):
    """It has the stock plugins, the next play has ours; handlers and rescues may need ours too."""
    assert place.mitogen("enable").returncode == 0
    head = "- hosts: web\n  gather_facts: false\n  tasks:\n    - debug:\n"
    place.write("site.yml", head)
    given = re.compile(r"Loading Connection '\S*mitogen\S*' .*class_only=False")
    assert not given.search(play(place, ANSIBLE_DEBUG="1"))
    place.write("site.yml", head + PLAYBOOK + head)
    output = play(place, ANSIBLE_DEBUG="1")
    plays = re.split(r"\nPLAY \[", output.split("PLAY RECAP")[0])[1:]
    assert [bool(given.search(each)) for each in plays] == [False, True, False]
    notify = head + "      changed_when: true\n      notify: it\n  handlers:\n    - {name: it, "
    place.write("site.yml", notify + 'command: "{}"}}\n'.format(WHO))
    assert ours(play(place)) == 1
    rescue = '    - block: [{fail: }]\n      rescue: [{command: "%s"}]\n' % WHO
    place.write("site.yml", head + rescue)
    assert ours(play(place)) == 1


@pytest.mark.thorough
def test_a_strategy_can_be_enabled_by_its_full_name(place, release):
    for name in ("mitogen", "mitogen_linear", "mitogen_free", "mitogen_host_pinned"):
        full = "mitogen.ansible." + name
        place.write("site.yml", "- hosts: all\n  strategy: {}{}".format(full, TASKS))
        assert ours(play(place)) == 2, name


def test_a_connection_can_be_enabled_alone(place):
    """It works without the callback too."""
    name = "mitogen.ansible.ssh"
    argv = ["ansible", "-i", "hosts", "web", "-c", name, "-m", "command", "-a"]
    done = place.run(*argv, WHO.replace("\\\\", "\\"))
    assert done.returncode == 0 and "mitogen.zygote" in done.stdout, done.stdout + done.stderr
    assert ours(play(place, "site.yml", "-l", "web", "-c", name)) == 1
    assert ours(play(place, "site.yml", "-l", "web", ANSIBLE_TRANSPORT=name)) == 1


def test_a_configuration_for_version_0_3_works(place):
    """After `pip install --upgrade mitogen` a configuration for 0.3 works, with its settings."""
    find = "import os, ansible_mitogen; print(os.path.dirname(ansible_mitogen.__file__))"
    found = place.run("python", "-c", find).stdout.strip()
    assert found == str(place.site.packages / "ansible_mitogen")
    plugins = found + "/plugins/strategy"
    place.write(
        "ansible.cfg",
        "[defaults]\nstrategy_plugins = {}\nstrategy = mitogen_linear\n".format(plugins),
    )
    head = "- hosts: all\n  vars:\n    mitogen_task_isolation: fork\n    mitogen_via: ''\n"
    head += (
        "    ansible_connection: \"mitogen_{{ 'ssh' if ansible_port|default('') else 'local' }}\""
    )
    place.write("site.yml", head + TASKS)
    output = play(place, MITOGEN_POOL_SIZE="32", MITOGEN_CPU_COUNT="2", MITOGEN_PROFILING="")
    assert ours(output) == 2


# ---- from a checkout


def test_checkout_enable(beside):
    there = {"PYTHONPATH": str(ROOT)}
    assert beside.mitogen("status", **there).returncode == 1
    done = beside.mitogen("enable", **there)
    assert done.returncode == 0, done.stderr
    plugins = str(ROOT / "ansible_plugins" / "callback")
    assert plugins in beside.config.read_text()
    assert ours(play(beside)) == 2
    assert beside.mitogen("status", **there).returncode == 0
    assert beside.mitogen("disable", **there).returncode == 0
    assert not beside.config.exists()


def test_checkout_env(beside):
    command = "eval \"$(PYTHONPATH='{}' python -m mitogen.ansible env)\" && ansible-playbook -v "
    done = beside.sh(command.format(ROOT) + "-i hosts site.yml")
    assert done.returncode == 0 and ours(done.stdout) == 2, done.stdout + done.stderr


@pytest.mark.thorough
def test_checkout_strategy(beside):
    plugins = str(ROOT / "ansible_plugins" / "strategy")
    beside.write("site.yml", "- hosts: all\n  strategy: mitogen_linear" + TASKS)
    assert ours(play(beside, ANSIBLE_STRATEGY_PLUGINS=plugins)) == 2


def test_checkout_connection(beside):
    plugins = str(ROOT / "ansible_plugins" / "connection")
    output = play(
        beside, "site.yml", "-l", "web", "-c", "mitogen_ssh", ANSIBLE_CONNECTION_PLUGINS=plugins
    )
    assert ours(output) == 1


# ---- a strategy is for its plays


def test_a_strategy_affects_only_its_plays(place, release):
    """A strategy affects only its plays; the callback's effect continues after them."""
    with_it = "- hosts: all\n  strategy: mitogen.ansible.mitogen_linear" + TASKS
    place.write("site.yml", PLAYBOOK + with_it + PLAYBOOK + with_it)
    output = play(place)
    plays = re.split(r"\nPLAY \[", output.split("PLAY RECAP")[0])[1:]
    assert [ours(each) for each in plays] == [0, 2, 0, 2]
    place.mitogen("enable")
    assert ours(play(place)) == 8


@pytest.mark.thorough
def test_a_strategy_is_undone_after_a_failed_play(place):
    head = "- hosts: all\n  gather_facts: false\n  strategy: mitogen.ansible.mitogen_linear\n"
    head += "  tasks:\n    - {fail: , ignore_errors: true}\n    - {meta: end_play}\n"
    place.write("site.yml", head + PLAYBOOK)
    assert ours(play(place)) == 0


def test_the_hint_is_printed_once(place, release):
    """The hint is printed once a run, next to Ansible's warning, and nowhere else."""
    with_it = "- hosts: here\n  strategy: mitogen.ansible.mitogen_linear" + TASKS
    place.write("site.yml", with_it + with_it)
    warns = environments.ALL.index(release) >= environments.ALL.index("2.19")
    output = play(place)
    assert output.count("no strategy is needed") == warns
    assert ("Use of strategy plugins" in output) == warns
    output = play(place, ANSIBLE_DEPRECATION_WARNINGS="0")
    assert "no strategy is needed" not in output
    assert play(place, "site.yml", "-vv").count("no strategy is needed") == 1


def test_core_sees_the_stock_names_of_strategies(place):
    """ansible-core checks a strategy's name: a play with run_once ends for all; free's banners."""
    tasks = "  gather_facts: false\n  tasks:\n    - {fail: , run_once: true}\n    - debug:\n"
    outputs = []
    for name in ("linear", "free"):
        for prefix in ("", "mitogen.ansible.mitogen_"):
            head = "- hosts: here,web\n  strategy: {}\n".format(prefix + name)
            place.write("site.yml", head + tasks)
            # Run one after the other, because `free` hosts would come in any order.
            done = place.run("ansible-playbook", "-f", "1", "-i", "hosts", "site.yml")
            outputs.append((done.returncode, done.stdout))
        assert outputs[-1] == outputs[-2]


@pytest.mark.each_release
def test_ansible_doc_lists_every_plugin(place, release):
    """Each plugin is listed with its description, without an error."""
    shims = sorted((ROOT / "ansible_plugins").glob("*/*.py"))
    assert len(shims) > 15
    for kind in ("callback", "connection", "strategy"):
        stems = [path.stem for path in shims if path.parent.name == kind]
        names = {stem[len("mitogen_") :] if kind == "connection" else stem for stem in stems}
        done = place.run("ansible-doc", "-t", kind, "-l", "mitogen.ansible", "--json")
        listed = json.loads(done.stdout)
        assert set(listed) == {"mitogen.ansible." + name for name in names}
        assert "UNDOCUMENTED" not in listed.values() and all(listed.values())
        done = place.run("ansible-doc", "-t", kind, "--json", *listed)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        for name, found in json.loads(done.stdout).items():
            assert "mitogen.ansible." + found["doc"]["name"] == name
            assert found["doc"]["description"]


# ---- settings

OPTIONS = """
import json
from ansible import constants as C
from ansible.plugins import loader
loader.init_plugin_loader()
found = {}
for kind, name in KINDS:
    plugin = getattr(loader, kind + "_loader").get(name, class_only=True)
    known = C.config.get_configuration_definitions(kind, plugin._load_name)
    found[name] = {option: given.get("default") for option, given in known.items()}
print(json.dumps(found))
"""


@pytest.mark.each_release
def test_every_option_is_in_the_documentation(place, release):
    """Options that Ansible finds in our plugins beyond those of its own are documented."""
    page = (ROOT / "docs" / "ansible" / "settings.rst").read_text(encoding="utf-8")
    shims = (ROOT / "ansible_plugins" / "connection").glob("mitogen_*.py")
    ours = sorted(path.stem[len("mitogen_") :] for path in shims)
    names = [
        ("callback", "mitogen.ansible.mitogen"),
        ("connection", "ssh"),
        ("connection", "local"),
    ]
    names += [("connection", "mitogen.ansible." + name) for name in ours]
    done = place.run(place.site.python, "-c", "KINDS = {!r}\n{}".format(names, OPTIONS))
    found = json.loads(done.stdout)
    for name, options in found.items():
        if not name.startswith("mitogen.ansible."):
            continue
        stock = found.get(name[len("mitogen.ansible.") :], {})
        for option in set(options) - set(stock):
            assert "\n   * - ``{}``\n".format(option) in page, (name, option)
        changed = {each for each in set(options) & set(stock) if options[each] != stock[each]}
        assert changed <= {"pipelining"}, "the text on stock options also applies to ours"


@pytest.mark.thorough
def test_redirect_replaces_only_named_plugins(place):
    """Only the named plugins are replaced; an unknown name is reported, the others still work."""
    place.write(
        "ansible.cfg",
        "[defaults]\ncallbacks_enabled = mitogen.ansible.mitogen\n[mitogen]\nredirect = local\n",
    )
    assert re.findall(r'"stdout": "[^"]*zygote', play(place)) and ours(play(place)) == 1
    output = play(place, MITOGEN_REDIRECT="")
    assert ours(output) == 0 and "WARNING" not in output
    output = play(place, MITOGEN_REDIRECT="ssh, nonsense")
    assert ours(output) == 1
    # Before ansible-core 2.19, lines of warnings are wrapped.
    output = " ".join(output.split())
    assert output.count("mitogen has no plugin for connection 'nonsense'") == 1
    # A strategy uses the same settings.
    place.write("site.yml", "- hosts: all\n  strategy: mitogen.ansible.mitogen_linear" + TASKS)
    place.write("ansible.cfg", "[mitogen]\nredirect = local\n")
    assert ours(play(place)) == 1
