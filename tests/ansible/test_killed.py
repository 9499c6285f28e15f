"""Any process of a run is killed at any moment: the play ends soon, reports it, and leaves nothing.

Five runs, a hundred with --all. Victim and time are drawn from a seed, the number of the run, which
is printed with a failure.
"""

import os
import random
import re
import signal
import time

import pytest

from tests import processes
from tests.ansible import bed, environments, inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.ssh,
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]

#: Maximum seconds from the victim's first appearance until it is killed.
LATEST = 3.0
#: Maximum seconds of a run; undisturbed it takes about six.
BOUND = 90.0
#: Seconds until everything is gone. A context's guard gives its programs five.
GONE = 20.0
#: Messages of a run about a killed process. The end of a worker is reported by Ansible.
REPORTED = re.compile(
    r"UNREACHABLE!|FAILED!|Killed|dead state|broker process|is gone|exited unexpectedly", re.I
)

PLAY = """\
- hosts: one,two
  gather_facts: false
  tasks:
    - ping:
    - command: sleep 0.3
    - copy: {content: "{{ inventory_hostname }}", dest: "{{ there }}/{{ inventory_hostname }}"}
    - command: sleep 0.5
      become: true
    - shell: sleep 0.4 & sleep 0.3; wait
    - stat: {path: /etc/passwd}
      loop: [1, 2, 3]
    - raw: sleep 0.4
    - slurp: {src: "{{ there }}/{{ inventory_hostname }}"}
      become: true
"""


class Killer:
    """A `meanwhile` of Bed.run() that kills one process of a run, once.

    :param seed: determines the process and the time.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.kind = self.random.choice(inside.KINDS)
        self.wait = self.random.uniform(0, LATEST)
        self.since = None
        self.victim = None

    def __call__(self, running):
        found = inside.parts(running)[self.kind]
        if self.kind in ("module", "zygote"):
            # A leftover of root's module in /tmp would be indistinguishable from another program's.
            found = [each for each in found if each.uid]
        if self.since is None and found:
            self.since = time.monotonic()
        if self.since is None or time.monotonic() < self.since + self.wait or not found:
            return False
        self.victim = self.random.choice(found)
        try:
            os.kill(self.victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.victim = None
        return self.victim is not None

    def __str__(self):
        return "killed a {} after {:.2f} s: {}".format(self.kind, self.wait, self.victim)


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--all")
        metafunc.parametrize("seed", range(100 if everything else 5))


@pytest.mark.timeout(BOUND + GONE + 60)
def test_a_killed_process_ends_the_run_cleanly(seed, ansible_bed, tmp_path):
    path = tmp_path / "killed.yml"
    path.write_text(PLAY)
    before, payloads, killer = inside.snapshot(), inside.payloads(), Killer(seed)
    outcome = ansible_bed.run(
        "2.21", "callback", bed.read_playbook(path), limit=BOUND, meanwhile=killer
    )
    print(killer, "status", outcome.status)
    report = "{}\nstatus {}\n{}".format(killer, outcome.status, outcome.output[-4000:])
    processes.wait_until(lambda: not inside.left_over(before), GONE, report)
    # A killed module's traceback may be there.
    assert not re.search(r'File "[^"]*/mitogen/', outcome.output), report
    if killer.kind == "playbook" and killer.victim:
        assert outcome.status == -signal.SIGKILL, report
    elif outcome.status:
        assert REPORTED.search(outcome.output), report
    if killer.kind != "playbook":
        # A process killed by SIGKILL cannot remove its files.
        assert not [each for each in outcome.left if "ansible-tmp" not in each], report
    assert not [each for each in outcome.left if "mitogen" in each], report
    assert not inside.remove_of_core(ansible_bed, payloads), report
