"""Any process of a run is killed at any moment: the play ends soon, says why, and nothing stays.

Ten runs, a hundred with --all. What is killed, and when, is drawn from a seed, the number of the
run, and is printed with a failure.
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

#: Seconds from the victim's first sight that may pass before it is killed.
LATEST = 3.0
#: Seconds that a run may take in all; undisturbed it takes about six.
BOUND = 90.0
#: Seconds in which everything is gone afterwards. A context's guard waits five for its programs.
GONE = 20.0
#: What a run says of what was killed. A worker's end is Ansible's to explain.
SAYS = re.compile(
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
    """Kills one process of a run, once; a `meanwhile` of Bed.run().

    :param seed: says which and when.
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
            # What root's module leaves in /tmp could not be told from another program's.
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
def test_killed(seed, ansible_bed, tmp_path):
    path = tmp_path / "killed.yml"
    path.write_text(PLAY)
    before, payloads, killer = inside.snapshot(), inside.payloads(), Killer(seed)
    outcome = ansible_bed.run(
        "2.21", "callback", bed.read_playbook(path), limit=BOUND, meanwhile=killer
    )
    print(killer, "status", outcome.status)
    told = "{}\nstatus {}\n{}".format(killer, outcome.status, outcome.output[-4000:])
    processes.wait_until(lambda: not inside.left_over(before), GONE, told)
    # A killed module's own may be there.
    assert not re.search(r'File "[^"]*/mitogen/', outcome.output), told
    if killer.kind == "playbook" and killer.victim:
        assert outcome.status == -signal.SIGKILL, told
    elif outcome.status:
        assert SAYS.search(outcome.output), told
    if killer.kind != "playbook":
        # Whoever is killed so can't remove anything.
        assert not [each for each in outcome.left if "ansible-tmp" not in each], told
    assert not [each for each in outcome.left if "mitogen" in each], told
    assert not inside.remove_of_core(ansible_bed, payloads), told
