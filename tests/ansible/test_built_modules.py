"""Modules built by ansible-core in one run are reused in the next, and replace nothing else."""

import re
import subprocess

import pytest

from tests.ansible import environments, fresh

RELEASES = [pytest.param("2.16", marks=pytest.mark.thorough), "2.21"]
PLAYBOOK = "- hosts: all\n  gather_facts: false\n  tasks:\n    - ping:\n    - ping:\n"
NAME = "ansible.modules.ping-*"
BUILT, FOUND = "ANSIBALLZ: Creating module", "ANSIBALLZ: using cached module"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", params=RELEASES)
def site(request, tmp_path_factory):
    if environments.why_not(request.param):
        pytest.skip(environments.why_not(request.param))
    return fresh.make(request.param, tmp_path_factory.mktemp("site") / "venv", True)


@pytest.fixture
def place(site, tmp_path):
    found = fresh.Place(site, tmp_path)
    found.write("playbook.yml", PLAYBOOK)
    inventory = "here ansible_connection=mitogen.ansible.local ansible_python_interpreter="
    found.write("inventory", inventory + site.python)
    return found


def play(place, name="playbook.yml", **variables):
    """Run a playbook; return (number of modules built, number of modules found in the cache)."""
    done = place.run("ansible-playbook", "-i", "inventory", name, ANSIBLE_DEBUG="1", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    return len(re.findall(BUILT, text)), len(re.findall(FOUND, text))


def kept(place):
    return list(place.directory.glob(".ansible/mitogen/modules/*/" + NAME))


def test_a_second_run_builds_nothing(place):
    assert play(place) == (1, 1)
    assert len(kept(place)) == 1
    assert play(place) == (0, 2)


def test_all_modules_of_a_loop_are_kept(place):
    """One worker handles its items: stat and copy for the first, stat and file for the second."""
    here = place.directory
    (here / "same").write_text("x")
    place.write(
        "loop.yml",
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - copy: {{content: x, dest: '{}/{{{{ item }}}}'}}\n"
        "      loop: [other, same]\n".format(here),
    )
    assert play(place, "loop.yml") == (3, 1)
    (here / "other").unlink()
    assert play(place, "loop.yml") == (0, 4)


@pytest.mark.thorough
def test_the_cache_works_across_file_systems(place, tmp_path):
    # /dev/shm cannot be linked to: modules are copied.
    assert play(place, ANSIBLE_LOCAL_TEMP="/dev/shm") == (1, 1)
    assert play(place, ANSIBLE_LOCAL_TEMP="/dev/shm") == (0, 2)
    assert kept(place)[0].stat().st_nlink == 1


@pytest.mark.thorough
def test_a_cache_writable_by_others_is_not_used(place):
    play(place)
    store = kept(place)[0].parent
    store.chmod(0o777)
    assert play(place) == (1, 1)
    store.chmod(0o700)
    assert play(place) == (0, 2)


def test_the_users_module_utils_take_precedence(place):
    play(place)
    directory = place.directory / "module_utils"
    directory.mkdir()
    # It has a new name, so it replaces nothing.
    (directory / "own.py").write_text("")
    assert play(place) == (0, 2)
    # It replaces one of ansible-core's.
    source = next(place.site.packages.glob("ansible/module_utils/basic.py"))
    text = source.read_text().replace(
        "def _log_invocation(self):",
        "def _log_invocation(self):\n        self.warn('of the user')\n\n    def _unused(self):",
    )
    (directory / "basic.py").write_text(text)
    done = place.run("ansible-playbook", "-i", "inventory", "playbook.yml")
    assert "of the user" in done.stdout + done.stderr
    (directory / "basic.py").unlink()
    done = place.run("ansible-playbook", "-i", "inventory", "playbook.yml")
    assert "of the user" not in done.stdout + done.stderr


def test_a_roles_module_utils_take_precedence(place):
    play(place)
    role = place.directory / "roles" / "late"
    for name in ("tasks", "module_utils"):
        (role / name).mkdir(parents=True)
    (role / "tasks" / "main.yml").write_text("- ping:\n")
    source = place.site.packages / "ansible" / "module_utils" / "basic.py"
    (role / "module_utils" / "basic.py").write_text(
        source.read_text() + "\nraise ValueError('of the role')\n"
    )
    text = PLAYBOOK.replace("    - ping:\n    - ping:\n", "    - include_role: {name: late}\n")
    place.write("late.yml", text)
    done = place.run("ansible-playbook", "-i", "inventory", "late.yml")
    assert "of the role" in done.stdout + done.stderr


def test_changed_sources_have_another_directory(site):
    done = fresh_output(
        site,
        "import os, sys, tempfile\n"
        "from mitogen.ansible.plugins import built_modules as it\n"
        "with tempfile.TemporaryDirectory() as it.CORE:\n"
        "    os.makedirs(it.CORE + '/module_utils/common')\n"
        "    path = it.CORE + '/module_utils/common/x.py'\n"
        "    open(path, 'w').close()\n"
        "    first = it._store()\n"
        "    assert it._store() == first\n"
        "    os.utime(path, (1, 1))\n"
        "    second = it._store()\n"
        "    os.utime(path, (1, 1))\n"
        "    assert it._store() == second\n"
        "    os.rename(path, path + 'y')\n"
        "    print(len({first, second, it._store()}))\n",
    )
    assert done == "3\n"


def fresh_output(site, code):
    return subprocess.check_output([site.python, "-c", code], text=True)
