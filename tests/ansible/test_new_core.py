"""A future ansible-core: any of its names that we use may be missing or take other arguments.

Ansible itself is unchanged; only for our callers a name is missing (`Gone`) or refuses their
arguments (`Other`), as after a change of ansible-core. Then playbooks work as with plain Ansible,
slower, and at -vvv one line reports it.
"""

import re

import pytest

from tests.ansible import bed, compare, environments

pytestmark = [
    pytest.mark.root,
    pytest.mark.ssh,
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]

#: Names that we use: module, attribute (of a class in it, or of itself). Add new ones here.
TOUCHED = [
    ("ansible.config.manager", "ConfigManager.has_configuration_definition"),
    ("ansible.config.manager", "ConfigManager.get_configuration_definitions"),
    ("ansible.config.manager", "ConfigManager.initialize_plugin_configuration_definitions"),
    ("ansible.config.manager", "ConfigManager.get_config_value_and_origin"),
    ("ansible.plugins.loader", "PluginLoader.get_with_context"),
    ("ansible.plugins.loader", "PluginLoader.get"),
    ("ansible.plugins", "AnsiblePlugin.get_option"),
    ("ansible.plugins.become.sudo", "BecomeModule.build_become_command"),
    ("ansible.plugins.become", "BecomeBase.expect_prompt"),
    ("ansible.plugins.strategy", "StrategyBase._wait_on_pending_results"),
    ("ansible.plugins.strategy", "StrategyBase._process_pending_results"),
    ("ansible.executor.module_common", "_CachedModule.load"),
    ("jinja2.environment", "Environment.compile"),
]
#: Names that we do not call with our own arguments, but wrap and pass arguments through.
WRAPPED = ["PluginLoader.get_with_context", "BecomeModule.build_become_command"]
#: Names that are not functions: they are missing, or something else.
VALUES = [
    ("ansible.plugins.connection.ssh", "hide('DOCUMENTATION')"),
    ("ansible.plugins.connection.ssh", "hide('Connection')"),
    ("ansible.plugins.connection.local", "hide('Connection')"),
    ("ansible.constants", "hide('DEFAULT_LOCAL_TMP')"),
    ("ansible.plugins.connection", "ConnectionBase._play_context = Hidden()"),
]
#: Changes tested one by one without --all; all are also tested together.
SAMPLE = ["AnsiblePlugin.get_option-other", "hide-DEFAULT_LOCAL_TMP"]

SITE = '''\
import importlib.abc, importlib.machinery, sys

PRELUDE = """
import sys as _sys
def _is_ours():
    return "mitogen" in _sys._getframe(2).f_globals.get("__name__", "")
class Gone:
    def __init__(self, real, name):
        self.real, self.name = real, name
    def __get__(self, instance, owner):
        if _is_ours():
            raise AttributeError(self.name)
        return self.real.__get__(instance, owner)
class Other(Gone):
    def __get__(self, instance, owner):
        if _is_ours():
            return lambda: None
        return self.real.__get__(instance, owner)
class Hidden:
    def __get__(self, instance, owner):
        if instance is None or _is_ours():
            raise AttributeError("it is hidden")
        if "_hidden" not in instance.__dict__:
            raise AttributeError("it is not set yet")
        return instance.__dict__["_hidden"]
    def __set__(self, instance, value):
        instance.__dict__["_hidden"] = value
class Hiding:
    def __init__(self, name):
        self.name = name
    def __get__(self, instance, owner):
        if _is_ours():
            raise AttributeError(self.name)
        return instance.__dict__[self.name]
    def __set__(self, instance, value):
        instance.__dict__[self.name] = value
def hide(name):
    module = _sys.modules[__name__]
    module.__class__ = type("Module", (type(module),), {name: Hiding(name)})
"""
CHANGES = {changes!r}

DONE = set()
def change(name, module):
    if name not in DONE:
        DONE.add(name)
        exec(PRELUDE, module.__dict__)
        for source in CHANGES[name]:
            exec(source, module.__dict__)

LAST = "ansible.executor.task_queue_manager"

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            change(name, module)
            if name == LAST:
                # Plugins that the loader has loaded by their paths, or is about to.
                for each in CHANGES:
                    change(each, importlib.import_module(each))
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
'''

PLAY = """\
- hosts: one,asks,nearby
  gather_facts: false
  vars: {ansible_shell_allow_world_readable_temp: true}
  tasks:
    - ping:
    - {command: id -un, become: true}
    - copy: {content: "x{{ inventory_hostname }}", dest: "{{ there }}/{{ inventory_hostname }}"}
    - shell: cat {{ there }}/{{ inventory_hostname }}; echo err >&2; exit 3
      ignore_errors: true
    - fetch: {src: "{{ there }}/{{ inventory_hostname }}", dest: "{{ here }}/"}
    - raw: echo raw
"""


def changes():
    """Return (id, [(module, source)]) of each change."""
    found = []
    for module, name in TOUCHED:
        for kind in ("Gone",) if name in WRAPPED else ("Gone", "Other"):
            owner, _, attribute = name.rpartition(".")
            real = "{}.__dict__[{!r}]".format(owner, attribute)
            source = "{} = {}({}, {!r})".format(name, kind, real, attribute)
            found.append(("{}-{}".format(name, kind.lower()), [(module, source)]))
    for module, source in VALUES:
        found.append((re.sub(r"\W+", "-", source).strip("-"), [(module, source)]))
    return found


def pytest_generate_tests(metafunc):
    if "changed" not in metafunc.fixturenames:
        return
    found = changes()
    everything = [pair for name, pairs in found for pair in pairs if not name.endswith("-other")]
    if not metafunc.config.getoption("--all"):
        found = [each for each in found if any(name in each[0] for name in SAMPLE)]
    found.append(("all-at-once", everything))
    metafunc.parametrize("changed", [pairs for _, pairs in found], ids=[name for name, _ in found])


@pytest.fixture(scope="module")
def plain(ansible_bed, tmp_path_factory):
    path = tmp_path_factory.mktemp("core") / "playbook.yml"
    path.write_text(PLAY)
    return ansible_bed.run("2.21", "plain", bed.read_playbook(path))


@pytest.mark.timeout(300)
def test_playbooks_work_with_a_changed_core(changed, plain, ansible_bed, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    sources = {}
    for module, source in changed:
        sources.setdefault(module, []).append(source)
    sources.setdefault("ansible.executor.task_queue_manager", [])
    (site / "sitecustomize.py").write_text(SITE.replace("{changes!r}", repr(sources)))
    path = tmp_path / "playbook.yml"
    path.write_text("#: environment: PYTHONPATH={}\n".format(site) + PLAY)
    outcome = ansible_bed.run("2.21", "callback", bed.read_playbook(path), ["-vvv"])
    lines = [line for line in outcome.output.splitlines() if re.search("ERROR|mitogen", line)]
    assert outcome.status == plain.status == 0, "\n".join(lines)
    assert "Traceback" not in outcome.output
    notices = re.findall(r"mitogen\.ansible: .*", outcome.output)
    # A become plugin that can't be watched is only slower, like an unknown one. If even the
    # function that prints a notice once is missing, each task prints it.
    assert len(set(notices)) == 1 or (not notices and "become" in repr(changed)), notices
    found = compare.compare(
        *[compare.without_needless(each.records) for each in (plain, outcome)],
        [plain.replace, outcome.replace],
    )
    # The playbook's text has a different head.
    assert not [each for each in found if "PYTHONPATH" not in each], found
