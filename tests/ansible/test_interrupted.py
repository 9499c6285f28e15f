"""^C, SIGTERM and a task's `timeout` end the processes on the hosts, except async jobs."""

import os
import pathlib
import signal

import pytest

from tests import processes
from tests.ansible import bed, environments, inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.ssh,
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]

#: Seconds from the end of a task to the end of all its processes.
GONE = 2.0
#: Seconds for the run's other processes, including sshd's.
ALL_GONE = 15.0
#: Seconds until all tasks of a play have started, on a busy machine.
BEGUN = 60.0

# Each host has its own task, which starts children: one ignores SIGINT, like every background
# process of a shell, and one has closed its output.
FAMILY = "sleep {0}1 & sh -c \"trap '' INT; sleep {0}2\" & sleep {0}3 >/dev/null 2>&1 & sleep {0}4"
MODULE = """\
#!/usr/bin/python3
import subprocess
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"command": {}})
subprocess.Popen(["sleep", module.params["command"] + "5"])
module.run_command(["sleep", module.params["command"] + "6"])
module.exit_json()
"""
PLAY = """\
- hosts: one,two,three,four,five
  gather_facts: false
  strategy: free
  tasks:
    - {{name: shell, shell: '{one}', timeout: {timeout}, when: inventory_hostname == 'one'}}
    - {{name: shell as root, shell: '{two}', become: true, timeout: {timeout},
       when: inventory_hostname == 'two'}}
    - {{name: module, family: {{command: "{three}"}}, timeout: {timeout},
       when: inventory_hostname == 'three'}}
    - {{name: module as root, family: {{command: "{four}"}}, become: true, timeout: {timeout},
       when: inventory_hostname == 'four'}}
    - {{name: raw, raw: '{five}', timeout: {timeout}, when: inventory_hostname == 'five'}}
"""
JOB = """\
    - {{name: in the background, command: sleep {job}, async: 300, poll: 0,
       vars: {{ansible_async_dir: "{{{{ there }}}}/async"}}}}
"""


class Families:
    """The processes that the play starts on hosts, identified by unique numbers."""

    COUNTS = {"one": 4, "two": 4, "three": 2, "four": 2, "five": 4}

    def __init__(self, number):
        self.numbers = {
            host: "{}{}".format(number, n) for n, host in enumerate(self.COUNTS, start=1)
        }
        self.job = "{}9".format(number)

    def text(self, timeout):
        numbers = self.numbers
        shells = {host: FAMILY.format(numbers[host]) for host in ("one", "two", "five")}
        quoted = {host: text.replace("'", "''") for host, text in shells.items()}
        modules = {host: numbers[host] for host in ("three", "four")}
        return PLAY.format(**quoted, **modules, timeout=timeout)

    def alive(self):
        wanted = ["sleep " + number for number in self.numbers.values()]
        return [
            each
            for each in processes.marked_processes(str(os.getpid()))
            if each.cmdline.rpartition("/")[2][:-1] in wanted and each.state not in "ZX"
        ]

    def jobs(self):
        return processes.commands("sleep " + self.job)

    def begun(self):
        return len(self.alive()) == sum(self.COUNTS.values())


@pytest.fixture
def start(ansible_bed, tmp_path):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "family.py").write_text(MODULE)

    def start(text, **kwargs):
        path = tmp_path / "playbook.yml"
        path.write_text(text)
        return ansible_bed.run("2.21", "callback", bed.read_playbook(path), **kwargs)

    return start


def press(signum, to_group):
    def send(running):
        if to_group:
            os.killpg(running.child.pid, signum)
        else:
            os.kill(running.child.pid, signum)

    return send


# Only ansible-playbook itself gets the SIGTERM, as from `kill` or a supervisor.
@pytest.mark.parametrize(
    ("number", "send"),
    [
        pytest.param(761, press(signal.SIGINT, True), id="ctrl-c"),
        pytest.param(762, press(signal.SIGTERM, False), id="sigterm", marks=pytest.mark.thorough),
    ],
)
def test_a_signal_ends_the_run_and_its_processes(number, send, start, ansible_bed):
    """The processes of all tasks end within two seconds; the run ends and leaves nothing."""
    families, before, gone = Families(number), inside.snapshot(), []

    def meanwhile(running):
        if not families.begun():
            return False
        assert families.jobs()
        send(running)
        processes.wait_until(lambda: not families.alive(), GONE, families.alive())
        gone.append(True)
        return True

    job = PLAY.partition("  tasks:\n")[0] + "  tasks:\n" + JOB
    text = job.format(job=families.job) + families.text(0)
    try:
        outcome = start(text, meanwhile=meanwhile, limit=BEGUN + 60)
        report = outcome.output[-3000:]
        assert gone and outcome.status, report
        assert len(families.jobs()) == len(Families.COUNTS), report
    finally:
        processes.end_processes(families.jobs())
    processes.wait_until(lambda: not inside.left_over(before), ALL_GONE, report)
    assert not [each for each in outcome.left if "mitogen" in each]
    processes.wait_until(lambda: not ansible_bed.left(), ALL_GONE, ansible_bed.left())


def test_a_timeout_ends_the_tasks_processes(start, ansible_bed):
    """A task's processes end within two seconds of its timeout, and the play continues."""
    families, before = Families(763), inside.snapshot()
    text = families.text(8).replace("timeout: 8", "timeout: 8, ignore_errors: true")
    text += "    - {name: after, command: sleep 3}\n    - {name: next, command: echo next}\n"
    seen = []

    def meanwhile(running):
        seen.append(bool(families.alive()))
        output = pathlib.Path(running.directory, "output").read_text()
        if output.count("...ignoring") < len(Families.COUNTS):
            return False
        processes.wait_until(lambda: not families.alive(), GONE, families.alive())
        return True

    outcome = start(text, meanwhile=meanwhile)
    assert not outcome.wrong() and any(seen)
    assert not families.alive()
    failed = [each for each in outcome.records if each["event"] == "failed"]
    assert len(failed) == len(Families.COUNTS), outcome.output
    assert all(
        "Timed out" in str(each["result"]) or "timed out" in str(each["result"]) for each in failed
    )
    processes.wait_until(lambda: not inside.left_over(before), ALL_GONE, outcome.output)
    processes.wait_until(lambda: not ansible_bed.left(), ALL_GONE, ansible_bed.left())
