"""accelerators.py in an Ansible environment: it changes only the speed."""

import json
import subprocess

import pytest

from tests.ansible import environments, fresh

RELEASE = "2.21"
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(environments.why_not(RELEASE)), reason=environments.why_not(RELEASE)),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return fresh.make(RELEASE, tmp_path_factory.mktemp("site") / "venv", True)


@pytest.fixture
def inside_of(tmp_path):
    """Return `inside_of(...)`, which runs code in an environment and returns its `found`."""

    def inside_of(site):
        def inside(code):
            path = tmp_path / "inside.py"
            path.write_text("import json\n" + code + "\nprint(json.dumps(found))\n")
            done = subprocess.run([site.python, str(path)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout.splitlines()[-1])

        return inside

    return inside_of


@pytest.fixture
def inside(site, inside_of):
    return inside_of(site)


MODULES = """
import tempfile
from ansible.executor import module_common
if {ours}:
    import mitogen.ansible.plugins.connection
found = []
for data in (b"", b"UEsDB+/=" * 1000, b"it's", b"a\\\\b", b"two\\nlines", b"\\xc3\\xa9"):
    each = module_common._CachedModule(zip_data=data, metadata=None, source_mapping={{"a": "b"}})
    with tempfile.NamedTemporaryFile() as fp:
        each.dump(fp.name)
        each = module_common._CachedModule.load(fp.name)
        open(fp.name, "w").close()
    text = module_common.to_text(each.zip_data)
    found.append([repr(text), f"{{text!r}}", text, each.source_mapping])
"""


def test_modules_are_encoded_as_by_core(inside):
    plain, ours = (inside(MODULES.format(ours=which)) for which in (False, True))
    assert ours == plain
    assert len(ours) == 6


def test_quoting_is_not_computed(inside):
    found = inside(
        MODULES.format(ours=True) + "found = [type(each.zip_data).__name__, "
        "type(module_common._CachedModule.load).__name__]"
    )
    # The last one contains a letter that would be encoded differently.
    assert found == ["bytes", "function"]


SETTINGS = """
import os
os.environ.update(ANSIBLE_TIMEOUT="7", ANSIBLE_SSH_RETRIES="")
from ansible import constants as C
from ansible.config.manager import ConfigManager
from ansible.plugins import loader
if {ours}:
    from mitogen.ansible.plugins import accelerators
    accelerators.remember_settings(ConfigManager)
    accelerators.remember_settings(ConfigManager)
calls = []
real = C.config._loop_entries
C.config._loop_entries = lambda *args: (calls.append(1), real(*args))[1]
found = []
plugins = [(loader.connection_loader, "ssh"), (loader.shell_loader, "sh"),
           (loader.become_loader, "sudo")]
variables = [None, {{}}, {{"ansible_port": 22}}, {{"ansible_port": None}}, {{"other": 1}},
             {{"ansible_ssh_retries": "3", "ansible_become_user": "ann"}}]
keys = [None, {{}}, {{"timeout": 3}}, {{"port": 44, "become_user": "bob"}}]
direct = [None, {{"port": 55}}]
for turn in range(2):
    del calls[:]
    for plugins_, name in plugins:
        plugin = plugins_.get(name, class_only=True)
        for v in variables:
            for k in keys:
                for d in direct:
                    options = C.config.get_plugin_options_and_origins(
                        plugins_.type, plugin._load_name, keys=k, variables=v, direct=d)
                    found.append(repr(options))
                    for value in options[0].values():
                        if isinstance(value, (list, dict)):
                            value.clear()
    for v in variables:
        try:
            found.append(C.config.get_config_value_and_origin(
                "port", plugin_type="connection", plugin_name="no such", variables=v))
        except Exception as e:
            found.append(type(e).__name__ + str(e))
    found.append(C.config.get_config_value_and_origin("CONFIG_FILE"))
found = [found, len(calls)]
"""


def test_settings_are_found_as_by_core(inside):
    (plain, asked), (ours, asked_less) = (
        inside(SETTINGS.format(ours=which)) for which in (False, True)
    )
    assert ours == plain
    assert len(ours) > 200
    # In half of these cases there are arguments, so ansible-core's function is called.
    assert asked_less < asked * 2 / 3


TEMPLATES = r"""
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
try:
    from ansible.template import trust_as_template as trust
except ImportError:
    trust = str
from mitogen.ansible.plugins import accelerators
import jinja2
compiled = []
real = jinja2.Environment._compile
jinja2.Environment._compile = lambda *args: (compiled.append(1), real(*args))[1]
if {ours}:
    accelerators.keep_templates()
    accelerators.keep_templates()
plain = ["{{{{ a }}}}", "x {{{{ a }}}}", "{{{{ b.c }}}} and {{{{b['c']}}}}\n{{{{ d[1] }}}}",
         "{{{{ none }}}}", "{{{{ a.nothing }}}}", "{{{{ number }}}}", "{{{{ é }}}}%"]
other = ["{{{{ a | upper }}}}", "{{{{ a }}}}\\n", "{{% if a %}}{{{{ a }}}}{{% endif %}}", "{{{{ a",
         "<< a >>", "{{{{ a }}}} {{{{ 'x' }}}}", "{{# no #}}{{{{ a }}}}", "a", "{{{{ 1a }}}}"]
found = []
for turn in range(3):
    for text in plain + other:
        for overrides in ({{}}, {{"variable_start_string": "<<", "variable_end_string": ">>"}}):
            values = {{"a": "ann" + str(turn), "b": {{"c": trust("{{{{ a }}}}")}}, "d": [1, None],
                      "number": turn, "é": [turn]}}
            templar = Templar(loader=DataLoader(), variables=values)
            try:
                found.append(repr(templar.template(trust(text), overrides=overrides)))
            except Exception as e:
                found.append(type(e).__name__ + ": " + str(e))
found = [found, len(compiled)]
"""


@pytest.mark.parametrize("release", ["2.16", RELEASE])
def test_templates_are_rendered_as_by_core(sites, inside_of, release):
    if environments.why_not(release):
        pytest.skip(environments.why_not(release))
    run = inside_of(sites(release, True))
    (plain, count), (ours, fewer) = (run(TEMPLATES.format(ours=which)) for which in (False, True))
    assert ours == plain
    assert len({*ours}) > 20
    # Seven of them are compiled once instead of three times, with either kind of brackets.
    assert fewer <= count - 2 * 7


PARSERS = """
import argparse
from mitogen.ansible.plugins import accelerators
found = []
for make in (argparse.ArgumentParser, accelerators.LateParser):
    parser = make(prog="x", add_help=False)
    parser.add_argument("-t", action="count")
    parser.add_argument("-o", action="append")
    for words in ([], ["-tt", "-o", "A=1", "-oB"], ["-C", "host", "-t"]):
        known, rest = parser.parse_known_args(words)
        found.append([vars(known), rest])
"""


def test_a_late_parser_parses_like_argparse(inside):
    found = inside(PARSERS)
    assert found[:3] == found[3:]
    assert found[1] == [{"t": 2, "o": ["A=1", "B"]}, []]


def test_only_the_ssh_plugin_has_late_parsers(inside):
    found = inside(
        "import argparse\n"
        "from ansible.plugins.connection import ssh\n"
        "from mitogen.ansible.plugins import accelerators, connection_types\n"
        "connection_types.ssh(ssh)\n"
        "found = [ssh.argparse.ArgumentParser is accelerators.LateParser,\n"
        "         ssh.argparse.Namespace is argparse.Namespace,\n"
        "         argparse.ArgumentParser is accelerators.LateParser]"
    )
    assert found == [True, True, False]


STRATEGY = """
import collections, threading
from mitogen.ansible.plugins import accelerators

class Base:
    def __init__(self):
        self._results, self._results_lock = collections.deque(), threading.Lock()
        self.turns, self.looking = 0, threading.Semaphore(0)
    def _wait_on_pending_results(self, iterator):
        taken = []
        while len(taken) < 3:
            self.looking.release()
            taken += self._process_pending_results(iterator)
            self.turns += 1
        return taken
    def _process_pending_results(self, iterator, one_pass=False, max_passes=None):
        taken = []
        while self._results:
            taken.append(self._results.popleft())
        return taken

accelerators.POLL_INTERVAL = 60
accelerators.await_results(Base)
accelerators.await_results(Base)
strategy = Base()
strategy._results.append("was there")
def bring():
    for number in range(2):
        # Once it is about to wait again.
        for _ in range(2 - (number > 0)):
            strategy.looking.acquire()
        strategy._results.append(number)
thread = threading.Thread(target=bring)
thread.start()
found = [strategy._wait_on_pending_results(None), strategy.turns]
thread.join()
# Others look, who don't wait.
found.append(strategy._process_pending_results(None, max_passes=1))
"""


def test_results_are_awaited_and_processed_in_order(inside):
    taken, turns, rest = inside(STRATEGY)
    assert taken == ["was there", 0, 1]
    # One for each result: none of the waits ended by timeout.
    assert 2 <= turns <= 3
    assert rest == []


@pytest.mark.parametrize(
    "method",
    [
        "def _process_pending_results(self, iterator_, x=0): pass",
        "_process_pending_results = None",
        "x = 0",
    ],
)
def test_unknown_methods_are_not_replaced(inside, method):
    found = inside(
        "from mitogen.ansible.plugins import accelerators\n"
        "class Base:\n"
        "    def _wait_on_pending_results(self, iterator): pass\n"
        "    " + method + "\n"
        "before = dict(Base.__dict__)\n"
        "accelerators.await_results(Base)\n"
        "found = before == dict(Base.__dict__)"
    )
    assert found
