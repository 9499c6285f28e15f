"""Many hosts; two runs at once; and directories that are long, read-only, full, or have a space."""

import os
import re
import threading

import pytest

from tests import hosts, processes
from tests.ansible import bed, environments, inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.ssh,
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]

#: Seconds until nothing of a run is left.
GONE = 20.0
#: Port of the second sshd for many hosts.
MORE = ["127.0.1.{}".format(number) for number in range(1, 16)]
FIVE = """\
    - ping:
    - command: echo {{ inventory_hostname }}
    - command: id -un
      become: true
    - copy: {content: "{{ inventory_hostname }}", dest: "{{ there }}/{{ inventory_hostname }}"}
    - slurp: {src: "{{ there }}/{{ inventory_hostname }}"}
"""
PLAY = "- hosts: one,two\n  gather_facts: false\n  tasks:\n" + FIVE


@pytest.fixture
def run(ansible_bed, tmp_path):
    def run(text, *extra, head="", way="callback"):
        path = tmp_path / "playbook.yml"
        path.write_text(head + text)
        before = inside.snapshot()
        outcome = ansible_bed.run("2.21", way, bed.read_playbook(path), extra)
        processes.wait_until(lambda: not inside.left_over(before), GONE, outcome.output)
        return outcome

    return run


def logins(sshd):
    return re.findall(r"Accepted publickey .* from (\S+) ", sshd.log())


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_thirty_hosts_take_one_login_each(run, ansible_bed, sshd_with, tmp_path):
    """There is one login for each."""
    lines = ["ListenAddress {}:{{port}}".format(address) for address in MORE]
    other = sshd_with(*lines, "MaxStartups 200", "MaxSessions 100")
    ansible_bed.trust(other, "127.0.1.*")
    found = [(address, ansible_bed.sshd.port) for address in bed.ADDRESSES[:15]]
    found += [(address, other.port) for address in MORE]
    members = [
        "h{} ansible_host={} ansible_port={}".format(n, *each) for n, each in enumerate(found)
    ]
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("[many]\n" + "\n".join(members) + "\n")
    before = len(logins(ansible_bed.sshd)), len(logins(other))
    text = "- hosts: many\n  gather_facts: false\n  tasks:\n" + FIVE
    # Both inventories are used: the bed's has the variables.
    head = "#: arguments: -i {{run}}/inventory.json -i {} --forks 30\n".format(inventory)
    outcome = run(text, head=head)
    assert not outcome.wrong(), outcome.wrong()
    assert "ok=5" in outcome.output and outcome.output.count("ok=5 ") == 30
    after = len(logins(ansible_bed.sshd)), len(logins(other))
    assert (after[0] - before[0], after[1] - before[1]) == (15, 15)
    assert not ansible_bed.left()


@pytest.mark.thorough
def test_two_runs_can_share_a_home(ansible_bed, tmp_path):
    """They share HOME, configuration and directory of temporary files."""
    path = tmp_path / "playbook.yml"
    path.write_text(PLAY)
    shared = tmp_path / "home"
    shared.mkdir()
    head = "#: environment: HOME={0}\n#: environment: ANSIBLE_HOME={0}/.ansible\n".format(shared)
    path.write_text(head + PLAY)
    found, playbook = [], bed.read_playbook(path)

    def one():
        found.append(ansible_bed.run("2.21", "callback", playbook))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [each.wrong() for each in found] == ["", ""]
    assert os.listdir(str(shared / ".ansible" / "tmp")) == []


def test_a_temporary_path_may_be_long(run, tmp_path):
    """The path of the local temporary directory is longer than a socket's path may be."""
    long = tmp_path.joinpath(*["a-long-name-of-a-directory"] * 8)
    long.mkdir(parents=True)
    outcome = run(PLAY, head="#: environment: ANSIBLE_LOCAL_TEMP={}\n".format(long))
    assert not outcome.wrong(), outcome.wrong()
    assert os.listdir(str(long)) == []


def test_a_temporary_path_may_have_a_space(run, tmp_path):
    place = tmp_path / "with a space"
    place.mkdir()
    head = '#: environment: "TMPDIR={0}"\n#: environment: "ANSIBLE_LOCAL_TEMP={0}"\n'
    outcome = run(PLAY, head=head.format(place))
    assert not outcome.wrong(), outcome.wrong()
    assert list(place.iterdir()) == []


@pytest.fixture
def mounted(tmp_path):
    """Yield `mounted("ro")`, which mounts a small file system with these options."""
    places = []

    def mounted(options):
        place = tmp_path / "mounted{}".format(len(places))
        place.mkdir()
        hosts.run("mount", "-t", "tmpfs", "-o", "size=64k," + options, "none", str(place))
        places.append(place)
        return place

    yield mounted
    for place in places:
        hosts.run("umount", "-l", str(place))


def test_home_may_be_read_only(run, mounted, tmp_path):
    """Nothing of mitogen is written there."""
    home, local = mounted("ro"), tmp_path / "local"
    local.mkdir()
    head = "#: environment: HOME={}\n#: environment: ANSIBLE_HOME={}\n".format(home, local)
    outcome = run(PLAY, head=head)
    assert not outcome.wrong(), outcome.wrong()


def test_a_full_disk_is_an_error(run, mounted):
    """The local temporary directory can be made, but no file in it: an error reports that."""
    place = mounted("nr_inodes=3")
    outcome = run(PLAY, head="#: environment: ANSIBLE_LOCAL_TEMP={}\n".format(place))
    assert outcome.status in (1, 2, 4, 250), outcome.output
    assert "No space left on device" in outcome.output, outcome.output
    assert not re.search(r'File "[^"]*/mitogen/', outcome.output), outcome.output


NESTED = """\
- hosts: one
  gather_facts: false
  tasks:
    - ping:
    - name: nested
      command: ansible-playbook -i {{ inventory_file }} {{ here }}/inner.yml
      environment: {BED_RESULTS: "{{ here }}/inner.jsonl"}
      delegate_to: localhost
      connection: local
      register: inner
    - assert:
        that: "'failed=0' in inner.stdout and 'ok=5' in inner.stdout"
"""


def test_playbooks_can_be_nested(run, ansible_bed):
    """A playbook run by a task has its own broker process and contexts."""
    quoted = PLAY.replace("\n", "\\n").replace('"', '\\"')
    inner = (
        "    - copy:\n        dest: '{{{{ here }}}}/inner.yml'\n        content: !unsafe \"{}\"\n"
    )
    inner += "      delegate_to: localhost\n      connection: local\n"
    text = NESTED.replace("    - name: nested\n", inner.format(quoted) + "    - name: nested\n")
    outcome = run(text)
    assert not outcome.wrong(), outcome.wrong()
