"""Hosts that go away and come back: a reboot, a restarted sshd, a silent connection."""

import os
import pathlib
import re
import signal

import pytest

from tests import processes
from tests.ansible import bed, environments, inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.ssh,
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]

#: Maximum seconds of a run. None has to wait for more than ten.
BOUND = 90.0
#: Seconds until nothing of a run is left.
GONE = 20.0
#: A setting that makes this sshd distinct from the bed's, which other runs use.
OWN_LINE = "LoginGraceTime 61"

HEAD = """\
- hosts: one
  gather_facts: false
  vars: {{ansible_port: {port}}}
  tasks:
"""


@pytest.fixture
def own_sshd(ansible_bed, sshd_with):
    """Yield an sshd for the host `one` that may be stopped; it runs again afterwards."""
    sshd = sshd_with(OWN_LINE)
    ansible_bed.trust(sshd)
    yield sshd
    if not processes.alive(sshd.pid):
        sshd.resume()


@pytest.fixture
def start(ansible_bed, own_sshd, tmp_path):
    def start(tasks, meanwhile, head=HEAD):
        path = tmp_path / "playbook.yml"
        path.write_text(head.format(port=own_sshd.port) + tasks)
        before = inside.snapshot()
        playbook = bed.read_playbook(path)
        outcome = ansible_bed.run("2.21", "callback", playbook, limit=BOUND, meanwhile=meanwhile)
        # The new sshd's processes have the mark too.
        but = ("sshd.*listener", "sshd .*-D")
        processes.wait_until(lambda: not inside.left_over(before, but), GONE, outcome.output)
        assert not outcome.wrong()
        assert not inside.remove_of_core(ansible_bed)
        return outcome

    return start


def here(running, name):
    return pathlib.Path(running.directory, "here", name)


def logins(sshd):
    return len(re.findall("Accepted publickey", sshd.log()))


def by_task(outcome, name):
    return next(each for each in outcome.records if each.get("task") == name)


REBOOT = """\
    - copy: {content: "#!/bin/sh\\ntouch $1\\n", dest: "{{ there }}/down", mode: "0755"}
    - file: {path: "{{ here }}", mode: "0777"}
      delegate_to: localhost
      connection: local
    - copy: {content: first, dest: "{{ here }}/boot"}
    - ping:
      become: true
    - name: reboot
      reboot:
        reboot_command: "{{ there }}/down {{ here }}/reboot"
        boot_time_command: "cat {{ here }}/boot"
        test_command: id -un
        reboot_timeout: 60
        connect_timeout: 5
    - ping:
    - command: id -un
      become: true
"""


def test_reboot_reconnects(start, own_sshd):
    """All of the host's processes end: `reboot` waits, and later tasks connect again."""

    def meanwhile(running):
        if not here(running, "reboot").exists():
            return False
        own_sshd.halt()
        here(running, "boot").write_text("second")
        own_sshd.resume()
        return True

    outcome = start(REBOOT, meanwhile)
    result = by_task(outcome, "reboot")["result"]
    assert result["rebooted"] and outcome.status == 0


LOST = """\
    - name: lost
      command: sleep 654321
      ignore_unreachable: true
    - wait_for_connection: {timeout: 40, sleep: 1, connect_timeout: 5}
    - ping:
- hosts: one
  gather_facts: false
  vars: {ansible_port: PORT}
  tasks:
    - command: id -un
      become: true
"""


@pytest.mark.thorough
def test_a_lost_host_is_unreachable_and_works_again(start, own_sshd):
    """The host disappears during a task: UNREACHABLE with the reason. Later everything works."""
    seen = []

    def meanwhile(running):
        if not seen and processes.commands("sleep 654321"):
            own_sshd.halt()
            seen.append("down")
        # Ansible has noticed.
        output = pathlib.Path(running.directory, "output").read_text()
        if seen and "UNREACHABLE" in output:
            own_sshd.resume()
            return True
        return False

    outcome = start(LOST.replace("PORT", str(own_sshd.port)), meanwhile)
    lost = by_task(outcome, "lost")
    assert lost["event"] == "unreachable"
    assert re.search("closed|gone|lost|ended|disconnect", lost["result"]["msg"]), lost["result"]
    assert outcome.status == 0


SILENT = """\
    - name: silent
      command: sleep 654322
      ignore_unreachable: true
    - ping:
"""
SILENT_HEAD = HEAD.replace(
    "}}\n", ', ansible_ssh_extra_args: "-o ServerAliveInterval=1 -o ServerAliveCountMax=3"}}}}\n'
).replace("}}}}", "}}")


@pytest.mark.thorough
def test_a_silent_connection_is_ended(start, own_sshd):
    """No data arrives and no error is reported: ssh's own keepalive ends the connection."""
    stopped = []

    def meanwhile(running):
        if processes.commands("sleep 654322"):
            for each in processes.process_tree(own_sshd.pid):
                if each.comm.startswith("sshd"):
                    os.kill(each.pid, signal.SIGSTOP)
                    stopped.append(each)
            return True
        return False

    try:
        outcome = start_and_continue(start, meanwhile, stopped)
    finally:
        end(stopped)
    silent = by_task(outcome, "silent")
    assert silent["event"] == "unreachable" and silent["result"]["msg"], outcome.output


def start_and_continue(start, meanwhile, stopped):
    """Run SILENT; continue the stopped sessions once Ansible has noticed, or they would stay."""

    def watch(running):
        if not stopped:
            meanwhile(running)
        output = pathlib.Path(running.directory, "output").read_text()
        if stopped and "UNREACHABLE" in output:
            end(stopped)
            return True
        return False

    return start(SILENT, watch, SILENT_HEAD)


def end(stopped):
    for each in stopped:
        if processes.alive(each.pid):
            os.kill(each.pid, signal.SIGCONT)
    processes.end_processes(stopped)


CHANGED = """\
    - ping:
    - file: {path: "{{ here }}/change", state: touch, mode: "0644"}
      delegate_to: localhost
      connection: local
    - wait_for: {path: "{{ here }}/changed", timeout: 40}
      delegate_to: localhost
      connection: local
    - name: over the same session
      ping:
    - meta: reset_connection
    - name: over a new one
      ping:
    - command: id -un
      become: true
"""


def test_only_reset_connection_logs_in_again(start, own_sshd):
    """sshd is restarted and its sessions continue. Only `reset_connection` causes another login."""
    first = logins(own_sshd)

    def meanwhile(running):
        if not here(running, "change").exists():
            return False
        own_sshd.restart()
        here(running, "changed").touch()
        return True

    outcome = start(CHANGED, meanwhile)
    assert outcome.status == 0
    assert logins(own_sshd) - first == 2, own_sshd.log()[-2000:]
