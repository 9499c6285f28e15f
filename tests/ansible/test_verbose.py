"""The output at -vvv and above: commands run by mitogen, with become, but without passwords."""

import re

import pytest

from tests import processes
from tests.ansible import bed, environments, inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.ssh,
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]

#: Seconds until nothing of a run is left.
GONE = 20.0
PLAY = """\
- hosts: one
  gather_facts: false
  vars: {ansible_user: "{{ pw_user }}", ansible_become_password: "{{ pw_password }}"}
  tasks:
    - raw: echo plainly
    - raw: echo as root
      become: true
    - command: id -un
      become: true
      register: found
    - assert: {that: found.stdout == "root"}
"""


@pytest.mark.parametrize("verbosity", ["-vvv", "-vvvvv"])
def test_commands_are_printed_without_passwords(ansible_bed, tmp_path, verbosity):
    path = tmp_path / "playbook.yml"
    path.write_text("#: arguments: {}\n".format(verbosity) + PLAY)
    before = inside.snapshot()
    outcome = ansible_bed.run("2.21", "callback", bed.read_playbook(path))
    processes.wait_until(lambda: not inside.left_over(before), GONE, outcome.output)
    assert not outcome.wrong(), outcome.wrong()
    commands = re.findall(r"^<127\.\S+> MITOGEN: EXEC (.*)$", outcome.output, re.MULTILINE)
    assert "echo plainly" in commands
    for mark in ("echo as root", "/python"):
        found = [each for each in commands if mark in each and "BECOME-SUCCESS" in each]
        assert len(found) == 1 and re.search(r"sudo -H -S .*-u root /bin/sh -c", found[0]), commands
    assert ansible_bed.users.pw.password not in outcome.output


KUBECTL = """\
#!/bin/sh
while [ "$1" != "--" ]; do shift; done
shift
case "$*" in *MITO*) echo MITO:NONE; exit 0;; esac
exec "$@"
"""
POD = """\
- hosts: one
  gather_facts: false
  vars:
    ansible_connection: mitogen.ansible.kubectl
    mitogen_kubectl_path: {0}
    ansible_kubectl_pod: pod
    ansible_kubectl_token: "{{{{ 'canary-' ~ 77 }}}}"
  tasks:
    - raw: echo it runs
      register: found
    - assert: {{that: "found.stdout == 'it runs\\n'"}}
"""


def test_the_token_of_a_pod_without_python_is_not_printed(ansible_bed, tmp_path):
    """kubectl runs each command there, by way of the stock plugin for local commands."""
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    path = tmp_path / "playbook.yml"
    path.write_text("#: arguments: -vvvvv\n" + POD.format(program))
    outcome = ansible_bed.run("2.21", "callback", bed.read_playbook(path))
    assert not outcome.wrong(), outcome.wrong()
    assert "--token" in outcome.output and "canary-77" not in outcome.output
