"""A host with no Python and hardly any other program: results of plain Ansible, hardly slower."""

import pathlib
import re
import shutil

import pytest

from tests import hosts, processes
from tests.ansible import bed, environments, inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.ssh,
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]

#: Number of tasks, each a worker with its own connection plugin.
TASKS = 20
#: A context is retried in a tenth of the time; plain Ansible's connection adds one more.
MOST_LOGINS = TASKS // 2
GONE = 20.0

HEAD = """\
- hosts: one
  gather_facts: false
  vars: {{ansible_port: {}, ansible_user: root}}
  tasks:
    - name: status and streams
      raw: echo out; echo err >&2; exit 3
      register: answer
      failed_when: answer.rc != 3
    - name: a module
      ping:
      ignore_errors: true
    - name: is there a Python
      raw: command -v python3
      ignore_errors: true
"""
TASK = "    - raw: echo {}\n"


@pytest.fixture
def root(tmp_path):
    """Return a root directory that contains only a shell."""
    shell = shutil.which("sh")
    libraries = re.findall(r"(/\S+) \(0x", hosts.run("ldd", shell))
    for path in (shell, "/bin/sh", *libraries):
        copy = tmp_path.joinpath("root", path.lstrip("/"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path / "root"


@pytest.fixture
def bare_sshd(ansible_bed, sshd_with, root):
    """Yield an sshd of root whose sessions have that root directory."""
    command = 'exec chroot {} /bin/sh -c "$SSH_ORIGINAL_COMMAND"'.format(root)
    sshd = sshd_with("ForceCommand " + command)
    ansible_bed.trust(sshd)
    return sshd


def test_a_host_without_python_works_as_with_plain_ansible(ansible_bed, bare_sshd, tmp_path):
    path = pathlib.Path(tmp_path, "bare.yml")
    path.write_text(HEAD.format(bare_sshd.port) + "".join(map(TASK.format, range(TASKS))))
    playbook, before = bed.read_playbook(path), inside.snapshot()
    plain, ours = (ansible_bed.run("2.21", way, playbook) for way in ("plain", "callback"))
    processes.wait_until(lambda: not inside.left_over(before), GONE, ours.output)
    assert not plain.wrong() and not ours.wrong()
    assert not bed.differences(plain, ours, "callback")
    by_name = {each.get("task"): each["result"] for each in ours.records}
    assert by_name["is there a Python"]["rc"] != 0
    assert ours.status == 0
    assert len(re.findall("Accepted publickey", bare_sshd.log())) < MOST_LOGINS
