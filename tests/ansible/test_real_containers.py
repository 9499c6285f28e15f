"""Playbooks on containers of podman, buildah and LXC, from a checkout and from a collection.

The containers are in a box (see tests/integration/test_containers.py). A container differs from the
machine only in its hostname; all of the machine's files are visible in it.
"""

import shlex
import shutil

import pytest

from tests.ansible import environments, fresh
from tests.checkout import ROOT
from tests.integration.test_containers import BOX, BUILD, BUILDAH, LXC, PATH, PODMAN, RUN

RELEASE = "2.21"
TOOLS = ("podman", "buildah", "lxc-start", "nsenter")

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - command: hostname
      register: called
    - raw: echo raw; exit 3
      register: raw
      failed_when: raw.rc != 3
    - copy: {content: "x\\n", dest: "{{ place }}/{{ inventory_hostname }}"}
    - slurp: {src: "{{ place }}/{{ inventory_hostname }}"}
      register: file
    - command: id -u
      register: who
    - command: pwd
      register: where
    - assert:
        that:
          - called.stdout == hostname | default(called.stdout)
          - file.content | b64decode == "x\\n"
          - who.stdout == (account | default("0") | string)
          - where.stdout == directory | default(where.stdout)
"""
# name -> variables of the host; {} is replaced by a directory
HOSTS = {
    "by_podman": {"connection": "podman", "ansible_podman_extra_args": " ".join(PODMAN[1:])},
    "by_docker": {
        "connection": "docker",
        "mitogen_docker_path": "podman",
        "ansible_docker_extra_args": " ".join(PODMAN[1:]),
        "ansible_user": "nobody",
        "account": "65534",
        "ansible_docker_working_dir": "/usr",
        "directory": "/usr",
        "ansible_docker_extra_env": "{'HOME': '/tmp'}",
    },
    "by_buildah": {"connection": "buildah", "mitogen_buildah_path": "{}/buildah"},
    "by_lxc": {"connection": "lxc"},
    "by_setns": {"connection": "setns", "mitogen_kind": "lxc"},
    "nobody_by_setns": {
        "connection": "setns",
        "mitogen_kind": "docker",
        "mitogen_docker_path": "{}/podman",
        "ansible_user": "nobody",
        "account": "65534",
    },
}
START = """
set -e
(%s)
%s >/dev/null
sh -c %s >/dev/null
exec "$@"
"""


def inventory(prefix, place):
    """Return an inventory; `prefix` precedes the names of our connections."""
    lines = []
    for host, variables in HOSTS.items():
        given = {"ansible_host": "web", "hostname": "web", "place": "/tmp", **variables}
        given["ansible_connection"] = prefix + given.pop("connection")
        if host == "by_buildah":
            # buildah chooses this container's name; its only file system is /usr.
            del given["hostname"]
            given["ansible_remote_tmp"] = "/tmp/remote"
        if given.get("account"):
            given["ansible_remote_tmp"] = "/tmp/remote_" + host
        words = [
            "{}={}".format(name, shlex.quote(value.replace("{}", str(place))))
            for name, value in given.items()
        ]
        lines.append(" ".join([host, "ansible_python_interpreter=/usr/bin/python3", *words]))
    return "\n".join(lines) + "\n"


def in_a_box(place, *argv):
    """Run a command in the box with the containers, which ends with it."""
    podman = shlex.join([*PODMAN, *RUN, "sleep", "600"])
    build = shlex.quote(BUILD.format(buildah=" ".join(BUILDAH)))
    box = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    start = START % (LXC, podman, build)
    variables = {"PATH": "{}:{}".format(place.site.directory / "bin", PATH)}
    return place.run(*box, "sh", "-c", BOX, "-", "sh", "-c", start, "-", *argv, **variables)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for program in TOOLS:
        if not shutil.which(program, path=PATH):
            pytest.skip("needs %s (it is not installed)" % program)
    if environments.why_not(RELEASE):
        pytest.skip(environments.why_not(RELEASE))
    return fresh.make(RELEASE, tmp_path_factory.mktemp("site") / "venv", True)


@pytest.mark.parametrize(
    "prefix", ["mitogen.ansible.", pytest.param("mitogen_", marks=pytest.mark.thorough)]
)
def test_playbooks_run_on_real_containers(site, tmp_path, prefix):
    place = fresh.Place(site, tmp_path)
    for name, words in (("podman", PODMAN), ("buildah", BUILDAH)):
        path = place.write(name, '#!/bin/sh\nexec %s "$@"\n' % shlex.join(words))
        path.chmod(0o755)
    place.write("hosts", inventory(prefix, tmp_path))
    place.write("site.yml", PLAYBOOK)
    plugins = str(ROOT / "ansible_plugins" / "connection") if prefix == "mitogen_" else ""
    place.write("ansible.cfg", "[defaults]\nconnection_plugins = %s\nforks = 6\n" % plugins)
    done = in_a_box(place, "ansible-playbook", "-i", "hosts", "site.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("failed=0") == len(HOSTS)
