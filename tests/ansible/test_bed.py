"""The bed itself: errors of a run are reported, and it leaves nothing behind."""

import threading

import pytest

from tests import processes
from tests.ansible import bed, environments, ways

pytestmark = [
    pytest.mark.root,
    pytest.mark.ssh,
    pytest.mark.skipif(bool(environments.why_not("2.21")), reason=environments.why_not("2.21")),
]


@pytest.fixture
def run(ansible_bed, tmp_path):
    def run(text, way="plain", **kwargs):
        path = tmp_path / "playbook.yml"
        path.write_text(text)
        return ansible_bed.run("2.21", way, bed.read_playbook(path), **kwargs)

    return run


HEAD = """\
#: leaves: /tmp/ansible_ansible.legacy.command_payload_ - if a run is aborted
- hosts: one
  gather_facts: false
  tasks:
    - """


def hosts_play(task):
    return HEAD + task + "\n"


def test_a_missing_playbook_is_an_error(run):
    outcome = run("no playbook")
    assert outcome.records == [] and outcome.status == 4
    assert "ended with 4, not 0" in outcome.wrong()


def test_an_empty_playbook_succeeds(run):
    assert run("").status != 0


def test_an_unexpected_error_is_reported(run):
    outcome = run(hosts_play("command: 'false'"))
    assert outcome.status == 2 and "ended with 2" in outcome.wrong()
    assert [each["event"] for each in outcome.records] == ["failed", "stats"]


def test_an_expected_error_is_accepted(run):
    assert run("#: ends: 2\n" + hosts_play("command: 'false'")).wrong() == ""


def test_differences_are_found(run):
    """A playbook with other behavior is detected: in a result, in the status, in the output."""
    first = run(hosts_play("command: echo a"))
    assert bed.differences(first, run(hosts_play("command: echo a")), "plain") == []
    assert bed.differences(first, run(hosts_play("command: echo b")), "plain")
    assert bed.differences(first, run(hosts_play("shell: echo a; exit 1")), "plain")


def test_a_run_that_takes_too_long_is_ended(run):
    with pytest.raises(AssertionError, match="took too long"):
        run(hosts_play("command: sleep 4321"), limit=4.0)
    processes.wait_until(lambda: not processes.commands("sleep 4321"))


def test_a_run_can_be_cancelled(run):
    cancelled = threading.Event()

    def cancel(running):
        if processes.commands("sleep 4322"):
            cancelled.set()

    with pytest.raises(AssertionError, match="cancelled"):
        run(hosts_play("command: sleep 4322"), cancelled=cancelled, meanwhile=cancel)
    processes.wait_until(lambda: not processes.commands("sleep 4322"))


@pytest.mark.parametrize("way", list(ways.WAYS))
def test_an_interrupt_ends_the_run(way, run):
    """^C ends Ansible at once; with mitogen it also ends processes on the host."""
    command = "sleep 4{}".format(5000 + list(ways.WAYS).index(way))

    def runs():
        return processes.commands(command)

    outcome = run(hosts_play("command: " + command), way=way, interrupt=runs)
    assert outcome.status == 99 and "interrupt" in outcome.output.lower()
    if way != "plain":
        processes.wait_until(lambda: not runs())
    processes.end_processes(runs())


def test_leftovers_are_reported(ansible_bed, run, users):
    run(hosts_play("copy: {content: x, dest: ~/.ansible/left}"))
    path = users.plain.home + "/.ansible/left"
    assert path in ansible_bed.left()
    run(hosts_play("file: {path: ~/.ansible/left, state: absent}"))
    assert path not in ansible_bed.left()
