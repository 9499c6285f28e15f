"""docs/ansible/ and the README's section on Ansible: commands run; settings and messages exist.

Every `.. code-block:: sh` of a page is run, in order, in a directory of a user who has Ansible, an
inventory and a playbook. `pip install` installs the checkout, not the package of a registry.
"""

import ast
import re
import textwrap

import pytest

from tests.ansible import environments, fresh
from tests.checkout import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.ssh,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]

PAGES = sorted((ROOT / "docs" / "ansible").glob("*.rst"))
PIP = """#!/bin/sh
case "$*" in "install mitogen"|"install --upgrade mitogen")
    exec {} -m pip --python {} install -qq --no-deps --no-index --force-reinstall {};; esac
echo "pip: $*: unknown to the tests" >&2
exit 64
"""
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - command: sh -c 'tr \\\\0 _ < /proc/$PPID/cmdline'
      register: who
    - debug: {var: who.stdout}
"""


def blocks(path, language):
    """Return the code blocks of a page in one language."""
    pattern = r"(?m)^\.\. code-block:: {}\n\n((?:(?:   .*)?\n)+)".format(language)
    return [textwrap.dedent(each) for each in re.findall(pattern, path.read_text("utf-8") + "\n")]


@pytest.fixture
def user(tmp_path, inventory):
    """Return a user with Ansible alone, whose pip installs the checkout."""
    site = fresh.make("2.21", tmp_path / "venv", with_mitogen=False)
    place = fresh.Place(site, tmp_path)
    base = environments.ready("2.21").program("python")
    wheel = environments.wheel(environments.stamp_of_checkout())
    pip = site.directory / "bin" / "pip"
    pip.write_text(PIP.format(base, site.python, wheel))
    pip.chmod(0o755)
    inventory(place)
    place.write("site.yml", PLAYBOOK)
    place.variables["MITOGEN_REPOSITORY"] = str(ROOT)
    return place


def run(user, text):
    done = user.run("/bin/sh", "-exc", text)
    assert done.returncode == 0, "{}\n{}\n{}".format(text, done.stdout, done.stderr)
    return done.stdout


WITH_COMMANDS = [path for path in PAGES if blocks(path, "sh")]


def test_pages_have_commands():
    assert {"index", "troubleshooting", "from-0.3"} <= {path.stem for path in WITH_COMMANDS}


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.stem)
def test_commands_of_a_page_succeed(path, user):
    """They succeed, and playbooks run after `enable` use mitogen."""
    if "pip install" not in path.read_text("utf-8"):
        # This page assumes that the steps of the first page are done.
        run(user, "pip install mitogen && python -m mitogen.ansible enable")
    for text in blocks(path, "sh"):
        output = run(user, text)
        if "ansible-playbook" in text and "grep" not in text:
            assert output.count("mitogen.zygote") == 2, text


def test_commands_of_the_readme_succeed(user):
    text = (ROOT / "README.rst").read_text("utf-8")
    section = text[text.index("\nAnsible\n-------\n") :]
    block = re.search(r"::\n\n((?:    .*\n)+)", section)
    assert block and len(block.group(1).splitlines()) == 3
    assert run(user, textwrap.dedent(block.group(1))).count("mitogen.zygote") == 2


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_configurations_of_a_page_are_valid(path, user):
    """Each is an inventory or an ansible.cfg, which enables mitogen if it lists the callback."""
    found = blocks(path, "ini")
    if not found:
        return
    run(user, "pip install mitogen")
    for text in found:
        if not text.startswith(("[defaults]", "[mitogen]")):
            user.write("inventory", text)
            done = user.run("ansible-inventory", "-i", "inventory", "--list")
            assert done.returncode == 0 and done.stderr == "", done.stderr
            continue
        user.write("ansible.cfg", text)
        done = user.run("ansible-playbook", "-i", "hosts", "site.yml")
        assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
        assert ("callbacks_enabled" in text) == ("mitogen.zygote" in done.stdout)


# ---- messages


def constants(path):
    """Yield the strings of a module, with dots in place of placeholders."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sr]|\{[^}]*\}", "...", node.value)


def test_explained_messages_exist():
    """Each message explained in troubleshooting exists in mitogen or in Ansible."""
    core = environments.ready("2.21").directory
    ours, theirs = sorted((ROOT / "mitogen" / "ansible").rglob("*.py")), []
    sources = [each for path in ours for each in constants(path)]
    for name in (
        "executor/task_executor.py",
        "executor/task_queue_manager.py",
        "plugins/loader.py",
    ):
        (found,) = core.glob("lib/python*/site-packages/ansible/" + name)
        theirs.append(found)
    # ansible-core's files may need a Python newer than this one, so they are not parsed.
    sources += [path.read_text("utf-8") for path in theirs]
    text = (ROOT / "docs" / "ansible" / "troubleshooting.rst").read_text("utf-8")
    explained = re.findall(r"(?m)^``(.+)``\n    ", text)
    assert len(explained) > 15
    for message in explained:
        # Names within messages are examples of inserted values.
        names = r"'[^']+'|ANSIBLE_\w+|callbacks_enabled(?= has|\Z)|mitogen(?=, )|mitogen_linear"
        parts = [each.strip(" .:,") for each in re.split(names, message)]
        parts = [each for each in parts if len(each) > 5]
        assert parts, message
        for part in parts:
            assert any(part in each for each in sources), (message, part)
